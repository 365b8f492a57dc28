"""Turn somebody else's table into records of any task type, by a mapping: what a task needs -> its column.

    convert("tickets.csv", "qa", {"question": "Q", "context": "C", "answer": "A"}, {"test": 100, "train": -1})

Where a list is wanted (alternatives, options, facts), text is cut at its bars: "5 days | five days".
"""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..records import Example, RecordErrors, parse_record
from . import validate
from .public_sets import NLI_LABELS
from .tables import Row, read_rows

MOST_LISTED = 12  # with more labels than this, listing them would make every prompt longer than its question
MOST_OPTIONS = 26

Cell = Callable[[str], Any]  # what the row holds for "question"; None where there is no such column
Fields = tuple[list[dict[str, str]], Any]  # messages and reference


def label_instruction(labels: Sequence[str]) -> str:
    """What a closed-label prompt asks: the labels are listed only when they are few."""
    if len(labels) <= MOST_LISTED:
        return f"Name the label of this text. Answer with one of: {', '.join(labels)}."
    return "Name the label of this text."


def _text(cell: Cell, role: str) -> str:
    value = cell(role)
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise ValueError(f"wrong type: {role} must be text, this is {type(value).__name__}")
    return value.strip()


def _list(cell: Cell, role: str) -> list[Any]:
    value = cell(role)
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"{role} is no JSON list: {error.msg} at character {error.pos + 1}") from None
    if isinstance(value, str):
        value = [part.strip() for part in value.split("|") if part.strip()]
    return value if isinstance(value, list) else [value]


def _asked(cell: Cell, question: str) -> list[dict[str, str]]:
    system = [{"role": "system", "content": _text(cell, "context")}] if cell("context") else []
    return [*system, {"role": "user", "content": question}]


def _told(cell: Cell, key: str, text: str) -> Any:
    """The text, with the facts that a right answer tells where the row lists them."""
    if not cell("required"):
        return text
    required = [fact if isinstance(fact, list) else [str(fact)] for fact in _list(cell, "required")]
    return {key: text, "required": required, "forbidden": _list(cell, "forbidden") if cell("forbidden") else []}


def _closed_label(cell: Cell, labelled: bool) -> Fields:
    return _asked(cell, _text(cell, "text")), _text(cell, "label").replace("_", " ")


def _inference(cell: Cell, labelled: bool) -> Fields:
    messages = _asked(cell, f"Premise: {_text(cell, 'premise')}\nHypothesis: {_text(cell, 'hypothesis')}")
    label = _text(cell, "label").lower() if labelled else None
    if labelled and label not in NLI_LABELS:
        raise ValueError(f"label {label!r} is none of {', '.join(NLI_LABELS)}")
    return messages, label


def _qa(cell: Cell, labelled: bool) -> Fields:
    question = _text(cell, "question")
    if not cell("options"):
        return _asked(cell, question), {"answers": [str(a) for a in _list(cell, "answer")]} if labelled else None
    options = {chr(ord("A") + i): str(option).strip() for i, option in enumerate(_list(cell, "options"))}
    if not 1 < len(options) <= MOST_OPTIONS:
        raise ValueError(f"{len(options)} options; there must be 2 to {MOST_OPTIONS}")
    messages = _asked(cell, "\n".join([question, *(f"{letter}) {option}" for letter, option in options.items())]))
    if not labelled:
        return messages, None
    answer = _text(cell, "answer")
    right = [letter for letter, option in options.items() if answer == option] or [answer.upper()]
    if len(right) > 1 or right[0] not in options:
        raise ValueError(f"answer {answer!r} is not the letter or the text of one of the options {[*options.values()]}")
    return messages, {"choice": right[0], "answers": [options[right[0]]]}


def _math(cell: Cell, labelled: bool) -> Fields:
    reference = {"answer": _text(cell, "answer")} if labelled else None
    if reference and cell("steps"):
        reference["steps"] = "\n".join(str(step) for step in _list(cell, "steps"))
    return _asked(cell, _text(cell, "question")), reference


def _conversation(cell: Cell, labelled: bool) -> Fields:
    turns = _list(cell, "messages")
    if not all(isinstance(turn, dict) and {"role", "content"} <= turn.keys() for turn in turns):
        raise ValueError("messages is no list of objects with 'role' and 'content'")
    messages = [{"role": turn["role"], "content": turn["content"]} for turn in turns]
    if cell("context"):
        messages.insert(0, {"role": "system", "content": _text(cell, "context")})
    last = messages.pop()["content"] if messages[-1]["role"] == "assistant" else None
    reply = _text(cell, "reply") if cell("reply") else last
    if not labelled:
        return messages, None
    if not reply:
        raise ValueError("no reply: the last message is not the assistant's, and no column holds one")
    return messages, _told(cell, "reply", reply)


def _summarization(cell: Cell, labelled: bool) -> Fields:
    return _asked(cell, _text(cell, "text")), _told(cell, "note", _text(cell, "summary")) if labelled else None


@dataclass(frozen=True)
class Mapping:
    """What a task takes from a row: what it must have, what only a row with a reference must, what it may have."""

    must: tuple[str, ...]
    gold: tuple[str, ...]
    may: tuple[str, ...]
    fields: Callable[[Cell, bool], Fields]  # (cell, whether to make the reference); raises ValueError


MAPPINGS = {
    "nli": Mapping(("text", "label"), (), (), _closed_label),  # the prompt lists the labels: no row can do without
    "qa": Mapping(("question",), ("answer",), ("context", "options"), _qa),
    "math": Mapping(("question",), ("answer",), ("context", "steps"), _math),
    "conversation": Mapping(("messages",), (), ("context", "reply", "required", "forbidden"), _conversation),
    "summarization": Mapping(("text",), ("summary",), ("required", "forbidden"), _summarization),
}
PREMISES = Mapping(("premise", "hypothesis"), ("label",), (), _inference)  # of nli, where either is mapped
COLUMNS = {  # what the mappings take, in words
    "text": "the text (nli with any closed label set) or the ticket or call (summarization)",
    "label": "the label (nli)",
    "premise": "the premise (nli)",
    "hypothesis": "the hypothesis (nli)",
    "question": "the question (qa, math)",
    "answer": "the answer (qa: text, alternatives, or an option's letter or text; math: a number with its unit)",
    "context": "the article that holds the answer (qa, math, conversation)",
    "options": "a list of options (qa)",
    "steps": "the worked lines (math)",
    "messages": "a list of 'role' and 'content'; the last reply is the reference (conversation)",
    "reply": "the reference reply, where the messages have none (conversation)",
    "summary": "the reference note (summarization)",
    "required": "a list of facts to tell (conversation, summarization)",
    "forbidden": "a list of wrong facts (conversation, summarization)",
}


def mapping_for(task: str, columns: dict[str, str]) -> Mapping:
    """The task's mapping. Raises ValueError for a task without one and for what the task does not take."""
    if task not in MAPPINGS:
        raise ValueError(f"no column mapping for task {task!r}; there are {', '.join(MAPPINGS)}")
    mapping = PREMISES if task == "nli" and {"premise", "hypothesis"} & columns.keys() else MAPPINGS[task]
    takes = (*mapping.must, *mapping.gold, *mapping.may)
    if unknown := columns.keys() - set(takes):
        raise ValueError(f"{task} takes no column for {', '.join(sorted(unknown))}; it takes {', '.join(takes)}")
    return mapping


def convert(
    path: str | Path,
    task: str,
    columns: dict[str, str] | None = None,
    counts: dict[str, int] | None = None,
    seed: int = 0,
    prefix: str = "row",
) -> dict[str, list[Example]]:
    """Cut a JSONL or CSV file, or a folder of `datasets`, into splits of records, shuffled by `seed`.

    columns: as in MAPPINGS; what a task must have is looked for under its own name where it is not given.
    counts: split name -> rows, taken in this order, e.g. {"train": 1500, "pool": 4000}; -1 takes what the others leave.
    The records of a split named 'pool' carry no reference; a table cut into a pool alone needs none. A question that
    stands in the table more than once is taken once, so that no split holds a copy of another's.

    Raises RecordErrors with the line number and reason of every bad row (an empty cell, a reference its task cannot
    score, ...), and ValueError for a column that no row has or more rows asked for than there are.
    """
    columns, counts = columns or {}, counts or {"train": -1}
    mapping = mapping_for(task, columns)
    labelled = any(split != "pool" for split in counts)
    must = mapping.must + (mapping.gold if labelled else ())
    wanted = {role: role for role in must} | {r: c for r, c in columns.items() if labelled or r not in mapping.gold}
    rows = list(read_rows(path))
    there = list(dict.fromkeys(column for _, row in rows if isinstance(row, dict) for column in row))
    missing = sorted(set(wanted.values()) - set(there))
    if there and missing:
        raise ValueError(f"{path}: no column {', '.join(missing)}; there are {', '.join(there)}")
    found: dict[str, Example] = {}
    problems = []
    for number, row in rows:
        try:
            example = _example(task, mapping, row, wanted, must, labelled)
            found.setdefault(json.dumps(example.messages), example)
        except ValueError as error:
            problems.append((number, str(error)))
    if problems or not rows:
        raise RecordErrors(Path(path), problems or [(1, "empty file: no rows")])
    return _cut(path, list(found.values()), mapping, counts, seed, prefix)


def _example(
    task: str, mapping: Mapping, row: Row | str, wanted: dict[str, str], must: Sequence[str], labelled: bool
) -> Example:
    if isinstance(row, str):
        raise ValueError(row)
    for role in must:
        if row.get(wanted[role]) is None or not str(row[wanted[role]]).strip():
            raise ValueError(f"empty {wanted[role]}")
    messages, reference = mapping.fields(lambda role: row.get(wanted[role]) if role in wanted else None, labelled)
    example = Example("row", task, messages, reference)
    parse_record(example.to_dict())
    if reference is not None and (problem := validate(example)):
        raise ValueError(problem)
    return example


def _cut(
    path: str | Path, rows: list[Example], mapping: Mapping, counts: dict[str, int], seed: int, prefix: str
) -> dict[str, list[Example]]:
    asked = sum(n for n in counts.values() if n > 0)
    if asked > len(rows):
        raise ValueError(f"{path}: {asked:,} rows asked for, the file has {len(rows):,} different ones")
    system = []
    if mapping.fields is _closed_label:
        system = [{"role": "system", "content": label_instruction(sorted({row.reference for row in rows}))}]
    random.Random(seed).shuffle(rows)
    splits, start, left = {}, 0, len(rows) - asked
    for split, count in counts.items():
        end = start + (left if count < 0 else count)
        splits[split] = [
            Example(
                f"{prefix}-{split}-{i:05d}", row.task, system + row.messages, row.reference if split != "pool" else None
            )
            for i, row in enumerate(rows[start:end])
        ]
        start, left = end, left if count >= 0 else 0
    return splits


def convert_csv(
    path: str | Path, text: str, label: str, counts: dict[str, int], seed: int = 0, prefix: str = "row"
) -> dict[str, list[Example]]:
    """`convert` for a table of texts and labels: `nli` records of any closed label set."""
    return convert(path, "nli", {"text": text, "label": label}, counts, seed, prefix)
