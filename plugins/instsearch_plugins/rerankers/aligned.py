"""Look-alikes told from the object: hits are aligned with the query, and compared with it cell by cell.

Alignment starts from the transform that visual words agree on (Philbin et al., CVPR 2007), or, as in query expansion
(Chum et al., ICCV 2007), that they agree on with hits aligned before; it is made finer on the pictures. What is aligned
and differs speaks against a hit.
"""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import cv2
import numpy as np

from instsearch_cli.data import Beside
from instsearch_cli.errors import InstsearchError
from instsearch_plugins.numeric.appearance import (
    Compared,
    Template,
    compared,
    enlarged,
    onto_box,
    side_by_side,
    template,
)
from instsearch_plugins.numeric.geometry import Agreement, Transform, box_under, places
from instsearch_plugins.numeric.hypotheses import verified
from instsearch_plugins.numeric.registration import applied
from instsearch_plugins.rerankers.hit_by_hit import QueryByQuery, Ranked, Verifying, box_of
from instsearch_plugins.rerankers.verified_qe import (
    Points,
    inside_box,
    joined,
    mapped_back,
    matches,
    points_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from instsearch_cli.components import Data
    from instsearch_cli.data import Box, Image, Query

SURE = 0.15  # agreement from which a hit's keypoints are the query's, too
HELPERS = 10  # hits whose keypoints are, at most
LAST = 10  # hits looked at last: the others change as these do
SIDE_BY_SIDE = 4  # hits compared at once, at most
ZOOM = 3  # how much larger than compared they are shown


class Shown(NamedTuple):
    """A hit: its row, its keypoints, the size of its picture, and the box f32[4] where it was found."""

    row: int
    points: Points
    size: tuple[int, int]
    where: np.ndarray | None


class Aside(NamedTuple):
    """A hit as compared with the query; pixels of the original picture a pixel of the one that was read."""

    compared: Compared
    scale: tuple[float, float]


class Aligned(QueryByQuery, Verifying):
    """score = l + log(1 + exp(x - l)),  x = s + w_a min(agreement, e) - g(s) (b + w_d disagreement + w_h hue).

    s is the score before, g(s) = clip((s - t) / r, 0, 1): a hit that scores much by its keypoints must agree as a
    whole, since look-alikes score as much; for one that scores little agreement speaks, nothing against it. agreement:
    the share of the query's box that agrees in the hit, aligned; look-alikes agree, too, so that more than e says
    nothing; disagreement: the share that does not though it is among what agrees; hue: by how much hues differ there
    (numeric.appearance). Hits of l = ``least`` or more are looked at, and none falls below it, so that the others stay
    below them. One that cannot be aligned, or read, keeps its score. Hits further down than ``depth`` change as the
    last ones looked at do on the whole: look-alikes are as likely there. Scores are those of searcher ``hamming``.
    """

    @dataclass(frozen=True)
    class Config:
        """The weights are fitted to hits of INSTRE, groceries and drawn twins, whose look-alikes they part."""

        depth: int = 200  #: how many of the best hits are looked at
        least: float = 2.5  #: hits that score less are not: few of them show the object
        much: float = 5.0  #: score t from which on a hit must agree as a whole
        ramp: float = 4.0  #: it must wholly, from so much more on (r)
        bias: float = 2.5  #: taken off the score of such a hit
        agreement: float = 8.0  #: times the share of the box that agrees, added
        enough: float = 0.6  #: a larger share counts as this (e)
        disagreement: float = 38.0  #: times the share that should agree and does not, taken off of such a hit
        hue: float = 7.0  #: times the difference of hues, 0 to 2, taken off of such a hit
        min_inliers: int = 4  #: fewer inliers than this align nothing
        ht: int = 36  #: bits out of 64 in which the signatures of a match differ at most
        tolerance: float = 0.04  #: how far an inlier may miss, as a share of the picture's longer side
        octaves: float = 1.0  #: how far an inlier's change of scale may be from the transform's, in log2
        degrees: float = 30.0  #: how far an inlier's turn may be from the transform's

    config: Config
    on_device: ClassVar[bool] = False

    def ranked(self, query: Query, hits: Ranked, data: Data) -> Ranked:
        """Look at the first ``depth`` hits. Raises UsageError where queries are not words at keypoints."""
        images, scores, boxes = hits[0], hits[1].copy(), hits[2]
        least = self.config.least
        some = np.flatnonzero(scores >= least)
        top = some[some < self.config.depth]
        found = comparisons(query, images[top], data, self.config, boxes[top])
        change = np.zeros(len(scores), np.float32)
        for i in top.tolist():
            one = found.get(int(images[i]))
            change[i] = 0 if one is None else self._change(one, float(scores[i]))
        if len(top):
            change[some[len(top) :]] = change[top[-LAST:]].mean()
        i = np.flatnonzero(change)
        scores[i] = least + np.logaddexp(0, scores[i] + change[i] - least)
        order = np.argsort(-scores, kind="stable")
        return images[order], scores[order], boxes[order]

    def beside(self, query: Query, row: int, data: Data) -> Beside | None:
        """As the query's own words align the two, without the help of other hits."""
        (seen,) = data.inputs(("image",), [row])
        one = comparisons(query, np.array([row]), data, self.config).get(row)
        if one is None or seen.image is None:
            return None
        box = _pixels(box_of(query), query.image)
        shown = side_by_side(enlarged(one, query.image.pixels, box, seen.image.pixels, ZOOM))
        return Beside(shown, one.agreement, one.disagreement, in_words(one))

    def _change(self, one: Compared, score: float) -> float:
        c = self.config
        change = c.agreement * min(one.agreement, c.enough)
        wholly = min(max((score - c.much) / c.ramp, 0), 1)
        if wholly:
            change -= wholly * (c.bias + c.disagreement * one.disagreement + c.hue * one.hue)
        return change


def comparisons(
    query: Query,
    rows: np.ndarray,
    data: Data,
    config: Aligned.Config,
    boxes: np.ndarray | None = None,
) -> dict[int, Compared | None]:
    """Hits as compared with the query, by row; None where one cannot be aligned, or read.

    Raises UsageError where the query is not words at keypoints.
    """
    box, where = box_of(query), {} if boxes is None else dict(zip(rows.tolist(), boxes, strict=True))
    points = points_of(query.local)
    own = points.at(inside_box(points, box))
    hits = [Shown(i.row, points_of(i.local), i.size, where.get(i.row)) for i in data.inputs(("local",), rows)]
    seen = template(query.image.pixels, _pixels(box, query.image))
    found = _each(seen, own, box, hits, data, config)
    helpers = []
    for hit, one in zip(hits, found, strict=True):
        if one is not None and one.compared.agreement > SURE:
            shown = _brought(hit.points, one, box)
            helpers.append((one.compared.agreement, shown.at(inside_box(shown, box))))
    some = [i for i, one in enumerate(found) if one is None]
    if helpers and some:
        helpers.sort(key=lambda helper: -helper[0])
        more = joined([own, *(shown for _, shown in helpers[:HELPERS])])
        again = _each(seen, more, box, [hits[i] for i in some], data, config)
        for i, one in zip(some, again, strict=True):
            found[i] = one
    return {hit.row: None if one is None else one.compared for hit, one in zip(hits, found, strict=True)}


def in_words(one: Compared) -> str:
    """What was compared, as a sentence."""
    if not one.region.any():
        return "Nothing in the box agrees, aligned as its keypoints are."
    agree = f"{100 * one.agreement:.0f} % of what the box shows agrees"
    if not one.disagreeing.any():
        return f"{agree}, and nothing among it differs."
    differ = f"{100 * one.disagreement:.0f} %" if one.disagreement >= 0.005 else "less than 1 %"
    return f"{agree}; {differ} lies among it and differs."


def _pixels(box: Box, image: Image) -> Box:
    """A box in pixels of the original, in those of the picture as it was read."""
    sx, sy = image.scale
    return box[0] / sx, box[1] / sy, box[2] / sx, box[3] / sy


def _each(
    seen: Template, own: Points, box: Box, hits: Sequence[Shown], data: Data, config: Aligned.Config
) -> list[Aside | None]:
    """Hits as compared by what the keypoints own agree with them on, side by side: OpenCV lets go of Python's lock.

    None for one that they agree on elsewhere than it was found, and one that cannot be read. No other is read.
    """
    transforms = _transforms(own, hits, config)

    def compare(hit: Shown, transform: Transform) -> Aside | None:
        image = _picture(data, hit.row)
        if image is None:
            return None
        sx, sy = image.scale
        H = np.diag([1 / sx, 1 / sy, 1]) @ onto_box(*transform, box)
        return Aside(compared(seen, image.pixels, H), image.scale)

    with ThreadPoolExecutor(min(SIDE_BY_SIDE, max(1, cv2.getNumThreads()))) as pool:
        work = [
            None
            if transform is None or _apart(box_under(transform, box, hit.size), hit.where)
            else pool.submit(compare, hit, transform)
            for hit, transform in zip(hits, transforms, strict=True)
        ]
        return [None if each is None else each.result() for each in work]


def _transforms(own: Points, hits: Sequence[Shown], config: Aligned.Config) -> list[Transform | None]:
    """What the keypoints own agree on with each hit, or None."""
    pairs = [matches(own, hit.points, config.ht) for hit in hits]
    if not any(len(i) for i, _, _ in pairs):
        return [None] * len(hits)
    i, w = (np.concatenate([pair[column] for pair in pairs]) for column in (0, 2))
    q = np.concatenate([hit.points.geometry[j] for hit, (_, j, _) in zip(hits, pairs, strict=True)])
    image = np.repeat(np.arange(len(hits)), [len(pair[0]) for pair in pairs])
    pixels = config.tolerance * np.array([hit.size for hit in hits], np.float32).max(axis=1)
    found = verified(
        own.geometry[i],
        q,
        image,
        (places(own.geometry)[i], places(q)),
        w,
        len(hits),
        Agreement(pixels, config.octaves, config.degrees),
        config.min_inliers,
    )
    return [found.transforms.at(n) if found.inliers[n] else None for n in range(len(hits))]


def _apart(box: np.ndarray, where: np.ndarray | None) -> bool:
    """Whether two boxes f32[4] share less than a quarter of the smaller; not where one is unknown."""
    if where is None or np.isnan(where).any():
        return False
    shared = np.maximum(np.minimum(box[2:], where[2:]) - np.maximum(box[:2], where[:2]), 0).prod()
    return bool(shared < min((box[2:] - box[:2]).prod(), (where[2:] - where[:2]).prod()) / 4)


def _picture(data: Data, row: int) -> Image | None:
    """A hit's picture; None where it cannot be read, gone or changed since: what the words say stands."""
    with contextlib.suppress(InstsearchError):
        for inputs in data.inputs(("image",), [row]):
            return inputs.image
    return None


def _brought(points: Points, aside: Aside, box: Box) -> Points:
    """A hit's keypoints in the query's frame, by the affinity that is nearest to its homography in the box."""
    one = aside.compared
    h, w = one.own.shape[:2]
    unit = np.array([[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]])
    x = unit * [box[2] - box[0], box[3] - box[1]] + [box[0], box[1]]
    there = applied(one.H, unit * [w, h]) * aside.scale
    affinity = np.linalg.lstsq(np.column_stack([x, np.ones(4)]), there, rcond=None)[0].astype(np.float32)
    A = affinity[:2].T
    if np.linalg.det(A) <= 0:
        return points.at(np.zeros(0, np.int64))
    return points._replace(geometry=mapped_back(points.geometry, Transform(A, affinity[2])))
