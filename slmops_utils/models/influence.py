"""Which layers of a model change what passes through them least? Those can go.

Block influence (ShortGPT, arXiv 2403.03853): one minus the cosine between what enters a layer and what leaves it,
averaged over the tokens of some text of the domain.
"""

from collections.abc import Sequence

from .load import LoadedModel

MOST_TOKENS = 512  # of one text


def block_influence(loaded: LoadedModel, texts: Sequence[str], batch_size: int = 8) -> list[float]:
    """The influence of each layer, in [0, 2], measured on `texts`. Raises ValueError when there is no text."""
    import torch

    encode, device = loaded.tokenizer, loaded.model.device
    rows = [ids for text in texts if (ids := encode(text, add_special_tokens=False)["input_ids"][:MOST_TOKENS])]
    if not rows:
        raise ValueError("the influence of layers is measured on text, and there is none")
    rows.sort(key=len)
    total, tokens = torch.zeros(loaded.model.config.num_hidden_layers, device=device), 0
    decoder = loaded.model.get_decoder()
    passed: list = []  # what enters each layer, and what leaves it
    hooks = [
        layer.register_forward_hook(lambda _, args, out: passed.append((args[0], _tensor(out))))
        for layer in decoder.layers
    ]
    try:
        with torch.inference_mode():
            for start in range(0, len(rows), batch_size):
                batch = rows[start : start + batch_size]
                width, pad = max(map(len, batch)), loaded.tokenizer.pad_token_id
                ids = torch.tensor([row + [pad] * (width - len(row)) for row in batch], device=device)
                mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in batch], device=device)
                passed.clear()
                decoder(input_ids=ids, attention_mask=mask, use_cache=False)
                for i, (before, after) in enumerate(passed):
                    alike = torch.nn.functional.cosine_similarity(before.float(), after.float(), dim=-1)
                    total[i] += ((1 - alike) * mask).sum()
                tokens += int(mask.sum())
    finally:
        for hook in hooks:
            hook.remove()
    return (total / tokens).tolist()


def _tensor(output):
    return output[0] if isinstance(output, tuple) else output
