"""Self-consistency: several samples, one record, nothing lost; styles through a real server."""

import json
from collections import Counter
from dataclasses import replace

import pytest
from server import Server, problem
from test_endpoint import QUICK, no_keys, pool, row_of  # noqa: F401

from slmops_utils.__main__ import main
from slmops_utils.distill.dataset import training_text
from slmops_utils.records import Example, Response, read_records, write_records
from slmops_utils.synthesize.answer import Sampling
from slmops_utils.synthesize.generate import generate
from slmops_utils.synthesize.samples import generate_samples

WARM = Sampling(max_new_tokens=8, temperature=0.8)
LABELS = ("contradiction", "entailment", "neutral")


def draws(server, folder, rows, samples=3, **options):
    return generate_samples(f"endpoint:t@{server.url}", rows, folder / "out.jsonl", samples, LABELS, sampling=WARM, network=QUICK, **options)  # fmt: skip


def test_every_prompt_is_asked_several_times_with_a_seed_of_its_own(tmp_path):
    answers = {0: ["neutral", "entailment", "It differs. neutral"], 1: ["dunno", "who knows", "hm"]}
    given = {0: [], 1: []}

    def script(number, body):
        row = row_of(body)
        given[row].append(body["seed"])
        return answers[row][len(given[row]) - 1]

    with Server(script) as server:
        report = draws(server, tmp_path, pool(2))
        assert report["samples"] == 3 and report["rows"] == 2 and len(server.requests) == 6
        draws(server, tmp_path, pool(2))
        assert len(server.requests) == 6, "all from the journal"
    assert all(len(set(seeds)) == 3 for seeds in given.values())
    first, second = read_records(tmp_path / "out.jsonl")
    assert "neutral" in first.response.text and sorted(first.extra["samples"]) == sorted(answers[0])
    assert first.extra["agreement"] == pytest.approx(2 / 3, abs=1e-4) and first.id == "q0"
    assert second.extra["agreement"] == 0.0 and second.response is not None, "kept, for the gates to judge"
    assert not list(tmp_path.glob("*.samples.jsonl"))


def test_a_failed_sample_agrees_with_nothing(tmp_path):
    calls = []

    def script(number, body):
        calls.append(body)
        return problem(400) if len(calls) == 1 else "neutral"

    with Server(script) as server:
        draws(server, tmp_path, pool(1))
    (row,) = read_records(tmp_path / "out.jsonl")
    assert row.extra["samples"] == ["neutral"] * 2 and row.extra["agreement"] == pytest.approx(2 / 3, abs=1e-4)


def test_samples_need_a_temperature(tmp_path):
    with pytest.raises(ValueError, match="temperature above 0"):
        generate_samples("embedded", pool(1), tmp_path / "x", 3, sampling=Sampling())


def test_a_local_model_draws_apart(tiny, tmp_path):
    generate_samples(tiny, pool(2), tmp_path / "out.jsonl", 4, sampling=WARM)
    for row in read_records(tmp_path / "out.jsonl"):
        assert len(set(row.extra["samples"])) > 1


def test_reasons_are_kept_beside_the_answer_and_a_broken_form_is_never_trained_on(tmp_path):
    def script(number, body):
        assert "JSON" in body["messages"][0]["content"] and body["max_tokens"] == 256
        return (
            json.dumps({"reason": "it says £5", "answer_choice": "neutral"})
            if row_of(body)
            else "I say neutral, or entailment"
        )

    with Server(script) as server:
        report = generate(
            f"endpoint:t@{server.url}", pool(2), tmp_path / "out.jsonl", network=QUICK, style="chain_of_thought"
        )
    assert report["stopped"] == 2
    broken, good = read_records(tmp_path / "out.jsonl")
    assert (good.response.text, good.response.rationale) == ("neutral", "it says £5")
    assert good.response.sampling["style"] == "chain_of_thought"
    assert broken.response.text == "I say neutral, or entailment" and "no JSON object" in broken.extra["unread"]
    assert training_text(good) == "neutral" and training_text(broken) is None


def test_a_sample_that_cannot_be_read_has_no_voice_and_with_no_other_is_never_trained_on(tmp_path):
    rows = [replace(e, task="summarization", extra={"unread": "of an older answer"}) for e in pool(2)]
    asked = Counter()

    def script(number, body):
        row = row_of(body)
        asked[row] += 1
        good = row == 0 and asked[row] == 2
        return '[{"Missing_Entities": "fee", "Denser_Summary": "The fee is £5."}]' if good else "The fee is £5 {"

    with Server(script) as server:
        draws(server, tmp_path, rows, 2, style="chain_of_density")
    first, second = read_records(tmp_path / "out.jsonl")
    assert training_text(first) == first.response.text == "The fee is £5." and "unread" not in first.extra
    assert first.extra["samples"] == ["The fee is £5 {", "The fee is £5."] and first.extra["agreement"] == 0.5
    assert second.response.text == "The fee is £5 {" and second.extra["agreement"] == 0.0
    assert "no JSON object" in second.extra["unread"] and training_text(second) is None


@pytest.mark.parametrize(
    ("system", "reference", "texts", "share"),
    [
        ([], None, ["So it is. neutral", "It differs. neutral", "entailment"], 2 / 3),
        ([{"role": "system", "content": "Name the device."}], "phone", ["My phone.", "phone"], 1.0),
    ],
    ids=["of the question", "of the references"],
)
def test_labels_nobody_gave_are_known_all_the_same(system, reference, texts, share, tmp_path):
    row = Example("q0", "nli", [*system, *pool(1)[0].messages], reference)
    with Server(lambda number, body: texts[number - 1]) as server:
        generate_samples(f"endpoint:t@{server.url}", [row], tmp_path / "out.jsonl", len(texts), sampling=WARM, network=QUICK)  # fmt: skip
    (drawn,) = read_records(tmp_path / "out.jsonl")
    assert drawn.extra["agreement"] == pytest.approx(share, abs=1e-4)


def test_styles_and_samples_on_the_command_line(tmp_path, capsys):
    write_records(tmp_path / "pool.jsonl", pool(2))
    with Server(lambda number, body: '{"reason": "r", "answer_choice": "neutral"}') as server:
        common = ["generate", "--teacher", f"endpoint:t@{server.url}", "--pool", str(tmp_path / "pool.jsonl"), "--out", str(tmp_path / "out.jsonl")]  # fmt: skip
        assert (
            main([*common, "--style", "chain_of_thought", "--samples", "2", "--temperature", "0.5", "--dry-run"]) == 0
        )
        assert "4 requests" in capsys.readouterr().out and not server.requests
        assert main([*common, "--style", "chain_of_thought", "--samples", "2", "--temperature", "0.5"]) == 0
        assert len(server.requests) == 4
        assert main([*common, "--style", "chain_of_density"]) == 1
    assert "chain_of_density is for summarization" in capsys.readouterr().err
    row = next(read_records(tmp_path / "out.jsonl"))
    assert row.extra["samples"] == ["neutral", "neutral"] and row.response.rationale == "r"


def test_a_style_and_solved_examples_do_not_mix(tmp_path):
    shot = Example("s", "nli", pool(1)[0].messages, "neutral")
    with pytest.raises(ValueError, match="answer plainly"):
        generate("endpoint:t@http://127.0.0.1:9/v1", pool(1), tmp_path / "x", shots=[shot], style="chain_of_thought")


def test_a_failed_call_leaves_no_older_teacher_s_answer_behind(tmp_path):
    old = [replace(e, response=Response("entailment", "an older teacher")) for e in pool(2)]
    with Server(lambda number, body: problem(400) if row_of(body) == 1 else "neutral") as server:
        generate(f"endpoint:t@{server.url}", old, tmp_path / "out.jsonl", network=QUICK)
    assert [e.response and e.response.text for e in read_records(tmp_path / "out.jsonl")] == ["neutral", None]
