"""Write a model in the form it is deployed in: GGUF for llama.cpp, ONNX for ONNX Runtime GenAI."""

import os
import shutil
import tempfile
from pathlib import Path

from ..models.load import LoadedModel, load_model

PRECISIONS = {"gguf": ("f16", "q8_0", "q4_0"), "onnx": ("fp32", "int8", "int4")}


class ExportError(ValueError):
    """The model cannot be written in this form; the message says which can."""


def export(model: str | LoadedModel, format: str, precision: str, out: str | Path) -> Path:
    """Write `model` (a name, whose adapters are merged, or one in memory) to `out` and return it.

    format "gguf": one file, for models of the Llama type; "f16", or blocks of 32 weights that share a scale: "q8_0",
    "q4_0". format "onnx": a folder for ONNX Runtime GenAI on a CPU, for the architectures its own builder knows; "fp32", or
    weights in blocks of 32 as "int8", "int4". `out` appears whole or not at all, and what was there before is replaced.
    Raises ExportError for another format, precision or architecture, saying what is supported.
    """
    if format not in PRECISIONS:
        raise ExportError(f"no format {format!r}; there are {', '.join(PRECISIONS)}")
    if precision not in PRECISIONS[format]:
        listed = "; ".join(f"{name}: {', '.join(found)}" for name, found in PRECISIONS.items())
        raise ExportError(f"{format} is not written in precision {precision!r}; supported are {listed}")
    out = Path(out)
    _check_place(out, format)
    loaded = load_model(model, "float32", "cpu") if isinstance(model, str) else model
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        half = Path(folder) / out.name
        if format == "gguf":
            from .to_gguf import write_gguf

            write_gguf(loaded, half, precision)
        else:
            from .to_onnx import write_onnx

            write_onnx(loaded, half, precision)
        if out.is_dir():
            shutil.rmtree(out)
        os.replace(half, out)
    return out


def _check_place(out: Path, format: str) -> None:
    """Nothing but an earlier export may be replaced."""
    if format == "gguf" and (out.suffix != ".gguf" or out.is_dir()):
        raise ExportError(f"{out} should be a file that ends in .gguf")
    ours = (out / "genai_config.json").is_file() or (out.is_dir() and not any(out.iterdir()))
    if format == "onnx" and out.exists() and not ours:
        raise ExportError(f"{out} holds something that is no earlier export; name a new folder")
