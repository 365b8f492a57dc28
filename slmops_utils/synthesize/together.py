"""Local teachers that share a tokenizer write one answer together: at each step the mean of their log-probabilities."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..models.align import DifferentTokenizers, tokenizer_fingerprint
from ..models.load import LoadedModel, load_model, model_fingerprint
from ..progress import progress_bar
from ..records import Example, write_records
from ..tasks.styles import get_style
from .answer import Answer, Prompt, Sampling, encode_prompt, plan_batches
from .generate import answer_key, default_sampling, with_response
from .journal import Journal


def check_shared_tokenizer(teachers: Sequence[LoadedModel]) -> None:
    """Raises DifferentTokenizers unless every teacher cuts and numbers text as the first does."""
    first = tokenizer_fingerprint(teachers[0].tokenizer)
    for teacher in teachers[1:]:
        if tokenizer_fingerprint(teacher.tokenizer) != first:
            raise DifferentTokenizers(
                f"{teachers[0].name} and {teacher.name} have different tokenizers, so their log-probabilities cannot be "
                "averaged. Let them vote on whole answers instead (--committee majority)."
            )


def answer_together(
    teachers: Sequence[LoadedModel], prompts: Sequence[Prompt], sampling: Sampling | None = None, batch_size: int = 32
) -> Iterator[list[Answer]]:
    """Greedy answers of a committee, batch by batch. Each teacher reads a prompt in its own chat template.

    Raises DifferentTokenizers, and ValueError for a temperature above 0.
    """
    sampling = sampling or Sampling()
    if sampling.temperature > 0:
        raise ValueError("teachers that write together choose the likeliest token: set the temperature to 0")
    check_shared_tokenizer(teachers)
    encoded = [[encode_prompt(teacher.tokenizer, prompt) for prompt in prompts] for teacher in teachers]
    for batch in plan_batches([len(ids) for ids in encoded[0]], batch_size):
        rows = [[own[i] for i in batch] for own in encoded]
        yield _batch(teachers, batch, rows, sampling.max_new_tokens)


def _batch(
    teachers: Sequence[LoadedModel], indices: list[int], encoded: list[list[list[int]]], most: int
) -> list[Answer]:
    import torch

    started, tokenizer = time.perf_counter(), teachers[0].tokenizer
    ends = teachers[0].model.generation_config.eos_token_id
    stop = set(ends if isinstance(ends, list) else [ends])
    writers = [_Writer(teacher, rows, tokenizer.pad_token_id) for teacher, rows in zip(teachers, encoded, strict=True)]
    texts: list[list[int]] = [[] for _ in indices]
    open_rows = set(range(len(indices)))
    ended: set[int] = set()
    with torch.inference_mode():
        logits = [writer.next_logits() for writer in writers]
        for _ in range(most):
            width = min(one.shape[-1] for one in logits)
            home = logits[0].device
            together = sum(one[:, :width].float().log_softmax(-1).to(home) for one in logits)
            chosen = together.argmax(-1)
            for i, token in enumerate(chosen.tolist()):
                if i in open_rows:
                    if token in stop:
                        open_rows.discard(i)
                        ended.add(i)
                    else:
                        texts[i].append(token)
            if not open_rows:
                break
            logits = [writer.next_logits(chosen) for writer in writers]
    seconds = time.perf_counter() - started
    return [
        Answer(index, tokenizer.decode(text, skip_special_tokens=True).strip(), "stop" if i in ended else "length",
               len(encoded[0][i]), len(text) + (i in ended), seconds)
        for i, (index, text) in enumerate(zip(indices, texts, strict=True))
    ]  # fmt: skip


class _Writer:
    """One teacher's state while a batch is written: its cache and its mask, padded on the left."""

    def __init__(self, teacher: LoadedModel, rows: list[list[int]], pad: int):
        import torch

        self.model, device = teacher.model, teacher.model.device
        width = max(map(len, rows))
        self.ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=device)
        self.mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
        self.cache: Any = None

    def next_logits(self, chosen: Any = None) -> Any:
        """(rows, vocabulary), after the tokens chosen last (rows,) were written."""
        import torch

        if chosen is not None:
            self.ids = chosen.to(self.ids.device)[:, None]
            self.mask = torch.cat([self.mask, torch.ones_like(self.ids)], dim=1)
        # padding takes no position
        places = (self.mask.cumsum(-1) - 1).clamp(min=0)[:, -self.ids.shape[1] :]
        out = self.model(
            input_ids=self.ids, attention_mask=self.mask, position_ids=places, past_key_values=self.cache, use_cache=True,
            logits_to_keep=1,
        )  # fmt: skip
        self.cache = out.past_key_values
        return out.logits[:, -1]


def generate_together(
    teachers: Sequence[str | LoadedModel],
    examples: Sequence[Example],
    out: str | Path,
    sampling: Sampling | None = None,
    batch_size: int = 32,
    style: str = "plain",
) -> dict[str, Any]:
    """`generate` for a committee that writes together: journalled beside `out`, resumed by calling it again.

    Returns {"rows", "asked", "from_journal", "stopped", "tokens_per_s"}.
    """
    loaded = [load_model(one) if isinstance(one, str) else one for one in teachers]
    check_shared_tokenizer(loaded)
    sampling = sampling or default_sampling(examples, style)
    prompts = [get_style(style, e.task).prompt(e) for e in examples]
    name = " + ".join(one.name for one in loaded)
    identity = "+".join(f"{model_fingerprint(one)}-{one.dtype}" for one in loaded)
    keys = [f"{e.id}:{answer_key(p, identity, sampling, batch_size)}" for e, p in zip(examples, prompts, strict=True)]
    with Journal(f"{out}.journal.jsonl") as book:
        todo = [i for i, key in enumerate(keys) if key not in book]
        tokens, seconds = 0, 0.0
        with progress_bar(len(examples), "the committee's answers") as bar:
            bar.update(len(examples) - len(todo))
            for batch in answer_together(loaded, [prompts[i] for i in todo], sampling, batch_size):
                book.append({"key": keys[todo[a.index]], "id": examples[todo[a.index]].id, "text": a.text,
                             "finish_reason": a.finish_reason, "prompt_tokens": a.prompt_tokens,
                             "completion_tokens": a.completion_tokens} for a in batch)  # fmt: skip
                tokens += sum(a.prompt_tokens + a.completion_tokens for a in batch)
                seconds += batch[0].seconds
                bar.update(len(batch))
        entries = [book[key] for key in keys]
        write_records(out, (with_response(e, entry, name, sampling, style) for e, entry in zip(examples, entries, strict=True)))  # fmt: skip
    return {
        "rows": len(examples),
        "asked": len(todo),
        "from_journal": len(examples) - len(todo),
        "stopped": sum(entry["finish_reason"] == "stop" for entry in entries),
        "tokens_per_s": round(tokens / seconds) if seconds else None,
    }
