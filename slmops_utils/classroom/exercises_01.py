"""The exercises of notebook 01: what a model weighs, how many queries an hour is, what a reduction is."""

from collections.abc import Callable
from functools import partial
from typing import Any

from .exercises import Exercise
from .exercises import check as check_in


def _near(got: Any, wanted: float) -> bool:
    return abs(got - wanted) <= 1e-9 * max(1.0, abs(wanted))


# weight_bytes: parameters in a number format


def weight_bytes(parameters: float, bits: int) -> float:
    return parameters * bits / 8


def _weight_value(attempt: Callable[..., Any]) -> str | None:
    got = attempt(1000, 16)
    if got is None:
        return "not attempted"
    named = {
        16000: "those are bits; a byte has eight of them",
        1000: "that is one byte each; 16 bits are two bytes",
        62.5: "the number of bits multiplies: a parameter of 16 bits is larger than one of 8",
        2000 / 1024: "return bytes; whoever prints them chooses kilo, mega or giga",
        2000 / 1000: "return bytes; whoever prints them chooses kilo, mega or giga",
    }
    for value, hint in named.items():
        if _near(got, value):
            return hint
    return None if _near(got, 2000) else f"1,000 parameters of 16 bits are 2,000 bytes, got {got}"


def _weight_half(attempt: Callable[..., Any]) -> str | None:
    got = attempt(3, 4)
    if _near(got, 0) or _near(got, 3):
        return (
            f"4 bits are half a byte, so three parameters are 1.5 bytes, got {got}; is a division rounded on the way?"
        )
    return None if _near(got, 1.5) else f"three parameters of 4 bits are 1.5 bytes, got {got}"


# queries_per_hour: one after the other, or several at once


def queries_per_hour(seconds: float, at_once: int = 1) -> float:
    return 3600 * at_once / seconds


def _hour_value(attempt: Callable[..., Any]) -> str | None:
    got = attempt(4.0)
    if got is None:
        return "not attempted"
    named = {
        15: "that is a minute's worth; an hour has 3,600 seconds",
        0.25: "that is a second's worth; an hour has 3,600 seconds",
        14400: "slower answers would give more of them: divide the hour by the seconds of one query",
        4 / 3600: "that is hours for one query, the other way up",
    }
    for value, hint in named.items():
        if _near(got, value):
            return hint
    return None if _near(got, 900) else f"a query every 4 s is 900 an hour, got {got}"


def _hour_at_once(attempt: Callable[..., Any]) -> str | None:
    got = attempt(4.0, 8)
    if _near(got, 900):
        return "`at_once` changes nothing: eight answered together every 4 s are eight times as many"
    if _near(got, 112.5):
        return "eight at once are more an hour, not fewer"
    return None if _near(got, 7200) else f"eight together every 4 s are 7,200 an hour, got {got}"


# reduction: smaller by what share


def reduction(before: float, after: float) -> float:
    return 1 - after / before


def _reduction_value(attempt: Callable[..., Any]) -> str | None:
    got = attempt(80.0, 20.0)
    if got is None:
        return "not attempted"
    named = {
        0.25: "that is the share that is left; the reduction is what is gone",
        4: "that is how many times smaller; a reduction is a share of what there was",
        60: "that is the difference in its own unit; divide it by what there was before",
        3: "divide by what there was before, not by what is left",
        75: "that is per cent; return a share, 0.75",
        -0.75: "the sign: a reduction of 75 % is 0.75",
    }
    for value, hint in named.items():
        if _near(got, value):
            return hint
    return None if _near(got, 0.75) else f"from 80 to 20 is a reduction of 0.75, got {got}"


def _reduction_grown(attempt: Callable[..., Any]) -> str | None:
    got = attempt(2.0, 3.0)
    if _near(got, 0.5):
        return "from 2 to 3 something grew: that is a reduction of -0.5, and whoever hides the sign hides bad news"
    if _near(got, 0):
        return "from 2 to 3 something grew; cut off at 0, the loss would be out of sight"
    return None if _near(got, -0.5) else f"from 2 to 3 is a reduction of -0.5, got {got}"


EXERCISES = {
    "weight_bytes": Exercise(weight_bytes, (("16 bits", _weight_value), ("4 bits", _weight_half))),
    "queries_per_hour": Exercise(
        queries_per_hour, (("one at a time", _hour_value), ("several at once", _hour_at_once))
    ),
    "reduction": Exercise(reduction, (("smaller", _reduction_value), ("larger", _reduction_grown))),
}
check = partial(check_in, exercises=EXERCISES)
