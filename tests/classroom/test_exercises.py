"""Exercises: the reference passes, an empty stub never blocks, and each typical mistake is named."""

import itertools
import random

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score

from slmops_utils.classroom.exercises import EXERCISES, check, split_by_group

COUNT = itertools.count()


def share_of_groups(groups, share, seed):
    names = sorted(set(groups))
    random.Random(seed).shuffle(names)
    held = names[: round(share * len(names))]
    return [i for i, g in enumerate(groups) if g not in held], [i for i, g in enumerate(groups) if g in held]


@pytest.mark.parametrize("name", EXERCISES)
def test_the_reference_passes_and_is_returned_as_the_learners_version(name, capsys):
    reference = EXERCISES[name].reference
    attempt = lambda *a, **k: reference(*a, **k)  # noqa: E731
    assert check(name, attempt) is attempt
    assert "pass" in capsys.readouterr().out


@pytest.mark.parametrize("name", EXERCISES)
def test_an_unfilled_stub_is_not_attempted_and_the_reference_takes_over(name, capsys):
    def unfilled(*_, **__):
        raise NotImplementedError

    for stub in (lambda *a, **k: None, unfilled):
        assert check(name, stub) is EXERCISES[name].reference
        assert "not attempted" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "mistake", "hint"),
    [
        ("retention", lambda s, t: t / s, "teacher over student"),
        ("retention", lambda s, t: t - s, "difference"),
        ("retention", lambda s, t: min(1.0, s / t), "pass its teacher"),
        ("split_by_group", lambda groups, share, seed: (groups[:70], groups[70:]), "not the names"),
        ("split_by_group", lambda groups, share, seed: (list(range(100)), []), "empty"),
        ("split_by_group", lambda groups, share, seed: (list(range(71)), list(range(70, 100))), "on both sides"),
        ("split_by_group", lambda groups, share, seed: (list(range(60)), list(range(70, 100))), "neither"),
        ("split_by_group", lambda groups, share, seed: (list(range(70)), list(range(70, 100))), "of 10 groups"),
        ("split_by_group", lambda groups, share, seed: split_by_group(groups, share, seed)[::-1], "swapped"),
        ("split_by_group", lambda groups, share, seed: split_by_group(groups, 0.5, seed), "30 rows"),
        ("split_by_group", lambda groups, share, seed: split_by_group(groups, share, 0), "the seed changes nothing"),
        ("split_by_group", lambda groups, share, seed: share_of_groups(groups, share, seed), "of the rows"),
        ("split_by_group", lambda groups, share, seed: split_by_group(groups, share, next(COUNT)), "same seed"),
        ("jaccard", lambda a, b: 2 * len(a & b) / (len(a) + len(b)), "Dice"),
        ("jaccard", lambda a, b: len(a & b) / (len(a) + len(b)), "counted twice"),
        ("jaccard", lambda a, b: len(a & b) / min(len(a), len(b)), "smaller"),
        ("jaccard", lambda a, b: len(a & b) / len(a), "one of the sets"),
        ("jaccard", lambda a, b: len(a & b), "counts what is shared"),
        ("jaccard", lambda a, b: 1 - len(a & b) / len(a | b), "differ"),
        ("jaccard", lambda a, b: len(a & b) / len(a | b), "divide by nought"),
        ("macro_f1", lambda w, g: np.mean([x == y for x, y in zip(w, g, strict=True)]), "accuracy"),
        ("macro_f1", lambda w, g: f1_score(w, g, average="weighted"), "weighted"),
        ("macro_f1", lambda w, g: recall_score(w, g, average="macro"), "recall"),
        ("macro_f1", lambda w, g: precision_score(w, g, average="macro"), "precision"),
        ("macro_f1", lambda w, g: f1_score(w, g, average="macro", labels=sorted(set(g))), "leaving it out"),
        ("macro_f1", lambda w, g: f1_score(w, g, average="macro"), "no label of the data"),
        ("plan_batches", lambda lengths, n: [list(range(n))], "no batch"),
        ("plan_batches", lambda lengths, n: [list(range(i, min(i + n, 9))) for i in range(0, 9, n)], "padding"),
        ("plan_batches", lambda lengths, n: [sorted(lengths)], "not their lengths"),
        ("shift_labels", lambda labels: labels, "unshifted"),
        ("shift_labels", lambda labels: [-100, *labels[:-1]], "wrong way"),
        ("shift_labels", lambda labels: labels[1:], "keep the length"),
        ("shift_labels", lambda labels: [x if x != 2 else -100 for x in [*labels[1:], -100]], "expected"),
        ("bootstrap_interval", lambda scores: (0.0, 1.0), "single rows"),
        ("bootstrap_interval", lambda scores: (np.mean(scores),) * 2, "no width"),
    ],
)
def test_typical_mistakes_are_named(name, mistake, hint, capsys):
    assert check(name, mistake) is EXERCISES[name].reference
    assert hint in capsys.readouterr().out


def test_an_attempt_that_crashes_is_shown_and_does_not_block(capsys):
    assert check("retention", lambda: 1) is EXERCISES["retention"].reference
    assert "TypeError" in capsys.readouterr().out


def test_an_unknown_exercise_names_those_that_exist():
    with pytest.raises(KeyError, match="shift_labels"):
        check("shift", lambda: None)
