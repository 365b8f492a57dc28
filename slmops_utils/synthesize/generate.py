"""Write synthetic data: a teacher answers every prompt of a pool, and each answer is journalled as it comes."""

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ..compact import Mapped
from ..models.load import LoadedModel, fingerprint, load_model, model_fingerprint
from ..progress import progress_bar
from ..records import Example, RecordFile, Response, write_records
from ..tasks import few_shot, get_task
from ..tasks.styles import UnreadableAnswer, get_style
from .answer import Prompt, Sampling, answer_batches
from .budget import Bill, Caps
from .endpoint import Network, ask_endpoint
from .estimate import estimate
from .journal import Journal
from .presets import PREFIX, find_endpoint
from .ranks import Ranks, answered, join, merge, remove_merged
from .turns import HISTORIES, Rollout


def answer_key(prompt: Prompt, model: str, sampling: Sampling, batch_size: int) -> str:
    """A hash of all that decides an answer: a changed prompt, model or setting never reuses an old one."""
    decides = [prompt, model, sampling.to_dict(), batch_size]
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:32]


def journal_key(example: Example, prompt: Prompt, model: str, sampling: Sampling, batch_size: int) -> str:
    """What an answer is journalled under."""
    return f"{example.id}:{answer_key(prompt, model, sampling, batch_size)}"


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
    style: str = "plain",
    prompts: Sequence[Prompt] | None = None,
    history: str = "own",
) -> dict[str, Any]:
    """Answer every example and write them, with the answers under `response`, to `out`.

    Kill it at any moment and call it again: finished answers come from the journal (`out` + ".journal.jsonl" unless
    given), the rest are asked. Under torchrun every rank takes its share, writes a journal of its own beside it, and rank 0
    merges them and writes `out`, as one process would have. A teacher named `endpoint:MODEL@WHERE` is asked over the
    network, within `caps`; a row whose call failed is written without a response. `style` is how the questions are put (see
    tasks/styles.py); the reasons asked for are kept beside the answer, and a text that cannot be taken apart is kept with
    what is wrong under `unread`. `prompts`, one an example, are asked in place of the task's own.
    A conversation is asked turn by turn: `history` "own" puts the teacher's own answers to the earlier turns before the next
    question, and keeps them beside its last answer; "written" takes those of the record. Nothing follows on an answer that
    failed or was cut off, so that row is written without a response.
    Returns counts and speed: {"rows", "asked", "from_journal", "stopped", "tokens_per_s"}, for an endpoint also {"bill",
    "failures", "ended_early"}; on other ranks than 0 only {"rank", "tokens_per_s"}.
    Raises ValueError when there is nothing to answer, no such history, or an endpoint is asked by several ranks;
    EndpointError for an endpoint that cannot be used; BlockingIOError when another run is writing the journal.
    """
    if not examples:
        raise ValueError("nothing to answer: the pool has no examples")
    if history not in HISTORIES:
        raise ValueError(f"no history {history!r}; there are {', '.join(HISTORIES)}")
    sampling = sampling or default_sampling(examples, style)
    remote = isinstance(teacher, str) and teacher.startswith(PREFIX)
    local: Any = None
    ranks, path = join(), Path(journal or f"{out}.journal.jsonl")
    if remote and ranks.count > 1:
        raise ValueError(
            "an endpoint is asked by one process, whose caps hold for all of it; raise --concurrency instead"
        )
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

    with Journal(ranks.journal(path)) as book:
        held: Mapping[str, Any] = book
        key = partial(journal_key, model=identity, sampling=sampling, batch_size=batch_size)
        own, prompt = history == "own" and prompts is None, partial(_prompt, shots=shots, style=style)
        turns = Rollout(examples, own, prompt, key, lambda key: held.get(key))
        told: dict[str, Any] = {"tokens": 0, "seconds": 0.0, "failures": Counter(), "ended_early": None}

        def ask(rows: Sequence[Example], prompts: Sequence[Prompt], keys: Sequence[str]) -> int:
            """Journal an answer to each of these prompts, and return how many were there before."""
            done = sum(key in held for key in keys)
            ranks.gather(None)  # nobody answers before all have counted
            bar.update(done)
            if remote:

                def show(new: int, bill: Bill) -> None:
                    bar.set_postfix_str(str(bill), refresh=False)
                    bar.update(new)

                tally = ask_endpoint(endpoint, prompts, keys, book, sampling, caps, network, show)
                told.update(
                    bill=vars(tally.bill), failures=told["failures"] + tally.failures, ended_early=tally.stopped
                )
            else:
                tokens, seconds = _answer_locally(
                    local, rows, prompts, keys, book, sampling, batch_size, bar, held, ranks
                )
                told.update(tokens=told["tokens"] + tokens, seconds=told["seconds"] + seconds)
            return done

        def last_key(i: int, question: Example) -> str:
            return key(question, prompts[i] if prompts else prompt(question))

        def share() -> None:
            """See what the other ranks, and those of a killed run, have journalled."""
            nonlocal held
            if ranks.rank == 0:
                merge(book, path)
            else:
                held = answered(path)

        share()
        with progress_bar(len(examples) + sum(turns.earlier), "teacher answers", show=ranks.rank == 0) as bar:
            for turn in range(turns.most):
                rows = Mapped(partial(turns.at, turn=turn), turns.open(turn))
                ask(rows, Mapped(prompt, rows), Mapped(turns.key_of, rows))
                share()
                if told["ended_early"]:
                    break
            whole = turns.whole()
            rows, keys = Mapped(turns.last, whole), Mapped(lambda i: last_key(i, turns.last(i)), whole)
            done = 0 if told["ended_early"] else ask(rows, prompts or Mapped(prompt, rows), keys)
        if remote:
            report = {name: told[name] for name in ("bill", "failures", "ended_early")}
            report["failures"] = dict(report["failures"])
        else:
            report = {"tokens_per_s": round(told["tokens"] / told["seconds"]) if told["seconds"] else None}
        if ranks.rank:
            return {"rank": ranks.rank, **report}
        merge(book, path)
        ended: Counter[str] = Counter()

        def with_answers() -> Iterator[Example]:
            for i, example in enumerate(examples):
                question = turns.last(i)
                entry = book.get(last_key(i, question)) if question else None
                said = question.response.history if question and question.response else []
                ended[entry["finish_reason"] if entry else "failed"] += 1
                yield with_response(example, entry, name, sampling, style, said)

        write_records(out, with_answers())
        remove_merged(path)
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
    style: str = "plain",
    history: str = "own",
) -> dict[str, Any]:
    """What `generate` with the same arguments would take (see `estimate`). Sends and writes nothing, needs no key.

    Every turn of a conversation is a request; one whose history is not known yet is counted with the written one.
    """
    sampling = sampling or default_sampling(examples, style)
    endpoint = find_endpoint(teacher, price) if teacher.startswith(PREFIX) else None
    path = Path(journal or f"{out}.journal.jsonl")
    # a local teacher's answers are not looked up: its identity takes loading it
    key = partial(journal_key, model=endpoint.name if endpoint else "", sampling=sampling, batch_size=1)
    prompt = partial(_prompt, shots=shots, style=style)

    def told(book: Mapping[str, Any]) -> dict[str, Any]:
        turns = Rollout(examples, history == "own", prompt, key, book.get)
        each = turns.most + 1
        places = array("q", (i * each + turn for i, last in enumerate(turns.earlier) for turn in range(last + 1)))
        asked = Mapped(lambda place: turns.at(place // each, place % each, stand_in=True), places)
        price, local = endpoint.price if endpoint else None, endpoint is None
        return estimate(Mapped(prompt, asked), sampling, price, network, book, Mapped(turns.key_of, asked), local)

    if not path.exists():
        return told({})
    with Journal(path) as book:
        return told(book)


def _answer_locally(
    loaded: LoadedModel,
    examples: Sequence[Example],
    prompts: Sequence[Prompt],
    keys: Sequence[str],
    book: Journal,
    sampling: Sampling,
    batch_size: int,
    bar: Any,
    held: Collection[str],
    ranks: Ranks,
) -> tuple[int, float]:
    """Journal a local model's answers to this rank's share of the prompts whose keys are not `held`, and wait for the
    other ranks. (tokens of all ranks, seconds of the slowest)"""
    done = frozenset(i for i, key in enumerate(keys) if key in held)
    tokens, seconds = 0, 0.0
    for batch in answer_batches(loaded, prompts, sampling, batch_size, done, (ranks.rank, ranks.count)):
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
    every = ranks.gather((tokens, seconds))
    return sum(tokens for tokens, _ in every), max(seconds for _, seconds in every)


def with_response(
    example: Example,
    entry: dict[str, Any] | None,
    model: str,
    sampling: Sampling,
    style: str,
    history: Sequence[str] = (),
) -> Example:
    """The example with its answer, and what was answered to the turns before; without any where the call failed, so that
    neither a failure nor what another teacher said before can be taken for it."""
    if entry is None:
        return replace(example, response=None)
    text, rationale, settings, unread = entry["text"], "", sampling.to_dict(), {}
    if style != "plain":
        settings["style"] = style
        try:
            text, rationale = get_style(style).read(example, text)
        except UnreadableAnswer as error:
            unread = {"unread": str(error)}
    counts = entry["prompt_tokens"], entry["completion_tokens"]
    response = Response(text, model, settings, entry["finish_reason"], *counts, rationale, list(history))
    return replace(example, response=response, extra=unmarked(example) | unread)


def unmarked(example: Example) -> dict[str, Any]:
    """What a record carries along, without what was wrong with an answer that is gone."""
    return {key: value for key, value in example.extra.items() if key != "unread"}


def default_sampling(examples: Sequence[Example], style: str = "plain") -> Sampling:
    """Greedy, as long as the tasks' answers (or the style's) may be."""
    most = max(get_style(style).max_new_tokens or get_task(e.task).max_new_tokens for e in examples)
    return Sampling(max_new_tokens=most)


def _prompt(example: Example, shots: Sequence[Example], style: str) -> Prompt:
    if style != "plain":
        if shots:
            raise ValueError("solved examples answer plainly, so they cannot be put before a question in another style")
        return get_style(style, example.task).prompt(example)
    task = get_task(example.task)
    prompt = task.prompt(example)
    return few_shot(prompt, shots, task) if shots else prompt


def generate_file(teacher: str, pool: str | Path, out: str | Path, limit: int | None = None, **options: Any) -> dict:
    """`generate` on a JSONL file, which is read as it goes; `limit` asks only the first so many."""
    return generate(teacher, RecordFile(pool)[:limit], out, **options)
