"""Prompting styles: the same question, asked so that the teacher shows its reasons.

chain_of_thought   (arXiv 2201.11903) for nli, qa and math: a JSON object with the reasons, then the answer
chain_of_density   (arXiv 2309.04269) for summarization: four notes, each denser than the one before; the last is kept

The JSON keys are those of Azure's distillation service ("reason" with "answer_choice", or "answer" for math;
"Missing_Entities" with "Denser_Summary"), so data made here and there look alike.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..records import Example
from . import get_task, instructed, qa
from .json_text import objects, pairs
from .nli import INFERENCE, labels_of

COT = (
    "First reason step by step in at most 80 words, then answer. Reply with one JSON object and nothing else, no markdown: "
    '{{"reason": "your reasoning", "{key}": "{answer}"}}'
)
ASKED = {  # the question of each task, and how its answer is put
    "nli": ("Does the premise support the hypothesis?", "answer_choice", "entailment, neutral or contradiction"),
    "qa": ("Answer the question with the fewest words from the article.", "answer_choice", "the answer alone"),
    "math": ("Work out the answer. Reason in steps of arithmetic.", "answer", "the number with its unit"),
}
NOTES = 4
COD = (
    "Write {n} hand-over notes of the conversation for the next agent, each of at most 80 words and of the same length, each "
    "denser than the one before. For each, first find one to three details (a name, a device, a time, a promise) that the "
    "note before lacks; then write it anew with them in, leaving out no detail that was there. Only what the conversation "
    "says. Reply with a JSON list of {n} objects and nothing else: "
    '[{{"Missing_Entities": "a; b", "Denser_Summary": "the note"}}, ...]'
)


class UnreadableAnswer(ValueError):
    """A styled answer whose parts cannot be told apart; the message says what is missing."""


@dataclass(frozen=True)
class Style:
    """How a teacher is asked, and how its text is taken apart.

    read(example, text) -> (answer, rationale); raises UnreadableAnswer.
    """

    name: str
    tasks: tuple[str, ...]  # empty: every task
    prompt: Callable[[Example], list[dict[str, str]]]
    read: Callable[[Example, str], tuple[str, str]]
    max_new_tokens: int  # 0: the task's own


def get_style(name: str, task: str | None = None) -> Style:
    """A style by name. Raises ValueError for one that does not exist, or does not fit the task."""
    if name not in STYLES:
        raise ValueError(f"no prompting style {name!r}; there are {', '.join(STYLES)}")
    style = STYLES[name]
    if task is not None and style.tasks and task not in style.tasks:
        raise ValueError(f"style {name} is for {', '.join(style.tasks)}, not for {task}")
    return style


def _thought_prompt(example: Example) -> list[dict[str, str]]:
    question, key, answer = ASKED[example.task]
    own = example.prompt[0]["content"] if example.prompt[0]["role"] == "system" else ""
    if example.task == "nli" and own:  # a closed set of one's own brings its question and its labels
        question, answer = "", "the label"
    elif example.task == "qa" and qa.options(example):
        question, answer = "Answer the question with the letter of the right option.", "the letter"
    return instructed(example, f"{question} {COT.format(key=key, answer=answer)}".strip())


def _thought(example: Example, text: str) -> tuple[str, str]:
    """(answer, reason). JSON first, then what is nearly JSON, then "reason: ... answer: ..." in plain lines."""
    names = ("answer_choice", "answer")
    for found in objects(text):
        low = {str(key).lower(): value for key, value in found.items()}
        answer = next((low[name] for name in names if isinstance(low.get(name), (str, int, float))), None)
        if answer is not None:
            return _checked(example, str(answer), _as_text(low.get("reason")))
    loose = pairs(text, ("reason", *names))
    answer = next((loose[name] for name in names if loose.get(name)), None)
    if answer:
        return _checked(example, answer, loose.get("reason", ""))
    plain = re.split(r"\banswer(?:_choice)?\s*[:=]", text, flags=re.IGNORECASE)
    if len(plain) > 1 and plain[-1].strip():
        reason = re.sub(r"^\W*reason(?:ing)?\s*[:=]\s*", "", "".join(plain[:-1]).strip(), flags=re.IGNORECASE)
        return _checked(example, plain[-1].strip(' \n"}{`*,'), reason.strip(' \n"{`*,'))
    raise UnreadableAnswer("no JSON object with 'reason' and 'answer_choice', and no line 'Answer: ...'")


def _as_text(value: Any) -> str:
    if isinstance(value, list):
        return "\n".join(map(_as_text, value))
    return value.strip() if isinstance(value, str) else ""


def _checked(example: Example, answer: str, reason: str) -> tuple[str, str]:
    answer = answer.strip()
    labels = labels_of(example) or (answer,)
    parsed = get_task(example.task).parse(answer, labels)
    if parsed is None:
        raise UnreadableAnswer(f"{answer[:60]!r} is no answer of {example.task}")
    shown = qa.options(example) if example.task == "qa" else {}
    if shown and qa.parse_choice(answer, shown) is None:
        raise UnreadableAnswer(f"{answer[:60]!r} picks none of the options {', '.join(shown)}")
    return (parsed if example.task == "nli" and labels is INFERENCE else answer), reason


def _density_prompt(example: Example) -> list[dict[str, str]]:
    return instructed(example, COD.format(n=NOTES))


def _density(example: Example, text: str) -> tuple[str, str]:
    """(the last note, the ones before it, a line each)."""
    notes = []
    for found in objects(text):
        low = {str(key).lower(): value for key, value in found.items()}
        note = _as_text(low.get("denser_summary") or low.get("summary"))
        if note:
            notes.append(" ".join(note.split()))
    if not notes:
        raise UnreadableAnswer("no JSON object with 'Denser_Summary'")
    return notes[-1], "\n".join(notes[:-1])


def _plain_prompt(example: Example) -> list[dict[str, str]]:
    return get_task(example.task).prompt(example)


STYLES = {
    "plain": Style("plain", (), _plain_prompt, lambda example, text: (text, ""), 0),
    "chain_of_thought": Style("chain_of_thought", ("nli", "qa", "math"), _thought_prompt, _thought, 256),
    "chain_of_density": Style("chain_of_density", ("summarization",), _density_prompt, _density, 768),
}
