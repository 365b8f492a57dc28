"""The course as shipped: every notebook runs headless with its overrides, and is committed clean."""

import json
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


@pytest.mark.notebooks
def test_every_notebook_runs_headless_with_its_overrides(tmp_path_factory):
    out = tmp_path_factory.mktemp("course")
    report = run_course(ROOT / "notebooks", out, use_overrides=True)
    assert [entry["status"] for entry in report["notebooks"]] == ["ok"] * len(NOTEBOOKS)
    for path in NOTEBOOKS:
        # the override took effect: the injected cell is there with each value
        injected = [
            cell.source
            for cell in nbformat.read(out / path.name, as_version=4).cells
            if "injected-parameters" in cell.metadata.get("tags", [])
        ]
        for name, value in OVERRIDES[path.stem]["parameters"].items():
            assert any(
                f"{name} = {json.dumps(value) if not isinstance(value, str) else repr(value)}".split("=")[0] in source
                for source in injected
            ), name
    assert (out / "index.html").exists()
