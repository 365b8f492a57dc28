"""What the studies share: one JSON a run, none made twice, none mixed with those of other settings."""

import json
from functools import partial

import numpy as np
import pytest

from slmops_utils.evaluate.runs import Planned, machine, make_missing, read_runs, same_seeds, score_over_seeds
from slmops_utils.evaluate.statistics import over_seeds


def planned(count=7, made=None, **settings):
    """Runs that note in `made` that they were made."""

    def make(i):
        if made is not None:
            made.append(i)
        return {"number": i}

    return [Planned(f"run{i}", {"teacher": "abc"} | settings, partial(make, i)) for i in range(count)]


def test_a_run_is_made_once_and_read_back_with_when_where_and_how(tmp_path):
    reports = list(make_missing(tmp_path, planned(2, steps=3)))
    assert read_runs(tmp_path) == reports and [report["number"] for report in reports] == [0, 1]
    assert all(report["settings"] == {"teacher": "abc", "steps": 3} for report in reports)
    assert all(report["hardware"]["cores"] and len(report["date"]) == 10 for report in reports)
    (tmp_path / "run0.json").unlink()
    assert [report["number"] for report in make_missing(tmp_path, planned(2, steps=3))] == [0]
    assert list(make_missing(tmp_path, planned(2, steps=3))) == []
    assert read_runs(tmp_path / "nowhere") == []


def test_shards_share_every_run_and_none_twice(tmp_path):
    parts = [[report["number"] for report in make_missing(tmp_path, planned(), (i, 3))] for i in (1, 2, 3)]
    assert parts == [[0, 3, 6], [1, 4], [2, 5]]
    for wrong in ((0, 2), (3, 2)):
        with pytest.raises(ValueError, match=f"--shard takes i/n.*not {wrong[0]}/{wrong[1]}"):
            list(make_missing(tmp_path, planned(), wrong))


def test_a_run_that_another_process_made_meanwhile_is_left_to_it(tmp_path):
    made = []
    steps = make_missing(tmp_path, planned(3, made))
    next(steps)
    (tmp_path / "run1.json").write_text(json.dumps({"settings": {"teacher": "abc"}}))
    assert [report["number"] for report in steps] == [2] and made == [0, 2]


def test_a_run_that_fails_leaves_nothing_and_those_before_it_stay(tmp_path):
    def fail():
        raise KeyboardInterrupt

    runs = planned(3)
    with pytest.raises(KeyboardInterrupt):
        list(make_missing(tmp_path, [runs[0], Planned("run1", {}, fail), runs[2]]))
    assert [path.name for path in tmp_path.iterdir()] == ["run0.json"]


def test_a_run_with_nothing_to_make_is_left_out(tmp_path):
    assert list(make_missing(tmp_path, [Planned("empty", {}, lambda: None)])) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "recorded, told",
    [
        ({"teacher": "abc", "steps": 2}, "steps 2, not 3"),
        ({"teacher": "other", "steps": 3}, "teacher other, not abc"),
        ({"teacher": "other", "steps": 2}, "teacher other, not abc, steps 2, not 3"),
        ({"teacher": "abc", "start": "carved", "steps": 3}, "start carved, not None"),
        ({"teacher": "abc", "steps": 3, "gone": 1}, "gone 1, not None"),
        ({"steps": 3}, "teacher None, not abc"),
        ({}, "teacher None, not abc"),
    ],
)
def test_a_run_of_other_settings_or_another_teacher_is_refused_before_anything_is_made(recorded, told, tmp_path):
    path = tmp_path / "run2.json"
    path.write_text(json.dumps({"settings": recorded} if recorded else {"number": 2}))
    with pytest.raises(ValueError) as raised:
        list(make_missing(tmp_path, planned(3, steps=3), option="--results"))
    expected = f"{path} was run with other settings ({told}); remove it, or name another folder with --results"
    assert str(raised.value) == expected
    assert list(tmp_path.iterdir()) == [path]


def test_a_setting_that_did_not_exist_yet_is_not_held_against_a_run(tmp_path):
    list(make_missing(tmp_path, planned(1)))
    assert list(make_missing(tmp_path, planned(1, new=0.5))) == []


def test_a_score_over_seeds_stays_within_what_a_score_can_be():
    low, high = score_over_seeds([[1, 1, 1, 0], [1, 1, 1, 1]])["ci95"]
    assert 0 < low < 7 / 8 and high == 1
    rows = np.random.default_rng(0).random((3, 50)) < 0.5
    assert score_over_seeds(rows) == {name: over_seeds(rows)[name] for name in ("value", "ci95")}


def test_only_the_seeds_that_both_have_are_compared():
    seeds, pairs = same_seeds({2: [1, 0], 0: [0, 0], 1: [1, 1]}, {0: [1, 1], 2: [0, 0], 3: [1, 0]})
    assert seeds == [0, 2]
    assert pairs.tolist() == [[[0, 0], [1, 1]], [[1, 0], [0, 0]]]
    assert same_seeds({0: [1]}, {})[0] == []


def test_a_machine_is_named_by_what_computed():
    hardware = {"cores": 4, "gpu": "A100", "dtype": "bfloat16"}
    assert machine({"hardware": hardware}) == machine({"hardware": hardware, "device": "cuda"}) == "A100, bfloat16"
    assert machine({"hardware": hardware, "device": "cpu"}) == "4 cores, bfloat16"
    assert machine({"hardware": hardware | {"gpu": None}}) == "4 cores, bfloat16"
