"""Read numbers with units as people write them, exactly, and refuse what could be read two ways.

Read: "£1,204.50", "1204.5 GB", "GBP 12.40", "12.40 pounds", "12 1/2", "1/4", "-3", "15%", "£4 a month".
Refused: "1,20", "1,2,3", "1.2.3", "12 or 13", "2 hours 5 minutes", "£3.5k" (no bill says k) and over 15 digits.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

# unit -> (what it is counted in, how many of those, how it is written); 1 GB is 1000 MB, as on a bill
UNITS: dict[str, tuple[str, Fraction, str]] = {
    "£": ("£", Fraction(1), "£|pounds?|gbp"),
    "p": ("£", Fraction(1, 100), r"p(?!\.m)|pence|penny"),
    "$": ("$", Fraction(1), r"\$|dollars?|usd"),
    "€": ("€", Fraction(1), "€|euros?|eur"),
    "%": ("%", Fraction(1), "%|per ?cent"),
    "KB": ("GB", Fraction(1, 10**6), "kb|kilobytes?"),
    "MB": ("GB", Fraction(1, 1000), "mb|megabytes?"),
    "GB": ("GB", Fraction(1), "gb|gigabytes?|gigs?"),
    "TB": ("GB", Fraction(1000), "tb|terabytes?"),
    "Mbps": ("Mbps", Fraction(1), "mbps|mbit/s"),
    "Gbps": ("Mbps", Fraction(1000), "gbps|gbit/s"),
    "second": ("hour", Fraction(1, 3600), "s|secs?|seconds?"),
    "minute": ("hour", Fraction(1, 60), "mins?|minutes?"),
    "hour": ("hour", Fraction(1), "h|hrs?|hours?"),
    "day": ("hour", Fraction(24), "days?"),
    "week": ("hour", Fraction(168), "weeks?"),
    "month": ("month", Fraction(1), "months?"),
    "year": ("month", Fraction(12), "years?"),
    "call": ("call", Fraction(1), "calls?"),
    "text": ("text", Fraction(1), "texts?"),
    "message": ("message", Fraction(1), "messages?"),
    "device": ("device", Fraction(1), "devices?"),
}
# [0-9] and not \d, which is every script's digits; 15 a part, so that hostile text makes no long numbers
_DIGITS = "[0-9]{1,15}"
_GROUPED = "[0-9]{1,3}(?:,[0-9]{3}){1,4}"
NUMBER = rf"(?:{_DIGITS}\ {_DIGITS}/{_DIGITS}|{_DIGITS}/{_DIGITS}|(?:{_GROUPED}|{_DIGITS})(?:\.{_DIGITS})?)"
PREFIX = "[£$€]|gbp|usd|eur"
UNIT = rf"(?:{'|'.join(written for _, _, written in UNITS.values())})(?!\w)"
SPACE = r"[ \xa0]?"
RATE = rf"(?:{SPACE}/{SPACE}|[ \xa0](?:per|an?|each|every)[ \xa0]){UNIT}"
QUANTITY = re.compile(
    # not inside a word, a longer number, a range, a clock time, a power or a sum of money
    r"(?<![\w£$€.,/^–−-])(?<!\d:)(?<!\d\*)(?<!\d\*\*)"
    rf"(?P<sign>[-−])?(?:(?P<prefix>{PREFIX}){SPACE})?(?P<minus>[-−])?(?P<number>{NUMBER})"
    rf"(?:{SPACE}(?P<unit>{UNIT}))?(?P<rate>{RATE})?"
    r"(?![\w£€^]|[.,:/–−-]\d|\*{1,2}\d)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Quantity:
    """A number as it was written and its unit: a key of UNITS, "" for none, "£/month" for a rate."""

    value: Fraction
    unit: str = ""


def unit_named(written: str) -> str:
    """The key of UNITS for a written unit, "" for none."""
    return next((key for key, (_, _, names) in UNITS.items() if re.fullmatch(names, written, re.IGNORECASE)), "")


def rate_named(written: str | None) -> str:
    """The key of UNITS in what RATE matched, such as " a month" or "/GB"; "" for none."""
    last = re.search(rf"(?<![^\W_])(?:{UNIT})$", written or "", re.IGNORECASE)
    return unit_named(last[0]) if last else ""


def number_value(written: str) -> Fraction | None:
    """The value of what NUMBER matched; None for a division by nought."""
    whole, _, part = written.replace(",", "").rpartition(" ")
    if re.search(r"/0+$", part):
        return None
    return Fraction(part) + (Fraction(whole) if whole else 0)


def _quantity(match: re.Match[str]) -> Quantity | None:
    value = number_value(match["number"])
    prefix = unit_named(match["prefix"] or "")
    unit = unit_named(match["unit"] or "")
    if value is None or (prefix and unit and prefix != unit) or (match["sign"] and match["minus"]):
        return None
    per = rate_named(match["rate"])
    return Quantity(-value if match["sign"] or match["minus"] else value, (prefix or unit) + (per and f"/{per}"))


def read_quantity(text: str) -> Quantity | None:
    """The quantity that `text` is, as a whole; None when it is anything else."""
    match = QUANTITY.fullmatch(text.strip().removesuffix("."))
    return _quantity(match) if match else None


def find_quantities(text: str) -> list[tuple[int, int, Quantity | None]]:
    """(start, end, quantity) of each that stands in a text; the quantity is None where it reads two ways."""
    return [(*match.span(), _quantity(match)) for match in QUANTITY.finditer(text)]


def agrees(given: Quantity, wanted: Quantity) -> bool:
    """Whether two quantities are the same: a missing unit is forgiven, another unit is converted or refused."""
    (given_unit, _, given_per), (unit, _, per) = given.unit.partition("/"), wanted.unit.partition("/")
    if given_per and per and given_per != per:
        return False
    if not given_unit or not unit:
        return given.value == wanted.value
    (given_base, given_size, _), (base, size, _) = UNITS[given_unit], UNITS[unit]
    return given_base == base and given.value * given_size == wanted.value * size
