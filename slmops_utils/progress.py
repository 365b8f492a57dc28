"""One progress bar for terminals and notebooks, silent where nobody watches (a log file, a headless run)."""

import os
import sys
from typing import Any


def in_notebook() -> bool:
    return "ipykernel" in sys.modules


def is_main_process() -> bool:
    """False in all but the first of the processes that torchrun started: one of them writes and speaks."""
    return os.environ.get("RANK", "0") == "0"


def progress_bar(total: int | None, description: str, unit: str = "rows", show: bool = True) -> Any:
    """A tqdm bar; off when output is not a terminal or notebook, or when SLMOPS_HEADLESS is set."""
    from tqdm.auto import tqdm

    watched = show and is_main_process() and (in_notebook() or sys.stderr.isatty())
    quiet = bool(os.environ.get("SLMOPS_HEADLESS")) or not watched
    return tqdm(total=total, desc=description, unit=unit, disable=quiet, mininterval=0.5)
