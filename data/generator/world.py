"""The invented company's world: facts, editions of an article, people's names, and the slips people make when typing."""

import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

HERE = Path(__file__).parent
NAMES = [
    "Priya",
    "Tom",
    "Aisha",
    "Gareth",
    "Mei",
    "Olu",
    "Siobhan",
    "Kasia",
    "Dev",
    "Rhona",
    "Marek",
    "Bea",
    "Yusuf",
    "Ines",
    "Callum",
    "Nadia",
    "Owen",
    "Zofia",
    "Hamish",
    "Leila",
    "Joan",
    "Piotr",
    "Femi",
    "Greta",
    "Sanjay",
    "Ruth",
    "Eilidh",
    "Tariq",
    "Moira",
    "Luca",
]


@dataclass(frozen=True)
class Point:
    """One thing an article tells, with the value it has in this edition."""

    key: str
    about: str
    sentence: str  # as the article says it
    value: str  # the true value (for the customer's kind, when it depends on the kind)
    kind: str | None  # the kind the value belongs to, None when it holds for all
    other: str | None  # the value of the other kind, if the point depends on the kind
    other_kind: str | None
    wrong: tuple[str, ...]  # values of this point that this edition does not state


@dataclass(frozen=True)
class Edition:
    """An article with its values drawn: what one customer's help page says."""

    fact: str
    topic: str
    title: str
    points: tuple[Point, ...]


@cache
def further() -> list[dict]:
    """The facts that are no article of the knowledge base, each with its phrases for every task: they widen the world of
    a teacher that is trained on more rows than the shipped ones."""
    files = sorted((HERE / "further").glob("*.yaml"))
    return [fact for file in files for fact in yaml.safe_load(file.read_text(encoding="utf-8"))]


def load_facts(split: str, wide: bool = False) -> list[dict]:
    """The facts of one split: 'train' (also used for the pool), 'validation' or 'test' (also for the challenge). `wide`
    puts the further facts after those of train."""
    facts = yaml.safe_load((HERE.parent / "knowledge_base.yaml").read_text(encoding="utf-8"))["facts"]
    return [fact for fact in facts if fact["split"] == split] + (further() if wide else [])


@cache
def load_phrases(task: str) -> dict:
    """All of a task's phrases: split -> what that split is written with."""
    return yaml.safe_load((HERE / "phrases" / f"{task}.yaml").read_text(encoding="utf-8"))


def load_bank(task: str, split: str, wide: bool = False) -> dict:
    """What one split of a task is written with; its "facts" hold the phrases of each fact."""
    bank = load_phrases(task)[split]
    more = {fact["id"]: fact["phrases"][task] for fact in further()} if wide else {}
    return {**bank, "facts": {**bank["facts"], **more}}


def misplaced(point: dict, first: float, second: float) -> bool:
    """Whether the first kind's value and the second's (or their places in `values`) go against the point's order."""
    return {"ascending": first > second, "descending": first < second}.get(point.get("order", ""), False)


def draw_edition(fact: dict, rng: random.Random) -> Edition:
    """Draw the values of every point, and for points that depend on the kind, which kind the customer has."""
    points = []
    for p in fact["points"]:
        values = list(p["values"])
        says = rng.choice(p["says"])
        if p.get("by_kind"):
            a, b = rng.sample(values, 2)
            if misplaced(p, values.index(a), values.index(b)):
                a, b = b, a
            kind_a, kind_b = fact["kinds"]
            own_first = rng.random() < 0.5
            sentence = says.format(A=kind_a, B=kind_b, a=a, b=b)
            value, other = (a, b) if own_first else (b, a)
            kind, other_kind = (kind_a, kind_b) if own_first else (kind_b, kind_a)
        else:
            value, other, kind, other_kind = rng.choice(values), None, None, None
            sentence = says.format(v=value)
        wrong = tuple(v for v in values if v not in (value, other))
        points.append(
            Point(p["key"], p["about"], sentence[0].upper() + sentence[1:], value, kind, other, other_kind, wrong)
        )
    return Edition(fact["id"], fact["topic"], fact["title"], tuple(points))


NEIGHBOURS = {
    "a": "sq",
    "e": "wr",
    "i": "uo",
    "o": "ip",
    "n": "bm",
    "t": "ry",
    "s": "ad",
    "r": "et",
    "l": "k",
    "h": "gj",
}


def mistype(text: str, rng: random.Random, rate: float, keep: tuple[str, ...] = ()) -> str:
    """Make about `rate` slips per word (swap, drop, double, neighbouring key), never inside the words of `keep`."""
    protected = {word for phrase in keep for word in phrase.split()}
    words = text.split(" ")
    for i, word in enumerate(words):
        if len(word) < 4 or not word.isalpha() or word in protected or rng.random() >= rate:
            continue
        at = rng.randrange(1, len(word) - 1)
        slip = rng.randrange(4)
        if slip == 0:
            word = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        elif slip == 1:
            word = word[:at] + word[at + 1 :]
        elif slip == 2:
            word = word[:at] + word[at] + word[at:]
        else:
            near = NEIGHBOURS.get(word[at].lower())
            word = word[:at] + (rng.choice(near) if near else word[at]) + word[at + 1 :]
        words[i] = word
    return " ".join(words)
