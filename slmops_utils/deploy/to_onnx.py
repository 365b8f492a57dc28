"""Write a model as an ONNX Runtime GenAI folder with that library's own builder, for the CPU."""

import os
import re
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from ..models.load import LoadedModel
from .export import ExportError

GPU_ONLY = ("PhiMoEForCausalLM",)  # the builder writes it for CUDA whatever it is asked


def write_onnx(loaded: LoadedModel, out: Path, precision: str) -> None:
    """Write the folder `out`. Raises ExportError for an architecture the builder does not know, and when it fails."""
    kind, known = type(loaded.model).__name__, builder_architectures()
    if kind not in known:
        raise ExportError(
            f"{loaded.name} cannot be written as ONNX: its architecture is {kind}. The builder of ONNX Runtime GenAI "
            f"supports {', '.join(known)}."
        )
    with tempfile.TemporaryDirectory() as folder:
        # in float32 as it is: rounding comes once, at the end
        loaded.model.save_pretrained(f"{folder}/model")
        loaded.tokenizer.save_pretrained(f"{folder}/model")
        # a process of its own: the builder changes sys.path, and prints what no caller wants to read
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", f"{folder}/model", "-o", str(out)]
        done = subprocess.run(
            [*command, "-p", precision, "-e", "cpu", "-c", f"{folder}/cache"],
            capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": "utf-8"},
        )  # fmt: skip
    if done.returncode or not (out / "genai_config.json").is_file():
        words = done.stderr.strip().splitlines() or ["it gave no reason"]
        raise ExportError(f"the builder of ONNX Runtime GenAI could not write {loaded.name} ({kind}): {words[-1]}")


def builder_architectures() -> list[str]:
    """The text models the installed builder knows and a CPU can run, read from its source: it offers no list.

    Raises ExportError when it is not installed.
    """
    package = find_spec("onnxruntime_genai")
    missing = [name for name in ("onnxruntime_genai", "onnx_ir") if find_spec(name) is None]
    if missing or package is None or not package.submodule_search_locations:
        raise ExportError(f"for ONNX {' and '.join(missing)} must be installed: pip install onnxruntime-genai onnx-ir")
    source = Path(package.submodule_search_locations[0]) / "models/builder.py"
    found = re.findall(r'architectures\[0\] == "(\w+ForCausalLM)"', source.read_text(encoding="utf-8"))
    return sorted(set(found) - set(GPU_ONLY))
