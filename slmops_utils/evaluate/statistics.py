"""Intervals and tests for scores measured on a test set.

A mean of row scores has an interval that covers as it says even where nearly every row is right; any other score (macro-F1,
BLEU) has a percentile bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap). A difference on the
same rows has Agresti and Min's. What each covers is measured in tests/evaluate/test_coverage.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

RESAMPLES = 2000
Z = 1.959964  # 95 % of a normal distribution lies within so many standard deviations
POWER_Z = 0.841621  # and 80 % below so many


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


def percent(score: dict[str, Any], digits: int = 1) -> str:
    """A {"value", "ci95"} for a table: "89.1 % (80.2 to 95.0)", the interval with so many digits."""
    low, high = (f"{100 * end:.{digits}f}" for end in score["ci95"])
    return f"{100 * score['value']:.1f} % ({low} to {high})"


def points(difference: float, ci95: Sequence[float]) -> str:
    """ "+4.0 points [+0.5, +7.5]", of shares."""
    low, high = (100 * end for end in ci95)
    return f"{100 * difference:+.1f} points [{low:+.1f}, {high:+.1f}]"


def _as_array(rows: Sequence[Any]) -> np.ndarray:
    array = np.asarray(rows)
    if array.dtype.kind in "US":  # compare numbers, not strings, two thousand times
        array = np.unique(array, return_inverse=True)[1].reshape(array.shape)
    return array


def _interval(draws: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


def interval_of_mean(rows: np.ndarray) -> tuple[float, float]:
    """The interval for the mean of rows in [0, 1], shape (n,).

    Of right-or-wrong rows it is the mid-P interval, which covers between 94 and 97 % where Wald, Wilson or Jeffreys fall
    short at one size or another (Brown, Cai and DasGupta 2001, "Interval estimation for a binomial proportion"). Rows in
    between count as so many right-or-wrong rows as would vary as much, half a right and half a wrong one added to the
    variance, and get Jeffreys's.
    """
    from scipy.optimize import brentq
    from scipy.stats import beta, binom

    n, mean = len(rows), float(rows.mean())
    if not np.isin(rows, (0, 1)).all():
        variance = (np.square(rows - mean).sum() + ((1 - mean) ** 2 + mean**2) / 2) / (n + 1)
        alike = n * mean * (1 - mean) / variance
        right, wrong = mean * alike + 0.5, (1 - mean) * alike + 0.5
        return float(beta.ppf(0.025, right, wrong)), float(beta.ppf(0.975, right, wrong))
    k = int(rows.sum())

    def end(tail: Callable[[float], float]) -> float:
        return float(brentq(lambda p: tail(p) + binom.pmf(k, n, p) / 2 - 0.025, 1e-12, 1 - 1e-12))

    return end(lambda p: binom.sf(k, n, p)) if k else 0.0, end(lambda p: binom.cdf(k - 1, n, p)) if k < n else 1.0


def bootstrap(rows: Sequence[Any], aggregate: Callable[[Any], float], seed: int = 0) -> Score:
    """The score of `rows`, aggregate(rows), with its 95 % interval.

    Rows in [0, 1] whose aggregate is their mean get `interval_of_mean`; all others a percentile bootstrap, for which rows
    are drawn again with replacement.
    """
    array, rng = _as_array(rows), np.random.default_rng(seed)
    value = float(aggregate(array))
    if array.ndim == 1 and array.min() >= 0 and array.max() <= 1 and abs(value - array.mean()) < 1e-9:
        low, high = interval_of_mean(array.astype(float))
        return Score(value, min(low, value), max(high, value))
    draws = np.array([aggregate(array[rng.integers(0, len(array), len(array))]) for _ in range(RESAMPLES)])
    return Score(value, *_interval(draws))


def paired_difference(a: Sequence[float], b: Sequence[float], seed: int = 0) -> dict[str, Any]:
    """Mean of a minus mean of b on the same rows: {"difference", "ci95", "p_value", "could_see"}.

    The interval is Agresti and Min's (2005, "Simple improved confidence intervals for comparing matched proportions"):
    half an imagined row is added for each way two models can agree or differ. The p-value is of a two-sided sign-flip
    permutation test (Good, Permutation Tests), whose null hypothesis is that the two models could be swapped on any
    row; of rows that are right or wrong it is McNemar's. `could_see` is the smallest difference that so many rows,
    disagreeing as these do, would have shown four times in five.
    """
    gap, rng = np.asarray(a, float) - np.asarray(b, float), np.random.default_rng(seed)
    n, difference = len(gap), float(gap.mean())
    center, spread = gap.sum() / (n + 2), (np.square(gap).sum() + 1) / (n + 2)
    half = Z * np.sqrt((spread - center**2) / (n + 2))
    flips = (rng.choice([-1.0, 1.0], (RESAMPLES, n)) @ gap for _ in range(5))  # in parts, to keep memory small
    flipped = np.abs(np.concatenate(list(flips))) / n
    p = (1 + np.sum(flipped >= abs(difference) - 1e-12)) / (len(flipped) + 1)
    # where the few rows that disagree happen to lie on one side, the pseudo-rows may not push the interval off the value
    low, high = min(center - half, difference), max(center + half, difference)
    could_see = min(1.0, float((Z + POWER_Z) * np.sqrt(spread / (n + 2))))
    return {"difference": difference, "ci95": [float(low), float(high)], "p_value": float(p), "could_see": could_see}


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for being several (Holm 1979): the chance of any false alarm stays under each."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, p_values[i] * (len(p_values) - rank)))
        corrected[i] = largest
    return corrected


def corrected(comparisons: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Comparisons that belong together, each with its p-value corrected for all of them (Holm) as "p_corrected"."""
    values = holm([comparison["p_value"] for comparison in comparisons])
    return [comparison | {"p_corrected": p} for comparison, p in zip(comparisons, values, strict=True)]


def rows_needed(difference: float, disagreement: float, power_z: float = POWER_Z) -> int:
    """How many test rows show a difference of two paired scores four times in five (Connor 1987, for McNemar's test).

    `disagreement` is the share of rows that one model gets right and the other wrong; it is at least the difference.
    """
    if not 0 < abs(difference) <= disagreement <= 1:
        raise ValueError(f"0 < |difference| <= disagreement <= 1, not {difference} and {disagreement}")
    root = Z * np.sqrt(disagreement) + power_z * np.sqrt(disagreement - difference**2)
    return int(np.ceil((root / difference) ** 2))


def retention(student: Sequence[float], teacher: Sequence[float], seed: int = 0) -> Score | None:
    """The student's mean as a share of the teacher's on the same rows; None where the teacher scores nothing.

    The interval is of the ratio's logarithm (delta method), after half an imagined row for each way two models can agree
    or differ, as for a difference.
    """
    s, t = np.asarray(student, float), np.asarray(teacher, float)
    if t.mean() == 0:
        return None
    value, n = float(s.mean() / t.mean()), len(s) + 2
    ratio = (s.sum() + 1) / (t.sum() + 1)
    left = s - ratio * t  # what is left of each row where the ratio is true
    agree, only_s, only_t = 1 - ratio, 1.0, -ratio
    mean = (left.sum() + (agree + only_s + only_t) / 2) / n
    variance = (np.square(left).sum() + (agree**2 + only_s**2 + only_t**2) / 2) / n - mean**2
    half = Z * np.sqrt(variance / n) / ((t.sum() + 1) / n) / ratio
    low, high = ratio * np.exp(-half), ratio * np.exp(half)
    return Score(value, float(min(low, value)), float(max(high, value)))


def verdict(comparison: dict[str, Any]) -> str:
    """One plain sentence about a paired difference: above or below where the interval leaves out 0 and, among several
    comparisons, the corrected p-value is under 5 %."""
    low, high = comparison["ci95"]
    value = comparison.get("p_corrected", comparison["p_value"])
    p = "p < 0.001" if value < 0.001 else f"p = {value:.3f}"
    gap = f"{points(comparison['difference'], comparison['ci95'])}, {p}"
    a, b = comparison["a"], comparison["b"]
    if low > 0 or high < 0:
        if comparison.get("p_corrected", 0) >= 0.05:
            return f"no difference seen between {a} and {b} once the number of comparisons is counted: {gap}"
        return f"{a} is {'above' if low > 0 else 'below'} {b}: {gap}"
    seen = comparison.get("could_see")
    also = f"; one of {100 * seen:.0f} points would have been seen four times in five" if seen else ""
    return f"no difference seen between {a} and {b}: {gap}{also}"


def over_seeds(scores: Sequence[Sequence[float]]) -> dict[str, Any]:
    """The mean of scores (seeds, rows) with its 95 % interval over both: {"value", "ci95", "p_value", "could_see"}.

    Another seed would give other numbers, and other test rows would too, so both count as drawn: two-way random effects,
    whose variance is (MS_rows + MS_seeds - MS_rest) / (seeds * rows), with Satterthwaite's degrees of freedom (Brennan 2001,
    Generalizability Theory, ch. 3 and 6). Three seeds say little of the spread between seeds, and where that is most of it
    the interval is accordingly wide. With one seed only the rows are counted. `p_value` is of a mean of 0 (for differences),
    `could_see` the smallest difference from 0 that such runs would have shown four times in five.
    """
    from scipy.stats import t

    table = np.asarray(scores, float)
    seeds, rows = table.shape
    if rows < 2:
        raise ValueError("an interval over rows takes at least two of them")
    by_seed, by_row, value = table.mean(1), table.mean(0), float(table.mean())
    squares = [(seeds * by_row.var(ddof=1), rows - 1)]  # (mean square, degrees of freedom)
    choices = [squares]
    if seeds > 1:
        rest = table - by_seed[:, None] - by_row + value
        freedom = (seeds - 1) * (rows - 1)
        of_seeds = (rows * by_seed.var(ddof=1), seeds - 1)
        # a part of the variance is not below nothing: where its estimate is, the other part alone is the variance
        choices = [squares, [of_seeds], [*squares, of_seeds, (-np.square(rest).sum() / freedom, freedom)]]
    square, squares = max(((sum(s for s, _ in choice), choice) for choice in choices), key=lambda found: found[0])
    freedom = square**2 / sum(s**2 / f for s, f in squares) if square > 0 else rows - 1
    # rows that all agree do not prove that all rows would: half an imagined row each way, as for one run
    error = float(np.sqrt(max(square / (seeds * rows), 1 / (rows + 2) ** 2)))
    half = float(t.ppf(0.975, freedom)) * error
    p = 2 * float(t.sf(abs(value) / error, freedom))
    could_see = min(1.0, float(t.ppf(0.975, freedom) + t.ppf(0.8, freedom)) * error)
    return {"value": value, "ci95": [value - half, value + half], "p_value": p, "could_see": could_see}
