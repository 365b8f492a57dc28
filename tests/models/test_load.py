"""Names and what they load: folders, adapters on top of one another, the Hub without a network."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from slmops_utils.models.load import (
    ModelNotFound,
    bytes_on_disk,
    fingerprint,
    load_model,
    model_fingerprint,
    weights_fingerprint,
)

IDS = torch.tensor([[5, 6, 7, 8, 9]])


def logits(model):
    with torch.inference_mode():
        return model(IDS).logits


def write_adapter(base: str, folder: Path, seed: int) -> torch.Tensor:
    """A LoRA adapter that changes the model it stands on; returns the logits of the two together."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    lora = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    model = get_peft_model(load_model(base, dtype="float32").model, lora).eval()
    model.peft_config["default"].base_model_name_or_path = base
    model.save_pretrained(folder)
    return logits(model)


@pytest.fixture
def adapter(tiny_folder, tmp_path):
    """An adapter folder, and the logits it should give."""
    return str(tmp_path / "adapter"), write_adapter(tiny_folder, tmp_path / "adapter", seed=0)


def test_an_unknown_name_says_which_there_are(tmp_path):
    for name in ("no-such-model", str(tmp_path)):
        with pytest.raises(ModelNotFound, match=r"'embedded'.*config\.json.*hub:org/model"):
            load_model(name)


def test_a_folder_loads_ready_to_answer(tiny, tiny_folder):
    loaded = load_model(tiny_folder, dtype="float32")
    assert (loaded.name, loaded.dtype, loaded.parameters) == (tiny_folder, "float32", tiny.parameters)
    assert not loaded.model.training
    assert loaded.tokenizer.pad_token_id is not None
    assert load_model(tiny_folder, dtype="bfloat16").model.dtype == torch.bfloat16


def test_a_tokenizer_without_padding_pads_with_its_end(tiny_folder):
    path = Path(tiny_folder, "tokenizer_config.json")
    settings = json.loads(path.read_text())
    del settings["pad_token"]
    path.write_text(json.dumps(settings))
    tokenizer = load_model(tiny_folder).tokenizer
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


def test_an_adapter_loads_its_base_and_merges(adapter, tiny_folder):
    name, expected = adapter
    loaded = load_model(name, dtype="float32")
    assert type(loaded.model).__name__ == "LlamaForCausalLM"
    torch.testing.assert_close(logits(loaded.model), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(logits(loaded.model), logits(load_model(tiny_folder, dtype="float32").model), atol=1e-3)
    assert bytes_on_disk(name) > bytes_on_disk(tiny_folder) > 0


def test_an_adapter_may_stand_on_another(adapter, tmp_path):
    below, expected_below = adapter
    expected = write_adapter(below, tmp_path / "upper", seed=1)
    found = logits(load_model(str(tmp_path / "upper"), dtype="float32").model)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, expected_below, atol=1e-3)
    assert fingerprint(str(tmp_path / "upper")) != fingerprint(below)


def test_an_adapter_whose_base_is_gone_names_the_base(tiny_folder, adapter):
    Path(tiny_folder).rename(tiny_folder + "-moved")
    with pytest.raises(ModelNotFound, match="tiny"):
        load_model(adapter[0])


def test_a_name_on_the_hub_without_a_network_says_what_to_do(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelNotFound, match=r"nobody/nothing[\s\S]*download it once elsewhere[\s\S]*'embedded'"):
        load_model("hub:nobody/nothing")


def test_the_fingerprint_follows_the_tokenizer_and_the_chat_template(tiny_folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_folder, copy)
    first = fingerprint(str(copy))
    (copy / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    assert fingerprint(str(copy)) != first
    loaded = load_model(tiny_folder)
    before = model_fingerprint(loaded)
    loaded.tokenizer.chat_template = "{{ messages }}"
    assert model_fingerprint(loaded) != before


def test_the_fingerprint_follows_the_weights(tiny_folder, adapter):
    base, merged = fingerprint(tiny_folder), fingerprint(adapter[0])
    assert base == fingerprint(tiny_folder) != merged
    weights = Path(adapter[0], "adapter_model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert fingerprint(adapter[0]) != merged
    weights = Path(tiny_folder, "model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert fingerprint(tiny_folder) != base


def test_names_on_the_hub_have_fingerprints_of_their_own():
    assert fingerprint("hub:a/b") != fingerprint("hub:a/c")


def test_the_fingerprint_in_memory_follows_one_changed_number(tiny):
    before = weights_fingerprint(tiny.model)
    assert weights_fingerprint(tiny.model.bfloat16()) != before
    before = weights_fingerprint(tiny.model)
    with torch.no_grad():
        tiny.model.get_input_embeddings().weight[3, 3] += 1
    assert weights_fingerprint(tiny.model) != before


def test_a_merged_adapter_can_be_trained_further(adapter):
    # peft freezes what it merges into; a student carved from such a teacher would have no gradients
    assert all(p.requires_grad for p in load_model(adapter[0], dtype="float32").model.parameters())
