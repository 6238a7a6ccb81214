"""What Pillow's decoders leave to be put right before they decode."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from PIL import ImagePalette

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile


def settle(image: ImageFile) -> None:
    """Put right how a picture that is not loaded yet will be decoded."""
    if image.format == "PNG":
        _scale_transparency(image)
    elif image.format == "TIFF":
        _settle_tiles(image)
        _settle_palette(image)


def tag(image: Any, number: int, default: int) -> int:
    """The first number of a tag of a TIFF file."""
    value = image.tag_v2.get(number, default)
    return int(value[0] if isinstance(value, tuple) else value)


def _scale_transparency(image: ImageFile) -> None:
    """The transparent shade of a grey PNG of 1, 2 or 4 bits, as large as its pixels will be."""
    clear, tile = image.info.get("transparency"), image.tile
    if isinstance(clear, int) and tile and image.mode in ("1", "L"):
        most = {"1": 1, "L;2": 3, "L;4": 15}.get(str(tile[0].args))
        if most and clear <= most:
            image.info["transparency"] = clear * 255 // most


def _settle_tiles(image: Any) -> None:
    """Planes of 16 bits, which Pillow takes for planes of 8; tiles beyond the end, which it lays over the first."""
    if 322 in image.tag_v2 and 273 in image.tag_v2:
        raise OSError("not supported: tiles listed as strips")
    planes = tag(image, 284, 1) == 2
    tiles, places = [], set()
    for tile in image.tile:
        if (
            tile.codec_name == "raw"
            and planes
            and tag(image, 258, 8) == 16
            and tile.args[0] in ("R", "G", "B")
        ):
            order = "L" if image.tag_v2.prefix == b"II" else "B"
            tile = tile._replace(args=(f"{tile.args[0]};16{order}", *tile.args[1:]))
        if planes or tile.extents not in places:
            tiles.append(tile)
            places.add(tile.extents)
    image.tile = tiles


def _settle_palette(image: Any) -> None:
    """Colours of 8 bits, where they should be of 16."""
    colours = image.tag_v2.get(320, ()) if image.mode in ("P", "PA") else ()
    if colours and max(colours) < 256:
        image.palette = ImagePalette.raw("RGB;L", bytes(colours))
