"""The house rules: every op has its rooms, imports point one way, files and functions stay readable."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

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
    ("env",),
    ("tree", "sampling", "kv_cache", "state", "result", "tokenizer", "text"),
    ("ref", "triton_kernels", "_C"),
    ("ops", "build"),
    ("convert", "hub", "models"),
    ("drafters",),
    ("step", "prefill"),
    ("loop",),
    ("engine",),
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


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def each(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths, ids=name_of)


def functions(path: Path) -> Iterator[Function]:
    return (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, Function))


@pytest.mark.parametrize("op", OPS)
def test_an_op_has_all_its_rooms(op: str) -> None:
    rooms = [f"pspec_rt/ref/{op}.py", f"tests/ops/test_{op}.py", f"bench/ops/bench_{op}.py"]
    if "cpu" in REGISTRY[op].backends:
        rooms.append(f"csrc/cpu/{op}.cpp")
    missing = [room for room in rooms if not (ROOT / room).is_file()]
    assert not missing, f"op {op} lacks {missing}"


def test_rooms_belong_to_an_op() -> None:
    refs = {p.stem for p in (PACKAGE / "ref").glob("*.py") if not p.stem.startswith("_")}
    benches = {p.stem.removeprefix("bench_") for p in (ROOT / "bench" / "ops").glob("bench_*.py")}
    assert refs == set(OPS) == set(REGISTRY)
    assert benches == set(OPS)


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """(line, first name below pspec_rt) of the package's own imports, those for type checkers apart."""
    inside = path.relative_to(PACKAGE).with_suffix("").parts[:-1]
    tree = ast.parse(path.read_text())
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            modules = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ["pspec_rt", *inside][: len(inside) + 2 - node.level] if node.level else []
            module = base + (node.module.split(".") if node.module else [])
            modules = [[*module, alias.name] for alias in node.names]
        else:
            continue
        yield from ((node.lineno, m[1]) for m in modules if m[0] == "pspec_rt" and len(m) > 1)
        above = {m[0] for m in modules} & {"bench", "tests"}
        assert not above, f"{name_of(path)}:{node.lineno} imports {above}"


@each([p for p in SOURCES if p != PACKAGE / "__init__.py"])
def test_imports_point_one_way(path: Path) -> None:
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    assert own in RANK, f"{own} has no place in LAYERS"
    for line, name in imported(path):
        is_module = name in RANK or (PACKAGE / f"{name}.py").exists() or (PACKAGE / name).is_dir()
        if is_module and name != own:
            assert RANK[name] <= RANK[own], f"{name_of(path)}:{line} imports {name}, which is above {own}"


@each(ALL_PYTHON + NATIVE)
def test_file_says_what_it_is_and_is_short(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert not lines or lines[0].startswith(('"""', "#", "//")), "the first line must say what the file is"
    assert len(lines) <= MAX_FILE, f"{len(lines)} lines"


def body_lines(function: Function) -> int:
    """Lines of a function's body, docstring not counted."""
    first = function.body[1] if ast.get_docstring(function) and len(function.body) > 1 else function.body[0]
    return function.end_lineno - first.lineno + 1


@each(SOURCES)
def test_functions_are_short_and_annotated(path: Path) -> None:
    for function in functions(path):
        where = f"{name_of(path)}:{function.lineno} {function.name}"
        assert body_lines(function) <= MAX_FUNCTION, f"{where}: {body_lines(function)} lines"
        a = function.args
        arguments = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
        bare = [x.arg for x in arguments if x.annotation is None and x.arg not in ("self", "cls")]
        assert not bare, f"{where}: no annotation for {bare}"
        assert function.returns is not None, f"{where}: no return annotation"


@each([p for p in SOURCES if p.relative_to(PACKAGE).parts[0] != "cli"])
def test_only_the_command_line_prints(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"{name_of(path)}:{node.lineno} prints; use logging"


@each(DECODE_PATH)
def test_decode_path_never_waits_for_the_device(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            assert node.func.attr not in HOST_SYNCS, f"{name_of(path)}:{node.lineno} .{node.func.attr}()"


@each(SOURCES)
def test_errors_are_not_swallowed(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{name_of(path)}:{node.lineno} bare except"


@each([p for p in SOURCES if p != PACKAGE / "env.py"])
def test_environment_variables_are_read_in_one_place(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.environ", "os.getenv"):
            raise AssertionError(f"{name_of(path)}:{node.lineno} reads the environment; use pspec_rt.env")
