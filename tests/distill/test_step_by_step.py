"""Distilling step by step: two tasks in training, one at inference."""

from dataclasses import replace

import pytest
import torch

from slmops_utils.distill.dataset import collate
from slmops_utils.distill.distill import distill
from slmops_utils.distill.step_by_step import PREFIX, StepByStepMethod, label_and_rationale, step_by_step_rows
from slmops_utils.distill.supervised import supervised_loss
from slmops_utils.distill.train import TrainSettings
from slmops_utils.records import Example, Response
from slmops_utils.synthesize.answer import encode_prompt
from slmops_utils.tasks import get_task

LABELS = ("entailment", "neutral")
QUESTION = [{"role": "user", "content": "the fee"}]


def written(number=0):
    return Example(
        f"w{number}", "nli", QUESTION, "neutral", extra={"rationale": "The fees differ, so neither entailment."}
    )


def answered(text):
    return Example("a", "nli", QUESTION, response=Response(text, "teacher"))


def test_label_and_reason_are_taken_apart():
    assert label_and_rationale(written(), LABELS) == ("neutral", "The fees differ, so neither entailment.")
    assert label_and_rationale(answered("The fees differ. So: Neutral."), LABELS) == ("neutral", "The fees differ. So")
    assert label_and_rationale(answered("neutral"), LABELS) == ("neutral", None)
    assert label_and_rationale(answered("perhaps"), LABELS) is None
    assert label_and_rationale(Example("b", "nli", QUESTION, "neutral"), LABELS) == ("neutral", None)
    chat = Example("c", "conversation", QUESTION, response=Response("It is £5.", "teacher"))
    assert label_and_rationale(chat) == ("It is £5.", None)


def test_the_label_is_asked_for_as_it_will_be_and_the_reason_with_a_prefix(tiny):
    rows, left_out = step_by_step_rows([written(), answered("perhaps")], tiny.tokenizer, 0.5)
    assert left_out == 1 and [row.id for row in rows] == ["w0", "w0#rationale"]
    label, why = rows
    assert label.ids[: label.prompt_length] == encode_prompt(tiny.tokenizer, get_task("nli").prompt(written()))
    text = [tiny.tokenizer.decode(row.ids[row.prompt_length : -1]) for row in rows]
    assert text == ["neutral", "The fees differ, so neither entailment."]
    assert PREFIX + "the fee" in tiny.tokenizer.decode(why.ids[: why.prompt_length])
    assert PREFIX not in tiny.tokenizer.decode(label.ids)


def test_the_loss_is_the_labels_mean_and_a_share_of_the_rationales_mean(tiny):
    rows, _ = step_by_step_rows([written(0), written(1), Example("b", "nli", QUESTION, "neutral")], tiny.tokenizer, 0.3)
    method = StepByStepMethod()
    loss, count = method.loss(tiny.model, method.collate(rows, 0))

    def mean(chosen):
        total, tokens = supervised_loss(tiny.model, collate(chosen, 0))
        return total / tokens

    expected = mean([r for r in rows if "#" not in r.id]) + 0.3 * mean([r for r in rows if "#" in r.id])
    torch.testing.assert_close(loss / count, expected, rtol=1e-4, atol=1e-4)
    split = sum(method.loss(tiny.model, method.collate([row], 3))[0] for row in rows)
    torch.testing.assert_close(loss, split, rtol=1e-4, atol=1e-4)
    parameters = list(tiny.model.parameters())
    found, *others = (torch.autograd.grad(x, parameters) for x in (loss, split, expected * count))
    for other in others:
        for mine, plain in zip(found, other, strict=True):
            torch.testing.assert_close(mine, plain, rtol=1e-3, atol=1e-3)


def test_no_rationale_anywhere_is_an_error(tiny):
    with pytest.raises(ValueError, match="and 0 of these 1 have one: write them under 'rationale'"):
        step_by_step_rows([answered("neutral")], tiny.tokenizer, 0.5)


def test_a_handful_of_rationales_does_not_get_the_whole_weight_of_the_task(tiny):
    some = [written(0), *(replace(answered("neutral"), id=f"r{i}") for i in range(39))]
    with pytest.raises(ValueError, match="of at least 5% of the examples, and 1 of these 40 have one"):
        step_by_step_rows(some, tiny.tokenizer, 0.5)
    assert len(step_by_step_rows(some[:20], tiny.tokenizer, 0.5)[0]) == 21


def test_distill_needs_no_teacher_for_it(tiny, tmp_path):
    settings = TrainSettings(method="step_by_step", max_steps=2, batch_size=4)
    report = distill(tiny, [written(i) for i in range(4)], tmp_path, replace(settings, rationale_weight=0.2))
    assert (report["rows"], report["steps"], report["teacher"]) == (8, 2, None)
    assert report["settings"]["rationale_weight"] == 0.2
