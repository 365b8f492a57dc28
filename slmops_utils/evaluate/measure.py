"""What a model costs to run, measured in a process of its own: latency, throughput, peak memory.

Run as `python -m slmops_utils.evaluate.measure MODEL < prompts.json`; `measure` below does that.
"""

import json
import subprocess
import sys
import time
from typing import Any

from ..synthesize.answer import Prompt

TIMED = 12
THROUGHPUT_BATCH = 16


def measure(model: str, prompts: list[Prompt], max_new_tokens: int) -> dict[str, Any]:
    """Latency of one request at a time, requests a second in batches, and peak memory of a fresh process.

    Returns {"latency_ms": {"p50", "p95"}, "throughput_per_s", "peak_memory_bytes", "parameters"}. Raises RuntimeError
    with the process's last words if it fails.
    """
    request = json.dumps({"prompts": prompts[: TIMED + THROUGHPUT_BATCH], "max_new_tokens": max_new_tokens})
    command = [sys.executable, "-m", "slmops_utils.evaluate.measure", model]
    done = subprocess.run(command, input=request, capture_output=True, text=True, timeout=900)
    if done.returncode:
        raise RuntimeError(f"measuring {model} failed: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout.splitlines()[-1])


def peak_memory_bytes() -> int:
    """The most memory this process has held, in bytes.

    On Linux from VmHWM: getrusage's ru_maxrss starts at what the parent process held when it was forked, so that a
    student measured from a process holding its teacher would seem as large as the teacher.
    """
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    if sys.platform == "linux":
        with open("/proc/self/status", encoding="utf-8") as status:
            return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def _main() -> None:
    from ..models.load import load_model
    from ..synthesize.answer import Sampling, answer

    request = json.loads(sys.stdin.read())
    loaded = load_model(sys.argv[1])
    sampling, prompts = Sampling(max_new_tokens=request["max_new_tokens"]), request["prompts"]
    answer(loaded, prompts[:2], sampling, batch_size=1)  # warm up
    latencies = []
    for prompt in prompts[:TIMED]:
        started = time.perf_counter()
        answer(loaded, [prompt], sampling)
        latencies.append(1000 * (time.perf_counter() - started))
    batch = prompts[-THROUGHPUT_BATCH:]
    started = time.perf_counter()
    answer(loaded, batch, sampling, batch_size=THROUGHPUT_BATCH)
    seconds = time.perf_counter() - started
    latencies.sort()
    print(
        json.dumps(
            {
                "latency_ms": {
                    "p50": round(latencies[len(latencies) // 2], 1),
                    "p95": round(latencies[min(len(latencies) - 1, round(0.95 * len(latencies)))], 1),
                },
                "throughput_per_s": round(len(batch) / seconds, 2),
                "peak_memory_bytes": peak_memory_bytes(),
                "parameters": loaded.parameters,
            }
        )
    )


if __name__ == "__main__":
    _main()
