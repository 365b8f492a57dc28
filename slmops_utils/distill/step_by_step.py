"""Distilling step by step (arXiv 2305.02301): two tasks for one student, the label and the reason for it.

Each example with a rationale gives two rows: the prompt as it is, answered by the label alone, and the prompt with a
prefix, answered by the rationale. What explaining teaches is there when the label is asked for, and costs nothing then:
no rationale is written at inference, and no prefix is given.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..records import Example
from ..tasks import get_task
from ..tasks.nli import INFERENCE
from .dataset import Row, collate, encode_rows, known_labels, training_text
from .supervised import Method, only_supervised

PREFIX = "Explain only: "
RATIONALE = "#rationale"  # ends the id of a rationale's row
LEAST = 0.05  # of the examples must have one: a few would get the whole task's weight


class NoRationales(ValueError):
    """Too few of the examples say why."""


def label_and_rationale(example: Example, labels: Sequence[str] = ()) -> tuple[str, str | None] | None:
    """(what to answer, why), from a record's `rationale` or from a teacher's answer that explains its label.

    The rationale is None where there is none; the whole is None where there is no usable answer.
    """
    text = training_text(example, labels)
    if text is None:
        return None
    if example.response and example.response.rationale and text == example.response.text:
        return text, example.response.rationale
    written = example.extra.get("rationale")
    if written and example.reference is not None and text == get_task(example.task).target(example):
        return (str(example.reference) if isinstance(example.reference, str) else text), written
    known = labels or (INFERENCE if example.task == "nli" else ())
    label = get_task(example.task).parse(text, known) if known else None
    if not isinstance(label, str):
        return text, None
    why = re.sub(rf"\W*{re.escape(label)}\W*$", "", text.strip(), flags=re.IGNORECASE)
    return label, why or None


def step_by_step_rows(
    examples: Sequence[Example], tokenizer: Any, rationale_weight: float, max_length: int = 1024
) -> tuple[list[Row], int]:
    """Rows of both tasks, and how many examples gave none.

    Weights are such that the loss is the label task's mean over its tokens plus `rationale_weight` times the rationale
    task's: rationales are longer, and would drown the labels otherwise. Raises NoRationales when fewer than 5 % of the
    examples have one.
    """
    labels = known_labels(examples)
    asked, explained = [], []
    for example in examples:
        found = label_and_rationale(example, labels[example.task])
        if found is None:
            continue
        asked.append(_row_of(example, example.prompt, found[0], ""))
        if found[1]:
            last = example.prompt[-1]
            prompt = [*example.prompt[:-1], {**last, "content": PREFIX + last["content"]}]
            explained.append(_row_of(example, prompt, found[1], RATIONALE))
    if len(explained) < max(1, LEAST * len(asked)):
        raise NoRationales(
            f"method 'step_by_step' needs rationales of at least {LEAST:.0%} of the examples, and {len(explained)} of these "
            f"{len(asked):,} have one: write them under 'rationale', or let a teacher explain its answers (generate)"
        )
    (label_rows, _), (why_rows, _) = (encode_rows(part, tokenizer, max_length) for part in (asked, explained))
    of_labels, of_whys = (sum(row.supervised for row in rows) or 1 for rows in (label_rows, why_rows))
    whole = of_labels + of_whys
    rows = [replace(row, weight=whole / of_labels) for row in label_rows]
    rows += [replace(row, weight=rationale_weight * whole / of_whys) for row in why_rows]
    return rows, len(examples) - len(label_rows)


def _row_of(example: Example, prompt: list[dict[str, str]], answer: str, suffix: str) -> Example:
    return Example(example.id + suffix, example.task, [*prompt, {"role": "assistant", "content": answer}])


class StepByStepMethod(Method):
    """Cross-entropy with each row's own weight."""

    name = "step_by_step"

    def collate(self, rows: Sequence[Row], pad_id: int) -> dict[str, Any]:
        """Besides the text: weights (N,), one for each supervised token."""
        import torch

        weights = torch.cat([torch.full((row.supervised,), row.weight) for row in rows])
        return collate(rows, pad_id) | {"weights": weights}

    def loss(self, model: Any, batch: dict[str, Any]) -> tuple[Any, int]:
        import torch

        with only_supervised(model, batch["labels"]) as targets:
            outputs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
        each = torch.nn.functional.cross_entropy(outputs.logits.float(), targets, reduction="none")
        return (each * batch["weights"]).sum(), targets.numel()
