"""Train a student with transformers.Trainer: checkpoints, resuming, distributed training and logging are its own.

What is ours: the loss is a method's (see supervised.py), computed only where there is something to learn, and averaged
over the supervised tokens of the whole optimizer step.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..models.load import LoadedModel, weights_fingerprint
from ..progress import in_notebook, is_main_process, progress_bar
from .dataset import Row, blank, collate
from .supervised import Method, supervised_loss
from .supervised import only_supervised as only_supervised  # notebooks take it from here
from .trainer import Clock, attention_for, trainer_class

ENDLESS = 10**7  # steps; the time ends such a run


@dataclass(frozen=True)
class TrainSettings:
    """What decides a training run, besides the start and the rows."""

    epochs: float = 3.0
    max_steps: int = -1  # overrides epochs when positive
    seconds: float = 0.0  # overrides both when positive: train for so long, however many steps that is
    batch_size: int = 16
    gradient_accumulation: int = 1
    learning_rate: float = 5e-4
    warmup_share: float = 0.05
    weight_decay: float = 0.01
    seed: int = 0
    lora_rank: int = 0  # 0 trains every weight
    lora_alpha: int = 32
    save_steps: int = 100  # between checkpoints; 0 keeps none, and a run that is killed begins anew
    patience: int = 0  # measures of the validation score without a better one that end a run early; 0: none does
    method: str = "text"  # what the student is graded by, see methods.py; those below matter to some methods only
    alpha: float = 0.5  # the weight of the text's own tokens beside the teacher; 0: teacher only, 1: text only
    temperature: float = 1.0  # softens teacher and student alike
    top_k: int = 32  # how many of the teacher's likeliest tokens are kept; the rest share one bucket
    beta: float = 0.5  # jsd and on_policy: towards 0 like forward_kl, towards 1 like reverse_kl
    skew: float = 0.1  # skewed_kl: how much of the teacher is mixed into the student
    layer_map: str = ""  # hidden, attention: "0:0,5:29" pairs the student's layers with the teacher's; "": evenly
    hidden_loss: str = "cosine"  # hidden: or "mse"
    attention_loss: str = "values"  # attention: or "maps"
    on_policy_share: float = 0.5  # on_policy: the share of rows the student answers itself
    sampling_temperature: float = 1.0  # on_policy: how freely it does; the loss has its own temperature
    sample_tokens: int = 64  # on_policy: the longest answer it may give
    rationale_weight: float = 0.5  # step_by_step: of the rationale task, beside 1 of the label task


@dataclass
class TrainResult:
    """What a run did. tokens_per_s counts the input tokens that are not padding, seconds this call's steps only."""

    steps: int
    seconds: float
    tokens_per_s: float
    losses: list[dict[str, float]]  # {"step", "loss"}, {"step", "validation_loss"} and {"step", "score"}
    resumed_from: int = 0  # the step of the checkpoint this call went on from
    best_step: int | None = None  # where the validation score was best; its weights are those that were kept
    best_score: float | None = None


def mean_loss(loaded: LoadedModel, rows: Sequence[Row], batch_size: int = 32) -> float:
    """Cross-entropy per supervised token, in nats, without training."""
    import torch

    model, total, count = loaded.model.eval(), 0.0, 0
    order = sorted(rows, key=lambda row: len(row.ids))
    with torch.inference_mode():
        for i in range(0, len(order), batch_size):
            batch = collate(order[i : i + batch_size], loaded.tokenizer.pad_token_id)
            loss, n = supervised_loss(model, {key: value.to(model.device) for key, value in batch.items()})
            total, count = total + loss.item(), count + n
    return total / count


def train(
    loaded: LoadedModel,
    rows: Sequence[Row],
    out: str | Path,
    settings: TrainSettings | None = None,
    validation: Sequence[Row] = (),
    validation_every: int = 0,
    on_log: Any = None,
    stop_after: int | None = None,
    method: Method | None = None,
    score: Callable[[LoadedModel], float] | None = None,
) -> TrainResult:
    """Train `loaded.model` in place. Under torchrun every process calls it alike, each with its share of every global batch
    of `batch_size` times processes times `gradient_accumulation` rows; the losses are those of one process. Kill it at any moment and call it again with the same arguments: it goes on from
    the last checkpoint under `out`/checkpoints and ends with the same weights.

    `stop_after` ends the run early, after so many steps in all, with the learning rate as the whole run would have it:
    called again without it, the run goes on from its last checkpoint. A run of `settings.seconds` keeps no checkpoint: its
    steps depend on the machine, and killed it begins anew. `method` is what batches are graded by: None for
    text, else what methods.make_method gives for `settings.method`. With a `score` (higher is better, such as
    validation.scorer's), the model is scored every `validation_every` steps, ends with the weights that scored best, and
    after `settings.patience` measures without a better one the run ends early. `on_log(values)` is called with each logged loss. The
    model is trained in float32, under bfloat16 autocast where `loaded.dtype` says so. Raises ValueError when there is
    nothing to train on, the method is not the settings', or it is not said when to score.
    """
    from transformers import EarlyStoppingCallback, TrainerCallback, TrainingArguments, set_seed
    from transformers.trainer_callback import PrinterCallback, ProgressCallback
    from transformers.utils import logging

    settings = settings or TrainSettings()
    if not rows:
        raise ValueError("nothing to train on: no example had a usable answer or label (see generate's finish reasons)")
    if silent := sum(row.supervised < 1 for row in rows):
        raise ValueError(f"{silent:,} of {len(rows):,} rows have no token to train on: their prompt is all there is")
    method = method or Method()
    if method.name != settings.method:
        raise ValueError(f"the settings say method {settings.method!r}, but batches would be graded by {method.name!r}")
    if (settings.patience and not score) or (score and (not validation_every or settings.seconds)):
        raise ValueError("stopping early takes a score, the number of steps after which it is measured "
                         "(validation_every), and no fixed time (seconds)")  # fmt: skip
    logging.set_verbosity_error()
    checkpoints = Path(out) / "checkpoints"
    set_seed(settings.seed)
    model = loaded.model.float()
    run_hash = _run_hash(loaded, settings, rows, method)
    if settings.lora_rank:
        from peft import LoraConfig, get_peft_model

        lora = LoraConfig(r=settings.lora_rank, lora_alpha=settings.lora_alpha, target_modules="all-linear",
                          lora_dropout=0.0, task_type="CAUSAL_LM")  # fmt: skip
        model = loaded.model = get_peft_model(model, lora)
    if method.learned is not None:
        model.learned = method.learned.to(model.device)  # as a part of the model it is optimised and synchronised
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=settings.epochs,
        max_steps=ENDLESS if settings.seconds else settings.max_steps,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup_share,  # below 1 it is a share of all steps
        lr_scheduler_type="cosine",
        weight_decay=settings.weight_decay,
        optim="adamw_torch_fused",
        bf16=loaded.dtype == "bfloat16",
        use_cpu=model.device.type == "cpu",
        seed=settings.seed,
        save_strategy="steps" if score or (settings.save_steps and not settings.seconds) else "no",
        save_steps=validation_every
        if score
        else settings.save_steps or ENDLESS,  # what scores best has to be there to go back to
        eval_strategy="steps" if score else "no",
        eval_steps=validation_every if score else None,
        load_best_model_at_end=score is not None,
        metric_for_best_model="score" if score else None,
        greater_is_better=True if score else None,
        restore_callback_states_from_checkpoint=bool(settings.patience),
        save_total_limit=2,
        logging_steps=5,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_num_workers=0,
        ddp_find_unused_parameters=False,
    )
    with arguments.main_process_first(local=False, desc="looking for checkpoints"):
        last = _last_checkpoint(checkpoints, run_hash)
    losses: list[dict[str, float]] = []
    clock = Clock(settings.seconds, settings.warmup_share) if settings.seconds else None

    class Watch(TrainerCallback):
        """Keeps the loss curve, moves the bar, and measures the validation loss."""

        def __init__(self) -> None:
            self.bar: Any = None

        def note(self, values: dict[str, float]) -> None:
            losses.append(values)
            if on_log:
                on_log(values)
            elif not in_notebook() and values["step"] % 50 == 0 and is_main_process():
                print("  ".join(f"{k} {v:.4g}" for k, v in values.items()), flush=True)

        def on_train_begin(self, args, state, control, **_):
            losses.extend(values for h in state.log_history if (values := logged(h["step"], h)))
            self.first_step = state.global_step
            self.bar = progress_bar(None if clock else state.max_steps, "training", "steps")
            self.bar.update(state.global_step)
            if clock:
                clock.start()

        def on_step_end(self, args, state, control, **_):
            self.bar.update(1)
            if stop_after and state.global_step >= stop_after:
                control.should_save = control.should_training_stop = True
            if clock and clock.share >= 1:
                control.should_training_stop = True
            if validation and validation_every and state.global_step % validation_every == 0:
                self.note({"step": state.global_step, "validation_loss": mean_loss(loaded, validation)})
                model.train()

        def on_log(self, args, state, control, logs=None, **_):
            if values := logged(state.global_step, logs or {}):
                self.note(values)

        def on_train_end(self, args, state, control, **_):
            self.bar.close()

    trainer = trainer_class()(
        model=model,
        args=arguments,
        train_dataset=[*rows, blank(rows)],  # the sampler takes the last only to fill up what processes share
        eval_dataset=list(rows[:1]) if score else None,  # never read: `evaluate` is ours
        data_collator=lambda batch: method.collate(batch, loaded.tokenizer.pad_token_id),
        callbacks=[watch := Watch(), *([EarlyStoppingCallback(settings.patience)] if settings.patience else [])],
    )
    for noisy in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(noisy)
    trainer.method, trainer.clock = method, clock
    if score:
        trainer.score = lambda: _score_unchanged(loaded, score)
    trainer.lengths = [len(row.ids) for row in rows]
    started = time.perf_counter()
    try:
        with attention_for(model, settings.batch_size, max(trainer.lengths)):
            trainer.train(resume_from_checkpoint=last)
    finally:
        if method.learned is not None:
            del model.learned
    seconds = time.perf_counter() - started
    model.eval()
    best = (trainer.state.best_global_step, trainer.state.best_metric) if score else (None, None)
    return TrainResult(
        trainer.state.global_step, seconds, int(trainer.tokens_seen) / seconds, losses, watch.first_step, *best
    )


def logged(step: int, logs: dict[str, Any]) -> dict[str, float] | None:
    """What a curve keeps of the Trainer's own log line: {"step", "loss"} or {"step", "score"}."""
    for name, ours in (("loss", "loss"), ("eval_score", "score")):
        if name in logs:
            return {"step": step, ours: float(logs[name])}
    return None


def _score_unchanged(loaded: LoadedModel, score: Callable[[LoadedModel], float]) -> float:
    """The score of the model as it stands; neither its mode nor the random numbers of the training are touched."""
    import torch

    training = loaded.model.training
    with torch.random.fork_rng():
        found = score(replace(loaded, model=loaded.model.eval()))
    loaded.model.train(training)
    return found


def _run_hash(loaded: LoadedModel, settings: TrainSettings, rows: Sequence[Row], method: Method) -> str:
    start = [
        weights_fingerprint(loaded.model),
        loaded.dtype,
        method.identity,
    ]  # another start is another run, even with equal rows
    ingredients = json.dumps([start, asdict(settings), [[row.prompt_length, *row.ids] for row in rows]])
    return hashlib.sha256(ingredients.encode()).hexdigest()[:16]


def _last_checkpoint(folder: Path, run_hash: str) -> str | None:
    """The newest whole checkpoint of this very run; those of a run with another start, settings or rows are removed."""
    marker = folder / "run.txt"
    if folder.exists() and (not marker.exists() or marker.read_text() != run_hash):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    marker.write_text(run_hash)
    numbered = sorted(folder.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    for checkpoint in reversed(numbered):
        try:
            json.loads((checkpoint / "trainer_state.json").read_text())  # the Trainer writes it last
            return str(checkpoint)
        except (OSError, ValueError):
            shutil.rmtree(checkpoint)  # a kill in the middle of a save
    return None
