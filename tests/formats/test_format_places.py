"""Nothing outside an index's own folder is read, written, locked or removed, whatever lies in it."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from pathlib import Path

import h5py
import numpy as np
import pytest

from instsearch_formats import FormatError, Index, places, seal
from instsearch_formats.part import Part

pytestmark = pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
NAME = "x-0123456789ab"
PART = "part-0000000000-0000000008.h5"


@pytest.fixture
def home(tmp_path):
    """A folder of somebody's, with files whose names could be ours."""
    home = tmp_path / "home"
    for name in (
        "docs/thesis.tex",
        "film.partial",
        f"{NAME}.h5",
        f"{NAME}/{PART}",
        PART,
        "removed-0000000000.h5",
    ):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("mine")
    return home


def state(folder: Path) -> dict[str, tuple]:
    return {
        str(p.relative_to(folder)): (p.lstat().st_mtime_ns, p.read_bytes() if p.is_file() else b"")
        for p in [folder, *folder.rglob("*")]
    }


def swap(place: Path, target: Path) -> None:
    """A link where something of the index was."""
    if place.is_dir():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    place.parent.mkdir(exist_ok=True, parents=True)
    place.symlink_to(target)


@pytest.mark.parametrize("name", ["scratch", "cache", "models", "images", "pipelines", "codes", "search"])
def test_gc_removes_nothing_where_a_folder_is_a_link(index, fill, home, name):
    layer = fill(index, "regions")
    swap(index.path / name, home)
    before = state(home)
    for dry in (True, False):
        with pytest.raises(FormatError, match=f"/{name} is a link") as caught:
            index.gc([], dry_run=dry)
        assert "\n" not in str(caught.value)
    assert state(home) == before
    assert layer.ranges()
    problems = {problem.path.relative_to(index.path).as_posix(): problem.what for problem in index.verify()}
    assert "is a link" in problems[name]


@pytest.mark.parametrize(
    "place", ["stuff/" + NAME, "cache/" + NAME, f"models/{NAME}.h5", "scratch/deep", "x.partial"]
)
def test_gc_stays_inside_where_something_deeper_is_a_link(index, home, place):
    swap(index.path / place, home / f"{NAME}.h5" if place.startswith("models") else home)
    before = state(home)
    index.gc([])
    assert state(home) == before
    named = {problem.path for problem in index.verify()}
    assert named == (
        {index.path / place} if (index.path / place).is_symlink() and "x.partial" not in place else set()
    )


def test_what_is_swept_stays_in_the_folder_that_was_opened(index, home):
    """A folder that is changed for a link again and again while it is swept."""
    going, scratch, aside = True, index.path / "scratch", index.path / "aside"

    def flip() -> None:
        while going:
            for make in (lambda: scratch.rename(aside), lambda: scratch.symlink_to(home)):
                make()
            scratch.unlink()
            aside.rename(scratch)

    before = state(home)
    scratch.mkdir()
    thread = threading.Thread(target=flip)
    thread.start()
    try:
        for _ in range(300):
            for name in ("docs", NAME):
                try:
                    places.remove(scratch / name, index.path, whole=True)
                except (FormatError, OSError):
                    continue
    finally:
        going = False
        thread.join()
    assert state(home) == before


def test_the_lock_is_no_link_and_no_file_of_somebody_else(index, tmp_path):
    target = tmp_path / "profile"
    target.write_text("export PATH\n" * 40)
    for make in (Path.symlink_to, Path.hardlink_to):
        (index.path / "lock").unlink(missing_ok=True)
        make(index.path / "lock", target)
        with pytest.raises(FormatError, match="lock is a"), index.lock():
            pass
        assert target.read_text() == "export PATH\n" * 40
    swap(index.path / "lock", tmp_path / "new")
    with pytest.raises(FormatError, match="lock is a link"), index.lock():
        pass
    assert not (tmp_path / "new").exists()
    (index.path / "lock").unlink()
    os.mkfifo(index.path / "lock")
    with pytest.raises(FormatError, match="lock is not the plain file"), index.lock():
        pass
    (index.path / "lock").unlink()
    (index.path / "lock").write_bytes(b"x" * 100_000)
    with pytest.raises(FormatError, match="lock has 100,000 bytes"), index.lock():
        pass


@pytest.mark.parametrize("name", ["format.json", "roots.json", "pipelines/p.toml"])
def test_text_is_read_from_plain_files_of_a_sane_size(index, tmp_path, name):
    def read():
        return Index.open(index.path).images.roots, index.read_text(name)

    index.write_text("pipelines/p.toml", "a = 1")
    path = index.path / name
    text = path.read_text()
    (tmp_path / "outside").write_text(text)
    for target in (tmp_path / "outside", Path("/dev/zero")):
        swap(path, target)
        with pytest.raises(FormatError, match=f"{path.name} is a link"):
            read()
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(FormatError, match="not the plain file"):
        read()
    path.unlink()
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(FormatError, match="1,099,511,627,776 bytes where 16,777,216"):
        read()
    path.write_text("[" * 100_000)
    if name != "pipelines/p.toml":
        with pytest.raises(FormatError, match=path.name):
            read()
    path.write_text(text)
    assert read()


def test_a_part_a_model_and_a_tombstone_are_no_links(index, fill, tmp_path):
    layer = fill(index, "regions")
    index.write_model("m", {}, {"a": np.arange(3)}, {})
    index.images.remove([3], "x")
    files = [
        layer.path / PART,
        next((index.path / "models").iterdir()),
        index.path / "images/removed-0000000000.h5",
    ]
    reads = (
        lambda index: index.layer("stuff", "thing", "regions", {"encoding": "regions"}).read(1),
        lambda index: index.read_model("m", {}),
        lambda index: index.images.removed(),
    )
    for path, read in zip(files, reads, strict=True):
        moved = tmp_path / path.name
        path.rename(moved)
        path.symlink_to(moved)
        again = Index.open(index.path)
        assert [problem.path for problem in again.verify()] == [path]
        with pytest.raises(FormatError, match=f"{path.name} is a link"):
            read(again)
        path.unlink()
        moved.rename(path)
    assert index.verify() == []
    os.mkfifo(index.path / "models" / f"{NAME}.h5")
    assert [problem.path.name for problem in index.verify()] == [f"{NAME}.h5"]
    with pytest.raises(FormatError, match="not the plain file"):
        Part(index.path / "models" / f"{NAME}.h5", index.path)


def test_nothing_is_written_through_a_link(index, item_of, home):
    before = state(home)
    layer = index.layer("codes", "thing", "regions", {})
    for place in (index.path / "codes", layer.path):
        swap(place, home)
        with pytest.raises(FormatError, match=f"{place.name} is a link"), layer.writer(range(8)):
            pass
        with pytest.raises(FormatError, match=f"{place.name} is a link"):
            layer.has(range(8))
        place.unlink()
    for name in ("models", "scratch", "pipelines", "cache"):
        swap(index.path / name, home)
    with pytest.raises(FormatError, match="models is a link"):
        index.write_model("m", {}, {}, {})
    with pytest.raises(FormatError, match="pipelines is a link"):
        index.write_text("pipelines/p.toml", "")
    with pytest.raises(FormatError, match="pipelines is a link"):
        index.texts("pipelines")
    with pytest.raises(FormatError, match="pipelines is a link"):
        index.remove_text("pipelines/film.partial")
    with pytest.raises(FormatError, match="scratch is a link"), index.scratch():
        pass
    assert index.cache("s", {}) is None
    swap(index.path / "images", home)
    for act in (
        lambda: len(index.images),
        lambda: index.images.removed(),
        lambda: index.images.remove([1], "x"),
    ):
        with pytest.raises(FormatError, match="images is a link"):
            act()
    assert state(home) == before


def test_a_link_inside_a_file_is_not_followed(index, tmp_path, monkeypatch):
    """HDF5 has links of its own, to other files."""
    index.write_model("m", {}, {"a": np.arange(3)}, {})
    path = next((index.path / "models").iterdir())
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["b"] = [1, 2]
    with h5py.File(path, "r+") as file:
        file["b"] = h5py.ExternalLink(tmp_path / "other.h5", "b")
    data = path.read_bytes()
    body = data[seal.SIZE :]
    writer = data.split(b"written-by ")[1].split(b"\n")[0].decode()
    path.write_bytes(seal.Seal(writer, len(body), hashlib.sha256(body).hexdigest()).encode() + body)
    opened, real = [], h5py.Group.__getitem__
    monkeypatch.setattr(
        h5py.Group, "__getitem__", lambda self, name: (opened.append(name), real(self, name))[1]
    )
    with pytest.raises(FormatError, match="b is a link"):
        Part(path)
    assert "b" not in opened


def test_the_top_folder_may_be_a_link(index, fill, tmp_path, item_of, same):
    layer = fill(index, "csr")
    (tmp_path / "far").mkdir()
    index.path.rename(tmp_path / "far" / "index")
    index.path.symlink_to(tmp_path / "far" / "index")
    linked = Index.open(index.path)
    same(linked.layer("stuff", "thing", "csr", layer.identity).read(7), item_of("csr", 7))
    with linked.lock():
        linked.images.remove([1], "x")
    linked.write_text("pipelines/p.toml", "a = 1")
    (index.path / "scratch" / "left").mkdir(parents=True)
    assert linked.verify() == []
    assert [path.name for path in linked.gc([])] == [layer.path.name, "left"]
    assert not list((index.path / "scratch").iterdir())


def test_where_folders_have_no_descriptors(index, fill, home, monkeypatch, item_of, same):
    """As on Windows: every step is looked at."""
    monkeypatch.setattr(places, "_BY_DESCRIPTOR", False)
    layer = fill(index, "csr")
    same(layer.read(7), item_of("csr", 7))
    (index.path / "scratch" / "left" / "deep").mkdir(parents=True)
    before = state(home)
    swap(index.path / "cache", home)
    with pytest.raises(FormatError, match="cache is a link"):
        index.gc([])
    (index.path / "cache").unlink()
    swap(layer.path, home / NAME)
    with pytest.raises(FormatError, match="is a link"):
        index.layer("stuff", "thing", "csr", layer.identity).read(1)
    assert [problem.path for problem in index.verify()] == [layer.path]
    assert [path.name for path in index.gc([])] == ["left"]
    with pytest.raises(FormatError, match="is a link"):
        places.remove(layer.path / PART, index.path)
    assert state(home) == before
