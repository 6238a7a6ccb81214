"""Memory and time for decoding: spent before pixels are allocated, shared by all threads, bounded a picture."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from PIL import ImageFile

from instsearch_cli.errors import UsageError
from instsearch_cli.images import BadImage, Reader, effort, pixels, read_header, read_image
from instsearch_cli.images.budget import BUDGET, Budget, TooMuch, free_memory, parse_memory
from instsearch_cli.images.sizes import declared_size
from small_pictures import chunk, noise, png, quadrants

Cli = Callable[..., Any]


def reason(path: Path, **options: Any) -> str:
    with pytest.raises(BadImage) as caught:
        read_image(path, **options)
    return caught.value.reason


# -- the budget --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [("2G", 2e9), ("500M", 5e8), ("1.5 GB", 1.5e9), ("700000", 7e5), ("1kib", 1e3), ("1T", 1e12)],
)
def test_amounts_of_memory(text: str, nbytes: float) -> None:
    assert parse_memory(text) == nbytes


@pytest.mark.parametrize("text", ["", "much", "-1G", "0", "1e9", "2X", "9" * 5000 + "G", "999999999T"])
def test_what_is_no_amount_of_memory(text: str) -> None:
    with pytest.raises(UsageError, match="is no amount of memory: write 2G or 500M"):
        parse_memory(text)


def test_a_quarter_of_what_is_free() -> None:
    assert 10**7 < free_memory() < 2**60
    assert Budget().total >= 256_000_000


def test_who_does_not_fit_waits() -> None:
    budget, held, most = Budget(100), [0], [0]
    lock = threading.Lock()

    def work(share: int) -> int:
        with budget.spend(share):
            with lock:
                held[0] += share
                most[0] = max(most[0], held[0])
            time.sleep(0.002)
            with lock:
                held[0] -= share
        return share

    shares = [60, 30, 50, 100, 1, 40, 70, 99] * 5
    with Reader(shares, work, workers=8, ahead=16) as reader:
        assert [result for _, result in reader] == shares
    assert 60 < most[0] <= 100
    with pytest.raises(TooMuch, match=r"^needs about 2\.0 GB to decode, limit 1 MB$"):
        budget.check(2_000_000_000)


def test_a_picture_above_the_budget_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    PIL.Image.fromarray(noise()).resize((3000, 2000)).save(tmp_path / "a.png", compress_level=1)
    with BUDGET.limited(100_000_000):
        assert read_image(tmp_path / "a.png", lambda w, h: (30, 20)).size == (3000, 2000)

    def fail(self: PIL.Image.Image) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    with BUDGET.limited(1_000_000):
        assert re.fullmatch(r"needs about \d+ MB to decode, limit 1 MB", reason(tmp_path / "a.png"))


def test_the_option(cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path) -> None:
    PIL.Image.new("RGB", (3000, 3000)).save(photos / "large.png")
    total = BUDGET.total
    done = cli("index", photos, "--index", tmp_path / "i", "--json", "--memory", "50M", *tiny).json
    assert (done["indexed"], len(done["skipped"])) == (10, 1)
    assert "needs about" in done["skipped"][0]["reason"]
    assert total == BUDGET.total
    assert cli("index", photos, "--index", tmp_path / "i", "--json", "--memory", "1G").json["indexed"] == 1
    assert (
        "no amount of memory"
        in cli("add", photos, "--index", tmp_path / "i", "--memory", "much", status=2).err
    )


LARGE = """
import re, sys
from pathlib import Path
import instsearch_cli.data
from instsearch_cli.images import read_image
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before = peak()
read_image(Path(sys.argv[1]), lambda w, h: (256, 256))
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is measured as Linux counts it")
@pytest.mark.parametrize(
    ("mode", "name", "each"),
    [("RGBA", "a.png", 4), ("F", "a.tif", 4), ("I;16", "a.png", 2), ("LA", "a.png", 4)],
)
def test_large_pictures_take_what_their_pixels_take(tmp_path: Path, mode: str, name: str, each: int) -> None:
    """4000 x 4000 pixels, decoded once, and bands of them: today's other copies were 3 to 8 times as much."""
    PIL.Image.new(mode, (4000, 4000), 1).save(
        tmp_path / name, **({"compress_level": 1} if name == "a.png" else {})
    )
    done = subprocess.run(
        [sys.executable, "-c", LARGE, str(tmp_path / name)], capture_output=True, text=True, check=True
    )
    peak = 1024 * int(done.stdout)
    assert peak < each * 16_000_000 + 80_000_000
    with PIL.Image.open(tmp_path / name) as image:
        assert peak < pixels.cost(image, image.size, (256, 256), (tmp_path / name).stat().st_size)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "1", "P", "F", "I", "I;16", "CMYK", "L", "RGB"])
@pytest.mark.parametrize("wanted", [(300, 200), (77, 31), (20, 13), (3, 200), (500, 300)])
def test_bands_give_what_the_whole_picture_gives(
    monkeypatch: pytest.MonkeyPatch, mode: str, wanted: tuple[int, int]
) -> None:
    grey = PIL.Image.fromarray(noise()).resize((300, 200)).convert("L")
    if mode in ("F", "I", "I;16"):
        kind = {"F": np.float32, "I": np.int32, "I;16": np.uint16}[mode]
        picture = PIL.Image.fromarray((np.asarray(grey) * 200.5).astype(kind))
    else:
        picture = PIL.Image.fromarray(noise()).resize((300, 200)).convert(mode)
        if mode in ("RGBA", "LA"):
            picture.putalpha(grey)
    factors = tuple(int(n / w / 2) or 1 for n, w in zip(picture.size, wanted, strict=True))
    whole = pixels.flattened(picture).resize(wanted, PIL.Image.Resampling.BILINEAR, reducing_gap=2.0)
    monkeypatch.setattr(pixels, "BAND", 300 * 7)
    flat = pixels.flattened(picture, factors)
    box = (0, 0, picture.width / factors[0], picture.height / factors[1])
    banded = flat.resize(wanted, PIL.Image.Resampling.BILINEAR, box=box)
    assert flat.mode in ("RGB", "L")
    np.testing.assert_array_equal(np.asarray(banded), np.asarray(whole))


# -- sizes before decoders begin ---------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"save_all": True}, {"exif": b"Exif\0\0"}])
def test_webp_and_avif_say_their_size(tmp_path: Path, options: dict[str, Any]) -> None:
    picture = PIL.Image.fromarray(noise(96, 200))
    picture.save(tmp_path / "a.webp", **options)
    with (tmp_path / "a.webp").open("rb") as file:
        assert declared_size(file, "WEBP") == (200, 96)
    if ".avif" in PIL.Image.registered_extensions():
        picture.save(tmp_path / "a.avif")
        with (tmp_path / "a.avif").open("rb") as file:
            assert declared_size(file, "AVIF") == (200, 96)


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        (
            [(1, 1), (7, 5), (0, 3), (1, 5)],
            (16, 64),
        ),  # (number, bits): in eights; 8 times 8 high; 2 times 8 wide
        ([(1, 1), (7, 5), (1, 3)], (64, 64)),  # as wide as high
        ([(1, 1), (8, 5), (3, 3)], (96, 72)),  # 4 : 3
        ([(0, 1), (0, 2), (403, 9), (0, 3), (2, 2), (9999, 18)], (10000, 404)),
    ],
)
def test_jpeg_xl_says_its_size(tmp_path: Path, fields: list[tuple[int, int]], size: tuple[int, int]) -> None:
    value = at = 0
    for number, width in fields:
        value, at = value | number << at, at + width
    stream = b"\xff\x0a" + value.to_bytes(12, "little")
    boxed = b"\0\0\0\x0cJXL \r\n\x87\n" + struct.pack(">I", 8 + len(stream)) + b"jxlc" + stream
    for data in stream, boxed:
        (tmp_path / "a.jxl").write_bytes(data)
        with (tmp_path / "a.jxl").open("rb") as file:
            assert declared_size(file, "JXL") == size


def test_a_decoder_is_not_begun_for_too_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import WebPImagePlugin

    head = (
        b"RIFF" + struct.pack("<I", 1000) + b"WEBPVP8X" + struct.pack("<IIHBHB", 10, 0, 0x3FFF, 0, 0x3FFF, 0)
    )
    (tmp_path / "a.webp").write_bytes(head + bytes(1000))

    def fail(self: object) -> None:
        raise AssertionError("begun")

    monkeypatch.setattr(WebPImagePlugin.WebPImageFile, "_open", fail)
    for read in read_header, read_image:
        with pytest.raises(BadImage, match=r"^too large: 16384 x 16384 pixels"):
            read(tmp_path / "a.webp")


# -- time --------------------------------------------------------------------------------------------------


def with_scans(data: bytes, n: int) -> bytes:
    """A progressive JPEG whose last scan comes again n times."""
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * n + data[-2:]


def test_a_jpeg_of_hundreds_of_scans_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    PIL.Image.fromarray(quadrants(64, 64)).save(tmp_path / "a.jpg", progressive=True)
    data = (tmp_path / "a.jpg").read_bytes()
    scans = data.count(b"\xff\xda")
    monkeypatch.setattr(effort, "SCANNED", 64 * 64 * 50)
    (tmp_path / "a.jpg").write_bytes(with_scans(data, 51 - scans))
    assert read_image(tmp_path / "a.jpg").size == (64, 64)
    (tmp_path / "a.jpg").write_bytes(with_scans(data, 52 - scans))
    assert reason(tmp_path / "a.jpg") == "too slow to read: progressive JPEG of more than 50 scans"
    hidden = with_scans(data, 300).replace(b"\xff\xda", b"\xff\xfe\x00\x04\xff\xd9\xff\xda")
    (tmp_path / "a.jpg").write_bytes(hidden)
    assert reason(tmp_path / "a.jpg") == "too slow to read: progressive JPEG of more than 50 scans"


def test_what_is_decoded_step_by_step_is_refused_where_it_is_large(tmp_path: Path) -> None:
    (tmp_path / "a.ppm").write_bytes(b"P5 8 8 100\n" + bytes(64))
    assert read_image(tmp_path / "a.ppm").size == (8, 8)
    (tmp_path / "a.ppm").write_bytes(b"P5 5000 5000 100\n" + bytes(64))
    assert reason(tmp_path / "a.ppm").startswith("too slow to read: PPM with another largest value")
    (tmp_path / "a.ppm").write_bytes(b"P2 5000 5000 255\n" + bytes(64))
    assert reason(tmp_path / "a.ppm").startswith("too slow to read: PPM in plain text")


# -- what lies beside the pixels ----------------------------------------------------------------------------


def damaged_chunk(kind: bytes, data: bytes) -> bytes:
    return chunk(kind, data)[:-4] + b"\0\0\0\0"


@pytest.mark.parametrize(
    "extra",
    [
        damaged_chunk(b"tEXt", b"Comment\0drawn by hand"),
        damaged_chunk(b"eXIf", b"II*\0"),
        chunk(b"pHYs", b"1"),
        chunk(b"iCCP", b"odd"),
        chunk(b"gAMA", b""),
        damaged_chunk(b"tIME", b"1234567"),
    ],
    ids=lambda data: data[4:8].decode(),
)
def test_no_ancillary_chunk_costs_a_png(tmp_path: Path, extra: bytes) -> None:
    rows = b"".join(b"\0" + row.tobytes() for row in quadrants())
    whole = png(64, 32, 8, 2, rows)
    for at in 33, len(whole) - 12:
        (tmp_path / "a.png").write_bytes(whole[:at] + extra + whole[at:])
        np.testing.assert_array_equal(read_image(tmp_path / "a.png").pixels, quadrants())
        assert read_header(tmp_path / "a.png").width == 64


def test_a_damaged_text_leaves_the_turning(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.fromarray(np.ascontiguousarray(np.rot90(quadrants()))).save(tmp_path / "a.png", exif=exif)
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[:33] + damaged_chunk(b"tEXt", b"a\0b") + data[33:])
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").pixels, quadrants())


def test_pixels_with_a_bad_sum_are_still_damaged(tmp_path: Path) -> None:
    rows = b"".join(b"\0" + row.tobytes() for row in quadrants())
    data = bytearray(png(64, 32, 8, 2, rows, chunk(b"tEXt", b"a\0b")))
    data[data.index(b"IDAT") + 20] ^= 1
    (tmp_path / "a.png").write_bytes(data)
    assert reason(tmp_path / "a.png").startswith(("damaged", "truncated"))


def test_no_segment_beside_the_pixels_costs_a_jpeg(tmp_path: Path) -> None:
    PIL.Image.fromarray(quadrants()).save(tmp_path / "a.jpg", quality=95, subsampling=0)
    data = (tmp_path / "a.jpg").read_bytes()
    expected = read_image(tmp_path / "a.jpg").pixels
    for segment in (
        b"\xff\xe2" + struct.pack(">H", 14) + b"ICC_PROFILE\0",
        b"\xff\xe1" + struct.pack(">H", 12) + b"Exif\0\0II*\0",
        b"\xff\xed" + struct.pack(">H", 20) + b"Photoshop 3.0\0" + b"8BIM",
        b"\xff\xe2" + struct.pack(">H", 10) + b"MPF\0II*\0",
        b"\xff\xee" + struct.pack(">H", 4) + b"Ad",
    ):
        (tmp_path / "b.jpg").write_bytes(data[:2] + segment + data[2:])
        np.testing.assert_array_equal(read_image(tmp_path / "b.jpg").pixels, expected)


def test_a_segment_of_less_than_no_length(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff\xe1\0\0" + bytes(100))
    assert reason(tmp_path / "a.jpg").startswith(("damaged", "truncated"))


def test_what_pillow_logs_is_not_on_the_terminal(tmp_path: Path) -> None:
    PIL.Image.fromarray(quadrants()).save(tmp_path / "a.tif")
    data = (tmp_path / "a.tif").read_bytes()
    channels = struct.pack("<HHII", 277, 3, 1, 3)
    assert channels in data
    (tmp_path / "a.tif").write_bytes(data.replace(channels, struct.pack("<HHII", 277, 3, 1, 2048)))
    code = "from instsearch_cli.images import *; from pathlib import Path; import sys; read_header(Path(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.tif")], capture_output=True, text=True, check=False
    )
    assert "BadImage" in done.stderr
    assert "More samples per pixel" not in done.stderr


# -- rare modes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "values"), [(1, [0, 1]), (2, [0, 1, 2, 3]), (4, [0, 5, 10, 15])])
def test_a_transparent_shade_of_few_bits(tmp_path: Path, bits: int, values: list[int]) -> None:
    packed = 0
    for value in values:
        packed = packed << bits | value
    packed <<= -len(values) * bits % 8
    row = b"\0" + packed.to_bytes(-(-len(values) * bits // 8), "big")
    whole = png(len(values), 1, bits, 0, row)
    (tmp_path / "a.png").write_bytes(whole[:33] + chunk(b"tRNS", struct.pack(">H", values[-2])) + whole[33:])
    shades = [255 if v == values[-2] else round(255 * v / (2**bits - 1)) for v in values]
    assert read_image(tmp_path / "a.png").pixels[0, :, 0].tolist() == shades


def test_a_transparent_shade_of_sixteen_bits(tmp_path: Path) -> None:
    row = b"\0" + struct.pack(">4H", 0, 257, 258, 65535)
    whole = png(4, 1, 16, 0, row)
    (tmp_path / "a.png").write_bytes(whole[:33] + chunk(b"tRNS", struct.pack(">H", 257)) + whole[33:])
    assert read_image(tmp_path / "a.png").pixels[0, :, 0].tolist() == [0, 255, 1, 255]
