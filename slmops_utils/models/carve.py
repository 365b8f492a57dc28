"""Carve a student out of a teacher: keep some of its layers, and only the part of the vocabulary the domain needs.

Keeping layers of a trained model as a start is what DistilBERT (arXiv 1910.01108) and Minitron (arXiv 2407.14679) do.
"""

import copy
from collections.abc import Iterable, Sequence
from typing import Any

from .influence import block_influence
from .load import LoadedModel, eos_ids
from .vocabulary import trim_tokenizer

RULES = ("early", "even", "influence")
INFLUENCE_TEXTS = 256  # enough to rank layers, in seconds


def choose_layers(total: int, keep: int, rule: str = "even", influence: Sequence[float] = ()) -> list[int]:
    """Which layers to keep, always with the first and the last.

    'even' spaces them evenly; 'early' keeps the first ones and the last, dropping one contiguous late block (arXiv
    2403.17887); 'influence' keeps those that change most what passes through them (see influence.py).
    """
    if not 2 <= keep <= total:
        raise ValueError(f"cannot keep {keep} of {total} layers: between 2 and {total}")
    if rule == "even":
        return [round(i * (total - 1) / (keep - 1)) for i in range(keep)]
    if rule == "early":
        return [*range(keep - 1), total - 1]
    if rule == "influence":
        if len(influence) != total:
            raise ValueError(f"rule 'influence' needs a measured influence of each of the {total} layers")
        ranked = sorted(range(1, total - 1), key=lambda i: (-influence[i], i))
        return sorted([0, *ranked[: keep - 2], total - 1])
    raise ValueError(f"no rule {rule!r}; there are {', '.join(RULES)}, or give a list of layer numbers")


def keep_layers(model: Any, layers: Sequence[int]) -> Any:
    """A copy of a decoder model with only these layers, in this order. The original is left as it is."""
    total = model.config.num_hidden_layers
    if list(layers) != sorted(set(layers)) or not layers or layers[0] < 0 or layers[-1] >= total:
        raise ValueError(f"layers must be rising numbers from 0 to {total - 1}, got {list(layers)}")
    kept = copy.deepcopy(model)
    decoder = kept.get_decoder()
    decoder.layers = type(decoder.layers)([decoder.layers[i] for i in layers])
    for i, layer in enumerate(decoder.layers):
        layer.self_attn.layer_idx = i  # the key-value cache is addressed by it
    kept.config.num_hidden_layers = len(layers)
    if getattr(kept.config, "layer_types", None):
        kept.config.layer_types = [kept.config.layer_types[i] for i in layers]
    return kept


def keep_tokens(model: Any, kept_ids: Sequence[int], tokenizer: Any) -> Any:
    """Reduce a model's embedding and output rows, in place, to `kept_ids` (new id -> old id).

    What ended an answer still does, as far as it is kept, and so does the tokenizer's own end.
    """
    import torch

    rows = torch.as_tensor(kept_ids, device=model.device)
    tied = model.config.tie_word_embeddings
    old_in, old_out = model.get_input_embeddings(), model.get_output_embeddings()
    # the module stays: some architectures (Gemma) scale what they look up, and a plain Embedding would not
    old_in.weight = torch.nn.Parameter(old_in.weight.data[rows].clone())
    old_in.num_embeddings, old_in.padding_idx = len(kept_ids), None
    old_out.weight = old_in.weight if tied else torch.nn.Parameter(old_out.weight.data[rows].clone())
    if old_out.bias is not None:
        old_out.bias = torch.nn.Parameter(old_out.bias.data[rows].clone())
    old_out.out_features = len(kept_ids)
    model.config.vocab_size = len(kept_ids)
    new_id = {old: new for new, old in enumerate(kept_ids)}
    for config in (model.config, model.generation_config):
        ends = [*dict.fromkeys([*eos_ids(tokenizer), *(new_id[old] for old in eos_ids(config) if old in new_id)])]
        config.eos_token_id = ends if len(ends) > 1 else next(iter(ends), None)
        config.bos_token_id, config.pad_token_id = tokenizer.bos_token_id, tokenizer.pad_token_id
    return model


def shrink(
    parent: LoadedModel,
    layers: int | Sequence[int] | None = None,
    rule: str = "even",
    vocabulary_from: Iterable[str] | None = None,
) -> LoadedModel:
    """Carve a student. `layers` is how many (chosen by `rule`), which, or None for all; the vocabulary is trimmed to
    what the texts of `vocabulary_from` need (None keeps it whole). The parent is left as it is. Rule 'influence'
    measures it on those texts, and raises ValueError without any."""
    total = parent.model.config.num_hidden_layers
    texts = None if vocabulary_from is None else list(vocabulary_from)
    if layers is None:
        layers = range(total)
    elif isinstance(layers, int):
        measured = block_influence(parent, (texts or [])[:INFLUENCE_TEXTS]) if rule == "influence" else ()
        layers = choose_layers(total, layers, rule, measured)
    model, tokenizer = keep_layers(parent.model, list(layers)), parent.tokenizer
    if texts is not None:
        tokenizer, kept_ids = trim_tokenizer(
            tokenizer, texts, {*eos_ids(model.config), *eos_ids(model.generation_config)}
        )
        model = keep_tokens(model, kept_ids, tokenizer)
    return LoadedModel(f"{parent.name} ({len(layers)} layers)", model, tokenizer, parent.dtype, parent.dtype_reason)


def save(loaded: LoadedModel, folder: str) -> None:
    """Write an ordinary Hugging Face folder (safetensors, in bfloat16 as its parents are published)."""
    import torch

    model = copy.deepcopy(loaded.model).to(torch.bfloat16)
    model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
