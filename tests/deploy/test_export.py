"""Exports are read by the libraries that deploy them, and say what their source says."""

import copy
import math

import numpy as np
import pytest
import torch
import transformers
from gguf import GGUFReader

from slmops_utils.__main__ import main
from slmops_utils.deploy import to_gguf
from slmops_utils.deploy.check import check_export, verdict
from slmops_utils.deploy.export import PRECISIONS, ExportError, export
from slmops_utils.deploy.serve import serving
from slmops_utils.deploy.to_onnx import builder_architectures
from slmops_utils.models.carve import save, shrink
from slmops_utils.models.load import LoadedModel, bytes_on_disk, fingerprint, load_model
from slmops_utils.models.onnx import OnnxModel
from slmops_utils.records import write_records
from slmops_utils.synthesize.answer import Sampling, answer, encode_prompt

ALL = [(form, precision) for form, precisions in PRECISIONS.items() for precision in precisions]


def place(folder, form):
    return folder / ("export.gguf" if form == "gguf" else "export")


@pytest.mark.parametrize(("form", "precision"), ALL)
def test_an_export_answers_as_its_source_does(form, precision, taught_folder, taught_examples, tmp_path):
    path = export(taught_folder, form, precision, place(tmp_path, form))
    found = check_export(taught_folder, path, taught_examples, precision)
    assert found["rows"] == len(taught_examples) and found["tokens"] > 3 * len(taught_examples)
    assert found["same_prompt"] == 1
    assert found["passed"], verdict(found, precision)
    assert found["score"]["source"] > 0.5  # it was worth comparing
    assert "NOT" not in verdict(found, precision)


def test_a_damaged_export_does_not_pass(tiny, taught_examples, tmp_path, monkeypatch):
    """Without the reordering of query and key rows the file loads and answers, and its answers are wrong."""
    source = llama(tiny.tokenizer)
    monkeypatch.setattr(to_gguf, "permute", lambda weight, heads: weight)
    path = export(source, "gguf", "f16", tmp_path / "wrong.gguf")
    found = check_export(source, path, taught_examples[:6], "f16")
    assert not found["passed"] and found["same_argmax"] < 0.99
    assert "NOT PASSED" in verdict(found, "f16")


def test_rows_are_reordered_as_the_rotary_embedding_wants_them():
    """Turning neighbours (2i, 2i + 1) of the reordered rows is turning (i, i + width/2) of the rows as they were."""
    heads, width, angle = 2, 6, 0.7
    weight = np.random.default_rng(0).normal(size=(heads * width, 5))
    cos, sin = math.cos(angle), math.sin(angle)
    halves = weight.reshape(heads, 2, width // 2, 5)
    turned = np.stack([cos * halves[:, 0] - sin * halves[:, 1], sin * halves[:, 0] + cos * halves[:, 1]], 1)
    pairs = to_gguf.permute(weight, heads).reshape(heads, width // 2, 2, 5)
    beside = np.stack([cos * pairs[:, :, 0] - sin * pairs[:, :, 1], sin * pairs[:, :, 0] + cos * pairs[:, :, 1]], 2)
    expected = to_gguf.permute(turned.reshape(weight.shape), heads)
    np.testing.assert_allclose(beside.reshape(weight.shape), expected)


def test_what_a_gguf_file_holds(taught_folder, tmp_path):
    source = load_model(taught_folder, "float32")
    sizes = {}
    for precision in PRECISIONS["gguf"]:
        path = export(source, "gguf", precision, tmp_path / f"{precision}.gguf")
        reader, sizes[precision] = GGUFReader(path), path.stat().st_size
        kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
        assert kinds["blk.0.ffn_up.weight"] == precision.upper() and kinds["output_norm.weight"] == "F32"
        assert sum(int(tensor.n_elements) for tensor in reader.tensors) == source.parameters
        assert reader.fields["tokenizer.ggml.pre"].contents() == "smollm"
        assert reader.fields["tokenizer.chat_template"].contents() == source.tokenizer.chat_template
        assert len(reader.fields["tokenizer.ggml.tokens"].data) == len(source.tokenizer)
    assert sizes["f16"] > sizes["q8_0"] > sizes["q4_0"]


def test_an_adapter_is_merged(taught_folder, tiny, tmp_path):
    from peft import LoraConfig, get_peft_model

    base = load_model(taught_folder, "float32")
    adapted = get_peft_model(
        copy.deepcopy(base.model), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    )
    adapted.peft_config["default"].base_model_name_or_path = taught_folder
    adapted.save_pretrained(tmp_path / "adapter")
    path = export(str(tmp_path / "adapter"), "gguf", "f16", tmp_path / "merged.gguf")
    found = {tensor.name: tensor.data for tensor in GGUFReader(path).tensors}["blk.0.attn_q.weight"]
    weight = load_model(str(tmp_path / "adapter"), "float32").model.state_dict()[
        "model.layers.0.self_attn.q_proj.weight"
    ]
    assert not torch.equal(weight, base.model.state_dict()["model.layers.0.self_attn.q_proj.weight"])
    heads = base.model.config.num_attention_heads
    np.testing.assert_allclose(found.astype("float32"), to_gguf.permute(weight.numpy(), heads), atol=1e-3)


def llama(tokenizer, **changes):
    """Random weights, wide enough that the order of the words decides what comes next."""
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer) + 5, hidden_size=64, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, initializer_range=0.2, **changes,
    )  # fmt: skip
    torch.manual_seed(1)
    return LoadedModel("llama", transformers.LlamaForCausalLM(config).eval(), tokenizer, "float32", "")


LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip


@pytest.mark.parametrize(
    "changes", [{"tie_word_embeddings": False}, {"rope_parameters": LLAMA3}], ids=["untied", "llama3"]
)
def test_other_llamas_are_written_as_well(changes, tiny, taught_examples, tmp_path):
    """A wider embedding than the tokenizer needs, rows that do not divide into blocks, Llama 3's slowed positions."""
    loaded = llama(tiny.tokenizer, **changes)
    if "rope_parameters" in changes:
        _, scaling = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS["llama3"](loaded.model.config, "cpu")[:2]
        plain = 1 / 10000 ** (torch.arange(0, 16, 2) / 16)
        slowed = loaded.model.model.rotary_emb.inv_freq
        np.testing.assert_allclose(plain / slowed, to_gguf.llama3_factors(loaded.model.config), rtol=1e-5)
        assert scaling == 1
    path = export(loaded, "gguf", "f16", tmp_path / "f16.gguf")
    found = check_export(loaded, path, taught_examples[:6], "f16")
    assert found["same_prompt"] == 1 and found["same_argmax"] > 0.97
    path = export(loaded, "gguf", "q4_0", tmp_path / "q4_0.gguf")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(path).tensors}
    assert (kinds["blk.0.ffn_up.weight"], kinds["blk.0.ffn_down.weight"]) == ("Q4_0", "F16")
    assert check_export(loaded, path, taught_examples[:2], "q4_0")["same_prompt"] == 1  # it loads


def other(name, tokenizer):
    config = getattr(transformers, f"{name}Config")(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        **({"original_max_position_embeddings": 512} if name == "Phi3" else {}),
    )  # fmt: skip
    torch.manual_seed(0)
    return LoadedModel(name, getattr(transformers, f"{name}ForCausalLM")(config).eval(), tokenizer, "float32", "")


@pytest.mark.parametrize("name", ["Phi3", "Qwen2", "Qwen3", "Mistral"])
def test_architectures_of_the_onnx_builder(name, tiny, tmp_path):
    """Random weights, but the very computation: in fp32 its logits are those of transformers."""
    loaded = other(name, tiny.tokenizer)
    export(loaded, "onnx", "fp32", tmp_path / "onnx")
    ids = torch.tensor([encode_prompt(tiny.tokenizer, [{"role": "user", "content": "the fee is £5"}])])
    with torch.no_grad():
        expected = loaded.model(ids).logits[0]
    torch.testing.assert_close(OnnxModel(tmp_path / "onnx").logits(ids), expected, rtol=1e-3, atol=1e-3)


def test_an_onnx_folder_is_a_model_like_any_other(taught_folder, taught_examples, tmp_path):
    folder = str(export(taught_folder, "onnx", "int8", tmp_path / "onnx"))
    loaded, source = load_model(folder), load_model(taught_folder, "float32")
    from slmops_utils.tasks import get_task

    prompts = [get_task("nli").prompt(example) for example in taught_examples]
    ours, theirs = answer(loaded, prompts, Sampling(16)), answer(source, prompts, Sampling(16))
    assert [a.finish_reason for a in ours] == [a.finish_reason for a in theirs]
    assert np.mean([a.text == b.text for a, b in zip(ours, theirs, strict=True)]) > 0.9
    again = [answer(loaded, prompts[:3], Sampling(16, temperature=1.5, seed=s))[0].text for s in (1, 1, 2, 3, 4)]
    assert again[0] == again[1] and len(set(again)) > 1
    assert bytes_on_disk(folder) > 50_000 and fingerprint(folder) != fingerprint(taught_folder)


@pytest.mark.parametrize("form", PRECISIONS)
def test_what_is_not_supported_is_said_with_what_is(form, tiny, tmp_path):
    for precision in ("q2_k", "fp16"):
        with pytest.raises(ExportError, match=r"gguf: f16, q8_0, q4_0; onnx: fp32, int8, int4"):
            export(tiny, form, precision, place(tmp_path, form))
    gpt2 = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=99, n_embd=8, n_layer=1, n_head=1))
    strange = LoadedModel("strange", gpt2, tiny.tokenizer, "float32", "")
    with pytest.raises(
        ExportError, match=r"GPT2LMHeadModel.*(Supported is LlamaForCausalLM|supports .*Phi3ForCausalLM)"
    ):
        export(strange, form, PRECISIONS[form][0], place(tmp_path, form))
    assert not list(tmp_path.iterdir())  # nothing half-written


def test_formats_and_llamas_that_are_not_supported(tiny, tmp_path):
    with pytest.raises(ExportError, match="no format 'tflite'; there are gguf, onnx"):
        export(tiny, "tflite", "int8", tmp_path / "x")
    for changes, said in (({"attention_bias": True}, "biases"), ({"hidden_act": "gelu"}, "gelu")):
        with pytest.raises(ExportError, match=said):
            export(llama(tiny.tokenizer, **changes), "gguf", "f16", tmp_path / "x.gguf")
    with pytest.raises(ExportError, match=r"words cut by.*supported are byte-level BPE"):
        spec = {
            "pre_tokenizer": {"type": "Metaspace"},
            "normalizer": None,
            "model": {"type": "BPE", "byte_fallback": True},
        }
        to_gguf.pre_tokenizer_name(spec)
    assert {"LlamaForCausalLM", "Phi3ForCausalLM", "Qwen3ForCausalLM"} <= set(builder_architectures())


def test_only_an_earlier_export_is_replaced(tiny, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("keep me")
    with pytest.raises(ExportError, match="no earlier export"):
        export(tiny, "onnx", "int4", tmp_path / "mine")
    with pytest.raises(ExportError, match=r"ends in \.gguf"):
        export(tiny, "gguf", "f16", tmp_path / "mine")
    assert (tmp_path / "mine/notes.txt").read_text() == "keep me"


def test_a_trimmed_vocabulary_keeps_its_tokens_in_llama_cpp(embedded, tmp_path):
    """Any text, digits, accents and emoji among it, is cut into the same tokens as transformers cuts it."""
    from slmops_utils.deploy.check import _post

    student = shrink(embedded, 2, vocabulary_from=["The Skylark router costs £129.99, says Zoë. system user assistant"])
    path = export(student, "gguf", "q4_0", tmp_path / "student.gguf")
    texts = [
        "The router costs £129.99!",
        "Zoë's naïve café — 12345 °C",
        "日本語 и русский",
        "🙂 tabs\tand\n\nlines   end",
        "",
    ]
    with serving(str(path)) as served:
        for text in texts:
            found = _post(served, "/tokenize", {"content": text, "parse_special": False})["tokens"]
            assert found == student.tokenizer(text, add_special_tokens=False)["input_ids"], text


def test_export_on_the_command_line(taught_folder, taught_examples, tmp_path, capsys):
    write_records(tmp_path / "test.jsonl", taught_examples)
    command = [
        "export",
        "--model",
        taught_folder,
        "--out",
        str(tmp_path / "x.gguf"),
        "--test",
        str(tmp_path / "test.jsonl"),
    ]
    assert main([*command, "--precision", "f16", "--limit", "6"]) == 0
    said = capsys.readouterr().out
    assert "x.gguf: " in said and "gguf f16" in said and "of 6 rows" in said and "passed" in said
    assert main([*command, "--precision", "q3"]) == 1
    assert "supported are gguf: f16, q8_0, q4_0" in capsys.readouterr().err


def test_save_keeps_a_student_that_was_exported(taught_folder, tmp_path):
    loaded = load_model(taught_folder, "float32")
    before = fingerprint(taught_folder)
    export(loaded, "gguf", "q8_0", tmp_path / "a.gguf")
    save(loaded, str(tmp_path / "again"))
    assert fingerprint(str(tmp_path / "again")) == before == fingerprint(taught_folder)
