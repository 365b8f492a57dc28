"""Reasons beside the answer, trained on or not."""

import pytest

from slmops_utils.distill.dataset import encode_rows
from slmops_utils.distill.distill import distill
from slmops_utils.distill.rationale import in_form, split_rationale
from slmops_utils.distill.train import TrainSettings
from slmops_utils.records import Example, Response, parse_record
from slmops_utils.tasks import get_task


def example(task="nli", response=None, **more):
    return Example("a", task, [{"role": "user", "content": "the fee"}], response=response, **more)


STYLED = example(response=Response("neutral", "t", rationale="It says £5; entailment would need £6."))
OWN = example(response=Response("It says £5. neutral", "t"))
WORKED = example("math", Response("2 x £3 = £6\nAnswer: £6", "t"))


@pytest.mark.parametrize(
    ("given", "form", "text"),
    [
        (STYLED, "as_written", "neutral"),
        (STYLED, "with", "It says £5; entailment would need £6.\nAnswer: neutral"),
        (STYLED, "without", "neutral"),
        (OWN, "as_written", "It says £5. neutral"),
        (OWN, "with", "It says £5. neutral"),
        (OWN, "without", "neutral"),
        (WORKED, "with", "2 x £3 = £6\nAnswer: £6"),
        (WORKED, "without", "Answer: £6"),
    ],
)
def test_what_is_trained_on(given, form, text, tiny):
    assert in_form(given, given.response.text, form) == text
    ((row,), _) = encode_rows([given], tiny.tokenizer, rationale=form)
    assert tiny.tokenizer.decode(row.ids[row.prompt_length : -1]) == text
    assert get_task(given.task).parse(text, ("neutral", "entailment")) is not None, "the student's answer can be read"


def test_a_label_of_our_own_rows_can_do_without_its_reason(tiny):
    own = example(reference="neutral", extra={"rationale": "It says £5."})
    texts = []
    for form in ("with", "without"):
        ((row,), _) = encode_rows([own], tiny.tokenizer, rationale=form)
        texts.append(tiny.tokenizer.decode(row.ids[row.prompt_length : -1]))
    assert texts == ["It says £5. neutral", "neutral"]


def test_a_text_without_reasons_is_left_whole():
    for text in ("neutral", "", "It is £5.", "Answer: £6"):
        assert split_rationale(example("conversation"), text) == (text, "")


def test_the_record_keeps_the_reason_and_only_where_there_is_one():
    line = STYLED.to_dict()
    assert parse_record(line).response.rationale == STYLED.response.rationale
    assert "rationale" not in OWN.to_dict()["response"]
    line["response"]["rationale"] = 3
    with pytest.raises(ValueError, match="'rationale' of 'response' must be a string"):
        parse_record(line)


def test_distil_says_which_form_it_trained_on(tiny, tmp_path):
    report = distill(tiny, [STYLED], tmp_path, TrainSettings(max_steps=1), rationale="with")
    assert report["rationale"] == "with"
    with pytest.raises(ValueError, match="as_written, with, without"):
        distill(tiny, [STYLED], tmp_path, TrainSettings(max_steps=1), rationale="maybe")
