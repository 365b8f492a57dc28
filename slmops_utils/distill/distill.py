"""Train a carved student on what its teacher wrote, and on what the teacher thinks of every token of it."""

import datetime
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..models.carve import save
from ..models.hardware import describe
from ..models.load import LoadedModel, load_model
from ..progress import is_main_process
from ..records import Example
from ..synthesize.presets import PREFIX
from .dataset import encode_rows
from .methods import NEED_NO_TEACHER, check_method, make_method
from .served_targets import served_targets
from .soft_targets import as_committee
from .step_by_step import step_by_step_rows
from .train import TrainSettings, train
from .validation import scorer

STUDENT = TrainSettings(epochs=4, batch_size=16, learning_rate=1e-3)


def distill(
    student: str | LoadedModel,
    examples: Sequence[Example],
    out: str | Path,
    settings: TrainSettings = STUDENT,
    validation: Sequence[Example] = (),
    validation_every: int = 0,
    on_log: Any = None,
    teacher: str | LoadedModel | Sequence[str | LoadedModel] | None = None,
    soft_targets: str | Path | None = None,
    every_position: bool = False,
    tokenizer_of: str | None = None,
    journals: Sequence[str | Path] = (),
    rationale: str = "as_written",
) -> dict[str, Any]:
    """Train a student on examples that carry a teacher's response, or else a label, and save it as a model folder.

    Trained on labels alone this gives the baseline; with the teacher's answers to a pool added, the distilled student.
    `settings.method` says what it is graded by (see methods.py). Every method but 'text' needs the `teacher` itself; what
    that says of every token is kept in the folder `soft_targets` (`out`/soft_targets unless given), for other students
    and runs with the same rows, tokenizer, temperature and k. Of a teacher named `endpoint:MODEL@WHERE` that is read from
    the `journals` of `generate` with top_logprobs (see served_targets.py), which needs the tokenizer of that model:
    `tokenizer_of` names it. Several local teachers of one tokenizer are a committee, whose log-probabilities are averaged.
    `every_position` grades the prompts too: with a divergence and alpha 0 that heals a carved student before its lessons.
    `rationale` says whether the teacher's reasons are trained on (see rationale.py). With `settings.patience` the run is
    scored on `validation` every `validation_every` steps, ends early where it no longer gets better, and the best weights
    are saved.
    Returns what was done, which is also written to `out`/distill.json.
    """
    check_method(settings, teacher)
    loaded = load_model(student, dtype=None) if isinstance(student, str) else student
    if settings.method == "step_by_step":
        rows, left_out = step_by_step_rows(examples, loaded.tokenizer, settings.rationale_weight)
    else:
        rows, left_out = encode_rows(examples, loaded.tokenizer, rationale=rationale)
    if every_position:
        rows = [replace(row, prompt_length=0) for row in rows]
    held_out, _ = encode_rows(validation, loaded.tokenizer, rationale=rationale)
    if settings.method in NEED_NO_TEACHER:
        teacher = None  # its answers are in the examples
    kept: Any = soft_targets or Path(out) / "soft_targets"
    named = as_committee(teacher)
    remote = next((one for one in named if isinstance(one, str) and one.startswith(PREFIX)), None)
    if remote and len(named) > 1:
        raise ValueError(
            f"{remote} is no local model: the log-probabilities of a committee are averaged from local ones"
        )
    guides = [] if remote else [load_model(one) if isinstance(one, str) else one for one in named]
    guide: Any = guides[0] if len(guides) == 1 else guides or None
    if remote:
        rows, kept = served_targets(remote, examples, rows, loaded.tokenizer, tokenizer_of, journals, kept, settings)
    method = make_method(settings, loaded, guide, rows, kept)
    score = scorer(validation) if settings.patience else None
    result = train(loaded, rows, out, settings, held_out, validation_every, on_log, method=method, score=score)
    if settings.lora_rank:
        loaded.model = loaded.model.merge_and_unload()
    report = {
        "student": loaded.name,
        "teacher": " + ".join(one.name for one in guides) or remote,
        "rows": len(rows),
        "left_out": left_out,
        "settings": asdict(settings),
        "rationale": rationale,
        "steps": result.steps,
        "best": {"step": result.best_step, "validation_score": result.best_score} if score else None,
        "seconds": round(result.seconds),
        "tokens_per_s": round(result.tokens_per_s),
        "date": datetime.date.today().isoformat(),
        "hardware": describe(),
        "losses": result.losses,
    }
    if is_main_process():
        save(loaded, str(out))
        (Path(out) / "distill.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report
