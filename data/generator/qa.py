"""Draws the `qa` task: one question about one help article, with a short answer or with four options.

The answer is a value the article states. Its other values are the distractors: another point's or, where the answer
depends on the kind of device or plan, the other kind's. Among the options that belong to one point or another the
right one is as likely as any, so the options alone do not tell which it is.
"""

import random
import re
from collections import Counter
from functools import cache
from itertools import combinations, count

from .conversation import ONES, equivalents, spell, spread
from .world import NAMES, Edition, Point, draw_edition, load_bank, load_facts, load_phrases, mistype

SIZES = {"train": 800, "pool": 2000, "validation": 160, "test": 320}
LEVELS = {"easy": 0.3, "medium": 0.3, "hard": 0.4}
CHOICES = {"easy": 0.2, "medium": 0.3, "hard": 0.375}  # the share of questions with options
LETTERS = "ABCD"
TIME = "seconds? minutes? hours? days? weeks? months? years? year quarter evening".replace(" ", "|")
MEASURES = {
    "money": "£",
    "share": "%",
    "time": rf"\b({TIME})\b",
    "data": "[GM]B$",
    "speed": "Mbps",
    "code": r"^\S*\d\d",
}
SIGNED = re.compile(r"(, | from )[A-Z]\w+( and [A-Z]\w+)?$")
COUNTED = re.compile(rf"(\d+|{'|'.join(ONES[1:])}) (?!({TIME}|metres?|working|watts|cm)\b)[a-z]+")


@cache
def accepted(value: str) -> tuple[str, ...]:
    """The value as the article has it, then other ways to put it that count as the same answer."""
    ways = [*equivalents(value), *load_phrases("qa")["same"].get(value, ())]
    ways.append(re.sub(r"^(under|beneath|behind|beside|by|over|with|through|every|within|inside|on|at|in) ", "", value))
    if m := COUNTED.fullmatch(value):
        number = ONES.index(m[1]) if m[1] in ONES else int(m[1])
        ways += [str(number), spell(number)]
    elif m := re.fullmatch(r"£0\.(\d\d)", value):
        ways += [f"{int(m[1])}{unit}" for unit in ("p", " pence")]
    return tuple(w for w in dict.fromkeys(ways) if not re.search(r"^0 pounds| (st|th)$|\bG \w", w))


@cache
def normal(value: str) -> frozenset[str]:
    """All wordings of a value without case, articles and punctuation."""
    words = (re.findall(r"[\w£%.:*#-]+", way.lower()) for way in accepted(value))
    return frozenset(" ".join(w for w in found if w not in ("a", "an", "the")) for found in words)


def same(value: str, other: str) -> bool:
    """Whether some wording of the one value is also one of the other."""
    return not normal(value).isdisjoint(normal(other))


def measure(value: str) -> str | None:
    """What a value is counted in, None for words."""
    return next((name for name, form in MEASURES.items() if re.search(form, value)), None)


class Dealer:
    """Hands out the least used of what it is offered, so that nothing is worn out."""

    def __init__(self, rng: random.Random):
        self.rng, self.used = rng, Counter()

    def pick(self, options: list):
        least = min(self.used[o] for o in options)
        chosen = self.rng.choice([o for o in options if self.used[o] == least])
        self.used[chosen] += 1
        return chosen


def shape(point: Point) -> str:
    """The article's sentence without what was drawn for it."""
    sentence = point.sentence
    for drawn in filter(None, (point.value, point.other, point.kind, point.other_kind)):
        sentence = sentence.replace(drawn, "_").replace(drawn[0].upper() + drawn[1:], "_")
    return sentence


def stated(point: Point) -> list[str]:
    return [v for v in (point.value, point.other) if v]


def draw(fact: dict, key: str, dealer: Dealer) -> tuple[Edition, Point]:
    """An edition in which the value of point `key` has seldom been asked for and the sentences have seldom been used."""
    drafts = []
    for _ in range(8):
        edition = draw_edition(fact, dealer.rng)
        point = next(p for p in edition.points if p.key == key)
        others = [v for p in edition.points for v in stated(p) if v != point.value] + list(point.wrong)
        if not any(same(point.value, v) for v in others):
            worn = 5 * dealer.used[fact["id"], key, point.value] + sum(dealer.used[shape(p)] for p in edition.points)
            drafts.append((worn, edition, point))
    _, edition, point = min(drafts, key=lambda draft: draft[0])
    dealer.used.update([(fact["id"], key, point.value), *map(shape, edition.points)])
    return edition, point


def distractors(edition: Edition, point: Point, dealer: Dealer) -> list[str]:
    """Three wrong options. How often the right point has two of the four is set so that no heap of options is likelier
    to hold the answer: half of the time when one of three points has two."""
    rng = dealer.rng
    rest = rng.sample([p for p in edition.points if p is not point], 3)
    if rng.random() < 0.6:  # points measured in the same thing first
        rest.sort(key=lambda p: measure(p.value) != measure(point.value))

    def second(p: Point, shown: str) -> str:
        if p.other:
            return p.other if shown == p.value else p.value
        return dealer.pick([("option", edition.fact, p.key, v) for v in p.wrong])[3]

    first = {p: rng.choice(stated(p)) for p in rest}
    plan = rng.choices(("spread", "doubled", "paired"), (0, 1, 1) if point.kind else (0.4, 0.33, 0.27))[0]
    if plan == "spread":
        return list(first.values())
    if plan == "paired":
        return [second(point, point.value), first[rest[0]], second(rest[0], first[rest[0]])]
    twice = rest[0] if not point.kind and rng.random() < 0.82 else point
    return [first[rest[0]], first[rest[1]], second(twice, first.get(twice, point.value))]


def worded(parts: list[str], lower: bool, rng: random.Random, keep: tuple[str, ...]) -> str:
    """The parts of a message as typed: tidy, or all in lower case; some with slips."""
    text = parts[0]
    for part in parts[1:]:
        text += ("\n" if text[-1].isalnum() or text[-1] == "," or SIGNED.search(part) else " ") + part
    if lower:
        text = text.lower()
        text = text.replace("'", "") if rng.random() < 0.3 else text
        text = text.rstrip("?.") if rng.random() < 0.6 else text
    return mistype(text, rng, 0.05 if rng.random() < 0.18 else 0.0, keep)


def record(bank: dict, fact: dict, key: str, marks: str, letter: str | None, dealer: Dealer) -> dict:
    """One record without its id and difficulty."""
    rng = dealer.rng
    edition, point = draw(fact, key, dealer)
    lines = bank["facts"][fact["id"]][key].splitlines()
    question = dealer.pick([line for line in lines if line[0] in marks])[2:]
    parts = [question.replace("{K}", point.kind or "").replace("{O}", point.other_kind or "")]
    told = len(re.findall(r"[.!?](?= |$)", question)) > 1  # the line brings its own reason or digression
    if rng.random() < (0.2 if told else 0.5):  # not two stories in one message
        leads = [lead for lead in bank["lead"].splitlines() if not told or len(lead.split()) < 6]
        parts.insert(0, dealer.pick(leads))
    if letter and rng.random() < 0.6:
        parts.append(dealer.pick(bank["pick"].splitlines()))
    elif not letter and rng.random() < (0.2 if told else 0.35):
        parts.append(dealer.pick(bank["tail"].splitlines()))
    caller, other = rng.sample(NAMES, 2)
    parts = [part.replace("{N}", caller).replace("{M}", other) for part in parts]
    keep = [*NAMES, *(v for p in edition.points for v in (*stated(p), p.kind, p.other_kind) if v)]
    texted = question[0].islower() or question.startswith("{K}")
    asked = worded(parts, texted or rng.random() < 0.1, rng, (*keep, *map(str.lower, keep)))
    reference = {"answers": list(accepted(point.value))}
    if letter:
        options = [point.value] * 2
        while any(same(a, b) for a, b in combinations(options, 2)):
            options = rng.sample(distractors(edition, point, dealer), 3)
            options.insert(LETTERS.index(letter), point.value)
        asked += "".join(f"\n{mark}) {option}" for mark, option in zip(LETTERS, options, strict=True))
        reference = {"choice": letter, "answers": [point.value]}
    article = " ".join(rng.sample([p.sentence for p in edition.points], 4))
    messages = [{"role": "system", "content": f"{edition.title}\n{article}"}, {"role": "user", "content": asked}]
    return {"task": "qa", "messages": messages, "reference": reference, "fact": edition.fact, "topic": edition.topic}


def rivals(fact: dict, point: dict) -> bool:
    """Whether another point of the fact is measured in the same thing as this one."""
    kind = measure(point["values"][0])
    return bool(kind) and any(measure(p["values"][0]) == kind for p in fact["points"] if p is not point)


def build(seed: int, sizes: dict[str, int] = SIZES, wide: bool = False) -> dict[str, list[dict]]:
    """All splits; the pool carries no reference."""
    rng, out = random.Random(seed), {}
    for split, size in sizes.items():
        name = "train" if split == "pool" else split
        bank, dealer, seen, records = load_bank("qa", name, wide), Dealer(rng), set(), {}
        points = [(fact, p) for fact in load_facts(name, wide) for p in fact["points"]]
        by_id = {(fact["id"], p["key"]): fact for fact, p in points}
        by_kind = [(fact["id"], p["key"]) for fact, p in points if p.get("by_kind")]
        single = [(fact["id"], p["key"]) for fact, p in points if not p.get("by_kind")]
        similar = [(fact["id"], p["key"]) for fact, p in points if not p.get("by_kind") and rivals(fact, p)]
        oblique = sum(bank["facts"][fact][key].count("~ ") for fact, key in similar)
        share = oblique / (oblique + sum(len(bank["facts"][fact][key].splitlines()) for fact, key in by_kind))
        levels = spread(LEVELS, size, rng)
        forms = {x: iter(spread({False: 1 - CHOICES[x], True: CHOICES[x]}, levels.count(x), rng)) for x in LEVELS}
        rows = [(i, level, next(forms[level])) for i, level in enumerate(levels)]
        letters = spread(dict.fromkeys(LETTERS, 0.25), sum(form for *_, form in rows), rng)
        answers = set()
        for i, level, form in sorted(rows, key=lambda row: row[2]):  # options last: a wrong one is right in another row
            marks, among = {"easy": ("?", single), "medium": ("~", single), "hard": ("~", similar)}[level]
            if level == "hard" and rng.random() > share:
                marks, among = "?~", by_kind
            fact, key = dealer.pick(among)
            letter = letters.pop() if form else None
            for attempt in count():
                draft = record(bank, by_id[fact, key], key, marks, letter, dealer)
                asked, *options = re.split(r"\n[A-D]\) ", draft["messages"][1]["content"])
                right = draft["reference"]["answers"][0]
                if asked in seen or (attempt < 100 and any((fact, v) not in answers for v in options if v != right)):
                    continue
                seen.add(asked)
                answers.add((fact, right))
                records[i] = {"id": f"qa-{split}-{i + 1:04d}", **draft, "difficulty": level}
                break
        records = [records[i] for i in range(size)]
        if split == "pool":
            for row in records:
                del row["reference"]
        out[split] = records
    return out
