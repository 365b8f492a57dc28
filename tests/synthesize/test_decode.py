"""Packed decoding says what transformers.generate says, row by row, whatever runs beside a row; and draws what a seed says."""

import copy
import random
import time
from dataclasses import replace

import pytest
import torch
import transformers
from scipy import stats
from test_generate import examples

from slmops_utils.models.load import LoadedModel
from slmops_utils.records import read_records
from slmops_utils.synthesize import answer as module
from slmops_utils.synthesize.answer import Answer, Sampling, answer, answer_batches, encode_prompt, plan_chunks
from slmops_utils.synthesize.choose import Choice
from slmops_utils.synthesize.decode import Decoder, can_decode, common_length, decode
from slmops_utils.tasks import get_task

ENDS = range(7, 17)  # ten of some three hundred tokens end a row, so that random models end some rows early
ARCHITECTURES = {
    "Llama": {},
    "Qwen2": {},
    "Qwen3": {"head_dim": 16},
    "Phi3": {"sliding_window": None, "pad_token_id": 0},
    "Mistral": {"sliding_window": 8},
    "Gemma": {"head_dim": 16},
    "Gemma2": {"head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 16},
    "Gemma3": {"head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 16},
    "Mixtral": {"num_local_experts": 4},
}


def built(name, **options):
    config = getattr(transformers, "Gemma3TextConfig" if name == "Gemma3" else f"{name}Config")(
        vocab_size=300, hidden_size=64, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, bos_token_id=1, eos_token_id=2, tie_word_embeddings=False,
        **options,
    )  # fmt: skip
    torch.manual_seed(0)
    return getattr(transformers, f"{name}ForCausalLM")(config).eval()


def random_prompts(rows=11, common=5, longest=25, seed=0):
    noise = random.Random(seed)
    start = [noise.randrange(20, 300) for _ in range(common)]
    drawn = [start + [noise.randrange(20, 300) for _ in range(noise.randint(1, longest))] for _ in range(rows)]
    return sorted(drawn, key=len, reverse=True)


def generated(model, prompts, limit, ends):
    """What transformers says, a row at a time."""
    with torch.inference_mode():
        return [
            model.generate(torch.tensor([p]), max_new_tokens=limit, do_sample=False, eos_token_id=list(ends), pad_token_id=0)[0, len(p):].tolist()
            for p in prompts
        ]  # fmt: skip


def decoded(model, prompts, limit, slots, ends):
    found = [row for step in decode(model, prompts, limit, slots, ends) for row in step]
    assert sorted(place for place, _ in found) == list(range(len(prompts))), "each row once"
    return [tokens for _, tokens in sorted(found)]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_says_what_transformers_says(name):
    model, prompts = built(name, **ARCHITECTURES[name]), random_prompts()
    before = model.config._attn_implementation
    free = generated(model, prompts, 20, ENDS)
    ends = {*ENDS, *(row[2 * i] for i, row in enumerate(free) if len(row) > 2 * i)}
    said = generated(model, prompts, 20, ends)
    if name != "Gemma2":  # whose scores are squashed inside its attention
        assert can_decode(model)
        for slots in (1, 4, 11):
            assert decoded(model, prompts, 20, slots, ends) == said
    assert len({len(row) for row in said}) > 2, "rows end at different steps, so slots are refilled and moved"
    assert model.config._attn_implementation == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_are_those_of_the_model_by_itself(dtype):
    """Closer than a matching text: the numbers themselves, through refills and moves."""
    model, prompts = built("Llama").to(dtype), random_prompts()
    worst = 0.0

    def check(logits, row, spent):
        nonlocal worst
        for i, (prompt, count) in enumerate(zip(row.tolist(), spent.tolist(), strict=True)):
            ids = torch.tensor([prompts[prompt] + written[prompt][:count]])
            worst = max(worst, float((model(ids).logits[0, -1] - logits[i]).abs().max()))
        return logits.argmax(-1)

    written = generated(model, prompts, 20, ENDS)
    list(decode(model, prompts, 20, 3, ENDS, check_with_plain_attention(model, check)))
    assert worst < (1e-5 if dtype == torch.float32 else 1e-13)


def check_with_plain_attention(model, check):
    """`check`, with the attention the model came with while it runs."""

    def wrapped(*args):
        packed = model.config._attn_implementation
        model.set_attn_implementation("sdpa")
        try:
            return check(*args)
        finally:
            model.set_attn_implementation(packed)

    return wrapped


def test_the_model_is_as_it_was_between_two_steps():
    model, prompts = built("Llama"), random_prompts()
    steps = decode(model, prompts, 20, 4, ENDS)
    next(steps)
    assert model.config._attn_implementation == "sdpa" and not torch.is_inference_mode_enabled()
    assert generated(model, prompts[:1], 20, ENDS) == [decoded(model, prompts, 20, 4, ENDS)[0]]
    steps.close()


def test_the_common_beginning_leaves_each_row_a_token_of_its_own():
    assert common_length([[1, 2, 3], [1, 2, 4, 5]]) == 2
    assert common_length([[1, 2], [1, 2, 3]]) == 1
    assert common_length([[1, 2], [1, 2], [1, 2]]) == 1
    assert common_length([[5], [6, 1]]) == 0
    model, prompt = built("Llama"), random_prompts(1)[0]
    assert decoded(model, [prompt] * 5, 9, 2, ENDS) == generated(model, [prompt], 9, ENDS) * 5


def test_a_row_that_ended_costs_nothing_and_its_place_is_taken(monkeypatch):
    model, prompts, tokens = built("Llama"), random_prompts(), []
    forward = Decoder.forward
    monkeypatch.setattr(
        Decoder, "forward", lambda self, ids, *rest: tokens.append(len(ids)) or forward(self, ids, *rest)
    )
    rows = decoded(model, prompts, 20, 4, ENDS)
    own, common = sum(map(len, prompts)) - 5 * len(prompts), 5
    # a prompt's last token and each token written but the last are read once; nothing is padding
    assert sum(tokens) == common + own + sum(len(row) - 1 for row in rows)


def test_prompts_enter_a_few_at_a_time(monkeypatch):
    from slmops_utils.synthesize import decode as decode_module

    model, prompts, tokens = built("Llama"), random_prompts(), []
    said, forward = decoded(model, prompts, 20, 11, ENDS), Decoder.forward
    monkeypatch.setattr(decode_module, "PREFILL_TOKENS", 30)
    monkeypatch.setattr(
        Decoder, "forward", lambda self, ids, *rest: tokens.append(len(ids)) or forward(self, ids, *rest)
    )
    assert decoded(model, prompts, 20, 11, ENDS) == said
    assert max(tokens) < 30 + 25 + 11


@pytest.mark.parametrize(
    "wrong",
    ["Gemma2", "Mamba", {"repetition_penalty": 1.1}, {"no_repeat_ngram_size": 2}, {"suppress_tokens": [5]}],
    ids=str,
)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_it_cannot_serve_goes_through_transformers(wrong, temperature, tiny, monkeypatch):
    if isinstance(wrong, dict):
        model = copy.deepcopy(tiny.model)
        model.generation_config.update(**wrong)
    elif wrong == "Gemma2":
        model = transformers.Gemma2ForCausalLM(
            transformers.Gemma2Config(vocab_size=len(tiny.tokenizer), hidden_size=64, intermediate_size=96, num_hidden_layers=2,
                                      num_attention_heads=4, num_key_value_heads=2, head_dim=16)
        )  # fmt: skip
    else:
        model = transformers.MambaForCausalLM(
            transformers.MambaConfig(vocab_size=len(tiny.tokenizer), hidden_size=32, num_hidden_layers=2)
        )
    model.generation_config.eos_token_id = tiny.tokenizer.eos_token_id
    assert wrong == "Gemma2" or not can_decode(model)  # Gemma 2's attention says so itself, once it runs
    loaded = LoadedModel("other", model.eval(), tiny.tokenizer, "float32", "")
    prompts = [e.messages for e in examples(5)]
    sampling = Sampling(6, temperature)
    answers = answer(loaded, prompts, sampling, batch_size=2)
    assert [a.index for a in answers] == list(range(5)) and answers == answer(loaded, prompts, sampling, batch_size=2)
    if temperature == 0:
        encoded = [encode_prompt(tiny.tokenizer, p) for p in prompts]
        said = generated(model, encoded, 6, [tiny.tokenizer.eos_token_id])
        assert [a.completion_tokens for a in answers] == [len(row) for row in said]
        assert [a.text for a in answers] == [tiny.tokenizer.decode(r, skip_special_tokens=True).strip() for r in said]


def test_an_unknown_attention_is_an_error_not_a_wrong_answer():
    model = built("Gemma2", **ARCHITECTURES["Gemma2"])
    with pytest.raises(NotImplementedError, match="softcap"):
        list(decode(model, random_prompts(), 4, 2, ENDS))
    assert model.config._attn_implementation != "slmops_packed"


@pytest.mark.parametrize("top_p", [1.0, 0.7])
def test_a_row_draws_the_same_whoever_runs_beside_it(top_p, tiny):
    prompts = [e.messages for e in examples(9)]
    hot = Sampling(12, 1.0, top_p, seed=3)
    together = answer(tiny, prompts, hot, batch_size=9)
    assert together == answer(tiny, prompts, hot, batch_size=2)
    assert answer(tiny, prompts, replace(hot, seed=4), batch_size=9) != together
    chunks = plan_chunks([a.prompt_tokens for a in together], 2)
    for rank in range(2):
        mine = {a.index: a for batch in answer_batches(tiny, prompts, hot, 2, share=(rank, 2)) for a in batch}
        assert sorted(mine) == sorted(i for chunk in chunks[rank::2] for i in chunk)
        assert all(mine[i] == together[i] for i in mine)


def test_the_same_prompt_asked_twice_is_drawn_twice(tiny):
    drawn = answer(tiny, [examples(1)[0].messages] * 6, Sampling(12, 1.0))
    assert len({a.text for a in drawn}) > 1


def test_tokens_are_drawn_as_often_as_they_are_likely():
    torch.manual_seed(0)
    rows, logits = 4000, torch.randn(12) * 1.5
    for temperature, top_p in ((1.0, 1.0), (0.6, 1.0), (1.0, 0.8)):
        choose = Choice(Sampling(1, temperature, top_p), range(rows))
        drawn = choose(logits.expand(rows, -1), torch.arange(rows), torch.zeros(rows, dtype=torch.int64))
        counts = torch.bincount(drawn, minlength=12)
        # transformers' own filters say which tokens are left and how likely each is
        warped = transformers.TemperatureLogitsWarper(temperature)(None, logits[None])
        if top_p < 1:
            warped = transformers.TopPLogitsWarper(top_p)(None, warped)
        expected = warped.softmax(-1)[0]
        left = expected > 0
        assert counts[~left].sum() == 0 and (top_p == 1 or not left.all())
        assert (
            stats.chisquare(counts[left], rows * expected[left].double() / expected[left].double().sum()).pvalue > 1e-3
        )


def test_a_number_at_either_end_draws_a_token_that_can_be():
    logits = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]])
    for top_p in (1.0, 0.9):
        choose = Choice(Sampling(1, 1.0, top_p), [0])
        for number in (1e-38, 2**-24, 0.5, 1.0):
            choose.drawn = torch.tensor([[number]])
            assert choose(logits, torch.tensor([0]), torch.tensor([0])).item() in (1, 2)


def test_answers_are_handed_over_before_the_chunk_is_done(tiny):
    prompts = [e.messages for e in examples(40)]
    batches = list(answer_batches(tiny, prompts, Sampling(6), batch_size=2))
    assert sorted(a.index for batch in batches for a in batch) == list(range(40))
    assert all(isinstance(a, Answer) and a.seconds > 0 for batch in batches for a in batch)
    assert len(batches) > len(plan_chunks([1] * 40, 2))


def test_the_step_that_tries_the_model_is_timed_too(tiny, monkeypatch):
    def slow(*arguments):
        time.sleep(0.2)
        yield from decode(*arguments)

    monkeypatch.setattr(module, "decode", slow)
    (given,) = answer(tiny, [examples(1)[0].messages], Sampling(3))
    assert given.seconds >= 0.2


def test_the_embedded_model_answers_as_transformers_does(embedded):
    task = get_task("conversation")
    prompts = [task.prompt(e) for _, e in zip(range(4), read_records("data/conversation/pool.jsonl"), strict=False)]
    encoded = [encode_prompt(embedded.tokenizer, prompt) for prompt in prompts]
    said = generated(embedded.model, encoded, 12, module.end_ids(embedded))
    answers = answer(embedded, prompts, Sampling(12), batch_size=3)
    assert [a.text for a in answers] == [embedded.tokenizer.decode(r, skip_special_tokens=True).strip() for r in said]
