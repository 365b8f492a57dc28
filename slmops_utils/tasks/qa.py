"""Questions about an article in the system message: a short answer, or one of several options shown as lines "A) ...".

The reference is {"answers": [alternatives]} (a plain string is one alternative), or {"choice": "B", "answers": [the
option's text]}. Short answers score as in SQuAD (arXiv 1606.05250), token F1 against the closest alternative, with one
difference: what makes a number stays in it, or "£4.50" would equal "£450", "3-5 days" "35 days" and "-3" "3".
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from ..records import Example
from . import Metric, Task, instructed

INSTRUCTION = "Answer the question with the fewest words from the article."
CHOICE_INSTRUCTION = "Answer the question with the letter of the right option."


def prompt(example: Example) -> list[dict[str, str]]:
    return instructed(example, CHOICE_INSTRUCTION if options(example) else INSTRUCTION)


def target(example: Example) -> str:
    return choice(example) or alternatives(example)[0]


def parse(text: str, labels: Sequence[str] = ()) -> str | None:
    """What follows the last "Answer:", or the whole text; None when that is nothing."""
    return re.split(r"\banswer\s*:", text, flags=re.IGNORECASE)[-1].strip() or None


def alternatives(example: Example) -> list[str]:
    """The answers that count as right. Raises ValueError when the reference has none."""
    reference = example.reference
    answers = reference.get("answers") if isinstance(reference, dict) else [reference]
    if not answers or isinstance(answers, str) or not all(isinstance(a, str) and a.strip() for a in answers):
        raise ValueError(f"{example.id}: a qa reference is a string or has 'answers', a list of strings")
    return list(answers)


def choice(example: Example) -> str | None:
    """The letter of the right option; None for a short-answer question."""
    return example.reference.get("choice") if isinstance(example.reference, dict) else None


def options(example: Example) -> dict[str, str]:
    """Letter -> text of the options in the last user turn; empty for a short-answer question."""
    asked = [m["content"] for m in example.prompt if m["role"] == "user"][-1]
    shown = dict(re.findall(r"^([A-Z])\) +(\S.*)$", asked, re.MULTILINE))
    return shown if len(shown) > 1 else {}


def words(text: str) -> list[str]:
    """Lower-case words without punctuation and articles; numbers keep their sign, decimals, range and per cent sign."""
    text = text.lower().replace("’", "'").replace("−", "-").replace("–", "-")
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)  # 1,204.50
    text = re.sub(r"(?<=\d)\s+%", "%", text)
    text = re.sub(r"(?<=[£$€])\s+(?=\d)", "", text)
    number = r"(?<=\d)[.,:/-](?=\d)|(?<![\w)])-(?=[£$€]?\d)|(?<=\d)%"
    text = re.sub(rf"({number})|[^\w\s£$€]|_", r"\1", text)
    found = text.split()
    return [word for word in found if word not in ("a", "an", "the")] or found


def f1(answer: str, reference: str) -> float:
    """Harmonic mean of the shares of words that are in the other text; 0 for an empty answer."""
    given, wanted = Counter(words(answer)), Counter(words(reference))
    shared = (given & wanted).total()
    return 2 * shared / (given.total() + wanted.total()) if shared else 0.0


def parse_choice(text: str, shown: Mapping[str, str]) -> str | None:
    """The one option an answer picks, by its letter ("B", "(b)", "Answer: B."), its text, or both ("B) 5 days").

    None for anything else: two options, a letter with another option's text, a letter inside a sentence.
    """
    answer = re.sub(r"^(?:option|choice)\s+(?=\(?[A-Za-z]\b)", "", parse(text) or "", flags=re.IGNORECASE)
    lettered = re.fullmatch(r"\(?([A-Za-z])\s*(?:[).:,–-]+|$)\s*(.*)", answer, re.DOTALL)
    if lettered and lettered[1].upper() in shown:
        letter, rest = lettered[1].upper(), words(lettered[2])
        if not rest or rest == words(shown[letter]):
            return letter
    named = [letter for letter, option in shown.items() if words(answer) and words(answer) == words(option)]
    return named[0] if len(named) == 1 else None


def picks(example: Example, text: str) -> float:
    """1.0 when the text picks the reference's option and no other."""
    letter = choice(example)
    shown = options(example) or {str(letter): alternatives(example)[0]}
    return float(parse_choice(text, shown) == letter)


def token_f1(example: Example, text: str) -> float:
    """F1 of the words against the closest alternative; for options 1 or 0."""
    if choice(example):
        return picks(example, text)
    return max(f1(parse(text) or "", answer) for answer in alternatives(example))


def exact_match(example: Example, text: str) -> float:
    """1.0 when the words are those of an alternative, or the option is the right one."""
    if choice(example):
        return picks(example, text)
    given = words(parse(text) or "")
    return float(bool(given) and any(given == words(answer) for answer in alternatives(example)))


TASK = Task(
    name="qa",
    prompt=prompt,
    target=target,
    parse=parse,
    metrics={
        "token_f1": Metric(token_f1, lambda rows: float(np.mean(rows))),
        "exact_match": Metric(exact_match, lambda rows: float(np.mean(rows))),
    },
    max_new_tokens=32,
    canonical=lambda answer: tuple(words(answer)),
)
