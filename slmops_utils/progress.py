"""One progress bar for terminals and notebooks, silent where nobody watches (a log file, a headless run)."""

import os
import sys
from typing import Any


def in_notebook() -> bool:
    return "ipykernel" in sys.modules


def progress_bar(total: int | None, description: str, unit: str = "rows") -> Any:
    """A tqdm bar; off when output is not a terminal or notebook, or when SLMOPS_HEADLESS is set."""
    from tqdm.auto import tqdm

    quiet = bool(os.environ.get("SLMOPS_HEADLESS")) or not (in_notebook() or sys.stderr.isatty())
    return tqdm(total=total, desc=description, unit=unit, disable=quiet, mininterval=0.5)
