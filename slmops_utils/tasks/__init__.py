"""The task types. Each is one file that says how it prompts, parses, validates and scores.

To add one, write a file with a `TASK = Task(...)` and name it in MODULES.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from ..records import Example

MODULES = ("nli", "conversation")


@dataclass(frozen=True)
class Metric:
    """A score of a whole test set, kept apart from its rows so that rows can be resampled.

    value(example, text) -> what one row contributes (a number or a tuple of numbers);
    aggregate(rows) -> the score, from an array of shape (n,) or (n, k).
    """

    value: Callable[[Example, str], Any]
    aggregate: Callable[[Any], float]


@dataclass(frozen=True)
class Task:
    """What the stages need to know of a task type."""

    name: str
    prompt: Callable[[Example], list[dict[str, str]]]  # the messages a model is sent
    target: Callable[[Example], str]  # the text a labelled example trains on
    parse: Callable[[str, Sequence[str]], Any]  # (text, labels) -> the answer, None when there is none
    metrics: dict[str, Metric]  # the first one is the headline score
    max_new_tokens: int

    @property
    def headline(self) -> str:
        return next(iter(self.metrics))


def get_task(name: str) -> Task:
    """Find a task type by name. Raises ValueError naming those that exist."""
    if name not in MODULES:
        raise ValueError(f"no task type {name!r}; there are {', '.join(MODULES)}")
    return import_module(f".{name}", __name__).TASK


def few_shot(prompt: list[dict[str, str]], shots: Sequence[Example], task: Task) -> list[dict[str, str]]:
    """Put solved examples before the question, as earlier turns of the same chat."""
    system = [m for m in prompt if m["role"] == "system"]
    turns = []
    for shot in shots:
        # an earlier example's own system text (its article) has to travel inside its user turn
        asked = task.prompt(shot)
        article = "".join(m["content"] + "\n\n" for m in asked if m["role"] == "system" and m not in system)
        body = [m for m in asked if m["role"] != "system"]
        turns += [{"role": "user", "content": article + body[0]["content"]}, *body[1:]]
        turns.append({"role": "assistant", "content": task.target(shot)})
    return system + turns + [m for m in prompt if m["role"] != "system"]
