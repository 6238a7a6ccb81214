"""What the stages made of one picture, panel by panel, and what they have to show of how they made it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from instsearch_cli.engine.looking import check_open
from instsearch_cli.errors import InstsearchError
from instsearch_cli.images import shrink
from instsearch_cli.report import draw
from instsearch_cli.report.pictures import thumbnail

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    from instsearch_cli.data import Drawing
    from instsearch_cli.engine.session import Index

    Panel = tuple[str, Image.Image]

SIDE = 640  #: longer side of a panel
RED = (255, 52, 52)  #: what is drawn over a map


def _array(tensor: Any) -> np.ndarray:
    return np.asarray(tensor.detach().cpu() if hasattr(tensor, "detach") else tensor)


def _strongest(maps: np.ndarray) -> np.ndarray:
    """The largest of some maps in each cell, each over its own largest value: f[Z, h, w] -> f[h, w]."""
    peak = maps.reshape(len(maps), -1).max(1)
    return np.asarray((maps / np.where(peak > 0, peak, 1)[:, None, None]).max(0))


def drawn(
    image: Image.Image, original: tuple[int, int], item: Any, colour: tuple[int, int, int] | None = None
) -> Image.Image | None:
    """A picture with one thing of data.py over it, outlines in ``colour`` if given; None for what has no look."""
    from instsearch_cli.data import Ellipses, FeatureMap, Keypoints, Regions, WeightMap, Words

    match item:
        case FeatureMap(values=values, grid=grid):
            return draw.heat(image, np.linalg.norm(_array(values), axis=0), grid.transform, original)
        case WeightMap(values=values, grid=grid):
            return draw.heat(image, _strongest(_array(values)), grid.transform, original)
        case Words(words=found, grid=grid, geometry=None):
            return draw.words(image, _array(found), grid.transform, original)
        case Words(words=found, geometry=geometry):
            return draw.points(image, _array(geometry), original, _array(found), colour)
        case Keypoints(geometry=geometry):
            return draw.points(image, _array(geometry), original, colour=colour)
        case Regions(boxes=boxes, scores=scores, masks=masks):
            within = None if masks is None else _array(masks)
            return draw.regions(image, _array(boxes), original, _array(scores), colour=colour, masks=within)
        case Ellipses(centres=centres, radii=radii, scores=scores, angles=angles):
            turned = None if angles is None else _array(angles)
            return draw.ellipses(
                image, _array(centres), _array(radii), original, _array(scores), colour, turned
            )
    return None


def layered(image: Image.Image, original: tuple[int, int], items: Sequence[Any]) -> Image.Image:
    """Things over a picture, one on the other; the outlines on top of something are red."""
    for k, item in enumerate(items):
        image = drawn(image, original, item, RED if k else None) or image
    return image


def _detail(item: Any) -> str:
    """What a caption says of a stage's output."""
    from instsearch_cli.data import FeatureMap, Keypoints, Regions, WeightMap, Words

    match item:
        case FeatureMap(values=values, grid=grid):
            return f"length of {len(values):,} channels, {grid.h} x {grid.w} cells"
        case Keypoints(geometry=geometry):
            return f"{len(geometry):,} keypoints"
        case WeightMap(values=values) if len(values) > 1:
            return f"{len(values)} maps, the strongest in each cell"
        case WeightMap(values=values):
            return "dark least, yellow most" if np.ptp(_array(values)) > 0 else "the same everywhere"
        case Regions(boxes=boxes):
            return f"{len(boxes):,} boxes" + (", the best 40 shown" if len(boxes) > draw.MOST else "")
        case Words(words=found, grid=grid, geometry=geometry):
            distinct = len(np.unique(_array(found)[_array(found) >= 0]))
            where = f"on {grid.h} x {grid.w} cells" if geometry is None else f"at {len(geometry):,} points"
            return f"{distinct:,} visual words {where}"
    return ""


def stage_panels(
    image: Image.Image,
    original: tuple[int, int],
    stages: Mapping[str, Any],
    drawings: Mapping[str, Sequence[Drawing]] | None = None,
    path_of: Callable[[int], Path] | None = None,
) -> list[Panel]:
    """One panel for each stage that can be drawn, and after each what its component has to show.

    stages    features, weights, regions, local -> their types; weights and regions get one panel together, too
    drawings  of the components, by their stages
    path_of   the file of a row, for drawings over other pictures than ``image``
    """
    shown: list[Panel] = []
    both = [kind for kind in stages if kind in ("weights", "regions")]
    for kind, item in stages.items():
        panel = drawn(image, original, item)
        if panel is not None:
            shown.append((f"{kind}: {_detail(item)}", panel))
        if len(both) == 2 and kind == both[-1]:
            together = layered(image, original, [stages["weights"], stages["regions"]])
            shown.append(("weights and regions", together))
        for drawing in (drawings or {}).get(kind, ()):
            ground, size = image, original
            if drawing.row >= 0 and path_of is not None:
                other = thumbnail(path_of(drawing.row), SIDE)
                ground, size = other.image, other.size or other.image.size
            shown.append((drawing.caption, layered(ground, size, drawing.items)))
    return shown


def draw_stages(
    path: Path,
    stages: Mapping[str, Any],
    out: Path,
    drawings: Mapping[str, Sequence[Drawing]] | None = None,
    path_of: Callable[[int], Path] | None = None,
) -> None:
    """Draw a picture and what each stage made of it, side by side, to the PNG file ``out``.

    Raises InstsearchError (BadImage) if the picture cannot be read or ``out`` cannot be written.
    """
    from instsearch_cli.errors import printable
    from instsearch_cli.images import read_image

    picture = read_image(path, lambda w, h: shrink(w, h, SIDE))
    image = Image.fromarray(picture.pixels)
    w, h = picture.size
    shown = [(f"{printable(path.name)}: {w} x {h}", image)]
    shown += stage_panels(image, picture.size, stages, drawings, path_of)
    try:
        draw.panels(shown).save(out, "PNG")
    except OSError as error:
        raise InstsearchError(f"cannot write {out}: {error.strerror or error}") from error


def show(
    index: Index,
    image: str | os.PathLike[str],
    out: str | os.PathLike[str],
    pipeline: str | None = None,
    **choice: Any,
) -> list[str]:
    """Draw what the stages of a pipeline make of a picture, in an index or any other, to the PNG file ``out``.

    Returns the names of the layers drawn.
    """
    check_open(index)
    described = index.describe(image, pipeline, **choice)
    stages = {kind: described[kind] for kind in described.kinds}
    draw_stages(Path(image), stages, Path(out), described.drawings(), index.store.images.path)
    return list(stages)
