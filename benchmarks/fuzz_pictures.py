"""Damaged pictures: whether what is damaged at random is read or refused, in little time and memory.

python benchmarks/fuzz_pictures.py                      # 20,000 of them
python benchmarks/fuzz_pictures.py --trials 500 --first 7000

Pictures of every format that is read, and of some that are not, are altered: bytes and bits, numbers in their headers,
ends, pieces moved. Each is read in a process apart, with 300 MB for decoding. A trial can be repeated by its number.
"""

from __future__ import annotations

import functools
import io
import struct
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import PIL.Image

from arguments import Parser
from instsearch_cli.images import BadImage, bands, examine, read_image, reading
from instsearch_cli.images.budget import decoding_within
from instsearch_cli.images.kinds import plug_in
from isolated import Died, Isolated

SIDE = 16  #: pixels that each is read at, at most
SECONDS, MEMORY = 10.0, 1_000_000_000  #: that no picture may take
EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def trial(seed: int) -> tuple[str, str, float]:
    """(kind, outcome, seconds) of a picture that is damaged by the number ``seed``.

    The outcome is "read", the first words of the reason for which it is not, or "bug: ...".
    """
    rng = np.random.default_rng(seed)
    names = list(pictures())
    name = names[seed % len(names)]
    data = damaged(bytearray(pictures()[name]), rng)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        began = time.perf_counter()
        large = (
            1000 if seed // len(names) % 2 else reading.LARGE
        )  # pixels: every other one is decoded by bands
        with (
            decoding_within("300M"),
            mock.patch.object(reading, "LARGE", large),
            mock.patch.object(bands, "BAND", 2000),
        ):
            outcome = read(path)
    return name, outcome, time.perf_counter() - began


def read(path: Path) -> str:
    try:
        header, _, _ = examine(path)
        image = read_image(path, lambda w, h: (min(w, SIDE), min(h, SIDE)))
    except BadImage as error:
        return " ".join(error.reason.partition(":")[0].split()[:2])
    except Exception as error:
        return f"bug: {type(error).__name__}: {error}"
    if image.pixels.shape != (min(header.height, SIDE), min(header.width, SIDE), 3):
        return f"bug: {image.pixels.shape} of {header}"
    return "read"


def damaged(data: bytearray, rng: np.random.Generator) -> bytes:
    """One to four alterations, more often near the beginning and the end, where headers are."""

    def place() -> int:
        near = int(rng.choice([64, 600, len(data)]))
        at = int(rng.integers(min(near, len(data))))
        return len(data) - 1 - at if rng.random() < 0.25 else at

    for _ in range(rng.integers(1, 5)):
        if len(data) < 8:
            break
        way = rng.integers(7)
        at, other, n = place(), place(), int(rng.integers(1, 64))
        if way == 0:
            for _ in range(rng.integers(1, 20)):
                data[place()] = rng.integers(256)
        elif way == 1:
            data[at] ^= 1 << int(rng.integers(8))
        elif way == 2:
            del data[at:]
        elif way in (3, 4):  # a number of a header that lies
            form = str(rng.choice(["<H", ">H", "<I", ">I"]))
            size = struct.calcsize(form)
            at = min(at, len(data) - size)
            near = struct.unpack_from(form, data, at)[0] + int(rng.integers(-2, 3))
            value = int(rng.choice([*EXTREMES, near]))
            struct.pack_into(form, data, at, value % 256**size)
        elif way == 5:
            del data[at : at + n]
        else:
            data[at:at] = data[other : other + n]
    return bytes(data)


# -- pictures, whole -----------------------------------------------------------------------------------------


def saved(picture: PIL.Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def raw(preview: bytes) -> bytes:
    """A camera's raw file of a preview and nothing else."""
    entries = [(274, 6), (513, 50), (514, len(preview))]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", 3) + directory + bytes(4) + preview


def deep(values: np.ndarray) -> bytes:
    """A TIFF of floating-point colour."""
    height, width, _ = values.shape
    tags = {
        256: width,
        257: height,
        258: 32,
        259: 1,
        262: 2,
        273: 134,
        277: 3,
        278: height,
        279: values.nbytes,
    }
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, n) for tag, n in {**tags, 339: 3}.items())
    return b"II*\0\x08\0\0\0" + struct.pack("<H", 10) + entries + bytes(4) + values.tobytes()


@functools.cache
def pictures() -> dict[str, bytes]:
    """Each kind of picture by a name with its suffix: what Pillow and its plugins write, and a few made by hand."""
    import instsearch_cli.data  # noqa: F401  (whatever takes time to import, before it is measured)

    plug_in()
    coarse = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    colour = PIL.Image.fromarray(coarse).resize((128, 96))
    grey, few = colour.convert("L"), colour.quantize(16)
    alpha = colour.copy()
    alpha.putalpha(grey)
    sixteen = PIL.Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    exif = PIL.Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    large = saved(colour.resize((400, 300)), "JPEG")
    found = {
        "a.jpg": saved(colour, "JPEG", exif=exif),
        "progressive.jpg": saved(colour, "JPEG", progressive=True),
        "cmyk.jpg": saved(colour.convert("CMYK"), "JPEG"),
        "a.png": saved(colour, "PNG", exif=exif),
        "alpha.png": saved(alpha, "PNG"),
        "few.png": saved(few, "PNG", bits=4, transparency=3),
        "sixteen.png": saved(sixteen, "PNG"),
        "a.gif": saved(few, "GIF", comment=b"a comment"),
        "moving.gif": saved(few, "GIF", save_all=True, append_images=[grey.quantize(8)]),
        "a.bmp": saved(colour, "BMP"),
        "few.bmp": saved(few, "BMP"),
        "a.tif": saved(colour, "TIFF", exif=exif),
        "big.tif": saved(colour, "TIFF", big_tiff=True),
        "grey.tif": saved(sixteen, "TIFF", compression="tiff_adobe_deflate"),
        "lzw.tif": saved(colour, "TIFF", compression="tiff_lzw"),
        "packed.tif": saved(few, "TIFF", compression="packbits"),
        "jpeg.tif": saved(colour, "TIFF", compression="jpeg"),
        "fax.tif": saved(grey.convert("1"), "TIFF", compression="group4"),
        "deep.tif": deep(np.asarray(colour, np.float32) / 255),
        "a.webp": saved(colour, "WEBP", exif=exif),
        "lossless.webp": saved(alpha, "WEBP", lossless=True),
        "a.ppm": saved(colour, "PPM"),
        "grey.pgm": saved(grey, "PPM"),
        "a.tga": saved(colour, "TGA"),
        "a.ico": saved(colour, "ICO"),
        "a.jp2": saved(colour, "JPEG2000"),
        "a.arw": raw(large),
        "a.raf": b"FUJIFILMCCD-RAW 0201" + bytes(100) + large,
    }
    for name, format in ("a.avif", "AVIF"), ("a.heic", "HEIF"), ("a.jxl", "JXL"):
        if format in PIL.Image.SAVE:
            found[name] = saved(colour, format)
    return found


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--trials", type=int, default=20_000, metavar="N")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="the number of the first trial")
    options = parser.parse_args()
    table: dict[str, Counter[str]] = defaultdict(Counter)
    slowest, worst = (0.0, 0, ""), (0, 0, "")
    bad: list[str] = []
    with Isolated("fuzz_pictures:trial", 3 * SECONDS) as attempt:
        for seed in range(options.first, options.first + options.trials):
            name, outcome, seconds = "?", "", 0.0
            before = attempt.peak
            try:
                name, outcome, seconds = attempt(seed)
            except Died as error:
                outcome = str(error)
            if outcome.startswith(("bug", "crash", "hang")) or seconds > SECONDS:
                bad.append(f"trial {seed}, {name}: {outcome}, {seconds:.1f} s")
            table[name][outcome.partition(":")[0]] += 1
            slowest = max(slowest, (seconds, seed, name))
            if attempt.peak > before:
                worst = attempt.peak, seed, name
    outcomes = [outcome for outcome, _ in sum(table.values(), Counter()).most_common()]
    print(f"{'':<18}" + "".join(f"{outcome:>18}" for outcome in outcomes))
    for name, counts in [*sorted(table.items()), ("all", sum(table.values(), Counter()))]:
        print(f"{name:<18}" + "".join(f"{counts[outcome]:>18,}" for outcome in outcomes))
    print(f"\nslowest {slowest[0]:.2f} s (trial {slowest[1]}, {slowest[2]})")
    print(f"most memory {worst[0] / 1e6:,.0f} MB (trial {worst[1]}, {worst[2]})")
    print("\n".join(bad) or "none crashed, hung or was called a bug")
    if bad or worst[0] > MEMORY:
        sys.exit(1)


if __name__ == "__main__":
    main()
