"""The known mistakes of distillation code, one test each.

Every test runs a check on our code, then plants the mistake in it and demands that the same check fails: a check that
a mistake passes is worth nothing. Invariants are checked in value and in gradient.
"""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from slmops_utils.distill import dataset, losses, methods, soft_targets, supervised
from slmops_utils.distill import train as training
from slmops_utils.distill.dataset import IGNORED, Row, collate, encode_rows
from slmops_utils.distill.methods import DIVERGENCES, divergence, make_method
from slmops_utils.distill.shards import SoftTargets
from slmops_utils.distill.supervised import Method
from slmops_utils.distill.train import TrainSettings, train
from slmops_utils.models.align import DifferentTokenizers
from slmops_utils.models.load import LoadedModel
from slmops_utils.models.vocabulary import trim_tokenizer
from slmops_utils.records import Example

SETTINGS = TrainSettings(method="forward_kl", max_steps=1, batch_size=4, warmup_share=0, top_k=6, temperature=2.0)
SHAPES = [(30, 2), (6, 9), (11, 1), (2, 24)]  # prompt and answer lengths, as unequal as can be


@pytest.fixture
def rows():
    generator = torch.Generator().manual_seed(0)
    return [
        Row(torch.randint(5, 100, (p + a,), generator=generator).tolist(), p, f"r{i}")
        for i, (p, a) in enumerate(SHAPES)
    ]


@pytest.fixture
def student(tiny):
    other = copy.deepcopy(tiny)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return other


@pytest.fixture
def method(tiny, student, rows, tmp_path):
    return make_method(SETTINGS, student, tiny, rows, tmp_path / "soft")


@pytest.fixture
def planted(monkeypatch):
    """planted(check, target, name, mistake): the check passes, and fails once the mistake is in."""

    def run(check, target, name, mistake):
        check()
        with monkeypatch.context() as patch:
            patch.setattr(target, name, mistake)
            with pytest.raises(AssertionError):
                check()
        check()

    return run


def same(model, found, expected, rtol=1e-3, atol=1e-4):
    """Equal in value and in gradient."""
    parameters = list(model.parameters())
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol)
    a, b = (torch.autograd.grad(loss, parameters, retain_graph=True) for loss in (found, expected))
    for mine, theirs in zip(a, b, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=rtol, atol=atol)


def dense(model, rows, reduction="sum"):
    """Cross-entropy as anybody would write it: one row at a time, no padding, all logits."""
    logits, targets = [], []
    for row in rows:
        logits.append(model(input_ids=torch.tensor([row.ids])).logits[0, row.prompt_length - 1 : -1])
        targets += row.ids[row.prompt_length :]
    return cross_entropy(torch.cat(logits), torch.tensor(targets), reduction=reduction)


@pytest.fixture
def step(student, rows, tmp_path_factory, monkeypatch):
    """The gradient one optimizer step was given, not clipped: clipping would hide a wrong scale."""
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_, **__: torch.tensor(1.0))

    def run(method=None, **options):
        learner, caught = copy.deepcopy(student), []
        settings = replace(SETTINGS, method=method.name if method else "text", **options)
        hook = register_optimizer_step_pre_hook(
            lambda *_: caught.append([p.grad.clone() for p in learner.model.parameters()])
        )
        try:
            train(learner, rows, tmp_path_factory.mktemp("step"), settings, method=method)
        finally:
            hook.remove()
        return caught[0]

    return run


def close(found, expected):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-6)


ONE_BY_ONE = {"batch_size": 1, "gradient_accumulation": 4}


@pytest.mark.parametrize("graded_by", ["text", "forward_kl"])
def test_gradient_accumulation_changes_the_loss_scale(graded_by, step, method, planted):
    chosen = method if graded_by == "forward_kl" else None
    real = training.trainer_class()

    class MeanOfMeans(real):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            return super().compute_loss(model, inputs) / self.args.gradient_accumulation_steps

    class NeverDivided(real):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            return super().compute_loss(model, inputs)

    def check():
        close(step(chosen, **ONE_BY_ONE), step(chosen))

    for mistake in (MeanOfMeans, NeverDivided):
        planted(check, training, "trainer_class", lambda mistake=mistake: mistake)


def test_a_mean_divided_by_the_tokens_a_second_time(step, student, rows, planted):
    def check():
        mean = dense(student.model, rows, "mean")
        close(step(), torch.autograd.grad(mean, list(student.model.parameters())))

    def mean_already(self, model, batch):
        loss, count = supervised.supervised_loss(model, batch)
        return loss / count, count

    planted(check, Method, "loss", mean_already)


def test_a_mask_that_is_not_shifted_with_the_logits(student, rows, planted):
    def check():
        loss, _ = supervised.supervised_loss(student.model, collate(rows, 0))
        same(student.model, loss, dense(student.model, rows))

    planted(check, supervised, "next_tokens", lambda labels: (labels != IGNORED, labels))

    def targets_only_shifted(labels):
        targets = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=0)
        return labels != IGNORED, targets.clamp(min=0)

    planted(check, supervised, "next_tokens", targets_only_shifted)


def test_cutting_by_the_widest_prompt_drops_answers(method, student, rows, planted):
    """The row with a long answer to a short prompt loses all that lies left of the widest prompt's end."""

    def check():
        together, count = method.loss(student.model, method.collate(rows, 0))
        assert count == sum(answer for _, answer in SHAPES)
        same(student.model, together, sum(method.loss(student.model, method.collate([row], 0))[0] for row in rows))

    def cut(rows, pad_id):
        batch = collate(rows, pad_id)
        batch["labels"][:, : max(row.prompt_length for row in rows)] = IGNORED
        return batch

    planted(check_text(student, rows), supervised, "collate", cut)
    check()


def check_text(student, rows):
    def check():
        text = Method()
        together, count = text.loss(student.model, text.collate(rows, 0))
        assert count == sum(answer for _, answer in SHAPES)
        same(student.model, together, sum(text.loss(student.model, text.collate([row], 0))[0] for row in rows))

    return check


def test_padding_that_is_also_the_end_hides_the_end(tiny, planted):
    end = tiny.tokenizer.eos_token_id
    assert tiny.tokenizer.pad_token_id == end
    examples = [Example(f"t{i}", "nli", [{"role": "user", "content": "the fee " * i}], "neutral") for i in (1, 5)]

    def check():
        encoded, _ = encode_rows(examples, tiny.tokenizer)
        labels = supervised.collate(encoded, end)["labels"]
        assert (labels == end).sum(1).tolist() == [1, 1], "each answer's end, once"

    def masked(rows, pad_id):
        batch = collate(rows, pad_id)
        batch["labels"][batch["labels"] == pad_id] = IGNORED
        return batch

    planted(check, supervised, "collate", masked)


def test_padding_or_prompt_inside_the_mean(student, rows, planted):
    def check():
        loss, count = Method().loss(student.model, Method().collate(rows, 7))
        torch.testing.assert_close(loss / count, dense(student.model, rows, "mean"), rtol=1e-3, atol=1e-4)

    def with_prompt(rows, pad_id):
        batch = collate(rows, pad_id)
        batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORED)
        return batch

    def with_padding(rows, pad_id):
        batch = collate(rows, pad_id)
        padding = batch["attention_mask"] == 0
        batch["labels"][padding] = batch["input_ids"][padding]
        return batch

    def by_positions(self, model, batch):
        return supervised.supervised_loss(model, batch)[0], batch["labels"].numel()

    planted(check, supervised, "collate", with_prompt)
    planted(check, supervised, "collate", with_padding)
    planted(check, Method, "loss", by_positions)


def test_chunks_averaged_with_the_wrong_weights(planted):
    teacher = torch.randn(7, 9, dtype=torch.float64).log_softmax(-1)
    student = torch.randn(7, 9, dtype=torch.float64, requires_grad=True)

    def from_logits(t, s):
        return losses.forward_kl(t, s.log_softmax(-1))

    def check():
        chunked, whole = losses.in_chunks(from_logits, teacher, student, rows=3), from_logits(teacher, student).sum()
        torch.testing.assert_close(chunked, whole)
        found, expected = (torch.autograd.grad(loss, student)[0] for loss in (chunked, whole))
        torch.testing.assert_close(found, expected)

    def mean_of_means(loss, *tensors, rows):
        means = [loss(*chunk).mean() for chunk in zip(*(t.split(rows) for t in tensors), strict=True)]
        return torch.stack(means).mean() * len(tensors[0])

    planted(check, losses, "in_chunks", mean_of_means)


def coin(p):
    return torch.tensor([[p, 1 - p]], dtype=torch.float64).log()


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_divergence_in_the_wrong_direction_or_mixed_the_wrong_way(name, planted):
    def kl(a, b):
        return a * math.log(a / b) + (1 - a) * math.log((1 - a) / (1 - b))

    p, q = 0.9, 0.3
    m = 0.2 * p + 0.8 * q
    expected = {
        "forward_kl": kl(p, q),
        "reverse_kl": kl(q, p),
        "jsd": 0.2 * kl(p, m) + 0.8 * kl(q, m),
        "skewed_kl": kl(p, 0.15 * p + 0.85 * q),
    }

    def check():
        loss = divergence(replace(SETTINGS, method=name, beta=0.2, skew=0.15))
        assert loss(coin(p), coin(q)).item() == pytest.approx(expected[name])

    right_kl, right_mixture = losses._kl, losses._mixture
    planted(check, losses, "_kl", lambda p, q: right_kl(q, p))
    if name in ("jsd", "skewed_kl"):
        planted(check, losses, "_mixture", lambda p, q, weight: right_mixture(q, p, weight))
        planted(check, losses, "_mixture", lambda p, q, weight: weight * p + (1 - weight) * q)  # of logs, not of shares
    else:
        other = losses.reverse_kl if name == "forward_kl" else losses.forward_kl
        planted(check, methods, name, other)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_temperature_squared_in_one_place_and_not_in_another(name, method, planted):
    """The text's own loss knows no temperature; the comparison's gradient must not shrink with it."""
    logits, targets, teacher = torch.randn(5, 20), torch.tensor([1, 2, 3, 4, 5]), torch.randn(5, 20)
    ids = teacher.topk(6).indices

    def graded(temperature, alpha):
        settings = replace(SETTINGS, method=name, temperature=temperature, alpha=alpha)
        chosen = copy.copy(method)
        chosen.settings, chosen.divergence, chosen.vocabulary = settings, divergence(settings), 20
        at = logits.clone().requires_grad_()
        loss = chosen.per_token(at, targets, ids, losses.on_support(teacher, ids, temperature)).sum()
        return loss.detach(), torch.autograd.grad(loss, at)[0]

    def check():
        for found, expected in zip(graded(3.0, 1.0), graded(1.0, 1.0), strict=True):
            torch.testing.assert_close(found, expected)
        torch.testing.assert_close(graded(3.0, 1.0)[0], cross_entropy(logits, targets, reduction="sum"))
        hot, hotter = graded(50.0, 0.0)[1].norm(), graded(500.0, 0.0)[1].norm()
        assert hot.item() == pytest.approx(hotter.item(), rel=0.1)
        for part in (0, 1):
            both = 0.5 * graded(3.0, 1.0)[part] + 0.5 * graded(3.0, 0.0)[part]
            torch.testing.assert_close(graded(3.0, 0.5)[part], both)

    planted(check, methods, "softened_loss", lambda loss, t, s, temperature: loss(t, s))
    planted(check, methods, "softened_loss", lambda loss, t, s, temperature: loss(t, s) / temperature**2)
    soft = losses.softened
    planted(check, methods, "softened", lambda logits, temperature: soft(logits, 3.0 * temperature))
    mixed = losses.mix
    planted(check, methods, "mix", lambda hard, soft, weight: 9 * mixed(hard, soft, weight))


def test_the_gradient_of_the_text_is_lost(method, student, rows, planted):
    def check():
        parameters = list(student.model.parameters())

        def gradient(alpha):
            method.settings = replace(SETTINGS, alpha=alpha)
            return torch.autograd.grad(method.loss(student.model, method.collate(rows, 0))[0], parameters)

        for whole, text, soft in zip(gradient(0.5), gradient(1.0), gradient(0.0), strict=True):
            torch.testing.assert_close(whole, 0.5 * text + 0.5 * soft, rtol=1e-3, atol=1e-4)
        close(gradient(1.0), torch.autograd.grad(dense(student.model, rows), parameters))

    mixed = losses.mix
    planted(check, methods, "mix", lambda hard, soft, weight: mixed(hard.detach(), soft, weight))


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_divergence_without_the_entropy_is_never_zero(name, method, tiny, rows, planted):
    """The teacher itself, graded by what was cached of it: nothing to lose, nowhere to go."""

    def check():
        settings = replace(SETTINGS, method=name, alpha=0.0)
        method.settings, method.divergence = settings, divergence(settings)
        loss, _ = method.loss(tiny.model, method.collate(rows, 0))
        assert abs(loss.item()) < 1e-3
        gradients = torch.autograd.grad(loss, list(tiny.model.parameters()))
        assert max(g.abs().max().item() for g in gradients) < 1e-3

    planted(check, losses, "_kl", lambda p, q: -(p.exp() * q).sum(-1))


def test_a_truncated_kl_without_a_bucket_clamps_at_zero(planted):
    """A student that gives the teacher's top tokens too much: summed over those alone the "KL" is negative."""
    teacher = torch.tensor([[3.0, 2.0, 1.5, 1.0, 1.0, 1.0, 1.0, 1.0]])
    student = torch.tensor([[6.0, 5.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]], requires_grad=True)
    ids = torch.tensor([[0, 1]])

    def check():
        loss = divergence(SETTINGS)(losses.on_support(teacher, ids, 1), losses.on_support(student, ids, 1)).sum()
        assert loss > 0.1
        pull = torch.autograd.grad(loss, student)[0]
        assert (pull[0, :2] > 0).any() and (pull[0, 2:] < 0).all(), "the rest must get its probability back"

    def truncated(teacher, student):
        return (teacher[:, :-1].exp() * (teacher[:, :-1] - student[:, :-1])).sum(-1).clamp(min=0)

    planted(check, methods, "forward_kl", truncated)


def test_cached_log_probabilities_matched_by_position(tiny, student, tmp_path, planted):
    """Rows of one shape, so that nothing but the numbers can tell that they are another row's."""
    generator = torch.Generator().manual_seed(5)
    rows = [Row(torch.randint(5, 100, (9,), generator=generator).tolist(), 4, f"r{i}") for i in range(4)]
    method = make_method(SETTINGS, student, tiny, rows, tmp_path / "alike")

    def check():
        in_order, shuffled = (method.loss(student.model, method.collate(rows[::way], 0))[0] for way in (1, -1))
        same(student.model, shuffled, in_order)

    right, asked = SoftTargets.__getitem__, []

    def by_position(self, row):
        asked.append(row)
        return right(self, rows[(len(asked) - 1) % len(rows)])

    planted(check, SoftTargets, "__getitem__", by_position)


def test_a_template_without_generation_marks_leaves_nothing_to_train_on(tiny, student, tmp_path, planted):
    assert "generation %}" not in tiny.tokenizer.chat_template
    examples = [Example("t", "nli", [{"role": "user", "content": "the fee"}], "neutral")]
    expected = [*tiny.tokenizer("neutral")["input_ids"], tiny.tokenizer.eos_token_id]

    def check():
        ((row,), _) = dataset.encode_rows(examples, tiny.tokenizer)
        assert row.supervised == len(expected)
        labels = collate([row], 0)["labels"]
        assert labels[labels != IGNORED].tolist() == expected

    def by_template(examples, tokenizer):
        chat = [*examples[0].messages, {"role": "assistant", "content": examples[0].reference}]
        both = tokenizer.apply_chat_template(chat, return_assistant_tokens_mask=True, return_dict=True)
        return [Row(both["input_ids"], len(both["input_ids"]) - sum(both["assistant_masks"]), "t")], 0

    planted(check, dataset, "encode_rows", by_template)
    with pytest.raises(ValueError, match="1 of 1 rows have no token to train on"):
        train(student, by_template(examples, tiny.tokenizer)[0], tmp_path, replace(SETTINGS, method="text"))


def test_blind_padding_hides_a_wrong_tokenizer(tiny, whole_tokenizer, tmp_path, planted):
    """Output layers of equal width, or cut to one, say nothing about what their rows mean."""
    other, _ = trim_tokenizer(whole_tokenizer, ["quite different words, of which the teacher knows nothing"])
    student = LoadedModel("other", copy.deepcopy(tiny.model), other, "float32", "")
    rows, _ = encode_rows([Example("t", "nli", [{"role": "user", "content": "words"}], "neutral")], other)
    tries = iter(range(9))

    def check():
        try:
            make_method(SETTINGS, student, tiny, rows, tmp_path / str(next(tries)))
        except DifferentTokenizers as error:
            assert "Use method 'text'" in str(error)
        else:
            raise AssertionError("nobody noticed")

    width = tiny.model.get_output_embeddings().out_features
    planted(
        check, soft_targets, "teacher_ids", lambda teacher, student: [min(i, width - 1) for i in range(len(student))]
    )


def test_top_k_of_the_whole_vocabulary_is_the_full_loss(tiny, student, rows, tmp_path, planted):
    """Through the cache, in value and gradient of every weight; a cache that is a bucket short is not."""
    tries = iter(range(9))

    def check():
        settings = replace(SETTINGS, top_k=10_000, alpha=0.0)
        method = make_method(settings, student, tiny, rows, tmp_path / str(next(tries)))
        found, _ = method.loss(student.model, method.collate(rows, 0))
        expected = 0
        for row in rows:
            with torch.no_grad():
                theirs = tiny.model(input_ids=torch.tensor([row.ids])).logits[0, row.prompt_length - 1 : -1]
            ours = student.model(input_ids=torch.tensor([row.ids])).logits[0, row.prompt_length - 1 : -1]
            both = (theirs / 2).log_softmax(-1), (ours / 2).log_softmax(-1)
            expected = expected + 4 * torch.nn.functional.kl_div(both[1], both[0], reduction="sum", log_target=True)
        same(student.model, found, expected)

    right = soft_targets.teacher_log_probs
    planted(check, soft_targets, "teacher_log_probs", lambda logits, mapping, t, k: right(logits, mapping, t, 8))
