"""Indexes that are damaged, half copied, from the future, read-only, or on a disk that is full."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from instsearch_formats import places

Cli = Callable[..., Any]
FAKES = Path(__file__).parent / "fake_plugins"


@pytest.fixture
def index(cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path) -> Path:
    cli("index", photos, "--index", tmp_path / "i", *tiny)
    return tmp_path / "i"


def parts(index: Path, kind: str) -> list[Path]:
    return sorted((index / kind).rglob("*.h5"))


@pytest.mark.parametrize("kind", ["images", "weights", "codes", "search", "models"])
def test_a_flipped_byte_is_named(cli: Cli, index: Path, kind: str) -> None:
    part = parts(index, kind)[0]
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 0x40
    part.write_bytes(data)
    found = cli("verify", "--index", index, status=1)
    assert part.name in found.out
    assert "1 damaged" in found.out


@pytest.mark.parametrize("kind", ["images", "codes", "roots"])
def test_a_file_that_may_not_be_read_is_not_to_be_deleted(
    cli: Cli, index: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shut = index / "roots.json" if kind == "roots" else parts(index, kind)[0]
    opened = places.open_file

    def forbidding(path: Path, *rest: Any, **options: Any) -> int:
        if path == shut:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return opened(path, *rest, **options)

    monkeypatch.setattr(places, "open_file", forbidding)
    found = cli("verify", "--index", index, "--json", status=1).json["problems"]
    assert [problem["path"] for problem in found] == [str(shut)]
    assert found[0]["what"] == f"cannot read {shut}: Permission denied"
    assert "do not delete" in found[0]["mend"]


def test_a_damaged_part_is_made_again(cli: Cli, index: Path, photos: Path) -> None:
    query = ("query", photos / "a/1.png", "--index", index, "--json")
    before = cli(*query).json["hits"]
    for kind in ("weights", "codes", "search"):
        parts(index, kind)[0].unlink()
    assert "no search structure" in cli(*query, status=1).err
    cli("index", "--index", index)
    assert cli(*query).json["hits"] == before
    assert "sound" in cli("verify", "--index", index).out


def test_a_half_copied_part_is_an_error_that_names_it(cli: Cli, index: Path, photos: Path) -> None:
    part = parts(index, "search")[0]
    part.write_bytes(part.read_bytes()[: part.stat().st_size // 2])
    failed = cli("query", photos / "a/1.png", "--index", index, status=1)
    assert part.name in failed.err
    assert len(failed.err.strip().splitlines()) <= 2


def test_a_newer_format_says_what_is_needed(cli: Cli, index: Path, photos: Path) -> None:
    head = json.loads((index / "format.json").read_text())
    (index / "format.json").write_text(json.dumps(head | {"version": 99, "created-by": "7.5"}))
    for command in (("query", photos / "a/1.png"), ("info",), ("verify",), ("gc",), ("add", photos)):
        failed = cli(*command, "--index", index, status=1)
        assert "7.5" in failed.err


def test_an_index_can_be_queried_where_nothing_can_be_written(
    cli: Cli, index: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def read_only(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and str(index) in os.fsdecode(path):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), os.fsdecode(path))
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", read_only)
    assert cli("query", photos / "a/1.png", "--index", index, "--json").json["hits"]
    failed = cli("add", photos, "--index", index, status=1)
    assert str(index) in failed.err
    assert len(failed.err.strip().splitlines()) <= 2


def test_a_disk_that_fills_up_leaves_whole_parts_only(
    cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path
) -> None:
    code = (
        "import resource, signal, sys; from instsearch_cli.main import run; "
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY)); "
        "sys.exit(run(sys.argv[1:]))"
    )
    flags = ("index", str(photos), "--index", str(tmp_path / "i"), *tiny)
    environment = {**os.environ, "PYTHONPATH": str(FAKES / "tiny")}
    command = [sys.executable, "-c", code, *flags]
    full = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert full.returncode == 1, full
    assert len([line for line in full.stderr.splitlines() if "error:" in line]) == 1
    assert "Traceback" not in full.stderr
    assert not list((tmp_path / "i").rglob("*.partial"))
    cli(*flags)  # where there is room it goes on
    assert "sound" in cli("verify", "--index", tmp_path / "i").out


def test_a_folder_that_is_something_else_is_not_written_to(
    cli: Cli, tiny: tuple[str, ...], photos: Path
) -> None:
    failed = cli("index", photos, "--index", photos, *tiny, status=1)
    assert "not an index" in failed.err
    assert sorted(p.name for p in photos.iterdir()) == ["a", "b"]
