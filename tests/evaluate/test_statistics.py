"""Intervals that cover, and tests that agree with exact ones."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, permutation_test

from slmops_utils.evaluate import statistics
from slmops_utils.evaluate.statistics import (
    Score,
    bootstrap,
    holm,
    paired_difference,
    retention,
    rows_needed,
    verdict,
)


def mean(rows) -> float:
    return float(np.mean(rows))


@pytest.fixture
def fewer_resamples(monkeypatch):
    """An eighth of them blurs one interval a little, and the rate over hundreds of intervals hardly."""
    monkeypatch.setattr(statistics, "RESAMPLES", 250)


def draw(n: int, p: float, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).random(n) < p).astype(float)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(0, 5))
def test_the_interval_holds_values_that_occur_and_is_decided_by_the_seed(rows, seed):
    score = bootstrap(rows, mean, seed)
    assert 0 <= score.low <= score.value + 1e-9 and score.value - 1e-9 <= score.high <= 1
    assert score.value == pytest.approx(np.mean(rows))
    assert bootstrap(rows, mean, seed) == score


def test_another_seed_draws_other_resamples():
    rows = np.random.default_rng(0).random(50)
    assert bootstrap(rows, np.median, seed=1) != bootstrap(rows, np.median, seed=2)


def test_the_interval_holds_the_score_and_narrows_as_the_root_of_n():
    scores = [bootstrap(draw(n, 0.7), mean) for n in (50, 200, 800)]
    assert all(s.low < s.value < s.high for s in scores)
    widths = [s.high - s.low for s in scores]
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.25)
    assert widths[1] / widths[2] == pytest.approx(2, rel=0.25)


def test_rows_of_strings_are_resampled_in_pairs():
    # strings become codes: equality is all an aggregate may use
    pairs = [("a", "a")] * 30 + [("b", "a"), ("a", "b")] * 5
    score = bootstrap(pairs, lambda rows: float(np.mean(rows[:, 0] == rows[:, 1])))
    assert score.value == 0.75 and 0.55 < score.low < 0.75 < score.high < 0.95


def test_a_score_reads_as_percentages():
    assert str(Score(0.5, 0.254, 1)) == "50.0 % [25.4, 100.0]"
    assert Score(0.5, 0.25, 1).to_dict() == {"value": 0.5, "ci95": [0.25, 1]}


def test_identical_models_do_not_differ():
    rows = draw(100, 0.6)
    same = paired_difference(rows, rows)
    assert same["difference"] == 0 and same["p_value"] == 1
    # a hundred rows without a disagreement leave room for a small one
    assert same["ci95"] == [pytest.approx(-0.019, abs=0.001), pytest.approx(0.019, abs=0.001)]


def test_a_large_gap_is_significant_and_has_the_sign_of_a_minus_b():
    good, bad = draw(200, 0.9, seed=1), draw(200, 0.3, seed=2)
    found, turned = paired_difference(good, bad), paired_difference(bad, good)
    assert found["p_value"] < 0.001 and found["ci95"][0] > 0
    assert found["difference"] == pytest.approx(good.mean() - bad.mean()) == -turned["difference"]
    assert turned["ci95"][1] < 0 and turned["p_value"] == found["p_value"]


@pytest.mark.parametrize(("won", "lost"), [(1, 0), (5, 5), (9, 4), (12, 4), (14, 4), (20, 4)])
def test_the_p_value_of_right_and_wrong_is_that_of_the_exact_mcnemar_test(won, lost):
    a, b = np.zeros(200), np.zeros(200)
    a[:won], b[won : won + lost] = 1, 1
    a[150:], b[150:] = 1, 1  # rows both answer tell nothing
    exact = binomtest(won, won + lost).pvalue
    assert paired_difference(a, b)["p_value"] == pytest.approx(exact, abs=0.015)


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.2])
def test_the_p_value_of_fractional_scores_is_that_of_scipys_permutation_test(shift):
    rng = np.random.default_rng(3)
    b = rng.random(40)
    a = b + shift + rng.normal(0, 0.5, 40)
    exact = permutation_test(
        (a, b), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=5000, rng=np.random.default_rng(0)
    ).pvalue
    assert paired_difference(a, b)["p_value"] == pytest.approx(exact, abs=0.03)


def test_the_p_value_is_small_by_chance_no_more_often_than_it_says(fewer_resamples):
    p = [paired_difference(draw(60, 0.5, 2 * i), draw(60, 0.5, 2 * i + 1), i)["p_value"] for i in range(100)]
    assert np.mean(np.array(p) < 0.05) <= 0.09


def test_retention_is_one_for_identical_rows_and_none_for_a_teacher_of_nought():
    rows = draw(100, 0.6)
    same = retention(rows, rows)
    assert same.value == 1 and 0.95 < same.low < 1 < same.high < 1.05
    assert retention(rows, np.zeros(100)) is None


def test_retention_is_the_student_as_a_share_of_the_teacher():
    teacher = np.array([1.0] * 80 + [0.0] * 20)
    student = np.array([1.0] * 60 + [0.0] * 40)
    kept = retention(student, teacher)
    assert kept.value == pytest.approx(0.75) and 0.6 < kept.low < 0.75 < kept.high < 0.9
    assert retention(np.zeros(100), teacher).value == 0
    assert retention(teacher, student).value > 1  # a student may pass its teacher


@pytest.mark.parametrize(
    ("interval", "says"),
    [
        ([0.01, 0.09], "student is above base: +5.0 points [+1.0, +9.0], p = 0.012"),
        ([-0.01, 0.09], "no difference seen between student and base"),
        ([0.0, 0.09], "no difference seen"),
        ([-0.09, 0.0], "no difference seen"),
        ([-0.09, -0.01], "student is below base"),
    ],
)
def test_the_verdict_claims_a_difference_only_where_the_interval_excludes_nought(interval, says):
    told = verdict({"a": "student", "b": "base", "difference": 0.05, "ci95": interval, "p_value": 0.0123})
    assert told.startswith(says)


def test_among_several_comparisons_the_corrected_p_value_has_its_say():
    gap = {"a": "q8_0", "b": "student", "difference": -0.024, "ci95": [-0.047, -0.001], "p_value": 0.04}
    assert verdict(gap).startswith("q8_0 is below student")
    assert verdict(gap | {"p_corrected": 0.049}).startswith("q8_0 is below student")
    told = verdict(gap | {"p_corrected": 0.296})
    assert told.startswith("no difference seen between q8_0 and student once") and told.endswith("p = 0.296")


def test_several_p_values_are_corrected_step_by_step():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])  # Holm's own procedure, by hand
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0]) and holm([]) == []


def test_so_many_rows_show_the_difference_four_times_in_five():
    needed = rows_needed(0.1, 0.2)
    rng = np.random.default_rng(0)
    seen = 0
    for _ in range(400):
        draws = rng.random(needed)
        won, lost = int((draws < 0.15).sum()), int((draws > 0.95).sum())  # 15 % and 5 %: a difference of 10 points
        seen += binomtest(won, won + lost).pvalue < 0.05
    assert 0.72 <= seen / 400 <= 0.88  # the exact test is a little less keen than the formula's
    assert rows_needed(0.02, 0.1) > 1900
    with pytest.raises(ValueError, match="disagreement"):
        rows_needed(0.2, 0.1)
