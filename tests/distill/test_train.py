"""Training: the loss is the plain one, batching does not change it, and a killed run ends with the same weights."""

import copy
import json
import shutil
from dataclasses import replace

import pytest
import torch
from killing import kill_when
from torch.nn.functional import cross_entropy

from slmops_utils.distill.correct import correct
from slmops_utils.distill.dataset import IGNORED, Row, collate, encode_rows
from slmops_utils.distill.distill import distill
from slmops_utils.distill.train import TrainSettings, mean_loss, supervised_loss, train
from slmops_utils.distill.trainer import SHORT, attention_for
from slmops_utils.models.load import load_model, weights_fingerprint
from slmops_utils.records import Example

LABELS = ("entailment", "neutral", "contradiction")
ONE_STEP = TrainSettings(max_steps=1, batch_size=4, warmup_share=0, learning_rate=1e-3)
SHORT_RUN = TrainSettings(epochs=4, batch_size=4, learning_rate=2e-3, save_steps=3)  # 16 steps of 14 rows


def examples(count: int) -> list[Example]:
    return [
        Example(f"t{i}", "nli", [{"role": "user", "content": f"Premise: {'fee ' * (i % 5)}£{i}."}], LABELS[i % 3])
        for i in range(count)
    ]


@pytest.fixture
def rows(tiny):
    return encode_rows(examples(14), tiny.tokenizer)[0]


@pytest.fixture
def unequal():
    """Four rows whose prompts and answers differ much in length."""
    shapes = [(3, 2), (20, 9), (7, 1), (1, 30)]
    generator = torch.Generator().manual_seed(0)
    return [Row(torch.randint(5, 100, (p + a,), generator=generator).tolist(), p) for p, a in shapes]


def dense_loss(model, batch):
    """The loss as anybody would write it, with the logits of every position."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    targets = batch["labels"][:, 1:].reshape(-1)
    return cross_entropy(logits[:, :-1].flatten(0, 1), targets, ignore_index=IGNORED, reduction="sum")


def gradients(model, loss) -> list[torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


def assert_close(found, expected, **tolerance):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, **tolerance)


def assert_same_weights(model, other):
    mine, theirs = model.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []


def test_the_loss_and_its_gradient_are_the_dense_ones(tiny, unequal):
    batch = collate(unequal, tiny.tokenizer.pad_token_id)
    loss, count = supervised_loss(tiny.model, batch)
    expected = dense_loss(tiny.model, batch)
    assert count == 2 + 9 + 1 + 30
    torch.testing.assert_close(loss, expected)
    assert_close(gradients(tiny.model, loss), gradients(tiny.model, expected), rtol=1e-4, atol=1e-5)


def test_the_check_above_would_see_a_mask_that_was_not_shifted(tiny, unequal):
    batch = collate(unequal, tiny.tokenizer.pad_token_id)
    keep = batch["labels"] != IGNORED
    logits = tiny.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    mutant = cross_entropy(logits[keep], batch["labels"][keep], reduction="sum")
    assert abs(mutant - supervised_loss(tiny.model, batch)[0]) > 0.1


def test_the_model_gives_all_its_logits_again_afterwards(tiny, unequal):
    batch = collate(unequal, 0)
    supervised_loss(tiny.model, batch)
    assert tiny.model(input_ids=batch["input_ids"]).logits.shape[:2] == batch["input_ids"].shape


def test_padding_changes_neither_loss_nor_gradient(tiny, unequal):
    alone = [supervised_loss(tiny.model, collate([row], 0))[0] for row in unequal]
    wide = collate([*unequal, Row([7] * 90, 1)], pad_id=3)
    together = supervised_loss(tiny.model, {key: value[:4] for key, value in wide.items()})[0]
    torch.testing.assert_close(together, sum(alone))
    found, expected = gradients(tiny.model, together), gradients(tiny.model, sum(alone))
    assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_mean_loss_is_the_mean_over_tokens_not_over_rows(tiny, unequal):
    with torch.no_grad():
        batch = collate(unequal, 0)
        expected = dense_loss(tiny.model, batch).item() / 42
    assert mean_loss(tiny, unequal, batch_size=3) == pytest.approx(expected, rel=1e-5)


def step_gradients(tiny, rows, out, settings) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """What one step's optimizer was given, and the weights it left."""
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    student, caught = copy.deepcopy(tiny), []
    hook = register_optimizer_step_pre_hook(
        lambda *_: caught.append([p.grad.clone() for p in student.model.parameters()])
    )
    try:
        train(student, rows, out, settings)
    finally:
        hook.remove()
    (grads,) = caught
    return grads, [parameter.detach() for parameter in student.model.parameters()]


def test_a_batch_of_four_is_four_accumulated_batches_of_one(tiny, unequal, tmp_path):
    whole, whole_weights = step_gradients(tiny, unequal, tmp_path / "a", ONE_STEP)
    small = replace(ONE_STEP, batch_size=1, gradient_accumulation=4)
    split, split_weights = step_gradients(tiny, unequal, tmp_path / "b", small)
    # AdamW's first step forgets the gradient's scale, so the gradients are compared too
    assert_close(split, whole, rtol=1e-3, atol=1e-6)
    assert_close(split_weights, whole_weights, rtol=0, atol=1e-5)
    plain = gradients(tiny.model, dense_loss(tiny.model.train(), collate(unequal, 0)) / 42)
    norm = torch.stack([gradient.norm() for gradient in plain]).norm()
    assert_close(whole, [gradient / max(norm, 1.0) for gradient in plain], rtol=1e-3, atol=1e-6)


def test_accumulation_reports_the_same_losses(tiny, unequal, tmp_path):
    five = replace(ONE_STEP, max_steps=5)
    small = replace(five, batch_size=1, gradient_accumulation=4)
    whole, split = (train(copy.deepcopy(tiny), unequal, tmp_path / str(s.batch_size), s) for s in (five, small))
    assert [h["step"] for h in whole.losses] == [h["step"] for h in split.losses] == [5]
    assert split.losses[0]["loss"] == pytest.approx(whole.losses[0]["loss"], rel=1e-4)


def test_training_learns_a_small_set_by_heart(tiny, rows, tmp_path):
    before = mean_loss(tiny, rows)
    seen = []
    settings = TrainSettings(epochs=15, batch_size=4, learning_rate=5e-3)
    result = train(tiny, rows, tmp_path, settings, validation=rows, validation_every=20, on_log=seen.append)
    assert mean_loss(tiny, rows) < before / 4
    assert result.steps == 60 and result.tokens_per_s > 0
    assert result.losses == seen
    measured = [h["validation_loss"] for h in result.losses if "validation_loss" in h]
    assert len(measured) == 3
    assert measured[-1] == pytest.approx(mean_loss(tiny, rows), rel=0.01)
    assert not tiny.model.training


def test_measuring_on_the_way_does_not_change_the_training(tiny, rows, tmp_path):
    other = copy.deepcopy(tiny)
    train(tiny, rows, tmp_path / "a", ONE_STEP)
    train(other, rows, tmp_path / "b", ONE_STEP, validation=rows[:3], validation_every=1)
    assert_same_weights(tiny.model, other.model)


def test_without_a_listener_every_fiftieth_step_is_a_plain_line(tiny, rows, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("slmops_utils.distill.train.in_notebook", lambda: False)
    settings = replace(ONE_STEP, max_steps=55, batch_size=1, save_steps=0)
    losses = train(tiny, rows, tmp_path, settings).losses
    assert [h["step"] for h in losses] == list(range(5, 56, 5))
    lines = [line for line in capsys.readouterr().out.splitlines() if "loss" in line]
    assert lines == [f"step 50  loss {losses[9]['loss']:.4g}"]


def scores_in_turn(*values):
    """A score that goes up and down as written, and keeps the weights it was asked about."""
    asked = []

    def score(loaded):
        asked.append({name: tensor.clone() for name, tensor in loaded.model.state_dict().items()})
        return values[len(asked) - 1]

    return score, asked


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_a_run_ends_when_its_score_no_longer_rises_and_keeps_the_best_weights(lora_rank, tiny, rows, tmp_path):
    score, asked = scores_in_turn(0.1, 0.4, 0.3, 0.2, 0.9)
    settings = replace(SHORT_RUN, patience=2, lora_rank=lora_rank)
    result = train(tiny, rows, tmp_path, settings, validation_every=2, score=score)
    assert (result.steps, result.best_step, result.best_score) == (8, 4, 0.4), "0.9 would have come too late"
    kept = tiny.model.state_dict()
    assert all(torch.equal(kept[name], tensor) for name, tensor in asked[1].items())
    assert any(not torch.equal(kept[name], tensor) for name, tensor in asked[3].items())
    assert [h["score"] for h in result.losses if "score" in h] == [0.1, 0.4, 0.3, 0.2]


def test_a_run_without_patience_still_ends_with_its_best_weights(tiny, rows, tmp_path):
    score, asked = scores_in_turn(0.1, 0.9, *[0.3] * 6)
    result = train(tiny, rows, tmp_path, SHORT_RUN, validation_every=2, score=score)
    assert (result.steps, result.best_step) == (16, 4)
    assert all(torch.equal(tiny.model.state_dict()[name], tensor) for name, tensor in asked[1].items())


def test_patience_is_remembered_by_a_resumed_run(tiny, rows, tmp_path):
    settings, other = replace(SHORT_RUN, patience=2), copy.deepcopy(tiny)
    score, _ = scores_in_turn(0.4, 0.3)
    assert train(other, rows, tmp_path, settings, validation_every=2, score=score, stop_after=4).steps == 4
    score, asked = scores_in_turn(0.2, 0.9)
    result = train(tiny, rows, tmp_path, settings, validation_every=2, score=score)
    assert (result.steps, result.best_step, len(asked)) == (6, 2, 1), "one miss before the stop and one after it"
    assert [h["score"] for h in result.losses if "score" in h] == [0.4, 0.3, 0.2]


def test_scoring_on_the_way_does_not_change_the_training(tiny, rows, tmp_path):
    def noisy(loaded):
        assert not loaded.model.training
        torch.rand(7)
        return float(len(seen := list(tmp_path.rglob("checkpoint-*"))) + len(seen))

    other = copy.deepcopy(tiny)
    train(tiny, rows, tmp_path / "a", replace(SHORT_RUN, epochs=1))
    train(other, rows, tmp_path / "b", replace(SHORT_RUN, epochs=1), validation_every=2, score=noisy)
    assert_same_weights(tiny.model, other.model)


@pytest.mark.parametrize("wrong", [{"patience": 1}, {"patience": 1, "score": True}, {"seconds": 1.0, "score": True}])
def test_stopping_early_without_what_it_takes_is_an_error(wrong, tiny, rows, tmp_path):
    score = (lambda loaded: 0.0) if wrong.pop("score", False) else None
    with pytest.raises(ValueError, match="stopping early takes a score"):
        train(tiny, rows, tmp_path, replace(SHORT_RUN, **wrong), score=score, validation_every=2 * ("seconds" in wrong))


def test_distill_stops_early_by_the_task_s_own_score(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("SLMOPS_DTYPE", "float32")
    settings = replace(SHORT_RUN, epochs=8, patience=1)
    report = distill(tiny_folder, examples(8), tmp_path / "student", settings, examples(4), validation_every=2)
    scores = [h["score"] for h in report["losses"] if "score" in h]
    assert report["best"]["validation_score"] == max(scores) and report["best"]["step"] == 2 * (
        1 + scores.index(max(scores))
    )
    best = json.loads((tmp_path / "student" / "distill.json").read_text())["best"]
    assert best == report["best"]


def test_short_rows_are_attended_to_by_plain_products_with_the_same_gradients(tiny, unequal):
    batch, found = collate(unequal, 0), {}
    for rows, longest in ((4, 60), (4, SHORT + 1), (10_000, 60)):
        with attention_for(tiny.model, rows, longest):
            used = tiny.model.config._attn_implementation
            assert used == ("eager" if (rows, longest) == (4, 60) else "sdpa")
            found[used] = gradients(tiny.model, supervised_loss(tiny.model, batch)[0])
    assert tiny.model.config._attn_implementation == "sdpa"
    assert_close(found["eager"], found["sdpa"], rtol=1e-3, atol=1e-5)


def test_a_run_that_keeps_no_checkpoint_ends_with_the_same_weights(tiny, rows, tmp_path):
    other = copy.deepcopy(tiny)
    train(other, rows, tmp_path / "kept", SHORT_RUN)
    train(tiny, rows, tmp_path / "none", replace(SHORT_RUN, save_steps=0))
    assert_same_weights(tiny.model, other.model)
    assert list(tmp_path.glob("kept/checkpoints/checkpoint-*")) and not list(
        tmp_path.glob("none/checkpoints/checkpoint-*")
    )


def test_nothing_to_train_on_is_an_error(tiny, tmp_path):
    with pytest.raises(ValueError, match="nothing to train on"):
        train(tiny, [], tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "settings",
    [SHORT_RUN, replace(SHORT_RUN, lora_rank=2), replace(SHORT_RUN, batch_size=2, gradient_accumulation=2)],
    ids=["plain", "lora", "accumulated"],
)
def test_an_interrupted_run_ends_with_the_same_weights(settings, tiny, rows, tmp_path):
    whole, cut = copy.deepcopy(tiny), copy.deepcopy(tiny)
    uninterrupted = train(whole, rows, tmp_path / "whole", settings)

    def interrupt(values):
        if values["step"] == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(cut, rows, tmp_path / "cut", settings, on_log=interrupt)
    again = []
    resumed = train(tiny, rows, tmp_path / "cut", settings, on_log=again.append)
    assert_same_weights(tiny.model, whole.model)
    assert again[0]["step"] == 10, "the first five steps were taken twice"
    assert [h["step"] for h in resumed.losses] == [5, 10, 15]
    # the Trainer averages each logged loss over the steps since the last one, and forgets those before a checkpoint
    assert [h for h in resumed.losses if h["step"] != 10] == [h for h in uninterrupted.losses if h["step"] != 10]


def test_a_run_stopped_early_goes_on_to_the_same_end(tiny, rows, tmp_path):
    whole, cut = copy.deepcopy(tiny), copy.deepcopy(tiny)
    train(whole, rows, tmp_path / "whole", SHORT_RUN)
    assert train(cut, rows, tmp_path / "cut", SHORT_RUN, stop_after=7).steps == 7
    assert weights_fingerprint(cut.model) != weights_fingerprint(whole.model)
    assert train(tiny, rows, tmp_path / "cut", SHORT_RUN).steps == 16
    assert_same_weights(tiny.model, whole.model)


def test_a_run_killed_three_times_ends_with_the_same_weights(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("SLMOPS_DTYPE", "float32")
    out, checkpoints = tmp_path / "killed", tmp_path / "killed" / "checkpoints"
    # in the middle of a save, right after one, and in the middle of a later epoch
    points = ("checkpoint-3/model.safetensors", "checkpoint-6/trainer_state.json", "checkpoint-12")
    killed = [kill_when(checkpoints / point, distill, (tiny_folder, examples(14), out, SHORT_RUN)) for point in points]
    assert all(killed)
    resumed, whole = (load_model(tiny_folder, dtype="float32") for _ in range(2))
    rows = encode_rows(examples(14), whole.tokenizer)[0]
    later = []
    train(resumed, rows, out, SHORT_RUN, on_log=later.append)
    train(whole, rows, tmp_path / "whole", SHORT_RUN)
    assert min(values["step"] for values in later) >= 10, "it began again"
    assert_same_weights(resumed.model, whole.model)


@pytest.mark.parametrize("damage", ["no state", "torn state", "only a folder"])
def test_a_half_saved_checkpoint_is_passed_over(damage, tiny, rows, tmp_path):
    again, start = copy.deepcopy(tiny), copy.deepcopy(tiny)
    train(tiny, rows, tmp_path, SHORT_RUN)
    last = tmp_path / "checkpoints" / "checkpoint-16"
    state = last / "trainer_state.json"
    match damage:
        case "no state":
            state.unlink()
        case "torn state":
            state.write_text(state.read_text()[:100])
        case "only a folder":
            shutil.rmtree(last)
            last.mkdir()
    steps = []
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    hook = register_optimizer_step_pre_hook(lambda *_: steps.append(1))
    train(again, rows, tmp_path, SHORT_RUN)
    hook.remove()
    assert len(steps) == 1, "checkpoint-15 was there to go on from"
    assert_same_weights(again.model, tiny.model)
    assert weights_fingerprint(again.model) != weights_fingerprint(start.model)


def changed(what, tiny, rows, settings):
    match what:
        case "settings":
            return rows, replace(settings, learning_rate=1e-4)
        case "rows":
            return rows[:-1], settings
        case "supervision":
            return [Row(row.ids, row.prompt_length - 1) for row in rows], settings
        case "start":
            with torch.no_grad():
                tiny.model.get_input_embeddings().weight[5] += 0.1
            return rows, settings


@pytest.mark.parametrize("what", ["settings", "rows", "supervision", "start"])
def test_another_run_in_the_same_folder_starts_afresh(what, tiny, rows, tmp_path):
    settings = replace(SHORT_RUN, epochs=1)
    train(copy.deepcopy(tiny), rows, tmp_path / "used", settings)
    rows, settings = changed(what, tiny, rows, settings)
    clean = copy.deepcopy(tiny)
    train(tiny, rows, tmp_path / "used", settings)
    train(clean, rows, tmp_path / "clean", settings)
    assert_same_weights(tiny.model, clean.model)


def test_lora_trains_the_adapter_and_leaves_the_model_alone(tiny, rows, tmp_path):
    before = {name: tensor.clone() for name, tensor in tiny.model.state_dict().items()}
    train(tiny, rows, tmp_path, replace(ONE_STEP, lora_rank=2))
    after = {
        name.replace("base_model.model.", "").replace(".base_layer", ""): t
        for name, t in tiny.model.state_dict().items()
    }
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    updates = [tensor for name, tensor in after.items() if "lora_B" in name]
    assert updates and all(tensor.any() for tensor in updates)


def test_a_corrected_teacher_loads_by_its_folder(tiny_folder, tmp_path):
    recipe = correct(examples(6), tmp_path / "teacher", tiny_folder, replace(ONE_STEP, max_steps=3, lora_rank=2))
    assert recipe["rows"] == 6 and recipe["steps"] == 3
    assert json.loads((tmp_path / "teacher" / "recipe.json").read_text()) == recipe
    taught, base = load_model(str(tmp_path / "teacher"), "float32"), load_model(tiny_folder, "float32")
    rows = encode_rows(examples(6), base.tokenizer)[0]
    assert mean_loss(taught, rows) < mean_loss(base, rows)


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_a_distilled_student_is_saved_as_it_was_trained(lora_rank, tiny_folder, tmp_path):
    settings = replace(SHORT_RUN, epochs=2, lora_rank=lora_rank)
    report = distill(tiny_folder, examples(8), tmp_path / "student", settings)
    assert (report["rows"], report["left_out"], report["steps"]) == (8, 0, 4)
    assert json.loads((tmp_path / "student" / "distill.json").read_text()) == report
    student, base = load_model(str(tmp_path / "student"), "float32"), load_model(tiny_folder, "float32")
    assert student.parameters == base.parameters
    rows = encode_rows(examples(8), base.tokenizer)[0]
    assert mean_loss(student, rows) < mean_loss(base, rows)
