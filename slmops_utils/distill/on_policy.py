"""On-policy distillation (GKD, arXiv 2306.13649): the student writes answers itself, and the teacher, run beside it,
says of every token what it would have thought. So the student learns from the mistakes it makes, not only from the
text of somebody who makes none.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from ..models.align import teacher_ids
from ..models.load import LoadedModel, model_fingerprint
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
        self.end, self.pad = student.tokenizer.eos_token_id, student.tokenizer.pad_token_id
        ids = teacher_ids(teacher.tokenizer, student.tokenizer)
        self.mapping = torch.tensor(ids, device=teacher.model.device)
        self.divergence = partial(generalised_jsd, beta=settings.beta)

    def before_step(self, model: Any, batches: list[dict[str, Any]], step: int) -> list[dict[str, Any]]:
        """The batches of an optimizer step, with the student's own answers in the chosen rows.

        What is drawn depends on seed, step and batch alone, so a resumed run draws the same.
        """
        import torch

        fresh = []
        for number, batch in enumerate(batches):
            with torch.random.fork_rng():
                torch.manual_seed((self.settings.seed * 1_000_003 + step) * 1_000_003 + number)
                rows = rows_of(batch)
                chosen = torch.rand(len(rows)) < self.settings.on_policy_share
                chosen &= torch.tensor([row.supervised > 0 for row in rows])
                places = chosen.nonzero().flatten().tolist()
                if places:
                    prompts = [rows[i].ids[: rows[i].prompt_length] for i in places]
                    for i, answer in zip(places, self.sample(model, prompts), strict=True):
                        rows[i] = Row(rows[i].ids[: rows[i].prompt_length] + answer, rows[i].prompt_length)
            device = batch["input_ids"].device
            fresh.append({key: value.to(device) for key, value in collate(rows, self.pad).items()})
        return fresh

    def sample(self, model: Any, prompts: Sequence[list[int]]) -> list[list[int]]:
        """The student's answers as token ids, each with its end unless it ran into `settings.sample_tokens`."""
        import torch

        student, width = plain(model), max(map(len, prompts))
        # padding goes on the left, so that every answer starts at the same column
        ids = torch.tensor([[self.pad] * (width - len(p)) + p for p in prompts], device=student.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=student.device)
        training = student.training
        student.eval()
        with torch.no_grad():
            out = student.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=self.settings.sample_tokens, do_sample=True,
                temperature=self.settings.sampling_temperature, top_k=0, top_p=1.0, pad_token_id=self.pad,
                eos_token_id=self.end,
            )  # fmt: skip
        student.train(training)
        answers = out[:, width:].tolist()
        return [answer[: answer.index(self.end) + 1] if self.end in answer else answer for answer in answers]

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
