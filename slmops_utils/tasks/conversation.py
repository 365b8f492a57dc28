"""Technical support over several turns, with the help article that holds the answer in the system message.

A reply resolves the ticket when it says what was asked for and nothing that is wrong: every group of `required` has
one alternative in it, and no string of `forbidden` is there (wrong values, values of another device, parts of the
article nobody asked about).
"""

import re
from collections.abc import Sequence

import numpy as np

from ..records import Example
from . import Metric, Task, instructed, overlap

INSTRUCTION = "You are a support agent. Answer the customer's last question in one or two sentences from this article."


def prompt(example: Example) -> list[dict[str, str]]:
    return instructed(example, INSTRUCTION)


def target(example: Example) -> str:
    """The gold reply. TypeError when the reference is neither a dict with one nor a plain string."""
    reference = example.reference
    reply = reference["reply"] if isinstance(reference, dict) else reference
    if not isinstance(reply, str):
        raise TypeError(f"{example.id}: a conversation's reference is a reply, or a dict with 'reply', not {reply!r}")
    return reply


def parse(text: str, labels: Sequence[str] = ()) -> str | None:
    return text.strip() or None


def contains(text: str, phrase: str) -> bool:
    """Whether `phrase` stands in `text` as whole words, ignoring case and spacing.

    "£6" is not in "£6.50", nor "five days" in "twenty-five days", nor "5 days" in "3-5 days".
    """
    text, phrase = (re.sub(r"\s+", " ", s.replace("’", "'")).lower().strip() for s in (text, phrase))
    return re.search(rf"(?<![\w£])(?<!\d[.,])(?<!\w[-–]){re.escape(phrase)}(?!\w|[.,]\d)", text) is not None


def resolves(example: Example, text: str) -> float:
    """1.0 when the reply has every required fact and no forbidden one."""
    required, forbidden = example.reference["required"], example.reference.get("forbidden", [])
    told = all(any(contains(text, phrase) for phrase in group) for group in required)
    return float(told and not any(contains(text, phrase) for phrase in forbidden))


def tells(example: Example, text: str) -> float:
    """1.0 when the reply has every required fact, whatever else it says."""
    return float(all(any(contains(text, phrase) for phrase in group) for group in example.reference["required"]))


def lists_facts(example: Example) -> bool:
    """Whether the reference says which facts resolve the ticket; a reply alone can only be compared with."""
    return isinstance(example.reference, dict) and bool(example.reference.get("required"))


def rouge_l(example: Example, text: str) -> float:
    """ROUGE-L's F-measure with the gold reply, for data that says no more than that."""
    return overlap.rouge_l(target(example), text)


TASK = Task(
    name="conversation",
    prompt=prompt,
    target=target,
    parse=parse,
    metrics={
        "resolved": Metric(resolves, lambda rows: float(np.mean(rows)), lists_facts),
        "required_facts": Metric(tells, lambda rows: float(np.mean(rows)), lists_facts),
        "rouge_l": Metric(rouge_l, lambda rows: float(np.mean(rows))),
    },
    max_new_tokens=64,
)
