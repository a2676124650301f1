# Types of the native module (csrc/module.cpp). Addresses are data_ptr() integers, 0 if absent; sizes and dtype codes
# (0 float32, 1 bfloat16; of a weight matrix also 2 int8, 3 int8a8) as in csrc/params.h. Call these through
# pspec_rt.ops, which checks the shapes.

from collections.abc import Sequence

def linear(
    x: int,
    w: int,
    bias: int,
    norm: int,
    out: int,
    R: int,
    I: int,
    O: int,
    eps: float,
    gated: bool,
    add: bool,
    x_dtype: int,
    w_dtype: int,
    out_dtype: int,
    /,
) -> None: ...
def tree_attention(
    q: int,
    k: int,
    v: int,
    prefix: int,
    words: int,
    out: int,
    B: int,
    N: int,
    H: int,
    G: int,
    S: int,
    E: int,
    scale: float,
    window: int,
    dtype: int,
    cache_stride_b: int,
    cache_stride_g: int,
    /,
) -> None: ...
def head_top_k(
    x: int,
    w: int,
    out_ids: int,
    out_scores: int,
    temperature: int,
    noise: int,
    noise_row: int,
    id_map: int,
    R: int,
    M: int,
    D: int,
    V: int,
    C: int,
    x_dtype: int,
    w_dtype: int,
    /,
) -> None: ...
def gumbel_noise(seed: int, first_position: int, out: int, B: int, P: int, V: int, /) -> None: ...
def build_tree(
    candidate_ids: int,
    candidate_scores: int,
    bonus: int,
    length: int,
    ids: int,
    parent: int,
    depth: int,
    words: int,
    positions: int,
    prefix: int,
    noise_row: int,
    t_parent: int,
    t_depth: int,
    t_rank: int,
    t_words: int,
    B: int,
    K: int,
    C: int,
    N: int,
    noise_stride: int,
    /,
) -> None: ...
def accept(
    ids: int,
    parent: int,
    target: int,
    stop_ids: int,
    limit: int,
    length: int,
    finished: int,
    bonus: int,
    tokens: int,
    path: int,
    emitted: int,
    count: int,
    ring_words: int,
    ring_control: int,
    B: int,
    N: int,
    Q: int,
    S: int,
    P: int,
    ring_capacity: int,
    /,
) -> None: ...
def compact_kv(
    kv: int, path: int, count: int, length: int, L2: int, B: int, G: int, S: int, row_bytes: int, P: int, /
) -> None: ...
def embed(ids: int, table: int, out: int, R: int, V: int, M: int, table_dtype: int, dtype: int, /) -> None: ...
def add_rms_norm(x: int, residual: int, weight: int, out: int, R: int, M: int, eps: float, dtype: int, /) -> None: ...
def silu_mul(gate_up: int, out: int, R: int, I: int, dtype: int, /) -> None: ...
def rope_append(
    qkv: int,
    positions: int,
    prefix: int,
    cos: int,
    sin: int,
    k: int,
    v: int,
    q: int,
    q_norm: int,
    k_norm: int,
    B: int,
    N: int,
    H: int,
    G: int,
    S: int,
    E: int,
    max_positions: int,
    eps: float,
    dtype: int,
    cache_stride_b: int,
    cache_stride_g: int,
    /,
) -> None: ...
def draft_inputs(
    ids: int,
    features: int,
    count: int,
    masks: int,
    fc: int,
    out: int,
    table: int,
    bias: int,
    anchor_map: int,
    B: int,
    P: int,
    J: int,
    M: int,
    F: int,
    E: int,
    V: int,
    dtype: int,
    table_dtype: int,
    /,
) -> None: ...
def select_tokens(
    logits: int,
    out_ids: int,
    temperature: int,
    top_k: int,
    top_p: int,
    min_p: int,
    noise: int,
    noise_row: int,
    out_logprob: int,
    out_top_ids: int,
    out_top_logprobs: int,
    R: int,
    V: int,
    top: int,
    /,
) -> None: ...
def draft_rows(
    emitted: int,
    count: int,
    length: int,
    ids: int,
    positions: int,
    prefix: int,
    words: int,
    take: int,
    source: int,
    B: int,
    P: int,
    N: int,
    shift: int,
    mask_id: int,
    vocab: int,
    /,
) -> None: ...
def grow_tree(
    ids: int,
    scores: int,
    length: int,
    words: int,
    pool_ids: int,
    pool_scores: int,
    origin: int,
    next_ids: int,
    next_positions: int,
    next_words: int,
    next_parent: int,
    prefix: int,
    append: int,
    picks: int,
    B: int,
    G: int,
    C: int,
    W: int,
    X: int,
    level: int,
    first: int,
    shift: int,
    /,
) -> None: ...
def prune_tree(
    pool_ids: int,
    pool_scores: int,
    origin: int,
    bonus: int,
    length: int,
    ids: int,
    parent: int,
    depth: int,
    words: int,
    positions: int,
    prefix: int,
    noise_row: int,
    picks: int,
    B: int,
    G: int,
    C: int,
    N: int,
    noise_stride: int,
    /,
) -> None: ...
def cast(x: int, out: int, size: int, x_dtype: int, out_dtype: int, /) -> None: ...
def silu_add(y: int, out: int, R: int, M: int, dtype: int, /) -> None: ...
def move_rows(buffers: int, from_rows: int, to_rows: int, L: int, B: int, P: int, row_bytes: int, /) -> None: ...
def ngram_draft(
    tokens: int,
    length: int,
    out_ids: int,
    out_scores: int,
    B: int,
    S: int,
    K: int,
    stride_b: int,
    stride_k: int,
    max_ngram: int,
    min_ngram: int,
    /,
) -> None: ...
def blend_candidates(ids: int, scores: int, candidate_ids: int, candidate_scores: int, R: int, C: int, /) -> None: ...
def gather_features(features: int, path: int, out: int, B: int, P: int, N: int, row_bytes: int, /) -> None: ...
def store_tap(
    state: int, features: int, R: int, row_bytes: int, features_row_bytes: int, column_bytes: int, /
) -> None: ...

# Launch graphs: kernels launched between begin and end are recorded, and run at every replay.
def graph_recording() -> bool: ...
def graph_begin() -> None: ...
def graph_end() -> int: ...
def graph_size(handle: int, /) -> int: ...
def graph_replay(handle: int, /) -> None: ...
def graph_burst(handle: int, go: int, /) -> int: ...
def graph_profile(handle: int, /) -> list[tuple[str, float]]: ...
def graph_free(handle: int, /) -> None: ...
def clock(seconds: int, /) -> None: ...

# CUDA kernels that multiply matrices; only where the module was built with CUDA.
def cuda_linear(
    x: int,
    w: int,
    bias: int,
    norm: int,
    out: int,
    R: int,
    I: int,
    O: int,
    eps: float,
    gated: bool,
    add: bool,
    x_dtype: int,
    w_dtype: int,
    out_dtype: int,
    normed: int,
    pdl: bool,
    stream: int,
    /,
) -> None: ...
def cuda_draft_forward_bytes(sizes: Sequence[int], /) -> int: ...
def cuda_draft_forward(
    addresses: Sequence[int], sizes: Sequence[int], eps: float, scale: float, pdl: bool, stream: int, /
) -> None: ...

# Captured CUDA graphs that loop by themselves; only where the module was built with CUDA.
def cuda_while_create(round: int, /) -> int: ...
def cuda_while_launch(handle: int, control: int, stream: int, /) -> None: ...
def cuda_while_destroy(handle: int, /) -> None: ...

# The host's side of the ring (pspec_rt.ring).
def ring_wait(words: int, seen: int, timeout_us: int, /) -> int: ...  # head, once it is not `seen`
def ring_store(words: int, index: int, value: int, /) -> None: ...
def set_num_threads(n: int, /) -> None: ...  # not while a kernel runs in another thread
def num_threads() -> int: ...
def set_isa(name: str, /) -> None: ...  # "" for the best; ValueError if this CPU cannot run it
def use_huge_pages(data: int, nbytes: int, /) -> int: ...  # bytes covered; before the buffer is filled
def read_sum(data: int, nbytes: int, /) -> tuple[int, float]: ...  # sum of the 64-bit words, seconds it took
def build_info() -> dict[str, str | bool | int | list[str]]: ...
def philox(counter: list[int], key: list[int], /) -> list[int]: ...
def gumbel_of_bits(bits: int, /) -> float: ...
def fake_token(round: int, b: int, i: int, /) -> int: ...
def ring_fake_rounds(words: int, control: int, capacity: int, B: int, P: int, rounds: int, /) -> None: ...
