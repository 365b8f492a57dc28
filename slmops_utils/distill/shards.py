"""Soft targets on disk: shards that are whole or refused, in which a row is found by its record's id.

    FOLDER/key.json                  what decides them all: teacher, tokenizer, chat template, temperature, k
    FOLDER/shard-00000.safetensors   "ids" (tokens, k), "log_probs" (tokens, k + 1), and in the header the key, a
                                     checksum, and for each row [record id, hash of its tokens, first token, tokens]

A row is never found by its position: data are shuffled, cut and added to. Its tokens must be those that were scored.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..records import atomic_writer
from .dataset import Row

FORMAT = 1


class SoftTargetError(ValueError):
    """The soft targets of a folder are not those that were asked for, or are damaged; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row's soft targets lie."""

    shard: Path
    start: int
    count: int
    row_hash: str


def row_hash(row: Row) -> str:
    """A short hash of a row's messages and answer, as the tokens they became."""
    return hashlib.sha256(json.dumps([row.prompt_length, row.ids]).encode()).hexdigest()[:16]


Layout = tuple[tuple[int, int], tuple[int, int]]  # first byte and columns of "ids" and of "log_probs"


def _layout(shard: Path) -> Layout:
    """Where a safetensors file holds its tensors: eight bytes with the header's length, the header, the numbers."""
    with shard.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    ids, log_probs = ((8 + length + header[n]["data_offsets"][0], header[n]["shape"][1]) for n in ("ids", "log_probs"))
    return ids, log_probs


class SoftTargets:
    """The soft targets of a folder, looked up by row. Shards are checked when it is opened and read as needed."""

    def __init__(self, folder: str | Path, key: dict[str, Any]):
        """Raises SoftTargetError when the folder was made under another key, or a shard is torn."""
        self.folder, self.key = Path(folder), key
        self.places: dict[str, Place] = {}
        self._layouts: dict[Path, Layout] = {}
        _check_key(self.folder, key)
        for shard in sorted(self.folder.glob("shard-*.safetensors")):
            self.add(shard)

    def add(self, shard: Path) -> None:
        for record_id, found, start, count in _read_header(shard, self.key):
            self.places[record_id] = Place(shard, start, count, found)

    def __contains__(self, row: Row) -> bool:
        """Whether this row was scored. Raises SoftTargetError when its record was, but with other tokens."""
        place = self.places.get(row.id)
        if place and place.row_hash != row_hash(row):
            raise SoftTargetError(
                f"{self.folder}: example {row.id!r} has changed since its soft targets were computed. Give another "
                "folder, or remove this one to compute it anew."
            )
        return place is not None

    def __getitem__(self, row: Row) -> tuple[Any, Any]:
        """(ids (n, k) int64, log-probabilities (n, k + 1 or V) float32) of a row's n supervised tokens.

        Raises SoftTargetError for a row that was not scored, or whose tokens changed since.
        """
        if row not in self:
            raise SoftTargetError(f"{self.folder} has no soft targets of example {row.id!r}; compute them first")
        place = self.places[row.id]
        return self._read(place.shard, place.start, place.count)

    def none(self) -> tuple[Any, Any]:
        """The soft targets of no token at all, (0, k) and (0, k + 1 or V)."""
        return self._read(next(iter(self.places.values())).shard, 0, 0)

    def _read(self, shard: Path, start: int, count: int) -> tuple[Any, Any]:
        """So many rows of a shard's two tensors. Read, not mapped: what is mapped would stay in the process's memory."""
        import numpy as np
        import torch

        if shard not in self._layouts:
            self._layouts[shard] = _layout(shard)
        read = []
        with shard.open("rb") as file:
            for (first, width), kind in zip(self._layouts[shard], ("<i4", "<f4"), strict=True):
                file.seek(first + 4 * width * start)
                read.append(torch.from_numpy(np.fromfile(file, kind, width * count).reshape(count, width)))
        return read[0].long(), read[1]

    @property
    def tokens(self) -> int:
        return sum(place.count for place in self.places.values())

    @property
    def bytes_on_disk(self) -> int:
        return sum(shard.stat().st_size for shard in {place.shard for place in self.places.values()})

    def describe(self) -> str:
        per_token = self.bytes_on_disk / max(self.tokens, 1)
        return (
            f"soft targets: {len(self.places):,} rows, {self.tokens:,} tokens, {per_token:.0f} bytes a token, "
            f"{self.bytes_on_disk / 1e6:.1f} MB in {self.folder}"
        )


def start_folder(folder: Path, key: dict[str, Any]) -> None:
    """Write the key of a new folder, and remove what a killed run left half-written."""
    if not (folder / "key.json").exists():
        if any(folder.glob("shard-*.safetensors")):
            raise SoftTargetError(f"{folder} has shards but no key.json, so nobody knows whose they are; remove it")
        with atomic_writer(folder / "key.json") as file:
            json.dump(key, file, indent=1)
    for half in folder.glob(".shard-*.part"):
        half.unlink()


def _check_key(folder: Path, key: dict[str, Any]) -> None:
    try:
        found = json.loads((folder / "key.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SoftTargetError(f"{folder} holds no soft targets (no key.json); compute them first") from None
    except ValueError:
        raise SoftTargetError(f"{folder}/key.json is damaged; remove the folder and compute it anew") from None
    other = [name for name in key if not isinstance(found, dict) or found.get(name) != key[name]]
    if other:
        said = ", ".join(f"{n} {found.get(n) if isinstance(found, dict) else None}, not {key[n]}" for n in other)
        raise SoftTargetError(f"the soft targets in {folder} are of another run ({said}). Give another folder.")


def _key_hash(key: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


def _checksum(tensors: dict[str, Any]) -> str:
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(f"{name} {tuple(tensors[name].shape)}".encode())
        found.update(tensors[name].numpy())
    return found.hexdigest()[:16]


def write_shard(path: Path, rows: Sequence[Row], scored: Sequence[tuple[Any, Any]], key: dict[str, Any]) -> None:
    """The shard appears whole or not at all."""
    import torch
    from safetensors.torch import save_file

    tensors = {
        "ids": torch.cat([ids for ids, _ in scored]),
        "log_probs": torch.cat([log_probs for _, log_probs in scored]),
    }
    index, start = [], 0
    for row in rows:
        index.append([row.id, row_hash(row), start, row.supervised])
        start += row.supervised
    header = {"key": _key_hash(key), "checksum": _checksum(tensors), "rows": json.dumps(index)}
    half = path.with_name(f".{path.name}.part")
    save_file(tensors, half, header)
    with half.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(half, path)


def _read_header(path: Path, key: dict[str, Any]) -> list[tuple[str, str, int, int]]:
    """A shard's index, once its key, its checksum and its row counts have been found right."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as shard:
            header = shard.metadata()
            tensors = {name: shard.get_tensor(name) for name in ("ids", "log_probs")}
        index = [tuple(entry) for entry in json.loads(header["rows"])]
        whole = header["checksum"] == _checksum(tensors) and sum(e[3] for e in index) == len(tensors["ids"])
    except (SafetensorError, ValueError, KeyError, TypeError, IndexError, OSError) as error:
        raise SoftTargetError(f"{path} is torn ({error}); remove this file and run again") from error
    if not whole:
        raise SoftTargetError(f"{path} is damaged: its checksum is wrong; remove this file and run again")
    if header["key"] != _key_hash(key):
        raise SoftTargetError(f"{path} is a shard of another run than {path.parent}/key.json says; remove this file")
    return index
