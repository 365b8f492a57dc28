"""Attention transfer: the student's positions learn to relate to each other as the teacher's do.

Either the attention maps themselves (MiniLM, arXiv 2002.10957), or the relations between the positions' value vectors,
which need neither equal widths nor equal numbers of heads (value relations of MiniLM; relation heads of MiniLMv2, arXiv
2012.15828). Both are distributions over the earlier positions, and are compared by forward KL. As in those papers only
the last layers are compared, unless a layer map says otherwise.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..models.load import LoadedModel
from .hidden import InsideMethod, read_map
from .losses import forward_kl
from .supervised import next_tokens, plain
from .train import TrainSettings

ATTENTION_LOSSES = ("values", "maps")
NAME = "slmops_seen"


@dataclass
class Seen:
    """What one layer's attention was given: (batch, heads, length, head width), after rotary embedding."""

    query: Any
    key: Any
    value: Any
    options: dict[str, Any]  # scaling, and in some architectures sliding_window and softcap


@contextlib.contextmanager
def attention_inputs(model: Any, layers: Sequence[int]) -> Iterator[dict[int, Seen]]:
    """Yields a dict that a forward pass within fills: layer -> what its attention was given.

    It goes through transformers' attention interface, where fused projections have been taken apart and keys rotated,
    so every architecture looks alike; the attention itself is PyTorch's, and plain products where scores are capped.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    found: dict[int, Seen] = {}
    inner = plain(model)
    number_of = {inner.get_decoder().layers[number].self_attn: number for number in layers}
    attend = AttentionInterface()["sdpa"]

    def see(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **options: Any) -> Any:
        if module in number_of:
            found[number_of[module]] = Seen(query, key, value, options)
        if options.get("softcap"):
            return capped(module, Seen(query, key, value, options), attention_mask), None
        return attend(module, query, key, value, attention_mask, **options)

    AttentionInterface.register(NAME, see)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    before = inner.config._attn_implementation
    inner.set_attn_implementation(NAME)
    try:
        yield found
    finally:
        inner.set_attn_implementation(before)


def visible(mask: Any, window: int | None = None) -> Any:
    """Which positions (last dimension) a position may see: (batch, 1, length, length) of an attention mask (batch,
    length): the earlier ones and itself, no padding, and with a sliding window only the nearest."""
    import torch

    place = torch.arange(mask.shape[1], device=mask.device)
    distance = place[:, None] - place
    seen = distance >= 0 if window is None else (distance >= 0) & (distance < window)
    return (seen & mask.bool()[:, None, :])[:, None]


def scores_of(seen: Seen) -> Any:
    """A layer's attention before its softmax and its mask, (batch, heads, length, length)."""
    groups = seen.query.shape[1] // seen.key.shape[1]
    key = seen.key.float().repeat_interleave(groups, 1)
    scores = seen.query.float() @ key.transpose(-1, -2) * seen.options["scaling"]
    if softcap := seen.options.get("softcap"):
        scores = softcap * (scores / softcap).tanh()
    return scores


def attention_maps(seen: Seen, mask: Any) -> Any:
    """Log of a layer's attention, (batch, heads, length, length); -inf where a position may not look."""
    window = seen.options.get("sliding_window")
    return scores_of(seen).masked_fill(~visible(mask, window), -math.inf).log_softmax(-1)


def capped(module: Any, seen: Seen, mask: Any) -> Any:
    """What a layer with capped scores (Gemma 2) attends to, (batch, length, heads, head width): PyTorch's fused attention
    knows no cap. `mask`: (batch, 1, length, length), True where a position may look; None where nothing is padded and
    all earlier ones are near enough."""
    import torch

    if mask is None:
        mask = visible(torch.ones(seen.query.shape[0], seen.query.shape[2], device=seen.query.device))
    scores = scores_of(seen)
    # finite, for padding far behind a row sees nothing at all, and a NaN there would spread
    weights = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1)
    weights = torch.nn.functional.dropout(weights, seen.options.get("dropout", 0.0), module.training)
    value = seen.value.repeat_interleave(seen.query.shape[1] // seen.value.shape[1], 1)
    return (weights.to(value.dtype) @ value).transpose(1, 2).contiguous()


def value_relations(seen: Seen, mask: Any, heads: int) -> Any:
    """Log-softmax of the value vectors' scaled products with each other, (batch, heads, length, length).

    The vectors of a position's own heads are joined and cut anew into `heads` relation heads.
    """
    batch, _, length, _ = seen.value.shape
    value = seen.value.float().transpose(1, 2).reshape(batch, length, heads, -1).transpose(1, 2)
    scores = value @ value.transpose(-1, -2) / math.sqrt(value.shape[-1])
    return scores.masked_fill(~visible(mask), -math.inf).log_softmax(-1)


def over_heads(log_probs: Any) -> Any:
    """The mean of the heads' distributions, as log-probabilities: (batch, heads, ...) -> (batch, 1, ...)."""
    hidden = (log_probs == -math.inf).all(1, keepdim=True)  # the gradient of logsumexp is NaN there
    mean = log_probs.masked_fill(hidden, 0).logsumexp(1, keepdim=True) - math.log(log_probs.shape[1])
    return mean.masked_fill(hidden, -math.inf)


class AttentionMethod(InsideMethod):
    """Forward KL between the teacher's and the student's attention maps or value relations, averaged over heads."""

    def __init__(self, teacher: LoadedModel, student: LoadedModel, settings: TrainSettings):
        if settings.attention_loss not in ATTENTION_LOSSES:
            raise ValueError(f"no attention_loss {settings.attention_loss!r}; there are {', '.join(ATTENTION_LOSSES)}")
        depths = student.model.config.num_hidden_layers, teacher.model.config.num_hidden_layers
        last = [(depths[0] - 1, depths[1] - 1)]
        super().__init__(
            teacher, student, settings, read_map(settings.layer_map, *depths) if settings.layer_map else last
        )

    def watch(self, model: Any, layers: Sequence[int]) -> contextlib.AbstractContextManager[dict[int, Any]]:
        return attention_inputs(model, layers)

    def distance(self, number: int, ours: Any, theirs: Any, batch: dict[str, Any]) -> Any:
        keep, _ = next_tokens(batch["labels"])
        mask = batch["attention_mask"]
        if self.settings.attention_loss == "values":
            heads = math.gcd(ours.value.shape[1], theirs.value.shape[1])
            student, teacher = (value_relations(seen, mask, heads) for seen in (ours, theirs))
        else:
            student, teacher = (attention_maps(seen, mask) for seen in (ours, theirs))
            if student.shape[1] != teacher.shape[1]:  # heads of the one are not heads of the other
                student, teacher = over_heads(student), over_heads(teacher)
        student, teacher = (log_probs.transpose(1, 2)[keep] for log_probs in (student, teacher))  # (N, heads, length)
        return forward_kl(teacher, student).mean(-1)
