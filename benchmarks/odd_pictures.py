"""Odd pictures: what is read of folders of test pictures, and whether other decoders see the same.

python benchmarks/odd_pictures.py FOLDER...             # the test pictures of decoders' source packages, say
python benchmarks/odd_pictures.py FOLDER... --list FILE # one line a picture, too

Every file is read in a process apart: what crashes, hangs or is called a bug is counted as such. Pixels are compared
where two other decoders agree with one another: OpenCV, libvips (pip install pyvips pyvips-binary), tifffile and
imagecodecs, those of them that are installed.
"""

from __future__ import annotations

import re
import sys
import time
from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from arguments import Parser
from instsearch_cli.errors import InstsearchError
from instsearch_cli.images import BadImage, discover, read_image
from isolated import Died, Isolated

if TYPE_CHECKING:
    from collections.abc import Callable

MEAN = 3.0  #: of 255, by which two pictures may differ on average: chroma of JPEG is enlarged in several ways
FAR = 48  #: by which one value in 200 may differ


def read(path: str) -> tuple[str, float]:
    """ "read" or the reason, and seconds; whatever else than BadImage is raised is a bug."""
    began = time.perf_counter()
    try:
        read_image(Path(path))
        outcome = "read"
    except BadImage as error:
        outcome = error.reason
    except Exception as error:
        outcome = f"bug: {type(error).__name__}: {error}"
    return outcome, time.perf_counter() - began


def compare(path: str) -> str:
    """Whether we agree with two others that agree: "agree", "differ: ...", "unsure: ...", "read by ..." them only."""
    others = {}
    for name, decode in OTHERS.items():
        try:
            others[name] = decode(path)
        except Exception:
            continue
    pairs = [pair for pair in combinations(others, 2) if alike(others[pair[0]], others[pair[1]]) == ""]
    if not pairs:
        return "unsure: " + (", ".join(others) or "no other decoder reads it")
    both = " and ".join(pairs[0])
    try:
        ours = read_image(Path(path)).pixels
    except BadImage:
        return f"read by {both}"
    with_us = {name for name, values in others.items() if alike(ours, values) == ""}
    if any(set(pair) & with_us for pair in pairs):
        return "agree"
    if with_us:
        return f"unsure: {both} against us and {', '.join(with_us)}"
    return f"differ: {alike(ours, others[pairs[0][0]])} from {both}"


def alike(a: np.ndarray, b: np.ndarray) -> str:
    """How two pictures u8[H, W, 3] differ visibly, "" if they do not."""
    if a.shape != b.shape:
        return f"{a.shape[1]} x {a.shape[0]} for {b.shape[1]} x {b.shape[0]}"
    off = np.abs(a.astype(np.int16) - b)
    mean, far = float(off.mean()), float(np.mean(off > FAR))
    return f"by {mean:.1f}, {100 * far:.1f} % by more than {FAR}" if mean > MEAN or far > 0.005 else ""


# -- other decoders -------------------------------------------------------------------------------------------


def shown(values: np.ndarray, associated: bool = False) -> np.ndarray:
    """u8[H, W, 3] of grey or colour of any kind of number, with or without alpha, over white."""
    values = values[..., None] if values.ndim == 2 else values
    if values.dtype == np.uint16:
        values = values / 257
    elif values.dtype != np.uint8:
        scales = (
            (1.0, 255.0, 65535.0)
            if values.dtype.kind == "f"
            else (255.0,)
            if values.itemsize == 1
            else (65535.0,)
        )
        values = np.nan_to_num(values.astype(np.float64), posinf=0, neginf=0)
        peak = values.max()
        values = values.clip(0) * (255 / next((s for s in scales if peak <= s), peak))
    values = values.astype(np.float64)
    channels = values.shape[2]
    if channels in (2, 4):
        alpha = values[..., -1:] / 255
        values = values[..., :-1] * (1 if associated else alpha) + 255 * (1 - alpha)
    elif channels not in (1, 3):
        raise ValueError(channels)
    values = np.rint(values.clip(0, 255)).astype(np.uint8)
    return np.repeat(values, 3, 2) if values.shape[2] == 1 else values


def opencv(path: str) -> np.ndarray:
    import cv2

    data = np.fromfile(path, np.uint8)
    values: Any = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if values.dtype == np.uint8 and (values.ndim == 2 or values.shape[2] == 3):
        values = cv2.imdecode(data, cv2.IMREAD_COLOR)  # turned by its EXIF
    if values.dtype == np.uint16 and data[4:8].tobytes() == b"ftyp":  # of 10 or 12 bits
        values = cv2.imdecode(data, cv2.IMREAD_COLOR)
    if values.ndim == 3:
        values = values[..., [2, 1, 0, *range(3, values.shape[2])]]
    return shown(values)


def vips(path: str) -> np.ndarray:
    import pyvips  # pyright: ignore[reportMissingImports]

    picture = pyvips.Image.new_from_file(path, fail_on="truncated").autorot()
    if picture.interpretation in ("b-w", "grey16") and picture.format not in ("uchar", "ushort"):
        return shown(picture.numpy())
    if picture.interpretation not in ("srgb", "multiband"):
        picture = picture.colourspace("srgb")
    return shown(picture.numpy())


def tiff(path: str) -> np.ndarray:
    import tifffile  # pyright: ignore[reportMissingImports]

    with tifffile.TiffFile(path) as file:
        page: Any = file.pages[0]
        values, kind = page.asarray(), page.photometric.name
        if page.planarconfig == 2 and values.ndim == 3:
            values = np.moveaxis(values, 0, -1)
        bits = page.bitspersample
        if values.dtype == bool or (values.dtype.kind == "u" and bits not in (8, 16, 32)):
            values = (values.astype(np.float64) * 255 / (1 if kind == "PALETTE" else 2**bits - 1)).round()
            values = (values / 255 if kind == "PALETTE" else values).astype(np.uint8)
        if kind == "PALETTE":
            values = np.moveaxis(page.colormap, 0, -1)[values]
        if kind == "MINISWHITE":
            values = np.iinfo(values.dtype).max - values
        if kind == "SEPARATED":
            values = (255 - values[..., :3].astype(int)) * (255 - values[..., 3:4].astype(int)) / 255
            values = values.astype(np.uint8)
        if kind not in ("MINISBLACK", "MINISWHITE", "RGB", "PALETTE", "SEPARATED", "YCBCR"):
            raise ValueError(kind)
        tag = page.tags.get(274)
        values = turned(values, int(tag.value) if tag else 1)
        return shown(values, 1 in page.extrasamples)


def turned(values: np.ndarray, orientation: int) -> np.ndarray:
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return values[:, ::-1] if orientation in (2, 3, 6, 7) else values


def codecs(path: str) -> np.ndarray:
    import imagecodecs  # pyright: ignore[reportMissingImports]

    values = imagecodecs.imread(path)
    if values.dtype == np.uint16 and (Path(path).suffix.lower() in (".avif", ".heic", ".jxl")):
        values = values * (65535 // next(most for most in (1023, 4095, 65535) if values.max() <= most))
    return shown(values)


OTHERS: dict[str, Callable[[str], np.ndarray]] = {
    "OpenCV": opencv,
    "libvips": vips,
    "tifffile": tiff,
    "imagecodecs": codecs,
}


# -- the table ------------------------------------------------------------------------------------------------


def kind_of_reason(reason: str) -> str:
    """A reason without its numbers and names."""
    return re.sub(r"\d[\d,.]*", "N", reason.partition(":")[0] if reason.startswith("damaged") else reason)


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--list", type=Path, metavar="FILE", help="write one line a picture")
    options = parser.parse_args()
    rows, reasons = defaultdict(Counter), Counter()  # type: ignore[var-annotated]
    listed: list[tuple[str, str, str]] = []
    slowest, files = (0.0, ""), 0
    with Isolated("odd_pictures:read") as ours, Isolated("odd_pictures:compare") as all_of_them:
        for folder in options.folders:
            try:
                found = discover([folder])
            except InstsearchError as error:
                raise SystemExit(str(error)) from None
            files += len(found.found) + len(found.skipped)
            for name, reason in found.skipped:
                listed.append((name, reason, ""))
                rows["(not opened)"].update(files=1, skipped=1)
                reasons[kind_of_reason(reason)] += 1
            for photo in found.found:
                suffix = photo.path.suffix.lower()
                try:
                    outcome, seconds = ours(str(photo.path))
                except Died as error:
                    outcome, seconds = str(error), 0.0
                slowest = max(slowest, (seconds, photo.display))
                try:
                    verdict = all_of_them(str(photo.path))
                except Died as error:
                    verdict = f"unsure: another decoder: {error}"
                listed.append((photo.display, outcome, verdict))
                bad = outcome.startswith(("bug", "crash", "hang"))
                state = "read" if outcome == "read" else "bad" if bad else "skipped"
                rows[suffix].update({"files": 1, state: 1})
                compared = verdict.partition(":")[0]
                if outcome == "read" and compared in ("agree", "differ"):
                    rows[suffix].update({"compared": 1, compared: 1})
                if outcome != "read":
                    reasons[outcome if bad else kind_of_reason(outcome)] += 1
    columns = ("files", "read", "skipped", "bad", "compared", "agree", "differ")
    print(f"{'':<14}" + "".join(f"{column:>10}" for column in columns))
    rows["all"] = sum(rows.values(), Counter())
    for suffix, counts in rows.items():
        print(f"{suffix:<14}" + "".join(f"{counts[column]:>10,}" for column in columns))
    print("\nskipped, by reason:")
    for reason, n in reasons.most_common():
        print(f"{n:>8,}  {reason}")
    print(f"\nslowest {slowest[0]:.1f} s ({slowest[1]}); most memory {ours.peak / 1e6:,.0f} MB")
    if options.list:
        options.list.write_text("".join("\t".join(row) + "\n" for row in listed), "utf-8")
    all_ = rows["all"]
    if all_["bad"] or all_["read"] + all_["skipped"] + all_["bad"] != files:
        sys.exit("the totals do not add up" if not all_["bad"] else "crashes, hangs or bugs")


if __name__ == "__main__":
    main()
