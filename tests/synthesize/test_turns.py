"""In a conversation the teacher's own earlier answers are the history of its next one, whoever wrote the dialogue."""

import json
from pathlib import Path

import pytest
from server import Server, completion
from test_endpoint import QUICK, SAMPLING

from slmops_utils.distill.dataset import encode_rows, training_text
from slmops_utils.models.carve import save
from slmops_utils.records import Example, read_records, write_records
from slmops_utils.synthesize.answer import Sampling
from slmops_utils.synthesize.generate import dry_run, generate
from slmops_utils.synthesize.samples import generate_samples
from slmops_utils.tasks import get_task


def dialogue(name: str, turns: int, article: str = "Fees\nA late bill costs £6.") -> Example:
    """A written conversation of so many questions, the last of them open."""
    messages = [{"role": "system", "content": article}]
    for turn in range(turns):
        messages += [{"role": "user", "content": f"{name} question {turn}"}]
        messages += [{"role": "assistant", "content": f"written {turn}"}] if turn < turns - 1 else []
    return Example(name, "conversation", messages)


POOL = [dialogue("a", 3), dialogue("b", 1), dialogue("c", 2)]


def chat(body) -> list[tuple[str, str]]:
    return [(m["role"], m["content"]) for m in body["messages"] if m["role"] != "system"]


def says(number, body) -> str:
    """An answer that names what it answers, and how much came before."""
    return f"to {body['messages'][-1]['content']}, after {len(chat(body)) - 1}"


def ask(server, folder, pool=POOL, **options):
    return generate(f"endpoint:teacher@{server.url}", pool, folder / "out.jsonl", SAMPLING, network=QUICK, **options)


def test_each_turn_follows_on_the_teachers_own_answers(tmp_path):
    with Server(says) as server:
        report = ask(server, tmp_path)
        asked = [chat(request["body"]) for request in server.requests]
    assert (report["rows"], report["asked"], len(asked)) == (3, 3, 6)
    assert not any("written" in text for turns in asked for _, text in turns)
    longest = max(asked, key=len)
    assert longest == [
        ("user", "a question 0"), ("assistant", "to a question 0, after 0"),
        ("user", "a question 1"), ("assistant", "to a question 1, after 2"),
        ("user", "a question 2"),
    ]  # fmt: skip
    a, b, c = read_records(tmp_path / "out.jsonl")
    assert a.response.text == "to a question 2, after 4"
    assert a.response.history == ["to a question 0, after 0", "to a question 1, after 2"]
    assert (b.response.history, c.response.history) == ([], ["to c question 0, after 0"])
    assert [e.messages for e in (a, b, c)] == [e.messages for e in POOL], "what was written stays in the record"


def test_a_student_learns_it_with_that_history_before_it(tmp_path, tiny):
    with Server(says) as server:
        ask(server, tmp_path)
    answered = list(read_records(tmp_path / "out.jsonl"))
    prompt = get_task("conversation").prompt(answered[0])
    assert [m["content"] for m in prompt if m["role"] == "assistant"] == answered[0].response.history
    assert training_text(answered[0]) == answered[0].response.text
    row = encode_rows(answered[:1], tiny.tokenizer)[0][0]
    text = tiny.tokenizer.decode(row.ids)
    assert "to a question 1, after 2" in text and "written" not in text


def test_the_written_history_is_one_request_a_row(tmp_path):
    with Server(says) as server:
        ask(server, tmp_path, history="written")
        assert len(server.requests) == 3
        assert ("assistant", "written 1") in max((chat(r["body"]) for r in server.requests), key=len)
        # and answers of the one kind are never taken for the other's
        ask(server, tmp_path, read_again(tmp_path))
        assert len(server.requests) == 3 + 5, "b has no history, so its answer holds for both"
        ask(server, tmp_path, read_again(tmp_path), history="written")
        assert len(server.requests) == 8
    assert all(e.response.history == [] for e in read_again(tmp_path))


def read_again(folder) -> list[Example]:
    return list(read_records(folder / "out.jsonl"))


def test_nothing_follows_on_an_answer_that_was_cut_off_or_failed(tmp_path):
    def script(number, body):
        asked = body["messages"][-1]["content"]
        if asked == "a question 1":
            return completion("half an", finish_reason="length")
        return completion("") if asked == "c question 0" else "whole"

    with Server(script) as server:
        ask(server, tmp_path)
        last = [chat(r["body"])[-1][1] for r in server.requests]
    assert "a question 2" not in last and "c question 1" not in last
    assert [e.response.text if e.response else None for e in read_again(tmp_path)] == [None, "whole", None]


def test_a_run_goes_on_where_it_was_and_pays_no_turn_twice(tmp_path):
    from slmops_utils.synthesize.budget import Caps

    with Server(says) as server:
        report = ask(server, tmp_path, caps=Caps(requests=4))
        assert len(server.requests) == 4 and "requests" in report["ended_early"]
        report = ask(server, tmp_path)
        assert len(server.requests) == 6 and report["ended_early"] is None
        assert report["bill"]["requests"] == 6
        ask(server, tmp_path)
        assert len(server.requests) == 6
        questions = [json.dumps(r["body"]["messages"]) for r in server.requests]
    assert len(set(questions)) == 6


def test_a_dry_run_counts_every_turn(tmp_path):
    def dry(**options):
        return dry_run("endpoint:teacher@http://127.0.0.1:9/v1", POOL, tmp_path / "out.jsonl", SAMPLING, **options)

    assert (dry()["requests"], dry(history="written")["requests"]) == (6, 3)
    assert dry()["prompt_tokens"] > dry(history="written")["prompt_tokens"]
    with Server(says) as server:
        ask(server, tmp_path)
        left = dry_run(f"endpoint:teacher@{server.url}", POOL, tmp_path / "out.jsonl", SAMPLING)
    assert left["requests"] == 0


def test_each_sample_has_a_history_of_its_own(tmp_path):
    with Server(lambda number, body: f"answer {number}") as server:
        generate_samples(f"endpoint:teacher@{server.url}", POOL[2:], tmp_path / "out.jsonl", 3,
                         sampling=Sampling(8, 0.7), network=QUICK)  # fmt: skip
        assert len(server.requests) == 6
        histories = [turns[1][1] for r in server.requests if len(turns := chat(r["body"])) == 3]
    assert len(set(histories)) == 3
    assert read_again(tmp_path)[0].response.history[0] in histories


def test_an_unknown_history_is_refused_before_anything_is_asked(tmp_path):
    with pytest.raises(ValueError, match="no history 'mine'; there are own, written"):
        generate("endpoint:teacher@http://127.0.0.1:9/v1", POOL, tmp_path / "out.jsonl", history="mine")
    assert list(tmp_path.iterdir()) == []


def test_a_history_that_is_no_list_of_texts_is_refused_with_its_line(tmp_path):
    line = {"id": "a", "task": "conversation", "messages": POOL[1].messages}
    (tmp_path / "bad.jsonl").write_text(json.dumps(line | {"response": {"text": "x", "model": "m", "history": "no"}}))
    with pytest.raises(ValueError, match=r"bad\.jsonl:1: wrong type: 'history'"):
        list(read_records(tmp_path / "bad.jsonl"))


def talkative(tiny):
    """A local teacher whose answers end: a third of its tokens are made ends."""
    tiny.model.generation_config.eos_token_id = list(range(0, len(tiny.tokenizer), 3))
    return tiny


def test_ranks_share_conversations_as_one_process_answers_them(tiny, tmp_path, monkeypatch):
    from test_ranks import launch

    save(talkative(tiny), str(tmp_path / "teacher"))
    pool = [dialogue(f"row {i}", 1 + i % 3, f"Article {i}") for i in range(15)]
    write_records(tmp_path / "pool.jsonl", pool)
    run = launch(
        str(tmp_path / "teacher"), tmp_path / "pool.jsonl", tmp_path / "shared.jsonl", 2, 32, "--temperature", "1"
    )
    _, said = run.communicate(timeout=600)
    assert run.returncode == 0, said
    monkeypatch.setenv("SLMOPS_DTYPE", "float32")
    generate(str(tmp_path / "teacher"), pool, tmp_path / "alone.jsonl", Sampling(32, 1.0), batch_size=2)
    answered = list(read_records(tmp_path / "alone.jsonl"))
    assert any(len(e.response.history) == 2 for e in answered if e.response), "no conversation came to its third turn"
    assert Path(tmp_path / "shared.jsonl").read_bytes() == Path(tmp_path / "alone.jsonl").read_bytes()
