"""Find the JSON a model wrote among whatever else it wrote. The text is only ever read, never run."""

import json
import re
from collections.abc import Iterator
from typing import Any

MOST_CHARACTERS, MOST_STARTS = 20_000, 200
MOST_LOOSE = 4_000  # of a text that is not JSON: its reasons are short
# a value behind one of its names, for objects that are nearly JSON; a quote inside it does not end it
PAIR = (
    r"""["'“]?\b(?P<key>{names})\b["'”]?\s*[:=]\s*"""
    r"""(?:"(?P<quoted>.*?)"(?=\s*(?:[,}}\]]|$))|(?P<plain>[^"\s,}}\]][^,}}\]\n]*))"""
)


def objects(text: str) -> Iterator[dict[str, Any]]:
    """Every JSON object of a text that is not inside another one, in order; those that are cut off are passed over.

    Fences, words before and after, line breaks inside strings and a comma too many are forgiven.
    """
    text = re.sub(r",(?=\s*[}\]])", "", text[:MOST_CHARACTERS])
    decoder, at = json.JSONDecoder(strict=False), 0
    for _ in range(MOST_STARTS):
        at = text.find("{", at)
        if at < 0:
            return
        try:
            found, at = decoder.raw_decode(text, at)
            yield found
        except (ValueError, RecursionError):
            at += 1


def pairs(text: str, names: tuple[str, ...]) -> dict[str, str]:
    """The named values of an object that is nearly JSON (quotes missing, no closing bracket); the last of each name."""
    found = re.finditer(PAIR.format(names="|".join(names)), text[:MOST_LOOSE], re.IGNORECASE | re.DOTALL)
    given = {m["key"].lower(): m["plain"] if m["quoted"] is None else m["quoted"] for m in found}
    return {key: value.replace("\\n", "\n").replace('\\"', '"').strip() for key, value in given.items()}
