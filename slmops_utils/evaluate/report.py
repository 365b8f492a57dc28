"""The report card: one HTML file that holds everything an evaluation said, and needs no network to be read.

Made from results files of `evaluate`; the answers beside each (NAME.answers.jsonl) give the slices and the rows to read.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..records import Example, atomic_writer, read_records
from ..tasks import gold_text
from . import page
from .case_study import case_study, check_claims, columns, said
from .figures import curve, headline, score_against, slice_dots
from .slices import KINDS, answers_of, kind, slices
from .statistics import verdict

MOST_ROWS = 1000  # of one results file shown; a page of more is slow to search
SLICED_BY = ("topic", "difficulty")


def report(paths: Sequence[str | Path], out: str | Path, title: str = "Report card") -> Path:
    """Write the report card of these results files to `out` and return its path.

    Raises ValueError for a file that is no results JSON of `evaluate`, and OSError for one that is not there.
    """
    sections, names = [], []
    for path in map(Path, paths):
        results = read_results(path)
        beside = path.with_suffix(".answers.jsonl")
        examples = list(read_records(beside)) if beside.exists() else []
        names.append(f"{results['task']}: {path.stem}")
        sections.append(section(results, examples, names[-1], len(names)))
    links = "".join(f'<li><a href="#part{i}">{page.text(name)}</a></li>' for i, name in enumerate(names, start=1))
    contents = f"<nav aria-label=contents><ul>{links}</ul></nav>" if len(names) > 1 else ""
    body = f"<header><h1>{page.text(title)}</h1>{contents}</header><main id=main>{''.join(sections)}</main>"
    with atomic_writer(out) as file:
        file.write(page.page(title, body))
    return Path(out)


def read_results(path: str | Path) -> dict[str, Any]:
    """A results JSON. Raises ValueError naming the file when it is none."""
    try:
        results = json.loads(Path(path).read_text(encoding="utf-8"))
        if not results["rows"] or not all(row["metrics"] and row["role"] for row in results["rows"]):
            raise KeyError("rows")
        return {"reference_rows": {}, "comparisons": [], "retention": None, "hardware": {}, **results}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no results file of `evaluate` ({type(error).__name__}: {error})") from None


def section(results: dict[str, Any], examples: Sequence[Example], name: str, number: int) -> str:
    """Everything about one results file, as HTML."""
    metric, hardware = headline(results), results["hardware"]
    facts = [f"{results['n_test']} test rows", f"headline score: {metric}", f"seed {results.get('seed', 0)}"]
    facts += [f"recorded {results['date']}"] if "date" in results else []
    facts += [f"{hardware['cores']} cores, {hardware['dtype']}"] if {"cores", "dtype"} <= set(hardware) else []
    parts = [
        f"<section id=part{number}><h2>{page.text(name)}</h2><p class=soft>{page.text('; '.join(facts))}</p>",
        scores_table(results),
        costs_table(results),
        tests_table(results),
        page.figure(score_against(results, "latency"), "Score against latency: up and to the left is better"),
        page.figure(score_against(results, "memory"), "Score against memory: up and to the left is better"),
    ]
    if results.get("learning_curve"):
        drawn = curve(results["learning_curve"], results)
        parts.append("<h3>Learning curve</h3>" + page.figure(drawn, "Score by the number of synthetic rows"))
    for key in SLICED_BY:
        if found := slices(examples, key):
            parts.append(slices_part(found, key, metric))
    if {"teacher", "student"} <= {row["role"] for row in results["rows"]}:
        parts.append(case_study_part(results))
    parts.append(errors_part(examples))
    return "".join(parts) + "</section>"


def scores_table(results: dict[str, Any]) -> str:
    """Every score of every role, reference rows last."""
    metrics = list(results["rows"][0]["metrics"])
    rows = [
        [row["role"], row["model"], *(page.score(row["metrics"][m]) if m in row["metrics"] else "" for m in metrics)]
        for row in results["rows"]
    ]
    rows += [
        [name, "no language model", *(page.score(scores[m]) if m in scores else "" for m in metrics)]
        for name, scores in results["reference_rows"].items()
    ]
    return "<h3>Scores</h3>" + page.table("Scores with 95 % intervals", ["", "model", *metrics], rows, numbers=2)


def costs_table(results: dict[str, Any]) -> str:
    """What each model takes to run; only the columns that were measured."""
    columns: list[tuple[str, Any]] = [
        ("parameters", lambda r: f"{r['parameters'] / 1e6:,.1f} M"),
        ("on disk", lambda r: f"{r['bytes_on_disk'] / 1e6:,.0f} MB"),
        ("peak memory", lambda r: f"{r['peak_memory_bytes'] / 2**20:,.0f} MiB"),
        ("first token, p50", lambda r: f"{r['first_token_ms']['p50']:,.0f} ms"),
        ("one request, p50", lambda r: f"{r['latency_ms']['p50']:,.0f} ms"),
        ("p95", lambda r: f"{r['latency_ms']['p95']:,.0f} ms"),
        ("requests/s", lambda r: f"{r['throughput_per_s']:,.1f}"),
        ("requests/s by batch", lambda r: ", ".join(f"{n}: {x:,.1f}" for n, x in r["throughput_by_batch"].items())),
        ("$ per 1,000 requests", lambda r: f"{r['cost_per_1k_usd']:,.4g}"),
        ("users within", lambda r: f"{r['concurrent_users']['users']} in {r['concurrent_users']['within_s']:g} s"),
    ]

    def cell(row: dict[str, Any], of: Any) -> str:
        try:
            return of(row)
        except (KeyError, TypeError):  # not measured, or not known of a model behind an endpoint
            return ""

    shown = [(name, of) for name, of in columns if any(cell(row, of) for row in results["rows"])]
    rows = [[row["role"], *(cell(row, of) for _, of in shown)] for row in results["rows"]]
    return "<h3>Costs</h3>" + page.table("What each takes to run", ["", *(name for name, _ in shown)], rows)


def tests_table(results: dict[str, Any]) -> str:
    """The paired tests with a plain sentence each, and the retention."""
    head = ["", "what the same rows say (points, 95 % interval)", "p"]
    rows = [[f"{c['a']} against {c['b']}", verdict(c), f"{c['p_value']:.4f}"] for c in results["comparisons"]]
    if any("p_corrected" in c for c in results["comparisons"]):
        head.append("p, corrected for several tests")
        for row, c in zip(rows, results["comparisons"], strict=True):
            row.append(f"{c['p_corrected']:.4f}" if "p_corrected" in c else "")
    kept = results["retention"]
    retained = f"<p>Retention, student over teacher: {page.text(page.score(kept))}.</p>" if kept else ""
    if not rows:
        return retained
    return "<h3>Paired tests</h3>" + page.table("Differences on the same rows", head, rows, numbers=2) + retained


def case_study_part(results: dict[str, Any]) -> str:
    """The source's case study beside what was measured, and its claims recomputed."""
    found = case_study(results)
    warning = f"<p><strong>{page.text(found['warning'])}</strong></p>" if found["warning"] else ""
    achieved = "".join(
        f"<h4>{page.text(role)}, measured</h4><ul>{''.join(f'<li>{page.text(sentence)}</li>' for sentence in sentences)}</ul>"
        for role, sentences in found["achieved"].items()
    )
    claims = [[check.claim, check.found, said(check)] for check in check_claims()]
    return (
        "<h3>The case study's table</h3>"
        + page.table("What the source claims of its own pair, and what was measured here", *columns(results), numbers=9)
        + warning
        + achieved
        + "<details><summary>Do the source's claims add up?</summary>"
        + page.table(
            "Each claim recomputed from the source's other numbers", ["claim", "recomputed", "adds up"], claims, 9
        )
        + "</details>"
    )


def slices_part(found: dict[str, dict[str, Any]], key: str, metric: str) -> str:
    """Scores by topic or difficulty, drawn and as a table."""
    roles = list(next(iter(found.values()))["scores"])
    rows = [
        [value, str(part["rows"]), *(page.score(part["scores"][r]) if r in part["scores"] else "" for r in roles)]
        for value, part in found.items()
    ]
    drawn = page.figure(slice_dots(found, metric), f"{metric} by {key} (rows in brackets)") if roles else ""
    numbers = page.table(f"{metric} by {key}", [key, "rows", *roles], rows)
    return f"<h3>By {page.text(key)}</h3>{drawn}<details><summary>The numbers</summary>{numbers}</details>"


def errors_part(examples: Sequence[Example]) -> str:
    """The rows on which teacher and student part, to be filtered, searched and read; "" where none was kept."""
    sorted_rows = [
        (found, example) for wanted in KINDS[:3] for example in examples if (found := kind(example)) == wanted
    ]
    if not sorted_rows:
        return ""
    shown = sorted_rows[:MOST_ROWS]
    counts = {name: sum(found == name for found, _ in sorted_rows) for name in KINDS[:3]}
    lost = KINDS[0] if counts[KINDS[0]] else ""
    picks = _pick("kind", counts, lost)
    for key in SLICED_BY:
        values = sorted({str(e.extra[key]) for _, e in shown if e.extra.get(key) is not None})
        picks += _pick(key, dict.fromkeys(values)) if values else ""
    more = (
        f"<p>{len(sorted_rows) - MOST_ROWS:,} more rows are in the answers file.</p>"
        if len(shown) < len(sorted_rows)
        else ""
    )
    return (
        "<h3>Error analysis</h3><div class=errors><p>Each row opens with Enter or a click; the arrow keys go from row to row. "
        "Right means the full score.</p>"
        f"<div class=controls hidden>{picks}<label>words<input type=search></label>"
        "<button type=button class=open>open or close all</button><span class=count role=status></span></div>"
        + "".join(row_html(example, found) for found, example in shown)
        + f"</div>{more}"
    )


def _pick(name: str, values: dict[str, Any], chosen: str = "") -> str:
    options = "".join(
        f'<option value="{page.text(value)}"{" selected" if value == chosen else ""}>{page.text(value)}'
        f"{'' if count is None else f' ({count})'}</option>"
        for value, count in values.items()
    )
    return f'<label>{page.text(name)}<select name="{page.text(name)}"><option value="">all</option>{options}</select></label>'


def row_html(example: Example, found: str) -> str:
    """One row: what was asked, what was wanted, what each role answered."""
    tags = {key: str(example.extra[key]) for key in SLICED_BY if example.extra.get(key) is not None}
    data = "".join(f' data-{key}="{page.text(value)}"' for key, value in {"kind": found, **tags}.items())
    said = "".join(_said(m["role"], m["content"]) for m in example.prompt) + _said("wanted", gold_text(example))
    for role, given in answers_of(example).items():
        right = float(given["score"]) >= 1
        part = "" if float(given["score"]) in (0.0, 1.0) else f" ({float(given['score']):.2f})"
        said += _said(f"{role}: {'right' if right else 'wrong'}{part}", given["text"], "right" if right else "wrong")
    summary = page.text(" · ".join([example.id, *tags.values(), found]))
    return f"<details class=row{data}><summary>{summary}</summary>{said}</details>"


def _said(who: str, what: str, sort: str = "") -> str:
    return f'<div class="said {sort}"><b>{page.text(who)}</b>{page.text(what)}</div>'
