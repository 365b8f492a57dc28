"""A student's score on held-out examples, by its task's headline metric: what a run may stop early by, and what methods are
compared by."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from ..models.load import LoadedModel
from ..records import Example
from ..synthesize.answer import Sampling, answer
from ..tasks import get_task


def score_rows(model: LoadedModel, examples: Sequence[Example], batch_size: int = 64) -> dict[str, Any]:
    """Answer labelled examples of one task greedily, and score the answers.

    {"metric": the headline metric's name, "score": its mean, "unfinished": answers that were cut off, "ids": a hash of the
    rows' ids, by which runs on the same rows know each other, "scores": one number a row}
    """
    task = get_task(examples[0].task)
    name, metric = next(iter(task.metrics_for(examples).items()))
    prompts = [task.prompt(example) for example in examples]
    answers = answer(model, prompts, Sampling(max_new_tokens=task.max_new_tokens), batch_size)
    scores = [float(metric.value(e, a.text)) for e, a in zip(examples, answers, strict=True)]
    return {
        "metric": name,
        "score": sum(scores) / len(scores),
        "unfinished": sum(a.finish_reason != "stop" for a in answers),
        "ids": hashlib.sha256("\n".join(example.id for example in examples).encode()).hexdigest()[:16],
        "scores": [int(s) if s in (0, 1) else round(s, 4) for s in scores],
    }


def scorer(examples: Sequence[Example]) -> Callable[[LoadedModel], float]:
    """A `score` for `train`: the mean headline score over the examples, of several tasks the mean of theirs.

    The model is scored under autocast where it trains so. Raises ValueError for examples without a reference.
    """
    by_task: dict[str, list[Example]] = {}
    for example in examples:
        if example.reference is None:
            raise ValueError(f"validation example {example.id!r} has no reference to score against")
        by_task.setdefault(example.task, []).append(example)

    def score(model: LoadedModel) -> float:
        import torch

        with torch.autocast(model.model.device.type, torch.bfloat16, enabled=model.dtype == "bfloat16"):
            found = [score_rows(model, part)["score"] for part in by_task.values()]
        return sum(found) / len(found)

    return score
