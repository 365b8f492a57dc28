"""Exercises with instant checks. A stub left unfilled never blocks: the notebook goes on with the reference version."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Exercise:
    """Stages are checked in order; each returns a hint naming the mistake, or None when the answer passes."""

    reference: Callable[..., Any]
    stages: tuple[tuple[str, Callable[[Callable[..., Any]], str | None]], ...]


def check(name: str, attempt: Callable[..., Any]) -> Callable[..., Any]:
    """Check an attempt, say how far it came, and return it if it is right, else the reference version.

    An attempt that returns None or raises NotImplementedError counts as not attempted.
    """
    if name not in EXERCISES:
        raise KeyError(f"no exercise {name!r}; there are {', '.join(EXERCISES)}")
    exercise = EXERCISES[name]
    for number, (title, stage) in enumerate(exercise.stages, start=1):
        try:
            hint = stage(attempt)
        except NotImplementedError:
            hint = "not attempted"
        except Exception as error:  # the learner's own code: show what it raised and go on
            hint = f"it raised {type(error).__name__}: {error}"
        if hint == "not attempted":
            print(f"{name}: not attempted yet. The notebook goes on with the reference version.")
            return exercise.reference
        if hint:
            print(f"{name}: stage {number} of {len(exercise.stages)} ({title}): {hint}")
            return exercise.reference
    print(f"{name}: all {len(exercise.stages)} stages pass. The notebook goes on with your version.")
    return attempt


# retention: how much of the teacher is kept


def retention(student: float, teacher: float) -> float:
    return student / teacher


def _retention_value(attempt: Callable[..., Any]) -> str | None:
    got = attempt(0.45, 0.9)
    if got is None:
        return "not attempted"
    if abs(got - 2.0) < 1e-9:
        return "that is teacher over student; retention is the share of the teacher that the student keeps"
    if abs(got + 0.45) < 1e-9 or abs(got - 0.45) < 1e-9:
        return "that is a difference in score; retention is a ratio"
    if abs(got - 50) < 1e-9:
        return "that is per cent; return a share, 0.5"
    return None if abs(got - 0.5) < 1e-9 else f"0.45 of 0.9 is 0.5, got {got}"


def _retention_above(attempt: Callable[..., Any]) -> str | None:
    got = attempt(0.9, 0.8)
    return None if abs(got - 1.125) < 1e-9 else f"a student may pass its teacher: expected 1.125, got {got}"


# plan_batches: little padding


def plan_batches(lengths: list[int], batch_size: int) -> list[list[int]]:
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def padding_share(lengths: list[int], batches: list[list[int]]) -> float:
    """The share of a plan's token slots that are padding."""
    slots = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
    return 1 - sum(lengths) / slots


_LENGTHS = [3, 50, 4, 48, 5, 52, 6, 47, 9]


def _batches_cover(attempt: Callable[..., Any]) -> str | None:
    got = attempt(list(_LENGTHS), 2)
    if got is None:
        return "not attempted"
    rows = [i for batch in got for i in batch]
    if len(rows) != len(set(rows)):
        return "some row is in two batches, and would be asked (and paid for) twice"
    if set(rows) != set(range(len(_LENGTHS))):
        missing = sorted(set(range(len(_LENGTHS))) - set(rows))
        if rows and max(rows) >= len(_LENGTHS):
            return "return the rows' places in the list, not their lengths"
        return f"rows {missing} are in no batch; is the last, short batch there?"
    return "a batch is larger than batch_size" if max(map(len, got)) > 2 else None


def _batches_pad(attempt: Callable[..., Any]) -> str | None:
    share, best = (
        padding_share(_LENGTHS, attempt(list(_LENGTHS), 2)),
        padding_share(_LENGTHS, plan_batches(_LENGTHS, 2)),
    )
    if share > best + 0.02:
        return f"{share:.0%} of the slots are padding; rows of similar length together need {best:.0%}"
    return None


# shift_labels: position t predicts token t + 1


def shift_labels(labels: list[int]) -> list[int]:
    return [*labels[1:], -100]


def _shift_value(attempt: Callable[..., Any]) -> str | None:
    got = attempt([-100, -100, 7, 8, 2])
    if got is None:
        return "not attempted"
    if list(got) == [-100, -100, 7, 8, 2]:
        return "unshifted: position t would learn to repeat its own token, which it can already see"
    if list(got) == [-100, -100, -100, 7, 8]:
        return "shifted the wrong way: position t should predict the token after it, not the one before"
    if len(got) == 4:
        return "the last position predicts nothing, so it gets -100; keep the length"
    return None if list(got) == [-100, 7, 8, 2, -100] else f"expected [-100, 7, 8, 2, -100], got {list(got)}"


def _shift_end(attempt: Callable[..., Any]) -> str | None:
    got = list(attempt([-100, 5, 2]))
    if 2 not in got:
        return "the end-of-sequence token (2) is gone: the student would never learn to stop"
    return None if got == [5, 2, -100] else f"expected [5, 2, -100], got {got}"


# bootstrap_interval: what another test set would have given


def bootstrap_interval(scores: Any, seed: int = 0) -> tuple[float, float]:
    scores, rng = np.asarray(scores, float), np.random.default_rng(seed)
    means = scores[rng.integers(0, len(scores), (2000, len(scores)))].mean(axis=1)
    return float(np.percentile(means, 2.5)), float(np.percentile(means, 97.5))


def _interval_shape(attempt: Callable[..., Any]) -> str | None:
    got = attempt(np.array([1.0] * 80 + [0.0] * 20))
    if got is None:
        return "not attempted"
    low, high = got
    if abs(high - low) < 1e-9:
        return "the interval has no width; are the rows drawn with replacement, and anew each time?"
    if low < 0.05 and high > 0.95:
        return "that is the spread of single rows; resample whole test sets and take their means"
    if not low < 0.8 < high:
        return f"the interval [{low:.2f}, {high:.2f}] does not hold the score 0.80"
    return None


def _interval_width(attempt: Callable[..., Any]) -> str | None:
    low, high = attempt(np.array([1.0] * 80 + [0.0] * 20))
    width = high - low
    if width < 0.12:
        return f"width {width:.3f} is too narrow; 95 % goes from percentile 2.5 to 97.5"
    return None if width < 0.2 else f"width {width:.3f} is too wide; each resample has as many rows as the test set"


EXERCISES = {
    "retention": Exercise(retention, (("the value", _retention_value), ("above the teacher", _retention_above))),
    "plan_batches": Exercise(plan_batches, (("every row once", _batches_cover), ("little padding", _batches_pad))),
    "shift_labels": Exercise(shift_labels, (("the shift", _shift_value), ("the end token", _shift_end))),
    "bootstrap_interval": Exercise(
        bootstrap_interval, (("the shape", _interval_shape), ("the width", _interval_width))
    ),
}
