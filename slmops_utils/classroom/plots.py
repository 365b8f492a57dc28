"""The course's figures, in one style. Each function returns a matplotlib figure."""

from typing import Any

from ..evaluate.figures import COLOURS, colour_of, error_bar


def _axes(width: float = 7.0, height: float = 3.6) -> tuple[Any, Any]:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e6ea", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def loss_curves(runs: dict[str, list[dict[str, float]]], title: str = "Training loss") -> Any:
    """Loss per supervised token (nats) against optimizer steps; validation losses are dots, validation scores squares with
    an axis of their own. runs: name -> losses."""
    figure, axes = _axes()
    scored = axes.twinx() if any("score" in values for losses in runs.values() for values in losses) else None
    palette = ["#2a9d74", "#d98e32", "#3b4a6b", "#8f6fb3"]
    for (name, losses), colour in zip(runs.items(), palette, strict=False):
        curve = [(x["step"], x["loss"]) for x in losses if "loss" in x]
        dots = [(x["step"], x["validation_loss"]) for x in losses if "validation_loss" in x]
        if curve:
            axes.plot(*zip(*curve, strict=True), color=colour, label=name)
        if dots:
            axes.plot(*zip(*dots, strict=True), "o--", color=colour, alpha=0.6, label=f"{name}, validation")
        scores = [(x["step"], 100 * x["score"]) for x in losses if "score" in x]
        if scores and scored:
            scored.plot(*zip(*scores, strict=True), "s:", color=colour, alpha=0.9, markersize=5)
            axes.plot([], [], "s:", color=colour, label=f"{name}, score (right)")
    axes.set(xlabel="optimizer step", ylabel="loss (nats per token)", title=title, ylim=(0, None))
    if scored:
        scored.set(ylabel="validation score (%)", ylim=(0, 105))
        scored.spines[["top", "left"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def _bars(results: dict[str, Any]) -> tuple[str, list[tuple[str, dict[str, Any], str]]]:
    metric = next(iter(results["rows"][0]["metrics"]))
    roles = [row["role"] for row in results["rows"]]
    bars = [(row["role"], row["metrics"][metric], colour_of(row["role"], roles)) for row in results["rows"]]
    return metric, bars + [(name, m[metric], COLOURS["reference"]) for name, m in results["reference_rows"].items()]


def draw_scores(results: dict[str, Any], axes: Any, title: str = "") -> None:
    """Draw the headline scores of a results JSON on existing axes: one bar a row, with its 95 % interval."""
    metric, bars = _bars(results)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(axis="x", color="#e6e6ea", linewidth=0.8)
    for i, (_, score, colour) in enumerate(bars):
        low, high = score["ci95"]
        value = 100 * score["value"]
        error = error_bar(value, 100 * low, 100 * high)
        axes.barh(i, value, color=colour, height=0.62, xerr=error, ecolor="#333333", capsize=3)
        axes.text(max(100 * high, value) + 1.5, i, f"{value:.0f} %", va="center", fontsize=9)
    axes.set_yticks(range(len(bars)), [name for name, *_ in bars])
    axes.invert_yaxis()
    axes.set(xlim=(0, 108), xlabel=f"{metric} (%), with 95 % interval")
    axes.set_title(title or f"{results['task']}, {results['n_test']} test rows")


def score_bars(results: dict[str, Any], title: str = "") -> Any:
    """The headline score of every row of a results JSON with its 95 % interval, reference rows last."""
    figure, axes = _axes(7.0, 0.55 * len(_bars(results)[1]) + 1.2)
    axes.grid(axis="y", visible=False)
    draw_scores(results, axes, title)
    return figure


def score_against_cost(results: dict[str, Any]) -> Any:
    """Score against the latency of one request, area by parameters: up and to the left is better."""
    metric = next(iter(results["rows"][0]["metrics"]))
    figure, axes = _axes()
    for row in results["rows"]:
        x, y = row["latency_ms"]["p50"], 100 * row["metrics"][metric]["value"]
        axes.scatter(x, y, s=(row["parameters"] or 4e7) / 4e5, color=colour_of(row["role"]), alpha=0.85)
        below = row["role"] == "baseline"  # which often lies where the student does
        axes.annotate(
            f"{row['role']}\n{row['parameters'] / 1e6:.0f} M" if row["parameters"] else row["role"],
            (x, y),
            xytext=(8, -5 if below else 5),
            textcoords="offset points",
            va="top" if below else "bottom",
            fontsize=9,
        )
    axes.set(
        xlabel="latency of one request, p50 (ms)",
        ylabel=f"{metric} (%)",
        title="Score against latency",
        xlim=(0, None),
        ylim=(-16, 105),  # room below 0 for a label
    )
    axes.set_yticks(range(0, 101, 20))
    axes.margins(x=0.25)
    return figure


def length_histogram(lengths: dict[str, list[int]], title: str = "Tokens per prompt") -> Any:
    """Histograms of token counts, one for each name."""
    figure, axes = _axes()
    for (name, values), colour in zip(lengths.items(), ("#3b4a6b", "#2a9d74", "#d98e32"), strict=False):
        axes.hist(values, bins=30, alpha=0.65, label=name, color=colour)
    axes.set(xlabel="tokens", ylabel="rows", title=title)
    axes.legend(frameon=False)
    return figure


def kept_shares(measured: dict[str, tuple[float, float]], guessed: dict[str, float | None]) -> Any:
    """What is left of the teacher in the student, one bar for each quantity: measured (teacher, student), guess beside it.

    Guesses are shares of the teacher's value; None is no guess.
    """
    figure, axes = _axes(7.0, 0.6 * len(measured) + 1.4)
    axes.grid(axis="y", visible=False)
    for i, (name, (teacher, student)) in enumerate(measured.items()):
        share = 100 * student / teacher
        axes.barh(i, 100, color=COLOURS["untuned"], alpha=0.35, height=0.6)
        axes.barh(i, share, color=COLOURS["student"], height=0.6)
        axes.text(share + 1.5, i, f"{share:.0f} %", va="center", fontsize=9)
        guess = guessed.get(name)
        if guess is not None:
            axes.plot(100 * guess, i, marker="D", color=COLOURS["baseline"], label="your guess")
    handles, names = axes.get_legend_handles_labels()
    if names:
        axes.legend(handles[:1], names[:1], frameon=False, loc="lower right")
    axes.set_yticks(range(len(measured)), list(measured))
    axes.invert_yaxis()
    axes.set(xlabel="student, % of the teacher", title="What is left")
    return figure


def cost_lines(lines: dict[str, tuple[float, float]], most: float, title: str = "What it costs") -> Any:
    """Total dollars against requests, for each name (dollars once, dollars a request), up to `most` requests."""
    figure, axes = _axes()
    palette = ["#3b4a6b", "#2a9d74", "#d98e32", "#8f6fb3"]
    for (name, (once, each)), colour in zip(lines.items(), palette, strict=False):
        axes.plot([0, most], [once, once + each * most], color=colour, label=name)
    axes.set(xlabel="requests answered", ylabel="US dollars", title=title, xlim=(0, most), ylim=(0, None))
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    axes.legend(frameon=False)
    return figure


def draw_ablation(task: str, summary: dict[str, Any], axes: Any) -> None:
    """Each method's score over seeds and rows with its 95 % interval, its seeds as small marks, a line at the method the
    others are compared with. `summary`: one task's of evaluate.ablation.summarise. Filled: a difference was seen."""
    methods = summary["methods"]
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(axis="x", color="#e6e6ea", linewidth=0.8)
    for i, entry in enumerate(methods.values()):
        value, (low, high), gap = entry["score"]["value"], entry["score"]["ci95"], entry["difference"]
        seen = "p_corrected" in (gap or {}) and gap["p_corrected"] < 0.05
        colour = COLOURS["student" if seen and gap["value"] > 0 else "baseline" if seen else "teacher"]
        axes.errorbar(100 * value, i, xerr=[[100 * (value - low)], [100 * (high - value)]], color=colour, fmt="o", capsize=3,
                      markerfacecolor=colour if seen or not gap else "white")  # fmt: skip
        axes.plot(
            [100 * score for score in entry["by_seed"]], [i + 0.25] * len(entry["by_seed"]), "|", color=colour, ms=7
        )
    if summary["against"] in methods:
        axes.axvline(
            100 * methods[summary["against"]]["score"]["value"], color="#333333", linewidth=0.8, linestyle="--"
        )
    axes.set_yticks(range(len(methods)), list(methods))
    axes.invert_yaxis()
    axes.set(xlabel=f"{summary['metric']} (%), with 95 % interval", title=f"{task}, {summary['rows']} test rows")


def ablation_dots(summaries: dict[str, dict[str, Any]]) -> Any:
    """`draw_ablation` for every task, side by side."""
    import matplotlib.pyplot as plt

    size = (4.6 * len(summaries) + 0.6, 0.36 * max(len(s["methods"]) for s in summaries.values()) + 1.3)
    figure, axes = plt.subplots(1, len(summaries), figsize=size, layout="constrained", squeeze=False)
    for (task, summary), axis in zip(summaries.items(), axes[0], strict=True):
        draw_ablation(task, summary, axis)
    return figure


def claims_figure(claimed: dict[str, float], measured: dict[str, dict[str, float]], title: str) -> Any:
    """Claimed shares (from 0 to 1) as diamonds beside measured ones as bars, each set of measurements in its colour.

    measured: whose -> {quantity: share}; a quantity that somebody did not measure has no bar, one that grew goes left.
    """
    figure, axes = _axes(8.0, 0.7 * len(claimed) + 1.6)
    axes.grid(axis="y", visible=False)
    axes.axvline(0, color="#333333", linewidth=0.8)
    palette, height = ("#2a9d74", "#3b4a6b", "#d98e32", "#8f6fb3"), 0.7 / max(len(measured), 1)
    for k, (name, shares) in enumerate(measured.items()):
        for i, what in enumerate(claimed):
            if what in shares:
                y = i + (k - (len(measured) - 1) / 2) * height
                axes.barh(y, 100 * shares[what], 0.9 * height, color=palette[k % len(palette)])
                inside = shares[what] > 0.12  # at the bar's foot, out of the way of the diamonds
                axes.text(1.5 if inside else max(100 * shares[what], 0) + 1.5, y, f"{100 * shares[what]:.0f} %", va="center",
                          fontsize=8, color="white" if inside else "#333333")  # fmt: skip
        axes.barh(0, 0, color=palette[k % len(palette)], label=name)
    axes.plot([100 * share for share in claimed.values()], range(len(claimed)), "D", color="#b5546f", label="claimed")
    axes.set_yticks(range(len(claimed)), list(claimed))
    axes.set(xlabel="%", title=title, ylim=(len(claimed) - 0.4, -0.6))
    axes.set_xlim(right=max(118.0, axes.get_xlim()[1] + 8))
    figure.legend(frameon=False, loc="outside lower center", ncols=2 if len(measured) > 2 else len(measured) + 1)
    return figure


def size_curves(
    curves: dict[str, dict[str, dict[int, dict[str, Any]]]], teachers: dict[str, float], metrics: dict[str, str]
) -> Any:
    """Score against millions of parameters, a panel a task and a line a way of choosing layers, the teacher dashed.

    curves: task -> way -> layers -> an entry of evaluate.size_table.curve; teachers: task -> score from 0 to 1.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, len(curves), figsize=(3.1 * len(curves) + 0.8, 3.4), layout="constrained", squeeze=False
    )
    palette, handles = ("#2a9d74", "#d98e32", "#8f6fb3", "#3b4a6b"), {}
    for (task, ways), axis in zip(curves.items(), axes[0], strict=True):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="#e6e6ea", linewidth=0.8)
        for (name, by_size), colour in zip(ways.items(), palette, strict=False):
            entries = list(by_size.values())
            sizes, scores = [e["parameters"] / 1e6 for e in entries], [100 * e["score"]["value"] for e in entries]
            low = [v - 100 * e["score"]["ci95"][0] for v, e in zip(scores, entries, strict=True)]
            high = [100 * e["score"]["ci95"][1] - v for v, e in zip(scores, entries, strict=True)]
            handles[name] = axis.errorbar(sizes, scores, yerr=[low, high], color=colour, marker="o", capsize=2, lw=1.4)
        axis.axhline(100 * teachers[task], color="#333333", linewidth=0.8, linestyle="--")
        axis.set(title=task, xlabel="parameters (M)", ylabel=f"{metrics[task]} (%)", ylim=(0, 100))
    figure.legend(list(handles.values()), list(handles), frameon=False, loc="outside lower center", ncols=len(handles))
    return figure
