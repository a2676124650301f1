"""The Triton linear: its orders and tiles, fused against separate ops, odd shapes, and its table of plans."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.ops.cases import same_bits

pytest.importorskip("triton")
from pspec_rt.triton_kernels import _linear_tiles as tiles  # noqa: E402
from pspec_rt.triton_kernels import linear as kernel  # noqa: E402
from pspec_rt.triton_kernels._linear_tiles import BUCKETS, Order, Plan, Table, Tile  # noqa: E402
from pspec_rt.triton_kernels.add_rms_norm import add_rms_norm  # noqa: E402
from pspec_rt.triton_kernels.linear import linear  # noqa: E402
from pspec_rt.triton_kernels.silu_mul import silu_mul  # noqa: E402

from pspec_rt.scratch import scratch  # noqa: E402

BF16, FP32 = torch.bfloat16, torch.float32
ROWS = (1, 3, 16, 17, 64, 65)


def plan(order: Order, tile: Tile) -> Plan:
    return Plan(order, dict.fromkeys(BUCKETS, tile))


# One program per tile; two and four of them that add through memory; a chunk per block.
PLANS = {
    "one": plan(Order("warp", 4, 16), Tile(64, 4, 4, 2)),
    "two": plan(Order("warp", 8, 16), Tile(32, 4, 4, 2)),
    "four": plan(Order("warp", 8, 16), Tile(64, 2, 2, 2)),
    "block": plan(Order("block", 4, 16), Tile(64, 1, 4, 2)),
    "single": plan(Order("block", 1, 32), Tile(64, 1, 4, 2)),
}


@pytest.fixture(params=PLANS)
def each_plan(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Plan:
    use(monkeypatch, PLANS[request.param])
    return PLANS[request.param]


def use(monkeypatch: pytest.MonkeyPatch, chosen: Plan) -> None:
    monkeypatch.setattr(tiles, "plan_of", lambda *shape: chosen)


def run(x_RI: Tensor, w_OI: Tensor, out_dtype: torch.dtype | None = None, **options: object) -> Tensor:
    O = w_OI.shape[0] // 2 if options.get("gated") else w_OI.shape[0]
    out_RO = torch.full((x_RI.shape[0], O), float("nan"), dtype=out_dtype or x_RI.dtype)
    linear(x_RI, w_OI, out_RO, **options)
    return out_RO


def random(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*shape).to(dtype)


@pytest.mark.usefixtures("triton_device", "each_plan")
@pytest.mark.parametrize("dtype", [BF16, FP32])
def test_a_row_has_the_same_bits_among_any_number(dtype: torch.dtype) -> None:
    x_RI, w_OI = random(200, 70, dtype=dtype), random(40, 70, dtype=dtype)
    whole_RO = run(x_RI, w_OI, FP32)
    for R in ROWS:
        assert same_bits(run(x_RI[200 - R :], w_OI, FP32), whole_RO[200 - R :]), R


@pytest.mark.usefixtures("triton_device")
@pytest.mark.parametrize("dtype", [BF16, FP32])
def test_tiles_change_no_bits(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of one program, of two and of four: one order, and not that of other chunks."""
    x_RI, w_OI = random(20, 200, dtype=dtype), random(70, 200, dtype=dtype)
    order, results = PLANS["two"].order, []
    for tile in (Tile(128, 8, 8, 2), Tile(32, 4, 4, 2), Tile(64, 2, 2, 2), Tile(64, 8, 8, 2)):
        use(monkeypatch, plan(order, tile))
        results.append(run(x_RI, w_OI, FP32))
    assert all(same_bits(result, results[0]) for result in results)
    use(monkeypatch, PLANS["one"])
    assert not same_bits(run(x_RI, w_OI, FP32), results[0])


@pytest.mark.usefixtures("triton_device", "each_plan")
@pytest.mark.parametrize(("R", "O", "I"), [(1, 1, 1), (2, 3, 37), (18, 33, 65), (5, 65, 130)])
def test_odd_shapes(R: int, O: int, I: int) -> None:
    """Between NaN in every direction: what lies beside x, w and the bias is not read into a result, nor written."""
    wide_x, wide_w, wide_out = (torch.full((n + 9, m + 9), float("nan")) for n, m in ((R, I), (O, I), (R, O)))
    x_RI, w_OI, out_RO = wide_x[:R, :I], wide_w[:O, :I], wide_out[:R, :O]
    x_RI.normal_(), w_OI.normal_()
    bias_O = torch.full((O + 9,), float("nan"))[:O].normal_()
    linear(x_RI, w_OI, out_RO, bias_O=bias_O)
    torch.testing.assert_close(out_RO, x_RI @ w_OI.T + bias_O, rtol=1e-4, atol=1e-4)
    assert wide_out[R:].isnan().all() and wide_out[:, O:].isnan().all()


@pytest.mark.usefixtures("triton_device", "each_plan")
def test_nan_stays_in_its_row() -> None:
    x_RI, w_OI = torch.randn(20, 40), torch.randn(33, 40)
    clean_RO = run(x_RI, w_OI)
    x_RI[7] = float("nan")
    dirty_RO, others = run(x_RI, w_OI), torch.arange(20) != 7
    assert dirty_RO[7].isnan().all() and same_bits(dirty_RO[others], clean_RO[others])


@dataclasses.dataclass(frozen=True)
class Fused:
    """A call of linear with everything fused that is asked for, and the separate ops."""

    R: int
    norm: bool = False
    gated: bool = False
    add: bool = False
    bias: bool = False
    dtype: torch.dtype = BF16
    out_dtype: torch.dtype = BF16

    def check(self, I: int = 70, O: int = 20) -> None:
        N = 2 * O if self.gated else O
        x_RI, w_OI = random(self.R, I, dtype=self.dtype), random(N, I, dtype=self.dtype)
        norm_I = random(I, dtype=self.dtype) if self.norm else None
        bias_O = random(N, dtype=self.dtype) if self.bias else None
        before_RO = random(self.R, O, dtype=self.out_dtype)
        fused_RO = before_RO.clone() if self.add else torch.full_like(before_RO, float("nan"))
        linear(x_RI, w_OI, fused_RO, bias_O=bias_O, norm_I=norm_I, eps=1e-5, gated=self.gated, add=self.add)

        separate_RI = x_RI
        if self.norm:
            separate_RI = torch.empty_like(x_RI)
            add_rms_norm(None, x_RI, norm_I, 1e-5, separate_RI)
        y_RO = run(separate_RI, w_OI, self.out_dtype, bias_O=bias_O)
        if self.gated:
            product_RO = torch.empty_like(before_RO)
            silu_mul(y_RO, product_RO)
            y_RO = product_RO
        assert same_bits(fused_RO, before_RO + y_RO if self.add else y_RO), self


@pytest.mark.usefixtures("triton_device")
@pytest.mark.parametrize("name", ["one", "two"])
@pytest.mark.parametrize(
    "case",
    [
        Fused(5, norm=True),
        Fused(20, norm=True, dtype=FP32, out_dtype=FP32),
        Fused(5, norm=True, dtype=FP32, out_dtype=FP32),
        Fused(5, gated=True, bias=True),
        Fused(3, gated=True, add=True, dtype=FP32, out_dtype=FP32),
        Fused(17, add=True),
        Fused(2, add=True, bias=True, out_dtype=FP32),
        Fused(3, norm=True, gated=True, add=True, bias=True),
        Fused(33, norm=True, gated=True, add=True, bias=True, out_dtype=FP32),
    ],
)
def test_fused_equals_separate(case: Fused, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, PLANS[name])
    case.check()


@pytest.mark.usefixtures("triton_device")
@pytest.mark.parametrize("I", [30, 256, 257, 1100])
@pytest.mark.parametrize("dtype", [BF16, FP32])
def test_the_norm_has_one_order(I: int, dtype: torch.dtype) -> None:
    """Rows that a program norms for itself, and rows that add_rms_norm does."""
    for R in (2, 17):
        Fused(R, norm=True, dtype=dtype, out_dtype=dtype).check(I=I, O=8)


@pytest.mark.usefixtures("triton_device")
def test_programs_leave_their_tickets_as_they_found_them(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, PLANS["four"])
    x_RI, w_OI = torch.randn(kernel.LAUNCH_ROWS + 1, 40), torch.randn(65, 40)
    first_RO, again_RO = run(x_RI, w_OI), run(x_RI, w_OI)  # of two launches each
    assert same_bits(first_RO, again_RO) and not scratch(x_RI.device, "linear_ticket", 1, torch.int32).any()
    torch.testing.assert_close(first_RO, x_RI @ w_OI.T, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("triton_device")
def test_the_library_runs_only_where_it_was_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(kernel, "library", lambda x_RI, *rest, **options: calls.append(len(x_RI)))
    for library_from, exact, expected in ((None, False, []), (8, True, []), (8, False, [8, 20])):
        use(monkeypatch, dataclasses.replace(PLANS["one"], library_from=library_from))
        for R in (7, 8, 20):
            run(torch.randn(R, 16), torch.randn(4, 16), exact=exact)
        assert calls == expected


def test_the_table_is_written_and_read(tmp_path: Path) -> None:
    file = tmp_path / "tiles.json"
    measured = Plan(Order("warp", 8, 32), {16: Tile(32, 8, 8, 4), 32: Tile(32, 8, 8, 3), 64: Tile(64, 4, 4, 3)}, 128)
    table = Table(file)
    table.put(4096, 4096, 90, measured)
    table.save()
    assert Table(file).get(4096, 4096, 90) == measured
    assert Table(file).get(4096, 4096, 80) is None and Table(file).get(4096, 4097, 90) is None
    with pytest.raises(ValueError, match="4096x512.*buckets"):
        table.put(4096, 512, 90, Plan(measured.order, {16: Tile(32, 8, 8, 4)}))
    with pytest.raises(ValueError, match="4096x512.*not legal"):
        table.put(4096, 512, 90, plan(measured.order, Tile(128, 8, 8, 8)))


@pytest.mark.parametrize("arch", sorted(tiles.SMS))
def test_plans_are_legal(arch: int) -> None:
    """Those of the rule of thumb, of the table that is shipped, and all candidates."""
    shapes = [(N, K) for N in (1, 576, 2048, 4096, 6144, 28672, 128256) for K in (16, 576, 4096, 14336)]
    plans = [(N, tiles.plan_of(N, K, False, arch)) for N, K in shapes]
    for name in Table().entries.get(f"sm_{arch}", {}):
        N, K = map(int, name.split("x"))
        plans.append((N, Table().get(N, K, arch)))
    for N, chosen in plans:
        for bucket, tile in chosen.tiles.items():
            assert tiles.legal(chosen.order, tile, bucket, arch), (chosen.order, tile, bucket)
            whole = tiles.whole(chosen, bucket, arch, N)
            assert tiles.legal(chosen.order, whole, bucket, arch) and whole.split == chosen.order.chunks
    for order in tiles.orders(4096):
        for bucket in BUCKETS:
            assert list(tiles.candidates(order, bucket, arch)), (order, bucket)


def test_whole_products_leave_no_multiprocessors_idle() -> None:
    """Where a program takes all chunks, narrow weights have tiles of few rows, wide ones of many."""
    for N, K, rows in ((4096, 8192, 32), (2048, 4096, 16), (128256, 4096, 64)):
        assert tiles.whole(tiles.plan_of(N, K, False, 90), 64, 90, N).rows == rows, N


def test_steps_divide_the_columns() -> None:
    """SmolLM2's 576 columns need no masks."""
    for K, step in ((576, 16), (1536, 32), (4096, 32), (14336, 32), (200, 16), (600, 32)):
        assert tiles.plan_of(4096, K, False, 90).order.step == step, K


def kinds(arch: int, *, every: bool) -> list[dict]:
    """What linear_kinds.py prints, from a process in which kernels are compiled and not interpreted."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.triton.linear_kinds", str(arch), *(["all"] if every else [])]
    done = subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def check_kinds(arch: int, *, every: bool) -> None:
    found = kinds(arch, every=every)
    assert found
    for weight in found:
        assert len(weight["mmas"]) == 1 and len(weight["layouts"]) <= 1, weight
        assert weight["mmas"][0].startswith(
            "HMMA.16816" if weight["unit"] == "warp" or arch == 80 else ("HGMMA", "UTC")
        )


def test_one_mma_instruction_for_all_buckets() -> None:
    check_kinds(90, every=False)


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("arch", sorted(tiles.SMS))
def test_one_mma_instruction_for_all_buckets_of_every_plan(arch: int) -> None:
    check_kinds(arch, every=True)
