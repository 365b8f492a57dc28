"""Figures as SVG text that goes into a page as it is: no address, and its colours follow the page's light or dark mode."""

import io
import re
from collections.abc import Sequence
from typing import Any

COLOURS = {
    "teacher": "#3b4a6b",
    "untuned": "#b8bcc6",
    "baseline": "#d98e32",
    "student": "#2a9d74",
    "reference": "#8f6fb3",
}
MORE = ("#b5546f", "#4d8fbf", "#7a7a2e", "#6b6b6b")  # for further roles, such as exports
LONGEST = 40  # characters of a label
INK = "#010203"  # stands for the page's own text colour


def colour_of(role: str, roles: Sequence[str] = ()) -> str:
    """A role's colour; a role of one's own gets the next free one."""
    others = [name for name in roles if name not in COLOURS]
    return COLOURS.get(role) or MORE[others.index(role) % len(MORE) if role in others else 0]


def headline(results: dict[str, Any]) -> str:
    """The name of the score everything is compared by: the first of each row."""
    return next(iter(results["rows"][0]["metrics"]))


def error_bar(value: float, low: float, high: float) -> list[list[float]]:
    """How far an interval reaches below and above a value, as matplotlib wants it."""
    return [[max(0.0, value - low)], [max(0.0, high - value)]]


def plain(text: str) -> str:
    """Text in which matplotlib finds no formula, cut where it would crowd the figure out."""
    text = text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
    return text.replace("$", r"\$")


def _axes(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(colors=INK)
    axes.grid(color=INK, alpha=0.12, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.patch.set_visible(False)
    return figure, axes


def svg(figure: Any) -> str:
    """A figure as one <svg> element, its colours replaced by the page's (variables named --teacher and so on)."""
    import matplotlib

    out = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "report card"}):
        figure.savefig(out, format="svg", transparent=True, metadata=nothing)
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'<g id="[^"]*">', "<g>", text)  # the same in every figure of a page
    text = text.replace(INK, "currentColor")
    for role, colour in COLOURS.items():
        text = text.replace(f": {colour}", f": var(--{role})")
    return text


def score_against(results: dict[str, Any], cost: str) -> str | None:
    """Score with its interval against "latency" (ms, p50) or "memory" (MiB); None where it was not measured."""
    metric, roles = headline(results), [row["role"] for row in results["rows"]]

    def x_of(row: dict[str, Any]) -> float | None:
        if cost == "latency":
            return (row.get("latency_ms") or {}).get("p50")
        return row["peak_memory_bytes"] / 2**20 if row.get("peak_memory_bytes") else None

    points = [(row, x) for row in results["rows"] if (x := x_of(row)) is not None]
    if not points:
        return None
    figure, axes = _axes(5.2, 3.4)
    for row, x in points:
        score, colour = row["metrics"][metric], colour_of(row["role"], roles)
        value, (low, high) = 100 * score["value"], (100 * end for end in score["ci95"])
        axes.errorbar(x, value, yerr=error_bar(value, low, high), fmt="o", color=colour, capsize=3)
    _labels(axes, [(x, 100 * row["metrics"][metric]["value"], row["role"]) for row, x in points])
    axes.set_xlabel("latency of one request, p50 (ms)" if cost == "latency" else "peak memory (MiB)", color=INK)
    axes.set_ylabel(plain(f"{metric} (%)"), color=INK)
    axes.set(xlim=(0, 1.3 * max(x for _, x in points)), ylim=(-3, 105))
    return svg(figure)


def _labels(axes: Any, points: list[tuple[float, float, str]]) -> None:
    """Names beside their points; those that would lie on each other are set one above the other."""
    widest = 1.3 * max(x for x, *_ in points)
    placed: list[tuple[float, float]] = []
    for x, y, name in sorted(points, key=lambda point: point[1]):
        at = y + 1.5
        while any(abs(x - px) < 0.22 * widest and abs(at - py) < 6 for px, py in placed):
            at += 6
        placed.append((x, at))
        axes.text(x + 0.015 * widest, at, plain(name), color=INK, fontsize=9)


def slice_dots(found: dict[str, dict[str, Any]], metric: str) -> str:
    """One line a slice: the score of every role with its interval. found: as `slices` returns it, not empty."""
    roles = list(next(iter(found.values()))["scores"])
    figure, axes = _axes(7.0, 0.34 * len(found) * max(2, len(roles) ** 0.7) + 1.1)
    for i, role in enumerate(roles):
        colour = colour_of(role, roles)
        for place, part in enumerate(found.values()):
            score = part["scores"].get(role)
            if score:
                value, (low, high) = 100 * score["value"], (100 * end for end in score["ci95"])
                axes.errorbar(value, place + 0.16 * (i - (len(roles) - 1) / 2), fmt="o", color=colour, markersize=5,
                              xerr=error_bar(value, low, high),
                              label=plain(role) if place == 0 else None)  # fmt: skip
    axes.set_yticks(range(len(found)), [plain(f"{name} ({part['rows']})") for name, part in found.items()])
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.set_xlabel(plain(f"{metric} (%), with 95 % interval"), color=INK)
    axes.set_xlim(-2, 102)
    _legend(axes)
    return svg(figure)


def curve(points: list[dict[str, Any]], results: dict[str, Any]) -> str:
    """Score by the number of synthetic rows a student was trained on, with the other roles' scores as level lines."""
    metric = headline(results)
    figure, axes = _axes(6.0, 3.4)
    x, y = [point["rows"] for point in points], [100 * point["value"] for point in points]
    low, high = ([100 * point["ci95"][end] for point in points] for end in (0, 1))
    axes.fill_between(x, low, high, color=COLOURS["student"], alpha=0.2, linewidth=0)
    axes.plot(x, y, "o-", color=COLOURS["student"], label="student")
    for row in results["rows"]:
        if row["role"] in ("teacher", "untuned", "baseline"):
            axes.axhline(
                100 * row["metrics"][metric]["value"], color=COLOURS[row["role"]], linestyle="--", label=row["role"]
            )
    axes.set_xlabel("synthetic rows", color=INK)
    axes.set_ylabel(plain(f"{metric} (%)"), color=INK)
    axes.set_ylim(-3, 105)
    axes.set_xticks(x, [f"{rows:,}" for rows in x])
    _legend(axes)
    return svg(figure)


def _legend(axes: Any) -> None:
    axes.legend(frameon=False, labelcolor=INK, fontsize=9, ncols=6, loc="lower center", bbox_to_anchor=(0.5, 1.0))
