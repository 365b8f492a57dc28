"""Draws the `summarization` task: a call, chat or mail thread about one fact, and a hand-over note for the next agent.

What the customer ends up with goes into the note: the last value, the last day and time, the right name and number.
What was taken back, belongs to the other kind or is beside the point is `forbidden`.
"""

import random
import re
from collections import Counter
from itertools import count

from .conversation import VAGUE, equivalents, said, spell, spread, then, typed
from .world import NAMES, Edition, Point, draw_edition, load_bank, load_facts, load_phrases, mistype

SIZES = {"train": 800, "pool": 2000, "validation": 160, "test": 300}
LEVELS = {"medium": 0.35, "easy": 0.3, "hard": 0.35}
FORMS = {"call": 0.5, "chat": 0.26, "mail": 0.24}
NEXT = {"callback": 6, "email": 2, "sms": 2, "post": 2, "credit": 2, "lead": 2, "report": 1, "stuck": 1, "closed": 1}
TROUBLES = {"slip": 5, "switch": 6, "belief": 3, "move": 6, "shift": 5, "contact": 2, "name": 2}
UNHEARD = {"signed-call"}  # facts whose customers cannot use a voice call
IF = ["if", "unless", "should"]  # a note must keep the condition of a follow-up
LABELS = {"call": ("Caller", "Agent"), "chat": ("Customer", "Agent"), "mail": ("Customer", "Larkspan")}
AMOUNTS = ["£5", "£7.50", "£10", "£12", "£15", "£20", "£25", "£30"]
TOWNS = ["Hexham", "Kelso", "Diss", "Frome", "Leek", "Ripon", "Thame", "Bude"]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"]
PARTS = [["in the morning", "morning"], ["in the afternoon", "afternoon"], ["before noon", "by noon"], ["after lunch"]]
FIGURE = re.compile(r"[£*\d]|(one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve) ")
NEXT_STEPS = load_phrases("summarization")["next"]


def upper(text: str) -> str:
    return text[0].upper() + text[1:]


def draw_day(rng: random.Random) -> tuple[str, list[str]]:
    """A day as said, and the ways to write it."""
    if rng.random() < 0.75:
        day = rng.choice(DAYS)
        return day, [day, day[:3], *(["Tues"] if day == "Tuesday" else ["Thurs"] if day == "Thursday" else [])]
    n = rng.randrange(2, 29)
    nth = f"{n}{'th' if 10 < n < 20 else {1: 'st', 2: 'nd', 3: 'rd'}.get(n % 10, 'th')}"
    return f"the {nth}", [f"the {nth}", nth]


def draw_time(rng: random.Random) -> tuple[str, list[str]]:
    """A time of day as said after a day, and the ways to write it."""
    if rng.random() < 0.2:
        return (ways := rng.choice(PARTS))[0], ways
    hour, minute = rng.randrange(9, 19), rng.choice((0, 0, 15, 30, 30, 45))
    half, short = "am" if hour < 12 else "pm", hour - 12 if hour > 12 else hour
    words = {0: f"{spell(short)} o'clock", 15: f"quarter past {spell(short)}", 30: f"half past {spell(short)}",
             45: f"quarter to {spell(short % 12 + 1)}"}[minute]  # fmt: skip
    brief = [f"{short}{half}", f"{short} {half}"] if not minute else []
    ways = [f"{hour}:{minute:02}", words, *brief]
    ways += [f"{short}{sep}{minute:02}{end}" for sep in ".:" for end in ("", half, f" {half}")]
    chosen = rng.choice([ways[0], words, brief[-1] if brief else f"{short}.{minute:02}"])
    return f"at {chosen}", list(dict.fromkeys([chosen, *ways]))


class Writer:
    """The phrases of one split, the least used first. A draft's use counts once the draft is kept."""

    def __init__(self, bank: dict, rng: random.Random):
        self.bank, self.rng, self.used = bank, rng, Counter()
        self.begin()

    def begin(self) -> None:
        self.pending, self.slots, self.beside = [], {}, []

    def pick(self, lines: list[str]) -> str:
        """The least used line, not one of this draft, its choices made so that the outcome is a rare one."""
        lines = [x for x in lines if x not in self.pending] or lines
        least = min(self.used[x] for x in lines)
        line = self.rng.choice([x for x in lines if self.used[x] == least])
        ways = [self.choose(line) for _ in range(4)]
        way = min(ways, key=lambda x: self.used["=", x])
        self.pending += [line, ("=", way)]
        return way

    def choose(self, line: str) -> str:
        return re.sub(r"\[([^\[\]]*)\]", lambda m: self.rng.choice(m[1].split("|")), line)

    def fill(self, line: str, slots: dict) -> str:
        for key, value in {**self.slots, **slots}.items():
            line = line.replace(f"{{{key}}}", value)
        return re.sub(r"(?<=[a-z][.?!] )[a-z]", lambda m: m[0].upper(), upper(line))

    def say(self, name: str, mark: str = "", **slots: str) -> str:
        return self.fill(self.pick(marked(self.bank[name], mark)), slots)

    def of(self, fact: str, key: str, mark: str = "", **slots: str) -> str:
        return self.fill(self.pick(marked(self.bank["facts"][fact][key], mark)), slots)

    def pair(self, name: str, **slots: str) -> tuple[str, str]:
        question, answers = self.rng.choice([*self.bank[name].splitlines()]).split(" => ")
        return self.fill(self.pick([question]), slots), self.fill(self.pick(answers.split(" | ")), slots)


def marked(text: str, mark: str) -> list[str]:
    """The lines of a phrase list, or those that begin with one of the marks."""
    return [x[2:] for x in text.splitlines() if x[0] in mark] if mark else text.splitlines()


def draw_case(w: Writer, edition: Edition, points: list[Point], level: str, form: str) -> dict:
    """All that happens in one record: who, which kind, what is told and promised, and what goes wrong on the way."""
    rng, first_point = w.rng, points[0]
    right, misheard = rng.choice(w.bank["surnames"].split()).split("~")
    first, agent, other, lead = rng.sample(NAMES, 4)
    title = rng.choice(("Mr", "Mrs", "Ms"))
    name, names, again = rng.choice([(f"{first} {right}", [f"{first} {right}", right, first], f"{first} {misheard}"),
                                     (f"{title} {right}", [f"{title} {right}", right], f"{title} {misheard}"),
                                     (first, [first], "")])  # fmt: skip
    follow = rng.choices(list(NEXT), NEXT.values())[0]
    follow = "email" if follow == "callback" and edition.fact in UNHEARD else follow
    contact = rng.choice(("ref", "ref", "tel", "")) if len(points) == 1 else ""
    labelled = form == "mail" or (form == "chat" and rng.random() < 0.4)
    can = {"slip": True, "switch": bool(first_point.kind), "belief": bool(FIGURE.match(first_point.value)),
           "move": follow == "callback", "shift": follow in ("email", "sms", "post", "lead", "credit"),
           "contact": bool(contact), "name": bool(again) and not labelled}  # fmt: skip
    troubles = set()
    while level == "hard" and (not troubles - {"contact", "name"} or (len(troubles) < 3 and rng.random() < 0.35)):
        troubles.add(rng.choices([t for t in can if can[t]], [TROUBLES[t] for t in can if can[t]])[0])
        troubles -= {"slip", "belief"} if "switch" in troubles else {"belief"} if "slip" in troubles else set()
    digits = "".join(rng.choices("123456789", k=3)) if contact == "tel" else str(rng.randrange(20000, 99999))
    at = rng.randrange(len(digits) - 1)
    swapped = digits[:at] + digits[at + 1] + digits[at] + digits[at + 2 :]
    (day, days), (time, times), (day0, _), (time0, _) = draw_day(rng), draw_time(rng), draw_day(rng), draw_time(rng)
    kind, other_kind = next((p.kind, p.other_kind) for p in edition.points if p.kind)
    spelled = form == "call" and rng.random() < 0.3

    def voiced(value: str) -> str:
        m = re.fullmatch(r"(\d\d?)( [a-z].*)", value)
        return f"{spell(int(m[1]))}{m[2]}" if m and spelled else value

    amount = rng.choice(AMOUNTS)
    w.slots = {"A": agent, "M": other, "q": str(rng.randrange(11, 59)), "T": rng.choice(TOWNS), "L": lead, "N": name,
               "S": right, "S0": misheard, "N0": again, "m": amount, "d": day, "D": upper(day), "t": time,
               "d0": day0, "D0": upper(day0)}  # fmt: skip
    return {"name": name, "names": names, "first": first, "agent": agent, "labelled": labelled, "kind": kind,
            "other": other_kind, "follow": follow, "contact": contact, "digits": digits, "swapped": swapped,
            "troubles": troubles, "days": days, "times": times, "early": {"d": day0, "t": time0}, "time": time,
            "misheard": misheard, "amount": amount, "lead": lead,
            "values": [voiced(p.value) for p in points], "wrong": rng.choice(first_point.wrong),
            "elsewhere": voiced(first_point.other or "")}  # fmt: skip


def converse(w: Writer, edition: Edition, points: list[Point], level: str, form: str, case: dict) -> list[tuple]:
    """Who says what, in order, as ('C' or 'A', sentence); ('', '') begins a second message of the same sender."""
    rng, fact, troubles, out = w.rng, edition.fact, case["troubles"], []
    kind, other, written = case["kind"], case["other"], form == "mail"
    article, value, first_kind = w.bank["facts"][fact]["art"], case["values"][0], kind
    asides = rng.sample(range(3), rng.choice((1, 1, 2)) if level == "medium" else 1)

    def customer(*sentences: str) -> None:
        out.extend(("C", s) for s in sentences)

    def agent(*sentences: str) -> None:
        out.extend(("A", s) for s in sentences)

    def exchange(name: str, agent_first: bool = True, **slots: str) -> None:
        out.extend(zip("AC" if agent_first else "CA", w.pair(name, **slots), strict=True))

    def digress(place: int) -> None:
        if place in asides:
            text = w.say("aside", "-c" if form == "call" else "-w")
            w.beside += re.findall(r"\*([^*]+)\*", text)
            customer(text.replace("*", ""))

    def ask(at: int) -> None:
        question = w.of(fact, points[at].key, "?")
        customer(then(w.say("also"), question) if at else question)

    def tell(at: int, told: str, of_kind: str) -> None:
        agent(w.of(fact, points[at].key, ">", v=told, K=of_kind))

    if "switch" in troubles:
        first_kind, other = other, kind
    if form == "call" and rng.random() < 0.6:
        agent(w.say("greet"))
    if written or rng.random() < 0.5:
        customer(w.say("start" if form == "call" else "startw"))
    customer(w.of(fact, "problem"))
    asked = not written and rng.random() < 0.25  # the agent has to ask which kind it is
    if not asked:
        customer(w.of(fact, "kind", K=first_kind))
    digress(0)
    late = "contact" in troubles
    number = dict.fromkeys("RP", case["swapped" if late else "digits"])
    if not case["labelled"]:
        exchange(case["contact"] or "who", **number)
    elif case["contact"]:
        customer(w.say(case["contact"] + "w", **number))
    if late:
        customer(w.say("refix", R=case["digits"], **{"0": case["swapped"]}))
    if "name" in troubles:
        exchange("misname")
    digress(1)
    if asked:
        a, b = rng.sample((article + first_kind, article + other), 2)
        agent(w.say("which", a=a, b=b))
        customer(w.of(fact, "kind", K=first_kind))
    compare = level == "medium" and points[0].kind and rng.random() < 0.6
    if compare:
        customer(w.say("compare", K=article + other, o=case["elsewhere"]))
    ask(0)
    if len(points) == 2 and (asks_both := written or rng.random() < 0.3):
        ask(1)
    if "belief" in troubles:
        customer(w.say("belief", w=case["wrong"]))
    if "belief" in troubles or compare:
        agent(w.say("fits" if compare else "denial"))
    elif written or rng.random() < 0.6:
        agent(w.say("look"))
    first = case["elsewhere"] if "switch" in troubles else case["wrong"] if "slip" in troubles else value
    tell(0, first, first_kind)
    mend, figure = [], bool(FIGURE.match(value))
    if "switch" in troubles:
        mend = [("C", w.say("switch")), ("C", w.of(fact, "kind", K=kind)), ("A", w.say("ah")),
                ("A", w.of(fact, points[0].key, ">", v=value, K=kind))]  # fmt: skip
    elif "slip" in troubles:
        name = "slip" + ("xw" if written else "pq")[figure]
        mend = [("", "") if written else ("C", w.say("ack")), ("A", w.say(name, v=value, w=case["wrong"]))]
        mend = mend if written or rng.random() < 0.35 else mend[1:]
    out.extend([] if written else mend)
    if len(points) == 2:
        if not asks_both and rng.random() < 0.6:
            ask(1)
        tell(1, case["values"][1], kind)
    if not written and rng.random() < 0.3:
        customer(w.say("ack"))
    if not written:
        digress(2)
    moved = troubles & {"move", "shift"}
    agent(w.say(case["follow"], ">", **(case["early"] if moved else {})))
    out.extend(mend if written else [])
    if "move" in troubles:
        exchange("move", agent_first=False)
    if "shift" in troubles:
        out.extend([("", "")] if written else [])
        agent(w.say("shift"))
    if rng.random() < 0.55:
        customer(w.say("byew" if form != "call" else "bye"))
    return out


def lay_out(w: Writer, fact: str, form: str, case: dict, events: list[tuple]) -> tuple[str, int]:
    """The text of the ticket, and how many turns it has."""
    rng, turns, before = w.rng, [], None
    for speaker, sentence in events:
        if speaker and speaker == before:
            turns[-1][1].append(sentence)
        elif speaker:
            turns.append((speaker, [sentence]))
        before = speaker
    labels = dict(zip("CA", LABELS[form], strict=True))
    if case["labelled"] and form == "chat":
        labels = {"C": case["name"], "A": case["agent"]}
    keep = [*NAMES, *w.slots.values(), case["kind"], case["other"], *case["values"], case["wrong"], case["elsewhere"],
            *w.beside, *case["names"], *case["early"].values(), "Larkspan"]  # fmt: skip
    lower = form != "call" and rng.random() < 0.14
    slips = 0.04 if form != "call" and rng.random() < 0.35 else 0
    lines = []
    for i, (speaker, sentences) in enumerate(turns):
        text = " ".join(sentences)
        if speaker == "C" and form != "call":
            text = (
                typed(sentences, lower, tuple(k for k in keep if k))
                .replace("\n", " " if i else "\n")
                .replace(",,", ",")
            )
            text = mistype(text, rng, slips, tuple(keep))
        if form == "mail" and not i:
            sign = f"{w.say('sign')},\n" if rng.random() < 0.6 else ""
            lines.append(
                f"Subject: {rng.choice(w.bank['facts'][fact]['subject'].split(' / '))}\n\n{text}\n{sign}{case['name']}"
            )
        else:
            lines.append(f"{labels[speaker]}: {text}")
    return ("\n\n" if form == "mail" else "\n").join(lines), len(turns)


def write_note(w: Writer, edition: Edition, points: list[Point], case: dict) -> str:
    contact = {"ref": f", ref {case['digits']}", "tel": f", phone ends {case['digits']}", "": ""}[case["contact"]]
    issue, follow = (w.of(edition.fact, "issue"), w.say(case["follow"], "="))
    told = [w.of(edition.fact, p.key, "=", v=v) for p, v in zip(points, case["values"], strict=True)]
    names = (*NAMES, *(v for v in case["values"] if v[0].isupper()))
    told = [t if t.startswith(names) or re.match("[A-Z]{2}", t) else t[0].lower() + t[1:] for t in told]
    issue = issue[0].lower() + issue[1:]
    head = w.rng.choice(
        (f"{case['name']}{contact}, {case['kind']}: {issue}.", f"{case['name']}{contact} ({case['kind']}): {issue}.")
    )
    body = f"{w.say('told')} {w.rng.choice(('; ', ', ', ' and ')).join(told)}"
    if w.rng.random() < 0.45:
        follow = follow if follow.startswith(case["lead"]) else follow[0].lower() + follow[1:]
        return f"{head} {body}; {follow}"
    return f"{head} {body}. {follow}"


def record(w: Writer, edition: Edition, points: list[Point], level: str, form: str) -> dict | None:
    """One record without its id, None when the draw does not hold together."""
    w.begin()
    case = draw_case(w, edition, points, level, form)
    events = converse(w, edition, points, level, form, case)
    content, turns = lay_out(w, edition.fact, form, case, events)
    note, troubles, follow = write_note(w, edition, points, case), case["troubles"], case["follow"]
    first_word = case["kind"].split()[0]
    short = first_word[0].isupper() and len(first_word) > 3 and first_word != case["other"].split()[0]
    required = [case["names"], [case["kind"], *([first_word] if short else [])]]
    required += [list(dict.fromkeys([v, *equivalents(p.value)])) for p, v in zip(points, case["values"], strict=True)]
    required += [[case["digits"]]] if case["contact"] else []
    required += {"callback": [case["days"], case["times"]], "closed": [NEXT_STEPS["closed"]],
                 "lead": [[case["lead"]], case["days"]], "credit": [equivalents(case["amount"]), case["days"]],
                 "stuck": [NEXT_STEPS["stuck"], IF, case["days"]]}.get(follow, [NEXT_STEPS[follow], case["days"]])  # fmt: skip
    back = [case["wrong"]] if troubles & {"slip", "belief"} else []
    back += [case["elsewhere"]] if case["elsewhere"] and said(case["elsewhere"], content) else []
    back += [case["other"]] if "switch" in troubles else []
    back += [case["swapped"]] if "contact" in troubles else []
    back += [case["misheard"]] if "name" in troubles else []
    back += [case["early"]["d"]] if troubles & {"move", "shift"} else []
    back += [case["early"]["t"].removeprefix("at ")] if "move" in troubles else []
    back += w.beside
    unsaid = [v for p in points for v in (*p.wrong, p.other or "") if v and v not in VAGUE and not said(v, note)]
    right = [alt.lower() for group in required for alt in group]
    unsaid = [v for v in unsaid if not any(v.lower() in alt or alt in v.lower() for alt in right)]
    sound = all(any(said(a, text) for a in group) for group in required for text in (note, content)
                if group is not NEXT_STEPS.get(follow))  # fmt: skip
    clean = not any(said(v, note) or v.lower() in right for v in back) and all(said(v, content) for v in back)
    again = (
        "" if follow == "closed" else case["days"][0]
    )  # no value, name or aside may hold the day or the time as well
    single = not again or sum(said(again, v) for p in edition.points for v in (p.value, *p.wrong, p.other or "")) == 0
    fits = 50 <= len(content.split()) <= 115 and len(note.split()) <= 30 and (form == "mail" or 5 <= turns <= 9)
    if not (sound and clean and single and fits):
        return None
    return {"task": "summarization", "messages": [{"role": "user", "content": content}],
            "reference": {"note": note, "required": required, "forbidden": list(dict.fromkeys([*back, *unsaid]))},
            "fact": edition.fact, "topic": edition.topic, "difficulty": level}  # fmt: skip


def build(seed: int, sizes: dict[str, int] = SIZES, wide: bool = False) -> dict[str, list[dict]]:
    """All splits; the pool carries no reference."""
    rng, seen, out = random.Random(seed), set(), {}
    for split, size in sizes.items():
        base = "train" if split == "pool" else split
        facts, w, records = load_facts(base, wide), Writer(load_bank("summarization", base, wide), rng), []
        levels, forms, turn = spread(LEVELS, size, rng), spread(FORMS, size, rng), Counter()
        for i, (level, form) in enumerate(zip(levels, forms, strict=True)):
            fact = facts[turn[level] % len(facts)]
            turn[level] += 1
            for attempt in count(1):
                edition = draw_edition(fact, rng)
                rest = sorted(rng.sample(edition.points, 4), key=lambda p: w.used[level, p.key])
                points = rest[: 2 if level == "medium" or (level == "hard" and rng.random() < 0.2) else 1]
                points.sort(key=lambda p: not p.kind)
                draft = record(w, edition, points, level, form)
                if draft and draft["messages"][0]["content"] not in seen:
                    seen.add(draft["messages"][0]["content"])
                    w.used.update([*w.pending, *((level, p.key) for p in points)])
                    records.append({"id": f"summarization-{split}-{i + 1:04d}", **draft})
                    break
                if attempt % 500 == 0:  # the least used lines fit nowhere: let others have their turn
                    w.used.update(w.pending)
        if split == "pool":
            for row in records:
                del row["reference"]
        out[split] = records
    return out
