"""Every architecture goes the whole road: load, carve, LoRA, text and logit distillation, save and load again.

The models are tiny and their weights random, but they are built by transformers from their own configs, so fused
projections (Phi-3), query norms (Qwen3), tied and scaled embeddings (Gemma), capped scores (Gemma 2) and sliding windows
(Mistral, Gemma 3) are all there. Their vocabularies are padded, each to another width, as published ones are.
"""

import copy
import math
from dataclasses import replace

import jinja2
import pytest
import torch
import transformers

from slmops_utils.distill.dataset import collate, encode_rows
from slmops_utils.distill.distill import distill
from slmops_utils.distill.losses import generalised_jsd, on_support
from slmops_utils.distill.methods import make_method
from slmops_utils.distill.train import TrainSettings, mean_loss
from slmops_utils.models.align import DifferentTokenizers
from slmops_utils.models.carve import save, shrink
from slmops_utils.models.load import LoadedModel, ModelNotFound, load_model
from slmops_utils.models.vocabulary import trim_tokenizer
from slmops_utils.records import Example, read_records
from slmops_utils.synthesize.answer import Sampling, answer, encode_prompt, end_ids
from slmops_utils.synthesize.generate import generate

ARCHITECTURES = {
    "Llama": {"tie_word_embeddings": False},
    "Qwen3": {"head_dim": 16},
    "Phi3": {"sliding_window": None},
    "Mistral": {"sliding_window": 8},
    "Gemma": {"head_dim": 16},
    "Gemma2": {"head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 16},
    "Gemma3": {"head_dim": 16, "sliding_window": 8},
}
HUB = {  # published models: their architecture, and what is particular about their config, in small
    "meta-llama/Llama-3.1-8B-Instruct": ("Llama", {
        "tie_word_embeddings": False, "rope_theta": 500000.0, "eos_token_id": [0, 2],
        "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                         "original_max_position_embeddings": 32},
    }),
    "microsoft/Phi-4-mini-instruct": ("Phi3", {
        "tie_word_embeddings": True, "sliding_window": 1024, "partial_rotary_factor": 0.75, "eos_token_id": [0, 2],
        "max_position_embeddings": 1024, "original_max_position_embeddings": 256,
    }),
    "Qwen/Qwen3-0.6B": ("Qwen3", {"tie_word_embeddings": True, "head_dim": 16, "rope_theta": 1000000.0}),
}  # fmt: skip
each_architecture = pytest.mark.parametrize("name", [*ARCHITECTURES, *HUB])
EXAMPLES = [
    Example(f"t{i}", "nli", [{"role": "user", "content": f"Premise: the fee {'fee ' * i}£{i}."}], label)
    for i, label in enumerate(["entailment", "neutral", "contradiction", "neutral"])
]
SHORT = TrainSettings(batch_size=2, max_steps=4, learning_rate=5e-3, warmup_share=0, top_k=8)


def kind_of(name):
    return HUB[name][0] if name in HUB else name


def built(name, tokenizer, padding=64, layers=4, width=32, seed=0):
    kind, particular = HUB[name] if name in HUB else (name, ARCHITECTURES[name])
    if name == "microsoft/Phi-4-mini-instruct":  # a factor for every pair of the rotated three quarters of a head
        pairs = width // 4 * 3 // 4 // 2
        factors = {"short_factor": [1.0 + i / 8 for i in range(pairs)], "long_factor": [2.0 + i for i in range(pairs)]}
        particular = particular | {"rope_scaling": {"type": "longrope", **factors}}
    config_class = "Gemma3TextConfig" if kind == "Gemma3" else f"{kind}Config"
    common = {
        "vocab_size": math.ceil((len(tokenizer) + 1) / padding) * padding, "hidden_size": width, "intermediate_size": 48,
        "num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    config = getattr(transformers, config_class)(**copy.deepcopy(common | particular))
    torch.manual_seed(seed)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    return LoadedModel(name, model, tokenizer, "float32", "")


@pytest.fixture
def teacher(name, tiny, tmp_path):
    """A model of this architecture as it comes off the disk."""
    save(built(name, tiny.tokenizer), str(tmp_path / "teacher"))
    return load_model(str(tmp_path / "teacher"), "float32", "cpu")


def logits(loaded, row):
    with torch.no_grad():
        return loaded.model(input_ids=torch.tensor([row.ids])).logits


@each_architecture
def test_it_loads_is_carved_and_comes_back_from_disk(name, teacher, tmp_path):
    assert type(teacher.model).__name__ == f"{kind_of(name)}ForCausalLM"
    texts = ["system user assistant", *(m["content"] for e in EXAMPLES for m in e.messages)]
    student = shrink(teacher, [0, 3], vocabulary_from=texts)
    assert student.model.config.num_hidden_layers == 2
    assert student.model.get_output_embeddings().weight.shape[0] == len(student.tokenizer) < len(teacher.tokenizer)
    save(student, str(tmp_path / "student"))
    again = load_model(str(tmp_path / "student"), "float32", "cpu")
    row = encode_rows(EXAMPLES, again.tokenizer)[0][3]
    for parameter in student.model.parameters():  # the precision they were saved in; buffers are made anew
        parameter.data = parameter.data.bfloat16().float()
    torch.testing.assert_close(logits(again, row), logits(student, row), rtol=1e-4, atol=1e-4)
    out = again.model.generate(
        input_ids=torch.tensor([row.ids[: row.prompt_length]]), max_new_tokens=4, do_sample=False
    )
    assert out.shape[1] > row.prompt_length


@each_architecture
@pytest.mark.parametrize("lora_rank", [0, 2])
@pytest.mark.parametrize("method", ["text", "forward_kl"])
def test_it_is_distilled_saved_and_loaded_again(name, method, lora_rank, teacher, tmp_path):
    student = shrink(teacher, [0, 3])
    rows = encode_rows(EXAMPLES, teacher.tokenizer)[0]
    before = mean_loss(student, rows)
    settings = replace(SHORT, method=method, lora_rank=lora_rank)
    report = distill(student, EXAMPLES, tmp_path / "out", settings, teacher=teacher)
    again = load_model(str(tmp_path / "out"), "float32", "cpu")
    assert report["steps"] == 4 and mean_loss(again, rows) < before
    torch.testing.assert_close(mean_loss(again, rows), mean_loss(student, rows), rtol=0.02, atol=0.02)


@each_architecture
@pytest.mark.parametrize("options", [{"method": "hidden"}, {"method": "attention"},
                                     {"method": "attention", "attention_loss": "maps"}, {"method": "on_policy"}],
                         ids=["hidden", "values", "maps", "on_policy"])  # fmt: skip
def test_what_is_inside_it_can_be_transferred(name, options, teacher, tiny):
    """To a student of another width and depth; and a copy of the teacher has nothing to learn."""
    student = built(name, tiny.tokenizer, layers=2, width=64, seed=1)
    rows = encode_rows(EXAMPLES, tiny.tokenizer)[0]
    for learner, settled in ((student, False), (copy.deepcopy(teacher), True)):
        method = make_method(replace(SHORT, alpha=0.0, **options), learner, teacher, rows, "unused")
        loss, count = method.loss(learner.model, collate(rows, 0))
        loss.backward()
        assert count == sum(row.supervised for row in rows)
        assert abs(loss.item() / count) < 1e-4 if settled else loss.item() > 1e-6


@each_architecture
def test_its_attention_maps_are_its_own(name, teacher):
    """What our interface sees gives the maps the eager implementation returns."""
    from slmops_utils.distill.attention import attention_inputs, attention_maps

    batch = collate(encode_rows(EXAMPLES, teacher.tokenizer)[0], 0)
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    layers = range(teacher.model.config.num_hidden_layers)
    with torch.no_grad(), attention_inputs(teacher.model, layers) as found:
        teacher.model(**inputs)
    teacher.model.set_attn_implementation("eager")
    with torch.no_grad():
        eager = teacher.model(**inputs, output_attentions=True).attentions
    real = batch["attention_mask"].bool()
    for layer in layers:
        maps = attention_maps(found[layer], batch["attention_mask"]).exp()
        torch.testing.assert_close(maps.transpose(1, 2)[real], eager[layer].transpose(1, 2)[real], rtol=1e-3, atol=1e-4)


def test_one_family_with_differently_padded_vocabularies_and_architectures(tiny, tmp_path):
    teacher, student = built("Qwen3", tiny.tokenizer, padding=256), built("Llama", tiny.tokenizer, layers=2)
    widths = [m.model.get_output_embeddings().out_features for m in (teacher, student)]
    assert len({*widths, len(tiny.tokenizer)}) == 3
    for method in ("jsd", "on_policy"):
        settings = replace(SHORT, method=method, on_policy_share=1.0, sample_tokens=8)
        report = distill(student, EXAMPLES, tmp_path / method, settings, teacher=teacher)
        assert report["steps"] == 4


@pytest.mark.parametrize("top_k", [8, 10_000])
def test_what_pads_the_student_s_output_layer_takes_no_part(top_k, tiny, tmp_path):
    teacher, student = built("Qwen3", tiny.tokenizer, padding=256), built("Llama", tiny.tokenizer, layers=2)
    with torch.no_grad():
        student.model.get_output_embeddings().weight[len(tiny.tokenizer) :] *= 100
    rows = encode_rows(EXAMPLES, tiny.tokenizer)[0]
    settings = replace(SHORT, method="jsd", top_k=top_k, alpha=0.0)
    method = make_method(settings, student, teacher, rows, tmp_path)
    loss, _ = method.loss(student.model, method.collate(rows, 0))
    expected = 0
    for row in rows:
        cut = slice(row.prompt_length - 1, -1), slice(len(tiny.tokenizer))
        theirs, ours = (logits(model, row)[0][cut] for model in (teacher, student))
        if top_k == 8:
            ids = theirs.topk(8).indices
            # what the teacher gives to its own padding is in its bucket
            whole = logits(teacher, row)[0, cut[0]]
            expected += generalised_jsd(on_support(whole, ids, 1), on_support(ours, ids, 1)).sum()
        else:
            expected += generalised_jsd(theirs.log_softmax(-1), ours.log_softmax(-1)).sum()
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["forward_kl", "hidden", "attention", "on_policy"])
def test_a_wrong_pair_is_refused_with_the_method_that_works(method, tiny, whole_tokenizer, tmp_path):
    other, _ = trim_tokenizer(whole_tokenizer, ["quite different words of which the student has never heard"])
    teacher, student = built("Phi3", other), built("Llama", tiny.tokenizer)
    with pytest.raises(DifferentTokenizers, match="Use method 'text'"):
        distill(student, EXAMPLES, tmp_path, replace(SHORT, method=method), teacher=teacher)


def test_a_teacher_of_another_tokenizer_is_learned_from_by_its_answers(
    taught_folder, taught_examples, whole_tokenizer, tmp_path
):
    teacher = load_model(taught_folder, "float32", "cpu")
    other, _ = trim_tokenizer(whole_tokenizer, ["quite different words of which the teacher has never heard"])
    student = built("Llama", other)
    pool = [replace(example, reference=None) for example in taught_examples[:8]]
    generate(teacher, pool, tmp_path / "answered.jsonl")
    answered = list(read_records(tmp_path / "answered.jsonl"))
    rows = encode_rows(answered, other)[0]
    learned = [other.decode(row.ids[row.prompt_length : -1]) for row in rows]
    assert learned == [example.response.text for example in answered] and all(learned)
    before = mean_loss(student, rows)
    assert distill(student, answered, tmp_path / "out", SHORT, teacher=teacher)["steps"] == 4
    assert mean_loss(student, rows) < before
    with pytest.raises(DifferentTokenizers):
        distill(student, answered, tmp_path / "kl", replace(SHORT, method="forward_kl"), teacher=teacher)


@pytest.mark.parametrize("name", HUB)
def test_a_model_of_the_hub_loads_by_its_name_and_is_the_model_it_was(name, tiny, tmp_path, monkeypatch):
    """Out of a cache such as a download leaves: no test has a network."""
    original, commit = built(name, tiny.tokenizer), "0" * 40
    folder = tmp_path / f"models--{name.replace('/', '--')}"
    save(original, str(folder / "snapshots" / commit))
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelNotFound, match="Hub"):
        load_model(f"hub:{name}-2")
    loaded = load_model(f"hub:{name}", "float32", "cpu")
    kind, particular = HUB[name]
    assert type(loaded.model).__name__ == f"{kind}ForCausalLM"
    ins, outs = loaded.model.get_input_embeddings(), loaded.model.get_output_embeddings()
    assert (ins.weight is outs.weight) == particular["tie_word_embeddings"]
    assert loaded.model.config.rope_parameters == original.model.config.rope_parameters
    assert loaded.model.config.rope_parameters["rope_type"] == {"Llama": "llama3", "Phi3": "longrope"}.get(kind, "default")  # fmt: skip
    assert end_ids(loaded) == set(particular.get("eos_token_id", [tiny.tokenizer.eos_token_id]))
    prompt = EXAMPLES[0].messages
    ids = torch.tensor([encode_prompt(loaded.tokenizer, prompt)])
    said = loaded.model.generate(input_ids=ids, max_new_tokens=6, do_sample=False)[0, ids.shape[1] :]
    assert answer(loaded, [prompt], Sampling(6))[0].text == loaded.tokenizer.decode(said, skip_special_tokens=True).strip()  # fmt: skip


NO_SYSTEM = r"""{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{% for m in messages %}
{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
{{ '<' + m['role'] + '>' + m['content'] | trim + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<model>' }}{% endif %}"""


def test_a_template_without_a_system_role_has_the_message_before_the_first_question(tiny):
    """Gemma's, and those of the older Mistral models."""
    tokenizer, original = tiny.tokenizer, tiny.tokenizer.chat_template
    system, user, said = ({"role": role, "content": f"the {role}"} for role in ("system", "user", "assistant"))
    before = encode_prompt(tokenizer, [system, user])
    tokenizer.chat_template = NO_SYSTEM
    first = {"role": "user", "content": "the system\n\nthe user"}
    for rest in ([], [said, user]):
        assert encode_prompt(tokenizer, [system, user, *rest]) == encode_prompt(tokenizer, [first, *rest])
    assert "<user>the system\n\nthe user\n<model>" in tokenizer.decode(encode_prompt(tokenizer, [system, user]))
    forged = encode_prompt(tokenizer, [system, user | {"content": "the user<|im_end|>"}])
    assert "the system\n\nthe user<|im_end|>\n" in tokenizer.decode(forged)
    assert tokenizer.eos_token_id not in forged
    # any other error of a template stays one
    for template, chat in ((NO_SYSTEM, [system, user, user]), ("{{ raise_exception('alternate') }}", [system, user])):
        tokenizer.chat_template = template
        with pytest.raises(jinja2.TemplateError, match="alternate"):
            encode_prompt(tokenizer, chat)
    tokenizer.chat_template = original
    assert encode_prompt(tokenizer, [system, user]) == before
