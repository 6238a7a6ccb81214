"""Folders to measure in: gone in the end, and those of killed runs when the next one begins."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from instsearch_cli.measure.scratch import LOCK, PREFIX, YOUNG, scratch
from instsearch_formats.lock import WriterLock


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "t").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "t"))
    return tmp_path / "t"


def left(place: Path, name: str, ago: float = 2 * YOUNG) -> Path:
    """A folder as a killed run leaves it."""
    (place / f"{PREFIX}{name}" / "450").mkdir(parents=True)
    os.utime(place / f"{PREFIX}{name}", (time.time() - ago,) * 2)
    return place / f"{PREFIX}{name}"


def test_a_folder_is_gone_in_the_end_and_after_an_error(temporary: Path) -> None:
    with scratch() as folder:
        assert folder.parent == temporary
        (folder / "file").write_text("text")
    with pytest.raises(ValueError, match="stop"), scratch():
        raise ValueError("stop")
    assert list(temporary.iterdir()) == []


def test_what_a_killed_run_left_is_removed_and_nothing_else(temporary: Path, tmp_path: Path) -> None:
    killed, young, busy = left(temporary, "killed"), left(temporary, "young", ago=0), left(temporary, "busy")
    outside = left(tmp_path, "outside")
    (temporary / f"{PREFIX}link").symlink_to(outside)
    (temporary / "others").mkdir()
    with WriterLock(busy / LOCK).hold():
        os.utime(busy, (0, 0))
        with scratch() as folder:
            there = {path.name for path in temporary.iterdir()}
            assert there == {young.name, busy.name, folder.name, f"{PREFIX}link", "others"}
    assert not killed.exists()
    assert (outside / "450").is_dir()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_copies_that_a_mirror_keeps_of_a_killed_run_go_with_it(
    cli: Callable[..., Any], tiny: tuple[str, ...], photos: Path, temporary: Path, tmp_path: Path
) -> None:
    pytest.importorskip("pymilvus")
    pytest.importorskip("milvus_lite")
    from instsearch_plugins.searchers import milvus_server

    uri = tmp_path / "m.db"
    mirrored = ("--searcher", "milvus", "--set", f"searcher.uri={uri}")
    killed = left(temporary, "killed")
    for part, place in (("a", killed / "6"), ("b", tmp_path / "mine")):
        cli("index", photos / part, "--index", place, *tiny[:-2], *mirrored, "--quiet")
    os.utime(killed, (0, 0))
    server = milvus_server.connected(str(uri), "")
    assert len(server.client.list_collections()) == 2
    with scratch():
        assert not killed.exists()
        assert len(server.client.list_collections()) == 1
    verified = cli("verify", "--index", tmp_path / "mine", "--mirror", "--json").json
    assert verified["problems"] == []
