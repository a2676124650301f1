"""The model card of a trained drafter, README.md beside it: what it is, data and licences, the run, acceptance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..drafters.inspect import inspect_checkpoint
from .errors import disk_errors
from .plot import read_log

CARD = "README.md"


def write_card(out: Path, job: dict[str, Any], log: Path) -> None:
    """Write the card of the drafter in `out` from the job's facts (`run.Job`) and the run's log."""
    steps, evals = read_log(log)
    parts = [_head(out, job), _data(job), _run(job, steps), _acceptance(evals[-1]["eval"] if evals else {})]
    with disk_errors(out / CARD, "Make room and run it again"):
        (out / CARD).write_text("\n\n".join(parts) + "\n")


def _head(out: Path, job: dict[str, Any]) -> str:
    made = inspect_checkpoint(out)
    vocab = f", {made['draft_vocab_size']} tokens it can draft" if "draft_vocab_size" in made else ""
    covered = f" ({job['coverage']:.1%} of held-out answers)" if "coverage" in job else ""
    return (
        f"# A {made['kind']} drafter for {job['target']}\n\n"
        f"K = {made['k']}, {made['layers']} layer(s) of width {made['hidden_size']}, hidden states {made['taps']} of "
        f"the target{vocab}{covered}; {made['parameters'] / 1e6:.1f} M parameters, {made['bytes'] / 1e6:.1f} MB.\n\n"
        f"    pspec-rt generate --target TARGET --drafter THIS_FOLDER --prompt ..."
    )


def _data(job: dict[str, Any]) -> str:
    texts = sum(row["texts"] for row in job["sources"])
    lines = [
        "## Data\n",
        f"{texts} texts, {job['tokens']} tokens: answers of the target itself to these prompts.\n",
        "| prompts from | licence | texts |",
        "|---|---|--:|",
    ]
    rows = [(row["source"] or "not stated", row["licence"] or "not stated", row["texts"]) for row in job["sources"]]
    return "\n".join(lines + [f"| {source} | {licence} | {count} |" for source, licence, count in rows])


def _run(job: dict[str, Any], steps: list[dict[str, Any]]) -> str:
    last = steps[-1] if steps else {"step": 0, "anchors": 0, "seconds": 0}
    return (
        f"## Training\n\n    {job['command']}\n\n"
        f"{last['step']} steps, {last['anchors']} anchor tokens in {last['seconds']:.0f} seconds "
        f"({job['device']}, threads: {job['threads']}, processes: {job['processes']}, torch {job['torch']}); "
        "evaluations and the target's reading of the texts not counted."
    )


def _acceptance(found: dict[str, Any]) -> str:
    taus = [f"| {name} | {tau:.3f} |" for name, tau in found.get("tau", {}).items()]
    depths = [
        f"| {depth} | {best:.3f} | {covered:.3f} |"
        for depth, (best, covered) in enumerate(
            zip(found.get("accuracy", []), found.get("covered", []), strict=True), start=1
        )
    ]
    return "\n".join(
        [
            "## Acceptance on held-out texts\n",
            "Tokens per round, the target's own included, greedy; simulated by teacher forcing.\n",
            "| tree | tokens per round |", "|---|--:|", *taus, "",
            "| depth | best candidate is right | right one is among the candidates |", "|--:|--:|--:|", *depths,
        ]
    )  # fmt: skip
