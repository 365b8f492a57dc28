"""Word problems on bills and data use: the steps worked out, then a number with its unit.

The reference is {"answer": "£12.40", "steps": "worked lines"}, or the answer alone, a string or a number. The number
is compared exactly, as a number: "£12.4" is "£12.40", "1.5 GB" is "1500 MB", and a missing unit is forgiven.
"""

import re
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from ..records import Example
from . import Metric, Task, instructed
from .arithmetic import check_steps
from .quantity import UNITS, Quantity, agrees, find_quantities, read_quantity

INSTRUCTION = "Work out the answer. Write each step as arithmetic, then 'Answer:' and the result with its unit."
# GSM8K (arXiv 2110.14168) puts its answers after ####
MOST_CHARACTERS = 4_000  # of the end of a text: answers are far shorter
MARKER = re.compile(r"\banswer\b[*_ ]{0,3}(?::|is\b)|####", re.IGNORECASE)


def prompt(example: Example) -> list[dict[str, str]]:
    return instructed(example, INSTRUCTION)


def gold(example: Example) -> str:
    """The reference's answer as text."""
    reference = example.reference
    return str(reference["answer"] if isinstance(reference, dict) else reference)


def target(example: Example) -> str:
    steps = example.reference.get("steps", "") if isinstance(example.reference, dict) else ""
    return f"{steps}\nAnswer: {gold(example)}".strip()


def parse(text: str, labels: Sequence[str] = ()) -> Quantity | None:
    """The final answer: the one quantity in the line of the last "Answer:", else the last quantity of the text.

    After "Answer: 3 x £4.50 = £13.50" it is what follows the equals sign. None when there is none, or a choice of two.
    """
    text = text[-MOST_CHARACTERS:]
    marked = MARKER.split(text)
    if len(marked) > 1:
        line = (marked[-1].strip().splitlines() or [""])[0].rpartition("=")[2]
        found = find_quantities(line)
        return found[0][2] if len(found) == 1 else None
    found = find_quantities(text)
    if len(found) > 1 and re.fullmatch(r"[\s,]*(?:or|to|/)\s*", text[found[-2][1] : found[-1][0]], re.IGNORECASE):
        return None
    return found[-1][2] if found else None


def numeric_match(example: Example, text: str) -> float:
    """1.0 when the final number and its unit equal the reference. ValueError when the reference is no quantity."""
    wanted, given = read_quantity(gold(example)), parse(text)
    if wanted is None:
        raise ValueError(f"{example.id}: the reference {gold(example)!r} cannot be read as one number with a unit")
    return float(given is not None and agrees(given, wanted))


def steps_right(example: Example, text: str) -> float:
    """The share of the text's arithmetic steps that recompute; 0.0 when it shows none, as nothing can be checked."""
    verdicts = check_steps(text)
    return sum(verdicts) / len(verdicts) if verdicts else 0.0


def in_base_unit(answer: Quantity) -> Fraction:
    """An answer's number in the unit its kind is counted in: 50p and £0.50 are one answer, as are "£5" and "5"."""
    unit = answer.unit.partition("/")[0]
    return answer.value * (UNITS[unit][1] if unit else 1)


TASK = Task(
    name="math",
    prompt=prompt,
    target=target,
    parse=parse,
    metrics={
        "numeric_match": Metric(numeric_match, lambda rows: float(np.mean(rows))),
        "steps_right": Metric(steps_right, lambda rows: float(np.mean(rows))),
    },
    max_new_tokens=160,
    canonical=in_base_unit,
)
