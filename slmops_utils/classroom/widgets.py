"""Things to look at and play with in a notebook. Text of models and data is escaped: it is shown, never run."""

import html
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..records import Example
from ..tasks import gold_text

# a line of a megabyte stays in its box, and a text that turns the writing direction turns its own only
TEXT = "white-space:pre-wrap;overflow-wrap:anywhere;max-height:24em;overflow:auto;unicode-bidi:isolate"


def record_html(example: Example) -> str:
    """One record as safe HTML: its messages, its reference, and what a model answered."""
    parts = [f"<p><b>{html.escape(example.id)}</b></p>"]
    own = iter(example.response.history if example.response else ())
    for message in example.messages:
        parts.append(_block(message["role"], message["content"]))
        if message["role"] == "assistant" and (text := next(own, None)) is not None:
            parts.append(_block("said in its place, where the answer below was given", text))
    if example.reference is not None:
        parts.append(_block("reference", gold_text(example)))
    if example.response is not None:
        parts.append(_block(f"{example.response.model} ({example.response.finish_reason})", example.response.text))
        if example.response.rationale:
            parts.append(_block("its reasons", example.response.rationale))
    for gate, reason in (example.extra.get("gates") or {}).items():
        if reason:
            parts.append(_block(f"dropped by {gate}", str(reason)))
    for role, given in example.extra.get("answers", {}).items():
        parts.append(_block(f"{role}: {'right' if given['score'] else 'wrong'}", given["text"]))
    return "".join(parts)


def _block(title: str, text: str) -> str:
    return (
        '<div style="border-left:3px solid #2a9d74;padding:.1em .8em;margin:.4em 0">'
        f'<small>{html.escape(title)}</small><div style="{TEXT}">{html.escape(text)}</div></div>'
    )


def browse(
    examples: Sequence[Example], key: str | Sequence[str] = "difficulty", order: Sequence[str] | None = None
) -> Any:
    """Browse records one at a time, filtered by "task" or by extra keys (difficulty, topic, fact): one, or several.

    `order`: the values of a single key, in the order to offer them (default: as the alphabet has them).
    """
    import ipywidgets

    keys = [key] if isinstance(key, str) else list(key)
    kinds = [
        ipywidgets.Dropdown(options=["all", *(order or sorted({_value(e, k) for e in examples}))], description=k)
        for k in keys
    ]
    number = ipywidgets.IntSlider(min=1, max=max(len(examples), 1), description="record")
    view = ipywidgets.HTML()
    shown: list[Example] = []

    def select(_: Any = None) -> None:
        wanted = [(k, kind.value) for k, kind in zip(keys, kinds, strict=True) if kind.value != "all"]
        shown[:] = [e for e in examples if all(_value(e, k) == value for k, value in wanted)]
        number.max = max(len(shown), 1)
        number.value = 1
        show()

    def show(_: Any = None) -> None:
        view.value = record_html(shown[number.value - 1]) if shown else "<p>none</p>"

    for kind in kinds:
        kind.observe(select, "value")
    number.observe(show, "value")
    select()
    return ipywidgets.VBox([ipywidgets.HBox([*kinds, number], layout={"flex_flow": "row wrap"}), view])


def browse_gates(kept: Sequence[Example], dropped: Sequence[Example]) -> Any:
    """Browse what the gates kept and what each of them dropped, with its reason."""
    lost: dict[str, list[Example]] = {}
    for example in dropped:
        gate = next((name for name, reason in example.extra["gates"].items() if reason), "no gate")
        lost.setdefault(gate, []).append(example)
    groups = {"kept": list(kept), **lost}
    names = {f"{name} ({len(rows):,})": name for name, rows in groups.items()}
    marked = [
        replace(e, extra=e.extra | {"gate": f"{name} ({len(rows):,})"}) for name, rows in groups.items() for e in rows
    ]
    return browse(marked, key="gate", order=list(names))


def _value(example: Example, key: str) -> str:
    return example.task if key == "task" else str(example.extra.get(key, ""))


def chat(loaded: Any, system: str = "", max_new_tokens: int = 80) -> Any:
    """A box to ask a model one thing at a time, with the tokens a second it answers at."""
    import ipywidgets

    from ..synthesize.answer import Sampling, answer

    question = ipywidgets.Text(placeholder="Ask the model something and press the button", layout={"width": "70%"})
    button = ipywidgets.Button(description="Ask", button_style="primary")
    view = ipywidgets.HTML()

    def ask(_: Any = None) -> None:
        if not question.value.strip():
            return
        button.disabled, button.description = True, "thinking"
        try:
            prompt = [{"role": "system", "content": system}] if system else []
            given = answer(loaded, [[*prompt, {"role": "user", "content": question.value}]], Sampling(max_new_tokens))[
                0
            ]
            view.value += _block("you", question.value) + _block(
                f"{loaded.name}, {given.completion_tokens / given.seconds:.0f} tokens a second", given.text
            )
        except Exception as error:  # shown where the learner looks, instead of lost in a log
            view.value += _block("error", f"{type(error).__name__}: {error}")
        finally:
            button.disabled, button.description = False, "Ask"

    button.on_click(ask)
    return ipywidgets.VBox([ipywidgets.HBox([question, button]), view])
