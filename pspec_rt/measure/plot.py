"""A bar chart of speed-ups per task; needs matplotlib (extra `bench`)."""

from __future__ import annotations

import importlib.util
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


def _decorate(axes: Any, names: list[str], meta: dict[str, Any]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=0.8)
    axes.margins(x=0.12, y=0.02)
    axes.set_xlabel("ratio of tokens per second")
    axes.spines[["top", "right"]].set_visible(False)
    conditions = (meta["drafter"] or "no drafter", meta["dtype"], f"{meta['threads']} threads", meta["cpu"])
    axes.set_title(", ".join(conditions), fontsize=9)
