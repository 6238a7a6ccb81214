"""Hits aligned with a query's box by their keypoints, and compared with it on the pictures.

What the query's words do not align, the words of hits that agree with it do: these are brought into its frame, as in
query expansion (Chum et al., ICCV 2007).
"""

from __future__ import annotations

import contextlib
import functools
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

import cv2
import numpy as np

from instsearch_cli.boxes import overlap
from instsearch_cli.data import Keypoints
from instsearch_cli.errors import InstsearchError
from instsearch_plugins.abilities import WordEncoder
from instsearch_plugins.numeric.appearance import Compared, compared, onto_box, template
from instsearch_plugins.numeric.geometry import Transform, box_under
from instsearch_plugins.numeric.mirrored import SIFT, mirrored
from instsearch_plugins.numeric.registration import applied
from instsearch_plugins.rerankers.hit_by_hit import box_of
from instsearch_plugins.rerankers.verified_qe import (
    Points,
    agreed,
    inside_box,
    joined,
    mapped_back,
    points_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from instsearch_cli.components import Data
    from instsearch_cli.data import Box, Image, Query

SURE = 0.15  # agreement from which a hit's keypoints are the query's, too
HELPERS = 10  # hits whose keypoints are, at most
FLIPPED = np.array([[-1.0, 0, 1], [0, 1, 0], [0, 0, 1]])
THERE = 0.5  # share of a box that is where the object was aligned
SIDE_BY_SIDE = 4  # hits compared at once, at most


class Shown(NamedTuple):
    """A hit: its row, its keypoints, the size of its picture, and the box f32[4] where it was found."""

    row: int
    points: Points
    size: tuple[int, int]
    where: np.ndarray | None

    def there(self) -> Shown:
        """With the keypoints in that box alone."""
        assert self.where is not None
        return self._replace(points=self.points.at(inside_box(self.points, self.where)))


class Side(NamedTuple):
    """Keypoints that are asked with, the box that they are in, and where the query's unit square is in its."""

    own: Points
    box: Box
    unit: np.ndarray


class Comparing:
    """A query, and the hits that were compared with it: ``found``, by row; None where one could not be.

    config: options ht, tolerance, octaves, degrees, min_inliers, located, much and mirrored of ``Aligned``. Raises
    UsageError where the query is not words at keypoints.
    """

    def __init__(self, query: Query, data: Data, config: Any) -> None:
        self.box, self._query, self._data, self._config = box_of(query), query, data, config
        points = points_of(query.local)
        self._own = Side(points.at(inside_box(points, self.box)), self.box, np.eye(3))
        self._template = template(query.image.pixels, pixels_of(self.box, query.image))
        self._helpers: list[tuple[float, Points]] = []
        self.found: dict[int, Compared | None] = {}

    def look(
        self, rows: np.ndarray, boxes: np.ndarray | None = None, scores: np.ndarray | None = None
    ) -> None:
        """Compare hits not looked at before, found in boxes f32[n, 4] if known, with scores f[n]; above all by default.

        Those of ``located`` or more that no keypoints align are aligned by their box; those of ``much`` or more that do
        not agree are compared with the mirror image.
        """
        config, n = self._config, len(rows)
        where = {} if boxes is None else dict(zip(rows.tolist(), boxes, strict=True))
        scored = dict(zip(rows.tolist(), np.full(n, np.inf) if scores is None else scores, strict=True))
        inputs = self._data.inputs(("local",), rows)
        hits = [Shown(i.row, points_of(i.local), i.size, where.get(i.row)) for i in inputs]
        left = self._compared(self._own, hits)
        if self._helpers and left:
            self._helpers.sort(key=lambda helper: -helper[0])
            own = joined([self._own.own, *(shown for _, shown in self._helpers[:HELPERS])])
            left = self._compared(self._own._replace(own=own), left, helpful=False)
        boxed = [
            (hit, _onto(self.box, hit.where))
            for hit in left
            if scored[hit.row] >= config.located and _known(hit.where)
        ]
        some = [hit for hit, _ in boxed]
        self._compared(self._own, some, dict(enumerate(boxed)), helpful=False, least=SURE)
        unlike = [hit for hit in hits if scored[hit.row] >= config.much and self._agreement(hit.row) < SURE]
        if config.mirrored and unlike and self._mirror is not None:
            self._compared(self._mirror, unlike, helpful=False, least=SURE)

    def _agreement(self, row: int) -> float:
        """By how much a hit agrees as far as it was compared; -1 where it could not be."""
        found = self.found.get(row)
        return -1.0 if found is None else found.weighed

    @functools.cached_property
    def _mirror(self) -> Side | None:
        """The mirror image, about its left edge; None where its words cannot be had."""
        encoder, features, points = self._data.encoder, self._query.features, points_of(self._query.local)
        if not isinstance(encoder, WordEncoder) or not isinstance(features, Keypoints):
            return None
        i = inside_box(points, self.box)
        i = i[i < len(features.values)]  # only words are known of what expansion adds after
        values = np.asarray(features.values)[i]
        if points.signatures is None or not len(values) or values.shape[1] != SIFT or (values < 0).any():
            return None
        values, geometry = mirrored(values, points.geometry[i])
        keypoint, word, signature = encoder.assignments(values, 1, 1.0)
        x0, y0, x1, y1 = self.box
        return Side(Points(word, geometry[keypoint], signature), (-x1, y0, -x0, y1), FLIPPED)

    def elsewhere(self, rows: np.ndarray, boxes: np.ndarray) -> list[Compared | None]:
        """Further places f32[n, 4] of an object in hits; None where it cannot be compared, or is aligned elsewhere."""
        inputs = {i.row: i for i in self._data.inputs(("local",), np.unique(rows))}
        places = zip(rows.tolist(), boxes, strict=True)
        hits = [Shown(row, points_of(inputs[row].local), inputs[row].size, box) for row, box in places]
        found = zip(self._each(self._own, hits, self._there(self._own, hits)), boxes, strict=True)
        return [one[0] if one and overlap(_bounds(*one), box) >= THERE else None for one, box in found]

    def _compared(
        self,
        side: Side,
        hits: Sequence[Shown],
        there: dict[int, tuple[Shown, Transform]] | None = None,
        *,
        helpful: bool = True,
        least: float = -1.0,
    ) -> list[Shown]:
        """Compare hits by where they are, what the keypoints agree with them on by default; returns those left.

        These are the ones that could not be compared. helpful: the keypoints of those that agree help from now on;
        least: what agrees no more than this is not kept.
        """
        left = []
        there = self._there(side, hits) if there is None else there
        for hit, one in zip(hits, self._each(side, hits, there), strict=True):
            if one is None:
                self.found.setdefault(hit.row, None)
                left.append(hit)
                continue
            found, scale = one
            agreement = found.weighed
            if agreement <= max(least, self._agreement(hit.row)):
                continue
            self.found[hit.row] = found
            if helpful and agreement > SURE:
                shown = _brought(hit.points, found, scale, self.box)
                self._helpers.append((agreement, shown.at(inside_box(shown, self.box))))
        return left

    def _each(
        self, side: Side, hits: Sequence[Shown], there: dict[int, tuple[Shown, Transform]]
    ) -> list[tuple[Compared, tuple[float, float]] | None]:
        """Hits as compared, and pixels of each original a pixel of what was read of it.

        None for one that is not there, by number, and one that cannot be read. No other is read.
        """

        def compare(hit: Shown, transform: Transform) -> tuple[Compared, tuple[float, float]] | None:
            image = _picture(self._data, hit.row)
            if image is None:
                return None
            sx, sy = image.scale
            H = np.diag([1 / sx, 1 / sy, 1]) @ onto_box(*transform, side.box) @ side.unit
            return compared(self._template, image.pixels, H), image.scale

        found = dict(zip(there, each_of(compare, there.values()), strict=True))
        return [found.get(n) for n in range(len(hits))]

    def _there(self, side: Side, hits: Sequence[Shown]) -> dict[int, tuple[Shown, Transform]]:
        """Those that the keypoints agree on where they were found, by number, and by which transform."""
        there = self._agreeing(side, dict(enumerate(hits)))
        missed = {n: hit.there() for n, hit in enumerate(hits) if n not in there and hit.where is not None}
        return there | self._agreeing(side, missed)  # of several the one that was found

    def _agreeing(self, side: Side, hits: dict[int, Shown]) -> dict[int, tuple[Shown, Transform]]:
        transforms = _transforms(side.own, list(hits.values()), self._config)
        return {
            n: (hit, transform)
            for (n, hit), transform in zip(hits.items(), transforms, strict=True)
            if transform is not None and not _apart(box_under(transform, side.box, hit.size), hit.where)
        }


def each_of(work: Callable[..., Any], each: Iterable[tuple[Any, ...]]) -> list[Any]:
    """What work gives of each, some at once: OpenCV lets go of Python's lock."""
    with ThreadPoolExecutor(min(SIDE_BY_SIDE, max(1, cv2.getNumThreads()))) as pool:
        return list(pool.map(lambda one: work(*one), each))


def pixels_of(box: Box, image: Image) -> Box:
    """A box in pixels of the original, in those of the picture as it was read."""
    sx, sy = image.scale
    return box[0] / sx, box[1] / sy, box[2] / sx, box[3] / sy


def _transforms(own: Points, hits: Sequence[Shown], config: Any) -> list[Transform | None]:
    """What the keypoints own agree on with each hit, or None."""
    if not hits:
        return []
    found = agreed(config, own, [hit.points for hit in hits], [hit.size for hit in hits])
    return [found.transforms.at(n) if found.inliers[n] else None for n in range(len(hits))]


def _known(where: np.ndarray | None) -> TypeGuard[np.ndarray]:
    """Whether it is known where a hit was found."""
    return where is not None and not np.isnan(where).any()


def _apart(box: np.ndarray, where: np.ndarray | None) -> bool:
    """Whether two boxes f32[4] share less than a quarter of the smaller; not where one is unknown."""
    return _known(where) and bool(overlap(box, where) < 0.25)


def _onto(box: Box, where: np.ndarray) -> Transform:
    """What takes a box to another, upright."""
    low, high = np.array(box, np.float32).reshape(2, 2)
    sides = (where[2:] - where[:2]) / (high - low)
    return Transform(np.diag(sides), where[:2] - sides * low)


def _bounds(one: Compared, scale: tuple[float, float]) -> np.ndarray:
    """Where the template is in the original: f32[4]."""
    h, w = one.own.shape[:2]
    corners = applied(one.H, np.array([[0, 0], [w, 0], [w, h], [0, h]], float)) * scale
    return np.concatenate([corners.min(axis=0), corners.max(axis=0)])


def _picture(data: Data, row: int) -> Image | None:
    """A hit's picture; None where it cannot be read, gone or changed since: what the words say stands."""
    with contextlib.suppress(InstsearchError):
        for inputs in data.inputs(("image",), [row]):
            return inputs.image
    return None


def _brought(points: Points, one: Compared, scale: tuple[float, float], box: Box) -> Points:
    """A hit's keypoints in the query's frame, by the affinity that is nearest to its homography in the box."""
    h, w = one.own.shape[:2]
    unit = np.array([[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]])
    x = unit * [box[2] - box[0], box[3] - box[1]] + [box[0], box[1]]
    there = applied(one.H, unit * [w, h]) * scale
    affinity = np.linalg.lstsq(np.column_stack([x, np.ones(4)]), there, rcond=None)[0].astype(np.float32)
    A = affinity[:2].T
    if np.linalg.det(A) <= 0:
        return points.at(np.zeros(0, np.int64))
    return points._replace(geometry=mapped_back(points.geometry, Transform(A, affinity[2])))
