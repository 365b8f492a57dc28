"""A teacher over a real socket: no fault becomes a training row, none is lost from the journal, no cap is broken."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from server import Reply, Server, completion, problem

from slmops_utils.distill.dataset import training_text
from slmops_utils.records import Example, read_records, write_records
from slmops_utils.synthesize.answer import Sampling
from slmops_utils.synthesize.budget import Caps
from slmops_utils.synthesize.endpoint import MOST_BYTES, Network, ask_endpoint
from slmops_utils.synthesize.generate import generate
from slmops_utils.synthesize.journal import Journal
from slmops_utils.synthesize.pace import Pace, parse_wait
from slmops_utils.synthesize.presets import EndpointError, find_endpoint
from slmops_utils.tasks.service_rules import DEFAULTS

SAMPLING = Sampling(max_new_tokens=16)
QUICK = Network(concurrency=4, attempts=3, seconds=60.0, first_wait=0.01, longest_wait=0.3, success_ratio=0.0)
PATIENCE = 4.0  # seconds, where a test waits for a time-out: long enough for good answers on a busy machine
PRICE = (1.0, 2.0)


@pytest.fixture(autouse=True)
def no_keys(monkeypatch):
    for name in ("SLMOPS_ENDPOINT_KEY", "OPENAI_API_KEY", "DEEPSEEK_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def pool(count: int) -> list[Example]:
    return [Example(f"q{i}", "nli", [{"role": "user", "content": f"The fee is £5. It is £{i}."}]) for i in range(count)]


def row_of(body: dict) -> int:
    return int(body["messages"][-1]["content"].rpartition("£")[2][:-1])


def ask(server_or_url, folder, examples=8, network=QUICK, sampling=SAMPLING, **options) -> dict:
    url = getattr(server_or_url, "url", server_or_url)
    rows = pool(examples) if isinstance(examples, int) else examples
    return generate(f"endpoint:teacher@{url}", rows, folder / "out.jsonl", sampling, network=network, **options)


def written(folder) -> dict[str, Example]:
    return {example.id: example for example in read_records(folder / "out.jsonl")}


def journal(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "out.jsonl.journal.jsonl").read_text().splitlines()]


def only(bad_row: int, reply) -> "object":
    """One row of the pool meets the fault each time it is asked, the others are answered."""
    return lambda number, body: reply if row_of(body) == bad_row else "neutral"


def check_books(folder, requests: int) -> None:
    """Every request that left is in the journal with its outcome."""
    lines = journal(folder)
    sent = {line["key"] for line in lines if "sent" in line}
    settled = [line["settles"] for line in lines if "settles" in line]
    assert len(sent) == requests
    assert sorted(settled) == sorted(sent)
    assert all(("text" in line) != ("failure" in line) for line in lines if "settles" in line)


GOOD = completion().body
FAULTS = {
    "429": (problem(429), "HTTP 429"),
    "429 with Retry-After": (problem(429, {"Retry-After": "0.05"}), "HTTP 429"),
    "429 with Retry-After in ms": (problem(429, {"retry-after-ms": "20"}), "HTTP 429"),
    "429 with nonsense": (problem(429, {"Retry-After": "soon"}), "HTTP 429"),
    "500": (problem(500), "HTTP 500"),
    "503": (problem(503), "HTTP 503"),
    "400": (problem(400), "HTTP 400"),
    "400 for its content": (problem(400, code="content_filter"), "content_filter"),
    "reset": (Reply(reset=True), "connection broken"),
    "closed without a byte": (Reply(GOOD, send=0.0), "connection broken"),
    "half a body": (Reply(GOOD, send=0.5), "connection broken"),
    "hang": (Reply(GOOD, after=90.0), "no whole answer in 4 s"),
    "slow trickle": (Reply(GOOD, trickle=0.2), "no whole answer in 4 s"),
    "invalid JSON": (Reply(b'{"choices": [}'), "not a usable answer"),
    "a web page": (Reply(b"<h1>Welcome</h1>", headers={"Content-Type": "text/html"}), "not a usable answer"),
    "not UTF-8": (Reply(GOOD.replace(b"neutral", b"\xff\xfe")), "not a usable answer"),
    "nested too deeply": (Reply(b"[" * 200_000), "not a usable answer"),
    "no choices": (completion(choices=[]), "not a usable answer"),
    "null choices": (completion(choices=None), "not a usable answer"),
    "no message": (completion(choices=[{"index": 0, "finish_reason": "stop"}]), "not a usable answer"),
    "a list": (Reply(b"[1, 2]"), "not a usable answer"),
    "nothing": (Reply(b""), "not a usable answer"),
    "half of a surrogate pair": (completion("\ud83d"), "not a usable answer"),
    "content of a wrong type": (completion({"text": "neutral"}), "not a usable answer"),
    "empty content": (completion(""), "empty answer"),
    "blank content": (completion(" \n"), "empty answer"),
    "null content": (completion(None), "empty answer"),
    "content_filter": (completion("neu", finish_reason="content_filter"), "content_filter"),
    "10 MB": (completion("x" * 10_000_000), f"the answer is longer than {MOST_BYTES:,} bytes"),
    "compressed unasked": (Reply(GOOD, headers={"Content-Encoding": "gzip"}), "connection broken"),
}


@pytest.mark.parametrize(("reply", "reason"), FAULTS.values(), ids=FAULTS)
def test_a_call_that_always_fails_becomes_no_training_row_and_is_in_the_journal(reply, reason, tmp_path):
    network = replace(QUICK, attempts=2, seconds=PATIENCE if reply.after or reply.trickle else 60.0)
    with Server(only(3, reply)) as server:
        report = ask(server, tmp_path, network=network)
    rows = written(tmp_path)
    assert {id for id, row in rows.items() if row.response is None} == {"q3"}
    assert training_text(rows["q3"]) is None
    assert all(training_text(row) == "neutral" for id, row in rows.items() if id != "q3")
    assert (report["asked"], report["ended_early"]) == (7, None)
    ((told, count),) = report["failures"].items()
    assert count == 1 and told.startswith(reason)
    failures = [line["failure"] for line in journal(tmp_path) if "failure" in line]
    assert len(failures) == len(server.requests) - 7 and set(failures) == {told}
    check_books(tmp_path, len(server.requests))


@pytest.mark.parametrize(
    "name", ["429", "429 with Retry-After", "500", "503", "reset", "half a body", "hang", "nothing"]
)
def test_a_fault_that_passes_costs_no_row(name, tmp_path):
    reply, seen = FAULTS[name][0], set()

    def first_time_bad(number, body):
        row = row_of(body)
        if row in seen:
            return "neutral"
        seen.add(row)
        return reply

    with Server(first_time_bad) as server:
        report = ask(server, tmp_path, 6, replace(QUICK, seconds=PATIENCE))
    assert (report["asked"], report["failures"]) == (6, {})
    assert len(server.requests) == 12
    check_books(tmp_path, 12)


def test_a_test_counts_an_empty_answer_and_training_does_not(tmp_path):
    with Server(only(3, completion(""))) as server:
        report = ask(server, tmp_path, network=replace(QUICK, keep_empty=True))
    row = written(tmp_path)["q3"]
    assert (report["failures"], len(server.requests), row.response.text) == ({}, 8, "")
    assert training_text(row) is None


def test_an_answer_cut_off_is_kept_with_its_reason_and_not_trained_on(tmp_path):
    with Server(only(3, completion("neut", finish_reason="length"))) as server:
        report = ask(server, tmp_path)
    row = written(tmp_path)["q3"]
    assert (row.response.text, row.response.finish_reason) == ("neut", "length")
    assert training_text(row) is None
    assert (report["rows"], report["asked"], report["stopped"]) == (8, 8, 7)


def test_a_refused_connection_costs_nothing_and_stops_below_the_success_ratio(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    report = ask(f"http://127.0.0.1:{port}/v1", tmp_path, 4, replace(QUICK, attempts=2, success_ratio=0.7), price=PRICE)
    assert report["ended_early"].startswith(
        "only 0 of 4 calls succeeded, less than 70%; most often (4): connection refused"
    )
    assert report["bill"]["dollars"] == 0 and report["bill"]["prompt_tokens"] == 0
    assert all(row.response is None for row in written(tmp_path).values())
    check_books(tmp_path, 8)


STOPS = {
    "wrong key": (problem(401), ["HTTP 401", "the key was refused", "SLMOPS_ENDPOINT_KEY"]),
    "no credit": (problem(402), ["HTTP 402", "no credit"]),
    "no such model": (problem(404), ["HTTP 404", "'teacher'"]),
    "redirect": (problem(302, {"Location": "http://127.0.0.1:1/v1/chat/completions"}), ["redirects elsewhere"]),
    "permanent redirect": (
        problem(308, {"Location": "http://127.0.0.1:1/v1/chat/completions"}),
        ["redirects elsewhere"],
    ),
}


@pytest.mark.parametrize(("reply", "told"), STOPS.values(), ids=STOPS)
def test_what_would_fail_every_time_stops_after_one_request(reply, told, tmp_path):
    with Server(lambda number, body: reply) as server:
        report = ask(server, tmp_path, 30)
        assert len(server.requests) == 1, "the first goes alone"
        for part in told:
            assert part in report["ended_early"]
        assert "planted" not in json.dumps(report) + json.dumps(journal(tmp_path)), (
            "the server's words may hold the key"
        )
        check_books(tmp_path, 1)
        server.script = lambda number, body: "neutral"
        assert ask(server, tmp_path, 30)["asked"] == 30


def test_a_changed_model_name_stops_the_run_and_every_run_after(tmp_path):
    with Server(lambda number, body: completion(model="teacher-1" if number < 6 else "teacher-2\x1b[31m")) as server:
        report = ask(server, tmp_path, 20)
        assert "changed its model from 'teacher-1' to 'teacher-2\\x1b[31m'" in report["ended_early"]
        assert "\x1b" not in report["ended_early"]
        answered = [row for row in written(tmp_path).values() if row.response]
        assert len(answered) == 5 and len(server.requests) <= 5 + QUICK.concurrency
        check_books(tmp_path, len(server.requests))
        before = len(server.requests)
        again = ask(server, tmp_path, 20)
        assert "changed its model" in again["ended_early"] and len(server.requests) == before + 1
    texts = [line for line in journal(tmp_path) if "text" in line]
    assert {line["served_model"] for line in texts} == {"teacher-1"}


def test_too_many_failures_stop_the_run_with_the_reason_most_often_met(tmp_path):
    def two_in_three_fail(number, body):
        return problem(400) if row_of(body) % 3 else "neutral"

    with Server(two_in_three_fail) as server:
        report = ask(server, tmp_path, 200, replace(QUICK, success_ratio=0.7))
    assert "less than 70%" in report["ended_early"] and "HTTP 400" in report["ended_early"]
    assert 20 <= len(server.requests) <= 20 + QUICK.concurrency
    check_books(tmp_path, len(server.requests))


def test_unless_told_otherwise_the_ratio_is_that_of_azures_service():
    assert Network().success_ratio == DEFAULTS["min_endpoint_success_ratio"] == 0.7


@pytest.mark.parametrize(
    ("reply", "shortest", "longest"),
    [
        (problem(500), [0.5, 1.0, 1.5], [1.0, 2.0, 3.0]),
        (problem(503, {"Retry-After": "2"}), [2.0, 2.0, 2.0], [2.4, 2.4, 2.4]),
    ],
    ids=["its own", "as asked"],
)
@pytest.mark.parametrize("luck", [0, 1])
def test_waits_double_up_to_the_longest_and_have_a_random_part(reply, shortest, longest, luck, monkeypatch, tmp_path):
    waits = []

    async def sleep(self, seconds):
        waits.append(seconds)

    monkeypatch.setattr("slmops_utils.synthesize.endpoint._Run.sleep", sleep)
    monkeypatch.setattr("slmops_utils.synthesize.endpoint.random.uniform", lambda *ends: ends[luck])
    with Server(lambda number, body: reply) as server:
        ask(server, tmp_path, 1, replace(QUICK, attempts=4, first_wait=1.0, longest_wait=3.0))
    assert waits == pytest.approx([shortest, longest][luck])


def test_a_run_above_the_ratio_goes_on_to_its_end(tmp_path):
    # one row in six: whichever of the rows in flight come back first, no moment of the run is below the ratio
    with Server(lambda number, body: problem(400) if row_of(body) % 6 == 0 else "neutral") as server:
        report = ask(server, tmp_path, 60, replace(QUICK, success_ratio=0.7))
    assert (report["ended_early"], report["asked"], report["failures"]) == (None, 50, {"HTTP 400": 10})


def test_concurrency_is_used_and_bounded(tmp_path):
    with Server(lambda number, body: replace(completion(), after=0.05)) as server:
        ask(server, tmp_path, 40, replace(QUICK, concurrency=8))
    assert server.most_at_once == 8


def test_failed_rows_are_asked_again_by_the_next_run_and_answers_are_not(tmp_path):
    with Server(only(3, problem(400))) as server:
        ask(server, tmp_path)
        server.script = lambda number, body: "neutral"
        before = len(server.requests)
        report = ask(server, tmp_path)
        assert (report["from_journal"], report["asked"]) == (7, 1)
        assert [row_of(r["body"]) for r in server.requests[before:]] == [3]
        assert ask(server, tmp_path)["asked"] == 0 and len(server.requests) == before + 1


def test_a_changed_prompt_model_or_setting_never_reuses_an_answer(tmp_path):
    with Server(lambda number, body: completion(model=body["model"])) as server:

        def asked(**changes):
            return ask(server, tmp_path, **({"examples": 3} | changes))["asked"]

        assert asked() == 3
        assert asked() == 0
        for change in ({"max_new_tokens": 17}, {"temperature": 0.5}, {"temperature": 0.5, "top_p": 0.9}, {"seed": 1}):
            assert asked(sampling=replace(SAMPLING, **change)) == 3, change
        assert asked(shots=[replace(pool(1)[0], reference="neutral")]) == 3
        assert asked(examples=[*pool(2), replace(pool(3)[2], messages=[{"role": "user", "content": "It is £9."}])]) == 1
        assert asked(examples=pool(4)) == 1
        other = generate(f"endpoint:other@{server.url}", pool(3), tmp_path / "out.jsonl", SAMPLING, network=QUICK)
        assert other["asked"] == 3
        body = server.requests[-1]["body"]
    assert body["model"] == "other" and body["max_tokens"] == 16 and body["temperature"] == 0


def test_a_journal_whose_lines_name_no_teacher_binds_nobody_to_a_model(tmp_path):
    with Server(lambda number, body: completion(model="teacher-1" if number <= 2 else "teacher-2")) as server:
        ask(server, tmp_path, 2)
        old = [{key: value for key, value in line.items() if key != "teacher"} for line in journal(tmp_path)]
        (tmp_path / "out.jsonl.journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in old))
        assert ask(server, tmp_path, 4)["asked"] == 2


@pytest.mark.parametrize(
    ("setting", "sent"),
    [
        ({}, {"temperature": 0.0}),
        ({"top_p": 0.9}, {"temperature": 0.0}),
        ({"temperature": 0.5}, {"temperature": 0.5}),
        ({"temperature": 0.5, "top_p": 0.9}, {"temperature": 0.5, "top_p": 0.9}),
    ],
    ids=str,
)
def test_top_p_is_sent_only_where_it_says_something(setting, sent, tmp_path, monkeypatch):
    """Some APIs refuse it beside a temperature. A server of one's own is told, as its default may be another."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        for local in (False, True):
            endpoint = replace(find_endpoint(f"endpoint:teacher@{server.url}"), local=local)
            monkeypatch.setattr("slmops_utils.synthesize.generate.find_endpoint", lambda *_, e=endpoint: e)
            ask(server, tmp_path / str(local), 1, sampling=replace(SAMPLING, **setting))
        other, own = (request["body"] for request in server.requests)
    assert other == {"model": "teacher", "messages": other["messages"], "max_tokens": 16, **sent}
    own.pop("seed")
    assert own == other | ({"top_p": setting.get("top_p", 1.0)} if "temperature" in setting else {})


def test_the_answers_of_two_addresses_on_one_host_are_told_apart(tmp_path):
    first, second = (find_endpoint(f"endpoint:m@http://127.0.0.1:1/{path}") for path in ("a/v1", "b/v1"))
    assert first.name != second.name


def test_two_runs_on_one_journal_are_refused(tmp_path):
    with Server(lambda number, body: replace(completion(), after=0.2)) as server:
        process = start_command(server.url, tmp_path, 12)
        wait_until(lambda: len(server.requests) >= 2)
        with pytest.raises(BlockingIOError, match="another run is writing this journal"):
            ask(server, tmp_path)
        assert process.wait(300) == 0, process.stderr.read()


def wait_until(true, seconds=300.0) -> None:
    started = time.monotonic()
    while not true():
        assert time.monotonic() - started < seconds, "it never came to be"
        time.sleep(0.002)


def start_command(url, folder, count, *options, **environment) -> subprocess.Popen:
    """The command line in a process of its own, as a user starts it."""
    write_records(folder / "pool.jsonl", pool(count))
    command = [sys.executable, "-W", "ignore", "-m", "slmops_utils", "generate", "--teacher", f"endpoint:teacher@{url}",
               "--pool", folder / "pool.jsonl", "--out", folder / "out.jsonl", "--max-new-tokens", 16,
               "--concurrency", 4, *options]  # fmt: skip
    pipe = subprocess.PIPE
    return subprocess.Popen(list(map(str, command)), stdout=pipe, stderr=pipe, text=True, env=os.environ | environment)


def test_the_command_line_end_to_end(tmp_path):
    with Server() as server:
        out, err = (process := start_command(server.url, tmp_path, 5, "--price", 1, 2)).communicate(timeout=300)
    assert process.returncode == 0, err
    assert (
        out.startswith(f"teacher@127.0.0.1:{server.port}/v1: $1 / $2 per million tokens")
        and "Training on its answers" in out
    )
    report = json.loads(out[out.index("{") :])
    assert (report["rows"], report["asked"], report["ended_early"]) == (5, 5, None)
    assert report["bill"] == {
        "requests": 5,
        "prompt_tokens": 60,
        "completion_tokens": 15,
        "dollars": pytest.approx(9e-5),
    }
    row = written(tmp_path)["q0"].response
    assert (row.text, row.finish_reason, row.prompt_tokens, row.completion_tokens) == ("neutral", "stop", 12, 3)


def test_a_run_stopped_by_a_cap_says_so_and_fails(tmp_path):
    with Server() as server:
        _, err = (process := start_command(server.url, tmp_path, 9, "--max-requests", 4)).communicate(timeout=300)
    assert process.returncode == 1 and len(server.requests) == 4
    assert "ended early: the cap of 4 requests would be broken" in err and "The same command goes on from here" in err


@pytest.mark.parametrize("kills", [(1,), (3, 6, 9)])
def test_killed_and_started_again_nothing_is_lost_and_the_cap_in_requests_holds(kills, tmp_path):
    cap = 12
    with Server(lambda number, body: replace(completion(), after=0.02)) as server:
        for seen in kills:
            process = start_command(server.url, tmp_path, 40, "--max-requests", cap)
            wait_until(lambda seen=seen, p=process: len(server.requests) >= seen or p.poll() is not None)
            process.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))
            process.wait(300)
        answered = sum("text" in line for line in journal(tmp_path))
        out, err = (process := start_command(server.url, tmp_path, 40, "--max-requests", cap)).communicate(timeout=300)
        assert process.returncode == 1 and "cap of 12 requests" in err
        assert len(server.requests) <= cap
        report = json.loads(out[out.index("{") :])
        assert report["from_journal"] == answered and report["bill"]["requests"] == cap
        rows = [row for row in written(tmp_path).values() if row.response]
        assert len(rows) == report["from_journal"] + report["asked"]
        out, err = (process := start_command(server.url, tmp_path, 40)).communicate(timeout=300)
        assert process.returncode == 0, err
    assert all(row.response for row in written(tmp_path).values())


def test_an_interrupted_run_books_what_was_in_flight(tmp_path):
    with Server(lambda number, body: "neutral" if number < 4 else Reply(GOOD, after=30.0)) as server:
        code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from slmops_utils.__main__ import main; main()"
        write_records(tmp_path / "pool.jsonl", pool(20))
        process = subprocess.Popen([sys.executable, "-c", code, "generate", "--teacher", f"endpoint:teacher@{server.url}",
            "--pool", str(tmp_path / "pool.jsonl"), "--out", str(tmp_path / "out.jsonl"), "--concurrency", "4"],
            stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # fmt: skip
        wait_until(lambda: len(server.requests) >= 7)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=300)
    lines = journal(tmp_path)
    assert sum("text" in line for line in lines) == 3
    cancelled = [line for line in lines if line.get("failure") == "CancelledError"]
    assert len(cancelled) == 4 and all(line["prompt_tokens"] > 0 for line in cancelled), "it may have been billed"
    check_books(tmp_path, 7)


class Minute:
    """A server that allows `limit` requests in each window and says so, or not, in its headers."""

    def __init__(self, limit: int, seconds: float, tell: bool = True, style: str = "openai"):
        self.limit, self.seconds, self.tell, self.style = limit, seconds, tell, style
        self.start, self.used, self.refused = 0.0, 0, 0

    def __call__(self, number, body):
        now = time.monotonic()
        if now - self.start >= self.seconds:
            self.start, self.used = now, 0
        if self.used >= self.limit:
            self.refused += 1
            return problem(429, self.headers(now))
        self.used += 1
        return replace(completion(), headers=self.headers(now), after=0.01)

    def headers(self, now) -> dict[str, str]:
        if not self.tell:
            return {}
        left, wait = str(self.limit - self.used), self.start + self.seconds - now + 0.005
        if self.style == "openai":
            return {"x-ratelimit-remaining-requests": left, "x-ratelimit-reset-requests": f"{int(wait * 1000)}ms"}
        reset = datetime.fromtimestamp(time.time() + wait, UTC).isoformat(timespec="milliseconds")
        return {"anthropic-ratelimit-requests-remaining": left,
                "anthropic-ratelimit-requests-reset": reset.replace("+00:00", "Z")}  # fmt: skip


@pytest.mark.parametrize("style", ["openai", "anthropic"])
def test_a_limit_told_in_headers_is_never_run_into(style, tmp_path):
    minute = Minute(limit=10, seconds=1.0, style=style)
    with Server(minute) as server:
        report = ask(server, tmp_path, 35, replace(QUICK, concurrency=8, longest_wait=5.0))
    assert (report["asked"], minute.refused) == (35, 0)


@pytest.fixture
def clock(monkeypatch):
    """Seconds since noon of 24 November 2026, the time of day that pace.py sees."""
    noon, now = datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp(), [0.0]
    stopped = SimpleNamespace(monotonic=lambda: now[0], time=lambda: noon + now[0])
    monkeypatch.setattr("slmops_utils.synthesize.pace.time", stopped)
    return now


@pytest.mark.parametrize(
    ("left", "reset", "until"),
    [
        ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens", "30s"),
        ("anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-reset", "2026-11-24T12:00:30Z"),
    ],
    ids=["openai", "anthropic"],
)
def test_no_more_tokens_leave_than_the_server_has_left(left, reset, until, clock):
    pace, hasty = Pace(longest_wait=60.0), Pace(longest_wait=20.0)
    pace.leave(500)
    pace.back(500)
    pace.leave(30)  # on its way: the server may not have counted it yet
    for one in (pace, hasty):
        one.heed({left: "100", reset: until})
    assert (pace.wait(70), pace.wait(71), hasty.wait(101)) == (0.0, 30.0, 20.0)
    pace.leave(50)
    assert (pace.wait(20), pace.wait(21)) == (0.0, 30.0)
    clock[0] = 29.0
    assert pace.wait(21) == 1.0
    clock[0] = 31.0
    assert pace.wait(500) == 0.0
    pace.leave(500)
    assert pace.wait(500) == 0.0, "of the new minute nothing is known yet"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1.5", 1.5),
        ("-3", 0.0),
        ("6m0s", 360.0),
        ("1h2m3.5s", 3723.5),
        (" 20ms ", 0.02),
        ("2026-11-24T12:00:30Z", 30.0),
        ("2026-11-24T13:00:30+01:00", 30.0),
        ("2026-11-24T11:59:00Z", 0.0),
        ("Tue, 24 Nov 2026 12:06:00 GMT", 360.0),
        ("6 minutes", None),
        ("soon", None),
        ("", None),
        ("nan", None),
        ("inf", None),
    ],
)
def test_a_wait_is_read_however_it_is_told(text, seconds, clock):
    assert parse_wait(text) == (None if seconds is None else pytest.approx(seconds))


def test_a_limit_not_told_loses_no_row(tmp_path):
    minute = Minute(limit=10, seconds=0.3, tell=False)
    with Server(minute) as server:
        report = ask(server, tmp_path, 35, replace(QUICK, concurrency=8, first_wait=0.05))
    assert (report["asked"], report["failures"]) == (35, {}) and minute.refused > 0


def test_retry_after_holds_every_worker_back(tmp_path):
    times = []

    def told_to_wait(number, body):
        times.append(time.monotonic())
        return problem(429, {"Retry-After": "1.5"}) if number == 3 else replace(completion(), after=0.02)

    with Server(told_to_wait) as server:
        ask(server, tmp_path, 20, replace(QUICK, longest_wait=5.0))
    quiet = [later - earlier for earlier, later in pairwise(times)]
    assert max(quiet) > 1.3


def test_a_missing_key_is_said_before_anything_is_sent_or_written(tmp_path):
    with pytest.raises(EndpointError, match="set the environment variable OPENAI_API_KEY"):
        generate("endpoint:gpt-4o@openai", pool(2), tmp_path / "out.jsonl", SAMPLING)
    assert list(tmp_path.iterdir()) == []


def test_a_running_event_loop_is_no_obstacle(tmp_path):
    """A notebook has one already."""
    import asyncio

    async def cell():
        with Server() as server:
            return ask(server, tmp_path)

    assert asyncio.run(cell())["asked"] == 8


def test_progress_tells_the_bill_as_it_grows(tmp_path):
    seen = []
    with Server() as server, Journal(tmp_path / "j") as book:
        endpoint = find_endpoint(f"endpoint:teacher@{server.url}", PRICE)
        prompts = [example.messages for example in pool(5)]
        ask_endpoint(endpoint, prompts, list("abcde"), book, SAMPLING, Caps(), QUICK,
                     lambda new, bill: seen.append((new, str(bill))))  # fmt: skip
    assert sum(new for new, _ in seen) == 5
    assert seen[-1][1] == "$0.0001, 75 tokens, 5 requests"


class Bar:
    """A progress bar that somebody watches."""

    def __init__(self, total):
        self.total, self.done, self.told = total, 0, ""

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def update(self, new):
        self.done += new

    def set_postfix_str(self, told, refresh=True):
        self.told = told


def test_the_bar_shows_all_answers_and_the_bill(tmp_path, monkeypatch):
    bars = []
    monkeypatch.setattr("slmops_utils.synthesize.generate.progress_bar",
                        lambda total, *_, **__: bars.append(Bar(total)) or bars[-1])  # fmt: skip
    with Server() as server:
        ask(server, tmp_path, 3, price=PRICE)
        ask(server, tmp_path, 5, price=PRICE)
    assert [(bar.total, bar.done, bar.told) for bar in bars] == [
        (3, 3, "$0.0001, 45 tokens, 3 requests"), (5, 5, "$0.0001, 75 tokens, 5 requests")]  # fmt: skip


def test_the_disk_is_waited_for_now_and_then_and_at_the_end(tmp_path, monkeypatch):
    synced = []

    def fsync(handle):
        synced.append((os.fstat(handle).st_ino, os.fstat(handle).st_size))

    monkeypatch.setattr(os, "fsync", fsync)
    with Server(lambda number, body: replace(completion(), after=0.04)) as server:
        ask(server, tmp_path, 80)
    written = (tmp_path / "out.jsonl.journal.jsonl").stat()
    sizes = [size for file, size in synced if file == written.st_ino]
    assert 1 < len(sizes) < 80 and sizes[-1] == written.st_size


def test_a_proxy_of_the_environment_is_not_asked_for_a_server_on_this_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with Server() as server:
        assert ask(server, tmp_path)["asked"] == 8


def test_only_the_answer_and_no_organisation_of_another_provider_is_sent(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_ORG_ID", "org-planted")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-planted")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted")
    with Server() as server:
        ask(server, tmp_path, 1)
    assert "planted" not in json.dumps(server.requests)


def test_the_journal_path_of_a_run_stays_beside_its_output(tmp_path):
    with Server() as server:
        ask(server, tmp_path, 1)
    names = {path.name for path in Path(tmp_path).iterdir()}
    assert names == {"out.jsonl", "out.jsonl.journal.jsonl", "out.jsonl.journal.jsonl.lock"}
