"""A picture of a training run: loss and acceptance length over the anchors seen; needs matplotlib (extra `train`)."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any


def plot_available() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def read_log(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(rows of steps, rows of evaluations) of a log; where a resumed run repeats steps, the later rows."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    steps = {row["step"]: row for row in rows if "loss" in row}
    evals = {row["step"]: row for row in rows if "eval" in row}
    return [steps[n] for n in sorted(steps)], [evals[n] for n in sorted(evals)]


def plot_log(log: Path, picture: Path) -> None:
    """Draw the losses of every depth (smoothed) and the acceptance length of every tree."""
    from matplotlib.figure import Figure

    steps, evals = read_log(log)
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    anchors = {row["step"]: row["anchors"] for row in steps}
    for depth in range(len(steps[0]["loss"]) if steps else 0):
        left.plot(list(anchors.values()), _smooth([row["loss"][depth] for row in steps]), label=f"depth {depth + 1}")
    for name in evals[0]["eval"]["tau"] if evals else ():
        places = [anchors.get(row["step"], 0) for row in evals]
        right.plot(places, [row["eval"]["tau"][name] for row in evals], marker="o", markersize=3, label=name)
    for axes, title in ((left, "loss"), (right, "tokens per round, held-out texts")):
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("anchor tokens seen")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.lines:
            axes.legend(fontsize=8, frameon=False)
    figure.savefig(picture, dpi=120)


def _smooth(values: list[float], keep: float = 0.95) -> list[float]:
    """A running mean that starts at the first value."""
    smooth, mean = [], values[0] if values else 0.0
    for value in values:
        mean = keep * mean + (1 - keep) * value
        smooth.append(mean)
    return smooth
