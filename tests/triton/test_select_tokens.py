"""select_tokens in Triton with lists of many blocks and rows of many chunks, and memory it must leave alone."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

from tests.ops.cases import WILD, i32, ref_of

pytestmark = pytest.mark.usefixtures("triton_device")


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Small chunks and blocks, so that a small vocabulary takes many."""
    module = pytest.importorskip("pspec_rt.triton_kernels.select_tokens")
    for name, value in {"CHUNK": 128, "PART": 64, "BLOCK": 64}.items():
        monkeypatch.setattr(module, name, value)
    return module


def parameters(rows: list[tuple[float, int, float, float]]) -> dict[str, Tensor]:
    temperature, top_k, top_p, min_p = zip(*rows, strict=True)
    return {
        "temperature_R": torch.tensor(temperature), "top_k_R": i32(top_k),
        "top_p_R": torch.tensor(top_p), "min_p_R": torch.tensor(min_p),
    }  # fmt: skip


def outputs(R: int, T: int) -> dict[str, Tensor]:
    return {
        "out_logprob_R": torch.full((R,), float("nan")),
        "out_top_ids_RT": torch.full((R, T), WILD, dtype=torch.int32),
        "out_top_logprobs_RT": torch.full((R, T), float("nan")),
    }


# temperature, top_k, top_p, min_p
ROWS = [
    (0.0, 3, 0.5, 0.1), (1.0, 0, 1.0, 0.0), (0.5, 70, 1.0, 0.0), (2.0, 300, 0.9, 0.0), (1.0, 0, 0.97, 0.0),
    (0.5, 0, 0.6, 0.01), (1.0, 0, 1.0, 0.2), (2.0, 200, 0.7, 0.9), (1.0, 1, 1.0, 0.0), (2.0, 0, 0.999, 0.0),
]  # fmt: skip


@pytest.mark.parametrize("V, scale", [(500, 0.25), (500, 3.0), (9, 1.0)])
def test_as_ref(kernel: ModuleType, V: int, scale: float) -> None:
    """Values in quarters, many of them equal: the cuts fall into groups of equals, which only ids tell apart."""
    R, T = len(ROWS), min(20, V)
    logits_RV = (torch.randn(R, V) * 4).round() / 4 * scale
    options = {**parameters(ROWS), "noise_QV": torch.randn(R, V) * 3, "noise_row_R": torch.randperm(R).int()}
    ids_R, ref_ids_R = torch.empty(R, dtype=torch.int32), torch.empty(R, dtype=torch.int32)
    out, expected = outputs(R, T), outputs(R, T)
    kernel.select_tokens(logits_RV, ids_R, **options, **out)
    ref_of("select_tokens")(logits_RV, ref_ids_R, **options, **expected)
    assert ids_R.tolist() == ref_ids_R.tolist()
    assert out["out_top_ids_RT"].tolist() == expected["out_top_ids_RT"].tolist()
    for name in ("out_logprob_R", "out_top_logprobs_RT"):
        torch.testing.assert_close(out[name], expected[name], rtol=1e-5, atol=1e-5)


def test_the_kept_set_is_refs(kernel: ModuleType) -> None:
    """Noise lifts one token of a group of equals after the other: it wins exactly if it was kept."""
    V, equals = 160, 14
    logits = torch.cat([torch.ones(equals), torch.arange(V - equals) / -64])[torch.randperm(V)]
    group = (logits == 1).nonzero()[:, 0]
    logits_RV, noise_QV = logits.expand(equals, V).contiguous(), torch.zeros(equals, V)
    noise_QV[torch.arange(equals), group] = 9.0
    # Each of the equals has the share p: top_p = 5.5 p keeps 6 of them.
    top_p = 5.5 * logits.softmax(0)[group[0]].item()
    options = {**parameters([(1.0, 0, top_p, 0.0)] * equals), "noise_QV": noise_QV}
    ids_R = torch.empty(equals, dtype=torch.int32)
    kernel.select_tokens(logits_RV, ids_R, **options, noise_row_R=torch.arange(equals).int())
    assert (ids_R == group).tolist() == [True] * 6 + [False] * (equals - 6)


@pytest.mark.parametrize("with_logprobs", [False, True])
def test_memory_it_must_leave_alone(kernel: ModuleType, with_logprobs: bool) -> None:
    """Greedy rows name rows of noise that do not exist, and outputs lie in red zones."""
    rows = [(0.0, 0, 1.0, 0.0), (1.0, 5, 0.9, 0.0), (0.0, 5, 0.5, 0.1), (0.7, 0, 1.0, 0.0)]
    R, V, T = len(rows), 260, 3
    noise_QV = torch.full((3, V), float("nan"))
    noise_QV[1] = torch.randn(V)
    options = {**parameters(rows), "noise_QV": noise_QV}
    logits_RV = torch.full((R + 2, V), float("inf"))
    logits_RV[1:-1] = torch.randn(R, V)
    ids_R, out = torch.full((R + 2,), WILD, dtype=torch.int32), outputs(R + 2, T) if with_logprobs else {}
    inner = {name: x[1:-1] for name, x in out.items()}
    kernel.select_tokens(logits_RV[1:-1], ids_R[1:-1], **options, noise_row_R=i32([WILD, 1, -WILD, 1]), **inner)
    expected_R, expected = torch.empty(R, dtype=torch.int32), outputs(R, T)
    ref_of("select_tokens")(logits_RV[1:-1], expected_R, **options, noise_row_R=i32([1] * R), **expected)
    assert ids_R[1:-1].tolist() == expected_R.tolist()
    assert ids_R[0] == ids_R[-1] == WILD
    for name, zone in out.items():
        torch.testing.assert_close(zone[1:-1], expected[name], rtol=1e-5, atol=1e-5)
        untouched = zone[[0, -1]]
        assert (untouched == WILD).all() or untouched.isnan().all()
