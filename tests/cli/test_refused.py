"""What the smaller verbs refuse: one or two lines, and the exit status."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from schema_check import valid

Cli = Callable[..., Any]
Draw = Callable[..., None]


@pytest.fixture
def index(
    cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Where the commands run: an index i, pictures in photos."""
    monkeypatch.chdir(tmp_path)
    cli("index", "photos", "--index", "i", *tiny)
    return tmp_path / "i"


@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        ("remove --index i a/1.pgn", 1, "Did you mean 'a/1.png'"),
        ("remove --index i --json", 2, "name images to remove, or --missing"),
        ("remove --index nowhere a/1.png", 1, "no index at nowhere"),
        ("relocate foto photos --index i", 1, "i has no images under 'foto'. There is:"),
        ("relocate photos nowhere --index i", 2, "'nowhere' does not exist"),
        ("relocate photos --index i", 2, "Missing argument 'NEW'"),
        ("gc --index i --forget cels-centred-flat", 2, "Did you mean 'cells-centred-flat'"),
        ("gc --index photos", 1, "not an index"),
        ("verify --index nowhere --json", 1, "no index at nowhere"),
        ("presets siff --json", 2, "Did you mean 'sift'"),
        ("presets mine.toml", 2, "no preset is called 'mine.toml'. There is: "),
        ("plugins geometrik --json", 2, "Did you mean 'geometric'"),
        ("weights import vgg61 x", 2, "Did you mean 'vgg16'"),
        ("weights import salnet nowhere.bin", 1, "cannot read nowhere.bin: No such file or directory"),
        ("weights import salnet x --to a --to b", 2, "--to is given twice"),
        ("weights improt", 2, "No such command"),
        ("show photos/a/1.png --index i -o no/x.png", 2, "--out: there is no folder no"),
        ("show photos/a/1.png --index i -o x.jpg", 2, "--out x.jpg: name a .png file"),
        ("show photos/a/1.png --index i -o photos", 2, "--out: photos is a folder"),
        ("show photos/a/1.png --index i -o /proc/x.png", 1, "cannot write /proc/x.png"),
        ("show a/1.pgn --index i", 1, "Did you mean 'a/1.png'"),
        ("show photos/a/1.png --index i --pipeline cells-centre", 2, "Did you mean 'cells-centred-flat'"),
        ("export --index i --layer codes -o x.npy", 2, "--out x.npy: name a .npz file"),
        ("export --index i --layer codes -o /proc/x.npz", 1, "cannot write /proc/x.npz"),
        ("export --index i --layer code -o x.npz", 2, "Did you mean 'codes'"),
        ("pairs --index i -o no/x.csv", 2, "--out: there is no folder no"),
        ("pairs --index i -o x.csv --sheet x.jpg", 2, "--sheet x.jpg: name a .png file"),
        ("pairs --index i -o x.csv", 1, "pairs are verified by keypoints"),
        ("classes photos/a/1.png --root photos", 2, "--root goes with --dataset"),
        ("classes photos/a/1.png --list --json", 2, "--list and --json exclude each other"),
        ("classes photos/a/1.png --extractor squeezenet", 2, "Did you mean 'squeezenet1_0'"),
        ("train salnt --data photos", 2, "Did you mean 'salnet'"),
        ("train salnet --data nowhere", 1, "--data: there is no folder nowhere"),
        ("train salnet --data photos --out no/x.pth", 2, "--out: there is no folder"),
        ("demo photos", 1, "photos is not empty and no demo"),
        ("demo photos/a/1.png", 1, "photos/a/1.png is a file: name a folder"),
        ("demo photos/a/1.png/x", 1, "cannot write to photos/a/1.png/x"),
        ("demo new --seed 1 --seed 2", 2, "--seed is given twice"),
        ("demo new --device gpu", 2, "--device is auto, cpu or cuda"),
        ("index photos --index photos/a/1.png", 1, "photos/a/1.png is a file; an index is a folder"),
    ],
)
def test_wrong_usage_and_errors_are_told_in_a_line_or_two(
    cli: Cli, index: Path, line: str, status: int, said: str
) -> None:
    if "/proc/" in line and not Path("/proc").is_dir():
        pytest.skip("no folder here that cannot be written to")
    failed = cli(*line.split(), status=status)
    assert said in failed.err
    text = failed.err.removeprefix("error: ").strip()
    assert not failed.out or valid("error", failed.out) == {"error": text, "status": status}
    assert bool(failed.out) == ("--json" in line)
    assert len(failed.err.strip().splitlines()) <= 2
    assert "bug" not in failed.err
    assert not (index.parent / "new").exists()


def test_quiet_pairs_say_what_was_found_alone(cli: Cli, draw: Draw, tmp_path: Path) -> None:
    for i in range(2):
        draw(tmp_path / "p" / f"{i}.png", i, (320, 240))
    cli("index", tmp_path / "p", "--index", tmp_path / "i", "--quiet")
    failed = cli("pairs", "--index", tmp_path / "i", "-o", tmp_path / "x.csv", "--quiet", status=1).err
    assert failed.startswith("error: no pair among 1 candidates of 2 images")
