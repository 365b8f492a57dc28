"""Exercises of notebook 11: the reference passes, a stub never blocks, typical mistakes are named."""

import pytest

from slmops_utils.classroom.exercises_11 import EXERCISES, check
from slmops_utils.evaluate.case_study import CLAIMED


@pytest.mark.parametrize("name", EXERCISES)
def test_the_reference_passes_and_a_stub_does_not_block(name, capsys):
    reference = EXERCISES[name].reference
    attempt = lambda *a, **k: reference(*a, **k)  # noqa: E731
    assert check(name, attempt) is attempt
    assert check(name, lambda *a, **k: None) is reference
    assert "not attempted" in capsys.readouterr().out


def dips(seconds, within):
    return max((users for users, taken in seconds.items() if taken <= within), default=0)


@pytest.mark.parametrize(
    ("name", "mistake", "hint"),
    [
        ("follows", lambda a, b, claimed: abs(100 * b / a - claimed) <= 0.5, "share that is gone"),
        ("follows", lambda a, b, claimed: 100 * (1 - b / a) == claimed, "rounding"),
        ("follows", lambda a, b, claimed: abs(100 * (1 - b / a) - claimed) < 5, "is more"),
        ("follows", lambda a, b, claimed: abs(100 * abs(1 - b / a) - claimed) <= 0.5, "grew"),
        ("follows", lambda a, b, claimed: 100 * (1 - b / a), "True or False"),
        ("users_served", lambda seconds, within: max(s for s in seconds.values() if s <= within), "how many users"),
        ("users_served", lambda seconds, within: sum(s <= within for s in seconds.values()), "the largest of them"),
        ("users_served", lambda seconds, within: max(seconds), "2 s was promised"),
        ("users_served", lambda seconds, within: max(dips(seconds, within), 1), "0 users"),
        ("users_served", dips, "luck"),
        ("machines", lambda wanted, each: each / wanted, "the other way up"),
        ("machines", lambda wanted, each: wanted // each, "round up"),
        ("machines", lambda wanted, each: wanted // each + 1, "idle"),
        ("machines", lambda wanted, each: wanted / each, "in parts"),
    ],
)
def test_typical_mistakes_are_named(name, mistake, hint, capsys):
    assert check(name, mistake) is EXERCISES[name].reference
    assert hint in capsys.readouterr().out


def test_the_case_studys_reductions_follow_from_its_own_table():
    follows = EXERCISES["follows"].reference
    teacher, student = CLAIMED["teacher"], CLAIMED["student"]
    assert follows(teacher["inference_s"], student["inference_s"], 85)
    assert follows(teacher["memory_bytes"], student["memory_bytes"], 95)
    assert not follows(1 / teacher["per_hour"], 1 / student["per_hour"], 60)
