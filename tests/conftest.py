"""Shared parts: the embedded model once per run, and a tiny model that trains in seconds."""

import copy
import os

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


# a test fails for what it asserts, never because the machine was busy
settings.register_profile("course", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("course")


@pytest.fixture(scope="session")
def embedded():
    """The embedded 135M model in float32, shared: do not change it."""
    from slmops_utils.models.load import load_model

    return load_model("embedded", dtype="float32")


@pytest.fixture(scope="session")
def whole_tokenizer():
    """The embedded model's tokenizer, without the model."""
    from transformers import AutoTokenizer

    from slmops_utils.models.embedded import embedded_folder

    return AutoTokenizer.from_pretrained(embedded_folder())


@pytest.fixture(scope="session")
def _tiny_parent(whole_tokenizer):
    """Two layers of width 64 with random weights and the real tokenizer's byte alphabet."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from slmops_utils.models.load import LoadedModel
    from slmops_utils.models.vocabulary import trim_tokenizer

    texts = [
        "Premise: the fee is £5. Hypothesis: the fee is £6.",
        "entailment neutral contradiction system user assistant",
    ]
    tokenizer, kept = trim_tokenizer(whole_tokenizer, texts)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(kept), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return LoadedModel("tiny", LlamaForCausalLM(config).eval(), tokenizer, "float32", "asked for")


@pytest.fixture
def tiny(_tiny_parent):
    """A fresh copy of the tiny model, free to train."""
    return copy.deepcopy(_tiny_parent)


@pytest.fixture
def tiny_folder(tiny, tmp_path):
    """The tiny model saved as a Hugging Face folder."""
    from slmops_utils.models.carve import save

    save(tiny, str(tmp_path / "tiny"))
    return str(tmp_path / "tiny")


TAUGHT = [  # three kinds of rows, and what to say to each
    (f"Premise: the fee is £{i}. Hypothesis: the fee is £{i + d}.", label)
    for i in range(8)
    for d, label in ((0, "entailment"), (1, "contradiction"), (20, "neutral"))
]


@pytest.fixture(scope="session")
def taught_examples():
    from slmops_utils.records import Example

    return [
        Example(f"t{i}", "nli", [{"role": "user", "content": text}], label) for i, (text, label) in enumerate(TAUGHT)
    ]


@pytest.fixture(scope="session")
def taught_folder(_tiny_parent, taught_examples, tmp_path_factory):
    """The tiny model as a folder, trained until it answers in words and stops. Do not change it."""
    from slmops_utils.distill.distill import distill
    from slmops_utils.distill.train import TrainSettings

    folder = tmp_path_factory.mktemp("taught") / "taught"
    settings = TrainSettings(max_steps=80, batch_size=12, learning_rate=5e-3)
    distill(copy.deepcopy(_tiny_parent), taught_examples, folder, settings)
    return str(folder)
