"""Published teachers and students to choose from: size, licence, price. Text for tables and a widget to explore them."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..synthesize.presets import ANTHROPIC, DEEPSEEK, LLAMA, OPEN, OPENAI, PRICES, Price, Terms

FORMATS = {"float32": 32, "bfloat16": 16, "8-bit": 8, "4-bit": 4}  # bits a parameter


@dataclass(frozen=True)
class Published:
    """A model as its maker describes it. `parameters` is None where the maker does not say."""

    name: str
    role: str  # "teacher" or "student"
    parameters: float | None
    licence: str
    terms: Terms  # of training on its answers
    price: Price | None = None
    note: str = ""


CATALOGUE = (
    Published("DeepSeek V3", "teacher", 671e9, "DeepSeek model licence; later versions MIT", DEEPSEEK,
              PRICES["deepseek-chat"], "mixture of experts: 37B work on each token"),
    Published("Llama 3.1 405B Instruct", "teacher", 405e9, "Llama 3.1 licence", LLAMA, None, "run by many providers"),
    Published("GPT-4.1", "teacher", None, "API only", OPENAI, PRICES["gpt-4.1"]),
    Published("GPT-4o", "teacher", None, "API only", OPENAI, PRICES["gpt-4o"]),
    Published("Claude Sonnet 4.6", "teacher", None, "API only", ANTHROPIC, PRICES["claude-sonnet-4-6"]),
    Published("Llama 3.1 8B Instruct", "student", 8e9, "Llama 3.1 licence", LLAMA),
    Published("Phi-4-mini-instruct", "student", 3.8e9, "MIT", OPEN, None, "context of 128K tokens"),
    Published("SmolLM2-135M-Instruct", "student", 134.5e6, "Apache-2.0", OPEN, None, "this course's own start"),
)  # fmt: skip


def size(count: float) -> str:
    """Bytes, for people."""
    for unit, each in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= each:
            return f"{count / each:,.3g} {unit}"
    return f"{count:,.0f} B"


def bill(model: Published, rows: int, tokens_in: int, tokens_out: int) -> float | None:
    """US dollars for so many rows of this length at the list price; None where no price is known."""
    return model.price.cost(rows * tokens_in, rows * tokens_out) if model.price else None


def overview(models: Sequence[Published] = CATALOGUE) -> str:
    """All of them as a Markdown table."""
    lines = ["| model | role | parameters | weights in bfloat16 | licence | training on its answers | $ per M tokens in / out |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for m in models:
        count = f"{m.parameters / 1e9:,.4g} B" if m.parameters else "not published"
        weights = size(m.parameters * 2) if m.parameters else "?"
        price = f"{m.price.input:g} / {m.price.output:g}" if m.price else ""
        lines.append(f"| {m.name} | {m.role} | {count} | {weights} | {m.licence} | {m.terms.allowed} | {price} |")
    return "\n".join(lines)


def break_even(teacher_per_request: float, student_per_request: float, once: float) -> float | None:
    """After how many requests the student has earned back what it cost to make (`once`); None if it never does."""
    saved = teacher_per_request - student_per_request
    return once / saved if saved > 0 else None


def pair_html(teacher: Published, student: Published, bits: int, rows: int, tokens: tuple[int, int]) -> str:
    """What a pair would take and ask, as safe HTML."""
    cost = bill(teacher, rows, *tokens)
    if teacher.parameters and student.parameters:
        weights = (
            f"{size(teacher.parameters * bits / 8)} against {size(student.parameters * bits / 8)} of weights, "
            f"{teacher.parameters / student.parameters:,.0f} times as many parameters"
        )
    else:
        weights = (
            f"{size((student.parameters or 0) * bits / 8)} of student weights; the teacher's size is not published"
        )
    lines = {
        "memory": weights,
        f"{rows:,} answers": f"${cost:,.2f} ({teacher.price.read})" if cost is not None and teacher.price else "no list price here",
        "training on its answers": f"{teacher.terms.allowed}. {teacher.terms.duty}",
        "the student's own licence": f"{student.licence}. {student.terms.duty}",
        "note": "; ".join(note for note in (teacher.note, student.note) if note),
    }  # fmt: skip
    return "<table>" + "".join(
        f"<tr><th style='text-align:left'>{html.escape(key)}</th><td style='text-align:left'>{html.escape(value)}</td></tr>"
        for key, value in lines.items()
        if value
    ) + "</table>"  # fmt: skip


def explore(rows: int = 50_000, tokens: tuple[int, int] = (300, 80)) -> Any:
    """A widget: choose teacher, student, number format and rows; see memory, bill and duties."""
    import ipywidgets

    by_name = {m.name: m for m in CATALOGUE}
    pick = {
        role: ipywidgets.Dropdown(options=[m.name for m in CATALOGUE if m.role == role], description=role)
        for role in ("teacher", "student")
    }
    bits = ipywidgets.Dropdown(options=list(FORMATS), value="bfloat16", description="format")
    count = ipywidgets.IntSlider(value=rows, min=1000, max=200_000, step=1000, description="rows")
    view = ipywidgets.HTML()

    def show(_: Any = None) -> None:
        teacher, student = by_name[pick["teacher"].value], by_name[pick["student"].value]
        view.value = pair_html(teacher, student, FORMATS[bits.value], count.value, tokens)

    for control in (*pick.values(), bits, count):
        control.observe(show, "value")
    show()
    return ipywidgets.VBox([ipywidgets.HBox([*pick.values(), bits, count], layout={"flex_flow": "row wrap"}), view])
