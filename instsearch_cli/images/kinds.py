"""What a file is by its first bytes, and which kinds of picture are known but not read, by name."""

from __future__ import annotations

import functools
import importlib
import io
import struct
from dataclasses import dataclass
from typing import IO, Any

from instsearch_cli.images.directories import MAGIC, tiff_tags
from instsearch_cli.images.jpegs import segments

PREFIX = 512
"""So many bytes say what a file is."""

EXTRA = "pip install 'instsearch[formats]'"
PLUGINS = {"HEIF": "pillow_heif", "JXL": "pillow_jxl"}
"""Pillow's name of a format -> the module that reads it, which may not be installed."""

_CAMERAS = (
    "3fr arw cr2 cr3 crw dcr dng erf fff iiq k25 kdc mef mos mrw nef nrw orf pef raf rw2 rwl sr2 srf srw x3f"
)
_DRAWN = (
    "avif dds eps exr hdr heic heics heif heifs hif icns ico jls jxl jxr pam psb psd qoi svg svgz tga wdp xcf"
)

RAW = frozenset(f".{name}" for name in _CAMERAS.split())
"""Suffixes of cameras' raw files. Most of them are TIFF files whose first picture is a thumbnail."""

FOREIGN = RAW | {f".{name}" for name in _DRAWN.split()}
"""Suffixes of files that a person takes for pictures, whether or not they are read here."""

_READ = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
    *((magic, "TIFF") for magic in MAGIC),
)
_RAW = (
    (b"II*\0\x10\0\0\0CR", "CR2"),
    (b"IIRO", "ORF"),
    (b"IIRS", "ORF"),
    (b"MMOR", "ORF"),
    (b"IIU\0", "RW2"),
    (b"FUJIFILMCCD-RAW", "RAF"),
    (b"FOVb", "X3F"),
    (b"\0MRM", "MRW"),
    (b"II\x1a\0\0\0HEAPCCDR", "CRW"),
)
_NOT_READ = (
    (b"8BPS", "Photoshop (PSD)"),
    (b"gimp xcf", "GIMP (XCF)"),
    (b"II\xbc", "JPEG XR"),
    (b"v/1\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"qoif", "QOI"),
    (b"DDS ", "DDS"),
    (b"\0\0\x01\0", "an icon (ICO)"),
    (b"icns", "an icon (ICNS)"),
    (b"%!PS", "EPS"),
    (b"%PDF-", "PDF"),
    (b"P7\n", "PAM"),
    (b"PF\n", "PFM in colour"),
    (b"BPG\xfb", "BPG"),
    (b"\x8aMNG", "MNG"),
)
_NO_PICTURES = ("PDF", "a video", "EPS")  #: named when they pose as pictures; alone they are none

_HEIF = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1", b"heif"}
_AVIF = {b"avif", b"avis"}


@dataclass(frozen=True)
class Kind:
    """What a file is.

    name    Pillow's name of a format that may be read, or what to call one that is not
    reader  whether there is a reader for it
    """

    name: str
    reader: bool

    @property
    def reason(self) -> str:
        """Why it is not read."""
        if self.raw:
            return f"not supported: {self.name} without a large preview"
        name = {"HEIF": "HEIC", "JXL": "JPEG XL"}.get(self.name, self.name)
        how = f" ({EXTRA})" if self.name in PLUGINS else " (update Pillow)" if self.name == "AVIF" else ""
        return f"not supported: {name}{how}"

    @property
    def raw(self) -> bool:
        """Whether it is a camera's raw file, which is read by its preview."""
        return self.name.startswith("camera raw")

    @property
    def picture(self) -> bool:
        """Whether people take it for a picture, whatever its file is called."""
        return not self.name.startswith(_NO_PICTURES)


@functools.cache
def plug_in() -> frozenset[str]:
    """Let Pillow read what installed plugins can; returns the formats that it reads of those in ``PLUGINS``."""
    there = set()
    for name, module in PLUGINS.items():
        try:
            plugin: Any = importlib.import_module(module)
            if name == "HEIF":
                plugin.register_heif_opener(thumbnails=False)
            there.add(name)
        except Exception:  # not installed, or it does not fit this Pillow
            continue
    return frozenset(there)


def kind_of(prefix: bytes, suffix: str = "") -> Kind | None:
    """What a file is by its first ``PREFIX`` bytes, None if they say nothing; ``suffix`` tells raw files from TIFF."""
    if suffix in RAW and prefix.startswith(MAGIC):
        return Kind(f"camera raw ({suffix[1:].upper()})", True)
    for magic, name in _RAW:
        if prefix.startswith(magic):
            return Kind(f"camera raw ({name})", True)
    for magic, name in _NOT_READ:
        if prefix.startswith(magic):
            return Kind(name, False)
    for magic, name in _READ:
        if prefix.startswith(magic):
            return Kind(name, True)
    if prefix.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")):
        return Kind("JXL", "JXL" in plug_in())
    if prefix[:4] == b"RIFF" and prefix[8:12] in (b"WEBP", b"AVI "):
        return Kind("WEBP", True) if prefix[8:12] == b"WEBP" else Kind("a video (AVI)", False)
    if prefix[4:8] == b"ftyp":
        return _boxed(prefix)
    if prefix[:2] == b"BM" and prefix[14:18] in [
        struct.pack("<I", n) for n in (12, 40, 52, 56, 64, 108, 124)
    ]:
        return Kind("BMP", True)
    if prefix[:2] in (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6") and _numbers_follow(prefix[2:]):
        return Kind("PPM", True)
    text = prefix.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith(b"<svg") or (
        text.startswith((b"<?xml", b"<!--", b"<!DOCTYPE svg")) and b"<svg" in text
    ):
        return Kind("SVG", False)
    return None


def _boxed(prefix: bytes) -> Kind:
    """What a file of the ISO base media kind is, by its brands: the major one, then those it is compatible with."""
    end = min(int.from_bytes(prefix[:4], "big"), len(prefix))
    brands = [prefix[8:12], *(prefix[i : i + 4] for i in range(16, end - 3, 4))]
    if brands[0] == b"crx ":
        return Kind("camera raw (CR3)", True)
    for brand in brands:  # mif1 alone is an image of any coding
        if brand in _AVIF:
            return Kind("AVIF", _avif())
        if brand in _HEIF - {b"mif1", b"msf1"}:
            return Kind("HEIF", "HEIF" in plug_in())
    if brands[0] in _HEIF:
        return Kind("HEIF", "HEIF" in plug_in())
    if brands[0] in (b"jp2 ", b"jpx "):
        return Kind("JPEG2000", True)
    return Kind("a video (QuickTime or MP4)", False)


@functools.cache
def _avif() -> bool:
    from PIL import features

    return bool(features.check("avif"))


def _numbers_follow(text: bytes) -> bool:
    """Whether, comments left out, a number comes next, as in the head of a PPM file."""
    while text[:1] in (b"#", *(bytes([c]) for c in b" \t\r\n\v\f")):
        text = text.lstrip() if text[:1] != b"#" else text.partition(b"\n")[2]
    digits = text.split(maxsplit=1)[:1]
    return bool(digits) and digits[0].isdigit()


# -- formats that are read, in forms that are not ---------------------------------------------------------


def unsupported(file: IO[bytes], name: str, surely: bool = False) -> str | None:
    """Which form of the format ``name`` a file has by its headers, if that is one that is not read.

    ``surely``: its decoder said that it is none it can read.
    """
    file.seek(0)
    look = {"JPEG": _jpeg, "MPO": _jpeg, "TIFF": _tiff, "PNG": _png, "PPM": _ppm}.get(name)
    try:
        form = look(file) if look else None
        if form is None and surely and name == "TIFF":
            form = _form_of_tiff(tiff_tags(file))
    except (ValueError, LookupError, struct.error, OverflowError, OSError):
        return None
    return f"not supported: {form}" if form else None


def _jpeg(file: IO[bytes]) -> str | None:
    for marker, place, _ in segments(file):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            file.seek(place)
            bits, _, _, components = struct.unpack(">BHHB", file.read(6))
            if marker in (0xC3, 0xC7, 0xCB, 0xCF):
                return f"lossless JPEG of {bits} bits" if bits != 8 else "lossless JPEG"
            if marker in (0xC5, 0xC6, 0xCD, 0xCE):
                return "hierarchical JPEG"
            if bits != 8:
                return f"{bits}-bit JPEG"
            return None if components in (1, 3, 4) else f"JPEG of {components} components"
        if marker == 0xF7:
            return "JPEG-LS"
    return None


_COMPRESSIONS = {
    6: "JPEG of the old kind",
    7: "JPEG",
    9: "JBIG",
    10: "JBIG",
    34661: "JBIG",
    34676: "SGI LogLuv",
    34677: "SGI LogLuv",
    34712: "JPEG 2000",
    33003: "JPEG 2000",
    33005: "JPEG 2000",
    34887: "LERC",
    34892: "lossy JPEG of a camera",
    34925: "LZMA",
    34933: "PNG",
    34934: "JPEG XR",
    22610: "JPEG XR",
    50000: "Zstandard",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
_BUILT_IN = {50000: "zstd", 50001: "webp", 34925: "lzma"}  #: which libtiff may be built without
_PLAIN = {1, 2, 3, 4, 5, 8, 32773, 32946, 32771, 32809}
_SAMPLES = {2: "signed ", 3: "floating-point ", 5: "complex ", 6: "complex "}


def _tiff(file: IO[bytes]) -> str | None:
    tags = tiff_tags(file)
    compression = tags.get(259, (1,))[0]
    if compression not in (7, *_PLAIN) and not (compression in _BUILT_IN and _built_in(compression)):
        return f"TIFF compressed by {_COMPRESSIONS.get(compression, 'an unknown way')} ({compression})"
    bits, kind, colour = tags.get(258, (1,)), tags.get(339, (1,))[0], tags.get(262, (0,))[0]
    if compression == 7 and bits[0] != 8:
        return f"TIFF compressed by JPEG of {bits[0]} bits"
    if colour == 6 and compression != 7 and (tags.get(530, (2, 2)) != (1, 1) or tags.get(284, (1,)) == (2,)):
        return "TIFF of YCbCr colours that are no JPEG"
    wanted = {1: (1, 2, 4, 8, 16, 32), 2: (8, 16, 32), 3: (32,)}.get(kind, ())
    if bits[0] not in wanted or len(set(bits)) > 1:
        depth = "/".join(map(str, bits)) if len(set(bits)) > 1 else str(bits[0])
        return f"TIFF of {depth}-bit {_SAMPLES.get(kind, '')}samples"
    channels = tags.get(277, (len(bits),))[0]
    common = (
        colour in (0, 1, 2, 3, 5, 6, 8)
        and (channels <= 4 or bits[0] == 8)
        and (channels == 1 or bits[0] <= 16)
    )
    return None if common else _form_of_tiff(tags)


def _form_of_tiff(tags: dict[int, tuple[int, ...]]) -> str:
    bits, colour, kind = tags.get(258, (1,)), tags.get(262, (0,))[0], tags.get(339, (1,))[0]
    planes = ", in planes" if tags.get(284) == (2,) else ""
    channels = tags.get(277, (len(bits),))[0]
    samples = f"{_SAMPLES.get(kind, '')}channel{'s' * (channels > 1)}"
    return f"TIFF of {channels} {samples} of {bits[0]} bits, colours of kind {colour}{planes}"


@functools.cache
def _built_in(compression: int) -> bool:
    """Whether Pillow's libtiff has a compression: it writes what it can read."""
    from PIL import Image

    try:
        Image.new("RGB", (1, 1)).save(io.BytesIO(), "TIFF", compression=_BUILT_IN[compression])
    except Exception:
        return False
    return True


def _png(file: IO[bytes]) -> str | None:
    return "PNG in the form of Apple's (CgBI)" if file.read(16)[12:16] == b"CgBI" else None


def _ppm(file: IO[bytes]) -> str | None:
    return "PPM with a comment right behind its first letters" if file.read(3)[2:] == b"#" else None
