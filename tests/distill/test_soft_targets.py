"""Soft targets: what was computed once is what the teacher says live, or an error that says what is wrong."""

import copy

import pytest
import torch
from killing import kill_when

from slmops_utils.distill.dataset import Row, collate, encode_rows
from slmops_utils.distill.losses import forward_kl, on_support, softened
from slmops_utils.distill.shards import SoftTargetError, SoftTargets
from slmops_utils.distill.soft_targets import key_of, make_soft_targets, teacher_log_probs, teacher_logits
from slmops_utils.models.align import DifferentTokenizers
from slmops_utils.models.carve import keep_tokens
from slmops_utils.models.load import LoadedModel
from slmops_utils.models.vocabulary import trim_tokenizer
from slmops_utils.records import Example

LABELS = ("entailment", "neutral", "contradiction")


def examples(count):
    return [
        Example(f"t{i}", "nli", [{"role": "user", "content": f"Premise: {'fee ' * (i % 5)}£{i}."}], LABELS[i % 3])
        for i in range(count)
    ]


@pytest.fixture
def rows(tiny):
    return encode_rows(examples(7), tiny.tokenizer)[0]


def live(teacher, row):
    """The teacher's logits at a row's supervised positions, computed the plain way."""
    with torch.no_grad():
        logits = teacher.model(input_ids=torch.tensor([row.ids])).logits[0]
    return logits[row.prompt_length - 1 : -1]


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("top_k", [1, 8, 10_000])
def test_what_is_read_is_what_the_teacher_says(temperature, top_k, tiny, rows, tmp_path):
    targets = make_soft_targets(tiny, rows, tiny.tokenizer, tmp_path, temperature, top_k, 3, rows_per_shard=4)
    assert len(list(tmp_path.glob("shard-*"))) == 2
    for row in reversed(rows):
        ids, log_probs = targets[row]
        logits = live(tiny, row)
        assert len(ids) == row.supervised == len(row.ids) - row.prompt_length
        torch.testing.assert_close(log_probs, on_support(logits, ids, temperature), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(len(ids)))
        if top_k < 10_000:
            assert (log_probs[:, :-1].diff() <= 0).all(), "the likeliest first"
            assert torch.equal(ids, logits.topk(top_k).indices)


def test_k_the_whole_vocabulary_gives_the_full_loss_in_value_and_gradient(tiny, rows, tmp_path):
    targets = make_soft_targets(tiny, rows, tiny.tokenizer, tmp_path, 2.0, len(tiny.tokenizer))
    student = torch.randn(rows[3].supervised, len(tiny.tokenizer), requires_grad=True)
    ids, log_probs = targets[rows[3]]
    cached = forward_kl(log_probs, on_support(student, ids, 2.0)).sum()
    full = forward_kl(softened(live(tiny, rows[3]), 2.0), softened(student, 2.0)).sum()
    torch.testing.assert_close(cached, full, rtol=1e-4, atol=1e-5)
    found, expected = (torch.autograd.grad(loss, student)[0] for loss in (cached, full))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


@pytest.fixture
def trimmed(tiny):
    """A student whose vocabulary was trimmed out of the tiny model's."""
    tokenizer, kept = trim_tokenizer(tiny.tokenizer, ["system user assistant Premise: the fee. entailment neutral"])
    model = keep_tokens(copy.deepcopy(tiny.model), kept, tokenizer)
    return LoadedModel("trimmed", model, tokenizer, "float32", ""), kept


def test_through_a_trimmed_vocabulary_what_the_student_lacks_is_in_the_bucket(tiny, trimmed, tmp_path):
    student, kept = trimmed
    rows = encode_rows(examples(5), student.tokenizer)[0]
    targets = make_soft_targets(tiny, rows, student.tokenizer, tmp_path, 1.0, 6)
    for row in rows:
        theirs = Row([kept[i] for i in row.ids], row.prompt_length)
        everything = live(tiny, theirs).log_softmax(-1)
        ids, log_probs = targets[row]
        assert torch.equal(ids, everything[:, kept].topk(6).indices)
        torch.testing.assert_close(log_probs[:, :-1], everything[:, kept].topk(6).values, rtol=1e-4, atol=1e-4)
        bucket = 1 - log_probs[:, :-1].exp().sum(-1)
        torch.testing.assert_close(log_probs[:, -1].exp(), bucket, rtol=1e-4, atol=1e-5)
        assert (bucket > 1 - everything[:, kept].exp().sum(-1)).all()


def test_the_whole_of_a_trimmed_vocabulary_has_no_bucket_and_sums_to_one(tiny, trimmed, tmp_path):
    student, kept = trimmed
    rows = encode_rows(examples(2), student.tokenizer)[0]
    ids, log_probs = make_soft_targets(tiny, rows, student.tokenizer, tmp_path, 1.0, 10_000)[rows[0]]
    assert ids.shape == log_probs.shape == (rows[0].supervised, len(kept))
    theirs = Row([kept[i] for i in rows[0].ids], rows[0].prompt_length)
    torch.testing.assert_close(log_probs, live(tiny, theirs)[:, kept].log_softmax(-1), rtol=1e-4, atol=1e-4)


def test_a_padded_output_layer_changes_nothing_but_the_bucket():
    logits = torch.randn(3, 10)
    ids, log_probs = teacher_log_probs(logits, torch.arange(7), 1.0, 4)
    assert (ids < 7).all()
    torch.testing.assert_close(log_probs[:, :-1], logits.log_softmax(-1).gather(-1, ids))
    assert teacher_log_probs(logits, torch.arange(7), 1.0, 7)[1].shape == (3, 7)


def test_the_order_of_the_rows_does_not_matter(tiny, rows, tmp_path):
    one = make_soft_targets(tiny, rows, tiny.tokenizer, tmp_path / "a", batch_size=1)
    other = make_soft_targets(tiny, rows[::-1], tiny.tokenizer, tmp_path / "b", batch_size=7, rows_per_shard=2)
    for row in rows:
        torch.testing.assert_close(one[row][1], other[row][1], rtol=1e-4, atol=1e-4)


def test_teacher_logits_are_those_of_the_supervised_positions_in_order(tiny, rows):
    mapping = torch.arange(len(tiny.tokenizer))
    with torch.no_grad():
        together = teacher_logits(tiny, collate(rows, tiny.tokenizer.pad_token_id), mapping)
    torch.testing.assert_close(together, torch.cat([live(tiny, row) for row in rows]), rtol=1e-4, atol=1e-4)


# What must not pass


def key(tiny, **changed):
    options = {"temperature": 1.0, "top_k": 4} | changed
    return key_of(tiny, tiny.tokenizer, **options)


@pytest.fixture
def made(tiny, rows, tmp_path):
    make_soft_targets(tiny, rows, tiny.tokenizer, tmp_path / "soft", 1.0, 4, rows_per_shard=3)
    return tmp_path / "soft"


@pytest.mark.parametrize("what", ["temperature", "top_k", "teacher", "tokenizer", "template"])
def test_soft_targets_of_another_run_are_refused_and_the_difference_is_named(what, tiny, made, trimmed):
    wanted = key(tiny)
    if what == "temperature":
        wanted = key(tiny, temperature=2.0)
    elif what == "top_k":
        wanted = key(tiny, top_k=5)
    elif what == "teacher":
        with torch.no_grad():
            tiny.model.get_input_embeddings().weight[5] += 0.1
        wanted = key(tiny)
    elif what == "template":
        tiny.tokenizer.chat_template += " "
        wanted["template"] = key(tiny)["template"]  # the teacher's own is another matter
    else:
        wanted["tokenizer"] = key_of(tiny, trimmed[0].tokenizer, 1.0, 4)["tokenizer"]
    with pytest.raises(SoftTargetError, match=rf"of another run \(.*{what}.*Give another folder"):
        SoftTargets(made, wanted)


def test_a_changed_example_and_an_unknown_one_are_errors(tiny, made, rows):
    targets = SoftTargets(made, key(tiny))
    changed = Row([*rows[2].ids[:-2], 5, rows[2].ids[-1]], rows[2].prompt_length, rows[2].id)
    with pytest.raises(SoftTargetError, match="example 't2' has changed"):
        targets[changed]
    with pytest.raises(SoftTargetError, match="example 't2' has changed"):
        targets[Row(rows[2].ids, rows[2].prompt_length - 1, rows[2].id)]
    with pytest.raises(SoftTargetError, match="no soft targets of example 'new'"):
        targets[Row(rows[2].ids, rows[2].prompt_length, "new")]
    with pytest.raises(SoftTargetError, match="has changed"):
        make_soft_targets(tiny, [changed], tiny.tokenizer, made, 1.0, 4)


@pytest.mark.parametrize("damage", ["cut", "one byte", "empty", "swapped key"])
def test_a_torn_shard_is_an_error_that_names_the_file(damage, tiny, made, rows):
    shard = made / "shard-00001.safetensors"
    whole = shard.read_bytes()
    if damage == "cut":
        shard.write_bytes(whole[:-40])
    elif damage == "one byte":
        shard.write_bytes(whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:])
    elif damage == "empty":
        shard.write_bytes(b"")
    else:
        other = made.parent / "other"
        make_soft_targets(tiny, rows, tiny.tokenizer, other, 3.0, 4, rows_per_shard=3)
        shard.write_bytes((other / shard.name).read_bytes())
    with pytest.raises(SoftTargetError, match=r"shard-00001.*remove this file"):
        SoftTargets(made, key(tiny))
    shard.unlink()
    again = make_soft_targets(tiny, rows, tiny.tokenizer, made, 1.0, 4)
    assert all(row in again for row in rows)


def test_a_folder_without_its_key_and_rows_without_an_id_are_refused(tiny, rows, made):
    (made / "key.json").unlink()
    with pytest.raises(SoftTargetError, match=r"no key\.json"):
        SoftTargets(made, key(tiny))
    with pytest.raises(SoftTargetError, match=r"no key\.json"):
        make_soft_targets(tiny, rows, tiny.tokenizer, made, 1.0, 4)
    with pytest.raises(SoftTargetError, match="two examples share the id 't1'"):
        make_soft_targets(tiny, [rows[1], rows[1]], tiny.tokenizer, made.parent / "b")
    with pytest.raises(SoftTargetError, match="no record id"):
        make_soft_targets(tiny, [Row([1, 2, 3], 1)], tiny.tokenizer, made.parent / "b")


def test_a_teacher_with_another_tokenizer_is_refused_with_the_method_to_use(tiny, rows, trimmed, tmp_path):
    with pytest.raises(DifferentTokenizers, match="Use method 'text'"):
        make_soft_targets(trimmed[0], rows, tiny.tokenizer, tmp_path)
    assert not list(tmp_path.iterdir())


# Resuming


def test_only_what_is_missing_is_computed(tiny, rows, made, monkeypatch, capsys):
    from slmops_utils.distill import soft_targets

    (made / "shard-00001.safetensors").unlink()
    (made / ".shard-00007.safetensors.part").write_bytes(b"half")
    scored = []
    plain = soft_targets._score
    monkeypatch.setattr(soft_targets, "_score", lambda t, r, *rest: scored.extend(r) or plain(t, r, *rest))
    targets = make_soft_targets(tiny, rows, tiny.tokenizer, made, 1.0, 4)
    assert [row.id for row in scored] == ["t3", "t4", "t5"]
    assert all(row in targets for row in rows)
    assert not list(made.glob(".*.part"))
    # 4 ids and 5 log-probabilities of 4 bytes, and the headers
    assert f"{targets.tokens} tokens, {targets.bytes_on_disk / targets.tokens:.0f} bytes a token" in (
        capsys.readouterr().out
    )
    assert targets.bytes_on_disk / targets.tokens > 36


def _make(teacher, rows, folder):
    make_soft_targets(teacher, rows, teacher.tokenizer, folder, 1.0, 4, rows_per_shard=1)


def test_a_killed_run_goes_on_where_it_was(tiny, tmp_path):
    folder = tmp_path / "killed"
    rows = encode_rows(examples(60), tiny.tokenizer)[0]  # so many that it is still at work
    assert kill_when(folder / "shard-00001.safetensors", _make, (tiny, rows, folder))
    before = {path: path.stat().st_mtime_ns for path in folder.glob("shard-*")}
    assert 2 <= len(before) < len(rows)
    targets = make_soft_targets(tiny, rows, tiny.tokenizer, folder, 1.0, 4, rows_per_shard=1)
    assert {path: path.stat().st_mtime_ns for path in before} == before, "finished shards are left as they are"
    whole = make_soft_targets(tiny, rows, tiny.tokenizer, tmp_path / "whole", 1.0, 4)
    for row in rows:
        torch.testing.assert_close(targets[row][1], whole[row][1], rtol=1e-4, atol=1e-4)


def test_a_committee_is_the_mean_of_log_probabilities(tiny, rows, tmp_path):
    other = copy.deepcopy(tiny)
    with torch.no_grad():
        for weight in other.model.parameters():
            weight.mul_(1.3)
    both = make_soft_targets([tiny, other], rows, tiny.tokenizer, tmp_path / "both", 2.0, 10_000)
    alone = make_soft_targets([tiny], rows, tiny.tokenizer, tmp_path / "alone", 2.0, 10_000)
    for row in rows:
        mean = (live(tiny, row).log_softmax(-1) + live(other, row).log_softmax(-1)) / 2
        log_probs = both[row][1]
        torch.testing.assert_close(log_probs, (mean / 2.0).log_softmax(-1), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(log_probs, alone[row][1], atol=1e-3)
    assert key_of([tiny], tiny.tokenizer, 2.0, 8) == key_of(tiny, tiny.tokenizer, 2.0, 8), "one teacher is no new key"
    with pytest.raises(SoftTargetError):
        make_soft_targets([other, tiny], rows, tiny.tokenizer, tmp_path / "both", 2.0, 10_000)


def test_a_committee_of_different_tokenizers_and_a_method_for_one_are_refused(tiny, rows, whole_tokenizer, tmp_path):
    from slmops_utils.distill.methods import check_method
    from slmops_utils.distill.train import TrainSettings

    other = LoadedModel("other", tiny.model, trim_tokenizer(whole_tokenizer, ["elsewhere"])[0], "float32", "")
    with pytest.raises(DifferentTokenizers):
        make_soft_targets([tiny, other], rows, tiny.tokenizer, tmp_path)
    with pytest.raises(ValueError, match="takes one teacher"):
        check_method(TrainSettings(method="hidden"), [tiny, tiny])
