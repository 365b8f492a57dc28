"""Decode many prompts at once, without padding: each forward pass packs the next token of every running row and the
whole prompts of new rows into one sequence. A row that ends leaves at once and a waiting prompt takes its place
(continuous batching, Orca, OSDI 2022); what all prompts begin with is computed once.

It hooks into transformers' attention interface, so any decoder that uses it is served by its own code.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

PREFILL_TOKENS = 8192  # new prompts enter by so many tokens a pass, which bounds the memory of one
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
    """Keys and values of `slots` rows with up to `width` tokens: for each layer (slots, heads, width, size) twice.

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
            self.layers[layer] = tuple(x.new_zeros(self.slots, len(x), self.width, x.shape[-1]) for x in (key, value))  # type: ignore[assignment]
        heads, shared, parts = len(key), len(query) // len(key), []
        for group in self.groups:
            rows, new = len(group.slots), group.positions.shape[1]
            place = slice(group.start, group.start + rows * new)
            past: list[Any] = []
            for kept, fresh in zip(self.layers[layer], (key, value), strict=True):
                kept[group.slots[:, None], :, group.positions] = (
                    fresh[:, place].transpose(0, 1).unflatten(0, (rows, new))
                )
                past.append(kept[group.slots_view, :, : group.width])
            # query heads that share a key become more queries of it: nothing is copied to as many keys
            asked = query[:, place].reshape(heads, shared, rows, new, -1).permute(2, 0, 1, 3, 4)
            found = torch.nn.functional.scaled_dot_product_attention(
                asked.flatten(2, 3), past[0], past[1], attn_mask=group.mask(shared, window, query), scale=scaling
            )
            # (r, K, shared * m, d) -> (r * m, H, d)
            found = found.unflatten(2, (shared, new)).permute(0, 3, 1, 2, 4)
            parts.append(found.reshape(rows * new, heads * shared, -1))
        return torch.cat(parts)

    def copy(self, source: Any, target: Any, width: int) -> None:
        """Copy the first `width` columns of some slots into others."""
        for pair in self.layers.values():
            for kept in pair:
                kept[target, :, :width] = kept[source, :, :width]


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
    if not getattr(model, "_supports_attention_backend", False):
        return False
    config, asks = model.config, model.generation_config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    penalties = ("repetition_penalty", "no_repeat_ngram_size", "suppress_tokens", "begin_suppress_tokens", "min_length",
                 "min_new_tokens", "bad_words_ids", "sequence_bias", "forced_bos_token_id", "forced_eos_token_id")  # fmt: skip
    return (
        not model._is_stateful
        and not config.is_encoder_decoder
        and not getattr(config, "num_kv_shared_layers", 0)
        and kinds <= {"full_attention", "sliding_attention"}
        and not any(getattr(asks, name, None) not in (None, 0, 1, []) for name in penalties)
    )


@contextmanager
def packed_attention(model: Any) -> Iterator[None]:
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, attention)
    before = model.config._attn_implementation
    model.set_attn_implementation(ATTENTION)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def decode(
    model: Any,
    prompts: Sequence[list[int]],
    limit: int,
    slots: int,
    ends: Iterable[int],
    choose: Callable[[Any, Any, Any], Any] | None = None,
) -> Iterator[list[tuple[int, list[int]]]]:
    """Yield (place in `prompts`, token ids with the end) of each row as it ends, those of one step together.

    Rows start in order, at most `slots` at once; give prompts of similar length together. A row ends with a token of
    `ends` or after `limit`. `choose(logits (n, V), row (n,), spent (n,))` picks the next tokens; greedy without it.
    """
    import torch

    decoder = None
    while decoder is None or decoder.busy:
        with packed_attention(model), torch.inference_mode():  # not across a yield: the caller may use the model
            decoder = decoder or Decoder(model, prompts, limit, slots, ends, choose)
            finished = decoder.step()
        if finished:
            yield finished


def common_length(prompts: Sequence[list[int]]) -> int:
    """How many tokens all prompts begin with, leaving each at least one of its own."""
    low, high = min(prompts), max(prompts)  # in the order of a dictionary: all others lie between
    same = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), len(low))
    return min(same, min(map(len, prompts)) - 1)


class Decoder:
    """The rows that run, in neighbouring slots from 0 on, and the prompts that wait."""

    def __init__(self, model: Any, prompts: Any, limit: int, slots: int, ends: Iterable[int], choose: Any):
        import torch

        self.model, self.prompts, self.limit, self.slots = model, prompts, limit, min(slots, len(prompts))
        self.choose = choose or (lambda logits, row, spent: logits.argmax(-1))
        self.rows = KeyValues(self.slots, max(map(len, prompts)) + limit)
        self.every = self.number(range(self.slots))
        self.stops = self.number(sorted(ends))
        # of each slot: which prompt it runs, its last token, where that goes, how many it has written, and all of them
        self.row, self.last, self.position, self.spent = self.number([[0] * self.slots] * 4)
        self.written = torch.zeros(self.slots, limit, dtype=torch.int64, device=model.device)
        self.running, self.started, self.longest = 0, 0, 0
        self.shared = common_length(prompts) if len(prompts) > 1 else 0
        if self.shared:
            places = self.number(range(self.shared))
            group = Group(0, self.every[:1], places[None], self.shared, slice(0, 1))
            self.forward(self.number(prompts[0][: self.shared]), places, [group], 1)
            self.rows.copy(slice(0, 1), slice(1, self.slots), self.shared)

    @property
    def busy(self) -> bool:
        return self.running > 0 or self.started < len(self.prompts)

    def number(self, values: Any) -> Any:
        import torch

        return torch.tensor(values, dtype=torch.int64, device=self.model.device)

    def forward(self, ids: Any, positions: Any, groups: list[Group], keep: Any) -> Any:
        """Packed ids (N,) -> the logits at `keep`, (n, V)."""
        self.rows.groups = groups
        return self.model(
            input_ids=ids[None], position_ids=positions[None], use_cache=False, logits_to_keep=keep, rows=self.rows
        ).logits[0]

    def step(self) -> list[tuple[int, list[int]]]:
        """Let new prompts in, write one token of each row, and return the rows that ended."""
        import torch

        now = slice(0, self.running)
        packed = [(self.last[now], self.position[now], self.every[now])]
        groups = []
        if self.running:
            groups = [Group(0, self.every[now], self.position[now, None], self.longest + 1, now)]
        self.enter(packed, groups)
        ids, positions, keep = map(torch.cat, zip(*packed, strict=True))
        logits = self.forward(ids, positions, groups, keep)

        now = slice(0, self.running)
        self.last[now] = self.choose(logits, self.row[now], self.spent[now])
        self.written[self.every[now], self.spent[now]] = self.last[now]
        self.spent[now] += 1
        self.position[now] += 1
        self.longest += 1
        ended = torch.isin(self.last[now], self.stops) | (self.spent[now] >= self.limit)
        return self.leave(ended.nonzero().flatten())

    def enter(self, packed: list[tuple[Any, Any, Any]], groups: list[Group]) -> None:
        """Add waiting prompts to a pass, those of one length as one group."""
        first, tokens = self.started, 0
        while (
            self.started < len(self.prompts)
            and self.running + self.started - first < self.slots
            and tokens < PREFILL_TOKENS
        ):
            tokens += len(self.prompts[self.started]) - self.shared
            self.started += 1
        start = self.running
        for length, same in groupby(range(first, self.started), key=lambda i: len(self.prompts[i])):
            rows, new = list(same), length - self.shared
            places, end = self.number(range(self.shared, length)), start + len(rows) * new
            slots = slice(self.running, self.running + len(rows))
            groups.append(Group(start, self.every[slots], places[None], length, slots))
            ids = self.number([self.prompts[i][self.shared :] for i in rows]).flatten()
            packed.append((ids, places.repeat(len(rows)), self.number(range(start + new - 1, end, new))))
            self.row[slots] = self.number(rows)
            self.position[slots], self.spent[slots] = length - 1, 0
            self.running, self.longest, start = slots.stop, max(self.longest, length - 1), end

    def leave(self, ended: Any) -> list[tuple[int, list[int]]]:
        """Take out the rows in these slots; the last rows move into the gaps, so that those that run stay neighbours."""
        out = ended.tolist()
        if not out:
            return []
        texts = zip(self.row[ended].tolist(), self.spent[ended].tolist(), self.written[ended].tolist(), strict=True)
        finished = [(row, tokens[:count]) for row, count, tokens in texts]
        self.running -= len(out)
        gaps = [slot for slot in out if slot < self.running]
        if gaps:
            source = self.number(sorted(set(range(self.running, self.running + len(out))) - set(out)))
            target = self.number(gaps)
            self.rows.copy(source, target, self.longest)
            for state in (self.row, self.last, self.position, self.spent, self.written):
                state[target] = state[source]
        self.longest = int(self.position[: self.running].max()) if self.running else 0
        return finished
