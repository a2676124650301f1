"""gather_features against copying row by row."""

from __future__ import annotations

import pytest
import torch

from pspec_rt import ops

from .cases import i32, same_bits


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("B, N, P", [(1, 1, 1), (3, 31, 5), (1, 64, 9), (2, 33, 33)])
def test_rows_of_the_path(backend: str, B: int, N: int, P: int, dtype: torch.dtype) -> None:
    features_RF, out_BPF = torch.randn(B * N, 7).to(dtype), torch.randn(B, P, 7).to(dtype)
    before_BPF = out_BPF.clone()
    path_BP = torch.randint(-1, N, (B, P)).int()
    ops.gather_features(features_RF, path_BP, out_BPF)
    for b in range(B):
        for i in range(P):
            node = int(path_BP[b, i])
            expected = before_BPF[b, i] if node < 0 else features_RF[b * N + node]
            assert torch.equal(out_BPF[b, i], expected)


def test_padding_keeps_its_bits_and_reads_nothing(backend: str) -> None:
    features_RF, out_BPF = torch.full((4, 3), float("nan")), torch.randn(2, 2, 3)
    out_BPF[0, 1, 0] = float("nan")
    features_RF[2] = 1.0
    before_BPF = out_BPF.clone()
    ops.gather_features(features_RF, i32([[-1, -1], [0, -1]]), out_BPF)
    assert same_bits(out_BPF[0], before_BPF[0]) and same_bits(out_BPF[1, 1], before_BPF[1, 1])
    assert (out_BPF[1, 0] == 1).all()


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="path_BP"):
        ops.gather_features(torch.zeros(4, 3), i32([[0]]), torch.zeros(1, 2, 3))
    with pytest.raises(ValueError, match="features_RF"):
        ops.gather_features(torch.zeros(4, 5), i32([[0, 1]]), torch.zeros(1, 2, 3))
