"""Let a local model answer prompts in batches."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..models.load import LoadedModel

Prompt = list[dict[str, str]]


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
    """One answer. `index` is the prompt's place in the list; `seconds` is the whole batch's time."""

    index: int
    text: str
    finish_reason: str  # "stop": the model ended it; "length": it ran into max_new_tokens
    prompt_tokens: int
    completion_tokens: int
    seconds: float = field(default=0.0, compare=False)


def encode_prompt(tokenizer: Any, prompt: Prompt) -> list[int]:
    """The token ids of a prompt in the model's chat template, ready for the answer.

    Only the template writes control tokens: "<|im_end|>" in a message is text like any other.
    Raises ValueError for a message with such text where the template changes messages, so that they cannot be told
    apart.
    """
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


def encode_text(tokenizer: Any, text: str) -> list[int]:
    """The token ids of a text in which no control token has its power."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def plan_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Indices in batches of similar length, longest first (so that memory peaks at the start, not at the end).

    The plan depends on nothing but its arguments: a resumed run computes the same batches, and so the same texts.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def answer_batches(
    loaded: LoadedModel,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    batch_size: int = 32,
    done: frozenset[int] = frozenset(),
) -> Iterator[list[Answer]]:
    """Answer prompts batch by batch, sorted by length; a batch whose rows are all in `done` is skipped whole."""
    encoded = [encode_prompt(loaded.tokenizer, prompt) for prompt in prompts]
    for number, batch in enumerate(plan_batches([len(ids) for ids in encoded], batch_size)):
        if not done.issuperset(batch):
            yield _answer_batch(loaded, batch, [encoded[i] for i in batch], sampling, number)


def answer(
    loaded: LoadedModel, prompts: Sequence[Prompt], sampling: Sampling | None = None, batch_size: int = 32
) -> list[Answer]:
    """Answer prompts and return the answers in their order."""
    answers = [a for batch in answer_batches(loaded, prompts, sampling or Sampling(), batch_size) for a in batch]
    return sorted(answers, key=lambda a: a.index)


def _answer_batch(
    loaded: LoadedModel, indices: list[int], encoded: list[list[int]], sampling: Sampling, number: int
) -> list[Answer]:
    import torch

    started = time.perf_counter()
    tokenizer, width = loaded.tokenizer, max(map(len, encoded))
    pad, ends = tokenizer.pad_token_id, end_ids(loaded)
    # padding goes on the left, so that every answer starts at the same column
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in encoded], device=loaded.model.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in encoded], device=loaded.model.device)
    chosen: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    if sampling.temperature > 0:
        # a seed for each batch: a resumed run draws what an uninterrupted one would have drawn
        torch.manual_seed(sampling.seed * 1_000_003 + number)
        chosen = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    with torch.inference_mode():
        out = loaded.model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=sampling.max_new_tokens, pad_token_id=pad, **chosen
        )
    answers = []
    for index, row, prompt in zip(indices, out[:, width:].tolist(), encoded, strict=True):
        end = next((i for i, token in enumerate(row) if token in ends), None)
        kept = row if end is None else row[:end]
        text = tokenizer.decode(kept, skip_special_tokens=True).strip()
        spent = len(row) if end is None else end + 1
        answers.append(Answer(index, text, "length" if end is None else "stop", len(prompt), spent))
    seconds = time.perf_counter() - started
    for item in answers:
        item.seconds = seconds
    return answers


def end_ids(loaded: LoadedModel) -> set[int]:
    ends = loaded.model.generation_config.eos_token_id
    return set(ends if isinstance(ends, list) else [ends])
