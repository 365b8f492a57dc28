"""A learner's browser: JupyterLab opens notebook 00 and its widgets appear. Skipped where there is no Chromium."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)")


@pytest.fixture
def lab(tmp_path):
    """JupyterLab on loopback over a copy of a small notebook, as `make lab` starts it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "config.py").write_text(
        "from jupyterlab.galata import configure_jupyter_server\nconfigure_jupyter_server(c)\n"
        f"c.ServerApp.port = {port}\nc.ServerApp.ip = '127.0.0.1'\nc.ServerApp.open_browser = False\n"
        f"c.ServerApp.root_dir = {str(tmp_path)!r}\nc.ServerApp.allow_root = True\n"
    )
    log = (tmp_path / "lab.log").open("w")
    command = [sys.executable, "-m", "jupyter", "lab", f"--config={tmp_path / 'config.py'}", "--allow-root"]
    server = subprocess.Popen(
        command, cwd=tmp_path, stdout=log, stderr=log, env=os.environ | {"JUPYTER_CONFIG_DIR": str(tmp_path)}
    )
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/lab", timeout=2)
                break
            except OSError:
                time.sleep(0.5)
        else:
            pytest.fail(f"JupyterLab did not start: {(tmp_path / 'lab.log').read_text()[-800:]}")
        yield tmp_path, f"http://127.0.0.1:{port}/lab"
    finally:
        server.terminate()
        server.wait(20)


def test_widgets_of_the_course_show_in_jupyterlab(lab):
    import nbformat
    from playwright.sync_api import sync_playwright

    folder, address = lab
    notebook = nbformat.v4.new_notebook()
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.cells = [
        nbformat.v4.new_code_cell(
            "from slmops_utils.classroom.widgets import browse\nfrom slmops_utils.records import read_records\n"
            f"browse(list(read_records({str(ROOT / 'data/nli/validation.jsonl')!r})))"
        )
    ]
    nbformat.write(notebook, folder / "notebooks" / "small.ipynb")
    errors = []
    with sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
            ],
        )
        page = browser.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address, timeout=120_000)
        page.wait_for_function("() => window.jupyterapp !== undefined", timeout=120_000)
        page.evaluate("async () => { await window.jupyterapp.restored }")
        page.evaluate(
            "async () => { await window.jupyterapp.commands.execute('docmanager:open', {path: 'notebooks/small.ipynb', factory: 'Notebook'}) }"
        )
        page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
        page.wait_for_timeout(2000)
        page.evaluate("async () => { await window.jupyterapp.commands.execute('notebook:run-all-cells') }")
        page.wait_for_selector("text=nli-validation-0001", timeout=120_000)
        assert page.locator("text=Error displaying widget").count() == 0
        # the filter works in the page, not only in Python
        page.locator(".widget-dropdown select").first.select_option("hard")
        page.wait_for_timeout(1500)
        assert "nli-validation" in page.locator(".jp-OutputArea").first.inner_text()
        browser.close()
    assert errors == []
