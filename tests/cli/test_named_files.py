"""Files that options name: an index is used from other folders than it was made in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]


def test_a_file_named_from_one_folder_is_found_from_another(
    cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t.csv").write_text("image,x,y,w,h\na/1.png,0,0,32,48\n")
    monkeypatch.chdir(tmp_path)
    chosen = ("--detector", "precomputed", "--set", "detector.file=t.csv")
    cli("index", "photos", "--index", "i", *tiny, *chosen)
    monkeypatch.chdir(photos)
    info = cli("info", "--index", tmp_path / "i", "--json").json
    [pipeline] = info["pipelines"].values()
    assert pipeline["detector"]["options"]["file"] == str(tmp_path / "t.csv")
    hits = cli("query", photos / "a" / "1.png", "--index", tmp_path / "i", "--json").json["hits"]
    assert len(hits) == 10


def test_a_table_of_other_images_is_refused(
    cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "t.csv").write_text("image,x,y,w,h\nphotos/a/1.png,0,0,32,48\n")
    chosen = ("--detector", "precomputed", "--set", f"detector.file={tmp_path / 't.csv'}")
    failed = cli("index", photos, "--index", tmp_path / "i", *tiny, *chosen, status=1)
    assert "boxes of none of the 10 images, its first is of photos/a/1.png" in failed.err
