"""The size study's table: what it says follows from the runs, and it says nothing of what was not run."""

import re

import pytest

from slmops_utils.classroom.plots import size_curves
from slmops_utils.evaluate.size_table import chosen_table, curve, markdown, teacher_of, ways_compared
from slmops_utils.evaluate.sizes import WHOLE, Run

HARDWARE = {"cores": 2, "dtype": "float32", "gpu": None}


def run(layers, right, rows=10, **more):
    made, scores = Run("nli", layers, **more), [1.0] * right + [0.0] * (rows - right)
    return {
        **vars(made), "name": made.name, "metric": "accuracy", "parameters": 1_000_000 * (layers or 30), "date": "2026-11-26",
        "hardware": HARDWARE, "scores": {split: scores for split in ("validation", "test", "challenge")},
    }  # fmt: skip


@pytest.fixture
def runs():
    return [
        run(WHOLE, 8), run(4, 2), run(6, 4), run(6, 5, rule="even"), run(6, 8, healed=True),
        run(6, 0, kind="untuned"), run(6, 3, kind="baseline"), run(6, 5, kind="baseline", seed=1),
        run(6, 4, healed=True, seed=1),
    ]  # fmt: skip


def test_the_curve_keeps_the_ways_apart_and_leaves_other_seeds_out(runs):
    found = curve(runs, "nli")
    assert {way: sorted(by_size) for way, by_size in found.items()} == {
        "early": [4, 6], "even": [6], "early, healed": [6]
    }  # fmt: skip
    assert found["early"][6]["score"]["value"] == 0.4
    assert found["early"][6]["retention"]["value"] == pytest.approx(0.5)
    assert found["early, healed"][6]["retention"]["value"] == pytest.approx(1)
    assert found["early"][4]["parameters"] == 4_000_000
    assert curve(runs, "qa") == {}


def test_the_chosen_student_stands_beside_its_baseline_over_all_seeds(runs):
    found = {role: by_seed for role, _, by_seed in chosen_table(runs, "nli", "test")}
    assert found == {"untuned": [0.0], "baseline": [0.3, 0.5], "student": [0.8, 0.4]}
    assert chosen_table(runs[:5], "nli", "test") == []


def test_the_markdown_has_every_size_and_nothing_of_tasks_that_were_not_run(runs):
    text = markdown(runs, ["nli", "qa"])
    assert "qa" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("| 4 | 4 M | 20.0 % (")]
    assert line.endswith(" / 25 % |  |  |")
    assert not any(float(n) > 100 for n in re.findall(r"to (\d+\.\d)", text)) and "(-" not in text
    assert text.count("baseline") == 2  # on test and on challenge
    assert markdown(runs[1:], ["nli"]) == ""  # no teacher, no share of it


def test_ways_are_compared_at_the_same_size_and_on_the_same_rows():
    """Twenty rows apart is seen and two are not; a size that one way lacks is left out."""
    many = {"rows": 40}
    runs = [
        run(WHOLE, 40, **many), run(4, 30, rule="even", **many), run(6, 30, rule="even", **many),
        run(6, 10, **many), run(6, 28, rule="even", healed=True, **many), run(10, 30, rule="influence", **many),
        run(6, 0, rule="influence", seed=1, **many),
    ]  # fmt: skip
    early, healed = ways_compared(runs, "nli")
    assert (early["a"], early["b"], early["difference"]) == ("early with 6 layers", "even", -0.5)
    assert early["p_corrected"] < 0.05 <= healed["p_corrected"]
    assert early["p_corrected"] == pytest.approx(2 * early["p_value"])
    text = markdown(runs, ["nli"])
    assert "- early with 6 layers is below even: -50.0 points" in text
    assert "- no difference seen between even, healed with 6 layers and even: -5.0 points" in text
    assert ways_compared(runs, "qa") == []


def test_the_figure_has_a_panel_a_task_and_a_line_a_way(runs):
    figure = size_curves({"nli": curve(runs, "nli")}, {"nli": 0.8}, {"nli": "accuracy"})
    (axis,) = figure.axes
    assert len(axis.containers) == 3
    assert teacher_of(runs, "nli")["parameters"] == 30_000_000
