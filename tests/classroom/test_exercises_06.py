"""Exercises of notebook 06: the references are right, a stub never blocks, typical mistakes are named."""

import numpy as np
import pytest
import torch
from scipy.special import rel_entr

from slmops_utils.classroom.exercises_06 import EXERCISES, check, forward_kl, supervised_positions, with_bucket
from slmops_utils.distill.dataset import IGNORED
from slmops_utils.distill.losses import forward_kl as package_kl
from slmops_utils.distill.losses import on_support
from slmops_utils.distill.supervised import next_tokens


@pytest.mark.parametrize("name", EXERCISES)
def test_the_reference_passes_and_a_stub_does_not_block(name, capsys):
    reference = EXERCISES[name].reference
    attempt = lambda *a, **k: reference(*a, **k)  # noqa: E731
    assert check(name, attempt) is attempt
    assert check(name, lambda *a, **k: None) is reference
    assert "not attempted" in capsys.readouterr().out


def test_the_references_say_what_the_package_and_scipy_do():
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(9), 5), rng.dirichlet(np.ones(9), 5)
    np.testing.assert_allclose(forward_kl(np.log(p), np.log(q)), rel_entr(p, q).sum(-1))
    found = package_kl(torch.tensor(p).log(), torch.tensor(q).log())
    np.testing.assert_allclose(forward_kl(np.log(p), np.log(q)), found.numpy())
    ids = np.argsort(-p)[:, :3]
    np.testing.assert_allclose(with_bucket(np.log(p), ids), on_support(torch.tensor(p).log(), torch.tensor(ids), 1))
    labels = [IGNORED, IGNORED, 4, 0, 2, IGNORED]
    keep, _ = next_tokens(torch.tensor([labels]))
    assert supervised_positions(labels) == keep[0].nonzero().flatten().tolist()


def kl(weights, gap):
    return lambda t, s: (weights(t, s) * gap(t, s)).sum(-1)


def bucket(last):
    return lambda p, ids: np.concatenate([np.take_along_axis(p, ids, -1), last(p, ids)], -1)


def kept(p, ids):
    return np.exp(np.take_along_axis(p, ids, -1)).sum(-1, keepdims=True)


@pytest.mark.parametrize(
    ("name", "mistake", "hint"),
    [
        ("forward_kl", lambda t, s: forward_kl(t, s).mean(), "one number for both tokens"),
        ("forward_kl", lambda t, s: np.mean(np.exp(t) * (t - s)), "mean over tokens and outcomes"),
        ("forward_kl", lambda t, s: np.exp(t) * (t - s), "one number for each outcome"),
        ("forward_kl", kl(lambda t, s: np.exp(s), lambda t, s: s - t), "reverse direction"),
        ("forward_kl", kl(lambda t, s: np.exp(t), lambda t, s: s - t), "sign"),
        ("forward_kl", kl(lambda t, s: np.exp(t), lambda t, s: -s), "entropy is missing"),
        ("forward_kl", lambda t, s: (np.exp(t) * (t - s)).mean(-1), "mean over the outcomes"),
        ("forward_kl", lambda t, s: forward_kl(t, s) / np.log(2), "bits"),
        ("forward_kl", kl(lambda t, s: t, lambda t, s: t - s), "weights are exp(teacher)"),
        ("forward_kl", kl(lambda t, s: np.exp(t), lambda t, s: t - s), "leave such outcomes out"),
        ("supervised_positions", lambda y: [i for i, v in enumerate(y) if v != -100], "unshifted"),
        ("supervised_positions", lambda y: [i + 1 for i, v in enumerate(y) if v != -100], "wrong way"),
        ("supervised_positions", lambda y: [i - 1 for i, v in enumerate(y) if v != -100][:-1], "never learn to stop"),
        ("supervised_positions", lambda y: [i for i, v in enumerate(y[:-1]) if v != -100], "answer's first token"),
        ("supervised_positions", lambda y: [v != -100 for v in [*y[1:], -100]], "that is a mask"),
        ("supervised_positions", lambda y: [i - 1 for i, v in enumerate(y) if v > 0], "token number 0"),
        ("supervised_positions", lambda y: [i - 1 for i, v in enumerate(y) if v != -100], "nothing guesses it"),
        ("supervised_positions", lambda y: list(range(max(0, y.count(-100) - 1), len(y) - 1)), "padding"),
        ("with_bucket", lambda p, ids: np.take_along_axis(p, ids, -1), "bucket is missing"),
        ("with_bucket", lambda p, ids: np.take_along_axis(p, ids, -1) - np.log(kept(p, ids)), "scaled up to 1"),
        ("with_bucket", lambda p, ids: np.exp(with_bucket(p, ids)), "return log-probabilities"),
        ("with_bucket", bucket(lambda p, ids: 1 - kept(p, ids)), "log-probability too"),
        ("with_bucket", bucket(lambda p, ids: np.log(kept(p, ids))), "what the k tokens hold together"),
        ("with_bucket", bucket(lambda p, ids: p.sum(-1, keepdims=True) - np.take_along_axis(p, ids, -1).sum(-1, keepdims=True)), "logarithm of a product"),
        ("with_bucket", lambda p, ids: np.roll(with_bucket(p, ids), 1, -1), "bucket comes last"),
        ("with_bucket", lambda p, ids: with_bucket(p, np.argsort(-p)[:, : ids.shape[1]]), "keep the order"),
        ("with_bucket", bucket(lambda p, ids: np.log(1 - kept(p, ids))), "lost to rounding"),
    ],
)  # fmt: skip
def test_typical_mistakes_are_named(name, mistake, hint, capsys):
    with np.errstate(all="ignore"):
        assert check(name, mistake) is EXERCISES[name].reference
    assert hint in capsys.readouterr().out
