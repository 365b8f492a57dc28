"""One run shared by the processes that torchrun starts: each writes a journal of its own, and rank 0 merges them.

The ranks need one folder that all of them see, and nothing else of each other until the end.
"""

import atexit
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from .journal import Journal

PATIENCE = timedelta(days=30)  # how long a rank waits for the slowest; torchrun ends them all when one fails


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is."""

    rank: int = 0
    count: int = 1

    def journal(self, path: Path) -> Path:
        """Where this rank writes. Rank 0 writes the run's own journal, so that no second run, shared or not, can start."""
        return path.with_name(f"{path.name}.rank{self.rank}") if self.rank else path

    def gather(self, mine: Any) -> list[Any]:
        """What every rank brings, in their order, once all have come."""
        if self.count == 1:
            return [mine]
        import torch.distributed as dist

        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, mine)
        return found


def join() -> Ranks:
    """The place torchrun gave this process (RANK, WORLD_SIZE; models are loaded on the GPU of LOCAL_RANK); alone without it."""
    ranks = Ranks(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))
    if ranks.count > 1:
        import torch.distributed as dist

        if not dist.is_initialized():
            dist.init_process_group("gloo", timeout=PATIENCE)
            atexit.register(dist.destroy_process_group)
    return ranks


def one_process(what: str) -> None:
    """Raises ValueError under torchrun with more than one process."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError(f"{what} runs in one process; start it without torchrun")


def rank_journals(path: Path) -> list[Path]:
    """The journals of ranks beside a run's own, whatever number of ranks wrote them."""
    found = path.parent.glob(f"{path.name}.rank*")
    return sorted(p for p in found if p.name.removeprefix(f"{path.name}.rank").isdecimal())


def entries(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a journal that another process may be writing."""
    if path.exists():
        with path.open("rb") as file:
            for raw in file:
                if not raw.endswith(b"\n"):
                    return
                try:
                    yield json.loads(raw)
                except ValueError:
                    raise ValueError(f"{path} is damaged: {raw[:60]!r} is no entry; move the file away") from None


def answered(path: Path) -> dict[str, dict[str, Any]]:
    """What any journal of this run holds, by key."""
    return {entry["key"]: entry for file in [path, *rank_journals(path)] for entry in entries(file)}


def merge(book: Journal, path: Path) -> None:
    """Put what the ranks wrote into the run's own journal."""
    for file in rank_journals(path):
        book.append(entries(file))


def remove_merged(path: Path) -> None:
    """Remove the ranks' journals, whose every entry the run's own now holds, with their locks."""
    for file in rank_journals(path):
        file.unlink()
        file.with_name(file.name + ".lock").unlink(missing_ok=True)
