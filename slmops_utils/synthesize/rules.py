"""What a gate is, and what gates measure by."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..records import Example

Reasons = list[str | None]


@dataclass(frozen=True)
class Rules:
    """What the gates measure by. `held_out` are validation, test and challenge, which no training row may repeat."""

    held_out: Sequence[Example] = ()
    labels: Sequence[str] = ()  # of a closed set; read from the data when empty
    most_words: int = 400
    similarity: float = 0.8  # shared word triples of two texts (Jaccard) from which they count as the same
    balance: float = 3.0  # no class or topic may have more than so many times the median one's rows
    agreement: float = 0.5  # the share of a question's samples that has to agree with its answer
    least_score: int = 3  # the judge's lowest grade, of 1 to 5, that passes
    known_labels: dict[str, tuple[str, ...]] = field(default_factory=dict)


Gate = Callable[[Sequence[Example], Rules], Reasons]


def each(judge: Callable[[Example, str, Rules], str | None]) -> Gate:
    """A gate out of a function that looks at one record and its answer at a time."""

    def gate(examples: Sequence[Example], rules: Rules) -> Reasons:
        return [judge(e, e.response.text if e.response else "", rules) for e in examples]

    gate.__doc__ = judge.__doc__
    return gate


def question(example: Example) -> str:
    """What the user said. A shared article in the system message makes no two questions alike."""
    return "\n".join(m["content"] for m in example.prompt if m["role"] == "user")
