"""Recompute the arithmetic a text states, such as "3 x £4.50 = £13.50", with a parser of our own: never eval.

Only + - x * × ÷ / ( ) and % exist, so no text can make a large number; long texts and deep brackets are refused.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from .quantity import NUMBER, PREFIX, RATE, SPACE, UNIT, UNITS, number_value, rate_named, unit_named

MOST_CHARACTERS, MOST_TOKENS, MOST_DEPTH = 20_000, 100, 20
BULLET = re.compile(r"\s*(?:[-–*•]|[0-9]+[.)])\s+")
TOKEN = re.compile(
    rf"(?:(?P<prefix>{PREFIX}){SPACE})?(?P<number>[0-9]+\ [0-9]+/[0-9]+|[0-9]+(?:[.,][0-9]+)*)"
    rf"(?:{SPACE}(?P<unit>{UNIT}))?(?P<rate>{RATE})?"
    r"|(?P<dash>[-–—]\s+(?=[^\W\d_]))"  # before a word it is punctuation, not minus
    r"|(?P<operator>[-+*/×÷−–()=]|x(?![^\W\d_])|of(?:\s+the)?(?!\w))"
    r"|(?P<word>[^\W\d_]+)|(?P<other>\S)",
    re.IGNORECASE,
)
SPELLINGS = {"×": "*", "x": "*", "÷": "/", "−": "-", "–": "-"}
CUT = "|"  # where an expression cannot go on


@dataclass(frozen=True)
class Number:
    """A number in an expression. value: as written, None when it cannot be read ("1,20")."""

    value: Fraction | None
    decimals: int
    unit: str  # a key of UNITS or ""
    per: str  # likewise: the month of "£4 a month"

    @property
    def scale(self) -> Fraction:
        """What one is worth: 50p x 3 is £1.50, 20% of 50 is 10, 2 GB at 1p per MB is £20."""
        return _scale(self.unit) / _scale(self.per)


def _scale(unit: str) -> Fraction:
    return Fraction(1, 100) if unit == "%" else UNITS[unit][1] if unit else Fraction(1)


Token = Number | str


def _tokens(line: str) -> Iterator[Token]:
    # a noun after a number ("3 phones x £4") is passed over, but no number may follow it
    before = ""
    for match in TOKEN.finditer(BULLET.sub("", line, count=1) if BULLET.match(line) else line):
        kind = match.lastgroup if match["number"] is None else "number"
        if kind == "number":
            if before in ("number", "word"):
                yield CUT
            written = match["number"]
            value = number_value(written) if re.fullmatch(NUMBER, written) else None
            unit, per = unit_named(match["prefix"] or match["unit"] or ""), rate_named(match["rate"])
            yield Number(value, len(written.partition(".")[2]), unit, per)
        elif kind == "operator":
            operator = match["operator"].lower()
            yield "*" if operator.startswith("of") else SPELLINGS.get(operator, operator)
        elif kind != "word":
            yield CUT
        before = kind or ""


def _split(tokens: Sequence[Token], mark: str) -> list[list[Token]]:
    parts: list[list[Token]] = [[]]
    for token in tokens:
        if token == mark:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def _unwrapped(side: list[Token]) -> list[Token]:
    """Without the bracket that closes, or opens, on the other side of the equals sign: "(3 x 4 = 12)"."""
    excess = side.count("(") - side.count(")")
    start = end = 0
    while start < excess and side[start] == "(":
        start += 1
    while end < -excess and side[-1 - end] == ")":
        end += 1
    return side[start : len(side) - end]


def _complete(side: list[Token]) -> bool:
    """Whether every operand is a number: "price x 3" is not to be judged."""
    return any(isinstance(t, Number) for t in side) and side[0] not in ("*", "/") and side[-1] not in tuple("+-*/(")


def check_steps(text: str) -> list[bool]:
    """Whether each arithmetic step that a text states is right, in order; what it states in words is passed over.

    A step is two expressions with an equals sign between, at least one with an operator. A result with two decimals or
    more may be rounded to them.
    """
    verdicts = []
    for line in text[:MOST_CHARACTERS].splitlines():
        for segment in _split(list(_tokens(line)), CUT):
            for left, right in pairwise(_unwrapped(side) for side in _split(segment, "=")):
                if _complete(left) and _complete(right) and any(isinstance(t, str) for t in (*left, *right)):
                    verdicts.append(_holds(left, right))
    return verdicts


def _holds(left: list[Token], right: list[Token]) -> bool:
    result = right[0] if len(right) == 1 and isinstance(right[0], Number) else None
    slack = Fraction(1, 2 * 10**result.decimals) if result and result.decimals >= 2 else Fraction(0)
    try:
        worth, stated = evaluate(left), evaluate(right)
        if abs(worth - stated) <= slack * (result.scale if result else 1):
            return True
        if not result or result.value is None or abs(evaluate(left, _written) - result.value) > slack:
            return False
    except (ValueError, ZeroDivisionError):
        return False
    # the numbers as written agree: fair where no unit changes ("3 x 50p = 150"), or a factor of the step changes it
    # ("2 GB x 1000 = 2000 MB"); "3 x 50p = £150" is wrong
    numbers = [t for t in (*left, *right) if isinstance(t, Number)]
    units = {unit for n in numbers for unit in (n.unit, n.per) if unit}
    scales = {(UNITS[unit][0], _scale(unit)) for unit in units} | {("%", Fraction(1))}
    if len(scales) == len({base for base, _ in scales}):
        return True
    factors = {
        1 / t.value if before == "/" else t.value
        for before, t in pairwise(["*", *left])
        if isinstance(t, Number) and t.value and not t.unit
    }
    return stated != 0 and worth / stated in factors


def _worth(number: Number) -> Fraction:
    return (number.value or 0) * number.scale


def _written(number: Number) -> Fraction:
    return _worth(number) if number.unit == "%" else number.value or Fraction(0)


def evaluate(tokens: Sequence[Token], read: Callable[[Number], Fraction] = _worth) -> Fraction:
    """The value of an expression. Raises ValueError for what is none, ZeroDivisionError for a division by nought."""
    if len(tokens) > MOST_TOKENS:
        raise ValueError("too long")
    value, at = _sum(tokens, 0, 0, read)
    if at < len(tokens):
        raise ValueError("no operator between two values")
    return value


def _sum(tokens: Sequence[Token], at: int, depth: int, read: Callable[[Number], Fraction]) -> tuple[Fraction, int]:
    value, at = _product(tokens, at, depth, read)
    while at < len(tokens) and tokens[at] in ("+", "-"):
        other, after = _product(tokens, at + 1, depth, read)
        value, at = (value + other if tokens[at] == "+" else value - other), after
    return value, at


def _product(tokens: Sequence[Token], at: int, depth: int, read: Callable[[Number], Fraction]) -> tuple[Fraction, int]:
    value, at = _factor(tokens, at, depth, read)
    while at < len(tokens) and tokens[at] in ("*", "/"):
        other, after = _factor(tokens, at + 1, depth, read)
        value, at = (value * other if tokens[at] == "*" else value / other), after
    return value, at


def _factor(tokens: Sequence[Token], at: int, depth: int, read: Callable[[Number], Fraction]) -> tuple[Fraction, int]:
    if at >= len(tokens) or depth > MOST_DEPTH:
        raise ValueError("an expression that ends early or nests too deeply")
    token = tokens[at]
    if isinstance(token, Number):
        if token.value is None:
            raise ValueError("a number that cannot be read")
        return read(token), at + 1
    if token == "-":
        value, at = _factor(tokens, at + 1, depth + 1, read)
        return -value, at
    if token == "(":
        value, at = _sum(tokens, at + 1, depth + 1, read)
        if at < len(tokens) and tokens[at] == ")":
            return value, at + 1
    raise ValueError("not an expression")
