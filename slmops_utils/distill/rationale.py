"""Train on a teacher's reasons, or on its answer alone.

as_written   the answer as the record holds it (a styled answer holds no reasons, our own teacher's does)
with         the reasons, then "Answer:" and the answer, where the record has reasons
without      the answer alone
"""

import re
from collections.abc import Sequence

from ..records import Example
from ..tasks import get_task
from ..tasks.nli import INFERENCE

RATIONALES = ("as_written", "with", "without")
ANSWER = re.compile(r"(?:^|(?<=\s))answer\s*:\s*", re.IGNORECASE)


def split_rationale(example: Example, text: str, labels: Sequence[str] = ()) -> tuple[str, str]:
    """(answer, rationale) of a text that has both in one; the rationale is "" where none can be told apart.

    Reasons end at the last "Answer:", which stays with the answer, or at the label of a closed set that closes the text.
    """
    marks = list(ANSWER.finditer(text))
    if marks and text[: marks[-1].start()].strip():
        return text[marks[-1].start() :].strip(), text[: marks[-1].start()].strip()
    if example.task == "nli":
        label = get_task("nli").parse(text, labels or INFERENCE)
        why = re.sub(rf"\W*{re.escape(label)}\W*$", "", text.strip(), flags=re.IGNORECASE) if label else ""
        if label and why:
            return label, why
    return text, ""


def in_form(example: Example, text: str, rationale: str, labels: Sequence[str] = ()) -> str:
    """A training text as `rationale` (one of RATIONALES) wants it. Raises ValueError for another word."""
    if rationale not in RATIONALES:
        raise ValueError(f"rationale is {rationale!r}; it may be {', '.join(RATIONALES)}")
    beside = example.response.rationale if example.response and example.response.text == text else ""
    if rationale == "with" and beside:
        return f"{beside}\nAnswer: {text}"
    if rationale == "without" and not beside:
        return split_rationale(example, text, labels)[0]
    return text
