"""Logits only where there is something to learn, and the plainest thing to learn from them: the text.

The output layer is the widest of a small model, and most positions are prompt. A hook on it drops every position
without a label first, so the step costs what its answers cost.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from .dataset import IGNORED, Row, collate


def plain(model: Any) -> Any:
    """The transformers model inside what peft and DistributedDataParallel wrap around it."""
    model = getattr(model, "module", model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def next_tokens(labels: Any) -> tuple[Any, Any]:
    """(which positions predict a supervised token, the token each position predicts), both (batch, length).

    Position t predicts token t+1: the mask is the labels shifted left by one, so it moves with the logits. `labels`:
    (batch, length), IGNORED where there is nothing to learn.
    """
    import torch

    targets = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
    return targets != IGNORED, targets


@contextlib.contextmanager
def only_supervised(model: Any, labels: Any) -> Iterator[Any]:
    """Within it, the model's logits have shape (supervised positions, vocabulary); yields their targets.

    The hook works on any architecture's output layer, and
    the call still goes through `model.forward`, so autocast and DistributedDataParallel see it.
    """
    keep, targets = next_tokens(labels)
    head = getattr(model, "module", model).get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, args: (args[0][keep],))
    try:
        yield targets[keep]
    finally:
        hook.remove()


def supervised_loss(model: Any, batch: dict[str, Any]) -> tuple[Any, int]:
    """The sum of the cross-entropies of every supervised token, and how many there are."""
    import torch

    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    with only_supervised(model, batch["labels"]) as targets:
        logits = model(**inputs, use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum"), targets.numel()


class Method:
    """How a batch is graded. This one: by its text, with cross-entropy. The others are its subclasses."""

    name = "text"
    learned: Any = None  # a torch module that is trained beside the student and thrown away
    identity = ""  # whatever decides its grades besides settings and rows, a teacher's fingerprint say

    def collate(self, rows: Sequence[Row], pad_id: int) -> dict[str, Any]:
        """The batch of some rows, as tensors."""
        return collate(rows, pad_id)

    def before_step(self, model: Any, batches: list[dict[str, Any]], step: int) -> list[dict[str, Any]]:
        """The batches of one optimizer step, before any of them is graded or its tokens are counted."""
        return batches

    def loss(self, model: Any, batch: dict[str, Any]) -> tuple[Any, int]:
        """The sum of the losses of every supervised token, and how many there are. It is never a mean: whoever calls
        divides once, by the supervised tokens of the whole optimizer step."""
        return supervised_loss(model, batch)
