"""AVIF, and HEIC and JPEG XL where their plugins are installed: real files, as their encoders write them."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from instsearch_cli.images import BadImage, examine, read_image
from instsearch_cli.images.budget import decoding_within
from instsearch_cli.images.kinds import plug_in
from instsearch_cli.images.sizes import HEAD
from small_pictures import quadrants

Turn = PIL.Image.Transpose
STORED = {
    1: None,
    2: Turn.FLIP_LEFT_RIGHT,
    3: Turn.ROTATE_180,
    4: Turn.FLIP_TOP_BOTTOM,
    5: Turn.TRANSPOSE,
    6: Turn.ROTATE_90,
    7: Turn.TRANSVERSE,
    8: Turn.ROTATE_270,
}
UPRIGHT = quadrants(64, 128)


@pytest.fixture(params=["avif", "heic", "jxl"])
def name(request: pytest.FixtureRequest) -> str:
    PIL.Image.init()
    there = {"avif": "AVIF" in PIL.Image.SAVE, "heic": "HEIF" in plug_in(), "jxl": "JXL" in plug_in()}
    if not there[request.param]:
        pytest.skip(f"nothing installed here writes {request.param}")
    return f"a.{request.param}"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation(tmp_path: Path, name: str, orientation: int) -> None:
    turn = STORED[orientation]
    stored = PIL.Image.fromarray(UPRIGHT)
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    stored = stored if turn is None else stored.transpose(turn)
    stored.save(tmp_path / name, quality=95, exif=exif.tobytes())
    header, _, _ = examine(tmp_path / name)
    image = read_image(tmp_path / name)
    assert (header.width, header.height) == image.size == (128, 64)
    assert np.abs(image.pixels.astype(int) - UPRIGHT).mean() < 4


def test_alpha_is_laid_over_white(tmp_path: Path, name: str) -> None:
    picture = PIL.Image.fromarray(np.full((64, 64, 3), 51, np.uint8))
    picture.putalpha(153)
    picture.save(tmp_path / name, quality=95)
    assert np.abs(read_image(tmp_path / name).pixels.astype(int) - 133).max() < 4


def test_grey(tmp_path: Path, name: str) -> None:
    grey = PIL.Image.fromarray(UPRIGHT).convert("L")
    grey.save(tmp_path / name, quality=95)
    assert np.abs(read_image(tmp_path / name).pixels[..., 0].astype(int) - np.asarray(grey)).mean() < 4


def test_refused_by_its_header(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    PIL.Image.fromarray(UPRIGHT).resize((3000, 2000)).save(tmp_path / name)

    def fail(self: object, *_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(PIL.Image.Image, "load", fail)
    with pytest.raises(BadImage, match=r"^too large: 3000 x 2000 pixels"):
        read_image(tmp_path / name, max_pixels=5_000_000)
    with decoding_within("20M"), pytest.raises(BadImage, match=r"^needs about"):
        read_image(tmp_path / name)


@pytest.mark.parametrize("tenth", range(1, 10))
def test_cut_short(tmp_path: Path, name: str, tenth: int) -> None:
    PIL.Image.fromarray(UPRIGHT).save(tmp_path / name, quality=95)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) * tenth // 10])
    with pytest.raises(BadImage, match=r"^(truncated|damaged)"):
        read_image(tmp_path / name)


def test_its_head_may_come_last(tmp_path: Path, name: str) -> None:
    """Some telephones write what describes the picture behind a megabyte of pixels."""
    if name == "a.jxl":
        pytest.skip("its head is the picture's own")
    PIL.Image.fromarray(UPRIGHT).save(tmp_path / name, quality=95)
    data = (tmp_path / name).read_bytes()
    at = data.index(b"meta") - 4
    size = struct.unpack_from(">I", data, at)[0]
    meta, free = data[at : at + size], struct.pack(">I4s", size, b"free") + bytes(size - 8)
    gap = struct.pack(">I4s", HEAD + 8, b"free") + bytes(HEAD)
    (tmp_path / name).write_bytes(data[:at] + free + data[at + size :] + gap + meta)
    assert np.abs(read_image(tmp_path / name).pixels.astype(int) - UPRIGHT).mean() < 4


def test_texts_may_come_before_the_picture(tmp_path: Path, name: str) -> None:
    if name != "a.jxl":
        pytest.skip("only of JPEG XL")
    PIL.Image.fromarray(UPRIGHT).save(tmp_path / name, quality=95)
    data = (tmp_path / name).read_bytes()
    stream = data if data.startswith(b"\xff\x0a") else data[data.index(b"jxlc") + 4 :]
    head = b"\0\0\0\x0cJXL \r\n\x87\n" + struct.pack(">I", 20) + b"ftypjxl \0\0\0\0jxl "
    text = struct.pack(">I4s", HEAD + 8, b"xml ") + bytes(HEAD)
    (tmp_path / name).write_bytes(head + text + struct.pack(">I4s", 0, b"jxlc") + stream)
    assert np.abs(read_image(tmp_path / name).pixels.astype(int) - UPRIGHT).mean() < 4
