"""The exercises of notebook 06: forward KL, which positions it is taken at, and the bucket for all other tokens."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from .exercises import Exercise
from .exercises import check as check_in

_T = np.log([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
_S = np.log([[0.5, 0.3, 0.2], [0.6, 0.3, 0.1]])


def _near(got: Any, wanted: Any) -> bool:
    got, wanted = np.asarray(got, float), np.asarray(wanted, float)
    return got.shape == wanted.shape and bool(np.allclose(got, wanted, atol=1e-9))


# forward_kl: how far the student is from covering the teacher


def forward_kl(teacher: Any, student: Any) -> Any:
    possible = np.isfinite(teacher)  # what the teacher rules out weighs nothing, whatever the student thinks of it
    gap = np.where(possible, teacher, 0) - np.where(possible, student, 0)
    return (np.exp(teacher) * gap).sum(-1)


def _kl_shape(attempt: Callable[..., Any]) -> str | None:
    got = attempt(_T.copy(), _S.copy())
    if got is None:
        return "not attempted"
    got, each = np.asarray(got, float), forward_kl(_T, _S)
    if got.shape == ():
        if _near(got, each.sum()) or _near(got, each.mean()):
            return "that is one number for both tokens; return one for each token (sum over the last axis only)"
        if _near(got, each.mean() / 3):
            return "that is the mean over tokens and outcomes; KL is a sum over outcomes, and one number for each token"
        return "return one number for each token: sum over the last axis only"
    if got.shape == _T.shape:
        return "that is one number for each outcome; KL sums them over the last axis"
    return None if got.shape == (2,) else f"two tokens give two numbers, got the shape {got.shape}"


def _kl_value(attempt: Callable[..., Any]) -> str | None:
    got, right, p, q = np.asarray(attempt(_T.copy(), _S.copy()), float), forward_kl(_T, _S), np.exp(_T), np.exp(_S)
    named: list[tuple[Any, str]] = [
        (-right, "the sign: a divergence is never below 0. It is teacher times (log teacher minus log student)"),
        (forward_kl(_S, _T), "that is KL(student || teacher), the reverse direction: here the teacher weighs the gaps"),
        (-(p * _S).sum(-1), "that is a cross-entropy: it is not 0 where both agree, because the teacher's entropy is missing"),
        (right / 3, "that is a mean over the outcomes; KL is their sum, and a larger vocabulary does not make it smaller"),
        (right / np.log(2), "that is in bits; the loss of a language model is in nats, so take the natural logarithm"),
        ((p - q).sum(-1), "that is a difference of probabilities, which always sums to 0; take the difference of logarithms"),
        ((_T * (_T - _S)).sum(-1), "the arguments are log-probabilities: the weights are exp(teacher), not teacher"),
        ((p * (p - q)).sum(-1), "take the difference of log-probabilities, not of probabilities"),
    ]  # fmt: skip
    for wrong, hint in named:
        if _near(got, wrong):
            return hint
    return None if _near(got, right) else f"expected {right.round(4)}, got {got.round(4)}"


def _kl_agree(attempt: Callable[..., Any]) -> str | None:
    got = np.asarray(attempt(_T.copy(), _T.copy()), float)
    return None if _near(got, [0, 0]) else f"where both agree the divergence is 0, got {got.round(4)}"


def _kl_impossible(attempt: Callable[..., Any]) -> str | None:
    with np.errstate(all="ignore"):
        teacher, student = np.log([[0.5, 0.5, 0.0]]), np.log([[0.5, 0.25, 0.25]])
        got = np.asarray(attempt(teacher.copy(), student.copy()), float)
        both = np.asarray(attempt(teacher.copy(), np.log([[0.5, 0.5, 0.0]])), float)
    if np.isnan(got).any() or np.isnan(both).any():
        return (
            "a token the teacher rules out (log-probability -inf) gives 0 x -inf, which is no number, and a loss that is "
            "no number ruins every weight: leave such outcomes out of the sum"
        )
    right = 0.5 * np.log(2)
    return (
        None if _near(got, [right]) and _near(both, [0]) else f"a ruled-out token adds nothing: {right:.4f}, got {got}"
    )


# supervised_positions: the mask moves with the logits


def supervised_positions(labels: Sequence[int]) -> list[int]:
    return [place - 1 for place, label in enumerate(labels) if label != -100 and place > 0]


def _places_value(attempt: Callable[..., Any]) -> str | None:
    got = attempt([-100, -100, 7, 8, 2])
    if got is None:
        return "not attempted"
    got = list(got)
    if any(isinstance(value, bool | np.bool_) for value in got):
        return "that is a mask; return the positions themselves, as numbers"
    named = {
        (
            2,
            3,
            4,
        ): "unshifted: those are the places of the answer's tokens. The logits that guess a token stand one earlier",
        (3, 4, 5): "shifted the wrong way: the guess at a token stands before it, not after it",
        (3, 4): "shifted the wrong way: the guess at a token stands before it, not after it",
        (2, 3): "the guess at the answer's first token is missing: it stands on the last token of the prompt",
        (1, 2): "the guess at the last token, the end, is missing: the student would never learn to stop",
        (7, 8, 2): "those are the tokens; return the positions whose logits guess them",
        (0, 1, 2, 3): "every position, the prompt's too: the teacher's thoughts on the question are no lesson here",
    }
    if tuple(got) in named:
        return named[tuple(got)]
    return None if got == [1, 2, 3] else f"expected [1, 2, 3], got {got}"


def _places_odd(attempt: Callable[..., Any]) -> str | None:
    got = list(attempt([-100, 0, 5, 2, -100, -100]))
    if got == [1, 2]:
        return "token number 0 is a token like any other; only -100 means that there is nothing to learn"
    if got and max(got) > 2:
        return "the labels after the end are padding (-100), and padding is no lesson"
    return None if got == [0, 1, 2] else f"[-100, 0, 5, 2, -100, -100] has the positions [0, 1, 2], got {got}"


def _places_first(attempt: Callable[..., Any]) -> str | None:
    got = list(attempt([4, 5, 2]))
    if -1 in got:
        return "nothing stands before the first token of all, so nothing guesses it: -1 would be the last position's logits"
    return None if got == [0, 1] else f"with no prompt at all, [4, 5, 2] has the positions [0, 1], got {got}"


# with_bucket: the k likeliest tokens, and one bucket for all others


def with_bucket(log_probs: Any, ids: Any) -> Any:
    log_probs = np.asarray(log_probs, float)
    others = log_probs.copy()
    np.put_along_axis(others, ids, -np.inf, -1)
    top = others.max(-1, keepdims=True)
    bucket = top + np.log(np.exp(others - top).sum(-1, keepdims=True))
    return np.concatenate([np.take_along_axis(log_probs, ids, -1), bucket], -1)


_LOG = np.log([[0.5, 0.05, 0.3, 0.15], [0.1, 0.2, 0.3, 0.4]])
_IDS = np.array([[2, 0], [3, 2]])


def _bucket_shape(attempt: Callable[..., Any]) -> str | None:
    got = attempt(_LOG.copy(), _IDS.copy())
    if got is None:
        return "not attempted"
    got, kept = np.asarray(got, float), np.take_along_axis(_LOG, _IDS, -1)
    if got.shape == (2, 2):
        if np.allclose(np.exp(got).sum(-1), 1):
            return "the k tokens were scaled up to 1: the teacher would seem surer than it is. Keep what is left in a bucket"
        return "the bucket is missing: k tokens and one bucket are k + 1 outcomes"
    if got.shape != (2, 3):
        return f"two tokens with k = 2 give the shape (2, 3), got {got.shape}"
    if np.allclose(got[:, :2], np.exp(kept)):
        return "return log-probabilities, as they came"
    if np.allclose(got[:, :2], np.sort(kept)[:, ::-1]) and not np.allclose(got[:, :2], kept):
        return "keep the order of `ids`: teacher and student are compared column by column"
    if np.allclose(got[:, 1:], kept):
        return "the bucket comes last, after the k tokens"
    return (
        None
        if np.allclose(got[:, :2], kept)
        else "the first k columns are the log-probabilities of `ids`, in their order"
    )


def _bucket_value(attempt: Callable[..., Any]) -> str | None:
    got = np.asarray(attempt(_LOG.copy(), _IDS.copy()), float)
    left = np.array([0.2, 0.3])
    if np.allclose(got[:, 2], left):
        return "the bucket is a log-probability too: take the logarithm"
    if np.allclose(got[:, 2], [_LOG[0, [1, 3]].sum(), _LOG[1, [0, 1]].sum()]):
        return "a sum of logarithms is the logarithm of a product: add the probabilities, then take the logarithm"
    if np.allclose(got[:, 2], np.log(1 - left)):
        return "that is what the k tokens hold together; the bucket holds what they do not"
    total = np.exp(got).sum(-1)
    return None if np.allclose(total, 1) else f"all outcomes together have probability 1, here {total.round(3)}"


def _bucket_precise(attempt: Callable[..., Any]) -> str | None:
    logits = np.array([[60.0, 50.0, 0.0, 1.0]])
    log_probs = logits - np.log(np.exp(logits - 60).sum()) - 60
    with np.errstate(all="ignore"):
        got = float(np.asarray(attempt(log_probs, np.array([[0, 1]])), float)[0, 2])
    right = float(with_bucket(log_probs, np.array([[0, 1]]))[0, 2])
    if not np.isfinite(got) or abs(got - right) > 1e-3:
        return (
            f"where the k tokens hold nearly everything, 1 minus their sum is lost to rounding (got {got:.2f}, "
            f"right is {right:.2f}): add up the others instead"
        )
    return None


EXERCISES = {
    "forward_kl": Exercise(
        forward_kl,
        (("one number a token", _kl_shape), ("the value", _kl_value), ("agreement", _kl_agree),
         ("an impossible token", _kl_impossible)),
    ),
    "supervised_positions": Exercise(
        supervised_positions,
        (("the shift", _places_value), ("token 0 and padding", _places_odd), ("the first token", _places_first)),
    ),
    "with_bucket": Exercise(
        with_bucket, (("the shape", _bucket_shape), ("the value", _bucket_value), ("precision", _bucket_precise))
    ),
}  # fmt: skip
check = partial(check_in, exercises=EXERCISES)
