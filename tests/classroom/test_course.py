"""The course runner: each way a notebook can lie while papermill reports success has to fail here."""

import json

import nbformat
import pytest

from slmops_utils.classroom.course import (
    NotebookError,
    default_parameters,
    hidden_errors,
    overwritten_parameters,
    run_course,
    run_notebook,
)

PARAMETERS = {"tags": ["parameters"]}


def write(folder, name, *cells, parameters="rows = 3"):
    """A notebook of code cells below one tagged parameters cell (none when parameters is None)."""
    notebook = nbformat.v4.new_notebook()
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    if parameters is not None:
        notebook.cells.append(nbformat.v4.new_code_cell(parameters, metadata=PARAMETERS))
    notebook.cells += [nbformat.v4.new_code_cell(source) for source in cells]
    folder.mkdir(exist_ok=True)
    nbformat.write(notebook, folder / f"{name}.ipynb")
    return folder / f"{name}.ipynb"


def test_a_good_notebook_leaves_ipynb_and_html_and_its_override_arrives(tmp_path):
    path = write(tmp_path / "in", "good", "print('rows is', rows)")
    entry = run_notebook(path, tmp_path / "out", {"rows": 41})
    assert entry["status"] == "ok" and entry["seconds"] > 0
    assert "rows is 41" in (tmp_path / "out" / "good.html").read_text()
    assert (tmp_path / "out" / "good.ipynb").exists()


def test_a_misspelt_parameter_fails(tmp_path):
    path = write(tmp_path / "in", "typo", "print(rows)")
    assert "no parameter row;" in run_notebook(path, tmp_path / "out", {"row": 1})["status"]


def test_a_notebook_without_a_parameters_cell_fails(tmp_path):
    # papermill would inject on top, and the notebook's own values would win
    path = write(tmp_path / "in", "untagged", "rows = 3", "print(rows)", parameters=None)
    assert "tagged 'parameters'" in run_notebook(path, tmp_path / "out", {"rows": 1})["status"]


@pytest.mark.parametrize("again", ["rows = 5", "for rows in range(2):\n    pass", "%time rows = 1\nrows = 2"])
def test_an_override_that_is_overwritten_fails(tmp_path, again):
    path = write(tmp_path / "in", "again", again)
    assert "rows is assigned outside" in run_notebook(path, tmp_path / "out", {"rows": 1})["status"]


def test_a_derived_parameter_fails(tmp_path):
    # it would keep the value derived from the default
    notebook = nbformat.read(write(tmp_path / "in", "derived", parameters="rows = 3\ntwice = rows * 2"), as_version=4)
    with pytest.raises(NotebookError, match="twice"):
        default_parameters(notebook, "derived")


@pytest.mark.parametrize("source", ["def f(): pass", "rows: int = 3", "import os"])
def test_only_plain_assignments_may_stand_in_the_parameters_cell(tmp_path, source):
    notebook = nbformat.read(write(tmp_path / "in", "odd", parameters=source), as_version=4)
    with pytest.raises(NotebookError, match="line 1"):
        default_parameters(notebook, "odd")


def test_a_cell_that_raises_fails_and_names_its_error(tmp_path):
    path = write(tmp_path / "in", "broken", "1 / 0")
    assert "ZeroDivisionError" in run_notebook(path, tmp_path / "out")["status"]


def test_a_cell_that_hangs_is_stopped(tmp_path):
    path = write(tmp_path / "in", "hangs", "import time\ntime.sleep(60)")
    entry = run_notebook(path, tmp_path / "out", cell_seconds=2)
    assert entry["status"] != "ok" and entry["seconds"] < 40


def test_an_error_inside_a_widget_fails(tmp_path):
    source = (
        "import ipywidgets\nout = ipywidgets.Output()\ndisplay(out)\nwith out:\n    raise ValueError('hidden away')"
    )
    entry = run_notebook(write(tmp_path / "in", "widget", source), tmp_path / "out")
    assert "hides in a widget" in entry["status"] and "hidden away" in entry["status"]


def test_a_widget_without_errors_is_no_error(tmp_path):
    source = "import ipywidgets\ndisplay(ipywidgets.HTML('fine'))"
    assert run_notebook(write(tmp_path / "in", "fine", source), tmp_path / "out")["status"] == "ok"


def test_hidden_errors_of_a_notebook_without_widgets():
    assert hidden_errors(nbformat.v4.new_notebook()) == []


def test_overwritten_parameters_ignores_reads(tmp_path):
    notebook = nbformat.read(write(tmp_path / "in", "reads", "total = rows + 1"), as_version=4)
    assert overwritten_parameters(notebook, {"rows"}) == []


def test_the_course_writes_report_and_index_and_reports_each_notebook(tmp_path):
    notebooks = tmp_path / "notebooks"
    write(notebooks, "00_first", "assert rows == 7")
    write(notebooks, "01_second", "1 / 0")
    (notebooks / "overrides.yaml").write_text("00_first: {parameters: {rows: 7}, seconds: 1}\n")
    run_course(notebooks, tmp_path / "out", use_overrides=True)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [n["name"] for n in report["notebooks"]] == ["00_first", "01_second"]
    assert report["notebooks"][0]["status"] == "ok" and "ZeroDivisionError" in report["notebooks"][1]["status"]
    index = (tmp_path / "out" / "index.html").read_text()
    assert "00_first.html" in index and "ZeroDivisionError" in index


def test_an_override_for_a_notebook_that_does_not_exist_is_refused(tmp_path):
    write(tmp_path / "notebooks", "00_first")
    (tmp_path / "notebooks" / "overrides.yaml").write_text("00_frist: {parameters: {}}\n")
    with pytest.raises(NotebookError, match="00_frist"):
        run_course(tmp_path / "notebooks", tmp_path / "out")
