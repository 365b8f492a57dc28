"""Votes: what is counted as one answer, whose word weighs how much, and what a vote is worth."""

import random

import pytest

from slmops_utils.records import Example
from slmops_utils.synthesize.vote import Vote, canonical, vote, vote_weight

LABELS = ("contradiction", "entailment", "neutral")


def example(task):
    return Example("a", task, [{"role": "user", "content": "Well?"}])


@pytest.mark.parametrize(
    ("task", "one", "other", "same"),
    [
        ("nli", "It says £5. neutral", "Neutral.", True),
        ("nli", "neutral", "entailment", False),
        ("math", "2 x 25p = 50p\nAnswer: 50p", "Answer: £0.50", True),
        ("math", "Answer: £5", "Answer: 5", True),
        ("math", "Answer: 1500 MB", "Answer: 1.5 GB", True),
        ("math", "Answer: £5", "Answer: £6", False),
        ("qa", "Answer: the 5 days.", "5 days", True),
        ("qa", "£4.50", "£450", False),
    ],
)
def test_answers_that_say_the_same_are_one(task, one, other, same):
    said = [canonical(example(task), text, LABELS if task == "nli" else ()) for text in (one, other)]
    assert None not in said and (said[0] == said[1]) is same


def test_the_majority_is_heard_through_one_who_said_so():
    texts = ["It differs. neutral", "entailment", "neutral", "what?"]
    assert vote(example("nli"), texts, LABELS) == Vote(0, 0.5)
    assert vote(example("nli"), texts, LABELS, [1, 3, 1, 1]) == Vote(1, 0.5)
    assert vote(example("nli"), ["neutral", "entailment"], LABELS).winner == 0, "of equals the first"
    assert vote(example("nli"), ["", "dunno"], LABELS) == Vote(None, 0.0)


def test_without_labels_the_inference_question_has_its_own_and_silence_is_no_vote():
    assert vote(example("nli"), ["It is £5. neutral", "It differs. neutral", "entailment", "maybe"]) == Vote(0, 0.5)
    own = Example("a", "nli", [{"role": "system", "content": "Which device?"}, *example("nli").messages])
    assert vote(own, ["phone", "router", "router"]).winner == 1
    assert vote(own, ["", " ", "phone"]).winner == 2


def test_the_heaviest_of_those_who_agree_is_heard():
    assert vote(example("nli"), ["neutral", "It says 5. neutral"], LABELS, [1, 2]).winner == 1


def test_free_text_is_the_one_most_like_the_others():
    texts = ["Hold the pin for 15 seconds.", "Please hold the pin for 15 seconds.", "Call us on Monday.", ""]
    found = vote(example("conversation"), texts)
    assert found.winner in (0, 1) and 0 < found.share < 1
    assert vote(example("conversation"), texts, weights=[0, 0, 5, 0]).winner is not None


def test_two_who_write_freely_are_settled_by_weight():
    assert vote(example("conversation"), ["Hold the pin.", "Hold it."], weights=[1, 2]).winner == 1


def test_weights_grow_with_what_was_right_and_chance_has_none():
    weights = [vote_weight(right, 100, 3) for right in (20, 33, 50, 80, 100)]
    assert weights[0] == 0.0 and weights == sorted(weights) and weights[-1] < 6
    assert vote_weight(30, 100) == pytest.approx(31 / 102), "open answers: the score itself"


def test_one_good_voter_outweighs_two_poor_ones_and_votes_help_as_the_mathematics_says():
    """Voters of 90, 60 and 60 %: the majority errs as often as its binomial says, the weighted vote no more than the best."""
    draw, rows, right = random.Random(0), 4000, {"majority": 0, "weighted": 0, "best": 0}
    skill = (0.9, 0.6, 0.6)
    weights = [vote_weight(p * 1000, 1000, 2) for p in skill]
    for _ in range(rows):
        texts = ["entailment" if draw.random() < p else "neutral" for p in skill]
        for name, given in (("majority", ()), ("weighted", weights)):
            right[name] += texts[vote(example("nli"), texts, LABELS, given).winner] == "entailment"
        right["best"] += texts[0] == "entailment"
    exact = 0.9 * (1 - 0.4 * 0.4) + 0.1 * 0.6 * 0.6
    assert abs(right["majority"] / rows - exact) < 0.02
    assert right["weighted"] == right["best"] > right["majority"]
