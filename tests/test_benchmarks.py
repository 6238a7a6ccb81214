"""Benchmarks say what they need, and name no folder outside the repository."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
SHARED = ("arguments", "evaluating", "isolated", "outside_files")
BENCHMARKS = sorted(path for path in FOLDER.glob("*.py") if path.stem not in SHARED)


def loaded(path: Path) -> Any:
    """The module `benchmarks/NAME.py`."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        spec.loader.exec_module(module)
    return module


def run(path: Path, *arguments: str) -> int | str | None:
    """The exit code of `python benchmarks/NAME.py ...`, which ends while it reads its arguments."""
    module = loaded(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(path), *arguments])
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


def test_gains_are_means_over_the_objects_of_a_split(tmp_path: Path) -> None:
    gains = loaded(FOLDER / "gains.py")
    shown = [[f"{i}{letter}" for letter in "abc"] for i in range(7)]
    queries = [{"id": f"{i}", "positives": images} for i, images in enumerate(shown)]
    more = [{"id": "x", "positives": shown[5][:2], "exclude": [shown[5][2]]}]
    for name, listed in (("manifest.json", queries), ("manifest-ext.json", more)):
        (tmp_path / name).write_text(json.dumps({"queries": listed}))
    of = gains.objects([tmp_path / name for name in gains.MANIFESTS])
    assert list(of)[-2:] == [("manifest.json", "6"), ("manifest-ext.json", "x")]
    none = np.full(8, 0.5)
    gain = np.array(
        [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, -0.2, 0.0]
    )  # objects 0 and 5 share a split, 5 has two queries
    found = gains.split_gains(none + gain, none, list(of.values()))
    assert found == pytest.approx([(0.1 + (0.6 + 0.0) / 2) / 2, (0.2 - 0.2) / 2, 0.3, 0.4, 0.5])


def test_what_is_chosen_on_the_other_splits() -> None:
    gains = loaded(FOLDER / "gains.py")
    table = np.array([[0.9, 0.1, 0.1, 0.1, 0.1], [0.0, 0.2, 0.2, 0.2, 0.2]])
    # without the first split the second row is ahead, without any other one the first
    assert gains.chosen_elsewhere(table) == pytest.approx([0.0, 0.1, 0.1, 0.1, 0.1])


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
