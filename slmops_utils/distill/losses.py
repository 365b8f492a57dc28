"""What a student is asked to minimise, one function each.

Every function here takes log-probabilities over one shared support, `teacher` and `student` of shape (N, S): N
supervised tokens, S outcomes. The support may be a whole vocabulary, or the teacher's k likeliest tokens and one
outcome for all the others (see `on_support`): the same code serves both. Each returns a loss in nats for every token,
shape (N,); whoever sums them divides once, by the supervised tokens of the whole optimizer step.

An outcome of probability 0 (log-probability -inf) on the side that weighs it adds nothing, in value and in gradient.

Temperature: logits are divided by it before the softmax, which divides the loss's gradient by about its square, so a
softened loss is multiplied by temperature². That is said here, done in `softened_loss`, and nowhere else (Hinton et
al., arXiv 1503.02531).
"""

import math
from collections.abc import Callable
from typing import Any

Loss = Callable[[Any, Any], Any]


def cross_entropy(student: Any, targets: Any) -> Any:
    """-log of what the student gives the right token: the loss of plain fine-tuning.

    student: (N, S) log-probabilities; targets: (N,) indices into the support. Returns (N,).
    """
    return -student.gather(-1, targets[:, None]).squeeze(-1)


def forward_kl(teacher: Any, student: Any) -> Any:
    """KL(teacher || student): the student must cover all the teacher does (Hinton et al., arXiv 1503.02531).

    (N, S), (N, S) -> (N,). The teacher's entropy is in it, so it is 0 exactly where both agree.
    """
    return _kl(teacher, student)


def reverse_kl(teacher: Any, student: Any) -> Any:
    """KL(student || teacher): the student must not go where the teacher does not (MiniLLM, arXiv 2306.08543).

    (N, S), (N, S) -> (N,).
    """
    return _kl(student, teacher)


def generalised_jsd(teacher: Any, student: Any, beta: float = 0.5) -> Any:
    """Generalised Jensen-Shannon divergence (GKD, arXiv 2306.13649, equation 1). (N, S), (N, S) -> (N,).

    beta KL(teacher || m) + (1 - beta) KL(student || m), with m = beta teacher + (1 - beta) student. It is bounded, and
    tends to 0 at both ends of beta: JSD / beta tends to forward_kl as beta -> 0, JSD / (1 - beta) to reverse_kl as
    beta -> 1. (TRL puts those two KLs themselves in place of the ends, so its loss jumps there.) Raises ValueError at
    the ends: call the KL that is meant.
    """
    if not 0 < beta < 1:
        raise ValueError(f"beta must lie between 0 and 1, not {beta}; at 0 use forward_kl, at 1 reverse_kl")
    middle = _mixture(teacher, student, beta)
    return beta * _kl(teacher, middle) + (1 - beta) * _kl(student, middle)


def skewed_kl(teacher: Any, student: Any, skew: float = 0.1) -> Any:
    """KL(teacher || skew teacher + (1 - skew) student), never above -log(skew) (DistiLLM, arXiv 2402.03898).

    (N, S), (N, S) -> (N,). skew 0 is forward_kl.
    """
    return _kl(teacher, _skewed(teacher, student, skew))


def skewed_reverse_kl(teacher: Any, student: Any, skew: float = 0.1) -> Any:
    """KL(student || skew student + (1 - skew) teacher), the other direction of the same paper. (N, S), (N, S) -> (N,).

    skew 0 is reverse_kl.
    """
    return _kl(student, _skewed(student, teacher, skew))


def mix(hard: Any, soft: Any, hard_weight: float) -> Any:
    """hard_weight of the loss on the label (or on the teacher's text), the rest of the loss against the teacher."""
    if not 0 <= hard_weight <= 1:
        raise ValueError(f"hard_weight must lie between 0 and 1, not {hard_weight}")
    return hard_weight * hard + (1 - hard_weight) * soft


def softened(logits: Any, temperature: float) -> Any:
    """Log-probabilities (N, V) of logits (N, V) at a temperature, in float32 or finer."""
    import torch

    precise = logits if logits.dtype == torch.float64 else logits.float()
    return (precise / temperature).log_softmax(-1)


def on_support(logits: Any, ids: Any, temperature: float) -> Any:
    """Log-probabilities (N, k + 1) of each row's tokens `ids` (N, k) and, last, of all other tokens together.

    The last is the log-sum of the other logits, not 1 minus the first k: that difference is lost to rounding as soon as
    the k hold nearly everything. Where `ids` are the whole vocabulary nothing else is left, and the shape is (N, k).
    """
    import torch

    precise = (logits if logits.dtype == torch.float64 else logits.float()) / temperature
    chosen = precise.gather(-1, ids)
    if ids.shape[-1] == logits.shape[-1]:
        return chosen.log_softmax(-1)
    others = precise.scatter(-1, ids, -math.inf).logsumexp(-1, keepdim=True)
    return torch.cat([chosen, others], -1).log_softmax(-1)


def softened_loss(loss: Loss, teacher: Any, student: Any, temperature: float) -> Any:
    """A loss between distributions that were both softened by `temperature`, brought back to scale. Returns (N,)."""
    return temperature**2 * loss(teacher, student)


def in_chunks(loss: Callable[..., Any], *tensors: Any, rows: int = 1024) -> Any:
    """The sum of `loss(*tensors)` over all rows, computed on `rows` of them at a time to bound the memory.

    Tensors are cut along their first dimension. Sums are added, never means, so the last chunk may be short. What a
    chunk needs for its gradient is computed again in the backward pass instead of being kept.
    """
    import torch
    from torch.utils.checkpoint import checkpoint

    if len(tensors[0]) <= rows:
        return loss(*tensors).sum()
    keep = not torch.is_grad_enabled()
    chunks = zip(*(tensor.split(rows) for tensor in tensors), strict=True)
    sums = [loss(*c).sum() if keep else checkpoint(_total, loss, *c, use_reentrant=False) for c in chunks]
    return torch.stack(sums).sum()


def _total(loss: Callable[..., Any], *chunk: Any) -> Any:
    return loss(*chunk).sum()


def _kl(p: Any, q: Any) -> Any:
    """KL(p || q) of log-probabilities, (N, S) -> (N,)."""
    absent = p == -math.inf
    # filled before the subtraction: -inf minus -inf is NaN, and a NaN that is masked afterwards is in the gradient
    difference = p.masked_fill(absent, 0) - q.masked_fill(absent, 0)
    return (p.exp() * difference).sum(-1)


def _mixture(p: Any, q: Any, weight: float) -> Any:
    """log(weight exp(p) + (1 - weight) exp(q)), -inf with no gradient where both are."""
    import torch

    absent = (p == -math.inf) & (q == -math.inf)
    mixed = torch.logaddexp(p.masked_fill(absent, 0) + math.log(weight), q.masked_fill(absent, 0) + math.log1p(-weight))
    return mixed.masked_fill(absent, -math.inf)


def _skewed(own: Any, other: Any, skew: float) -> Any:
    if not 0 <= skew < 1:
        raise ValueError(f"skew must be at least 0 and below 1, not {skew}")
    return _mixture(own, other, skew) if skew else other
