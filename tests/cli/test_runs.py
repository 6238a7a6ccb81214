"""Runs over an index: what is written when, and that the totals add up."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from instsearch_formats import Index

Cli = Callable[..., Any]
Draw = Callable[..., None]


def folders(index: Path) -> set[str]:
    return {info.path for info in Index.open(index).layers()} | {
        info.path for info in Index.open(index).models()
    }


def kinds(names: set[str]) -> set[str]:
    return {name.split("/")[0] for name in names}


def test_index_then_query_finds_the_picture_itself(
    cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path
) -> None:
    done = cli("index", photos, "--index", tmp_path / "i", *tiny, "--json").json
    assert (done["found"], done["indexed"], done["there"], done["skipped"]) == (10, 10, 0, [])
    assert done["written"] == {"weights": 10, "codes": 10, "search": 10}
    hits = cli("query", photos / "a" / "3.png", "--index", tmp_path / "i", "--json", "-k", 4).json["hits"]
    assert [h["rank"] for h in hits] == [1, 2, 3, 4]
    assert hits[0]["image"] == "a/3.png"
    assert hits[0]["score"] == pytest.approx(1, abs=1e-3)
    assert hits[0]["box"] is None
    assert kinds(folders(tmp_path / "i")) == {"weights", "codes", "search", "models"}


def test_running_again_does_nothing(cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path) -> None:
    cli("index", photos, "--index", tmp_path / "i", *tiny)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "i").rglob("*.h5")}
    done = cli("index", photos, "--index", tmp_path / "i", "--json").json
    assert (done["indexed"], done["there"], done["written"], done["fitted"]) == (0, 10, {}, [])
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "i").rglob("*.h5")} == before


def test_another_weighting_after_extract_writes_its_own_layers_only(
    cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path
) -> None:
    index = tmp_path / "i"
    cli("extract", photos, "--index", index, "--extractor", "cells")
    assert kinds(folders(index)) == {"features"}
    cli("index", "--index", index, *tiny)
    first = folders(index)
    done = cli("index", "--index", index, "--weighting", "bright", "--set", "encoder.power=1", "--json").json
    new = folders(index) - first
    assert done["written"].keys() == {"weights", "codes", "search"}
    assert kinds(new) == {"weights", "codes", "search", "models"}  # this encoder is fitted on weights too
    assert "features" in kinds(folders(index))


def test_an_option_that_touches_codes_leaves_models_and_weights(
    cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path
) -> None:
    index = tmp_path / "i"
    cli("index", photos, "--index", index, *tiny)
    before = folders(index)
    done = cli("index", "--index", index, "--set", "encoder.power=3", "--name", "cubed", "--json").json
    assert done["written"].keys() == {"codes", "search"}
    assert kinds(folders(index) - before) == {"codes", "search"}
    for name in ("cubed", "cells-centred-flat"):
        assert cli("query", photos / "a/1.png", "--index", index, "--pipeline", name, "--json").json["hits"]


def test_add_remove_change_and_move(
    cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path, draw: Draw
) -> None:
    index = tmp_path / "i"
    cli("index", photos, "--index", index, *tiny)
    draw(photos / "c" / "new.png", 99)
    draw(photos / "a" / "1.png", 98, (72, 48))
    done = cli("add", photos, "--index", index, "--json").json
    assert (done["found"], done["indexed"], done["there"]) == (11, 2, 9)
    hits = cli("query", photos / "a/1.png", "--index", index, "--json", "-k", 20).json["hits"]
    assert hits[0]["image"] == "a/1.png"
    assert len(hits) == 11
    assert sorted(h["image"] for h in hits) == sorted(
        p.relative_to(photos).as_posix() for p in photos.rglob("*.png")
    )
    info = cli("info", "--index", index, "--json").json
    assert info["images"] == 11
    assert info["models"][0]["not_seen"] == 2  # the new one, and the one that changed

    cli("remove", photos / "c", "--index", index)
    assert len(cli("query", photos / "a/1.png", "--index", index, "--json").json["hits"]) == 10
    again = cli("add", photos, "--index", index, "--json").json
    assert (again["indexed"], again["there"]) == (1, 10)

    moved = tmp_path / "elsewhere"
    photos.rename(moved)
    cli("relocate", photos, moved, "--index", index)
    hits = cli("query", moved / "a/1.png", "--index", index, "--paths0").out.split("\0")
    assert hits[0] == str(moved / "a/1.png")


def test_missing_images_are_removed_when_asked(
    cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path
) -> None:
    index = tmp_path / "i"
    cli("index", photos, "--index", index, *tiny)
    (photos / "a" / "1.png").unlink()
    failed = cli("index", "--index", index, "--weighting", "bright", status=1)
    assert "remove --missing" in failed.err
    assert "removed 1, 9 left" in cli("remove", "--missing", "--index", index).out
    cli("index", "--index", index, "--weighting", "bright")
    shutil.rmtree(photos)
    assert "is the disk mounted" in cli("remove", "--missing", "--index", index, status=1).err


def test_bad_images_are_skipped_with_reasons_and_the_totals_add_up(
    cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path
) -> None:
    index = tmp_path / "i"
    whole = (photos / "a" / "3.png").read_bytes()
    (photos / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (photos / "empty.jpg").write_bytes(b"")
    (photos / "text.jpg").write_text("not a picture")
    (photos / "a" / "link.png").symlink_to(photos / "a" / "1.png")
    done = cli("index", photos, "--index", index, *tiny, "--json").json
    reasons = {Path(s["image"]).name: s["reason"] for s in done["skipped"]}
    assert done["found"] == 14 == done["indexed"] + done["there"] + len(done["skipped"])
    assert done["indexed"] == 10
    assert set(reasons) == {"truncated.png", "empty.jpg", "text.jpg", "link.png"}
    assert "truncated" in reasons["truncated.png"]
    assert "same file" in reasons["link.png"]
    assert len((index / "skipped.txt").read_text().splitlines()) == 4

    again = cli("index", photos, "--index", index, "--json").json
    assert (again["found"], again["indexed"], again["there"], len(again["skipped"])) == (14, 0, 10, 4)
    assert len(cli("query", photos / "a/3.png", "--index", index, "--json").json["hits"]) == 10
    assert "--strict" in cli("index", photos, "--index", tmp_path / "j", *tiny, "--strict", status=1).err


def test_an_index_of_nothing_readable_is_an_error(cli: Cli, tiny: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.jpg").write_text("no")
    assert (
        "no image that can be read"
        in cli("index", tmp_path / "p", "--index", tmp_path / "i", *tiny, status=1).err
    )


def test_regions_give_several_codes_and_the_best_one_its_box(
    cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path
) -> None:
    index = tmp_path / "i"
    cli("index", photos, "--index", index, *tiny, "--detector", "halves")
    hit = cli("query", photos / "a/5.png", "--box", "32,0,32,48", "--index", index, "--json").json["hits"][0]
    assert hit["image"] == "a/5.png"
    assert hit["box"] == pytest.approx([32, 0, 32, 48])


def test_many_segments_answer_like_one(
    cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path, draw: Draw
) -> None:
    for step in range(4):
        draw(photos / f"more{step}" / "x.png", 50 + step)
        draw(photos / f"more{step}" / "y.png", 60 + step)
        cli("index", photos, "--index", tmp_path / "grown", *tiny)
    parts = list((tmp_path / "grown" / "search").rglob("part-*.h5"))
    assert len(parts) > 1
    cli("gc", "--index", tmp_path / "grown")
    whole = tmp_path / "whole"
    shutil.copytree(tmp_path / "grown", whole)
    for part in (whole / "search").rglob("part-*.h5"):
        part.unlink()
    cli("index", "--index", whole)
    query = ("query", photos / "a/5.png", "--box", "8,8,30,30", "--json", "-k", "30")
    assert (
        cli(*query, "--index", whole).json["hits"] == cli(*query, "--index", tmp_path / "grown").json["hits"]
    )


def test_gc_keeps_what_pipelines_use_and_forgets_on_demand(
    cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path
) -> None:
    index = tmp_path / "i"
    cli("index", photos, "--index", index, *tiny)
    cli("index", "--index", index, "--weighting", "bright", "--name", "second")
    before = folders(index)
    layer = next(name for name in before if name.startswith("codes/"))
    (index / layer / "part-0000000000-0000000010.h5.0f.partial").write_bytes(b"x")
    assert "0f.partial" in cli("gc", "--index", index).out
    assert folders(index) == before
    cli("gc", "--index", index, "--forget", "second")
    assert folders(index) < before
    assert cli(
        "query", photos / "a/1.png", "--index", index, "--pipeline", "cells-centred-flat", "--json"
    ).json["hits"]
    assert "sound" in cli("verify", "--index", index).out


def test_refit_makes_a_new_model_beside_the_old(
    cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path, draw: Draw
) -> None:
    index = tmp_path / "i"
    cli("index", photos, "--index", index, *tiny)
    draw(photos / "z.png", 70)
    cli("add", photos, "--index", index)
    done = cli("index", "--index", index, "--refit", "--json").json
    assert done["fitted"] == ["encoder 'centred' on 11 images"]
    assert len(Index.open(index).models()) == 2
    assert len(cli("gc", "--index", index).out.splitlines()) > 1
    assert len(Index.open(index).models()) == 1


def test_keeping_features_and_not(cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path) -> None:
    index = tmp_path / "i"
    cli("index", photos, "--index", index, *tiny)
    assert not any((index / "features").rglob("*.h5"))
    done = cli("index", "--index", index, "--weighting", "bright")
    assert "10 images were read again" in done.err
    cli("index", "--index", index, "--keep-features")
    assert "features" in kinds(folders(index))
    done = cli("index", "--index", index, "--set", "encoder.power=3")
    assert "read again" not in done.err


def test_reranking_searches_again(cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path) -> None:
    index = tmp_path / "i"
    cli("index", photos, "--index", index, *tiny, "--rerank", "again")
    hits = cli("query", photos / "a/5.png", "--box", "0,0,30,30", "--index", index, "--json").json["hits"]
    own = cli(
        "query", photos.parent / "photos" / hits[0]["image"], "--index", index, "--rerank", "none", "--json"
    )
    assert [h["image"] for h in hits] == [h["image"] for h in own.json["hits"]]


def test_a_component_that_breaks_its_contract_is_named(
    cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path
) -> None:
    failed = cli(
        "index", photos, "--index", tmp_path / "i", *tiny[:4], "--weighting", "wrong", *tiny[6:], status=1
    )
    assert "weighting 'wrong' of tiny-plugin 1.0, image a/1.png" in failed.err
    assert "not negative" in failed.err


def test_other_weights_than_the_index_was_made_with_are_refused(
    cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path
) -> None:
    index = tmp_path / "i"
    cli("index", photos, "--index", index, *tiny)
    failed = cli(
        "query", photos / "a/1.png", "--index", index, "--set", "extractor.weights=" + "a" * 64, status=1
    )
    assert "000000000000" in failed.err
    assert "aaaaaaaaaaaa" in failed.err


def test_two_runs_at_once(cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path) -> None:
    index = tmp_path / "i"
    cli("index", photos, "--index", index, *tiny)
    with Index.open(index).lock():
        failed = cli("add", photos, "--index", index, status=3)
        assert str(os.getpid()) in failed.err
        assert cli("query", photos / "a/1.png", "--index", index, "--json").json["hits"]


def test_a_full_disk_is_said_beforehand(
    cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("usage", (), {"free": 10})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    failed = cli("index", photos, "--index", tmp_path / "i", *tiny, status=1)
    assert "10 bytes are free" in failed.err
    assert not list((tmp_path / "i").rglob("codes/*"))


def test_boxes_that_select_little_or_nothing(
    cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path
) -> None:
    index = tmp_path / "i"
    cli("index", photos, "--index", index, *tiny)
    query = ("query", photos / "a/1.png", "--index", index)
    assert "x,y,w,h" in cli(*query, "--box", "a,b", status=2).err
    assert cli(*query, "--box", "1,1,0,5", status=2).err
    assert "64 x 48" in cli(*query, "--box", "100,100,5,5", status=1).err
    assert cli(*query, "--box", "3,3,0.5,0.5", "--json").json["hits"]
    assert cli(*query, "--box", "-5,-5,20,20", "--json").json["hits"]


@pytest.mark.parametrize(
    "flags",
    [("--encoder", "centred", "--searcher", "faiss"), ("--encoder", "blcf", "--set", "encoder.words=9")],
)
def test_a_range_without_a_readable_picture_is_searched_around(
    cli: Cli,
    tiny: tuple[str, ...],
    photos: Path,
    tmp_path: Path,
    draw: Draw,
    monkeypatch: pytest.MonkeyPatch,
    flags: tuple[str, ...],
) -> None:
    monkeypatch.setattr("instsearch_cli.engine.intake.RANGE", 4)
    whole = (photos / "a" / "1.png").read_bytes()
    for i in range(4):
        (photos / f"0{i}.png").write_bytes(whole[: len(whole) // 2 + i])
    index = tmp_path / "i"
    done = cli("index", photos, "--index", index, *tiny[:2], *flags, "--json").json
    assert (done["found"], done["indexed"], len(done["skipped"])) == (14, 10, 4)
    hits = cli("query", photos / "a/3.png", "--index", index, "--json", "-k", 30).json["hits"]
    assert hits[0]["image"] == "a/3.png"
    assert not {h["image"] for h in hits} & {f"0{i}.png" for i in range(4)}
    assert "sound" in cli("verify", "--index", index).out


def test_half_a_record_is_no_record_and_is_made_whole(
    cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path
) -> None:
    index = tmp_path / "i"
    cli("index", photos, "--index", index, *tiny)
    [whole] = (index / "pipelines").glob("*.json")
    told = whole.read_bytes()
    whole.unlink()
    cli("index", "--index", index, *tiny)
    assert whole.read_bytes() == told


def test_an_index_killed_at_its_first_file_is_begun_again(
    cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path
) -> None:
    index = tmp_path / "i"
    index.mkdir()
    (index / "format.json.0f.partial").write_bytes(b"{")
    cli("index", photos, "--index", index, *tiny)
    assert "sound" in cli("verify", "--index", index).out
