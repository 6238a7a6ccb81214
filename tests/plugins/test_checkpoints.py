"""Reading Lasagne's and Caffe's files, whole, strange and damaged."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from instsearch_cli.errors import InstsearchError
from instsearch_cli.outside import archives
from instsearch_plugins.numeric.checkpoints import read_caffe, read_lasagne, recognise, refused

RNG = np.random.default_rng(0)
ARRAYS = [RNG.normal(size=s).astype(np.float32) for s in ((4, 3, 3, 3), (4,), (1, 4, 1, 1), (1,))]


def varint(n: int) -> bytes:
    out = bytearray()
    while n >= 0x80:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    return bytes([*out, n])


def field(number: int, content: bytes | int) -> bytes:
    """One field of a message: a varint or a length and bytes."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def blob(array: np.ndarray, older: bool = False) -> bytes:
    if older:
        sides = [1] * (4 - array.ndim) + list(array.shape)
        shape = b"".join(field(i + 1, side) for i, side in enumerate(sides))
    else:
        shape = field(7, field(1, b"".join(map(varint, array.shape))))
    kind = 8 if array.dtype == np.float64 else 5
    return shape + field(kind, array.tobytes())


def caffemodel(layers: dict[str, list[np.ndarray]], older: bool = False) -> bytes:
    """A NetParameter with layers, each with a type, a bottom and its blobs."""
    net = field(1, b"TestNet") + field(5, 1)
    for name, blobs in layers.items():
        if older:
            layer = field(2, b"data") + field(4, name.encode()) + field(5, 4)
            net += field(2, layer + b"".join(field(6, blob(b, older)) for b in blobs))
        else:
            layer = field(1, name.encode()) + field(2, b"Convolution") + field(3, b"data")
            net += field(100, layer + b"".join(field(7, blob(b)) for b in blobs))
    return net


def put(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def pack(path: Path, **entries: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(f"{name}.npy", content)
    return path


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


class TestLasagne:
    @pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
    def test_arrays_in_their_order(self, tmp_path, save):
        many = [np.full(2, i, np.float32) for i in range(12)]  # arr_10 comes before arr_2 in the alphabet
        save(tmp_path / "w.npz", *many)
        read = read_lasagne(tmp_path / "w.npz")
        assert [int(a[0]) for a in read] == list(range(12))

    def test_dtypes_and_layouts_come_as_contiguous_f32(self, tmp_path):
        wide = RNG.normal(size=(3, 5))
        np.savez(tmp_path / "w.npz", wide, np.asfortranarray(wide), wide.astype(">f4"), wide.astype("f2"))
        for array in read_lasagne(tmp_path / "w.npz"):
            assert array.dtype == np.float32
            assert array.flags.c_contiguous
            np.testing.assert_allclose(array, wide, rtol=1e-3)

    def test_python_2_wrote_lengths_with_an_l(self, tmp_path):
        plain = npy(ARRAYS[0])
        header = plain[10:128].replace(b"(4, 3, 3, 3)", b"(4L, 3L, 3L, 3L)").replace(b"    \n", b"\n")
        assert len(header) == 118
        path = pack(tmp_path / "w.npz", arr_0=plain[:10] + header + plain[128:])
        assert np.array_equal(read_lasagne(path)[0], ARRAYS[0])

    def test_other_names(self, tmp_path):
        np.savez(tmp_path / "w.npz", ARRAYS[1], mean=ARRAYS[1])
        with pytest.raises(InstsearchError, match="'mean' is not among arr_0 to arr_1"):
            read_lasagne(tmp_path / "w.npz")

    def test_an_array_is_missing_in_the_middle(self, tmp_path):
        with pytest.raises(InstsearchError, match="'arr_2' is not among arr_0 to arr_1"):
            read_lasagne(pack(tmp_path / "w.npz", arr_0=npy(ARRAYS[0]), arr_2=npy(ARRAYS[1])))

    def test_objects_are_never_unpickled(self, tmp_path):
        np.savez(tmp_path / "w.npz", np.array([{}, None], object))
        with pytest.raises(InstsearchError, match="holds object, not real numbers"):
            read_lasagne(tmp_path / "w.npz")

    @pytest.mark.parametrize("shape", [b"(9, 3, 3, 3)", b"(4, 3, 3, 2)"])
    def test_a_shape_that_is_not_that_of_the_bytes(self, tmp_path, shape):
        content = npy(ARRAYS[0]).replace(b"(4, 3, 3, 3)", shape)
        with pytest.raises(InstsearchError, match=r"w\.npz: damaged or truncated \(arr_0\.npy claims shape"):
            read_lasagne(pack(tmp_path / "w.npz", arr_0=content))

    def test_a_shape_of_terabytes_allocates_nothing(self, tmp_path):
        header = npy(np.zeros((1000, 1000, 1000), np.float32)[:0]).replace(b"(0, 1000", b"(9, 9000")
        with pytest.raises(InstsearchError, match=r"claims shape \(9, 9000, 1000\)"):
            read_lasagne(pack(tmp_path / "w.npz", arr_0=header))

    def test_a_changed_byte(self, tmp_path):
        np.savez(tmp_path / "w.npz", ARRAYS[0])
        content = bytearray((tmp_path / "w.npz").read_bytes())
        content[content.index(ARRAYS[0].tobytes()) + 5] ^= 1
        with pytest.raises(InstsearchError, match=r"damaged or truncated .*CRC"):
            read_lasagne(put(tmp_path / "w.npz", bytes(content)))

    def test_too_many_bytes_are_not_read(self, tmp_path, monkeypatch):
        np.savez_compressed(tmp_path / "w.npz", np.zeros(1 << 20, np.float32))
        assert read_lasagne(tmp_path / "w.npz")[0].shape == (1 << 20,)
        monkeypatch.setattr(archives, "SLACK", 1 << 20)
        with pytest.raises(InstsearchError, match="bytes that claim to be 4,194,"):
            read_lasagne(tmp_path / "w.npz")

    def test_a_damaged_directory(self, tmp_path):
        np.savez(tmp_path / "w.npz", *ARRAYS)
        content = (tmp_path / "w.npz").read_bytes()
        path = put(tmp_path / "w.npz", content.replace(b"PK\1\2", b"PK\1\3"))
        for read in (read_lasagne, recognise):
            with pytest.raises(InstsearchError, match="damaged"):
                read(path)

    @pytest.mark.parametrize("keep", [0.3, 0.9, 0.999])
    def test_a_truncated_file(self, tmp_path, keep):
        np.savez(tmp_path / "w.npz", *ARRAYS)
        content = (tmp_path / "w.npz").read_bytes()
        path = put(tmp_path / "cut.npz", content[: int(len(content) * keep)])
        for read in (read_lasagne, recognise):
            with pytest.raises(InstsearchError, match="damaged"):
                read(path)


class TestCaffe:
    layers = {"conv1": ARRAYS[:2], "deconv1": [ARRAYS[2]]}  # noqa: RUF012

    def test_layers_of_today(self, tmp_path):
        read = read_caffe(put(tmp_path / "w", caffemodel({**self.layers, "relu1": []})))
        assert list(read) == ["conv1", "deconv1"]
        for name, blobs in self.layers.items():
            assert all(np.array_equal(a, b) for a, b in zip(read[name], blobs, strict=True))

    def test_older_layers_have_four_sides(self, tmp_path):
        read = read_caffe(put(tmp_path / "w", caffemodel(self.layers, older=True)))
        assert read["conv1"][1].shape == (1, 1, 1, 4)
        assert np.array_equal(read["conv1"][1].ravel(), ARRAYS[1])
        assert np.array_equal(read["deconv1"][0], ARRAYS[2])

    def test_doubles_and_a_shape_that_is_not_packed(self, tmp_path):
        shape = field(7, field(1, 2) + field(1, 2))
        message = shape + field(8, np.arange(4.0).tobytes()) + field(6, b"\0" * 16)
        net = field(100, field(1, b"ip") + field(7, message))
        assert np.array_equal(read_caffe(put(tmp_path / "w", net))["ip"][0], [[0, 1], [2, 3]])

    def test_what_else_is_in_a_model_is_passed_over(self, tmp_path):
        strange = varint(9 << 3 | 1) + b"\0" * 8 + varint(9 << 3 | 5) + b"\0" * 4 + field(8, b"xyz")
        read = read_caffe(put(tmp_path / "w", strange + caffemodel(self.layers)))
        assert list(read) == ["conv1", "deconv1"]

    @pytest.mark.parametrize(
        ("message", "reason"),
        [
            (blob(ARRAYS[0])[:-4], "claims 432 bytes where 428 are left"),
            (field(7, field(1, b"\x05")) + field(5, b"\0" * 16), r"shape \(5,\) has 4 numbers"),
            (field(7, field(1, b"\x05")) + field(5, b"\0" * 17), "multiple"),
            (field(7, field(1, b"\x01" * 99)) + field(5, b"\0" * 4), "over 8 axes"),
            (field(7, field(1, b"\x80")) + field(5, b"\0" * 4), "does not end"),
            (field(7, field(1, b"\x01")), "has 0 numbers"),
            (field(1, 2**63) + field(2, 2**63) + field(5, b"\0" * 4), "has 1 numbers"),
            (b"\x0b", "wire type 3"),
        ],
    )
    def test_damaged_blobs(self, tmp_path, message, reason):
        net = field(100, field(1, b"conv1") + field(7, message))
        with pytest.raises(InstsearchError, match=rf"(?s)not a Caffe model, or a damaged one: .*{reason}"):
            read_caffe(put(tmp_path / "w", net))

    def test_two_layers_of_one_name(self, tmp_path):
        with pytest.raises(InstsearchError, match="two layers are called 'conv1'"):
            read_caffe(put(tmp_path / "w", caffemodel(self.layers) * 2))

    def test_a_model_without_weights(self, tmp_path):
        with pytest.raises(InstsearchError, match="without weights"):
            read_caffe(put(tmp_path / "w", caffemodel({"relu1": []})))

    @given(st.integers(0, len(caffemodel({"conv1": ARRAYS[:2]})) - 1), st.binary(max_size=6))
    def test_any_damage_is_an_error_of_ours_or_harmless(self, tmp_path_factory, at, patch):
        content = caffemodel({"conv1": ARRAYS[:2]})
        path = put(
            tmp_path_factory.getbasetemp() / "patched", content[:at] + patch + content[at + len(patch) :]
        )
        try:
            read = read_caffe(path)
        except InstsearchError as error:
            read = {}
            assert len(str(error).splitlines()) <= 2  # noqa: PT017
        assert all(isinstance(a, np.ndarray) for blobs in read.values() for a in blobs)

    @given(st.integers(0, len(caffemodel({"conv1": ARRAYS[:2]})) - 1))
    def test_any_truncation_is_an_error(self, tmp_path_factory, length):
        path = put(tmp_path_factory.getbasetemp() / "cut", caffemodel({"conv1": ARRAYS[:2]})[:length])
        with pytest.raises(InstsearchError, match="Caffe model"):
            read_caffe(path)


def torch_file(zipped: bool) -> Callable[[Path], None]:
    return lambda path: torch.save({"a": torch.zeros(3)}, path, _use_new_zipfile_serialization=zipped)


@pytest.mark.parametrize(
    ("kind", "write"),
    [
        ("torch", torch_file(True)),
        ("torch", torch_file(False)),
        ("caffe", lambda path: path.write_bytes(caffemodel({"a": ARRAYS[:1]}))),
        ("caffe", lambda path: path.write_bytes(caffemodel({"a": ARRAYS[:1]}, older=True)[11:])),
        ("hdf5", lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 99)),
        ("pickle", lambda path: path.write_bytes(b"\x80\x02}q\x01(U\x0cparam values")),
        ("pickle", lambda path: path.write_bytes(b"(dp1\nS'param values'\np2\n")),
        ("pickle", lambda path: path.write_bytes(b"}q\x00X\x0c\0\0\0param values")),
        ("", lambda path: path.write_bytes(b"<html>not found</html>")),
        ("", lambda path: path.write_bytes(b"")),
        ("", lambda path: zipfile.ZipFile(path, "w").close()),
    ],
)
def test_kinds_are_known_by_content(tmp_path, kind, write):
    path = tmp_path / "gen_model.npz"  # the name says nothing
    write(path)
    assert recognise(path) == kind


def test_a_npz_is_known_by_content(tmp_path):
    np.savez(tmp_path / "w.npz", *ARRAYS)
    (tmp_path / "w.npz").rename(tmp_path / "w.pth")
    assert recognise(tmp_path / "w.pth") == "npz"


def test_refusals_say_what_to_take(tmp_path):
    path = put(tmp_path / "vgg16.pkl", b"\x80\x02}q\x01.")
    assert str(refused(path, "x.npz of y/z")) == (
        f"{path}: a pickle, which can run code: refused.\nTake x.npz of y/z."
    )
    path = put(tmp_path / "sam.pkl", b"\x89HDF\r\n\x1a\n")
    assert "an HDF5 file, in which it was not published" in str(refused(path, "x"))
