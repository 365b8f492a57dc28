"""On-policy distillation (GKD, arXiv 2306.13649): the student writes answers itself, and the teacher, run beside it,
says of every token what it would have thought. So the student learns from the mistakes it makes, not only from the
text of somebody who makes none.
"""

import math
import os
from collections.abc import Sequence
from functools import partial
from typing import Any

from ..models.align import teacher_ids
from ..models.load import LoadedModel, model_fingerprint
from ..synthesize.answer import Sampling, end_ids
from ..synthesize.choose import Choice
from .dataset import IGNORED, Row, collate
from .losses import generalised_jsd, in_chunks, softened, softened_loss
from .soft_targets import teacher_logits
from .supervised import Method, only_supervised, plain
from .train import TrainSettings


class OnPolicyMethod(Method):
    """Generalised JSD between teacher and student, on `settings.on_policy_share` of rows answered anew at every step.

    There is no term for the text: what the student wrote is no lesson in itself. Where its vocabulary was trimmed, the
    teacher's is cut to the same tokens, and scaled up to 1. The temperature of sampling is not that of the loss.
    """

    name = "on_policy"

    def __init__(self, teacher: LoadedModel, student: LoadedModel, settings: TrainSettings):
        """Raises DifferentTokenizers when tokens of the one are not tokens of the other."""
        import torch

        if teacher.model is student.model:
            raise ValueError("teacher and student are one model, which would learn from itself; load it twice")
        if not 0 <= settings.on_policy_share <= 1:
            raise ValueError(f"on_policy_share must lie between 0 and 1, not {settings.on_policy_share}")
        if settings.sampling_temperature <= 0:
            raise ValueError(f"sampling_temperature must be above 0, not {settings.sampling_temperature}")
        self.teacher, self.settings = teacher, settings
        self.identity = f"{model_fingerprint(teacher)}-{teacher.dtype}"
        # whatever ends an answer when the student is asked, and what closes every text that it is trained on
        self.ends = end_ids(student) | {student.tokenizer.eos_token_id}
        self.pad = student.tokenizer.pad_token_id
        ids = teacher_ids(teacher.tokenizer, student.tokenizer)
        self.mapping = torch.tensor(ids, device=teacher.model.device)
        self.divergence = partial(generalised_jsd, beta=settings.beta)

    def before_step(self, model: Any, batches: list[dict[str, Any]], step: int) -> list[dict[str, Any]]:
        """The batches of an optimizer step, with the student's own answers in the chosen rows.

        What is drawn depends on seed, step and a row's place among all rows of the step alone: a resumed run draws the
        same, and so do several processes and one with their batches joined.
        """
        rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        fresh = []
        for number, batch in enumerate(batches):
            rows = rows_of(batch)
            first = (number * processes + rank) * self.settings.batch_size  # processes take batches in turn
            lots = self.numbers(step, range(first, first + len(rows)), 0).drawn[:, 0] <= self.settings.on_policy_share
            chosen = [i for i, row in enumerate(rows) if lots[i] and row.supervised > 0]
            if chosen:
                prompts = [rows[i].ids[: rows[i].prompt_length] for i in chosen]
                answers = self.sample(model, prompts, self.numbers(step, [first + i for i in chosen], 1))
                for i, prompt, answer in zip(chosen, prompts, answers, strict=True):
                    rows[i] = Row(prompt + answer, len(prompt))
            device = batch["input_ids"].device
            fresh.append({key: value.to(device) for key, value in collate(rows, self.pad).items()})
        return fresh

    def numbers(self, step: int, places: Sequence[int], use: int) -> Choice:
        """The random numbers of the rows at these places of a step: whether one is answered (use 0), and how (use 1)."""
        seed = (2 * (self.settings.seed * 1_000_003 + step) + use) % 2**32
        return Choice(Sampling(self.settings.sample_tokens, self.settings.sampling_temperature, seed=seed), places)

    def sample(self, model: Any, prompts: Sequence[list[int]], choose: Choice) -> list[list[int]]:
        """The student's answers as token ids, each with its end unless it ran into `settings.sample_tokens`. Row i draws
        from the numbers `choose` has for it, whoever is answered beside it."""
        import torch
        from transformers import LogitsProcessorList

        student, width = plain(model), max(map(len, prompts))
        # padding goes on the left, so that every answer starts at the same column
        ids = torch.tensor([[self.pad] * (width - len(p)) + p for p in prompts], device=student.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=student.device)
        row = torch.arange(len(prompts), device=student.device)

        def draw(written: Any, logits: Any) -> Any:
            """Logits that leave the drawn token only: `generate` itself draws a whole batch from one stream of numbers."""
            token = choose(logits[:, : len(self.mapping)], row, torch.full_like(row, written.shape[1] - width))
            return torch.full_like(logits, -math.inf).scatter(1, token[:, None], 0.0)

        training = student.training
        student.eval()
        with torch.no_grad():
            out = student.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=self.settings.sample_tokens, do_sample=False,
                temperature=None, top_k=None, top_p=None, pad_token_id=self.pad, eos_token_id=sorted(self.ends),
                logits_processor=LogitsProcessorList([draw]),
            )  # fmt: skip
        student.train(training)
        answers = out[:, width:].tolist()
        ends = [next((i for i, token in enumerate(a) if token in self.ends), len(a)) for a in answers]
        return [answer[: end + 1] for answer, end in zip(answers, ends, strict=True)]

    def loss(self, model: Any, batch: dict[str, Any]) -> tuple[Any, int]:
        import torch

        with torch.no_grad():
            theirs = teacher_logits(self.teacher, batch, self.mapping)[:, self.mapping]
        with only_supervised(model, batch["labels"]) as targets:
            outputs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
        return in_chunks(self.per_token, outputs.logits, theirs), targets.numel()

    def per_token(self, ours: Any, theirs: Any) -> Any:
        """(N, output width), (N, V) -> (N,)."""
        temperature = self.settings.temperature
        student, teacher = softened(ours[:, : len(self.mapping)], temperature), softened(theirs, temperature)
        return softened_loss(self.divergence, teacher, student, temperature)


def rows_of(batch: dict[str, Any]) -> list[Row]:
    """The rows a batch was made of, without their padding."""
    rows = []
    for ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
        length = int(mask.sum())
        learned = (labels[:length] != IGNORED).nonzero()
        prompt = int(learned[0]) if len(learned) else length  # the first token that is trained on
        rows.append(Row(ids[:length].tolist(), prompt))
    return rows
