"""Decode many prompts at once, without padding: each forward pass packs the next token of every running row and the
whole prompts of new rows into one sequence. A row that ends leaves at once and a waiting prompt takes its place
(continuous batching, Orca, OSDI 2022); what all prompts begin with is computed once.

It hooks into transformers' attention interface, so any decoder that uses it is served by its own code.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from os.path import commonprefix
from typing import Any

PREFILL_TOKENS = 4096  # new prompts enter by so many tokens a pass, which bounds the memory of one
ATTENTION = "slmops_packed"


@dataclass
class Group:
    """Tokens of a packed pass that are attended to together: r rows with m new tokens each."""

    start: int  # the first of the r * m tokens
    slots: Any  # (r,) int64
    positions: Any  # (r, m) int64, or (1, m) where all rows agree
    width: int  # columns that hold something for any of them
    slots_view: Any  # the slots as a slice where they are neighbours, which saves a copy
    masks: dict[tuple[int, int | None], Any] = field(default_factory=dict)

    def mask(self, shared: int, window: int | None, like: Any) -> Any:
        """(r or 1, 1, shared * m, width), 0 where a token may look and -inf where not; made once a pass."""
        import torch

        if (shared, window) not in self.masks:
            columns = torch.arange(self.width, device=like.device)
            unseen = columns > self.positions[..., None]
            if window is not None:
                unseen |= columns <= self.positions[..., None] - window
            mask = torch.zeros(unseen.shape, dtype=like.dtype, device=like.device).masked_fill_(unseen, float("-inf"))
            self.masks[shared, window] = mask.repeat(1, shared, 1)[:, None]
        return self.masks[shared, window]


class KeyValues:
    """Keys and values of `slots` rows with up to `width` tokens: for each layer (slots, width, heads, size) twice.

    A token's column is its position. `groups` says whose tokens the coming pass holds.
    """

    def __init__(self, slots: int, width: int):
        self.slots, self.width = slots, width
        self.layers: dict[int, tuple[Any, Any]] = {}
        self.groups: list[Group] = []

    def attend(self, layer: int, query: Any, key: Any, value: Any, scaling: float | None, window: int | None) -> Any:
        """query (H, N, d), key and value (K, N, d) of a packed pass -> (N, H, d)."""
        import torch

        if layer not in self.layers:  # zeros: what is masked out still gets multiplied, by 0
            self.layers[layer] = tuple(x.new_zeros(self.slots, self.width, len(x), x.shape[-1]) for x in (key, value))  # type: ignore[assignment]
        heads, shared, parts = len(key), len(query) // len(key), []
        for group in self.groups:
            rows, new = len(group.slots), group.positions.shape[1]
            place = slice(group.start, group.start + rows * new)
            past = []
            for kept, fresh in zip(self.layers[layer], (key, value), strict=True):
                kept[group.slots[:, None], group.positions] = fresh[:, place].transpose(0, 1).unflatten(0, (rows, new))
                past.append(kept[group.slots_view, : group.width].transpose(1, 2))
            # query heads that share a key become more queries of it: nothing is copied to as many keys
            asked = query[:, place].reshape(heads, shared, rows, new, -1).permute(2, 0, 1, 3, 4)
            found = torch.nn.functional.scaled_dot_product_attention(
                asked.flatten(2, 3), *past, attn_mask=group.mask(shared, window, query), scale=scaling
            )
            # (r, K, shared * m, d) -> (r * m, H, d)
            found = found.unflatten(2, (shared, new)).permute(0, 3, 1, 2, 4)
            parts.append(found.reshape(rows * new, heads * shared, -1))
        return torch.cat(parts)

    def copy(self, source: Any, target: Any, width: int) -> None:
        """Copy the first `width` columns of some slots into others."""
        for pair in self.layers.values():
            for kept in pair:
                kept[target, :width] = kept[source, :width]


def attention(module: Any, query: Any, key: Any, value: Any, mask: Any, scaling: float | None = None,
              rows: KeyValues | None = None, sliding_window: int | None = None, **other: Any) -> tuple[Any, None]:  # fmt: skip
    """What transformers calls in each layer. Raises NotImplementedError for an argument that would change the answer."""
    odd = [name for name in ("softcap", "s_aux", "position_bias") if other.get(name) is not None]
    if rows is None or odd:
        raise NotImplementedError(f"packed decoding does not know this attention ({odd or 'no rows'})")
    return rows.attend(module.layer_idx, query[0], key[0], value[0], scaling, sliding_window)[None], None


def can_decode(model: Any) -> bool:
    """Whether the model keeps nothing between tokens but keys and values, looks by position alone, and has no
    penalties of its own for what it says (which `transformers.generate` takes from its generation_config)."""
    config, asks = model.config, model.generation_config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    penalties = ("repetition_penalty", "no_repeat_ngram_size", "suppress_tokens", "begin_suppress_tokens", "min_length",
                 "min_new_tokens", "bad_words_ids", "sequence_bias", "forced_bos_token_id", "forced_eos_token_id")  # fmt: skip
    return (
        model._supports_attention_backend
        and not model._is_stateful
        and not config.is_encoder_decoder
        and kinds <= {"full_attention", "sliding_attention"}
        and not any(getattr(asks, name, None) not in (None, 0, 1, []) for name in penalties)
    )


def decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    limit: int,
    slots: int,
    ends: Sequence[int],
    choose: Callable[[Any, Any, Any], Any] | None = None,
) -> Iterator[list[tuple[int, list[int]]]]:
    """Yield (place in `prompts`, token ids with the end) of each row as it ends, those of one step together.

    Rows start in order, at most `slots` at once; give prompts of similar length together. A row ends with a token of
    `ends` or after `limit`. `choose(logits (n, V), row (n,), spent (n,))` picks the next tokens; greedy without it.
    """
    import torch
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, attention)
    before = model.config._attn_implementation
    model.set_attn_implementation(ATTENTION)
    try:
        with torch.inference_mode():
            yield from _decode(model, prompts, limit, slots, ends, choose or (lambda logits, row, spent: logits.argmax(-1)))
    finally:
        model.set_attn_implementation(before)


def _decode(model: Any, prompts: Any, limit: int, slots: int, ends: Any, choose: Any) -> Iterator[list[tuple[int, list[int]]]]:
    import torch

    device, slots = model.device, min(slots, len(prompts))
    stops = torch.tensor(list(ends), device=device)
    rows = KeyValues(slots, max(map(len, prompts)) + limit)
    # of each slot: which prompt it runs, where its next token goes, how many it has written, and those tokens
    row, position, spent = torch.zeros(3, slots, dtype=torch.int64, device=device)
    written = torch.zeros(slots, limit, dtype=torch.int64, device=device)
    last = torch.zeros(slots, dtype=torch.int64, device=device)
    every, longest = torch.arange(slots, device=device), 0

    def forward(ids: Any, positions: Any, groups: list[Group], keep: Any) -> Any:
        rows.groups = groups
        return model(input_ids=ids[None], position_ids=positions[None], use_cache=False, logits_to_keep=keep,
                     rows=rows).logits[0]  # fmt: skip

    shared = min(len(commonprefix(prompts)), min(map(len, prompts)) - 1) if len(prompts) > 1 else 0
    if shared:
        ids, places = torch.tensor(prompts[0][:shared], device=device), torch.arange(shared, device=device)
        forward(ids, places, [Group(0, every[:1], places[None], shared, slice(0, 1))], 1)
        rows.copy(slice(0, 1), slice(1, slots), shared)

    running, started = 0, 0
    while running or started < len(prompts):
        groups, ids, positions, keep = [], [last[:running]], [position[:running]], [every[:running]]
        if running:
            groups.append(Group(0, every[:running], position[:running, None], longest + 1, slice(0, running)))
        entering, tokens = started, 0
        while entering < len(prompts) and running + entering - started < slots and tokens < PREFILL_TOKENS:
            tokens += len(prompts[entering]) - shared
            entering += 1
        start, slot = running, running
        for length, same in groupby(range(started, entering), key=lambda i: len(prompts[i])):
            same, new = list(same), length - shared
            places = torch.arange(shared, length, device=device)
            taken = slice(slot, slot + len(same))
            groups.append(Group(start, every[taken], places[None], length, taken))
            ids.append(torch.tensor([prompts[i][shared:] for i in same], device=device).flatten())
            positions.append(places.repeat(len(same)))
            keep.append(torch.arange(start + new - 1, start + len(same) * new, new, device=device))
            row[taken], position[taken], spent[taken] = torch.arange(same[0], same[-1] + 1, device=device), length - 1, 0
            start, slot, longest = start + len(same) * new, slot + len(same), max(longest, length - 1)
        running, started = slot, entering

        logits = forward(torch.cat(ids), torch.cat(positions), groups, torch.cat(keep))
        now = slice(0, running)
        last[now] = choose(logits, row[now], spent[now])
        written[every[now], spent[now]] = last[now]
        spent[now] += 1
        position[now] += 1
        longest += 1
        done = (torch.isin(last[now], stops) | (spent[now] >= limit)).nonzero().flatten()
        ended = done.tolist()
        if not ended:
            continue
        yield [(place, tokens[:count]) for place, count, tokens in
               zip(row[done].tolist(), spent[done].tolist(), written[done].tolist(), strict=True)]  # fmt: skip
        # the last rows move into the places that fell free, so that those running stay neighbours
        running -= len(ended)
        gaps = [i for i in ended if i < running]
        if gaps:
            movers = sorted(set(range(running, running + len(ended))) - set(ended))
            source, target = torch.tensor(movers, device=device), torch.tensor(gaps, device=device)
            rows.copy(source, target, longest)
            for state in (row, position, spent, written, last):
                state[target] = state[source]
        longest = int(position[:running].max()) if running else 0
