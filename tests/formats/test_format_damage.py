"""Damage is noticed: by ordinary reads wherever it matters, by verify without exception."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest

from instsearch_formats import FormatError, Index, seal
from instsearch_formats import part as parts
from instsearch_formats.part import Part


def read_all(path):
    part = Part(path)
    if part.encoding.name == "arrays":
        return [part.arrays(), part.mapped(), part.attributes()]
    return [part.slice(0, len(part.span)), *(part.item(i) for i in range(len(part.span)))]


def checked(path):
    """What verify does: the digest, and the version in the seal against the file's own."""
    seal.check(path)
    return Part(path)


def some_file(index, fill, what):
    """A small file of each encoding, and the problems' path in verify."""
    if what == "arrays":
        index.write_model("m", {}, {"a": np.arange(3000.0), "b": np.arange(6)}, {"k": 1})
        return next((index.path / "models").iterdir())
    if what == "images":
        return index.path / "images/part-0000000008-0000000016.h5"
    return fill(index, what).path / "part-0000000008-0000000016.h5"


KINDS = [
    "dense-map",
    "dense-map with all",
    "pyramid",
    "keypoints",
    "word-map",
    "weight-map",
    "weight-map of classes",
    "regions",
    "vectors",
    "csr",
    "arrays",
    "images",
]


@pytest.mark.parametrize("what", KINDS)
def test_truncation(index, fill, what):
    path = some_file(index, fill, what)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    sizes = {*range(0, 600, 37), 511, 512, 513, len(whole) - 1, *rng.integers(0, len(whole), 60).tolist()}
    for size in sorted(sizes):
        path.write_bytes(whole[:size])
        with pytest.raises(FormatError, match=path.name):
            Part(path)
        with pytest.raises(FormatError, match=path.name):
            seal.check(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(FormatError, match=path.name):
        Part(path)
    path.write_bytes(whole)
    assert index.verify() == []


def test_verify_names_what_is_cut_short(index, fill):
    path = some_file(index, fill, "regions")
    path.write_bytes(path.read_bytes()[:-9])
    (problem,) = index.verify()
    assert problem.path == path
    assert "bytes instead of" in problem.what


@pytest.mark.parametrize("what", KINDS)
def test_a_flipped_bit_is_an_error_or_harmless_and_verify_sees_it(index, fill, what):
    path = some_file(index, fill, what)
    whole, before = path.read_bytes(), repr(read_all(path))
    rng = np.random.default_rng(1)
    places = {*range(0, 200, 7), 511, *rng.integers(0, len(whole), 150).tolist()}
    for place in sorted(places):
        spoilt = bytearray(whole)
        spoilt[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(spoilt)
        with pytest.raises(FormatError, match=path.name):
            checked(path)
        if what != "arrays":  # mapped arrays are checked by verify only, models before they are read
            try:
                after = repr(read_all(path))
            except FormatError:
                continue
            assert after == before, place
    path.write_bytes(whole)
    assert index.verify() == []


def test_verify_names_each_damaged_file(index, fill):
    fill(index, "regions")
    fill(index, "csr", kind="codes")
    index.write_model("m", {}, {"a": np.arange(3000.0)}, {})
    index.images.remove([3], "x")
    rng = np.random.default_rng(2)
    for path in sorted(index.path.rglob("*.h5")):
        whole = path.read_bytes()
        for place in rng.integers(0, len(whole), 4):
            spoilt = bytearray(whole)
            spoilt[place] ^= 0x40
            path.write_bytes(spoilt)
            assert path in {problem.path for problem in Index.open(index.path).verify()}
        path.write_bytes(whole)
    assert index.verify() == []


def test_a_damaged_model_is_not_read(index, fill):
    path = some_file(index, fill, "arrays")
    spoilt = bytearray(path.read_bytes())
    spoilt[spoilt.index(np.float64(1234).tobytes())] ^= 1
    path.write_bytes(spoilt)
    with pytest.raises(FormatError, match="its bytes are not those that were written"):
        index.read_model("m", {})


def test_the_error_says_what_to_do(index, fill):
    layer = fill(index, "regions")
    path = layer.path / "part-0000000000-0000000008.h5"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FormatError) as caught:
        layer.read(2)
    message = str(caught.value)
    assert str(path) in message
    assert "instsearch verify" in message
    assert "instsearch index" in message
    assert message.count("\n") <= 1
    path.unlink()
    assert layer.ranges() == [range(8, 16), range(16, 20)]


def test_verify_sees_files_in_the_wrong_place(index, fill):
    layer, other = fill(index, "regions"), fill(index, "vectors")
    a, b = (layer.path / parts.part_name(span) for span in (range(0, 8), range(8, 16)))
    a.rename(layer.path / "aside")
    b.rename(a)
    problems = {problem.path: problem.what for problem in index.verify()}
    assert "not those of its name" in problems[a]
    (layer.path / "aside").rename(b)
    assert {problem.path for problem in index.verify()} == {a, b}
    (other.path / a.name).replace(a)
    problems = {problem.path: problem.what for problem in index.verify()}
    assert "moved or renamed" in problems[a]
    image_part = index.path / "images" / a.name
    image_part.write_bytes(a.read_bytes())
    problems = {problem.path: problem.what for problem in index.verify()}
    assert "moved or renamed" in problems[image_part]


def test_verify_compares_with_the_image_table(index, item_of):
    layer = index.layer("features", "net", "dense-map", {})
    for span in (range(0, 8), range(8, 12), range(20, 24)):
        with layer.writer(span) as writer:
            for i in span:
                writer.append(item_of("dense-map", i))
    problems = index.verify()
    assert [problem.path.name for problem in problems] == [
        "part-0000000008-0000000012.h5",
        "part-0000000020-0000000024.h5",
    ]
    assert all("no range of the image table" in problem.what for problem in problems)
    (layer.path / "part-0000000008-0000000012.h5").rename(layer.path / "part-0000000006-0000000012.h5")
    assert any("overlaps" in problem.what for problem in index.verify())


def test_verify_says_which_images_are_missing(index):
    path = index.path / "images/part-0000000008-0000000016.h5"
    path.unlink()
    (problem,) = Index.open(index.path).verify()
    assert path.name in problem.what


def test_verify_sees_unknown_roots(index):
    index.write_text("roots.json", '{"roots": []}')
    problems = index.verify()
    assert len(problems) == 3
    assert all("root 0" in problem.what for problem in problems)


def test_verify_reports_progress(index, fill):
    fill(index, "regions")
    seen = []

    class Progress:
        def start(self, label, total=None, unit="images"):
            seen.append((label, total, unit))

        def advance(self, n=1):
            seen.append(n)

    assert index.verify(Progress()) == []
    assert seen == [("verify", 6, "files"), 1, 1, 1, 1, 1, 1]


def test_no_file_of_an_index_is_a_pickle(index, fill):
    fill(index, "csr")
    index.write_model("m", {}, {"a": np.arange(3)}, {"k": [1]})
    for path in index.path.rglob("*.h5"):
        with h5py.File(path) as file:
            assert json.loads(file.attrs["identity"]) is not None
            for name in file:
                assert file[name].dtype.kind in "iuf"
