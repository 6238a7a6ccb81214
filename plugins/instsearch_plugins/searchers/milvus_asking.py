"""Asking a collection of Milvus until the best k images are there: again, without what was found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from instsearch_plugins.numeric.ranking import occurrences
from instsearch_plugins.searchers.milvus_copy import BOX, REGIONS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from instsearch_plugins.searchers.milvus_server import Server

MOST = 16384  #: entities that Milvus returns at once
SOME = 16  #: entities that are asked for at once, at least


class Found(NamedTuple):
    """Scored entities: ids i64[n], scores f32[n], boxes f32[n, 4]."""

    ids: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray

    @property
    def images(self) -> np.ndarray:
        """The image rows i64[n]."""
        rows: np.ndarray = self.ids // REGIONS
        return rows

    def some(self, i: np.ndarray | slice) -> Found:
        return Found(self.ids[i], self.scores[i], self.boxes[i])

    def with_those(self, *others: Found) -> Found:
        """These and others."""
        every = (self, *others)
        return Found(
            np.concatenate([found.ids for found in every]),
            np.concatenate([found.scores for found in every]),
            np.concatenate([found.boxes for found in every]),
        )

    def ranked(self, per_image: int) -> Found:
        """Best first, by entity where scores are equal, each once; ``per_image`` of each image, 0 for all."""
        order = self.some(np.lexsort((self.ids, -self.scores)))
        once = order.some(occurrences(order.ids) == 0)
        return once.some(occurrences(once.images) < per_image) if per_image else once


NOTHING = Found(np.empty(0, np.int64), np.empty(0, np.float32), np.empty((0, 4), np.float32))


class Among(NamedTuple):
    """Image rows that are not to be found; or, with ``only``, the only ones that may be."""

    rows: np.ndarray
    only: bool = False

    def filter(self, found: Found = NOTHING, per_image: int = 1) -> str:
        """What Milvus is to look at, without images that gave all that they may, and what else was found."""
        images, counts = np.unique(found.images, return_counts=True)
        full = images[counts >= per_image] if per_image else images[:0]
        without = full if self.only else np.union1d(self.rows, full)
        others = found.ids[~np.isin(found.images, full)]
        parts = [f"row in {self.rows.tolist()}"] if self.only else []
        parts += [f"row not in {without.tolist()}"] if len(without) else []
        parts += [f"id not in {others.tolist()}"] if len(others) else []
        return " and ".join(parts)


class Asking:
    """Questions to a collection of ``rows`` image rows; ``parameters`` are those of a search in its index."""

    def __init__(self, server: Server, collection: str, rows: int, parameters: Mapping[str, Any]) -> None:
        self.server, self.collection, self.rows, self.parameters = server, collection, rows, dict(parameters)

    def first(self, codes: Sequence[Any], wanted: str, k: int) -> list[Found]:
        """The first entities of each vector, among those wanted: as many as k images are likely to need."""
        with self.server.answering():
            answers = self.server.client.search(
                self.collection,
                data=list(codes),
                anns_field="code",
                limit=_limit(k),
                filter=wanted,
                output_fields=[*BOX],
                search_params={"metric_type": "IP", "params": self.parameters},
            )
        return [_found(hits) for hits in answers]

    def best(self, code: Any, among: Among, k: int, per_image: int = 1, found: Found | None = None) -> Found:
        """The first k hits of a vector, ``per_image`` of an image, 0 for all that it has; ``found``: of the first time.

        It asks again without what was found until there are k, or no more.
        """
        if not len(among.rows) and among.only:
            return NOTHING
        every = NOTHING
        while True:
            if found is None:
                (found,) = self.first([code], among.filter(every, per_image), k)
            spent = len(found.ids) < _limit(k)
            every, found = every.with_those(found), None
            ranked = every.some((every.ids >= 0) & (every.images < self.rows)).ranked(per_image)
            if spent or len(ranked.ids) >= k:
                return ranked.some(slice(k))

    def matched(self, codes: Sequence[Any], among: Among, k: int) -> Found:
        """R-Match (:func:`dense.r_match`), exact by the threshold algorithm (Fagin, Lotem and Naor, PODS 2001).

        An image that no vector came upon has at most the sum of the least scores that each came upon. It goes deeper
        until k images have more.
        """
        deep = k
        while True:
            lists = [self.best(code, among, deep) for code in codes]
            images = np.unique(np.concatenate([found.images for found in lists]))
            scores, top = (
                np.zeros(len(images)),
                Found(
                    images * REGIONS,
                    np.full(len(images), -np.inf, np.float32),
                    np.full((len(images), 4), np.nan, np.float32),
                ),
            )
            for code, found in zip(codes, lists, strict=True):
                rest = np.setdiff1d(images, found.images)
                own = found.with_those(self.best(code, Among(rest, only=True), len(rest)))
                at = np.searchsorted(images, own.images)
                scores[at] += own.scores
                better = own.scores > top.scores[at]
                for kept, new in zip(top, own, strict=True):
                    kept[at[better]] = new[better]
            result = top._replace(scores=scores.astype(np.float32)).ranked(1)
            bound = sum(float(found.scores[-1]) for found in lists if len(found.ids))
            spent = any(len(found.ids) < deep for found in lists)
            if spent or (len(images) >= k and result.scores[k - 1] > bound):
                return result.some(slice(k))
            deep *= 4


def _limit(k: int) -> int:
    """How many entities to ask for: more than k images, as one may have several."""
    return min(MOST, max(2 * k, SOME))


def _found(hits: Sequence[Mapping[str, Any]]) -> Found:
    boxes = [[hit["entity"][side] for side in BOX] for hit in hits]
    return Found(
        np.array([hit["id"] for hit in hits], np.int64),
        np.array([hit["distance"] for hit in hits], np.float32),
        np.array(boxes, np.float32).reshape(-1, 4),
    )
