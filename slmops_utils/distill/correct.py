"""Teacher correction: fine-tune a general model on our labels with LoRA before it teaches.

Minitron (arXiv 2408.11796) found that a teacher adapted to the data distils better than one that is not. LoRA (arXiv
2106.09685) trains a few megabytes of low-rank updates and leaves the model itself as it is.
"""

import datetime
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..models.hardware import describe
from ..models.load import load_model
from ..records import Example
from .dataset import encode_rows
from .train import TrainSettings, train

TEACHER = TrainSettings(epochs=4, batch_size=8, learning_rate=1e-3, lora_rank=16)


def correct(
    examples: Sequence[Example],
    out: str | Path,
    model: str = "embedded",
    settings: TrainSettings = TEACHER,
    validation: Sequence[Example] = (),
    validation_every: int = 0,
    stop_after: int | None = None,
    sources: Sequence[str] = (),
) -> dict[str, Any]:
    """Train a LoRA adapter on labelled examples and save it to `out`, with the recipe beside it as recipe.json.

    `stop_after` ends the training early, after so many steps (see `train`); `sources` are the files the examples came from,
    for the recipe. The folder's name is then a model name: it loads its base and merges itself. Returns the recipe.
    """
    import torch

    loaded = load_model(model)
    rows, left_out = encode_rows(examples, loaded.tokenizer)
    held_out, _ = encode_rows(validation, loaded.tokenizer)
    result = train(loaded, rows, out, settings, held_out, validation_every, stop_after=stop_after)
    adapter = loaded.model
    for parameter in adapter.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.bfloat16)  # half the bytes; the update is small to begin with
    adapter.peft_config["default"].base_model_name_or_path = model  # a name of ours, not a path of this machine
    adapter.save_pretrained(str(out))
    (Path(out) / "README.md").unlink(missing_ok=True)  # peft's empty template
    recipe = {
        "model": model,
        "data": list(sources),
        "rows": len(rows),
        "left_out": left_out,
        "settings": asdict(settings),
        "stopped_after": stop_after,
        "steps": result.steps,
        "resumed_from": result.resumed_from,  # seconds and tokens_per_s are of the steps after it
        "seconds": round(result.seconds),
        "tokens_per_s": round(result.tokens_per_s),
        "date": datetime.date.today().isoformat(),
        "hardware": describe(),
        "losses": result.losses,
    }
    (Path(out) / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n", encoding="utf-8")
    return recipe
