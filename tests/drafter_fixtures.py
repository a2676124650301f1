"""Drafter checkpoints written by hand, a replay that feeds a drafter known texts, and plain references."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pspec_rt.drafters.base import Drafter
from pspec_rt.kv_cache import KVCache
from pspec_rt.models import Target
from pspec_rt.models.workspace import Workspace
from pspec_rt.prefill import prefill
from pspec_rt.state import RUNNING, DecodeState, RoundShape
from pspec_rt.tree import TreeSpec

EAGLE, MEDUSA = "parallelspec-eagle", "parallelspec-medusa"
VOCAB, WIDTH = 384, 64  # of the tiny target
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 16


def feature_checkpoint(
    folder: Path,
    kind: str = EAGLE,
    *,
    k: int = 4,
    layers: int = 1,
    hidden: int = WIDTH,
    taps: Sequence[int] = (-1,),
    draft_ids: Sequence[int] | None = None,
    extras: Sequence[str] = (),
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Write a ParallelSpec checkpoint with random weights; returns its config and tensors.

    `extras`: of "bias", "anchor_map", "head", "embedding", "blocks".
    """
    mlp, F = 96, WIDTH * len(taps)
    mask_width = WIDTH if kind == EAGLE else hidden
    W = F + (WIDTH if kind == EAGLE else 0)
    D = VOCAB if draft_ids is None else len(draft_ids)
    tensors = {"fc.weight": _weight(hidden, W), "norm.weight": _norm(hidden)}
    if k > 1:
        tensors["mask_embedding.weight"] = torch.randn(k - 1, mask_width)
        if kind == EAGLE:
            tensors["mask_feature"] = torch.randn(F)
    optional = {
        "bias": {"fc.bias": torch.randn(hidden)},
        "anchor_map": {"anchor_map.weight": _weight(hidden, W)},
        "head": {"lm_head.weight": _weight(D, hidden)},
        "embedding": {"embed_tokens.weight": torch.randn(VOCAB, WIDTH)},
        "blocks": {
            f"res_blocks.{depth}.linear.{name}": tensor
            for depth in range(k)
            for name, tensor in (("weight", _weight(hidden, hidden)), ("bias", torch.randn(hidden)))
        },
    }
    for extra in extras:
        tensors |= optional[extra]
    for i in range(layers):
        shapes = {
            "self_attn.q_proj": (HEADS * HEAD_DIM, hidden),
            "self_attn.k_proj": (KV_HEADS * HEAD_DIM, hidden),
            "self_attn.v_proj": (KV_HEADS * HEAD_DIM, hidden),
            "self_attn.o_proj": (hidden, HEADS * HEAD_DIM),
            "mlp.gate_proj": (mlp, hidden),
            "mlp.up_proj": (mlp, hidden),
            "mlp.down_proj": (hidden, mlp),
        }
        tensors |= {f"layers.{i}.{name}.weight": _weight(*size) for name, size in shapes.items()}
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"layers.{i}.{name}.weight"] = _norm(hidden)
    raw = {
        "pspec": {"kind": kind, "k": k, "taps": list(taps)},
        "hidden_size": hidden,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
        "vocab_size": VOCAB,
        "target": {
            "vocab_size": VOCAB,
            "hidden_size": WIDTH,
            "num_hidden_layers": 3,
            "architecture": "LlamaForCausalLM",
        },
    }
    if draft_ids is not None:
        raw["draft_vocab_size"] = D
        tensors["d2t"] = torch.tensor(draft_ids) - torch.arange(D)
    write_checkpoint(folder, raw, tensors)
    return raw, tensors


def write_checkpoint(folder: Path, raw: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(raw))


def _weight(rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns) / columns**0.5


def _norm(size: int) -> Tensor:
    return 1 + 0.2 * torch.randn(size)


# -- what a drafter should say, from a whole text at once: no cache, no rounds ---------------------


BROKEN = ("positions", "blind", "gap")  # rules of `layout`


def layout(known: int, n: int, wrong: str = "") -> tuple[Tensor, Tensor]:
    """Positions of n rows, and the rows that each sees: all up to itself. Rows from `known` on are masks or drafted.

    `wrong` breaks one rule: those rows lie one "positions" too far, are "blind" to one another, or they and the newest
    known row miss the row before that, a "gap".
    """
    at, seen = torch.arange(n), torch.ones(n, n, dtype=torch.bool).tril()
    if wrong == "positions":
        at[known:] += 1
    if wrong == "blind":
        seen[known:, known:] = torch.eye(n - known, dtype=torch.bool)
    if wrong == "gap":
        seen[known - 1 :, known - 2 : known - 1] = False
    return at, seen


def misread(features: Tensor, wrong: str) -> Tensor:
    """Features of another token ("shift"), or the target's hidden states in another order ("taps")."""
    features = features.roll(1, dims=0) if wrong == "shift" else features
    return features.roll(WIDTH, dims=1) if wrong == "taps" else features


def expect(wrong: str, run: Callable[[], None]) -> None:
    """Run it; with a rule broken it must fail."""
    if not wrong:
        return run()
    with pytest.raises(AssertionError):
        run()
    return None


def feature_logits(
    raw: dict[str, Any],
    tensors: dict[str, Tensor],
    target: Target,
    tokens: Tensor,
    features: Tensor,
    K: int,
    wrong: str = "",
) -> Tensor:
    """[K, D] logits of the drafts after `tokens`, from the description of the two ParallelSpec forms."""
    L, eagle = len(tokens), raw["pspec"]["kind"] == EAGLE
    rows, bias = features[: L - 1], tensors.get("fc.bias", torch.zeros(1))
    if eagle:
        table = tensors.get("embed_tokens.weight", target.decoder.embed_VM)
        rows = torch.cat([table[tokens[1:]], rows], dim=1)
    x = rows @ tensors["fc.weight"].T + bias
    for j in range(K - 1):
        mask = tensors["mask_embedding.weight"][j]
        if eagle:
            mask = tensors["fc.weight"] @ torch.cat([mask, tensors["mask_feature"]]) + bias
        if "anchor_map.weight" in tensors:
            mask = mask + tensors["anchor_map.weight"] @ rows[-1]
        x = torch.cat([x, mask[None]])
    hidden = llama(raw, tensors, x, *layout(L - 1, len(x), wrong))[L - 2 :]  # the anchor's row, then the masks'
    if "res_blocks.0.linear.weight" in tensors:
        for depth in range(K):
            name = f"res_blocks.{depth}.linear"
            inner = tensors[f"{name}.weight"] @ hidden[depth] + tensors[f"{name}.bias"]
            hidden[depth] = hidden[depth] + inner * torch.sigmoid(inner)
    head = tensors.get("lm_head.weight")
    if head is None:
        head = target.decoder.head_VM
        if "d2t" in tensors:
            head = head[draft_ids(tensors)]
    return hidden @ head.T


def draft_ids(tensors: dict[str, Tensor]) -> Tensor:
    """Token id of every head row."""
    if "d2t" not in tensors:
        return torch.arange(VOCAB)
    return torch.arange(len(tensors["d2t"])) + tensors["d2t"]


def llama(raw: dict[str, Any], tensors: dict[str, Tensor], x: Tensor, at: Tensor, seen: Tensor) -> Tensor:
    """Llama layers and the final norm over rows at positions `at` that see `seen` [rows, rows]."""

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + raw["rms_norm_eps"]).sqrt() * weight

    def heads(x: Tensor, weight: Tensor) -> Tensor:
        return (x @ weight.T).view(len(x), -1, HEAD_DIM).transpose(0, 1)

    n = len(x)
    theta = raw["rope_parameters"]["rope_theta"]
    angle = at[:, None] / theta ** (torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    cos, sin = angle.cos(), angle.sin()

    def rotate(x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)

    for i in range(raw["num_hidden_layers"]):
        w = {name.removeprefix(f"layers.{i}."): t for name, t in tensors.items()}
        y = norm(x, w["input_layernorm.weight"])
        q = rotate(heads(y, w["self_attn.q_proj.weight"]))
        k = rotate(heads(y, w["self_attn.k_proj.weight"])).repeat_interleave(HEADS // KV_HEADS, dim=0)
        v = heads(y, w["self_attn.v_proj.weight"]).repeat_interleave(HEADS // KV_HEADS, dim=0)
        scores = (q @ k.transpose(1, 2) / HEAD_DIM**0.5).masked_fill(~seen, -torch.inf)
        x = x + (scores.softmax(-1) @ v).transpose(0, 1).reshape(n, -1) @ w["self_attn.o_proj.weight"].T
        y = norm(x, w["post_attention_layernorm.weight"])
        gate, up = y @ w["mlp.gate_proj.weight"].T, y @ w["mlp.up_proj.weight"].T
        x = x + (gate * torch.sigmoid(gate) * up) @ w["mlp.down_proj.weight"].T
    return norm(x, tensors["norm.weight"])


# -- replay --------------------------------------------------------------------------------------


@dataclass
class Text:
    """A slot's whole text with made-up target features; `length` tokens of it are committed."""

    tokens: Tensor
    features: Tensor
    prompt: int
    length: int = 0

    @staticmethod
    def random(tokens: int, width: int, prompt: int) -> Text:
        return Text(torch.randint(VOCAB, (tokens,)), torch.randn(tokens, width), prompt)


@dataclass
class Replay:
    """A drafter whose slots are fed known texts as prefill and rounds would; what must not be read is NaN."""

    drafter: Drafter
    texts: list[Text]
    tree: TreeSpec
    chunk: int = 8
    S: int = 96
    vocab: int = VOCAB
    dtype: torch.dtype = torch.float32
    state: DecodeState = field(init=False)

    def __post_init__(self) -> None:
        B, device = len(self.texts), torch.device("cpu")
        shape = RoundShape(B, self.S, self.vocab, self.texts[0].features.shape[1], self.tree)
        cache = KVCache.allocate(1, B, 1, 1, 2, dtype=self.dtype)
        self.state = DecodeState(shape, cache, None, self.dtype, device)  # type: ignore[arg-type]
        self.drafter.allocate(self.state, self.chunk)
        if hasattr(self.state.drafter, "cache"):
            self.state.drafter.cache.kv_L2BGSE.fill_(torch.nan)
        for slot in range(B):
            self.start(slot, self.texts[slot])
        self.draft()  # every round drafts before it accepts

    def start(self, slot: int, text: Text) -> None:
        """Take a text's prompt into a slot, whatever was there before."""
        s, self.texts[slot] = self.state, text
        s.length_B[slot], s.count_B[slot] = 1, 0
        prompt = text.tokens[: text.prompt].tolist()
        for _ in prefill(s, _Features(text), self.drafter, slot, prompt, self.chunk):  # type: ignore[arg-type]
            pass
        text.length = text.prompt
        s.features_BPF[slot, 1:] = torch.nan
        self._publish(slot, first=text.prompt - 1, count=1)
        s.finished_B[slot] = RUNNING

    def accept(self, counts: Sequence[int]) -> None:
        """A round that emitted counts[b] tokens in slot b."""
        for slot, count in enumerate(counts):
            text = self.texts[slot]
            self.state.features_BPF[slot] = torch.nan
            rows = text.features[text.length - 1 : text.length - 1 + count]
            self.state.features_BPF[slot, :count] = rows
            text.length += count
            self._publish(slot, first=text.length - count, count=count)

    def draft(self) -> tuple[Tensor, Tensor]:
        """Candidates and scores of one draft."""
        s = self.state
        s.candidate_ids_BKC.fill_(-7)
        s.candidate_scores_BKC.fill_(torch.nan)
        self.drafter.draft(s)
        return s.candidate_ids_BKC.clone(), s.candidate_scores_BKC.clone()

    def sample(self, temperatures: Sequence[float]) -> None:
        """From now on slot b samples at temperatures[b] with some noise."""
        s = self.state
        s.mode = "noise"
        s.reserve("noise")
        s.noise_BPV.copy_(-(-torch.rand(s.noise_BPV.shape).log()).log())
        s.temperature_BK.copy_(torch.tensor(temperatures)[:, None].expand_as(s.temperature_BK))

    def check(self, slot: int, logits_KD: Tensor, ids_D: Tensor) -> None:
        """The state's candidates of a slot are the best of these logits, ranked with the slot's noise."""
        s, (K, C) = self.state, self.state.candidate_ids_BKC.shape[1:]
        values = logits_KD
        if s.mode == "noise" and s.temperature_BK[slot, 0] > 0:
            values = logits_KD / s.temperature_BK[slot, 0] + s.noise_BPV[slot, :K, ids_D]
        best = values.log_softmax(-1).topk(C)
        assert s.candidate_ids_BKC[slot].tolist() == ids_D[best.indices].tolist()
        torch.testing.assert_close(s.candidate_scores_BKC[slot], best.values, rtol=1e-4, atol=1e-4)

    def _publish(self, slot: int, first: int, count: int) -> None:
        s, text = self.state, self.texts[slot]
        s.emitted_BP[slot] = -1
        s.emitted_BP[slot, :count] = text.tokens[first : first + count]
        s.count_B[slot], s.length_B[slot] = count, text.length
        s.bonus_B[slot] = text.tokens[text.length - 1]


@dataclass
class _Features:
    """Stands for the target in prefill: gives a text's features, NaN for padding."""

    text: Text

    def prefills_exactly(self, device_type: str) -> bool:
        return True

    def prefill_chunk(
        self, ids_T: Tensor, start: int, slot: KVCache, work: Workspace, features_TF: Tensor | None
    ) -> None:
        if features_TF is not None:
            known = self.text.features[start : start + len(ids_T)]
            features_TF.fill_(torch.nan)
            features_TF[: len(known)] = known


def paths_of(replay: Replay, slot: int) -> list[tuple[int, ...]]:
    """The tree in the state as paths of tokens; its words, depths and positions must fit."""
    s = replay.state
    parents, ids = s.parent_BN[slot].tolist(), s.ids_BN[slot].tolist()
    assert (parents[0], ids[0], int(s.depth_BN[slot, 0])) == (-1, int(s.bonus_B[slot]), 0)
    paths, words = [()], [1]
    for n in range(1, len(ids)):
        assert parents[n] < n
        paths.append((*paths[parents[n]], ids[n]))
        words.append(words[parents[n]] | 1 << n)
        assert int(s.depth_BN[slot, n]) == len(paths[n])
        assert int(s.positions_BN[slot, n]) == replay.texts[slot].length - 1 + len(paths[n])
    assert [int(word) & (1 << 64) - 1 for word in s.words_BN[slot]] == words
    assert int(s.prefix_B[slot]) == replay.texts[slot].length - 1
    return paths[1:]


def check_ragged_batch(drafter: Drafter, texts: list[Text], rounds: Sequence[Sequence[int]]) -> None:
    """Slots of different lengths drafted together get what each gets alone, over rounds of partial acceptance."""
    tree = TreeSpec.chain(4)
    together = Replay(drafter, texts, tree)
    alone = [Replay(drafter, [Text(t.tokens, t.features, t.prompt)], tree) for t in texts]
    for counts in rounds:
        together.accept(counts)
        ids, scores = together.draft()
        for slot, replay in enumerate(alone):
            replay.accept([counts[slot]])
            own_ids, own_scores = replay.draft()
            if drafter.grows_tree:
                assert paths_of(replay, 0) == paths_of(together, slot)
                continue
            assert own_ids.tolist() == ids[slot : slot + 1].tolist()
            torch.testing.assert_close(own_scores, scores[slot : slot + 1])


def check_chunked_prefill(drafter: Drafter, text: Text) -> None:
    """The drafter's cache holds the same rows however the prompt was cut."""
    caches, known = [], text.prompt - 1
    for chunk in (48, 16, 7, 1):
        replay = Replay(drafter, [Text(text.tokens, text.features, text.prompt)], TreeSpec.chain(4), chunk)
        caches.append(replay.state.drafter.cache.kv_L2BGSE[..., :known, :].clone())
    for other in caches[1:]:
        torch.testing.assert_close(other, caches[0], rtol=1e-4, atol=1e-5)
