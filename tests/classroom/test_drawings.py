"""The figures of single notebooks show the numbers they are given."""

import itertools

import matplotlib
import matplotlib.pyplot
import numpy as np
import pytest

from slmops_utils.classroom import drawings, live, plots
from slmops_utils.evaluate.figures import COLOURS

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def closed():
    yield
    matplotlib.pyplot.close("all")


def heights(axes):
    return [round(float(bar.get_height()), 6) for bar in axes.patches]


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_a_live_curve_outside_a_notebook_prints_plain_lines(monkeypatch, capsys):
    monkeypatch.setattr(live, "in_notebook", lambda: False)
    curve = live.LiveCurve(every=2)
    for step in (5, 10, 15, 20):
        curve({"step": step, "loss": 1 / step})
    assert capsys.readouterr().out == "step 10  loss 0.1\nstep 20  loss 0.05\n"
    assert [values["step"] for values in curve.losses] == [5, 10, 15, 20] and curve.handle is None


def test_loss_curves_give_scores_an_axis_of_their_own():
    losses = [{"step": 5, "loss": 2.0}, {"step": 10, "loss": 1.0}, {"step": 10, "validation_loss": 1.5}]
    (axes,) = plots.loss_curves({"student": losses}).axes
    assert [list(line.get_ydata()) for line in axes.lines] == [[2, 1], [1.5]]
    scored = [*losses, {"step": 5, "score": 0.25}, {"step": 10, "score": 0.75}]
    axes, right = plots.loss_curves({"student": scored}).axes
    assert [list(line.get_ydata()) for line in axes.lines] == [[2, 1], [1.5], []]
    assert [list(line.get_xydata().ravel()) for line in right.lines] == [[5, 25, 10, 75]]
    assert right.get_ylabel() == "validation score (%)"
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["student", "student, validation", "student, score (right)"]


def test_grouped_bars_stand_side_by_side_and_do_not_overlap():
    (axes,) = drawings.grouped_bars({"a": [1, 2], "b": [3, 4]}, ["x", "y"], "rows", "title", numbers="%.0f").axes
    assert heights(axes) == [1, 2, 3, 4] and texts(axes) == ["1", "2", "3", "4"]
    edges = sorted((bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches)
    assert all(right <= left for (_, right), (left, _) in itertools.pairwise(edges))


def test_two_splits_show_the_mean_and_every_split():
    left, right = drawings.two_splits({"at random": [0.9, 1.0], "by fact": [0.1, 0.3]}, {"at random": [0.5], "by fact": [0.2]}, 0.1).axes  # fmt: skip
    assert heights(left) == [95, 20]
    assert [round(y, 6) for line in left.lines[:2] for y in line.get_ydata()] == [90, 100, 10, 30]
    assert sum(bar.get_height() for bar in right.patches) == 2


def test_candidates_draw_what_is_recorded_and_the_last_is_the_teacher():
    scores = {"few-shot": {"qa": (0.3, 0.2, 0.4)}, "corrected": {"qa": (0.6, 0.5, 0.7), "nli": (0.7, 0.6, 0.8)}}
    names = {"nli": "nli\naccuracy", "qa": "qa\nF1"}
    (axes,) = drawings.candidates(scores, {"nli": 0.33, "qa": 0.2}, names, "title").axes
    drawn = [bar for bar in axes.patches if bar.get_height()]
    assert [round(float(bar.get_height())) for bar in drawn] == [30, 70, 60]
    assert matplotlib.colors.to_hex(drawn[-1].get_facecolor()) == COLOURS["teacher"]


def test_batch_plans_fill_every_row_up_to_its_batch():
    lengths, plan = [3, 5, 2, 2], [[1, 0], [2, 3]]
    (axes,) = drawings.batch_plans(lengths, {"plan": plan}, {"plan": "one"}).axes
    widths = [bar.get_width() for bar in axes.patches]
    assert [a + b for a, b in zip(widths[::2], widths[1::2], strict=True)] == [5, 5, 2, 2]


def test_curves_and_dots_are_in_per_cent_and_points():
    (axes,) = drawings.threshold_curves([0.1, 0.2], {"leaked": [1.0, 0.5]}, at=0.15).axes
    assert list(axes.lines[0].get_ydata()) == [100, 50]
    lines = [{"task": "nli", "arm": "a", "difference": 0.1, "ci95": [0.05, 0.15]},
             {"task": "nli", "arm": "b", "difference": 0.1, "ci95": [-0.05, 0.25]}]  # fmt: skip
    (axes,) = drawings.difference_dots(lines, "title").axes
    assert [line.get_color() for line in axes.lines[:4:2]] == [COLOURS["student"], "#999999"]


def test_parts_are_stacked_and_named():
    (axes,) = drawings.model_parts({"m": {"vocabulary": 10, "attention": 20, "feed-forward": 9, "norms": 1}}, "t").axes
    assert texts(axes) == ["40 M, 25% vocabulary"]


def test_a_dollar_is_no_formula():
    (axes,) = drawings.token_bars(["'$'", "'a'"], {"T = 1": [0.6, 0.4], "T = 2": [0.5, 0.5]}, "instead of '$'").axes
    assert axes.get_title() == r"instead of '\$'" and axes.get_yticklabels()[0].get_text() == r"'\$'"


def test_top_k_curves_have_a_line_for_each_way():
    _, right = drawings.top_k_curves(
        [1, 2], [0.1, 0.05], {"cut": [0, 1], "scaled up": [1, 1], "bucket": [2, 1]}, 1.0
    ).axes
    assert [line.get_label() for line in right.lines] == ["cut", "scaled up", "bucket", "whole vocabulary"]


def test_groups_grids_and_marks_hold_their_numbers():
    groups = {"nli": {"teacher": {"easy": (0.8, 0.7, 0.9)}, "student": {"easy": (0.4, 0.3, 0.5)}}}
    (axes,) = drawings.score_groups(groups, "right (%)").axes
    assert heights(axes) == [80, 40]
    (axes,) = drawings.confusions({"teacher": np.array([[3, 1], [0, 4]])}, ["a", "b"], ["a", "b"]).axes
    assert texts(axes) == ["3", "1", "0", "4"]
    (axes,) = drawings.retention_marks({"nli, test": (0.5, 0.4, 0.6)}, 0.92, "title").axes
    assert any(np.allclose(line.get_xdata(), 50) for line in axes.lines)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["nli, test"]
