"""Exercises of notebook 01: the reference passes, a stub never blocks, typical mistakes are named."""

import pytest

from slmops_utils.classroom.exercises_01 import EXERCISES, check


@pytest.mark.parametrize("name", EXERCISES)
def test_the_reference_passes_and_a_stub_does_not_block(name, capsys):
    reference = EXERCISES[name].reference
    attempt = lambda *a, **k: reference(*a, **k)  # noqa: E731
    assert check(name, attempt) is attempt
    assert check(name, lambda *a, **k: None) is reference
    assert "not attempted" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "mistake", "hint"),
    [
        ("weight_bytes", lambda n, bits: n * bits, "those are bits"),
        ("weight_bytes", lambda n, bits: n / bits, "multiplies"),
        ("weight_bytes", lambda n, bits: n * (bits // 8), "half a byte"),
        ("weight_bytes", lambda n, bits: n * bits / 8 / 1024, "return bytes"),
        ("queries_per_hour", lambda s, n=1: 60 / s, "minute"),
        ("queries_per_hour", lambda s, n=1: 3600 * s, "slower answers"),
        ("queries_per_hour", lambda s, n=1: 3600 / s, "changes nothing"),
        ("queries_per_hour", lambda s, n=1: 3600 / s / n, "more an hour"),
        ("reduction", lambda a, b: b / a, "left"),
        ("reduction", lambda a, b: a / b, "times smaller"),
        ("reduction", lambda a, b: (a - b) / b, "what there was before"),
        ("reduction", lambda a, b: 100 * (a - b) / a, "per cent"),
        ("reduction", lambda a, b: abs(a - b) / a, "sign"),
        ("reduction", lambda a, b: max(0.0, 1 - b / a), "out of sight"),
    ],
)
def test_typical_mistakes_are_named(name, mistake, hint, capsys):
    assert check(name, mistake) is EXERCISES[name].reference
    assert hint in capsys.readouterr().out


def test_an_unknown_exercise_names_those_of_this_notebook():
    with pytest.raises(KeyError, match="queries_per_hour"):
        check("macro_f1", lambda: None)
