"""An index follows its folders: what is new, gone, renamed and changed, in one go."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import instsearch
from instsearch_formats import Index
from instsearch_formats.images import located
from schema_check import valid
from synced import change_all, hits, index, state, sync

__all__ = ["index", "sync"]  # fixtures

Cli = Callable[..., Any]
Draw = Callable[..., None]


def test_all_at_once(cli: Cli, sync: Any, index: Path, photos: Path, draw: Draw) -> None:
    change_all(photos, draw)
    before = state(index)
    would = sync("--dry-run")
    assert state(index) == before
    done = sync()
    for kind in ("added", "replaced", "renamed", "removed", "others", "unchanged", "images", "offline"):
        assert done[kind] == would[kind], kind
    assert (would["dry_run"], would["indexed"], done["dry_run"]) == (True, None, False)
    assert done["added"] == [str(photos / "new.png")]
    assert done["replaced"] == [str(photos / "b/2.png")]
    assert done["removed"] == [str(photos / "b/0.png")]
    moved = [("a/1.png", "a/3.png"), ("a/3.png", "a/1.png"), ("b/4.png", "a/4.png")]
    assert done["renamed"] == [{"old": str(photos / old), "new": str(photos / new)} for old, new in moved]
    assert (done["unchanged"], done["images"]) == (5, 10)
    assert done["indexed"]["written"]["codes"] == 2
    for path in photos.rglob("*.png"):
        assert hits(cli, index, path)[0] == str(path.relative_to(photos))
    assert len(hits(cli, index, photos / "new.png")) == 10
    assert "sound" in cli("verify", "--index", index).out
    before = state(index / "images")
    again = sync()
    assert (again["unchanged"], again["indexed"]["written"]) == (10, {})
    assert state(index / "images") == before
    assert not (index / "replacing.json").exists()


def test_what_is_said(cli: Cli, index: Path, photos: Path, draw: Draw) -> None:
    for i in range(12):
        draw(photos / f"{i:02}.png", 100 + i)
    (photos / "b/0.png").unlink()
    (photos / "bad.png").write_bytes(b"no picture")
    (photos / "b/4.png").rename(photos / "a/4.png")
    lines = cli("sync", "--index", index, "--dry-run").out.splitlines()
    assert lines[0] == "12 would be added"
    assert lines[1:12] == [*(f"  {photos}/{i:02}.png" for i in range(10)), "  … and 2 more"]
    assert lines[12:14] == ["1 would be renamed", f"  {photos}/b/4.png -> {photos}/a/4.png"]
    assert lines[14:16] == ["1 would be removed", f"  {photos}/b/0.png"]
    assert lines[16:18] == ["1 skipped", f"  {photos}/bad.png: not an image"]
    assert lines[18:] == ["8 unchanged; 21 images then"]
    out = cli("sync", "--index", index, "--quiet").out.splitlines()
    assert out[:5] == ["12 added", "1 renamed", "1 removed", "1 skipped", "8 unchanged; 21 images"]
    assert out[5].startswith("wrote weights 12, ")


def test_a_dry_run_takes_no_lock_and_needs_none(cli: Cli, sync: Any, index: Path, photos: Path) -> None:
    (photos / "b/0.png").unlink()
    (index / "lock").unlink()
    before = state(index)
    assert len(sync("--dry-run")["removed"]) == 1
    assert state(index) == before
    with Index.open(index).lock():
        assert len(sync("--dry-run")["removed"]) == 1


def test_some_of_the_folders(sync: Any, photos: Path) -> None:
    (photos / "a/1.png").unlink()
    (photos / "b/0.png").unlink()
    assert sync(photos / "a")["removed"] == [str(photos / "a/1.png")]
    shutil.rmtree(photos / "b")
    assert len(sync(photos / "b", "--max-remove", "5")["removed"]) == 5


def test_a_new_folder_and_none(
    cli: Cli, sync: Any, index: Path, photos: Path, tmp_path: Path, draw: Draw
) -> None:
    draw(tmp_path / "more" / "x.png", 70)
    assert sync(tmp_path / "more")["added"] == [str(tmp_path / "more/x.png")]
    assert sync()["unchanged"] == 11
    failed = cli("sync", photos / "nowhere", tmp_path / "nothing", "--index", index, status=1)
    assert "there is no file or folder" in failed.err
    assert "takes folders" in cli("sync", photos / "a/1.png", "--index", index, status=2).err


def test_of_files_that_were_given_one_by_one_only_these_count(
    cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path, draw: Draw
) -> None:
    i = tmp_path / "i"
    cli("index", photos / "a/1.png", photos / "a/3.png", photos / "b", "--index", i, *tiny)
    assert Index.open(i).images.single == {str(photos / "a")}
    draw(photos / "b/new.png", 60)
    (photos / "a/3.png").unlink()
    done = valid("sync", cli("sync", "--index", i, "--json").out)
    assert done["added"] == [str(photos / "b/new.png")]
    assert done["removed"] == [str(photos / "a/3.png")]
    cli("add", photos / "a", "--index", i)
    assert Index.open(i).images.single == set()
    draw(photos / "a/new.png", 61)
    assert cli("sync", "--index", i, "--json").json["added"] == [str(photos / "a/new.png")]


@pytest.mark.parametrize("how", ["missing", "empty", "hidden-only"])
def test_a_folder_that_is_away_keeps_its_images(
    cli: Cli, sync: Any, index: Path, photos: Path, tmp_path: Path, draw: Draw, how: str
) -> None:
    draw(tmp_path / "disk" / "x.png", 70)
    sync(tmp_path / "disk")
    shutil.rmtree(tmp_path / "disk")
    if how != "missing":
        (tmp_path / "disk").mkdir()
    if how == "hidden-only":
        (tmp_path / "disk" / ".Trash").mkdir()
    (photos / "b/0.png").unlink()
    done = sync()
    assert done["offline"] == {str(tmp_path / "disk"): 1}
    assert done["removed"] == [str(photos / "b/0.png")]
    assert (done["images"], done["unchanged"]) == (10, 9)
    assert "x.png" in hits(cli, index, photos / "a/1.png")
    assert "1 offline: " in cli("sync", "--index", index).out
    facts = valid("info", cli("info", "--index", index, "--json").out)
    assert (facts["images"], facts["removed"], facts["offline"]) == (10, {"missing": 1}, done["offline"])
    assert f"under {tmp_path}/disk (offline, with 1 image)" in cli("info", "--index", index).out
    assert sync(tmp_path / "disk")["offline"] == done["offline"]
    (photos / "b/2.png").unlink()
    removed = valid("remove", cli("remove", "--missing", "--index", index, "--json").out)
    assert removed == {"removed": 1, "left": 9, "offline": done["offline"]}
    assert "1 offline" in cli("remove", "--missing", "--index", index).out


@pytest.mark.skipif(
    os.name == "nt" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all"
)
def test_a_folder_that_may_not_be_read_is_not_gone(sync: Any, photos: Path) -> None:
    (photos / "a").chmod(0)
    try:
        done = sync()
    finally:
        (photos / "a").chmod(0o755)
    assert (done["removed"], done["images"]) == ([], 10)


def test_files_that_cannot_be_looked_at_are_not_gone(
    sync: Any, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network disk that does not answer."""
    real, listing = os.stat, os.scandir

    def stat(path: Any, *more: Any, **how: Any) -> Any:
        if str(path).startswith(str(photos / "a/")):
            raise OSError(116, "Stale file handle")
        return real(path, *more, **how)

    def scandir(path: Any = ".") -> Any:
        if str(path) == str(photos / "a"):
            raise OSError(116, "Stale file handle")
        return listing(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", stat)
        patch.setattr(os, "scandir", scandir)
        done = sync()
    assert (done["removed"], done["images"]) == ([], 10)
    assert done["skipped"] == [{"image": str(photos / "a"), "reason": "cannot be read: Stale file handle"}]


@pytest.mark.parametrize(
    ("most", "goes"), [("30%", True), ("29%", False), ("3", True), ("2", False), ("0", False)]
)
def test_a_wrong_turn_is_stopped_before_anything_is_written(
    cli: Cli, sync: Any, index: Path, photos: Path, draw: Draw, most: str, goes: bool
) -> None:
    for name in ("a/1.png", "a/3.png", "b/0.png"):
        (photos / name).unlink()
    draw(photos / "new.png", 50)
    before = {name: kept for name, kept in state(index).items() if "lock" not in name}
    if goes:
        assert len(sync("--max-remove", most)["removed"]) == 3
        return
    for verb in (("sync",), ("remove", "--missing")):
        failed = cli(*verb, "--max-remove", most, "--index", index, status=1).err
        assert "would remove 3 of the 10 images" in failed
        assert "nothing was changed.\n" in failed
        assert "--max-remove 3" in failed
        assert len(failed[failed.index("error:") :].strip().splitlines()) == 2
        assert {name: kept for name, kept in state(index).items() if "lock" not in name} == before


def test_the_limit_where_none_is_given(cli: Cli, tiny: tuple[str, ...], tmp_path: Path, draw: Draw) -> None:
    for i in range(30):
        draw(tmp_path / "p" / f"{i:02}.png", i)
    cli("index", tmp_path / "p", "--index", tmp_path / "i", *tiny)
    for i in range(11):
        (tmp_path / "p" / f"{i:02}.png").unlink()
    assert "more than 10" in cli("sync", "--index", tmp_path / "i", status=1).err
    draw(tmp_path / "p" / "00.png", 0)
    assert len(cli("sync", "--index", tmp_path / "i", "--json").json["removed"]) == 10
    for wrong in ("x", "-5", "101%", "1.5", "nan", "inf", "%", ""):
        failed = cli("sync", "--index", tmp_path / "i", f"--max-remove={wrong}", status=2).err
        assert "--max-remove takes a number of images or a percentage" in failed


def test_nothing_is_left(cli: Cli, sync: Any, index: Path, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "copy")
    for path in photos.rglob("*.png"):
        path.unlink()
    done = sync("--max-remove", "100%")
    assert (len(done["removed"]), done["images"], done["indexed"]) == (10, 0, None)
    shutil.copytree(tmp_path / "copy", photos, dirs_exist_ok=True)
    assert cli("restore", "--all", "--index", index, "--json").json["images"] == 10
    assert len(hits(cli, index, photos / "a/1.png")) == 10


def test_two_rows_of_one_file_become_one(cli: Cli, sync: Any, index: Path, photos: Path) -> None:
    """As where an earlier version added what was restored."""
    images = Index.open(index).images
    images.append([images.record(3)])
    cli("index", "--index", index)
    assert (sync("--dry-run")["removed"], sync()["images"]) == ([], 10)
    assert len(hits(cli, index, photos / "a/1.png")) == 10
    assert not Index.open(index).images.alive()[3]


@pytest.mark.parametrize("seed", [1, 2])
def test_any_change_of_folders(tiny: tuple[str, ...], tmp_path: Path, draw: Draw, seed: int) -> None:
    """After each sync every file is a name of the image that it holds, and there is one image a file."""
    rng, n, roots = random.Random(seed), 8, [tmp_path / "p", tmp_path / "q"]
    for i in range(n):
        draw(roots[i % 2] / f"{i}.png", i)
    for root in roots:
        (root / "notes.txt").write_text("not empty")
    with instsearch.create(tmp_path / "i") as index:
        index.index(roots, extractor="cells", encoder="centred", weighting="flat", searcher="scan")
        for _ in range(6):
            for _ in range(4):
                n += 1
                files = sorted(path for root in roots for path in root.rglob("*.png"))
                one, other = rng.sample(files, 2)
                new = rng.choice(roots) / rng.choice(["", "s"]) / f"n{n}.png"
                new.parent.mkdir(exist_ok=True)
                match rng.randrange(8):
                    case 0:
                        draw(new, n)
                    case 1 if len(files) > 4:
                        one.unlink()
                    case 2:
                        draw(one, n)  # under all its names
                    case 3:
                        one.rename(new)
                    case 4:
                        one.replace(other)
                    case 5:
                        one.rename(new)
                        other.rename(one)
                        new.rename(other)
                    case 6:
                        new.hardlink_to(one)
                    case _:
                        new.write_bytes(one.read_bytes())
            would, done = index.sync(dry_run=True), index.sync(max_remove="100%")
            kinds = ("added", "replaced", "renamed", "removed", "others", "unchanged", "images")
            assert {kind: vars(would)[kind] for kind in kinds} == {kind: vars(done)[kind] for kind in kinds}
            again = index.sync(dry_run=True)
            assert [*again.added, *again.replaced, *again.renamed, *again.removed] == []
            assert index.verify() == []
            table = index.store.images
            rows: dict[str, int] = {}
            for row, record in table.records():
                for place in ((record.root, record.name), *table.others().get(row, ())):
                    if table.alive()[row]:
                        path = Path(os.fsdecode(located(table.roots, place)))
                        assert str(path) not in rows
                        rows[str(path)] = row
                        assert hashlib.sha256(path.read_bytes()).digest() == record.digest
            there = {str(path): path.stat().st_ino for root in roots for path in root.rglob("*.png")}
            assert rows.keys() == there.keys()
            assert len(set(rows.values())) == len(set(there.values())) == len(index) == done.images
            assert len({(rows[path], inode) for path, inode in there.items()}) == len(index)
            some = rng.choice(sorted(there))
            assert len(index.query(some, k=99)) == len(index)


def test_the_library(index: Path, photos: Path, draw: Draw) -> None:
    with instsearch.open(index) as opened:
        change_all(photos, draw)
        would = opened.sync(dry_run=True)
        assert (would.dry_run, len(would.added), len(opened)) == (True, 1, 10)
        with pytest.raises(instsearch.InstsearchError, match="sync would remove 1 of the 10"):
            opened.sync(max_remove=0)
        assert opened.query(photos / "new.png")[0].image != "new.png"
        done = opened.sync()
        assert repr(done) == "<1 added, 1 replaced, 3 renamed, 1 removed>"
        assert opened.query(photos / "new.png")[0].image == "new.png"
        assert "a/4.png" in opened.images
        draw(photos / "b/0.png", 0)
        assert opened.restore("b/0.png").restored == [str(photos / "b/0.png")]
        assert len(opened) == 11
        assert opened.query(photos / "b/0.png")[0].image == "b/0.png"
        with pytest.raises(instsearch.UsageError):
            opened.restore()


def test_sync_drops_a_name_that_is_gone_and_keeps_the_photograph(
    cli: Cli, sync: Any, index: Path, photos: Path
) -> None:
    (photos / "z").mkdir()
    (photos / "z/1.png").hardlink_to(photos / "a/1.png")
    assert sync()["others"] == 1
    (photos / "a/1.png").unlink()
    done = sync()
    assert done["removed"] == []
    assert done["renamed"] == [{"old": str(photos / "a/1.png"), "new": str(photos / "z/1.png")}]
    assert hits(cli, index, photos / "z/1.png")[0] == "z/1.png"
    (photos / "z/1.png").unlink()
    assert sync()["removed"] == [str(photos / "z/1.png")]


# -- kills ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_events_the_answer_is_of_before_or_of_after(tmp_path: Path, draw: Draw) -> None:
    for i in range(8):
        draw(tmp_path / "photos" / f"{i:02}.png", i)
    draw(tmp_path / "new" / "new.png", 100)
    draw(tmp_path / "new" / "01.png", 101, (72, 48))
    here = Path(__file__).parent
    path = os.pathsep.join([str(here / "fake_plugins" / "tiny"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(here / "kill_driver.py"), str(tmp_path / "photos"), str(tmp_path), "sync"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    for verb in ("sync faiss", "sync scan"):
        assert report[verb]["before"] >= 2, report
        assert report[verb]["after"] >= 1, report
    assert all(sum(counts.values()) >= 2 for counts in report.values()), report
