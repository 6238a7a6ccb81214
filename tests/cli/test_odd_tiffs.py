"""TIFF files in rare forms: deep colour, planes, signed numbers, BigTIFF, and what their writers do wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from instsearch_cli.images import BadImage, examine, read_image
from small_pictures import noise, quadrants
from small_tiffs import pixels, tiff

SIDE = 16
RAMP = np.linspace(0, 1, SIDE * SIDE).reshape(SIDE, SIDE)
COLOUR = np.stack([RAMP, RAMP.T, 1 - RAMP], axis=2)


def read(folder: Path, data: bytes, name: str = "a.tif") -> np.ndarray:
    (folder / name).write_bytes(data)
    return read_image(folder / name).pixels


def reason(folder: Path, data: bytes) -> str:
    with pytest.raises(BadImage) as caught:
        read(folder, data)
    return caught.value.reason


def shades(values: np.ndarray) -> np.ndarray:
    """0 to 1 as 0 to 255."""
    grey = np.rint(255 * values).astype(np.uint8)
    return np.repeat(grey[..., None], 3, 2) if grey.ndim == 2 else grey


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("kind", ["u1", "u2", "u4", "u8", "f4", "f8"])
@pytest.mark.parametrize("values", [RAMP, COLOUR], ids=["grey", "colour"])
def test_every_depth_in_every_order(
    tmp_path: Path, values: np.ndarray, kind: str, big: bool, order: str
) -> None:
    most = 1 if kind[0] == "f" else 2 ** (8 * int(kind[1])) - 1
    numbers = (values * most).astype(kind) if kind != "u8" else (values * (2**64 - 2048)).astype(kind)
    seen = read(tmp_path, tiff(pixels(numbers, order, 3), order=order, big=big))
    assert np.abs(seen.astype(int) - shades(values)).max() <= 1


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("values", [RAMP, COLOUR], ids=["grey", "colour"])
def test_samples_that_are_packed(tmp_path: Path, values: np.ndarray, bits: int) -> None:
    numbers = np.rint(values * (2**bits - 1)).astype(np.uint16)
    directory = pixels(numbers)
    channels = directory[277]
    rows = [
        np.packbits((row.ravel()[:, None] >> np.arange(bits)[::-1] & 1).astype(np.uint8).ravel())
        for row in numbers
    ]
    directory |= {258: (bits,) * channels, 273: [b"".join(row.tobytes() for row in rows)]}
    seen = read(tmp_path, tiff(directory, order=">"))
    assert np.abs(seen.astype(int) - shades(values)).max() <= 1


@pytest.mark.parametrize(("extra", "expected"), [(0, 51), (1, 153), (2, 133)])
def test_deep_colour_with_a_fourth_channel(tmp_path: Path, extra: int, expected: int) -> None:
    """Nothing in particular, associated and unassociated alpha: 0.2 of 0.6 covers, over white."""
    numbers = np.full((4, 4, 4), 0.2, np.float32)
    numbers[..., 3], numbers[0, 0, 0] = 0.6, 1.0
    seen = read(tmp_path, tiff(pixels(numbers) | {338: extra}))
    assert np.unique(seen[1:]).tolist() == [expected]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_colour_is_turned(tmp_path: Path, orientation: int) -> None:
    upright = quadrants(8, 12)
    stored = np.asarray(
        PIL.Image.fromarray(upright).transpose(TURNS[orientation]) if orientation > 1 else upright
    )
    data = tiff(pixels(stored.astype(np.float32) / 255) | {274: orientation})
    np.testing.assert_array_equal(read(tmp_path, data), upright)
    assert (examine(tmp_path / "a.tif")[0].width, examine(tmp_path / "a.tif")[0].height) == (12, 8)


TURNS = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_90,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_270,
}


def test_an_orientation_that_is_a_byte(tmp_path: Path) -> None:
    data = tiff(pixels(quadrants(8, 12)) | {274: 6})
    assert read(tmp_path, data).shape == (12, 8, 3)
    entry = (274).to_bytes(2, "little") + b"\x03\0\x01\0\0\0\x06"
    assert data.count(entry) == 1
    seen = read(tmp_path, data.replace(entry, entry[:2] + b"\x01" + entry[3:]))
    np.testing.assert_array_equal(seen, np.rot90(quadrants(8, 12), -1))


@pytest.mark.parametrize("tenth", range(1, 10))
def test_deep_colour_cut_short(tmp_path: Path, tenth: int, capfd: pytest.CaptureFixture[str]) -> None:
    directory = pixels((noise() / 255).astype(np.float32))
    whole = tiff({**directory, 273: [b""]})  # its directory first, its pixels last
    at = whole.index(b"\x11\x01\x04\0") + 8
    whole = whole[:at] + len(whole).to_bytes(4, "little") + whole[at + 4 :]
    at = whole.index(b"\x17\x01\x04\0") + 8
    strip = directory[273][0]
    whole = whole[:at] + len(strip).to_bytes(4, "little") + whole[at + 4 :]
    np.testing.assert_array_equal(read(tmp_path, whole + strip), noise())
    assert reason(tmp_path, (whole + strip)[: len(whole + strip) * tenth // 10]) == "truncated or damaged"
    assert capfd.readouterr().err == ""


def test_deep_colour_is_refused_where_it_does_not_fit(tmp_path: Path) -> None:
    data = tiff(pixels(COLOUR.astype(np.float32)) | {256: 60_000, 257: 60_000})
    assert reason(tmp_path, data).startswith("too large: 60000 x 60000")


@pytest.mark.parametrize("order", ["<", ">"])
def test_planes_of_sixteen_bits(tmp_path: Path, order: str) -> None:
    numbers = np.rint(COLOUR * 65535).astype(np.uint16)
    planes = [numbers[..., c].astype(f"{order}u2").tobytes() for c in range(3)]
    seen = read(tmp_path, tiff(pixels(numbers) | {273: planes, 278: SIDE, 284: 2}, order=order))
    assert np.abs(seen.astype(int) - shades(COLOUR)).max() <= 1


def test_signed_bytes_below_nothing_are_black(tmp_path: Path) -> None:
    numbers = np.arange(-128, 128).astype(np.int8).reshape(16, 16)
    seen = read(tmp_path, tiff(pixels(numbers)))[..., 0]
    np.testing.assert_array_equal(seen, numbers.clip(0))


def test_twelve_bits_are_scaled(tmp_path: Path) -> None:
    """Pillow reads them as numbers up to 4095 of 16 bits."""
    packed = np.repeat(np.array([[0xFF, 0xFF, 0xFF]], np.uint8), 8, 0).tobytes()
    seen = read(tmp_path, tiff(pixels(np.zeros((8, 2), np.uint16)) | {258: 12, 273: [packed]}))
    assert np.unique(seen).tolist() == [255]


@pytest.mark.parametrize("factor", [1, 256, 257])
def test_colours_of_a_palette_of_eight_or_sixteen_bits(tmp_path: Path, factor: int) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (3, 256))
    index = np.arange(256, dtype=np.uint8).reshape(16, 16)
    palette = tuple((colours * factor).ravel().tolist())
    seen = read(tmp_path, tiff(pixels(index) | {262: 3, 320: palette}))
    np.testing.assert_array_equal(seen, colours.T[index])


def test_grey_under_associated_alpha(tmp_path: Path) -> None:
    numbers = np.full((4, 4, 2), 51, np.uint8)
    numbers[..., 1] = 153
    assert np.unique(read(tmp_path, tiff(pixels(numbers) | {338: 1}))).tolist() == [153]
    assert np.unique(read(tmp_path, tiff(pixels(numbers) | {338: 2}))).tolist() == [133]


def test_tiles_beyond_the_end_are_left_out(tmp_path: Path) -> None:
    grey = np.arange(32 * 32, dtype=np.uint16).reshape(32, 32).astype(np.uint8)
    tiles = [grey[y : y + 16, x : x + 16].tobytes() for y in (0, 16) for x in (0, 16)]
    directory = pixels(grey) | {322: 16, 323: 16, 324: [*tiles, bytes(256), bytes(256)]}
    del directory[273], directory[278]
    np.testing.assert_array_equal(read(tmp_path, tiff(directory))[..., 0], grey)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({322: 16, 323: 16}, "tiles listed as strips"),
        ({262: 3, 320: (0,) * 3 * 65536}, "TIFF of 1 channel of 16 bits, colours of kind 3"),
        ({258: 10, 262: 0}, "TIFF of 10-bit samples"),
        ({259: 50001}, "TIFF compressed by WebP (50001)"),
        ({259: 7}, "TIFF compressed by JPEG of 16 bits"),
        ({262: 6}, "TIFF of YCbCr colours that are no JPEG"),
    ],
)
def test_forms_that_are_not_read_are_named(tmp_path: Path, change: dict, expected: str) -> None:
    """Where the directory is the last thing in the file, too."""
    data = tiff(pixels(np.zeros((16, 16), np.uint16)) | change)
    assert reason(tmp_path, data) == f"not supported: {expected}"


@pytest.mark.parametrize("place", [2**64 - 1, 2**63, 2**63 - 1, 2**62])
@pytest.mark.parametrize("kind", ["u1", "f4"])
def test_a_place_that_cannot_be_is_damage_and_no_failing_disk(tmp_path: Path, kind: str, place: int) -> None:
    data = bytearray(tiff(pixels(RAMP.astype(kind)), big=True))
    data[8:16] = place.to_bytes(8, "little")
    assert reason(tmp_path, bytes(data)).startswith("damaged")
