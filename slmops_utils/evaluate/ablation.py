"""What the runs of `ablate` say together: each method's score over seeds and rows, and its difference to text."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .ablate import COMPARED
from .runs import machine, same_seeds, score_over_seeds
from .statistics import holm, over_seeds, percent, points

AGAINST = "text"


def summarise(runs: Sequence[dict[str, Any]], against: str = AGAINST) -> dict[str, dict[str, Any]]:
    """By task: {"metric", "rows", "seeds", "start", "devices", "date", "methods": {method: {"seeds", "score",
    "validation", "difference", "steps", "seconds", "tokens_per_s", "losses"}}}, methods in the order of COMPARED.

    "score" is over all seeds a method has; "difference" (to `against`, None for itself) over the seeds both have, row by
    row, its p-values corrected for being several (Holm). Raises ValueError where runs of a task differ in their start, their
    test rows or their metric, since then they cannot be compared.
    """
    found: dict[str, dict[str, Any]] = {}
    for task in dict.fromkeys(run["task"] for run in runs):
        ours = [run for run in runs if run["task"] == task]
        for name, values in {
            "start": {run["start"] for run in ours},
            "test rows": {run["test"]["ids"] for run in ours},
            "metric": {run["test"]["metric"] for run in ours},
        }.items():
            if len(values) > 1:
                raise ValueError(f"runs of {task} differ in their {name} ({', '.join(sorted(values))}): keep one kind")
        by_method = {method: [run for run in ours if run["method"] == method] for method in COMPARED}
        tables = {method: {run["seed"]: run["test"]["scores"] for run in some} for method, some in by_method.items()}
        methods = {method: _method(some) for method, some in by_method.items() if some}
        for method, entry in methods.items():
            seeds, pairs = same_seeds(tables[method], tables[against])
            if method != against and seeds:
                entry["difference"] = over_seeds(pairs[:, 0] - pairs[:, 1]) | {"seeds": seeds}
        compared = [entry["difference"] for entry in methods.values() if entry["difference"]]
        for entry, p in zip(compared, holm([entry["p_value"] for entry in compared]), strict=True):
            entry["p_corrected"] = p
        found[task] = {
            "metric": ours[0]["test"]["metric"],
            "rows": len(ours[0]["test"]["scores"]),
            "seeds": sorted({run["seed"] for run in ours}),
            "against": against,
            "teacher": ours[0]["teacher"],
            "parameters": ours[0]["parameters"],
            "machines": sorted({machine(run) for run in ours}),
            "dates": sorted({run["date"] for run in ours}),
            "methods": methods,
        }
    return found


def _method(runs: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "seeds": sorted(run["seed"] for run in runs),
        "score": score_over_seeds([run["test"]["scores"] for run in runs]),
        "by_seed": [run["test"]["score"] for run in sorted(runs, key=lambda run: run["seed"])],
        "validation": float(np.mean([run["validation"]["score"] for run in runs])),
        "unfinished": float(np.mean([run["test"]["unfinished"] / len(run["test"]["scores"]) for run in runs])),
        "steps": [run["steps"] for run in runs],
        "seconds": [run["seconds"] for run in runs],
        "tokens_per_s": float(np.mean([run["tokens_per_s"] for run in runs])),
        "losses": runs[0]["losses"],
        "difference": None,
    }


def outcome(difference: dict[str, Any], level: float = 0.05) -> str:
    """ "helped", "hurt" or "no difference seen", after the correction for several methods."""
    if difference["p_corrected"] >= level:
        return "no difference seen"
    return "helped" if difference["value"] > 0 else "hurt"


def spread(values: Sequence[float]) -> str:
    """ "120" or "118 to 124"."""
    low, high = min(values), max(values)
    return f"{low:,.0f}" if round(low) == round(high) else f"{low:,.0f} to {high:,.0f}"


def sentences(task: str, summary: dict[str, Any]) -> list[str]:
    """What helped and what did not, in plain words, the methods without a difference with what could have been seen."""
    sorted_out: dict[str, list[str]] = {"helped": [], "hurt": [], "no difference seen": []}
    for method, entry in summary["methods"].items():
        if gap := entry["difference"]:
            text = f"{method} ({points(gap['value'], gap['ci95'])}"
            if outcome(gap) == "no difference seen":
                text += f"; one of {100 * gap['could_see']:.0f} would have been seen four times in five"
            sorted_out[outcome(gap)].append(text + ")")
    titles = {
        "helped": f"above {summary['against']}",
        "hurt": f"below {summary['against']}",
        "no difference seen": f"no difference to {summary['against']} seen",
    }
    return [f"{task}, {titles[kind]}: {'; '.join(found) or 'none'}" for kind, found in sorted_out.items()]


def markdown(summaries: dict[str, dict[str, Any]]) -> str:
    """A table a task, and below it what helped and what did not."""
    parts = []
    for task, summary in summaries.items():
        compared = summary["methods"].get(summary["against"])
        seeds = len(compared["seeds"] if compared else summary["seeds"])
        lines = [
            f"**{task}** ({summary['rows']} test rows, {summary['metric']}, {seeds} seed{'s' if seeds > 1 else ''}; "
            f"{summary['parameters'] / 1e6:.1f} M parameters; recorded {' and '.join(summary['dates'])} on "
            f"{' and '.join(summary['machines'])})",
            "",
            "| method | score | against text, points | could have seen | steps | seconds | tokens/s |",
            "|---|---|---|---|---|---|---|",
        ]
        for method, entry in summary["methods"].items():
            gap = could_see = ""
            if found := entry["difference"]:
                low, high = (100 * end for end in found["ci95"])
                gap = f"{100 * found['value']:+.1f} ({low:+.1f} to {high:+.1f})"
                could_see = f"{100 * found['could_see']:.0f}"
            budget = f"{spread(entry['steps'])} | {spread(entry['seconds'])} | {entry['tokens_per_s']:,.0f}"
            lines.append(f"| {method} | {percent(entry['score'])} | {gap} | {could_see} | {budget} |")
        if seeds == 1:
            lines += [
                "",
                "One seed: the intervals are over test rows alone, and another seed would give other students.",
            ]
        parts.append("\n".join([*lines, "", *(f"- {line}" for line in sentences(task, summary))]))
    return "\n\n".join(parts) + "\n"
