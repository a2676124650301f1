"""gumbel_noise in Triton: nothing beside the output is written, and no multiply-add is fused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.ops.cases import i32, ref_of, same_bits

from .test_compile import compiled


@pytest.mark.usefixtures("triton_device")
@pytest.mark.parametrize("V", [1022, 2050])
def test_writes_its_rows_alone(V: int) -> None:
    from pspec_rt.triton_kernels.gumbel_noise import gumbel_noise

    B, P, zone = 2, 3, 5000
    seed_B, first_B = torch.tensor([5, -(2**62)]), i32([0, 2**31 - 3])
    buffer = torch.full((B * P * V + 2 * zone,), float("nan"))
    gumbel_noise(seed_B, first_B, buffer[zone:-zone].view(B, P, V))
    expected_BPV = torch.empty(B, P, V)
    ref_of("gumbel_noise")(seed_B, first_B, expected_BPV)
    assert same_bits(buffer[zone:-zone].view(B, P, V), expected_BPV)
    assert buffer[:zone].isnan().all() and buffer[-zone:].isnan().all()


def test_nothing_is_fused(tmp_path: Path) -> None:
    """A fused multiply-add has other bits than the definition's two roundings; the interpreter cannot show it."""
    for result in compiled(tmp_path, 90, "--op", "gumbel_noise"):
        assert not result.error and result.fma == 0
