"""Does an export still say what its source says? Both answer the same rows, and both are led through the same texts."""

import json
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from ..distill.dataset import Row, encode_rows
from ..models.load import LoadedModel, load_model
from ..models.onnx import OnnxModel
from ..records import Example
from ..synthesize.answer import Prompt, Sampling, answer, encode_prompt
from ..tasks import get_task
from .serve import CONTEXT, SLOTS, Served, serving

SAME_VERDICT, SAME_ARGMAX = 0.98, 0.99  # the least that half precision and 8 bits have to keep
LOSSY = ("q4_0", "int4")  # for which the loss is reported, and no least share is asked


def check_export(model: str | LoadedModel, export: str | Path, examples: Sequence[Example], precision: str) -> dict:
    """Compare an export (a .gguf file, or an ONNX folder) with the model it was written from, on labelled rows of one task.

    The source runs in float32; a GGUF file is served and asked through HTTP, template and all. Returns
    - "same_verdict": share of rows whose greedy answers score the same, "same_text": are the same, letter by letter;
    - "same_argmax": share of the "tokens" of the reference answers before which both find the same next token likeliest;
    - "same_prompt": share of rows whose prompt becomes the same tokens (GGUF has a tokenizer and a template of its own);
    - "score": {"source", "export"}, the task's headline score; "passed": whether what is asked of `precision` holds.
    Raises ServeError or RuntimeError when the export cannot be loaded.
    """
    if not examples:
        raise ValueError("there are no rows to compare the export on")
    source = load_model(model, "float32", "cpu") if isinstance(model, str) else model
    task = get_task(examples[0].task)
    metric = next(iter(task.metrics_for(examples).values()))
    prompts = [task.prompt(example) for example in examples]
    most = task.max_new_tokens
    rows, _ = encode_rows(examples, source.tokenizer, CONTEXT - 1)
    texts = [a.text for a in answer(source, prompts, Sampling(most))]
    likeliest = [_argmax(source, row) for row in rows]
    if str(export).endswith(".gguf"):
        with serving(str(export)) as served:
            theirs = _in_parallel(lambda prompt: _chat(served, prompt, most), prompts)
            led = _in_parallel(lambda row: _argmax_served(served, row), rows)
            cut = _in_parallel(lambda prompt: _prompt_tokens(served, prompt), prompts)
    else:
        exported = load_model(str(export))
        theirs = [a.text for a in answer(exported, prompts, Sampling(most))]
        led = [_argmax(exported, row) for row in rows]
        cut = [encode_prompt(exported.tokenizer, prompt) for prompt in prompts]
    ours = [encode_prompt(source.tokenizer, prompt) for prompt in prompts]
    scores = [[metric.value(e, text) for e, text in zip(examples, given, strict=True)] for given in (texts, theirs)]
    same = [a == b for one, other in zip(likeliest, led, strict=True) for a, b in zip(one, other, strict=True)]
    found: dict[str, Any] = {
        "rows": len(examples),
        "tokens": len(same),
        "same_verdict": float(np.mean([a == b for a, b in zip(*scores, strict=True)])),
        "same_argmax": float(np.mean(same)),
        "same_text": float(np.mean([a == b for a, b in zip(texts, theirs, strict=True)])),
        "same_prompt": float(np.mean([a == b for a, b in zip(ours, cut, strict=True)])),
        "score": {"source": float(metric.aggregate(np.array(scores[0]))), "export": float(metric.aggregate(np.array(scores[1])))},
    }  # fmt: skip
    kept = found["same_verdict"] >= SAME_VERDICT and found["same_argmax"] >= SAME_ARGMAX
    return found | {"passed": found["same_prompt"] == 1 and (kept or precision in LOSSY)}


def verdict(found: dict[str, Any], precision: str) -> str:
    """What `check_export` found, as one line."""
    asked = "as it comes" if precision in LOSSY else f"at least {SAME_VERDICT:.0%} and {SAME_ARGMAX:.0%} asked"
    score = found["score"]
    return (
        f"{precision}: same verdict on {found['same_verdict']:.1%} of {found['rows']} rows, same likeliest token at "
        f"{found['same_argmax']:.1%} of {found['tokens']:,} places ({asked}); same prompt tokens {found['same_prompt']:.1%}; "
        f"score {score['source']:.1%} -> {score['export']:.1%}: {'passed' if found['passed'] else 'NOT PASSED'}"
    )


def _argmax(loaded: LoadedModel, row: Row) -> list[int]:
    """The likeliest token before each supervised token of a row."""
    import torch

    ids = torch.tensor([row.ids])
    with torch.inference_mode():
        logits = loaded.model.logits(ids) if isinstance(loaded.model, OnnxModel) else loaded.model(ids).logits[0]
    return logits[max(row.prompt_length, 1) - 1 : -1].argmax(-1).tolist()


def _argmax_served(served: Served, row: Row) -> list[int]:
    """The same, of a llama.cpp server: it shows no logits of a prompt, so it is asked for one token at each place."""
    found = []
    for end in range(max(row.prompt_length, 1), len(row.ids)):
        asked = {"prompt": row.ids[:end], "n_predict": 1, "temperature": 0, "return_tokens": True, "cache_prompt": True}
        found += _post(served, "/completion", asked)["tokens"]
    return found


def _chat(served: Served, prompt: Prompt, most: int) -> str:
    asked = {"model": served.model, "messages": prompt, "max_tokens": most, "temperature": 0}
    return (_post(served, "/v1/chat/completions", asked)["choices"][0]["message"]["content"] or "").strip()


def _prompt_tokens(served: Served, prompt: Prompt) -> list[int]:
    text = _post(served, "/apply-template", {"messages": prompt})["prompt"]
    return _post(served, "/tokenize", {"content": text, "add_special": True, "parse_special": True})["tokens"]


def _post(served: Served, path: str, body: dict[str, Any]) -> Any:
    url = served.url.removesuffix("/v1") + path
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # this machine needs no proxy
    with opener.open(request, timeout=600) as given:
        return json.load(given)


def _in_parallel(ask: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    with ThreadPoolExecutor(SLOTS) as pool:
        return list(pool.map(ask, items))
