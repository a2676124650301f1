"""What published drafters say, from their descriptions: whole texts at once, no cache, explicit masks and positions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tests.drafter_fixtures import HEAD_DIM, HEADS, KV_HEADS, layout
from tests.drafter_formats import LLAMA, MASK

EPS, THETA = LLAMA["rms_norm_eps"], LLAMA["rope_theta"]
Tensors = dict[str, Tensor]
LogitsOf = Callable[[list[int]], Tensor]  # of the token after a path of drafted ones


def normed(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + EPS).sqrt() * weight


def rotate(x: Tensor, positions: Tensor) -> Tensor:
    angle = positions[:, None] / THETA ** (torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], dim=-1)


def attention(w: Tensors, x: Tensor, context: Tensor, at: Tensor, context_at: Tensor, seen: Tensor) -> Tensor:
    """Queries from `x`, keys and values from `context`; `seen` [x, context]."""

    def heads(y: Tensor, name: str, at: Tensor | None) -> Tensor:
        h = (y @ w[f"self_attn.{name}_proj.weight"].T).view(len(y), -1, HEAD_DIM).transpose(0, 1)
        if at is None:
            return h
        return rotate(normed(h, w[f"self_attn.{name}_norm.weight"]) if f"self_attn.{name}_norm.weight" in w else h, at)

    k, v = heads(context, "k", context_at), heads(context, "v", None)
    k, v = (y.repeat_interleave(HEADS // KV_HEADS, dim=0) for y in (k, v))
    scores = (heads(x, "q", at) @ k.transpose(1, 2) / HEAD_DIM**0.5).masked_fill(~seen, -torch.inf)
    return (scores.softmax(-1) @ v).transpose(0, 1).reshape(len(x), -1) @ w["self_attn.o_proj.weight"].T


def mlp(w: Tensors, x: Tensor) -> Tensor:
    y = normed(x, w["post_attention_layernorm.weight"])
    gate, up = y @ w["mlp.gate_proj.weight"].T, y @ w["mlp.up_proj.weight"].T
    return (gate * torch.sigmoid(gate) * up) @ w["mlp.down_proj.weight"].T


def of_layer(tensors: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def eagle1(
    tensors: Tensors, table: Tensor, head: Tensor, tokens: Tensor, features: Tensor, path: list[int], wrong: str = ""
) -> Tensor:
    """[V] logits after the text and a path. `wrong`, here and below: see `layout`."""
    w, bias = of_layer(tensors, "layers.0."), tensors.get("fc.bias", 0)
    text = torch.cat([tokens, torch.tensor(path, dtype=torch.int64)])
    above = features[: len(tokens) - 1]
    for _ in range(len(path) + 1):
        x = torch.cat([table[text[1 : len(above) + 1]], above], dim=1) @ tensors["fc.weight"].T + bias
        at, seen = layout(len(tokens) - 1, len(x), wrong)
        x = x + attention(w, x, x, at, at, seen)
        x = x + mlp(w, x)
        above = torch.cat([above, x[-1:]])
    return x[-1] @ head.T


def eagle3_rows(
    tensors: Tensors, embedded: Tensor, x: Tensor, rows: tuple[Tensor, Tensor], norm_first: bool = False
) -> Tensor:
    """The layers of EAGLE-3 over rows that `layout` lays out; not normed at the end."""
    first = "midlayer." if "midlayer.hidden_norm.weight" in tensors else "layers.0."
    w, (at, seen) = of_layer(tensors, first), rows
    hidden = normed(x, w["hidden_norm.weight"])
    joined = torch.cat([normed(embedded, w["input_layernorm.weight"]), hidden], dim=1)
    x = (hidden if norm_first else x) + attention(w, joined, joined, at, at, seen)
    x = x + mlp(w, x)
    i = 1
    while w := of_layer(tensors, f"layers.{i}."):
        y = normed(x, w["input_layernorm.weight"])
        x = x + attention(w, y, y, at, at, seen)
        x = x + mlp(w, x)
        i += 1
    return x


def eagle3(
    tensors: Tensors,
    table: Tensor,
    tokens: Tensor,
    features: Tensor,
    path: list[int],
    norm_first: bool = False,
    wrong: str = "",
) -> Tensor:
    """[D] logits after the text and a path."""
    text = torch.cat([tokens, torch.tensor(path, dtype=torch.int64)])
    x = features[: len(tokens) - 1] @ tensors["fc.weight"].T
    for _ in range(len(path) + 1):
        rows = layout(len(tokens) - 1, len(x), wrong)
        out = eagle3_rows(tensors, table[text[1 : len(x) + 1]], x, rows, norm_first)
        x = torch.cat([x, out[-1:]])
    return normed(out[-1], tensors["norm.weight"]) @ tensors["lm_head.weight"].T


def p_eagle(tensors: Tensors, table: Tensor, tokens: Tensor, features: Tensor, K: int, wrong: str = "") -> Tensor:
    """[K, D] logits."""
    ids = torch.cat([tokens[1:], torch.full((K - 1,), MASK)])
    given = torch.cat([features[: len(tokens) - 1], tensors["mask_hidden"].view(1, -1).repeat(K - 1, 1)])
    rows = layout(len(tokens) - 1, len(ids), wrong)
    x = eagle3_rows(tensors, table[ids], given @ tensors["fc.weight"].T, rows)
    return normed(x[-K:], tensors["norm.weight"]) @ tensors["lm_head.weight"].T


def medusa(tensors: Tensors, features: Tensor, L: int, K: int, blocks: int) -> Tensor:
    """[K, V] logits: every head on the hidden state that predicted the newest token."""
    rows = []
    for i in range(K):
        x = features[L - 2]
        for j in range(blocks):
            y = tensors[f"{i}.{j}.linear.weight"] @ x + tensors[f"{i}.{j}.linear.bias"]
            x = x + y * torch.sigmoid(y)
        rows.append(tensors[f"{i}.{blocks}.weight"] @ x)
    return torch.stack(rows)


def dflash(
    tensors: Tensors, table: Tensor, head: Tensor, tokens: Tensor, features: Tensor, block: int, wrong: str = ""
) -> Tensor:
    """[block - 1, V] logits of the masks. `wrong` breaks a rule: the block lies one of "positions" too far, or its rows
    see "one way", only what is before them."""
    known = len(tokens) - 1
    context = normed(features[:known] @ tensors["fc.weight"].T, tensors["hidden_norm.weight"])
    x = table[torch.cat([tokens[-1:], torch.full((block - 1,), MASK)])]
    at = torch.arange(known, known + block) + (wrong == "positions")
    seen = torch.ones(block, known + block, dtype=torch.bool)
    if wrong == "one way":
        seen = seen.tril(known)
    i = 0
    while w := of_layer(tensors, f"layers.{i}."):
        y = normed(x, w["input_layernorm.weight"])
        x = x + attention(w, y, torch.cat([context, y]), at, torch.cat([torch.arange(known), at]), seen)
        x = x + mlp(w, x)
        i += 1
    return normed(x[1:], tensors["norm.weight"]) @ head.T


def grown_tree(logits_of: LogitsOf, ids_D: Tensor, C: int, K: int, nodes: int) -> set[tuple[int, ...]]:
    """EAGLE-2's tree as paths: each level expands the C best tokens of the last; the best nodes of all are kept."""
    width = min(C, 64 // (K - 1)) if K > 1 else 1
    score: dict[tuple[int, ...], float] = {}
    level: list[tuple[int, ...]] = [()]
    for _ in range(K):
        found = []
        for path in level:
            best = logits_of(list(path)).log_softmax(-1).topk(C)
            for value, row in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                child = (*path, int(ids_D[row]))
                score[child] = score.get(path, 0.0) + value
                found.append(child)
        level = sorted(found, key=lambda path: -score[path])[:width]
    return set(sorted(score, key=lambda path: -score[path])[: nodes - 1])


def fixed_tree(logits_of: LogitsOf, ids_D: Tensor, paths: tuple[tuple[int, ...], ...]) -> list[tuple[int, ...]]:
    """The tokens of every path of ranks."""
    tokens: dict[tuple[int, ...], tuple[int, ...]] = {(): ()}
    for path in paths:
        above = tokens[path[:-1]]
        row = logits_of(list(above)).sort(descending=True, stable=True).indices[path[-1]]
        tokens[path] = (*above, int(ids_D[row]))
    return [tokens[path] for path in paths]
