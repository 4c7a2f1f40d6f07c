"""Who may know whom, and how large things may be: read from the source, nothing is imported."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# The rooms of dode_core from the ground up; modules on the top level are rooms of their own.
# A room knows those below it; those in one line do not know each other.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "version"),
    ("solve",),
    ("tables",),
    ("match", "fit"),
    ("learn",),
    ("response",),
    ("reuse",),
    ("methods", "session", "sampler", "report", "step_counts", "worth"),
    ("distillation", "many_tables", "calibration", "shelf"),
    ("demo", "refining"),
    ("offline",),
    ("commands",),
    ("__main__",),
)
# The hosts' own modules, and the folders of ours that stand on them.
HOSTS = {"comfy", "comfy_api", "comfy_extras", "comfy_execution", "folder_paths", "latent_preview"}
HOSTS |= {"server", "modules", "modules_forge", "gradio", "fastapi", "starlette", "launch"}
MAX_FILE, MAX_FUNCTION, MAX_PARAMETERS, MAX_NODE = 250, 50, 7, 100
ADAPTERS = {"nodes", "dode_webui", "scripts"}
OURS = ("nodes", "ComfyUI's nodes")  # an absolute name, and what it is told by
SOURCES = ("dode_core", "nodes", "dode_webui", "scripts", "benchmarks")

Function = ast.FunctionDef | ast.AsyncFunctionDef
FILES = sorted(path for folder in SOURCES for path in (ROOT / folder).rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def name_of(path: Path) -> str:
    """The dotted name of a module, a package's own for its __init__."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in FILES}


def host(name: str) -> str:
    """The pack imports itself relatively: an absolute "nodes" is ComfyUI's module of that name."""
    return "comfy's nodes" if name == "nodes" else name


def imports_of(path: Path) -> Iterator[str]:
    """Full names of all that a file imports, in functions too; TYPE_CHECKING blocks are left out.

    ``from package import name`` gives package.name where that is a module, else package.
    """
    package = list(path.relative_to(ROOT).parts[:-1])
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            skipped.update(each for part in node.body for each in ast.walk(part))
    for node in ast.walk(tree(path)):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (host(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{source}.{alias.name}"
                yield full if full in MODULES else source
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            first = node.args[0]
            if isinstance(first, ast.Constant):
                yield (
                    ".".join(package) + first.value if first.value[0] == "." else host(first.value)
                )


def room_of(module: str) -> str | None:
    """The room of dode_core that a module is in; None outside of it and for its __init__."""
    parts = module.split(".")
    return parts[1] if parts[0] == "dode_core" and len(parts) > 1 else None


def floor_of(room: str) -> int:
    found = [i for i, rooms in enumerate(FLOORS) if room in rooms]
    assert found, f"{room} has no floor yet; say in FLOORS whom it may know"
    return found[0]


def test_rooms_know_only_those_below() -> None:
    wrong = []
    for module, path in MODULES.items():
        room = room_of(module)
        if room is None:
            continue
        for other in imports_of(path):
            to = room_of(other)
            if to is not None and to != room and floor_of(to) >= floor_of(room):
                wrong.append(f"{module} imports {other}")
    assert not wrong


def test_no_circles() -> None:
    """Following imports of modules, nobody comes back to where they started."""
    known = {
        module: {other for other in imports_of(path) if other in MODULES and other != module}
        for module, path in MODULES.items()
    }
    done: set[str] = set()

    def walk(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join([*way[way.index(module) :], module])
        if module not in done:
            for other in known[module]:
                walk(other, (*way, module))
            done.add(module)

    for module in known:
        walk(module, ())


def test_the_core_knows_no_host() -> None:
    """Nor an adapter, nor the tests: what dode_core imports is PyPI's, Python's or its own."""
    wrong = [
        f"{module} imports {other}"
        for module, path in MODULES.items()
        if module.split(".")[0] == "dode_core"
        for other in imports_of(path)
        if other.split(".")[0] in HOSTS | ADAPTERS | {"benchmarks", "tests"}
    ]
    assert not wrong


def test_adapters_do_not_know_each_other() -> None:
    wrong = [
        f"{module} imports {other}"
        for module, path in MODULES.items()
        for other in imports_of(path)
        if (ours := module.split(".")[0]) in ADAPTERS | {"dode_core"}
        and (theirs := other.split(".")[0]) in ADAPTERS
        and theirs != ours
        and (ours, theirs) != ("scripts", "dode_webui")  # the host loads from that folder alone
    ]
    assert not wrong


def test_what_is_read_is_what_is_there() -> None:
    """The rules above see imports of every form: they are not empty."""
    core = set(imports_of(ROOT / "dode_core" / "offline" / "sources.py"))
    assert "dode_core.demo.model" in core, "an import inside a function"
    assert any(other == "comfy.samplers" for other in imports_of(ROOT / "nodes/host/sampling.py"))
    assert len(MODULES) > 100 and "torch" not in sys.stdlib_module_names


def functions(path: Path) -> Iterator[Function]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def lines(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def is_declaration(node: Function) -> bool:
    """Node schemas, lists of widgets and command line options: long, and nothing happens there."""
    statements = [each for each in node.body if not isinstance(each, ast.Return | ast.Assign)]
    only_returns = all(isinstance(each, ast.Expr) for each in statements)
    return node.name == "define_schema" or (only_returns and not branches(node))


def branches(node: Function) -> bool:
    kinds = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.Raise)
    return any(isinstance(each, kinds) for each in ast.walk(node))


def is_public(path: Path, node: Function) -> bool:
    """Whether a signature is one that users write: a name of ``dode_core.__all__``."""
    init = tree(ROOT / "dode_core" / "__init__.py")
    for each in init.body:
        if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == "__all__":
            names = ast.literal_eval(each.value)
            return node.name in names and room_of(name_of(path)) is not None
    raise AssertionError("dode_core has no __all__")


def is_host_signature(path: Path, node: Function) -> bool:
    """What a host calls with its own widgets or with k-diffusion's arguments."""
    adapter = path.relative_to(ROOT).parts[0] in ADAPTERS
    return adapter and node.name in ("execute", "sample_dode", "run_from_tab")


def parameters(node: Function) -> int:
    every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return len([each for each in every if each.arg not in ("self", "cls")])


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_sizes(path: Path) -> None:
    count = len(path.read_text(encoding="utf-8").splitlines())
    assert count <= MAX_FILE, f"{count} lines"
    for node in functions(path):
        if not is_declaration(node):
            assert lines(node) <= MAX_FUNCTION, f"{node.name} has {lines(node)} lines"
        if not (is_public(path, node) or is_host_signature(path, node)):
            count = parameters(node)
            assert count <= MAX_PARAMETERS, f"{node.name} has {count} parameters"


@pytest.mark.parametrize("path", sorted((ROOT / "nodes").glob("*_node.py")), ids=lambda p: p.stem)
def test_nodes_are_short(path: Path) -> None:
    count = len(path.read_text(encoding="utf-8").splitlines())
    assert count < MAX_NODE, f"{count} lines"
