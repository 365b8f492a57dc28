"""What the teacher gave every next token, computed once and kept on disk.

A teacher costs many times what its student does, and says the same in every epoch. So its log-probabilities at the
supervised positions are computed once: for each token the k likeliest next tokens, and in one number what is left for
all others (the bucket; without it a truncated divergence is no divergence: it can be negative, and rewards moving
probability onto the k tokens). See shards.py for the files.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from ..models.align import DifferentTokenizers, teacher_ids, template_fingerprint, tokenizer_fingerprint
from ..models.load import LoadedModel, model_fingerprint
from ..progress import is_main_process, progress_bar
from .dataset import Row, collate
from .losses import on_support
from .shards import FORMAT, SoftTargetError, SoftTargets, start_folder, write_shard
from .supervised import only_supervised

ROWS_PER_SHARD = 256


Teachers = LoadedModel | Sequence[LoadedModel]


def as_committee(teacher: Any) -> list[Any]:
    """One teacher, several or none, as a list."""
    if teacher is None:
        return []
    return list(teacher) if isinstance(teacher, (list, tuple)) else [teacher]


def key_of(teacher: Teachers, student_tokenizer: Any, temperature: float, top_k: int) -> dict[str, Any]:
    """All that decides the soft targets, besides the rows."""
    return {
        "format": FORMAT,
        "teacher": "+".join(f"{model_fingerprint(one)}-{one.dtype}" for one in as_committee(teacher)),
        "tokenizer": tokenizer_fingerprint(student_tokenizer),
        "template": template_fingerprint(student_tokenizer),
        "temperature": float(temperature),
        "top_k": min(top_k, len(student_tokenizer)),
    }


def teacher_log_probs(logits: Any, mapping: Any, temperature: float, top_k: int) -> tuple[Any, Any]:
    """The student's `top_k` likeliest ids (N, k) by the teacher's logits (N, its width), and the log-probabilities of
    them and of the bucket (N, k + 1).

    `mapping` (V,) holds for each id of the student the teacher's id. The bucket holds all other tokens, those that the
    student's vocabulary lacks among them. Where k is V the student has no other token to give the bucket's probability
    to: it is left out, the rest is scaled up to 1, and the shape is (N, V).
    """
    import torch

    kept = logits[:, mapping]
    if top_k >= len(mapping):
        everything = torch.arange(len(mapping), device=logits.device).expand(len(logits), -1)
        return everything, on_support(kept, everything, temperature)
    ids = kept.topk(top_k).indices
    return ids, on_support(logits, mapping[ids], temperature)


def make_soft_targets(
    teacher: Teachers,
    rows: Sequence[Row],
    student_tokenizer: Any,
    folder: str | Path,
    temperature: float = 1.0,
    top_k: int = 32,
    batch_size: int = 16,
    rows_per_shard: int = ROWS_PER_SHARD,
) -> SoftTargets:
    """Compute what `folder` lacks of the rows' soft targets, and open it.

    Kill it at any moment and call it again: whole shards are kept. Rows may be added later. Of several processes that ask
    for the same folder one computes, and the others wait for it. `rows` hold the student's
    ids; its vocabulary may be one trimmed out of the teacher's. Several teachers are a committee (see
    `committee_logits`); they have to share a tokenizer. Raises DifferentTokenizers when teacher and student cut
    text differently, and SoftTargetError when the folder holds something else or two rows share an id.
    """
    import torch

    teachers = as_committee(teacher)
    shared = shared_ids(teachers, student_tokenizer)
    mapping = torch.tensor(shared, device=teachers[0].model.device)
    _check_ids(rows)
    key = key_of(teacher, student_tokenizer, temperature, top_k)
    Path(folder).mkdir(parents=True, exist_ok=True)
    with FileLock(Path(folder) / ".lock"):  # a second process waits, and finds the work done
        start_folder(Path(folder), key)
        targets = SoftTargets(folder, key)
        missing = [row for row in rows if row not in targets]
        number = 1 + max((int(place.shard.stem.split("-")[1]) for place in targets.places.values()), default=-1)
        with progress_bar(len(rows), "teacher's soft targets") as bar:
            bar.update(len(rows) - len(missing))
            for start in range(0, len(missing), rows_per_shard):
                chosen = missing[start : start + rows_per_shard]
                scored = _score(
                    teachers, chosen, mapping, student_tokenizer.pad_token_id, temperature, top_k, batch_size
                )
                shard = targets.folder / f"shard-{number:05}.safetensors"
                write_shard(shard, chosen, scored, targets.key)
                targets.add(shard)
                number += 1
                bar.update(len(chosen))
    if is_main_process():
        print(targets.describe(), flush=True)
    return targets


def _score(
    teachers: Sequence[LoadedModel],
    rows: Sequence[Row],
    mapping: Any,
    pad_id: int,
    temperature: float,
    top_k: int,
    batch: int,
) -> list[tuple[Any, Any]]:
    """Each row's (ids, log-probabilities), in the order of `rows`."""
    import torch

    order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))  # rows of one length need no padding
    scored: list[Any] = [None] * len(rows)
    with torch.inference_mode():
        for start in range(0, len(rows), batch):
            numbers = order[start : start + batch]
            tensors = collate([rows[i] for i in numbers], pad_id)
            logits = committee_logits([teacher_logits(teacher, tensors, mapping) for teacher in teachers])
            ids, log_probs = teacher_log_probs(logits, mapping, temperature, top_k)
            counts = [rows[i].supervised for i in numbers]
            for i, a, b in zip(numbers, ids.split(counts), log_probs.split(counts), strict=True):
                scored[i] = a.to("cpu", torch.int32), b.float().cpu()
    return scored


def shared_ids(teachers: Sequence[LoadedModel], student_tokenizer: Any) -> list[int]:
    """For every id of the student the id that all the teachers give that token. Raises DifferentTokenizers."""
    maps = [teacher_ids(teacher.tokenizer, student_tokenizer) for teacher in teachers]
    for teacher, found in zip(teachers, maps, strict=True):
        if found != maps[0]:
            raise DifferentTokenizers(
                f"{teachers[0].name} and {teacher.name} number their tokens differently, so their log-probabilities cannot be "
                "averaged. Let them vote on whole answers instead (generate --committee majority)."
            )
    return maps[0]


def committee_logits(logits: Sequence[Any]) -> Any:
    """What several teachers think together: the mean of their log-probabilities, from logits of shape (N, their width).

    Up to a constant this is the mean of their logits, and its softmax their geometric mean (a product of experts, Hinton
    2002): a token that one of them rules out stays ruled out. Widths may differ by padding; the narrowest counts.
    """
    import torch

    if len(logits) == 1:
        return logits[0]
    width = min(one.shape[-1] for one in logits)
    return torch.stack([one[:, :width].float().log_softmax(-1) for one in logits]).mean(0)


def teacher_logits(teacher: LoadedModel, batch: dict[str, Any], mapping: Any) -> Any:
    """The teacher's logits (N, its width) at the supervised positions of a batch that holds the student's ids."""
    device = teacher.model.device
    ids, mask, labels = (batch[name].to(device) for name in ("input_ids", "attention_mask", "labels"))
    with only_supervised(teacher.model, labels):
        return teacher.model(input_ids=mapping[ids], attention_mask=mask, use_cache=False).logits


def _check_ids(rows: Iterable[Row]) -> None:
    seen: set[str] = set()
    for row in rows:
        if not row.id:
            raise SoftTargetError("a row has no record id, by which its soft targets would be found again")
        if row.id in seen:
            raise SoftTargetError(f"two examples share the id {row.id!r}; soft targets are found by it, so rename one")
        seen.add(row.id)
