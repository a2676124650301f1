"""The Triton tree_attention: a row's bits follow from its logical keys alone, and nothing else is read or written."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from pspec_rt import ops
from pspec_rt.ref.tree_attention import tree_attention as ref
from tests.ops.cases import WILD, i32, random_parents, same_bits, signed, words_of

pytest.importorskip("triton")
from pspec_rt.triton_kernels.tree_attention import tree_attention  # noqa: E402

from pspec_rt.scratch import scratch  # noqa: E402

pytestmark = pytest.mark.usefixtures("triton_device")

NAN = float("nan")
BF16, FP32 = torch.bfloat16, torch.float32
E = 16
Words = list[list[int]]


@dataclass
class Slots:
    """Queries, caches full of NaN beside the rows that are in use, and trees."""

    q_BNHE: Tensor
    k_BGSE: Tensor
    v_BGSE: Tensor
    prefixes: list[int]
    words: Words
    window: int = 0
    block_table_BT: Tensor | None = None

    def run(self, launcher=tree_attention) -> Tensor:  # noqa: ANN001
        """The output, on partial sums that would show if they were read before they are written."""
        for name in ("tree_attention.sums", "tree_attention.stats"):
            scratch(self.q_BNHE.device, name, 1, FP32).fill_(NAN)
        out_BNHE = torch.full_like(self.q_BNHE, NAN)
        words_BN = torch.tensor([[signed(word) for word in row] for row in self.words])
        launcher(
            self.q_BNHE, self.k_BGSE, self.v_BGSE, i32(self.prefixes), words_BN, out_BNHE,
            scale=0.3, window=self.window, block_table_BT=self.block_table_BT,
        )  # fmt: skip
        return out_BNHE

    def rows(self, b: int, n: int) -> list[int]:
        """Cache rows of a node's keys in logical order, those outside the window too."""
        word = self.words[b][n]
        return [*range(self.prefixes[b]), *(self.prefixes[b] + i for i in range(64) if word >> i & 1)]

    def check(self) -> None:
        """Against the definition: rounding of the result, and of sums in another order."""
        rtol, atol = (2**-7, 1e-3) if self.q_BNHE.dtype is BF16 else (1e-5, 1e-5)
        if self.q_BNHE.is_cuda and self.q_BNHE.dtype is BF16:  # the weights are rounded for the tensor cores, too
            atol = 1e-2
        torch.testing.assert_close(self.run(), self.run(ref), rtol=rtol, atol=atol)


def slots(
    prefixes: list[int], words: Words, H: int = 2, G: int = 1, dtype: torch.dtype = FP32, *, E: int = E, window: int = 0
) -> Slots:
    """Random queries and rows in use."""
    B, N, S = len(prefixes), len(words[0]), max(prefixes) + len(words[0]) + 2
    q_BNHE = (torch.randn(B, N, H, E) * 2).to(dtype)
    caches = [torch.full((B, G, S, E), NAN).to(dtype) for _ in "kv"]
    for cache in caches:
        for b, prefix in enumerate(prefixes):
            cache[b, :, : prefix + N] = torch.randn(G, prefix + N, E).to(dtype)
    return Slots(q_BNHE, *caches, prefixes, words, window)


def best_first(N: int) -> list[int]:
    """Words of the best-first tree over random scores."""
    K = C = 4
    ids_BKC = torch.arange(K * C).view(1, K, C).int()
    scores_BKC = torch.randn(1, K, C).log_softmax(2).sort(descending=True).values
    parent_BN, depth_BN, ids_BN, positions_BN = (torch.empty(1, N, dtype=torch.int32) for _ in range(4))
    words_BN = torch.empty(1, N, dtype=torch.int64)
    ops.build_tree(
        ids_BKC, scores_BKC, i32([1]), i32([9]), ids_BN, parent_BN, depth_BN, words_BN, positions_BN, prefix_B=i32([0])
    )
    return words_BN[0].tolist()


TREES = {
    "chain": lambda N: words_of(range(-1, N - 1)),
    "static": lambda N: words_of([-1, *((n - 1) // 2 for n in range(1, N))]),
    "best-first": best_first,
    "random": lambda N: words_of(random_parents(N, random.Random(N))),
}


def committed(tree: Slots, nodes: list[tuple[int, int]]) -> Slots:
    """Plain decoding of some (slot, node): a slot each, its earlier keys committed, itself the one new row."""
    B, (G, E) = len(nodes), tree.k_BGSE.shape[1::2]
    S = max(len(tree.rows(b, n)) for b, n in nodes) + 70
    caches = []
    for cache in (tree.k_BGSE, tree.v_BGSE):
        caches.append(torch.full((B, G, S, E), NAN).to(cache.dtype))
        for i, (b, n) in enumerate(nodes):
            rows = tree.rows(b, n)
            caches[-1][i, :, : len(rows)] = cache[b][:, rows]
    q_BNHE = torch.stack([tree.q_BNHE[b, n : n + 1] for b, n in nodes])
    return Slots(q_BNHE, *caches, [len(tree.rows(b, n)) - 1 for b, n in nodes], [[1]] * B, tree.window)


def assert_plain(tree: Slots, nodes: list[tuple[int, int]]) -> None:
    out_BNHE, plain_BNHE = tree.run(), committed(tree, nodes).run()
    assert not out_BNHE.isnan().any()
    for i, (b, n) in enumerate(nodes):
        assert same_bits(plain_BNHE[i, 0], out_BNHE[b, n]), f"prefix {tree.prefixes[b]}, node {n}"


def deepest(words: list[int]) -> int:
    return max(range(len(words)), key=lambda n: words[n].bit_count())


# Around 64, where rows of the body begin, and 256, where runs end; the last one of a tree lies in another run.
PREFIXES = [0, 62, 65, 126, 253, 256, 318, 575]


@pytest.mark.parametrize("dtype", [FP32, BF16])
@pytest.mark.parametrize("kind", TREES)
def test_a_committed_path_has_the_bits_of_the_tree(kind: str, dtype: torch.dtype) -> None:
    """Each node's row is the row of plain decoding, N = 1, after its ancestors were accepted and moved."""
    words = TREES[kind](5)
    prefixes = PREFIXES if (kind, dtype) == ("random", FP32) else [63, 317]
    tree = slots(prefixes, [words] * len(prefixes), dtype=dtype)
    assert_plain(tree, [(b, n) for b in range(len(prefixes)) for n in {deepest(words), 4}])


@pytest.mark.parametrize("dtype", [FP32, BF16])
@pytest.mark.parametrize("window", [1, 5, 64, 200, 300])
def test_a_committed_path_in_a_window(window: int, dtype: torch.dtype) -> None:
    words = TREES["random"](3)
    prefixes = [254, 390] if dtype is FP32 else [318]
    tree = slots(prefixes, [words] * len(prefixes), dtype=dtype, window=window)
    assert_plain(tree, [(b, deepest(words)) for b in range(len(prefixes))])


@pytest.mark.full
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("dtype", [FP32, BF16])
@pytest.mark.parametrize("window", [0, 1, 63, 128, 257])
@pytest.mark.parametrize("kind", TREES)
def test_every_committed_path(kind: str, window: int, dtype: torch.dtype) -> None:
    words = TREES[kind](9)
    near = [prefix for border in (64, 128, 256, 320, 512, 576) for prefix in range(border - 3, border + 3)]
    prefixes = [*random.Random(window).sample(near, 4), random.randrange(700)]
    tree = slots(prefixes, [words] * len(prefixes), dtype=dtype, window=window)
    assert_plain(tree, [(b, n) for b in range(len(prefixes)) for n in range(9)])


@pytest.mark.parametrize("N", [22, pytest.param(64, marks=pytest.mark.full)])
def test_a_chain_across_runs(N: int) -> None:
    """The edges of the rows of a tile may begin at two multiples of 64, here also in two runs."""
    tree = slots([300], [TREES["chain"](N)], H=1)
    assert_plain(tree, [(0, n) for n in (0, 18, 19, 20, N - 1)])


@pytest.mark.parametrize("dtype", [FP32, BF16])
def test_a_row_ignores_its_company(dtype: torch.dtype) -> None:
    """Other nodes, other slots, other tiles of rows, the capacity: none of them changes a bit."""
    words = TREES["random"](9)  # 72 rows of a KV head: two tiles in bf16, more in fp32
    many = slots([330], [words], H=8, dtype=dtype)
    out_NHE = many.run()[0]
    few = replace(many, q_BNHE=many.q_BNHE[:, :3], words=[words[:3]])
    assert same_bits(few.run()[0], out_NHE[:3])
    wide_k, wide_v = (torch.cat([x, torch.full((1, 1, 700, E), NAN).to(dtype)], 2) for x in (many.k_BGSE, many.v_BGSE))
    alone = [0] * 8 + [words[8]]
    assert same_bits(replace(many, k_BGSE=wide_k, v_BGSE=wide_v, words=[alone]).run()[0, 8], out_NHE[8])
    other = slots([17, 330], [words[:2], words[:2]], H=8, dtype=dtype)
    other.q_BNHE[1], other.k_BGSE[1, :, :332], other.v_BGSE[1, :, :332] = (
        few.q_BNHE[0, :2], few.k_BGSE[0, :, :332], few.v_BGSE[0, :, :332],
    )  # fmt: skip
    assert same_bits(other.run()[1], out_NHE[:2])


def paged(flat: Slots, page: int) -> Slots:
    """The same rows in shuffled pages; other pages hold NaN, table entries without rows are wild."""
    (B, G, S, E), N = flat.k_BGSE.shape, flat.q_BNHE.shape[1]
    T = -(-S // page) + 1
    order_BT = torch.randperm(B * T + 3)[: B * T].view(B, T)
    pages = [torch.full((B * T + 3, G, page, E), NAN).to(flat.k_BGSE.dtype) for _ in "kv"]
    table_BT = torch.full((B, T), WILD, dtype=torch.int32)
    for b, prefix in enumerate(flat.prefixes):
        used = -(-(prefix + N) // page)
        table_BT[b, :used] = order_BT[b, :used]
        for x, cache in zip(pages, (flat.k_BGSE, flat.v_BGSE), strict=True):
            for i in range(used):
                rows = cache[b, :, i * page : (i + 1) * page]
                x[int(order_BT[b, i]), :, : rows.shape[1]] = rows
    return replace(flat, k_BGSE=pages[0], v_BGSE=pages[1], block_table_BT=table_BT)


@pytest.mark.parametrize(("page", "dtype"), [(16, BF16), (16, FP32), (32, BF16), (64, FP32), (128, BF16), (256, FP32)])
def test_pages_change_no_bit(page: int, dtype: torch.dtype) -> None:
    words = TREES["random"](2)
    flat = slots([326, 30], [words] * 2, 2, 2 if page == 16 else 1, dtype, window=100 if page in (32, 64) else 0)
    assert same_bits(paged(flat, page).run(), flat.run())


@pytest.mark.parametrize("page", [16, 64])
def test_pages_of_the_reference(page: int) -> None:
    flat = slots([80, 15], [TREES["random"](4)] * 2, 4, 2)
    torch.testing.assert_close(paged(flat, page).run(ref), flat.run(ref), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("ratio", range(1, 9))
def test_queries_per_head(ratio: int) -> None:
    slots([130], [TREES["static"](2)], ratio * 2, 2, BF16 if ratio % 2 else FP32).check()


@pytest.mark.parametrize("dtype", [FP32, BF16])
@pytest.mark.parametrize("E", [64, 80, 96, 128, 256])
def test_head_dims(E: int, dtype: torch.dtype) -> None:
    case = slots([200], [TREES["static"](2)], 2, 1, dtype, E=E)
    replace(case, q_BNHE=case.q_BNHE / E**0.5).check()


@pytest.mark.full
def test_64_nodes_of_8_queries() -> None:
    """512 rows of one KV head."""
    slots([70], [TREES["random"](64)], 8, 1, BF16).check()


@pytest.mark.parametrize("value", [NAN, float("inf")])
@pytest.mark.parametrize("of", ["k_BGSE", "v_BGSE"])
def test_what_a_node_does_not_see_does_not_reach_it(of: str, value: float) -> None:
    """A row seen by the root alone, as it left the window of deeper nodes, and a sibling's row."""
    window = 130
    case = slots([320], [words_of([-1, 0, 0, 1])], window=window)
    before_NHE = case.run()[0].clone()
    for row, seen_by in ((320 - window + 1, {0}), (320 + 2, {2})):
        poisoned = replace(case, **{of: getattr(case, of).clone()})
        getattr(poisoned, of)[0, :, row] = value
        out_NHE = poisoned.run()[0]
        for n in range(4):
            assert same_bits(out_NHE[n], before_NHE[n]) == (n not in seen_by), f"row {row}, node {n}"


@pytest.mark.parametrize("dtype", [FP32, BF16])
def test_the_first_rows_of_a_window_stay_apart(dtype: torch.dtype) -> None:
    """The body of deeper nodes begins 64 rows later than the root's: NaN in those rows is the root's alone."""
    case = slots([321], [TREES["chain"](3)], dtype=dtype, window=258)  # the root sees rows 64 .., node 1 from 65 on
    case.k_BGSE[:, :, :64], case.v_BGSE[:, :, :64] = NAN, NAN
    clean_NHE = case.run()[0].clone()
    case.v_BGSE[:, :, 64] = NAN
    out_NHE = case.run()[0]
    assert out_NHE[0].isnan().all() and same_bits(out_NHE[1:], clean_NHE[1:])


def test_padding_nodes_are_zero_and_read_nothing() -> None:
    case = slots([100], [[1, 0, 5, 0]])
    case.q_BNHE[0, [1, 3]] = NAN
    out_NHE = case.run()[0]
    assert (out_NHE[[1, 3]] == 0).all() and not out_NHE.isnan().any()
    assert (slots([0, 0], [[0, 0]] * 2).run() == 0).all()


def test_red_zones() -> None:
    """Nothing beside an argument is written, and no input."""
    case = paged(slots([100, 3], [TREES["random"](3)] * 2, 6, 2, BF16, E=24), 16)
    words_BN = torch.tensor(case.words)
    tensors = [case.q_BNHE, case.k_BGSE, case.v_BGSE, i32(case.prefixes), words_BN, case.q_BNHE * NAN]
    tensors.append(case.block_table_BT)
    zone, buffers = 4000, []
    for x in tensors:
        buffers.append(torch.full((x.numel() + 2 * zone,), NAN if x.is_floating_point() else WILD, dtype=x.dtype))
        buffers[-1][zone:-zone] = x.flatten()
    before = [buffer.clone() for buffer in buffers]
    inner = [buffer[zone:-zone].view(x.shape) for buffer, x in zip(buffers, tensors, strict=True)]
    tree_attention(*inner[:6], scale=0.3, block_table_BT=inner[6])
    assert same_bits(inner[5], case.run())
    before[5][zone:-zone] = inner[5].flatten()
    for buffer, expected in zip(buffers, before, strict=True):
        same = same_bits(buffer, expected) if buffer.is_floating_point() else torch.equal(buffer, expected)
        assert same


def test_caches_laid_out_differently_are_refused() -> None:
    case = slots([5], [[1]])
    with pytest.raises(ValueError, match="laid out alike"):
        replace(case, v_BGSE=case.v_BGSE.mT.contiguous().mT).run()
