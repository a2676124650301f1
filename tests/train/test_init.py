"""Starting weights: the fit explains the target, scales fold away, layers are taken from the target."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pspec_rt.drafters.checkpoint import load_drafter
from pspec_rt.errors import ConfigError
from pspec_rt.train.data import Text
from pspec_rt.train.families import FeatureTrainee
from pspec_rt.train.features import Reader
from pspec_rt.train.init import damp, fit, take_layers
from pspec_rt.train.recipe import Recipe, default_taps
from tests.train.setups import FEATURE, batch_of, drafter, target, texts


def trainee(family: str = "parallelspec-eagle", **options: object) -> FeatureTrainee:
    module = drafter(family, **options)
    assert isinstance(module, FeatureTrainee)
    return module


@pytest.mark.parametrize("family", FEATURE)
def test_fit_finds_the_best_linear_guess_of_the_final_state(family: str) -> None:
    module, rows = trainee(family, k=3), texts(40)
    reader = Reader(target(), module.taps, 64)
    explained = fit(module, target(), [(reader.read(text.ids), text.prompt) for text in rows])
    batch = batch_of(module, rows)
    inputs_RM = module.inputs(batch).detach()
    last = batch.features_TF[:, -64:] / target().decoder.norm_M
    fields, reals = batch.layout.rows, batch.layout.reals
    ends = torch.tensor([len(text.ids) - 1 for text in rows])
    for depth, least in ((0, 0.2), (1, 0.02), (2, 0.02)):
        chosen = (fields.depth == depth) & (fields.anchor + 1 + depth < ends[fields.text])
        at = torch.cat([torch.arange(reals), batch.layout.anchor_J])[chosen]
        goal = last[at + 1 + depth]
        variance = (goal - goal.mean(0)).square().sum()
        share = 1 - (goal - inputs_RM[chosen]).square().sum() / variance
        assert share > least, f"depth {depth}: {share}"
        if depth == 0:
            assert float(share) == pytest.approx(explained, abs=0.05)


def test_rescaling_changes_nothing_but_the_weights() -> None:
    module, rows = trainee(), texts(3)
    batch = batch_of(module, rows)
    before = module.hidden(batch)
    module.rescale(0.2 + torch.rand(len(module.scale_W)))
    torch.testing.assert_close(module.hidden(batch), before, rtol=1e-3, atol=1e-4)


def test_a_saved_drafter_reads_unscaled_inputs(tmp_path: Path) -> None:
    module = trainee()
    before = module.mask_inputs().detach()
    module.rescale(0.2 + torch.rand(len(module.scale_W)))
    module.save(tmp_path)
    loaded = load_drafter(tmp_path, target())
    torch.testing.assert_close(loaded.mask_inputs_JM, before, rtol=1e-3, atol=1e-4)  # type: ignore[attr-defined]


def test_layers_of_the_target() -> None:
    module = trainee(layers=2)
    take_layers(module, target(), [0, -1])
    own, theirs = module.layers[1].self_attn.v_proj.weight, target().decoder.stack.layers[2].qkv_XM
    torch.testing.assert_close(own, theirs[-own.shape[0] :])
    before = module.layers[0].mlp.down_proj.weight.clone()
    damp(module, 0.5)
    torch.testing.assert_close(module.layers[0].mlp.down_proj.weight, before / 2)
    for bad in ([0], [0, 3]):
        with pytest.raises(ConfigError, match="init layers"):
            take_layers(module, target(), bad)


def test_residual_blocks_start_small_and_mlps_as_narrow_as_asked() -> None:
    module = trainee("parallelspec-medusa", k=3, parts=("bias", "blocks"), mlp=40)
    before = [parameter.clone() for parameter in module.res_blocks.parameters()]
    damp(module, 0.1)
    for parameter, was in zip(module.res_blocks.parameters(), before, strict=True):
        torch.testing.assert_close(parameter, 0.1 * was)
    assert module.layers[0].mlp.down_proj.weight.shape[1] == module.drafter.config.layers.intermediate_size == 40
    for family, mlp in (("eagle", 40), ("lm", 40), ("parallelspec-medusa", 0)):
        with pytest.raises(ConfigError, match=f"mlp={mlp}"):
            Recipe(family, mlp=mlp)


def test_default_taps() -> None:
    assert default_taps(30) == (2, 15, 27, -1)
    assert default_taps(3) == (0, 1, 2, -1)


def test_a_fit_needs_the_last_state() -> None:
    module = trainee(taps=(0, 1))
    with pytest.raises(ConfigError, match="last state"):
        fit(module, target(), [(Reader(target(), (0, 1), 64).read(Text("", "", (5, 6, 7, 8), 1).ids), 1)])
