"""What was taken out of an index stays out when it follows its folders, wherever the file goes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from synced import hits, index, sync

__all__ = ["index", "sync"]  # fixtures

Cli = Callable[..., Any]
Draw = Callable[..., None]


def test_what_was_taken_out_stays_out_unless_it_changed(
    cli: Cli, sync: Any, index: Path, photos: Path, draw: Draw
) -> None:
    cli("remove", "a/1.png", "--index", index)
    cli("remove", "a/3.png", "--index", index)
    draw(photos / "a/3.png", 80)
    done = sync()
    assert done["added"] == [str(photos / "a/3.png")]
    assert [s["image"] for s in done["skipped"]] == [str(photos / "a/1.png")]
    assert "restore" in done["skipped"][0]["reason"]
    assert len(hits(cli, index, photos / "a/3.png")) == 9
    cli("restore", "a/1.png", "--index", index)
    assert (sync()["skipped"], sync()["unchanged"]) == ([], 10)


def test_what_was_taken_out_stays_out_where_it_goes(
    cli: Cli, sync: Any, index: Path, photos: Path, draw: Draw
) -> None:
    cli("remove", "a/1.png", "--index", index)
    shutil.copy(photos / "a/1.png", photos / "copy.png")
    assert sync()["added"] == [str(photos / "copy.png")]  # a photograph of its own while the other stands
    (photos / "a").rename(photos / "c")
    shutil.copy(photos / "c/1.png", photos / "b/0.png")  # its content in the place of another
    (photos / "c/1.png").unlink()
    would, done = sync("--dry-run"), sync()
    for step in (would, done, sync()):
        assert (step["added"], [s["image"] for s in step["skipped"]]) == ([], [str(photos / "b/0.png")])
    assert done["removed"] == would["removed"] == [str(photos / "b/0.png")]
    assert {Path(pair["new"]).parent.name for pair in done["renamed"]} == {"c"}
    assert cli("restore", "b/0.png", "--index", index, "--json").json["restored"] == [str(photos / "b/0.png")]
    assert hits(cli, index, photos / "b/0.png")[0] in ("b/0.png", "copy.png")
    assert (sync()["skipped"], sync()["images"]) == ([], done["images"] + 1)


def test_another_name_of_what_was_taken_out_is_no_way_back(
    cli: Cli, sync: Any, index: Path, photos: Path
) -> None:
    before = sync()["others"]
    (photos / "z.png").hardlink_to(photos / "a/1.png")
    assert sync()["others"] > before
    cli("remove", "a/1.png", "--index", index)
    assert (sync()["others"], sync()["added"]) == (before, [])
    (photos / "a/1.png").unlink()
    (photos / "z.png").rename(photos / "y.png")
    for _ in range(2):
        done = sync()
        assert (done["added"], [s["image"] for s in done["skipped"]]) == ([], [str(photos / "y.png")])
    assert "sound" in cli("verify", "--index", index).out
