"""The methods: each is its formula, and neither padding, order nor accumulation changes what a step learns."""

import copy
import json
import random
from dataclasses import replace
from functools import partial

import pytest
import torch
from killing import kill_when
from torch.nn.functional import cross_entropy

from slmops_utils.__main__ import main
from slmops_utils.distill import methods
from slmops_utils.distill.dataset import blank, encode_rows
from slmops_utils.distill.distill import distill
from slmops_utils.distill.losses import (
    forward_kl,
    generalised_jsd,
    in_chunks,
    on_support,
    reverse_kl,
    skewed_kl,
    softened,
)
from slmops_utils.distill.methods import DIVERGENCES, METHODS, check_method, make_method
from slmops_utils.distill.supervised import Method, supervised_loss
from slmops_utils.distill.train import TrainSettings, mean_loss, train
from slmops_utils.models.carve import keep_tokens, save
from slmops_utils.models.load import LoadedModel, load_model
from slmops_utils.models.vocabulary import trim_tokenizer
from slmops_utils.records import Example, write_records

LABELS = ("entailment", "neutral", "contradiction")
FORMULA = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jsd": lambda t, s: generalised_jsd(t, s, 0.3),
    "skewed_kl": lambda t, s: skewed_kl(t, s, 0.2),
}
BASE = TrainSettings(batch_size=4, warmup_share=0, learning_rate=1e-3, beta=0.3, skew=0.2, temperature=2.0, top_k=6)


def examples(count):
    return [
        Example(f"t{i}", "nli", [{"role": "user", "content": f"Premise: {'fee ' * (3 * i % 7)}£{i}."}], LABELS[i % 3])
        for i in range(count)
    ]


@pytest.fixture
def rows(tiny):
    return encode_rows(examples(4), tiny.tokenizer)[0]


@pytest.fixture
def student(tiny):
    """Another model than its teacher."""
    other = copy.deepcopy(tiny)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape, generator=generator))
    return other


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


def assert_close(found, expected, **tolerance):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, **tolerance)


def logits_of(loaded, row):
    return loaded.model(input_ids=torch.tensor([row.ids])).logits[0, row.prompt_length - 1 : -1]


def by_hand(settings, teacher, student, rows):
    """The loss summed over all supervised tokens, one row at a time, as the formula says."""
    total, t, a = 0, settings.temperature, settings.alpha
    for row in rows:
        with torch.no_grad():
            theirs = logits_of(teacher, row)
        ours = logits_of(student, row)
        if settings.top_k >= theirs.shape[-1]:
            both = softened(theirs, t), softened(ours, t)
        else:
            ids = theirs.topk(settings.top_k).indices
            both = on_support(theirs, ids, t), on_support(ours, ids, t)
        soft = t**2 * FORMULA[settings.method](*both).sum()
        hard = cross_entropy(ours, torch.tensor(row.ids[row.prompt_length :]), reduction="sum")
        total = total + a * hard + (1 - a) * soft
    return total


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize(("top_k", "alpha"), [(6, 0.0), (6, 0.3), (10_000, 0.3)])
def test_a_batch_is_graded_by_the_formula_in_value_and_gradient(
    name, top_k, alpha, tiny, student, rows, tmp_path, monkeypatch
):
    settings = replace(BASE, method=name, top_k=top_k, alpha=alpha)
    method = make_method(settings, student, tiny, rows, tmp_path)
    expected = by_hand(settings, tiny, student, rows)
    plain = gradients(student.model, expected)
    for at_once in (1024, 3):  # the whole batch, and a chunk at a time
        monkeypatch.setattr(methods, "in_chunks", partial(in_chunks, rows=at_once))
        loss, count = method.loss(student.model, method.collate(rows, tiny.tokenizer.pad_token_id))
        assert count == sum(row.supervised for row in rows) > 3
        torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)
        assert_close(gradients(student.model, loss), plain, rtol=1e-3, atol=1e-4)


def test_alpha_one_is_the_text_loss(tiny, student, rows, tmp_path):
    method = make_method(replace(BASE, method="jsd", alpha=1.0), student, tiny, rows, tmp_path)
    batch = method.collate(rows, 0)
    torch.testing.assert_close(method.loss(student.model, batch)[0], supervised_loss(student.model, batch)[0])


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_student_that_is_its_teacher_has_nothing_to_learn(name, tiny, rows, tmp_path):
    method = make_method(replace(BASE, method=name, alpha=0.0), tiny, tiny, rows, tmp_path)
    loss, _ = method.loss(tiny.model, method.collate(rows, 0))
    assert abs(loss.item()) < 1e-4
    assert max(gradient.abs().max().item() for gradient in gradients(tiny.model, loss)) < 1e-4


def step(student, rows, out, settings, method):
    """What one optimizer step was given."""
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    student, caught = copy.deepcopy(student), []
    hook = register_optimizer_step_pre_hook(
        lambda *_: caught.append([p.grad.clone() for p in student.model.parameters()])
    )
    try:
        train(student, rows, out, settings, method=method)
    finally:
        hook.remove()
    return caught[0]


def test_order_and_accumulation_change_nothing(tiny, student, rows, tmp_path):
    settings = replace(BASE, method="forward_kl", max_steps=1, alpha=0.4)
    method = make_method(settings, student, tiny, rows, tmp_path / "soft")
    whole = step(student, rows, tmp_path / "a", settings, method)
    plain = gradients(student.model, by_hand(settings, tiny, student, rows) / sum(row.supervised for row in rows))
    norm = torch.stack([gradient.norm() for gradient in plain]).norm()
    assert_close(whole, [gradient / max(norm, 1.0) for gradient in plain], rtol=1e-2, atol=1e-5)
    shuffled = random.Random(0).sample(rows, len(rows))
    assert shuffled != rows
    small = replace(settings, batch_size=1, gradient_accumulation=4)
    assert_close(step(student, shuffled, tmp_path / "b", small, method), whole, rtol=1e-2, atol=1e-6)


def test_padding_changes_nothing(tiny, student, rows, tmp_path):
    method = make_method(replace(BASE, method="jsd"), student, tiny, rows, tmp_path)
    alone = [method.loss(student.model, method.collate([row], 0))[0] for row in rows]
    together, _ = method.loss(student.model, method.collate(rows, 3))
    torch.testing.assert_close(together, sum(alone), rtol=1e-4, atol=1e-4)
    found, expected = gradients(student.model, together), gradients(student.model, sum(alone))
    assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_a_blank_row_adds_nothing_whatever_the_method(name, tiny, student, rows, tmp_path):
    settings = replace(BASE, method=name, on_policy_share=0.0)
    method = make_method(settings, student, tiny, rows, tmp_path / "soft")
    filled = [*rows, blank(rows)]
    found, count = method.loss(student.model, method.collate(filled, 0))
    expected, tokens = method.loss(student.model, method.collate(rows, 0))
    assert count == tokens
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    nothing, none = method.loss(student.model, method.collate(filled[-1:], 0))
    assert (nothing.item(), none) == (0, 0)
    assert all(not gradient.any() for gradient in gradients(student.model, nothing)), (
        "and every weight has its gradient"
    )


def test_training_on_soft_targets_brings_the_student_to_its_teacher(tiny, student, rows, tmp_path):
    settings = replace(BASE, method="forward_kl", alpha=0.0, max_steps=60, learning_rate=5e-3, top_k=32)
    method = make_method(settings, student, tiny, rows, tmp_path / "soft")
    before = by_hand(settings, tiny, student, rows)
    train(student, rows, tmp_path, settings, method=method)
    assert by_hand(settings, tiny, student, rows) < before / 10


def test_an_interrupted_run_ends_with_the_same_weights(tiny, student, tmp_path):
    rows = encode_rows(examples(12), tiny.tokenizer)[0]
    settings = replace(BASE, method="reverse_kl", epochs=4, save_steps=3)
    method = make_method(settings, student, tiny, rows, tmp_path / "soft")
    whole, cut, again = (copy.deepcopy(student) for _ in range(3))
    train(whole, rows, tmp_path / "whole", settings, method=method)

    def interrupt(values):
        if values["step"] == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(cut, rows, tmp_path / "cut", settings, on_log=interrupt, method=method)
    train(again, rows, tmp_path / "cut", settings, method=method)
    for a, b in zip(again.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_run_on_soft_targets_that_is_killed_ends_with_the_same_weights(tiny, student, tmp_path, monkeypatch):
    monkeypatch.setenv("SLMOPS_DTYPE", "float32")
    for name, model in {"teacher": tiny, "student": student}.items():
        save(model, str(tmp_path / name))
    settings = replace(BASE, method="jsd", epochs=4, save_steps=3)
    folders = str(tmp_path / "student"), str(tmp_path / "teacher")
    out, soft = tmp_path / "killed", tmp_path / "soft"
    # while the teacher's answers are written, and in the middle of a checkpoint
    for point in (soft / "key.json", out / "checkpoints" / "checkpoint-6" / "model.safetensors"):
        assert kill_when(point, distill_softly, (*folders, examples(12), out, soft, settings))
    found = distill_softly(*folders, examples(12), out, soft, settings)
    assert found["steps"] == 12 and min(h["step"] for h in found["losses"]) == 5
    distill_softly(*folders, examples(12), tmp_path / "whole", tmp_path / "soft again", settings)
    killed, whole = (load_model(str(folder), "float32").model.state_dict() for folder in (out, tmp_path / "whole"))
    assert all(torch.equal(killed[name], tensor) for name, tensor in whole.items())


def distill_softly(student, teacher, records, out, soft, settings):
    return distill(student, records, out, settings, teacher=teacher, soft_targets=soft)


def test_another_teacher_is_another_run(tiny, student, rows, tmp_path):
    settings = replace(BASE, method="forward_kl", max_steps=2)
    method = make_method(settings, student, tiny, rows, tmp_path / "soft")
    other = make_method(settings, student, student, rows, tmp_path / "other")
    assert method.identity != other.identity


# distill and the command line


def test_a_missing_teacher_and_an_unknown_method_are_named_before_anything_is_loaded(tmp_path):
    with pytest.raises(ValueError, match="no method 'kl'; there are text, forward_kl"):
        distill("nowhere", [], tmp_path, TrainSettings(method="kl"))
    with pytest.raises(ValueError, match="'forward_kl' compares the student with a teacher: name one"):
        distill("nowhere", [], tmp_path, TrainSettings(method="forward_kl"))
    check_method(TrainSettings(), None)
    assert not list(tmp_path.iterdir())


def test_settings_and_method_must_agree(tiny, rows, tmp_path):
    with pytest.raises(ValueError, match="the settings say method 'jsd', but batches would be graded by 'text'"):
        train(tiny, rows, tmp_path, replace(BASE, method="jsd"), method=Method())


@pytest.mark.parametrize("trim", [False, True])
def test_the_command_line_distils_and_reuses_what_the_teacher_said(trim, tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SLMOPS_DTYPE", "float32")
    save(tiny, str(tmp_path / "teacher"))
    small = tiny
    if trim:
        tokenizer, kept = trim_tokenizer(tiny.tokenizer, ["system user assistant Premise: the fee. neutral"])
        small = LoadedModel(
            "trimmed", keep_tokens(copy.deepcopy(tiny.model), kept, tokenizer), tokenizer, "float32", ""
        )
    save(small, str(tmp_path / "student"))
    write_records(tmp_path / "data.jsonl", examples(6))
    command = f"""distill --student {tmp_path}/student --data {tmp_path}/data.jsonl --teacher {tmp_path}/teacher
        --method skewed_kl --top-k 5 --alpha 0.2 --temperature 2 --skew 0.05 --max-steps 6 --batch-size 3
        --soft-targets {tmp_path}/soft --learning-rate 0.001""".split()
    assert main([*command, "--out", str(tmp_path / "a")]) == 0
    assert "bytes a token" in capsys.readouterr().out
    shard = next((tmp_path / "soft").glob("shard-*"))
    made = shard.stat().st_mtime_ns
    assert main([*command, "--out", str(tmp_path / "b"), "--seed", "1"]) == 0
    assert shard.stat().st_mtime_ns == made and len(list((tmp_path / "soft").glob("shard-*"))) == 1
    report = json.loads((tmp_path / "a" / "distill.json").read_text())
    wanted = {"method": "skewed_kl", "top_k": 5, "alpha": 0.2, "temperature": 2.0, "skew": 0.05}
    assert wanted.items() <= report["settings"].items() and report["teacher"] == str(tmp_path / "teacher")
    student = load_model(str(tmp_path / "a"))
    rows = encode_rows(examples(6), student.tokenizer)[0]
    assert mean_loss(student, rows) < mean_loss(load_model(str(tmp_path / "student")), rows)
    assert main([*command, "--out", str(tmp_path / "c"), "--top-k", "6"]) == 1
    assert "top_k 5, not 6" in capsys.readouterr().err
