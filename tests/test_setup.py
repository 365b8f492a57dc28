"""What cannot be run here is held true another way: every place that names a version agrees with the lock."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
LOCK = dict(re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))
LOCK = {name.lower().replace("_", "-"): version for name, version in LOCK.items()}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def name_of(requirement):
    return re.match(r"[A-Za-z0-9_.-]+", requirement)[0].lower().replace("_", "-")


def test_every_dependency_is_locked_at_a_version_it_allows():
    wanted = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]
    for requirement in wanted:
        assert name_of(requirement) in LOCK, requirement
        least = re.search(r">=([\d.]+)", requirement)
        if least:
            locked, floor = ([int(x) for x in re.findall(r"\d+", v)] for v in (LOCK[name_of(requirement)], least[1]))
            assert locked >= floor, requirement


def test_the_lock_has_no_cuda_package_and_no_local_version():
    assert not [name for name in LOCK if name.startswith(("nvidia", "cuda", "triton"))]
    assert not [version for version in LOCK.values() if "+" in version or "@" in version]


def test_conda_installs_the_same_package_under_the_same_lock():
    pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"][-1]["pip"]
    assert "--constraint constraints.txt" in pip
    assert "--editable .[dev]" in pip
    assert f"torch=={LOCK['torch']}" in pip


def test_the_readme_gives_windows_the_same_steps_with_the_same_pins():
    readme = (ROOT / "README.md").read_text()
    for step in (
        f"torch=={LOCK['torch']}",
        "--constraint constraints.txt",
        "embedded-wheel.txt",
        "python -m slmops_utils doctor",
    ):
        assert step in readme, step


def test_the_readme_names_the_commands_that_exist():
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    for target in ("course", "test", "lab", "bench"):
        assert f"make {target}" in readme and f"\n{target}:" in makefile


def test_importing_the_package_is_quick_because_it_imports_nothing_heavy():
    code = "import sys, slmops_utils; print([m for m in ('torch', 'transformers', 'numpy', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    code = "import sys, slmops_utils.synthesize.generate; print([m for m in ('openai', 'httpx2', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]", "an endpoint's client is imported when one is asked"
