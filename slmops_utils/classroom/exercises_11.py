"""The exercises of notebook 11: does a claimed reduction follow, how many users are served, what does a query cost."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from .exercises import Exercise
from .exercises import check as check_in

# follows: does a reduction of so many whole per cent follow from two printed numbers?


def follows(before: float, after: float, claimed: int) -> bool:
    return abs(100 * (1 - after / before) - claimed) <= 0.5


def _follows_right(attempt: Callable[..., Any]) -> str | None:
    got = attempt(4.0, 1.0, 75)
    if got is None:
        return "not attempted"
    if got not in (True, False):
        return f"return True or False, not {got!r}"
    if not got and attempt(4.0, 1.0, 25):
        return "from 4 s to 1 s is a reduction of 75 %: it is the share that is gone, not the share that is left"
    return None if got else "from 4 s to 1 s is a reduction of 75 %, and was claimed to be one"


def _follows_rounding(attempt: Callable[..., Any]) -> str | None:
    if not attempt(3.0, 1.0, 67):
        return "from 3 s to 1 s is 66.7 %, which anybody prints as 67 %: allow for the rounding to whole per cent"
    if attempt(3.0, 1.0, 68) or attempt(3.0, 1.0, 65):
        return "from 3 s to 1 s is 66.7 %; half a per cent is what rounding can take or give, and 65 % or 68 % is more"
    return None


def _follows_grown(attempt: Callable[..., Any]) -> str | None:
    return "from 1 s to 1.75 s something grew by 75 %; that is no reduction" if attempt(1.0, 1.75, 75) else None


# users_served: the largest number of users who come at once and are all answered in time


def users_served(seconds_by_users: dict[int, float], within: float) -> int:
    served = 0
    for users, seconds in sorted(seconds_by_users.items()):
        if seconds > within:
            break
        served = users
    return served


def _users_value(attempt: Callable[..., Any]) -> str | None:
    got = attempt({1: 0.5, 2: 0.8, 4: 1.5, 8: 2.9}, 2.0)
    if got is None:
        return "not attempted"
    if got == 1.5:
        return "those are the seconds; wanted is how many users"
    if got == 3:
        return "that is how many sizes were answered in time; wanted is the largest of them"
    if got == 8:
        return "8 users wait 2.9 s, and 2 s was promised"
    return None if got == 4 else f"4 users are answered in 1.5 s and 8 in 2.9 s, so within 2 s it is 4, got {got}"


def _users_none(attempt: Callable[..., Any]) -> str | None:
    got = attempt({1: 3.0, 2: 5.0}, 2.0)
    return None if got == 0 else f"not even one user is answered within 2 s: that is 0 users, got {got}"


def _users_order(attempt: Callable[..., Any]) -> str | None:
    got = attempt({4: 2.5, 8: 1.9, 1: 0.5, 2: 1.9}, 2.0)
    if got == 8:
        return (
            "4 users were answered too late. That 8 were quicker once is luck; count only up to where it first breaks"
        )
    return None if got == 2 else f"up to 2 users all is well and 4 break it, so it is 2, got {got}"


# machines: for so many queries in the busiest hour


def machines(queries_per_hour: float, per_hour_of_one: float) -> int:
    return math.ceil(queries_per_hour / per_hour_of_one)


def _machines_value(attempt: Callable[..., Any]) -> str | None:
    got = attempt(1000, 500)
    if got is None:
        return "not attempted"
    if got == 0.5:
        return "the other way up: how many times does the hour hold what one machine answers?"
    if got == 3:
        return "two machines answer 1,000 an hour exactly; a third would stand idle"
    return None if got == 2 else f"1,000 queries an hour on machines that answer 500 take 2 of them, got {got}"


def _machines_whole(attempt: Callable[..., Any]) -> str | None:
    got = attempt(1001, 500)
    if got == 2:
        return "the last query of the hour is not answered: round up"
    if got != 3:
        return f"1,001 queries take 3 machines of 500; a machine cannot be rented in parts. Got {got}"
    return None if attempt(10, 500) == 1 else "ten queries an hour still take one machine"


EXERCISES = {
    "follows": Exercise(
        follows, (("what is gone", _follows_right), ("rounding", _follows_rounding), ("growth", _follows_grown))
    ),
    "users_served": Exercise(
        users_served, (("the largest", _users_value), ("nobody", _users_none), ("where it first breaks", _users_order))
    ),
    "machines": Exercise(machines, (("two machines", _machines_value), ("whole machines", _machines_whole))),
}
check = partial(check_in, exercises=EXERCISES)
