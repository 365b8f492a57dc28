"""Let a local model answer prompts in batches."""

import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any

from ..models.load import LoadedModel, eos_ids
from .choose import Choice
from .decode import can_decode, decode

Prompt = list[dict[str, str]]

_refuses: dict[str, bool] = {}  # by chat template


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. temperature 0 is greedy: always the likeliest token.

    `top_logprobs`: how many of the likeliest tokens an endpoint is to name at each place, with their log-probabilities.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    top_logprobs: int = 0

    def to_dict(self) -> dict[str, Any]:
        found = asdict(self)
        return found if self.top_logprobs else {name: found[name] for name in found if name != "top_logprobs"}


@dataclass
class Answer:
    """One answer. `index` is the prompt's place in the list; `seconds` is the time of all it was handed over with."""

    index: int
    text: str
    finish_reason: str  # "stop": the model ended it; "length": it ran into max_new_tokens
    prompt_tokens: int
    completion_tokens: int
    seconds: float = field(default=0.0, compare=False)


def encode_prompt(tokenizer: Any, prompt: Prompt) -> list[int]:
    """The token ids of a prompt in the model's chat template, ready for the answer.

    Only the template writes control tokens: "<|im_end|>" in a message is text like any other. Where the template knows no
    system role, a system message opens the first question.
    Raises ValueError for a message with such text where the template changes messages, so that they cannot be told
    apart.
    """
    if [message["role"] for message in prompt[:2]] == ["system", "user"] and refuses_system(tokenizer):
        system, question, *others = prompt
        prompt = [question | {"content": f"{system['content']}\n\n{question['content']}"}, *others]
    control = [t.content for t in tokenizer.backend_tokenizer.get_added_tokens_decoder().values() if t.special]
    texts = [message["content"] for message in prompt]
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}
    if not any(token in text for text in texts for token in control):
        return tokenizer.apply_chat_template(prompt, **options)["input_ids"]
    marks = [f"\ue000{i}\ue001" for i in range(len(texts))]  # private use: no text has them but a forged one
    marked = [message | {"content": mark} for message, mark in zip(prompt, marks, strict=True)]
    left = tokenizer.apply_chat_template(marked, **options | {"tokenize": False})
    ids: list[int] = []
    for mark, text in zip(marks, texts, strict=True):
        frame, found, left = left.partition(mark)
        if not found:
            raise ValueError(f"a message holds a control token of {tokenizer.name_or_path}, whose template changes it")
        ids += tokenizer(frame, add_special_tokens=False)["input_ids"] + encode_text(tokenizer, text)
    return ids + tokenizer(left, add_special_tokens=False)["input_ids"]


def refuses_system(tokenizer: Any) -> bool:
    """Whether its chat template raises an error for a system message, and for nothing else in a chat, as those of Gemma and
    the older Mistral do. Tried once for a template."""
    from jinja2 import TemplateError

    def raises(chat: Prompt) -> bool:
        try:
            tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        except TemplateError:
            return True
        return False

    template = tokenizer.get_chat_template()
    if template not in _refuses:
        chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
        _refuses[template] = raises(chat) and not raises(chat[1:])
    return _refuses[template]


def encode_text(tokenizer: Any, text: str) -> list[int]:
    """The token ids of a text in which no control token has its power."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def plan_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Indices in batches of similar length, longest first (so that memory peaks at the start, not at the end).

    The plan depends on nothing but its arguments: a resumed run computes the same batches, and so the same texts.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def plan_chunks(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Indices in chunks of similar length, each decoded as a whole: an eighth of the rows, 1 to 8 batches' worth."""
    eighth = -(-len(lengths) // 8)
    return plan_batches(lengths, max(batch_size, min(8 * batch_size, eighth)))


def answer_batches(
    loaded: LoadedModel,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    batch_size: int = 32,
    done: frozenset[int] = frozenset(),
    share: tuple[int, int] = (0, 1),
) -> Iterator[list[Answer]]:
    """Answer prompts, up to `batch_size` of them running at once, and yield answers as they are finished.

    The work is cut into chunks that depend on the prompts and `batch_size` alone. One whose rows are all in `done` is
    skipped, any other is done whole, so that a resumed run computes the same numbers to the last bit. `share` (rank,
    ranks) takes every so manyth chunk, for a run shared by several processes.
    """
    rank, ranks = share
    # only the lengths are kept: 50,000 prompts are ten million tokens, and a chunk's are encoded again in a moment
    lengths = array("i", (len(encode_prompt(loaded.tokenizer, prompt)) for prompt in prompts))
    for number, chunk in enumerate(plan_chunks(lengths, batch_size)):
        if number % ranks == rank and not done.issuperset(chunk):
            encoded = [encode_prompt(loaded.tokenizer, prompts[i]) for i in chunk]
            yield from _answer_chunk(loaded, chunk, encoded, sampling, batch_size, number)


def answer(
    loaded: LoadedModel, prompts: Sequence[Prompt], sampling: Sampling | None = None, batch_size: int = 32
) -> list[Answer]:
    """Answer prompts and return the answers in their order."""
    answers = [a for batch in answer_batches(loaded, prompts, sampling or Sampling(), batch_size) for a in batch]
    return sorted(answers, key=lambda a: a.index)


def _answer_chunk(
    loaded: LoadedModel, indices: list[int], encoded: list[list[int]], sampling: Sampling, batch_size: int, number: int
) -> Iterator[list[Answer]]:
    ends = end_ids(loaded)
    steps = _generate(loaded, encoded, sampling, batch_size, ends, number)
    started, waiting = time.perf_counter(), []
    if can_decode(loaded.model):
        choose = Choice(sampling, indices) if sampling.temperature > 0 else None
        packed = decode(loaded.model, encoded, sampling.max_new_tokens, batch_size, ends, choose)
        with suppress(NotImplementedError):  # an attention that only transformers knows: raised before the first token
            steps = chain([next(packed)], packed)
    for finished in steps:
        waiting += finished
        # handed over a quarter of a batch at a time: each time, a journal waits for its disk
        if 4 * len(waiting) >= min(batch_size, len(indices)):
            yield _answers(loaded, waiting, indices, encoded, ends, started)
            started, waiting = time.perf_counter(), []
    if waiting:
        yield _answers(loaded, waiting, indices, encoded, ends, started)


def _answers(
    loaded: LoadedModel, finished: list[tuple[int, list[int]]], indices: list[int], encoded: list[list[int]],
    ends: set[int], started: float,
) -> list[Answer]:  # fmt: skip
    seconds, answers = time.perf_counter() - started, []
    for place, ids in finished:
        stopped = bool(ids) and ids[-1] in ends
        text = loaded.tokenizer.decode(ids[: len(ids) - stopped], skip_special_tokens=True).strip()
        reason = "stop" if stopped else "length"
        answers.append(Answer(indices[place], text, reason, len(encoded[place]), len(ids), seconds))
    return answers


def _generate(
    loaded: LoadedModel, encoded: list[list[int]], sampling: Sampling, batch_size: int, ends: set[int], number: int
) -> Iterator[list[tuple[int, list[int]]]]:
    """As `decode`, by transformers.generate, for a model that `decode` cannot serve."""
    import torch

    pad, device = loaded.tokenizer.pad_token_id, loaded.model.device
    chosen: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    if sampling.temperature > 0:
        # a seed for each chunk: a resumed run draws what an uninterrupted one would have drawn
        torch.manual_seed(sampling.seed * 1_000_003 + number)
        chosen = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    for first in range(0, len(encoded), batch_size):
        rows = encoded[first : first + batch_size]
        width = max(map(len, rows))
        # padding goes on the left, so that every answer starts at the same column
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
        with torch.inference_mode():
            out = loaded.model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=sampling.max_new_tokens, pad_token_id=pad, **chosen
            )
        finished = []
        for place, row in enumerate(out[:, width:].tolist(), first):
            end = next((i for i, token in enumerate(row) if token in ends), len(row))
            finished.append((place, row[: end + 1]))
        yield finished


def end_ids(loaded: LoadedModel) -> set[int]:
    return set(eos_ids(loaded.model.generation_config))
