"""Cameras' raw files are read by their previews, and TIFF files of the old kind by the JPEG in them."""

from __future__ import annotations

import io
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from instsearch_cli.images import BadImage, discover, examine, read_image
from instsearch_cli.images.budget import decoding_within
from instsearch_cli.images.previews import LEAST
from small_pictures import noise
from small_tiffs import pixels, tiff

PICTURE = noise(300, 400)


def jpeg(picture: np.ndarray = PICTURE, **options: Any) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(picture).save(file, "JPEG", **options)
    return file.getvalue()


LARGE, SMALL = jpeg(), jpeg(noise(120, 160))
SEEN = np.asarray(PIL.Image.open(io.BytesIO(LARGE)))
RAW = pixels(np.zeros((64, 64), np.uint16)) | {262: 32803}
LOSSLESS = LARGE.replace(b"\xff\xc0", b"\xff\xc3")


def box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def read(folder: Path, name: str, data: bytes) -> np.ndarray:
    (folder / name).write_bytes(data)
    assert [found.path for found in discover([folder]).found] == [folder / name]
    header, _, _ = examine(folder / name)
    image = read_image(folder / name)
    assert image.size == (header.width, header.height)
    return image.pixels


def reason(folder: Path, name: str, data: bytes) -> str:
    (folder / name).write_bytes(data)
    with pytest.raises(BadImage) as caught:
        read_image(folder / name)
    return caught.value.reason


def strip(data: bytes, compression: int) -> dict[int, Any]:
    return {256: 400, 257: 300, 258: (8, 8, 8), 259: compression, 262: 6, 273: [data], 277: 3, 278: 300}


FILES = {
    "sony.ARW": tiff({513: LARGE, 330: (RAW,)}, {513: SMALL}),
    "nikon.nef": tiff({**pixels(noise(24, 32)), 330: ({513: LARGE}, RAW)}),
    "nikon-mm.nef": tiff({**pixels(noise(24, 32)), 330: ({513: LARGE}, RAW)}, order=">"),
    "canon.cr2": tiff(strip(LARGE, 6), {513: SMALL}, strip(LOSSLESS, 6)),
    "adobe.dng": tiff({**pixels(noise(24, 32)), 330: (strip(LOSSLESS, 7), strip(LARGE, 7)), 50706: 1}),
    "samsung.srw": tiff({513: SMALL}, {330: ({330: ({513: LARGE},)},)}),
    "large.dng": tiff({**RAW, 330: (strip(LARGE, 7),), 50706: 1}, big=True),
    "olympus.orf": tiff(RAW | {37500: b"OLYMPUS\0" + SMALL + LARGE}, magic=b"IIRO"),
    "panasonic.rw2": tiff({46: LARGE, 1: b"0310"}, magic=b"IIU\0"),
    "fuji.raf": b"FUJIFILMCCD-RAW 0201" + bytes(128) + LARGE + bytes(100),
    "minolta.mrw": b"\0MRM" + bytes(60) + SMALL + LARGE + bytes(100),
    "canon.crw": b"II\x1a\0\0\0HEAPCCDR" + bytes(100) + LARGE + bytes(100),
    "canon.cr3": box(b"ftyp", b"crx \0\0\0\1crx isom")
    + box(b"moov", box(b"CMT1", tiff({274: 1})))
    + box(b"uuid", LARGE),
}


@pytest.mark.parametrize("name", FILES)
def test_the_largest_preview_is_read(tmp_path: Path, name: str) -> None:
    np.testing.assert_array_equal(read(tmp_path, name, FILES[name]), SEEN)


@pytest.mark.parametrize("own", [1, 3])
@pytest.mark.parametrize("turned", [1, 6])
@pytest.mark.parametrize("kind", ["arw", "cr3", "orf"])
def test_it_is_turned_as_the_file_says(tmp_path: Path, kind: str, turned: int, own: int) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = own
    data = jpeg(exif=exif)
    first = {**RAW, 274: turned, 37500: b"OLYMPUS\0" + data}
    files = {
        "arw": tiff({513: data, 274: turned}, order=">"),
        "orf": tiff(first, magic=b"IIRO"),
        "cr3": box(b"ftyp", b"crx ") + box(b"moov", box(b"CMT1", tiff({274: turned})), box(b"PRVW", data)),
    }
    expected = np.rot90(SEEN, -1) if turned == 6 else SEEN
    np.testing.assert_array_equal(read(tmp_path, f"a.{kind}", files[kind]), expected)


def test_where_the_file_does_not_say_the_preview_does(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 3
    data = b"FUJIFILMCCD-RAW 0201" + bytes(128) + jpeg(exif=exif)
    np.testing.assert_array_equal(read(tmp_path, "a.raf", data), SEEN[::-1, ::-1])


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.arw", tiff({513: SMALL, 330: (RAW,)})),
        ("a.nef", tiff(RAW)),
        ("a.nef", tiff(RAW, strip(LOSSLESS, 6))),
        ("a.dng", tiff({513: SMALL, 50706: 1, 324: [LARGE]})),  # tiles of the picture itself
        ("a.raf", b"FUJIFILMCCD-RAW 0201" + bytes(500)),
        ("a.cr3", box(b"ftyp", b"crx ") + box(b"moov", box(b"CMT1", b"II"))),
    ],
)
def test_no_preview_is_said_to_be_none(tmp_path: Path, name: str, data: bytes) -> None:
    """A thumbnail is none: it would hide that there is more."""
    assert noise(120, 160).size // 3 < LEAST
    kind = f"camera raw ({name[2:].upper()})"
    assert reason(tmp_path, name, data) == f"not supported: {kind} without a large preview"


def test_cut_short(tmp_path: Path) -> None:
    for name in "sony.ARW", "fuji.raf", "canon.cr3":
        whole = FILES[name]
        at = whole.index(LARGE)
        assert reason(tmp_path, name, whole[: at + len(LARGE) // 2]) == "truncated"
    whole = bytearray(tiff({513: LARGE}))
    at = whole.index(struct.pack("<HHI", 513, 4, 1)) + 8
    whole[at : at + 4] = struct.pack("<I", len(whole) + 10)
    assert reason(tmp_path, "a.nef", bytes(whole)) == "truncated"


def test_directories_in_a_circle_and_lies_end(tmp_path: Path) -> None:
    data = bytearray(tiff({513: LARGE}, {513: SMALL}))
    first = struct.unpack_from("<I", data, 4)[0]
    data[-4:] = struct.pack("<I", first)
    np.testing.assert_array_equal(read(tmp_path, "a.nef", bytes(data)), SEEN)
    rng = np.random.default_rng(0)
    for name in "sony.ARW", "canon.cr2", "canon.cr3", "olympus.orf":
        whole = FILES[name]
        begin = whole.index(LARGE)
        places = [*range(begin), *range(begin + len(LARGE), len(whole))]
        for _ in range(40):
            data = bytearray(whole)
            for place in rng.choice(places, 4):
                data[place] = rng.integers(256)
            (tmp_path / name).write_bytes(data)
            with suppress(BadImage):
                read_image(tmp_path / name)


def test_a_preview_above_the_memory_for_decoding(tmp_path: Path) -> None:
    with decoding_within("300k"):
        assert reason(tmp_path, "a.arw", FILES["sony.ARW"]).startswith("needs about")
    with decoding_within("2k"):
        assert reason(tmp_path, "a.arw", FILES["sony.ARW"]).startswith("needs about")


@pytest.mark.parametrize("turned", [1, 8])
def test_a_tiff_compressed_in_the_old_way(tmp_path: Path, turned: int) -> None:
    old = {**strip(b"", 6), 513: LARGE, 274: turned}
    del old[273], old[278]
    expected = np.rot90(SEEN) if turned == 8 else SEEN
    np.testing.assert_array_equal(read(tmp_path, "a.tif", tiff(old)), expected)
    other = tiff(old | {256: 401})
    assert reason(tmp_path, "a.tif", other) == "not supported: TIFF compressed by JPEG of the old kind (6)"
