"""Conversations asked turn by turn, so that a teacher's own earlier answers are the history of its next one.

A written dialogue holds somebody else's answers. A teacher that answers only its last turn shows a student how to go on from
those, and never how to go on from its own, which is all that the student will see in use.
"""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ..compact import Mapped
from ..records import Example, Response
from .answer import Prompt

HISTORIES = ("own", "written")
Entry = dict[str, Any]


def earlier_turns(example: Example) -> int:
    """How many answers come before the one that is asked for."""
    return sum(message["role"] == "assistant" for message in example.prompt)


def unanswered(example: Example) -> Example:
    """The example as it was written: what an earlier teacher said is no part of the question."""
    return replace(example, response=None)


def up_to(example: Example, turn: int, history: Sequence[str]) -> Example:
    """The example as it stood at a user's turn (0 the first), with `history` in place of the answers before it."""
    messages = example.prompt
    users = [place for place, message in enumerate(messages) if message["role"] == "user"]
    response = Response("", "", history=list(history)) if history else None
    return replace(example, messages=messages[: users[turn] + 1], response=response)


class Rollout:
    """The turns of many conversations, each built on what the journal says of those before it; nothing is held but counts.

    prompt(example) and key(example, prompt) are what a turn is asked by and journalled under; entry(key) is the journal's
    line, None where there is none. Unless `own`, every conversation has one turn only, the one its record asks about.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        own: bool,
        prompt: Callable[[Example], Prompt],
        key: Callable[[Example, Prompt], str],
        entry: Callable[[str], Entry | None],
    ):
        self.own, self.prompt, self.key, self.entry = own, prompt, key, entry
        self.examples: Sequence[Example] = Mapped(unanswered, examples)
        self.earlier = array("i", map(earlier_turns, self.examples)) if own else array("i", [0]) * len(examples)

    @property
    def most(self) -> int:
        """The most earlier turns of any conversation."""
        return max(self.earlier, default=0)

    def key_of(self, question: Example) -> str:
        return self.key(question, self.prompt(question))

    def at(self, i: int, turn: int, stand_in: bool = False) -> Any:
        """Conversation `i` at a user's turn, an Example. None where an answer before it is missing or was cut off, for
        nothing can follow that; with `stand_in` the written answer stands there instead."""
        example, history = self.examples[i], list[str]()
        if not self.own:
            return example
        written = [message["content"] for message in example.prompt if message["role"] == "assistant"]
        for before in range(turn):
            found = self.entry(self.key_of(up_to(example, before, history)))
            if found and found.get("finish_reason") == "stop" and found["text"].strip():
                history.append(found["text"])
            elif stand_in:
                history.append(written[before])
            else:
                return None
        return up_to(example, turn, history)

    def last(self, i: int) -> Any:
        """Conversation `i` at the turn its record asks about."""
        return self.at(i, self.earlier[i])

    def open(self, turn: int) -> Sequence[int]:
        """The conversations that have an earlier turn of this number which can be asked."""
        return array("q", (i for i, count in enumerate(self.earlier) if count > turn and self.at(i, turn)))

    def whole(self) -> Sequence[int]:
        """The conversations whose last turn can be asked."""
        return (
            array("q", (i for i in range(len(self.earlier)) if self.last(i))) if self.own else range(len(self.earlier))
        )
