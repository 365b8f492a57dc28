"""One table: teacher, untuned, baseline and student on the same test rows, with intervals, tests and costs."""

import datetime
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..models.hardware import describe
from ..models.load import bytes_on_disk, load_model
from ..records import Example, atomic_writer, write_records
from ..synthesize.answer import Sampling, answer
from ..synthesize.presets import PREFIX
from ..tasks import few_shot, get_task
from ..tasks.summarization import signature
from .measure import measure, weigh
from .reference import reference_scores
from .served import served_answers
from .statistics import bootstrap, corrected, paired_difference, retention, verdict

ROLES = ("teacher", "untuned", "baseline", "student")


def evaluate(
    models: dict[str, str],
    test: Sequence[Example],
    train: Sequence[Example] = (),
    out: str | Path | None = None,
    shots: Sequence[Example] = (),
    costs: bool = True,
    price_per_hour: float | None = None,
    seed: int = 0,
    price_per_token: tuple[float, float] | None = None,
    within_s: float = 2.0,
    files: dict[str, str | Path] | None = None,
    keep_answers: bool = True,
) -> dict[str, Any]:
    """Score models (role -> name, `endpoint:MODEL@WHERE` included) on the same labelled rows of one task.

    `train` feeds the reference rows (majority class, TF-IDF). `costs` also measures latency, throughput and peak
    memory, each model in a fresh process, and users served `within_s` seconds (see `measure`); `price_per_hour` (US dollars
    for the machine) or `price_per_token` (per million in, out) makes a cost of them, `files` (role -> file or folder) says
    what an endpoint serves. Roles beyond ROLES, such as an export's, are compared with teacher and student.
    With `out`, writes the results JSON and, unless told not to, beside it every answer (`out` with .answers.jsonl). Raises ValueError for
    unlabelled rows or more than one task.
    """
    tasks = {example.task for example in test}
    if len(tasks) != 1:
        raise ValueError(f"evaluate scores one task at a time, these rows have {sorted(tasks) or 'none'}")
    unlabelled = [example.id for example in test if example.reference is None]
    if unlabelled:
        raise ValueError(f"{len(unlabelled)} rows have no reference to score against, first {unlabelled[0]!r}")
    task = get_task(tasks.pop())
    metrics = task.metrics_for(test)
    headline = next(iter(metrics))
    sampling = Sampling(max_new_tokens=task.max_new_tokens)
    prompts = [few_shot(task.prompt(e), shots, task) if shots else task.prompt(e) for e in test]
    rows, row_scores, answers = [], {}, {}
    for role, name in models.items():
        started = time.perf_counter()
        file = (files or {}).get(role)
        if name.startswith(PREFIX):
            journal = Path(out).with_suffix(f".{_safe(role)}.journal.jsonl") if out else None
            texts = served_answers(name, test, prompts, sampling, journal, price_per_token)
            parameters, size = weigh(file) if file else (None, None)
        else:
            loaded = load_model(name)
            texts = [a.text for a in answer(loaded, prompts, sampling, loaded.answer_batch)]
            parameters, size = loaded.parameters or None, bytes_on_disk(name)  # an export does not say how many
            del loaded
        seconds = time.perf_counter() - started
        scored = {m: [metric.value(e, t) for e, t in zip(test, texts, strict=True)] for m, metric in metrics.items()}
        row_scores[role], answers[role] = scored[headline], texts
        row: dict[str, Any] = {
            "model": name,
            "role": role,
            "parameters": parameters,
            "bytes_on_disk": size,
            "metrics": {m: bootstrap(scored[m], metrics[m].aggregate, seed).to_dict() for m in scored},
            "scoring_seconds": round(seconds, 1),
        }
        if costs:
            row |= measure(
                name, prompts, sampling.max_new_tokens, within_s=within_s,
                price_per_hour=price_per_hour, price_per_token=price_per_token, file=file,
            )  # fmt: skip
        rows.append(row)
    references = reference_scores(train, test) if train else {}
    results = {
        "task": task.name,
        "n_test": len(test),
        "seed": seed,
        "date": datetime.date.today().isoformat(),
        "hardware": describe(),
        "rows": rows,
        "reference_rows": {
            name: {m: bootstrap(values, metrics[m].aggregate, seed).to_dict() for m, values in scored.items()}
            for name, scored in references.items()
        },
        "comparisons": _comparisons(row_scores, headline, seed),
        "retention": _retention(row_scores, "student", seed),
        "retentions": {
            role: _retention(row_scores, role, seed) for role in row_scores if role not in ("teacher", "untuned")
        },
        "shots": len(shots),
    }
    if "bleu" in metrics:
        results["bleu_signature"] = signature()  # BLEU of another tokenizer or version is another number
    if out:
        with atomic_writer(out) as file:
            json.dump(results, file, indent=1)
            file.write("\n")
        if keep_answers:
            write_records(Path(out).with_suffix(".answers.jsonl"), _with_answers(test, answers, row_scores))
    return results


def _comparisons(scores: dict[str, list[float]], metric: str, seed: int) -> list[dict[str, Any]]:
    pairs = [("student", "baseline"), ("student", "untuned"), ("student", "teacher"), ("baseline", "untuned")]
    pairs += [(role, other) for role in scores if role not in ROLES for other in ("student", "teacher")]
    found = [
        {"a": a, "b": b, "metric": metric, **paired_difference(scores[a], scores[b], seed)}
        for a, b in pairs
        if a in scores and b in scores
    ]
    return corrected(found)


def _safe(role: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in role)


def _retention(scores: dict[str, list[float]], role: str, seed: int) -> dict[str, Any] | None:
    if role not in scores or "teacher" not in scores:
        return None
    kept = retention(scores[role], scores["teacher"], seed)
    return kept.to_dict() if kept else None


def _with_answers(test: Sequence[Example], answers: dict[str, list[str]], scores: dict[str, list[float]]):
    for i, example in enumerate(test):
        given = {role: {"text": texts[i], "score": scores[role][i]} for role, texts in answers.items()}
        yield Example(
            example.id, example.task, example.messages, example.reference, extra={**example.extra, "answers": given}
        )


def table(results: dict[str, Any]) -> str:
    """The results as plain text: one line a model, absolute scores first, then what the tests say."""
    metric = next(iter(results["rows"][0]["metrics"]))
    lines = [f"{results['task']}, {results['n_test']} test rows, {metric} with 95 % interval"]
    for row in results["rows"]:
        score = row["metrics"][metric]
        low, high = score["ci95"]
        line = f"  {row['role']:<10} {100 * score['value']:5.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
        if row["parameters"]:
            line += f"  {row['parameters'] / 1e6:6.1f} M"
        if "latency_ms" in row:
            line += f"  p50 {row['latency_ms']['p50']:.0f} ms  {row['throughput_per_s']:.1f}/s"
        if row.get("peak_memory_bytes"):
            line += f"  {row['peak_memory_bytes'] / 2**20:.0f} MiB"
        lines.append(line)
    for name, metrics in results["reference_rows"].items():
        lines.append(f"  ({name}: {100 * metrics[metric]['value']:.1f} %)")
    lines += [f"  {verdict(comparison)}" for comparison in results["comparisons"]]
    if results["retention"]:
        kept = results["retention"]
        lines.append(
            f"  retention {100 * kept['value']:.0f} % [{100 * kept['ci95'][0]:.0f}, {100 * kept['ci95'][1]:.0f}]"
        )
    return "\n".join(lines)
