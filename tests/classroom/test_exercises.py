"""Exercises: the reference passes, an empty stub never blocks, and each typical mistake is named."""

import numpy as np
import pytest

from slmops_utils.classroom.exercises import EXERCISES, check


@pytest.mark.parametrize("name", EXERCISES)
def test_the_reference_passes_and_is_returned_as_the_learners_version(name, capsys):
    reference = EXERCISES[name].reference
    attempt = lambda *a, **k: reference(*a, **k)  # noqa: E731
    assert check(name, attempt) is attempt
    assert "pass" in capsys.readouterr().out


@pytest.mark.parametrize("name", EXERCISES)
def test_an_unfilled_stub_is_not_attempted_and_the_reference_takes_over(name, capsys):
    def unfilled(*_, **__):
        raise NotImplementedError

    for stub in (lambda *a, **k: None, unfilled):
        assert check(name, stub) is EXERCISES[name].reference
        assert "not attempted" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "mistake", "hint"),
    [
        ("retention", lambda s, t: t / s, "teacher over student"),
        ("retention", lambda s, t: t - s, "difference"),
        ("retention", lambda s, t: min(1.0, s / t), "pass its teacher"),
        ("plan_batches", lambda lengths, n: [list(range(n))], "no batch"),
        ("plan_batches", lambda lengths, n: [list(range(i, min(i + n, 9))) for i in range(0, 9, n)], "padding"),
        ("plan_batches", lambda lengths, n: [sorted(lengths)], "not their lengths"),
        ("shift_labels", lambda labels: labels, "unshifted"),
        ("shift_labels", lambda labels: [-100, *labels[:-1]], "wrong way"),
        ("shift_labels", lambda labels: labels[1:], "keep the length"),
        ("shift_labels", lambda labels: [x if x != 2 else -100 for x in [*labels[1:], -100]], "expected"),
        ("bootstrap_interval", lambda scores: (0.0, 1.0), "single rows"),
        ("bootstrap_interval", lambda scores: (np.mean(scores),) * 2, "no width"),
    ],
)
def test_typical_mistakes_are_named(name, mistake, hint, capsys):
    assert check(name, mistake) is EXERCISES[name].reference
    assert hint in capsys.readouterr().out


def test_an_attempt_that_crashes_is_shown_and_does_not_block(capsys):
    assert check("retention", lambda: 1) is EXERCISES["retention"].reference
    assert "TypeError" in capsys.readouterr().out


def test_an_unknown_exercise_names_those_that_exist():
    with pytest.raises(KeyError, match="shift_labels"):
        check("shift", lambda: None)
