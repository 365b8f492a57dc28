"""Trains a folder's model in every way named, alone or under torchrun: in_parallel.py MODEL TEACHER OUT BATCH_SIZE METHOD..."""

import json
import sys
from pathlib import Path

import torch

from slmops_utils.distill.distill import distill
from slmops_utils.distill.train import TrainSettings
from slmops_utils.progress import is_main_process
from slmops_utils.records import Example

LABELS = ("entailment", "neutral", "contradiction")


def examples(count: int, explained: int = 0) -> list[Example]:
    """Of which so many have a rationale, each another row for step_by_step."""
    why = {"rationale": "The fee differs."}
    return [
        Example(f"t{i}", "nli", [{"role": "user", "content": f"Premise: {'fee ' * (7 * i % 11)}£{i}."}], LABELS[i % 3],
                extra=why if i < explained else {})
        for i in range(count)
    ]  # fmt: skip


def run(model: str, teacher: str, out: Path, batch_size: int, method: str) -> list[dict[str, float]]:
    # answers nearly greedy: among hundreds of tokens all equally likely, a rounding error now and then draws another one
    settings = TrainSettings(epochs=3, batch_size=batch_size, learning_rate=2e-3, method=method, top_k=8, sample_tokens=6,
                             sampling_temperature=0.02)  # fmt: skip
    rows = examples(21, explained=20) if method == "step_by_step" else examples(41)  # 41 rows either way
    report = distill(model, rows, out / method, settings, teacher=teacher)
    return report["losses"] + [{"tokens": report["tokens_per_s"], "steps": report["steps"]}]


if __name__ == "__main__":
    model, teacher, out, batch_size, *methods = sys.argv[1:]
    torch.set_num_threads(1)
    found = {method: run(model, teacher, Path(out), int(batch_size), method) for method in methods}
    if is_main_process():
        (Path(out) / "curves.json").write_text(json.dumps(found))
