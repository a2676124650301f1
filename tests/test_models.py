"""Logits and hidden states equal transformers in fp32, for every architecture and kind of RoPE."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pspec_rt import ops
from pspec_rt.kv_cache import KVCache
from pspec_rt.models import Target, decoder, load_target
from pspec_rt.models.workspace import Workspace
from pspec_rt.tokenizer import Tokenizer
from tests.tiny import MODEL_TYPES, ROPES, VOCAB, tiny_checkpoint, tiny_target

LENGTH, CAPACITY, CHUNK = 75, 96, 32
WINDOW = 24
KINDS: dict[str, dict[str, Any]] = {name: {"architecture": name, "tie": False} for name in MODEL_TYPES}
KINDS |= {f"rope {rope}": {"rope": rope} for rope in ROPES}
KINDS |= {
    "untied": {"tie": False},
    "sharded": {"shard_size": "40KB"},
    "all biases": {"options": (("attention_bias", True), ("mlp_bias", True))},
    "qwen3 biases": {"architecture": "Qwen3ForCausalLM", "options": (("attention_bias", True),)},
    "no window": {"architecture": "MistralForCausalLM", "options": (("sliding_window", None),)},
    "window": {"architecture": "MistralForCausalLM", "options": (("sliding_window", WINDOW),)},
    "window of one": {"architecture": "MistralForCausalLM", "options": (("sliding_window", 1),)},
    "some layers windowed": {
        "architecture": "Qwen3ForCausalLM",
        "options": (("use_sliding_window", True), ("sliding_window", WINDOW), ("max_window_layers", 2)),
    },
    "one group": {"options": (("num_key_value_heads", 1),)},
    "as many groups as heads": {"options": (("num_key_value_heads", 4), ("head_dim", 32))},
}


class Driver:
    """A decoder with its buffers, and the tapped states of everything run through it."""

    def __init__(self, target: Target, taps: tuple[int, ...] = (), slots: int = 1, rows: int = 64) -> None:
        self.config, self.decoder = target.config, target.decoder.with_taps(taps)
        self.decoder.stack.rope.reserve(CAPACITY)
        c, dtype = self.config, target.dtype
        self.work = Workspace(c, rows, dtype=dtype)
        self.cache = KVCache.allocate(c.num_layers, slots, c.num_kv_heads, CAPACITY, c.head_dim, dtype=dtype)
        self.cache.kv_L2BGSE.fill_(float("nan"))  # what nobody wrote must not matter

    def features(self, rows: int) -> Tensor:
        return torch.full((rows, len(self.decoder.taps) * self.config.hidden_size), float("nan"))

    def logits(self, hidden_RM: Tensor) -> Tensor:
        out_RV = torch.empty(hidden_RM.shape[0], self.config.vocab_size)
        ops.linear(hidden_RM, self.decoder.head_VM, out_RV)
        return out_RV

    def prefill(self, ids: Tensor, slot: int = 0, chunk: int = CHUNK) -> tuple[Tensor, Tensor]:
        """(logits, tapped states) of all ids, chunk by chunk."""
        logits, features = [], []
        for start in range(0, len(ids), chunk):
            part = ids[start : start + chunk]
            features.append(self.features(len(part)))
            args = (part, start, self.cache.slot(slot), self.work, features[-1])
            logits.append(self.logits(self.decoder.prefill_chunk(*args)))
        return torch.cat(logits), torch.cat(features)

    def chain(self, ids_BN: Tensor, start_B: list[int]) -> tuple[Tensor, Tensor]:
        """(logits, tapped states) of a chain of nodes after each slot's first start_B[b] positions."""
        B, N = ids_BN.shape
        prefix_B = torch.tensor(start_B, dtype=torch.int32)
        positions_BN = prefix_B[:, None] + torch.arange(N, dtype=torch.int32)
        words_BN = torch.tensor([chain_word(n) for n in range(N)]).repeat(B, 1)
        features_RF = self.features(B * N)
        args = (ids_BN, positions_BN, prefix_B, words_BN, self.cache, self.work, features_RF)
        return self.logits(self.decoder.forward(*args)).view(B, N, -1), features_RF.view(B, N, -1)


def chain_word(n: int) -> int:
    """Ancestor word of node n of a chain, as a signed 64-bit number."""
    word = (1 << (n + 1)) - 1
    return word - (1 << 64) if word >> 63 else word


def reference(path: Path, ids: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """(logits, hidden_states) of transformers, fp32."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    with torch.inference_mode():
        out = model(ids.long()[None], output_hidden_states=True)
    return out.logits[0], tuple(state[0] for state in out.hidden_states)


def check_logits(ours: Tensor, theirs: Tensor) -> None:
    assert (ours - theirs).abs().max() < 1e-3
    assert torch.equal(ours.argmax(-1), theirs.argmax(-1))


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(0, VOCAB, (LENGTH,), dtype=torch.int32)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_equal_transformers(kind: str, ids: Tensor) -> None:
    """All positions by chunked prefill; then the tail again as a 40-node chain after the first 35 positions."""
    target = tiny_target(**KINDS[kind])
    expected, _ = reference(target.path, ids)
    driver = Driver(target)
    check_logits(driver.prefill(ids)[0], expected)

    driver = Driver(target)
    driver.prefill(ids[:35])
    check_logits(driver.chain(ids[None, 35:], [35])[0][0], expected[35:])


def test_a_chain_of_64_nodes_uses_bit_63(ids: Tensor) -> None:
    target = tiny_target()
    driver = Driver(target)
    logits, _ = driver.chain(ids[None, :64], [0])
    check_logits(logits[0], reference(target.path, ids)[0][:64])


@pytest.mark.parametrize("kind", ["Qwen3ForCausalLM", "window"])
def test_tapped_states_are_the_hidden_states_of_transformers(kind: str, ids: Tensor) -> None:
    target = tiny_target(**KINDS[kind])
    _, states = reference(target.path, ids)
    taps = (2, 0, 1, -1, 3)  # in the order asked for; 3 = L is the last layer's too, after the final norm
    expected = torch.cat([states[tap] for tap in taps], dim=1)

    driver = Driver(target, taps)
    assert (driver.prefill(ids)[1] - expected).abs().max() < 1e-3
    driver = Driver(target, taps)
    driver.prefill(ids[:35])
    assert (driver.chain(ids[None, 35:], [35])[1][0] - expected[35:]).abs().max() < 1e-3


@pytest.mark.parametrize("window", [0, WINDOW])
def test_tree_branches_see_only_their_ancestors(window: int, ids: Tensor) -> None:
    """Two branches after one prefix: each node's logits are those of its own path as plain text."""
    options = {"architecture": "MistralForCausalLM", "options": (("sliding_window", window or None),)}
    target = tiny_target(**options)
    driver = Driver(target)
    prefix = 40
    driver.prefill(ids[:prefix])
    tree = ids[prefix : prefix + 5]
    #  0 - 1 - 3
    #    \ 2 - 4
    parent, depth, words = (-1, 0, 0, 1, 2), [0, 1, 1, 2, 2], [0b1, 0b11, 0b101, 0b1011, 0b10101]
    positions_BN = prefix + torch.tensor([depth], dtype=torch.int32)
    prefix_B = torch.tensor([prefix], dtype=torch.int32)
    args = (tree[None], positions_BN, prefix_B, torch.tensor([words]), driver.cache, driver.work)
    logits = driver.logits(driver.decoder.forward(*args))
    for node in range(5):
        path = [node]
        while parent[path[0]] >= 0:
            path.insert(0, parent[path[0]])
        text = torch.cat([ids[:prefix], tree[path]])
        check_logits(logits[node : node + 1], reference(target.path, text)[0][-1:])


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch says why none of its fused kernels runs on a CPU
@pytest.mark.parametrize("start", [0, 8, 21])
def test_a_chunk_sees_the_same_without_a_mask(start: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU runs: torch is told that it is causal, counted from the newest key, instead of given a mask."""
    R, S = 8, 40
    q_BNHE, caches = torch.randn(1, R, 4, 16), [torch.randn(1, 2, S, 16) for _ in "kv"]
    outs = []
    for fused in (False, True):
        monkeypatch.setattr(decoder, "has_flash_attention", lambda q, fused=fused: fused)
        outs.append(torch.full_like(q_BNHE, float("nan")))
        decoder._CausalChunk(start, R, 0.25, q_BNHE.device)(q_BNHE, *caches, outs[-1], 0)
    torch.testing.assert_close(*outs)


def test_slots_of_different_lengths(ids: Tensor) -> None:
    target = tiny_target()
    other = ids.flip(0)
    driver = Driver(target, slots=2)
    driver.prefill(ids[:20], slot=0)
    driver.prefill(other[:51], slot=1)
    logits, _ = driver.chain(torch.stack([ids[20:28], other[51:59]]), [20, 51])
    check_logits(logits[0], reference(target.path, ids[:28])[0][20:])
    check_logits(logits[1], reference(target.path, other[:59])[0][51:])


def test_rows_past_the_prompt_do_not_matter(ids: Tensor) -> None:
    """A chunk padded to its full size gives its real rows the same bits as the unpadded one."""
    target = tiny_target()
    padded = torch.cat([ids[:40], torch.full((24,), -1, dtype=torch.int32)])
    ours = Driver(target).prefill(padded)[0][:40]
    check_logits(ours, reference(target.path, ids[:40])[0])


def test_bf16_is_near_fp32(ids: Tensor) -> None:
    fp32, bf16 = tiny_target(), tiny_target(dtype="bf16")
    assert bf16.dtype == torch.bfloat16 and bf16.nbytes * 2 == fp32.nbytes
    low, high = Driver(bf16).prefill(ids)[0], Driver(fp32).prefill(ids)[0]
    assert (low - high).norm() < 0.05 * high.norm()
    driver = Driver(bf16)
    driver.prefill(ids[:35])
    tail = driver.chain(ids[None, 35:], [35])[0][0]
    assert (tail - high[35:]).norm() < 0.05 * high[35:].norm()


def test_the_stack_runs_without_norms_embedding_and_head() -> None:
    """As a drafter's layers do: input and output are the bare residual stream."""
    target = tiny_target()
    driver = Driver(target)
    stack, layer = target.decoder.stack, target.decoder.stack.layers[0]
    kept = layer.input_norm_M
    rows = driver.work.rows(3)
    inputs_RM = torch.randn(3, target.config.hidden_size)
    try:
        layer.input_norm_M = None
        rows.residual_RM.copy_(inputs_RM)
        hidden_RM = stack.prefill(rows, 0, driver.cache.slot(0)).clone()
        rows.residual_RM.copy_(inputs_RM)
        words_BN = torch.tensor([[1, 3, 7]])
        positions_BN = torch.arange(3, dtype=torch.int32)[None]
        prefix_B = torch.zeros(1, dtype=torch.int32)
        again_RM = stack.forward(rows, positions_BN, prefix_B, words_BN, driver.cache)
    finally:
        layer.input_norm_M = kept
    assert torch.allclose(hidden_RM, again_RM, atol=1e-4)
    assert again_RM.data_ptr() == driver.work.hidden_RM.data_ptr()


def test_weights_are_loaded_once_and_aligned() -> None:
    target = load_target(tiny_checkpoint(tie=True))
    decoder, layer = target.decoder, target.decoder.stack.layers[1]
    assert decoder.head_VM is decoder.embed_VM
    assert layer.qkv_XM.shape == (target.config.qkv_width, 64) and layer.gate_up_2IM.shape == (192, 64)
    for weight in (decoder.embed_VM, layer.qkv_XM, layer.o_MO, layer.gate_up_2IM, layer.down_MI):
        assert weight.is_contiguous() and weight.data_ptr() % 64 == 0


def test_workspace_views_are_made_once() -> None:
    target = tiny_target()
    work = Workspace(target.config, 8, dtype=torch.float32)
    assert work.rows(5) is work.rows(5)
    assert work.rows(5).qkv_RX.data_ptr() == work.qkv_RX.data_ptr()
    assert work.nbytes == sum(t.nbytes for t in vars(work.rows(8)).values() if isinstance(t, torch.Tensor))
    with pytest.raises(AssertionError, match="9 asked for"):
        work.rows(9)


def test_the_real_model(smollm2: Path) -> None:
    target = load_target(smollm2, dtype="fp32")
    prompt = [{"role": "user", "content": "What is 12 * 34? Answer in one line."}]
    ids = torch.tensor(Tokenizer(smollm2).encode_chat(prompt), dtype=torch.int32)
    expected, states = reference(smollm2, ids)
    driver = Driver(target, taps=(2, 15, -1))
    logits, features = driver.prefill(ids)
    check_logits(logits, expected)
    assert (features - torch.cat([states[2], states[15], states[30]], dim=1)).abs().max() < 1e-2
    driver = Driver(target)
    driver.prefill(ids[:-16])
    check_logits(driver.chain(ids[None, -16:], [len(ids) - 16])[0][0], expected[-16:])
