"""What the runs of the size study say together: score and retention against size, and the chosen student's table."""

from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np

from .ablation import spread
from .runs import machine, score_over_seeds
from .sizes import KINDS, WHOLE
from .statistics import bootstrap, corrected, paired_difference, percent, retention, verdict

CURVE_SEED = 0
BESIDE = "even"  # the way that the others are compared with


def teacher_of(runs: Sequence[dict[str, Any]], task: str) -> dict[str, Any] | None:
    """The teacher's own run, None where it is not recorded."""
    return next((run for run in runs if run["task"] == task and run["layers"] == WHOLE), None)


def curve(runs: Sequence[dict[str, Any]], task: str, split: str = "test") -> dict[str, dict[int, dict[str, Any]]]:
    """way of choosing layers -> layers -> {"parameters", "score", "retention"}, both with intervals, of seed 0."""
    teacher, found = teacher_of(runs, task), dict[str, dict[int, dict[str, Any]]]()
    for run in _students(runs, task):
        kept = retention(run["scores"][split], teacher["scores"][split]) if teacher else None
        found.setdefault(_way(run), {})[run["layers"]] = {
            "parameters": run["parameters"],
            "score": bootstrap(run["scores"][split], np.mean).to_dict(),
            "retention": kept.to_dict() if kept else None,
        }
    return found


def ways_compared(runs: Sequence[dict[str, Any]], task: str, split: str = "test") -> list[dict[str, Any]]:
    """Every way of choosing layers beside BESIDE at the same size, on the same rows, of seed 0: comparisons as `verdict`
    takes them, their p-values corrected for all of the task's (Holm)."""
    scores = {(_way(run), run["layers"]): run["scores"][split] for run in _students(runs, task)}
    found = [
        {"a": f"{way} with {layers} layers", "b": BESIDE, **paired_difference(own, scores[BESIDE, layers])}
        for (way, layers), own in scores.items()
        if way != BESIDE and (BESIDE, layers) in scores
    ]
    return corrected(found)


def recorded(runs: Sequence[dict[str, Any]], tasks: Sequence[str]) -> dict[str, tuple[dict[str, Any], Any]]:
    """task -> (the teacher's run, its `curve`), of the tasks that have both."""
    both = ((task, teacher_of(runs, task), curve(runs, task)) for task in tasks)
    return {task: (teacher, found) for task, teacher, found in both if teacher and found}


def _students(runs: Sequence[dict[str, Any]], task: str) -> list[dict[str, Any]]:
    """The runs that a task's curve is drawn through."""
    ours = (run for run in runs if run["task"] == task and run["kind"] == "student" and run["layers"] != WHOLE)
    return sorted((r for r in ours if r["seed"] == CURVE_SEED), key=lambda run: (run["healed"], run["layers"]))


def _way(run: dict[str, Any]) -> str:
    return f"{run['rule']}, healed" if run["healed"] else run["rule"]


def chosen_table(runs: Sequence[dict[str, Any]], task: str, split: str) -> list[tuple[str, Any, list[float]]]:
    """(role, the score over its seeds, each seed's score) of the students that have a baseline beside them."""
    baselines = [run for run in runs if run["task"] == task and run["kind"] == "baseline"]
    if not baselines:
        return []
    layers, rule = baselines[0]["layers"], baselines[0]["rule"]
    rows = []
    for kind in KINDS:
        ours = [r for r in runs if (r["task"], r["layers"], r["rule"], r["kind"]) == (task, layers, rule, kind)]
        healed = any(run["healed"] and run["seed"] != CURVE_SEED for run in ours)
        scores = [run["scores"][split] for run in ours if run["healed"] == healed]
        if scores:
            rows.append((kind, score_over_seeds(scores), [fmean(s) for s in scores]))
    return rows


def markdown(runs: Sequence[dict[str, Any]], tasks: Sequence[str]) -> str:
    """For each recorded task a table of test scores and retention by size, then the chosen student's; "" without runs."""
    parts = []
    for task, (teacher, found) in recorded(runs, tasks).items():
        sizes = sorted({layers for by_size in found.values() for layers in by_size})
        whole = bootstrap(teacher["scores"]["test"], np.mean)
        lines = [
            f"**{task}**, {teacher['metric']} on {len(teacher['scores']['test'])} test rows and, after the slash, the share of the "
            f"teacher's {whole} that is kept (recorded {teacher['date']}, {machine(teacher)})",
            "",
            f"| layers | parameters | {' | '.join(found)} |",
            "|---|---|" + "---|" * len(found),
        ]
        for layers in sizes:
            cells = [_cell(by_size.get(layers)) for by_size in found.values()]
            parameters = spread([by[layers]["parameters"] / 1e6 for by in found.values() if layers in by])
            lines.append(f"| {layers} | {parameters} M | {' | '.join(cells)} |")
        if compared := [f"- {verdict(comparison)}" for comparison in ways_compared(runs, task)]:
            lines += [
                "",
                *compared,
                "- One seed: these intervals are over test rows alone, and another seed would give other students",
            ]
        for split in ("test", "challenge"):
            for role, pooled, by_seed in chosen_table(runs, task, split):
                seeds = ", ".join(f"{100 * score:.1f}" for score in by_seed)
                lines.append(f"- {split}, {role}: {percent(pooled)}; seeds {seeds}")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def summary(runs: Sequence[dict[str, Any]], tasks: Sequence[str]) -> str:
    """A row a size and a column a task, by the way that has the most sizes; the teachers in the last row. "" without runs."""
    found = recorded(runs, tasks)
    sizes_of = Counter(way for _, ways in found.values() for way, by_size in ways.items() for _ in by_size)
    if not sizes_of:
        return ""
    way, _ = sizes_of.most_common(1)[0]
    by_task = [ways.get(way, {}) for _, ways in found.values()]
    lines = [f"| layers ({way}) | parameters | {' | '.join(found)} |", "|---" * (2 + len(found)) + "|"]
    for layers in sorted({layers for by_size in by_task for layers in by_size}):
        here = [by_size.get(layers) for by_size in by_task]
        millions = spread([entry["parameters"] / 1e6 for entry in here if entry])
        lines.append(f"| {layers} | {millions} M | {' | '.join(map(_cell, here))} |")
    teachers = [teacher for teacher, _ in found.values()]
    scores = [percent(bootstrap(teacher["scores"]["test"], np.mean).to_dict(), 0) for teacher in teachers]
    lines.append(f"| teacher | {teachers[0]['parameters'] / 1e6:.0f} M | {' | '.join(scores)} |")
    return "\n".join(lines) + "\n"


def _cell(entry: dict[str, Any] | None) -> str:
    """A size of a curve: its score and, after the slash, the share of the teacher's that it keeps."""
    if entry is None:
        return ""
    kept = f" / {100 * entry['retention']['value']:.0f} %" if entry["retention"] else ""
    return f"{percent(entry['score'], 0)}{kept}"
