"""Pictures of one colour, with an EXIF orientation."""

from __future__ import annotations

from pathlib import Path

from PIL import Image


def picture(
    path: Path, size: tuple[int, int] = (400, 300), colour: str = "#335577", orientation: int = 1
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size, colour).save(path, exif=exif)
    return path
