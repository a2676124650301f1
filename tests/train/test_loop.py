"""The training loop: it learns, resumes bit for bit, keeps the last good drafter, and reports."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pspec_rt.cli import main
from pspec_rt.drafters.checkpoint import load_drafter
from pspec_rt.drafters.inspect import inspect_checkpoint
from pspec_rt.errors import ConfigError
from pspec_rt.generator import Generator
from pspec_rt.models.target import load_target
from pspec_rt.train.data import Text
from pspec_rt.train.errors import TrainError
from pspec_rt.train.evaluate import evaluate
from pspec_rt.train.features import LiveFeatures, Reader
from pspec_rt.train.loop import LOG, STATE, Material, TrainConfig, Training
from pspec_rt.train.optimizer import Optimizer
from pspec_rt.train.plot import plot_available, plot_log, read_log
from pspec_rt.tree import TreeSpec
from tests.tiny import tiny_checkpoint
from tests.train.setups import BASELINES, FEATURE, LANGUAGE, drafter, target, texts, write_data

CONFIG = TrainConfig(steps=6, batch=160, micro=80, lr=5e-3, keep=0.6, least=0.1, eval_every=100, warm_up=3)


def material(taps: tuple[int, ...]) -> Material:
    many = texts(14)
    return Material(many, LiveFeatures(Reader(target(), taps, 64), many), range(12), range(12, 14))


def training(out: Path, config: TrainConfig = CONFIG, family: str = "parallelspec-eagle") -> Training:
    out.mkdir(exist_ok=True)
    module = drafter(family, k=3)
    return Training(module, material(module.taps), config, out)


def weights(run: Training) -> dict[str, torch.Tensor]:
    return run.trainee.state_dict()


@pytest.mark.parametrize("family", FEATURE + LANGUAGE + BASELINES)
def test_every_family_learns_a_few_texts(family: str, tmp_path: Path) -> None:
    run = training(tmp_path, replace(CONFIG, steps=40, keep=1.0, hard=0.5), family)
    run.run()
    steps, _ = read_log(tmp_path / LOG)
    for depth in range(len(steps[0]["loss"])):
        first, last = (sum(row["loss"][depth] for row in part) for part in (steps[:3], steps[-3:]))
        assert last < 0.95 * first, f"depth {depth}"
    assert load_drafter(tmp_path, target()).kind == family


def test_a_resumed_run_is_the_same_run(tmp_path: Path) -> None:
    whole = training(tmp_path / "whole")
    whole.run()
    first = training(tmp_path / "parts")
    for _ in range(3):
        first.step()
    first.save()
    second = training(tmp_path / "parts")
    assert second.resume() and second.progress == first.progress
    second.run()
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(second)[name]), name
    assert whole.progress.anchors == second.progress.anchors


def test_accumulated_passes_are_one_batch(tmp_path: Path) -> None:
    runs = [training(tmp_path / str(m), replace(CONFIG, steps=1, micro=m, batch=m * n)) for m, n in ((1, 2), (2, 1))]
    assert [run.progress.place for run in runs] == [0, 0]
    for run in runs:
        run.step()
    assert runs[0].progress.place == 2 and runs[1].progress.place == 1


def test_the_rate_warms_up_and_falls(tmp_path: Path) -> None:
    run = training(tmp_path, replace(CONFIG, steps=100, warm_up=10, floor=0.05))
    rates = [run.rate(step, step / 100) for step in range(101)]
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[0] < 0.11 and rates[10] > 0.95 and rates[100] == pytest.approx(0.05)
    run.step()
    by_rate = {group["rate"]: group["lr"] for part in run.optimizer.parts for group in part.param_groups}
    assert {rate: lr / by_rate[1.0] for rate, lr in by_rate.items()} == pytest.approx({r: r for r in by_rate})
    assert {CONFIG.input_lr, CONFIG.muon, 1.0} == set(by_rate)


@pytest.mark.parametrize("muon", [0.0, 2.0])
@pytest.mark.parametrize("family", FEATURE + LANGUAGE + BASELINES)
def test_every_parameter_has_one_optimiser(family: str, muon: float) -> None:
    module = drafter(family, k=3)
    optimizer = Optimizer(module, lr=1e-3, input_lr=0.05, muon=muon, weight_decay=0.0)
    owner: dict[torch.nn.Parameter, str] = {}
    for part in optimizer.parts:
        for group in part.param_groups:
            assert not any(parameter in owner for parameter in group["params"])
            owner |= dict.fromkeys(group["params"], type(part).__name__)
    names = {name: owner[parameter] for name, parameter in module.named_parameters()}
    by_muon = {name for name, kind in names.items() if kind == "Muon"}
    inner = {name for name in names if name.endswith(("_proj.weight", "linear.weight")) or name.startswith("blocks.")}
    assert by_muon == ({name for name in inner if not name.endswith("bias")} if muon else set())


def test_a_resumed_run_takes_the_rates_it_is_given(tmp_path: Path) -> None:
    training(tmp_path).save()
    other = training(tmp_path, replace(CONFIG, muon=0.5, input_lr=0.3))
    assert other.resume()
    assert {group["rate"] for part in other.optimizer.parts for group in part.param_groups} == {0.3, 0.5, 1.0}


def test_a_nan_loss_stops_and_keeps_the_last_drafter(tmp_path: Path) -> None:
    run = training(tmp_path)
    run.step()
    run.save()
    saved = {name: (tmp_path / name).read_bytes() for name in ("model.safetensors", STATE)}
    run.trainee.norm.weight.data[0] = torch.nan  # type: ignore[union-attr]
    with pytest.raises(TrainError, match="not a number after step 1.*keeps the drafter of step 1"):
        run.step()
    assert saved == {name: (tmp_path / name).read_bytes() for name in saved}


def test_a_full_disk_keeps_what_was_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = training(tmp_path)
    run.save()
    saved = (tmp_path / STATE).read_bytes()

    def full(*args: Any, **more: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    run.step()
    with pytest.raises(TrainError, match="the disk is full. It keeps the drafter of step 0"):
        run.save()
    assert (tmp_path / STATE).read_bytes() == saved


def test_a_state_of_another_drafter_is_refused(tmp_path: Path) -> None:
    training(tmp_path).save()
    with pytest.raises(TrainError, match="cannot be resumed.*choose another --out"):
        training(tmp_path, family="parallelspec-medusa").resume()


@pytest.mark.parametrize("bad", [{"steps": None}, {"steps": 0}, {"keep": 1.5}, {"lr": -1.0}, {"muon": -1.0}])
def test_bad_settings_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        replace(CONFIG, **bad)


@pytest.mark.parametrize("tree", [TreeSpec.chain(3), TreeSpec.best_first(3, 8), TreeSpec.best_first(3, 20)])
def test_simulated_acceptance_is_that_of_the_engine(tree: TreeSpec, tmp_path: Path) -> None:
    """On the target's own greedy text the simulated rounds are those the engine runs."""
    module = drafter("parallelspec-eagle", k=3, draft_vocab=10)
    module.save(tmp_path)
    generator = Generator(target(), load_drafter(tmp_path, target()), tree=tree, k=3)
    prompts = [list(text.ids[: text.prompt]) for text in texts(6)]
    outputs = generator.generate(prompts, max_new_tokens=40, temperature=0, ignore_eos=True)
    made = [Text("", "", (*p, *o.token_ids), len(p)) for p, o in zip(prompts, outputs, strict=True)]
    found = evaluate(module, LiveFeatures(Reader(target(), module.taps, 64), made), list(enumerate(made)), [tree])
    rounds = sum(output.stats.rounds for output in outputs)
    assert found.tau[tree.name] == pytest.approx(6 * 40 / rounds)


def test_log_and_picture(tmp_path: Path) -> None:
    run = training(tmp_path, replace(CONFIG, eval_every=2))
    rows: list[dict[str, Any]] = []
    run.report = rows.append
    acceptance = run.run()
    steps, evals = read_log(tmp_path / LOG)
    assert [row["step"] for row in steps] == [1, 2, 3, 4, 5, 6] and [row["step"] for row in evals] == [0, 2, 4, 6]
    assert rows == [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    assert evals[-1]["eval"]["tau"] == acceptance.tau and len(acceptance.accuracy) == 3
    if plot_available():
        plot_log(tmp_path / LOG, tmp_path / "picture.png")
        assert (tmp_path / "picture.png").stat().st_size > 1000


# -- the command -------------------------------------------------------------------------------------


def command(tmp_path: Path, *more: str) -> list[str]:
    data = write_data(tmp_path / "data.jsonl", texts(12))
    return [
        "train", "--target", str(tiny_checkpoint()), "--data", str(data), "--out", str(tmp_path / "out"),
        "--device", "cpu",
        "--draft-vocab", "64", "--batch", "128", "--micro", "64", *more,
    ]  # fmt: skip


@pytest.mark.parametrize("family", FEATURE + LANGUAGE + BASELINES)
def test_the_command_makes_a_drafter_that_changes_no_text(family: str, tmp_path: Path, capsys: Any) -> None:
    layers = ("--layers", "2") if family in LANGUAGE else ()
    assert main(command(tmp_path, "--family", family, "--steps", "3", *layers)) == 0
    assert "tokens per round" in capsys.readouterr().out
    fast = Generator(load_target(tiny_checkpoint()), str(tmp_path / "out"))
    plain = Generator(load_target(tiny_checkpoint()), None)
    assert fast.generate("hello", max_new_tokens=20).token_ids == plain.generate("hello", max_new_tokens=20).token_ids
    job = json.loads((tmp_path / "out" / "job.json").read_text())
    assert job["recipe"]["family"] == family and job["training"]["steps"] == 3
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"A {inspect_checkpoint(tmp_path / 'out')['kind']} drafter" in card and "| somewhere | CC0 | 12 |" in card
    assert "3 steps" in card and "| chain" in card


def test_the_command_goes_on(tmp_path: Path) -> None:
    assert main(command(tmp_path, "--steps", "2")) == 0
    saved = (tmp_path / "out" / "model.safetensors").read_bytes()
    assert main(command(tmp_path, "--steps", "2")) == 0
    assert saved == (tmp_path / "out" / "model.safetensors").read_bytes(), (
        "nothing is left to do, nothing is fitted anew"
    )
    assert main(command(tmp_path, "--steps", "4", "--cache", "off")) == 0
    steps, _ = read_log(tmp_path / "out" / LOG)
    assert [row["step"] for row in steps] == [1, 2, 3, 4]
    job = json.loads((tmp_path / "out" / "job.json").read_text())
    assert job["training"]["steps"] == 4 and "fit_explains" in job
    assert "4 steps" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    "options, message",
    [
        (("--family", "nothing", "--steps", "1"), "family 'nothing'"),
        ((), "give the end of training"),
        (("--steps", "1", "--taps", "x"), "--taps 'x'"),
        (("--steps", "1", "--taps", "1"), "a fitted start needs the last state"),
        (("--steps", "1", "--taps", "9,-1"), "hidden state"),
        (("--steps", "1", "--init-layers", "7"), "init layers"),
        (("--steps", "1", "--draft-vocab", "9999"), None),
        (("--steps", "1", "--dtype", "int8"), "bf16 or fp32"),
        (("--steps", "1", "--max-length", "4"), "longer than 4 tokens"),
    ],
)
def test_the_command_explains_what_is_wrong(
    options: tuple[str, ...], message: str | None, tmp_path: Path, capsys: Any
) -> None:
    assert main(command(tmp_path, *options)) == (2 if message else 0)
    if message:
        assert message in capsys.readouterr().err


@pytest.mark.full
def test_two_processes_train_one_drafter(tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29617"]
    more = ("--steps", "3", "--eval-every", "2")
    subprocess.run([*launch, "-m", "pspec_rt.cli", *command(tmp_path, *more)], check=True, timeout=240)
    steps, evals = read_log(tmp_path / "out" / LOG)
    assert [row["step"] for row in steps] == [1, 2, 3] and [row["step"] for row in evals] == [0, 2, 3]
    assert json.loads((tmp_path / "out" / "job.json").read_text())["processes"] == 2
    assert load_drafter(tmp_path / "out", target()).kind == "parallelspec-eagle"
