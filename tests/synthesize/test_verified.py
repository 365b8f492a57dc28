"""The gates that test what an answer says."""

from dataclasses import replace
from pathlib import Path

import pytest

from slmops_utils.records import Example, Response, read_records
from slmops_utils.synthesize.gates import GATES, Rules, run_gates
from slmops_utils.tasks import get_task

ROOT = Path(__file__).parents[2]


def row(text, task="math", rationale="", **extra) -> Example:
    response = Response(text, "teacher", rationale=rationale)
    return Example("a", task, [{"role": "user", "content": "How much?"}], response=response, extra=extra)


def reason(gate, example, **rules):
    return GATES[gate]([example], Rules(**rules))[0]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("3 x £4.50 = £13.50\n£13.50 + £2 = £16\nAnswer: £16", "step 2 of 2 does not recompute"),
        ("3 x £4.50 = £14\nAnswer: £14", "step 1 of 1 does not recompute"),
        ("Answer: £13.50", "no step of arithmetic"),
        ("It comes to about thirteen pounds.", "no step of arithmetic"),
        ("3 x £4.50 = £13.50\nAnswer: £4.50", "the result of none of its steps"),
        ("3 / 0 = 0\nAnswer: 0", "does not recompute"),
    ],
)
def test_a_solution_that_does_not_recompute_is_dropped(text, why):
    assert why in reason("arithmetic", row(text))


@pytest.mark.parametrize(
    ("text", "task"),
    [
        ("3 x £4.50 = £13.50\nAnswer: £13.50", "math"),
        ("3 x 50p = 150p\nAnswer: £1.50", "math"),
        ("10 / 3 = 3.33\nAnswer: 3.33", "math"),
        ("It is £5 a month.", "conversation"),
        ("neutral", "nli"),
    ],
)
def test_what_recomputes_or_states_no_arithmetic_passes(text, task):
    assert reason("arithmetic", row(text, task)) is None


def test_steps_kept_beside_the_answer_are_recomputed_too():
    assert reason("arithmetic", row("£13.50", rationale="3 x £4.50 = £13.50")) is None
    assert "step 1 of 1" in reason("arithmetic", row("£13.50", rationale="3 x £4.50 = £12"))
    assert "step 1 of 1" in reason("arithmetic", row("£14", "conversation", "2 x £6 = £14"))


def test_all_our_own_solutions_recompute():
    task = get_task("math")
    rows = list(read_records(ROOT / "data/math/train.jsonl"))
    worked = [replace(e, response=Response(task.target(e), "gold")) for e in rows]
    kept, dropped, _ = run_gates(worked, gates=["arithmetic"])
    assert len(kept) == len(rows) > 500 and not dropped


def test_an_answer_few_samples_agree_with_is_dropped():
    samples = ["1 + 1 = 2\nAnswer: £2", "Answer: 200p", "Answer: £3", "no idea", "Answer: £4"]
    assert reason("consistent", row(samples[0], samples=samples)) == "2 of 5 samples agree"
    assert reason("consistent", row(samples[0], samples=samples), agreement=0.4) is None
    assert reason("consistent", row(samples[0])) is None, "nobody drew samples"


def test_samples_that_word_the_same_label_otherwise_agree():
    samples = ["It is £5. neutral", "It differs. neutral", "maybe"]
    assert reason("consistent", row(samples[0], "nli", samples=samples)) is None
    assert reason("consistent", row(samples[0], "nli", samples=samples), agreement=0.7) == "2 of 3 samples agree"


def test_free_text_is_held_against_its_measured_likeness():
    assert reason("consistent", row("It is £5.", "conversation", samples=["a", "b"], agreement=0.9)) is None
    assert "0.20" in reason("consistent", row("It is £5.", "conversation", samples=["a", "b"], agreement=0.2))


def test_a_low_grade_drops_and_no_grade_does_too():
    assert reason("judged", row("£5", judge={"score": 2, "reason": "", "model": "j"})) == "the judge gave 2"
    assert reason("judged", row("£5", judge={"score": 3, "reason": "", "model": "j"})) is None
    assert (
        reason("judged", row("£5", judge={"score": 3, "reason": "", "model": "j"}), least_score=4) == "the judge gave 3"
    )
    assert "no readable grade" in reason("judged", row("£5", judge={"score": None, "reason": "", "model": "j"}))
    assert reason("judged", row("£5")) is None, "nobody judged it"


def test_an_answer_that_could_not_be_taken_apart_is_dropped_with_what_was_wrong():
    assert reason("parsed", row("£5 {", unread="no JSON object")) == "no JSON object"
