"""Word problems: the final number is compared as a number with its unit, the steps are recomputed, nothing is run."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops_utils.records import Example
from slmops_utils.tasks import get_task, validate
from slmops_utils.tasks.math import INSTRUCTION, numeric_match, parse, prompt, steps_right, target

MATH = get_task("math")
TARIFF = {"role": "system", "content": "A line costs £4.50 a month. Paper bills cost £1.10."}
ASKED = [{"role": "user", "content": "What do 3 lines cost a month?"}]
REFERENCE = {"answer": "£13.50", "steps": "3 x £4.50 = £13.50"}


def example(reference=REFERENCE, *before) -> Example:
    return Example("m1", "math", [*before, *ASKED], reference)


@pytest.mark.parametrize(
    "text",
    [
        target(example()),
        "£13.50",
        "13.5",
        "1350p",
        "GBP 13.50",
        "13.50 pounds",
        "£13.50 a month",
        "Answer: £13.50",
        "**Answer:** £13.50.",
        "Final answer: £13.50\n\nThat is for 3 lines.",
        "Answer:\n£13.50",
        "Answer: 3 x £4.50 = £13.50",
        "So the answer is £13.50.",
        "3 x 4.5 = 13.5\n#### 13.5",
        "Answer: £4.50\nNo, wait.\nAnswer: £13.50",
        "Three lines at £4.50 come to £13.50.",
    ],
)
def test_the_right_number_is_right_however_it_is_written(text):
    assert numeric_match(example(), text) == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no idea",
        "Answer:",
        "Answer: thirteen-ish",
        "£13.51",
        "£1,350",
        "13,50",
        "-£13.50",
        "$13.50",
        "13.50 GB",
        "13.50%",
        "£13.50k",
        "£13.50 or £14",
        "£14 or £13.50",
        "Answer: £13.50 or £14",
        "Answer: £4.50, £13.50",
        "£13.50 is what it was.\nAnswer: unknown",  # once an answer is announced, no other number is one
        "Answer: £13.50\nAnswer: £14",
        "£13.50, paid over 3 months",  # the last quantity is another
        "13.50.1",
        "10**10**10",
        "__import__('os').system('echo 13.50')" * 2 + " or 1",
        "27/2 + 0",
    ],
)
def test_anything_else_is_wrong(text):
    assert numeric_match(example(), text) == 0.0


@pytest.mark.parametrize(
    ("reference", "text"), [("1.5 GB", "1500 MB"), (72, "#### 72"), (12.5, "12 1/2"), ("15%", "15")]
)
def test_a_plain_answer_is_a_reference_too(reference, text):
    assert numeric_match(example(reference), text) == 1.0
    assert numeric_match(example(reference), target(example(reference))) == 1.0


@pytest.mark.parametrize("reference", ["twelve", "1,20", {"answer": "12 or 13"}, "", {"answer": None}])
def test_a_reference_that_is_no_number_is_an_error_that_names_the_record(reference):
    with pytest.raises(ValueError, match="m1"):
        numeric_match(example(reference), "12")
    assert "m1" in validate(example(reference))


def test_a_reference_without_an_answer_is_found_before_it_is_scored():
    assert "not a reference of math" in validate(example({"steps": "3 x 4 = 12"}))
    assert validate(example()) is None


@pytest.mark.parametrize(
    ("text", "share"),
    [
        (target(example()), 1.0),
        ("3 x £4.50 = £13.50\n£13.50 + £1.10 = £14.50\nAnswer: £14.50", 0.5),
        ("3 x £4.50 = £13.40", 0.0),
        ("Answer: £13.50", 0.0),  # a number without working shows no step that is right
        ("", 0.0),
    ],
)
def test_steps_are_scored_by_the_share_that_recompute(text, share):
    assert steps_right(example(), text) == share


def test_right_steps_do_not_make_a_wrong_answer_right_nor_the_other_way_round():
    copied = "2 x £4.50 = £9.00\nAnswer: £9.00"
    assert (numeric_match(example(), copied), steps_right(example(), copied)) == (0.0, 1.0)
    slip = "3 x £4.50 = £12.50\nAnswer: £13.50"
    assert (numeric_match(example(), slip), steps_right(example(), slip)) == (1.0, 0.0)


CANARY = "open('ran', 'w')"  # leaves a file behind wherever it is run


def test_the_canary_sings_where_it_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    eval(CANARY).close()
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "text",
    [
        CANARY,
        f"{CANARY} = 1",
        f"1 + {CANARY} = 1\nAnswer: {CANARY}",
        "10**10**10",
        "(" * 100_000,
        "9" * 10**6,
        "1 " * 10**5,
        "£" * 10**5,
        "answer " * 10**5,
        "=1" * 10**5,
    ],
)
def test_hostile_text_is_scored_quickly_and_never_run(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    started = time.process_time()
    for metric in MATH.metrics.values():
        assert metric.value(example(), text) == 0.0
    assert time.process_time() - started < 10
    assert not (tmp_path / "ran").exists()


@given(st.text(max_size=200))
def test_any_text_can_be_scored(text):
    for metric in MATH.metrics.values():
        assert 0 <= metric.value(example(), text) <= 1


@given(st.integers(0, 10**7), st.integers(0, 10**7))
def test_only_the_reference_amount_is_right(pence, other):
    record = example({"answer": f"£{pence / 100:,.2f}", "steps": ""})
    assert numeric_match(record, f"It comes to £{pence / 100:.2f}.") == 1.0
    assert numeric_match(record, f"Answer: {other}p") == float(other == pence)
    assert numeric_match(record, f"Answer: £{other / 100:,.2f}") == float(other == pence)


def test_the_headline_is_the_share_of_right_numbers():
    rows = [MATH.metrics[MATH.headline].value(example(), text) for text in ("£13.50", "£13", "", "13.5")]
    assert (MATH.headline, MATH.metrics[MATH.headline].aggregate(rows)) == ("numeric_match", 0.5)


def test_the_prompt_puts_the_instruction_before_the_tariff_and_leaves_the_answer_out():
    record = example(REFERENCE, TARIFF)
    assert prompt(record) == [{"role": "system", "content": f"{INSTRUCTION}\n\n{TARIFF['content']}"}, *ASKED]
    assert prompt(example()) == [{"role": "system", "content": INSTRUCTION}, *ASKED]
    record.messages.append({"role": "assistant", "content": target(record)})
    assert "13.50" not in str(prompt(record))


def test_the_target_shows_the_steps_then_the_answer():
    assert target(example()) == "3 x £4.50 = £13.50\nAnswer: £13.50"
    assert target(example("£13.50")) == target(example({"answer": "£13.50"})) == "Answer: £13.50"


def test_an_answer_of_nought_is_an_answer():
    assert parse("Answer: £0") and numeric_match(example("£0"), "0") == 1.0
