"""The rows that take no language model: they answer what words alone give away, and nothing more."""

from collections import Counter

import pytest

from slmops_utils.evaluate.reference import closest_sentence, reference_answers, reference_scores
from slmops_utils.records import Example

WORDS = {"refund": "money back payment return", "delivery": "parcel courier van late", "login": "password screen code"}


def labelled(label: str, i: int) -> Example:
    words = WORDS[label].split()
    content = f"my {words[i % len(words)]} and the {words[(i + 1) % len(words)]} please"
    return Example(f"{label}-{i}", "nli", [{"role": "user", "content": content}], label)


TRAIN = [labelled("refund", i) for i in range(9)] + [labelled(k, i) for k in ("delivery", "login") for i in range(6)]
TEST = [labelled(label, i) for label in WORDS for i in range(4)]
ARTICLE = "Red light on your box\nSwitch the box off for 90 seconds. The late fee is £6! Is the courier late? Call us."


def conversation(*turns: str, article: str | None = ARTICLE) -> Example:
    messages = [{"role": "system", "content": article}] if article else []
    messages += [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]
    reference = {"reply": "90 seconds.", "required": [["90 seconds"]], "forbidden": ["£6"]}
    return Example("c", "conversation", messages, reference)


def test_labels_get_the_commonest_label_and_a_classifier_that_solves_separable_words():
    answers = reference_answers(TRAIN, TEST)
    assert answers["majority class"] == ["refund"] * len(TEST)
    assert answers["TF-IDF classifier"] == [e.reference for e in TEST]


def test_the_classifier_learns_nothing_from_labels_that_do_not_follow_the_words():
    same = [Example(str(i), "nli", [{"role": "user", "content": "the same"}], "ab"[i % 2]) for i in range(10)]
    given = Counter(reference_answers(same, same)["TF-IDF classifier"])
    assert len(given) == 1


def inferences(form: str) -> list[Example]:
    """Four rows of each label; the words that go with it stand where `form` has them."""
    words = {"entailment": "surely so", "neutral": "perhaps tomorrow", "contradiction": "never again"}
    return [
        Example(f"{label}-{i}", "nli", [{"role": "user", "content": form.format(words[label])}], label)
        for label in words
        for i in range(4)
    ]


def test_a_hypothesis_is_also_read_alone_and_solves_what_gives_its_labels_away():
    told = inferences("Premise: the lamp is red.\nHypothesis: {}.")
    assert reference_answers(told, told)["TF-IDF, hypothesis only"] == [e.reference for e in told]
    honest = inferences("Premise: {}.\nHypothesis: the lamp is lit.")
    answers = reference_answers(honest, honest)
    assert answers["TF-IDF classifier"] == [e.reference for e in honest]
    assert len(set(answers["TF-IDF, hypothesis only"])) == 1  # it sees one and the same text in every row
    assert set(reference_answers(TRAIN, TEST)) == {"majority class", "TF-IDF classifier"}  # no hypotheses there


def test_scores_come_row_by_row_for_every_metric_of_the_task():
    scores = reference_scores(TRAIN, TEST)
    assert scores["majority class"]["accuracy"] == [1.0] * 4 + [0.0] * 8
    assert scores["TF-IDF classifier"]["accuracy"] == [1.0] * 12
    assert scores["TF-IDF classifier"]["macro_f1"] == [(e.reference, e.reference) for e in TEST]


@pytest.mark.parametrize(
    ("turns", "sentence"),
    [
        (("For how many seconds do I switch the box off?",), "Switch the box off for 90 seconds."),
        (("What is the fee?",), "The late fee is £6!"),
        (("red light", "Which lamp?", "on the box you sent"), "Red light on your box"),
        (("Where is", "The fee is £6.", "my courier"), "Is the courier late?"),  # only the customer's words count
    ],
)
def test_a_conversation_gets_the_article_sentence_closest_to_what_the_customer_said(turns, sentence):
    assert closest_sentence(conversation(*turns)) == sentence


def test_a_gold_reply_as_last_turn_and_a_missing_article_change_nothing():
    asked = "For how many seconds do I switch the box off?"
    assert closest_sentence(conversation(asked, "The late fee is £6!")) == closest_sentence(conversation(asked))
    assert closest_sentence(conversation(asked, article=None)) == ""


def test_conversations_are_scored_without_any_training_rows():
    test = [conversation("For how many seconds do I switch the box off?"), conversation("What is the fee?")]
    scores = reference_scores([], test)
    (closest,) = scores.values()
    assert list(scores) == ["closest article sentence (TF-IDF)"]
    assert closest["resolved"] == closest["required_facts"] == [1.0, 0.0]


QUESTION = "For how many seconds do I switch the box off?"


def test_a_question_gets_the_closest_sentence_or_the_option_most_like_it():
    asked = {"role": "user", "content": QUESTION}
    short = Example("q1", "qa", [{"role": "system", "content": ARTICLE}, asked], {"answers": ["90 seconds"]})
    shown = {"role": "user", "content": f"{QUESTION}\nA) 5\nB) 90 seconds\nC) £6"}
    choice = Example(
        "q2", "qa", [{"role": "system", "content": ARTICLE}, shown], {"choice": "B", "answers": ["90 seconds"]}
    )
    (answers,) = reference_answers([], [short, choice]).values()
    assert answers == ["Switch the box off for 90 seconds.", "B"]
    bare = Example("q3", "qa", [shown], {"choice": "B", "answers": ["90 seconds"]})  # no article to go by
    assert reference_answers([], [bare])["closest article sentence (TF-IDF)"][0] in "ABC"


def test_a_sum_gets_the_number_in_the_closest_sentence():
    test = [Example("m", "math", conversation("What is the late fee?").messages, {"answer": "£6", "steps": ""})]
    assert reference_scores([], test)["closest article sentence (TF-IDF)"]["numeric_match"] == [1.0]


def test_a_call_is_summed_up_by_its_first_three_sentences_and_scored_by_what_its_reference_allows():
    call = [{"role": "user", "content": "One is red. Two is £6!\nIs three late? Four is green."}]
    listed = Example(
        "s", "summarization", call, {"note": "Red, £6.", "required": [["red"], ["green"]], "forbidden": []}
    )
    plain = Example("s", "summarization", call, "One is red.")
    (answer,) = reference_answers([], [listed])["first 3 sentences"]
    assert answer == "One is red. Two is £6! Is three late?"
    scores = reference_scores([], [listed])["first 3 sentences"]
    assert scores["fact_recall"] == [0.5] and len(scores["bleu"][0]) == 10
    assert set(reference_scores([], [plain])["first 3 sentences"]) == {"rouge_l", "bleu"}
