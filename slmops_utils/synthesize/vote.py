"""Several answers to one question: which one most of them stand for.

Answers of a closed kind (a label, a number, a few words) are counted; this is self-consistency over samples of one model
(arXiv 2203.11171) and a committee's vote over several. Free text is never twice the same, so there the answer most like
the others is taken, by ROUGE-L (minimum Bayes risk, arXiv 2111.05803).
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from ..records import Example
from ..tasks import get_task, overlap
from ..tasks.nli import labels_of


@dataclass(frozen=True)
class Vote:
    """`winner`: the place of the answer to take, None when none can be read. `share`: of the weight that agrees with it
    (free text: its mean likeness to the others)."""

    winner: int | None
    share: float


def canonical(example: Example, text: str, labels: Sequence[str] = ()) -> Hashable | None:
    """What an answer says, in a form equal for equal answers; None when it says nothing, or its task has no such form."""
    task = get_task(example.task)
    if task.canonical is None or not text.strip():
        return None
    # an answer the whole of which is a label is read without the others being known
    answer = task.parse(text, labels_of(example, labels) or (text,))
    return None if answer is None else task.canonical(answer)


def vote(example: Example, texts: Sequence[str], labels: Sequence[str] = (), weights: Sequence[float] = ()) -> Vote:
    """The answer with the most weight behind it (1 each unless given); of equals the one whose first voter comes first.

    A text that cannot be read counts against every answer.
    """
    weight = list(weights) or [1.0] * len(texts)
    total = sum(weight)
    if get_task(example.task).canonical is None:
        return _most_alike(example, texts, weight)
    said = [canonical(example, text, labels) for text in texts]
    behind: dict[Hashable, float] = {}
    for answer, w in zip(said, weight, strict=True):
        if answer is not None:
            behind[answer] = behind.get(answer, 0.0) + w
    if not behind or total <= 0:
        return Vote(None, 0.0)
    best = max(behind, key=lambda answer: behind[answer])
    heard = max((i for i, answer in enumerate(said) if answer == best), key=lambda i: (weight[i], -i))
    return Vote(heard, behind[best] / total)


def _most_alike(example: Example, texts: Sequence[str], weight: Sequence[float]) -> Vote:
    readable = [i for i, text in enumerate(texts) if get_task(example.task).parse(text, ()) is not None]
    if not readable:
        return Vote(None, 0.0)
    likeness = {}
    for i in readable:
        others = sum(weight[j] for j in range(len(texts)) if j != i)
        near = sum(weight[j] * overlap.rouge_l(texts[j], texts[i]) for j in readable if j != i)
        likeness[i] = near / others if others > 0 else 1.0
    # between two alone likeness is mutual, so there the weightier one is heard
    best = max(readable, key=lambda i: (likeness[i], weight[i], -i))
    return Vote(best, likeness[best])


def vote_weight(right: float, rows: int, choices: int = 0) -> float:
    """How much a voter's word counts who scored `right` (a sum of scores) on `rows` labelled rows.

    Among `choices` labels the log odds against chance, by which a vote of independent voters errs least (Nitzan and
    Paroush 1982); nothing for who does no better than chance. Where answers are open, the score itself. One row right and
    one wrong are added, so that a perfect handful is not taken for certainty.
    """
    share = (right + 1) / (rows + 2)
    if choices < 2:
        return share
    return max(math.log((choices - 1) * share / (1 - share)), 0.0)
