"""Saliency maps drawn beside what people looked at or annotated, and how well they agree, as a plot."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from PIL import Image

from instsearch_cli.errors import InstsearchError, printable
from instsearch_cli.images import read_image, shrink
from instsearch_cli.measure.verbs import evenly
from instsearch_cli.report import plot
from instsearch_cli.report.draw import heat, panels
from instsearch_cli.report.pictures import clipped, font, mark

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np

    from instsearch_cli.data import Box, WeightMap
    from instsearch_cli.measure.fixations import Scene
    from instsearch_cli.measure.saliency_precision import Report

SIDE = 320  #: longer side of a panel, in pixels
SHOWN = 8  #: pictures on a sheet


class SaliencySheet:
    """Collects some of the pictures as they are scored, and draws them on one sheet: a row a picture, a column a map.

    Columns: the photograph, the density of people's fixations if it has any, then the maps in the order
    given, each over the photograph and under its name and AUC, or its precision in the annotated boxes.
    """

    def __init__(self) -> None:
        self.names = frozenset[str]()
        self._shown: list[tuple[str, Image.Image]] = []
        self._columns = 1

    def choose(self, names: Sequence[str]) -> None:
        """Want some of the names, evenly spread."""
        self.names = frozenset(evenly(names, SHOWN))

    def add(self, scene: Scene, maps: Mapping[str, np.ndarray], scores: Mapping[str, np.ndarray]) -> None:
        """Take a picture if it is one of those wanted. ``maps`` are f32[H, W], the first score is the AUC."""
        if scene.name not in self.names:
            return
        image = Image.fromarray(scene.pixels).resize(
            shrink(*scene.size, SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0
        )
        looked = sum(map(len, scene.points))
        name = clipped(printable(scene.name), font(21), SIDE, keep="end").replace(": ", ":")
        row = [(name, image), (f"people: {looked:,} fixations", self._over(image, scene, scene.density))]
        for name, P in maps.items():
            detail = "the same everywhere" if P.max() == P.min() else f"AUC {scores[name][0]:.2f}"
            row.append((f"{name}: {detail}", self._over(image, scene, P)))
        self._columns = len(row)
        self._shown += row

    @staticmethod
    def _over(image: Image.Image, scene: Scene, P: np.ndarray) -> Image.Image:
        return heat(image, P, (1.0, 1.0, 0.0, 0.0), scene.size)

    def add_annotated(
        self,
        name: str,
        path: Path,
        boxes: Sequence[Box],
        maps: Mapping[str, WeightMap],
        found: Mapping[str, float],
    ) -> None:
        """Take an image with its annotated boxes, the weightings' maps, and the precision of each."""
        if name not in self.names:
            return
        picture = read_image(path, lambda w, h: shrink(w, h, SIDE))
        image, shown = Image.fromarray(picture.pixels), clipped(printable(name), font(21), SIDE, keep="end")
        row = [(shown.replace(": ", ":"), image)]
        for weighting, weights in maps.items():
            values, share = weights.values.sum(0).cpu().numpy(), found[weighting]
            detail = "nothing anywhere" if math.isnan(share) else f"{share:.0%} in the box"
            panel = heat(image, values, weights.grid.transform, picture.size)
            row.append((f"{weighting}: {detail}", panel))
        for _, panel in row:
            for box in boxes:
                mark(panel, box, picture.size)
        self._columns = len(row)
        self._shown += row

    def write(self, path: Path) -> None:
        """Write the sheet as PNG. Raises InstsearchError if it has no picture or cannot be written."""
        if not self._shown:
            raise InstsearchError(f"{path} is not written: none of its pictures could be read")
        try:
            panels(self._shown, self._columns).save(path, "PNG")
        except OSError as error:
            raise InstsearchError(f"cannot write {path}: {error.strerror or error}") from error


def write_histogram(report: Report, path: Path) -> None:
    """Plot how the precisions of each weighting are spread over the images."""
    samples = {row.name: row.defined() for row in report.rows[:-2]}
    title = f"Saliency inside the annotated boxes, {report.dataset}"
    plot.histogram(path, samples, "saliency precision", f"share of {report.scored:,} images", title)
