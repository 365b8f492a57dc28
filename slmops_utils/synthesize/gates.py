"""Quality gates: which of a teacher's answers to train on, and why the others were left out. Nothing is deleted.

A gate takes records and returns for each one a reason to drop it, or None. Gates run one after the other, each on what
those before it kept, and every record keeps its verdicts under `gates`: {gate: None or the reason}. To add one, write such
a function and name it in GATES where it should run.
"""

import re
import sys
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

from ..records import Chosen, Example, RecordFile, write_records
from ..tasks import get_task
from ..tasks.nli import labels_of
from .rules import Gate as Gate
from .rules import Reasons, Rules, each, question
from .similar import Neighbours
from .verified import arithmetic, consistent, judged


@each
def answered(example: Example, text: str, rules: Rules) -> str | None:
    """The call failed, or the answer is empty."""
    if example.response is None:
        return "no answer"
    return None if text.strip() else "empty answer"


@each
def finished(example: Example, text: str, rules: Rules) -> str | None:
    """The answer was cut off or filtered."""
    reason = example.response.finish_reason if example.response else "none"
    return None if reason == "stop" else f"finish reason {reason!r}"


REFUSALS = re.compile(
    r"\s*(as an? (ai|artificial|large) |(i['’]m|i am) (an ai|(really |very |truly )?sorry,? (but )?(i|as) )|"
    r"(sorry,? (but )?)?i ((can['’]?t|cannot|can not|won['’]?t|will not|am unable to|['’]m unable to)|(must|have to)) "
    r"(help|assist|answer|provide|comply|fulfil|do that|do this|continue|discuss|generate|decline)|i['’]m unable to |error:)",
    re.I,
)


@each
def not_refused(example: Example, text: str, rules: Rules) -> str | None:
    """The teacher declined to answer."""
    return "a refusal" if REFUSALS.match(text) else None


@each
def parsed(example: Example, text: str, rules: Rules) -> str | None:
    """The task cannot read an answer out of the text."""
    if "unread" in example.extra:  # asked in a style, and the answer could not be told from the reasons
        return str(example.extra["unread"])
    labels = _known(example, rules) or (text,)
    return None if get_task(example.task).parse(text, labels) is not None else "no answer of its task in the text"


@each
def length(example: Example, text: str, rules: Rules) -> str | None:
    """Too long, or the same words over and over."""
    words = text.split()
    if len(words) > rules.most_words or len(text) > 20 * rules.most_words:
        return f"more than {rules.most_words} words"
    phrases = Counter(zip(words, words[1:], words[2:], words[3:], strict=False))
    if phrases and max(phrases.values()) >= 4:
        return f"{' '.join(phrases.most_common(1)[0][0])[:80]!r} comes {max(phrases.values())} times"
    return None


COMMON = {
    "English": "the of and to is that it was for are with this you not".split(),
    "French": "le la les des est une dans pour que qui pas vous avec sur".split(),
    "German": "der die das und ist nicht ein eine mit sie zu auf den für".split(),
    "Spanish": "el los las es una que para con por del se no su como".split(),
    "Italian": "il lo gli di che è una per non con del della sono le".split(),
}


def script(text: str) -> str | None:
    """The script most letters are of ("LATIN", "CYRILLIC", "CJK"); None in a text without letters."""
    names = Counter(unicodedata.name(c, "?").split()[0] for c in text[:2000] if c.isalpha())
    return names.most_common(1)[0][0] if names else None


def language(text: str) -> str | None:
    """The language whose commonest words occur most often; None when too few do to tell. A guess, for long texts."""
    words = Counter(re.findall(r"\w+", text.lower()))
    hits = sorted(((sum(words[w] for w in common), name) for name, common in COMMON.items()), reverse=True)
    return hits[0][1] if hits[0][0] >= 3 and hits[0][0] >= 2 * hits[1][0] else None


@each
def same_language(example: Example, text: str, rules: Rules) -> str | None:
    """The answer is in another script or language than the question."""
    asked = question(example)
    for what, of in (("script", script), ("language", language)):
        given, wanted = of(text), of(asked)
        if given and wanted and given != wanted:
            return f"another {what}: {given} to a question in {wanted}"
    return None


@each
def agrees(example: Example, text: str, rules: Rules) -> str | None:
    """The record has a label, and the answer is another one."""
    if example.reference is None:
        return None
    task = get_task(example.task)
    metric = task.metrics[task.headline]
    if not metric.applies(example):  # a note or reply without its facts: no other text scores in full, however right
        return None
    score = metric.value(example, text)
    if isinstance(score, (int, float)) and score < 0.5:  # a score that is no number belongs to the whole set
        return f"not its label ({task.headline} {score:g})"
    return None


def not_repeated(examples: Sequence[Example], rules: Rules) -> Reasons:
    """The question is nearly the same as an earlier one's."""
    seen, reasons = Neighbours(rules.similarity, expected=len(examples)), []
    for example in examples:
        text = question(example)
        found = seen.find(text)
        reasons.append(f"like {found[0]} (similarity {found[1]:.2f})" if found else None)
        if not found:
            seen.add(example.id, text)
    return reasons


def not_held_out(examples: Sequence[Example], rules: Rules) -> Reasons:
    """The question is nearly the same as one of the held-out sets: a student trained on it would be tested on it."""
    held = Neighbours(rules.similarity, expected=len(rules.held_out))
    for example in rules.held_out:
        held.add(example.id, question(example))
    found = [held.find(question(example)) for example in examples]
    return [f"like held-out {f[0]} (similarity {f[1]:.2f})" if f else None for f in found]


def balanced(examples: Sequence[Example], rules: Rules) -> Reasons:
    """Its class or its topic has far more rows than the others have; the earlier rows stay."""
    reasons: Reasons = [None] * len(examples)
    for what, of in (("class", _class), ("topic", lambda e, rules: e.extra.get("topic"))):
        groups = [None if reason else _one(of(e, rules)) for e, reason in zip(examples, reasons, strict=True)]
        counts = Counter(group for group in groups if group is not None)
        most = rules.balance * median(counts.values()) if len(counts) > 1 else float("inf")
        seen: Counter[str] = Counter()
        for i, group in enumerate(groups):
            if group is not None:
                seen[group] += 1
                if seen[group] > most:
                    reasons[i] = f"{what} {group[:40]!r} has {counts[group]:,} rows, {most:,.0f} are kept"
    return reasons


def _one(group: Any) -> str | None:
    """The name of a group, one string for all its rows."""
    return None if group is None else sys.intern(str(group))


def _class(example: Example, rules: Rules) -> str | None:
    """The label an answer names, where there is a closed set of them."""
    labels = _known(example, rules)
    text = example.response.text if example.response else ""
    return get_task(example.task).parse(text, labels) if labels else None


def _known(example: Example, rules: Rules) -> Sequence[str]:
    return labels_of(example, rules.labels or rules.known_labels.get(example.task, ()))


GATES: dict[str, Gate] = {
    "answered": answered,
    "finished": finished,
    "not_refused": not_refused,
    "parsed": parsed,
    "length": length,
    "same_language": same_language,
    "agrees": agrees,
    "arithmetic": arithmetic,
    "consistent": consistent,
    "judged": judged,
    "not_held_out": not_held_out,
    "not_repeated": not_repeated,
    "balanced": balanced,  # last: it counts what all the others keep
}


def run_gates(
    examples: Sequence[Example], rules: Rules | None = None, gates: Sequence[str] = tuple(GATES)
) -> tuple[list[Example], list[Example], list[dict[str, Any]]]:
    """(kept, dropped, report): every record with its verdicts, and {"gate", "kept", "dropped", "most_often"} a gate.

    Raises ValueError for a gate that does not exist.
    """
    reasons, report = _judge(examples, rules or Rules(), gates)
    judged = [_with_verdicts(e, gates, reasons.get(i)) for i, e in enumerate(examples)]
    return [e for i, e in enumerate(judged) if i not in reasons], [judged[i] for i in sorted(reasons)], report


def filter_file(
    path: str | Path, out: str | Path, dropped: str | Path, rules: Rules, gates: Sequence[str] = tuple(GATES)
) -> list[dict[str, Any]]:
    """`run_gates` from file to files. Held in memory are some 30 bytes a record, and the reason of each dropped one."""
    examples = RecordFile(path)
    reasons, report = _judge(examples, rules, gates)
    write_records(dropped, (_with_verdicts(examples[i], gates, reasons[i]) for i in sorted(reasons)))
    write_records(out, (_with_verdicts(e, gates, None) for i, e in enumerate(examples) if i not in reasons))
    return report


Reason = tuple[str, str]  # the gate that dropped a record, and why


def _judge(
    examples: Sequence[Example], rules: Rules, gates: Sequence[str]
) -> tuple[dict[int, Reason], list[dict[str, Any]]]:
    """(place -> why it was dropped, report)."""
    if unknown := set(gates) - set(GATES):
        raise ValueError(f"no gate {', '.join(sorted(unknown))}; there are {', '.join(GATES)}")
    if not rules.labels and not rules.known_labels:
        rules = replace(rules, known_labels=_labels(chain(examples, rules.held_out)))
    dropped: dict[int, Reason] = {}
    alive, report = array("q", range(len(examples))), []
    for name in gates:
        reasons = GATES[name](Chosen(examples, alive), rules)
        dropped |= {i: (name, reason) for i, reason in zip(alive, reasons, strict=True) if reason}
        often = Counter(_kind(reason) for reason in reasons if reason)
        idle = "nothing to compare with" if name == "not_held_out" and not rules.held_out else ""
        left = array("q", (i for i, reason in zip(alive, reasons, strict=True) if not reason))
        report.append({"gate": name, "kept": len(left), "dropped": len(alive) - len(left),
                       "most_often": often.most_common(1)[0][0] if often else idle})  # fmt: skip
        alive = left
    return dropped, report


def _kind(reason: str) -> str:
    """A reason without what is different in every record."""
    return re.sub(r"\d[\d,.]*", "N", re.sub(r"\(.*\)|like .*", "", reason)).strip() or "alike"


def _with_verdicts(example: Example, gates: Sequence[str], dropped: Reason | None) -> Example:
    """The record with the verdict of every gate it met."""
    met = gates[: gates.index(dropped[0])] if dropped else gates
    verdicts: dict[str, str | None] = dict.fromkeys(met) | ({dropped[0]: dropped[1]} if dropped else {})
    return replace(example, extra=example.extra | {"gates": verdicts})


def _labels(examples: Iterable[Example]) -> dict[str, tuple[str, ...]]:
    """The labels of each task whose references are a few short strings: a closed set."""
    found: dict[str, Counter[str]] = {}
    for example in examples:
        if isinstance(example.reference, str):
            found.setdefault(example.task, Counter())[example.reference] += 1
    few = {task: labels for task, labels in found.items() if len(labels) <= max(2, sum(labels.values()) // 2)}
    return {task: tuple(sorted(labels)) for task, labels in few.items()}


def table(report: Sequence[dict[str, Any]]) -> str:
    """Kept and dropped per gate, for a terminal."""
    lines = [f"{'gate':<15} {'kept':>8} {'dropped':>8}  most often"]
    lines += [f"{r['gate']:<15} {r['kept']:>8,} {r['dropped']:>8,}  {ascii(r['most_often'])[1:-1]}" for r in report]
    return "\n".join(lines)
