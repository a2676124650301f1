"""The integer kernels of a round on the GPU: the bits of the CPU's, the ring seen by the host, all of it captured."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pspec_rt import ops
from pspec_rt.ops._dispatch import obstacle
from pspec_rt.ring import Ring
from tests.cuda.test_accept_ring import Slots, check_record
from tests.ops.cases import bits, i32, ref_of
from tests.ops.test_prune_tree import random_pool

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(obstacle("cuda", "cuda")), reason="needs _C built with CUDA")]
GPU = torch.device("cuda")


def on_cpu(tensors: list[Tensor]) -> list[Tensor]:
    return [x.cpu().clone() for x in tensors]


def same(op: Callable[..., None], tensors: list[Tensor], **options: object) -> None:
    """The op on the GPU and on the CPU leave the same bits in all arguments."""
    mirror = on_cpu(tensors)
    op(*tensors, **options)
    with torch.device("cpu"):
        op(*mirror, **options)
    for number, (x, y) in enumerate(zip(tensors, mirror, strict=True)):
        assert torch.equal(
            bits(x.cpu()) if x.is_floating_point() else x.cpu(), bits(y) if y.is_floating_point() else y
        ), number


@pytest.mark.parametrize("B", [1, 7])
@pytest.mark.parametrize("N, K, C", [(1, 1, 1), (16, 8, 8), (64, 12, 16), (33, 40, 3)])
def test_build_tree(N: int, K: int, C: int, B: int) -> None:
    scores_BKC = torch.randn(B, K, C).log_softmax(2).mul(4).round().div(4).sort(2, descending=True).values
    ints = [torch.zeros(B, N, dtype=torch.int32) for _ in range(4)]
    outputs = [*ints[:3], torch.zeros(B, N, dtype=torch.int64), ints[3]]
    slots = [torch.randint(0, 99, (B,)).int(), torch.randint(1, 999, (B,)).int()]
    more = [torch.zeros(B, dtype=torch.int32), torch.zeros(B, N, dtype=torch.int32)]

    def op(*tensors: Tensor) -> None:
        ops.build_tree(*tensors[:-2], prefix_B=tensors[-2], noise_row_BN=tensors[-1], noise_stride=9)

    same(op, [torch.randint(-1, 999, (B, K, C)).int(), scores_BKC, *slots, *outputs, *more])


def int32(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.int32)


def int64(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.int64)


@pytest.mark.parametrize("B", [1, 7])
@pytest.mark.parametrize("P, N, shift", [(2, 2, 0), (6, 10, -1), (33, 64, 0)])
def test_draft_rows(P: int, N: int, shift: int, B: int) -> None:
    count_B = torch.randint(0, P + 1, (B,)).int()
    slots = [torch.randint(0, 100, (B, P)).int(), count_B, (count_B + torch.randint(1, 99, (B,))).int()]
    outputs = [int32(B, N), int32(B, N), int32(B), int64(B, N), int32(B, 1 + N - P), int32(B, N)]
    same(ops.draft_rows, [*slots, *outputs], shift=shift, mask_id=7, vocab=90)


@pytest.mark.parametrize("picked", [False, True])
@pytest.mark.parametrize("B", [1, 7])
@pytest.mark.parametrize("first, W, C, X", [(0, 1, 10, 10), (1, 10, 10, 10), (1, 16, 16, 48), (11, 10, 10, 0)])
def test_grow_tree(first: int, W: int, C: int, X: int, B: int, picked: bool) -> None:
    G = first + W + X
    scores_RC = -torch.randint(0, 4, (B * W, C)).float()  # many ties
    scores_RC[0, 0] = torch.nan
    candidates = [torch.randint(0, 999, (B * W, C)).int(), scores_RC, torch.randint(1, 99, (B,)).int()]
    pool = [int32(B, G, C), -torch.rand(B, G, C), torch.randint(0, C, (B, G)).int()]
    rows = [int32(B, X), int32(B, X), int64(B, X), int32(B, X), int32(B), int32(B)]

    def op(*tensors: Tensor) -> None:
        picks_X = tensors[-1] if picked else None
        ops.grow_tree(*tensors[:-1], level=min(first, 1), first=first, shift=-1, picks_X=picks_X)

    same(op, [*candidates, torch.randint(0, 2**40, (B, W)), *pool, *rows, torch.randperm(W * C)[:X].int()])


@pytest.mark.parametrize("B", [1, 7])
@pytest.mark.parametrize("widths, C, N", [((1,), 4, 1), ((1, 10, 10, 10, 10), 10, 64), ((1, 16, 48), 16, 64)])
def test_prune_tree(widths: tuple[int, ...], C: int, N: int, B: int) -> None:
    slots = [torch.randint(0, 99, (B,)).int(), torch.randint(1, 999, (B,)).int()]
    tree = [int32(B, N), int32(B, N), int32(B, N), int64(B, N), int32(B, N), int32(B), int32(B, N)]
    same(ops.prune_tree, [*random_pool(B, widths, C), *slots, *tree], noise_stride=9)


@pytest.mark.parametrize("B, S", [(1, 7), (3, 1000), (5, 9000)])
def test_ngram_draft(B: int, S: int) -> None:
    length_B = torch.randint(1, S + 1, (B,)).int()
    out = torch.zeros(B, 9, 4, dtype=torch.int32), torch.zeros(B, 9, 4)

    def op(tokens_BS: Tensor, length_B: Tensor, ids_BKC: Tensor, scores_BKC: Tensor) -> None:
        ops.ngram_draft(tokens_BS, length_B, ids_BKC[:, :, 0], scores_BKC[:, :, 0])

    same(op, [torch.randint(0, 12, (B, S)).int(), length_B, *out])


@pytest.mark.parametrize("B, K, C", [(1, 4, 1), (3, 7, 8), (40, 32, 16)])
def test_blend_candidates(B: int, K: int, C: int) -> None:
    proposed = [torch.randint(-1, 20, (B, K)).int(), -torch.randint(0, 9, (B, K)).float()]
    ids_BKC, scores_BKC = torch.rand(B, K, 20).argsort(2)[..., :C].int(), -torch.randint(0, 9, (B, K, C)).float()
    same(ops.blend_candidates, [*proposed, ids_BKC, scores_BKC.sort(2, descending=True).values])


@pytest.mark.parametrize(
    "L, B, G, E, dtype", [(32, 2, 8, 128, torch.bfloat16), (3, 5, 3, 64, torch.float32), (2, 1, 1, 5, torch.bfloat16)]
)
def test_compact_kv(L: int, B: int, G: int, E: int, dtype: torch.dtype) -> None:
    S, N, P = 200, 64, 24
    kv_L2BGSE = torch.randn(L, 2, B, G, S, E).to(dtype)
    expected = kv_L2BGSE.clone()
    count_B = torch.randint(0, P + 1, (B,)).int()
    path_BP = torch.stack(
        [torch.cat([torch.zeros(1), 1 + torch.randperm(N - 1)[: P - 1].sort().values]) for _ in range(B)]
    )
    length_B = (count_B + torch.randint(1, S - N - P, (B,))).int()
    ops.compact_kv(kv_L2BGSE, path_BP.int(), count_B, length_B)
    ref_of("compact_kv")(expected, path_BP.int(), count_B, length_B)
    assert torch.equal(bits(kv_L2BGSE), bits(expected))


@pytest.mark.parametrize("B", [1, 3, 40])
def test_accept_publishes_what_it_did(B: int) -> None:
    slots, ring = Slots(B, B, limit=20), Ring(B, 6, 4, GPU)
    for _ in range(9):
        slots.new_trees()
        was_running = [code == 0 for code in slots.finished_B.tolist()]
        alone = slots.copy()
        slots.accept(ring)
        assert ring.wait(5.0) == 1
        check_record(ring, slots, was_running)
        alone.accept(None)
        for ours, theirs in zip([*slots.state(), slots.path_BP], [*alone.state(), alone.path_BP], strict=True):
            assert torch.equal(ours, theirs)


def test_rounds_run_ahead_of_the_host() -> None:
    """A captured accept replayed until the ring is full and once more: the host finds every round, once."""
    slots, ring = Slots(2, 3), Ring(2, 6, 4, GPU)
    slots.stop_ids_BQ.fill_(-1)
    slots.target_BN.zero_()
    slots.accept(ring)  # loaded before the capture
    assert ring.wait(5.0) == 1
    ring.take()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        slots.accept(ring)
    ring.start_burst(100)
    for _ in range(5):
        graph.replay()
    torch.cuda.synchronize()
    assert ring.unread == 4 and ring.control_C.tolist()[1] == 0
    records = [ring.take() for _ in range(4)]
    assert [record.round for record in records if record] == [1, 2, 3, 4]
    clocks = [record.clock_ns for record in records if record]
    assert clocks == sorted(clocks) and slots.count_B.tolist() == [0, 0], "the fifth was held"
    ring.cancel(1)
    graph.replay()
    assert ring.wait(5.0) == 1
    record = ring.take()
    assert record is not None and record.finished == [0, 5] and record.count[1] == 0


def test_a_tree_of_nan_ends_the_slot() -> None:
    slots = Slots(1, 4)
    slots.target_BN.fill_(-1)
    slots.accept(None)
    assert slots.finished_B.tolist() == [4] and slots.count_B.tolist() == [1] and slots.emitted_BP[0, 0] == i32(-1)
