"""Folders as they are: odd names, times and contents that change; every skipped file with its folder, once."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from instsearch_cli.engine import stamps
from instsearch_cli.errors import printable
from instsearch_cli.images import BadImage, content_digest, examine, opening

Cli = Callable[..., Any]
Draw = Callable[..., None]
LONG_AGO = 1_500_000_000 * 10**9


@pytest.fixture
def index(cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path) -> Callable[..., Any]:
    """``index(path...)``: take them into the index."""

    def call(*paths: object, status: int = 0) -> Any:
        chosen = () if (tmp_path / "i").exists() else tiny
        return cli("index", *paths, "--index", tmp_path / "i", "--json", *chosen, status=status).json

    return call


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read to see whether they are what was indexed."""
    names: list[str] = []

    def digest(path: Path) -> bytes:
        names.append(path.name)
        return content_digest(path)

    monkeypatch.setattr(stamps, "content_digest", digest)
    return names


def first(cli: Cli, path: Path, index: Path) -> str:
    return cli("query", path, "--index", index, "--json").json["hits"][0]["image"]


# -- times -----------------------------------------------------------------------------------------------


def test_files_whose_time_alone_moved_are_read_once(
    index: Callable[..., Any], photos: Path, hashed: list[str]
) -> None:
    index(photos)
    assert index(photos)["there"] == 10
    assert hashed == []
    for path in photos.rglob("*.png"):
        os.utime(path, ns=(LONG_AGO, LONG_AGO))
    assert index(photos)["there"] == 10
    assert len(hashed) == 10
    hashed.clear()
    assert (index(photos)["there"], index(photos)["indexed"], hashed) == (10, 0, [])


def test_an_index_without_stamps_has_them_after_a_run(
    index: Callable[..., Any], photos: Path, tmp_path: Path, hashed: list[str]
) -> None:
    index(photos)
    text = (tmp_path / "i" / "stamps.txt").read_text()
    assert len(text.splitlines()) == 10
    for damaged in "", "nonsense", text[:50], text.replace("\t", "\t1"):
        (tmp_path / "i" / "stamps.txt").write_text(damaged)
        assert index(photos)["there"] == 10
        assert (tmp_path / "i" / "stamps.txt").read_text() == text


def test_content_of_equal_size_and_time_is_noticed(
    cli: Cli, index: Callable[..., Any], photos: Path, tmp_path: Path, draw: Draw
) -> None:
    folder = tmp_path / "bmp"
    for i in range(4):
        draw(folder / f"{i}.bmp", i)
        os.utime(folder / f"{i}.bmp", ns=(LONG_AGO, LONG_AGO))
    index(folder)
    draw(tmp_path / "new.bmp", 99)
    os.utime(tmp_path / "new.bmp", ns=(LONG_AGO, LONG_AGO))
    (tmp_path / "new.bmp").replace(folder / "1.bmp")
    for old, new in (("2", "x"), ("3", "2"), ("x", "3")):
        (folder / f"{old}.bmp").rename(folder / f"{new}.bmp")
    done = index(folder)
    assert (done["indexed"], done["there"], done["renamed"]) == (1, 3, 2)
    for i in range(4):
        assert first(cli, folder / f"{i}.bmp", tmp_path / "i") == f"{i}.bmp"
    assert len(cli("query", folder / "0.bmp", "--index", tmp_path / "i", "--json").json["hits"]) == 4


def test_recheck_reads_all(
    cli: Cli,
    index: Callable[..., Any],
    photos: Path,
    tmp_path: Path,
    hashed: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a file system without times of change only the bytes tell."""
    index(photos)
    path, stat = photos / "a" / "1.png", (photos / "a" / "1.png").stat()
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_mtime_ns, stat.st_mtime_ns))
    now = path.stat().st_ctime_ns
    lines = [line.split("\t") for line in (tmp_path / "i" / "stamps.txt").read_text().splitlines()]
    moved = [[*line[:3], str(now), line[4]] if line[3] == str(stat.st_ctime_ns) else line for line in lines]
    assert moved != lines
    (tmp_path / "i" / "stamps.txt").write_text("".join("\t".join(line) + "\n" for line in moved))
    assert index(photos)["there"] == 10
    done = cli("add", photos, "--index", tmp_path / "i", "--json", "--recheck").json
    assert (done["there"], len(hashed)) == (9, 10)


@pytest.mark.parametrize("seconds", [-(10**9), 0, 2**33])
def test_times_before_1970_and_far_ahead(index: Callable[..., Any], photos: Path, seconds: int) -> None:
    os.utime(photos / "a" / "1.png", ns=(seconds * 10**9, seconds * 10**9))
    assert index(photos)["indexed"] == 10
    assert index(photos)["there"] == 10


def test_times_that_no_index_holds(photos: Path) -> None:
    class Far:
        st_size, st_mtime_ns, st_ctime_ns = 5, 2**70, -(2**70)

    assert stamps.Stamp.of(Far()) == (5, 2**63 - 1, -(2**63) + 1)


# -- files that come, go and change ------------------------------------------------------------------------


def test_a_file_that_vanishes_while_it_is_indexed_is_skipped(
    index: Callable[..., Any], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = photos / "a" / "1.png"
    data, append = path.read_bytes(), stamps.Stamps.save

    def vanish(self: Any) -> None:
        append(self)
        path.unlink()

    monkeypatch.setattr(stamps.Stamps, "save", vanish)
    done = index(photos)
    reason = "cannot be read: No such file or directory"
    assert (done["found"], done["indexed"], done["skipped"]) == (
        10,
        9,
        [{"image": str(path), "reason": reason}],
    )
    monkeypatch.undo()
    path.write_bytes(data)


def test_what_could_not_be_read_then_is_taken_later(
    cli: Cli, index: Callable[..., Any], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, stat = photos / "a" / "1.png", Path.stat
    index(photos)
    data = path.read_bytes()

    def refuse(self: Path, **options: Any) -> os.stat_result:
        if self.name == "1.png":
            raise OSError(5, "Input/output error")
        return stat(self, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", refuse)
        done = index(photos)
    assert (done["there"], len(done["skipped"])) == (9, 1)
    assert "Input/output error" in done["skipped"][0]["reason"]
    assert index(photos)["there"] == 10
    assert path.read_bytes() == data


def test_a_file_that_grows_while_it_is_read(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, look = photos / "a" / "1.png", opening.open_picture

    def grow(*arguments: Any) -> Any:
        with path.open("ab") as file:
            file.write(b"more")
        return look(*arguments)

    monkeypatch.setattr(opening, "open_picture", grow)
    with pytest.raises(BadImage, match=r"^changed while it was read$"):
        examine(path)


def test_a_renamed_file_leaves_no_ghost(
    cli: Cli, index: Callable[..., Any], photos: Path, tmp_path: Path
) -> None:
    index(photos)
    (photos / "a" / "1.png").rename(photos / "b" / "other.png")
    out = cli("index", photos, "--index", tmp_path / "i").out
    assert "found 10 = indexed 0 + already there 10 + skipped 0 (1 renamed)" in out
    hits = cli("query", photos / "b" / "other.png", "--index", tmp_path / "i", "--json").json["hits"]
    assert (hits[0]["image"], len(hits)) == ("b/other.png", 10)
    assert "a/1.png" not in [hit["image"] for hit in hits]


def test_a_copy_is_no_rename(index: Callable[..., Any], photos: Path) -> None:
    index(photos)
    (photos / "copy.png").write_bytes((photos / "a" / "1.png").read_bytes())
    assert (index(photos)["indexed"], index(photos)["there"]) == (1, 11)


def test_a_folder_that_is_away_is_no_rename(
    cli: Cli, index: Callable[..., Any], photos: Path, tmp_path: Path
) -> None:
    index(photos)
    photos.rename(tmp_path / "elsewhere")
    assert cli("add", tmp_path / "elsewhere", "--index", tmp_path / "i", "--json").json["indexed"] == 10
    assert cli("info", "--index", tmp_path / "i", "--json").json["images"] == 20


# -- names -------------------------------------------------------------------------------------------------


def test_names_that_are_not_utf8_end_no_run(
    cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path
) -> None:
    whole = (photos / "a" / "1.png").read_bytes()
    folder = os.fsencode(photos)
    for name, data in {
        b"/caf\xe9.png": whole[:-300],
        b"/\xff\n.png": whole,
        b"/a\x1b[31m.jpg": b"no",
    }.items():
        with open(folder + name, "wb") as file:  # noqa: PTH123
            file.write(data)
    for _ in range(2):
        out = cli("index", photos, "--index", tmp_path / "i", *tiny).out
        assert "+ skipped 2" in out
        assert rf"skipped {photos}/caf\xe9.png: truncated" in out
        assert rf"skipped {photos}/a\x1b[31m.jpg: not an image" in out
        assert "\x1b" not in out
    lines = (tmp_path / "i" / "skipped.txt").read_text().splitlines()
    assert lines == [rf"{photos}/a\x1b[31m.jpg" + "\tnot an image", rf"{photos}/caf\xe9.png" + "\ttruncated"]
    assert (
        cli("query", os.fsdecode(folder + b"/\xff\n.png"), "--index", tmp_path / "i").err.isprintable()
        is False
    )
    assert printable(first(cli, photos / "a" / "1.png", tmp_path / "i")) in ("a/1.png", r"\xff\n.png")


def test_an_index_of_odd_names_alone(cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    with open(os.fsencode(tmp_path / "p") + b"/\xff.png", "wb") as file:  # noqa: PTH123
        file.write((photos / "a" / "1.png").read_bytes())
    assert r"\xff.png" in cli("index", tmp_path / "p", "--index", tmp_path / "i", *tiny).out


def test_names_in_either_normal_form(
    cli: Cli, index: Callable[..., Any], photos: Path, tmp_path: Path
) -> None:
    composed, apart = (unicodedata.normalize(form, "caf\u00e9.png") for form in ("NFC", "NFD"))
    (photos / "a" / "1.png").rename(photos / apart)
    index(photos)
    assert first(cli, photos / composed, tmp_path / "i") == apart
    for name in composed, apart, photos / composed:
        drawn = cli("show", name, "--index", tmp_path / "i", "--out", tmp_path / "s.png", "--json").json
        assert drawn["image"] in (str(photos / apart), str(photos / composed))
    assert "Did you mean" in cli("remove", "cafe.png", "--index", tmp_path / "i", status=1).err
    (photos / apart).rename(photos / composed)
    done = index(photos)
    assert (done["indexed"], done["renamed"]) == (0, 1)
    hits = cli("query", photos / composed, "--index", tmp_path / "i", "--json").json["hits"]
    assert [hit["image"] for hit in hits if "caf" in hit["image"]] == [composed]
    assert "removed 1, 9 left" in cli("remove", apart, "--index", tmp_path / "i").out


def test_a_file_below_another_folder_is_there_already(
    cli: Cli, index: Callable[..., Any], photos: Path, tmp_path: Path
) -> None:
    index(photos / "a")
    done = index(photos)
    assert (done["found"], done["indexed"], done["there"]) == (10, 5, 5)
    done = index(photos / "b", photos / "a")
    assert (done["found"], done["indexed"], done["there"]) == (10, 0, 10)
    assert cli("info", "--index", tmp_path / "i", "--json").json["images"] == 10


def test_errors_show_names_without_control_characters(
    cli: Cli, index: Callable[..., Any], photos: Path
) -> None:
    index(photos)
    for verb in ("query",), ("remove",):
        err = cli(*verb, "a\x1b[31m\udcff.jpg", "--index", photos.parent / "i", status=1).err
        assert r"a\x1b[31m\xff.jpg" in err
        assert "\x1b" not in err


# -- skipped files -----------------------------------------------------------------------------------------


def test_skipped_files_are_named_with_their_folder_once_and_kept(
    cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in "cd":
        draw(tmp_path / folder / "cut.png", 5)
        draw(tmp_path / folder / "whole.png", ord(folder))
        (tmp_path / folder / "text.jpg").write_text("no picture")
    whole = (tmp_path / "d" / "cut.png").read_bytes()
    (tmp_path / "d" / "cut.png").write_bytes(whole[: len(whole) // 2])
    done = cli("index", "c", tmp_path / "d", "--index", "i", "--json", *tiny).json
    skipped = {entry["image"] for entry in done["skipped"]}
    assert skipped == {"c/text.jpg", f"{tmp_path}/d/text.jpg", f"{tmp_path}/d/cut.png"}

    def notes() -> list[str]:
        lines = Path("i/skipped.txt").read_text().splitlines()
        return [line.split("\t")[0].removeprefix(f"{tmp_path}/") for line in lines]

    assert notes() == ["c/text.jpg", "d/cut.png", "d/text.jpg"]
    cli("add", photos, "--index", "i")
    assert notes() == ["c/text.jpg", "d/cut.png", "d/text.jpg"]
    (tmp_path / "d" / "cut.png").write_bytes(whole)
    Path("c/text.jpg").unlink()
    cli("add", "d", "--index", "i")
    assert notes() == ["d/text.jpg"]


def test_what_is_given_twice_is_taken_and_not_noted(
    cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (photos / "link.png").symlink_to(photos / "a" / "1.png")
    done = cli("index", photos, "photos/a", "--index", "i", "--json", *tiny).json
    assert (done["found"], done["indexed"], len(done["skipped"])) == (16, 10, 6)
    notes = Path("i/skipped.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in notes] == [f"{photos}/link.png"]


def test_a_reason_forges_no_line(tmp_path: Path, photos: Path, cli: Cli, tiny: tuple[str, ...]) -> None:
    (photos / "a\nb\tc.jpg").write_text("no")
    cli("index", photos, "--index", tmp_path / "i", *tiny)
    text = (tmp_path / "i" / "skipped.txt").read_text()
    assert text == rf"{photos}/a\nb\tc.jpg" + "\tnot an image\n"


def test_a_folder_that_can_be_read_again_is_skipped_no_longer(
    cli: Cli, index: Callable[..., Any], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor what is no photograph's file any more; what lies in a folder that cannot be read stays noted."""
    (photos / "a/text.jpg").write_text("no picture")
    (photos / "link").symlink_to("a")
    real, closed = os.scandir, {str(photos / "b")}

    def scandir(path: Any = ".") -> Any:
        if str(path) in closed:
            raise PermissionError(13, "Permission denied")
        return real(path)

    def notes(*folders: Path) -> list[str]:
        index(*folders)
        lines = (tmp_path / "i/skipped.txt").read_text().splitlines()
        return [line.split("\t")[0].removeprefix(f"{photos}/") for line in lines]

    monkeypatch.setattr(os, "scandir", scandir)
    assert notes(photos) == ["a/text.jpg", "b", "link"]
    closed |= {str(photos / "a")}
    (photos / "link").unlink()
    (photos / "link").mkdir()
    closed -= {str(photos / "b")}
    assert notes(photos) == ["a", "a/text.jpg"]
    closed.clear()
    assert notes(photos / "b") == ["a", "a/text.jpg"]
    assert notes(photos) == ["a/text.jpg"]
    assert cli("info", "--index", tmp_path / "i", "--json").json["skipped"] == 1
