"""Pictures that are cut short, damaged, too large or none at all: each is refused with a reason."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from PIL import ImageFile

from instsearch_cli.images import BadImage, Header, content_digest, read_header, read_image
from small_pictures import LOSSLESS, RED, noise, png, quadrants


def reason(path: Path, **options: object) -> str:
    with pytest.raises(BadImage) as caught:
        read_image(path, **options)
    return caught.value.reason


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("tenth", range(1, 10))
def test_truncated_jpeg(tmp_path: Path, tenth: int, progressive: bool) -> None:
    PIL.Image.fromarray(noise()).save(tmp_path / "whole.jpg", progressive=progressive)
    data = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) * tenth // 10])
    assert reason(tmp_path / "cut.jpg") == "truncated"
    assert reason(tmp_path / "cut.jpg", fit=lambda w, h: (16, 12)) == "truncated"


@pytest.mark.parametrize(
    "name", ["a.png", "a.gif", "a.bmp", "a.tif", "lzw.tif", "a.ppm", "a.webp", "a.jp2", "a.avif"]
)
@pytest.mark.parametrize("tenth", range(1, 10))
def test_truncated(tmp_path: Path, tenth: int, name: str) -> None:
    if name == "a.avif" and ".avif" not in PIL.Image.registered_extensions():
        pytest.skip("this Pillow has no AVIF")
    PIL.Image.fromarray(noise()).save(tmp_path / name, **LOSSLESS.get(name, {}))
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) * tenth // 10])
    why = reason(tmp_path / name)
    if name in ("a.webp", "a.avif", "a.jp2"):  # decoders that do not say which
        assert "truncated" in why or why.startswith("damaged")
    else:
        assert why == "truncated"


@pytest.mark.parametrize("name", ["a.jpg", *LOSSLESS, "a.gif"])
def test_damage_is_a_reason_or_a_picture(tmp_path: Path, name: str) -> None:
    """Whatever bytes are flipped, nothing but BadImage comes out, and no warning."""
    PIL.Image.fromarray(noise(24, 32)).save(tmp_path / name, **LOSSLESS.get(name, {}))
    whole = (tmp_path / name).read_bytes()
    rng = np.random.default_rng(1)
    outcomes = set()
    for _ in range(150):
        data = bytearray(whole)
        for place in rng.integers(0, min(len(data), 400), 3):
            data[place] = rng.integers(256)
        (tmp_path / name).write_bytes(data)
        outcomes.add(outcome(tmp_path / name))
    assert {"reason"} <= outcomes <= {"picture", "reason"}


def outcome(path: Path) -> str:
    try:
        image = read_image(path, max_pixels=1_000_000)
    except BadImage as error:
        return "reason" if error.reason and "\n" not in error.reason else repr(error.reason)
    shape = image.size[1], image.size[0], 3
    return "picture" if image.pixels.shape == shape else f"{image.pixels.shape} for {shape}"


def test_not_images(tmp_path: Path) -> None:
    texts = {
        "a.jpg": b"dear diary, today I took no pictures at all",
        "bm.jpg": b"BMW is a maker of motor cars and other vehicles",
        "p5.jpg": b"P5 is a chip that was sold as the Pentium by its maker",
        "p6.jpg": b"P6#or not P6, that is the question",
    }
    for name, text in texts.items():
        (tmp_path / name).write_bytes(text)
        assert reason(tmp_path / name) == "not an image"
        with pytest.raises(BadImage, match=r"^not an image$"):
            read_header(tmp_path / name)


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty.jpg").touch()
    assert reason(tmp_path / "empty.jpg") == "empty file"
    assert reason(tmp_path / "gone.jpg") == "cannot be read: No such file or directory"
    assert reason(tmp_path) == "cannot be read: Is a directory"

    def refuse(path: Path, flags: int) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse)
    assert reason(tmp_path / "empty.jpg") == "cannot be read: Permission denied"
    for read in read_header, content_digest:
        with pytest.raises(BadImage, match=r"^cannot be read: Permission denied$"):
            read(tmp_path / "empty.jpg")


@pytest.mark.parametrize(
    "error", [MemoryError(), SyntaxError("odd"), ValueError("odd"), struct.error("odd"), KeyError(3)]
)
def test_whatever_a_decoder_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(self: PIL.Image.Image) -> None:
        raise error

    PIL.Image.fromarray(quadrants()).save(tmp_path / "a.bmp")
    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    expected = {
        MemoryError: "not enough memory to decode it",
        struct.error: "truncated",
        KeyError: "damaged: it lacks 3",
    }
    assert reason(tmp_path / "a.bmp") == expected.get(type(error), "damaged: odd")


def test_errors_of_fit_are_not_the_files_fault(tmp_path: Path) -> None:
    def fit(width: int, height: int) -> tuple[int, int]:
        raise ZeroDivisionError("a bug elsewhere")

    PIL.Image.fromarray(quadrants()).save(tmp_path / "a.png")
    with pytest.raises(ZeroDivisionError):
        read_image(tmp_path / "a.png", fit)


# the pixel limit ------------------------------------------------------------------------------------------


def test_huge_pictures_are_refused_before_decoding(tmp_path: Path) -> None:
    (tmp_path / "huge.png").write_bytes(png(30000, 20000, 8, 2, b""))
    expected = "too large: 30000 x 20000 pixels, limit 200 million"
    assert reason(tmp_path / "huge.png") == expected
    with pytest.raises(BadImage) as caught:
        read_header(tmp_path / "huge.png")
    assert caught.value.reason == expected
    assert read_header(tmp_path / "huge.png", max_pixels=600_000_000) == Header(30000, 20000, "PNG")
    assert reason(tmp_path / "huge.png", max_pixels=600_000_000 - 1).endswith("limit 600 million")


def test_pillows_own_limit_neither_warns_nor_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "large.png").write_bytes(png(12000, 10000, 8, 2, b""))
    assert read_header(tmp_path / "large.png") == Header(12000, 10000, "PNG")
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 10)
    for name in ["a.jpg", "a.gif", *LOSSLESS]:
        PIL.Image.new("RGB", (64, 32), RED).save(tmp_path / name)
        assert read_header(tmp_path / name).width == 64
        np.testing.assert_allclose(read_image(tmp_path / name).pixels[5, 5].astype(int), RED, atol=3)
        assert PIL.Image.MAX_IMAGE_PIXELS == 10
