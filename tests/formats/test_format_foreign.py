"""Files of other programs and other releases: checked before they are believed, read where they can be."""

from __future__ import annotations

import dataclasses

import h5py
import numpy as np
import pytest

from instsearch_formats import FormatError, Index, NewerFormatError, seal
from instsearch_formats import part as parts
from instsearch_formats.encodings import ENCODINGS
from resealed import rewrite


def replaced(name, data, **how):
    data = np.asarray(data)
    if data.size and data.shape and not how:
        how = {"chunks": data.shape, "fletcher32": True}

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
        with pytest.raises(NewerFormatError, match=f"written by instsearch {seal.version()}"):  # type: ignore[attr-defined]
            layer.read(12)


def test_a_later_seal_names_the_version_needed(index, fill):
    layer = fill(index, "regions")
    path = layer.path / "part-0000000008-0000000016.h5"
    head = b"instsearch-part 2\nwritten-by 3.1.4\nblake3 0123\n"
    path.write_bytes(head + path.read_bytes()[len(head) :])
    with pytest.raises(NewerFormatError, match=r"written by instsearch 3\.1\.4 .part version 2"):
        layer.read(12)
