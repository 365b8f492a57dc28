"""Hidden-state and attention transfer: what is compared is what the model computes, whatever its depth and width."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from slmops_utils.distill.attention import attention_inputs, attention_maps, value_relations, visible
from slmops_utils.distill.dataset import collate, encode_rows
from slmops_utils.distill.distill import distill
from slmops_utils.distill.hidden import even_map, layer_outputs, read_map
from slmops_utils.distill.losses import forward_kl
from slmops_utils.distill.methods import make_method
from slmops_utils.distill.supervised import supervised_loss
from slmops_utils.distill.train import TrainSettings, mean_loss, train
from slmops_utils.models.align import DifferentTokenizers
from slmops_utils.models.carve import keep_layers, keep_tokens
from slmops_utils.models.load import LoadedModel, load_model
from slmops_utils.models.vocabulary import trim_tokenizer
from slmops_utils.records import Example

LABELS = ("entailment", "neutral", "contradiction")
BASE = TrainSettings(batch_size=4, warmup_share=0, learning_rate=5e-3, alpha=0.3, max_steps=40)
KINDS = [("hidden", {"hidden_loss": "cosine"}), ("hidden", {"hidden_loss": "mse"}),
         ("attention", {"attention_loss": "values"}), ("attention", {"attention_loss": "maps"})]  # fmt: skip
each_kind = pytest.mark.parametrize(("name", "options"), KINDS, ids=["cosine", "mse", "values", "maps"])


@pytest.fixture
def teacher(tiny):
    """Deeper and wider than its student, with more heads."""
    from transformers import LlamaForCausalLM

    config = copy.deepcopy(tiny.model.config)
    config.update({"hidden_size": 96, "num_hidden_layers": 5, "num_attention_heads": 6, "num_key_value_heads": 3})
    config.head_dim = 16
    torch.manual_seed(3)
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # random weights as they come attend to everything alike
    return LoadedModel("teacher", model, tiny.tokenizer, "float32", "")


@pytest.fixture
def rows(tiny):
    examples = [
        Example(f"t{i}", "nli", [{"role": "user", "content": f"Premise: {'fee ' * (3 * i % 7)}£{i}."}], LABELS[i % 3])
        for i in range(4)
    ]
    return encode_rows(examples, tiny.tokenizer)[0]


def made(name, student, teacher, **options):
    return make_method(replace(BASE, method=name, **options), student, teacher, [], Path("unused"))


def test_layers_are_paired_by_equal_shares_of_the_depth():
    assert even_map(2, 5) == [(0, 1), (1, 4)]
    assert even_map(6, 30) == [(i, 5 * i + 4) for i in range(6)]
    assert even_map(3, 3) == [(0, 0), (1, 1), (2, 2)]
    assert read_map("0:0,1:4", 2, 5) == [(0, 0), (1, 4)]


@pytest.mark.parametrize("text", ["2:0", "0:5", "0:-1", "0", "a:b", "0:1,"])
def test_a_layer_map_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="layer_map"):
        read_map(text, 2, 5)


def test_layer_outputs_are_the_hidden_states(teacher, rows):
    batch = collate(rows, 0)
    with torch.no_grad(), layer_outputs(teacher.model, [0, 2, 4]) as found:
        states = teacher.model(input_ids=batch["input_ids"], output_hidden_states=True).hidden_states
    torch.testing.assert_close(found[0], states[1])
    torch.testing.assert_close(found[2], states[3])
    torch.testing.assert_close(teacher.model.model.norm(found[4]), states[5])
    found.clear()
    teacher.model(input_ids=batch["input_ids"])
    assert not found, "the hooks are still there"


def test_attention_maps_are_the_models_own(teacher, rows):
    batch = collate(rows, 0)
    before = teacher.model.config._attn_implementation
    with torch.no_grad(), attention_inputs(teacher.model, [1, 4]) as found:
        logits = teacher.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    assert teacher.model.config._attn_implementation == before != "slmops_seen"
    teacher.model.set_attn_implementation("eager")
    with torch.no_grad():
        eager = teacher.model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], output_attentions=True
        )
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(logits[real], eager.logits[real], rtol=1e-3, atol=1e-3)
    for layer in (1, 4):
        maps = attention_maps(found[layer], batch["attention_mask"]).exp()
        for i, length in enumerate(batch["attention_mask"].sum(1).tolist()):
            expected = eager.attentions[layer][i, :, :length, :length]
            torch.testing.assert_close(maps[i, :, :length, :length], expected, rtol=1e-3, atol=1e-4)
            assert not maps[i, :, :, length:].any()


def test_value_relations_are_the_formula(teacher, rows):
    with torch.no_grad(), attention_inputs(teacher.model, [2]) as found:
        teacher.model(input_ids=torch.tensor([rows[0].ids]))
    (value,) = found[2].value
    joined = value.transpose(0, 1).reshape(len(rows[0].ids), -1)  # (length, 3 heads of 16)
    relations = value_relations(found[2], torch.ones(1, len(rows[0].ids)), heads=3)[0].exp()
    for head in range(3):
        part = joined[:, 16 * head : 16 * head + 16]
        for place in (0, 3, 9):
            expected = (part[: place + 1] @ part[place] / 4).softmax(0)
            torch.testing.assert_close(relations[head, place, : place + 1], expected)
            assert not relations[head, place, place + 1 :].any()


def test_a_sliding_window_hides_what_lies_further_back():
    assert visible(torch.ones(1, 4), window=2)[0, 0].tolist() == [
        [True, False, False, False],
        [True, True, False, False],
        [False, True, True, False],
        [False, False, True, True],
    ]


DISTANCES = {
    "mse": lambda a, b: (a - b).square().mean(-1),
    "cosine": lambda a, b: 1 - (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1)),
}


@pytest.mark.parametrize("pairs", [[(0, 3)], [(0, 1), (1, 4)]], ids=["one pair", "two pairs"])
@pytest.mark.parametrize("name", DISTANCES)
def test_hidden_loss_is_the_formula(name, pairs, tiny, teacher, rows):
    layer_map = ",".join(f"{s}:{t}" for s, t in pairs)
    method = made("hidden", tiny, teacher, layer_map=layer_map, hidden_loss=name)
    loss, count = method.loss(tiny.model, collate(rows, 0))
    expected = 0
    for row in rows:
        ids, chosen = torch.tensor([row.ids]), slice(row.prompt_length - 1, -1)
        with layer_outputs(tiny.model, range(2)) as ours, layer_outputs(teacher.model, range(5)) as theirs:
            tiny.model(input_ids=ids)
            teacher.model(input_ids=ids)
        for i, (s, t) in enumerate(pairs):
            projected = ours[s][0, chosen] @ method.learned[i].weight.T
            expected = expected + DISTANCES[name](projected, theirs[t][0, chosen]).sum() / len(pairs)
    text, _ = supervised_loss(tiny.model, collate(rows, 0))
    assert count == sum(row.supervised for row in rows)
    torch.testing.assert_close(loss, 0.3 * text + 0.7 * expected, rtol=1e-4, atol=1e-4)


def test_attention_loss_is_the_formula_with_heads_averaged_where_they_differ(tiny, teacher, rows):
    method = made("attention", tiny, teacher, attention_loss="maps", alpha=0.0)
    loss, _ = method.loss(tiny.model, collate(rows, 0))
    for model in (tiny.model, teacher.model):
        model.set_attn_implementation("eager")
    expected = 0
    for row in rows:
        ids, chosen = torch.tensor([row.ids]), slice(row.prompt_length - 1, -1)
        ours, theirs = (
            m(input_ids=ids, output_attentions=True).attentions[-1][0].mean(0)[chosen].log()
            for m in (tiny.model, teacher.model)
        )
        expected = expected + forward_kl(theirs, ours).sum()
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("heads", [1, 2])
def test_value_loss_is_the_formula_of_the_paper(heads, tiny, teacher, rows):
    """MiniLM (arXiv 2002.10957, equation 9): KL of softmax(V V' / sqrt(width)), the mean over relation heads."""
    if heads == 2:  # as many as both have in common: 2 and 3 have one
        teacher = copy.deepcopy(tiny)
        with torch.no_grad():
            for parameter in teacher.model.parameters():
                parameter.mul_(3)
    method = made("attention", tiny, teacher, attention_loss="values", alpha=0.0)
    loss, _ = method.loss(tiny.model, collate(rows, 0))

    def values(model, ids):
        """Of the last layer, (heads, length, width of a relation head)."""
        layer, states = model.model.layers[-1], model(input_ids=ids, output_hidden_states=True).hidden_states
        value = layer.self_attn.v_proj(layer.input_layernorm(states[-2][0]))
        return torch.stack(value.chunk(heads, dim=-1))

    expected = 0
    for row in rows:
        both = [values(model, torch.tensor([row.ids])) for model in (teacher.model, tiny.model)]
        for place in range(row.prompt_length - 1, len(row.ids) - 1):
            for head in range(heads):
                theirs, ours = (
                    (v[head, : place + 1] @ v[head, place] / v.shape[-1] ** 0.5).log_softmax(0) for v in both
                )
                expected = expected + (theirs.exp() * (theirs - ours)).sum() / heads
    assert expected > 0.1
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=1e-4)


@each_kind
def test_a_copy_of_the_teacher_has_nothing_to_learn(name, options, tiny, rows):
    method = made(name, tiny, copy.deepcopy(tiny), alpha=0.0, **options)
    loss, _ = method.loss(tiny.model, collate(rows, 0))
    assert abs(loss.item()) < 1e-3
    loss.backward()
    assert all(p.grad is None or p.grad.abs().max() < 1e-3 for p in tiny.model.parameters())


@each_kind
def test_padding_changes_neither_loss_nor_gradient(name, options, tiny, teacher, rows):
    method = made(name, tiny, teacher, **options)
    together, _ = method.loss(tiny.model, collate(rows, 3))
    alone = sum(method.loss(tiny.model, collate([row], 0))[0] for row in rows)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    names, parameters = zip(*tiny.model.named_parameters(), strict=True)
    found, expected = (torch.autograd.grad(loss, parameters, allow_unused=True) for loss in (together, alone))
    for parameter, a, b in zip(names, found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3, msg=lambda m, p=parameter: f"{p}: {m}")


@each_kind
@pytest.mark.parametrize("lora_rank", [0, 2])
def test_training_brings_student_and_teacher_together_and_leaves_no_projection(
    name, options, lora_rank, tiny, teacher, rows, tmp_path
):
    settings = replace(BASE, method=name, lora_rank=lora_rank, **options)
    method = make_method(settings, tiny, teacher, rows, tmp_path)
    apart = replace(settings, alpha=0.0)
    method.settings = apart
    with torch.no_grad():
        before = method.loss(tiny.model, collate(rows, 0))[0].item()
    method.settings = settings
    names = set(tiny.model.state_dict())
    theirs = {key: value.clone() for key, value in teacher.model.state_dict().items()}
    train(tiny, rows, tmp_path, settings, method=method)
    method.settings = apart
    with torch.no_grad():
        assert method.loss(tiny.model, collate(rows, 0))[0].item() < 0.8 * before
    assert all(torch.equal(value, theirs[key]) for key, value in teacher.model.state_dict().items())
    if not lora_rank:
        assert set(tiny.model.state_dict()) == names


def test_projections_are_trained_but_not_in_the_saved_student(tiny, teacher, tmp_path, monkeypatch):
    used = []
    monkeypatch.setattr(
        "slmops_utils.distill.distill.make_method", lambda *args: used.append(make_method(*args)) or used[-1]
    )
    examples = [
        Example(f"t{i}", "nli", [{"role": "user", "content": f"the fee £{i}"}], LABELS[i % 3]) for i in range(6)
    ]
    settings = replace(BASE, method="hidden", max_steps=3)
    report = distill(copy.deepcopy(tiny), examples, tmp_path / "student", settings, teacher=teacher)
    assert report["teacher"] == "teacher"
    start = made("hidden", tiny, teacher).learned
    for before, after in zip(start.parameters(), used[0].learned.parameters(), strict=True):
        assert (after - before).abs().max() > 1e-3
    with safe_open(tmp_path / "student" / "model.safetensors", "pt") as file:
        assert not [key for key in file.keys() if "learned" in key]  # noqa: SIM118
    student = load_model(str(tmp_path / "student"), "float32")
    assert student.parameters == tiny.parameters
    assert mean_loss(student, encode_rows(examples, tiny.tokenizer)[0]) > 0


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_an_interrupted_run_ends_with_the_same_weights_and_projections(lora_rank, tiny, teacher, rows, tmp_path):
    settings = replace(BASE, method="hidden", max_steps=12, save_steps=3, lora_rank=lora_rank)

    def run(out, on_log=None):
        student = copy.deepcopy(tiny)
        method = make_method(settings, student, teacher, rows, tmp_path)
        train(student, rows, out, settings, on_log=on_log, method=method)
        return [*student.model.parameters(), *method.learned.parameters()]

    def interrupt(values):
        if values["step"] == 10:
            raise KeyboardInterrupt

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", interrupt)
    for a, b in zip(run(tmp_path / "cut"), whole, strict=True):
        assert torch.equal(a, b)


@each_kind
def test_a_student_with_a_trimmed_vocabulary_and_fewer_layers_learns_from_its_parent(name, options, teacher):
    tokenizer, kept = trim_tokenizer(teacher.tokenizer, ["system user assistant the fee"])
    model = keep_tokens(keep_layers(teacher.model, [0, 4]), kept, tokenizer)
    student = LoadedModel("student", model, tokenizer, "float32", "")
    example = Example("a", "nli", [{"role": "user", "content": "the fee"}], "neutral")
    method = made(name, student, teacher, **options)
    loss, _ = method.loss(model, collate(encode_rows([example], tokenizer)[0], 0))
    loss.backward()
    assert loss.isfinite() and loss > 0
    with pytest.raises(DifferentTokenizers, match=r"hidden states and attention.*Use method 'text'"):
        made(name, teacher, student, **options)


def test_a_model_is_not_its_own_teacher_and_unknown_losses_are_named(tiny, teacher):
    with pytest.raises(ValueError, match="one model, which would learn from itself"):
        made("hidden", tiny, tiny)
    with pytest.raises(ValueError, match="no hidden_loss 'l1'; there are cosine, mse"):
        made("hidden", tiny, teacher, hidden_loss="l1")
    with pytest.raises(ValueError, match="no attention_loss 'keys'; there are values, maps"):
        made("attention", tiny, teacher, attention_loss="keys")
