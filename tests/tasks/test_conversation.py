"""Support replies: a fact counts only where it stands whole, and reciting the article does not resolve a ticket."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops_utils.records import Example
from slmops_utils.tasks import get_task
from slmops_utils.tasks.conversation import INSTRUCTION, contains, parse, prompt, resolves, target, tells

ARTICLE = "A Teal box rests for 20 seconds; give a Cedar box 90 seconds. The late fee is £6. Quote code OPT-4."
ASKED = [{"role": "user", "content": "How long for the Cedar, and what is the fee?"}]
REFERENCE = {
    "reply": "Leave it for 90 seconds; the fee is £6.",
    "required": [["90 seconds", "ninety seconds"], ["£6", "six pounds"]],
    "forbidden": ["20 seconds", "OPT-4"],
}


def example(*before, reference=REFERENCE) -> Example:
    return Example("c1", "conversation", [*before, *ASKED], reference)


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("The fee is £6.", "£6"),
        ("The fee is £6, paid once.", "£6"),
        ("That's £6.50 in all.", "£6.50"),
        ("Allow 5 days.", "5 days"),
        ("ALLOW 5 DAYS", "5 Days"),
        ("Press Give now", "GIVE"),
        ("5 \n days", "5 days"),
        ("5\u00a0days", "5 days"),
        ("it’s free", "it's free"),
        ("it's free", "it’s free"),
        ("(twenty-five days)", "twenty-five days"),
        ("quote F-19!", "F-19"),
        ("at 80 % full", "80 %"),
        ("what? (a+b)", "(a+b)"),
    ],
)
def test_a_phrase_is_found_whatever_the_case_spacing_and_apostrophe(text, phrase):
    assert contains(text, phrase)


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("The fee is £6.50.", "£6"),
        ("The fee is £6,000.", "£6"),
        ("The fee is £60.", "£6"),
        ("It costs £6.", "6"),
        ("It costs £6.50.", "50"),
        ("Allow 15 days.", "5 days"),
        ("Allow 1.5 days.", "5 days"),
        ("Allow 3-5 days.", "5 days"),
        ("Allow 3–5 days.", "5 days"),
        ("Allow twenty-five days.", "five days"),
        ("It is given to you.", "GIVE"),
        ("Forgive us.", "give"),
        ("5 daysworth", "5 days"),
        ("", "5 days"),
    ],
)
def test_a_phrase_is_not_found_inside_another_number_or_word(text, phrase):
    assert not contains(text, phrase)


def test_a_reference_may_forbid_nothing():
    assert resolves(example(reference={"reply": "x", "required": [["90 seconds"]]}), "It takes 90 seconds.") == 1


@pytest.mark.parametrize(
    ("reply", "resolved", "told"),
    [
        (REFERENCE["reply"], 1.0, 1.0),
        ("Ninety seconds, and six pounds.", 1.0, 1.0),
        ("Leave it for 90 seconds.", 0.0, 0.0),  # one fact missing
        ("The fee is £6.", 0.0, 0.0),
        ("190 seconds and £6.50.", 0.0, 0.0),  # both values wrong, though each holds the right characters
        ("90 seconds, or 20 seconds for a Teal; the fee is £6.", 0.0, 1.0),  # another device's value
        ("90 seconds, £6, and quote opt-4.", 0.0, 1.0),  # nobody asked
        (ARTICLE, 0.0, 1.0),  # reciting the article tells all, and resolves nothing
        ("", 0.0, 0.0),
    ],
)
def test_a_reply_resolves_when_it_has_every_required_fact_and_no_forbidden_one(reply, resolved, told):
    assert (resolves(example(), reply), tells(example(), reply)) == (resolved, told)


# texts that hold facts, right and wrong, and not noise alone: of noise nothing would ever be told
FACTS = st.sampled_from(
    ["90 seconds", "ninety seconds", "£6", "six pounds", "20 seconds", "opt-4", "£6.50", "190", ",", "or"]
)


@given(st.one_of(st.text(max_size=100), st.lists(FACTS | st.text(max_size=5), max_size=8).map(" ".join)))
def test_any_text_can_be_scored_and_resolves_nothing_that_it_does_not_tell(text):
    scores = resolves(example(), text), tells(example(), text)
    assert set(scores) <= {0.0, 1.0} and scores[0] <= scores[1]


def test_the_headline_score_is_the_mean_of_resolved():
    task = get_task("conversation")
    rows = [task.metrics[task.headline].value(example(), text) for text in (REFERENCE["reply"], ARTICLE, "", "£6")]
    assert task.metrics[task.headline].aggregate(rows) == 0.25


def test_the_prompt_wraps_the_article_and_leaves_the_record_alone():
    article = {"role": "system", "content": ARTICLE}
    record = example(article)
    assert prompt(record) == [{"role": "system", "content": f"{INSTRUCTION}\n\n{ARTICLE}"}, *ASKED]
    assert record.messages == [article, *ASKED]
    assert prompt(example()) == [{"role": "system", "content": INSTRUCTION}, *ASKED]


def test_the_target_is_the_gold_reply_or_a_plain_text_reference():
    assert target(example()) == REFERENCE["reply"]
    assert target(example(reference="Leave it for 90 seconds.")) == "Leave it for 90 seconds."


def test_an_answer_of_nothing_but_space_is_no_answer():
    assert parse(" \n") is None and parse(" Hold the button. ") == "Hold the button."


def test_a_plain_reply_is_compared_by_its_words_and_nothing_else_is_a_reference():
    told = Example("a", "conversation", [{"role": "user", "content": "Which lamp?"}], "The red lamp is lit.")
    metrics = get_task("conversation").metrics_for([told])
    assert list(metrics) == ["rouge_l"] and target(told) == "The red lamp is lit."
    assert metrics["rouge_l"].value(told, "the red lamp") == pytest.approx(2 * 3 / 8)
    assert metrics["rouge_l"].value(told, "green") == 0
    with pytest.raises(TypeError, match="a: a conversation's reference is a reply"):
        target(Example("a", "conversation", told.messages, ["red"]))
