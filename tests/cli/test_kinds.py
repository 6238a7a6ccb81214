"""What a file is by its first bytes, and true reasons for the kinds of picture that are not read."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from instsearch_cli.images import BadImage, discover, read_header, read_image
from instsearch_cli.images.kinds import kind_of, plug_in
from small_pictures import quadrants

EXTRA = " (pip install 'instsearch[formats]')"
GREY = np.arange(64, dtype=np.uint8).reshape(8, 8)


def ftyp(major: bytes, *others: bytes) -> bytes:
    return (
        struct.pack(">I", 16 + 4 * len(others)) + b"ftyp" + major + bytes(4) + b"".join(others) + bytes(300)
    )


HEIC = ftyp(b"heic", b"mif1", b"heic")
JXL = b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(100)


def reason(path: Path) -> str:
    with pytest.raises(BadImage) as caught:
        read_image(path)
    return caught.value.reason


def tiff(
    data: bytes, bits: int = 8, kind: int = 1, compression: int = 1, colour: int = 1, order: str = "<"
) -> bytes:
    """A grey TIFF of 8 x 8 pixels, its tags behind the pixels."""
    tags = {
        256: 8,
        257: 8,
        258: bits,
        259: compression,
        262: colour,
        273: 8,
        277: 1,
        278: 8,
        279: len(data),
        339: kind,
    }
    head = struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 8 + len(data))
    entries = b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in tags.items())
    return head + data + struct.pack(order + "H", len(tags)) + entries + bytes(4)


def bmp(masks: tuple[int, int, int]) -> bytes:
    body = bytes(8 * 8 * 4)
    head = struct.pack("<IiiHHIIiiII3I", 40, 8, 8, 1, 32, 3, len(body), 0, 0, 0, 0, *masks)
    return b"BM" + struct.pack("<IHHI", 14 + len(head) + len(body), 0, 0, 14 + len(head)) + head + body


def jpeg(path: Path, marker: int = 0xC0, bits: int = 8) -> bytes:
    """A JPEG whose frame header says another process or depth than is true."""
    PIL.Image.fromarray(GREY).save(path)
    data = bytearray(path.read_bytes())
    at = data.index(b"\xff\xc0")
    data[at + 1], data[at + 4] = marker, bits
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (tiff((GREY / 64).tobytes(), 64, 3, colour=0), "TIFF of 64-bit floating-point samples"),
        (tiff(bytes(128), 16, 3), "TIFF of 16-bit floating-point samples"),
        (tiff(bytes(64), compression=34887), "TIFF compressed by LERC (34887)"),
        (tiff(bytes(64), compression=50002, order=">"), "TIFF compressed by JPEG XL (50002)"),
        (tiff(bytes(64), compression=12345), "TIFF compressed by an unknown way (12345)"),
        (bmp((0x3FF << 22, 0x3FF << 12, 0x3FF << 2)), "BMP bitfields layout"),
        (b"P6#a comment\n8 8\n255\n" + bytes(192), "PPM with a comment right behind its first letters"),
        (HEIC, "HEIC" + EXTRA),
        (ftyp(b"mif1", b"mif1", b"heic"), "HEIC" + EXTRA),
        (JXL, "JPEG XL" + EXTRA),
        (b"\xff\x0a" + bytes(100), "JPEG XL" + EXTRA),
        (ftyp(b"crx ", b"crx ", b"isom"), "camera raw (CR3) without a large preview"),
        (b"II*\0\x10\0\0\0CR\x02\0" + bytes(100), "camera raw (CR2) without a large preview"),
        (b"FUJIFILMCCD-RAW 0201" + bytes(100), "camera raw (RAF) without a large preview"),
        (b"8BPS\0\x01" + bytes(100), "Photoshop (PSD)"),
        (b"<?xml version='1.0'?>\n<!-- drawn by hand -->\n<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "EPS"),
        (ftyp(b"isom", b"mp42"), "a video (QuickTime or MP4)"),
    ],
)
def test_what_is_not_supported_is_said_to_be(tmp_path: Path, data: bytes, expected: str) -> None:
    if EXTRA in expected and plug_in():
        pytest.skip("a plugin reads it")
    (tmp_path / "holiday.jpg").write_bytes(data)
    assert reason(tmp_path / "holiday.jpg") == f"not supported: {expected}"


@pytest.mark.parametrize(
    ("marker", "bits", "expected"),
    [
        (0xC1, 12, "12-bit JPEG"),
        (0xC3, 12, "lossless JPEG of 12 bits"),
        (0xC5, 8, "hierarchical JPEG"),
        (0xF7, 8, "JPEG-LS"),
    ],
)
def test_jpegs_of_rare_processes(tmp_path: Path, marker: int, bits: int, expected: str) -> None:
    (tmp_path / "b.jpg").write_bytes(jpeg(tmp_path / "a.jpg", marker, bits))
    assert reason(tmp_path / "b.jpg") == f"not supported: {expected}"


def test_whole_files_of_these_shapes_are_read(tmp_path: Path) -> None:
    """What the small files above are made of is right: with ordinary numbers in them they are pictures."""
    for order in "<>":
        (tmp_path / "a.tif").write_bytes(tiff(GREY.tobytes(), order=order))
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif").pixels[..., 0], GREY)
    (tmp_path / "a.bmp").write_bytes(bmp((0xFF << 16, 0xFF << 8, 0xFF)))
    assert not read_image(tmp_path / "a.bmp").pixels.any()
    (tmp_path / "a.ppm").write_bytes(b"P6 #a comment\n8 8\n255\n" + bytes(192))
    assert not read_image(tmp_path / "a.ppm").pixels.any()
    (tmp_path / "a.jpg").write_bytes(jpeg(tmp_path / "a.jpg"))
    assert read_header(tmp_path / "a.jpg").format == "JPEG"


def test_an_avif_of_a_container_brand(tmp_path: Path) -> None:
    assert kind_of(ftyp(b"mif1", b"mif1", b"avif")).name == "AVIF"
    assert kind_of(ftyp(b"avif")).name == "AVIF"
    assert kind_of(b"dear diary") is None


def test_cut_short_stays_truncated(tmp_path: Path) -> None:
    whole = tiff(bytes(64), compression=34887)
    (tmp_path / "a.tif").write_bytes(whole[: len(whole) // 2])
    assert reason(tmp_path / "a.tif") == "truncated"


def test_raw_files_are_no_thumbnails(tmp_path: Path) -> None:
    """A raw file is a TIFF whose first picture is a thumbnail; the same bytes under another name are a TIFF."""
    for name in "a.NEF", "a.dng", "a.tif":
        (tmp_path / name).write_bytes(tiff(GREY.tobytes()))
    assert reason(tmp_path / "a.NEF") == "not supported: camera raw (NEF) without a large preview"
    assert reason(tmp_path / "a.dng") == "not supported: camera raw (DNG) without a large preview"
    assert read_header(tmp_path / "a.tif").width == 8


def test_all_that_looks_like_a_picture_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if plug_in():
        pytest.skip("a plugin reads them")
    monkeypatch.chdir(tmp_path)
    PIL.Image.fromarray(quadrants()).save("whole.png")
    whole = Path("whole.png").read_bytes()
    files = {
        "a.HEIC": HEIC,
        "b.heif": HEIC,
        "c.jxl": JXL,
        "d.NEF": tiff(GREY.tobytes()),
        "e.psd": b"8BPS\0\x01" + bytes(100),
        "f.svg": b"<svg/>",
        "g.heic": b"",
        "h.heic": b"no picture at all",
        "i": HEIC,
        "j.png_original": whole,
        "k.heic": whole,
        "notes.txt": b"dear diary",
        "paper.pdf": b"%PDF-1.7\n",
        "clip.mp4": ftyp(b"isom"),
        "letters.txt": b"P6 1 1 255 or so",
    }
    for name, data in files.items():
        Path(name).write_bytes(data)
    discovery = discover([Path()])
    assert [found.name for found in discovery.found] == [b"d.NEF", b"k.heic", b"whole.png"]
    no_suffix = "PNG by its first bytes, with the suffix of no picture: rename it, or name it alone"
    assert dict(discovery.skipped) == {
        "a.HEIC": f"not supported: HEIC{EXTRA}",
        "b.heif": f"not supported: HEIC{EXTRA}",
        "c.jxl": f"not supported: JPEG XL{EXTRA}",
        "e.psd": "not supported: Photoshop (PSD)",
        "f.svg": "not supported: SVG",
        "g.heic": "empty file",
        "h.heic": "not an image",
        "i": f"not supported: HEIC{EXTRA}",
        "j.png_original": no_suffix,
    }
    assert read_header(Path("k.heic")).format == "PNG"
    assert [found.name for found in discover([Path("j.png_original")]).found] == [b"j.png_original"]


def test_fifos_sockets_and_devices_are_named_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.jpg")
    os.mkfifo("pipe")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("socket.jpg")
    began = time.monotonic()
    expected = {
        "pipe.jpg": "a FIFO",
        "socket.jpg": "a socket",
        "/dev/zero": "a device",
        "/dev/null": "a device",
    }
    for path, kind in expected.items():
        for read in read_image, read_header:
            with pytest.raises(BadImage, match=f"^not a file but {kind}$"):
                read(Path(path))
    PIL.Image.fromarray(quadrants()).save("a.png")
    assert discover([Path()]).skipped == [
        ("pipe.jpg", "not a file but a FIFO"),
        ("socket.jpg", "not a file but a socket"),
    ]
    listener.close()
    assert time.monotonic() - began < 5


PLUGIN = """
import PIL.Image, PIL.ImageFile
class Heif(PIL.ImageFile.ImageFile):
    format = "HEIF"
    def _open(self):
        self._mode, self._size, self.tile = "L", (8, 8), [("raw", (0, 0, 8, 8), 44, "L")]
def register_heif_opener(thumbnails):
    PIL.Image.register_open("HEIF", Heif, lambda prefix: prefix[4:12] == b"ftypheic")
    PIL.Image.register_extensions("HEIF", [".heic"])
"""
READ = """
import sys
from pathlib import Path
from instsearch_cli.images import discover, read_image, read_header
from instsearch_cli.images.opening import BadImage
print([found.name for found in discover([Path(sys.argv[1])]).found])
print(read_header(Path(sys.argv[1]) / "a.heic"), read_image(Path(sys.argv[1]) / "a.heic").pixels[0, 0].tolist())
try:
    read_header(Path(sys.argv[1]) / "huge.heic")
except BadImage as error:
    print(error)
"""


def test_an_installed_plugin_reads_its_format(tmp_path: Path) -> None:
    """A stand-in for one, in a process of its own: what it registers, and the size that is looked at before it."""
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "pillow_heif.py").write_text(PLUGIN)
    (tmp_path / "p").mkdir()
    head = ftyp(b"heic", b"mif1")[:24]
    for name, size in (("a.heic", (8, 8)), ("huge.heic", (60000, 60000))):
        box = struct.pack(">I4sIII", 20, b"ispe", 0, *size)
        (tmp_path / "p" / name).write_bytes(head + box + bytes([77]) * 100)
    paths = os.pathsep.join([str(tmp_path / "plugins"), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path / "p")],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert done.stdout.splitlines() == [
        "[b'a.heic', b'huge.heic']",
        "Header(width=8, height=8, format='HEIF') [77, 77, 77]",
        "too large: 60000 x 60000 pixels, limit 200 million",
    ]
