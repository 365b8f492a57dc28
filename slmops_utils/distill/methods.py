"""The methods by name, and the one object that grades batches by each.

text          cross-entropy on the text: the teacher's answers, or labels (works across tokenizers)
forward_kl, reverse_kl, jsd, skewed_kl    against the teacher's soft targets, computed once
hidden        against the teacher's hidden states, layer by layer
attention     against how the teacher's positions attend or relate to each other
on_policy     the student answers some rows itself, and the teacher grades every token of it live
step_by_step  the text's label and its rationale as two tasks
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..models.load import LoadedModel
from .attention import AttentionMethod
from .dataset import Row
from .hidden import HiddenMethod
from .losses import (
    Loss,
    cross_entropy,
    forward_kl,
    generalised_jsd,
    in_chunks,
    mix,
    on_support,
    reverse_kl,
    skewed_kl,
    softened,
    softened_loss,
)
from .on_policy import OnPolicyMethod
from .shards import SoftTargets
from .soft_targets import as_committee, make_soft_targets
from .step_by_step import StepByStepMethod
from .supervised import Method, only_supervised
from .train import TrainSettings

DIVERGENCES = ("forward_kl", "reverse_kl", "jsd", "skewed_kl")
METHODS = ("text", *DIVERGENCES, "hidden", "attention", "on_policy", "step_by_step")
NEED_NO_TEACHER = ("text", "step_by_step")  # theirs has written its lessons already


def divergence(settings: TrainSettings) -> Loss:
    """The loss (see losses.py) that settings name, with their beta or skew filled in."""
    losses: dict[str, Loss] = {
        "forward_kl": forward_kl,
        "reverse_kl": reverse_kl,
        "jsd": partial(generalised_jsd, beta=settings.beta),
        "skewed_kl": partial(skewed_kl, skew=settings.skew),
    }
    return losses[settings.method]


class SoftTargetMethod(Method):
    """A divergence from the teacher's soft targets, mixed with the text's own tokens by `settings.alpha`."""

    def __init__(self, targets: SoftTargets, vocabulary: int, settings: TrainSettings):
        """`vocabulary`: the size of the student's tokenizer; what its output layer has beyond that is padding."""
        self.name, self.identity = settings.method, str(targets.key)
        self.targets, self.vocabulary, self.settings = targets, vocabulary, settings
        self.divergence = divergence(settings)

    def collate(self, rows: Sequence[Row], pad_id: int) -> dict[str, Any]:
        """Besides the text: teacher_ids (N, k) and teacher_log_probs (N, k + 1), N supervised tokens, row after row."""
        import torch

        known = [self.targets[row] for row in rows if row.supervised] or [self.targets.none()]
        ids, log_probs = zip(*known, strict=True)
        found = {"teacher_ids": torch.cat(ids), "teacher_log_probs": torch.cat(log_probs)}
        return super().collate(rows, pad_id) | found

    def loss(self, model: Any, batch: dict[str, Any]) -> tuple[Any, int]:
        with only_supervised(model, batch["labels"]) as targets:
            outputs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
        teacher = batch["teacher_ids"], batch["teacher_log_probs"]
        return in_chunks(self.per_token, outputs.logits, targets, *teacher), targets.numel()

    def per_token(self, logits: Any, targets: Any, ids: Any, teacher: Any) -> Any:
        """(N, output width), (N,), (N, k), (N, k + 1) -> (N,)."""
        temperature = self.settings.temperature
        student = on_support(logits[:, : self.vocabulary], ids, temperature)
        soft = softened_loss(self.divergence, teacher, student, temperature)
        if not self.settings.alpha:
            return soft
        # the text is learned as it is, at temperature 1, whatever softens the comparison with the teacher
        return mix(cross_entropy(softened(logits, 1), targets), soft, self.settings.alpha)


def check_method(settings: TrainSettings, teacher: Any) -> None:
    """Raises ValueError for an unknown method, or one that lacks its teacher."""
    if settings.method not in METHODS:
        raise ValueError(f"no method {settings.method!r}; there are {', '.join(METHODS)}")
    if settings.method in NEED_NO_TEACHER:
        return
    if teacher is None:
        raise ValueError(f"method {settings.method!r} compares the student with a teacher: name one (--teacher)")
    if len(as_committee(teacher)) > 1 and settings.method not in DIVERGENCES:
        raise ValueError(
            f"method {settings.method!r} takes one teacher; a committee's go with {', '.join(DIVERGENCES)}"
        )


def make_method(
    settings: TrainSettings,
    student: LoadedModel,
    teacher: LoadedModel | Sequence[LoadedModel] | None,
    rows: Sequence[Row],
    soft_targets: str | Path | SoftTargets,
) -> Method:
    """What batches are graded by. Soft targets that the folder `soft_targets` lacks are computed first; given as such
    (those of an endpoint), they stand for the teacher.

    Raises ValueError for an unknown method or a missing teacher, DifferentTokenizers for a teacher and a student that
    cannot be compared, SoftTargetError for a folder that holds something else.
    """
    if isinstance(soft_targets, SoftTargets):
        return SoftTargetMethod(soft_targets, len(student.tokenizer), settings)
    check_method(settings, teacher)
    if settings.method == "step_by_step":
        return StepByStepMethod()
    if teacher is None or settings.method == "text":
        return Method()
    first = as_committee(teacher)[0]
    if settings.method == "on_policy":
        return OnPolicyMethod(first, student, settings)
    if settings.method == "hidden":
        return HiddenMethod(first, student, settings)
    if settings.method == "attention":
        return AttentionMethod(first, student, settings)
    targets = make_soft_targets(
        teacher, rows, student.tokenizer, soft_targets, settings.temperature, settings.top_k, settings.batch_size
    )
    return SoftTargetMethod(targets, len(student.tokenizer), settings)
