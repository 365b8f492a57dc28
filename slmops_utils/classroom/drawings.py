"""Figures of single notebooks: splits, batches, thresholds, parts of a model, kinds of error. Each returns a figure.

Those of a results JSON, or of a loss curve, are in plots.py.
"""

from collections.abc import Sequence
from typing import Any

from ..evaluate.figures import COLOURS, error_bar
from .plots import _axes

PALETTE = ("#3b4a6b", "#2a9d74", "#d98e32", "#8f6fb3")
Interval = tuple[float, float, float]  # value, low, high


def _panels(count: int, width: float, height: float, **options: Any) -> tuple[Any, Any]:
    """A row of panels, always as an array."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, count, figsize=(width, height), layout="constrained", squeeze=False, **options)
    for panel in panels[0]:
        panel.spines[["top", "right"]].set_visible(False)
    return figure, panels[0]


def _error(score: Interval) -> list[list[float]]:
    """The error bar of a score, in points."""
    return error_bar(*(100 * number for number in score))


def grouped_bars(
    bars: dict[str, Sequence[float]],
    ticks: Sequence[str],
    ylabel: str,
    title: str,
    colours: Sequence[str] = ("#b8bcc6", *PALETTE),
    numbers: str = "",
) -> Any:
    """Bars side by side: one group a tick, one colour a name. `numbers` is the format of those written above them."""
    figure, axes = _axes(7.0, 3.2)
    axes.grid(visible=False)
    step = 0.84 / len(bars)
    for k, (name, values) in enumerate(bars.items()):
        places = [i + step * (k - (len(bars) - 1) / 2) for i in range(len(ticks))]
        drawn = axes.bar(places, values, 0.92 * step, label=name, color=colours[k % len(colours)])
        if numbers:
            axes.bar_label(drawn, fmt=numbers, fontsize=8)
    axes.set_xticks(range(len(ticks)), ticks)
    if all(float(value).is_integer() for values in bars.values() for value in values):
        axes.yaxis.get_major_locator().set_params(integer=True)
    axes.set(ylabel=ylabel, title=title)
    axes.legend(frameon=False)
    return figure


def two_splits(scores: dict[str, list[float]], likeness: dict[str, Any], commonest: float) -> Any:
    """Two ways to split the same rows: what one method scores on each, and how near its neighbours are.

    scores: way -> a score a split; likeness: way -> a similarity a test row; commonest: the commonest label's share.
    """
    figure, (left, right) = _panels(2, 9, 3.4, width_ratios=(1, 1.7))
    for k, (way, colour) in enumerate(zip(scores, (COLOURS["baseline"], COLOURS["student"]), strict=True)):
        found = [100 * score for score in scores[way]]
        left.bar(k, sum(found) / len(found), color=colour, width=0.6)
        left.plot([k] * len(found), found, "o", color="#333333", markersize=3.5)
        right.hist(likeness[way], bins=[i / 40 for i in range(41)], color=colour, alpha=0.7, label=way)
    left.axhline(100 * commonest, color=COLOURS["reference"], linestyle="--")
    left.text(1, 15, "dashed: always\nthe commonest desk", ha="center", fontsize=9)
    left.set_xticks(range(len(scores)), list(scores))
    number = len(next(iter(scores.values())))
    left.set(ylabel="right desk (%)", ylim=(0, 105), title=f"One method, {number} splits each way")
    right.set(
        xlabel="similarity to the nearest training ticket", ylabel="test tickets", title="How near is the neighbour?"
    )
    right.legend(frameon=False)
    return figure


def candidates(
    scores: dict[str, dict[str, Interval]], best: dict[str, float], names: dict[str, str], title: str
) -> Any:
    """Scores of candidate teachers with their intervals, a group of bars a task, a dashed line at what needs no model.

    scores: way -> task -> score; best: task -> the best reference row's score; names: task -> what stands below it.
    """
    figure, axes = _axes(9.0, 3.8)
    axes.grid(visible=False)
    colours, step = (COLOURS["untuned"], COLOURS["baseline"], COLOURS["teacher"]), 0.78 / max(len(scores), 1)
    for k, (way, by_task) in enumerate(scores.items()):
        colour = colours[(k + len(colours) - len(scores)) % len(colours)]  # the last one is the teacher
        for i, task in enumerate(best):
            if task in by_task:
                x = i + step * (k - (len(scores) - 1) / 2)
                axes.bar(x, 100 * by_task[task][0], 0.92 * step, color=colour, yerr=_error(by_task[task]),
                         ecolor="#333333", capsize=3)  # fmt: skip
        axes.bar(0, 0, color=colour, label=way)
    for i, value in enumerate(best.values()):
        line = axes.hlines(100 * value, i - 0.42, i + 0.42, color=COLOURS["reference"], linestyle="--")
    line.set_label("best reference row")
    axes.set_xticks(range(len(best)), [names[task] for task in best])
    axes.set_yticks(range(0, 101, 20))
    axes.set(ylabel="score (%), with 95 % interval", ylim=(0, 118), title=title)
    axes.legend(frameon=False, ncols=4, loc="upper center", fontsize=9)
    return figure


def batch_plans(lengths: Sequence[int], plans: dict[str, list[list[int]]], titles: dict[str, str]) -> Any:
    """Each plan's batches as rectangles: a line a prompt, padding in orange on the left, a gap between batches."""
    figure, panels = _panels(len(plans), 8, 4, sharex=True, sharey=True)
    for axes, (name, plan) in zip(panels, plans.items(), strict=True):
        row = 0
        for batch in plan:
            width = max(lengths[i] for i in batch)
            for i in batch:
                axes.barh(row, width - lengths[i], height=1, color=COLOURS["baseline"])
                axes.barh(row, lengths[i], left=width - lengths[i], height=1, color=COLOURS["teacher"], alpha=0.75)
                row += 1
            row += 1
        axes.set(title=titles[name], xlabel="tokens (padding in orange)")
    panels[0].set_ylabel("prompts, batch by batch")
    panels[0].invert_yaxis()
    panels[0].set_yticks([])
    return figure


def threshold_curves(thresholds: Sequence[float], shares: dict[str, list[float]], at: float) -> Any:
    """The share of rows that each threshold would drop, a line a kind of row; dotted, the threshold that is used."""
    figure, axes = _axes(7.0, 3.4)
    colours = (COLOURS["teacher"], COLOURS["student"], COLOURS["untuned"], COLOURS["baseline"])
    for (name, values), colour in zip(shares.items(), colours, strict=False):
        axes.plot(thresholds, [100 * value for value in values], "o-", markersize=4, color=colour, label=name)
    axes.axvline(at, color="#999999", linestyle=":", label="the gate's threshold")
    axes.set(xlabel="similarity from which a row is dropped", ylabel="rows dropped (%)",
             title="Rows like a held-out one, and like each other")  # fmt: skip
    axes.legend(frameon=False)
    return figure


def difference_dots(lines: Sequence[dict[str, Any]], title: str) -> Any:
    """Differences in points with their intervals, grey where the interval holds 0. lines: of evaluate.study.read_study."""
    figure, axes = _axes(7.5, 0.32 * len(lines) + 1.2)
    axes.grid(visible=False)
    for i, line in enumerate(lines):
        low, high = (100 * end for end in line["ci95"])
        colour = COLOURS["student"] if low > 0 or high < 0 else "#999999"
        axes.plot([low, high], [i, i], color=colour, linewidth=2)
        axes.plot(100 * line["difference"], i, "o", color=colour)
    axes.axvline(0, color="#333333", linewidth=0.8)
    axes.set_yticks(range(len(lines)), [f"{line['task']}: {line['arm']}" for line in lines], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("difference in the student's score (points), as in the table")
    figure.suptitle(title, fontsize=11)
    return figure


def model_parts(models: dict[str, dict[str, float]], title: str) -> Any:
    """Millions of parameters in each part of each model, one stacked bar a model. models: name -> part -> millions."""
    figure, axes = _axes(7.5, 2.8)
    axes.grid(visible=False)
    colours = {"vocabulary": "#d98e32", "attention": "#3b4a6b", "feed-forward": "#2a9d74", "norms": "#8f6fb3"}
    for row, sizes in enumerate(models.values()):
        left = 0.0
        for part, colour in colours.items():
            axes.barh(row, sizes[part], left=left, color=colour, height=0.6, label=part if row == 0 else None)
            left += sizes[part]
        axes.text(left + 1, row, f"{left:.0f} M, {sizes['vocabulary'] / left:.0%} vocabulary", va="center", fontsize=9)
    axes.set_yticks(range(len(models)), list(models))
    axes.invert_yaxis()
    largest = max(sum(sizes.values()) for sizes in models.values())
    axes.set(xlabel="millions of parameters", xlim=(0, largest * 1.35), title=title)
    axes.legend(frameon=False, loc="lower right", fontsize=9)
    return figure


def token_bars(names: Sequence[str], shares: dict[str, Sequence[float]], title: str) -> Any:
    """The probability of each token, a bar a distribution: the first in grey, the one to look at in blue."""
    figure, axes = _axes(7.0, 3.6)
    axes.grid(visible=False)
    for offset, ((name, heights), colour) in enumerate(zip(shares.items(), ("#b8bcc6", PALETTE[0]), strict=False)):
        places = [i + 0.4 * offset - 0.2 for i in range(len(names))]
        axes.barh(places, heights, height=0.4, color=colour, label=name)
    axes.set_yticks(range(len(names)), [name.replace("$", r"\$") for name in names])
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="probability")
    axes.set_title(title.replace("$", r"\$"))
    axes.legend(frameon=False, loc="lower right")
    return figure


def top_k_curves(sizes: Sequence[int], outside: Sequence[float], ways: dict[str, list[float]], whole: float) -> Any:
    """What the k likeliest tokens miss, and what a divergence becomes when it is measured on them in several ways."""
    figure, (left, right) = _panels(2, 9, 3.4)
    left.plot(sizes, outside, "o-", color=PALETTE[0])
    left.set(xscale="log", yscale="log", xlabel="k", ylabel="mean probability outside",
             title="What the k likeliest miss")  # fmt: skip
    for (name, values), colour in zip(ways.items(), ("#d98e32", "#8f6fb3", "#2a9d74"), strict=True):
        right.plot(sizes, values, "o-", color=colour, label=name)
    right.axhline(whole, color="#333333", linewidth=0.8, linestyle="--", label="whole vocabulary")
    right.set(xscale="log", xlabel="k", ylabel="forward KL (nats)", title="The same student, measured three ways")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
    return figure


def score_groups(groups: dict[str, dict[str, dict[str, Interval]]], ylabel: str) -> Any:
    """Scores by group and role with their intervals, a panel a title. groups: title -> role -> group -> score."""
    figure, panels = _panels(len(groups), 1 + 4 * len(groups), 3.6, sharey=True)
    for panel, (title, roles) in zip(panels, groups.items(), strict=True):
        names = list(next(iter(roles.values())))
        for offset, (role, scores) in enumerate(roles.items()):
            for place, score in enumerate(scores.values()):
                panel.bar(place + 0.2 * offset, 100 * score[0], 0.18, yerr=_error(score), color=COLOURS[role],
                          capsize=2, label=role if place == 0 else None)  # fmt: skip
        panel.set_xticks([i + 0.1 * (len(roles) - 1) for i in range(len(names))], names)
        panel.set(ylim=(0, 105), title=title)
    panels[0].set(ylabel=ylabel)
    figure.legend(*panels[0].get_legend_handles_labels(), frameon=False, ncols=4, loc="outside lower center")
    return figure


def confusions(grids: dict[str, Any], rows: Sequence[str], columns: Sequence[str]) -> Any:
    """How often each role says `columns` where it should say `rows`: a grid of counts, (rows, columns), for each."""
    figure, panels = _panels(len(grids), 4 * len(grids), 3.4, sharey=True)
    for panel, (role, grid) in zip(panels, grids.items(), strict=True):
        most = grid.sum() / len(rows)
        panel.imshow(grid, cmap="Greens", vmin=0, vmax=most)
        for y in range(len(rows)):
            for x in range(len(columns)):
                colour = "white" if grid[y, x] > most / 2 else "#222222"
                panel.text(x, y, grid[y, x], ha="center", va="center", color=colour)
        panel.set_xticks(range(len(columns)), columns, rotation=20)
        panel.set_yticks(range(len(rows)), rows)
        panel.set(title=role, xlabel="says")
    panels[0].set(ylabel="should say")
    return figure


def retention_marks(kept: dict[str, Interval], claimed: float, title: str) -> Any:
    """Retentions with their intervals, one line each, beside one that somebody claims."""
    figure, axes = _axes(7.5, 0.5 * len(kept) + 1.8)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color="#e6e6ea")
    for place, score in enumerate(kept.values()):
        axes.errorbar(100 * score[0], place, xerr=_error(score), fmt="o", color=COLOURS["student"], capsize=4)
    axes.axvline(100 * claimed, color=COLOURS["baseline"], linestyle="--", label="the case study's claim")
    axes.set_yticks(range(len(kept)), list(kept))
    axes.invert_yaxis()
    axes.margins(y=0.2)
    axes.set(xlabel="retention (% of the teacher's score), bars: 95 % interval", title=title, xlim=(-2, None))
    axes.legend(frameon=False)
    return figure
