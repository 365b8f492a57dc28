"""What the runs say together: intervals that cover over seeds and rows, and differences on the same seeds and rows."""

import json

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from slmops_utils.evaluate.ablation import markdown, outcome, sentences, summarise
from slmops_utils.evaluate.runs import read_runs
from slmops_utils.evaluate.statistics import over_seeds


def run(method, seed, scores, task="nli", **other):
    scores = list(map(float, scores))
    return {
        "task": task, "method": method, "seed": seed, "steps": 100 + seed, "seconds": 120.4, "tokens_per_s": 2000,
        "rows": 50, "parameters": 23_000_000, "teacher": "data/teacher", "start": "abc",
        "validation": {"metric": "accuracy", "score": 0.5, "unfinished": 0, "ids": "v", "scores": [1, 0]},
        "test": {"metric": "accuracy", "score": float(np.mean(scores)), "unfinished": 0, "ids": "t", "scores": scores},
        "settings": {}, "date": "2026-11-26", "device": "cpu", "hardware": {"cores": 2, "dtype": "float32"},
        "losses": [{"step": 5, "loss": 1.0}],
    } | other  # fmt: skip


def drawn(rng, seeds, rows, by_row, by_seed, rest):
    return (
        rng.normal(0, by_row, rows) + rng.normal(0, by_seed, seeds)[:, None] + rng.normal(0, rest, (seeds, rows))
    )  # the true mean is 0


@pytest.mark.parametrize("spread", [(0.3, 0.0, 0.3), (0.3, 0.03, 0.3), (0.1, 0.2, 0.3)])
def test_the_interval_over_seeds_and_rows_covers_as_it_says(spread):
    rng = np.random.default_rng(0)
    found = [over_seeds(drawn(rng, 3, 100, *spread)) for _ in range(600)]
    covered = np.mean([low <= 0 <= high for low, high in (one["ci95"] for one in found)])
    assert 0.93 <= covered <= 0.99
    rows_only = np.mean([
        abs(d.mean()) < 1.96 * d.mean(0).std(ddof=1) / 10 for d in (drawn(rng, 3, 100, *spread) for _ in range(600))
    ])  # fmt: skip
    assert spread[1] == 0 or rows_only < covered, "an interval over rows alone forgets the seeds"


def test_could_see_is_a_difference_seen_four_times_in_five():
    rng = np.random.default_rng(1)
    found = [over_seeds(drawn(rng, 3, 100, 0.3, 0.02, 0.3)) for _ in range(400)]
    true = float(np.median([one["could_see"] for one in found]))
    seen = [over_seeds(true + drawn(rng, 3, 100, 0.3, 0.02, 0.3))["p_value"] < 0.05 for _ in range(400)]
    assert 0.7 <= np.mean(seen) <= 0.9


def test_one_seed_is_the_ordinary_t_interval_of_its_rows():
    scores = np.random.default_rng(2).normal(0.1, 1, 40)
    found, expected = over_seeds([scores]), ttest_1samp(scores, 0)
    assert found["p_value"] == pytest.approx(expected.pvalue)
    assert found["ci95"] == pytest.approx(list(expected.confidence_interval()))


def test_rows_that_all_agree_are_no_proof():
    low, high = over_seeds([[0] * 50, [0] * 50])["ci95"]
    assert low < -0.01 and high > 0.01
    with pytest.raises(ValueError, match="at least two"):
        over_seeds([[1], [0]])


@pytest.fixture
def runs():
    rng = np.random.default_rng(3)
    base = rng.random(200) < 0.5
    better, worse = base | (rng.random(200) < 0.4), base & (rng.random(200) < 0.5)
    kinds = {"labels": worse, "text": base, "forward_kl": better, "hidden": base ^ (rng.random(200) < 0.05)}
    return [run(method, seed, scores) for method, scores in kinds.items() for seed in range(3)]


def test_methods_are_told_apart_on_the_same_seeds_and_rows(runs):
    summary = summarise(runs)["nli"]
    methods = summary["methods"]
    assert list(methods) == ["labels", "text", "forward_kl", "hidden"]
    assert methods["text"]["difference"] is None
    assert [outcome(methods[m]["difference"]) for m in ("labels", "forward_kl", "hidden")] == [
        "hurt",
        "helped",
        "no difference seen",
    ]
    gap = methods["forward_kl"]["difference"]
    assert gap["value"] == pytest.approx(methods["forward_kl"]["score"]["value"] - methods["text"]["score"]["value"])
    assert gap["p_corrected"] >= gap["p_value"]
    lines = sentences("nli", summary)
    assert lines[0].startswith("nli, above text: forward_kl (+") and "labels (-" in lines[1]
    assert "hidden" in lines[2] and "would have been seen four times in five" in lines[2]


def test_a_seed_that_only_one_method_has_is_not_compared(runs):
    shorter = [one for one in runs if (one["method"], one["seed"]) != ("text", 2)]
    methods = summarise(shorter)["nli"]["methods"]
    assert methods["forward_kl"]["seeds"] == [0, 1, 2]
    assert methods["forward_kl"]["difference"]["seeds"] == [0, 1]
    only = [one for one in runs if one["method"] != "text"]
    assert all(entry["difference"] is None for entry in summarise(only)["nli"]["methods"].values())


@pytest.mark.parametrize("name, wrong", [("start", {"start": "other"}), ("test rows", {"test": None})])
def test_runs_that_cannot_be_compared_are_an_error(name, wrong, runs):
    if name == "test rows":
        wrong = {"test": runs[0]["test"] | {"ids": "others"}}
    with pytest.raises(ValueError, match=f"runs of nli differ in their {name}"):
        summarise([*runs, run("jsd", 0, [1] * 200, **wrong)])


def test_the_table_is_read_from_the_files(runs, tmp_path):
    for one in runs:
        (tmp_path / f"nli-{one['method']}-s{one['seed']}.json").write_text(json.dumps(one))
    summaries = summarise(read_runs(tmp_path))
    assert summaries == summarise(sorted(runs, key=lambda one: f"{one['method']}-s{one['seed']}"))
    text = markdown(summaries)
    assert (
        "**nli** (200 test rows, accuracy, 3 seeds; 23.0 M parameters; recorded 2026-11-26 on 2 cores, float32)" in text
    )
    row = next(line for line in text.splitlines() if line.startswith("| text |"))
    assert row.endswith("|  |  | 100 to 102 | 120 | 2,000 |")
    assert read_runs(tmp_path / "nowhere") == [] and summarise([]) == {}
