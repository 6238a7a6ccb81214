"""Look-alikes told from the object: hits are aligned with the query, and compared with it cell by cell.

Alignment starts from the transform that visual words agree on (Philbin et al., CVPR 2007), or, as in query expansion
(Chum et al., ICCV 2007), that they agree on with hits aligned before; it is made finer on the pictures. What is aligned
and differs speaks against a hit. Where many are sure it is asked again, with their keypoints and with what their
pictures have in common, as average query expansion does with descriptors (the same, section 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from instsearch_cli.data import Beside, Hits
from instsearch_plugins.numeric.appearance import Compared, Whole, common, enlarged, recompared, side_by_side
from instsearch_plugins.numeric.discriminant import colours, discriminant, levels
from instsearch_plugins.numeric.hamming import BITS
from instsearch_plugins.numeric.ranking import occurrences
from instsearch_plugins.rerankers.comparing import Comparing, each_of, pixels_of
from instsearch_plugins.rerankers.hit_by_hit import Ranked, Verifying, box_of, hits_of
from instsearch_plugins.rerankers.verified_qe import VerifiedQueryExpansion, expanded

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from instsearch_cli.components import Data, Search
    from instsearch_cli.data import Query

LAST = 10  # hits looked at last: the others change as these do
PICTURES = 15  # of sure hits at most, of which what they have in common is taken
WIDE = VerifiedQueryExpansion.Config(depth=30)  # so many are asked again with at most
EVEN = 0.01  # difference of hues that says nothing
ZOOM = 3  # how much larger than compared they are shown


class Shared(NamedTuple):
    """What the pictures of sure hits have in common; each, by row, as compared with what the others do."""

    whole: Whole
    seen: dict[int, Compared]


class Told(NamedTuple):
    """What comparing with what sure hits have in common, the picture ``usual`` u8[h, w, 3], says of n hits.

    compared bool[n]; agreement f64[n], beside the sure hits' usual one; hue f64[n], log of the difference beside
    theirs, 0 at least.
    """

    usual: np.ndarray
    compared: np.ndarray
    agreement: np.ndarray
    hue: np.ndarray


class Aligned(Verifying):
    """score = l + log(1 + exp(x - l)),  x = s + w_a max(0, min(d a, e) - c) - g(s) (b + w_d disagreement + w_h hue).

    s is the score before, g(s) = clip((s - t) / r, 0, 1): a hit that scores much by its keypoints must agree as a
    whole, since look-alikes score as much; for one that scores little agreement speaks, nothing against it. a, the
    agreement: the share of the query's box that agrees in the hit, aligned. So much as c does by chance, and more where
    the hit is enlarged, which has d < 1 of its pixels along a side; look-alikes agree, too, so that more than e says
    nothing; disagreement: the share that does not though it is among what agrees; hue: by how much hues differ there
    (numeric.appearance). Hits of l = ``least`` or more are looked at, and none falls below it, so that the others stay
    below them. One that cannot be aligned, or read, keeps its score. Hits further down than ``depth`` change as the
    last ones looked at do on the whole: look-alikes are as likely there. Scores are those of searcher ``hamming``.

    Where ``again`` hits have ``sure`` or more, and ``many`` are undecided, the query is asked again with the keypoints
    of the sure ones, unless these differ from each other as look-alikes do: the median of w_d disagreement + w_h hue,
    of each beside what the others have in common, is ``unlike`` at most. Then

    x = v_s score + v_m m + v_b + v_a min(a / median a_j, 1) - v_h max(0, log((h + 1/100) / (median h_j + 1/100)))
        + v_d d

    m what the wider query finds, a and h agreement and hue beside the median of the sure hits' pictures as they are
    aligned; j the sure hits, each beside the median of the others. Hits not compared have v_s score + v_m m. Where
    ``again`` hits have ``certain`` or more, d is what tells their colours from those of the hits that all the rest puts
    last (numeric.discriminant), and l + log(1 + exp(x - l)) is the score. Elsewhere d is 0, only the order is by x, and
    the list keeps its scores: look-alikes of an object that is absent are no surer for agreeing with each other. What
    an object is not is never asked again: its look-alikes are what was asked for.
    """

    @dataclass(frozen=True)
    class Config:
        """The weights are fitted to hits of INSTRE, groceries and drawn twins, whose look-alikes they part."""

        depth: int = 200  #: how many of the best hits are looked at
        least: float = 2.5  #: hits that score less are not: few of them show the object
        much: float = 5.0  #: score t from which on a hit must agree as a whole
        ramp: float = 5.0  #: it must wholly, from so much more on (r)
        bias: float = 2.5  #: taken off the score of such a hit
        agreement: float = 9.2  #: times the share of the box that agrees, added
        chance: float = 0.08  #: so much of it does by chance, and counts nothing (c)
        enough: float = 0.6  #: a larger share counts as this (e)
        disagreement: float = 55.0  #: times the share that should agree and does not, taken off of such a hit
        hue: float = 6.0  #: times the difference of hues, 0 to 2, taken off of such a hit
        again: int = 8  #: from so many sure hits on it is asked again with what they have in common; 0: never
        sure: float = 7.2  #: score from which a hit is
        many: int = 60  #: and from so many others of ``least`` or more on: look-alikes are about
        unlike: float = 1.3  #: by how much of their scores the sure ones differ from each other at most
        first: float = 0.6  #: asked again, times the score before (v_s)
        wider: float = 0.3  #: times the score that the wider query gives (v_m)
        alike: float = 0.9  #: added where a hit was compared (v_b)
        common: float = 2.0  #: times its agreement with what sure hits have in common (v_a)
        common_hue: float = 1.6  #: times log of the hues' difference from that, taken off (v_h)
        #: times what tells the certain ones from the refused, where ``again`` are certain (v_d)
        telling: float = 1.2
        certain: float = 8.67  #: score from which a hit is nearly so: where ``again`` are, x are the scores
        located: float = 3.0  #: hits of so much or more that no keypoints align are aligned by their box
        #: hits of ``much`` or more that do not agree are compared with the mirror image, of SIFT
        mirrored: bool = True
        min_inliers: int = 4  #: fewer inliers than this align nothing
        ht: int = 36  #: bits out of 64 in which the signatures of a match differ at most
        tolerance: float = 0.04  #: how far an inlier may miss, as a share of the picture's longer side
        octaves: float = 1.0  #: how far an inlier's change of scale may be from the transform's, in log2
        degrees: float = 30.0  #: how far an inlier's turn may be from the transform's

        def __post_init__(self) -> None:
            if self.again < 0 or self.again == 1:
                raise ValueError("again is 0, or 2 at least")
            if min(self.depth, self.min_inliers) < 1 or not 0 <= self.ht <= BITS:
                raise ValueError(f"depth and min_inliers are at least 1, ht is 0 to {BITS}")
            if not min(self.ramp, self.tolerance, self.octaves, self.degrees) > 0:
                raise ValueError("ramp and the tolerances are above 0")

    config: Config
    on_device: ClassVar[bool] = False
    several: ClassVar[bool] = True

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config = config

    def rerank(self, queries: Sequence[Query], hits: Hits, data: Data, search: Search) -> Hits:
        """Look at the first ``depth`` hits. Raises UsageError where queries are not words at keypoints."""
        k = hits.images.shape[1]
        ranked = []
        for i, query in enumerate(queries):
            comparing, every = Comparing(query, data, self.config), hits_of(hits, i)
            once = occurrences(every[0]) == 0
            first = self._first(_some(every, once), comparing)
            first = first if query.against else self._again(query, first, comparing, data, search, k)
            ranked.append(first if once.all() else self._further(first, _some(every, ~once), comparing))
        return Hits.stack(ranked, k)

    def _further(self, first: Ranked, hits: Ranked, comparing: Comparing) -> Ranked:
        """Further places of the object in images, compared where they are; none is surer than the image's first."""
        images, scores, boxes = hits[0], hits[1].copy(), hits[2]
        top = np.flatnonzero(scores >= self.config.least)[: self.config.depth]
        for i, one in zip(top.tolist(), comparing.elsewhere(images[top], boxes[top]), strict=True):
            if one is not None:
                scores[i] = self._floored(scores[i] + self._change(one, float(scores[i])))
        scores = np.minimum(scores, _beside(images, first)[0])
        images, scores, boxes = (
            np.concatenate(pair) for pair in zip(first, (images, scores, boxes), strict=True)
        )
        order = np.argsort(-scores, kind="stable")
        return images[order], scores[order], boxes[order]

    def beside(self, query: Query, row: int, data: Data, where: np.ndarray | None = None) -> Beside | None:
        """As the query's own words, or the box, align the two, without the help of other hits."""
        (seen,) = data.inputs(("image",), [row])
        comparing = Comparing(query, data, self.config)
        comparing.look(np.array([row]), None if where is None else where[None])
        one = comparing.found.get(row)
        if one is None or seen.image is None:
            return None
        box = pixels_of(box_of(query), query.image)
        shown = side_by_side(enlarged(one, query.image.pixels, box, seen.image.pixels, ZOOM))
        return Beside(shown, one.agreement, one.disagreement, in_words(one))

    def _first(self, hits: Ranked, comparing: Comparing) -> Ranked:
        """Hits with the scores that comparing them with the query gives."""
        images, scores, boxes = hits[0], hits[1].copy(), hits[2]
        some = np.flatnonzero(scores >= self.config.least)
        top = some[some < self.config.depth]
        comparing.look(images[top], boxes[top], scores[top])
        change = np.zeros(len(scores), np.float32)
        for i in top.tolist():
            one = comparing.found.get(int(images[i]))  # none of an image that is gone since
            change[i] = 0 if one is None else self._change(one, float(scores[i]))
        if len(top):
            change[some[len(top) :]] = change[top[-LAST:]].mean()
        i = np.flatnonzero(change)
        scores[i] = self._floored(scores[i] + change[i])
        order = np.argsort(-scores, kind="stable")
        return images[order], scores[order], boxes[order]

    def _floored(self, x: np.ndarray) -> np.ndarray:
        """l + log(1 + exp(x - l)), in the order of x and above l = ``least``."""
        floored: np.ndarray = self.config.least + np.logaddexp(0, x - self.config.least)
        return floored

    def _change(self, one: Compared, score: float) -> float:
        c = self.config
        change = c.agreement * max(min(one.weighed, c.enough) - c.chance, 0)
        wholly = min(max((score - c.much) / c.ramp, 0), 1)
        if wholly:
            change -= wholly * (c.bias + self._differs(one))
        return change

    def _differs(self, one: Compared) -> float:
        """w_d disagreement + w_h hue."""
        return self.config.disagreement * one.disagreement + self.config.hue * one.hue

    def _again(
        self, query: Query, hits: Ranked, comparing: Comparing, data: Data, search: Search, k: int
    ) -> Ranked:
        """Hits in the order that they have beside what the sure ones have in common; as they are without enough."""
        c, (images, scores, boxes) = self.config, hits
        sure = scores >= c.sure
        sure[sure] = [comparing.found.get(row) is not None for row in images[sure].tolist()]
        certain = images[sure & (scores >= c.certain)]
        sure = images[sure]
        others = np.count_nonzero((scores >= c.least) & (scores < c.sure))
        if not c.again or len(sure) < c.again or others < c.many:
            return hits
        shared = _shared(sure[:PICTURES], comparing)
        if np.median([self._differs(one) for one in shared.seen.values()]) > c.unlike:
            return hits
        wide = expanded(WIDE, query, sure, data)
        if wide is None:
            return hits
        more = hits_of(search([wide[0]], k), 0)
        new = ~np.isin(more[0], images)
        images, boxes = np.append(images, more[0][new]), np.concatenate([boxes, more[2][new]])
        scores = np.append(scores, np.zeros(np.count_nonzero(new), np.float32))
        wider, where = _beside(images, more)
        boxes = np.where(np.isnan(boxes), where, boxes)
        best = np.argsort(-wider, kind="stable")[: np.count_nonzero(wider >= c.much)][: c.depth]
        unseen = best[[row not in comparing.found for row in images[best].tolist()]]
        comparing.look(images[unseen], where[unseen], np.zeros(len(unseen)))
        told = _told(images, shared, comparing)
        x = c.first * scores + c.wider * wider
        x += told.compared * c.alike + c.common * np.minimum(told.agreement, 1) - c.common_hue * told.hue
        enough = len(certain) >= c.again
        if enough:
            x += c.telling * _telling(images, x, certain, told.usual, comparing)
        some = (scores >= c.least) | (wider >= c.least) | told.compared
        x = np.where(some, self._floored(x), scores)
        order = np.lexsort((-x, ~some))
        scores = x[order].astype(np.float32) if enough else -np.sort(-scores)
        return images[order], scores, boxes[order]


def _some(hits: Ranked, some: np.ndarray) -> Ranked:
    return hits[0][some], hits[1][some], hits[2][some]


def in_words(one: Compared) -> str:
    """What was compared, as a sentence."""
    if not one.region.any():
        return "Nothing in the box agrees, aligned as its keypoints are."
    agree = f"{100 * one.agreement:.0f} % of what the box shows agrees"
    if not one.disagreeing.any():
        return f"{agree}, and nothing among it differs."
    differ = f"{100 * one.disagreement:.0f} %" if one.disagreement >= 0.005 else "less than 1 %"
    return f"{agree}; {differ} lies among it and differs."


def _beside(images: np.ndarray, hits: Ranked) -> tuple[np.ndarray, np.ndarray]:
    """Scores f32[n] and boxes f32[n, 4] that images i64[n] have among hits; 0 and NaN for those that are not."""
    at = {row: i for i, row in enumerate(hits[0].tolist())}
    places = np.array([at.get(row, len(at)) for row in images.tolist()])
    nowhere = np.full((1, 4), np.nan, np.float32)
    return np.append(hits[1], np.float32(0))[places], np.concatenate([hits[2], nowhere])[places]


def _shared(sure: np.ndarray, comparing: Comparing) -> Shared:
    """What hits that were aligned, i64[n] and 2 at least, have in common."""
    found = {row: one for row in sure.tolist() if (one := comparing.found[row]) is not None}
    whole, without = common(np.stack([one.picture for one in found.values()]))
    seen = each_of(recompared, zip(found.values(), without, strict=True))
    return Shared(whole, dict(zip(found, seen, strict=True)))


def _told(images: np.ndarray, shared: Shared, comparing: Comparing) -> Told:
    """What comparing with what sure hits have in common says of images i64[n]."""
    rows = images.tolist()
    found = {row: one for row in rows if (one := comparing.found.get(row)) is not None}

    def look(row: int) -> tuple[float, float]:
        again = shared.seen.get(row) or recompared(found[row], shared.whole)
        return again.agreement, again.hue

    aligned = [row for row, one in found.items() if one.corners.any()]  # the others agree in nothing
    seen = dict(zip(aligned, each_of(look, [(row,) for row in aligned]), strict=True))
    agreement, hue = np.array([seen.get(row, (0.0, 0.0)) for row in rows]).T
    usual, there = np.isin(images, list(shared.seen)), np.isin(images, list(found))
    hues = np.log((hue + EVEN) / (np.median(hue[usual]) + EVEN)).clip(0)
    agreement = agreement / max(float(np.median(agreement[usual])), 0.05)
    return Told(shared.whole.picture, there, agreement, np.where(there, hues, 0))


def _telling(
    images: np.ndarray, x: np.ndarray, these: np.ndarray, usual: np.ndarray, comparing: Comparing
) -> np.ndarray:
    """The discriminant f64[n] of the colours of images i64[n]: these, from what x f[n] has in the lower half of others.

    0 for those in which nothing was compared.
    """
    told = np.zeros(len(images))
    found = [comparing.found.get(row) for row in images.tolist()]
    seen = np.array([one is not None and bool(one.corners.any()) for one in found], bool)
    of_these = np.isin(images[seen], these)
    others = x[seen][~of_these]
    if len(others):
        common_levels = levels(usual)
        vectors = each_of(
            lambda one: colours(one.picture, common_levels, one.corners > 0),
            [(found[i],) for i in np.flatnonzero(seen)],
        )
        told[seen] = discriminant(np.stack(vectors), of_these, ~of_these & (x[seen] <= np.median(others)))
    return told
