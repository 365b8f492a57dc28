"""Write a Llama-type model as a GGUF file, weights, tokenizer and chat template in one.

The layout is that of llama.cpp's own converter (convert_hf_to_gguf.py): tensor names of the `gguf` package, matrices in
the file's precision and vectors in float32, and the rows of the query and key projections reordered, because ggml turns
pairs of neighbouring rows by the rotary embedding where transformers turns rows half a head apart.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from ..models.load import LoadedModel
from .export import ExportError

# how a tokenizer cuts text into words before merging: what its pre-tokenizer holds -> llama.cpp's name for it
LLAMA3_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def write_gguf(loaded: LoadedModel, out: Path, precision: str) -> None:
    """Write the file `out`. Raises ExportError for a model or tokenizer that the recipe does not cover."""
    from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, quantize

    config = loaded.model.config
    _check(loaded)
    kind = {"f16": "F16", "q8_0": "Q8_0", "q4_0": "Q4_0"}[precision]
    writer = GGUFWriter(out, "llama")
    _write_config(writer, config, Path(loaded.name).name)
    writer.add_file_type(getattr(LlamaFileType, f"MOSTLY_{kind}"))
    writer.add_quantization_version(2)
    width = loaded.model.get_input_embeddings().weight.shape[0]
    _write_tokenizer(writer, loaded.tokenizer, width)
    for name, tensor in _tensors(loaded.model):
        # a row of a quantised matrix is cut into blocks of 32; vectors are small, and sensitive
        narrow = tensor.ndim > 1 and tensor.shape[-1] % 32 and kind != "F16"
        stored = GGMLQuantizationType["F32" if tensor.ndim == 1 else "F16" if narrow else kind]
        writer.add_tensor(name, quantize(tensor, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _check(loaded: LoadedModel) -> None:
    config, kind = loaded.model.config, type(loaded.model).__name__
    trouble = None
    if kind != "LlamaForCausalLM":
        trouble = f"its architecture is {kind}"
    elif config.attention_bias or config.mlp_bias:
        trouble = "its projections have biases"
    elif _rope(config).get("rope_type", "default") not in ("default", "llama3"):
        trouble = f"its positions are scaled by {_rope(config)['rope_type']!r}"
    elif config.hidden_act != "silu":
        trouble = f"its activation is {config.hidden_act!r}"
    if trouble:
        raise ExportError(
            f"{loaded.name} cannot be written as GGUF here: {trouble}. Supported is LlamaForCausalLM without biases, with "
            "plain or Llama 3 positions. For others use --format onnx, or llama.cpp's convert_hf_to_gguf.py on the folder."
        )


def _rope(config: Any) -> dict[str, Any]:
    return config.rope_parameters or {}


def _write_config(writer: Any, config: Any, name: str) -> None:
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_name(name)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(_rope(config).get("rope_theta", 10_000.0))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _tensors(model: Any):
    """(GGUF name, float32 array) of each tensor, shapes as in transformers: matrices (out, in)."""
    config = model.config
    state = {name: tensor.detach().float().cpu().numpy() for name, tensor in model.state_dict().items()}
    yield "token_embd.weight", state["model.embed_tokens.weight"]
    yield "output_norm.weight", state["model.norm.weight"]
    if not config.tie_word_embeddings:
        yield "output.weight", state["lm_head.weight"]
    if _rope(config).get("rope_type") == "llama3":
        yield "rope_freqs.weight", llama3_factors(config)
    names = {
        "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    }  # fmt: skip
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for layer in range(config.num_hidden_layers):
        for short, long in names.items():
            tensor = state[f"model.layers.{layer}.{long}.weight"]
            yield f"blk.{layer}.{short}.weight", permute(tensor, heads[short]) if short in heads else tensor


def permute(weight: np.ndarray, heads: int) -> np.ndarray:
    """Reorder the rows of each head of a (heads * width, in) matrix: i and i + width/2 come to lie side by side."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def llama3_factors(config: Any) -> np.ndarray:
    """By how much Llama 3.1 slows each rotary frequency, (head width / 2,): long waves by `factor`, short ones not at all."""
    rope = _rope(config)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    waves = 2 * math.pi * rope["rope_theta"] ** (np.arange(0, head, 2) / head)
    turns = rope["original_max_position_embeddings"] / waves
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)


def _write_tokenizer(writer: Any, tokenizer: Any, width: int) -> None:
    """The byte-pair vocabulary as llama.cpp's "gpt2" model; ids beyond it, up to the embedding's width, are unused."""
    from gguf import TokenType

    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer_name(spec))
    token_of = {i: token for token, i in tokenizer.get_vocab().items()}
    added = tokenizer.backend_tokenizer.get_added_tokens_decoder()
    tokens, types = [], []
    for i in range(width):
        tokens.append(token_of.get(i, f"[PAD{i}]"))
        if i in added:
            types.append(TokenType.CONTROL if added[i].special else TokenType.USER_DEFINED)
        else:
            types.append(TokenType.NORMAL if i in token_of else TokenType.UNUSED)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in spec["model"]["merges"]])
    for name, token in (
        ("bos", tokenizer.bos_token_id),
        ("eos", tokenizer.eos_token_id),
        ("pad", tokenizer.pad_token_id),
        ("unk", tokenizer.unk_token_id),
    ):
        if token is not None:
            getattr(writer, f"add_{name}_token_id")(token)
    writer.add_add_bos_token(False)  # the chat template writes whatever a prompt begins with
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def pre_tokenizer_name(spec: dict[str, Any]) -> str:
    """llama.cpp's name for how this tokenizer (its tokenizer.json) cuts text into words. Raises ExportError."""
    pre = spec["pre_tokenizer"] or {}
    parts = pre.get("pretokenizers", [pre])
    kinds = [part.get("type") for part in parts]
    pattern = next((part["pattern"].get("Regex") for part in parts if part.get("type") == "Split"), None)
    by_bytes = spec["model"]["type"] == "BPE" and not spec["model"].get("byte_fallback") and not spec["normalizer"]
    if by_bytes and kinds == ["Digits", "ByteLevel"] and parts[0]["individual_digits"] and parts[1]["use_regex"]:
        return "smollm"
    if by_bytes and kinds == ["ByteLevel"] and parts[0]["use_regex"]:
        return "gpt-2"
    if by_bytes and kinds == ["Split", "ByteLevel"] and pattern == LLAMA3_WORDS:
        return "llama-bpe"
    raise ExportError(
        f"this tokenizer ({spec['model']['type']}, words cut by {kinds}) has no recipe here: supported are byte-level BPE as "
        "of SmolLM, GPT-2 and Llama 3. For others use --format onnx, or llama.cpp's convert_hf_to_gguf.py."
    )
