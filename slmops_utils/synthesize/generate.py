"""Write synthetic data: a teacher answers every prompt of a pool, and each answer is journalled as it comes."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..models.load import LoadedModel, fingerprint, load_model, model_fingerprint
from ..progress import progress_bar
from ..records import Example, Response, read_records, write_records
from ..tasks import few_shot, get_task
from .answer import Prompt, Sampling, answer_batches
from .budget import Bill, Caps
from .endpoint import Network, ask_endpoint
from .estimate import estimate
from .journal import Journal
from .presets import PREFIX, find_endpoint


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
    caps: Caps | None = None,
    network: Network | None = None,
    price: tuple[float, float] | None = None,
) -> dict[str, Any]:
    """Answer every example and write them, with the answers under `response`, to `out`.

    Kill it at any moment and call it again: finished answers come from the journal (`out` + ".journal.jsonl" unless
    given), the rest are asked. A teacher named `endpoint:MODEL@WHERE` is asked over the network, within `caps`; a row
    whose call failed is written without a response. Returns counts and speed: {"rows", "asked", "from_journal",
    "stopped", "tokens_per_s"}, for an endpoint also {"bill", "failures", "ended_early"}.
    Raises ValueError when there is nothing to answer, EndpointError for an endpoint that cannot be used.
    """
    if not examples:
        raise ValueError("nothing to answer: the pool has no examples")
    sampling = sampling or Sampling(max_new_tokens=max(get_task(e.task).max_new_tokens for e in examples))
    prompts = [_prompt(example, shots) for example in examples]
    remote = isinstance(teacher, str) and teacher.startswith(PREFIX)
    local: Any = None
    if remote:
        endpoint = find_endpoint(str(teacher), price)
        endpoint.key()  # a missing key is said before anything is opened or sent
        print(endpoint.notice())
        name, identity, batch_size = endpoint.name, endpoint.name, 1
    else:
        if sampling.top_logprobs:
            raise ValueError("a local teacher writes no top_logprobs: `distill --method forward_kl` asks it itself")
        local = load_model(teacher) if isinstance(teacher, str) else teacher
        # a model handed over in memory may differ from what its name would load, or have no name that loads
        weights = fingerprint(teacher) if isinstance(teacher, str) else model_fingerprint(local)
        name, identity = local.name, f"{weights}-{local.dtype}"
    keys = [f"{e.id}:{answer_key(p, identity, sampling, batch_size)}" for e, p in zip(examples, prompts, strict=True)]
    with Journal(journal or f"{out}.journal.jsonl") as book:
        done = sum(key in book for key in keys)
        with progress_bar(len(examples), "teacher answers") as bar:
            bar.update(done)
            if remote:

                def show(new: int, bill: Bill) -> None:
                    bar.set_postfix_str(str(bill), refresh=False)
                    bar.update(new)

                tally = ask_endpoint(endpoint, prompts, keys, book, sampling, caps, network, show)
                report = {"bill": vars(tally.bill), "failures": dict(tally.failures), "ended_early": tally.stopped}
            else:
                report = _answer_locally(local, examples, prompts, keys, book, sampling, batch_size, bar)
        ended: Counter[str] = Counter()

        def answered() -> Iterator[Example]:
            for example, key in zip(examples, keys, strict=True):
                entry = book.get(key)
                ended[entry["finish_reason"] if entry else "failed"] += 1
                yield _with_response(example, entry, name, sampling)

        write_records(out, answered())
    return {
        "rows": len(examples),
        "asked": len(examples) - ended["failed"] - done,
        "from_journal": done,
        "stopped": ended["stop"],
        **report,
    }


def dry_run(
    teacher: str,
    examples: Sequence[Example],
    out: str | Path,
    sampling: Sampling | None = None,
    shots: Sequence[Example] = (),
    journal: str | Path | None = None,
    network: Network | None = None,
    price: tuple[float, float] | None = None,
) -> dict[str, Any]:
    """What `generate` with the same arguments would take (see `estimate`). Sends and writes nothing, needs no key."""
    sampling = sampling or Sampling(max_new_tokens=max(get_task(e.task).max_new_tokens for e in examples))
    prompts = [_prompt(example, shots) for example in examples]
    endpoint = find_endpoint(teacher, price) if teacher.startswith(PREFIX) else None
    path = Path(journal or f"{out}.journal.jsonl")
    if endpoint is None or not path.exists():
        return estimate(prompts, sampling, endpoint.price if endpoint else None, network)
    keys = [f"{e.id}:{answer_key(p, endpoint.name, sampling, 1)}" for e, p in zip(examples, prompts, strict=True)]
    with Journal(path) as book:
        return estimate(prompts, sampling, endpoint.price, network, book, keys)


def _answer_locally(
    loaded: LoadedModel,
    examples: Sequence[Example],
    prompts: Sequence[Prompt],
    keys: Sequence[str],
    book: Journal,
    sampling: Sampling,
    batch_size: int,
    bar: Any,
) -> dict[str, Any]:
    """Journal a local model's answers to the prompts the journal does not hold."""
    done = frozenset(i for i, key in enumerate(keys) if key in book)
    tokens, seconds = 0, 0.0
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
        seconds += batch[0].seconds
        tokens += sum(a.prompt_tokens + a.completion_tokens for a in batch)
        bar.update(len(new))
    return {"tokens_per_s": round(tokens / seconds) if seconds else None}


def _with_response(example: Example, entry: dict[str, Any] | None, model: str, sampling: Sampling) -> Example:
    """The example with its answer; as it was where the call failed, so that no failure can be trained on."""
    if entry is None:
        return example
    counts = entry["prompt_tokens"], entry["completion_tokens"]
    return replace(
        example, response=Response(entry["text"], model, sampling.to_dict(), entry["finish_reason"], *counts)
    )


def _prompt(example: Example, shots: Sequence[Example]) -> Prompt:
    task = get_task(example.task)
    prompt = task.prompt(example)
    return few_shot(prompt, shots, task) if shots else prompt


def generate_file(teacher: str, pool: str | Path, out: str | Path, limit: int | None = None, **options: Any) -> dict:
    """`generate` on a JSONL file; `limit` asks only the first so many."""
    return generate(teacher, list(read_records(pool))[:limit], out, **options)
