"""Turn somebody else's table into records."""

import csv
import io
import random
from collections.abc import Sequence
from pathlib import Path

from ..records import Example

MOST_LISTED = 12  # with more labels than this, listing them would make every prompt longer than its question


def label_instruction(labels: Sequence[str]) -> str:
    """What a closed-label prompt asks: the labels are listed only when they are few."""
    if len(labels) <= MOST_LISTED:
        return f"Name the label of this text. Answer with one of: {', '.join(labels)}."
    return "Name the label of this text."


def convert_csv(
    path: str | Path,
    text: str,
    label: str,
    counts: dict[str, int],
    seed: int = 0,
    prefix: str = "row",
) -> dict[str, list[Example]]:
    """Cut a CSV file of texts and labels into splits of `nli` records (any closed label set), shuffled by `seed`.

    counts: split name -> rows, taken in this order, e.g. {"train": 1500, "pool": 4000}; -1 takes what the others leave.
    The records of a split named 'pool' carry no label. A text that stands in the file more than once is taken once, so
    that no split holds a copy of another's. Raises ValueError for a missing column, an empty cell (with its line
    number), bytes that are not UTF-8 or more rows asked for than there are.
    """
    path = Path(path)
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}:{line}: not UTF-8; save the file as UTF-8 (in a spreadsheet: 'CSV UTF-8')") from None
    found: dict[str, str] = {}
    with io.StringIO(content, newline="") as file:
        reader = csv.DictReader(file)
        missing = {text, label} - set(reader.fieldnames or [])
        if missing:
            raise ValueError(
                f"{path}: no column {', '.join(sorted(missing))}; there are {', '.join(reader.fieldnames or [])}"
            )
        problems = []
        for row in reader:
            if not (row[text] or "").strip() or not (row[label] or "").strip():
                problems.append(f"{path}:{reader.line_num}: empty {text if not (row[text] or '').strip() else label}")
            else:
                found.setdefault(row[text].strip(), row[label].strip())
    if problems:
        raise ValueError("\n".join(problems[:20]))
    rows = list(found.items())
    wanted = sum(n for n in counts.values() if n > 0)
    if wanted > len(rows):
        raise ValueError(f"{path}: {wanted:,} rows asked for, the file has {len(rows):,} different ones")
    instruction = label_instruction(sorted({name.replace("_", " ") for _, name in rows}))
    random.Random(seed).shuffle(rows)
    splits, start, left = {}, 0, len(rows) - wanted
    for split, count in counts.items():
        end = start + (left if count < 0 else count)
        splits[split] = [
            Example(
                f"{prefix}-{split}-{i:05d}",
                "nli",
                [{"role": "system", "content": instruction}, {"role": "user", "content": content}],
                None if split == "pool" else name.replace("_", " "),
            )
            for i, (content, name) in enumerate(rows[start:end])
        ]
        start, left = end, left if count >= 0 else 0
    return splits
