"""The house: which room may import which, and what the core does not know."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from instsearch_cli.engine.registry import load_registry
from instsearch_cli.engine.stages import GRID, IMAGE, TABLE

ROOT = Path(__file__).parents[1]
CORE = ROOT / "instsearch_cli"
CONTRACT = (
    *("boxes", "components", "data", "errors", "hookspecs", "interrupt"),
    *("options", "progress", "specs", "storage", "testing"),
)
FLOORS = {
    "instsearch_formats": 0,
    **dict.fromkeys(CONTRACT, 1),
    "": 1,  # instsearch_cli itself, which hands on parts of the contract
    "outside": 2,
    "images": 2,
    "networks": 3,
    "engine": 4,
    "measure": 5,
    "report": 6,
    "demo": 6,
    "serve": 7,
    "commands": 8,
    "main": 9,
    "__main__": 10,
}
"""The floor of each room of the core; imports go down, or stay on their floor where it is one room."""
PLUGINS_MAY = {*CONTRACT, "", "images", "networks", "outside"}
MEASURING = {"measure.fixations", "measure.matfile", "measure.metrics", "measure.saliency_metrics"}
OTHERS = {"engine.registry", "report.plot"}


def modules(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def imported(path: Path) -> Iterator[str]:
    """Every module of ours that a file imports, at its top, in a function or for its types."""
    for node in ast.walk(parsed(path)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            below = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [
                n if (ROOT / Path(*n.split("."))).with_suffix(".py").exists() else node.module for n in below
            ]
        yield from (name for name in names if name.startswith("instsearch"))


def room(module: str) -> str:
    """The room of a module of the core, "" for what lies at its top with no name; or the package that it is of."""
    package, _, rest = module.partition(".")
    return rest.partition(".")[0] if package == "instsearch_cli" else package


@pytest.mark.parametrize("path", modules(CORE), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_go_down(path: Path) -> None:
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    here = room(module)
    for name in imported(path):
        there = room(name)
        assert there in FLOORS, f"{module} imports {name}, which is of no room"
        allowed = FLOORS[there] < FLOORS[here] or there == here or {there, here} <= {*CONTRACT, ""}
        assert allowed, f"{module} imports {name}, which is above it"


def test_there_is_no_circle_of_files() -> None:
    below: dict[str, set[str]] = {}
    for path in modules(CORE):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        below[module] = {
            name for name in imported(path) if name.startswith("instsearch_cli.") and name != module
        }
    packages = {m for m in below if (ROOT / Path(*m.split("."))).is_dir()}
    done: set[str] = set()

    def walk(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join((*above, module))
        if module not in done:
            for name in below.get(module, set()) - packages:
                walk(name, (*above, module))
            done.add(module)

    for module in below:
        walk(module, ())


def test_the_core_is_a_few_rooms() -> None:
    assert len(set(CORE.glob("*.py")) - {CORE / "__main__.py"}) < 14
    for path in [*modules(CORE), *modules(ROOT / "plugins"), *modules(ROOT / "instsearch")]:
        assert len(path.read_text("utf-8").splitlines()) <= 400, path


def test_plugins_import_what_is_for_them() -> None:
    for path in modules(ROOT / "plugins"):
        for name in imported(path):
            if name.startswith("instsearch_cli"):
                module = name.removeprefix("instsearch_cli").strip(".")
                assert room(name) in PLUGINS_MAY or module in MEASURING | OTHERS, f"{path} imports {name}"


def test_the_facade_has_nothing_of_its_own() -> None:
    kinds = [type(node) for node in parsed(ROOT / "instsearch" / "__init__.py").body]
    assert ast.ClassDef not in kinds
    functions = [
        n.name for n in parsed(ROOT / "instsearch" / "__init__.py").body if isinstance(n, ast.FunctionDef)
    ]
    assert functions == ["__getattr__", "__dir__"]


# -- what the core does not know ------------------------------------------------------------------------


def literals(path: Path) -> Iterator[ast.Constant]:
    """The text constants of a file that are no docstrings."""
    tree = parsed(path)
    said = {
        id(statement.value)
        for node in ast.walk(tree)
        if isinstance(getattr(node, "body", None), list)
        for statement in node.body  # type: ignore[attr-defined]
        if isinstance(statement, ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said:
            yield node


WORDS = {"none", "grid", "maps", "regions", "cam", "manifest"}
"""Methods whose names are words of the command line, or of the format, too."""
FLAGS = r"--(?:preset|extractor|weighting|detector|encoder|searcher|rerank)[ =]([a-z0-9_-]+)"


def test_the_core_names_no_method() -> None:
    names = {name for offers in load_registry().offers.values() for name in offers} - WORDS
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.value!r}"
        for path in modules(CORE)
        if path.relative_to(CORE).parts[0] != "demo"
        for node in literals(path)
        if names.intersection([node.value, *re.findall(FLAGS, node.value)])
    ]
    assert not found


def test_layers_are_spelled_in_the_stage_table() -> None:
    kinds = {*TABLE, IMAGE, GRID} - {
        "image",
        "weights",
        "cache",
    }  # as pictures, files and folders are called too
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.value!r}"
        for path in modules(CORE)
        if "commands" not in path.parts
        and path.relative_to(CORE).as_posix()
        not in ("engine/stages.py", "engine/workers.py")  # "local", a machine
        for node in literals(path)
        if node.value in kinds
    ]
    assert len(found) < 20, found


def test_abilities_are_declared_not_asked_for_by_name() -> None:
    """``getattr`` with a name is for what is none of ours: an exception's note, a stream's encoding."""
    about = {"error", "reason", "console.file", "method", "manager.hook", "tensor", "cls", "config"}
    found = []
    for path in modules(CORE):
        for node in ast.walk(parsed(path)):
            match node:
                case ast.Call(func=ast.Name(id="getattr" | "hasattr"), args=[first, *_]):
                    of = ast.unparse(first)
                    if of not in about and "import_module" not in of:
                        found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}")
    assert not found


FADED = {"known", "got", "made", "told", "apart", "asked"}


def names_in(path: Path) -> Iterator[str]:
    """Every name that a file gives to something: variables, arguments, functions, classes, attributes."""
    for node in ast.walk(parsed(path)):
        match node:
            case (
                ast.Name(id=name) | ast.arg(arg=name) | ast.Attribute(attr=name) | ast.keyword(arg=str(name))
            ):
                yield name
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield name


@pytest.mark.parametrize("path", modules(CORE), ids=lambda p: str(p.relative_to(CORE)))
def test_data_are_nouns_and_functions_are_verbs(path: Path) -> None:
    assert not FADED & {name.strip("_").lower() for name in names_in(path)}
