"""Exercises of notebook 09: the reference passes, a stub never blocks, typical mistakes are named."""

import numpy as np
import pytest

from slmops_utils.classroom.exercises_09 import EXERCISES, check, quantise


@pytest.mark.parametrize("name", EXERCISES)
def test_the_reference_passes_and_a_stub_does_not_block(name, capsys):
    reference = EXERCISES[name].reference
    attempt = lambda *a, **k: reference(*a, **k)  # noqa: E731
    assert check(name, attempt) is attempt
    assert check(name, lambda *a, **k: None) is reference
    assert "not attempted" in capsys.readouterr().out


def rounded(block, scale):
    return scale, np.round(block / scale).astype(int)


@pytest.mark.parametrize(
    ("name", "mistake", "hint"),
    [
        ("bits_per_weight", lambda bits, block=32: bits, "stored beside"),
        ("bits_per_weight", lambda bits, block=32: bits + 16, "once for the whole block"),
        ("bits_per_weight", lambda bits, block=32: bits * block + 16, "whole block"),
        ("bits_per_weight", lambda bits, block=32: bits + 0.5, "changes nothing"),
        ("quantise", lambda block, bits: np.round(block), "two things"),
        ("quantise", lambda block, bits: rounded(block, np.abs(block).max() / 2 ** (bits - 1)), "become 7"),
        ("quantise", lambda block, bits: rounded(block, 7 / np.abs(block).max()), "other way up"),
        ("quantise", lambda block, bits: (np.abs(block).max() / 7, block / (np.abs(block).max() / 7)), "whole"),
        ("quantise", lambda block, bits: rounded(block, block.max() / 7), "negative one"),
        ("quantise", lambda block, bits: rounded(block, np.abs(block).max() / (2 ** (bits - 1) - 1)), "zeros"),
    ],
)
def test_typical_mistakes_are_named(name, mistake, hint, capsys):
    assert check(name, mistake) is EXERCISES[name].reference
    assert hint in capsys.readouterr().out


def test_an_error_is_at_most_half_a_step():
    block = np.random.default_rng(0).normal(size=32)
    for bits in (4, 8):
        scale, numbers = quantise(block, bits)
        assert np.abs(scale * numbers - block).max() <= scale / 2 + 1e-12
        assert np.abs(numbers).max() == 2 ** (bits - 1) - 1
