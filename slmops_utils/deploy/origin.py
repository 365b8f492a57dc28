"""Where a student comes from: the models it was made of, and what their licences and its teachers' terms ask of it."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..synthesize.presets import Terms, terms_of

FACTS = "card.json"  # what `distill` notes beside a student's weights
EMBEDDED = "HuggingFaceTB/SmolLM2-135M-Instruct"

# licences of weights that a student may have been carved from, by a word of their name: (Hub's short name, what it asks)
WEIGHTS = {
    "smollm2": ("apache-2.0", "Apache-2.0: ship the licence text with the weights and say that you changed them."),
    "phi-": ("mit", "MIT: ship the licence text with the weights."),
    "llama": (
        "llama3.1",
        "Llama licence: name the model 'Llama...', show 'Built with Llama', ship the licence and notice.",
    ),
}
UNKNOWN_WEIGHTS = ("other", "Nothing is known here about the licence of these weights: read it before you ship them.")


def ancestors(name: str) -> list[str]:
    """What a model was made from, step by step back to published weights: ["data/teacher", "embedded"]."""
    found = [name]
    while True:
        folder, parent = Path(found[-1]), None
        for file, key in (
            (FACTS, "start"),
            ("shrink.json", "parent"),
            ("adapter_config.json", "base_model_name_or_path"),
        ):
            if (folder / file).is_file():
                parent = json.loads((folder / file).read_text(encoding="utf-8")).get(key)
                break
        if not parent or parent in found:
            return found
        found.append(parent)


def published_weights(chain: Sequence[str]) -> tuple[str | None, str, str]:
    """(name on the Hub if known, licence, what it asks) of the weights a chain of ancestors ends in."""
    last = chain[-1]
    name = EMBEDDED if last == "embedded" else last.removeprefix("hub:") if last.startswith("hub:") else None
    word = next((word for word in WEIGHTS if word in (name or "").lower()), None)
    return name, *(WEIGHTS[word] if word else UNKNOWN_WEIGHTS)


def duties(teachers: Iterable[str]) -> list[tuple[str, Terms]]:
    """The terms of each of these teachers, as records name them."""
    found = []
    for teacher in teachers:
        chain = ancestors(teacher)
        name = EMBEDDED if chain[-1] == "embedded" else Path(chain[-1]).name if Path(chain[-1]).is_dir() else chain[-1]
        found.append((teacher, terms_of(name)))
    return found
