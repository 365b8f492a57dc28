"""Labels: what an answer names, what counts as right, and F1 as scikit-learn counts it."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from slmops_utils.evaluate.statistics import bootstrap
from slmops_utils.records import Example
from slmops_utils.tasks import get_task
from slmops_utils.tasks.nli import INSTRUCTION, macro_f1, parse

NLI = get_task("nli")
LABELS = ("entailment", "neutral", "contradiction")


def example(reference="neutral", *before) -> Example:
    return Example("x", "nli", [*before, {"role": "user", "content": "Premise: a. Hypothesis: b."}], reference)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("neutral", "neutral"),
        ("Neutral", "neutral"),
        ("  ENTAILMENT\n", "entailment"),
        ("contradiction.", "contradiction"),
        ("**Contradiction**!", "contradiction"),
        ('"neutral"', "neutral"),
        ("The answer is entailment, as the fee is the same.", "entailment"),
        ("Answer:neutral", "neutral"),
        ("neutral, clearly neutral", "neutral"),
        ("entailment or neutral", None),
        ("entailment/contradiction", None),
        ("neutral-contradiction", None),
        ("", None),
        ("   ", None),
        ("I cannot say.", None),
        ("Not entailment.", None),
        ("not entailment but neutral", "neutral"),
        ("neutrality", None),
        ("non-entailment", None),
        ("self-contradiction", None),
        ("contradictions", None),
        ("nonneutral", None),
    ],
)
def test_parse_finds_the_one_label_an_answer_names(text, label):
    assert parse(text, LABELS) == label


def test_parse_returns_labels_of_several_words_as_the_data_spells_them():
    labels = ("Card lost", "card not arrived", "lost")
    assert parse("card  LOST.", labels) == "Card lost"  # the whole text wins over "lost" inside it
    assert parse("It is card not arrived", labels) == "card not arrived"
    assert parse("card lost, I think", labels) is None


@pytest.mark.parametrize(
    ("reference", "text", "right"),
    [
        ("neutral", "Neutral.", 1.0),
        ("neutral", "It is neutral", 1.0),
        ("neutral", "entailment", 0.0),
        ("neutral", "neutral or entailment", 0.0),
        ("neutral", "", 0.0),
        ("entailment", "non-entailment", 0.0),
        ("card lost", "Card lost.", 1.0),
        ("card lost", "card not arrived", 0.0),
        ("card lost", "card lost or stolen", 0.0),  # outside the three labels only the label itself is right
    ],
)
def test_accuracy_is_one_only_for_the_reference_label(reference, text, right):
    assert NLI.metrics["accuracy"].value(example(reference), text) == right


def score(metric, references, texts, *before) -> float:
    rows = [NLI.metrics[metric].value(example(r, *before), t) for r, t in zip(references, texts, strict=True)]
    return bootstrap(rows, NLI.metrics[metric].aggregate).value


def test_scores_are_full_for_right_answers_and_nought_for_wrong_ones():
    wrong = [LABELS[(LABELS.index(label) + 1) % 3] for label in LABELS]
    for metric in NLI.metrics:
        assert score(metric, LABELS, LABELS) == 1
        assert score(metric, LABELS, wrong) == score(metric, LABELS, ["no idea"] * 3) == 0


def test_a_closed_set_that_shares_a_label_with_inference_is_scored_by_its_own_labels():
    question = {"role": "system", "content": "Sentiment: negative, neutral or positive?"}
    assert score("accuracy", ["neutral", "positive"], ["positive or neutral"] * 2, question) == 0
    references, said = ["neutral", "positive"], ["positive", "positive"]
    expected = f1_score(references, said, average="macro", zero_division=0)
    assert score("macro_f1", references, said, question) == pytest.approx(expected)


def test_macro_f1_shows_the_majority_answer_up():
    references = ["neutral"] * 8 + ["entailment", "contradiction"]
    assert score("accuracy", references, ["neutral"] * 10) == 0.8
    assert score("macro_f1", references, ["neutral"] * 10) == pytest.approx(8 / 9 / 3)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from((*LABELS, "", "other"))), min_size=1, max_size=30))
def test_macro_f1_agrees_with_scikit_learn(pairs):
    reference, given_answers = zip(*pairs, strict=True)
    expected = f1_score(reference, given_answers, labels=sorted(set(reference)), average="macro", zero_division=0)
    assert macro_f1(np.array(pairs)) == pytest.approx(expected)


def test_the_instruction_is_added_only_where_the_record_brings_none():
    own = {"role": "system", "content": "Name the label."}
    asked = example("neutral").messages
    assert NLI.prompt(example("neutral")) == [{"role": "system", "content": INSTRUCTION}, *asked]
    assert NLI.prompt(example("neutral", own)) == [own, *asked]
    assert example("neutral").messages == asked  # the record itself stays as it was


def test_the_gold_answer_never_reaches_the_prompt():
    labelled = example()
    labelled.messages.append({"role": "assistant", "content": "neutral"})
    assert NLI.prompt(labelled) == NLI.prompt(example())
    assert NLI.target(labelled) == "neutral"
