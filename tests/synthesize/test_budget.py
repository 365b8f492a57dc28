"""A cap is never passed, whatever the order in which requests come back, and nothing set aside is forgotten."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from server import Reply, Server, completion, problem
from test_endpoint import GOOD, QUICK, SAMPLING, ask, check_books, journal, pool, replace

from slmops_utils.synthesize.budget import Bill, Budget, Caps, most_tokens
from slmops_utils.synthesize.presets import Price

PRICE = Price(1.0, 2.0, "stated by you")
STEPS = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.floats(0, 1), st.booleans()), max_size=60)


@given(steps=STEPS, tokens=st.integers(0, 500), requests=st.integers(0, 20), dollars=st.floats(0, 1e-3))
def test_no_order_of_requests_passes_a_cap(steps, tokens, requests, dollars):
    budget = Budget(Caps(dollars, tokens, requests), PRICE, Bill())
    flying = []
    for prompt, completion_tokens, share, comes_back in steps:
        if budget.reserve(prompt, completion_tokens) is None:
            flying.append(((prompt, completion_tokens), share))
        if comes_back and flying:
            reserved, share = flying.pop(0)
            budget.settle(reserved, (int(reserved[0] * share), int(reserved[1] * share)))
    for reserved, _ in flying:  # the worst that can happen: all of it is billed
        budget.settle(reserved, reserved)
    bill = budget.bill
    assert bill.prompt_tokens + bill.completion_tokens <= tokens and bill.requests <= requests
    assert bill.dollars <= dollars + 1e-9
    assert bill.dollars == pytest.approx(PRICE.cost(bill.prompt_tokens, bill.completion_tokens))
    assert (budget.held.requests, budget.held.prompt_tokens, budget.held.completion_tokens) == (0, 0, 0)


def test_what_was_set_aside_but_never_sent_is_given_back_and_not_booked():
    budget = Budget(Caps(requests=1), PRICE, Bill())
    assert budget.reserve(10, 10) is None and budget.reserve(1, 1) == "1 requests"
    budget.settle((10, 10), (0, 0), sent=False)
    assert budget.bill == Bill() and budget.reserve(1, 1) is None


def test_a_cap_in_dollars_without_a_price_is_refused():
    with pytest.raises(ValueError, match="--price"):
        Budget(Caps(dollars=1.0), None, Bill())


@pytest.mark.parametrize("text", ["", "hello", "£5 naïve 👍", "<|im_end|>" * 9, "\n" * 50, "a1" * 99])
def test_no_prompt_has_more_tokens_than_are_set_aside(text, tiny):
    from slmops_utils.synthesize.answer import encode_prompt

    for prompt in ([{"role": "user", "content": text}], [{"role": "system", "content": text}] * 3):
        assert len(encode_prompt(tiny.tokenizer, prompt)) <= most_tokens(prompt)


def honest(number, body):
    """As dear as it can be: a token for each byte, and all the answer that was allowed."""
    usage = {"prompt_tokens": most_tokens(body["messages"]), "completion_tokens": body["max_tokens"], "total_tokens": 0}
    return replace(completion(usage=usage), after=0.01)


@pytest.mark.parametrize(
    "caps", [Caps(tokens=2000), Caps(dollars=0.003), Caps(requests=7), Caps(0.004, 3000, 13)], ids=str
)
def test_caps_hold_under_concurrency_and_over_runs(caps, tmp_path):
    with Server(honest) as server:
        for _ in range(2):
            report = ask(server, tmp_path, 60, replace(QUICK, concurrency=16), caps=caps, price=(1.0, 2.0))
            assert "the cap of" in report["ended_early"] and "spent so far" in report["ended_early"]
            bill = report["bill"]
            tokens = bill["prompt_tokens"] + bill["completion_tokens"]
            assert bill["requests"] == len(server.requests) > 3
            assert caps.tokens is None or tokens <= caps.tokens
            assert caps.dollars is None or bill["dollars"] <= caps.dollars
            assert caps.requests is None or bill["requests"] <= caps.requests
    check_books(tmp_path, len(server.requests))
    assert sum(line["dollars"] for line in journal(tmp_path) if "settles" in line) == pytest.approx(bill["dollars"])


def test_a_raised_cap_goes_on_where_the_lower_one_stopped(tmp_path):
    with Server(honest) as server:
        first = ask(server, tmp_path, 10, caps=Caps(requests=4))
        second = ask(server, tmp_path, 10, caps=Caps(requests=10))
    assert (first["asked"], second["from_journal"], second["asked"], second["ended_early"]) == (4, 4, 6, None)


@pytest.mark.parametrize(
    ("caps", "told"), [(Caps(dollars=0.002), "$0.002"), (Caps(tokens=1500), "1,500 tokens")], ids=["dollars", "tokens"]
)
def test_what_was_in_flight_when_a_run_was_killed_stays_booked(caps, told, tmp_path):
    line = {"key": "q0:of a killed run#1", "sent": [1000, 500]}
    (tmp_path / "out.jsonl.journal.jsonl").write_text(json.dumps(line) + "\n")
    with Server() as server:
        report = ask(server, tmp_path, 1, caps=caps, price=(1.0, 2.0))
        assert report["ended_early"].startswith(f"the cap of {told} would be broken") and server.requests == []
        assert report["bill"] == {"requests": 1, "prompt_tokens": 1000, "completion_tokens": 500, "dollars": 0.002}
        bill = ask(server, tmp_path, 1, price=(1.0, 2.0))["bill"]
    assert (bill["requests"], bill["prompt_tokens"], bill["completion_tokens"]) == (2, 1012, 503)


def test_an_outcome_that_is_unknown_is_booked_at_its_most(tmp_path):
    most = most_tokens([{"role": "system", "content": "x"}])
    assert most > 80
    with Server(lambda number, body: Reply(GOOD, send=0.5)) as server:
        report = ask(server, tmp_path, 1, replace(QUICK, attempts=2), price=(1.0, 2.0))
        reserved = 2 * most_tokens(server.requests[0]["body"]["messages"]), 2 * SAMPLING.max_new_tokens
    assert (report["bill"]["prompt_tokens"], report["bill"]["completion_tokens"]) == reserved


def test_an_error_status_costs_a_request_and_no_tokens(tmp_path):
    with Server(lambda number, body: problem(400)):
        pass
    with Server(lambda number, body: problem(400)) as server:
        bill = ask(server, tmp_path, 2, price=(1.0, 2.0))["bill"]
    assert (bill["requests"], bill["prompt_tokens"], bill["dollars"]) == (2, 0, 0.0)


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": -5, "completion_tokens": 1}, {"prompt_tokens": "9"},
                                   {"prompt_tokens": 10**400, "completion_tokens": 1}], ids=str)  # fmt: skip
def test_a_server_that_counts_no_tokens_is_booked_at_the_most(usage, tmp_path):
    with Server(lambda number, body: completion(usage=usage)) as server:
        report = ask(server, tmp_path, 1)
        most = most_tokens(server.requests[0]["body"]["messages"]), SAMPLING.max_new_tokens
    assert (report["asked"], report["bill"]["prompt_tokens"], report["bill"]["completion_tokens"]) == (1, *most)


def test_a_server_that_counts_more_than_was_asked_for_ends_a_capped_run(tmp_path):
    usage = {"prompt_tokens": 50_000, "completion_tokens": 3, "total_tokens": 0}
    with Server(lambda number, body: completion(usage=usage)) as server:
        report = ask(server, tmp_path, 20, caps=Caps(tokens=1_000_000))
        assert "so no cap can hold" in report["ended_early"] and len(server.requests) == 1
        assert report["bill"]["prompt_tokens"] == 50_000 and report["asked"] == 1
        assert ask(server, tmp_path, pool(3))["ended_early"] is None, "without a cap it is only booked"
