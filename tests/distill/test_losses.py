"""The losses: against outside oracles, closed forms and finite differences, in value and in gradient."""

import math
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import kl_div

from slmops_utils.distill.losses import (
    cross_entropy,
    forward_kl,
    generalised_jsd,
    in_chunks,
    mix,
    on_support,
    reverse_kl,
    skewed_kl,
    skewed_reverse_kl,
    softened,
    softened_loss,
)

DIVERGENCES = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jsd": generalised_jsd,
    "jsd_0.9": lambda t, s: generalised_jsd(t, s, 0.9),
    "skewed_kl": skewed_kl,
    "skewed_reverse_kl": skewed_reverse_kl,
}
each_divergence = pytest.mark.parametrize("loss", DIVERGENCES.values(), ids=DIVERGENCES.keys())
LOGITS = st.lists(st.floats(-8, 8), min_size=2, max_size=12)
SHAPES = st.tuples(st.integers(1, 6), st.integers(2, 12), st.integers(0, 10_000))


def logits(rows=5, width=9, seed=0, scale=2.0):
    return scale * torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pair(rows=5, width=9, seed=0):
    return softened(logits(rows, width, seed), 1), softened(logits(rows, width, seed + 1), 1)


def two(p):
    """The log-probabilities of a coin."""
    return torch.tensor([[p, 1 - p]], dtype=torch.float64).log()


def gradient(function, at):
    at = at.detach().clone().requires_grad_()
    return torch.autograd.grad(function(at).sum(), at)[0]


# Outside oracles


def test_both_kls_are_torchs():
    teacher, student = pair()
    expected = kl_div(student, teacher, reduction="none", log_target=True).sum(-1)
    torch.testing.assert_close(forward_kl(teacher, student), expected)
    expected = kl_div(teacher, student, reduction="none", log_target=True).sum(-1)
    torch.testing.assert_close(reverse_kl(teacher, student), expected)


def test_cross_entropy_is_torchs():
    student, targets = logits(), torch.tensor([0, 8, 3, 3, 1])
    expected = torch.nn.functional.cross_entropy(student, targets, reduction="none")
    torch.testing.assert_close(cross_entropy(softened(student, 1), targets), expected)


@pytest.fixture(scope="module")
def trl_jsd():
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    from trl.experimental.gkd import GKDTrainer

    return GKDTrainer.generalized_jsd_loss


@pytest.mark.parametrize("temperature", [1.0, 0.5, 4.0])
@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_value_and_gradient_are_trls(beta, temperature, trl_jsd):
    """TRL has no T², and puts the KLs at the ends of beta."""
    ours = {0.0: forward_kl, 1.0: reverse_kl}.get(beta, lambda t, s: generalised_jsd(t, s, beta))
    teacher, student = logits(seed=3), logits(seed=4)

    def mine(s):
        both = softened(teacher, temperature), softened(s, temperature)
        return softened_loss(ours, *both, temperature) / temperature**2

    def theirs(s):
        return trl_jsd(s[None], teacher[None], beta=beta, temperature=temperature, reduction="sum")

    torch.testing.assert_close(mine(student).sum(), theirs(student))
    torch.testing.assert_close(gradient(mine, student), gradient(theirs, student))


# Closed forms


@pytest.mark.parametrize(("p", "q"), [(0.9, 0.5), (0.2, 0.7), (0.01, 0.99)])
def test_two_outcomes_in_closed_form(p, q):
    def kl(a, b):
        return a * math.log(a / b) + (1 - a) * math.log((1 - a) / (1 - b))

    teacher, student = two(p), two(q)
    assert forward_kl(teacher, student).item() == pytest.approx(kl(p, q))
    assert reverse_kl(teacher, student).item() == pytest.approx(kl(q, p))
    m = 0.3 * p + 0.7 * q
    assert generalised_jsd(teacher, student, 0.3).item() == pytest.approx(0.3 * kl(p, m) + 0.7 * kl(q, m))
    assert skewed_kl(teacher, student, 0.1).item() == pytest.approx(kl(p, 0.1 * p + 0.9 * q))
    assert skewed_reverse_kl(teacher, student, 0.1).item() == pytest.approx(kl(q, 0.1 * q + 0.9 * p))


def test_the_gradient_of_forward_kl_is_student_minus_teacher():
    teacher = softened(logits(seed=5), 1)
    found = gradient(lambda s: forward_kl(teacher, softened(s, 1)), logits())
    torch.testing.assert_close(found, logits().softmax(-1) - teacher.exp())


def test_forward_kl_covers_and_reverse_kl_seeks():
    """A student with one peak for a teacher with two: the directions disagree about which student is better."""
    teacher = torch.tensor([[0.49, 0.02, 0.49]], dtype=torch.float64).log()
    spread = torch.tensor([[0.30, 0.40, 0.30]], dtype=torch.float64).log()
    peaked = torch.tensor([[0.98, 0.01, 0.01]], dtype=torch.float64).log()
    assert forward_kl(teacher, spread) < forward_kl(teacher, peaked)
    assert reverse_kl(teacher, peaked) < reverse_kl(teacher, spread)


# Finite differences


@each_divergence
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_gradients_by_finite_differences(loss, temperature):
    teacher = softened(logits(3, 5, 1), temperature)
    student = logits(3, 5).requires_grad_()
    torch.autograd.gradcheck(lambda s: softened_loss(loss, teacher, softened(s, temperature), temperature), [student])


@each_divergence
def test_top_k_gradients_by_finite_differences(loss):
    ids = logits(3, 7, 1).topk(3).indices
    teacher = on_support(logits(3, 7, 1), ids, 2.0)
    torch.autograd.gradcheck(lambda s: loss(teacher, on_support(s, ids, 2.0)), [logits(3, 7).requires_grad_()])


# Invariants


@each_divergence
@given(values=LOGITS, temperature=st.floats(0.3, 8))
@settings(deadline=None, max_examples=50)
def test_a_perfect_match_costs_nothing_and_pulls_nowhere(loss, values, temperature):
    same = torch.tensor([values], dtype=torch.float64)
    teacher = softened(same, temperature)
    assert abs(loss(teacher, teacher).item()) < 1e-12
    assert gradient(lambda s: loss(teacher, softened(s, temperature)), same).abs().max() < 1e-12


@each_divergence
@given(shape=SHAPES)
@settings(deadline=None, max_examples=50)
def test_never_negative_and_positive_where_they_differ(loss, shape):
    teacher, student = pair(*shape)
    assert (loss(teacher, student) > 0).all()


@each_divergence
@given(shape=SHAPES, data=st.data())
@settings(deadline=None, max_examples=50)
def test_a_tail_bucket_never_makes_it_larger_and_all_of_k_gives_it_whole(loss, shape, data):
    """Merging outcomes loses information (the data-processing inequality holds for every divergence here)."""
    rows, width, seed = shape
    teacher, student = logits(rows, width, seed), logits(rows, width, seed + 1)
    k = data.draw(st.integers(1, width))
    ids = teacher.topk(k).indices
    whole = loss(softened(teacher, 1), softened(student, 1))
    part = loss(on_support(teacher, ids, 1), on_support(student, ids, 1))
    assert (part <= whole + 1e-10).all()
    if k == width:
        torch.testing.assert_close(part, whole)


@each_divergence
def test_top_k_with_k_the_whole_vocabulary_is_the_full_loss_in_value_and_gradient(loss):
    teacher, student = logits(seed=1), logits()
    ids = teacher.topk(9).indices
    for t in (1.0, 3.0):
        full = lambda s, t=t: loss(softened(teacher, t), softened(s, t))  # noqa: E731
        cut = lambda s, t=t: loss(on_support(teacher, ids, t), on_support(s, ids, t))  # noqa: E731
        torch.testing.assert_close(cut(student), full(student))
        torch.testing.assert_close(gradient(cut, student), gradient(full, student))


@each_divergence
def test_k_one_short_of_the_vocabulary_is_the_full_loss_too(loss):
    """The bucket then holds a single token."""
    teacher, student = logits(seed=1), logits()
    ids = teacher.topk(8).indices
    cut = loss(on_support(teacher, ids, 1), on_support(student, ids, 1))
    torch.testing.assert_close(cut, loss(softened(teacher, 1), softened(student, 1)))


@each_divergence
def test_an_empty_bucket_gives_neither_nan_nor_a_different_loss(loss):
    """Both sides carry a bucket of probability 0: what k = V looks like when the bucket is kept."""
    teacher, student = pair()
    empty = torch.full((5, 1), -math.inf, dtype=torch.float64)
    with_bucket = torch.cat([teacher, empty], -1)

    def bucketed(s):
        return loss(with_bucket, torch.cat([s.log_softmax(-1), empty], -1))

    torch.testing.assert_close(bucketed(student), loss(teacher, student))
    expected = gradient(lambda s: loss(teacher, s.log_softmax(-1)), student)
    torch.testing.assert_close(gradient(bucketed, student), expected)


@pytest.mark.parametrize("name", ["forward_kl", "jsd", "skewed_kl", "skewed_reverse_kl"])
def test_a_teacher_that_rules_a_token_out_leaves_value_and_gradient_finite(name):
    teacher = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64).log()
    found = gradient(lambda s: DIVERGENCES[name](teacher, softened(s, 1)), logits(1, 3))
    assert DIVERGENCES[name](teacher, softened(logits(1, 3), 1)).isfinite().all()
    assert found.isfinite().all() and found[0, 2] > 0, "the student must be pushed off that token"


def test_the_reverse_kl_of_what_the_teacher_rules_out_is_infinite_not_nan():
    teacher = torch.tensor([[1.0, 0.0]], dtype=torch.float64).log()
    assert reverse_kl(teacher, two(0.5)).item() == math.inf


def test_the_bucket_keeps_its_precision_when_the_top_holds_nearly_everything():
    """1 minus the sum of the rest would be exactly 0 in float32, and its log -inf."""
    sure = torch.tensor([[40.0, 0.0, 0.0, 0.0]])
    ids = torch.tensor([[0]])
    assert (1 - sure.softmax(-1)[:, 0]).item() == 0
    assert on_support(sure, ids, 1)[0, 1].item() == pytest.approx(math.log(3) - 40, abs=1e-5)
    assert gradient(lambda s: on_support(s, ids, 1)[:, 1], sure)[0, 1:].tolist() == pytest.approx([1 / 3] * 3, abs=1e-5)


# Beta, skew, temperature and weight


def test_jsd_vanishes_at_both_ends_and_is_a_kl_to_first_order():
    teacher, student = pair(3, 4)
    for beta, kl in ((1e-6, forward_kl), (1 - 1e-6, reverse_kl)):
        jsd = generalised_jsd(teacher, student, beta)
        assert (jsd < 1e-4).all()
        torch.testing.assert_close(jsd / min(beta, 1 - beta), kl(teacher, student), rtol=1e-3, atol=0)


@given(shape=SHAPES, beta=st.floats(0.01, 0.99))
@settings(deadline=None, max_examples=50)
def test_jsd_is_symmetric_with_its_beta_and_bounded(shape, beta):
    teacher, student = pair(*shape)
    found = generalised_jsd(teacher, student, beta)
    torch.testing.assert_close(found, generalised_jsd(student, teacher, 1 - beta))
    assert (found <= -beta * math.log(beta) - (1 - beta) * math.log1p(-beta) + 1e-9).all()


@pytest.mark.parametrize("beta", [0, 1, -0.1, 1.1])
def test_beyond_the_ends_of_beta_there_is_an_error_that_names_the_kls(beta):
    with pytest.raises(ValueError, match="at 0 use forward_kl, at 1 reverse_kl"):
        generalised_jsd(*pair(), beta)


def test_without_skew_both_are_the_kls_and_with_it_they_are_bounded():
    teacher, student = pair()
    torch.testing.assert_close(skewed_kl(teacher, student, 0), forward_kl(teacher, student))
    torch.testing.assert_close(skewed_reverse_kl(teacher, student, 0), reverse_kl(teacher, student))
    far = two(1 - 1e-12), two(1e-12)
    assert skewed_kl(*far, 0.1).item() <= -math.log(0.1) < forward_kl(*far).item()
    assert skewed_reverse_kl(*far, 0.1).item() <= -math.log(0.1) < reverse_kl(*far).item()
    with pytest.raises(ValueError, match="skew must be"):
        skewed_kl(teacher, student, 1.0)


@each_divergence
def test_temperature_squared_keeps_the_gradient_at_its_scale(loss):
    """At a high temperature the gradient no longer depends on it; without the square it would shrink 100 times."""

    def norm(t):
        teacher = softened(logits(seed=1), t)
        return gradient(lambda s: softened_loss(loss, teacher, softened(s, t), t), logits()).norm().item()

    assert norm(1000) == pytest.approx(norm(100), rel=0.02)


def test_a_high_temperature_is_matching_centred_logits():
    """Hinton et al.: the limit is half the squared distance of the logits over the number of outcomes."""
    teacher, student = logits(seed=1), logits()
    t = 1e4
    found = softened_loss(forward_kl, softened(teacher, t), softened(student, t), t)
    distance = (teacher - teacher.mean(-1, keepdim=True)) - (student - student.mean(-1, keepdim=True))
    torch.testing.assert_close(found, distance.square().sum(-1) / 2 / 9, rtol=1e-3, atol=0)


def test_hard_and_soft_are_weighed():
    hard, soft = torch.tensor([2.0]), torch.tensor([10.0])
    assert [mix(hard, soft, w).item() for w in (0, 0.25, 1)] == [10, 8, 2]
    with pytest.raises(ValueError, match="between 0 and 1"):
        mix(hard, soft, 1.5)


# Chunks


@each_divergence
@pytest.mark.parametrize("rows", [1, 2, 3, 5, 100])
def test_chunked_is_dense_in_value_and_gradient(loss, rows):
    teacher, student = softened(logits(seed=1), 1), logits()

    def from_logits(t, s):
        return loss(t, softened(s, 1))

    def chunked(s):
        return in_chunks(from_logits, teacher, s, rows=rows)

    torch.testing.assert_close(chunked(student), from_logits(teacher, student).sum())
    torch.testing.assert_close(gradient(chunked, student), gradient(lambda s: from_logits(teacher, s), student))
    with torch.no_grad():
        torch.testing.assert_close(chunked(student), from_logits(teacher, student).sum())


def test_half_precision_logits_are_softened_in_float32():
    half = logits().bfloat16()
    assert softened(half, 2.0).dtype == on_support(half, torch.tensor([[0]] * 5), 2.0).dtype == torch.float32
