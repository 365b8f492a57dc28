"""Every architecture goes the whole road: load, carve, LoRA, text and logit distillation, save and load again.

The models are tiny and their weights random, but they are built by transformers from their own configs, so fused
projections (Phi-3), query norms (Qwen3), tied and scaled embeddings (Gemma) and sliding windows (Mistral, Gemma 3) are
all there. Their vocabularies are padded, each to another width, as published ones are.
"""

import copy
import math
from dataclasses import replace

import pytest
import torch
import transformers

from slmops_utils.distill.dataset import collate, encode_rows
from slmops_utils.distill.distill import distill
from slmops_utils.distill.methods import make_method
from slmops_utils.distill.train import TrainSettings, mean_loss
from slmops_utils.models.align import DifferentTokenizers
from slmops_utils.models.carve import save, shrink
from slmops_utils.models.load import LoadedModel, load_model, resolve
from slmops_utils.models.vocabulary import trim_tokenizer
from slmops_utils.records import Example

ARCHITECTURES = {
    "Llama": {"tie_word_embeddings": False},
    "Qwen3": {"head_dim": 16},
    "Phi3": {"sliding_window": None},
    "Mistral": {"sliding_window": 8},
    "Gemma": {"head_dim": 16},
    "Gemma3": {"head_dim": 16, "sliding_window": 8},
}
each_architecture = pytest.mark.parametrize("name", ARCHITECTURES)
EXAMPLES = [
    Example(f"t{i}", "nli", [{"role": "user", "content": f"Premise: the fee {'fee ' * i}£{i}."}], label)
    for i, label in enumerate(["entailment", "neutral", "contradiction", "neutral"])
]
SHORT = TrainSettings(batch_size=2, max_steps=4, learning_rate=5e-3, warmup_share=0, top_k=8)


def built(name, tokenizer, padding=64, layers=4, width=32, seed=0):
    config_class = "Gemma3TextConfig" if name == "Gemma3" else f"{name}Config"
    config = getattr(transformers, config_class)(
        vocab_size=math.ceil((len(tokenizer) + 1) / padding) * padding, hidden_size=width, intermediate_size=48,
        num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        **ARCHITECTURES[name],
    )  # fmt: skip
    torch.manual_seed(seed)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
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
    assert type(teacher.model).__name__ == f"{name}ForCausalLM"
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
    report = distill(student, EXAMPLES, tmp_path, replace(SHORT, method="jsd"), teacher=teacher)
    assert report["steps"] == 4


@pytest.mark.parametrize("method", ["forward_kl", "hidden", "attention", "on_policy"])
def test_a_wrong_pair_is_refused_with_the_method_that_works(method, tiny, whole_tokenizer, tmp_path):
    other, _ = trim_tokenizer(whole_tokenizer, ["quite different words of which the student has never heard"])
    teacher, student = built("Phi3", other), built("Llama", tiny.tokenizer)
    with pytest.raises(DifferentTokenizers, match="Use method 'text'"):
        distill(student, EXAMPLES, tmp_path, replace(SHORT, method=method), teacher=teacher)
    assert distill(student, EXAMPLES, tmp_path, SHORT, teacher=teacher)["steps"] == 4


@pytest.mark.parametrize(
    "name", ["microsoft/Phi-4-mini-instruct", "meta-llama/Llama-3.1-8B-Instruct", "Qwen/Qwen3-0.6B"]
)
def test_models_of_the_hub_go_by_their_names(name):
    assert resolve(f"hub:{name}") == (name, [])
