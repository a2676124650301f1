"""head_top_k against sorting (value, id) pairs; small integers make every sum exact, so ties abound."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pspec_rt import ops

from .cases import ROWS, WILD, interpreted, ref_of, same_bits, set_threads

BF16, FP32 = torch.bfloat16, torch.float32


def head_top_k(x_RM: Tensor, w_DM: Tensor, C: int, **options: Tensor) -> tuple[Tensor, Tensor]:
    ids_RC = torch.full((x_RM.shape[0], C), WILD, dtype=torch.int32)
    scores_RC = torch.full((x_RM.shape[0], C), float("nan"))
    ops.head_top_k(x_RM, w_DM, ids_RC, scores_RC, **options)
    return ids_RC, scores_RC


def integers(*shape: int, limit: int = 3, dtype: torch.dtype = BF16) -> Tensor:
    return torch.randint(-limit, limit + 1, shape).to(dtype)


def noise_options(R: int, V: int) -> dict[str, Tensor]:
    """Temperatures 0, 1/2, 2 and noise in eighths: all arithmetic stays exact."""
    return {
        "temperature_R": torch.tensor([0.0, 0.5, 2.0])[torch.randint(0, 3, (R,))],
        "noise_QV": torch.randint(-40, 40, (5, V)) / 8,
        "noise_row_R": torch.randint(0, 5, (R,), dtype=torch.int32),
    }


def values(x_RM: Tensor, w_DM: Tensor, options: dict[str, Tensor], ids: list[int]) -> list[list[float]]:
    """value_v of every row, in Python floats."""
    rows = (x_RM.double() @ w_DM.double().T).tolist()
    if "temperature_R" not in options:
        return rows
    temperatures = options["temperature_R"].tolist()
    noise = options["noise_QV"][options["noise_row_R"].long()].tolist()
    return [
        row if T == 0 else [logit / T + noise[r][id_] for logit, id_ in zip(row, ids, strict=True)]
        for r, (row, T) in enumerate(zip(rows, temperatures, strict=True))
    ]


def check(x_RM: Tensor, w_DM: Tensor, C: int, options: dict[str, Tensor]) -> None:
    ids = options["id_map_D"].tolist() if "id_map_D" in options else list(range(len(w_DM)))
    ids_RC, scores_RC = head_top_k(x_RM, w_DM, C, **options)
    for r, row in enumerate(values(x_RM, w_DM, options, ids)):
        best = sorted((-value, id_) for value, id_ in zip(row, ids, strict=True))[:C]
        assert ids_RC[r].tolist() == [id_ for _, id_ in best], f"row {r}"
        norm = float(torch.logsumexp(torch.tensor(row, dtype=torch.float64), 0))
        expected = torch.tensor([-value - norm for value, _ in best])
        # fp32 sum of up to a thousand exponentials, and of numbers below 200
        torch.testing.assert_close(scores_RC[r], expected, rtol=1e-5, atol=5e-5)


@pytest.mark.parametrize("R", ROWS)
@pytest.mark.parametrize("dtype", [BF16, FP32])
def test_greedy(backend: str, R: int, dtype: torch.dtype) -> None:
    check(integers(R, 24, dtype=dtype), integers(300, 24, dtype=dtype), 4, {})


@pytest.mark.parametrize("R, D, C", [(1, 1, 1), (3, 16, 16), (5, 1000, 16), (2, 257, 8), (64, 70, 1)])
def test_noise(backend: str, R: int, D: int, C: int) -> None:
    check(integers(R, 16), integers(D, 16), C, noise_options(R, D))


@pytest.mark.parametrize("with_noise", [False, True])
def test_reduced_vocabulary(backend: str, with_noise: bool) -> None:
    V, D, R = 900, 311, 5
    id_map_D = torch.randperm(V)[:D].sort().values.int()
    options = noise_options(R, V) if with_noise else {}
    check(integers(R, 16), integers(D, 16), 8, {**options, "id_map_D": id_map_D})


def test_all_equal_gives_the_lowest_ids(backend: str) -> None:
    ids_RC, scores_RC = head_top_k(torch.zeros(2, 8), torch.randn(600, 8), 16)
    assert ids_RC.tolist() == [list(range(16))] * 2
    torch.testing.assert_close(scores_RC, torch.full((2, 16), 600.0).log().neg())


def test_scores_are_optional(backend: str) -> None:
    x_RM, w_DM = torch.randn(3, 32), torch.randn(500, 32)
    ids_RC = torch.empty(3, 5, dtype=torch.int32)
    ops.head_top_k(x_RM, w_DM, ids_RC, None)
    assert torch.equal(ids_RC, head_top_k(x_RM, w_DM, 5)[0])


@pytest.mark.parametrize("dtype", [BF16, FP32])
def test_logits_have_the_bits_of_linear(backend: str, dtype: torch.dtype) -> None:
    """So greedy (no logits written) and filtered (logits from linear) rows agree, near-ties included."""
    x_RM, w_DM = torch.randn(5, 100).to(dtype), (torch.randn(100) + 1e-4 * torch.randn(2000, 100)).to(dtype)
    logits_RD = torch.empty(5, 2000)
    linear = ref_of("linear") if backend == "ref" else ops.linear
    linear(x_RM, w_DM, logits_RD)
    ids_RC, scores_RC = head_top_k(x_RM, w_DM, 16)
    best_RC = logits_RD.gather(1, ids_RC.long())
    assert (best_RC[:, :-1] >= best_RC[:, 1:]).all()
    assert torch.equal(best_RC, logits_RD.sort(dim=1, descending=True).values[:, :16])
    assert torch.equal(ids_RC[:, 0], logits_RD.argmax(dim=1).int())
    options = {**noise_options(5, 2000), "temperature_R": torch.full((5,), 0.7)}
    noisy_RD = logits_RD / 0.7 + options["noise_QV"][options["noise_row_R"].long()]
    assert torch.equal(head_top_k(x_RM, w_DM, 1, **options)[0][:, 0], noisy_RD.argmax(dim=1).int())


@pytest.mark.usefixtures("threads")
def test_rows_are_independent(backend: str) -> None:
    if backend == "ref":
        pytest.skip("ref calls a library GEMM: exact up to near-ties only")
    x_RM, w_DM = torch.randn(9, 64).to(BF16), torch.randn(1500, 64).to(BF16)
    whole = head_top_k(x_RM, w_DM, 4)
    for threads in (1,) if interpreted() else (1, 2):
        set_threads(threads)
        for r in range(0, 9, 4 if interpreted() else 1):
            ids_RC, scores_RC = head_top_k(x_RM[r : r + 1], w_DM, 4)
            assert torch.equal(ids_RC, whole[0][r : r + 1])
            assert same_bits(scores_RC, whole[1][r : r + 1])


def test_wrong_arguments_are_named() -> None:
    x_RM, w_DM, ids_RC = torch.zeros(2, 4), torch.zeros(9, 4), torch.zeros(2, 3, dtype=torch.int32)
    with pytest.raises(ValueError, match="w_DM"):
        ops.head_top_k(x_RM, torch.zeros(9, 5), ids_RC, None)
    with pytest.raises(ValueError, match="C must be in 1..9, got 10"):
        ops.head_top_k(x_RM, w_DM, torch.zeros(2, 10, dtype=torch.int32), None)
    with pytest.raises(ValueError, match="go together"):
        ops.head_top_k(x_RM, w_DM, ids_RC, None, temperature_R=torch.ones(2))
    with pytest.raises(ValueError, match="id_map_D.*int32"):
        ops.head_top_k(x_RM, w_DM, ids_RC, None, id_map_D=torch.arange(9))
    with pytest.raises(ValueError, match="noise_row_R.*int32"):
        noise = {"noise_QV": torch.zeros(1, 9), "noise_row_R": torch.zeros(2).long()}
        ops.head_top_k(x_RM, w_DM, ids_RC, None, temperature_R=torch.ones(2), **noise)


def test_nan_counts_as_the_lowest_value(backend: str) -> None:
    """Two NaN logits are passed over; a row of nothing but NaN has no best token."""
    w_DM = torch.arange(6.0)[:, None].to(BF16)
    w_DM[[2, 5]] = torch.nan
    x_RM = torch.tensor([[1.0], [torch.nan], [-1.0]]).to(BF16)
    ids_RC = head_top_k(x_RM, w_DM, 3)[0]
    assert ids_RC.tolist() == [[4, 3, 1], [-1, -1, -1], [0, 1, 3]]
