"""Reading pictures: every kind of file comes out as the same upright RGB."""

from __future__ import annotations

import hashlib
import struct
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from PIL import ImageFile

from instsearch_cli.images import Header, content_digest, read_header, read_image
from small_pictures import BLUE, GREEN, LOSSLESS, RED, YELLOW, chunk, noise, png, quadrants

# stored pixels of an upright picture, by EXIF orientation: what the standard says row 0 and column 0 show
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


def exif(orientation: int) -> PIL.Image.Exif:
    tags = PIL.Image.Exif()
    tags[0x0112] = orientation
    return tags


def mode(path: Path) -> str:
    with PIL.Image.open(path) as image:
        return image.mode


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_formats_give_their_pixels(tmp_path: Path, name: str) -> None:
    PIL.Image.fromarray(noise()).save(tmp_path / name, **LOSSLESS[name])
    image = read_image(tmp_path / name, name="x")
    np.testing.assert_array_equal(image.pixels, noise())
    assert image.pixels.dtype == np.uint8
    assert image.pixels.flags.writeable
    assert image.size == (128, 96)
    assert image.name == "x"
    header = read_header(tmp_path / name)
    assert (header.width, header.height) == (128, 96)


@pytest.mark.parametrize(
    ("name", "options", "tolerance"),
    [
        ("a.jpg", {"quality": 95, "subsampling": 0}, 4),
        ("a.png", {}, 0),
        ("a.webp", {"lossless": True}, 0),
        ("a.tif", {}, 0),
        ("lzw.tif", {"compression": "tiff_lzw"}, 0),
    ],
)
@pytest.mark.parametrize("orientation", STORED)
def test_all_orientations_read_upright(
    tmp_path: Path, name: str, options: dict[str, object], tolerance: int, orientation: int
) -> None:
    stored = np.ascontiguousarray(STORED[orientation](quadrants()))
    PIL.Image.fromarray(stored).save(tmp_path / name, exif=exif(orientation), **options)
    image = read_image(tmp_path / name)
    np.testing.assert_allclose(image.pixels.astype(int), quadrants(), atol=tolerance)
    assert image.size == (64, 32)
    header = read_header(tmp_path / name)
    assert (header.width, header.height) == (64, 32)


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("name", ["a.jpg", "a.tif", "a.png"])
def test_orientation_and_shrinking_together(tmp_path: Path, orientation: int, name: str) -> None:
    upright = quadrants(256, 512)
    stored = np.ascontiguousarray(STORED[orientation](upright))
    PIL.Image.fromarray(stored).save(tmp_path / name, exif=exif(orientation))
    asked = []

    def fit(width: int, height: int) -> tuple[int, int]:
        asked.append((width, height))
        return 60, 30

    image = read_image(tmp_path / name, fit)
    assert asked == [(512, 256)]
    assert image.size == (512, 256)
    assert image.pixels.shape == (30, 60, 3)
    for (y, x), colour in {(7, 15): RED, (7, 45): GREEN, (22, 15): BLUE, (22, 45): YELLOW}.items():
        np.testing.assert_allclose(image.pixels[y, x].astype(int), colour, atol=4)


def test_exif_after_the_pixels_of_a_png(tmp_path: Path) -> None:
    stored = np.ascontiguousarray(STORED[6](quadrants()))
    rows = b"".join(b"\0" + row.tobytes() for row in stored)
    tail = chunk(b"eXIf", exif(6).tobytes().removeprefix(b"Exif\0\0"))
    (tmp_path / "late.png").write_bytes(png(32, 64, 8, 2, rows, tail))
    assert read_header(tmp_path / "late.png") == Header(64, 32, "PNG")
    np.testing.assert_array_equal(read_image(tmp_path / "late.png").pixels, quadrants())


@pytest.mark.parametrize("tags", [b"Exif\0\0", b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01" * 9, b"junk"])
def test_corrupt_exif_is_ignored_in_silence(tmp_path: Path, tags: bytes) -> None:
    PIL.Image.fromarray(quadrants()).save(tmp_path / "a.jpg", exif=tags)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(tmp_path / "a.jpg").size == (64, 32)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_senseless_orientation_is_ignored(tmp_path: Path, orientation: int) -> None:
    PIL.Image.fromarray(quadrants()).save(tmp_path / "a.png", exif=exif(orientation))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").pixels, quadrants())


# shrinking ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1600, 1603, 1607])
@pytest.mark.parametrize("target", [90, 200, 201, 399, 700, 1500])
def test_shrinking_keeps_places(tmp_path: Path, width: int, target: int) -> None:
    """A ramp 255 x / W stays one: pixel j has the ramp's value at its centre, (j + 1/2) W / w."""
    ramp = np.rint(255 * (np.arange(width) + 0.5) / width).astype(np.uint8)
    PIL.Image.fromarray(np.repeat(ramp[None], 64, 0)).save(tmp_path / "ramp.jpg", quality=100)
    image = read_image(tmp_path / "ramp.jpg", lambda w, h: (target, 16))
    expected = 255 * (np.arange(target) + 0.5) / target
    inner = slice(3, -3)
    np.testing.assert_allclose(image.pixels[8, inner, 0].astype(float), expected[inner], atol=1.1)


def test_jpegs_are_decoded_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    resize = PIL.Image.Image.resize

    def spy(self: PIL.Image.Image, *args: object, **options: object) -> PIL.Image.Image:
        decoded.append(self.size)
        return resize(self, *args, **options)

    picture = PIL.Image.fromarray(noise()).resize((1200, 800), PIL.Image.Resampling.BICUBIC)
    picture.save(tmp_path / "a.jpg", quality=95)
    monkeypatch.setattr(PIL.Image.Image, "resize", spy)
    image = read_image(tmp_path / "a.jpg", lambda w, h: (w // 5, h // 5))
    assert decoded == [(300, 200)]
    assert image.size == (1200, 800)
    assert image.scale == (5, 5)
    monkeypatch.undo()
    exact = np.array(picture.resize((240, 160), PIL.Image.Resampling.BOX), float)
    assert np.abs(image.pixels - exact).mean() < 3


def test_growing_and_thin_pictures(tmp_path: Path) -> None:
    PIL.Image.fromarray(quadrants()).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", lambda w, h: (2 * w, 2 * h)).pixels.shape == (64, 128, 3)
    PIL.Image.new("RGB", (3000, 1), RED).save(tmp_path / "thin.png")
    thin = read_image(tmp_path / "thin.png", lambda w, h: (round(w * 0.1), round(h * 0.1)))
    assert thin.pixels.shape == (1, 300, 3)
    assert (thin.pixels == RED).all()


# colours --------------------------------------------------------------------------------------------------


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    colour, alpha = np.array([200, 100, 50]), np.array([0, 1, 64, 128, 254, 255])
    rgba = np.empty((1, 6, 4), np.uint8)
    rgba[..., :3], rgba[..., 3] = colour, alpha
    expected = [[(c * a + 255 * (255 - a)) / 255 for c in colour] for a in alpha]
    for name in "a.png", "a.tif":
        PIL.Image.fromarray(rgba).save(tmp_path / name)
        np.testing.assert_allclose(read_image(tmp_path / name).pixels[0], expected, atol=0.51)
    PIL.Image.fromarray(rgba[..., 2:]).save(tmp_path / "la.png")
    assert mode(tmp_path / "la.png") == "LA"
    np.testing.assert_allclose(
        read_image(tmp_path / "la.png").pixels[0], np.array(expected)[:, [2] * 3], atol=0.51
    )


@pytest.mark.parametrize("transparency", [1, b"\xff\x00\xff"])
def test_palettes(tmp_path: Path, transparency: int | bytes) -> None:
    picture = PIL.Image.fromarray(np.array([[0, 1, 2, 0]], np.uint8), "L").convert("P")
    picture.putpalette([*RED, *GREEN, *BLUE])
    picture.putdata([0, 1, 2, 0])
    picture.save(tmp_path / "plain.png")
    picture.save(tmp_path / "clear.png", transparency=transparency)
    assert read_image(tmp_path / "plain.png").pixels[0].tolist() == [list(c) for c in (RED, GREEN, BLUE, RED)]
    white = (255, 255, 255)
    assert read_image(tmp_path / "clear.png").pixels[0].tolist() == [list(c) for c in (RED, white, BLUE, RED)]


def test_a_transparent_colour_of_a_png_without_alpha(tmp_path: Path) -> None:
    PIL.Image.fromarray(quadrants()).save(tmp_path / "a.png", transparency=GREEN)
    expected = quadrants()
    expected[:16, 32:] = 255
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").pixels, expected)


@pytest.mark.parametrize("name", ["a.jpg", "a.tif"])
def test_cmyk(tmp_path: Path, name: str) -> None:
    inks = {
        (0, 255, 255, 0): (255, 0, 0),
        (255, 0, 255, 0): (0, 255, 0),
        (0, 0, 0, 255): (0, 0, 0),
        (0,) * 4: (255,) * 3,
    }
    for ink, colour in inks.items():
        PIL.Image.new("CMYK", (16, 16), ink).save(tmp_path / name)
        assert mode(tmp_path / name) == "CMYK"
        np.testing.assert_allclose(read_image(tmp_path / name).pixels[8, 8].astype(int), colour, atol=2)


def test_grey_and_one_bit(tmp_path: Path) -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for name in "a.png", "a.bmp", "a.pgm", "a.tif", "a.gif":
        PIL.Image.fromarray(grey).save(tmp_path / name)
        np.testing.assert_array_equal(read_image(tmp_path / name).pixels, np.repeat(grey[..., None], 3, 2))
    bits = (np.indices((8, 8)).sum(0) % 2).astype(bool)
    PIL.Image.fromarray(bits).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_image(tmp_path / "bits.png").pixels[..., 0], bits * 255)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_sixteen_bit_grey_is_scaled(tmp_path: Path, name: str) -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    if name == "a.pgm":
        (tmp_path / name).write_bytes(b"P5 256 256 65535\n" + values.astype(">u2").tobytes())
    else:
        PIL.Image.fromarray(values).save(tmp_path / name)
    pixels = read_image(tmp_path / name).pixels
    np.testing.assert_array_equal(pixels, np.repeat(((values.astype(int) + 128) // 257)[..., None], 3, 2))


def test_dark_sixteen_bit_grey_stays_dark(tmp_path: Path) -> None:
    PIL.Image.fromarray(np.full((4, 4), 200, np.uint16)).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png").pixels == 1).all()


def test_sixteen_bit_colour(tmp_path: Path) -> None:
    row = b"\0" + struct.pack(">6H", 0xFFFF, 0x8000, 0, 0x1234, 0xABCD, 0x00FF)
    (tmp_path / "a.png").write_bytes(png(2, 1, 16, 2, row))
    pixels = read_image(tmp_path / "a.png").pixels
    assert pixels.tolist() == [[[255, 128, 0], [0x12, 0xAB, 0]]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.25, 1.0], [0, 64, 255]),
        ([0.0, 100.0, 255.0], [0, 100, 255]),
        ([-5.0, 25700.0, 65535.0], [0, 100, 255]),
        ([0.0, 1.5e6, 2e6], [0, 191, 255]),
        ([np.nan, np.inf, 0.5], [0, 0, 128]),
        ([0.0, 0.0, 0.0], [0, 0, 0]),
    ],
)
def test_floating_point_grey(tmp_path: Path, values: list[float], expected: list[int]) -> None:
    PIL.Image.fromarray(np.array([values], np.float32)).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif").pixels[0, :, 0].tolist() == expected


@pytest.mark.parametrize(
    ("values", "expected"), [([-7, 257, 65535], [0, 1, 255]), ([0, 50_000, 200_000], [0, 64, 255])]
)
def test_thirty_two_bit_grey(tmp_path: Path, values: list[int], expected: list[int]) -> None:
    PIL.Image.fromarray(np.array([values], np.int32)).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif").pixels[0, :, 0].tolist() == expected


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.tif", "a.mpo"])
def test_animations_show_their_first_frame(tmp_path: Path, name: str) -> None:
    first, second = PIL.Image.new("RGB", (16, 16), RED), PIL.Image.new("RGB", (16, 16), BLUE)
    extra = {"lossless": True} if name == "a.webp" else {}
    first.save(tmp_path / name, save_all=True, append_images=[second], **extra)
    with PIL.Image.open(tmp_path / name) as saved:
        assert saved.n_frames == 2  # type: ignore[attr-defined]
    np.testing.assert_allclose(
        read_image(tmp_path / name).pixels.astype(int), np.full((16, 16, 3), RED), atol=3
    )


# the rest -------------------------------------------------------------------------------------------------


def test_a_wrong_suffix_does_not_matter(tmp_path: Path) -> None:
    PIL.Image.fromarray(quadrants()).save(tmp_path / "a.jpg", format="PNG")
    assert read_header(tmp_path / "a.jpg") == Header(64, 32, "PNG")
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg").pixels, quadrants())


def test_headers_are_read_without_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: PIL.Image.Image) -> None:
        raise AssertionError("decoded")

    for name in ["a.jpg", *LOSSLESS]:
        PIL.Image.fromarray(noise()).save(tmp_path / name)
    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    for name in ["a.jpg", *LOSSLESS]:
        header = read_header(tmp_path / name)
        assert (header.width, header.height) == (128, 96)


def test_content_digest(tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(3_000_001)
    (tmp_path / "a").write_bytes(data)
    assert content_digest(tmp_path / "a") == hashlib.sha256(data).digest()


def test_importing_brings_in_no_torch() -> None:
    code = "import sys, instsearch_cli.images; sys.exit(bool({'torch', 'cv2', 'h5py'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
