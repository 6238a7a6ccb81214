"""Old names warn for one minor version, and then they are gone."""

from __future__ import annotations

import ast
import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import instsearch
from instsearch_cli import __version__
from instsearch_cli.engine.pipeline import LOOSE, Asking, Pipeline, load_preset
from instsearch_cli.engine.registry import load_registry
from instsearch_cli.errors import deprecated

ROOT = Path(__file__).parents[2]
OLD = """
crop-query = true
generation = 2
[extractor]
name = "cells"
[encoder]
name = "centred"
[searcher]
name = "scan"
"""

Cli = Callable[..., Any]


@pytest.fixture
def old(tiny: tuple[str, ...], tmp_path: Path) -> Path:
    path = tmp_path / "old.toml"
    path.write_text(OLD)
    return path


def test_a_file_with_old_names_warns_a_line_for_each(
    cli: Cli, old: Path, photos: Path, tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        said = cli("index", photos, "--index", tmp_path / "i", "--preset", old, "--quiet").err.splitlines()
    ending = "is deprecated and will be gone in instsearch 0.3: write"
    assert [line for line in said if "warning" in line] == [
        f"warning: {old}: 'crop-query' {ending} 'crop' in [query]",
        f"warning: {old}: 'generation' {ending} 'generation' in [fit]",
    ]


def test_what_an_index_holds_never_warns(
    cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path
) -> None:
    index = tmp_path / "i"
    cli("index", photos, "--index", index, *tiny, "--quiet")
    recorded = next((index / "pipelines").glob("*.toml"))
    recorded.write_text(f"crop-query = true\ngeneration = 0\n{recorded.read_text()}")
    cli("info", "--index", index)  # where warnings are errors, as in all tests
    cli("query", photos / "a" / "1.png", "--index", index)
    assert instsearch.open(index).pipelines[recorded.stem].query == Asking(crop=True)


def test_in_python_it_is_the_line_of_the_caller(old: Path, photos: Path, tmp_path: Path) -> None:
    old.write_text(OLD.replace("generation = 2\n", ""))
    with pytest.warns(FutureWarning, match="'crop' in") as caught:
        instsearch.create(tmp_path / "i").index(photos, preset=str(old))
    assert {warning.filename for warning in caught} == {__file__}


def test_the_new_names_say_the_same_and_do_not_warn(old: Path) -> None:
    new = "\n".join(line for line in OLD.splitlines() if line.partition(" = ")[0] not in LOOSE)
    (file := old.with_name("new.toml")).write_text(f"{new}\n[query]\ncrop = true\n[fit]\ngeneration = 2\n")
    with pytest.warns(FutureWarning):
        before = load_preset(str(old), load_registry())
    assert load_preset(str(file), load_registry()) == before == Pipeline.from_toml(OLD, "here")


# -- and then they go -----------------------------------------------------------------------------------


def numbers(version: str) -> tuple[int, ...]:
    """(0, 3) of 0.3.1.dev0: the part that a deprecation counts in."""
    return tuple(int(number) for number in version.split(".")[:2])


@functools.cache
def removals() -> list[tuple[str, str]]:
    """Where something is deprecated, and the version that it goes in."""
    found = []
    for folder in ("instsearch", "instsearch_cli", "plugins", "formats"):
        for path in (ROOT / folder).rglob("*.py"):
            if "deprecated(" not in (text := path.read_text("utf-8")):
                continue
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(deprecated.__name__):
                    last = next(word.value for word in node.keywords if word.arg == "removed_in")
                    found.append((f"{path.relative_to(ROOT)}:{node.lineno}", ast.literal_eval(last)))
    return found


def overdue(version: str) -> list[str]:
    return [where for where, removed_in in removals() if numbers(removed_in) <= numbers(version)]


def test_nothing_stays_after_its_version() -> None:
    assert not overdue(__version__), f"instsearch is {__version__}: take these old names out"
    last = max((removed_in for _, removed_in in removals()), key=numbers, default="0.0")
    assert len(overdue(f"{last}.0")) == len(removals())
