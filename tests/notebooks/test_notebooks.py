"""The course as shipped: every notebook runs headless with its overrides, and is committed clean."""

import ast
import re
from pathlib import Path

import nbformat
import pytest
import yaml

from slmops_utils.classroom.course import default_parameters, overwritten_parameters, run_course

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
OVERRIDES = yaml.safe_load((ROOT / "notebooks" / "overrides.yaml").read_text())


def test_every_notebook_has_its_measured_seconds():
    assert set(OVERRIDES) == {path.stem for path in NOTEBOOKS}
    assert all(entry["seconds"] > 0 for entry in OVERRIDES.values())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_clean(path):
    notebook = nbformat.read(path, as_version=4)
    defaults = default_parameters(notebook, path.stem)
    assert not overwritten_parameters(notebook, set(defaults))
    assert set(OVERRIDES[path.stem]["parameters"]) <= set(defaults)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    assert "widgets" not in notebook.metadata


def minutes(notebook):
    """Reading, running and exercises, as the first cell has them."""
    found = re.search(r"^\| (\d+) minutes? \| (\d+) minutes? \| (\d+) minutes? \|$", notebook.cells[0].source, re.M)
    return tuple(map(int, found.groups()))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_minutes_are_those_recorded_and_those_of_its_exercises(path):
    notebook = nbformat.read(path, as_version=4)
    _, running, exercises = minutes(notebook)
    recorded = OVERRIDES[path.stem]["seconds"] / 60
    assert running - 1 <= recorded <= running + 0.25, f"{recorded:.1f} minutes are recorded"
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    each = re.findall(r"^#+ Exercise: `(\w+)` [★☆]{3}, (\d+) minutes$", text, re.M)
    assert sum(int(number) for _, number in each) == exercises
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    checked = re.findall(r"^\w+ = check\(\"(\w+)\", my_\1\)$", code, re.M)
    assert checked == [name for name, _ in each] and len(each) == text.count("Exercise:")


def test_instructors_read_the_same_minutes_and_every_link_leads_somewhere():
    table = (ROOT / "notebooks" / "instructors.md").read_text(encoding="utf-8")
    for path in NOTEBOOKS:
        line = next(line for line in table.splitlines() if line.startswith(f"| [{path.stem[:2]}]"))
        assert int(line.split("|")[3]) == sum(minutes(nbformat.read(path, as_version=4))), path.stem
    texts = [table, (ROOT / "notebooks" / "glossary.md").read_text(encoding="utf-8")]
    texts += ["\n".join(c.source for c in nbformat.read(path, as_version=4).cells) for path in NOTEBOOKS]
    links = {link for text in texts for link in re.findall(r"\]\(([\w./-]+\.(?:md|ipynb))\b", text)}
    assert links >= {"glossary.md", "instructors.md"}
    assert [link for link in links if not (ROOT / "notebooks" / link).exists()] == []


def injected(notebook):
    """What the cell that papermill puts in assigns, as {name: value}."""
    cells = [cell.source for cell in notebook.cells if "injected-parameters" in cell.metadata.get("tags", [])]
    lines = [line for source in cells for line in ast.parse(source).body]
    return {line.targets[0].id: ast.literal_eval(line.value) for line in lines}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_injected_is_read_with_its_values(path):
    """Of the notebook as papermill would run it: another value for any name has to show."""
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    notebook, wanted = load_notebook_node(str(path)), OVERRIDES[path.stem]["parameters"]
    assert injected(parameterize_notebook(notebook, wanted)) == wanted
    for name, value in wanted.items():
        assert injected(parameterize_notebook(notebook, wanted | {name: [value]})) != wanted, name


@pytest.mark.notebooks
def test_every_notebook_runs_headless_with_its_overrides(tmp_path_factory):
    out = tmp_path_factory.mktemp("course")
    report = run_course(ROOT / "notebooks", out, use_overrides=True)
    assert [entry["status"] for entry in report["notebooks"]] == ["ok"] * len(NOTEBOOKS)
    for path in NOTEBOOKS:
        # the overrides took effect: the injected cell is there with every name and its value
        assert injected(nbformat.read(out / path.name, as_version=4)) == OVERRIDES[path.stem]["parameters"], path.stem
    assert (out / "index.html").exists()
