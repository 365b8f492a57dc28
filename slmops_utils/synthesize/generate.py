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
    Raises ValueError when there is nothing to answer, no such history, or an endpoint is asked by several ranks; EndpointError for an
    endpoint that cannot be used; BlockingIOError when another run is writing the journal.
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

    def key_of(example: Example, prompt: Prompt) -> str:
        return f"{example.id}:{answer_key(prompt, identity, sampling, batch_size)}"

    with Journal(ranks.journal(path)) as book:
        held: Mapping[str, Any] = book
        turns = Rollout(examples, partial(_prompt, shots=shots, style=style), key_of, lambda key: held.get(key))
        rounds = turns.most if history == "own" and prompts is None else 0
        questions = len(examples) + (sum(turns.earlier) if rounds else 0)
        told: dict[str, Any] = {"tokens": 0, "seconds": 0.0, "failures": Counter(), "ended_early": None}

        def ask(rows: Sequence[Example], prompts: Sequence[Prompt]) -> int:
            """Journal an answer to each of these prompts, and return how many were there before."""
            keys = Mapped(lambda i: key_of(rows[i], prompts[i]), range(len(rows)))
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

        def share() -> None:
            """See what the other ranks, and those of a killed run, have journalled."""
            nonlocal held
            if ranks.rank == 0:
                merge(book, path)
            else:
                held = answered(path)

        share()
        with progress_bar(questions, "teacher answers", show=ranks.rank == 0) as bar:
            for turn in range(rounds):
                rows = Mapped(partial(turns.at, turn=turn), turns.open(turn))
                ask(rows, Mapped(turns.prompt, rows))
                share()
                if told["ended_early"]:
                    break
            if rounds:
                whole = array("q", (i for i in range(len(examples)) if turns.last(i)))
                asked: Sequence[Example] = Mapped(turns.last, whole)
            else:
                whole, asked = array("q", range(len(examples))), examples if prompts else turns.examples
            last = prompts or Mapped(turns.prompt, asked)
            done = 0 if told["ended_early"] else ask(asked, last)
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
            place = 0
            for i, example in enumerate(examples):
                entry, said = None, list[str]()
                if place < len(whole) and whole[place] == i:
                    question = asked[place]
                    entry = book.get(key_of(question, last[place]))
                    said = question.response.history if rounds and question.response else []
                    place += 1
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
    identity, batch_size = (endpoint.name, 1) if endpoint else ("", 0)

    def key_of(example: Example, prompt: Prompt) -> str:
        return f"{example.id}:{answer_key(prompt, identity, sampling, batch_size)}"

    def told(book: Mapping[str, Any]) -> dict[str, Any]:
        turns = Rollout(examples, partial(_prompt, shots=shots, style=style), key_of, book.get)
        own, turn_numbers = history == "own", turns.most + 1
        places = array("q", (
            i * turn_numbers + turn for i, last in enumerate(turns.earlier) for turn in range(0 if own else last, last + 1)
        ))  # fmt: skip

        def question(place: int) -> Example:
            i, turn = divmod(place, turn_numbers)
            return turns.at(i, turn, stand_in=True) if own else turns.examples[i]

        asked = Mapped(question, places)
        prompts = Mapped(turns.prompt, asked)
        keys = Mapped(lambda i: key_of(asked[i], prompts[i]), range(len(places)))
        return estimate(
            prompts, sampling, endpoint.price if endpoint else None, network, book, keys, local=endpoint is None
        )

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
    """The example with its answer, and what was answered to the turns before; without any where the call failed, so that neither a failure nor what another
    teacher said before can be taken for it."""
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
    before = {key: value for key, value in example.extra.items() if key != "unread"}  # of an answer that is gone
    return replace(example, response=response, extra=before | unread)


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
