"""A dry run sends nothing, writes nothing, and comes close to the bill that follows."""

from dataclasses import replace

import pytest
from server import Server, completion
from test_endpoint import QUICK, SAMPLING, ask, pool, start_command

from slmops_utils.synthesize.estimate import at_list_prices, estimate_table
from slmops_utils.synthesize.generate import dry_run
from slmops_utils.synthesize.presets import PRICES

PRICE = (1.0, 2.0)


def dry(server, folder, examples, **options):
    return dry_run(f"endpoint:teacher@{server.url}", examples, folder / "out.jsonl", SAMPLING, network=QUICK,
                   **({"price": PRICE} | options))  # fmt: skip


def test_a_dry_run_sends_and_writes_nothing_and_needs_no_key(tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with Server() as server:
        report = dry(server, tmp_path, pool(50))
        assert server.requests == []
    assert dry_run("endpoint:gpt-4.1@openai", pool(5), tmp_path / "out.jsonl")["dollars"] > 0
    assert list(tmp_path.iterdir()) == []
    assert (report["sample"], report["requests"], report["completion_tokens"]) == (0, 50, 50 * 16)
    assert 0 < report["dollars"] < report["most_dollars"] and report["hours"] > 0


def test_after_a_few_calls_the_estimate_is_measured_and_close_to_the_bill(tmp_path):
    with Server(lambda number, body: replace(completion(), after=0.05)) as server:
        ask(server, tmp_path, 6, price=PRICE)
        before = (tmp_path / "out.jsonl.journal.jsonl").read_bytes()
        report = dry(server, tmp_path, pool(40))
        assert (tmp_path / "out.jsonl.journal.jsonl").read_bytes() == before
        assert (report["sample"], report["requests"], report["tokens_per_row"]) == (6, 34, [12.0, 3.0])
        bill = ask(server, tmp_path, 40, price=PRICE)["bill"]
    assert bill["dollars"] == pytest.approx(report["dollars"] * 40 / 34, abs=1e-4)
    assert bill["dollars"] <= report["most_dollars"]
    assert dry(server, tmp_path, pool(40))["requests"] == 0


def test_calls_that_failed_and_were_repeated_are_reckoned_with(tmp_path):
    from server import problem

    with Server(lambda number, body: problem(500) if number % 2 else "neutral") as server:
        ask(server, tmp_path, 6, replace(QUICK, concurrency=1))
    assert dry(server, tmp_path, pool(16))["requests"] == 20


def test_fifty_thousand_conversations_at_each_list_price():
    bills = at_list_prices([200.0, 40.0])
    assert set(bills) == set(PRICES)
    assert bills["deepseek-chat"] == pytest.approx(50_000 * (0.56 * 200 + 1.68 * 40) / 1e6)
    assert bills["gpt-4.1"] == pytest.approx(50_000 * (2 * 200 + 8 * 40) / 1e6)


def test_without_a_price_the_table_says_how_to_state_one(tmp_path):
    told = estimate_table(dry_run("endpoint:new@https://host.example/v1", pool(3), tmp_path / "out.jsonl", SAMPLING))
    assert "state yours with --price" in told and "50,000 conversations" in told and "gpt-4o" in told
    assert "assumed" in told


def test_the_command_line(tmp_path):
    with Server() as server:
        process = start_command(server.url, tmp_path, 9, "--dry-run", "--price", 1, 2)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        assert server.requests == [] and not (tmp_path / "out.jsonl").exists()
    assert out.startswith("9 requests, ") and "at list prices" in out and "claude-sonnet-4-6" in out


def test_every_preset_has_its_bill_and_every_list_price_a_preset():
    from slmops_utils.synthesize.estimate import bill_by_preset
    from slmops_utils.synthesize.presets import PRESETS, PRICES

    lines = bill_by_preset((200, 50), 1000)
    assert {line["preset"] for line in lines} == set(PRESETS)
    assert {line["model"] for line in lines} - {None} == set(PRICES)
    by_model = {line["model"]: line["dollars"] for line in lines}
    assert by_model["gpt-4o"] == 1000 * (200 * 2.5 + 50 * 10) / 1e6 == 1.0
    assert by_model[None] is None, "nobody knows what your own deployment costs"
