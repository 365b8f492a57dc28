"""The task types. Each is one file that says how it prompts, parses, validates and scores.

To add one, write a file with a `TASK = Task(...)`, here or in the folder that the environment variable SLMOPS_TASKS names;
the file's name is the task's. Every score is a share, from 0 to 1.
"""

import os
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from ..records import Example

MODULES = ("nli", "qa", "math", "conversation", "summarization")
__path__.extend(folder for folder in [os.environ.get("SLMOPS_TASKS")] if folder)  # the learner's own task files


@dataclass(frozen=True)
class Metric:
    """A score of a whole test set, kept apart from its rows so that rows can be resampled.

    value(example, text) -> what one row contributes (a number or a tuple of numbers);
    aggregate(rows) -> the score, from an array of shape (n,) or (n, k);
    applies(example) -> whether the example's reference says enough for this score.
    """

    value: Callable[[Example, str], Any]
    aggregate: Callable[[Any], float]
    applies: Callable[[Example], bool] = lambda example: True


@dataclass(frozen=True)
class Task:
    """What the stages need to know of a task type."""

    name: str
    prompt: Callable[[Example], list[dict[str, str]]]  # the messages a model is sent
    target: Callable[[Example], str]  # the text a labelled example trains on
    parse: Callable[[str, Sequence[str]], Any]  # (text, labels) -> the answer, None when there is none
    metrics: dict[str, Metric]  # the first one is the headline score: one number a row
    max_new_tokens: int
    # a form in which two parsed answers that say the same are equal, for votes; None where answers are free text
    canonical: Callable[[Any], Hashable] | None = None

    @property
    def headline(self) -> str:
        return next(iter(self.metrics))

    def metrics_for(self, examples: Sequence[Example]) -> dict[str, Metric]:
        """The metrics that apply to every one of these examples, the first the headline. ValueError if none does."""
        metrics = {name: metric for name, metric in self.metrics.items() if all(map(metric.applies, examples))}
        if not metrics:
            raise ValueError(f"no score of {self.name} applies to these references")
        return metrics


def get_task(name: str) -> Task:
    """Find a task type by name. Raises ValueError naming those that exist."""
    # only a plain name is looked up: it comes from a data file
    found = name.isidentifier() and name[0] != "_" and find_spec(f"{__name__}.{name}") is not None
    task = getattr(import_module(f".{name}", __name__), "TASK", None) if found else None
    if not isinstance(task, Task):
        own = [p.stem for folder in list(__path__)[1:] for p in sorted(Path(folder).glob("*.py"))]
        raise ValueError(f"no task type {name!r}; there are {', '.join((*MODULES, *own))}")
    return task


def instructed(example: Example, instruction: str) -> list[dict[str, str]]:
    """The example's prompt with `instruction` at the head of its system message, or as one where it has none."""
    messages = example.prompt
    if messages[0]["role"] == "system":
        return [{"role": "system", "content": f"{instruction}\n\n{messages[0]['content']}"}, *messages[1:]]
    return [{"role": "system", "content": instruction}, *messages]


def validate(example: Example) -> str | None:
    """What is wrong with a labelled example, None when nothing is: its own gold answer has to score in full."""
    task = get_task(example.task)
    try:
        metrics = task.metrics_for([example])
        name, metric = next(iter(metrics.items()))
        score = metric.value(example, task.target(example))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        return f"not a reference of {example.task}: {error}"
    return None if score == 1 else f"its own gold answer scores {score:.2f} {name}, not 1"


def choose_shots(examples: Sequence[Example], number: int) -> list[Example]:
    """The first `number` labelled examples or, where the references are labels that return, the first of each label in
    turn: a model that is shown one label alone repeats it."""
    by_reference: dict[str, list[Example]] = {}
    for example in examples:
        by_reference.setdefault(str(example.reference), []).append(example)
    if 2 * len(by_reference) > len(examples):  # free answers, hardly one of them twice
        return list(examples[:number])
    turns = (row for rank in zip_longest(*by_reference.values()) for row in rank if row is not None)
    return list(islice(turns, number))


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


def gold_text(example: Example) -> str:
    """The gold answer as its task words it, and below it whatever else the reference asks for."""
    reference = example.reference
    if not isinstance(reference, dict):
        return str(reference)
    try:
        text = str(get_task(example.task).target(example))
    except (KeyError, ValueError, TypeError, AttributeError, IndexError):
        text = str(reference)  # a reference its task cannot read is shown as it is
    wanted = [" / ".join(map(str, group[:3])) for group in reference.get("required", []) if group]
    banned = [str(phrase) for phrase in reference.get("forbidden", [])]
    for title, phrases in (("has to say", wanted), ("must not say", banned)):
        text += f"\n{title}: {'; '.join(phrases)}" if phrases else ""
    return text
