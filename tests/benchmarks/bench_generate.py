"""How fast the domain teacher answers the conversation pool: ours, transformers.generate, llama.cpp, ONNX Runtime GenAI.

`python tests/benchmarks/bench_generate.py [rows]`, called by `make bench`. All answer the same prompts, greedily, one
after the other on this machine; answer tokens a second count the prompts' time as well. Each is warmed by two rows.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import torch

from slmops_utils.models.load import LoadedModel, load_model
from slmops_utils.records import Example, read_records
from slmops_utils.synthesize.answer import Sampling, answer, encode_prompt
from slmops_utils.synthesize.generate import generate
from slmops_utils.tasks import get_task

TEACHER = "data/teacher"
POOL = "data/conversation/pool.jsonl"
ROWS, ALONE, BATCH, SLOTS = 128, 16, 64, 8

# rows -> (text, answer tokens) of each
Way = Callable[[list[Example]], list[tuple[str, int]]]


def prompts_of(examples: list[Example]) -> list:
    return [get_task(e.task).prompt(e) for e in examples]


def ours(teacher: LoadedModel, sampling: Sampling) -> Way:
    return lambda rows: [
        (a.text, a.completion_tokens) for a in answer(teacher, prompts_of(rows), sampling, batch_size=BATCH)
    ]


def transformers_generate(teacher: LoadedModel, sampling: Sampling, batch: int) -> Way:
    """As its documentation shows it: batches in the order of the file, padded on the left."""
    tokenizer, model = teacher.tokenizer, teacher.model
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id

    def run(examples: list[Example]) -> list[tuple[str, int]]:
        encoded, answers = [encode_prompt(tokenizer, p) for p in prompts_of(examples)], []
        for first in range(0, len(encoded), batch):
            rows = encoded[first : first + batch]
            width = max(map(len, rows))
            ids = torch.tensor([[pad] * (width - len(r)) + r for r in rows], device=model.device)
            mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows], device=model.device)
            out = model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=sampling.max_new_tokens, do_sample=False
            )
            for row in out[:, width:].tolist():
                kept = row[: row.index(end)] if end in row else row
                answers.append((tokenizer.decode(kept, skip_special_tokens=True).strip(), len(kept) + (end in row)))
        return answers

    return run


def endpoint(name: str, sampling: Sampling) -> Way:
    def run(examples: list[Example]) -> list[tuple[str, int]]:
        with tempfile.TemporaryDirectory() as folder:
            generate(name, examples, Path(folder) / "out.jsonl", sampling)
            answers = [e.response for e in read_records(Path(folder) / "out.jsonl")]
            return [(a.text, a.completion_tokens or 0) for a in answers if a]

    return run


def timed(way: Way, rows: list[Example]) -> tuple[float, list[str]]:
    """Answer tokens a second, and the texts."""
    way(rows[:2])
    started = time.perf_counter()
    answers = way(rows)
    return sum(count for _, count in answers) / (time.perf_counter() - started), [text for text, _ in answers]


def same(left: list[str], right: list[str]) -> float:
    return sum(a == b for a, b in zip(left, right, strict=False)) / min(len(left), len(right))


def against(value: float, unit: str, peer: str, peer_value: float) -> dict:
    ratio = round(value / peer_value, 2) if peer_value else 0.0
    return {"value": round(value, 3), "unit": unit, "peer": peer, "peer_value": round(peer_value, 3), "ratio": ratio}


def bench(count: int = ROWS) -> dict[str, dict]:
    teacher = load_model(TEACHER)
    rows = list(islice(read_records(POOL), count))
    sampling, unit = Sampling(get_task("conversation").max_new_tokens), "answer tokens/s"
    speed, texts = timed(ours(teacher, sampling), rows)
    at_once, _ = timed(transformers_generate(teacher, sampling, BATCH), rows)
    alone, single = timed(transformers_generate(teacher, sampling, 1), rows[:ALONE])
    reference = single
    if teacher.dtype != "float32":
        full = load_model(TEACHER, "float32")
        reference = [text for text, _ in transformers_generate(full, sampling, 1)(rows[:ALONE])]
    results = {
        "generate_vs_transformers_batch64": against(speed, unit, f"transformers.generate, batch {BATCH}", at_once),
        "generate_vs_transformers_batch1": against(speed, unit, "transformers.generate, batch 1", alone),
        f"generate_agreement_{teacher.dtype}": against(
            same(texts, reference),
            f"of {len(single)} texts as in float32",
            "transformers.generate, batch 1",
            same(single, reference),
        ),
    }
    for name, label, peer in (("generate_vs_llama_cpp", f"llama.cpp, q8_0, {SLOTS} slots", llama_cpp),
                              ("generate_vs_onnx_genai", "ONNX Runtime GenAI, int4", onnx_genai)):  # fmt: skip
        try:
            theirs = peer(sampling, rows)
        except ImportError as error:
            print(f"{name}: left out, {error}")
        else:
            results[name] = against(speed, unit, label, theirs)
    return results


def llama_cpp(sampling: Sampling, rows: list[Example]) -> float:
    import xllamacpp  # noqa: F401

    from slmops_utils.deploy.serve import serving

    with serving(TEACHER, slots=SLOTS) as served:
        return timed(endpoint(served.endpoint, sampling), rows)[0]


def onnx_genai(sampling: Sampling, rows: list[Example]) -> float:
    """One row after the other, as it takes a padding token by its id (see models/onnx.py)."""
    import onnx_ir  # noqa: F401
    import onnxruntime_genai  # noqa: F401

    from slmops_utils.deploy.export import export

    with tempfile.TemporaryDirectory() as folder:
        model = load_model(str(export(TEACHER, "onnx", "int4", Path(folder) / "teacher")))
        return timed(ours(model, sampling), rows[: 2 * ALONE])[0]


if __name__ == "__main__":
    print(json.dumps(bench(*map(int, sys.argv[1:])), indent=1))
