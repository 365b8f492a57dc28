"""Answers come in order, survive any kill, and are asked for again exactly when something that decides them changed."""

import json
import multiprocessing
import random
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slmops_utils.models.load import load_model
from slmops_utils.records import Example, read_records
from slmops_utils.synthesize.answer import Sampling, answer, encode_prompt, plan_batches
from slmops_utils.synthesize.generate import generate, generate_file

SHORT = Sampling(max_new_tokens=6)


def examples(count: int) -> list[Example]:
    """Questions of very unequal lengths."""
    noise = random.Random(0)
    words = ["the", "fee", "is", "£5", "entailment", "neutral", "assistant"]
    made = []
    for i in range(count):
        premise = " ".join(noise.choices(words, k=1 + i * 7 % 23))
        messages = [{"role": "user", "content": f"Premise: {premise}. Hypothesis: the fee is £{i}."}]
        made.append(Example(f"q{i}", "nli", messages, extra={"fact": i}))
    return made


def texts(out) -> list[str]:
    return [example.response.text for example in read_records(out)]


def journalled(out) -> list[str]:
    path = Path(f"{out}.journal.jsonl")
    return [json.loads(line)["id"] for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 500), max_size=60), size=st.integers(1, 9))
def test_every_prompt_is_in_one_batch_longest_first(lengths, size):
    batches = plan_batches(lengths, size)
    order = [i for batch in batches for i in batch]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[i] for i in order] == sorted(lengths, reverse=True)
    assert all(len(batch) == size for batch in batches[:-1])


def test_answers_come_in_the_order_of_the_prompts(tiny):
    prompts = [example.messages for example in examples(7)]
    answers = answer(tiny, prompts, SHORT, batch_size=3)
    assert [a.index for a in answers] == list(range(7))
    assert [a.prompt_tokens for a in answers] == [len(encode_prompt(tiny.tokenizer, prompt)) for prompt in prompts]
    assert all(1 <= a.completion_tokens <= 6 for a in answers)


def test_padding_changes_no_answer(tiny):
    prompts = [example.messages for example in examples(7)]
    alone = [answer(tiny, [prompt], SHORT)[0] for prompt in prompts]
    assert len({a.prompt_tokens for a in alone}) > 3, "the batch would hold no padding"
    assert [a.text for a in answer(tiny, prompts, SHORT, batch_size=7)] == [a.text for a in alone]


def test_an_answer_the_model_ended_is_told_from_one_cut_off(tiny):
    prompt = examples(1)[0].messages
    ids = encode_prompt(tiny.tokenizer, prompt)
    first = answer(tiny, [prompt], Sampling(max_new_tokens=1))[0]
    assert (first.finish_reason, first.completion_tokens) == ("length", 1)
    # whatever this random model says first is made its end of sequence
    import torch

    with torch.inference_mode():
        said = int(tiny.model(torch.tensor([ids])).logits[0, -1].argmax())
    tiny.model.generation_config.eos_token_id = said
    ended = answer(tiny, [prompt], SHORT)[0]
    assert (ended.text, ended.finish_reason, ended.completion_tokens) == ("", "stop", 1)


def test_sampling_repeats_with_its_seed_and_differs_with_another(tiny):
    prompts = [example.messages for example in examples(4)]
    hot = Sampling(max_new_tokens=12, temperature=1.0, seed=1)

    def ask(sampling):
        return [a.text for a in answer(tiny, prompts, sampling, batch_size=2)]

    assert ask(hot) == ask(hot)
    assert ask(hot) != ask(replace(hot, seed=2))
    assert ask(hot) != ask(replace(hot, temperature=0.0))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_resumed_run_asks_only_what_is_missing(temperature, tiny, tmp_path):
    sampling, pool = replace(SHORT, temperature=temperature), examples(7)
    first = generate(tiny, pool, tmp_path / "whole.jsonl", sampling, batch_size=2)
    assert (first["rows"], first["asked"], first["from_journal"]) == (7, 7, 0)
    journal = Path(f"{tmp_path / 'whole.jsonl'}.journal.jsonl").read_bytes().splitlines(keepends=True)
    # three whole lines and a torn one: one batch is half there, and its other half must come out the same
    Path(f"{tmp_path / 'cut.jsonl'}.journal.jsonl").write_bytes(b"".join(journal[:3]) + journal[3][:-20])
    resumed = generate(tiny, pool, tmp_path / "cut.jsonl", sampling, batch_size=2)
    assert (resumed["asked"], resumed["from_journal"]) == (4, 3)
    assert (tmp_path / "cut.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    again = generate(tiny, pool, tmp_path / "cut.jsonl", sampling, batch_size=2)
    assert (again["asked"], again["from_journal"], again["tokens_per_s"]) == (0, 7, None)


def test_what_decides_an_answer_is_asked_again_when_it_changes(tiny, tmp_path):
    import torch

    pool, out = examples(4), tmp_path / "out.jsonl"

    def asked(pool, sampling=SHORT, **options):
        return generate(tiny, pool, out, sampling, **options)["asked"]

    assert asked(pool) == 4
    changed = [*pool[:3], replace(pool[3], messages=[{"role": "user", "content": "Premise: £6. Hypothesis: £5."}])]
    assert asked(changed) == 1
    assert asked([replace(example, extra={"fact": "renamed"}) for example in pool]) == 0
    assert asked(pool, replace(SHORT, max_new_tokens=7)) == 4
    assert asked(pool, replace(SHORT, temperature=0.5)) == 4
    assert asked(pool, replace(SHORT, temperature=0.5, seed=1)) == 4
    assert asked(pool, replace(SHORT, temperature=0.5, seed=1, top_p=0.9)) == 4
    assert asked(pool, batch_size=3) == 4, "in bfloat16 it can decide a text"
    assert asked(pool, shots=[replace(pool[0], reference="neutral")]) == 4
    with torch.no_grad():
        tiny.model.get_input_embeddings().weight[:10] += 1
    assert asked(pool) == 4, "the model was trained further, its old answers are not its own"
    assert asked(pool) == 0


def test_records_keep_what_they_had_and_hold_no_timings(tiny, tmp_path):
    pool = [replace(example, reference="neutral") for example in examples(3)]
    generate(tiny, pool, tmp_path / "out.jsonl", SHORT)
    written = list(read_records(tmp_path / "out.jsonl"))
    assert [replace(example, response=None) for example in written] == pool
    for example in written:
        keys = {"text", "model", "sampling", "finish_reason", "prompt_tokens", "completion_tokens"}
        assert set(example.response.to_dict()) == keys
        assert example.response.sampling == SHORT.to_dict()
    assert "second" not in (tmp_path / "out.jsonl").read_text()
    assert "batch_seconds" in Path(f"{tmp_path / 'out.jsonl'}.journal.jsonl").read_text()


def test_an_empty_pool_is_an_error_that_says_so(tiny, tmp_path):
    with pytest.raises(ValueError, match="nothing to answer"):
        generate(tiny, [], tmp_path / "out.jsonl")


def test_a_file_is_answered_up_to_its_limit(tiny_folder, tmp_path):
    from slmops_utils.records import write_records

    write_records(tmp_path / "pool.jsonl", examples(5))
    report = generate_file(tiny_folder, tmp_path / "pool.jsonl", tmp_path / "out.jsonl", limit=2, sampling=SHORT)
    assert report["rows"] == 2
    assert [example.id for example in read_records(tmp_path / "out.jsonl")] == ["q0", "q1"]


def fresh_processes():
    """Processes that start in a moment, because the libraries are imported once, in the server they are forked from."""
    if sys.platform == "win32":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["slmops_utils.synthesize.generate", "transformers.models.llama.modeling_llama"])
    return context


def wait_until(true, process, seconds=600.0):
    started = time.monotonic()
    while not true() and process.is_alive():
        assert time.monotonic() - started < seconds, "the process hangs"
        time.sleep(0.0005)


def test_killed_again_and_again_nothing_is_lost_and_nothing_comes_twice(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("SLMOPS_DTYPE", "float32")
    pool, sampling, out = examples(24), Sampling(max_new_tokens=24), tmp_path / "killed.jsonl"
    kills, noise = 0, random.Random(0)
    for lines in (0, 1, 2, 5, 9, 12, 16, 21):
        process = fresh_processes().Process(
            target=generate, args=(tiny_folder, pool, out, sampling), kwargs={"batch_size": 2}
        )
        process.start()
        wait_until(lambda lines=lines: len(journal_bytes(out).splitlines()) > lines, process)
        time.sleep(noise.random() * 0.02)  # and then anywhere in what follows
        before = complete_lines(out)
        process.kill()
        process.join()
        kills += process.exitcode != 0
        assert complete_lines(out)[: len(before)] == before, "a finished answer was lost"
    assert kills >= 6
    report = generate(tiny_folder, pool, out, sampling, batch_size=2)
    assert report["from_journal"] == len(pool) - report["asked"] >= 21
    assert sorted(journalled(out)) == sorted(example.id for example in pool)

    loaded = load_model(tiny_folder, dtype="float32")
    generate(loaded, pool, tmp_path / "whole.jsonl", sampling, batch_size=2)
    assert texts(out) == texts(tmp_path / "whole.jsonl")
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def journal_bytes(out) -> bytes:
    path = Path(f"{out}.journal.jsonl")
    return path.read_bytes() if path.exists() else b""


def complete_lines(out) -> list[bytes]:
    return [line for line in journal_bytes(out).splitlines(keepends=True) if line.endswith(b"\n")]
