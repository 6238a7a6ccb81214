"""Asking an index: a picture and a box become codes, codes become hits, rerankers make them better."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from instsearch_cli.data import FeatureMap, Hits, Query, SparseVectors
from instsearch_cli.engine.collection import Collection
from instsearch_cli.engine.describe import Described, DescribedQuery, Picture, noted
from instsearch_cli.engine.drift import FITTED
from instsearch_cli.engine.kept import Kept
from instsearch_cli.engine.records import recorded
from instsearch_cli.engine.sound_hits import fault
from instsearch_cli.engine.stages import CODES, FEATURES, SEARCH
from instsearch_cli.engine.tensors import answering
from instsearch_cli.errors import InstsearchError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from instsearch_cli.data import Box, Codes, Features, Image
    from instsearch_cli.engine.assembly import Assembly, Part
    from instsearch_cli.images import Photograph
    from instsearch_formats import Index

PICTURES = 32  #: queries kept, of some 4 MB, one of each picture asked with last: it may be asked with again


@dataclass
class Timing:
    """Seconds spent on each step, summed over queries."""

    encode: float = 0.0
    search: float = 0.0
    rerank: float = 0.0
    again: float = 0.0  #: of ``rerank``: while rerankers searched once more


class Engine:
    """A searchable index, opened. Reads only: a read-only index will do.

    Raises InstsearchError if the index lacks what the pipeline needs, or if its weights are not the ones
    at hand.
    """

    def __init__(self, index: Index, assembly: Assembly, within: np.ndarray | None = None) -> None:
        self.index, self.assembly = index, assembly
        self.data = Collection(index, assembly)
        self.data.caching = True
        self.within = None if within is None else set(np.asarray(within).tolist())
        self.timing = Timing()
        self.caution = ""  #: what one should know about every answer
        self._pictures: Kept[Photograph, Query] = Kept(PICTURES)
        self._load_models()
        self.segments: list[tuple[Collection, Any]] = []
        self.refresh()

    def _load_models(self) -> None:
        self.learnt: list[str] = []  #: the layers of components that learnt something
        for kind in self.assembly.learnt:
            part = self.assembly.part(kind)
            identity = self.assembly.model_identity(kind)
            found = self.index.read_model(part.name, identity, part.component.learns)
            if found is None:
                raise InstsearchError(self._why_not(f"no fitted model of {part}"))
            part.component.load(found[0])
            self.learnt += [kind] if found[0].keys() - FITTED.keys() else []

    def _why_not(self, what: str) -> str:
        """Explain a missing layer: other weights, or a run that has not ended."""
        mine = self.assembly.extractor.facts.get("weights")
        for record in recorded(self.index):
            theirs = record.facts.get("weights")
            if mine and theirs and mine != theirs:
                return (
                    f"{self.index.path} was built with network weights of sha256 {theirs[:12]}…, these are "
                    f"{mine[:12]}…\nGive the right file with --weights, or index again."
                )
        return f"{self.index.path} has {what} for this pipeline.\nRun `instsearch index --index {self.index.path}`."

    def refresh(self) -> None:
        """Take in what another process has done to the index since: what is searched, and which images there are."""
        self._moment = self._now()
        self.data.refresh()
        part = self.assembly.part(SEARCH)
        if not part.fits:
            self.segments = [(self.data, part.component)]
            codes = self.data.layer(CODES).ranges()
            self._hide(codes[-1].stop if codes else 0)
            return
        layer = self.data.layer(SEARCH)
        cover = layer.cover(len(self.index.images))
        if not cover:
            raise InstsearchError(self._why_not("no search structure"))
        there = {data.span: (data, component) for data, component in self.segments}
        segments = []
        for span in cover:
            if span in there:
                layer.check_length(span)
            else:
                component = part.anew()
                component.load(layer.arrays(span, component.learns))
                there[span] = (self.data.segment(span), component)
            segments.append(there[span])
        self.segments = segments
        self._hide(cover[-1].stop)

    def _now(self) -> tuple[Any, ...]:
        return self.index.images.state, self.index.images.replacement()

    @property
    def state(self) -> tuple[Any, ...]:
        """Of the index as it is searched: what :meth:`refresh` found."""
        return self._moment

    @property
    def current(self) -> bool:
        """Whether nothing became of any image since :meth:`refresh`: an answer is then of one state of the index."""
        return self._moment == self._now()

    def _hide(self, reach: int) -> None:
        """Leave out one of the two rows of each file that a run is replacing: answers are of before or of after."""
        hidden = self.index.images.hidden(reach)
        for data in (self.data, *(data for data, _ in self.segments)):
            data.hidden = hidden

    @property
    def paths(self) -> tuple[Path, ...]:
        """The folders of the indexes that it searches."""
        return (self.index.path,)

    @property
    def unsearchable(self) -> int:
        """Images that have a row but are not in the search structure yet."""
        reach = sum(len(data.images) for data, _ in self.segments)
        return len(self.data.images) - reach

    @property
    def min_score(self) -> float | None:
        """The score that a hit must have, where the last reranker says so; None: any will do."""
        last = self.assembly.rerankers[-1:]
        return last[0].component.min_score if last else None

    @property
    def probabilities(self) -> bool:
        """Whether the scores of hits are probabilities that these show the object."""
        last = self.assembly.rerankers[-1:]
        return bool(last) and last[0].component.probabilities

    def cautions(self, query: Query) -> list[str]:
        """What the rerankers have to say of a query beforehand."""
        said = (part.component.caution(query, part.name) for part in self.assembly.rerankers)
        return [text for text in [self.caution, *said] if text]

    # -- queries --------------------------------------------------------------------------------------

    def query(
        self, id: str, picture: Photograph, box: Box | None, exclude: frozenset[int] = frozenset()
    ) -> Query:
        """Encode a picture. ``box`` is already clipped to it. Raises InstsearchError if it selects nothing."""
        before = self._pictures.get(picture)
        image = before.image if before else picture.read(self.assembly.extractor.component.fit_size)
        crop = None
        if box is not None and self.assembly.pipeline.query.crop:
            crop = self._closer(picture, box)
        query = self.encode(id, image, box, exclude, crop, before)
        self._pictures.put(picture, query)
        return query

    @answering()
    def encode(
        self,
        id: str,
        image: Image,
        box: Box | None,
        exclude: frozenset[int] = frozenset(),
        crop: Image | None = None,
        before: Query | None = None,
    ) -> Query:
        """Encode a decoded picture; ``crop``, what is in its box, has the code if it is given.

        ``before`` is a query of the same picture with another box: what does not depend on that is taken over.
        """
        began = time.perf_counter()
        described = DescribedQuery(self.assembly, image, box)
        if before is not None:
            described.take(FEATURES, before.features)
        features = described.features
        local = described.embedded() if before is None else before.local
        weights = described.weighed()
        if crop is None:
            codes = described.encoded(local, weights)
        else:
            closer = DescribedQuery(self.assembly, crop, None)
            codes = closer.encoded(closer.embedded(), closer.weighed())
        if _empty(codes):
            raise InstsearchError(f"query '{id}': {self._why_empty(box, features)}")
        self.timing.encode += time.perf_counter() - began
        return Query(id, image, box, features, local, codes, exclude, weights=weights)

    def _closer(self, picture: Photograph, box: Box) -> Image:
        """What is in a box, at the size at which a picture of its size would be read."""
        fit = self.assembly.extractor.component.fit_size
        w, h = max(round(box[2] - box[0]), 1), max(round(box[3] - box[1]), 1)
        r = min(1.0, max(a / b for a, b in zip(fit(w, h), (w, h), strict=True)))
        whole = picture.read(lambda W, H: (max(round(W * r), 1), max(round(H * r), 1)))
        return whole.cropped(box)

    def describe(self, picture: Photograph) -> Described:
        """Every layer of a picture, in or out of the collection, as the collection's are."""
        return Described(self.assembly, Picture(picture.read(self.assembly.extractor.component.fit_size)))

    def search(self, queries: Sequence[Query], k: int, evidence: bool = False) -> Hits:
        """Rank the collection for each query, then rerank as the pipeline says. One row of k hits each.

        With ``evidence`` their scores are what the last reranker makes its scores of (``Reranker.evidence``).
        Raises UsageError where a query wants several hits of an image (``per_image``) and cannot have them.
        """
        *_, (_, hits) = self.steps(queries, k, evidence)
        return hits

    def steps(self, queries: Sequence[Query], k: int, evidence: bool = False) -> Iterator[tuple[str, Hits]]:
        """As :meth:`search`, but the hits as they come: the searcher's, then each reranker's, by its name."""
        began = time.perf_counter()
        rerankers = self.assembly.rerankers
        if any(query.per_image != 1 for query in queries):
            self._check_lists_regions()
        deepest = max([k, *(part.component.depth for part in rerankers)])
        queries = [self._restricted(q) for q in queries]
        hits = self._first(queries, deepest)
        self.timing.search += time.perf_counter() - began
        yield self.assembly.part(SEARCH).name, _cut(hits, k)
        for part in rerankers:
            began = time.perf_counter()
            last = evidence and part is rerankers[-1]
            rerank = part.component.evidence if last else part.component.rerank
            with answering(), noted(part, [query.id for query in queries], "query"):
                hits = self._sound(part, rerank(queries, hits, self.data, self._again(queries)), queries)
            self.timing.rerank += time.perf_counter() - began
            yield part.name, _cut(hits, k)

    def _sound(self, part: Part, hits: Hits, queries: Sequence[Query]) -> Hits:
        """Hits that are as they have to be. Raises InstsearchError that names who gave others."""
        wrong = fault(hits, queries, self.data.images)
        if wrong and self.current:  # else an image may have been removed meanwhile
            raise InstsearchError(f"{part} {wrong}: that is a bug of the plugin")
        return hits

    def _check_lists_regions(self) -> None:
        part = self.assembly.part(SEARCH)
        if not part.component.lists_regions:
            raise UsageError(
                f"searcher '{part.name}' ranks whole images: with more than one hit an image (--per-image) take "
                f"searcher {' or '.join(self._listing())}"
            )
        once = [part.name for part in self.assembly.rerankers if not part.component.several]
        if once:
            raise UsageError(
                f"reranker '{once[0]}' takes one hit an image: with more (--per-image) add --rerank none"
            )

    def _listing(self) -> list[str]:
        """The searchers that list regions, of those that encodings of codes go to by default."""
        offers = self.assembly.registry.offers[self.assembly.part(SEARCH).stage]
        usual = [name for name, offer in offers.items() if offer.spec.default_for]
        return sorted(name for name in usual if offers[name].load().lists_regions)

    def _restricted(self, query: Query) -> Query:
        """Exclude what lies outside ``within`` too."""
        if self.within is None:
            return query
        outside = set(self.data.images.tolist()) - self.within
        return replace(query, exclude=query.exclude | outside) if outside else query

    def _first(self, queries: Sequence[Query], k: int) -> Hits:
        part = self.assembly.part(SEARCH)
        with answering(), noted(part, [query.id for query in queries], "query"):
            found = [
                self._sound(part, component.search(queries, data, k), queries)
                for data, component in self.segments
            ]
        hits = found[0] if len(found) == 1 else merge(found, k)
        detected = self.assembly.detector is not None and self.data.encoder.localises
        located = detected or part.component.locates
        if not located:  # a code of the whole picture says nothing of where the object is
            hits = replace(hits, boxes=np.full_like(hits.boxes, np.nan))
        return hits

    def _again(self, queries: Sequence[Query]) -> Callable[[Sequence[Codes | Query], int], Hits]:
        def search(sought: Sequence[Codes | Query], k: int) -> Hits:
            began = time.perf_counter()
            hits = once_more(sought, k)
            self.timing.again += time.perf_counter() - began
            return hits

        def once_more(sought: Sequence[Codes | Query], k: int) -> Hits:
            whole = [query for query in sought if isinstance(query, Query)]  # which may be of some of them
            if len(whole) == len(sought):
                return self._first(whole, k)
            pairs = zip(queries, sought, strict=True)
            return self._first([a if isinstance(a, Query) else replace(q, codes=a) for q, a in pairs], k)

        return search

    def _why_empty(self, box: Box | None, features: Features) -> str:
        """Why nothing describes a query, and what would help."""
        where = "picture" if box is None else "box"
        if isinstance(features, FeatureMap):
            return f"no features in the {where}, it is blank. Take another {where}, or an index of another network."
        there, inside = len(features.geometry), features.within(box)
        if inside:
            return (
                f"the weighting leaves out every keypoint in the {where} ({inside:,}). Take another {where}, or ask "
                "with --no-weigh-query."
            )
        network = self.assembly.registry.default(self.assembly.extractor.stage, "maps")
        remedy = f"an index made with a network (--extractor {network})"
        if box is None or not there:
            return (
                f"no keypoints in the picture. Take a sharper picture or one with more texture, or {remedy}."
            )
        return (
            f"no keypoints in the box, {there:,} in the whole picture. Take a larger box or one with more texture, "
            f"or {remedy}."
        )


def _cut(hits: Hits, k: int) -> Hits:
    return Hits(hits.images[:, :k], hits.scores[:, :k], hits.boxes[:, :k])


def _empty(codes: Codes) -> bool:
    return len(codes.data) == 0 if isinstance(codes, SparseVectors) else not bool(codes.vectors.any())


def merge(found: Sequence[Hits], k: int) -> Hits:
    """The best k of several segments' hits, ties by row."""
    images = np.concatenate([h.images for h in found], axis=1)
    scores = np.concatenate([h.scores for h in found], axis=1)
    boxes = np.concatenate([h.boxes for h in found], axis=1)
    rows = np.where(images < 0, np.iinfo(np.int64).max, images)
    order = np.lexsort((rows, -scores), axis=1)[:, :k]
    return Hits(
        np.take_along_axis(images, order, 1),
        np.take_along_axis(scores, order, 1),
        np.take_along_axis(boxes, order[..., None], 1),
    )
