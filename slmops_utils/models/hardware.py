"""What this machine is, and the number format that suits it."""

import os
import platform
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Choice:
    """A choice and why it was made."""

    value: str
    reason: str


def cpu_features() -> set[str]:
    """The CPU features that matter here, out of avx2, avx512f, avx512_vnni, avx512_bf16, amx_bf16 (empty if unknown)."""
    wanted = {"avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16"}
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            flags = next((line.split(":", 1)[1].split() for line in file if line.startswith("flags")), [])
        return wanted & set(flags)
    except OSError:
        pass
    import torch

    probes = {"avx2": "_is_avx2_supported", "avx512f": "_is_avx512_supported", "avx512_bf16": "_is_avx512_bf16_supported",
              "amx_bf16": "_is_amx_tile_supported", "avx512_vnni": "_is_vnni_supported"}  # fmt: skip
    return {name for name, probe in probes.items() if getattr(torch.cpu, probe, lambda: False)()}


def choose_dtype(device: str = "cpu") -> Choice:
    """'bfloat16' where it is fast, else 'float32'; SLMOPS_DTYPE overrides.

    bfloat16 halves memory everywhere, but a CPU without instructions for it (AVX512-BF16, AMX) emulates them, several
    times slower than float32.
    """
    asked = os.environ.get("SLMOPS_DTYPE")
    if asked:
        if asked not in ("bfloat16", "float32"):
            raise ValueError(f"SLMOPS_DTYPE is {asked!r}; it may be bfloat16 or float32")
        return Choice(asked, "SLMOPS_DTYPE asks for it")
    if device.startswith("cuda"):
        import torch

        if torch.cuda.is_bf16_supported():
            return Choice("bfloat16", "this GPU computes in it")
        return Choice("float32", "this GPU has no bfloat16")
    fast = cpu_features() & {"avx512_bf16", "amx_bf16"}
    if fast:
        return Choice("bfloat16", f"this CPU has {' and '.join(sorted(fast))}")
    return Choice("float32", "this CPU has no bfloat16 instructions (avx512_bf16, amx_bf16) and would emulate them")


def choose_device() -> str:
    """'cuda' where there is a GPU (this process's own one under torchrun), else 'cpu'."""
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{os.environ['LOCAL_RANK']}" if "LOCAL_RANK" in os.environ else "cuda"


def gpu_name() -> str:
    """The first GPU as its driver names it."""
    import torch

    return torch.cuda.get_device_name()


def core_count() -> int:
    """Cores this process may use (a container may hold fewer than the machine has)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int:
    """Physical memory in bytes."""
    import psutil

    return psutil.virtual_memory().total


def describe() -> dict[str, str | int | float | list[str] | None]:
    """The machine in a few words, as written into every results file."""
    device = choose_device()
    dtype = choose_dtype(device)
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "python": ".".join(map(str, sys.version_info[:3])),
        "cores": core_count(),
        "memory_gib": round(memory_bytes() / 2**30, 1),
        "cpu_features": sorted(cpu_features()),
        "gpu": gpu_name() if device != "cpu" else None,
        "dtype": dtype.value,
        "dtype_reason": dtype.reason,
    }
