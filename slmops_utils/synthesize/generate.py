"""Write synthetic data: a teacher answers every prompt of a pool, and each answer is journalled as it comes."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..models.load import LoadedModel, fingerprint, load_model, model_fingerprint
from ..progress import progress_bar
from ..records import Example, Response, read_records, write_records
from ..tasks import few_shot, get_task
from .answer import Prompt, Sampling, answer_batches
from .journal import Journal


def answer_key(prompt: Prompt, model: str, sampling: Sampling, batch_size: int) -> str:
    """A hash of all that decides an answer: a changed prompt, model or setting never reuses an old one."""
    decides = [prompt, model, sampling.to_dict(), batch_size]
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:32]


def generate(
    teacher: str | LoadedModel,
    examples: Sequence[Example],
    out: str | Path,
    sampling: Sampling | None = None,
    shots: Sequence[Example] = (),
    batch_size: int = 32,
    journal: str | Path | None = None,
) -> dict[str, Any]:
    """Answer every example and write them, with the answers under `response`, to `out`.

    Kill it at any moment and call it again: finished answers come from the journal (`out` + ".journal.jsonl" unless
    given), the rest are asked. Returns counts and speed: {"rows", "asked", "from_journal", "stopped", "tokens_per_s"}.
    Raises ValueError when there is nothing to answer.
    """
    if not examples:
        raise ValueError("nothing to answer: the pool has no examples")
    loaded = load_model(teacher) if isinstance(teacher, str) else teacher
    sampling = sampling or Sampling(max_new_tokens=max(get_task(e.task).max_new_tokens for e in examples))
    prompts = [_prompt(example, shots) for example in examples]
    # a model handed over in memory may differ from what its name would load, or have no name that loads
    weights = fingerprint(teacher) if isinstance(teacher, str) else model_fingerprint(loaded)
    identity = f"{weights}-{loaded.dtype}"
    keys = [f"{e.id}:{answer_key(p, identity, sampling, batch_size)}" for e, p in zip(examples, prompts, strict=True)]
    tokens, seconds, asked = 0, 0.0, 0
    with Journal(journal or f"{out}.journal.jsonl") as book:
        done = frozenset(i for i, key in enumerate(keys) if key in book.entries)
        with progress_bar(len(examples), "teacher answers") as bar:
            bar.update(len(done))
            for batch in answer_batches(loaded, prompts, sampling, batch_size, done):
                new = [a for a in batch if a.index not in done]
                book.append(
                    {
                        "key": keys[a.index],
                        "id": examples[a.index].id,
                        "text": a.text,
                        "finish_reason": a.finish_reason,
                        "prompt_tokens": a.prompt_tokens,
                        "completion_tokens": a.completion_tokens,
                        "batch_seconds": round(a.seconds, 3),
                        "batch_rows": len(batch),
                    }
                    for a in new
                )
                asked += len(new)
                seconds += batch[0].seconds
                tokens += sum(a.prompt_tokens + a.completion_tokens for a in batch)
                bar.update(len(new))
        entries = [book.entries[key] for key in keys]
    answered = (
        replace(
            example,
            response=Response(
                entry["text"], loaded.name, sampling.to_dict(), entry["finish_reason"],
                entry["prompt_tokens"], entry["completion_tokens"],
            ),
        )
        for example, entry in zip(examples, entries, strict=True)
    )  # fmt: skip
    write_records(out, answered)
    return {
        "rows": len(examples),
        "asked": asked,
        "from_journal": len(done),
        "stopped": sum(entry["finish_reason"] == "stop" for entry in entries),
        "tokens_per_s": round(tokens / seconds) if seconds else None,
    }


def _prompt(example: Example, shots: Sequence[Example]) -> Prompt:
    task = get_task(example.task)
    prompt = task.prompt(example)
    return few_shot(prompt, shots, task) if shots else prompt


def generate_file(teacher: str, pool: str | Path, out: str | Path, limit: int | None = None, **options: Any) -> dict:
    """`generate` on a JSONL file; `limit` asks only the first so many."""
    return generate(teacher, list(read_records(pool))[:limit], out, **options)
