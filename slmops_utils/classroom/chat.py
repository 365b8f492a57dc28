"""Two models answer the same question side by side, word by word, with the speed of each."""

import html
import time
from collections.abc import Callable, Iterator
from typing import Any

from ..deploy.serve import Served
from ..models.load import LoadedModel
from ..synthesize.answer import Prompt, encode_prompt, end_ids


def stream(model: LoadedModel | Served, prompt: Prompt, max_new_tokens: int) -> Iterator[str]:
    """The pieces of a greedy answer as they come, of a model in this process or of a server."""
    if isinstance(model, Served):
        import openai

        with openai.OpenAI(base_url=model.url, api_key="none", max_retries=0) as client:
            asked: Any = {"model": model.model, "messages": prompt, "max_tokens": max_new_tokens, "temperature": 0}
            for piece in client.chat.completions.create(**asked, stream=True):
                if piece.choices and piece.choices[0].delta.content:
                    yield piece.choices[0].delta.content
        return
    yield from _stream_local(model, prompt, max_new_tokens)


def _stream_local(model: LoadedModel, prompt: Prompt, max_new_tokens: int) -> Iterator[str]:
    """transformers' own streamers wait for whole words; here each token gives a piece (an empty one inside a character)."""
    from queue import Queue
    from threading import Thread

    import torch
    from transformers.generation import BaseStreamer

    found: Queue = Queue()
    ends = end_ids(model)

    class Tokens(BaseStreamer):
        def put(self, value: Any) -> None:
            found.put(value.flatten().tolist())

        def end(self) -> None:
            pass

    ids = torch.tensor([encode_prompt(model.tokenizer, prompt)], device=model.model.device)
    options: Any = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "max_new_tokens": max_new_tokens,
                    "streamer": Tokens(), "pad_token_id": model.tokenizer.pad_token_id, "do_sample": False,
                    "temperature": None, "top_p": None, "top_k": None}  # fmt: skip

    def run() -> None:
        try:
            model.model.generate(**options)
            found.put(None)
        except Exception as error:  # told where the pieces are read
            found.put(error)

    Thread(target=run, daemon=True).start()
    tokens: list[int] = []
    text, prompt_seen = "", False
    while (new := found.get()) is not None:
        if isinstance(new, Exception):
            raise new
        if not prompt_seen:  # what comes first is the prompt
            prompt_seen = True
            continue
        if new[0] in ends:
            continue
        tokens += new
        whole = model.tokenizer.decode(tokens, skip_special_tokens=True)
        whole = whole if not whole.endswith("\ufffd") else text  # the rest of this character is still to come
        yield whole[len(text) :]
        text = whole


def watch(
    model: LoadedModel | Served, prompt: Prompt, max_new_tokens: int, show: Callable[[str, int, float, float], None]
) -> tuple[str, float, float]:
    """Stream an answer and call show(text so far, pieces, seconds to the first, seconds so far) at each piece.

    Returns (text, seconds to the first piece, pieces a second once it has begun). A piece is a token; a server keeps back
    those that are no whole character yet.
    """
    started, first, text, pieces = time.perf_counter(), 0.0, "", 0
    for piece in stream(model, prompt, max_new_tokens):
        now = time.perf_counter() - started
        first, text, pieces = first or now, text + piece, pieces + 1
        show(text, pieces, first, now)
    now = time.perf_counter() - started
    return text, first, (pieces - 1) / (now - first) if pieces > 1 and now > first else 0.0


def side_by_side(
    models: dict[str, LoadedModel | Served], question: str = "", system: str = "", max_new_tokens: int = 64
) -> Any:
    """A box to ask all `models` (title -> model) the same thing, one after the other, so that none slows another down.

    The box has a function `ask(text)` that does what its button does. What models write is shown, never run.
    """
    import ipywidgets

    text = ipywidgets.Textarea(question, placeholder="Ask both", layout={"width": "98%", "height": "5em"})
    button = ipywidgets.Button(description="Ask", button_style="primary")
    views = {name: ipywidgets.HTML(_view(name, "", 0, 0, 0), layout={"width": "48%"}) for name in models}

    def ask(asked: str) -> None:
        if not asked.strip():
            return
        button.disabled, button.description = True, "answering"
        prompt = ([{"role": "system", "content": system}] if system else []) + [{"role": "user", "content": asked}]
        for name, view in views.items():
            view.value = _view(name, "", 0, 0, 0)
        for name, view in views.items():
            try:

                def show(so_far: str, pieces: int, first: float, now: float, name=name, view=view) -> None:
                    view.value = _view(name, so_far, pieces, first, now)

                watch(models[name], prompt, max_new_tokens, show)
            except Exception as error:  # shown where the learner looks, instead of lost in a log
                view.value = _view(name, f"{type(error).__name__}: {error}", 0, 0, 0)
        button.disabled, button.description = False, "Ask"

    button.on_click(lambda _: ask(text.value))
    box = ipywidgets.VBox(
        [text, button, ipywidgets.HBox(list(views.values()), layout={"justify_content": "space-between"})]
    )
    box.ask = ask
    return box


def _view(name: str, text: str, pieces: int, first: float, now: float) -> str:
    speed = f"{(pieces - 1) / (now - first):.0f} tokens a second, " if pieces > 1 and now > first else ""
    line = f"first after {first:.2f} s, {speed}{pieces} tokens in {now:.1f} s" if pieces else "waiting"
    return (
        f'<div style="border-left:3px solid #2a9d74;padding:.1em .8em"><b>{html.escape(name)}</b><br>'
        f'<small>{line}</small><div style="white-space:pre-wrap;min-height:4em">{html.escape(text)}</div></div>'
    )
