"""Faults to plant in a teacher's answers, one for each gate that looks for it, to see what it would cost a student."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from ..records import Example, Response
from ..tasks import get_task
from ..tasks.nli import INFERENCE

REFUSAL = "I'm sorry, but I can't help with that."
FAILED = "Error: 429 Too Many Requests"  # as it is trained on where failed calls are kept (Build25-LAB329)
VAGUE = "That depends on how one reads it."
FRENCH = "La réponse est dans le texte, et le client ne le sait pas encore pour une raison que vous avez."


def _text(example: Example, text: str, finish_reason: str = "stop") -> Example:
    given = example.response or Response("", "planted")
    return replace(example, response=replace(given, text=text, finish_reason=finish_reason))


def _cut(example: Example, draw: random.Random) -> Example:
    text = example.response.text if example.response else ""
    return _text(example, text[: max(len(text) // 2, 1)], "length")


def _wrong(example: Example, draw: random.Random) -> Example:
    """Another label with the same reasons before it."""
    text = example.response.text if example.response else ""
    label = get_task("nli").parse(text, INFERENCE) or str(example.reference)
    other = draw.choice([name for name in INFERENCE if name not in (label, example.reference)])
    return _text(example, f"{text[: -len(label)] if text.endswith(label) else ''}{other}")


def _leaked(example: Example) -> Example:
    """A held-out row with its right answer, as if a teacher had given it."""
    return replace(_text(example, get_task(example.task).target(example)), id=f"leaked-{example.id}")


FAULTS: dict[str, Callable[[Example, random.Random], Example]] = {
    "answered": lambda example, draw: replace(example, response=None),
    "finished": _cut,
    "not_refused": lambda example, draw: _text(example, draw.choice([REFUSAL, FAILED])),
    "parsed": lambda example, draw: _text(example, VAGUE),
    "length": lambda example, draw: _text(example, f"{'It says so in the text. ' * 12}neutral"),
    "same_language": lambda example, draw: _text(example, f"{FRENCH} neutral"),
    "agrees": _wrong,
}


def spoil(
    rows: Sequence[Example], gate: str, share: float, held_out: Sequence[Example] = (), seed: int = 0
) -> list[Example]:
    """The rows with a share of them spoiled as `gate` is meant to notice, in an order that `seed` decides.

    not_held_out: test rows with their right answers take the place of rows. not_repeated: a few rows, over and over.
    balanced: rows of all labels but the first are replaced by further ones of that label, where there are any.
    Raises ValueError for a gate without a fault.
    """
    draw, count = random.Random(seed), round(share * len(rows))
    chosen = set(draw.sample(range(len(rows)), count))
    if gate in FAULTS:
        return [FAULTS[gate](e, draw) if i in chosen else e for i, e in enumerate(rows)]
    whole = [e for i, e in enumerate(rows) if i not in chosen]
    if gate == "not_held_out":
        leaked = draw.sample(list(held_out), min(count, len(held_out)))
        new = [_leaked(e) for e in leaked]
    elif gate == "not_repeated":
        few = whole[: max(count // 20, 1)]
        new = [replace(few[i % len(few)], id=f"{few[i % len(few)].id}-again{i // len(few)}") for i in range(count)]
    elif gate == "balanced":
        label = sorted({str(e.reference) for e in rows})[0]
        few = [e for e in whole if e.reference == label]
        new = [replace(few[i % len(few)], id=f"{few[i % len(few)].id}-more{i // len(few)}") for i in range(count)]
    else:
        raise ValueError(
            f"no fault to plant for gate {gate!r}; there are {', '.join((*FAULTS, 'not_held_out', 'not_repeated', 'balanced'))}"
        )
    mixed = whole + new
    draw.shuffle(mixed)
    return mixed


def bad_day(
    answered: Sequence[Example], test: Sequence[Example], share: float, seed: int = 0
) -> tuple[list[Example], dict[str, str]]:
    """The answers of a bad day: every fault in a share of the rows, test rows with their answers (their ids begin with
    "leaked-") and rows asked again with a greeting ("-again") among them, in an order that `seed` decides.

    Returns the rows, and {id of a spoiled row: the gate that should notice it}.
    """
    draw, count = random.Random(seed), max(1, round(share * len(answered)))
    order = draw.sample(range(len(answered)), len(answered))
    day, planted = list(answered), {}
    for number, (gate, fault) in enumerate(FAULTS.items()):
        for place in order[number * count : (number + 1) * count]:
            day[place] = fault(day[place], draw)
            planted[day[place].id] = gate
    teacher = next(e.response.model for e in answered if e.response)
    for example in draw.sample(list(test), count):
        day.append(replace(_leaked(replace(example, response=Response("", teacher))), reference=None))
        planted[day[-1].id] = "not_held_out"
    for example in draw.sample(list(answered), count):
        if example.id not in planted:
            greeted = [{**m, "content": f"Hello! {m['content']}"} for m in example.messages]
            day.append(replace(example, id=f"{example.id}-again", messages=greeted))
            planted[day[-1].id] = "not_repeated"
    draw.shuffle(day)
    return day, planted
