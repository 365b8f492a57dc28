"""The comparison of methods: one start, one JSON a run, nothing run twice."""

import json
from dataclasses import replace

import pytest

from slmops_utils.__main__ import main
from slmops_utils.distill.train import TrainSettings, train
from slmops_utils.distill.trainer import Clock
from slmops_utils.distill.validation import score_rows
from slmops_utils.evaluate.ablate import COMPARED, Ablation, ablate, thinned
from slmops_utils.models.load import load_model, weights_fingerprint
from slmops_utils.records import Example, Response, read_records, write_records

LABELS = ("entailment", "neutral", "contradiction")


def example(i: int, reference: str | None, **extra) -> Example:
    return Example(
        f"e{i}", "nli", [{"role": "user", "content": f"Premise: {'fee ' * (i % 3)}£{i}."}], reference, extra=extra
    )


@pytest.fixture
def plan(tiny_folder, tmp_path, monkeypatch) -> Ablation:
    """Every method on the tiny model, two steps each."""
    monkeypatch.setenv("SLMOPS_DTYPE", "float32")
    labelled = [example(i, LABELS[i % 3], rationale=f"It says £{i}.") for i in range(8)]
    pool = [example(i, None) for i in range(8, 14)]
    for one in pool:
        one.response = Response(f"It says £{one.id[1:]}. neutral", "tiny")
    for name, examples in {"train": labelled, "answered": pool, "test": labelled[:5]}.items():
        write_records(tmp_path / f"nli-{name}.jsonl", examples)
    pattern = str(tmp_path / "{task}-")
    return Ablation(
        tiny_folder, tmp_path / "out", tmp_path / "work", ("nli",), untuned={"nli": tiny_folder},
        train=pattern + "train.jsonl", answered=pattern + "answered.jsonl", validation=pattern + "test.jsonl",
        test=pattern + "test.jsonl", seeds=(0,), settings=TrainSettings(max_steps=2, batch_size=4),
    )  # fmt: skip


def test_every_method_starts_from_the_same_weights_and_leaves_its_scores(plan):
    runs = {run["method"]: run for run in ablate(plan)}
    assert tuple(runs) == COMPARED
    assert {run["start"] for run in runs.values()} == {weights_fingerprint(load_model(plan.teacher, "float32").model)}
    for method, run in runs.items():
        assert json.loads((plan.out / f"nli-{method}-s0.json").read_text()) == run
        assert (run["steps"], len(run["test"]["scores"])) == (0 if method == "start" else 2, 5)
        assert run["test"]["score"] == pytest.approx(sum(run["test"]["scores"]) / 5)
    untouched = score_rows(load_model(plan.teacher, "float32"), list(read_records(plan.test.format(task="nli"))))
    assert runs["start"]["test"] == untouched
    assert (runs["labels"]["rows"], runs["text"]["rows"], runs["step_by_step"]["rows"]) == (8, 14, 28)
    assert len(list((plan.work / "soft_targets" / "nli").glob("shard-*"))) == 1, "the divergences share one shard"


def test_data_of_ones_own_have_a_name_of_their_own(plan):
    named = replace(plan, name="intents", methods=("forward_kl",))
    assert [run["task"] for run in ablate(named)] == ["intents"]
    assert (plan.out / "intents-forward_kl-s0.json").exists() and (plan.work / "soft_targets" / "intents").is_dir()
    with pytest.raises(ValueError, match=r"--name intents is for one task \(--tasks nli\), not for nli, qa"):
        replace(named, tasks=("nli", "qa")).runs()


def test_what_is_there_is_not_run_again(plan):
    plan = replace(plan, methods=("labels", "text"))
    assert len(list(ablate(plan))) == 2
    (plan.out / "nli-text-s0.json").unlink()
    assert [run["method"] for run in ablate(plan)] == ["text"]
    assert list(ablate(plan)) == []


def test_a_run_with_other_settings_is_not_mixed_in(plan):
    plan = replace(plan, methods=("text",))
    list(ablate(plan))
    longer = replace(plan, settings=replace(plan.settings, max_steps=3))
    with pytest.raises(ValueError, match=r"nli-text-s0.json .*max_steps 2, not 3.*--out"):
        list(ablate(longer))


def test_a_run_from_another_start_or_teacher_is_not_mixed_in(plan, taught_folder):
    plan = replace(plan, methods=("text",))
    list(ablate(plan))
    with pytest.raises(ValueError, match=r"\(start \w{16}, not 4 layers, early\)"):
        list(ablate(replace(plan, untuned={}, layers=4)))
    with pytest.raises(ValueError, match=r"\(teacher \w{16}, not \w{16}\)"):
        list(ablate(replace(plan, teacher=taught_folder)))


def test_a_method_the_data_have_nothing_for_is_left_out(plan, tmp_path, capsys):
    for name, count in {"train": 8, "answered": 14}.items():
        bare = [example(i, LABELS[i % 3]) for i in range(count - 6, count)]
        write_records(tmp_path / f"nli-{name}.jsonl", bare)
    assert list(ablate(replace(plan, methods=("step_by_step",)))) == []
    assert "nli, step_by_step: left out: " in capsys.readouterr().out


def test_every_run_is_planned_once_and_one_seed_after_the_other():
    whole = Ablation(tasks=("nli", "qa"), seeds=(0, 1, 2)).runs()
    assert len(whole) == len(set(whole)) == 3 * 2 * len(COMPARED)
    assert [seed for *_, seed in whole] == sorted(seed for *_, seed in whole)


def test_shards_hold_every_run_once(plan):
    plan = replace(plan, methods=("labels", "text"), seeds=(0, 1))
    parts = [[(run["method"], run["seed"]) for run in ablate(plan, (i, 3))] for i in (1, 2, 3)]
    assert parts == [[("labels", 0), ("text", 1)], [("text", 0)], [("labels", 1)]]
    for wrong in ((0, 2), (3, 2)):
        with pytest.raises(ValueError, match="--shard"):
            list(ablate(plan, wrong))


def test_an_unknown_method_is_named_before_anything_runs():
    with pytest.raises(ValueError, match="no method luck; there are start, labels, text, forward_kl"):
        Ablation(methods=("text", "luck")).runs()


def test_the_command_line_runs_it(plan, capsys):
    arguments = ["ablate", "--teacher", plan.teacher, "--untuned", f"nli={plan.teacher}", "--out", str(plan.out),
                 "--work", str(plan.work), "--train", plan.train, "--answered", plan.answered, "--validation", plan.test,
                 "--test", plan.test, "--tasks", "nli", "--methods", "labels", "text", "--seeds", "0", "1", "--max-steps", "1",
                 "--limit", "3", "--device", "cpu"]  # fmt: skip
    assert main([*arguments, "--shard", "2/2"]) == 0
    assert sorted(path.name for path in plan.out.glob("*.json")) == ["nli-text-s0.json", "nli-text-s1.json"]
    assert "nli            text          seed 1       1 steps" in capsys.readouterr().out
    assert main([*arguments, "--shard", "two"]) == 1


def test_a_run_of_a_given_time_trains_for_that_time(tiny, tmp_path):
    from slmops_utils.distill.dataset import encode_rows

    rows, _ = encode_rows([example(i, LABELS[i % 3]) for i in range(6)], tiny.tokenizer)
    before = weights_fingerprint(tiny.model)
    result = train(tiny, rows, tmp_path, TrainSettings(seconds=3.0, epochs=0.1, batch_size=2))
    assert result.seconds >= 3 and result.steps > 1, "epochs would have ended it after one step"
    assert weights_fingerprint(tiny.model) != before
    assert not list(tmp_path.rglob("checkpoint-*"))


def test_the_clock_warms_up_and_falls_to_nothing(monkeypatch):
    clock, now = Clock(100, 0.1), [1000.0]
    monkeypatch.setattr("slmops_utils.distill.trainer.time.perf_counter", lambda: now[0])
    assert clock.rate() == 0
    clock.start()
    rates = []
    for now[0] in (1005.0, 1010.0, 1055.0, 1100.0, 1200.0):
        rates.append(clock.rate())
    assert rates == pytest.approx([0.5, 1, 0.5, 0, 0])


def test_a_loss_curve_is_thinned_to_means():
    curve = [{"step": i, "loss": float(i)} for i in range(1, 8)] + [{"step": 7, "validation_loss": 1.0}]
    assert thinned(curve, 3) == [{"step": 3, "loss": 2.0}, {"step": 6, "loss": 5.0}, {"step": 7, "loss": 7.0}]
    assert thinned(curve) == curve[:7]
    assert thinned([]) == []
