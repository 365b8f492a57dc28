"""Exercises with instant checks. A stub left unfilled never blocks: the notebook goes on with the reference version."""

import random
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Exercise:
    """Stages are checked in order; each returns a hint naming the mistake, or None when the answer passes."""

    reference: Callable[..., Any]
    stages: tuple[tuple[str, Callable[[Callable[..., Any]], str | None]], ...]


def check(name: str, attempt: Callable[..., Any], exercises: "dict[str, Exercise] | None" = None) -> Callable[..., Any]:
    """Check an attempt, say how far it came, and return it if it is right, else the reference version.

    `exercises` are those of one notebook, where a module of its own holds them.

    An attempt that returns None or raises NotImplementedError counts as not attempted.
    """
    known = EXERCISES if exercises is None else exercises
    if name not in known:
        raise KeyError(f"no exercise {name!r}; there are {', '.join(known)}")
    exercise = known[name]
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


# split_by_group: what belongs together stays on one side


def split_by_group(groups: Sequence[str], share: float, seed: int) -> tuple[list[int], list[int]]:
    names = sorted(set(groups))  # a set has no order of its own: sorted, the seed alone decides
    random.Random(seed).shuffle(names)
    held: set[str] = set()
    for name in names:
        if sum(group in held for group in groups) >= share * len(groups):
            break
        held.add(name)
    train = [i for i, group in enumerate(groups) if group not in held]
    return train, [i for i, group in enumerate(groups) if group in held]


_GROUPS = [f"fact {i % 10}" for i in range(100)]


def _split_covers(attempt: Callable[..., Any]) -> str | None:
    got = attempt(list(_GROUPS), 0.3, 0)
    if got is None:
        return "not attempted"
    train, test = got
    if any(isinstance(place, str) for place in (*train, *test)):
        return "return the rows' places in the list, not the names of their groups"
    if not train or not test:
        return f"one side is empty: {len(train)} rows to train on and {len(test)} to test on"
    both = set(train) & set(test)
    if both:
        return f"row {min(both)} is on both sides"
    missing = set(range(len(_GROUPS))) - set(train) - set(test)
    if missing:
        return f"row {min(missing)} is on neither side"
    return None if len(train) + len(test) == len(_GROUPS) else "some row is there twice, or there is no such row"


def _split_apart(attempt: Callable[..., Any]) -> str | None:
    train, test = attempt(list(_GROUPS), 0.3, 0)
    both = {_GROUPS[i] for i in train} & {_GROUPS[i] for i in test}
    if both:
        return f"{len(both)} of 10 groups are on both sides; it is the groups that are shuffled and dealt, not the rows"
    return None


def _split_size(attempt: Callable[..., Any]) -> str | None:
    _, test = attempt(list(_GROUPS), 0.3, 0)
    if len(test) == 70:
        return "the sides are swapped: (train, test), and `share` is the test side's"
    if len(test) != 30:
        return f"a share of 0.3 of 100 rows in ten groups of ten is 30 rows to test on, got {len(test)}"
    uneven = ["large"] * 50 + [f"small {i // 2}" for i in range(50)]
    if any(len(attempt(list(uneven), 0.2, seed)[1]) <= 12 for seed in range(3)):
        return "`share` is of the rows, not of the groups: go on adding groups until the rows suffice"
    tests = [sorted(attempt(list(_GROUPS), 0.3, seed)[1]) for seed in (0, 0, 1, 2)]
    if tests[0] != tests[1]:
        return "the same seed gave two splits; use a generator of your own, random.Random(seed)"
    return "the seed changes nothing: shuffle the groups" if tests[0] == tests[2] == tests[3] else None


# jaccard: how much of two sets is in both


def jaccard(a: Set[Any], b: Set[Any]) -> float:
    return len(a & b) / len(a | b) if a or b else 0.0


def _jaccard_value(attempt: Callable[..., Any]) -> str | None:
    got = attempt({1, 2, 3, 4}, {3, 4, 5})
    if got is None:
        return "not attempted"
    named = {
        4 / 7: "that is Dice's coefficient (twice the shared over the sum of sizes); divide by the size of the union",
        2 / 7: "the shared elements are counted twice below the line; divide by the size of the union",
        2 / 3: "that is the share of the smaller set; a short text inside a long one would pass for its copy",
        2
        / 4: "that is the share of one of the sets; divide by the size of the union, so that the order is all the same",
        2: "that counts what is shared; divide by the size of the union",
        0.6: "that is how much the two differ; one minus it is how much they share",
    }
    for value, hint in named.items():
        if abs(got - value) < 1e-9:
            return hint
    return None if abs(got - 0.4) < 1e-9 else f"{{1, 2, 3, 4}} and {{3, 4, 5}} share 2 of 5, that is 0.4; got {got}"


def _jaccard_ends(attempt: Callable[..., Any]) -> str | None:
    if abs(attempt({1, 2}, {1, 2}) - 1) > 1e-9 or abs(attempt({1}, {2})) > 1e-9:
        return "a set and itself make 1, two sets that share nothing make 0"
    try:
        got = attempt(set(), set())
    except ZeroDivisionError:
        return "two empty sets divide by nought; a file with two empty texts would stop the whole search. Return 0"
    return None if got == 0 else f"two empty sets share nothing: return 0, got {got}"


# macro_f1: every label counts alike


def macro_f1(wanted: Sequence[str], given: Sequence[str]) -> float:
    scores = []
    for label in sorted(set(wanted)):
        right = sum(w == g == label for w, g in zip(wanted, given, strict=True))
        scores.append(2 * right / (list(wanted).count(label) + list(given).count(label)))
    return sum(scores) / len(scores)


def _f1_value(attempt: Callable[..., Any]) -> str | None:
    wanted, given = list("aaaaaabbcc"), list("aaaaaabaac")
    got = attempt(wanted, given)
    if got is None:
        return "not attempted"
    if abs(got - 0.8) < 1e-9:
        return "that is accuracy (or micro F1): the commonest label decides it. Score each label, then take the mean"
    if abs(got - (0.6 * 6 / 7 + 0.4 * 2 / 3)) < 1e-9:
        return "that is weighted by how often a label occurs; in macro F1 every label counts alike"
    if abs(got - 2 / 3) < 1e-9:
        return "that is the mean recall; F1 also counts how often the label was given"
    if abs(got - 11 / 12) < 1e-9:
        return "that is the mean precision; F1 also counts how often the label was wanted"
    right = (6 / 7 + 2 / 3 + 2 / 3) / 3
    return None if abs(got - right) < 1e-9 else f"F1 of a, b, c is 0.857, 0.667, 0.667: mean {right:.3f}; got {got:.3f}"


def _f1_never_given(attempt: Callable[..., Any]) -> str | None:
    try:
        got = attempt(list("abc"), list("aaa"))
    except ZeroDivisionError:
        return "a label that is never given divides by nought; 2 x right / (wanted + given) has no such trouble"
    if abs(got - 0.5) < 1e-9:
        return "a label that is never given scores 0 and counts; leaving it out flatters who always says the same"
    return (
        None if abs(got - 1 / 6) < 1e-9 else f"always saying a, of a, b and c: (0.5 + 0 + 0) / 3 = 0.167; got {got:.3f}"
    )


def _f1_stray(attempt: Callable[..., Any]) -> str | None:
    got = attempt(list("aabb"), ["a", "a", "b", "maybe"])
    if abs(got - (1 + 2 / 3) / 3) < 1e-9:
        return "'maybe' is no label of the data; take the mean over the labels that are wanted"
    right = (1 + 2 / 3) / 2
    return (
        None if abs(got - right) < 1e-9 else f"expected {right:.3f} where one answer is no label at all, got {got:.3f}"
    )


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
    "split_by_group": Exercise(
        split_by_group,
        (("every row once", _split_covers), ("no group on both sides", _split_apart), ("size and seed", _split_size)),
    ),
    "jaccard": Exercise(jaccard, (("the value", _jaccard_value), ("the ends", _jaccard_ends))),
    "macro_f1": Exercise(
        macro_f1,
        (("the value", _f1_value), ("a label never given", _f1_never_given), ("a stray answer", _f1_stray)),
    ),
    "retention": Exercise(retention, (("the value", _retention_value), ("above the teacher", _retention_above))),
    "plan_batches": Exercise(plan_batches, (("every row once", _batches_cover), ("little padding", _batches_pad))),
    "shift_labels": Exercise(shift_labels, (("the shift", _shift_value), ("the end token", _shift_end))),
    "bootstrap_interval": Exercise(
        bootstrap_interval, (("the shape", _interval_shape), ("the width", _interval_width))
    ),
}
