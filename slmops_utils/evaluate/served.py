"""A model behind an OpenAI-compatible endpoint: scored and timed through HTTP, as its users would meet it."""

import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..records import Example
from ..synthesize.answer import Prompt, Sampling
from ..synthesize.presets import Endpoint, find_endpoint
from .measure import run_waves, server_memory_bytes

ATTEMPT_SECONDS = 300.0


def served_answers(
    name: str,
    examples: Sequence[Example],
    prompts: Sequence[Prompt],
    sampling: Sampling,
    journal: str | Path | None = None,
    price: tuple[float, float] | None = None,
) -> list[str]:
    """What the model behind an endpoint answers to each prompt.

    With `journal`, answers are kept there, and the same call goes on after a failure without asking again. Raises
    RuntimeError when a row stays unanswered: a failed call is no wrong answer (an empty answer is one).
    """
    from ..synthesize.endpoint import Network, ask_endpoint
    from ..synthesize.generate import answer_key
    from ..synthesize.journal import Journal

    endpoint = find_endpoint(name, price)
    keys = [f"{e.id}:{answer_key(p, endpoint.name, sampling, 1)}" for e, p in zip(examples, prompts, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        with Journal(journal or Path(folder) / "answers.jsonl") as book:
            tally = ask_endpoint(endpoint, prompts, keys, book, sampling, network=Network(keep_empty=True))
            missing = [example.id for example, key in zip(examples, keys, strict=True) if key not in book]
            if missing:
                why = tally.stopped or "; ".join(f"{reason} ({n})" for reason, n in tally.failures.most_common(3))
                again = ". The same command goes on from here" if journal else ""
                raise RuntimeError(
                    f"{len(missing)} of {len(keys)} rows were not answered by {endpoint.name}, first {missing[0]!r}: "
                    f"{why}{again}"
                )
            return [book[key]["text"] for key in keys]


def measure_served(name: str, request: dict[str, Any]) -> dict[str, Any]:
    """What `measure` asks for, of `endpoint:MODEL@WHERE`. Exits with a message when the server does not do its part."""
    import openai

    from ..synthesize.endpoint import Network, make_client

    endpoint = find_endpoint(name)
    most = max(request["most_users"], *request["batch_sizes"])
    with asyncio.Runner() as runner:

        async def start() -> Any:
            return make_client(endpoint, Network(concurrency=most, seconds=ATTEMPT_SECONDS))

        client = runner.run(start())
        try:
            return run_waves(
                request,
                lambda prompt: runner.run(_once_more(_streamed, client, endpoint, prompt, request["max_new_tokens"])),
                lambda prompts: runner.run(_wave(client, endpoint, prompts, request["max_new_tokens"])),
                lambda: server_memory_bytes(urlsplit(endpoint.base_url).port or 80) if endpoint.local else None,
            ) | {"parameters": None, "bytes_on_disk": None}
        except openai.APIStatusError as error:  # the server's own words may hold the key
            raise SystemExit(f"HTTP {error.status_code} from {endpoint.name}") from None
        except openai.OpenAIError as error:
            raise SystemExit(f"no usable answer from {endpoint.name} ({type(error).__name__})") from None
        finally:
            runner.run(client.close())


async def _once_more(ask: Any, *args: Any) -> Any:
    """A server may close a connection it promised to keep (llama.cpp does after each stream): timed anew on another."""
    import openai

    try:
        return await ask(*args)
    except openai.APIConnectionError:
        return await ask(*args)


async def _streamed(client: Any, endpoint: Endpoint, prompt: Prompt, most: int) -> tuple[float, float]:
    """Seconds to the first piece of text, and to the end."""
    started, to_first = time.perf_counter(), None
    stream = await client.chat.completions.create(
        model=endpoint.model, messages=prompt, max_tokens=most, temperature=0, stream=True
    )
    async for piece in stream:
        if to_first is None and piece.choices and piece.choices[0].delta.content:
            to_first = time.perf_counter() - started
    total = time.perf_counter() - started
    return total if to_first is None else to_first, total  # an empty answer has no first piece


async def _wave(client: Any, endpoint: Endpoint, prompts: list[Prompt], most: int) -> list[tuple[float, int, int]]:
    async def one(prompt: Prompt) -> tuple[float, int, int]:
        started = time.perf_counter()
        done = await client.chat.completions.create(
            model=endpoint.model, messages=prompt, max_tokens=most, temperature=0
        )
        used = done.usage
        return time.perf_counter() - started, getattr(used, "prompt_tokens", 0), getattr(used, "completion_tokens", 0)

    return list(await asyncio.gather(*(_once_more(one, prompt) for prompt in prompts)))
