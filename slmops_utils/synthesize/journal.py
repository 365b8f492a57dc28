"""An append-only file of finished answers, so that a run killed at any moment goes on where it was."""

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class Journal:
    """JSONL with one line per answer. A line cut short by a crash is dropped when the file is next opened."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.entries: dict[str, dict[str, Any]] = {}
        self.lock = _lock(self.path)
        good = 0
        if self.path.exists():
            with self.path.open("rb") as file:
                for raw in file:
                    try:
                        entry = json.loads(raw)
                        key = entry["key"]
                    except (ValueError, KeyError, TypeError):
                        break
                    if not raw.endswith(b"\n"):
                        break
                    self.entries[key] = entry
                    good += len(raw)
            with self.path.open("r+b") as file:
                left = file.seek(0, os.SEEK_END) - good
                file.seek(good)
                if b"\n" in file.read(max(left - 1, 0)):
                    raise ValueError(
                        f"{self.path}: the line at byte {good} is damaged and more follow it. A crash only tears the "
                        "last line, so something else wrote here; move the file away and start again."
                    )
                file.truncate(good)
        self.file = self.path.open("ab")

    def append(self, entries: Iterable[dict[str, Any]], sync: bool = True) -> None:
        """Add entries (each with a 'key'), and with `sync` wait until they are on the disk. A key already there is
        left alone. Without `sync` a kill loses nothing, a power cut may."""
        for entry in entries:
            if entry["key"] not in self.entries:
                self.file.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
                self.entries[entry["key"]] = entry
        self.file.flush()
        if sync:
            os.fsync(self.file.fileno())

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()
        self.lock.close()


def _lock(path: Path) -> Any:
    """Keep a second run away from the same file. The lock goes with the process, however it ends."""
    file = path.with_name(path.name + ".lock").open("a")
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise BlockingIOError(
            f"{path}: another run is writing this journal; wait for it or give another --out"
        ) from None
    return file
