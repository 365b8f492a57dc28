"""Train a carved student on what its teacher wrote."""

import datetime
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..models.carve import save
from ..models.hardware import describe
from ..models.load import LoadedModel, load_model
from ..records import Example
from .dataset import encode_rows
from .train import TrainSettings, train

STUDENT = TrainSettings(epochs=4, batch_size=16, learning_rate=1e-3)


def distill(
    student: str | LoadedModel,
    examples: Sequence[Example],
    out: str | Path,
    settings: TrainSettings = STUDENT,
    validation: Sequence[Example] = (),
    validation_every: int = 0,
    on_log: Any = None,
) -> dict[str, Any]:
    """Train a student on examples that carry a teacher's response, or else a label, and save it as a model folder.

    Trained on labels alone this gives the baseline; with the teacher's answers to a pool added, the distilled student.
    Returns what was done, which is also written to `out`/distill.json.
    """
    loaded = load_model(student, dtype=None) if isinstance(student, str) else student
    rows, left_out = encode_rows(examples, loaded.tokenizer)
    held_out, _ = encode_rows(validation, loaded.tokenizer)
    result = train(loaded, rows, out, settings, held_out, validation_every, on_log)
    if settings.lora_rank:
        loaded.model = loaded.model.merge_and_unload()
    save(loaded, str(out))
    report = {
        "student": loaded.name,
        "rows": len(rows),
        "left_out": left_out,
        "settings": asdict(settings),
        "steps": result.steps,
        "seconds": round(result.seconds),
        "tokens_per_s": round(result.tokens_per_s),
        "date": datetime.date.today().isoformat(),
        "hardware": describe(),
        "losses": result.losses,
    }
    (Path(out) / "distill.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report
