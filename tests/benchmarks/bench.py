"""Print the benchmark table and write build/bench.json: `make bench`, about fifteen minutes on two cores.

Each line is {"value", "unit", "peer", "peer_value", "ratio"}; a ratio over 1 means we are better. Both sides run in this
process, one after the other, on the same rows, weights, batch and precision.
"""

import json
import tempfile
import time
import tracemalloc
from itertools import islice
from pathlib import Path

from bench_endpoint import bench
from bench_trl import compare_with_trl

from slmops_utils.models.hardware import describe
from slmops_utils.models.load import LoadedModel, load_model
from slmops_utils.records import Example, read_records, write_records
from slmops_utils.synthesize.answer import Sampling, answer
from slmops_utils.tasks import get_task


def line(value: float, unit: str, peer: str, peer_value: float, higher_is_better: bool = True) -> dict:
    ratio = value / peer_value if higher_is_better else peer_value / value
    return {
        "value": round(value, 3),
        "unit": unit,
        "peer": peer,
        "peer_value": round(peer_value, 3),
        "ratio": round(ratio, 2),
    }


def generation(teacher: LoadedModel, examples: list) -> dict:
    prompts = [get_task(e.task).prompt(e) for e in examples]
    sampling, rates = Sampling(max_new_tokens=64), {}
    for batch_size, count in ((1, 6), (32, 32)):
        started = time.perf_counter()
        answers = answer(teacher, prompts[:count], sampling, batch_size)
        rates[batch_size] = sum(a.completion_tokens for a in answers) / (time.perf_counter() - started)
    return {
        "generate_vs_transformers_batch1": line(
            rates[32], "answer tokens/s", "transformers.generate, batch 1", rates[1]
        )
    }


def memory() -> dict:
    """Peak Python memory of streaming 50,000 records, against 1,000."""
    peaks = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in (1_000, 50_000):
            path = Path(folder) / f"{count}.jsonl"
            write_records(
                path,
                (
                    Example(f"r{i}", "nli", [{"role": "user", "content": f"row {i} " * 40}], "neutral")
                    for i in range(count)
                ),
            )
            tracemalloc.start()
            for _ in read_records(path):
                pass
            peaks[count] = tracemalloc.get_traced_memory()[1] / 2**20
            tracemalloc.stop()
    return {
        "memory_50000_vs_1000_records": line(
            peaks[50_000], "MiB", "1,000 records", peaks[1_000], higher_is_better=False
        )
    }


def main() -> None:
    parent = load_model("embedded")
    conversations = list(islice(read_records("data/conversation/pool.jsonl"), 32))
    results = memory() | bench() | generation(parent, conversations) | compare_with_trl(parent, line)
    print(json.dumps(describe()))
    for name, entry in results.items():
        print(
            f"{name:<40} {entry['value']:>10,.2f} {entry['unit']:<28} {entry['peer']}: {entry['peer_value']:,.2f}  ({entry['ratio']:.2f} x)"
        )
    Path("build").mkdir(exist_ok=True)
    Path("build/bench.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
