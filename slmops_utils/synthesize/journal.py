"""An append-only file of finished answers, so that a run killed at any moment goes on where it was."""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..compact import Places


class Journal(Mapping[str, dict[str, Any]]):
    """JSONL with one line per entry, looked up by its 'key'. A line cut short by a crash is dropped on opening.

    Only the place of each line is held in memory, under a hash of its key: some 30 bytes an entry.
    Raises ValueError for a damaged file, BlockingIOError when another run is writing it.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.places = Places()
        self.lock = _lock(self.path)
        try:
            self.end = self._read_places()
        except BaseException:
            self.lock.close()
            raise
        self.file = self.path.open("ab")
        self.reader = self.path.open("rb")
        self.synced = True

    def _read_places(self) -> int:
        """Note where each entry starts, drop a torn last line, and return where the next one goes."""
        good = 0
        if not self.path.exists():
            return 0
        with self.path.open("rb") as file:
            for raw in file:
                try:
                    key = json.loads(raw)["key"]
                except (ValueError, KeyError, TypeError):
                    break
                if not raw.endswith(b"\n"):
                    break
                self.places.add(hash(key), good)
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
        return good

    def append(self, entries: Iterable[dict[str, Any]], sync: bool = True) -> None:
        """Add entries (each with a 'key'), and with `sync` wait until they are on the disk. A key already there is
        left alone. Without `sync` a kill loses nothing, a power cut may."""
        for entry in entries:
            if entry["key"] not in self:
                line = json.dumps(entry, ensure_ascii=False).encode() + b"\n"
                self.file.write(line)
                self.places.add(hash(entry["key"]), self.end)
                self.end += len(line)
                self.synced = False
        self.file.flush()
        if sync:
            self.sync()

    def sync(self) -> None:
        """Wait until everything appended is on the disk."""
        if not self.synced:
            os.fsync(self.file.fileno())
            self.synced = True

    def __getitem__(self, key: str) -> dict[str, Any]:
        place = self.places.get(hash(key))
        if place is None:
            raise KeyError(key)
        self.reader.seek(place)
        return json.loads(self.reader.readline())

    def __contains__(self, key: object) -> bool:
        return self.places.get(hash(key)) is not None

    def __iter__(self) -> Iterator[str]:
        """The keys in the order they came, read from the file."""
        with self.path.open("rb") as file:
            place = 0
            for raw in file:
                key = json.loads(raw)["key"]
                if self.places.get(hash(key)) == place:  # a key written twice counts where it first stood
                    yield key
                place += len(raw)

    def __len__(self) -> int:
        return len(self.places)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *error: object) -> None:
        for handle in (self.file, self.reader, self.lock):
            handle.close()


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
