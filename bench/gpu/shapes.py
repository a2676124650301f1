"""The models whose shapes are measured on a GPU."""

from __future__ import annotations

from bench.ops._bench import MODELS, Model

LLAMA_8B = Model("Llama-3.1-8B", M=4096, H=32, G=8, E=128, I=14336, V=128256, L=32)
QWEN_8B = Model("Qwen3-8B", M=4096, H=32, G=8, E=128, I=12288, V=151936, L=36)
TINY = Model("tiny", M=64, H=4, G=2, E=64, I=96, V=128, L=1)
_KNOWN = {model.name: model for model in MODELS}
LLAMA_1B = _KNOWN["Llama-3.2-1B"]
GPU_MODELS = (LLAMA_8B, LLAMA_1B, QWEN_8B, _KNOWN["SmolLM2-135M"])


def weights_of(m: Model) -> tuple[tuple[int, int], ...]:
    """[rows, columns] of the matrices a pass streams: q/k/v, output projection, gate and up, down, head."""
    return ((m.H + 2 * m.G) * m.E, m.M), (m.M, m.H * m.E), (2 * m.I, m.M), (m.M, m.I), (m.V, m.M)
