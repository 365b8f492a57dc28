"""What an endpoint says of its tokens is what the same model, asked here, says; and a student learns from it."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from filelock import FileLock, Timeout

from slmops_utils.deploy.export import export
from slmops_utils.deploy.serve import serving
from slmops_utils.distill import served_targets as module
from slmops_utils.distill.dataset import encode_rows
from slmops_utils.distill.distill import distill
from slmops_utils.distill.served_targets import served_targets
from slmops_utils.distill.shards import SoftTargetError
from slmops_utils.distill.soft_targets import make_soft_targets
from slmops_utils.distill.train import TrainSettings, mean_loss
from slmops_utils.models.align import DifferentTokenizers
from slmops_utils.models.carve import save
from slmops_utils.models.load import load_model
from slmops_utils.models.vocabulary import trim_tokenizer
from slmops_utils.records import read_records
from slmops_utils.synthesize.answer import Sampling
from slmops_utils.synthesize.generate import generate

SETTINGS = TrainSettings(method="forward_kl", max_steps=6, batch_size=6, learning_rate=3e-3, top_k=8, alpha=0.0)


@pytest.fixture(scope="module")
def asked(taught_folder, taught_examples, tmp_path_factory):
    """(endpoint, its answers, their journal), the server gone again."""
    folder = tmp_path_factory.mktemp("asked")
    path = export(taught_folder, "gguf", "f16", folder / "taught.gguf")
    with serving(str(path)) as served:
        generate(served.endpoint, taught_examples, folder / "out.jsonl", Sampling(16, top_logprobs=8))
    return served.endpoint, list(read_records(folder / "out.jsonl")), folder / "out.jsonl.journal.jsonl"


def targets_of(asked, tokenizer, folder, tokenizer_of, settings=SETTINGS, examples=None):
    endpoint, answered, journal = asked
    examples = answered if examples is None else examples
    rows, _ = encode_rows(examples, tokenizer)
    return served_targets(endpoint, examples, rows, tokenizer, tokenizer_of, [journal], folder, settings)


def test_they_are_the_local_teachers(asked, taught_folder, tmp_path):
    teacher = load_model(taught_folder, "float32")
    rows, served = targets_of(asked, teacher.tokenizer, tmp_path / "served", taught_folder)
    local = make_soft_targets(teacher, rows, teacher.tokenizer, tmp_path / "local", top_k=8)
    assert len(rows) == len(asked[1]) and served.key["top_k"] == 8
    for row in rows:
        (ids, log_probs), (local_ids, local_log_probs) = served[row], local[row]
        assert ids.shape == local_ids.shape == (row.supervised, 8)  # the token that ends the answer among them
        torch.testing.assert_close(log_probs[:, 0], local_log_probs[:, 0], atol=0.02, rtol=0)
        assert (ids[:, 0] == local_ids[:, 0]).all()
        torch.testing.assert_close(log_probs.exp(), local_log_probs.exp(), atol=0.01, rtol=0)
    again = targets_of(asked, teacher.tokenizer, tmp_path / "served", taught_folder)[1]
    assert len(list((tmp_path / "served").glob("shard-*"))) == 1 and len(again.places) == len(rows)


def test_a_shard_that_was_removed_is_made_again_and_no_other_is_touched(asked, taught_folder, tmp_path):
    tokenizer, folder = load_model(taught_folder).tokenizer, tmp_path / "soft"
    targets_of(asked, tokenizer, folder, taught_folder, examples=asked[1][:4])
    targets_of(asked, tokenizer, folder, taught_folder)
    (folder / "shard-00000.safetensors").unlink()
    rows, again = targets_of(asked, tokenizer, folder, taught_folder)
    _, fresh = targets_of(asked, tokenizer, tmp_path / "fresh", taught_folder)
    assert sorted(shard.name[:11] for shard in folder.glob("shard-*")) == ["shard-00001", "shard-00002"]
    for row in rows:
        assert all(torch.equal(*pair) for pair in zip(again[row], fresh[row], strict=True))


def test_one_process_at_a_time_writes_a_folder(asked, taught_folder, tmp_path, monkeypatch):
    folder, write, written = tmp_path / "soft", module.write_shard, []

    def watched(*args):
        with ThreadPoolExecutor(1) as other, pytest.raises(Timeout):
            other.submit(lambda: FileLock(folder / ".lock").acquire(timeout=0)).result()
        written.append(write(*args))

    monkeypatch.setattr(module, "write_shard", watched)
    targets_of(asked, load_model(taught_folder).tokenizer, folder, taught_folder)
    assert len(written) == 1


def test_without_ids_a_token_is_known_by_its_bytes(asked, taught_folder, tmp_path):
    """As an API gives them that names no ids."""
    endpoint, answered, journal = asked
    stripped = tmp_path / "j.jsonl"
    with stripped.open("w") as file:
        for line in journal.read_text().splitlines():
            entry = json.loads(line)
            for place in entry.get("logprobs", []):
                for token in (place[0], *place[1]):
                    token[0] = None if token[1] else token[0]  # llama.cpp gives the closing token no bytes
            file.write(json.dumps(entry) + "\n")
    tokenizer = load_model(taught_folder).tokenizer
    _, by_ids = targets_of(asked, tokenizer, tmp_path / "a", taught_folder)
    rows, by_bytes = targets_of((endpoint, answered, stripped), tokenizer, tmp_path / "b", taught_folder)
    assert rows and all((by_ids[row][0][:, 0] == by_bytes[row][0][:, 0]).all() for row in rows)


def test_a_student_with_a_trimmed_vocabulary_learns_from_them(asked, taught_folder, taught_examples, tiny, tmp_path):
    from slmops_utils.models.carve import shrink

    endpoint, answered, journal = asked
    texts = ["Premise: the fee is £0123456789. Hypothesis", "entailment neutral contradiction system user assistant"]
    student = shrink(tiny, 2, vocabulary_from=texts)
    rows, _ = encode_rows(answered, student.tokenizer)
    before = mean_loss(student, rows)
    report = distill(student, answered, tmp_path / "out", replace(SETTINGS, max_steps=20), teacher=endpoint, soft_targets=tmp_path / "soft",
                     tokenizer_of=taught_folder, journals=[journal])  # fmt: skip
    assert report["teacher"] == endpoint and report["rows"] == len(answered)
    assert mean_loss(load_model(str(tmp_path / "out"), "float32"), rows) < 0.8 * before


def test_rows_without_them_are_left_out(asked, taught_folder, taught_examples, tmp_path):
    tokenizer = load_model(taught_folder).tokenizer
    answered = asked[1]
    changed = replace(answered[0], response=replace(answered[0].response, text="neutral, or is it?"))
    told = answered[5].response
    styled = replace(answered[5], response=replace(told, sampling={**told.sampling, "style": "chain_of_thought"}))
    mixed = [changed, *answered[1:4], taught_examples[4], styled, *taught_examples[6:]]
    rows, _ = targets_of(asked, tokenizer, tmp_path / "soft", taught_folder, examples=mixed)
    assert [row.id for row in rows] == [example.id for example in answered[1:4]]
    with pytest.raises(SoftTargetError, match=r"was .* written by `generate .* --top-logprobs`"):
        targets_of(asked, tokenizer, tmp_path / "none", taught_folder, examples=taught_examples)


def test_what_cannot_be_done_is_refused(asked, taught_folder, whole_tokenizer, tiny, tmp_path):
    for changes, said in (({"method": "hidden"}, "looks inside"), ({"temperature": 2.0}, "temperature 1")):
        with pytest.raises(ValueError, match=said):
            targets_of(asked, tiny.tokenizer, tmp_path, taught_folder, replace(SETTINGS, **changes))
    with pytest.raises(ValueError, match="--tokenizer-of"):
        targets_of(asked, tiny.tokenizer, tmp_path, None)
    other, _ = trim_tokenizer(whole_tokenizer, ["wholly other words"])
    save(replace(tiny, tokenizer=other), str(tmp_path / "other"))
    with pytest.raises(DifferentTokenizers):
        targets_of(asked, tiny.tokenizer, tmp_path, str(tmp_path / "other"))


def test_answers_with_and_without_them_are_kept_apart():
    """An old journal's keys stay as they were, and an answer without log-probabilities is never taken for one with."""
    from slmops_utils.synthesize.generate import answer_key

    prompt = [{"role": "user", "content": "Hi"}]
    keys = {answer_key(prompt, "m", Sampling(top_logprobs=n), 1) for n in (0, 5, 8)}
    assert len(keys) == 3
    assert (
        "top_logprobs" not in Sampling().to_dict() and Sampling(**Sampling(top_logprobs=5).to_dict()).top_logprobs == 5
    )
