"""Our training step beside transformers.Trainer as it comes, on the same rows, batch and precision."""

import tempfile
import time
from itertools import islice
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

from slmops_utils.distill.dataset import collate, encode_rows
from slmops_utils.distill.train import TrainSettings, train
from slmops_utils.models.carve import shrink
from slmops_utils.models.load import LoadedModel
from slmops_utils.records import read_records
from slmops_utils.tasks import get_task

STEPS, BATCH = 12, 16


def ours(student: LoadedModel, rows: list) -> float:
    """Tokens a second of our training, checkpoints off."""
    with tempfile.TemporaryDirectory() as out:
        return train(student, rows, out, TrainSettings(max_steps=STEPS, batch_size=BATCH, save_steps=0)).tokens_per_s


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


def bench(parent: LoadedModel, line: Any) -> dict:
    """A six-layer student with the full vocabulary in both, then ours with the vocabulary its data need."""
    examples = list(islice(read_records("data/nli/train.jsonl"), STEPS * BATCH))
    texts = [m["content"] for e in examples for m in get_task(e.task).prompt(e)]
    results, theirs = {}, 0.0
    for name, vocabulary in (("full_vocabulary", None), ("trimmed", [*texts, "system\nuser\nassistant\n"])):
        student = shrink(parent, 6, vocabulary_from=vocabulary)
        rows, _ = encode_rows(examples, student.tokenizer)
        theirs = theirs or plain_trainer(shrink(parent, 6), rows)
        speed = ours(student, rows)
        peer = "transformers.Trainer, full vocabulary"
        results[f"finetune_{name}_vs_plain_trainer"] = line(speed, "tokens/s", peer, theirs)
    return results
