"""Say what this machine is, what the course will use on it, and whether everything is in place."""

import os
import re
import time
import urllib.error
import urllib.request
from functools import cache
from importlib import metadata
from pathlib import Path

import yaml

from ..models.embedded import EmbeddedModelError, check_gguf, embedded_folder, find_gguf
from ..models.hardware import choose_device, choose_dtype, core_count, cpu_features, memory_bytes

LIBRARIES = ("torch", "transformers", "datasets", "peft", "accelerate", "gguf", "jupyterlab", "ipywidgets", "papermill")
# matmul of the machine on which overrides.yaml's seconds were measured, as `matmul_gflops` says
RECORDED_GFLOPS = 408.0


@cache
def matmul_gflops() -> float:
    """This machine's matrix multiplication speed in the dtype it would use, at the student's shapes, measured once."""
    import torch

    dtype = getattr(torch, choose_dtype(choose_device()).value)
    a, b = torch.randn(1024, 576, dtype=dtype), torch.randn(1536, 576, dtype=dtype)
    best = float("inf")
    for _ in range(20):
        started = time.perf_counter()
        torch.nn.functional.linear(a, b)
        best = min(best, time.perf_counter() - started)
    return 2 * 1024 * 576 * 1536 / best / 1e9


def answers(url: str) -> str:
    """Whether something answers at an address, in words; never raises, and shows no user name or key of the address."""
    shown = re.sub(r"//[^/@]*@", "//", url).split("?")[0]
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=4) as reply:
            return f"{shown} answers ({reply.status})"
    except urllib.error.HTTPError as error:
        return f"{shown} answers ({error.code})"
    except (OSError, ValueError) as error:
        return f"{shown} does not answer ({type(error).__name__}); what needs no network still works"


def expected_minutes(notebooks: Path) -> dict[str, float]:
    """Minutes each notebook should take here: the recorded seconds, scaled by this machine's matrix speed."""
    path = notebooks / "overrides.yaml"
    if not path.exists():
        return {}
    recorded = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    slower = max(0.3, min(20.0, RECORDED_GFLOPS / matmul_gflops()))
    return {name: entry["seconds"] * slower / 60 for name, entry in recorded.items() if entry.get("seconds")}


def doctor(notebooks: Path = Path("notebooks")) -> int:
    """Print the report; 0 when the course can run here, 1 when something is missing."""
    device = choose_device()
    dtype = choose_dtype(device)
    print(
        f"machine    {core_count()} cores, {memory_bytes() / 2**30:.1f} GiB, {', '.join(sorted(cpu_features())) or 'no known features'}"
    )
    print(f"compute    {device}, {dtype.value}: {dtype.reason}; {matmul_gflops():.0f} GFLOP/s")
    print("libraries  " + ", ".join(f"{name} {_version(name)}" for name in LIBRARIES))
    healthy = True
    try:
        gguf = find_gguf()
        check_gguf(gguf)
        started = time.perf_counter()
        folder = embedded_folder()
        print(
            f"model      {gguf} (SHA-256 holds)\n           ready in {folder} ({time.perf_counter() - started:.1f} s)"
        )
    except EmbeddedModelError as error:
        healthy = False
        print(f"model      NOT READY: {error}")
    hub = (
        "offline (HF_HUB_OFFLINE is set)"
        if os.environ.get("HF_HUB_OFFLINE") == "1"
        else answers("https://huggingface.co")
    )
    print(f"hub        {hub}")
    endpoint = os.environ.get("SLMOPS_ENDPOINT")
    print(
        f"endpoint   {answers(endpoint) if endpoint else 'none configured (SLMOPS_ENDPOINT); the local teacher needs none'}"
    )
    for name, minutes in expected_minutes(notebooks).items():
        print(f"notebook   {name}: about {minutes:.1f} min here")
    print("ready" if healthy else "not ready: see above")
    return 0 if healthy else 1


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "MISSING"
