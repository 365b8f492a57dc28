"""From records to batches of tokens, with the positions that are trained on marked."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..records import Example
from ..synthesize.answer import encode_prompt, encode_text
from ..tasks import get_task
from ..tasks.nli import labels_of
from .rationale import in_form

IGNORED = -100  # torch's label for positions that take no part in the loss


@dataclass(frozen=True)
class Row:
    """One training example: token ids, how many of them at the front are prompt, and the id of its record.

    `weight` matters to step_by_step only.
    """

    ids: list[int]
    prompt_length: int
    id: str = ""
    weight: float = 1.0

    @property
    def supervised(self) -> int:
        """How many tokens are trained on. The first of all follows nothing, so nothing predicts it."""
        return len(self.ids) - max(self.prompt_length, 1)


def blank(rows: Sequence[Row]) -> Row:
    """A short row with nothing to learn: it adds neither loss nor tokens to a batch."""
    shortest = min(rows, key=lambda row: len(row.ids))
    return Row(shortest.ids, len(shortest.ids), "blank")


def training_text(example: Example, labels: Sequence[str] = ()) -> str | None:
    """The answer to train on: the teacher's if it gave a usable one, else the label; None when there is neither.

    An answer that was cut off or that its task cannot parse is not usable: a failed call must not become a lesson.
    `labels` are those of a closed set, where it is known (those of the inference question always are); an answer that
    names none of them is not usable either.
    """
    task = get_task(example.task)
    if example.response is not None:
        text = example.response.text
        whole = example.response.finish_reason == "stop" and "unread" not in example.extra
        usable = whole and text.strip() and task.parse(text, labels_of(example, labels) or (text,))
        if usable or example.reference is None:
            return text if usable else None
    if example.reference is not None:
        return task.target(example)
    if example.messages[-1]["role"] == "assistant":
        return example.messages[-1]["content"]
    return None


def lesson_texts(examples: Iterable[Example]) -> list[str]:
    """All that a student of these examples reads or writes: the prompts, the answers, and the names of the roles. What to
    trim its vocabulary to."""
    texts = ["system\nuser\nassistant\n"]
    for example in examples:
        texts += [message["content"] for message in get_task(example.task).prompt(example)]
        texts += [text] if (text := training_text(example)) else []
    return texts


def known_labels(examples: Sequence[Example]) -> dict[str, tuple[str, ...]]:
    """The labels of each task in the data; an empty tuple where none is labelled or answers are not strings."""
    found: dict[str, set[str]] = {}
    for example in examples:
        labels = found.setdefault(example.task, set())
        if isinstance(example.reference, str):
            labels.add(example.reference)
    return {task: tuple(sorted(labels)) for task, labels in found.items()}


def encode_rows(
    examples: Sequence[Example], tokenizer: Any, max_length: int = 1024, rationale: str = "as_written"
) -> tuple[list[Row], int]:
    """Rows ready to train on, and how many examples were left out (no usable answer, or longer than max_length).

    `rationale`: whether reasons are trained on, see rationale.py.

    The end-of-sequence token closes every answer and is trained on, or the student would never learn to stop.
    """
    rows, labels = [], known_labels(examples)
    for example in examples:
        text = training_text(example, labels[example.task])
        if text is None:
            continue
        text = in_form(example, text, rationale, labels[example.task])
        prompt = encode_prompt(tokenizer, get_task(example.task).prompt(example))
        answer = [*encode_text(tokenizer, text), tokenizer.eos_token_id]
        if len(prompt) + len(answer) <= max_length:
            rows.append(Row(prompt + answer, len(prompt), example.id))
    return rows, len(examples) - len(rows)


def collate(rows: Sequence[Row], pad_id: int) -> dict[str, Any]:
    """Pad rows on the right to tensors of shape (rows, longest): input_ids, attention_mask, labels."""
    import torch

    width = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), width), pad_id)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    labels = torch.full((len(rows), width), IGNORED)
    for i, row in enumerate(rows):
        n = len(row.ids)
        ids[i, :n] = torch.tensor(row.ids)
        mask[i, :n] = 1
        labels[i, row.prompt_length : n] = ids[i, row.prompt_length : n]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


class LengthGroupedSampler:
    """Row numbers in a shuffled order whose consecutive batches hold rows of similar length, so that little is padded.

    Rows are shuffled, cut into pools of 16 batches, sorted by length inside each pool, and the batches shuffled again.
    The order depends on seed and epoch only. `even` fills the last batch up to a multiple of so many rows with the number
    len(lengths), which stands for a `blank` row: of several processes each must have one, and a real row taken twice would
    count twice.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int = 0, even: int = 1):
        self.lengths, self.batch_size, self.seed, self.even, self.epoch = lengths, batch_size, seed, even, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.even) * self.even

    def __iter__(self) -> Iterator[int]:
        import torch

        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        pool = self.batch_size * 16
        batches = []
        for start in range(0, len(order), pool):
            near = sorted(order[start : start + pool], key=lambda i: self.lengths[i])
            batches += [near[i : i + self.batch_size] for i in range(0, len(near), self.batch_size)]
        # a short batch stays last: the loader cuts the stream by count, and would split every batch after it
        full = [b for b in batches if len(b) == self.batch_size]
        short = [i for b in batches if len(b) < self.batch_size for i in b]
        for i in torch.randperm(len(full), generator=generator).tolist():
            yield from full[i]
        yield from short
        yield from [len(self.lengths)] * (len(self) - len(self.lengths))
