"""The house rules: every op has its rooms, imports point one way, files and functions stay readable."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from pspec_rt.ops._dispatch import REGISTRY

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "pspec_rt"
SOURCES = sorted(PACKAGE.rglob("*.py"))
ALL_PYTHON = SOURCES + [p for d in ("tests", "bench", "triton_kernels") for p in sorted((ROOT / d).rglob("*.py"))]
NATIVE = sorted(p for p in (ROOT / "csrc").rglob("*") if p.suffix in (".h", ".cpp", ".cu", ".cuh"))
OPS = sorted(p.stem for p in (PACKAGE / "ops").glob("*.py") if not p.stem.startswith("_"))

# A module may import from its own layer and from the ones above it in this list.
LAYERS = (
    ("errors",),
    ("env", "scratch", "zoo", "bandit"),
    ("tree", "sampling", "kv_cache", "state", "result", "tokenizer", "text", "quantize"),
    ("ref", "triton_kernels", "_C"),
    ("ops", "build"),
    ("convert", "hub", "models"),
    ("drafters",),
    ("ring", "timing"),
    ("step", "prefill", "simulate", "capture"),
    ("loop",),
    ("rounds",),
    ("engine",),
    ("team",),
    ("generator",),
    ("train", "measure"),
    ("cli",),
)  # fmt: skip
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

MAX_FILE, MAX_FUNCTION = 400, 60
# Reading a value back, or shapes that depend on data: not on the decode path.
HOST_SYNCS = {"item", "tolist", "cpu", "nonzero", "masked_select", "unique", "numpy"}
DECODE_PATH = [PACKAGE / "step.py", PACKAGE / "models" / "decoder.py"] + [
    p for p in SOURCES if p.parent.name in ("ops", "ref")
]
Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def nodes(path: Path) -> list[ast.AST]:
    """Every node of a file's syntax tree."""
    return list(ast.walk(ast.parse(path.read_text())))


def where(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def none(violations: Iterable[str]) -> None:
    """Fail with all violations, one a line."""
    found = list(violations)
    assert not found, "\n" + "\n".join(found)


def method_calls(path: Path) -> Iterator[tuple[int, str]]:
    """(line, method) of every call x.method(..)."""
    for node in nodes(path):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield node.lineno, node.func.attr


def test_an_op_has_all_its_rooms() -> None:
    def rooms(op: str) -> Iterator[str]:
        yield from (f"pspec_rt/ref/{op}.py", f"tests/ops/test_{op}.py", f"bench/ops/bench_{op}.py")
        if "cpu" in REGISTRY[op].backends:
            yield f"csrc/cpu/{op}.cpp"
        if "triton" in REGISTRY[op].backends:
            yield f"triton_kernels/{op}.py"

    none(f"op {op} lacks {room}" for op in OPS for room in rooms(op) if not (ROOT / room).is_file())


def test_rooms_belong_to_an_op() -> None:
    refs = {p.stem for p in (PACKAGE / "ref").glob("*.py") if not p.stem.startswith("_")}
    benches = {p.stem.removeprefix("bench_") for p in (ROOT / "bench" / "ops").glob("bench_*.py")}
    kernels = {p.stem for p in (ROOT / "triton_kernels").glob("*.py") if not p.stem.startswith("_")}
    assert refs == benches == set(OPS) == set(REGISTRY)
    assert kernels == {name for name, op in REGISTRY.items() if "triton" in op.backends}


def imports(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line, dotted name) of what a file imports at run time; relative names resolved."""
    inside = ["pspec_rt", *path.relative_to(PACKAGE).parts[:-1]]
    blocks = [n for n in nodes(path) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    typing_only = {id(node) for block in blocks for node in ast.walk(block)}
    for node in nodes(path):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = inside[: len(inside) + 1 - node.level] if node.level else []
            module = base + (node.module.split(".") if node.module else [])
            yield from ((node.lineno, [*module, alias.name]) for alias in node.names)


def is_module(name: str) -> bool:
    return name in RANK or (PACKAGE / f"{name}.py").exists() or (PACKAGE / name).is_dir()


def test_every_module_has_a_layer() -> None:
    names = {p.relative_to(PACKAGE).with_suffix("").parts[0] for p in SOURCES} - {"__init__"}
    none(f"{name}: give it a place in LAYERS" for name in sorted(names - set(RANK)))


def test_imports_point_one_way() -> None:
    def violations() -> Iterator[str]:
        for path in SOURCES:
            own = path.relative_to(PACKAGE).with_suffix("").parts[0]
            for line, name in imports(path):
                if name[0] in ("bench", "tests"):
                    yield f"{where(path, line)} imports {name[0]}"
                if own == "__init__" or name[0] != "pspec_rt" or len(name) < 2 or not is_module(name[1]):
                    continue
                if RANK.get(name[1], 99) > RANK.get(own, 99):
                    yield f"{where(path, line)} imports {name[1]}, which lies above {own}"

    none(violations())


def test_a_file_says_what_it_is_and_is_short() -> None:
    def violations() -> Iterator[str]:
        for path in ALL_PYTHON + NATIVE:
            lines = path.read_text().splitlines()
            if not lines or not lines[0].startswith(('"""', "#", "//")):
                yield f"{where(path, 1)} the first line must say what the file is"
            if len(lines) > MAX_FILE:
                yield f"{where(path, 1)} has {len(lines)} lines"

    none(violations())


def body_lines(function: Function) -> int:
    """Lines of a function's body, docstring not counted."""
    first = function.body[1] if ast.get_docstring(function) and len(function.body) > 1 else function.body[0]
    return function.end_lineno - first.lineno + 1


def bare_arguments(function: Function) -> list[str]:
    """Arguments without annotation."""
    a = function.args
    arguments = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
    return [x.arg for x in arguments if x.annotation is None and x.arg not in ("self", "cls")]


def test_functions_are_short_and_annotated() -> None:
    def violations() -> Iterator[str]:
        for path in SOURCES:
            for function in (node for node in nodes(path) if isinstance(node, Function)):
                at = f"{where(path, function.lineno)} {function.name}"
                if body_lines(function) > MAX_FUNCTION:
                    yield f"{at} has {body_lines(function)} lines"
                if bare := bare_arguments(function):
                    yield f"{at} lacks annotations of {bare}"
                if function.returns is None:
                    yield f"{at} lacks a return annotation"

    none(violations())


def test_only_the_command_line_prints() -> None:
    quiet = [path for path in SOURCES if path.relative_to(PACKAGE).parts[0] != "cli"]
    calls = ((p, n) for p in quiet for n in nodes(p) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name))
    none(f"{where(p, n.lineno)} prints; use logging" for p, n in calls if n.func.id == "print")


def test_the_decode_path_never_waits_for_the_device() -> None:
    calls = ((path, line, method) for path in DECODE_PATH for line, method in method_calls(path))
    none(f"{where(path, line)} .{method}()" for path, line, method in calls if method in HOST_SYNCS)


def test_no_error_is_swallowed() -> None:
    handlers = ((p, n) for p in SOURCES for n in nodes(p) if isinstance(n, ast.ExceptHandler))
    none(f"{where(path, node.lineno)} bare except" for path, node in handlers if node.type is None)


def test_environment_variables_are_read_in_one_place() -> None:
    others = [path for path in SOURCES if path != PACKAGE / "env.py"]
    attributes = ((p, n) for p in others for n in nodes(p) if isinstance(n, ast.Attribute))
    reads = ((p, n.lineno) for p, n in attributes if ast.unparse(n) in ("os.environ", "os.getenv"))
    none(f"{where(path, line)} reads the environment; use pspec_rt.env" for path, line in reads)
