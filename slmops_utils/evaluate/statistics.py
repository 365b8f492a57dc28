"""Intervals and tests for scores measured on a test set (Efron and Tibshirani, An Introduction to the Bootstrap)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

RESAMPLES = 2000


@dataclass(frozen=True)
class Score:
    """A score and its 95 % interval."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, Any]:
        return {"value": self.value, "ci95": [self.low, self.high]}

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def _as_array(rows: Sequence[Any]) -> np.ndarray:
    array = np.asarray(rows)
    if array.dtype.kind in "US":  # compare numbers, not strings, two thousand times
        array = np.unique(array, return_inverse=True)[1].reshape(array.shape)
    return array


def _interval(draws: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


def bootstrap(rows: Sequence[Any], aggregate: Callable[[Any], float], seed: int = 0) -> Score:
    """The score of `rows` with a percentile bootstrap interval: rows are drawn again with replacement.

    Where every row scores the same the interval has no width, which says nothing of the next row.
    """
    array, rng = _as_array(rows), np.random.default_rng(seed)
    draws = np.array([aggregate(array[rng.integers(0, len(array), len(array))]) for _ in range(RESAMPLES)])
    return Score(float(aggregate(array)), *_interval(draws))


def paired_difference(a: Sequence[float], b: Sequence[float], seed: int = 0) -> dict[str, Any]:
    """Mean of a minus mean of b on the same rows: {"difference", "ci95", "p_value"}.

    The interval resamples rows; the p-value is of a two-sided sign-flip permutation test (Good, Permutation Tests),
    whose null hypothesis is that the two models could be swapped on any row.
    """
    gap, rng = np.asarray(a, float) - np.asarray(b, float), np.random.default_rng(seed)
    n = len(gap)
    draws = gap[rng.integers(0, n, (RESAMPLES, n))].mean(axis=1)
    flips = (rng.choice([-1.0, 1.0], (RESAMPLES, n)) @ gap for _ in range(5))  # in parts, to keep memory small
    flipped = np.abs(np.concatenate(list(flips))) / n
    p = (1 + np.sum(flipped >= abs(gap.mean()) - 1e-12)) / (len(flipped) + 1)
    return {"difference": float(gap.mean()), "ci95": list(_interval(draws)), "p_value": float(p)}


def retention(student: Sequence[float], teacher: Sequence[float], seed: int = 0) -> Score | None:
    """The student's mean as a share of the teacher's on the same rows; None where the teacher scores nothing."""
    s, t, rng = np.asarray(student, float), np.asarray(teacher, float), np.random.default_rng(seed)
    if t.mean() == 0:
        return None
    picks = rng.integers(0, len(s), (RESAMPLES, len(s)))
    taught = t[picks].mean(axis=1)
    draws = s[picks].mean(axis=1)[taught > 0] / taught[taught > 0]
    return Score(float(s.mean() / t.mean()), *_interval(draws))


def verdict(comparison: dict[str, Any]) -> str:
    """One plain sentence about a paired difference."""
    low, high = (100 * x for x in comparison["ci95"])
    p = "p < 0.001" if comparison["p_value"] < 0.001 else f"p = {comparison['p_value']:.3f}"
    gap = f"{100 * comparison['difference']:+.1f} points [{low:+.1f}, {high:+.1f}], {p}"
    a, b = comparison["a"], comparison["b"]
    if low > 0 or high < 0:
        return f"{a} is {'above' if low > 0 else 'below'} {b}: {gap}"
    return f"no difference seen between {a} and {b}: {gap}"
