"""transformers.Trainer, with what is ours in place: a method's loss, batches of similar length, a time instead of steps."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .dataset import LengthGroupedSampler
from .supervised import Method, plain

SHORT = 256  # tokens of a row
MOST_BYTES = 2**29  # of attention scores


@contextlib.contextmanager
def attention_for(model: Any, batch_size: int, longest: int) -> Iterator[None]:
    """Within it, attention is computed the way that is faster for batches of `batch_size` rows of up to `longest` tokens.

    On a CPU that is plain matrix products as long as rows are short: PyTorch's fused attention, made for long rows and
    little memory, took 2.5 to 5 times as long forward and backward at 64 to 192 tokens. Products keep a table of scores for
    every head of every layer, so they are left alone where those would be large. The result is the same within rounding.
    """
    inner = plain(model)
    before = inner.config._attn_implementation
    # a score, its probability in float32 and in bfloat16, and the two gradients on the way back
    tables = 10 * batch_size * longest**2 * inner.config.num_attention_heads * inner.config.num_hidden_layers
    # fused attention knows no soft cap, and which of the two a model has been trained with is not ours to change
    capped = getattr(inner.config, "attn_logit_softcapping", None)
    if inner.device.type == "cpu" and before == "sdpa" and longest <= SHORT and tables <= MOST_BYTES and not capped:
        inner.set_attn_implementation("eager")
    try:
        yield
    finally:
        inner.set_attn_implementation(before)


class Clock:
    """The learning rate of a run that is given a time instead of a number of steps: it warms up and falls along half a
    cosine as the others do, by the share of the time that has passed."""

    def __init__(self, seconds: float, warmup_share: float):
        self.seconds, self.warmup_share, self.started = seconds, warmup_share, 0.0

    def start(self) -> None:
        self.started = time.perf_counter()

    @property
    def share(self) -> float:
        """How much of the time has passed, 0 before the start."""
        return (time.perf_counter() - self.started) / self.seconds if self.started else 0.0

    def rate(self, _step: int = 0) -> float:
        """The factor of the learning rate, 0 to 1."""
        share = min(self.share, 1.0)
        if share < self.warmup_share:
            return share / self.warmup_share
        return 0.5 * (1 + math.cos(math.pi * (share - self.warmup_share) / (1 - self.warmup_share)))


def trainer_class() -> type:
    """The subclass, made when it is asked for: transformers takes seconds to import."""
    import torch
    from transformers import Trainer

    class SupervisedTrainer(Trainer):
        """Averages over the supervised tokens of the whole optimizer step, so that neither padding nor gradient
        accumulation changes the gradient."""

        lengths: Sequence[int] = ()
        method = Method()
        clock: Clock | None = None
        score: Callable[[], float] = staticmethod(lambda: 0.0)

        def __init__(self, *args: Any, **options: Any):
            super().__init__(*args, **options)
            self.model_accepts_loss_kwargs = True  # asks the Trainer to count labels over the whole step
            self.loss_is_scaled_for_ga = True
            self.tokens_seen = 0

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            loss, count = self.method.loss(model, inputs)
            # a tensor until it is asked for: for a number, a GPU would have to finish first
            self.tokens_seen = self.tokens_seen + inputs["attention_mask"].sum()
            # the gradients of processes are averaged, so each scales its share up again
            return loss * self.accelerator.num_processes / (num_items_in_batch or count)

        def get_batch_samples(self, epoch_iterator, num_batches, device):
            batches, count = super().get_batch_samples(epoch_iterator, num_batches, device)
            changed = self.method.before_step(self.model, batches, self.state.global_step)
            if changed is not batches:  # new answers have other lengths
                count = self._get_num_items_in_batch(changed, device)
            return changed, count

        def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
            """The Trainer keeps the checkpoint with the best of these, and its callback counts those that are not."""
            found = {f"{metric_key_prefix}_score": self.score()}
            self.log(found)
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
            return found

        def create_scheduler(self, num_training_steps, optimizer=None):
            if self.clock is None:
                return super().create_scheduler(num_training_steps, optimizer)
            stepped: Any = optimizer or self.optimizer
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(stepped, self.clock.rate)
            self._created_lr_scheduler = True
            return self.lr_scheduler

        def save_model(self, output_dir=None, _internal_call=False):
            super().save_model(output_dir, _internal_call)
            if self.method.learned is not None and self.args.should_save:  # an adapter's checkpoint would lack it
                folder = Path(str(output_dir or self.args.output_dir))
                torch.save(self.method.learned.state_dict(), folder / "learned.pt")

        def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            if self.method.learned is not None:
                self.method.learned.load_state_dict(torch.load(Path(resume_from_checkpoint) / "learned.pt"))

        def _get_train_sampler(self, *_):
            processes = self.accelerator.num_processes
            even = self.args.per_device_train_batch_size * processes if processes > 1 else 1
            return LengthGroupedSampler(self.lengths, self.get_total_train_batch_size(self.args), self.args.seed, even)

    return SupervisedTrainer
