"""Prompting styles: what is asked, and how what comes back is taken apart, whatever a model makes of the form."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops_utils.records import Example
from slmops_utils.tasks.json_text import objects
from slmops_utils.tasks.styles import STYLES, UnreadableAnswer, get_style

NLI = Example("n", "nli", [{"role": "user", "content": "Premise: the fee is £5.\nHypothesis: it is £6."}])
OPTIONS = Example("q", "qa", [{"role": "user", "content": "What is the fee?\nA) £5\nB) £6"}])
SHORT = Example(
    "s", "qa", [{"role": "system", "content": "The fee is £5."}, {"role": "user", "content": "What is it?"}]
)
MATH = Example("m", "math", [{"role": "user", "content": "3 phones at £4.50 each?"}])
CALL = Example(
    "c", "summarization", [{"role": "user", "content": "Piotr: my hub is dead\nAgent: I will call on Tuesday."}]
)

THOUGHTS = [
    (NLI, '{"reason": "£5 is not £6.", "answer_choice": "contradiction"}', "contradiction", "£5 is not £6."),
    (NLI, '```json\n{"reason": "a", "answer_choice": "Contradiction."}\n```', "contradiction", "a"),
    (NLI, 'Sure! {"Reason": "a {b} c", "Answer_Choice": "neutral",} Hope this helps.', "neutral", "a {b} c"),
    (NLI, '{"reason": "two\nlines", "answer_choice": "neutral"}', "neutral", "two\nlines"),
    (NLI, '{"reason": "it says "fee" twice", "answer_choice": "neutral"}', "neutral", 'it says "fee" twice'),
    (NLI, '{"reason": "cut off", "answer_choice": "neutral"', "neutral", "cut off"),
    (NLI, "{reason: no quotes, answer_choice: neutral}", "neutral", "no quotes"),
    (NLI, "Reason: entailment would need £6.\nAnswer: contradiction", "contradiction", "entailment would need £6."),
    (NLI, '{"steps": {"reason": "x"}} {"reason": ["a", "b"], "answer_choice": "neutral"}', "neutral", "a\nb"),
    (OPTIONS, '{"reason": "stated", "answer_choice": "A"}', "A", "stated"),
    (SHORT, '{"reason": "stated", "answer_choice": "£5"}', "£5", "stated"),
    (MATH, '{"reason": "3 x £4.50 = £13.50", "answer": "£13.50"}', "£13.50", "3 x £4.50 = £13.50"),
    (MATH, '{"reason": "3 x 4.5", "answer": 13.5}', "13.5", "3 x 4.5"),
]  # fmt: skip


@pytest.mark.parametrize(("example", "text", "answer", "reason"), THOUGHTS)
def test_a_thought_is_taken_apart(example, text, answer, reason):
    assert STYLES["chain_of_thought"].read(example, text) == (answer, reason)


@pytest.mark.parametrize(
    ("example", "text"),
    [
        (NLI, ""),
        (NLI, "I cannot help with that."),
        (NLI, '{"reason": "no answer given"}'),
        (NLI, '{"reason": "a", "answer_choice": "maybe"}'),
        (NLI, '{"reason": "a", "answer_choice": "neutral or entailment"}'),
        (NLI, '{"reason": "a", "answer_choice": null}'),
        (OPTIONS, '{"reason": "a", "answer_choice": "C"}'),
        (MATH, '{"reason": "a", "answer": "12 or 13"}'),
    ],
)
def test_what_cannot_be_told_is_refused_and_never_guessed(example, text):
    with pytest.raises(UnreadableAnswer):
        STYLES["chain_of_thought"].read(example, text)


def test_a_thought_is_asked_for_in_the_words_of_its_task():
    asked = {e.id: get_style("chain_of_thought", e.task).prompt(e)[0]["content"] for e in (NLI, OPTIONS, SHORT, MATH)}
    assert '"answer_choice"' in asked["n"] and "letter" in asked["q"] and '"answer":' in asked["m"]
    assert asked["s"].endswith("The fee is £5."), "the article stays"
    own = Example("o", "nli", [{"role": "system", "content": "Name the intent: pay, cancel."}, *NLI.messages])
    assert "pay, cancel" in STYLES["chain_of_thought"].prompt(own)[0]["content"]
    assert "entailment" not in STYLES["chain_of_thought"].prompt(own)[0]["content"]


def notes(*texts, **changes):
    return json.dumps([{"Missing_Entities": "x", "Denser_Summary": text} for text in texts], **changes)


def test_of_four_notes_the_last_is_kept_and_the_others_beside_it():
    read = STYLES["chain_of_density"].read
    four = notes("A caller called.", "Piotr called.", "Piotr: hub dead.", "Piotr: hub dead,\ncallback Tuesday.")
    wanted = ("Piotr: hub dead, callback Tuesday.", "A caller called.\nPiotr called.\nPiotr: hub dead.")
    assert read(CALL, four) == wanted
    assert read(CALL, f"Here you are:\n```json\n{four}\n```") == wanted
    assert read(CALL, four[:-40])[0] == "Piotr: hub dead.", "cut off, the last whole one counts"
    for text in ("", "Piotr: hub dead.", "[]", notes("", " ")):
        with pytest.raises(UnreadableAnswer, match="Denser_Summary"):
            read(CALL, text)
    assert "4 hand-over notes" in STYLES["chain_of_density"].prompt(CALL)[0]["content"]


def test_a_style_that_does_not_fit_is_refused():
    for style, task in (("chain_of_thought", "conversation"), ("chain_of_density", "nli")):
        with pytest.raises(ValueError, match=f"{style} is for"):
            get_style(style, task)
    with pytest.raises(ValueError, match="there are plain, chain_of_thought"):
        get_style("tree_of_thought")


@pytest.mark.parametrize("text", ["[" * 100_000, "{" * 100_000, '{"a":' * 50_000, '{"reason": "' + "x" * 1_000_000])
def test_hostile_nesting_ends_quickly_and_gives_nothing(text):
    for style in ("chain_of_thought", "chain_of_density"):
        with pytest.raises(UnreadableAnswer):
            STYLES[style].read(CALL if style == "chain_of_density" else NLI, text)


@given(st.text(max_size=300))
def test_any_text_is_read_or_refused(text):
    for style, example in (("chain_of_thought", NLI), ("chain_of_thought", MATH), ("chain_of_density", CALL)):
        try:
            answer, reason = STYLES[style].read(example, text)
            assert isinstance(answer, str) and answer and isinstance(reason, str)
        except UnreadableAnswer:
            pass


WORDS = st.text(st.characters(blacklist_categories=("Cs",)), max_size=60)


@given(
    reason=WORDS, before=st.sampled_from(["", "Sure. ", "```json\n"]), answer=st.sampled_from(["neutral", "entailment"])
)
def test_well_formed_json_comes_back_as_it_went(reason, before, answer):
    text = before + json.dumps({"reason": reason, "answer_choice": answer})
    found = STYLES["chain_of_thought"].read(NLI, text)
    # a comma before a bracket is taken for one too many, inside a reason too
    assert found[0] == answer and found[1].replace(",", "") == reason.strip().replace(",", "")


def test_objects_are_found_in_order_and_not_inside_each_other():
    assert list(objects('a {"x": {"y": 1}} b {bad} {"z": [1, 2,]}')) == [{"x": {"y": 1}}, {"z": [1, 2]}]
