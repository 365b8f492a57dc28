"""What the network client costs over the bare SDK: CPU a request and memory, at concurrency 64 on a local server.

`python tests/benchmarks/bench_endpoint.py [requests]`, called by `make bench`. The server runs in a process of its own.
Each side is measured in a process of its own as well, so that neither profits from what the other left behind.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

CONCURRENCY = 64
WARM = 640  # requests before measuring: connections, imports, the SDK's types
SERVER = Path(__file__).parents[1] / "synthesize/server.py"


def prompt(i: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Premise: the fee is £5. Hypothesis: the fee is £{i}."}]


def resident() -> float:
    return psutil.Process().memory_info().rss / 2**20


def bare(url: str, count: int) -> dict[str, float]:
    """The SDK alone, 64 workers, nothing kept."""
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient

    async def work(client, rows) -> None:
        for i in rows:
            await client.chat.completions.create(model="teacher", messages=prompt(i), max_tokens=16, temperature=0.0)

    async def all() -> dict[str, float]:
        http = DefaultAsyncHttpxClient(trust_env=False)
        async with AsyncOpenAI(api_key="none", base_url=url, max_retries=0, http_client=http) as client:
            marks = []
            for size in (WARM, count):
                rows = iter(range(size))
                marks.append((time.process_time(), time.perf_counter(), resident()))
                await asyncio.gather(*(work(client, rows) for _ in range(CONCURRENCY)))
        return figures(marks[-1], count)

    return asyncio.run(all())


def ours(url: str, count: int) -> dict[str, float]:
    """The same requests through the journalled, budgeted client."""
    from slmops_utils.synthesize.answer import Sampling
    from slmops_utils.synthesize.budget import Caps
    from slmops_utils.synthesize.endpoint import Network, ask_endpoint
    from slmops_utils.synthesize.journal import Journal
    from slmops_utils.synthesize.presets import find_endpoint

    endpoint = find_endpoint(f"endpoint:teacher@{url}", (1.0, 2.0))
    with tempfile.TemporaryDirectory() as folder, Journal(Path(folder) / "j.jsonl") as book:
        for size in (WARM, count):
            prompts, keys = [prompt(i) for i in range(size)], [f"{size}-{i:032d}" for i in range(size)]
            start = (time.process_time(), time.perf_counter(), resident())
            tally = ask_endpoint(endpoint, prompts, keys, book, Sampling(16), Caps(dollars=100.0), Network(CONCURRENCY))
            assert (tally.answered, tally.stopped) == (size, None), tally
            result = figures(start, size)
    return result


def figures(start: tuple[float, float, float], count: int) -> dict[str, float]:
    return {
        "cpu_ms": (time.process_time() - start[0]) / count * 1000,
        "per_s": count / (time.perf_counter() - start[1]),
        "grown_mib": resident() - start[2],
    }


def bench(count: int = 10_000) -> dict[str, dict]:
    """Both sides, bare SDK first; lines in the form of build/bench.json."""
    server = subprocess.Popen([sys.executable, SERVER], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        sides = {}
        for side in ("bare", "ours"):
            done = subprocess.run([sys.executable, __file__, str(count), side, url], stdout=subprocess.PIPE, check=True)
            sides[side] = json.loads(done.stdout)
    finally:
        server.kill()
        server.wait()
    mine, peer = sides["ours"], sides["bare"]

    def line(name: str, unit: str, value: float, other: float, peer: str, ratio: float) -> dict:
        return {name: {"value": round(value, 3), "unit": unit, "peer": peer, "peer_value": round(other, 3), "ratio": round(ratio, 2)}}  # fmt: skip

    over = mine["cpu_ms"] - peer["cpu_ms"]
    return (
        line("endpoint_cpu_per_request", "ms CPU", mine["cpu_ms"], peer["cpu_ms"], "bare openai SDK", peer["cpu_ms"] / mine["cpu_ms"])
        | line("endpoint_cpu_over_bare_sdk", "ms CPU", over, 0.5, "aim", 0.5 / max(over, 1e-3))
        | line("endpoint_requests", "requests/s", mine["per_s"], peer["per_s"], "bare openai SDK", mine["per_s"] / peer["per_s"])
        | line(f"endpoint_memory_grown_in_{count}", "MiB", mine["grown_mib"], peer["grown_mib"], "bare openai SDK",
               max(peer["grown_mib"], 1.0) / max(mine["grown_mib"], 1.0))
    )  # fmt: skip


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    if len(sys.argv) > 2:
        print(json.dumps({"bare": bare, "ours": ours}[sys.argv[2]](sys.argv[3], count)))
    else:
        for name, entry in bench(count).items():
            print(
                f"{name:<40} {entry['value']:>10,.2f} {entry['unit']:<12} {entry['peer']}: {entry['peer_value']:,.2f}  ({entry['ratio']:.2f} x)"
            )
