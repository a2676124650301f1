"""Plots of measurements: bars of speed-ups per task, curves over K or depth; needs matplotlib (extra `bench`)."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .run import Report

# Figure in the summary -> label of its bars.
RATIOS = {
    "speedup_over_plain": "speculative over plain",
    "plain_over_transformers": "plain over transformers",
    "speculative_over_transformers": "speculative over transformers",
    "speculative_over_transformers_assisted": "speculative over transformers, assisted",
    "speculative_over_llama_cpp_4bit": "speculative over llama.cpp, 4 bit",
}
COLOURS = ("#2a6f97", "#a9a9a9", "#e07a1f", "#7b4b94", "#4c956c")


@dataclass
class Curve:
    """Points in a matplotlib style ("-o", "--", "o"), coloured by an index into COLOURS."""

    label: str
    style: str
    colour: int
    points: list[tuple[float, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Panel:
    """One pair of axes; `over` names the x axis, which holds whole numbers; `scale` is that of the y axis."""

    title: str
    over: str
    curves: list[Curve]
    scale: str = "linear"


@dataclass(frozen=True)
class Bars:
    """One pair of axes with a group of bars per name: `series` holds a value per name under each label."""

    title: str
    names: list[str]
    series: dict[str, list[float]]


def plot_available() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def plot_speedups(report: Report, path: str | Path) -> bool:
    """Draw the ratios of every task and overall into an SVG or PNG file; False if there is no ratio to draw."""
    groups = report.tasks | {"overall": report.summary}
    ratios = [name for name in RATIOS if name in report.summary]
    if not ratios:
        return False
    from matplotlib.figure import Figure

    height = 0.8 / len(ratios)
    figure = Figure(figsize=(8, 1.2 + 0.3 * len(groups) * max(2, len(ratios))), layout="constrained")
    axes = figure.subplots()
    for i, name in enumerate(ratios):
        places = [place + (i - (len(ratios) - 1) / 2) * height for place in range(len(groups))]
        values = [figures[name] for figures in groups.values()]
        colour = COLOURS[list(RATIOS).index(name)]
        bars = axes.barh(places, values, height, label=RATIOS[name], color=colour)
        axes.bar_label(bars, fmt="%.2fx", padding=3, fontsize=8)
    _decorate(axes, list(groups), report.meta)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    figure.savefig(path)
    return True


def plot_curves(panels: Sequence[Panel], title: str, path: str | Path) -> bool:
    """Draw the panels side by side, two in a row, into an SVG or PNG file; False if there is no point to draw."""
    if not any(curve.points for panel in panels for curve in panel.curves):
        return False
    from matplotlib.figure import Figure

    rows, handles = -(-len(panels) // 2), {}
    figure = Figure(figsize=(10, 0.6 + 3.2 * rows), layout="constrained")
    for axes, panel in zip(figure.subplots(rows, 2, squeeze=False).flat, panels, strict=False):
        for curve in filter(lambda c: c.points, panel.curves):
            colour = COLOURS[curve.colour % len(COLOURS)]
            (line,) = axes.plot(*zip(*curve.points, strict=True), curve.style, color=colour, markersize=4)
            handles[curve.label] = line
        axes.set_title(panel.title, fontsize=10)
        axes.set_xlabel(panel.over)
        axes.set_yscale(panel.scale)
        axes.set_xticks(sorted({x for curve in panel.curves for x, _ in curve.points}))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    below: dict[str, Any] = {
        "loc": "outside lower center",
        "ncols": min(len(handles), 6),
        "fontsize": 8,
        "frameon": False,
    }
    figure.legend(list(handles.values()), list(handles), **below)
    figure.suptitle(title, fontsize=9)
    figure.savefig(path)
    return True


def plot_bars(panels: Sequence[Bars], title: str, path: str | Path) -> bool:
    """Draw panels of one list of names side by side into an SVG or PNG file; False if there is nothing to draw."""
    if not panels or not panels[0].names:
        return False
    from matplotlib.figure import Figure

    names, series, handles = panels[0].names, list(panels[0].series), {}
    height = 0.8 / len(series)
    figure = Figure(figsize=(10, 1.4 + 0.3 * len(names) * len(series)), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), sharey=True, squeeze=False).flat, panels, strict=True):
        for i, (label, values) in enumerate(panel.series.items()):
            places = [place + (i - (len(series) - 1) / 2) * height for place in range(len(names))]
            bars = axes.barh(places, values, height, label=label, color=COLOURS[i])
            axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
            handles[label] = bars
        _set_names(axes, names)
        axes.set_title(panel.title, fontsize=10)
    axes.invert_yaxis()  # the axes share it
    figure.legend(
        list(handles.values()), series, loc="outside lower center", ncols=len(series), fontsize=8, frameon=False
    )
    figure.suptitle(title, fontsize=9)
    figure.savefig(path)
    return True


def _set_names(axes: Any, names: list[str]) -> None:
    """Groups of bars by name, from left to right, with a line at 1."""
    axes.set_yticks(range(len(names)), names)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.margins(x=0.12, y=0.02)
    axes.spines[["top", "right"]].set_visible(False)


def _decorate(axes: Any, names: list[str], meta: dict[str, Any]) -> None:
    _set_names(axes, names)
    axes.invert_yaxis()
    axes.set_xlabel("ratio of tokens per second")
    conditions = (meta["drafter"] or "no drafter", meta["dtype"], f"{meta['threads']} threads", meta["cpu"])
    axes.set_title(", ".join(conditions), fontsize=9)
