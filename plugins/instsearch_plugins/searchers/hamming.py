"""Hamming embedding: words vote with signatures, and the votes are verified (Jegou, Douze and Schmid, "Hamming
embedding and weak geometric consistency for large scale image search", ECCV 2008).

Votes against bursts: the same, "On the burstiness of visual elements", CVPR 2009. Multiple assignment: IJCV 2010.
Verification of the best images: Philbin et al., CVPR 2007.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np

from instsearch_cli.components import Searcher, option
from instsearch_cli.data import BoxWeight, Hits, Keypoints, Words
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_plugins.abilities import WordEncoder
from instsearch_plugins.numeric import hamming
from instsearch_plugins.numeric.geometry import Agreement, Transform, box_under, places
from instsearch_plugins.numeric.hypotheses import verified
from instsearch_plugins.numeric.mirrored import SIFT, mirrored
from instsearch_plugins.numeric.ranking import Owners, leads, occurrences, separate
from instsearch_plugins.rerankers.hit_by_hit import box_of
from instsearch_plugins.searchers.postings import POSTINGS, Matches, Postings, inverted, inverted_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from instsearch_cli.components import Data, Progress, State
    from instsearch_cli.data import Box, Query
    from instsearch_formats import Array


EVIDENCE = 16.0  #: sigma of inliers, in bits: the paper's
OCCURRENCES = 20  #: of the object in an image, at most
RIM = 0.1  #: of a box's sides, around it, where corners of what was found may be
KEPT = 64  #: mirrored queries whose evidence is kept until they are expanded
CHANCE = 2e-4  #: z of the usual image that is verified and does not show the object


class Asked(NamedTuple):
    """What a query asks: A pairs of a keypoint and a word of it, with their signatures.

    keypoint i64[A], word i64[A], signature u64[A]; worth f32[A] > 0: idf^2 of the word times the keypoint's weight;
    first bool[A]: the nearest word of its keypoint. geometry f32[N, 4] of the keypoints in the box;
    norm = |(idf_w tf_w)_w|; usual, the mean of idf^2 over the keypoints; the box.
    """

    keypoint: np.ndarray
    word: np.ndarray
    signature: np.ndarray
    worth: np.ndarray
    first: np.ndarray
    geometry: np.ndarray
    norm: float
    usual: float
    box: Box


class Evidence(NamedTuple):
    """What there is for n images: v f32[n] of their votes, the lengths norms f32[n] of their histograms, by number.

    sure i64[s]: which are verified; of these v f[s] by all words, sqrt(inliers / matches) times the sum over the
    inliers f[s], and boxes f32[s, 4].
    """

    images: np.ndarray
    v: np.ndarray
    norms: np.ndarray
    sure: np.ndarray
    v_sure: np.ndarray
    inliers: np.ndarray
    boxes: np.ndarray

    def scored(self, norm: float, usual: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The images, their scores f32[n] and their boxes f32[n, 4], for a query of this length and mean idf^2."""
        scores, boxes = _vote(self.v, self.norms * norm), np.full((len(self.images), 4), np.nan, np.float32)
        z = _vote(self.v_sure, self.norms[self.sure] * norm) * self.inliers / usual
        scores[self.sure], boxes[self.sure] = 1 + np.log1p(z / CHANCE), self.boxes
        return self.images, scores, boxes


class Verified(NamedTuple):
    """Images with inliers enough, i64[s] by number; of each v, sqrt(share) times its inliers' weight, and its box."""

    images: np.ndarray
    v: np.ndarray
    inliers: np.ndarray
    boxes: np.ndarray

    def at_most(self, first: Verified) -> Verified:
        """No surer than the first ones of the same images, which ascend there."""
        i = np.searchsorted(first.images, self.images)
        capped = np.minimum(self.v, first.v[i]), np.minimum(self.inliers, first.inliers[i])
        return Verified(self.images, *capped, self.boxes)


class HammingEmbedding(Searcher):
    """score = 1 + log(1 + z / z0) for verified images, which come first; vote, below 1, for the others.

    vote = v / (1 + v),  v = sum_m w(h_m) idf^2 / (|q| |b|)
    z = vote sqrt(inliers / matches) sum_inliers e(h_m) idf^2 / mean idf^2

    over the matches m of query and image: keypoints of one word whose signatures differ in h_m bits, ``ht`` at
    most; |q|, |b| the lengths of their histograms; w(h) = exp(-h^2 / sigma^2), and e(h) the same at sigma = 16: votes
    add up over an image, inliers are to convince one by one. The nearest words of the query's keypoints vote; the
    best ``verify`` images are verified from the matches of all their words, those that change scale and turn as most
    do (``wgc``), and have the query's box under the transform found; z0 is the z that is usual among those that do
    not show the object. Rows that share no match are no hits. The words that vote are those of the query's keypoints,
    whatever its codes: expanding codes changes nothing. Where a query wants several hits of an image, the matches out
    of a box that was found are verified again, ``OCCURRENCES`` times at most.
    """

    accepts: ClassVar[tuple[str, ...]] = ("csr",)
    on_device: ClassVar[bool] = False
    learns: ClassVar[dict[str, Array]] = POSTINGS
    lists_regions: bool = True
    locates: bool = True  #: its boxes hold without a detector

    @dataclass(frozen=True)
    class Config:
        """Options of ``hamming``."""

        ht: int = option(34, "query")  #: bits out of 64 in which the signatures of a match differ at most
        sigma: float = option(20.0, "query")  #: matches count exp(-h^2 / sigma^2) at h bits; 0: all alike
        #: what matches are divided by the root of: the sum over their query keypoint in the image, in all, or both
        burstiness: Literal["none", "intra", "inter", "both"] = option("intra", "query")
        assign: int = option(3, "query")  #: words of a query keypoint at most
        assign_ratio: float = option(1.15, "query")  #: how much farther than the nearest these may be
        wgc: bool = option(True, "query")  #: only matches that turn, and change scale, alike count
        verify: int = option(200, "query")  #: how many of the best images are verified; 0 for none
        #: look for the mirrored object as well, in twice the time; without it, a mirrored one is not found
        mirrored: bool = option(False, "query")
        min_inliers: int = option(4, "query")  #: fewer inliers than this verify nothing
        tolerance: float = option(0.04, "query")  #: how far an inlier may miss, as a share of the longer side
        octaves: float = option(1.0, "query")  #: how far an inlier's change of scale may be off, in log2
        degrees: float = option(30.0, "query")  #: how far an inlier's turn may be off

        def __post_init__(self) -> None:
            if not 0 <= self.ht <= hamming.BITS or self.sigma < 0:
                raise ValueError(f"ht is 0 to {hamming.BITS}, and sigma 0 or more")
            if self.assign < 1 or self.assign_ratio < 1:
                raise ValueError("assign and assign_ratio are at least 1")
            if (
                self.verify < 0
                or self.min_inliers < 1
                or not min(self.tolerance, self.octaves, self.degrees) > 0
            ):
                raise ValueError("verify is 0 or more, min_inliers at least 1, the tolerances above 0")

    def __init__(self, config: Config, device: None = None) -> None:
        self.config = config
        self.weights = hamming.weights(config.sigma, config.ht)
        self.reach = int(np.flatnonzero(self.weights)[-1])  #: bits beyond which matches count nothing
        self.evidence = hamming.weights(EVIDENCE, config.ht)
        self._kept: OrderedDict[Any, tuple[Any, Any, Evidence]] = OrderedDict()

    def fit(self, data: Data, progress: Progress) -> State:
        """See :func:`postings.inverted`."""
        idf = _idf(data)
        return inverted(data, idf if len(idf) else None, data.scratch(), progress)

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what ``fit`` returned, where it lies."""
        self.postings = postings = Postings(state)
        n = len(postings.norms)
        self.longer = hamming.octaves(postings.sizes.max(axis=1, initial=0))
        nowhere = np.broadcast_to(np.float32(np.nan), (n, 4))
        self.owners = Owners(postings.start, np.arange(n + 1), nowhere)

    def search(self, queries: Sequence[Query], data: Data, k: int) -> Hits:
        """Vote, then verify. Raises InstsearchError where queries have no signatures."""
        removed = self.owners.removed(data)
        ranked = []
        for query in queries:
            images, scores, boxes = self._ranked(query, data, self.owners.hidden(query, removed))
            ranked.append((images[:k] + self.postings.start, scores[:k], boxes[:k]))
        return Hits.stack(ranked, k)

    def _ranked(
        self, query: Query, data: Data, hidden: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All images that match, best first, but for those hidden: their numbers i64[n], scores and boxes."""
        asked, n = self._asked(query, data), query.per_image
        images, scores, boxes = self._evidence(asked, hidden, n).scored(asked.norm, asked.usual)
        order = np.argsort(-scores, kind="stable")
        if self.config.mirrored:
            other = self._mirrored(query, data, hidden).scored(asked.norm, asked.usual)
            both = zip((images, scores, boxes), other, strict=True)
            images, scores, boxes = (np.concatenate(pair) for pair in both)
            order = np.lexsort((images, -scores))
        if n != 1:
            order = order[separate(images[order], boxes[order], n or OCCURRENCES)]
        elif self.config.mirrored:
            order = order[occurrences(images[order]) == 0]
        return images[order], scores[order], boxes[order]

    def _mirrored(self, query: Query, data: Data, hidden: np.ndarray) -> Evidence:
        """The evidence of the mirror image, which is the same once a query is expanded: that adds words alone."""
        key = id(query.features), id(query.weights), query.box, query.per_image, hidden.tobytes()
        kept = self._kept.pop(key, None)
        if kept is not None and kept[0] is query.features and kept[1] is query.weights:
            return kept[2]
        evidence = self._evidence(self._asked(query, data, mirror=True), hidden, query.per_image)
        self._kept[key] = query.features, query.weights, evidence
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return evidence

    # -- voting -----------------------------------------------------------------------------------------

    def _asked(self, query: Query, data: Data, mirror: bool = False) -> Asked:
        """The keypoints in the query's box, with their words; or those of its mirror image."""
        local, config = query.local, self.config
        if not isinstance(local, Words) or local.geometry is None:
            raise InstsearchError("searcher hamming needs words at keypoints: take --searcher inverted")
        if local.signatures is None:
            raise InstsearchError(hamming.UNSIGNED)
        box = box_of(query)
        weight = BoxWeight(box, query.weights).over(local).sum(0)
        every = local.words
        inside = np.flatnonzero((weight > 0) & (every >= 0))
        nearest, geometry = every[inside].astype(np.int64), local.geometry[inside]
        idf = _idf(data, int(nearest.max(initial=-1)) + 1)
        norm = np.linalg.norm(np.bincount(nearest, minlength=len(idf)) * idf)
        usual = float(np.mean(idf[nearest] ** 2)) if len(nearest) else 1.0
        keypoint, word = np.arange(len(inside)), nearest
        signature = local.signatures[inside]
        if config.assign > 1 or mirror:
            encoder, values = _described(query, data)
            n = int(np.searchsorted(inside, len(values)))  # only words are known of what expansion adds after
            values = values[inside[:n]]
            if mirror:
                if values.shape[1] != SIFT or (values < 0).any():
                    raise UsageError(
                        "searcher.mirrored is of SIFT, whose descriptors can be mirrored: with this extractor take "
                        "--set searcher.mirrored=false"
                    )
                values, geometry = mirrored(values, geometry[:n])
                box = (-box[2], box[1], -box[0], box[3])
            known = None if mirror else nearest[:n]
            found = encoder.assignments(values, config.assign, config.assign_ratio, known)
            added = slice(len(inside) if mirror else n, None)
            keypoint, word, signature = (
                np.concatenate([anew, before[added]])
                for anew, before in zip(found, (keypoint, word, signature), strict=True)
            )
        worth = (idf**2)[word] * weight[inside][keypoint]
        first = leads(keypoint)
        some = worth > 0
        keypoint, word, worth, first = (v[some] for v in (keypoint, word, worth, first))
        bits = signature.view(np.uint64)[some]
        return Asked(keypoint, word, bits, worth, first, geometry, float(norm), usual, box)

    def _matches(self, asked: Asked, some: np.ndarray, shown: np.ndarray | None) -> Matches:
        """Matches of some of what is asked, i64[p], with images shown bool[n]."""
        found = self.postings.matches(asked.word[some], asked.signature[some], self.reach, shown)
        return found._replace(asked=some[found.asked])

    def _votes(self, asked: Asked, found: Matches, n: int) -> np.ndarray:
        """What matches with n images count for each: f32[n]."""
        score = self._scores(asked, found, found.image, n)
        if self.config.wgc:
            return hamming.consistent(score, found.image, *self._changes(asked, found), n)
        return np.bincount(found.image, score, n).astype(np.float32)

    def _scores(self, asked: Asked, found: Matches, image: np.ndarray, n: int) -> np.ndarray:
        """What each match with n images counts, against bursts: f32[m]."""
        config, keypoint = self.config, asked.keypoint.take(found.asked)
        score: np.ndarray = self.weights.take(found.distance) * asked.worth.take(found.asked)
        if config.burstiness in ("intra", "both"):
            score = hamming.intra_image(score, keypoint, image, n)
        if config.burstiness in ("inter", "both"):
            score = hamming.inter_image(score, keypoint)
        return score

    def _changes(self, asked: Asked, found: Matches) -> tuple[np.ndarray, np.ndarray]:
        """By how much matches change scale and turn, in the steps of the postings: i16[m], u8[m]."""
        scale, angle = asked.geometry[:, 2], asked.geometry[:, 3]
        octave, turn = hamming.steps(found.bits)
        octave += self.longer.take(found.image)
        octave -= hamming.octaves(scale)[asked.keypoint].take(found.asked)
        turn -= hamming.turns(angle)[asked.keypoint].take(found.asked)
        return octave, turn

    # -- verification -----------------------------------------------------------------------------------

    def _evidence(self, asked: Asked, hidden: np.ndarray, per_image: int = 1) -> Evidence:
        """What there is for every image that nearest words match, the best of them verified; these several times."""
        shown = None
        if len(hidden):
            shown = np.ones(self.owners.images, bool)
            shown[hidden] = False
        nearest = self._matches(asked, np.flatnonzero(asked.first), shown)
        v = self._votes(asked, nearest, len(self.postings.norms))
        images = np.flatnonzero(v)
        v, norms = v[images], self.postings.norms[images]
        best = np.argsort(-_vote(v, norms * asked.norm), kind="stable")[: self.config.verify]
        if not len(best):
            nothing = np.empty(0, np.float32)
            return Evidence(images, v, norms, best, nothing, nothing, nothing.reshape(0, 4))
        found = self._verified(asked, nearest, images[best], per_image)
        at, again = best[found.images], occurrences(found.images) > 0
        extra = at[again]
        at[again] = np.arange(len(images), len(images) + len(extra))
        images, v, norms = (np.append(each, each[extra]) for each in (images, v, norms))
        return Evidence(images, v, norms, at, found.v, found.inliers, found.boxes)

    def _verified(self, asked: Asked, nearest: Matches, images: np.ndarray, per_image: int) -> Verified:
        """Which of some images have inliers enough, by all words; then which have out of the box that was found."""
        postings = self.postings
        rank = np.full(self.owners.images, -1)
        rank[images] = np.arange(len(images))
        own = nearest.some(np.flatnonzero(rank.take(nearest.image) >= 0))
        others = self._matches(asked, np.flatnonzero(~asked.first), rank >= 0)
        matches = Matches(*(np.concatenate(pair) for pair in zip(own, others, strict=True)))
        image, sizes = rank.take(matches.image), postings.sizes[images]
        found = [self._agreed(asked, matches, image, sizes)]
        while len(found) != (per_image or OCCURRENCES) and len(found[-1].images):
            box = np.full((len(images), 4), np.nan, np.float32)
            box[found[-1].images] = found[-1].boxes
            x, box = hamming.unpacked(matches.bits, sizes.take(image, axis=0))[:, :2], box.take(image, axis=0)
            rim = RIM * (box[:, 2:] - box[:, :2])
            inside = ((x >= box[:, :2] - rim) & (x < box[:, 2:] + rim)).all(axis=1)
            left = np.flatnonzero(~inside & ~np.isnan(box[:, 0]))
            if not len(left):
                break
            matches, image = matches.some(left), image.take(left)
            found.append(self._agreed(asked, matches, image, sizes).at_most(found[0]))
        return Verified(*(np.concatenate(each) for each in zip(*found, strict=True)))

    def _agreed(self, asked: Asked, matches: Matches, image: np.ndarray, sizes: np.ndarray) -> Verified:
        """What some matches agree on in each image, i64[m] below n, of sizes f32[n, 2]."""
        config, n = self.config, len(sizes)
        total = np.bincount(image, minlength=n)
        evidence = self.evidence.take(matches.distance) * asked.worth.take(matches.asked)
        if config.wgc:
            near = np.flatnonzero(hamming.peaked(evidence, image, *self._changes(asked, matches), n))
            matches, image, evidence = matches.some(near), image.take(near), evidence.take(near)
        keypoint = asked.keypoint.take(matches.asked)
        found = verified(
            asked.geometry.take(keypoint, axis=0),
            hamming.unpacked(matches.bits, sizes.take(image, axis=0)),
            image,
            (places(asked.geometry).take(keypoint), hamming.place(matches.bits)),
            evidence,
            n,
            Agreement(config.tolerance * sizes.max(axis=1), config.octaves, config.degrees),
            config.min_inliers,
        )
        sure = np.flatnonzero(found.inliers)
        share = found.inliers[sure] / total[sure]
        v = np.bincount(image, self._scores(asked, matches, image, n), n)[sure]
        A, t = found.transforms
        boxes = box_under(Transform(A[sure], t[sure]), asked.box, sizes[sure])
        return Verified(sure, v, np.sqrt(share) * found.weight[sure], boxes)


def among(
    config: Any, query: Query, data: Data, images: Sequence[Words]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Searcher `hamming` over some images alone: their numbers i64[n], best first, scores f32[n] and boxes f32[n, 4].

    config: the options of ``HammingEmbedding``. Those that match nothing are not among them.
    """
    searcher, idf = HammingEmbedding(config), _idf(data)
    searcher.load(inverted_of(images, idf if len(idf) else None))
    return searcher._ranked(query, data, np.empty(0, np.int64))


def _vote(v: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """v / (1 + v) of what matches count, over the lengths of the histograms: f32[n] in [0, 1)."""
    v = v / np.maximum(norms, 1e-12)
    votes: np.ndarray = (v / (1 + v)).astype(np.float32)
    return votes


def _described(query: Query, data: Data) -> tuple[WordEncoder, np.ndarray]:
    """The encoder and the query's descriptors. Raises InstsearchError where they cannot be had as words anew."""
    if not isinstance(data.encoder, WordEncoder) or not isinstance(query.features, Keypoints):
        raise InstsearchError(
            "searcher.assign over 1 and searcher.mirrored need encoder bovw, or blcf over keypoints"
        )
    return data.encoder, query.features.values


def _idf(data: Data, least: int = 0) -> np.ndarray:
    """idf f32[K] of the encoder's words; ones, ``least`` of them, where it has none."""
    encoder = data.encoder
    return encoder.idf if isinstance(encoder, WordEncoder) else np.ones(least, np.float32)
