"""Self-consistency: several sampled answers to every prompt, kept beside the one that most of them stand for."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..records import Example, read_records, write_records
from .committee import label_set
from .generate import generate, unmarked
from .vote import vote

MARK = "#sample"  # ends the id under which one sample is journalled


def expand(examples: Sequence[Example], samples: int) -> list[Example]:
    """Every example as many times as it is to be asked, under ids of their own."""
    return [replace(e, id=f"{e.id}{MARK}{n}") for e in examples for n in range(1, samples + 1)]


def generate_samples(
    teacher: Any, examples: Sequence[Example], out: str | Path, samples: int, labels: Sequence[str] = (), **options: Any
) -> dict[str, Any]:
    """`generate`, `samples` times for every example, at the temperature of `options["sampling"]`.

    A record's `response` is the answer that the samples vote for; all their texts are kept under `samples`, and the share
    that agrees under `agreement`. Resumes as `generate` does; one request is one sample, so a budget counts each.
    `labels` are those of a closed set, read from the references unless given. Raises ValueError for fewer than two samples
    or a temperature of 0.
    """
    sampling = options.get("sampling")
    if samples < 2 or sampling is None or sampling.temperature <= 0:
        raise ValueError("self-consistency needs two samples or more, and a temperature above 0 to draw them")
    out = Path(out)
    each = out.with_suffix(".samples.jsonl")
    report = generate(teacher, expand(examples, samples), each, journal=options.pop("journal", f"{out}.journal.jsonl"), **options)  # fmt: skip
    if "rank" in report:
        return report  # under torchrun rank 0 writes
    write_records(out, fold(examples, read_records(each), samples, labels or label_set(examples)))
    each.unlink()  # the journal and `out` hold all of it
    return report | {"rows": len(examples), "samples": samples}


def fold(
    examples: Sequence[Example], answered: Iterator[Example], samples: int, labels: Sequence[str] = ()
) -> Iterator[Example]:
    """One record an example again, out of its answered samples in the order of `expand`."""
    for example in examples:
        drawn = [next(answered) for _ in range(samples)]
        given = [one.response for one in drawn if one.response is not None]
        unread = [one.extra.get("unread") for one in drawn if one.response is not None]
        # who was cut off or cannot be read has no voice
        whole = [r for r, mark in zip(given, unread, strict=True) if r.finish_reason == "stop" and mark is None]
        found = vote(example, [response.text for response in whole], labels)
        share = found.share * len(whole) / samples  # a sample that failed or was left out agrees with nothing
        best = whole[found.winner] if found.winner is not None else (given[0] if given else None)
        kept = {"samples": [response.text for response in given], "agreement": round(share, 4)}
        if found.winner is None and given and unread[0] is not None:
            kept["unread"] = unread[0]
        yield replace(example, response=best, extra=unmarked(example) | kept)
