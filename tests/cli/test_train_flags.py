"""`instsearch train NAME --OPTION VALUE`: any option of a training as a flag of the command."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from instsearch_cli.commands.train import flags_of, split
from instsearch_cli.engine.registry import load_registry
from instsearch_cli.errors import UsageError

FAKES = Path(__file__).parent / "fake_plugins"
Cli = Callable[..., Any]


@pytest.fixture(autouse=True)
def school(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module of the trainable plugin."""
    monkeypatch.syspath_prepend(str(FAKES / "school"))
    load_registry.cache_clear()
    import school_plugin  # type: ignore[import-not-found]

    yield school_plugin
    load_registry.cache_clear()
    sys.modules.pop("school_plugin", None)


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    """Three files to train on."""
    folder = tmp_path / "numbers"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.txt").write_text(str(i / 7))
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ["pupil", "--lr", "0.05", "--epochs", "2"],
        ["pupil", "--lr=0.05", "--epochs=2"],
        ["--lr", "0.05", "pupil", "--epochs", "2"],
        ["pupil", "--set", "lr=0.05", "--epochs", "2"],
        ["pupil", "--set", "lr=0.05", "--set", "epochs=2"],
    ],
)
def test_a_flag_is_an_option_of_the_training(
    cli: Cli, tmp_path: Path, numbers: Path, words: list[str]
) -> None:
    cli("train", *words, "--data", numbers, "--out", tmp_path / "p.pth", "--quiet")
    card = json.loads((tmp_path / "p.json").read_text())
    assert card["options"] == {"epochs": 2, "more": 2, "lr": 0.05, "seed": 0}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pupil", "--epoch", "3"], "no such option: --epoch. Did you mean '--epochs'"),
        (["pupil", "--quit", "3"], "no such option: --quit. Did you mean '--quiet'"),
        (["pupil", "--epochs", "few"], "pupil.epochs is a whole number, not 'few'"),
        (["pupil", "--epochs", "-1"], "pupil: epochs is at least 0"),
        (["pupil", "--epochs"], "--epochs takes a value"),
        (["pupil", "--epochs", "--lr", "1"], "--epochs takes a value"),
        (["pupil", "--lr", "1", "--lr", "2"], "--lr is given twice"),
        (["pupil", "--lr", "1", "--set", "lr=2"], "--lr is given twice, once with --set"),
        (["pupil", "wild"], "one component at a time, not pupil and wild"),
        (["--lr", "1"], "say what to train"),
        ([], "Missing argument 'NAME"),
        (["pupil", "-x", "1"], "no such option: -x"),
    ],
)
def test_what_is_wrong_is_said(
    cli: Cli, tmp_path: Path, numbers: Path, words: list[str], message: str
) -> None:
    failed = cli("train", "--data", numbers, "--out", tmp_path / "p.pth", *words, status=2)
    assert message in failed.err
    assert len(failed.err.strip().splitlines()) <= 2
    assert not (tmp_path / "p.pth").exists()


@pytest.mark.parametrize("words", [["--help"], ["pupil", "--help"], ["pupil", "--lr", "1", "-h"]])
def test_help(cli: Cli, words: list[str]) -> None:
    text = cli("train", *words).out
    assert "NAME [--OPTION VALUE]..." in text
    assert "--device" in text


def test_the_words_of_a_line() -> None:
    assert split(("a", "--x", "1", "--y-z=2=3", "--w", "-1")) == ("a", {"x": "1", "y-z": "2=3", "w": "-1"})
    assert split(("--x=", "a")) == ("a", {"x": ""})
    with pytest.raises(UsageError, match="takes a value"):
        split(("a", "--x"))


def test_stages_beside_the_trained_one_are_named(tmp_path: Path) -> None:
    out = tmp_path / "m.pth"
    used = {
        "extractor": "e",
        "extractor.layer": "l.3",
        "extractor.weights": "OUT",
        "encoder": "m",
        "encoder.weights": out,
    }
    assert flags_of(used, out) == (
        f"--extractor e --encoder m --set extractor.layer=l.3 --set extractor.weights={out} "
        f"--set encoder.weights={out}"
    )
