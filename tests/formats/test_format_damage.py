"""Damage is noticed: by ordinary reads wherever it matters, by verify without exception."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import h5py
import numpy as np
import pytest

from instsearch_formats import FormatError, Index, NewerFormatError, seal
from instsearch_formats import part as parts
from instsearch_formats.encodings import ENCODINGS
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


def rewrite(path, change, attrs=None):
    """Change a part as somebody else's program might, and seal it anew."""
    raw = path.with_suffix(".raw")
    raw.write_bytes(path.read_bytes())
    with h5py.File(raw, "r+") as file:
        change(file)
        for name, value in (attrs or {}).items():
            file.attrs[name] = value
    body = raw.read_bytes()[seal.SIZE :]
    sealed = seal.Seal(seal.read(path).written_by, len(body), hashlib.sha256(body).hexdigest())
    path.write_bytes(sealed.encode() + body)
    raw.unlink()


def replaced(name, data, **how):
    def change(file):
        del file[name]
        file.create_dataset(name, data=data, **how)

    return change


def soft_link(file):
    file["elsewhere"] = file["scores"][()]
    del file["scores"]
    file["scores"] = h5py.SoftLink("/elsewhere")


def external_link(file):
    del file["scores"]
    file["scores"] = h5py.ExternalLink("/etc/passwd", "/scores")


def external_storage(file):
    n = file["scores"].shape
    del file["scores"]
    file.create_dataset("scores", n, "<f4", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


def virtual(file):
    n = file["scores"].shape
    del file["scores"]
    layout = h5py.VirtualLayout(n, "<f4")
    layout[:] = h5py.VirtualSource("/tmp/other.h5", "scores", shape=n)
    file.create_virtual_dataset("scores", layout)


def huge(file):
    del file["scores"]
    file.create_dataset("scores", (10**12,), "<f4", chunks=(1024,))


def huge_chunk(file):
    del file["scores"]
    file.create_dataset("scores", data=np.zeros(36, "f4"), chunks=(10**7,), maxshape=(None,))


def group(file):
    del file["scores"]
    file.create_group("scores")


def missing(file):
    del file["scores"]


def renamed_attr(file):
    del file.attrs["kind"]


REGIONS = [0, 0, 6, 12, 18, 24, 24, 30, 36]  # what rows 0 to 8 would have


@pytest.mark.parametrize(
    "change",
    [
        replaced("indptr", np.array([0, 6, 0, 12, 18, 24, 24, 30, 36])),
        replaced("indptr", np.array([1, 6, 6, 12, 18, 24, 24, 30, 36])),
        replaced("indptr", np.array([0, 6, 6, 12, 18, 24, 24, 30, 10**15])),
        replaced("indptr", np.array([-6, 6, 6, 12, 18, 24, 24, 30, 36])),
        replaced("indptr", np.arange(5)),
        replaced("indptr", np.arange(9.0)),
        replaced("indptr", np.array(3)),
        replaced("indptr", np.zeros((9, 1), "i8")),
        replaced("scores", np.array([b"x"] * 36, object), dtype=h5py.string_dtype()),
        replaced("scores", np.zeros(36, [("a", "f4")])),
        replaced("scores", np.zeros(36, "f8")),
        replaced("scores", np.zeros(35, "f4")),
        replaced("scores", np.array(3, "f4")),
        replaced("boxes", np.zeros((36, 5), "f4")),
        replaced("boxes", np.zeros(36, "f4")),
        soft_link,
        external_link,
        external_storage,
        virtual,
        huge,
        huge_chunk,
        group,
        missing,
        renamed_attr,
    ],
)
def test_what_a_stranger_wrote_is_not_believed(index, fill, change):
    layer = fill(index, "regions")
    path = layer.path / "part-0000000008-0000000016.h5"
    rewrite(path, change)
    with pytest.raises(FormatError, match=path.name):
        layer.read(12)
    assert path in {problem.path for problem in index.verify()}


@pytest.mark.parametrize(
    "attrs",
    [
        {"encoding-version": "1"},
        {"encoding-type": 1},
        {"start": 0},
        {"stop": 10**15},
        {"identity": np.bytes_(b"{")},
        {"identity": np.bytes_(b"[]")},
        {"identity": np.bytes_(b'{"encoding":"regions"} ')},
        {"kind": np.bytes_(b"other")},
        {"name": np.bytes_(b"other")},
        {"created-by": np.bytes_(b"9.9")},
        {"identity": np.array([b"a", b"b"])},
    ],
)
def test_attributes_of_a_stranger_are_not_believed(index, fill, attrs):
    layer = fill(index, "regions")
    path = layer.path / "part-0000000008-0000000016.h5"
    rewrite(path, lambda file: None, attrs)
    if not {"kind", "name"} & set(attrs):  # these two only verify compares
        with pytest.raises(FormatError, match=path.name):
            layer.read(12)
    assert path in {problem.path for problem in index.verify()}


def test_csr_of_a_stranger(index, fill):
    layer = fill(index, "csr")
    path = layer.path / "part-0000000000-0000000008.h5"
    whole = path.read_bytes()
    for change in (
        replaced("shape", np.array([36, 5])),
        replaced("shape", np.array([36, 70_000])),
        replaced("shape", np.array([35, 10])),
        replaced("shape", np.array([36, -1])),
        replaced("shape", np.array(36)),
        replaced("indptr", np.arange(37) * 2),
        replaced("rows", np.zeros(9, "i8")),
        replaced("indices", np.full(108, 11, "u2")),
    ):
        path.write_bytes(whole)
        rewrite(path, change)
        with pytest.raises(FormatError, match=path.name):
            Index.open(index.path).layer("stuff", "thing", "csr", layer.identity).read(2)


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("dense-map with all", replaced("logits", np.zeros((7, 5), "f4"))),
        ("dense-map with all", replaced("logits", np.zeros((8, 5), "f8"))),
        ("dense-map with all", replaced("cam", np.zeros((35, 3), "f2"))),
        ("dense-map with all", replaced("cam", np.zeros((36, 0), "f2"))),
        ("weight-map of classes", replaced("classes", np.zeros((8, 3), "i4"))),
        ("weight-map of classes", replaced("classes", np.zeros(8, "i4"))),
        ("pyramid", replaced("grids", np.zeros((8, 2, 3), "i4"))),
        ("pyramid", replaced("grids", np.zeros((8, 0, 2), "i4"))),
        ("pyramid", replaced("transforms", np.zeros((8, 3, 4)))),
    ],
)
def test_optional_datasets_of_a_stranger(index, fill, what, change):
    layer = fill(index, what)
    path = layer.path / "part-0000000008-0000000016.h5"
    rewrite(path, change)
    with pytest.raises(FormatError, match=path.name):
        layer.read(12)
    assert path in {problem.path for problem in index.verify()}


def test_a_reader_that_does_not_know_the_optional_fields_has_the_rest(
    index, fill, item_of, same, monkeypatch
):
    """The tables of encodings as the first release had them."""
    dense, weights, pyramid = (
        fill(index, what, kind=what.split()[0])
        for what in ("dense-map with all", "weight-map of classes", "pyramid")
    )
    older = {
        name: dataclasses.replace(
            encoding, fields=tuple(f for f in encoding.fields if f.name not in ("logits", "cam", "classes"))
        )
        for name, encoding in ENCODINGS.items()
        if name != "pyramid"
    }
    assert {name: encoding.version for name, encoding in older.items()}.items() >= {
        ("dense-map", 1),
        ("weight-map", 1),
    }
    monkeypatch.setattr(parts, "ENCODINGS", older)
    for layer, what in ((dense, "dense-map with all"), (weights, "weight-map of classes")):
        item = item_of(what, 12)
        for name in {"logits", "cam", "classes"} & set(item):
            del item[name]
        same(layer.read(12), item)
        assert set(next(layer.blocks())) == {*item, "indptr", "start", "stop"}
    with pytest.raises(NewerFormatError, match="holds encoding pyramid version 1"):
        pyramid.read(12)


@pytest.mark.parametrize("what", ["dense-map with all", "weight-map of classes"])
def test_parts_without_optional_datasets_are_read(index, fill, item_of, same, what):
    """As earlier releases wrote them, beside later ones in one layer."""
    layer = fill(index, what)

    def drop(file):
        for name in {"logits", "cam", "classes"} & set(file):
            del file[name]

    rewrite(layer.path / "part-0000000008-0000000016.h5", drop)
    same(layer.read(3), item_of(what, 3))
    rest = {
        name: value for name, value in item_of(what, 12).items() if name not in ("logits", "cam", "classes")
    }
    same(layer.read(12), rest)
    assert index.verify() == []


def test_more_attributes_and_datasets_are_ignored(index, fill, item_of, same):
    layer = fill(index, "regions")

    def add(file):
        file["labels"] = np.arange(3)

    rewrite(layer.path / "part-0000000008-0000000016.h5", add, {"note": "hello"})
    same(layer.read(12), item_of("regions", 12))
    assert index.verify() == []


def test_a_later_encoding_names_the_version_needed(index, fill):
    layer = fill(index, "regions")
    path = layer.path / "part-0000000008-0000000016.h5"
    whole = path.read_bytes()
    for attrs in ({"encoding-version": 2}, {"encoding-type": np.bytes_(b"hologram")}):
        path.write_bytes(whole)
        rewrite(path, lambda file: None, attrs)
        with pytest.raises(NewerFormatError, match=f"written by instsearch {seal.version()}"):
            layer.read(12)


def test_a_later_seal_names_the_version_needed(index, fill):
    layer = fill(index, "regions")
    path = layer.path / "part-0000000008-0000000016.h5"
    head = b"instsearch-part 2\nwritten-by 3.1.4\nblake3 0123\n"
    path.write_bytes(head + path.read_bytes()[len(head) :])
    with pytest.raises(NewerFormatError, match=r"written by instsearch 3\.1\.4 .part version 2"):
        layer.read(12)


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
