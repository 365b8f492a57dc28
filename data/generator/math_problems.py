"""Draws the `math` task: word problems on bills and data use, every step worked out exactly.

phrases/math.yaml gives each fact, in lines marked by their first character:
    @ key* £ 9:24:.5   a value the tariff article may state (* one for each kind; ^ a limit, shown only where nothing
                       reaches it), its unit and what to draw from; > a sentence that states it, beside the knowledge
                       base's own; + points of the knowledge base that may fill up an article; ! an irrelevant number
    = k x fee; _ + t   the steps of a problem (_ is the result before, `= s` names one, `% p` takes p per cent,
                       `-> day` sets the unit), and for the problem: ? k n 2:9 a number of its own, or ? t = j x fee
                       one that follows from others; ~ points its articles leave out
    - text             the question: <only without an article>, [only with one], (one|of|these), {number}, {number~}
                       may be casual, {K} the customer's kind, {L} the other; ^ room for an aside; a leading ! wants none
"""

import random
import re
from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from operator import add, mul, sub, truediv

from .conversation import Writer, spell, spread
from .world import NAMES, draw_edition, load_bank, load_facts, misplaced, mistype

SIZES = {"train": 800, "pool": 2400, "validation": 160, "test": 320}
LEVELS = {"easy": 0.35, "medium": 0.4, "hard": 0.25}
WITH_ARTICLE, WITH_NOISE, WITH_ASIDE = 0.6, 0.5, 0.3
SHARE_OF_AN_ANSWER = 0.01
CASUAL = {"£5": "a fiver", "£10": "a tenner", "£1": "a quid", "50%": "half", "25%": "a quarter", "75%": "three quarters",
          "2": "a couple of", "6": "half a dozen", "12": "a dozen"}  # fmt: skip
KEEP = (*NAMES, *map(spell, range(1, 100)), *" ".join(CASUAL.values()).split(), "quid", "pounds", "pence", "cent",
        "days", "weeks", "months", "hours", "minutes", "fortnight", "year", "years", "month", "week")  # fmt: skip
OPERATIONS = {"+": add, "-": sub, "x": mul, "/": truediv, "%": lambda a, b: a * b / 100}
STEP = re.compile(r"(\S+) ([-+x/%]) (\S+)(?: -> (\S+))?(?: = (\w+))?")


@dataclass
class Spec:
    """What a number may be: its unit, its noun in an article, and the values to draw from (or how it follows)."""

    unit: str
    noun: str
    values: list[Fraction]


@dataclass
class Story:
    calc: list[tuple]
    own: dict[str, Spec | tuple] = field(default_factory=dict)
    without: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


@dataclass
class Bank:
    """What one fact offers: the values and sentences of its article, stray numbers, and problems."""

    fact: dict
    specs: dict[str, Spec] = field(default_factory=dict)
    by_kind: set[str] = field(default_factory=set)
    limits: set[str] = field(default_factory=set)
    says: dict[str, list[str]] = field(default_factory=dict)
    fillers: list[str] = field(default_factory=list)
    noise: list[str] = field(default_factory=list)
    stories: list[Story] = field(default_factory=list)


def read_spec(unit: str, *rest: str) -> Spec:
    """A unit, perhaps a noun, then numbers (4 6 8) or a range (4:9:.5)."""
    noun = rest[0] if rest[0].isalpha() else ""
    values = []
    for part in rest[bool(noun) :]:
        low, _, high = part.partition(":")
        high, _, step = high.partition(":")
        low, high, step = Fraction(low), Fraction(high or low), Fraction(step or 1)
        values += [low + i * step for i in range(int((high - low) / step) + 1)]
    return Spec(unit, noun, values)


def read_bank(fact: dict, lines: str) -> Bank:
    bank = Bank(fact)
    for mark, _, rest in (line.partition(" ") for line in lines.splitlines() if line):
        words = rest.split()
        if mark == "@":
            key = words[0].rstrip("*^")
            bank.specs[key] = read_spec(*words[1:])
            bank.says[key] = [s for p in fact["points"] if p["key"] == key for s in p["says"]]
            bank.by_kind |= {key} if "*" in words[0] else set()
            bank.limits |= {key} if "^" in words[0] else set()
        elif mark == "=":
            bank.stories.append(Story([STEP.fullmatch(step).groups() for step in rest.split("; ")]))
        elif mark == "?":
            derived = words[1] == "="
            bank.stories[-1].own[words[0]] = tuple(words[2:]) if derived else read_spec(*words[1:])
        else:
            story = bank.stories[-1] if bank.stories else None
            {">": bank.says.get([*bank.says, ""][-2] if bank.says else "", []), "!": bank.noise,
             "-": story and story.texts}.get(mark, []).append(rest)  # fmt: skip
            bank.fillers += words if mark == "+" else []
            if mark == "~":
                story.without += words
    return bank


def digits(value: Fraction) -> int:
    """How many significant digits a number is written with."""
    return len(f"{float(value):.4f}".replace(".", "").strip("0"))


def number(value: Fraction) -> str:
    return f"{float(value):g}"


def amount(value: Fraction, unit: str, noun: str = "") -> str:
    """A number with its unit, as steps and articles write it."""
    if unit == "£":
        return f"£{value}" if value.denominator == 1 else f"£{float(value):.2f}"
    word = noun if unit == "n" else unit + "s" * (unit not in ("GB", "%") and value != 1)
    return f"{number(value)} {word}".strip()


def work_out(story: Story, values: dict, units: dict) -> tuple[list[str], list[tuple]] | None:
    """The steps as lines and the result of each with its unit; None if one is not exact, small and sensible."""
    lines, results = [], []
    for left, op, right, unit, name in story.calc:
        (a, b), (ua, ub) = [[t.get(x, Fraction(x) if x.isdigit() else None) if t is values else t.get(x, "n")
                             for x in (left, right)] for t in (values, units)]  # fmt: skip
        if op == "x" and not unit and ua != "n" and (ub == "n" or ua == "£"):  # "12 x £7", never "£7 x 12"
            (a, ua), (b, ub) = (b, ub), (a, ua)
        value = OPERATIONS[op](a, b)
        unit = unit or {"x": ub, "/": "n" if ua == ub else ua, "%": ua}.get(op, ub if ua == "n" else ua)
        finest = {"£": 100, "GB": 10}.get(unit, 1)
        if value <= 0 or (value * finest).denominator != 1 or max(map(digits, (a, b, value))) > 4:
            return None
        if op in "x/" and (1 in (a, b, value) or min(digits(b), digits(value if op == "/" else a)) > 2):
            return None
        if (op in "x/" and digits(b) + digits(value if op == "/" else a) > 5) or (op == "%" and digits(a) > 3):
            return None
        shown = {"x": f"{number(a)} x {amount(b, ub)}", "%": f"{amount(a, ua)} x {number(b)} / 100",
                 "/": f"{amount(a, ua)} / {amount(b, ub if ua == ub else 'n')}"}  # fmt: skip
        lines.append(f"{shown.get(op, f'{amount(a, ua)} {op} {amount(b, ub)}')} = {amount(value, unit)}")
        for key in ("_", name or "_"):
            values[key], units[key] = value, unit
        results.append((value, unit))
    return lines, results


def draw(bank: Bank, story: Story, rng: random.Random) -> tuple[dict, dict, list[str], list[tuple]]:
    """Numbers for a problem, drawn again until all of its steps come out well."""
    while True:
        values, units = {}, {}
        for key, spec in {**bank.specs, **{k: s for k, s in story.own.items() if isinstance(s, Spec)}}.items():
            one, other = rng.sample(spec.values, 2) if key in bank.by_kind else [rng.choice(spec.values)] * 2
            names = (key, f"o_{key}") if key in bank.specs else (key,)
            values |= dict(zip(names, (one, other), strict=False))
            units |= dict.fromkeys(names, spec.unit)
        for key, (text, *more) in ((k, s) for k, s in story.own.items() if isinstance(s, tuple)):
            follows = Story([STEP.fullmatch(s).groups() for s in " ".join((text, *more)).split("; ")])
            values[key], units[key] = Fraction(0), ""
            if work_out(follows, values, units):
                values[key], units[key] = values["_"], units["_"]
        told = {values[k] for k in values if k not in {*story.own, "_"} or any("{" + k in text for text in story.texts)}
        done = work_out(story, values, units)
        if done and 0 not in told and done[1][-1][0] not in told:
            return values, units, *done


def in_order(bank: Bank, kinds: list[str], values: dict) -> list[str]:
    """The customer's kind and the other, the other way round where a point's order of kinds asks for it."""
    for point in bank.fact["points"]:
        if (key := point["key"]) in bank.by_kind:
            own, other = values[key], values[f"o_{key}"]
            first, second = (own, other) if kinds[0] == bank.fact["kinds"][0] else (other, own)
            kinds = kinds[::-1] if misplaced(point, first, second) else kinds
    return kinds


def used(story: Story) -> set[str]:
    """The names whose numbers the steps, and what they follow from, take."""
    return {x.removeprefix("o_") for left, _, right, *_ in story.calc for x in (left, right) if not x.isdigit()} | {
        x for x in story.own if isinstance(story.own[x], tuple)
    }


def article(bank: Bank, story: Story, values: dict, units: dict, results: list, first: bool, w: Writer) -> str:
    """A tariff page that states what the problem needs and, most times, other prices."""
    needed = [key for key in bank.specs if key in used(story)]
    reached = [*results, *((values[key], units[key]) for key in story.own)]
    spare = [key for key in bank.specs if key not in needed and key not in story.without
             and (key not in bank.limits or all(v < values[key] for v, unit in reached if unit == units[key]))]  # fmt: skip
    spare = w.rng.sample(spare, len(spare)) + w.rng.sample(bank.fillers, len(bank.fillers))
    told = {p.key: p.sentence for p in draw_edition(bank.fact, w.rng).points}
    sentences = []
    for key in (needed + spare)[: max(len(needed), w.rng.choices((1, 2, 3), (1, 5, 3))[0])]:
        if key in bank.specs:
            own, other = (amount(values[k], units[k], bank.specs[key].noun) for k in (key, f"o_{key}"))
            a, b = (own, other) if first else (other, own)
            told[key] = w.pick(bank.says[key]).format(A=bank.fact["kinds"][0], B=bank.fact["kinds"][1], a=a, b=b, v=own)
        sentences.append(told[key][0].upper() + told[key][1:])
    title = [f"{bank.fact['title']}\n"] if w.rng.random() < 0.7 else [""]
    return title[0] + " ".join(w.rng.sample(sentences, len(sentences)))


def say(value: Fraction, unit: str, casual: bool, hard: bool, after: str, rng: random.Random) -> str:
    """A number as a customer writes it; `casual` where slang fits, `after` is what follows."""
    if unit == "£":
        text = amount(value, unit)
        if casual and hard and value <= 40 and rng.random() < 0.6:
            pounds, pence = divmod(value * 100, 100)
            if pence == 0:
                return CASUAL.get(text) or f"{spell(int(pounds))} {rng.choice(('quid', 'pounds'))}"
            return f"{spell(int(pounds))} pounds {spell(int(pence))}" if pounds > 1 and pence == 50 else text
        if value < 1 and rng.random() < 0.7:
            return f"{value * 100}p"
        return f"{text}.00" if value.denominator == 1 and rng.random() < 0.05 else text
    if unit == "%":
        short = CASUAL.get(f"{value}%")
        if casual and hard and short and rng.random() < 0.7:
            return short
        return number(value) + rng.choice(("%", "%", " %", " per cent", " percent"))
    if value.denominator == 1 and not re.match(r" ?[GM]B|\w|-", after):
        if casual and hard and number(value) in CASUAL and rng.random() < 0.5:
            return CASUAL[number(value)]
        if value <= 12 and rng.random() < (0.6 if hard else 0.2):
            return spell(int(value))
    return number(value)


def fill(text: str, values: dict, units: dict, kinds: list[str], level: str, shown: bool, rng: random.Random) -> str:
    """The text with its alternatives chosen and its numbers written in."""
    text = re.sub(r"<([^>]*)>", "" if shown else r"\1", text)
    text = re.sub(r"\[([^]]*)\]", r"\1" if shown else "", text)
    while m := re.search(r"\(([^()]*\|[^()]*)\)", text):
        text = text[: m.start()] + rng.choice(m[1].split("|")) + text[m.end() :]
    who = dict(zip("KLNM", [*kinds, *rng.sample(NAMES, 2)], strict=True))
    while m := re.search(r"\{([^{}]+)\}", text):
        key = m[1].rstrip("~")
        if key in who:
            written = who[key]
        elif key[0] in "#£":  # a number of no consequence
            low, high = key[1:].split(":")
            written = key[0].strip("#") + str(rng.randint(int(low), int(high)))
        else:
            written = say(values[key], units[key], m[1][-1] == "~", level == "hard", text[m.end() :], rng)
        text = text[: m.start()] + written + text[m.end() :]
    text = re.sub(r"(?<![\w.])([Aa]) (?=[AEIOUaeiou]|£?8|£?1[18]\b)(?!one|un|us|Eu)", r"\1n ", text)
    return re.sub(r"(^|[.!?] )([a-z])", lambda m: m[1] + m[2].upper(), re.sub(r"  +", " ", text).strip())


def question(text: str, extra: list[str], rng: random.Random, kinds: list[str]) -> str:
    """The problem with asides around it, now and then in lower case or mistyped."""
    for aside in extra if text[0] != "!" else []:
        at = rng.choice("^(" if "^" in text else "()")
        text = {"(": f"{aside} {text}", ")": f"{text} {aside}", "^": text.replace("^", f"{aside} ^", 1)}[at]
    text = re.sub(r" +", " ", text.replace("^", "").lstrip("!")).strip()
    if rng.random() < 0.13:
        text = re.sub(
            r"(?<![\w£])(?!GB\b|MB\b)[^\W\d_]+", lambda m: m[0] if m[0] in " ".join(kinds) else m[0].lower(), text
        )
        text = text.rstrip("?.")
    return mistype(text, rng, 0.05, (*KEEP, *kinds)) if rng.random() < 0.25 else text


def build(seed: int, sizes: dict[str, int] = SIZES, wide: bool = False) -> dict[str, list[dict]]:
    """All splits; the pool is drawn like train but carries no reference."""
    rng, seen, out = random.Random(seed), set(), {}
    for split, size in sizes.items():
        base = "train" if split == "pool" else split
        facts = {fact["id"]: fact for fact in load_facts(base, wide)}
        phrases = load_bank("math", base, wide)
        banks = [read_bank(facts[name], lines) for name, lines in phrases["facts"].items()]
        noise, asides = (phrases[key].splitlines() for key in ("noise", "asides"))
        w, answers, rows = Writer(phrases, rng), Counter(), []
        texts = {level: [] for level in LEVELS}
        for bank in banks:
            for story in bank.stories:
                level = ("easy", "medium", "hard", "hard")[len(story.calc) - 1]
                texts[level] += [(bank, story, text) for text in story.texts]
        turns = {level: [] for level in LEVELS}
        for level, shown in zip(spread(LEVELS, size, rng), spread({1: WITH_ARTICLE, 0: 1 - WITH_ARTICLE}, size, rng),
                                strict=True):  # fmt: skip
            if not turns[level]:
                turns[level] = rng.sample(texts[level], len(texts[level]))
            bank, story, text = turns[level].pop()
            strays = re.search(r"\{[#£]", text) or set(re.findall(r"\{(\w+)", text)) & (set(story.own) - used(story))
            noisy = rng.random() < WITH_NOISE and not strays
            while True:
                values, units, steps, results = draw(bank, story, rng)
                kinds = in_order(bank, rng.sample(bank.fact["kinds"], 2), values)
                page = (
                    article(bank, story, values, units, results, kinds[0] == bank.fact["kinds"][0], w) if shown else ""
                )
                extra = [w.pick(bank.noise if rng.random() < 0.5 and bank.noise else noise)] if noisy else []
                extra += [w.pick(asides)] if rng.random() < WITH_ASIDE * (0.6 if noisy else 1.4) else []
                extra = [fill(x, values, units, kinds, level, bool(shown), rng) for x in extra]
                asked = question(fill(text, values, units, kinds, level, bool(shown), rng), extra, rng, kinds)
                answer = amount(*results[-1])
                found = {Fraction(n) for n in re.findall(r"\d+(?:\.\d+)?", page + " " + asked)}
                if (asked not in seen and results[-1][0] not in found and len(page.split()) <= 60
                        and answers[answer] < max(2, SHARE_OF_AN_ANSWER * size)):  # fmt: skip
                    break
            seen.add(asked)
            answers[answer] += 1
            messages = [{"role": "system", "content": page}] * bool(page) + [{"role": "user", "content": asked}]
            row = {"id": f"math-{split}-{len(rows) + 1:04d}", "task": "math", "messages": messages,
                   "reference": {"answer": answer, "steps": "\n".join(steps)}, "fact": bank.fact["id"],
                   "topic": bank.fact["topic"], "difficulty": level}  # fmt: skip
            if split == "pool":
                del row["reference"]
            rows.append(row)
        out[split] = rows
    return out
