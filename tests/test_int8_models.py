"""Models and drafters with int8 weights: loading, memory, closeness to bf16, and drafting that changes nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pspec_rt import Generator, ops
from pspec_rt.drafters.checkpoint import load_drafter, save_drafter
from pspec_rt.drafters.config import KINDS
from pspec_rt.drafters.new import init_drafter
from pspec_rt.engine import Engine
from pspec_rt.errors import ConfigError
from pspec_rt.kv_cache import KVCache
from pspec_rt.models import Target, load_target
from pspec_rt.models.target import resolve_dtype
from pspec_rt.models.weights import Checkpoint
from pspec_rt.models.workspace import Workspace
from pspec_rt.quantize import Int8Weight, quantize
from tests.ops.cases import i32
from tests.running import run
from tests.test_lossless import CHUNK, DRAFTERS, PROMPTS, check, make_params, make_tree
from tests.tiny import tiny_checkpoint, tiny_target

INT8 = ["int8", "int8a8"]
MATRICES = ("qkv_XM", "o_MO", "gate_up_2IM", "down_MI")


def logits(target: Target, ids: list[int]) -> Tensor:
    """[T, V] of a prompt, by one prefill chunk."""
    config, decoder = target.config, target.decoder
    kv = (config.num_layers, 1, config.num_kv_heads, len(ids), config.head_dim)
    decoder.stack.rope.reserve(len(ids))
    cache, work = KVCache.allocate(*kv, dtype=target.dtype), Workspace(config, len(ids), dtype=target.dtype)
    hidden_RM, out_RV = decoder.prefill_chunk(i32(ids), 0, cache, work), torch.empty(len(ids), config.vocab_size)
    ops.linear(hidden_RM, decoder.head_VM, out_RV)
    return out_RV


# -- loading -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", INT8)
@pytest.mark.parametrize("tie", [True, False])
def test_loading_rounds_the_matrices_and_nothing_else(tie: bool, dtype: str) -> None:
    kind = {"architecture": "Qwen2ForCausalLM", "tie": tie, "shard_size": "100KB"}  # has biases
    target, plain = tiny_target(dtype=dtype, **kind), tiny_target(dtype="bf16", **kind)
    decoder, expected = target.decoder, plain.decoder
    assert (target.dtype, target.dtype_name, plain.dtype_name) == (torch.bfloat16, dtype, "bfloat16")
    assert (decoder.head_VM is decoder.embed_VM) == tie
    pairs = [(decoder.embed_VM, expected.embed_VM), (decoder.head_VM, expected.head_VM)]
    for own, theirs in zip(decoder.stack.layers, expected.stack.layers, strict=True):
        pairs += [(getattr(own, name), getattr(theirs, name)) for name in MATRICES]
        for name in ("input_norm_M", "post_norm_M", "qkv_bias_X"):
            assert torch.equal(getattr(own, name), getattr(theirs, name))
    for own, theirs in pairs:
        assert isinstance(own, Int8Weight) and own.a8 == (dtype == "int8a8") and own.data_ptr() % 64 == 0
        assert torch.equal(own.rows(), quantize(theirs).rows())
    assert torch.equal(decoder.norm_M, expected.norm_M)


def test_bytes_are_little_more_than_half() -> None:
    options = (("intermediate_size", 128),)  # whole groups
    sizes = [tiny_target(dtype=dtype, options=options).nbytes for dtype in ("int8", "bf16")]
    assert 0.5 < sizes[0] / sizes[1] < 0.54


def test_what_cannot_be_loaded_says_why() -> None:
    path = tiny_checkpoint()
    with pytest.raises(ConfigError, match="'int4' is not supported; choose .*'int8a8'"):
        load_target(path, dtype="int4")
    with pytest.raises(ConfigError, match="int8 weights run on CPU only"):
        resolve_dtype("int8", tiny_target().config, Checkpoint(path), torch.device("cuda"))


@pytest.mark.parametrize("kind", KINDS)
def test_an_int8_drafter_comes_from_a_float_checkpoint(tmp_path: Path, kind: str) -> None:
    target = tiny_target(dtype="int8")
    parts = {"parallelspec-eagle": ("bias", "head", "embedding", "anchor_map"), "parallelspec-medusa": ("blocks",)}
    made = init_drafter(kind, target, 4, parts=parts.get(kind, ()), seed=1)
    save_drafter(made, tmp_path)
    same, small = load_drafter(tmp_path, target), load_drafter(tmp_path, target, dtype="int8a8")
    assert same.nbytes == made.nbytes and small.nbytes < 0.75 * made.nbytes
    assert load_drafter(tmp_path, target).checkpoint() is not None
    with pytest.raises(ConfigError, match=f"{kind} drafter has int8a8 weights, which cannot be saved"):
        save_drafter(small, tmp_path / "again")


def test_a_drafter_never_inherits_int8(tmp_path: Path) -> None:
    save_drafter(init_drafter("lm", tiny_target(), 4), tmp_path)
    for given, expected in ((None, "float32"), ("bf16", "bfloat16"), ("int8", "int8")):
        generator = Generator(tiny_checkpoint(), tmp_path, dtype="int8", drafter_dtype=given)
        assert generator.target.dtype_name == "int8"
        assert generator.drafter.model.dtype_name == expected


# -- results -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [("int8", 0.06), ("int8a8", 0.07)])
def test_logits_are_near_those_of_fp32(dtype: str, tolerance: float) -> None:
    """Relative to the spread of the logits of a random model; bf16 alone is off by 0.024."""
    exact_TV, out_TV = (logits(tiny_target(dtype=d), PROMPTS[2]) for d in ("fp32", dtype))
    assert (out_TV - exact_TV).std() < tolerance * exact_TV.std()


def test_ref_runs_them_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The matrices give the same bits; norms and attention may round bf16 otherwise."""
    expected_TV = logits(tiny_target(dtype="int8"), PROMPTS[2])
    monkeypatch.setenv("PSPEC_BACKEND", "ref")
    ops.choose_backends("cpu")
    out_TV = logits(tiny_target(dtype="int8"), PROMPTS[2])
    monkeypatch.undo()
    ops.choose_backends("cpu")
    assert (out_TV - expected_TV).std() < 0.05 * expected_TV.std()


@pytest.mark.parametrize("dtype", INT8)
@pytest.mark.parametrize("drafter", [d for d in DRAFTERS if d != "bad"])
def test_speculative_equals_plain(drafter: str, dtype: str) -> None:
    cases = (("chain", 4, 1, "greedy"), ("best-first", 7, 3, "noise"), ("static", 4, 3, "top_p"))
    for tree, k, batch, sampling in cases:
        check(drafter, tree, k, batch, sampling, dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_int8_drafters_change_nothing(tmp_path: Path, kind: str) -> None:
    target = tiny_target(dtype="int8")
    save_drafter(init_drafter(kind, target, 4, parts=("head",) if kind.startswith("parallelspec") else ()), tmp_path)
    expected = run(Engine(target, max_length=96, prefill_chunk=CHUNK), [PROMPTS[0]], make_params("noise", 1))
    for dtype in INT8:
        drafter = load_drafter(tmp_path, target, dtype=dtype)
        engine = Engine(target, drafter, max_length=96, tree=make_tree("best-first", 4), prefill_chunk=CHUNK)
        assert run(engine, [PROMPTS[0]], make_params("noise", 1)) == expected


def test_the_int8_target_as_its_own_drafter_is_always_right() -> None:
    target = tiny_target(dtype="int8")
    engine = Engine(target, load_drafter(target.path, target, dtype="int8"), max_length=96, k=3, prefill_chunk=CHUNK)
    slot = engine.add(PROMPTS[0], make_params("noise", 1)[0])
    while not (outputs := engine.step()) or outputs[0].finish_reason is None:
        pass
    assert engine.release(slot).rounds == 7  # 28 tokens, 4 a round


# -- the real model ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"temperature": 0.8, "seed": 3}], ids=["greedy", "sampled"])
def test_drafting_changes_nothing_on_the_real_model(smollm2: Path, options: dict[str, float]) -> None:
    plain = Generator(smollm2, drafter=None, dtype="int8", device="cpu", max_length=512)
    drafting = Generator(plain.target, drafter="ngram", max_length=512)
    prompts = ["Repeat three times: the cat sat on the mat.", "List the days of the week, twice."]
    for prompt in prompts:
        chat = [{"role": "user", "content": prompt}]
        outputs = [g.generate(chat, max_new_tokens=40, **options) for g in (plain, drafting)]
        assert outputs[0].token_ids == outputs[1].token_ids


MEMORY = """
import sys, threading, time
from pathlib import Path
import torch
from pspec_rt.models import load_target

def own():  # bytes in memory that are not files
    line = next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("RssAnon"))
    return int(line.split()[1]) << 10

load_target(sys.argv[2], dtype="int8")
before, peak, done = own(), 0, False
def watch():
    global peak
    while not done:
        peak = max(peak, own())
        time.sleep(0.002)
watcher = threading.Thread(target=watch)
watcher.start()
target = load_target(sys.argv[1], dtype="int8")
done = True
watcher.join()
print(peak - before, own() - before, target.nbytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_loading_holds_one_matrix_besides(smollm2: Path) -> None:
    """Peak: the final weights x 1.1, one matrix in bf16 (the embedding), and working memory of a chunk of rows."""
    command = [sys.executable, "-c", MEMORY, str(smollm2), str(tiny_checkpoint())]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    peak, after, weights = map(int, done.stdout.split())
    matrix, chunk = 49152 * 576 * 2, 1024 * 1536 * 4 * 6
    assert after < 1.1 * weights + chunk, (after, weights)
    assert peak < 1.1 * weights + matrix + chunk, (peak, weights)
