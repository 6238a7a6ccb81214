"""The index as a whole: making, opening, listing, small files, collecting garbage."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import instsearch_formats
from instsearch_formats import FormatError, Index, NewerFormatError, fingerprint


def test_create_and_open(tmp_path):
    made = Index.create(tmp_path / "a" / "index")
    head = json.loads((made.path / "format.json").read_text())
    assert head["format"] == "instsearch"
    assert head["version"] == 1
    assert set(head) == {"format", "version", "created-by"}
    assert [path.name for path in made.path.iterdir()] == ["format.json"]
    again = Index.open(str(made.path))
    assert len(again.images) == 0
    assert again.layers() == again.models() == again.verify() == again.gc([]) == []
    with pytest.raises(FormatError, match="an index already"):
        Index.create(made.path)


def test_create_wants_an_empty_folder(tmp_path):
    (tmp_path / f"format.json.123{instsearch_formats.files.PARTIAL}").touch()  # a kill while creating
    Index.create(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    with pytest.raises(FormatError, match="other files"):
        Index.create(tmp_path / "photos")
    with pytest.raises(FormatError, match="is a file"):
        Index.create(tmp_path / "photos" / "a.jpg")


def test_open_says_what_it_found_instead(tmp_path):
    with pytest.raises(FormatError, match="there is no index at"):
        Index.open(tmp_path / "nothing")
    with pytest.raises(FormatError, match="an empty folder"):
        Index.open(tmp_path)
    (tmp_path / "a.JPG").touch()
    with pytest.raises(FormatError, match="a folder of 1 pictures"):
        Index.open(tmp_path)
    with pytest.raises(FormatError, match="is a file"):
        Index.open(tmp_path / "a.JPG")
    (tmp_path / "a.JPG").rename(tmp_path / "notes.txt")
    with pytest.raises(FormatError, match=r"no format\.json"):
        Index.open(tmp_path)


@pytest.mark.parametrize(
    "head",
    [
        "",
        "[]",
        "3",
        "{}",
        '{"format": "zarr", "version": 1}',
        '{"format": "instsearch", "version": "1"}',
        "\xe9",
    ],
)
def test_open_checks_format_json(tmp_path, head):
    (tmp_path / "format.json").write_bytes(head.encode("latin-1"))
    with pytest.raises(FormatError, match=r"format\.json"):
        Index.open(tmp_path)


def test_a_later_format_is_named(tmp_path):
    head = {"format": "instsearch", "version": 2, "created-by": "7.1"}
    (tmp_path / "format.json").write_text(json.dumps(head))
    with pytest.raises(NewerFormatError, match=r"version 2, written by instsearch 7\.1"):
        Index.open(tmp_path)


def test_names_of_layers(index):
    for kind, name in (("images", "x"), ("scratch", "x"), ("a/b", "x"), ("..", "x"), ("x", "a/b"), ("x", "")):
        with pytest.raises(FormatError):
            index.layer(kind, name, "regions", {})


def test_layers(index, fill):
    regions = fill(index, "regions", kind="regions", option=1)
    search = index.layer("search", "flat", "arrays", {"s": [1]})
    for span in (range(0, 8), range(0, 16), range(16, 20)):
        search.write_arrays(span, {"x": np.zeros(3)})
    index.layer("codes", "x", "vectors", {}).path.mkdir(parents=True)  # killed before the first part
    (index.path / "regions" / "notes").mkdir()
    one, two = index.layers()
    assert one.path == f"regions/thing-{fingerprint(regions.identity)[:12]}"
    assert one[1:] == (
        "regions",
        "thing",
        fingerprint(regions.identity)[:12],
        "regions",
        3,
        20,
        regions.nbytes,
        {"encoding": "regions", "option": 1},
    )
    assert (two.encoding, two.parts, two.rows, two.identity) == ("arrays", 3, 20, {"s": [1]})


def test_a_layer_whose_parts_cannot_be_read_is_still_listed(index, fill):
    layer = fill(index, "regions")
    for path in layer.path.iterdir():
        path.write_bytes(b"")
    (info,) = index.layers()
    assert (info.encoding, info.identity, info.parts, info.rows) == ("", {}, 3, 20)


def test_models(index):
    arrays = {"mean": np.arange(4.0), "axes": np.eye(4, dtype=np.float32)}
    identity = {"plugin": "pca", "inputs": ["ab", "cd"]}
    assert index.read_model("pca", identity) is None
    index.write_model("pca", identity, arrays, {"rows": 20, "spans": [[0, 8]]})
    back, attrs = index.read_model("pca", identity)
    assert attrs == {"rows": 20, "spans": [[0, 8]]}
    for name in arrays:
        np.testing.assert_array_equal(back[name], arrays[name])
        assert back[name].flags.writeable
    assert index.read_model("pca", {**identity, "k": 1}) is None
    (info,) = index.models()
    digits = fingerprint(identity)[:12]
    assert info[:3] == (f"models/pca-{digits}.h5", "pca", digits)
    assert (info.identity, info.attrs) == (identity, attrs)
    with pytest.raises(FormatError, match="never rewritten"):
        index.write_model("pca", identity, arrays, {})


@pytest.mark.parametrize("attrs", [{"a": np.zeros(2)}, {"a": {1, 2}}])
def test_attributes_are_json(index, attrs):
    with pytest.raises(FormatError, match="not plain JSON"):
        index.write_model("pca", {}, {}, attrs)


def test_text(index):
    assert index.read_text("pipelines/default.toml") is None
    index.write_text("pipelines/default.toml", "a = 'ä'\n")
    index.write_text("pipelines/default.toml", "b = 2\r\n")
    assert index.read_text("pipelines/default.toml") == "b = 2\r\n"
    assert [path.name for path in (index.path / "pipelines").iterdir()] == ["default.toml"]
    for wrong in ("../x", "/etc/x", "", "a/../../x"):
        with pytest.raises(FormatError, match="inside the index"):
            index.write_text(wrong, "")


def test_scratch(index):
    with index.scratch() as one, index.scratch() as two:
        assert one != two
        assert one.parent == index.path / "scratch"
        (one / "deep").mkdir()
        (one / "deep" / "file").write_text("x")
    assert not one.exists()
    with pytest.raises(RuntimeError), index.scratch() as three:
        raise RuntimeError
    assert not three.exists()


@pytest.fixture
def littered(index, fill):
    """An index with two layers, two models, segments, and what killed runs leave."""
    keep, drop = fill(index, "regions", option=1), fill(index, "regions", option=2)
    index.write_model("keep", {}, {}, {})
    index.write_model("drop", {}, {}, {})
    search = index.layer("search", "flat", "arrays", {})
    for span in (range(0, 8), range(8, 16), range(0, 16), range(12, 20)):
        search.write_arrays(span, {"x": np.zeros(3)})
    index.write_text("pipelines/p.toml", "")
    left = [index.path / "images", index.path / "models", keep.path, index.path / "pipelines", index.path]
    for folder in left:
        (folder / "x.h5.0123.partial").write_text("half")
    (index.path / "scratch" / "left" / "deep").mkdir(parents=True)
    (index.path / "scratch" / "file").touch()
    kept = [keep.path.relative_to(index.path).as_posix(), search.path.relative_to(index.path).as_posix()]
    doomed = [folder / "x.h5.0123.partial" for folder in left]
    doomed += [drop.path, next((index.path / "models").glob("drop-*.h5"))]
    doomed += [search.path / f"part-{a:010d}-{b:010d}.h5" for a, b in ((0, 8), (8, 16))]
    doomed += [index.path / "scratch" / "left", index.path / "scratch" / "file"]
    return [*kept, next((index.path / "models").glob("keep-*.h5")).relative_to(index.path).as_posix()], doomed


def files(index: Index) -> dict[Path, bytes]:
    return {
        path: path.read_bytes() for path in index.path.rglob("*") if path.is_file() and path.name != "lock"
    }


def test_gc(index, littered):
    keep, doomed = littered
    before = files(index)
    assert sorted(index.gc(keep, dry_run=True)) == sorted(doomed)
    assert files(index) == before
    assert sorted(index.gc(keep)) == sorted(doomed)
    left = {p: b for p, b in before.items() if not any(p == d or d in p.parents for d in doomed)}
    assert files(index) == left
    assert not any(path.exists() for path in doomed)
    assert index.verify() == []
    assert index.gc(keep) == []
    assert len(index.layers()) == 2
    assert len(index.images) == 20


def test_gc_leaves_what_is_not_ours(index, fill, tmp_path):
    layer = fill(index, "regions")
    ours = [
        layer.path / "notes.txt",
        index.path / "photos" / "a.jpg",
        index.path / "models" / "README",
        index.path / "stuff" / "holiday" / "part-0000000000-0000000008.h5",
    ]
    for path in ours:
        path.parent.mkdir(exist_ok=True, parents=True)
        path.touch()
    outside = tmp_path / "outside-0123456789ab"
    outside.mkdir()
    (outside / "part-0000000000-0000000008.h5").touch()
    (index.path / "stuff" / "link-0123456789ab").symlink_to(outside)
    assert index.gc([]) == [layer.path]
    assert [path.name for path in layer.path.iterdir()] == ["notes.txt"]
    assert all(path.exists() for path in ours)
    assert list(outside.iterdir())


def test_an_index_of_the_moved_folder_is_the_same(index, fill, tmp_path, item_of, same):
    layer = fill(index, "csr")
    index.path.rename(tmp_path / "moved")
    moved = Index.open(tmp_path / "moved")
    same(moved.layer("stuff", "thing", "csr", layer.identity).read(7), item_of("csr", 7))
    assert moved.verify() == []


def test_the_package_needs_nothing_above_it():
    """numpy, h5py and hdf5plugin: neither the core nor torch."""
    code = "import sys, instsearch_formats; print([m for m in sys.modules if m.startswith(('torch', 'instsearch_'))])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "torch" not in out
    assert "instsearch_cli" not in out
    assert "instsearch_plugins" not in out
