"""What lies beside the pixels, texts, profiles, EXIF, never costs the picture, whatever its format."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from instsearch_cli.images import BadImage, examine, read_image
from small_pictures import chunk, noise, png, quadrants
from small_tiffs import pixels, tiff

EXIF = PIL.Image.Exif()
EXIF[0x0112] = 6
TURNED = np.ascontiguousarray(np.rot90(quadrants()))


def read(path: Path, data: bytes) -> np.ndarray:
    path.write_bytes(data)
    seen = read_image(path).pixels
    assert examine(path)[0].width == seen.shape[1]
    return seen


@pytest.mark.parametrize(
    ("tag", "kind", "count", "value"),
    [
        (34853, 16, 2, 8),
        (34665, 8, 1, 49990),
        (34665, 16, 3, 1),
        (305, 16, 3, 1 << 31),
        (330, 4, 1, 0xFFFFFFFF),
        (700, 19, 65536, 8),
        (34675, 7, 0xFFFFFFFF, 0),
    ],
)
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_no_tag_beside_the_pixels_costs_a_tiff(
    tmp_path: Path, compression: str, tag: int, kind: int, count: int, value: int
) -> None:
    PIL.Image.fromarray(TURNED).save(
        tmp_path / "a.tif", compression=compression, tiffinfo={274: 6, 40000: 77}
    )
    data = (tmp_path / "a.tif").read_bytes()
    entry = struct.pack("<HHII", 40000, 3, 1, 77)
    assert data.count(entry) == 1
    damaged = data.replace(entry, struct.pack("<HHII", tag, kind, count, value))
    np.testing.assert_array_equal(read(tmp_path / "b.tif", damaged), quadrants())


def test_no_tag_costs_a_bigtiff(tmp_path: Path) -> None:
    entry = struct.pack("<HHQQ", 34853, 3, 1, 7)
    data = tiff(pixels(quadrants()) | {34853: 7}, big=True)
    assert data.count(entry) == 1
    damaged = data.replace(entry, struct.pack("<HHQQ", 34853, 16, 2, 1 << 63))
    np.testing.assert_array_equal(read(tmp_path / "b.tif", damaged), quadrants())


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("alpha", [False, True])
def test_no_chunk_beside_the_pixels_costs_a_webp(tmp_path: Path, lossless: bool, alpha: bool) -> None:
    picture = PIL.Image.fromarray(TURNED)
    if alpha:
        picture.putalpha(200)
    picture.save(tmp_path / "a.webp", lossless=lossless, exif=EXIF, xmp=b"<x/>")
    data = (tmp_path / "a.webp").read_bytes()
    expected = read_image(tmp_path / "a.webp").pixels
    at = data.index(b"XMP ")
    for length in (0, 3, 5000, 1 << 31, 0xFFFFFFFF):
        damaged = data[: at + 4] + struct.pack("<I", length) + data[at + 8 :]
        np.testing.assert_array_equal(read(tmp_path / "b.webp", damaged), expected)
    for size in (0, 4, 20, 1 << 31):
        damaged = data[:4] + struct.pack("<I", size) + data[8:]
        np.testing.assert_array_equal(read(tmp_path / "b.webp", damaged), expected)
    at = data.index(b"EXIF")
    damaged = data[: at + 4] + struct.pack("<I", 5000) + data[at + 8 :]
    assert read(tmp_path / "b.webp", damaged).shape == TURNED.shape  # nothing says how it was turned


def test_the_pixels_of_a_webp_are_still_needed(tmp_path: Path) -> None:
    PIL.Image.fromarray(noise()).save(tmp_path / "a.webp", exif=EXIF)
    data = (tmp_path / "a.webp").read_bytes()
    for end in range(20, data.index(b"EXIF"), 97):
        with pytest.raises(BadImage):
            read(tmp_path / "b.webp", data[:end])


def test_the_end_of_a_png_is_not_missed(tmp_path: Path) -> None:
    """Its last chunk has no pixels; without one of those before, it is no picture."""
    rows = b"".join(b"\0" + row.tobytes() for row in quadrants())
    whole = png(64, 32, 8, 2, rows)
    for end in range(len(whole) - 12, len(whole)):
        np.testing.assert_array_equal(read(tmp_path / "a.png", whole[:end]), quadrants())
    begun = whole[:-12] + struct.pack(">I4s", 30286, b"IDAT")
    np.testing.assert_array_equal(read(tmp_path / "a.png", begun), quadrants())
    at = whole.index(b"IDAT") - 4
    body = whole[at + 8 : -16]
    several = whole[:at] + b"".join(chunk(b"IDAT", body[i : i + 20]) for i in range(0, len(body), 20))
    np.testing.assert_array_equal(read(tmp_path / "a.png", several), quadrants())
    for lost in range(32, len(body) - 32, 32):
        with pytest.raises(BadImage):
            read(tmp_path / "a.png", several[: len(several) - lost])


@pytest.mark.parametrize("body", [b"", b"JFIF\0", b"JFIF\0\1\1\0\0"])
def test_an_empty_beginning_costs_no_jpeg(tmp_path: Path, body: bytes) -> None:
    PIL.Image.fromarray(quadrants()).save(tmp_path / "a.jpg", quality=95, subsampling=0)
    data = (tmp_path / "a.jpg").read_bytes()
    expected = read_image(tmp_path / "a.jpg").pixels
    assert data[2:4] == b"\xff\xe0"
    damaged = b"\xff\xd8\xff\xe0" + struct.pack(">H", len(body) + 2) + body + data[20:]
    np.testing.assert_array_equal(read(tmp_path / "b.jpg", damaged), expected)


def test_other_formats_have_nothing_that_is_looked_into(tmp_path: Path) -> None:
    picture = PIL.Image.fromarray(quadrants())
    quantised = picture.quantize(16)
    quantised.save(tmp_path / "a.gif")
    data = (tmp_path / "a.gif").read_bytes()
    first = data.index(b"\x2c", 13 + 3 * 2 ** ((data[10] & 7) + 1))
    for extra in (b"\x21\xfe\x03\xff\xfe\x80\0", b"\x21\xff\x0bNETSCAPE2.0\x01\xff\0", b"\x21\x99\x01a\0"):
        seen = read(tmp_path / "b.gif", data[:first] + extra + data[first:] + extra)
        np.testing.assert_array_equal(seen, np.asarray(quantised.convert("RGB")))
    picture.save(tmp_path / "a.bmp")
    data = (tmp_path / "a.bmp").read_bytes()
    gap = data[:10] + struct.pack("<I", 54 + 99) + data[14:54] + b"\xff" * 99 + data[54:] + b"profile"
    np.testing.assert_array_equal(read(tmp_path / "b.bmp", gap), quadrants())
    picture.save(tmp_path / "a.jp2")
    data = (tmp_path / "a.jp2").read_bytes()
    at = data.index(b"jp2c") - 4
    boxed = (
        data[:at]
        + struct.pack(">I4s", 20, b"uuid")
        + b"\xff" * 12
        + data[at:]
        + struct.pack(">I", 99)
        + b"xml "
    )
    np.testing.assert_array_equal(read(tmp_path / "b.jp2", boxed), quadrants())
