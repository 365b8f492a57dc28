"""Natural language inference, and any other task whose answer is one label of a closed set.

A record without a system message is asked the inference question below; a record of another closed set brings its
own instruction as its system message (`python -m slmops_utils data` writes it). Labels are read from the data.
"""

import re
from collections.abc import Sequence

import numpy as np

from ..records import Example
from . import Metric, Task

INSTRUCTION = (
    "Does the premise support the hypothesis? Say what it tells, then answer entailment, neutral or contradiction."
)
INFERENCE = ("entailment", "neutral", "contradiction")


def prompt(example: Example) -> list[dict[str, str]]:
    messages = example.prompt
    if messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": INSTRUCTION}, *messages]


def target(example: Example) -> str:
    """The label, after the sentence that says how it follows where the record has one under `rationale`.

    A small model that first writes down what it compares learns to compare; one shown labels only stays at chance.
    """
    rationale = example.extra.get("rationale")
    return f"{rationale} {example.reference}" if rationale else str(example.reference)


def normalise(text: str) -> str:
    """Lower case, one space between words, no punctuation at the ends."""
    return re.sub(r"\s+", " ", text).strip().strip(".!\"'*` ").lower()


def parse(text: str, labels: Sequence[str]) -> str | None:
    """The label a text names: the text itself, or the only label it mentions; None when there is none or several.

    Where the text has an "Answer:", only what follows the last one counts: the reasons before it may weigh every label.

    A label with "not" before it is not mentioned: "not entailment" leaves open which of the others is meant.
    """
    answer = normalise(re.split(r"\banswer\s*:", text, flags=re.IGNORECASE)[-1])
    by_name = {normalise(label): label for label in labels}
    if answer in by_name:
        return by_name[answer]
    named = {
        label
        for name, label in by_name.items()
        if re.search(rf"(?<!\w)(?<!\w-)(?<!\bnot ){re.escape(name)}(?!-?\w)", answer)
    }
    return named.pop() if len(named) == 1 else None


def is_inference(example: Example) -> bool:
    """Whether a record is asked the inference question above: one of another closed set, which may share a label with it,
    brings a question of its own."""
    return example.prompt[0]["role"] != "system" and example.reference in (None, *INFERENCE)


def labels_of(example: Example, labels: Sequence[str] = ()) -> Sequence[str]:
    """The labels that an answer to this question may name: `labels` where they are known, the three of the inference
    question where that is what is asked. Empty where answers are open, or the closed set is not known."""
    return labels or (INFERENCE if example.task == "nli" and is_inference(example) else ())


def is_correct(example: Example, text: str) -> float:
    """1.0 when the text names the reference label: of the inference question among reasons, else as the whole text."""
    if is_inference(example):
        return float(parse(text, INFERENCE) == example.reference)
    return float(normalise(text) == normalise(str(example.reference)))


def macro_f1(pairs: np.ndarray) -> float:
    """Mean F1 over the labels that occur as reference. pairs: (n, 2) of strings, reference and answer."""
    scores = []
    for label in np.unique(pairs[:, 0]):
        right = np.sum((pairs[:, 0] == label) & (pairs[:, 1] == label))
        given, wanted = np.sum(pairs[:, 1] == label), np.sum(pairs[:, 0] == label)
        scores.append(2 * right / (given + wanted))
    return float(np.mean(scores))


def _pair(example: Example, text: str) -> tuple[str, str]:
    if is_inference(example):
        return str(example.reference), parse(text, INFERENCE) or ""
    return normalise(str(example.reference)), normalise(text)


TASK = Task(
    name="nli",
    prompt=prompt,
    target=target,
    parse=parse,
    metrics={
        "accuracy": Metric(is_correct, lambda rows: float(np.mean(rows))),
        "macro_f1": Metric(_pair, macro_f1),
    },
    max_new_tokens=48,
    canonical=str,
)
