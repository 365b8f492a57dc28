"""The case study's table: what the course's source text claims of it, whether that adds up, and the same table measured.

The text (Module05/02, "SLMOps-Distillation") tells of a customer support system distilled from DeepSeek V3 into
Phi-4-mini and names no source for its numbers. They are kept here as it gives them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# its `performance_comparison`, as numbers: parameters, bytes, seconds for one answer, a share, queries an hour
CLAIMED: dict[str, dict[str, Any]] = {
    "teacher": {"model": "DeepSeek V3", "parameters": 671e9, "memory_bytes": 1.2e12, "inference_s": 3.2, "accuracy": 0.945,
                "per_hour": 50.0},
    "student": {"model": "Phi-4-mini", "parameters": 14e9, "memory_bytes": 60e9, "inference_s": 0.48, "accuracy": 0.87,
                "per_hour": 500.0},
}  # fmt: skip
PHI_4_MINI = 3.8e9  # parameters, by its own model card


@dataclass(frozen=True)
class Check:
    """One claim and what the claim's own numbers give. `adds_up` is None where nothing is given to check it by."""

    claim: str
    found: str
    adds_up: bool | None


def reduction(before: float, after: float) -> float:
    """How much smaller `after` is than `before`, as a share of it; negative where it grew. ValueError unless before > 0."""
    if before <= 0:
        raise ValueError(f"nothing can be a share of {before}: a reduction needs a start above 0")
    return 1 - after / before


def per_hour(seconds: float) -> float:
    """Queries an hour of one worker that answers one after the other."""
    return 3600 / seconds


def check_claims() -> list[Check]:
    """Every number of the case study, recomputed from the others."""
    teacher, student = CLAIMED["teacher"], CLAIMED["student"]
    faster = reduction(teacher["inference_s"], student["inference_s"])
    lighter = reduction(teacher["memory_bytes"], student["memory_bytes"])
    kept = student["accuracy"] / teacher["accuracy"]
    more = student["per_hour"] / teacher["per_hour"]
    speed_up = teacher["inference_s"] / student["inference_s"]
    sequential = {role: per_hour(row["inference_s"]) for role, row in CLAIMED.items()}
    checks = [
        Check("85% reduction in inference time (3.2s to 0.48s)", f"{faster:.1%}", _close(faster, 0.85)),
        Check("95% reduction in memory (1.2TB to 60GB)", f"{lighter:.1%}", _close(lighter, 0.95)),
        Check("92% of the accuracy kept (94.5% to 87.0%)", f"{kept:.1%}", _close(kept, 0.92)),
        Check("60% reduction in operating costs", f"no price is given; {more:.0f} times the queries an hour on a machine of the "
              f"same price would be {reduction(1, 1 / more):.0%}", None),
        Check("10x more concurrent users", f"10x follows from the throughput row ({more:.0f}x); the inference times give "
              f"{speed_up:.1f}x, and no response time is stated", None),
    ]  # fmt: skip
    for role, row in CLAIMED.items():
        checks.append(
            Check(
                f"{row['model']}: {row['inference_s']}s a query and {row['per_hour']:.0f} queries an hour",
                f"one after the other, 3600 s / {row['inference_s']} s is {sequential[role]:,.0f} an hour",
                _close(sequential[role], row["per_hour"]),
            )
        )
    for row in CLAIMED.values():
        bytes_each = row["memory_bytes"] / row["parameters"]
        # the published number formats take 1 byte (FP8) or 2 (BF16); up to a third more goes to the work itself
        checks.append(
            Check(
                f"{row['model']}: {row['parameters'] / 1e9:.0f}B parameters in {_bytes(row['memory_bytes'])}",
                f"{bytes_each:.1f} bytes a parameter; weights alone are {_bytes(row['parameters'])} in FP8, "
                f"{_bytes(2 * row['parameters'])} in BF16",
                1 <= bytes_each <= 1.3 or 2 <= bytes_each <= 2.6,
            )
        )
    checks.append(
        Check("Phi-4-mini: 14B parameters", f"it has {PHI_4_MINI / 1e9:.1f}B, {_bytes(2 * PHI_4_MINI)} in BF16",
              _close(PHI_4_MINI, CLAIMED["student"]["parameters"]))
    )  # fmt: skip
    return checks


def _close(found: float, claimed: float) -> bool:
    """Whether a number agrees with its claim to half a unit of the claim's last digit, taken as one in a hundred."""
    return abs(found - claimed) <= 0.01 * abs(claimed)


def case_study(results: dict[str, Any]) -> dict[str, Any]:
    """The case study's table and list from results of `evaluate` that hold a teacher and a student, costs measured.

    {"rows": {role: {row of the table: text}}, "achieved": {role: [sentences in the source's form]}, "warning"}, for the
    student and every further role (exports). Raises ValueError when the teacher or the student is missing.
    """
    by_role = {row["role"]: row for row in results["rows"]}
    missing = [role for role in ("teacher", "student") if role not in by_role]
    if missing:
        raise ValueError(
            f"the case study compares a teacher with a student; these results have no {' and no '.join(missing)}"
        )
    others = [role for role in by_role if role not in ("teacher", "untuned", "baseline")]
    metric = next(iter(by_role["teacher"]["metrics"]))
    kept = {"student": results.get("retention"), **(results.get("retentions") or {})}
    return {
        "metric": metric,
        "rows": {role: table_row(by_role[role], metric) for role in ("teacher", *others)},
        "achieved": {
            role: achieved(by_role["teacher"], by_role[role], metric, (kept.get(role) or {}).get("ci95"))
            for role in others
        },
        "warning": _warning(by_role["teacher"], results.get("reference_rows") or {}, metric),
    }


def _warning(teacher: dict[str, Any], references: dict[str, Any], metric: str) -> str | None:
    """A share kept of a teacher that knows no more than a word count is worth nothing: say so."""
    known = {name: scores[metric]["value"] for name, scores in references.items() if metric in scores}
    best = max(known, key=lambda name: known[name], default=None)
    low = teacher["metrics"][metric]["ci95"][0]
    if best is None or low > known[best]:
        return None
    return (
        f"The teacher was not seen to be better than what needs no language model (its {metric} may be as low as "
        f"{100 * low:.1f}%; {best}: {100 * known[best]:.1f}%), so a share kept of it says little."
    )


def table_row(row: dict[str, Any], metric: str) -> dict[str, str]:
    """One model in the source's own five rows and two that it only claims; what was not measured is left out."""
    found = {"model": str(row["model"])}
    if row.get("parameters"):
        found["parameters"] = _count(row["parameters"])
    if row.get("peak_memory_bytes"):
        found["memory_usage"] = _bytes(row["peak_memory_bytes"])
    if row.get("latency_ms"):
        found["inference_time"] = f"{row['latency_ms']['p50'] / 1000:.3g}s"
    found["accuracy"] = f"{100 * row['metrics'][metric]['value']:.1f}%"
    if row.get("throughput_per_s"):
        found["throughput"] = f"{3600 * row['throughput_per_s']:,.0f} queries/hour"
    if row.get("cost_per_1k_usd"):
        found["operating_cost"] = f"${row['cost_per_1k_usd']:.4g} per 1,000 queries"
    if users := row.get("concurrent_users"):
        found["concurrent_users"] = f"{users['users']}{'+' if users['at_least'] else ''} within {users['within_s']:g}s"
    if row.get("bytes_on_disk"):
        found["disk"] = _bytes(row["bytes_on_disk"])
    return found


def achieved(teacher: dict[str, Any], student: dict[str, Any], metric: str, kept_ci: Any = None) -> list[str]:
    """The source's list of results ("85% reduction in inference time (from 3.2s to 0.48s per answer)"), measured.

    `kept_ci` is the retention's interval, where it is known."""
    said, before, after = [], table_row(teacher, metric), table_row(student, metric)

    def less(title: str, of: Any, shown: str, unit: str = "") -> None:
        try:
            share = reduction(of(teacher), of(student))
        except (KeyError, TypeError, ValueError):  # not measured of one of the two
            return
        word = "reduction" if share >= 0 else "increase"
        said.append(f"{100 * abs(share):.0f}% {word} in {title} (from {before[shown]} to {after[shown]}{unit})")

    less("inference time", lambda row: row["latency_ms"]["p50"], "inference_time", " per answer")
    less("memory", lambda row: row["peak_memory_bytes"], "memory_usage")
    less("bytes on disk", lambda row: row["bytes_on_disk"], "disk")
    score = teacher["metrics"][metric]["value"]
    if score > 0:
        kept = student["metrics"][metric]["value"] / score
        interval = f", 95 % interval {100 * kept_ci[0]:.0f} to {100 * kept_ci[1]:.0f}%" if kept_ci else ""
        said.append(
            f"{100 * kept:.0f}% of the teacher's {metric} kept (from {before['accuracy']} to {after['accuracy']}{interval})"
        )
    if teacher.get("cost_per_1k_usd") and student.get("cost_per_1k_usd"):
        less("operating cost", lambda row: row["cost_per_1k_usd"], "operating_cost")
    elif teacher.get("throughput_per_s") and student.get("throughput_per_s"):
        share = reduction(1 / teacher["throughput_per_s"], 1 / student["throughput_per_s"])
        said.append(f"{100 * abs(share):.0f}% {'reduction' if share >= 0 else 'increase'} in operating cost, on a machine of the same "
                    f"price (from {before['throughput']} to {after['throughput']})")  # fmt: skip
    users = [row.get("concurrent_users") for row in (teacher, student)]
    if all(users):
        a, b = (found["users"] for found in users)  # type: ignore[index]
        most = [found["at_least"] for found in users]  # type: ignore[index]
        times = f"{'at least ' if most[1] else ''}{b / a:.3g}x the concurrent users" if a else "concurrent users"
        if most[0]:  # it was served all that were tried, so there is nothing to divide by
            times = "no ratio of concurrent users was measured"
        said.append(f"{times} (from {before['concurrent_users']} to {after['concurrent_users']})")
    return said


TABLE_ROWS = ("model", "parameters", "memory_usage", "inference_time", "accuracy", "throughput", "operating_cost",
              "concurrent_users", "disk")  # fmt: skip


def claimed_row(role: str) -> dict[str, str]:
    """The source's own column for a role, in its own words."""
    row = CLAIMED[role]
    return {
        "model": row["model"],
        "parameters": _count(row["parameters"]),
        "memory_usage": _bytes(row["memory_bytes"]),
        "inference_time": f"{row['inference_s']}s",
        "accuracy": f"{100 * row['accuracy']:.1f}%",
        "throughput": f"{row['per_hour']:.0f} queries/hour",
    }


def columns(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table: the source's two columns, then what was measured."""
    found = case_study(results)
    shown = {"claimed teacher": claimed_row("teacher"), "claimed student": claimed_row("student")}
    shown |= {f"measured {role}": row for role, row in found["rows"].items()}
    title = {"accuracy": "accuracy" if found["metric"] == "accuracy" else f"accuracy (ours: {found['metric']})"}
    rows = [
        [title.get(name, name.replace("_", " ")), *(column.get(name, "") for column in shown.values())]
        for name in TABLE_ROWS
    ]
    return ["", *shown], [row for row in rows if any(row[1:])]


def claim_lines(checks: Sequence[Check]) -> list[str]:
    return [_line([check.claim, check.found, said(check)]) for check in checks]


def said(check: Check) -> str:
    return {True: "yes", False: "no", None: "cannot be told"}[check.adds_up]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _count(parameters: float) -> str:
    return f"{parameters / 1e9:.3g}B" if parameters >= 1e9 else f"{parameters / 1e6:.3g}M"


def _bytes(size: float) -> str:
    for unit, bytes_each in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= bytes_each:
            return f"{size / bytes_each:.3g}{unit}"
    return f"{size:.0f}B"
