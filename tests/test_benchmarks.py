"""Benchmarks say what they need, and name no folder outside the repository."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
SHARED = ("arguments", "evaluating", "isolated", "outside_files")
BENCHMARKS = sorted(path for path in FOLDER.glob("*.py") if path.stem not in SHARED)


def run(path: Path, *arguments: str) -> int | str | None:
    """The exit code of `python benchmarks/NAME.py ...`, which ends while it reads its arguments."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        patch.setattr(sys, "argv", [str(path), *arguments])
        spec.loader.exec_module(module)
        with pytest.raises(SystemExit) as ended:
            module.main()
    return ended.value.code


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_help_is_the_docstring_and_names_each_argument(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(path, "--help") == 0
    said = capsys.readouterr().out
    doc = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    assert doc.splitlines()[0] in said
    for option in re.findall(r"(?<= |\[)--[a-z-]+(?= (?:DIR|FILE)\b)", doc):
        assert f"{option} " in said.partition("options:")[2], option


@pytest.mark.parametrize("name", ["extract", "library", "object_discovery"])
def test_without_data_it_says_what_data_must_hold(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = FOLDER / f"{name}.py"
    assert run(path) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert "required: --data" in told
    assert re.search(r"; --data is a folder with (manifest\.json and )?images/", told)
    assert run(path, "--data", str(FOLDER)) == 2
    assert "argument --data: there is no " in capsys.readouterr().err


def test_without_weights_it_says_what_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images").mkdir()
    assert run(FOLDER / "vocabulary.py", "--data", str(tmp_path)) == 2
    assert capsys.readouterr().err.endswith("--weights; --weights is the file of squeezenet1_0's weights\n")


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_no_folder_outside_the_repository_is_named(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Attribute):
            assert node.attr not in ("parent", "parents") or "__file__" not in ast.unparse(node), node.lineno
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert not re.search(r"\.\./|(?<![\w.>}])/(?:home|mnt|data|work|srv|tmp|shared)\b", node.value)
