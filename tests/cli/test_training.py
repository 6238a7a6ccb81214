"""Training: the verb, checkpoints, kills and Ctrl-C, the card, and what is refused."""

from __future__ import annotations

import csv
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from instsearch_cli.engine.registry import load_registry
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.networks.trained import data_digest
from instsearch_cli.networks.training import Best, Run
from instsearch_cli.networks.weights import load_state_dict, sha256
from instsearch_cli.progress import Quiet

FAKES = Path(__file__).parent / "fake_plugins"
Cli = Callable[..., Any]


class KilledError(Exception):
    """What stands for a kill: nothing of the program catches it."""


@pytest.fixture
def school(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module of the trainable plugin."""
    monkeypatch.syspath_prepend(str(FAKES / "school"))
    load_registry.cache_clear()
    import school_plugin  # type: ignore[import-not-found]

    yield school_plugin
    school_plugin.HOOK[0] = lambda stage, step: None
    load_registry.cache_clear()
    sys.modules.pop("school_plugin", None)


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    """Seven files to train on; one of them is bad."""
    folder = tmp_path / "numbers"
    folder.mkdir()
    for i in range(7):
        (folder / f"{i}.txt").write_text("x" if i == 3 else str(i / 7))
    return folder


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no FIFOs")
def test_what_the_data_is_goes_by_what_is_trained_on(numbers: Path, tmp_path: Path) -> None:
    """Links to folders are followed, once; what is no file is not waited for, and counts by its name."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "linked").symlink_to(numbers)
    (numbers / "round").symlink_to(tmp_path / "data")
    os.mkfifo(numbers / "pipe")
    (numbers / "gone.txt").symlink_to("nowhere")
    before = data_digest(tmp_path / "data", Quiet())
    assert (before["files"], before["bytes"]) == (
        7,
        sum(file.stat().st_size for file in numbers.glob("?.txt")),
    )
    (numbers / "3.txt").write_text("y")
    after = data_digest(tmp_path / "data", Quiet())
    assert (after["files"], after["bytes"], after["sha256"] == before["sha256"]) == (
        7,
        before["bytes"],
        False,
    )
    (numbers / "gone.txt").unlink()
    assert data_digest(tmp_path / "data", Quiet())["sha256"] != after["sha256"]


def accident(stage: str, step: int, error: BaseException) -> Callable[[str, int], None]:
    def hook(at: str, n: int) -> None:
        if (at, n) == (stage, step):
            raise error

    return hook


def rows(out: Path) -> list[dict[str, str]]:
    with (out.with_name(f"{out.name}.training") / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.usefixtures("school")
def test_the_weights_their_card_and_the_log(cli: Cli, tmp_path: Path, numbers: Path) -> None:
    out = tmp_path / "pupil.pth"
    said = cli("train", "pupil", "--data", numbers, "--out", out, "--set", "lr=0.05", "--quiet")
    assert f"wrote {out}" in said.out
    assert f"--weighting pupil --set weighting.weights={out}" in said.out
    assert said.err == ""
    state = load_state_dict(out)
    assert {name: tuple(t.shape) for name, t in state.items()} == {"weight": (1, 3), "bias": (1,)}

    card = json.loads((tmp_path / "pupil.json").read_text())
    assert card["network"] == "pupil"
    assert card["plugin"] == "school-plugin:pupil"
    assert card["options"] == {"epochs": 3, "more": 2, "lr": 0.05, "seed": 0}
    assert card["data"]["files"] == 7
    assert card["data"]["bytes"] == sum(p.stat().st_size for p in numbers.iterdir())
    assert card["epochs"] == {"first": 3, "second": 2}
    assert card["steps"] == 5 * 6  # the bad file is no step
    assert card["sha256"] == sha256(out)
    assert card["device"]
    assert card["made with"]["torch"] == torch.__version__
    assert f"held out: best {card['held out']['best']}" in said.out

    log = rows(out)
    losses = [r for r in log if r["name"] == "square"]
    assert [int(r["step"]) for r in losses] == [*range(1, 19), *range(1, 13)]
    last = [float(r["value"]) for r in log if r["name"] == "last"]
    assert len(last) == 5
    assert float(losses[5]["value"]) == last[0]
    assert card["held out"]["best"] == pytest.approx(min(last), abs=1e-6)
    assert not (tmp_path / "pupil.pth.training" / "checkpoint.pt").exists()


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize(
    ("stage", "step"), [("first", 0), ("first", 5), ("first", 14), ("second", 0), ("second", 9)]
)
def test_a_run_that_was_killed_ends_in_the_same_weights(
    cli: Cli,
    school: Any,
    tmp_path: Path,
    numbers: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    step: int,
    sparse: bool,
) -> None:
    undisturbed, out = tmp_path / "a.pth", tmp_path / "b.pth"
    said = cli("train", "pupil", "--data", numbers, "--out", undisturbed).err
    monkeypatch.setattr(Run, "every", 0.0)
    if sparse:  # the last checkpoint is some steps old
        save = Run.save
        monkeypatch.setattr(Run, "save", lambda run: save(run) if run.step % 4 == 3 else None)
    school.HOOK[0] = accident(stage, step, KilledError())
    failed = cli("train", "pupil", "--data", numbers, "--out", out, "--quiet", status=1)
    assert "KilledError" in failed.err
    assert not out.exists()
    there = (tmp_path / "b.pth.training" / "checkpoint.pt").exists()
    assert there or (stage, step) == ("first", 0)
    steps: list[tuple[str, int]] = []
    school.HOOK[0] = lambda *at: steps.append(at)
    said_again = cli("train", "pupil", "--data", numbers, "--out", out).err
    epochs = [[line for line in text.splitlines() if ", epoch " in line] for text in (said, said_again)]
    assert ("going on from" in epochs[1].pop(0)) if there else epochs[1]
    assert epochs[1] == epochs[0][-len(epochs[1]) :]
    if not sparse:
        assert steps[0] == (stage, step)  # nothing is done twice
    a, b = load_state_dict(undisturbed), load_state_dict(out)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert rows(out) == rows(undisturbed)
    cards = [json.loads(p.with_suffix(".json").read_text()) for p in (undisturbed, out)]
    assert cards[0]["steps"] == cards[1]["steps"]
    assert cards[0]["held out"] == cards[1]["held out"]


def test_a_finished_run_is_not_run_again(cli: Cli, school: Any, tmp_path: Path, numbers: Path) -> None:
    out = tmp_path / "pupil.pth"
    command = ("train", "pupil", "--data", numbers, "--out", out, "--quiet")
    cli(*command)
    before = out.stat().st_mtime_ns
    school.HOOK[0] = accident("first", 0, KilledError())
    assert "nothing to do" in cli(*command, "--set", "workers=2").out  # which decides nothing
    assert out.stat().st_mtime_ns == before
    failed = cli(*command, "--set", "epochs=4", status=2)
    assert "epochs = 3, not 4" in failed.err
    assert "--out" in failed.err
    (numbers / "0.txt").write_text("9")
    assert "other data" in cli(*command, status=2).err


def test_a_run_that_was_begun_otherwise_is_not_gone_on_with(
    cli: Cli, school: Any, tmp_path: Path, numbers: Path
) -> None:
    command = ("train", "pupil", "--data", numbers, "--out", tmp_path / "pupil.pth", "--quiet")
    school.HOOK[0] = accident("first", 2, KilledError())
    cli(*command, status=1)
    failed = cli(*command, "--set", "lr=1", status=2)
    assert "lr = 0.1, not 1.0" in failed.err
    assert "Choose another --out, or delete" in failed.err


@pytest.mark.usefixtures("school")
def test_a_file_of_another_making_is_not_overwritten(cli: Cli, tmp_path: Path, numbers: Path) -> None:
    out = tmp_path / "pupil.pth"
    out.write_bytes(b"precious")
    failed = cli("train", "pupil", "--data", numbers, "--out", out, status=2)
    assert "was not made by this command" in failed.err
    assert out.read_bytes() == b"precious"


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(
    cli: Cli, school: Any, tmp_path: Path, numbers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "every", 0.0)
    out = tmp_path / "pupil.pth"
    command = ("train", "pupil", "--data", numbers, "--out", out, "--quiet", "--set", "lr=1e18")
    failed = cli(*command, status=1)
    assert "training diverged in first, epoch 1, step" in failed.err
    assert "lower learning rate" in failed.err
    assert len(failed.err.strip().splitlines()) == 2
    saved = torch.load(tmp_path / "pupil.pth.training" / "checkpoint.pt", weights_only=True)
    assert f"the last good checkpoint is of first, step {saved['step']}" in failed.err
    assert all(t.isfinite().all() for t in saved["parts"]["line"].values())
    assert not out.exists()
    assert cli(*command, status=1).err == failed.err  # and again, from that checkpoint


def test_a_checkpoint_with_weights_that_are_not_finite_is_not_written(tmp_path: Path) -> None:
    line = torch.nn.Linear(2, 1)
    with Run(tmp_path / "run", {}, Quiet()) as run:
        for _ in run.stage("only", 1, line=line):
            run.save()
            before = (tmp_path / "run" / "checkpoint.pt").read_bytes()
            line.weight.data[0, 0] = float("inf")
            with pytest.raises(InstsearchError, match="'line' holds numbers that are not finite"):
                run.save()
            break
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == before


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.usefixtures("school")
@pytest.mark.parametrize("what", ["code", "rubbish", "another"])
def test_a_checkpoint_that_is_none_is_refused(cli: Cli, tmp_path: Path, numbers: Path, what: str) -> None:
    folder = tmp_path / "pupil.pth.training"
    folder.mkdir()
    path = folder / "checkpoint.pt"
    if what == "rubbish":
        path.write_bytes(b"PK rubbish")
    else:
        torch.save(
            {"seconds": _Bomb(tmp_path / "boom")} if what == "code" else {"weight": torch.zeros(1)}, path
        )
    failed = cli("train", "pupil", "--data", numbers, "--out", tmp_path / "pupil.pth", "--quiet", status=1)
    assert "checkpoint.pt is damaged, or no checkpoint of this training" in failed.err
    assert f"Delete {folder}" in failed.err
    assert not (tmp_path / "boom").exists()


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    for width, refused in ((2, False), (3, True)):
        with Run(tmp_path / "run", {}, Quiet()) as run:
            stages = run.stage("only", 2, line=torch.nn.Linear(width, 1))
            if refused:
                with pytest.raises(InstsearchError, match="no checkpoint of this training"):
                    next(stages)
            else:
                next(stages)
                run.save()


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with (
        Run(folder, {}, Quiet()),
        pytest.raises(Exception, match="is being written to by process"),
        Run(folder, {}, Quiet()),
    ):
        pass
    with Run(folder, {}, Quiet()) as run:
        run.log(loss=1.0)
    with pytest.raises(UsageError, match="was begun with"), Run(folder, {"lr": 1}, Quiet()):
        pass


def test_what_failed_before_it_began_may_be_asked_otherwise(tmp_path: Path) -> None:
    """As where data are not there, or too few: nothing would be lost."""
    folder = tmp_path / "run"
    for request in ({"least": 8}, {"least": 4}):
        with pytest.raises(InstsearchError, match="too few"), Run(folder, request, Quiet()):
            raise InstsearchError("too few pictures")
    with Run(folder, {"least": 2}, Quiet()):
        (folder / "maps.npy").touch()
    with pytest.raises(UsageError, match="was begun with"), Run(folder, {"least": 1}, Quiet()):
        pass


def test_ctrl_c_waits_for_the_end_of_the_step_and_nothing_is_lost(
    cli: Cli, school: Any, tmp_path: Path, numbers: Path
) -> None:
    command = ("train", "pupil", "--data", numbers, "--out", tmp_path / "pupil.pth", "--quiet")

    def interrupt(stage: str, step: int) -> None:
        if (stage, step) == ("first", 7):
            os.kill(os.getpid(), signal.SIGINT)

    school.HOOK[0] = interrupt
    failed = cli(*command, status=130)
    assert "the same command goes on from there" in failed.err
    saved = torch.load(tmp_path / "pupil.pth.training" / "checkpoint.pt", weights_only=True)
    assert (saved["stage"], saved["step"]) == ("first", 8)
    steps: list[tuple[str, int]] = []
    school.HOOK[0] = lambda *at: steps.append(at)
    cli(*command)
    assert steps[0] == ("first", 8)


def test_a_second_ctrl_c_stops_at_once(cli: Cli, school: Any, tmp_path: Path, numbers: Path) -> None:
    def interrupt(stage: str, step: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("not reached")

    school.HOOK[0] = interrupt
    cli("train", "pupil", "--data", numbers, "--out", tmp_path / "p.pth", "--quiet", status=130)
    assert not (tmp_path / "p.pth.training" / "checkpoint.pt").exists()


@pytest.mark.usefixtures("school")
@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["pupli"], 2, "'pupli' is no component. Did you mean 'pupil'"),
        (["sift"], 2, "'sift' cannot be trained"),
        (["wild"], 1, "weighting 'wild' of school-plugin 1.0 cannot be loaded"),
        (["pupil", "--set", "epoch=3"], 2, "pupil has no option 'epoch'. Did you mean 'epochs'"),
        (["pupil", "--set", "epochs=few"], 2, "pupil.epochs is a whole number, not 'few'"),
        (["pupil", "--set", "epochs=-1"], 2, "pupil: epochs is at least 0"),
        (["pupil", "--set", "epochs"], 2, "write OPTION=VALUE"),
        (["pupil", "--data", "nowhere"], 1, "there is no folder nowhere"),
        (["pupil", "--out", "nowhere/x.pth"], 2, "--out: there is no folder"),
        (["pupil", "--out", "x.json"], 2, "its card is the .json"),
        (["pupil", "--out", "x.safetensors"], 2, "call it NAME.pth"),
        (["pupil", "--out", "numbers/x.pth"], 2, "outside --data"),
    ],
)
def test_what_is_wrong_is_said(
    cli: Cli,
    tmp_path: Path,
    numbers: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    status: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    data = () if "--data" in arguments else ("--data", numbers)
    failed = cli("train", *data, *arguments, status=status)
    assert message in failed.err
    assert len(failed.err.strip().splitlines()) <= 2


@pytest.mark.usefixtures("school")
def test_plugins_says_what_can_be_trained_and_how(cli: Cli) -> None:
    lines = cli("plugins").out.splitlines()
    assert any(line.strip().startswith("pupil") and "(trainable)" in line for line in lines)
    assert not any(line.strip().startswith("sift") and "(trainable)" in line for line in lines)
    text = cli("plugins", "pupil").out
    assert "trained by `instsearch train pupil --data DIR`" in text
    assert "--set lr=0.1" in text
    assert "learning rate" in text


def test_the_best_weights_are_kept() -> None:
    line, best = torch.nn.Linear(1, 1), Best()
    for loss, value in ((3.0, 1.0), (1.0, 2.0), (float("nan"), 3.0), (2.0, 4.0)):
        line.weight.data.fill_(value)
        best.offer(loss, line)
    again = Best()
    again.load_state_dict(best.state_dict())
    assert again.loss == 1.0
    assert again.weights["weight"].item() == 2.0


def test_progress_tells_images_and_what_is_left(cli: Cli, school: Any, tmp_path: Path, numbers: Path) -> None:
    del school
    said = cli("train", "pupil", "--data", numbers, "--out", tmp_path / "p.pth").err
    assert "reading the data: 7 files" in said
    assert "first: 21 images" in said
    assert "first, epoch 3 of 3: square" in said
