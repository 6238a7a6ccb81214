"""Boxes that are ready in a file, made by whatever program: another detector, selective search, a person."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch

from instsearch_cli.components import Detector, option
from instsearch_cli.data import Drawing, Regions
from instsearch_cli.errors import InstsearchError, UsageError, printable
from instsearch_cli.networks.weights import sha256
from instsearch_cli.outside.text import csv_table

if TYPE_CHECKING:
    from instsearch_cli.components import Data, Progress, State
    from instsearch_cli.data import Inputs

MOST_BYTES = 1 << 30
LARGEST = 3e38  #: of a number, which is kept in 32 bits

Rows = dict[str, list[tuple[float, float, float, float, float]]]


class Precomputed(Detector):
    """The boxes that a table has of an image, by its name, cut to the picture, the best first.

    An image that is not in the table, or has no box within the picture there, is one region with score 0.
    """

    concurrent: bool = True
    by_name: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Config:
        """Options of ``precomputed``."""

        file: str = option(
            "", digested=True
        )  #: CSV: image,x,y,w,h and, maybe, score, in pixels of the upright picture
        most: int = 1000  #: boxes a picture has, at most, the best

        def __post_init__(self) -> None:
            if self.most < 1:
                raise ValueError("most is at least 1")

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config, self._reading = config, threading.Lock()

    def identity(self) -> dict[str, str]:
        """The file's sha256. Raises UsageError without one."""
        return {"file": sha256(self._path)}

    def fit(self, data: Data, progress: Progress) -> State:
        """See that the table is of these images: how many are in it. Raises InstsearchError where none is."""
        progress.start("matching boxes", len(data.images))
        count = 0
        for inputs in data.inputs(()):
            count += inputs.name in self._rows
            progress.advance()
        if not count:
            raise InstsearchError(
                f"{self._path} has boxes of none of the {len(data.images):,} images, its first is of "
                f"{printable(next(iter(self._rows)))[:200]}\n"
                "An image is named as in the hits of a query: by its path below the folder that was indexed."
            )
        return {"images": count}

    def load(self, state: State) -> None:
        """Nothing to take over: that the state is there says that the names were seen."""

    def detect(self, inputs: Inputs) -> Regions:
        """boxes f32[R, 4], scores f32[R], 1 where the table has none. Raises InstsearchError for another file."""
        with self._reading:  # images are worked on side by side
            rows = self._rows.get(inputs.name, [])
        w, h = inputs.size
        boxes = torch.tensor([row[:4] for row in rows], dtype=torch.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes = boxes.clamp(min=0).minimum(torch.tensor([w, h, w, h])).float()
        scores = torch.tensor([row[4] for row in rows])
        kept = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1).nonzero().flatten()
        if not len(kept):
            return Regions(torch.tensor([[0.0, 0.0, w, h]]), torch.zeros(1))
        kept = kept[torch.argsort(-scores[kept], stable=True)][: self.config.most]
        return Regions(boxes[kept], scores[kept])

    def explain(self, inputs: Inputs) -> list[Drawing]:
        """The boxes, or that there is none."""
        assert inputs.regions is not None
        n, none = len(inputs.regions.boxes), bool((inputs.regions.scores == 0).all())
        said = (
            f"no box of {inputs.name}: the whole picture" if n == 1 and none else f"boxes of the table: {n}"
        )
        return [Drawing(said, (inputs.regions,))]

    @property
    def _path(self) -> Path:
        if not self.config.file:
            raise UsageError("detector precomputed wants a table of boxes: --set detector.file=boxes.csv")
        if not (path := Path(self.config.file).expanduser()).is_file():
            raise UsageError(f"detector.file: there is no file {printable(path)}")
        return path

    @cached_property
    def _rows(self) -> Rows:
        return read_boxes(self._path)


def read_boxes(path: Path) -> Rows:
    """x, y, w, h and score of the boxes of each image, out of a table whose columns have these names.

    Raises InstsearchError for other columns, for the first line that is no box, and where there is none.
    """
    rows: Rows = {}
    for number, line in csv_table(path, MOST_BYTES, ("image", "x", "y", "w", "h"), ("score",)):
        try:
            x, y, w, h = (float(line[name]) for name in ("x", "y", "w", "h"))
            score = float(line.get("score") or 1)
        except ValueError:
            x = y = w = h = score = math.nan
        if not all(abs(v) < LARGEST for v in (x, y, w, h, score)) or w <= 0 or h <= 0:
            raise InstsearchError(
                f"{path}, line {number}: no box x,y,w,h of numbers, width and height above 0"
                + ", and a score that is one" * ("score" in line)
            )
        rows.setdefault(line["image"].strip(), []).append((x, y, w, h, score))
    if not rows:
        raise InstsearchError(f"{path} has no box")
    return rows
