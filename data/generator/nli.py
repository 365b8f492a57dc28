"""Natural language inference: does what somebody wrote entail, contradict or leave open one claim?

Rows come in threes: one claim is dealt once with each label, so the claim alone says nothing about the label.
What decides is whether the premise states the point, and with which value. Premises of every label may carry a
`tease` (a point named but not told) and a `decoy` (a value of the point that belongs to something else), so
shared words do not decide either. `issues` are claims without a value: a yes-or-no matter of the same fact.
"""

import random
import re

from .world import NAMES, Edition, draw_edition, load_bank, load_facts, mistype

SIZES = {"train": 1600, "pool": 2400, "validation": 200, "test": 330}
LABELS = ("entailment", "neutral", "contradiction")
ISSUE_SHARE = 0.225


class Decks:
    """Deals each list of phrases evenly: every phrase once before any phrase again."""

    def __init__(self, rng: random.Random):
        self.rng, self.decks = rng, {}

    def deal(self, phrases: list) -> object:
        deck = self.decks.setdefault(id(phrases), [])
        if not deck:
            deck.extend(self.rng.sample(phrases, len(phrases)))
        return deck.pop()


def _claims(bank: dict) -> tuple[list, list]:
    """All claims of a split: (fact, point key, phrase) with a value and (fact, issue, polarity, phrase) without."""
    valued, plain = [], []
    for fact, entry in bank["facts"].items():
        valued += [(fact, key, text) for key, p in entry["points"].items() for text in p["claims"]]
        plain += [(fact, i, side, text) for i in entry["issues"] for side in ("pos", "neg") for text in i[side]]
    return valued, plain


def _edition(fact: dict, key: str | None, clash: list | None, rng: random.Random) -> tuple[Edition, str | None]:
    """An edition and a value that denies the value of point `key`, where only values of one `clash` group deny."""
    while True:
        edition = draw_edition(fact, rng)
        if key is None:
            return edition, None
        point = next(p for p in edition.points if p.key == key)
        against = [w for w in point.wrong if not clash or any({w, point.value} <= set(group) for group in clash)]
        if against:
            wrong = rng.choice(against)
            return edition, (point.other if point.other and rng.random() < 0.6 else wrong)


def _state(point, bank: dict, decks: Decks, rng: random.Random, both: bool = True) -> str:
    """One sentence that tells the point: the help page's, or somebody's own words."""
    if bank.get("kb") and both and rng.random() < 0.2:
        return point.sentence
    if point.kind is None:
        return decks.deal(bank["says"]).format(v=point.value)
    if both:
        return decks.deal(bank["both"]).format(A=point.kind, a=point.value, B=point.other_kind, b=point.other)
    return decks.deal(bank["one"]).format(kind=point.kind, v=point.value)


def _tell(edition: Edition, keys: list, entry: dict, decks: Decks, rng: random.Random) -> list[str]:
    points = {p.key: p for p in edition.points}
    return [_state(points[k], entry["points"][k], decks, rng, rng.random() < 0.5) for k in keys]


def _quote(sentence: str) -> str:
    """The sentence that settles the claim or leaves it open: what to find first, before judging."""
    return f"It says: {sentence[0].upper()}{sentence[1:]}"


def _valued(fact: dict, key: str, claim: str, label: str, entry: dict, decks: Decks, rng: random.Random):
    """Premise parts, hypothesis, difficulty and rationale for a claim about a value."""
    bank = entry["points"][key]
    edition, denied = _edition(fact, key, bank.get("clash"), rng)
    point = next(p for p in edition.points if p.key == key)
    others = rng.sample([p.key for p in edition.points if p.key != key], 3)
    extra = rng.choices((0, 1, 2), (4, 5, 1))[0]
    value, hard = point.value, False
    of_kind = f" for the {point.kind}" if point.kind else ""
    rationale = "It does not say."
    if label == "neutral":
        told = _tell(edition, others[: extra + 1], entry, decks, rng)
        if point.kind and rng.random() < 0.45:  # only the other kind is told, often with the very value of the claim
            stray = value if rng.random() < 0.6 else point.other
            told[-1] = decks.deal(bank["one"]).format(kind=point.other_kind, v=stray)
            rationale = f"It says {stray}, but for the {point.other_kind}."
            extra, hard = extra - 1, True
    else:
        value = value if label == "entailment" else denied
        rationale = f"It says {point.value}{of_kind}, the claim says {value}."
        both = point.kind is None or value == point.other or rng.random() < 0.5
        hard = bool(point.kind and both)
        told = [_state(point, bank, decks, rng, both), *_tell(edition, others[:extra], entry, decks, rng)]
    silent = others[extra + 1 :] if label == "neutral" else others[extra:]
    asides = []
    if rng.random() < 0.5:  # a point that is named but not told
        teased = key if label == "neutral" and not hard and rng.random() < 0.7 else next(iter(silent), None)
        if teased:
            asides.append(decks.deal(entry["points"][teased]["tease"]))
            if label == "neutral" and teased == key:
                rationale = _quote(asides[-1])
    if "decoy" in bank and rng.random() < 0.33:  # a value of this point that belongs to something else
        stray = value if label != "entailment" else rng.choice(point.wrong)
        asides.append(decks.deal(bank["decoy"]).format(v=stray))
        hard = True
    rng.shuffle(told)
    difficulty = "hard" if hard else "easy" if len(told) == 1 and not asides else "medium"
    return told, asides, claim.format(kind=point.kind, v=value), difficulty, rationale


def _plain(fact: dict, issue: dict, side: str, claim: str, label: str, entry: dict, decks: Decks, rng: random.Random):
    """Premise parts, hypothesis, difficulty and rationale for a claim that is simply so or not so."""
    keys = rng.sample(list(entry["points"]), rng.choices((1, 2), (3, 2))[0])
    told = [] if issue.get("bare") else _tell(_edition(fact, None, None, rng)[0], keys, entry, decks, rng)
    truth = "open" if label == "neutral" else "holds" if (label == "entailment") == (side == "pos") else "fails"
    at = rng.randrange(len(told) + 1)
    decisive = decks.deal(issue[truth])
    told.insert(at, decisive)
    rationale = _quote(decisive)
    asides = [decks.deal(other["open"]) for other in entry["issues"] if other is not issue and rng.random() < 0.5]
    return told, asides, claim, "hard" if len(told) > 1 else "medium", rationale


def _voice(parts: list[str], rng: random.Random) -> str:
    """Who may have written this: a customer does not say 'we' for Larkspan, a reply does not call its reader 'she'."""
    words = set(re.findall(r"[a-z]+", " ".join(parts).lower()))
    if words & {"he", "she", "him", "her", "his", "hers"}:
        return "notes"
    if words & {"we", "us", "our"}:
        return rng.choice(("notes", "replies", "replies"))
    return rng.choice(("notes", "replies", "customers", "customers"))


def _one_caller(text: str) -> str:
    """If both 'he' and 'she' occur, make the caller a woman throughout: the phrases were written apart."""
    if re.search(r"\b(he|him|his)\b", text, re.I) and re.search(r"\b(she|hers?)\b", text, re.I):
        for old, new in (("he", "she"), ("him", "her"), ("his", "her"), ("He", "She"), ("His", "Her")):
            text = re.sub(rf"\b{old}\b", new, text)
    return text


def _write(told: list, asides: list, entry: dict, bank: dict, decks: Decks, rng: random.Random) -> str:
    """Put the parts of a premise in an order a person would: greeting, circumstances, what is so, loose ends."""
    before = [decks.deal(entry["asides"])] if rng.random() < 0.5 or not asides else []
    parts = before + told + asides
    if asides and rng.random() < 0.4:
        parts = before + asides[:1] + told + asides[1:]
    voice = _voice(parts, rng)
    for where, phrases, chance in ((0, bank["openers"][voice], 0.75), (99, bank["closers"][voice], 0.35)):
        words = len(" ".join(parts).split())
        if words < 22 or (words < 45 and rng.random() < chance):
            parts.insert(where, decks.deal(phrases).format(name=decks.deal(NAMES)))
    return _one_caller(" ".join(part[0].upper() + part[1:] for part in parts))


def build(seed: int, sizes: dict[str, int] = SIZES, wide: bool = False) -> dict[str, list[dict]]:
    """All splits of the task; the pool is drawn like train but carries no reference."""
    rng = random.Random(seed)
    out, seen = {}, set()
    for split, size in sizes.items():
        base = "train" if split == "pool" else split
        bank, decks = load_bank("nli", base, wide), Decks(rng)
        facts = {fact["id"]: fact for fact in load_facts(base, wide)}
        keep = tuple(NAMES) + tuple(k for f in facts.values() for k in f["kinds"])
        keep += tuple(v for f in facts.values() for p in f["points"] for v in p["values"])
        valued, plain = _claims(bank)
        rows, triples = [], -(-size // 3)
        for n in range(triples):
            is_plain = int((n + 1) * ISSUE_SHARE) > int(n * ISSUE_SHARE)
            fact, *claim = decks.deal(plain if is_plain else valued)
            entry = bank["facts"][fact]
            for label in rng.sample(LABELS, 3):
                while True:
                    make = _plain if is_plain else _valued
                    told, asides, hypothesis, difficulty, rationale = make(
                        facts[fact], *claim, label, entry, decks, rng
                    )
                    premise = _write(told, asides, entry, bank, decks, rng)
                    if rationale[9:] not in premise:  # the caller became a woman; the quotation follows
                        rationale = _one_caller(f"{rationale} she/he").removesuffix(" she/she")
                    if rng.random() < 0.3:
                        premise = mistype(premise, rng, 0.03, keep)
                    hypothesis = hypothesis[0].upper() + hypothesis[1:]
                    content = f"Premise: {premise}\nHypothesis: {hypothesis}"
                    if content not in seen and 28 <= len(re.findall(r"\S+", content)) <= 85:
                        break
                seen.add(content)
                rows.append(
                    {
                        "task": "nli",
                        "content": content,
                        "reference": label,
                        "rationale": rationale,
                        "fact": fact,
                        "topic": facts[fact]["topic"],
                        "difficulty": difficulty,
                    }
                )
        rng.shuffle(rows)
        out[split] = [_record(split, i, row) for i, row in enumerate(rows[:size], 1)]
    return out


def _record(split: str, number: int, row: dict) -> dict:
    record = {
        "id": f"nli-{split}-{number:04d}",
        "task": "nli",
        "messages": [{"role": "user", "content": row["content"]}],
        "reference": row["reference"],
        "fact": row["fact"],
        "topic": row["topic"],
        "difficulty": row["difficulty"],
    }
    if split == "pool":
        del record["reference"]
    if split in (
        "train",
        "validation",
    ):  # how the label follows, in one sentence: written into the answer a teacher learns
        record["rationale"] = row["rationale"]
    return record
