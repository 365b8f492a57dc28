"""The student's model card: a README.md in its folder, in the form the Hugging Face Hub reads.

What is known of how a student came to be lies beside it in card.json: the files it was trained on, the model it was
carved from, and each evaluation. The card is written anew from that, so that no number in it was ever typed by hand.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..evaluate.statistics import verdict
from ..records import Example, atomic_writer
from ..synthesize.presets import PREFIX, find_endpoint
from .origin import FACTS, ancestors, duties, published_weights

CARD = "README.md"


def remember_training(
    folder: str | Path,
    start: str,
    files: Sequence[str | Path],
    examples: Sequence[Example],
    teachers: Sequence[str] = (),
) -> Path:
    """Note what a student was trained on and write its card; earlier scores go, for they were another student's.

    `start` is the model it began as, `files` those that `examples` were read from, `teachers` the names of those it was
    compared with, token by token. Returns the card's path.
    """
    facts = {
        "start": start,
        "ancestors": ancestors(start),
        "files": [{"path": str(path), "sha256": _sha256(path)} for path in files],
        "rows": len(examples),
        "tasks": dict(Counter(example.task for example in examples)),
        "labelled": sum(example.response is None for example in examples),
        "answered": dict(Counter(example.response.model for example in examples if example.response)),
        # an endpoint under the name that records have for it
        "compared": [find_endpoint(name).name if name.startswith(PREFIX) else name for name in teachers],
        "scores": {},
    }
    _write_facts(folder, facts)
    return write_model_card(folder)


def remember_scores(folder: str | Path, results: dict[str, Any], role: str, test: str) -> Path:
    """Add an evaluation of this model to its card. `role` is its row in `results`, `test` names the rows."""
    facts = _facts(folder)
    row = next(row for row in results["rows"] if row["role"] == role)
    facts["scores"][f"{results['task']}: {test}"] = {
        "date": results.get("date"),
        "n_test": results["n_test"],
        "hardware": results.get("hardware", {}),
        "row": row,
        "comparisons": [c for c in results["comparisons"] if role in (c["a"], c["b"])],
        "retention": results["retention"] if role == "student" else None,
    }
    _write_facts(folder, facts)
    return write_model_card(folder)


def has_card(folder: str | Path) -> bool:
    return (Path(folder) / FACTS).is_file()


def card_name(folder: str | Path, facts: dict[str, Any]) -> str:
    """The folder's name, with what a teacher's or the weights' licence wants it to start with put before it."""
    name = Path(folder).resolve().name
    wanted = [terms.name_starts_with for _, terms in duties(_teachers(facts))]
    wanted += ["Llama"] if published_weights(facts["ancestors"])[1].startswith("llama") else []
    prefix = next((word for word in wanted if word), "")
    return name if name.lower().startswith(prefix.lower()) else f"{prefix}-{name}"


def write_model_card(folder: str | Path) -> Path:
    """Write README.md from what the folder holds. Raises FileNotFoundError when it has no card.json."""
    import yaml

    folder = Path(folder)
    facts, name = _facts(folder), card_name(folder, _facts(folder))
    base, licence, asks = published_weights(facts["ancestors"])
    head: dict[str, Any] = {"license": licence, "library_name": "transformers", "pipeline_tag": "text-generation"}
    head |= {"base_model": base} if base else {}
    head |= {"tags": ["distillation", *facts["tasks"]], "model-index": _index(name, facts)}
    if not facts["scores"]:
        del head["model-index"]
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n\n# {_flat(name)}\n",
        _made(folder, facts),
        "## Data\n\n" + _data(facts),
        "## Licence duties\n\n" + _licence(facts, name, folder, asks),
        "## Scores\n\n" + (_scores(facts) or "None yet: `python -m slmops_utils evaluate --student ...` adds them.\n"),
        "## Limits\n\n" + _limits(folder, facts),
        "## How to load it\n\n" + HOW_TO_LOAD,
    ]
    with atomic_writer(folder / CARD) as file:
        file.write("\n".join(parts))
    return folder / CARD


HOW_TO_LOAD = """An ordinary Hugging Face folder (safetensors, its own tokenizer and chat template); no code of its own is run.

    from transformers import pipeline

    chat = pipeline("text-generation", model="PATH/TO/THIS/FOLDER")
    chat([{"role": "user", "content": "..."}], max_new_tokens=64, do_sample=False)[0]["generated_text"][-1]["content"]

It was trained on prompts as its task writes them; `slmops_utils.tasks.get_task(NAME).prompt(example)` makes them so.
"""


def _made(folder: Path, facts: dict[str, Any]) -> str:
    chain = " ← ".join(code(name) for name in facts["ancestors"])
    text = f"A student, made with slmops_utils. Carved and trained out of: {chain}.\n"
    if (folder / "distill.json").is_file():
        how = json.loads((folder / "distill.json").read_text(encoding="utf-8"))
        method = how["settings"].get("method", "text")
        text += (
            f"Trained {how['steps']:,} steps of {how['settings']['batch_size']} rows, learning rate "
            f"{how['settings']['learning_rate']:g}, seed {how['settings']['seed']}, method {code(method)}, in {how['seconds']:,} s, "
            f"on {how['date']}.\n"
        )
    return text


def _data(facts: dict[str, Any]) -> str:
    tasks = ", ".join(f"{code(task)} {rows:,}" for task, rows in facts["tasks"].items())
    teachers = ", ".join(f"{rows:,} by {code(model)}" for model, rows in facts["answered"].items()) or "none"
    files = "".join(f"- {code(file['path'])}, SHA-256 `{file['sha256']}`\n" for file in facts["files"])
    return f"{facts['rows']:,} rows ({tasks}): {facts['labelled']:,} with labels only; answered by a teacher: {teachers}.\n\n{files}"


def _licence(facts: dict[str, Any], name: str, folder: Path, asks: str) -> str:
    lines = [f"- Weights it was carved from ({code(facts['ancestors'][-1])}): {asks}"]
    for teacher, terms in duties(_teachers(facts)):
        what = "Answers of" if teacher in facts["answered"] else "Token by token comparisons with"
        lines.append(
            f"- {what} the teacher {code(teacher)}, training on them is allowed: **{terms.allowed}**. {terms.duty}"
        )
    if name != folder.resolve().name:
        lines.append(
            f"- **Distribute it only under a name such as {code(name)}**, with the words **Built with Llama**."
        )
    if len(lines) == 1:
        lines.append("- No teacher's answers were trained on.")
    return "\n".join(lines) + "\n\nThis is a list of what is known, and no legal advice.\n"


def _teachers(facts: dict[str, Any]) -> list[str]:
    """All whose answers or probabilities it learnt from; a card written before those were noted has answers only."""
    return list(dict.fromkeys([*facts["answered"], *facts.get("compared", ())]))


def _scores(facts: dict[str, Any]) -> str:
    parts = []
    for test, found in facts["scores"].items():
        row, hardware = found["row"], found["hardware"]
        lines = [
            f"### {_flat(test)}\n\n{found['n_test']} rows, {found['date']}, 95 % intervals\n\n| score | value |\n|---|---|"
        ]
        lines += [f"| {_flat(metric)} | {_score(score)} |" for metric, score in row["metrics"].items()]
        if row.get("latency_ms"):
            lines.append(f"| one request, p50 | {row['latency_ms']['p50']:,.0f} ms |")
            lines.append(f"| requests a second | {row['throughput_per_s']:,.1f} |")
        if row.get("peak_memory_bytes"):
            lines.append(f"| peak memory | {row['peak_memory_bytes'] / 2**20:,.0f} MiB |")
        if row.get("latency_ms") and "cores" in hardware:
            lines.append(f"\nTimed on {hardware['cores']} cores, {hardware['dtype']}.")
        lines.append("")
        lines += [f"- {_flat(verdict(comparison))}" for comparison in found["comparisons"]]
        if found["retention"]:
            lines.append(f"- retention (student over teacher): {_score(found['retention'])}")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _limits(folder: Path, facts: dict[str, Any]) -> str:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    lines = [
        f"- It learnt {', '.join(code(task) for task in facts['tasks'])} from the rows above and nothing else; elsewhere its "
        "answers are fluent guesses.",
        "- It repeats its teacher's mistakes, and adds its own. Scores hold for rows like those they were measured on.",
        f"- {config['num_hidden_layers']} layers, {config['vocab_size']:,} tokens of vocabulary (text unlike its training data takes "
        f"more tokens), at most {config.get('max_position_embeddings', 0):,} positions.",
    ]
    for test, found in facts["scores"].items():
        for comparison in found["comparisons"]:
            low, high = comparison["ci95"]
            if low <= 0 <= high and "baseline" in (comparison["a"], comparison["b"]):
                lines.append(f"- On {_flat(test)}, no gain over training on labels alone was seen.")
    return "\n".join(lines) + "\n"


def _index(name: str, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """The scores in the form the Hub shows beside a model."""
    rows = []
    for test, found in facts["scores"].items():
        metrics = [{"type": m, "value": round(score["value"], 4)} for m, score in found["row"]["metrics"].items()]
        rows.append(
            {"task": {"type": "text-generation"}, "dataset": {"name": test, "type": "custom"}, "metrics": metrics}
        )
    return [{"name": name, "results": rows}]


def _score(found: dict[str, Any]) -> str:
    low, high = found["ci95"]
    return f"{100 * found['value']:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def _flat(text: Any) -> str:
    """Text as one line in which Markdown finds nothing to format and a browser no element."""
    line = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{c}" if c in "\\`*[]|" else c for c in line)


def code(text: Any) -> str:
    """Text in code font; a backtick in it could end that, so it becomes a quote."""
    return f"`{' '.join(str(text).split()).replace('`', chr(39))}`"


def _facts(folder: str | Path) -> dict[str, Any]:
    path = Path(folder) / FACTS
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: `distill` writes it, and a model card cannot be written without it"
        )
    return json.loads(path.read_text(encoding="utf-8"))


def _write_facts(folder: str | Path, facts: dict[str, Any]) -> None:
    with atomic_writer(Path(folder) / FACTS) as file:
        json.dump(facts, file, indent=1)
        file.write("\n")


def _sha256(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
