"""Scores of parts of a test set, and the rows on which two models part: where to look after the total."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..records import Example
from .statistics import bootstrap

ORDER = {"easy": "0", "medium": "1", "hard": "2"}  # difficulties rise; all else is sorted by name
KINDS = ("teacher right, student wrong", "student right, teacher wrong", "both wrong", "both right")


def answers_of(example: Example) -> dict[str, dict[str, Any]]:
    """What each role answered, {role: {"text", "score"}}, as `evaluate` wrote it; {} where the row has none."""
    found = example.extra.get("answers")
    return found if isinstance(found, dict) else {}


def slices(examples: Sequence[Example], key: str) -> dict[str, dict[str, Any]]:
    """The mean headline score of each role for each value of `key` ("topic", "difficulty").

    {value: {"rows": n, "scores": {role: {"value", "ci95"}}}}; {} where no row has the key.
    """
    groups: dict[str, list[Example]] = {}
    for example in examples:
        if example.extra.get(key) is not None:
            groups.setdefault(str(example.extra[key]), []).append(example)
    found = {}
    for value in sorted(groups, key=lambda value: ORDER.get(value, value)):
        rows = groups[value]
        scores = {
            role: bootstrap([float(answers_of(e)[role]["score"]) for e in rows], lambda x: float(np.mean(x))).to_dict()
            for role in answers_of(rows[0])
            if all(role in answers_of(e) for e in rows)
        }
        found[value] = {"rows": len(rows), "scores": scores}
    return found


def kind(example: Example, teacher: str = "teacher", student: str = "student") -> str | None:
    """Which of KINDS a row is; right means its full score. None where one of the two did not answer it."""
    given = answers_of(example)
    if teacher not in given or student not in given:
        return None
    t, s = (float(given[role]["score"]) >= 1 for role in (teacher, student))
    return KINDS[3 if t and s else 0 if t else 1 if s else 2]


def learning_curve(by_rows: dict[int, dict[str, Any]], role: str = "student") -> list[dict[str, Any]]:
    """Points for a results' "learning_curve" from results whose `role` was trained on so many synthetic rows.

    [{"rows", "value", "ci95"}], fewest first. Raises ValueError when they differ in task or metric, or lack the role.
    """
    points, seen = [], set()
    for rows, results in sorted(by_rows.items()):
        found = [row for row in results["rows"] if row["role"] == role]
        if not found:
            raise ValueError(f"the results for {rows:,} rows have no {role}")
        metric = next(iter(found[0]["metrics"]))
        seen.add((results["task"], metric))
        points.append({"rows": rows, **found[0]["metrics"][metric]})
    if len(seen) > 1:
        raise ValueError(f"a learning curve is of one task and score, these are {sorted(seen)}")
    return points
