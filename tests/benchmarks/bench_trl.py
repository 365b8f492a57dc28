"""Our training against TRL's, on the same 6-layer student, rows, batch and precision; called from bench.py.

Every row is taken once an epoch on both sides, so both work through the same tokens. Gradient checkpointing, TRL's default,
is off on both sides: it would only slow TRL down. Peak memory is each side's own, in a fresh process:

    python tests/benchmarks/bench_trl.py memory SIDE        SIDE: sft, gkd, ours_text, ours_soft
    python tests/benchmarks/bench_trl.py growth ROWS
"""

import contextlib
import copy
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from slmops_utils.classroom.doctor import matmul_gflops
from slmops_utils.distill.dataset import Row, collate, encode_rows
from slmops_utils.distill.methods import make_method
from slmops_utils.distill.train import TrainSettings, train
from slmops_utils.evaluate.measure import peak_memory_bytes
from slmops_utils.models.carve import shrink
from slmops_utils.models.load import LoadedModel, load_model
from slmops_utils.records import Example, read_records
from slmops_utils.tasks import get_task

BATCH, LAYERS, EPOCHS = 16, 6, 3
STEPS_SFT, STEPS_GKD = 6, 2  # of BATCH rows; TRL takes 10 to 20 seconds for one on two cores
LONG, ANSWER = 512, 64  # tokens of a row whose memory is measured, and how many of them are its answer


def columns(rows: Sequence[Row]) -> Any:
    """The rows as TRL takes them when they are tokenised already."""
    from datasets import Dataset

    labels = [[-100] * row.prompt_length + row.ids[row.prompt_length :] for row in rows]
    return Dataset.from_dict({"input_ids": [row.ids for row in rows], "labels": labels})


def trl_trainer(
    student: LoadedModel, rows: Sequence[Row], out: str, epochs: float, teacher: LoadedModel | None, liger: bool = False
) -> Any:
    """TRL's SFTTrainer, or with a teacher its GKDTrainer, which then never samples (off-policy, forward KL)."""
    options = {
        "output_dir": out, "num_train_epochs": epochs, "per_device_train_batch_size": BATCH, "learning_rate": 5e-4,
        "gradient_checkpointing": False, "bf16": student.dtype == "bfloat16", "use_cpu": not torch.cuda.is_available(),
        "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "max_length": 1024, "logging_steps": 1000,
        "use_liger_kernel": liger,
    }  # fmt: skip
    model = student.model.float()
    if teacher is None:
        from trl import SFTConfig, SFTTrainer

        return SFTTrainer(model, SFTConfig(**options), train_dataset=columns(rows), processing_class=student.tokenizer)
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    def collator(batch: list[dict[str, list[int]]]) -> dict[str, Any]:
        pad = student.tokenizer.pad_token_id
        return collate([Row(r["input_ids"], r["labels"].count(-100)) for r in batch], pad)

    config = GKDConfig(**options, lmbda=0.0, beta=0.0, temperature=1.0)
    return GKDTrainer(model, teacher.model, config, data_collator=collator, train_dataset=columns(rows),
                      processing_class=student.tokenizer)  # fmt: skip


def trl_seconds(
    student: LoadedModel, rows: Sequence[Row], epochs: float, teacher: LoadedModel | None = None, liger: bool = False
) -> float:
    with tempfile.TemporaryDirectory() as out, contextlib.redirect_stdout(io.StringIO()):
        trainer = trl_trainer(copy.deepcopy(student), rows, out, epochs, teacher, liger)
        started = time.perf_counter()
        trainer.train()
        return time.perf_counter() - started


def our_seconds(
    student: LoadedModel,
    rows: Sequence[Row],
    epochs: float,
    teacher: LoadedModel | None = None,
    cache: str | None = None,
) -> tuple[float, float]:
    """Seconds for the teacher's soft targets, and seconds of training; checkpoints off, as on the other side."""
    settings = TrainSettings(epochs=epochs, batch_size=BATCH, save_steps=0, method="forward_kl" if teacher else "text")
    student = copy.copy(student)
    student.model = copy.deepcopy(student.model)
    with tempfile.TemporaryDirectory() as out, contextlib.redirect_stdout(io.StringIO()):
        started = time.perf_counter()
        method = make_method(settings, student, teacher, rows, cache or f"{out}/soft_targets")
        making = time.perf_counter() - started
        return making, train(student, rows, out, settings, method=method).seconds


def students(parent: LoadedModel, examples: Sequence[Example]) -> dict[str, tuple[LoadedModel, list[Row]]]:
    """The same 6 layers with the whole vocabulary and with a trimmed one, each with the rows in its own tokens."""
    texts = [m["content"] for e in examples for m in get_task(e.task).prompt(e)]
    texts += [get_task(e.task).target(e) for e in examples] + ["system\nuser\nassistant\n"]
    found = {}
    for name, vocabulary in (("", None), ("_trimmed", texts)):
        student = shrink(parent, LAYERS, "early", vocabulary)
        found[name] = student, encode_rows(examples, student.tokenizer)[0]
    return found


def flops_per_token(student: LoadedModel, rows: Sequence[Row]) -> float:
    """Of a training step: 6 for each weight a token meets in a matrix product; only supervised ones meet the output layer.
    Attention's own products are left out."""
    body = sum(p.numel() for p in student.model.get_decoder().layers.parameters() if p.dim() == 2)
    head = student.model.get_output_embeddings().weight.numel()
    supervised = sum(row.supervised for row in rows) / sum(len(row.ids) for row in rows)
    return 6 * (body + head * supervised)


def training(parent: LoadedModel, line: Any) -> dict[str, Any]:
    """`line` makes an entry of the table, see bench.py."""
    examples = list(islice(read_records("data/nli/train.jsonl"), BATCH * STEPS_SFT))
    both = students(parent, examples)
    whole, whole_rows = both[""]
    few = whole_rows[: BATCH * STEPS_GKD]
    tokens, few_tokens = (sum(len(row.ids) for row in rows) for rows in (whole_rows, few))
    short = [Row(row.ids[:8] + row.ids[-8:], 8, row.id) for row in whole_rows[:BATCH]]
    for teacher in (None, parent):  # each side's first step loads and prepares a good deal
        trl_seconds(whole, short, 1, teacher)
        our_seconds(whole, short, 1, teacher)
    sft = tokens / trl_seconds(whole, whole_rows, 1)
    gkd = EPOCHS * few_tokens / trl_seconds(whole, few, EPOCHS, parent)
    peak, results = matmul_gflops(), {}
    for name, (student, rows) in both.items():
        our_seconds(student, rows[:BATCH], 1)  # the first step of a shape is slow
        seconds = min(sum(our_seconds(student, rows, 1)) for _ in range(3))
        results[f"finetune{name}_vs_trl_sft"] = line(
            tokens / seconds, "tokens/s", "TRL SFTTrainer, full vocabulary", sft
        )
        soft = sum(our_seconds(student, rows[: len(few)], EPOCHS, parent))
        results[f"soft_targets{name}_vs_trl_gkd"] = line(
            EPOCHS * few_tokens / soft, f"tokens/s, {EPOCHS} epochs", "TRL GKDTrainer, full vocabulary", gkd
        )
        share = flops_per_token(student, rows) * tokens / seconds / 1e9 / peak
        results[f"matmul_peak_share{name}"] = line(share, "of the measured matmul peak", "aim", 0.45)
        results[f"soft_targets{name}_cost_over_text"] = cost_over_text(student, rows, parent, line)
    return results


def cost_over_text(student: LoadedModel, rows: Sequence[Row], teacher: LoadedModel, line: Any) -> dict[str, Any]:
    """What a step costs more once the teacher's answers are there: the better of three runs each, taken in turn."""
    with tempfile.TemporaryDirectory() as cache:
        our_seconds(student, rows[:BATCH], 1, teacher, cache)
        our_seconds(student, rows, 1, teacher, cache)
        pairs = [(our_seconds(student, rows, 1)[1], our_seconds(student, rows, 1, teacher, cache)[1]) for _ in range(3)]
    text, soft = (min(side) for side in zip(*pairs, strict=True))
    return line(soft / text - 1, "more seconds than text", "aim, at most", 0.10, higher_is_better=False)


def child(*arguments: str) -> dict[str, float]:
    """What this file prints when it is run with these arguments, in a process of its own."""
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def memory(line: Any) -> dict[str, Any]:
    peaks = {side: child("memory", side)["peak_mib"] for side in ("sft", "gkd", "ours_text", "ours_soft")}
    unit, results = f"MiB, rows of {LONG} tokens", {}
    for name, ours, theirs in (
        ("peak_memory_vs_trl", "ours_text", "sft"),
        ("peak_memory_soft_targets_vs_trl_gkd", "ours_soft", "gkd"),
    ):
        results[name] = line(peaks[ours], unit, f"TRL {theirs.upper()}", peaks[theirs], higher_is_better=False)
    return results


def growth(line: Any) -> dict[str, Any]:
    """Of everything but the model: rows, soft targets and training of a tiny one, 16 times as many rows."""
    small, large = child("growth", "500"), child("growth", "8000")
    return {
        "seconds_per_row_8000_vs_500": line(1e3 * large["seconds"] / 8000, "ms a row", "500 rows",
                                            1e3 * small["seconds"] / 500, higher_is_better=False),
        "memory_8000_vs_500_rows": line(large["peak_mib"], "MiB", "500 rows", small["peak_mib"], higher_is_better=False),
    }  # fmt: skip


def long_rows(count: int) -> list[Row]:
    """Rows of LONG tokens drawn at random, the last ANSWER of them to be learned."""
    ids = torch.randint(100, 40_000, (count, LONG), generator=torch.Generator().manual_seed(0)).tolist()
    return [Row(row, LONG - ANSWER, f"r{i}") for i, row in enumerate(ids)]


def run_memory(side: str) -> dict[str, float]:
    """Two steps of long rows, the second with the optimizer's state in memory."""
    parent = load_model("embedded")
    student = shrink(parent, LAYERS, "early")
    rows = long_rows(2 * BATCH)
    teacher = parent if side in ("gkd", "ours_soft") else None
    if teacher is None:
        del parent
    if side.startswith("ours"):
        our_seconds(student, rows, 1, teacher)
    else:
        trl_seconds(student, rows, 1, teacher)
    return {"peak_mib": peak_memory_bytes() / 2**20}


def run_growth(count: int) -> dict[str, float]:
    """An epoch over so many short rows, soft targets included, with a model too small to matter."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = load_model("embedded").tokenizer
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                         num_attention_heads=2, num_key_value_heads=2, pad_token_id=tokenizer.pad_token_id)  # fmt: skip
    teacher, student = (
        LoadedModel("tiny", LlamaForCausalLM(config).eval(), tokenizer, "float32", "") for _ in range(2)
    )
    examples = [
        Example(f"r{i}", "nli", [{"role": "user", "content": f"Is row {i} odd?"}], ("no", "yes")[i % 2])
        for i in range(count)
    ]
    rows, _ = encode_rows(examples[:BATCH], tokenizer)
    our_seconds(student, rows, 1, teacher)
    started = time.perf_counter()
    rows, _ = encode_rows(examples, tokenizer)
    our_seconds(student, rows, 1, teacher)
    return {"seconds": time.perf_counter() - started, "peak_mib": peak_memory_bytes() / 2**20}


def on_gpu(parent: LoadedModel, line: Any) -> dict[str, Any]:
    """Fine-tuning at the shapes of Qwen3-0.6B with random weights; TRL with Liger's kernels where they are installed."""
    from importlib.util import find_spec

    from transformers import Qwen3Config, Qwen3ForCausalLM

    shapes = Qwen3Config(hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16,
                         num_key_value_heads=8, head_dim=128, vocab_size=151_936, tie_word_embeddings=True)  # fmt: skip
    student = LoadedModel("qwen3-0.6b shapes", Qwen3ForCausalLM(shapes).to("cuda"), parent.tokenizer, "bfloat16", "")
    rows, liger = long_rows(10 * BATCH), find_spec("liger_kernel") is not None
    our_seconds(student, rows[: 2 * BATCH], 1)
    ours = sum(our_seconds(student, rows, 1))
    trl_seconds(student, rows[: 2 * BATCH], 1, liger=liger)
    theirs = trl_seconds(student, rows, 1, liger=liger)
    tokens = sum(len(row.ids) for row in rows)
    peer = f"TRL SFTTrainer, {'Liger kernels' if liger else 'without Liger'}, {torch.cuda.get_device_name()}"
    return {"finetune_gpu_vs_trl_sft": line(tokens / ours, "tokens/s, Qwen3-0.6B shapes", peer, tokens / theirs)}


def compare_with_trl(parent: LoadedModel, line: Any) -> dict[str, Any]:
    found = training(parent, line) | memory(line) | growth(line)
    return found | on_gpu(parent, line) if torch.cuda.is_available() else found


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    what, argument = sys.argv[1:]
    print(json.dumps(run_memory(argument) if what == "memory" else run_growth(int(argument))))
