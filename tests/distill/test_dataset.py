"""What is trained on: every token of the answer and its end, nothing of the prompt, nothing of a failed call."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slmops_utils.distill.dataset import IGNORED, LengthGroupedSampler, Row, collate, encode_rows, training_text
from slmops_utils.records import Example, Response
from slmops_utils.synthesize.answer import encode_prompt
from slmops_utils.tasks import get_task

QUESTION = [{"role": "user", "content": "Premise: the fee is £5. Hypothesis: the fee is £6."}]
ROWS = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=6)


def labelled(reference="contradiction", **options) -> Example:
    return Example("a", "nli", QUESTION, reference, **options)


def answered(text: str, finish_reason: str = "stop") -> Example:
    return Example("a", "nli", QUESTION, response=Response(text, "teacher", finish_reason=finish_reason))


def rows_of(shapes) -> list[Row]:
    return [Row(list(range(1, prompt + reply + 1)), prompt) for prompt, reply in shapes]


def test_the_end_of_sequence_is_trained_on_though_it_is_also_the_padding(tiny):
    tokenizer = tiny.tokenizer
    assert tokenizer.pad_token_id == tokenizer.eos_token_id, "the trap this test is for"
    rows, _ = encode_rows([labelled(), labelled("neutral" * 9)], tokenizer)
    batch = collate(rows, tokenizer.pad_token_id)
    for labels, mask in zip(batch["labels"], batch["attention_mask"], strict=True):
        assert labels[int(mask.sum()) - 1] == tokenizer.eos_token_id
        assert (labels == tokenizer.eos_token_id).sum() == 1


def test_a_row_is_the_prompt_as_it_will_be_asked_then_the_answer_and_its_end(tiny):
    ((row,), left_out) = encode_rows([labelled()], tiny.tokenizer)
    prompt = encode_prompt(tiny.tokenizer, get_task("nli").prompt(labelled()))
    assert left_out == 0
    assert row.ids[: row.prompt_length] == prompt
    assert tiny.tokenizer.decode(row.ids[row.prompt_length : -1]) == "contradiction"


@pytest.mark.parametrize(
    "example",
    [
        answered("neutral", "length"),
        answered(""),
        answered("  \n"),
        Example("a", "nli", QUESTION),
        Example("a", "conversation", QUESTION, response=Response(" ", "teacher")),
    ],
    ids=["cut off", "empty", "blank", "unlabelled", "blank reply"],
)
def test_what_has_no_usable_answer_is_left_out_and_counted(example, tiny):
    assert training_text(example) is None
    rows, left_out = encode_rows([labelled(), example], tiny.tokenizer)
    assert (len(rows), left_out) == (1, 1)


def test_the_answer_trained_on_is_the_teachers_before_the_label():
    both = labelled(response=Response("neutral", "teacher"))
    assert training_text(both) == "neutral"
    assert training_text(labelled()) == "contradiction"
    assert (
        training_text(Example("a", "conversation", QUESTION, {"reply": "£5.", "required": [], "forbidden": []}))
        == "£5."
    )
    chat = [*QUESTION, {"role": "assistant", "content": "It is £5."}]
    assert training_text(Example("a", "conversation", chat)) == "It is £5."


def test_an_unusable_answer_gives_way_to_the_label_and_an_answer_off_the_labels_is_unusable(tiny):
    cut = labelled(response=Response("neut", "teacher", finish_reason="length"))
    assert training_text(cut) == "contradiction"
    rows, left_out = encode_rows(
        [labelled(), labelled("neutral"), answered("neutral"), answered("maybe")], tiny.tokenizer
    )
    assert (len(rows), left_out) == (3, 1)
    assert encode_rows([answered("neutral"), answered("maybe")], tiny.tokenizer)[1] == 1, "the question has its labels"
    own = replace(answered("maybe"), messages=[{"role": "system", "content": "Name the mood."}, *QUESTION])
    assert encode_rows([own], tiny.tokenizer)[1] == 0, "with no label in the data of another set, any answer may be one"


def test_too_long_rows_are_left_out_whole_never_cut(tiny):
    ((row,), _) = encode_rows([labelled()], tiny.tokenizer)
    assert encode_rows([labelled()], tiny.tokenizer, max_length=len(row.ids)) == ([row], 0)
    assert encode_rows([labelled()], tiny.tokenizer, max_length=len(row.ids) - 1) == ([], 1)


@settings(deadline=None)
@given(shapes=ROWS, pad=st.integers(0, 20))
def test_a_batch_holds_each_row_at_the_left_and_trains_only_on_its_answer(shapes, pad):
    rows = rows_of(shapes)
    batch = collate(rows, pad)
    width = max(len(row.ids) for row in rows)
    assert {tuple(tensor.shape) for tensor in batch.values()} == {(len(rows), width)}
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}
    for i, row in enumerate(rows):
        padding = width - len(row.ids)
        assert batch["input_ids"][i].tolist() == row.ids + [pad] * padding
        assert batch["attention_mask"][i].tolist() == [1] * len(row.ids) + [0] * padding
        answer = row.ids[row.prompt_length :]
        assert batch["labels"][i].tolist() == [IGNORED] * row.prompt_length + answer + [IGNORED] * padding


@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 500), max_size=200), size=st.integers(1, 9), epoch=st.integers(0, 5))
def test_an_epoch_is_a_permutation_that_seed_and_epoch_decide(lengths, size, epoch):
    sampler, same = (LengthGroupedSampler(lengths, size, seed=3) for _ in range(2))
    sampler.set_epoch(epoch)
    same.set_epoch(epoch)
    order = list(sampler)
    assert order == list(same) == list(sampler)
    assert sorted(order) == list(range(len(lengths)))
    assert len(sampler) == len(lengths)


@pytest.mark.parametrize(("count", "even", "filled"), [(10, 4, 2), (12, 4, 0), (3, 8, 5), (10, 1, 0)])
def test_the_last_batch_is_filled_up_for_processes_that_share_it(count, even, filled):
    lengths = list(range(1, count + 1))
    plain, shared = LengthGroupedSampler(lengths, 4), LengthGroupedSampler(lengths, 4, even=even)
    assert list(shared) == [*plain, *[count] * filled], (
        "rows keep their order, and the number after the last row is blank"
    )
    assert len(shared) == count + filled


def test_epochs_and_seeds_differ():
    lengths = list(range(1, 200))
    orders = set()
    for seed in range(3):
        for epoch in range(3):
            sampler = LengthGroupedSampler(lengths, 4, seed)
            sampler.set_epoch(epoch)
            orders.add(tuple(sampler))
    assert len(orders) == 9


@pytest.mark.parametrize("count", [256, 250, 1021])
def test_batches_hold_similar_lengths_but_come_in_no_order_of_length(count):
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(10, 500, (count,), generator=generator).tolist()
    order = list(LengthGroupedSampler(lengths, 8))
    batches = [[lengths[i] for i in order[start : start + 8]] for start in range(0, count, 8)]
    padded = sum(max(batch) * len(batch) for batch in batches)
    assert padded < 1.1 * sum(lengths), "more than a tenth of the batches is padding"
    longest = [max(batch) for batch in batches]
    assert longest != sorted(longest) and longest != sorted(longest, reverse=True)
