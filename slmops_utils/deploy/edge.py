"""The edge goal: what an export saves of its teacher's latency, memory and disk, and what it keeps of its score."""

from typing import Any

AIMS = {"latency": 0.90, "memory": 0.80, "bytes_on_disk": 0.95, "retention": 0.97}
MEASURES = {
    "latency": lambda row: (row.get("latency_ms") or {}).get("p50"),
    "memory": lambda row: row.get("peak_memory_bytes"),
    "bytes_on_disk": lambda row: row.get("bytes_on_disk"),
}


def edge_goal(results: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """For each row of a results JSON (see evaluate) but the teacher's: role -> measure -> {"value", "aim", "reached"}.

    latency (of one request, p50), memory (peak of the process that serves) and bytes_on_disk are reductions, 1 - model /
    teacher; retention is a share of the teacher's score, with its "ci95". A value nobody could measure is None, and not
    reached. Raises ValueError without a teacher.
    """
    rows = {row["role"]: row for row in results["rows"]}
    if "teacher" not in rows:
        raise ValueError("the edge goal compares with a teacher, and these results have none")
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for role, row in rows.items():
        if role == "teacher":
            continue
        reached: dict[str, dict[str, Any]] = {}
        for measure, read in MEASURES.items():
            before, after = read(rows["teacher"]), read(row)
            value = 1 - after / before if before and after is not None else None
            reached[measure] = _against(measure, value)
        kept = (results.get("retentions") or {}).get(role)
        reached["retention"] = _against("retention", kept["value"] if kept else None)
        if kept:
            reached["retention"]["ci95"] = kept["ci95"]
        found[role] = reached
    return found


def edge_table(goal: dict[str, dict[str, dict[str, Any]]]) -> str:
    """`edge_goal` as a Markdown table; a star marks what reached its aim."""
    heads = {"latency": "latency", "memory": "memory", "bytes_on_disk": "on disk", "retention": "retention"}
    lines = ["| | " + " | ".join(heads.values()) + " |", "|---" * 5 + "|"]
    lines.append("| **aim** | " + " | ".join(_cell(m, {"value": AIMS[m], "reached": False}) for m in heads) + " |")
    lines += [f"| {role} | " + " | ".join(_cell(m, found[m]) for m in heads) + " |" for role, found in goal.items()]
    return "\n".join(lines)


def _against(measure: str, value: float | None) -> dict[str, Any]:
    return {"value": value, "aim": AIMS[measure], "reached": value is not None and value >= AIMS[measure]}


def _cell(measure: str, found: dict[str, Any]) -> str:
    if found["value"] is None:
        return "not measured"
    shown = (
        f"{100 * found['value']:.1f} %"
        if measure == "retention"
        else f"{-100 * found['value']:+.1f} %".replace("-", "−")
    )
    return shown + (" ★" if found["reached"] else "")
