"""Studies: every arm from the same start for the same steps, resumed, shared among processes, read back without a lie."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from slmops_utils.__main__ import main
from slmops_utils.distill.distill import distill
from slmops_utils.distill.train import TrainSettings
from slmops_utils.evaluate.faults import FAULTS, spoil
from slmops_utils.evaluate.statistics import over_seeds
from slmops_utils.evaluate.study import Arm, Plan, Setting, carve, read_study, run_study, study_markdown, study_table
from slmops_utils.evaluate.study_gates import PLANTED, first_verified
from slmops_utils.models.load import fingerprint
from slmops_utils.records import Example, Response, write_records
from slmops_utils.synthesize.gates import GATES, Rules

LABELS = ("entailment", "neutral", "contradiction")


def row(i, text=None, name="r"):
    label = LABELS[i % 3]
    words = f"Premise: the fee of plan {name}{i} is £{i}. Hypothesis: it is £{i * 7 % 5}."
    response = Response(f"It says £{i}. {label}" if text is None else text, "t")
    return Example(f"{name}{i}", "nli", [{"role": "user", "content": words}], label, response)


@pytest.mark.parametrize("gate", PLANTED)
def test_what_is_planted_is_what_the_gate_finds(gate):
    rows, held = [row(i) for i in range(60)], [row(i, name="test") for i in range(90, 150)]
    rules = Rules(held, LABELS, balance=1.5, similarity=1.0)
    assert not any(GATES[gate](rows, rules)), "nothing is wrong before"
    spoiled = spoil(rows, gate, 0.4, held)
    assert len(spoiled) == 60 and len({e.id for e in spoiled}) == 60
    found = GATES[gate](spoiled, rules)
    assert sum(reason is not None for reason in found) >= (10 if gate == "balanced" else 22), gate
    assert spoil(rows, gate, 0.4, held) == spoiled, "the seed decides"
    if gate in FAULTS:
        touched = [a != b for a, b in zip(rows, spoiled, strict=True)]
        assert sum(touched) == 24 and all((r is not None) == t for r, t in zip(found, touched, strict=True))


def test_a_gate_without_a_fault_says_so():
    with pytest.raises(ValueError, match="no fault to plant"):
        spoil([row(1)], "judged", 0.5)


def test_the_first_sample_that_recomputes_is_taken():
    drawn = Example("a", "math", row(1).messages, response=Response("1 + 1 = 3\nAnswer: 3", "t"))
    drawn.extra["samples"] = ["1 + 1 = 3\nAnswer: 3", "Answer: 2", "1 + 1 = 2\nAnswer: 2", "2 x 1 = 2\nAnswer: 2"]
    assert first_verified(drawn).response.text == "1 + 1 = 2\nAnswer: 2"
    drawn.extra["samples"] = ["Answer: 2"]
    assert first_verified(drawn) == drawn


@pytest.fixture
def plan(tiny_folder):
    rows, test = [row(i) for i in range(6)], [row(i, name="test") for i in range(4)]
    arms = [Arm("none", rows), Arm("twin", list(rows), "none", {"kept": 6, "dropped": 0}),
            Arm("half", rows[:3], "none", {"kept": 3, "dropped": 3}), Arm("beside", rows[:3], "teacher")]  # fmt: skip
    return Plan("nli", arms, tiny_folder, 2, test, {"teacher": [1.0, 0.0, 1.0, 1.0]}, SMALL)


SMALL = Setting(batch_size=2, answer_batch=4)


def runs_of(folder):
    return {path.name: json.loads(path.read_text()) for path in folder.glob("*.seed*.json")}


def test_data_of_ones_own_have_a_name_of_their_own(plan, tmp_path):
    named = replace(plan, setting=replace(SMALL, name="intents"))
    assert run_study("gates", [lambda: named], tmp_path / "out", tmp_path / "work", (0,)) == 4
    assert {path.name.split(".")[0] for path in (tmp_path / "out").glob("*.json")} == {"intents"}
    found = read_study(tmp_path / "out")
    assert {(line["task"], line["metric"]) for line in found} == {("intents", "accuracy")}
    beside = next(line for line in found if line["arm"] == "beside")
    assert beside["against"] == "teacher" and "ci95" in beside, "the teacher's scores are found under that name"


def test_a_name_is_for_one_task(capsys):
    assert main(["study", "gates", "--name", "intents"]) == 1
    assert "--name intents is for one task (--tasks nli), not for nli, math" in capsys.readouterr().err


def test_each_run_is_made_once_and_shards_share_them(plan, tmp_path, monkeypatch):
    out, options = tmp_path / "out", {"out": tmp_path / "out", "work": tmp_path / "work", "seeds": (0, 1)}
    assert run_study("gates", [lambda: plan], shard=(2, 3), **options) == 3
    before = runs_of(out)
    assert run_study("gates", [lambda: plan], shard=(1, 3), **options) == 3
    assert run_study("gates", [lambda: plan], **options) == 2
    runs = runs_of(out)
    assert len(runs) == 8 and all(runs[name] == value for name, value in before.items())
    assert run_study("gates", [lambda: plan], **options) == 0
    trained = [run for run in runs.values() if "scores" in run]
    assert {run["arm"] for run in trained} == {"none", "half"} and all(run["steps"] == 2 for run in trained)
    assert {run["same_as"] for run in runs.values() if "same_as" in run} == {"none", "half"}
    assert not list((tmp_path / "work").glob("nli.*")), "the students are not kept"


def test_a_run_of_another_start_other_rows_or_other_settings_is_refused(plan, taught_folder, tmp_path):
    made = {"out": tmp_path / "out", "work": tmp_path / "work", "seeds": (0,)}
    plan = replace(plan, arms=plan.arms[:1])
    assert run_study("gates", [lambda: plan], **made) == 1
    fewer = replace(plan, arms=[replace(plan.arms[0], examples=plan.arms[0].examples[:5])])
    faster = replace(SMALL, learning_rate=0.5)
    for other, told in (
        (replace(plan, setting=faster), r"nli.fixed.json .*\(learning_rate 0.001, not 0.5\)"),
        (replace(plan, steps=3), r"nli.fixed.json .*\(steps 2, not 3\)"),
        (replace(plan, student=taught_folder), r"nli.fixed.json .*\(start \w{16}, not \w{16}\)"),
        (fewer, r"nli.none.seed0.json .*\(texts \w{64}, not \w{64}\)"),
    ):
        with pytest.raises(ValueError, match=told + "; remove it, or name another folder with --out"):
            run_study("gates", [lambda other=other: other], **made)
    moved = replace(plan, setting=replace(SMALL, data="elsewhere"))
    assert run_study("gates", [lambda: moved], **made) == 0, "the same rows, wherever they lie"


def test_a_start_is_carved_once_for_each_teacher_and_each_way(tiny_folder, taught_folder, tmp_path):
    setting, rows, work = replace(SMALL, teacher=tiny_folder, layers=2), [row(0), row(1)], tmp_path / "untuned"
    first = carve(setting, rows, work)
    weights = Path(first) / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert carve(setting, rows, work) == first and weights.stat().st_mtime_ns == before
    other_teacher = carve(setting, rows, work, taught_folder)
    other_layers = carve(replace(setting, layers=0), rows, work)
    other_texts = carve(setting, [row(0), row(1, "plan 7: neutral")], work)
    assert len({first, other_teacher, other_layers, other_texts}) == 4
    assert fingerprint(first) != fingerprint(other_teacher)


def test_a_plan_is_trained_with_its_own_settings(plan, tmp_path, monkeypatch):
    seen = []

    def watched(student, examples, out, settings, **more):
        seen.append((settings.learning_rate, settings.batch_size))
        return distill(student, examples, out, settings, **more)

    monkeypatch.setattr("slmops_utils.evaluate.study.distill", watched)
    slow = replace(plan, task="math", arms=plan.arms[:1], setting=replace(SMALL, learning_rate=2e-4, batch_size=3))
    fast = replace(plan, arms=plan.arms[:1])
    run_study("gates", [lambda: fast, lambda: slow], tmp_path, tmp_path / "work", (0,))
    assert seen == [(1e-3, 2), (2e-4, 3)]


def test_what_is_read_is_what_was_recorded(plan, tmp_path):
    run_study("gates", [lambda: plan], tmp_path, tmp_path / "work", (0, 1))
    made = {("none", 0): [1, 0, 0, 0], ("none", 1): [1, 1, 0, 0], ("half", 0): [1, 1, 1, 0], ("half", 1): [1, 1, 1, 1]}
    for (arm, seed), values in made.items():
        path = tmp_path / f"nli.{arm}.seed{seed}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"scores": values}))
    lines = {line["arm"]: line for line in read_study(tmp_path)}
    assert (
        lines["none"]["score"] == 0.375
        and lines["none"]["per_seed"] == [0.25, 0.5]
        and "difference" not in lines["none"]
    )
    assert (
        lines["half"]["difference"] == pytest.approx(0.5)
        and lines["half"]["ci95"][0] <= 0.5 <= lines["half"]["ci95"][1]
    )
    both = over_seeds([[0, 1, 1, 0], [0, 0, 1, 1]])
    assert lines["half"]["ci95"] == [max(both["ci95"][0], -1), min(both["ci95"][1], 1)], "over seeds and rows"
    assert lines["twin"]["unchanged"] and not lines["half"]["unchanged"]
    assert not lines["beside"]["unchanged"], "the rows of another arm, but it is compared with the teacher"
    assert lines["twin"]["difference"] == 0 and lines["twin"]["same_as"] == "none"
    assert lines["beside"]["difference"] == pytest.approx(0.875 - 0.75), "against the teacher, which is not trained"
    table = study_markdown(list(lines.values()))
    assert "| half | 3 | 3 | 87.5% (75.0, 100.0) | none | +50.0 points [" in table
    assert "| twin | 6 | 0 | 37.5% (25.0, 50.0) | none | the very rows of *none*" in table and "one seed" not in table
    assert "| beside | 3 | 0 | 87.5% (75.0, 100.0) | teacher | +12.5 points [" in table
    assert "one seed" in study_markdown([line | {"seeds": [0]} for line in lines.values()])
    shown = study_table(list(lines.values()))
    assert "same rows as none" in shown and "+50.0" in shown


def test_nothing_recorded_is_said_and_not_made_up(tmp_path, capsys):
    assert read_study(tmp_path) == []
    assert main(["study", "gates", "--show", "--out", str(tmp_path)]) == 0
    assert "nothing recorded yet" in capsys.readouterr().out
    assert main(["study", "gates", "--shard", "3/2", "--out", str(tmp_path)]) == 1


def test_an_arm_without_a_row_is_recorded_as_that(plan, tmp_path):
    empty = replace(plan, arms=[plan.arms[0], Arm("emptied", [], "none", {"kept": 0, "dropped": 6})])
    run_study("gates", [lambda: empty], tmp_path, tmp_path / "work", (0,))
    lines = {line["arm"]: line for line in read_study(tmp_path)}
    assert lines["emptied"]["score"] is None and "difference" not in lines["emptied"]
    assert "nothing" in study_table(list(lines.values()))


def math_row(i):
    return Example(
        f"m{i}",
        "math",
        [{"role": "user", "content": f"£{i} + £1?"}],
        {"answer": f"£{i + 1}", "steps": f"£{i} + £1 = £{i + 1}"},
    )


@pytest.fixture
def taught_folder(tiny, tmp_path):
    """A tiny teacher that has learnt to give one answer, with a reason."""
    rows = [replace(row(i), response=Response("fee. neutral", "t")) for i in range(6)]
    distill(tiny, rows, tmp_path / "taught", TrainSettings(max_steps=60, batch_size=6, learning_rate=5e-3))
    return str(tmp_path / "taught")


@pytest.mark.parametrize("study", ["gates", "rationale", "committee"])
def test_every_study_runs_from_the_command_line(study, taught_folder, tmp_path, capsys):
    data = tmp_path / "data"
    for part in ("train", "pool", "test", "validation", "challenge"):
        nli = [Example(f"{part}{i}", "nli", row(i, name=part).messages, LABELS[i % 3]) for i in range(6)]
        write_records(data / "nli" / f"{part}.jsonl", nli)
        write_records(data / "math" / f"{part}.jsonl", [math_row(i) for i in range(4)])
    options = ["--out", tmp_path / "out", "--work", tmp_path / "work", "--seeds", 0, "--data", data, "--epochs", 0.3, "--layers", 2,
               "--teacher", taught_folder, "--batch-size", 2, "--answer-batch", 6, "--rows", 6, "--test-rows", 3]  # fmt: skip
    if study == "committee":
        options += ["--member", taught_folder, shutil.copytree(taught_folder, tmp_path / "second")]
    assert main(["study", study, *map(str, options)]) == 0, capsys.readouterr().err
    lines = {(line["task"], line["arm"]): line for line in read_study(tmp_path / "out" / study)}
    if study == "gates":
        assert ("math", "first_verified_vs_teacher") in lines
        assert all(line["kept"] + line["dropped"] == 6 for (task, _), line in lines.items() if task == "nli")
        assert lines["nli", "only_agrees"]["kept"] == 2, "the teacher always says neutral"
        assert lines["nli", "only_finished"]["same_as"] == "none", "a gate that drops nothing changes nothing"
        assert lines["nli", "planted_agrees"]["kept"] == 6 and lines["nli", "planted_agrees_gated"]["dropped"] >= 4
    elif study == "rationale":
        assert {arm for task, arm in lines if task == "nli"} == {"with", "without", "step_by_step"}
        assert all(line["score"] is not None for (task, _), line in lines.items() if task == "nli")
    else:
        assert {arm for _, arm in lines} == {"best", "majority", "weighted", "average", "best_soft", "average_soft"}
        assert lines["nli", "majority"]["same_as"] == "best", "two of one mind vote as one"
        fixed = json.loads((tmp_path / "out" / "committee" / "nli.fixed.json").read_text())["scores"]
        assert {"teacher1", "teacher2", "best", "majority", "weighted", "average", "untuned"} == set(fixed)
