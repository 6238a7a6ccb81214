"""Large PNG and TIFF files are decoded by bands: the same pixels, and far less memory."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from instsearch_cli.images import BadImage, bands, read_image, reading
from small_pictures import noise, quadrants
from small_tiffs import pixels, tiff

COLOUR = PIL.Image.fromarray(noise(200, 304))
GREY = COLOUR.convert("L")


def picture(mode: str) -> PIL.Image.Image:
    if mode == "I;16":
        return PIL.Image.fromarray(np.asarray(GREY).astype(np.uint16) * 257)
    found = COLOUR.quantize(64) if mode == "P" else COLOUR.convert(mode)
    if mode in ("LA", "RGBA"):
        found.putalpha(GREY)
    return found


def by_bands_and_whole(
    path: Path, monkeypatch: pytest.MonkeyPatch, wanted: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, int]:
    """The picture by bands, the same decoded whole, and how many bands there were."""
    whole = read_image(path, lambda w, h: wanted).pixels
    counted = []
    reduced = bands.Bands.__iter__

    def count(self: bands.Bands) -> Any:
        for band in reduced(self):
            counted.append(band.height)
            yield band

    with monkeypatch.context() as patch:
        patch.setattr(bands.Bands, "__iter__", count)
        patch.setattr(bands, "BAND", 304 * 13)
        patch.setattr(reading, "LARGE", 1000)
        banded = read_image(path, lambda w, h: wanted).pixels
    return banded, whole, len(counted)


PNGS = [("RGB", {}), ("L", {}), ("LA", {}), ("RGBA", {}), ("P", {}), ("P", {"transparency": 5})]
PNGS += [("RGB", {"transparency": (0, 0, 0)}), ("L", {"transparency": 7}), ("RGB", {"compress_level": 0})]


@pytest.mark.parametrize(("mode", "options"), PNGS)
@pytest.mark.parametrize("wanted", [(76, 50), (3, 2), (75, 33)])
def test_png(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, options: dict, wanted: tuple[int, int]
) -> None:
    picture(mode).save(tmp_path / "a.png", **options)
    banded, whole, n = by_bands_and_whole(tmp_path / "a.png", monkeypatch, wanted)
    np.testing.assert_array_equal(banded, whole)
    assert n == -(-200 // 13)


TIFFS = [
    (mode, compression)
    for mode in ("RGB", "L", "LA", "RGBA", "P", "CMYK", "I;16", "1")
    for compression in ("raw", "tiff_lzw", "packbits", "tiff_adobe_deflate")
]
TIFFS += [("RGB", "jpeg"), ("L", "jpeg"), ("1", "group4")]


@pytest.mark.parametrize(("mode", "compression"), TIFFS)
@pytest.mark.parametrize("wanted", [(76, 50), (3, 2), (75, 33)])
def test_tiff(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, compression: str, wanted: tuple[int, int]
) -> None:
    picture(mode).save(tmp_path / "a.tif", compression=compression, tiffinfo={278: 16}, strip_size=5000)
    banded, whole, n = by_bands_and_whole(tmp_path / "a.tif", monkeypatch, wanted)
    np.testing.assert_array_equal(banded, whole)
    assert n > 3


@pytest.mark.parametrize("predictor", [1, 2])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("kind", ["u1", "u2"])
def test_strips_and_tiles_in_any_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, big: bool, order: str, predictor: int
) -> None:
    values = np.asarray(COLOUR).astype(kind) * (1 if kind == "u1" else 257)
    directory = pixels(values, order, 11)
    tiles = {**directory, 322: 64, 323: 48, 324: []}
    del tiles[273], tiles[278]
    padded = np.zeros((240, 320, 3), kind)
    padded[:200, :304] = values
    for y in range(0, 240, 48):
        for x in range(0, 320, 64):
            tiles[324].append(padded[y : y + 48, x : x + 64].astype(order + kind).tobytes())
    for data in directory, tiles, pixels(values, order, 1):
        (tmp_path / "a.tif").write_bytes(tiff(data, order=order, big=big))
        banded, whole, n = by_bands_and_whole(tmp_path / "a.tif", monkeypatch, (76, 50))
        np.testing.assert_array_equal(banded, whole)
        if not (big and order == ">"):  # which is decoded otherwise
            assert n > 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_turned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, orientation: int) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    PIL.Image.fromarray(quadrants(240, 320)).save(tmp_path / name, exif=exif)
    wanted = (80, 60) if orientation < 5 else (60, 80)
    banded, whole, n = by_bands_and_whole(tmp_path / name, monkeypatch, wanted)
    assert np.abs(banded.astype(int) - whole).max() <= 1
    assert n > 3


@pytest.mark.parametrize("name", ["a.png", "a.tif", "lzw.tif"])
def test_cut_short_or_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    COLOUR.save(tmp_path / name, **({"compression": "tiff_lzw"} if name == "lzw.tif" else {}))
    data = (tmp_path / name).read_bytes()
    monkeypatch.setattr(bands, "BAND", 304 * 13)
    monkeypatch.setattr(reading, "LARGE", 1000)
    for tenth in range(1, 10):
        (tmp_path / name).write_bytes(data[: len(data) * tenth // 10])
        with pytest.raises(BadImage, match=r"^truncated"):
            read_image(tmp_path / name, lambda w, h: (76, 50))
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(60):
        bad = bytearray(data)
        for place in rng.integers(0, 300, 3):
            bad[place if rng.random() < 0.5 else -1 - place] = rng.integers(256)
        (tmp_path / name).write_bytes(bad)
        try:
            outcomes.add(read_image(tmp_path / name, lambda w, h: (76, 50)).pixels.shape == (50, 76, 3))
        except BadImage as error:
            outcomes.add(
                error.reason.split()[0].strip(":") in ("truncated", "damaged", "not", "too", "needs")
            )
    assert outcomes == {True}


def test_what_lies_beside_the_pixels_costs_no_large_png(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    COLOUR.save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    expected = read_image(tmp_path / "a.png", lambda w, h: (76, 50)).pixels
    (tmp_path / "a.png").write_bytes(data[:33] + struct.pack(">I", 3) + b"tEXta\0bXXXX" + data[33:-12])
    monkeypatch.setattr(reading, "LARGE", 1000)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", lambda w, h: (76, 50)).pixels, expected)


MEASURED = """
import re, sys
from pathlib import Path
import instsearch_cli.data
from instsearch_cli.images import read_image
from instsearch_cli.images.budget import decoding_within
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before = peak()
with decoding_within("120M"):
    read_image(Path(sys.argv[1]), lambda w, h: (340, 256))
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is measured as Linux counts it")
@pytest.mark.parametrize("name", ["a.png", "a.tif", "lzw.tif"])
def test_a_hundred_million_bytes_in_little_memory(tmp_path: Path, name: str) -> None:
    """32 million pixels take 128 MB whole, and are refused above 120 MB for decoding."""
    options = {"a.png": {"compress_level": 1}, "a.tif": {}, "lzw.tif": {"compression": "tiff_lzw"}}
    COLOUR.resize((8000, 4000), PIL.Image.Resampling.NEAREST).save(tmp_path / name, **options[name])
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(tmp_path / name)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert 1024 * int(re.findall(r"\d+", done.stdout)[-1]) < 80_000_000
