"""Intervals cover the truth as often as they say: a thousand simulated test sets for each case."""

import numpy as np
import pytest

from slmops_utils.evaluate import statistics
from slmops_utils.evaluate.statistics import bootstrap, paired_difference, retention

SETS = 1000
CASES = [(n, p) for n in (80, 300) for p in (0.5, 0.8, 0.95)]


def share(intervals, truth: float) -> float:
    return float(np.mean([low <= truth <= high for low, high in intervals]))


@pytest.mark.parametrize(("n", "p"), CASES)
def test_of_a_share_of_right_rows(n, p):
    draws = np.random.default_rng(1).random((SETS, n)) < p
    scores = [bootstrap(rows.astype(float), np.ndarray.mean) for rows in draws]
    assert 0.93 <= share([(s.low, s.high) for s in scores], p) <= 0.97


@pytest.mark.parametrize(("n", "p"), CASES)
def test_of_a_mean_of_fractions(n, p):
    """Such as token F1: a third of the rows partly right."""
    rng = np.random.default_rng(2)
    whole, part = rng.random((SETS, n)) < p, rng.beta(4 * p, 4 * (1 - p), (SETS, n))
    rows = np.where(rng.random((SETS, n)) < 1 / 3, part, whole)
    scores = [bootstrap(row, np.ndarray.mean) for row in rows]
    assert 0.93 <= share([(s.low, s.high) for s in scores], p) <= 0.97


def pairs(n: int, teacher: float, student: float, agree: float) -> tuple[np.ndarray, np.ndarray]:
    """Right-or-wrong rows of two models; on a share `agree` of them the student does what the teacher does."""
    rng = np.random.default_rng(3)
    t = rng.random((SETS, n)) < teacher
    alone = rng.random((SETS, n)) < (student - agree * teacher) / (1 - agree)
    return t.astype(float), np.where(rng.random((SETS, n)) < agree, t, alone).astype(float)


PAIRS = [(80, 0.5, 0.5, 0.5), (80, 0.8, 0.75, 0.5), (80, 0.9, 0.85, 0.3), (300, 0.5, 0.5, 0.5), (300, 0.8, 0.75, 0.5),
         (300, 0.95, 0.93, 0.5)]  # fmt: skip


@pytest.mark.parametrize(("n", "teacher", "student", "agree"), PAIRS)
def test_of_a_difference_and_of_a_retention(n, teacher, student, agree, monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 1)  # of the p-value's, which is not asked for here
    rows = list(zip(*pairs(n, teacher, student, agree), strict=True))
    differences = [paired_difference(s, t)["ci95"] for t, s in rows]
    assert 0.93 <= share(differences, student - teacher) <= 0.975
    kept = [retention(s, t) for t, s in rows]
    assert 0.93 <= share([(k.low, k.high) for k in kept], student / teacher) <= 0.975


def test_where_two_models_hardly_ever_disagree_it_covers_too_much_rather_than_too_little(monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 1)
    t, s = pairs(80, 0.95, 0.95, 0.8)
    assert share([paired_difference(b, a)["ci95"] for a, b in zip(t, s, strict=True)], 0.0) >= 0.93


def test_of_a_score_that_is_no_mean(monkeypatch):
    """Macro-F1 of two classes, whose true value is read off a very large sample."""
    monkeypatch.setattr(statistics, "RESAMPLES", 200)
    rng = np.random.default_rng(4)

    def draw(n: int) -> np.ndarray:
        gold = rng.random(n) < 0.3
        return np.stack([gold, np.where(rng.random(n) < 0.8, gold, ~gold)], axis=1)

    def macro_f1(rows: np.ndarray) -> float:
        gold, said = rows[:, 0], rows[:, 1]
        return float(
            np.mean([2 * (g & s).sum() / max(g.sum() + s.sum(), 1) for g, s in ((gold, said), (~gold, ~said))])
        )

    truth = macro_f1(draw(1_000_000))
    scores = [bootstrap(draw(300), macro_f1, seed) for seed in range(400)]
    assert 0.92 <= share([(s.low, s.high) for s in scores], truth) <= 0.975
