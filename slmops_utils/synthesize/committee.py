"""Several teachers answer the same pool, and one answer is taken: a committee errs where most of it errs alike.

majority   each has one vote
weighted   each counts as much as it got right on labelled validation rows (see vote.vote_weight)
average    local teachers of one tokenizer write one answer together, from the mean of their log-probabilities

Each teacher's answers have a journal of their own beside the result, so a run goes on where it was, and a teacher added
later costs its own answers only.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..records import Example, read_records, write_records
from ..tasks import get_task
from .budget import Bill, Caps
from .endpoint import spent_before
from .generate import generate
from .journal import Journal
from .presets import PREFIX, find_endpoint
from .ranks import one_process
from .together import generate_together
from .vote import canonical, vote, vote_weight

RULES = ("majority", "weighted", "average")


def member_file(out: Path, number: int, teacher: str, part: str = "") -> Path:
    """Where one teacher's answers are kept."""
    plain = re.sub(r"[^\w.-]+", "-", teacher).strip("-.")[:60]
    return out.with_suffix(f".{part}{number}-{plain}.jsonl")


def generate_committee(
    teachers: Sequence[Any],
    examples: Sequence[Example],
    out: str | Path,
    rule: str = "majority",
    validation: Sequence[Example] = (),
    labels: Sequence[str] = (),
    **options: Any,
) -> dict[str, Any]:
    """Let every teacher (a name, an endpoint, a model in memory) answer, and write the answers they vote for to `out`.

    A record's `response` is that of the member that is heard; `committee` beside it holds every member's answer, the share
    of the votes, and the weights. 'weighted' asks `validation` too. `options` are generate's; caps count for all teachers
    together, validation included: each may spend what the others have left, in the order they are named. Returns
    {"rows", "unanimous", "undecided", "weights", "members": {teacher: generate's report}, "ended_early": which of them was
    stopped before its last row, and why}.
    Raises ValueError for fewer than two teachers, two of one name, an unknown rule, no labelled validation, or none who
    does better than chance on it; and what generate raises.
    """
    one_process("a committee")
    out = Path(out)
    names = [teacher if isinstance(teacher, str) else teacher.name for teacher in teachers]
    if len(teachers) < 2 or len(set(names)) < len(names):
        raise ValueError(f"a committee has two teachers or more, each with a name of its own; these are {names}")
    if rule not in RULES:
        raise ValueError(f"no committee {rule!r}; there are {', '.join(RULES)}")
    if rule == "average":
        if remote := [name for name in names if name.startswith(PREFIX)]:
            raise ValueError(
                f"{remote[0]} is asked over the network, and shows no log-probabilities to average: let it vote"
            )
        mine = {key: options[key] for key in ("sampling", "batch_size", "style") if key in options}
        return generate_together(teachers, examples, out, **mine)
    if rule == "weighted" and not any(e.reference is not None for e in validation):
        raise ValueError("a weighted vote needs labelled validation rows to weigh its voters by (--validation)")
    labels = labels or label_set([*examples, *validation])
    caps: Caps = options.pop("caps", None) or Caps()
    bills: dict[Path, Bill] = {}
    for number, name in enumerate(names, start=1):
        if name.startswith(PREFIX):  # what an earlier run spent on the later ones, the first may not spend again
            for path in (member_file(out, number, name, part) for part in ("", "validation-")):
                bills[path] = _spent(path, name, options.get("price"))

    def ask(teacher: Any, rows: Sequence[Example], path: Path) -> dict[str, Any]:
        others = [bill for other, bill in bills.items() if other != path]
        report = generate(teacher, rows, path, caps=caps.without(others), **options)
        if "bill" in report:
            bills[path] = Bill(**report["bill"])
        return report

    reports, weights, files, early = {}, [], [], []
    for number, (teacher, name) in enumerate(zip(teachers, names, strict=True), start=1):
        files.append(member_file(out, number, name))
        weight = 1.0
        if rule == "weighted":
            path = member_file(out, number, name, "validation-")
            if why := ask(teacher, list(validation), path).get("ended_early"):
                early.append(f"{name}, on the validation rows: {why}")
            weight = weight_of(list(read_records(path)), labels)
        weights.append(weight)
        reports[name] = ask(teacher, list(examples), files[-1])
        if why := reports[name].get("ended_early"):
            early.append(f"{name}: {why}")
        print(
            f"{name}: weight {weight:.3f}, {reports[name]['stopped']:,} of {len(examples):,} answers whole", flush=True
        )
    if not any(weights):
        none = "none of the teachers does better than chance on the validation rows, so none has a vote"
        raise ValueError("; ".join([none, *early]))
    counts = {"unanimous": 0, "undecided": 0}
    write_records(out, _decide(examples, files, names, weights, labels, counts))
    return {
        "rows": len(examples),
        **counts,
        "weights": dict(zip(names, weights, strict=True)),
        "members": reports,
        "ended_early": "; ".join(early) or None,
    }


def _spent(path: Path, teacher: str, price: tuple[float, float] | None) -> Bill:
    """What earlier runs paid an endpoint for the answers kept in a file."""
    journal = Path(f"{path}.journal.jsonl")
    if not journal.exists():
        return Bill()
    with Journal(journal) as book:
        return spent_before(book, find_endpoint(teacher, price))[0]


def _decide(
    examples: Sequence[Example],
    files: Sequence[Path],
    names: Sequence[str],
    weights: Sequence[float],
    labels: Sequence[str],
    counts: dict[str, int],
) -> Iterator[Example]:
    for example, *answered in zip(examples, *map(read_records, files), strict=True):
        given = [one.response for one in answered]
        # who failed, was cut off or cannot be read has no voice, and its weight still counts against the others
        texts = [r.text if r and r.finish_reason == "stop" and "unread" not in one.extra else ""
                 for r, one in zip(given, answered, strict=True)]  # fmt: skip
        found = vote(example, texts, labels, weights)
        winner = found.winner
        said = {canonical(example, text, labels) for text in texts}
        counts["unanimous"] += len(said) == 1 and None not in said
        counts["undecided"] += winner is None
        told = {
            "answers": {name: r.text if r else None for name, r in zip(names, given, strict=True)},
            "heard": None if winner is None else names[winner],
            "share": round(found.share, 4),
            "weights": dict(zip(names, [round(w, 4) for w in weights], strict=True)),
        }
        yield replace(
            example, response=None if winner is None else given[winner], extra=example.extra | {"committee": told}
        )


def weight_of(answered: Sequence[Example], labels: Sequence[str] = ()) -> float:
    """A voter's weight, from its answers to labelled rows. Raises ValueError when no row is labelled."""
    rows = [e for e in answered if e.reference is not None]
    if not rows:
        raise ValueError("no labelled row to weigh a voter by")
    right = 0.0
    for example in rows:
        whole = example.response is not None and example.response.finish_reason == "stop"
        metric = next(iter(get_task(example.task).metrics_for([example]).values()))
        right += metric.value(example, example.response.text) if whole and example.response else 0.0
    return vote_weight(right, len(rows), len(labels))


def label_set(examples: Sequence[Example]) -> tuple[str, ...]:
    """The labels that occur as references of a closed-label task; empty for other tasks."""
    found = {e.reference for e in examples if e.task == "nli" and isinstance(e.reference, str)}
    return tuple(sorted(found))
