"""Soft targets of a teacher behind an endpoint: the top_logprobs that came with its own answers.

An OpenAI-compatible API says how likely it found the tokens it wrote, and the likeliest others at each place; it will not
grade a text of somebody else. So rows are those the endpoint answered, at temperature 1, with k at most what the server
names (20 at OpenAI; llama.cpp has no limit).
"""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from filelock import FileLock

from ..models.align import teacher_ids, template_fingerprint, tokenizer_fingerprint
from ..records import Example
from ..synthesize.answer import Sampling
from ..synthesize.generate import answer_key
from ..synthesize.journal import Journal
from ..synthesize.presets import find_endpoint
from ..tasks import get_task
from .dataset import Row
from .shards import FORMAT, SoftTargetError, SoftTargets, start_folder, write_shard
from .train import TrainSettings

DIVERGENCES = ("forward_kl", "reverse_kl", "jsd", "skewed_kl")


def served_targets(
    teacher: str,
    examples: Sequence[Example],
    rows: Sequence[Row],
    student_tokenizer: Any,
    tokenizer_of: str | None,
    journals: Sequence[str | Path],
    folder: str | Path,
    settings: TrainSettings,
) -> tuple[list[Row], SoftTargets]:
    """The rows that the endpoint `teacher` answered with top_logprobs, and their soft targets, kept in `folder`.

    `rows` are `examples` encoded for the student; a row is left out when its answer has no top_logprobs in the `journals`,
    or when the student would cut that answer into other tokens than the teacher wrote. Tokens the student's vocabulary
    lacks go to the bucket; k is `settings.top_k`, or less where some place names fewer tokens the student has.
    Raises ValueError for a method or temperature that such numbers cannot serve, or when the tokenizer or the journals are
    not named, DifferentTokenizers for tokenizers that differ, and SoftTargetError when no row is left.
    """
    if settings.method not in DIVERGENCES:
        raise ValueError(f"method {settings.method!r} looks inside its teacher, and {teacher} is an endpoint: "
                         f"use one of {', '.join(DIVERGENCES)}, or 'text'")  # fmt: skip
    if settings.temperature != 1:
        raise ValueError(
            "top_logprobs are those of temperature 1, and the rest of the vocabulary is not known: set it to 1"
        )
    if not tokenizer_of or not journals:
        raise ValueError("a teacher that is an endpoint needs --tokenizer-of (a model name or folder with its tokenizer) "
                         "and --journal (of `generate --top-logprobs`)")  # fmt: skip
    tokenizer = _tokenizer(tokenizer_of)
    student_of: dict[int | None, int] = {
        theirs: ours for ours, theirs in enumerate(teacher_ids(tokenizer, student_tokenizer))
    }
    by_bytes = _by_bytes(tokenizer)
    by_id = {row.id: row for row in rows}
    endpoint, found = find_endpoint(teacher), []
    with ExitStack() as stack:
        books = [stack.enter_context(Journal(path)) for path in journals]
        for example in examples:
            places = _places(example, endpoint.name, books)
            row = by_id.get(example.id)
            if row is None or places is None:
                continue
            written = [student_of.get(_id(token, by_bytes)) for token, _ in places]
            if written == row.ids[row.prompt_length :]:
                listed = [[(student_of.get(_id(t, by_bytes)), t[2]) for t in others] for _, others in places]
                known = [{i: p for i, p in place if i is not None} for place in listed]
                if all(known):
                    found.append((row, known))
    if not found:
        raise SoftTargetError(
            f"no row has top_logprobs of {endpoint.name} that fit the student's tokens: was {', '.join(map(str, journals))} "
            f"written by `generate --teacher {teacher} --top-logprobs`, and is {tokenizer_of} the model it serves?"
        )
    top_k = min([settings.top_k, *(len(place) for _, places in found for place in places)])
    key = {
        "format": FORMAT,
        "teacher": f"top_logprobs of {endpoint.name}",
        "tokenizer": tokenizer_fingerprint(student_tokenizer),
        "template": template_fingerprint(student_tokenizer),
        "temperature": 1.0,
        "top_k": top_k,
    }
    Path(folder).mkdir(parents=True, exist_ok=True)
    with FileLock(Path(folder) / ".lock"):  # a second process waits, and finds the work done
        start_folder(Path(folder), key)
        targets = SoftTargets(folder, key)
        new = [(row, places) for row, places in found if row not in targets]
        if new:
            # not how many there are: where a torn shard was removed, a later one has that number
            number = 1 + max((int(place.shard.stem.split("-")[1]) for place in targets.places.values()), default=-1)
            shard = targets.folder / f"shard-{number:05}.safetensors"
            write_shard(shard, [row for row, _ in new], [_tensors(places, top_k) for _, places in new], key)
            targets.add(shard)
    print(f"{targets.describe()}; {len(rows) - len(found):,} of {len(rows):,} rows left out, k = {top_k}", flush=True)
    return [row for row, _ in found], targets


def _places(example: Example, endpoint: str, books: Sequence[Journal]) -> list[Any] | None:
    """[[token, likeliest tokens], ...] of the endpoint's answer to this example, None where no journal has them."""
    response = example.response
    if response is None or response.model != endpoint or "style" in response.sampling:
        return None  # of a styled answer the text is a part only
    key = (
        f"{example.id}:{answer_key(get_task(example.task).prompt(example), endpoint, Sampling(**response.sampling), 1)}"
    )
    return next((book[key].get("logprobs") for book in books if key in book), None)


def _tensors(places: list[dict[int, float]], top_k: int) -> tuple[Any, Any]:
    """ids (n, k) and log-probabilities (n, k + 1), the last one what is left for all other tokens."""
    import torch

    best = [sorted(place.items(), key=lambda item: -item[1])[:top_k] for place in places]
    ids = torch.tensor([[i for i, _ in place] for place in best], dtype=torch.int32)
    log_probs = torch.tensor([[p for _, p in place] for place in best])
    rest = (
        (1 - log_probs.double().exp().sum(1, keepdim=True)).clamp_min(1e-9).log()
    )  # rounding may leave less than nothing
    return ids, torch.cat([log_probs, rest.float()], 1)


def _id(token: list[Any], by_bytes: dict[str, int]) -> int | None:
    """The teacher's id of a token: as the server says, else by its bytes."""
    return token[0] if token[0] is not None else by_bytes.get(token[1])


def _by_bytes(tokenizer: Any) -> dict[str, int]:
    """Bytes in hex -> id, for a byte-level vocabulary, whose every character stands for one byte (GPT-2's table)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    byte_of = {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(others)}
    added = tokenizer.get_added_vocab()
    found = {token.encode().hex(): i for token, i in added.items()}
    for token, i in tokenizer.get_vocab().items():
        if token not in added and all(character in byte_of for character in token):
            found[bytes(byte_of[character] for character in token).hex()] = i
    return found


def _tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer

    from ..models.load import resolve

    return AutoTokenizer.from_pretrained(resolve(name)[0], trust_remote_code=False)
