"""Print the benchmark table and write build/bench.json: `make bench`, about twenty minutes on two cores.

Each line is {"value", "unit", "peer", "peer_value", "ratio"}; a ratio over 1 means we are better. Both sides run in this
process, one after the other, on the same rows, weights, batch and precision.
"""

import json
from pathlib import Path

from bench_edge import bench as bench_edge
from bench_endpoint import bench
from bench_generate import bench as bench_generate
from bench_scale import bench as bench_scale
from bench_trainer import bench as bench_trainer
from bench_trl import compare_with_trl

from slmops_utils.models.hardware import describe
from slmops_utils.models.load import load_model


def line(value: float, unit: str, peer: str, peer_value: float, higher_is_better: bool = True) -> dict:
    ratio = value / peer_value if higher_is_better else peer_value / value
    return {
        "value": round(value, 3),
        "unit": unit,
        "peer": peer,
        "peer_value": round(peer_value, 3),
        "ratio": round(ratio, 2),
    }


def main() -> None:
    parent = load_model("embedded")
    results = bench_trainer(parent, line) | bench_generate() | bench_scale() | bench() | bench_edge()
    results |= compare_with_trl(parent, line)
    print(json.dumps(describe()))
    for name, entry in results.items():
        print(
            f"{name:<40} {entry['value']:>10,.2f} {entry['unit']:<28} {entry['peer']}: {entry['peer_value']:,.2f}  ({entry['ratio']:.2f} x)"
        )
    Path("build").mkdir(exist_ok=True)
    Path("build/bench.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
