"""Read the rows of somebody else's table: JSONL, CSV (or .tsv), or a folder that `datasets` saved."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..records import _refuse_constant

MOST_CELL = 10_000_000  # characters; Python's own limit, 131,072, is less than the transcript of a long call

Row = dict[str, Any]


def read_rows(path: str | Path) -> Iterator[tuple[int, Row | str]]:
    """(line number, row), or (line number, what is wrong with it); in a folder the number is the row's.

    Raises ValueError when the whole of it cannot be read, OSError when it is not there.
    """
    path = Path(path)
    if path.is_dir():
        return _folder(path)
    return _jsonl(path) if path.suffix == ".jsonl" else _csv(path)


def _jsonl(path: Path) -> Iterator[tuple[int, Row | str]]:
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                row = json.loads(text, parse_constant=_refuse_constant) if text.strip() else "empty line"
            except UnicodeDecodeError as error:
                place = error.start + len(raw) - len(error.object)  # the decoder does not count a byte-order mark
                row = f"not UTF-8: byte {place + 1} is {raw[place]:#04x}"
            except json.JSONDecodeError as error:
                row = f"not JSON: {error.msg} at column {error.colno}"
            except ValueError as error:
                row = str(error)
            except RecursionError:
                row = "not usable: nested too deeply"
            else:
                if text.strip() and not isinstance(row, dict):
                    row = f"wrong type: a row is a JSON object, this is {type(row).__name__}"
            yield number, row


def _csv(path: Path) -> Iterator[tuple[int, Row | str]]:
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}:{line}: not UTF-8; save the file as UTF-8 (in a spreadsheet: 'CSV UTF-8')") from None
    csv.field_size_limit(MOST_CELL)
    delimiter = "\t" if path.suffix == ".tsv" else ","
    # strict, or a quote that is never closed would swallow every row after it without a word
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    begun = 1  # the line on which the row being read begins; the reader gives up where it ends
    try:
        header = next(reader, [])
        begun = reader.line_num + 1
        if len(set(header)) < len(header):
            raise ValueError(f"{path}:1: two columns have the same name: {', '.join(header)}")
        for cells in reader:
            if len(cells) > len(header):
                yield reader.line_num, f"{len(cells)} cells under a header of {len(header)}; quote what holds a comma"
            elif cells:
                yield reader.line_num, dict(zip(header, cells + [""] * (len(header) - len(cells)), strict=True))
            begun = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"{path}:{begun}: not CSV: {error} (line {reader.line_num}). Look at the quotes of the row that begins on line "
            f'{begun}: close the one left open, and write a quote inside a quoted cell twice ("")'
        ) from None


def _folder(path: Path) -> Iterator[tuple[int, Row | str]]:
    from datasets import ClassLabel, DatasetDict, load_from_disk

    try:
        data = load_from_disk(str(path))
    except FileNotFoundError:
        raise ValueError(f"{path} is no folder written by `save_to_disk` of `datasets`") from None
    if isinstance(data, DatasetDict):
        raise ValueError(f"{path} holds several splits; name one: {', '.join(str(path / split) for split in data)}")
    named = {column: kind for column, kind in data.features.items() if isinstance(kind, ClassLabel)}
    for number, row in enumerate(data, start=1):
        for column, kind in named.items():  # -1 is how public sets say that there is no label
            row[column] = None if row[column] is None or row[column] < 0 else kind.int2str(row[column])
        yield number, row
