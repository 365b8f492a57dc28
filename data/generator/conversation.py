"""Draws the `conversation` task: a support chat over one help article, ending with a customer who needs an answer."""

import random
import re
from collections import Counter

from .world import NAMES, Edition, Point, draw_edition, load_bank, load_facts, load_phrases, mistype

SIZES = {"train": 800, "pool": 2000, "validation": 160, "test": 320}
LEVELS = {"easy": 0.4, "medium": 0.3, "hard": 0.3}
TRAIN_LEVELS = {"easy": 0.5, "medium": 0.25, "hard": 0.25}  # the pool too
VAGUE = {"nothing", "silence", "GIVE", "SHARE", "TREAT"}  # too common in plain speech to count as evidence
SAME = {value: [str(v) for v in others] for value, others in load_phrases("conversation")["same"].items()}
ONES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
ONES += ["thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
TENS = {20: "twenty", 30: "thirty", 40: "forty", 50: "fifty", 60: "sixty", 70: "seventy", 80: "eighty", 90: "ninety"}
UNITS = {
    "seconds": "secs sec",
    "minutes": "mins min",
    "hours": "hrs",
    "metres": "m meters",
    "GB": "gigabytes gigs gig",
    "MB": "megabytes megs",
    "Mbps": "Mb/s megabits",
    "cm": "centimetres centimeters",
    "%": "percent per~cent",
    "tries": "attempts times goes wrong~passwords wrong~tries",
    "digits": "numbers",
    "discs": "disks",
    "blinks": "times flashes",
    "programmes": "recordings shows",
    "numbers": "callers",
    "devices": "gadgets",
    "instalments": "payments",
    "people": "others extra~people more~people",
    "guests": "visitors people",
    "changes": "times",
    "claims": "times",
}
LONGER = {"2 weeks": ["14 days", "a fortnight"], "48 hours": ["2 days", "two days"], "24 hours": ["1 day", "one day"],
          "90 seconds": ["a minute and a half", "one and a half minutes"]}  # fmt: skip


def spell(number: int) -> str:
    """A whole number under 100 in words, larger ones as digits."""
    if number < 20:
        return ONES[number]
    if number >= 100:
        return str(number)
    return TENS[number // 10 * 10] + (f"-{ONES[number % 10]}" if number % 10 else "")


def said(phrase: str, text: str) -> bool:
    """Whether the phrase occurs in the text as whole words, whatever the case and spacing."""
    phrase, text = (" ".join(s.lower().split()) for s in (phrase, text))
    return re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", text) is not None


def equivalents(value: str) -> list[str]:
    """The value as written, then other ways a right reply could put it."""
    ways = [value, *SAME.get(value, ()), *LONGER.get(value, ())]
    bare = re.sub(r"^(the|a|an|your|in the|on the|with the|on|in|through|under|inside|after|at) (?=\w)", "", value)
    ways.append(bare)
    if m := re.fullmatch(r"£(\d+)(?:\.(\d\d))?", value):
        pounds, pence = m.groups()
        word = "pound" if pounds == "1" else "pounds"
        ways += [f"{value[1:]} {'pounds' if pence else word}"]
        ways += [f"{pounds} {word} {pence}"] if pence else [f"{spell(int(pounds))} {word}", f"{value}.00"]
    elif m := re.fullmatch(r"(\d\d):(\d\d)", value):
        hour = int(m[1]) - 12
        ways.append(f"{m[1]}.{m[2]}")
        ways += [f"{hour}{sep}{m[2]}{pm}" for sep in ":." for pm in ("pm", " pm", "p.m.", " p.m.")]
        ways += {"00": [f"{hour}pm", f"{hour} pm", f"{spell(hour)} o'clock"], "30": [f"half past {spell(hour)}"],
                 "15": [f"quarter past {spell(hour)}"]}[m[2]]  # fmt: skip
    elif m := re.fullmatch(r"(\d+(?:\.\d)?|[a-z]+) ?(%|[A-Za-z]+)( .+)?", bare):
        figure, unit, rest = m[1], m[2], m[3] or ""
        number = int(figure) if figure.isdigit() else ONES.index(figure) if figure in ONES else None
        if number is not None or "." in figure:
            figures = [figure] if number is None else [str(number), spell(number)]
            units = [unit] + [u.replace("~", " ") for u in UNITS.get(unit, "").split()]
            units += ["business"] if unit == "working" else []
            ways += [f"{f} {u}{rest}" for f in figures for u in units]
            ways += [f"{figure}{u}{rest}" for u in units if figure[0].isdigit() and len(u) < 5]
            ways += [f"{f}-{unit[:-1]}" for f in figures if unit.endswith("s") and unit not in ("Mbps", "tries")]
    elif value.isdigit() and len(value) == 2:
        ways.append(spell(int(value)))
    return list(dict.fromkeys(ways))


class Writer:
    """The phrases of one split, handing out the least used ones first so that none is worn out."""

    def __init__(self, bank: dict, rng: random.Random):
        self.rng, self.used, self.bank = rng, Counter(), bank

    def pick(self, options: list[str]) -> str:
        least = min(self.used[o] for o in options)
        chosen = self.rng.choice([o for o in options if self.used[o] == least])
        self.used[chosen] += 1
        return chosen

    @staticmethod
    def shape(point: Point) -> str:
        """The article's sentence without what was drawn for it."""
        drawn = (point.value, point.other, point.kind, point.other_kind)
        return re.sub("|".join(re.escape(d) for d in drawn if d), "_", point.sentence, flags=re.IGNORECASE)

    def worn(self, edition: Edition) -> int:
        """How often the sentences of this edition have been used."""
        return sum(self.used[self.shape(p)] for p in edition.points)

    def lines(self, *path: str) -> list[str]:
        """The lines of a phrase list; a last element of one character keeps only the lines so marked."""
        node = self.bank
        for step in path[:-1] if len(path[-1]) == 1 else path:
            node = node[step]
        lines = node.splitlines()
        return [x[2:] for x in lines if x.startswith(path[-1] + " ")] if len(path[-1]) == 1 else lines

    def ask(self, fact: str, point: Point, level: str) -> str:
        direct, oblique = self.lines("facts", fact, point.key, "?"), self.lines("facts", fact, point.key, "~")
        return self.pick({"easy": direct, "medium": oblique, "hard": direct + oblique}[level])

    def kind(self, fact: str, point: Point, answer: bool = False) -> str:
        ways = self.lines("facts", fact, "kind", "=") + (self.lines("facts", fact, "kind", "-") if answer else [])
        return self.pick(ways).replace("{K}", point.kind)

    def which(self, fact: str, point: Point) -> str:
        kinds = [point.kind, point.other_kind]
        if "an {B}" not in (way := self.pick(self.lines("facts", fact, "kind", "?"))):
            kinds = self.rng.sample(kinds, 2)
        elif kinds[1][0] not in "aeiou":
            kinds.reverse()
        return way.replace("{A}", kinds[0]).replace("{B}", kinds[1])

    def opening(self, fact: str, general: bool) -> tuple[str, bool]:
        """How the chat begins, and whether that told what it is about."""
        about = [x for x in self.lines("facts", fact, "open") if x[1] != " " or x[0] not in "?~>"]  # no point's lines
        chosen = self.pick(about + (self.lines("open") if general else []))
        return chosen, chosen in about

    def exchange(self, fact: str, told: bool, named: bool) -> tuple[str, str]:
        """A small question of the agent and the customer's answer."""
        pairs = [x for x in self.lines("agent") if "! " not in x[:2] and not (named and "{N}" in x.split("=>")[1])]
        question, answers = self.pick(pairs + (self.lines("facts", fact, "agent") if told else [])).split(" => ")
        return question, self.pick(answers.split(" | "))

    def gold(self, fact: str, points: list[Point]) -> str:
        parts = []
        for point in points:
            cores = self.lines("facts", fact, point.key, ">")
            ways = list(cores)
            if not parts and self.rng.random() < 0.5:
                fit = [c for c in cores if not re.match(r"Please|Could|So |When|If |I'|Should", c)] or cores
                ways = [f"{lead} {c[0].lower() + c[1:]}" for lead in self.lines("lead") for c in fit]
            parts.append(self.pick(ways).replace("{v}", point.value).replace("{K}", point.kind or ""))
        reply = " ".join(p[0].upper() + p[1:] for p in parts)
        if len(reply.split()) < 10 or (len(points) == 1 and self.rng.random() < 0.25):
            reply += " " + self.pick(self.lines("close"))
        return reply


def then(connector: str, ask: str) -> str:
    """A second question tied to the first."""
    return f"{connector} {ask if re.match(r'I[^a-z]', ask) else ask[0].lower() + ask[1:]}"


def converse(w: Writer, fact: str, points: list[Point], level: str, turns: int) -> list[list[str]]:
    """The turns of one chat, customer first, each a list of sentences."""
    rng, first = w.rng, points[0]
    ask = [w.ask(fact, first, "hard" if len(points) == 2 else level)]
    ask += [then(w.pick(w.lines("also")), w.ask(fact, p, "hard")) for p in points[1:]]
    by_answer = level == "hard" and rng.random() < 0.5  # the agent will ask which kind
    if len(points) == 1 and rng.random() < {"easy": 0.2, "medium": 0.7, "hard": 0.35}[level]:
        ask.insert(rng.randrange(2), w.pick(w.lines("aside")))
    if level != "hard" and first.kind:
        ask.insert(0, w.kind(fact, first))
    if turns == 1:
        return [[*([w.opening(fact, True)[0]] if rng.random() < 0.55 else []), *ask]]
    start, told = w.opening(fact, general=level != "hard" or (by_answer and turns == 3))
    opened = [start]
    if by_answer:
        reply = [w.kind(fact, first, answer=True)]
        if turns == 3:
            return [[start, *ask], [w.which(fact, first)], reply]
        return [opened, [w.which(fact, first)], reply, [w.pick(w.lines("agent", "!"))], ask]
    if level == "hard":
        opened.append(w.kind(fact, first))
    question, answer = w.exchange(fact, told, "{N}" in start)
    if turns == 3:
        return [opened, [question], [answer, *ask]]
    return [opened, [question], [answer], [w.pick(w.lines("agent", "!"))], ask]


def typed(sentences: list[str], lower: bool, names: tuple[str, ...]) -> str:
    """One customer turn as typed: tidy, or all in lower case with little punctuation (names and kinds stay)."""
    if not lower:
        return "".join(s + (" " if s[-1] in ".!?," else "\n") for s in sentences).rstrip()
    text = ", ".join(s.rstrip(".") for s in sentences).replace("?,", "?")
    keep = "|".join(re.escape(n) for n in names)
    return "".join(p if p in names else p.lower() for p in re.split(rf"(?<!\w)({keep})(?!\w)", text)).rstrip("?")


def record(w: Writer, edition: Edition, points: list[Point], level: str, turns: int) -> dict:
    """One record without its id."""
    rng = w.rng
    chat = converse(w, edition.fact, points, level, turns)
    caller, other = rng.sample(NAMES, 2)
    kinds = tuple(k for p in edition.points for k in (p.kind, p.other_kind) if k)
    chat = [[s.replace("{N}", caller).replace("{M}", other) for s in turn] for turn in chat]
    lower = rng.random() < 0.15 or any(s[0].islower() and s[-1] not in ".!?" for turn in chat[::2] for s in turn)
    slips = 0.06 if rng.random() < 0.2 else 0.0
    keep = (*kinds, *NAMES, *(p.value for p in edition.points))
    article = rng.sample([p.sentence for p in edition.points], 4)
    messages = [{"role": "system", "content": f"{edition.title}\n{' '.join(article)}"}]
    for i, turn in enumerate(chat):
        text = mistype(typed(turn, lower, (*kinds, *NAMES)), rng, slips, keep) if i % 2 == 0 else " ".join(turn)
        messages.append({"role": "assistant" if i % 2 else "user", "content": text})
    reply = w.gold(edition.fact, points)
    required = [equivalents(p.value) for p in points]
    false = [v for p in points for v in (*p.wrong, *([p.other] if p.other else []))]
    false += [v for p in edition.points if p not in points and not re.fullmatch(r"\d\d?", p.value)
              for v in (p.value, p.other) if v]  # fmt: skip
    right = [alt.lower() for alts in required for alt in alts]
    forbidden = [v for v in dict.fromkeys(false) if v not in VAGUE and not said(v, messages[-1]["content"])
                 and not any(v.lower() in alt or alt in v.lower() for alt in right)]  # fmt: skip
    assert all(any(said(a, reply) for a in alts) for alts in required), (required, reply)
    assert not any(said(v, reply) for v in forbidden), (forbidden, reply)
    return {"task": "conversation", "messages": messages,
            "reference": {"reply": reply, "required": required, "forbidden": forbidden},
            "fact": edition.fact, "topic": edition.topic, "difficulty": level}  # fmt: skip


def spread(shares: dict, size: int, rng: random.Random) -> list:
    """The keys of `shares` in those proportions, shuffled."""
    keys = [key for key, share in shares.items() for _ in range(round(share * size))]
    keys = (keys + [next(iter(shares))] * size)[:size]
    rng.shuffle(keys)
    return keys


def build(seed: int, sizes: dict[str, int] = SIZES, wide: bool = False) -> dict[str, list[dict]]:
    """All splits; the pool carries no reference. Each split draws for itself: longer ones change no other."""
    seen, out = set(), {}
    for split, size in sizes.items():
        base = "train" if split == "pool" else split
        rng, bank = random.Random(f"{seed} {split}"), load_bank("conversation", base, wide)
        facts = [fact for fact in load_facts(base, wide) if fact["id"] in bank["facts"]]
        w, records = Writer(bank, rng), []
        levels = spread(TRAIN_LEVELS if base == "train" else LEVELS, size, rng)
        hard = levels.count("hard")
        turns = {"hard": iter(spread({3: 0.75, 5: 0.25}, hard, rng)),
                 "other": iter(spread({3: 0.53, 1: 0.36, 5: 0.11}, size - hard, rng))}  # fmt: skip
        order = {level: 0 for level in LEVELS}
        for i, level in enumerate(levels):
            fact = facts[order[level] % len(facts)]
            order[level] += 1
            length = next(turns["hard" if level == "hard" else "other"])
            while len(records) == i:
                edition = min((draw_edition(fact, rng) for _ in range(8)), key=w.worn)
                by_kind = [p for p in edition.points if p.kind]
                rest = [p for p in edition.points if not p.kind]
                rest = sorted(rng.sample(rest, 3), key=lambda p: w.used[level, edition.fact, p.key])
                points = by_kind if level == "hard" or rng.random() < 0.1 else []
                points = [*points, *rest][: 2 if level == "medium" and rng.random() < 0.4 else 1]
                draft = record(w, edition, points, level, length)
                dialogue = tuple(m["content"] for m in draft["messages"][1:])
                if dialogue not in seen and len(draft["messages"][0]["content"].split()) <= 70:
                    seen.add(dialogue)
                    w.used.update((level, edition.fact, p.key) for p in points)
                    w.used.update(w.shape(p) for p in edition.points)
                    records.append({"id": f"conversation-{split}-{i + 1:04d}", **draft})
        if split == "pool":
            for row in records:
                del row["reference"]
        out[split] = records
    return out
