"""A ticket or a call, written up as a hand-over note.

The reference is {"note": "...", "required": [[alternatives], ...], "forbidden": [...]}: each group of `required` is one
fact, `forbidden` are wrong or withdrawn ones. A plain string is a note without a list of its facts, as public sets
have: then the fact scores do not apply, and the headline is ROUGE-L.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from ..records import Example
from . import Metric, Task, instructed, overlap
from .conversation import contains

INSTRUCTION = "Write a short hand-over note for the next agent: who, what is wrong, what was done, what is still to do."


def prompt(example: Example) -> list[dict[str, str]]:
    return instructed(example, INSTRUCTION)


def target(example: Example) -> str:
    """The reference note. Raises ValueError when there is none."""
    reference = example.reference
    note = reference.get("note") if isinstance(reference, dict) else reference
    if not isinstance(note, str):
        raise ValueError(f"{example.id}: a summarization reference is a string or has 'note', a string")
    return note


def parse(text: str, labels: Sequence[str] = ()) -> str | None:
    return text.strip() or None


def lists_facts(example: Example) -> bool:
    """Whether the reference says which facts a note must tell."""
    return isinstance(example.reference, dict) and bool(example.reference.get("required"))


def told(example: Example, text: str) -> tuple[int, int, int]:
    """How many required facts the text tells, of how many, and how many forbidden ones. ValueError if none is listed."""
    if not lists_facts(example):
        raise ValueError(f"{example.id}: a reference without 'required' has no facts to recall; score it with rouge_l")
    required, forbidden = example.reference["required"], example.reference.get("forbidden", [])
    for group in (*required, forbidden):
        # a string in place of a list would be taken for a list of its letters
        if not isinstance(group, list) or not all(isinstance(phrase, str) and phrase.strip() for phrase in group):
            raise ValueError(f"{example.id}: 'required' is a list of lists of phrases, 'forbidden' a list of phrases")
    if not all(required):
        raise ValueError(f"{example.id}: a group of 'required' without a phrase can never be told")
    right = sum(any(contains(text, phrase) for phrase in group) for group in required)
    return right, len(required), sum(contains(text, phrase) for phrase in forbidden)


def fact_recall(example: Example, text: str) -> float:
    """The share of the required facts that the note tells."""
    right, wanted, _ = told(example, text)
    return right / wanted


def fact_precision(example: Example, text: str) -> float:
    """Required facts told, as a share of all listed facts told; 0.0 when it tells none."""
    right, _, wrong = told(example, text)
    return right / (right + wrong) if right else 0.0


def rouge_l(example: Example, text: str) -> float:
    """ROUGE-L's F-measure with the gold note."""
    return overlap.rouge_l(target(example), text)


@cache
def _bleu() -> Any:
    from sacrebleu.metrics import BLEU

    bleu = BLEU()
    bleu.corpus_score(["a"], [["a"]])  # it has no signature before it has scored something
    return bleu


def signature() -> str:
    """sacrebleu's description of the BLEU reported here, to be quoted with it."""
    return str(_bleu().get_signature())


def bleu_counts(example: Example, text: str) -> tuple[int, ...]:
    """What BLEU is made of: n-grams of 1 to 4 words that match, those there are, the text's length and the note's."""
    score = _bleu().corpus_score([text], [[target(example)]])
    return (*score.counts, *score.totals, score.sys_len, score.ref_len)


def corpus_bleu(rows: Any) -> float:
    """sacrebleu's corpus BLEU, over 100, from rows of counts of shape (n, 10): not a mean over rows."""
    totals = [int(count) for count in np.sum(rows, axis=0)]
    bleu = _bleu()
    score = bleu.compute_bleu(totals[:4], totals[4:8], totals[8], totals[9], smooth_method=bleu.smooth_method)
    return min(score.score / 100, 1.0)


TASK = Task(
    name="summarization",
    prompt=prompt,
    target=target,
    parse=parse,
    metrics={
        "fact_recall": Metric(fact_recall, lambda rows: float(np.mean(rows)), lists_facts),
        "fact_precision": Metric(fact_precision, lambda rows: float(np.mean(rows)), lists_facts),
        "rouge_l": Metric(rouge_l, lambda rows: float(np.mean(rows))),
        "bleu": Metric(bleu_counts, corpus_bleu),
    },
    max_new_tokens=128,
)
