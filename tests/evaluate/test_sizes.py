"""The size study: which runs there are, that they resume, and what is chosen from them."""

import json
from dataclasses import replace

import pytest

from slmops_utils.__main__ import main
from slmops_utils.evaluate.runs import read_runs
from slmops_utils.evaluate.sizes import KINDS, WHOLE, Bench, Run, Study, choose, plan_curve, plan_final, run_study
from slmops_utils.models.carve import save
from slmops_utils.models.load import load_model
from slmops_utils.records import Example, write_records


def recorded(task="nli", layers=6, validation=(1, 1), **more):
    run = Run(task, layers, **more)
    return {**vars(run), "name": run.name, "scores": {"validation": list(validation)}}


def test_the_curve_has_every_size_by_every_rule_and_healed_by_the_first():
    runs = plan_curve("qa", [4, 6], ["early", "even"])
    assert runs[0] == Run("qa", WHOLE)
    assert [(r.layers, r.rule, r.healed) for r in runs[1:]] == [
        (4, "early", False), (6, "early", False), (4, "even", False), (6, "even", False), (4, "early", True), (6, "early", True)
    ]  # fmt: skip
    assert len({run.name for run in runs}) == len(runs)


def test_the_final_runs_share_a_start_that_no_teacher_has_touched():
    runs = plan_final("qa", Run("qa", 6, "even", healed=True), [0, 1])
    assert [(r.kind, r.healed, r.seed) for r in runs] == [
        ("untuned", False, 0), ("baseline", False, 0), ("student", True, 0), ("baseline", False, 1), ("student", True, 1)
    ]  # fmt: skip


def test_the_smallest_student_that_keeps_enough_is_chosen():
    teacher = recorded(layers=WHOLE, validation=[1] * 10)
    runs = [
        teacher,
        recorded(layers=4, validation=[1] * 8 + [0] * 2),
        recorded(layers=6, validation=[1] * 9 + [0]),
        recorded(layers=6, rule="even", validation=[1] * 10),
        recorded(layers=10, validation=[1] * 10),
        recorded(layers=4, validation=[1] * 10, seed=1),  # another seed, another role: not for choosing
        recorded(layers=4, validation=[1] * 10, kind="baseline"),
    ]
    assert choose(runs, "nli", keep=0.9) == Run("nli", 6, "even")
    assert choose(runs, "nli", keep=0.8) == Run("nli", 4)
    few = [teacher, recorded(layers=4, validation=[1] + [0] * 9), recorded(layers=6, validation=[1] * 2 + [0] * 8)]
    assert choose(few, "nli", keep=0.9) == Run("nli", 6)  # none keeps enough: the one that keeps most
    with pytest.raises(ValueError, match="run the curve first"):
        choose(runs, "qa")


@pytest.fixture
def study(tiny, tmp_path):
    from transformers import LlamaForCausalLM

    tiny.model.config.num_hidden_layers, tiny.model.config.layer_types = 4, None
    tiny.model = LlamaForCausalLM(tiny.model.config).eval()
    save(tiny, str(tmp_path / "teacher"))
    for split, rows in (("train", 6), ("pool", 4), ("validation", 2), ("test", 3), ("challenge", 2)):
        write_records(
            tmp_path / "data" / "nli" / f"{split}.jsonl",
            (
                Example(f"{split}-{i}", "nli", [{"role": "user", "content": f"Premise: the fee is £{i}. Hypothesis: it is £5."}],
                        None if split == "pool" else "neutral")
                for i in range(rows)
            ),
        )  # fmt: skip
    return Study(
        str(tmp_path / "teacher"), tmp_path / "data", tmp_path / "work", tmp_path / "results",
        steps=2, heal_steps=3, batch_size=2,
    )  # fmt: skip


def test_runs_are_recorded_once_and_split_among_processes(study, capsys):
    runs = [
        *plan_curve("nli", [2], ["early", "influence"]),
        Run("nli", 2, kind="untuned"),
        Run("nli", 2, kind="baseline"),
    ]
    assert run_study(runs, study, (1, 2)) == 3
    assert run_study(runs, study, (1, 2)) == 0
    assert run_study(runs, study) == 3
    found = {run["name"]: run for run in read_runs(study.results)}
    assert set(found) == {run.name for run in runs}
    assert {split: len(scores) for split, scores in found["nli_teacher"]["scores"].items()} == {
        "validation": 2, "test": 3, "challenge": 2
    }  # fmt: skip
    healed, plain = found["nli_02_early_healed_student_seed0"], found["nli_02_early_student_seed0"]
    assert (healed["steps"], plain["steps"]) == (5, 2)
    assert "steps" not in found["nli_02_early_untuned_seed0"]
    assert plain["parameters"] < found["nli_teacher"]["parameters"]
    path = study.results / "nli_teacher.json"
    assert json.loads(path.read_text())["metric"] == "accuracy"


def test_another_teacher_is_asked_anew_and_the_same_one_is_not(study, tiny):
    journal = study.work / "nli" / "answered.jsonl.journal.jsonl"
    asked = []
    for _ in range(2):
        Bench(study, "nli", load_model(study.teacher))
        asked.append(len(journal.read_text().splitlines()))
    tiny.model.get_input_embeddings().weight.data.mul_(-1)
    save(tiny, study.teacher)
    Bench(study, "nli", load_model(study.teacher))
    assert asked == [4, 4]
    assert len(journal.read_text().splitlines()) == 8


def test_a_recorded_run_of_other_settings_or_another_teacher_is_refused(study, tiny):
    teacher, untuned, plain = Run("nli", WHOLE), Run("nli", 2, kind="untuned"), Run("nli", 2)
    assert run_study([teacher, untuned, plain], study) == 3
    longer = replace(study, steps=3)
    assert run_study([teacher, untuned], longer) == 0, "they are not trained, so the steps are nothing to them"
    path = study.results / f"{plain.name}.json"
    told = rf"{path} .*\(max_steps 2, not 3\); remove it, or name another folder with --results"
    with pytest.raises(ValueError, match=told):
        run_study([plain], longer)
    path.unlink()
    assert run_study([plain], longer) == 1
    healed = replace(plain, healed=True)
    assert run_study([healed], study) == 1 and run_study([plain], replace(longer, heal_steps=1)) == 0
    with pytest.raises(ValueError, match=rf"{healed.name}.json .*\(heal_steps 3, not 1\)"):
        run_study([healed], replace(study, heal_steps=1))
    tiny.model.get_input_embeddings().weight.data.mul_(-1)
    save(tiny, study.teacher)
    for run in (teacher, untuned, healed):
        with pytest.raises(ValueError, match=rf"{run.name}.json .*\(teacher \w{{16}}, not \w{{16}}\)"):
            run_study([run], study)


def test_a_student_is_scored_as_it_would_be_saved(study, monkeypatch):
    monkeypatch.setenv("SLMOPS_DTYPE", "bfloat16")
    bench = Bench(study, "nli", load_model(study.teacher))
    assert {str(bench.student(Run("nli", 2, kind=kind))[0].model.dtype) for kind in KINDS} == {"torch.bfloat16"}


def test_the_command_line_runs_the_curve_and_refuses_what_does_not_belong(study, capsys):
    arguments = ["curve", "--tasks", "nli", "--sizes", "2", "--rules", "early", "--teacher", study.teacher, "--data", study.data,
                 "--work", study.work, "--results", study.results, "--heal-steps", "1", "--batch-size", "2"]  # fmt: skip
    assert main([*map(str, arguments), "--steps", "1", "--shard", "1/2"]) == 0
    assert "nli_teacher: validation " in (told := capsys.readouterr().out) and "2 of 3 runs made now" in told
    assert main([*map(str, arguments), "--steps", "1"]) == 0
    assert "1 of 3 runs made now" in capsys.readouterr().out
    assert main([*map(str, arguments), "--steps", "1", "--final", "--seeds", "0"]) == 0
    assert "2 of 3 runs made now" in capsys.readouterr().out
    assert main([*map(str, arguments), "--steps", "2"]) == 1
    assert "max_steps 1, not 2" in capsys.readouterr().err
