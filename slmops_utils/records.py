"""The one record format every stage reads and writes: chat-format JSONL, one example a line.

    {"id": "a1", "task": "nli", "messages": [{"role": "user", "content": "..."}], "reference": "neutral"}

`messages` is the format OpenAI and Azure fine-tuning use. `reference` is what a right answer is judged by; a pool of
unlabelled prompts has none. What a teacher adds is kept beside it under `response`. Any other key is carried along.
"""

import json
import os
import tempfile
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .compact import Places

ROLES = ("system", "user", "assistant")
OWN_KEYS = ("id", "task", "messages", "reference", "response")
MOST_SHOWN = 20


@dataclass
class Response:
    """What a teacher answered, and how: kept beside the example, never over it."""

    text: str
    model: str
    sampling: dict[str, Any] = field(default_factory=dict)
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    rationale: str = ""  # why, where the teacher was asked to say so (see tasks/styles.py)
    history: list[str] = field(
        default_factory=list
    )  # its own answers to the turns before, where it was asked those too

    def to_dict(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if value or key not in ("rationale", "history")}


@dataclass
class Example:
    """One line of a JSONL file."""

    id: str
    task: str
    messages: list[dict[str, str]]
    reference: Any = None
    response: Response | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def prompt(self) -> list[dict[str, str]]:
        """The messages up to the last user turn: what a model is asked. A teacher's own earlier answers, where its answer
        follows on those, stand in place of the written ones."""
        messages = self.messages[:-1] if self.messages[-1]["role"] == "assistant" else self.messages
        if self.response is None or not self.response.history:
            return messages
        own = iter(self.response.history)
        return [m | {"content": next(own, m["content"])} if m["role"] == "assistant" else m for m in messages]

    def to_dict(self) -> dict[str, Any]:
        line: dict[str, Any] = {"id": self.id, "task": self.task, "messages": self.messages}
        if self.reference is not None:
            line["reference"] = self.reference
        if self.response is not None:
            line["response"] = self.response.to_dict()
        return line | self.extra


class RecordErrors(ValueError):
    """Every bad line of a file: `problems` holds (line number, reason) pairs."""

    def __init__(self, path: Path, problems: list[tuple[int, str]]):
        self.path, self.problems = path, problems
        shown = "\n".join(f"  {path}:{number}: {reason}" for number, reason in problems[:MOST_SHOWN])
        more = f"\n  ... and {len(problems) - MOST_SHOWN:,} more" if len(problems) > MOST_SHOWN else ""
        super().__init__(f"{len(problems)} bad line(s); mend them or remove them:\n{shown}{more}")


def parse_record(line: dict[str, Any]) -> Example:
    """Turn one decoded line into an Example. Raises ValueError saying what is wrong with it."""
    if not isinstance(line, dict):
        raise ValueError(f"wrong type: a record is a JSON object, this is {type(line).__name__}")
    for key in ("id", "task", "messages"):
        if key not in line:
            raise ValueError(f"missing key {key!r}")
    for key in ("id", "task"):
        if not isinstance(line[key], str):
            raise ValueError(f"wrong type: {key!r} must be a string, this is {type(line[key]).__name__}")
        if not line[key].strip():
            raise ValueError(f"empty {key!r}")
    _check_messages(line["messages"])
    try:
        json.dumps(line, ensure_ascii=False).encode()  # any key: what cannot be written again must not be read
    except UnicodeEncodeError:
        raise ValueError(r"half of a surrogate pair (a \ud... escape) is not text") from None
    response = line.get("response")
    if response is not None:
        known = Response.__dataclass_fields__
        if not isinstance(response, dict) or not isinstance(response.get("text"), str) or "model" not in response:
            raise ValueError("wrong type: 'response' must be an object with a string 'text' and a 'model'")
        unknown = sorted(set(response) - set(known))
        if unknown:
            raise ValueError(f"'response' has unknown keys {unknown}; it may have {sorted(known)}")
        if not isinstance(response.get("rationale", ""), str):
            raise ValueError("wrong type: 'rationale' of 'response' must be a string")
        said = response.get("history", [])
        if not isinstance(said, list) or not all(isinstance(text, str) and text.strip() for text in said):
            raise ValueError("wrong type: 'history' of 'response' must be a list of texts")
    return _example(line)


def _example(line: dict[str, Any]) -> Example:
    """The Example of a line that was found right."""
    response = None if line.get("response") is None else Response(**line["response"])
    extra = {key: value for key, value in line.items() if key not in OWN_KEYS}
    return Example(line["id"], line["task"], line["messages"], line.get("reference"), response, extra)


def _check_messages(messages: Any) -> None:
    if not isinstance(messages, list):
        raise ValueError(f"wrong type: 'messages' must be a list, this is {type(messages).__name__}")
    if not messages:
        raise ValueError("empty 'messages'")
    expected = "system or user"
    for i, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise ValueError(f"wrong type: message {i + 1} must be an object with 'role' and a string 'content'")
        role = message.get("role")
        if role not in ROLES:
            raise ValueError(f"message {i + 1} has role {role!r}; roles are {', '.join(ROLES)}")
        if role not in expected.split(" or "):
            raise ValueError(f"wrong role order: message {i + 1} is from {role}, expected {expected}")
        if not message["content"].strip():
            raise ValueError(f"empty content in message {i + 1} ({role})")
        expected = "assistant" if role == "user" else "user"
    if messages[-1]["role"] == "system":
        raise ValueError("wrong role order: the last message is from system, expected user or assistant")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"not JSON: {name} is no number")  # json.loads would let NaN through, and no score survives it


def read_records(path: str | Path) -> Iterator[Example]:
    """Stream the examples of a JSONL file, in memory that does not grow with the file.

    Good lines are yielded as they come; when the file ends, RecordErrors is raised if any line was bad, listing every
    one with its line number and reason. So `list(read_records(path))` gives either all of a file or all of its errors.
    """
    path = Path(path)
    problems: list[tuple[int, str]] = []
    seen = Places("b")  # hashes of ids, not the ids
    number = 0
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                if not text.strip():
                    raise ValueError("empty line")
                example = parse_record(json.loads(text, parse_constant=_refuse_constant))
                if not seen.add(hash(example.id)):
                    raise ValueError(f"duplicate id {example.id!r}")
            except UnicodeDecodeError as error:
                place = error.start + len(raw) - len(error.object)  # the decoder does not count a byte-order mark
                problems.append((number, f"not UTF-8: byte {place + 1} is {raw[place]:#04x}"))
            except json.JSONDecodeError as error:
                problems.append((number, f"not JSON: {error.msg} at column {error.colno}"))
            except ValueError as error:
                problems.append((number, str(error)))
            except RecursionError:
                problems.append((number, "not usable: nested too deeply"))
            else:
                yield example
    if number == 0:
        problems.append((1, "empty file: no records"))
    if problems:
        raise RecordErrors(path, problems)


class RecordFile(Sequence[Example]):
    """The records of a file as a sequence of which only the places are held in memory (8 bytes each).

    Every line is checked when it is opened, which raises RecordErrors like `read_records`; a record is read again
    whenever it is asked for, so the file must stay as it is.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        deque(read_records(self.path), maxlen=0)
        self.places = array("q", [0])
        with self.path.open("rb") as file:
            for raw in file:
                self.places.append(self.places[-1] + len(raw))
        self.places.pop()
        self.file = self.path.open("rb")

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return Chosen(self, range(len(self))[i])
        self.file.seek(self.places[i])
        return _example(json.loads(self.file.readline().decode("utf-8-sig")))

    def __del__(self) -> None:
        if hasattr(self, "file"):  # it is not when a line was bad
            self.file.close()


class Chosen(Sequence[Any]):
    """Some items of a sequence, by their places."""

    def __init__(self, items: Sequence[Any], places: Sequence[int]):
        self.items, self.places = items, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, i: Any) -> Any:
        return Chosen(self.items, self.places[i]) if isinstance(i, slice) else self.items[self.places[i]]


def write_records(path: str | Path, examples: Iterable[Example]) -> int:
    """Write examples as JSONL and return how many. The file appears whole or not at all."""
    count = 0
    with atomic_writer(path) as file:
        for example in examples:
            file.write(json.dumps(example.to_dict(), ensure_ascii=False) + "\n")
            count += 1
    return count


class atomic_writer:
    """A text file that replaces `path` only when the block ends well: a crash leaves the old file as it was."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def __enter__(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle, self.temporary = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.", suffix=".part")
        self.file = os.fdopen(handle, "w", encoding="utf-8", newline="\n")
        return self.file

    def __exit__(self, kind, error, trace):
        try:
            if kind is None:
                self.file.flush()
                os.fsync(self.file.fileno())
                self.file.close()
                os.chmod(self.temporary, 0o644)
                os.replace(self.temporary, self.path)
        finally:
            try:
                self.file.close()  # on a full disk this fails too
            finally:
                if os.path.exists(self.temporary):
                    os.unlink(self.temporary)
