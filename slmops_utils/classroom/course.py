"""Execute the course headless with papermill, and fail where a notebook lies.

papermill passes a run whose parameter was misspelt, whose override was overwritten, or whose widget holds a traceback.
Each of these is checked here, and fails the notebook.
"""

import ast
import html
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

CELL_SECONDS = 600  # a cell that takes longer is stuck


class NotebookError(RuntimeError):
    """A notebook that cannot be trusted; the message says which and why."""


def default_parameters(notebook: Any, name: str) -> dict[str, Any]:
    """The parameters of the one cell tagged `parameters`: plain `name = literal` lines, nothing else.

    Anything derived in that cell would keep its old value when papermill injects new ones below it.
    """
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise NotebookError(f"{name}: {len(tagged)} cells are tagged 'parameters', there must be exactly one")
    found = {}
    for node in ast.parse(tagged[0].source).body:
        if not (isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)):
            raise NotebookError(f"{name}: line {node.lineno} of the parameters cell is not a plain `name = value`")
        try:
            found[node.targets[0].id] = ast.literal_eval(node.value)
        except ValueError:
            raise NotebookError(f"{name}: parameter {node.targets[0].id!r} is not a literal value") from None
    return found


def overwritten_parameters(notebook: Any, names: set[str]) -> list[str]:
    """Names that a cell other than the tagged or injected one assigns again, so that an override would do nothing."""
    again = set()
    for cell in notebook.cells:
        if cell.cell_type != "code" or {"parameters", "injected-parameters"} & set(cell.metadata.get("tags", [])):
            continue
        source = "\n".join(
            "pass" if line.lstrip().startswith(("%", "!")) else line for line in cell.source.splitlines()
        )
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in names:
                again.add(node.id)
    return sorted(again)


def hidden_errors(notebook: Any) -> list[str]:
    """Tracebacks kept in widget state, which papermill does not see: errors in `interact` or inside an Output."""
    found = []
    for widget in notebook.metadata.get("widgets", {}).values():
        for model in widget.get("state", {}).values():
            for output in model.get("state", {}).get("outputs", ()):
                if output.get("output_type") == "error":
                    found.append(f"{output.get('ename')}: {output.get('evalue')}")
    return found


def run_notebook(
    path: Path,
    out: Path,
    overrides: dict[str, Any] | None = None,
    cwd: Path = Path("."),
    cell_seconds: int = CELL_SECONDS,
) -> dict[str, Any]:
    """Execute one notebook into `out` (a folder) as .ipynb and .html; returns {"name", "status", "seconds"}.

    status is "ok" or says what was wrong. The kernel runs in `cwd` with SLMOPS_HEADLESS set.
    """
    import nbformat
    import papermill

    overrides = overrides or {}
    out.mkdir(parents=True, exist_ok=True)
    executed, started, status = out / path.name, time.perf_counter(), "ok"
    try:
        notebook = nbformat.read(path, as_version=4)
        defaults = default_parameters(notebook, path.name)
        unknown = sorted(set(overrides) - set(defaults))
        if unknown:
            raise NotebookError(f"{path.name}: no parameter {', '.join(unknown)}; it has {', '.join(defaults)}")
        again = overwritten_parameters(notebook, set(defaults))
        if again:
            raise NotebookError(f"{path.name}: {', '.join(again)} is assigned outside the parameters cell")
        os.environ["SLMOPS_HEADLESS"] = "1"
        papermill.execute_notebook(
            str(path), str(executed), parameters=overrides, cwd=str(cwd), kernel_name="python3",
            execution_timeout=cell_seconds, progress_bar=False, log_output=False,
        )  # fmt: skip
    except NotebookError as error:
        status = str(error)
    except Exception as error:  # papermill wraps whatever a cell raised; the course goes on and reports it
        status = f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}"
    if executed.exists():
        notebook = nbformat.read(executed, as_version=4)
        errors = hidden_errors(notebook)
        if status == "ok" and errors:
            status = f"{path.name}: an error hides in a widget: {errors[0]}"
        _write_html(notebook, executed.with_suffix(".html"))
    seconds = round(time.perf_counter() - started, 1)
    return {"name": path.stem, "status": status, "seconds": seconds}


def run_course(
    notebooks: Path = Path("notebooks"),
    out: Path = Path("build/course"),
    use_overrides: bool = False,
    only: Sequence[str] = (),
) -> dict[str, Any]:
    """Execute the notebooks in reading order and write executed copies, index.html, report.json and results.json.

    With `use_overrides` each is shrunk as overrides.yaml says. Returns the report.
    """
    settings = yaml.safe_load((notebooks / "overrides.yaml").read_text(encoding="utf-8")) or {}
    names = {path.stem for path in notebooks.glob("*.ipynb")}
    stray = sorted(set(settings) - names) + sorted(set(only) - names)
    if stray:
        raise NotebookError(f"no notebook {', '.join(stray)} in {notebooks}")
    started, entries = time.perf_counter(), []
    for path in sorted(notebooks.glob("*.ipynb")):
        if only and path.stem not in only:
            continue
        overrides = settings.get(path.stem, {}).get("parameters", {}) if use_overrides else {}
        entries.append(run_notebook(path, out, overrides))
        print(f"{entries[-1]['name']}: {entries[-1]['status']} ({entries[-1]['seconds']} s)", flush=True)
    report = {"notebooks": entries, "seconds": round(time.perf_counter() - started, 1)}
    (out / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    _write_index(out, report)
    return report


def _write_html(notebook: Any, path: Path) -> None:
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(embed_images=True, sanitize_html=False)
    path.write_text(exporter.from_notebook_node(notebook)[0], encoding="utf-8")


def _write_index(out: Path, report: dict[str, Any]) -> None:
    rows = "".join(
        f'<tr><td><a href="{entry["name"]}.html">{entry["name"]}</a></td><td>{html.escape(entry["status"])}</td>'
        f"<td>{entry['seconds']:.0f} s</td></tr>"
        for entry in report["notebooks"]
    )
    results = out / "results.json"
    shown = ""
    if results.exists():
        for table in json.loads(results.read_text(encoding="utf-8")):
            shown += _results_table(table)
    page = (
        '<!doctype html><html lang="en-GB"><meta charset="utf-8"><title>Distilling language models</title>'
        "<style>body{font:16px/1.5 system-ui;max-width:60em;margin:2em auto;padding:0 1em;color-scheme:light dark}"
        "td,th{padding:.25em 1em .25em 0;text-align:left}</style><h1>Distilling language models</h1>"
        f"<h2>Results measured in this run</h2>{shown or '<p>No notebook wrote results.</p>'}"
        f"<h2>Notebooks</h2><table><tr><th>notebook</th><th>status</th><th>time</th></tr>{rows}</table></html>"
    )
    (out / "index.html").write_text(page, encoding="utf-8")


def _results_table(results: dict[str, Any]) -> str:
    metric = next(iter(results["rows"][0]["metrics"]))
    lines = [f"<h3>{html.escape(results['task'])}: {metric}, {results['n_test']} test rows</h3><table>"]
    lines.append("<tr><th>role</th><th>score</th><th>95 % interval</th><th>parameters</th><th>latency p50</th></tr>")
    for row in results["rows"]:
        score = row["metrics"][metric]
        low, high = score["ci95"]
        latency = f"{row['latency_ms']['p50']:.0f} ms" if "latency_ms" in row else ""
        size = f"{row['parameters'] / 1e6:.0f} M" if row["parameters"] else ""
        lines.append(
            f"<tr><td>{html.escape(row['role'])}</td><td>{100 * score['value']:.1f} %</td>"
            f"<td>{100 * low:.1f} to {100 * high:.1f}</td><td>{size}</td><td>{latency}</td></tr>"
        )
    for name, metrics in results["reference_rows"].items():
        lines.append(f"<tr><td>{html.escape(name)}</td><td>{100 * metrics[metric]['value']:.1f} %</td></tr>")
    return "".join(lines) + "</table>"
