"""The exercises of notebook 09: what a block of quantised weights holds, and what it takes."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from .exercises import Exercise
from .exercises import check as check_in

# bits_per_weight: the scale is stored, too


def bits_per_weight(bits: int, block: int = 32, scale_bits: int = 16) -> float:
    return bits + scale_bits / block


def _bits_value(attempt: Callable[..., Any]) -> str | None:
    got = attempt(4, 32)
    if got is None:
        return "not attempted"
    named = {
        4: "the block's scale is stored beside its weights, and takes 16 bits",
        20: "the scale is there once for the whole block, not once for each weight",
        144: "those are the bits of the whole block; how many are that for one weight?",
        5: "the scale has 16 bits, not 32",
    }
    for value, hint in named.items():
        if abs(got - value) < 1e-9:
            return hint
    return (
        None if abs(got - 4.5) < 1e-9 else f"32 weights of 4 bits and one scale of 16 are 4.5 bits a weight, got {got}"
    )


def _bits_block(attempt: Callable[..., Any]) -> str | None:
    got = attempt(4, 128)
    if abs(got - 4.5) < 1e-9:
        return "the size of the block changes nothing in your version"
    return None if abs(got - 4.125) < 1e-9 else f"in blocks of 128 a scale is shared by more: 4.125 bits, got {got}"


# quantise: the nearest of a few equally spaced values


def quantise(block: np.ndarray, bits: int) -> tuple[float, np.ndarray]:
    most = 2 ** (bits - 1) - 1
    scale = float(np.abs(block).max()) / most or 1.0
    return scale, np.round(block / scale).astype(int)


BLOCK = np.array([0.7, -0.35, 0.1, -0.7, 0.04])


def _quantise_value(attempt: Callable[..., Any]) -> str | None:
    got = attempt(BLOCK, 4)
    if got is None:
        return "not attempted"
    if not isinstance(got, tuple) or len(got) != 2:
        return "return two things: the scale, and the whole numbers"
    scale, numbers = float(got[0]), np.asarray(got[1], float)
    if abs(scale - 0.7 / 8) < 1e-9 or abs(scale - 0.7 / 15) < 1e-9:
        return "the largest weight should become 7: with 4 bits, whole numbers from -7 to 7 lie on both sides of 0"
    if abs(scale - 7 / 0.7) < 1e-9:
        return "that is the scale the other way up: a weight is scale times its whole number"
    if abs(scale - 0.1) > 1e-9:
        return f"the largest weight is 0.7 and becomes 7, so the scale is 0.1, got {scale:g}"
    if not np.allclose(numbers, np.round(numbers)):
        return "the numbers have to be whole: round them"
    if np.allclose(numbers, [7, -3, 1, -7, 0]) or np.allclose(numbers, [7, -4, 1, -7, 0]):
        return None
    return f"0.7, -0.35, 0.1, -0.7, 0.04 become 7, -3 or -4, 1, -7, 0, got {numbers.tolist()}"


def _quantise_negative(attempt: Callable[..., Any]) -> str | None:
    scale, numbers = attempt(np.array([0.1, -0.8]), 4)
    if abs(np.asarray(numbers)[1]) > 7.5:
        return "here the largest weight is a negative one, and it left the range: its size counts, not its sign"
    return (
        None if abs(scale - 0.8 / 7) < 1e-9 else f"of 0.1 and -0.8 the larger in size is -0.8, got the scale {scale:g}"
    )


def _quantise_zeros(attempt: Callable[..., Any]) -> str | None:
    with np.errstate(all="ignore"):
        scale, numbers = attempt(np.zeros(4), 8)
    if not np.isfinite(scale) or not np.isfinite(np.asarray(numbers, float)).all():
        return "a block of zeros exists: its scale must not divide 0 by 0"
    return None if not np.any(numbers) else f"zeros stay zeros, got {np.asarray(numbers).tolist()}"


EXERCISES = {
    "bits_per_weight": Exercise(bits_per_weight, (("32 weights", _bits_value), ("128 weights", _bits_block))),
    "quantise": Exercise(
        quantise, (("a block", _quantise_value), ("a large negative", _quantise_negative), ("zeros", _quantise_zeros))
    ),
}
check = partial(check_in, exercises=EXERCISES)
