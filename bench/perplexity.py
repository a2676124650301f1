"""What a dtype costs in quality: perplexity of one text, teacher-forced through the kernels that also decode."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pspec_rt import ops
from pspec_rt.hub import demo_model
from pspec_rt.kv_cache import KVCache
from pspec_rt.measure.meta import conditions
from pspec_rt.measure.run import set_threads
from pspec_rt.models.target import Target, load_target
from pspec_rt.models.workspace import Workspace
from pspec_rt.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parents[1]
CHUNK = 128  # rows of a prefill chunk


@dataclass
class Line:
    """A dtype's figures; `change` is relative to the perplexity of the first dtype, `agreement` the share of positions
    at which both find the same token most likely."""

    dtype: str
    perplexity: float
    change: float
    agreement: float
    megabytes: float


class Scorer:
    """Log-probabilities of a window's tokens under a target."""

    def __init__(self, target: Target, window: int) -> None:
        config = self.config = target.config
        self.decoder = target.decoder
        kv = (config.num_layers, 1, config.num_kv_heads, window + CHUNK, config.head_dim)
        self.cache = KVCache.allocate(*kv, dtype=target.dtype)
        self.work = Workspace(config, CHUNK, dtype=target.dtype)
        self.decoder.stack.rope.reserve(window + CHUNK)
        self.logits_RV = torch.empty(CHUNK, config.vocab_size)

    def score(self, ids_T: Tensor) -> tuple[Tensor, Tensor]:
        """[T-1] log-probability of every token but the first, and the most likely token there."""
        scores, best = [], []
        for start in range(0, len(ids_T) - 1, CHUNK):
            known_R, next_R = ids_T[start : start + CHUNK], ids_T[start + 1 : start + CHUNK + 1].long()
            hidden_RM = self.decoder.prefill_chunk(known_R, start, self.cache, self.work)
            logits_RV = self.logits_RV[: len(known_R)]
            ops.linear(hidden_RM, self.decoder.head_VM, logits_RV)
            logits_RV = logits_RV[: len(next_R)]
            scores.append(logits_RV.log_softmax(1).gather(1, next_R[:, None])[:, 0])
            best.append(logits_RV.argmax(1))
        return torch.cat(scores), torch.cat(best)


def windows(ids: list[int], length: int) -> list[tuple[Tensor, int]]:
    """Windows that overlap by half, with how many leading predictions another window makes with more context."""
    half, cut = length // 2, []
    for start in range(0, max(1, len(ids) - half), half):
        cut.append((torch.tensor(ids[start : start + length], dtype=torch.int32), half - 1 if start else 0))
    return cut


@torch.inference_mode()
def evaluate(target: Target, cut: list[tuple[Tensor, int]], window: int) -> tuple[float, Tensor]:
    """Perplexity over all windows, and the most likely tokens."""
    scorer, scores, best = Scorer(target, window), [], []
    for ids_T, skip in cut:
        score_T, best_T = scorer.score(ids_T)
        scores.append(score_T[skip:].double())
        best.append(best_T[skip:])
    return math.exp(-torch.cat(scores).mean().item()), torch.cat(best)


def default_text() -> str:
    """English prose that comes with this repository: the README and the documentation."""
    return "\n\n".join(file.read_text() for file in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.perplexity", description=__doc__)
    parser.add_argument("--target", help="checkpoint folder (default: the demo model)")
    parser.add_argument("--text", type=Path, metavar="FILE", help="default: this repository's README and docs")
    parser.add_argument("--dtypes", default="bf16,int8,int8a8", help="the first is what the others are compared with")
    parser.add_argument("--window", type=int, default=512, help="tokens; at least half of them precede a scored one")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="only the first N tokens of the text")
    parser.add_argument("--threads", type=int, help="threads (default: all cores)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the numbers here")
    args = parser.parse_args()
    threads = set_threads(args.threads)
    path = Path(args.target or demo_model())
    ids = Tokenizer(path).encode(args.text.read_text() if args.text else default_text())[: args.max_tokens]
    cut, lines, first = windows(ids, args.window), [], None
    for dtype in args.dtypes.split(","):
        target = load_target(path, dtype=dtype)
        perplexity, best = evaluate(target, cut, args.window)
        first = first or (perplexity, best)
        agreement = (best == first[1]).float().mean().item()
        lines.append(Line(target.dtype_name, perplexity, perplexity / first[0] - 1, agreement, target.nbytes / 1e6))
    scored = len(first[1]) if first else 0
    table = Table("dtype", "perplexity", "change", "same top token", "MB", title=f"{path.name}, {scored} tokens")
    for x in lines:
        table.add_row(x.dtype, f"{x.perplexity:.4f}", f"{x.change:+.3%}", f"{x.agreement:.2%}", f"{x.megabytes:.0f}")
    Console().print(table)
    if args.json:
        meta = {"target": path.name, "text": args.text.name if args.text else "README and docs", "tokens": scored}
        meta |= conditions() | {"window": args.window, "threads": threads}
        args.json.write_text(json.dumps({"meta": meta, "lines": [asdict(line) for line in lines]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
