"""Print the benchmark table and write build/bench.json: `make bench`, about five minutes on two cores.

Each line is {"value", "unit", "peer", "peer_value", "ratio"}; a ratio over 1 means we are better. Both sides run in this
process, one after the other, on the same rows, weights, batch and precision.
"""

import copy
import json
import tempfile
import time
import tracemalloc
from itertools import islice
from pathlib import Path

import torch
from bench_edge import bench as bench_edge
from bench_endpoint import bench
from transformers import Trainer, TrainingArguments

from slmops_utils.classroom.doctor import matmul_gflops
from slmops_utils.distill.dataset import collate, encode_rows
from slmops_utils.distill.train import TrainSettings, train
from slmops_utils.models.carve import shrink
from slmops_utils.models.hardware import describe
from slmops_utils.models.load import LoadedModel, load_model
from slmops_utils.records import Example, read_records, write_records
from slmops_utils.synthesize.answer import Sampling, answer
from slmops_utils.tasks import get_task

STEPS = 8
BATCH = 16


def line(value: float, unit: str, peer: str, peer_value: float, higher_is_better: bool = True) -> dict:
    ratio = value / peer_value if higher_is_better else peer_value / value
    return {
        "value": round(value, 3),
        "unit": unit,
        "peer": peer,
        "peer_value": round(peer_value, 3),
        "ratio": round(ratio, 2),
    }


def ours(student: LoadedModel, rows: list) -> float:
    """Tokens a second of our training, without the first steps' warm-up (checkpoints off)."""
    with tempfile.TemporaryDirectory() as out:
        return train(
            student, rows, out, TrainSettings(max_steps=STEPS, batch_size=BATCH, save_steps=10_000)
        ).tokens_per_s


def plain_trainer(student: LoadedModel, rows: list) -> float:
    """Tokens a second of transformers.Trainer as it comes: its own loss over every position, its own shuffling."""
    with tempfile.TemporaryDirectory() as out:
        arguments = TrainingArguments(
            out, max_steps=STEPS, per_device_train_batch_size=BATCH, learning_rate=5e-4, report_to="none", disable_tqdm=True,
            save_strategy="no", bf16=student.dtype == "bfloat16", use_cpu=not torch.cuda.is_available(), remove_unused_columns=False,
        )  # fmt: skip
        seen = []

        def collator(batch: list) -> dict:
            seen.append(sum(len(row.ids) for row in batch))
            return collate(batch, student.tokenizer.pad_token_id)

        trainer = Trainer(student.model.float(), arguments, train_dataset=rows, data_collator=collator)
        started = time.perf_counter()
        trainer.train()
        return sum(seen[:STEPS]) / (time.perf_counter() - started)


def training(parent: LoadedModel, examples: list) -> dict:
    texts = [m["content"] for e in examples for m in get_task(e.task).prompt(e)]
    results = {}
    for name, vocabulary in (("trimmed", [*texts, "system\nuser\nassistant\n"]), ("full_vocabulary", None)):
        student = shrink(parent, 6, vocabulary_from=vocabulary)
        rows, _ = encode_rows(examples, student.tokenizer)
        plain = shrink(parent, 6)
        plain_rows, _ = encode_rows(examples, plain.tokenizer)
        theirs = plain_trainer(plain, plain_rows)
        speed = ours(copy.deepcopy(student), rows)
        results[f"finetune_{name}_vs_plain_trainer"] = line(
            speed, "tokens/s", "transformers.Trainer, full vocabulary", theirs
        )
        body = sum(p.numel() for p in student.model.get_decoder().layers.parameters())
        share = 6 * body * speed / 1e9 / matmul_gflops()
        results[f"matmul_peak_share_{name}"] = line(share, "of the measured matmul peak", "aim", 0.45)
    return results


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
    examples = list(islice(read_records("data/nli/train.jsonl"), STEPS * BATCH))
    conversations = list(islice(read_records("data/conversation/pool.jsonl"), 32))
    results = memory() | bench() | bench_edge() | generation(parent, conversations) | training(parent, examples)
    print(json.dumps(describe()))
    for name, entry in results.items():
        print(
            f"{name:<40} {entry['value']:>10,.2f} {entry['unit']:<28} {entry['peer']}: {entry['peer_value']:,.2f}  ({entry['ratio']:.2f} x)"
        )
    Path("build").mkdir(exist_ok=True)
    Path("build/bench.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
