"""The command line itself: help, wrong usage, the error boundary, documents that must agree with it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from instsearch_cli.engine.registry import load_registry
from instsearch_cli.main import COMMANDS, run
from instsearch_cli.main import cli as program
from instsearch_cli.options import documented

ROOT = Path(__file__).parents[2]
Cli = Callable[..., Any]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_whose_first_line_is_its_summary_in_more_words(
    cli: Callable[..., Any], name: str
) -> None:
    text = cli(name, "--help").out
    assert f"Usage: instsearch {name}" in text
    assert len(text.splitlines()) > 4


def test_commands_are_files_and_files_are_commands() -> None:
    folder = ROOT / "instsearch_cli" / "commands"
    verbs = {p.stem.partition("_")[0] for p in folder.glob("*.py")}  # query_options is of query
    assert verbs - {"", "common"} == set(COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["qurey"], "Did you mean 'query'"),
        (["query"], "name a picture to ask with"),
        (["query", "x.jpg"], "--index"),
        (["query", "x.jpg", "--index", "i", "--no-such"], "No such option"),
        (["plugins", "bclf"], "Did you mean 'blcf'"),
        (["presets", "sfit"], "Did you mean 'sift'"),
        (["query", "x.jpg", "--index", "i", "--box", "1,2,3"], "x,y,w,h"),
        (["remove", "--index", "i"], "--missing"),
        (["index", "--wait", "nan"], "'--wait': nan is no number."),
        (["index", "--gpus-a-worker", "nan"], "'--gpus-a-worker': nan is no number."),
        (["adapt", "--held-out", "nan"], "'--held-out': nan is no number."),
        (["saliency", "--sigma", "nan"], "'--sigma': nan is no number."),
        (["saliency", "--blur", "nan"], "'--blur': nan is no number."),
        (["eval", "--min-score", "nan"], "'--min-score': nan is no number."),
    ],
)
def test_wrong_usage_is_one_or_two_lines_and_status_2(cli: Cli, arguments: list[str], message: str) -> None:
    failed = cli(*arguments, status=2)
    assert message in failed.err
    assert len(failed.err.strip().splitlines()) <= 2
    assert "Traceback" not in failed.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["query", "x.jpg", "--index", "nowhere"], "no index at nowhere"),
        (["info", "--index", "tests"], "not an index"),
        (["verify", "--index", "README.md"], "is a file"),
        (["index", "no-such-folder", "--index", "{tmp}/i"], "no-such-folder"),
    ],
)
def test_errors_are_one_or_two_lines_and_status_1(
    cli: Cli, arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    failed = cli(*(a.format(tmp=tmp_path) for a in arguments), status=1)
    assert message in failed.err
    assert len(failed.err.strip().splitlines()) <= 2


def test_an_unexpected_error_is_told_as_a_bug_and_debug_shows_it(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    import instsearch_cli.commands.presets as presets

    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("something odd")

    monkeypatch.setattr(presets.command, "callback", broken)
    failed = cli("presets", status=1)
    assert "RuntimeError: something odd" in failed.err
    assert "--debug" in failed.err
    with pytest.raises(RuntimeError, match="something odd"):
        run(["presets", "--debug"])


def test_plugins_can_be_asked_for_their_options(cli: Cli) -> None:
    text = cli("plugins", "blcf").out
    assert "--set encoder.words=25000" in text
    assert "size of the vocabulary" in text
    listed = {row["name"] for row in cli("plugins", "--json").json}
    assert {"sift", "vgg16", "blcf", "inverted", "geometric", "manifest"} <= listed


def test_the_readme_is_short_and_every_command_it_shows_exists() -> None:
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) <= 150
    for link in re.findall(r"\]\(([^)#]+)\)", readme):
        assert (ROOT / link).exists(), link
    for verb in re.findall(r"^ +instsearch (\w+)", readme, flags=re.M):
        assert verb in COMMANDS


def test_readme_options_exist() -> None:
    readme = (ROOT / "README.md").read_text()
    known = set()
    for name in COMMANDS:
        command = program.get_command(None, name)
        assert command is not None
        known |= {opt for p in command.params for opt in (*p.opts, *p.secondary_opts)}
    for offers in load_registry().offers.values():  # `train` takes a training's options as flags
        trained = [offer.load_trainer() for offer in offers.values() if offer.spec.trainer]
        known |= {f"--{option.name}" for cls in trained for option in documented(cls)}
    known |= {"--help", "--debug", "--version"}
    shown = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", readme))
    assert shown <= known, shown - known


def test_what_only_asks_has_nothing_to_go_on_from(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    import instsearch_cli.commands.verify as verify

    def stop(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(verify.command, "callback", stop)
    assert cli("verify", "--index", "i", status=130).err.strip() == "stopped"


def test_ctrl_c_is_one_line_and_the_index_goes_on(
    tmp_path: Path, photos: Path, draw: Callable[..., None]
) -> None:
    for i in range(300):
        draw(photos / "many" / f"{i}.png", i, (320, 240))
    command = [
        sys.executable,
        "-m",
        "instsearch_cli.main",
        "index",
        str(photos),
        "--index",
        str(tmp_path / "i"),
    ]
    flags = ["--set", "encoder.vocabulary=own", "--set", "encoder.words=50", "--rerank", "none"]
    process = subprocess.Popen([*command, *flags], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "i" / "images").glob("part-*.h5")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    # where it comes while a dataclass is made, which evaluates text, CPython ends by the signal: 130 to a shell, too
    assert process.returncode in (130, -signal.SIGINT), said
    assert "Traceback" not in said
    assert "stopped" in said.strip().splitlines()[-1]
    assert run(["verify", "--index", str(tmp_path / "i"), "--quiet"]) == 0
