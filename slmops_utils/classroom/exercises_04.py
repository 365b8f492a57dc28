"""The exercises of notebook 04: recompute steps, count votes, find leaks, cap the crowded classes."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from .exercises import Exercise
from .exercises import check as check_in

Step = tuple[float, str, float, float]

# first_wrong_step: a solution is as good as its worst step


def first_wrong_step(steps: Sequence[Step]) -> int | None:
    for i, (left, operator, right, stated) in enumerate(steps):
        if operator == "/" and right == 0:
            return i
        result = {"+": left + right, "-": left - right, "*": left * right, "/": left / right if right else 0}[operator]
        if abs(result - stated) > 0.005:
            return i
    return None


def _step_value(attempt: Callable[..., Any]) -> str | None:
    got = attempt([(3, "*", 4.5, 14.0), (14.0, "+", 2, 16.0)])
    if got is None:
        # a stub says the same as "all right": a second look tells them apart
        return "not attempted" if attempt([(1, "+", 1, 3)]) is None else "3 x 4.5 is 13.5, not 14: step 0 is wrong"
    if got == 1 and not isinstance(got, bool):
        return "steps are counted from 0, and the first wrong one is wanted (14 + 2 = 16 is right, whatever came before it)"
    if isinstance(got, bool):
        return "return the place of the first wrong step, not whether there is one"
    return None if got == 0 else f"3 x 4.5 = 14 is wrong, so the answer is 0, got {got!r}"


def _step_right(attempt: Callable[..., Any]) -> str | None:
    got = attempt([(3, "*", 4.5, 13.5), (13.5, "-", 2, 11.5), (10, "/", 4, 2.5)])
    if got is not None:
        return f"all three steps hold, so return None, got {got!r}"
    got = attempt([(1, "+", 1, 2), (10, "/", 4, 2.0)])
    return None if got == 1 else f"10 / 4 is 2.5: step 1 is wrong, got {got!r}"


def _step_floats(attempt: Callable[..., Any]) -> str | None:
    if attempt([(0.1, "+", 0.2, 0.3)]) is not None:
        return "0.1 + 0.2 is not 0.3 to a computer; allow half a penny (0.005) of difference"
    if attempt([(10, "/", 3, 3.33)]) is not None:
        return "10 / 3 = 3.33 is rounded as bills are; allow half a penny (0.005) of difference"
    if attempt([(2, "*", 3, 6.01)]) is None:
        return "2 x 3 = 6.01 is a penny out, and would be paid"
    try:
        got = attempt([(5, "/", 0, 0)])
    except ZeroDivisionError:
        return "a model may write 5 / 0 = 0, and one such row would stop the whole run: count it as wrong"
    return None if got == 0 else "5 / 0 = 0 is a wrong step"


# majority_answer: what most samples stand for


def majority_answer(answers: Sequence[Any]) -> tuple[Any, float]:
    read = [answer for answer in answers if answer is not None]
    if not read:
        return None, 0.0
    best, count = Counter(read).most_common(1)[0]
    return best, count / len(answers)


def _majority_value(attempt: Callable[..., Any]) -> str | None:
    got = attempt(["£5", "£6", "£5", "£5"])
    if got is None:
        return "not attempted"
    if not isinstance(got, tuple) or len(got) != 2:
        return "return two things: the answer, and the share of the samples that gave it"
    if got[1] == 3:
        return "that is a count; divide by the number of samples"
    return None if got == ("£5", 0.75) else f"three of four say £5: ('£5', 0.75), got {got!r}"


def _majority_unread(attempt: Callable[..., Any]) -> str | None:
    got = attempt([None, None, None, "£5"])
    if got[0] is None:
        return "an answer that could not be read (None) is no answer that could win"
    if got[1] == 1.0:
        return "one of four samples says £5: those that could not be read count against it, so the share is 0.25"
    if got != ("£5", 0.25):
        return f"expected ('£5', 0.25), got {got!r}"
    try:
        nothing = attempt([None, None])
    except (IndexError, ValueError, ZeroDivisionError, TypeError):
        return "where no sample can be read there is nothing to count: return (None, 0.0)"
    return None if nothing == (None, 0.0) else f"where no sample can be read return (None, 0.0), got {nothing!r}"


# leaked_rows: what the test set has seen


def _triples(text: str) -> set[tuple[str, ...]]:
    words = text.lower().split()
    return {tuple(words[i : i + 3]) for i in range(max(len(words) - 2, 1))}


def leaked_rows(train: Sequence[str], held_out: Sequence[str], threshold: float) -> list[int]:
    held = [_triples(text) for text in held_out]

    def near(text: str) -> bool:
        own = _triples(text)
        return any(len(own & other) / len(own | other) >= threshold for other in held)

    return [i for i, text in enumerate(train) if near(text)]


_TEST = "my router shows a red light after the storm what should I do"
_TRAIN = ["how do I pay my bill", _TEST, f"{_TEST} now", "My router shows a red light after the storm what can I try"]


def _leak_exact(attempt: Callable[..., Any]) -> str | None:
    got = attempt(list(_TRAIN), [_TEST], 1.0)
    if got is None:
        return "not attempted"
    if any(isinstance(one, str) for one in got):
        return "return the rows' places in the list, not their texts"
    return (
        None if list(got) == [1] else f"at a threshold of 1 only row 1, the very same text, has leaked; got {list(got)}"
    )


def _leak_near(attempt: Callable[..., Any]) -> str | None:
    got = list(attempt(list(_TRAIN), [_TEST], 0.8))
    if got == [1]:
        return "row 2 is the test question with one word more, and shares 11 of 12 triples with it: compare runs of three words"
    if 0 in got:
        return "row 0 asks something else; is the share of *words* compared, or a single common word?"
    if 3 in got:
        return "row 3 shares only 8 of 14 triples; divide by the triples of both texts together, not of one"
    return None if got == [1, 2] else f"expected rows 1 and 2, got {got}"


def _leak_case(attempt: Callable[..., Any]) -> str | None:
    if list(attempt([_TEST.upper()], [_TEST], 0.9)) != [0]:
        return "capitals hide a leak: compare in lower case"
    try:
        got = list(attempt(["no", "no"], ["no", "yes"], 0.9))
    except ZeroDivisionError:
        return "a text of fewer than three words has no triple, and the division fails: take the whole text then"
    return None if got == [0, 1] else "a short text is compared as a whole: 'no' and 'no' are the same question"


# cap_classes: no class in the crowd


def cap_classes(labels: Sequence[str], times: float) -> list[int]:
    counts = sorted(Counter(labels).values())
    middle = (counts[(len(counts) - 1) // 2] + counts[len(counts) // 2]) / 2
    seen: Counter[str] = Counter()
    kept = []
    for i, label in enumerate(labels):
        seen[label] += 1
        if seen[label] <= times * middle:
            kept.append(i)
    return kept


_CROWD = ["a"] * 10 + ["b"] * 3 + ["c"] * 2


def _cap_value(attempt: Callable[..., Any]) -> str | None:
    got = attempt(list(_CROWD), 2.0)
    if got is None:
        return "not attempted"
    kept = Counter(_CROWD[i] for i in got)
    if kept["a"] == 10:
        return "class a has ten rows and the median class three: at most six may stay"
    if kept["a"] == 4:
        return "that is twice the smallest class; the median of 10, 3 and 2 is 3"
    if kept["b"] < 3 or kept["c"] < 2:
        return "the small classes lost rows; only what is above the cap goes"
    return None if kept["a"] == 6 else f"twice the median (3) is 6 rows of class a, got {kept['a']}"


def _cap_order(attempt: Callable[..., Any]) -> str | None:
    got = list(attempt(["b", "a", "a", "b", "a", "a", "a", "c"], 1.0))
    if sorted(got) != got:
        return "keep the rows in their order"
    if got != [0, 1, 2, 3, 7]:
        return f"the earlier rows of a class stay: [0, 1, 2, 3, 7], got {got}"
    even = ["a"] * 6 + ["b"] * 2 + ["c"] * 2 + ["d"] * 4
    kept = Counter(even[i] for i in attempt(even, 1.0))
    return None if kept["a"] == 3 else "of 2, 2, 4 and 6 rows the median is 3, the mean of the two in the middle"


EXERCISES = {
    "first_wrong_step": Exercise(
        first_wrong_step,
        (("a wrong one", _step_value), ("right ones", _step_right), ("pennies and noughts", _step_floats)),
    ),
    "majority_answer": Exercise(
        majority_answer, (("the share", _majority_value), ("what cannot be read", _majority_unread))
    ),
    "leaked_rows": Exercise(
        leaked_rows, (("copies", _leak_exact), ("near copies", _leak_near), ("capitals and short texts", _leak_case))
    ),
    "cap_classes": Exercise(cap_classes, (("the cap", _cap_value), ("which rows stay", _cap_order))),
}
check = partial(check_in, exercises=EXERCISES)
