"""What a model costs to run, measured from outside: seconds, requests a second, memory, disk, dollars, users.

A local model is loaded in a process of its own; a model behind an endpoint is asked through HTTP, also from a process of
its own. Run as `python -m slmops_utils.evaluate.measure MODEL < request.json`; `measure` below does that.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from ..synthesize.answer import Prompt
from ..synthesize.presets import PREFIX, find_endpoint

TIMED = 12
BATCH_SIZES = (1, 4, 16)
MOST_USERS = 256  # of a model on this machine
MOST_USERS_ELSEWHERE = 64  # of a hosted endpoint, which bills each request

# one wave: so many requests sent at the same moment -> (seconds, prompt tokens, completion tokens) of each
Wave = Callable[[list[Prompt]], list[tuple[float, int, int]]]


def measure(
    model: str,
    prompts: Sequence[Prompt],
    max_new_tokens: int,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    within_s: float = 2.0,
    most_users: int | None = None,
    price_per_hour: float | None = None,
    price_per_token: tuple[float, float] | None = None,
    file: str | Path | None = None,
) -> dict[str, Any]:
    """Measure a model given by name, folder or `endpoint:MODEL@WHERE`, once warm. The answer holds

    - "first_token_ms", "latency_ms": {"p50", "p95"} of one request at a time, until its first token and until its end;
    - "throughput_by_batch": {size: requests a second} when so many requests come at the same moment, and
      "throughput_per_s", the one at the largest of `batch_sizes`;
    - "concurrent_users": {"users", "within_s", "at_least"}: the largest number of requests sent at the same moment, out of
      1, 2, 4 … `most_users` (256 on this machine, 64 elsewhere), of which 95 % are answered whole within `within_s`
      seconds (users who never pause, so a lower bound); "at_least" says that more were not tried. A local model answers a wave as one batch;
    - "peak_memory_bytes": of the fresh process after the largest batch; of an endpoint on this machine, the most its
      serving process has held so far; "bytes_on_disk" and "parameters" (of `file`, the file or folder that an endpoint
      serves). None where nobody can know;
    - "tokens_per_request": mean [prompt, completion], and "cost_per_1k_usd": of 1,000 requests, from `price_per_token`
      (US dollars per million tokens in, out; for an endpoint its list price unless stated), else from `price_per_hour`
      of the machine and the throughput; None without a price.

    A hosted endpoint is asked a few dozen to some two hundred times, which it bills. Prompts are used over again
    where there are too few, and a server that caches prompts then looks quicker than it is. Raises RuntimeError with the
    process's last words if it fails.
    """
    if most_users is None:
        hosted = model.startswith(PREFIX) and not find_endpoint(model).local
        most_users = MOST_USERS_ELSEWHERE if hosted else MOST_USERS
    most = max(most_users, *batch_sizes, TIMED)
    request = {"prompts": list(prompts[:most]), "max_new_tokens": max_new_tokens, "batch_sizes": list(batch_sizes),
               "within_s": within_s, "most_users": most_users}  # fmt: skip
    command = [sys.executable, "-m", "slmops_utils.evaluate.measure", model]
    done = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, timeout=1800)
    if done.returncode:
        raise RuntimeError(f"measuring {model} failed: {done.stderr.strip().splitlines()[-1:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    if file is not None:
        found["parameters"], found["bytes_on_disk"] = weigh(file)
    if model.startswith(PREFIX) and price_per_token is None and price_per_hour is None:
        listed = find_endpoint(model).price
        price_per_token = (listed.input, listed.output) if listed and (listed.input or listed.output) else None
    found["cost_per_1k_usd"] = cost_per_1k(found, price_per_hour, price_per_token)
    return found


def cost_per_1k(
    measured: dict[str, Any],
    price_per_hour: float | None = None,
    price_per_token: tuple[float, float] | None = None,
) -> float | None:
    """US dollars for 1,000 requests: by the token where a price per million tokens (in, out) is stated, else by the hour."""
    if price_per_token and measured.get("tokens_per_request"):
        dollars = sum(price * n for price, n in zip(price_per_token, measured["tokens_per_request"], strict=True))
        return float(f"{1000 * dollars / 1e6:.4g}")
    # a fast small model costs fractions of a cent: digits are cut, not places
    return float(f"{1000 * price_per_hour / 3600 / measured['throughput_per_s']:.4g}") if price_per_hour else None


def weigh(path: str | Path) -> tuple[int | None, int]:
    """Parameters (None where the format does not say) and bytes of a GGUF file, or bytes of all files of a folder."""
    path = Path(path)
    if path.suffix != ".gguf":
        return None, sum(
            f.stat().st_size for f in path.rglob("*") if f.is_file()
        ) if path.is_dir() else path.stat().st_size
    from gguf import GGUFReader

    return sum(int(tensor.n_elements) for tensor in GGUFReader(path).tensors), path.stat().st_size


def peak_memory_bytes(pid: int | None = None) -> int:
    """The most memory a process (this one without `pid`) has held, in bytes.

    On Linux from VmHWM: getrusage's ru_maxrss starts at what the parent process held when it was forked, so that a
    student measured from a process holding its teacher would seem as large as the teacher. Elsewhere, of another process
    only what it holds now is known.
    """
    if sys.platform == "linux":
        with open(f"/proc/{pid or 'self'}/status", encoding="utf-8") as status:
            return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    import psutil

    if pid is not None or sys.platform == "win32":
        memory = psutil.Process(pid).memory_info()
        return getattr(memory, "peak_wset", memory.rss)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def server_memory_bytes(port: int) -> int | None:
    """Peak memory of the process that listens on a port of this machine, its child processes included; None if unseen."""
    import psutil

    try:
        listening = {
            c.pid for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.laddr.port == port
        }
        pid = next(pid for pid in listening if pid)
        return sum(
            peak_memory_bytes(p.pid) for p in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        )
    except (psutil.Error, StopIteration, OSError):
        return None


def run_waves(
    request: dict[str, Any], first: Callable[[Prompt], tuple[float, float]], wave: Wave, memory: Callable
) -> dict:
    """Time single requests, then waves of them. `first(prompt)` gives seconds to the first token and to the end."""
    prompts = request["prompts"]
    if not prompts:
        raise SystemExit("there are no prompts to time")
    wave(prompts[:1])  # warm up
    first(prompts[0])
    timed = [first(prompt) for prompt in islice(cycle(prompts), TIMED)]
    speed: dict[int, float] = {}
    ends: dict[int, float] = {}
    tokens: list[tuple[int, int]] = []

    def send(n: int) -> None:
        if n not in ends:
            asked = prompts[-n:] if len(prompts) >= n else list(islice(cycle(prompts), n))
            answers = wave(asked)
            ends[n] = _percentile([seconds for seconds, *_ in answers], 95)
            speed[n] = n / max(seconds for seconds, *_ in answers)
            tokens.extend((used_in, used_out) for _, used_in, used_out in answers)

    for size in sorted(request["batch_sizes"]):
        send(size)
    peak = memory()
    users, level = 0, 1
    while level <= request["most_users"]:
        send(level)
        if ends[level] > request["within_s"]:
            break
        users, level = level, 2 * level
    return {
        "first_token_ms": _spread([seconds for seconds, _ in timed]),
        "latency_ms": _spread([seconds for _, seconds in timed]),
        "throughput_by_batch": {str(n): round(speed[n], 2) for n in sorted(request["batch_sizes"])},
        "throughput_per_s": round(speed[max(request["batch_sizes"])], 2),
        "concurrent_users": {"users": users, "within_s": request["within_s"], "at_least": level > request["most_users"]},
        "peak_memory_bytes": peak,
        "tokens_per_request": [round(sum(column) / len(tokens), 1) for column in zip(*tokens, strict=True)],
    }  # fmt: skip


def _percentile(values: list[float], share: float) -> float:
    """The nearest rank: a value that was measured, never one between two."""
    return sorted(values)[min(len(values) - 1, round(share / 100 * len(values)))]


def _spread(seconds: list[float]) -> dict[str, float]:
    return {f"p{share}": round(1000 * _percentile(seconds, share), 1) for share in (50, 95)}


def _local(name: str, request: dict[str, Any]) -> dict[str, Any]:
    from ..models.load import bytes_on_disk, load_model
    from ..synthesize.answer import Sampling, answer

    loaded, sampling = load_model(name), Sampling(max_new_tokens=request["max_new_tokens"])

    def first(prompt: Prompt) -> tuple[float, float]:
        started = time.perf_counter()
        answer(loaded, [prompt], Sampling(max_new_tokens=1))
        to_first = time.perf_counter() - started
        answer(loaded, [prompt], sampling)
        return to_first, time.perf_counter() - started - to_first

    def wave(prompts: list[Prompt]) -> list[tuple[float, int, int]]:
        started = time.perf_counter()
        answers = answer(loaded, prompts, sampling, batch_size=len(prompts))
        seconds = time.perf_counter() - started
        return [(seconds, a.prompt_tokens, a.completion_tokens) for a in answers]

    found = run_waves(request, first, wave, peak_memory_bytes)
    return found | {"parameters": loaded.parameters or None, "bytes_on_disk": bytes_on_disk(name)}


def _main() -> None:
    request = json.loads(sys.stdin.read())
    if sys.argv[1].startswith(PREFIX):
        from .served import measure_served as run
    else:
        run = _local
    print(json.dumps(run(sys.argv[1], request)))


if __name__ == "__main__":
    _main()
