"""Write the results from the recorded runs, so that no number in a table was ever typed by hand: the README's short
tables between their markers, and all that is recorded into data/results/README.md.

python -m slmops_utils.classroom.readme [--check]
"""

import json
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

from ..deploy.edge import edge_table
from ..evaluate.ablation import markdown, outcome, summarise
from ..evaluate.case_study import case_study
from ..evaluate.runs import read_runs
from ..evaluate.size_table import markdown as sizes_markdown
from ..evaluate.size_table import recorded
from ..evaluate.size_table import summary as sizes_table
from ..evaluate.statistics import percent, verdict
from ..evaluate.study import read_study, study_markdown
from ..tasks import MODULES

RECORD = "README.md"  # in the folder of the results
FIGURE, ABLATION_FIGURE, SIZES_FIGURE = "road.png", "ablation.png", "sizes.png"
RESULTS, ABLATION, SIZES, EDGE = (
    (f"<!-- {name}: written by slmops_utils.classroom.readme -->", f"<!-- /{name} -->")
    for name in ("results", "ablation", "sizes", "edge")
)
LISTED = "gguf q4_0"  # the export that stands for all in the README, and is listed as the case study does
STUDIES = {
    "gates": "What each quality gate, and each kind of fault planted, does to the student",
    "rationale": "The teacher's reasons trained on, left out, or a task of their own",
    "committee": "A committee of teachers beside its best member",
}

ABOUT = """Written by `python -m slmops_utils.classroom.readme` from the JSON files of this folder; the [README](../../README.md) holds the
short tables and says how the runs are made. Intervals are of 95 %."""


def load_results(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """The recorded comparisons as (name, results), test before challenge."""
    paths = [folder / f"road_{task}_{part}.json" for task in MODULES for part in ("test", "challenge")]
    return [(path.stem, json.loads(path.read_text(encoding="utf-8"))) for path in paths if path.exists()]


WAYS = ("zero-shot", "few-shot", "corrected")


def teacher_block(folder: Path) -> str:
    """How far the teacher can be trusted: its recorded scores per task, beside what needs no model at all."""
    parts = [teacher_table(folder, "test", ""), teacher_table(folder, "challenge", "_challenge")]
    return "\n".join(part for part in parts if part)


def teacher_table(folder: Path, split: str, suffix: str) -> str:
    """The teacher's recorded scores on one split; "" where there are none."""
    lines, dates = [], set()
    for task in MODULES:
        found = {way: folder / f"teacher_{task}_{way}{suffix}.json" for way in WAYS}
        runs = {way: json.loads(p.read_text(encoding="utf-8")) for way, p in found.items() if p.exists()}
        if not runs:
            continue
        last = list(runs.values())[-1]
        metric = next(iter(last["rows"][0]["metrics"]))
        cells = [f"{percent(runs[way]['rows'][0]['metrics'][metric])}" if way in runs else "" for way in WAYS]
        known = {name: scores[metric] for name, scores in last["reference_rows"].items()}
        best = max(known, key=lambda name: known[name]["value"], default=None)
        dates |= {run["date"] for run in runs.values()}
        lines.append(
            f"| {task}, {metric} | {last['n_test']} | {f'{best}: {percent(known[best])}' if best else ''} | {' | '.join(cells)} |\n"
        )
    if not lines:
        return ""
    return (
        f"**The teacher, {split}** (95 % intervals; recorded {' and '.join(sorted(dates))})\n\n"
        f"| task and score | rows | without a model | {' | '.join(WAYS)} |\n|---|---|---|---|---|---|\n"
        + "".join(lines)
    )


def _costs(row: dict[str, Any]) -> str:
    """What a model costs, as cells of a table: parameters, on disk, one request, requests a second."""
    return (
        f"{row['parameters'] / 1e6:.1f} M | {row['bytes_on_disk'] / 1e6:.0f} MB "
        f"| {row['latency_ms']['p50']:.0f} ms | {row['throughput_per_s']:.1f}"
    )


def _mean(scores: dict[int, dict[str, Any]], seeds: int) -> str:
    """Over all the seeds; nothing where one is missing."""
    return f"{100 * sum(s['value'] for s in scores.values()) / seeds:.1f} %" if len(scores) == seeds else ""


def load_intents(folder: Path) -> dict[int, dict[str, Any]]:
    """Seed -> results of the recorded roads on Banking77, each from its own corrected teacher on."""
    paths = sorted(folder.glob("banking77_seed*.json"))
    return {int(path.stem.split("seed")[1]): json.loads(path.read_text(encoding="utf-8")) for path in paths}


def intents_table(folder: Path) -> str:
    """The whole road on Banking77, a column for each seed; "" where none is recorded."""
    runs = load_intents(folder)
    if not runs:
        return ""
    first = next(iter(runs.values()))
    scores: dict[str, dict[int, dict[str, Any]]] = {}
    for seed, results in runs.items():
        found = {row["role"]: row["metrics"] for row in results["rows"]} | results["reference_rows"]
        for name, metrics in found.items():
            scores.setdefault(name, {})[seed] = metrics["accuracy"]
    # the costs of one seed are those of all: `--no-costs` leaves them out
    costed = (row for results in runs.values() for row in results["rows"] if row.get("latency_ms"))
    costs = {row["role"]: _costs(row) for row in costed}
    hardware, dates = first["hardware"], sorted({results["date"] for results in runs.values()})
    lines = [
        f"| {name} | {' | '.join(percent(found[seed]) if seed in found else '' for seed in runs)} "
        f"| {_mean(found, len(runs))} | {costs.get(name, '| | |')} |\n"
        for name, found in scores.items()
    ]
    return (
        f"**Banking77, test** ({first['n_test']} rows, 77 intents, accuracy with its 95 % interval; recorded {' and '.join(dates)} on "
        f"{hardware['cores']} cores, {hardware['dtype']})\n\n"
        f"| | {' | '.join(f'seed {seed}' for seed in runs)} | mean | parameters | on disk | one request, p50 | requests/s |\n"
        f"|---|{'---|' * len(runs)}---|---|---|---|---|\n" + "".join(lines)
    )


def intents_verdicts(folder: Path) -> str:
    """What the paired tests of each seed say."""
    return "".join(
        f"- seed {seed}: {verdict(comparison)}\n"
        for seed, results in load_intents(folder).items()
        for comparison in results["comparisons"]
        if "untuned" not in (comparison["a"], comparison["b"])
    )


def results_summary(folder: Path) -> str:
    """The README's tables: Banking77, and how far the teacher of our own tasks can be trusted."""
    return "\n".join(part for part in (intents_table(folder), teacher_table(folder, "test", "")) if part)


def results_block(folder: Path) -> str:
    """A table for each recorded comparison, its hardware and what its tests say."""
    parts = [intents_table(folder), intents_verdicts(folder), teacher_block(folder)]
    parts = [part for part in parts if part]
    for name, results in load_results(folder):
        metric, hardware = next(iter(results["rows"][0]["metrics"])), results["hardware"]
        parts.append(
            f"**{results['task']}, {name.split('_')[-1]}** ({results['n_test']} rows, {metric} with its 95 % interval; recorded "
            f"{results['date']} on {hardware['cores']} cores, {hardware['dtype']})\n\n"
            "| | score | parameters | on disk | one request, p50 | requests/s | peak memory |\n|---|---|---|---|---|---|---|\n"
            + "".join(
                f"| {row['role']} | {percent(row['metrics'][metric])} | {_costs(row)} | {row['peak_memory_bytes'] / 2**20:.0f} MiB |\n"
                for row in results["rows"]
            )
            + "".join(
                f"| {label} | {percent(scores[metric])} | | | | | |\n"
                for label, scores in results["reference_rows"].items()
            )
            + "\n"
            + "".join(f"- {verdict(comparison)}\n" for comparison in results["comparisons"])
            + (f"- retention (student over teacher): {percent(results['retention'])}\n" if results["retention"] else "")
        )
    return "\n".join(parts)


def _save(figure: Any, path: Path) -> None:
    import matplotlib.pyplot as plt

    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def write_figure(folder: Path, path: Path) -> None:
    """The test-set comparisons as bars, one panel file."""
    import matplotlib.pyplot as plt

    from .plots import draw_scores

    tests = [results | {"task": f"Banking77, seed {seed}"} for seed, results in load_intents(folder).items()][:1]
    tests += [results for name, results in load_results(folder) if name.endswith("_test")]
    figure, axes = plt.subplots(1, len(tests), figsize=(5.2 * len(tests), 3.4), layout="constrained", squeeze=False)
    for results, axis in zip(tests, axes[0], strict=True):
        draw_scores(results, axis)
    _save(figure, path)


def write_ablation_figure(folder: Path, path: Path) -> None:
    """The comparison of methods, one panel a task."""
    from .plots import ablation_dots

    figure = ablation_dots(summarise(read_runs(folder / "ablate")))
    _save(figure, path)


def ablation_block(folder: Path) -> str:
    """The comparison of methods, as far as it is recorded."""
    found = summarise(read_runs(folder / "ablate"))
    return f"![Scores of every method]({ABLATION_FIGURE})\n\n" + markdown(found) if found else ""


def ablation_summary(folder: Path) -> str:
    """The README's table of methods: a row a method, a column a task, and which are above or below plain text."""
    found = summarise(read_runs(folder / "ablate"))
    if not found:
        return "Not recorded yet: `python -m slmops_utils ablate` runs it."
    marks = {"helped": " ▲", "hurt": " ▼", "no difference seen": ""}
    heads = [f"{task}, {len(s['seeds'])} seed{'s' * (len(s['seeds']) > 1)}" for task, s in found.items()]
    lines = [f"| method | {' | '.join(heads)} |", "|---" * (1 + len(found)) + "|"]
    for method in dict.fromkeys(method for summary in found.values() for method in summary["methods"]):
        cells = []
        for summary in found.values():
            entry = summary["methods"].get(method)
            mark = marks[outcome(entry["difference"])] if entry and entry["difference"] else ""
            cells.append(percent(entry["score"]) + mark if entry else "")
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def sizes_block(folder: Path) -> str:
    """The size study, as far as it is recorded."""
    block = sizes_markdown(read_runs(folder / "sizes"), MODULES)
    return f"![Score against size]({SIZES_FIGURE})\n\n{block}\n" if block else ""


def sizes_summary(folder: Path) -> str:
    """The README's table of sizes."""
    return (
        sizes_table(read_runs(folder / "sizes"), MODULES) or "Not recorded yet: `python -m slmops_utils curve` runs it."
    )


def studies_block(folder: Path) -> str:
    """The studies of what the data do to the student, a table a task."""
    parts = []
    for study, title in STUDIES.items():
        if lines := read_study(folder / study):
            parts.append(f"## {title}\n\n{study_markdown(lines)}")
    return "\n\n".join(parts)


def write_sizes_figure(folder: Path, path: Path) -> None:
    """Score against size, one panel a task."""
    from .plots import size_curves

    found = recorded(read_runs(folder / "sizes"), MODULES)
    teachers = {task: teacher for task, (teacher, _) in found.items()}
    scores = {task: fmean(run["scores"]["test"]) for task, run in teachers.items()}
    curves = {task: ways for task, (_, ways) in found.items()}
    figure = size_curves(curves, scores, {task: run["metric"] for task, run in teachers.items()})
    _save(figure, path)


def edge_summary(folder: Path) -> str:
    """The README's table of exports: the four-bit file of each recorded student against its teacher."""
    found = [(name, results) for name, results in load_edge(folder) if LISTED in results["edge"]]
    if not found:
        return "Not recorded yet: `tests/benchmarks/bench_edge.py` does it."
    times = []
    for _, results in found:
        asked = results["requests_vs_teacher"].get(LISTED)
        times.append(f"{asked['value'] / asked['peer_value']:.1f} ×" if asked else "")
    table = edge_table({name: results["edge"][LISTED] for name, results in found}).splitlines()
    table[0] = table[0].replace("| |", f"| {LISTED} against the teacher |", 1)
    more = [" requests/s ", "---", " 8 × ", *(f" {cell} " for cell in times)]
    return "".join(f"{line}{cell}|\n" for line, cell in zip(table, more, strict=True))


def load_edge(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """(name, results) of each student whose exports are recorded."""
    paths = sorted(folder.glob("edge_*.json"))
    return [(path.stem.removeprefix("edge_"), json.loads(path.read_text(encoding="utf-8"))) for path in paths]


def edge_block(folder: Path) -> str:
    """The exports of each recorded student: what they save, what they keep, and whether they still say the same."""
    parts = []
    for name, results in load_edge(folder):
        metric, hardware = next(iter(results["rows"][0]["metrics"])), results["hardware"]
        asked = results["requests_vs_teacher"]
        lines = []
        for row in results["rows"]:
            found, requests = results["checks"].get(row["role"]), asked.get(row["role"])
            same = f"{found['same_verdict']:.1%} | {found['same_argmax']:.1%}" if found else " | "
            served = f"{requests['value']:.1f} ({requests['value'] / requests['peer_value']:.1f} ×)" if requests else ""
            kept = (results.get("retentions") or {}).get(row["role"])
            lines.append(
                f"| {row['role']} | {percent(row['metrics'][metric])} | {percent(kept) if kept else ''} "
                f"| {_measured((row.get('latency_ms') or {}).get('p50'), 'ms')} | {_measured(row.get('peak_memory_bytes'), 'MiB', 2**20)} "
                f"| {_measured(row.get('bytes_on_disk'), 'MB', 1e6, 1)} | {same} | {served} |\n"
            )
        parts.append(
            f"**{name}** ({results['n_test']} test rows; recorded {results['date']} on {hardware['cores']} "
            f"cores, teacher in {hardware['dtype']})\n\n{edge_table(results['edge'])}\n\n"
            "| | score | retention | one request, p50 | memory | on disk | same verdict | same token | requests/s |\n"
            f"|---|---|---|---|---|---|---|---|---|\n{''.join(lines)}\n"
        )
        if asked:
            peers, one = [found["peer_value"] for found in asked.values()], next(iter(asked.values()))
            best = max(found["value"] / found["peer_value"] for found in asked.values())
            parts[-1] += (
                f"The last column, {one['unit'].removeprefix('requests/s ')} at once, is set against the {one['peer']} in batches as large "
                f"({min(peers):.1f} to {max(peers):.1f}); the aim of {one['aim']:g} × is {'reached' if best >= one['aim'] else 'missed'}.\n\n"
            )
        if listed := case_study(results)["achieved"].get(LISTED):
            parts[-1] += f"As the case study lists its results, {LISTED} against the teacher:\n\n"
            parts[-1] += "".join(f"- {sentence}\n" for sentence in listed)
    return "\n".join(parts)


def _measured(value: float | None, unit: str, size: float = 1, digits: int = 0) -> str:
    return "not measured" if value is None else f"{value / size:.{digits}f} {unit}"


def between(text: str, start: str, end: str, block: str) -> str:
    """`text` with `block` between its two markers. Raises ValueError where they are not there once each."""
    before, rest = text.split(start)
    _, after = rest.split(end)
    return f"{before}{start}\n\n{block}\n{end}{after}"


def record(folder: Path) -> str:
    """All that is recorded, as the Markdown of the folder's own README."""
    parts = [
        "# Recorded runs",
        ABOUT,
        f"![Scores with their intervals]({FIGURE})",
        "## The road, and the teachers",
        results_block(folder),
    ]
    for title, block in (
        ("Which method helps?", ablation_block(folder)),
        ("How small can a student be?", sizes_block(folder)),
        ("What the exports save and keep", edge_block(folder)),
    ):
        parts += [f"## {title}", block or "Nothing is recorded yet."]
    return "\n\n".join(part.strip() for part in [*parts, studies_block(folder)] if part) + "\n"


def main() -> int:
    readme, folder = Path("README.md"), Path("data/results")
    old = {path: path.read_text(encoding="utf-8") if path.exists() else "" for path in (readme, folder / RECORD)}
    text = old[readme]
    for markers, summary in (
        (RESULTS, results_summary), (ABLATION, ablation_summary), (SIZES, sizes_summary), (EDGE, edge_summary),
    ):  # fmt: skip
        text = between(text, *markers, summary(folder))
    new = {readme: text, folder / RECORD: record(folder)}
    if "--check" in sys.argv:
        differ = [f"{path}" for path in new if new[path] != old[path]]
        print(
            f"{' and '.join(differ)} differ from data/results: python -m slmops_utils.classroom.readme writes them"
            if differ
            else "README and data/results/README.md agree with data/results"
        )
        return int(bool(differ))
    import matplotlib

    matplotlib.use("Agg")

    for path, words in new.items():
        path.write_text(words, encoding="utf-8")
    if load_results(folder) or load_intents(folder):
        write_figure(folder, folder / FIGURE)
    if read_runs(folder / "ablate"):
        write_ablation_figure(folder, folder / ABLATION_FIGURE)
    if recorded(read_runs(folder / "sizes"), MODULES):
        write_sizes_figure(folder, folder / SIZES_FIGURE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
