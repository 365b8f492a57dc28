"""Answers from an article: SQuAD's scores where SQuAD's normalisation does no harm, and one option or none."""

import re
import string
import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops_utils.records import Example
from slmops_utils.tasks import get_task, validate
from slmops_utils.tasks.qa import (
    CHOICE_INSTRUCTION,
    INSTRUCTION,
    exact_match,
    f1,
    options,
    parse,
    parse_choice,
    prompt,
    target,
    token_f1,
    words,
)

QA = get_task("qa")
ARTICLE = {"role": "system", "content": "A refund takes 5 days by card and 10 days by cheque. The late fee is £6."}
SHOWN = {"A": "3 days", "B": "5 days", "C": "10 days", "D": "a cheque"}
LINES = "How long does a card refund take?\n" + "\n".join(f"{k}) {v}" for k, v in SHOWN.items())


def short(*answers, question="How long does a card refund take?") -> Example:
    return Example("q1", "qa", [ARTICLE, {"role": "user", "content": question}], {"answers": list(answers)})


def choice(letter="B", content=LINES, answers=("5 days",)) -> Example:
    reference = {"choice": letter, "answers": list(answers)}
    return Example("q2", "qa", [ARTICLE, {"role": "user", "content": content}], reference)


@pytest.mark.parametrize(
    ("answers", "text", "score", "exact"),
    [
        (["5 days"], "5 days", 1.0, 1.0),
        (["5 days"], "5 Days.", 1.0, 1.0),
        (["5 days"], "Answer: 5 days", 1.0, 1.0),
        (["the router"], "a Router!", 1.0, 1.0),
        (["Wi-Fi key"], "wifi key", 1.0, 1.0),
        (["5 days", "five days"], "five days", 1.0, 1.0),
        (["£1,204.50"], "£1204.50", 1.0, 1.0),
        (["15%"], "15 %", 1.0, 1.0),
        (["£6"], "£ 6", 1.0, 1.0),
        (["3-5 days"], "3–5 days", 1.0, 1.0),
        (["5 days"], "it takes 5 days", 2 / 3, 0.0),
        (["5 days", "within 5 days of it"], "within 5 days", 0.8, 0.0),  # the closest alternative counts
        (["5 days"], "10 days", 0.5, 0.0),
        (["A"], "a", 1.0, 1.0),  # an article is the answer where there is nothing else
        # what must fail
        (["5 days"], "", 0.0, 0.0),
        (["5 days"], "...", 0.0, 0.0),
        (["the router"], "the", 0.0, 0.0),
        (["£6"], "£60", 0.0, 0.0),
        (["£6"], "£6.50", 0.0, 0.0),
        (["£4.50"], "£450", 0.0, 0.0),
        (["-3"], "3", 0.0, 0.0),
        (["15%"], "15", 0.0, 0.0),
        (["12:30"], "1230", 0.0, 0.0),
        (["1/4"], "14", 0.0, 0.0),
        (["3-5 days"], "35 days", 0.5, 0.0),
        (["5 days"], "days days days days", 2 / 6, 0.0),  # a word counts as often as the answer has it
    ],
)
def test_short_answers(answers, text, score, exact):
    assert token_f1(short(*answers), text) == pytest.approx(score)
    assert exact_match(short(*answers), text) == exact


def test_a_plain_string_is_one_alternative():
    record = Example("q3", "qa", [ARTICLE, {"role": "user", "content": "What is the late fee?"}], "£6")
    assert (target(record), token_f1(record, "£6."), exact_match(record, "£7")) == ("£6", 1.0, 0.0)


@pytest.mark.parametrize(
    "reference", [{}, {"answers": []}, {"answers": "5 days"}, {"answers": [5]}, {"answers": [" "]}, 5, ""]
)
def test_a_reference_without_answers_is_an_error_that_names_the_record(reference):
    record = short("x")
    record.reference = reference
    with pytest.raises(ValueError, match="q1"):
        token_f1(record, "5 days")
    assert "q1" in validate(record)


def squad_f1(answer: str, gold: str) -> float:
    """The formula of SQuAD's evaluation script, written out (rajpurkar.github.io/SQuAD-explorer)."""

    def normal(text):
        text = "".join(c for c in text.lower() if c not in string.punctuation)
        return re.sub(r"\b(a|an|the)\b", " ", text).split()

    common = sum((Counter(normal(answer)) & Counter(normal(gold))).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(normal(answer)), common / len(normal(gold))
    return 2 * precision * recall / (precision + recall)


PLAIN = st.lists(
    st.sampled_from(["the", "A", "an", "router", "Box,", "wi-fi", "red.", "(light)", "it's"]), max_size=8
).map(" ".join)


@given(PLAIN, PLAIN)
def test_without_numbers_the_score_is_squad_s(answer, gold):
    if set(words(answer)) | set(words(gold)) <= {"a", "an", "the"} or not squad_words(answer) or not squad_words(gold):
        return  # SQuAD has nothing left to compare there
    assert f1(answer, gold) == pytest.approx(squad_f1(answer, gold))


def squad_words(text: str) -> list[str]:
    return [word for word in words(text) if word not in ("a", "an", "the")]


@given(st.text(max_size=60), st.text(max_size=60))
def test_f1_is_symmetric_between_nought_and_one_and_full_for_the_same_words(a, b):
    assert f1(a, b) == f1(b, a)
    assert 0 <= f1(a, b) <= 1
    assert f1(a, a) == float(bool(words(a)))
    if a.strip() and exact_match(short(a), b):
        assert token_f1(short(a), b) == 1


def test_options_are_read_from_the_last_question_only():
    assert options(choice()) == SHOWN
    assert options(short("5 days")) == {}
    assert options(short("x", question="A) is this one option?")) == {}


@pytest.mark.parametrize(
    "text",
    ["B", "b", "B)", "(B)", "(b)", "B.", "B:", " B\n", "Answer: B", "answer: (B)", "Option B", "B) 5 days", "(B) 5 days.",
     "B - 5 days", "B: 5 Days", "Answer: B) 5 days", "5 days", "5 Days.", "Both look right, but no.\nAnswer: B"],
)  # fmt: skip
def test_one_option_is_picked_by_letter_by_text_or_by_both(text):
    assert parse_choice(text, SHOWN) == "B"
    assert token_f1(choice(), text) == exact_match(choice(), text) == 1.0


@pytest.mark.parametrize(
    "text",
    ["", " ", "A or B", "B or A", "A, B", "A) or B)", "A/B", "AB", "B C", "B) 10 days", "(B) and (C)", "E", "E) 5 days",
     "Answer:", "Answer: A or B", "5 days or 10 days", "15 days", "days", "days 5", "5", "I think B might do", "Bob",
     "A refund takes 5 days", "B) 5 days or C) 10 days", "not B", "Answer: B\nAnswer: C or B", "2"],
)  # fmt: skip
def test_two_options_none_or_a_letter_in_a_sentence_pick_nothing(text):
    assert parse_choice(text, SHOWN) is None
    assert token_f1(choice(), text) == exact_match(choice(), text) == 0.0


def test_the_wrong_option_is_wrong_and_no_part_of_it_counts():
    for text in ("C", "C) 10 days", "10 days", "3 days"):
        assert token_f1(choice(), text) == 0.0


def test_an_option_of_one_character_is_found_by_its_text():
    shown = {"A": "3", "B": "5", "C": "£5"}
    assert [parse_choice(text, shown) for text in ("3", "B) 5", "£5", "a", "4")] == ["A", "B", "C", "A", None]


def test_two_options_with_one_text_are_told_apart_by_letter_only():
    assert parse_choice("5 days", {"A": "5 days", "B": "5 Days"}) is None
    assert parse_choice("B", {"A": "5 days", "B": "5 Days"}) == "B"


def test_a_choice_whose_options_are_not_shown_goes_by_its_letter_or_text():
    record = choice(content="How long does a card refund take?")
    assert [token_f1(record, text) for text in ("B", "5 days", "C", "10 days")] == [1.0, 1.0, 0.0, 0.0]


def test_a_right_option_that_is_not_shown_is_found_before_it_is_scored():
    assert validate(choice()) is None and validate(short("5 days")) is None
    assert "scores 0.00" in validate(choice("F"))


@given(st.sampled_from(sorted(SHOWN)), st.sampled_from(["{}", "{})", "({})", "Answer: {}", "{}."]), st.booleans())
def test_every_letter_is_read_in_every_form(letter, form, with_text):
    text = form.format(letter) + (f" {SHOWN[letter]}" if with_text and form != "{}" and "Answer" not in form else "")
    assert parse_choice(text, SHOWN) == letter


@given(st.text(max_size=100))
def test_any_text_can_be_scored(text):
    for record in (short("5 days"), choice()):
        for metric in QA.metrics.values():
            assert 0 <= metric.value(record, text) <= 1


CANARY = "open('ran', 'w')"  # leaves a file behind wherever it is run


@pytest.mark.parametrize(
    "text",
    [CANARY, f"Answer: {CANARY}", f"B) {CANARY}", "10**10**10", "(" * 100_000, "9" * 10**6, "answer " * 50_000,
     "1," * 10**5],
)  # fmt: skip
def test_hostile_text_is_scored_quickly_and_never_run(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    started = time.process_time()
    assert token_f1(short("5 days"), text) == token_f1(choice(), text) == 0.0
    assert time.process_time() - started < 10
    assert not (tmp_path / "ran").exists()


def test_the_prompt_says_how_to_answer_and_leaves_the_answer_out():
    question = {"role": "user", "content": "How long does a card refund take?"}
    assert prompt(short("5 days")) == [
        {"role": "system", "content": f"{INSTRUCTION}\n\n{ARTICLE['content']}"},
        question,
    ]
    assert prompt(choice())[0]["content"].startswith(CHOICE_INSTRUCTION)
    labelled = choice()
    labelled.messages.append({"role": "assistant", "content": "B"})
    assert prompt(labelled) == prompt(choice())


def test_the_target_is_the_first_alternative_or_the_letter():
    assert (target(short("5 days", "five days")), target(choice())) == ("5 days", "B")


def test_an_answer_of_nothing_is_no_answer():
    assert parse(" \n") is None and parse("Answer: ") is None and parse("Answer: 5 days ") == "5 days"
