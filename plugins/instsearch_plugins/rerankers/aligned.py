"""Look-alikes told from the object: hits are aligned with the query, and compared with it cell by cell.

Alignment starts from the transform that visual words agree on (Philbin et al., CVPR 2007), or, as in query expansion
(Chum et al., ICCV 2007), that they agree on with hits aligned before; it is made finer on the pictures. What is aligned
and differs speaks against a hit.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, ClassVar

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
    from collections.abc import Iterator, Sequence

    from instsearch_cli.components import Data
    from instsearch_cli.data import Box, Image, Inputs, Query

SURE = 0.15  # agreement from which a hit's keypoints are the query's, too
HELPERS = 10  # hits whose keypoints are, at most
LAST = 10  # hits looked at last: the others change as these do
SIDE_BY_SIDE = 4  # hits compared at once
ZOOM = 3  # how much larger than compared they are shown


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

        depth: int = 100  #: how many of the best hits are looked at
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
        against = c.bias + c.disagreement * one.disagreement + c.hue * one.hue
        agreement = c.agreement * min(one.agreement, c.enough)
        return agreement - min(max((score - c.much) / c.ramp, 0), 1) * against


def comparisons(
    query: Query,
    rows: np.ndarray,
    data: Data,
    config: Aligned.Config,
    boxes: np.ndarray | None = None,
) -> dict[int, Compared | None]:
    """Hits as compared with the query, by row; None where one cannot be aligned; one that cannot be read is not there.

    Raises UsageError where the query is not words at keypoints.
    """
    box, where = box_of(query), {} if boxes is None else dict(zip(rows.tolist(), boxes, strict=True))
    points = points_of(query.local)
    own = points.at(inside_box(points, box))
    asked = template(query.image.pixels, _pixels(box, query.image))
    found: dict[int, Compared | None] = {}
    helpers: list[tuple[float, Points]] = []
    for inputs, image, one in _each(asked, own, box, _readable(data, rows), where, config):
        found[inputs.row] = one
        if one is not None and one.agreement > SURE:
            shown = _brought(points_of(inputs.local), one, box, image)
            helpers.append((one.agreement, shown.at(inside_box(shown, box))))
    if helpers:
        helpers.sort(key=lambda helper: -helper[0])
        more = joined([own, *(shown for _, shown in helpers[:HELPERS])])
        again = _readable(data, [row for row, one in found.items() if one is None])
        found |= {inputs.row: one for inputs, _, one in _each(asked, more, box, again, where, config)}
    return found


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
    asked: Template,
    own: Points,
    box: Box,
    hits: Iterator[tuple[Inputs, Image]],
    where: dict[int, np.ndarray],
    config: Aligned.Config,
) -> Iterator[tuple[Inputs, Image, Compared | None]]:
    """Hits compared, a few at a time, side by side: OpenCV lets go of Python's lock."""
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        while some := list(islice(hits, 2 * SIDE_BY_SIDE)):
            work = [
                pool.submit(_compared, asked, own, box, *hit, where.get(hit[0].row), config) for hit in some
            ]
            yield from ((*hit, each.result()) for hit, each in zip(some, work, strict=True))


def _compared(
    asked: Template,
    own: Points,
    box: Box,
    inputs: Inputs,
    image: Image,
    where: np.ndarray | None,
    config: Aligned.Config,
) -> Compared | None:
    """A hit as compared with what is asked, by what the keypoints own agree with it on; None if that is elsewhere."""
    transform = _transform(own, points_of(inputs.local), inputs.size, config)
    if transform is None or _apart(box_under(transform, box, inputs.size), where):
        return None
    sx, sy = image.scale
    return compared(asked, image.pixels, np.diag([1 / sx, 1 / sy, 1]) @ onto_box(*transform, box))


def _apart(box: np.ndarray, where: np.ndarray | None) -> bool:
    """Whether two boxes f32[4] share less than a quarter of the smaller; not where one is unknown."""
    if where is None or np.isnan(where).any():
        return False
    shared = np.maximum(np.minimum(box[2:], where[2:]) - np.maximum(box[:2], where[:2]), 0).prod()
    return bool(shared < min((box[2:] - box[:2]).prod(), (where[2:] - where[:2]).prod()) / 4)


def _transform(own: Points, other: Points, size: tuple[int, int], config: Aligned.Config) -> Transform | None:
    i, j, w = matches(own, other, config.ht)
    if len(i) < config.min_inliers:
        return None
    found = verified(
        own.geometry[i],
        other.geometry[j],
        np.zeros(len(i), np.int64),
        (places(own.geometry)[i], places(other.geometry)[j]),
        w,
        1,
        Agreement(config.tolerance * max(size), config.octaves, config.degrees),
        config.min_inliers,
    )
    return found.transforms.at(0) if found.inliers[0] else None


def _readable(data: Data, rows: Sequence[int] | np.ndarray) -> Iterator[tuple[Inputs, Image]]:
    """Hits with their words and their pictures, but for those whose picture cannot be read."""
    for inputs in data.inputs(("local",), rows):
        try:
            for seen in data.inputs(("image",), [inputs.row]):
                if seen.image is not None:
                    yield inputs, seen.image
        except InstsearchError:
            continue  # gone or changed since: what the words say stands


def _brought(points: Points, one: Compared, box: Box, image: Image) -> Points:
    """A hit's keypoints in the query's frame, by the affinity that is nearest to its homography in the box."""
    h, w = one.own.shape[:2]
    unit = np.array([[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]])
    x = unit * [box[2] - box[0], box[3] - box[1]] + [box[0], box[1]]
    there = applied(one.H, unit * [w, h]) * image.scale
    affinity = np.linalg.lstsq(np.column_stack([x, np.ones(4)]), there, rcond=None)[0].astype(np.float32)
    A = affinity[:2].T
    if np.linalg.det(A) <= 0:
        return points.at(np.zeros(0, np.int64))
    return points._replace(geometry=mapped_back(points.geometry, Transform(A, affinity[2])))
