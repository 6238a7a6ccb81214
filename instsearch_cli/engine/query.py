"""Asking an index: a picture and a box become codes, codes become hits, rerankers make them better."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from instsearch_cli.data import BoxWeight, FeatureMap, Hits, Inputs, Query, Regions, SparseVectors
from instsearch_cli.engine.collection import Collection, describe
from instsearch_cli.engine.records import recorded
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.images import read_image
from instsearch_cli.storage import as_stored

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from instsearch_cli.data import Box, Codes, Drawing, Features, Image, Keypoints, WeightMap
    from instsearch_cli.engine.assembly import Assembly
    from instsearch_formats import Index


@dataclass
class Timing:
    """Seconds spent on each step, summed over queries."""

    encode: float = 0.0
    search: float = 0.0
    rerank: float = 0.0


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
        self._load_models()
        self.segments = self._open_segments()

    def _load_models(self) -> None:
        assembly = self.assembly
        for kind in [k for k in ("weights", "regions") if k in assembly.kinds] + ["codes"]:
            part = assembly.part(kind)
            if part.fits:
                identity = assembly.model_identity(kind)
                found = self.index.read_model(part.offer.spec.name, identity)
                if found is None:
                    raise InstsearchError(self._why_not(f"no fitted model of {describe(part)}"))
                part.component.load(found[0])

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

    def _open_segments(self) -> list[tuple[Collection, Any]]:
        part = self.assembly.part("search")
        if not part.fits:
            return [(self.data, part.component)]
        layer = self.data.layer("search")
        cover = layer.cover(len(self.index.images))
        if not cover:
            raise InstsearchError(self._why_not("no search structure"))
        segments = []
        for span in cover:
            component = type(part.component)(part.config, self.assembly.device)
            component.load(layer.arrays(span))
            segments.append((self.data.segment(span), component))
        return segments

    @property
    def unsearchable(self) -> int:
        """Images that have a row but are not in the search structure yet."""
        reach = sum(len(data.images) for data, _ in self.segments)
        return len(self.data.images) - reach

    @property
    def min_score(self) -> float | None:
        """The score that a hit must have, where the last reranker has a ``min_score``; None: any will do."""
        last = self.assembly.rerankers[-1:]
        return (getattr(last[0].config, "min_score", 0.0) if last else 0.0) or None

    # -- queries --------------------------------------------------------------------------------------

    def query(self, id: str, path: Path, box: Box | None, exclude: frozenset[int] = frozenset()) -> Query:
        """Encode a picture. ``box`` is already clipped to it. Raises InstsearchError if it selects nothing."""
        image = read_image(path, self.assembly.extractor.component.fit_size, name=str(path))
        apart = box is not None and self.assembly.pipeline.crop_query
        return self.encode(id, image, box, exclude, self._closer(path, box) if apart else None)  # type: ignore[arg-type]

    def encode(
        self,
        id: str,
        image: Image,
        box: Box | None,
        exclude: frozenset[int] = frozenset(),
        crop: Image | None = None,
    ) -> Query:
        """Encode a decoded picture; ``crop``, what is in its box, has the code if it is given."""
        began = time.perf_counter()
        extract = self.assembly.extractor.component.extract
        with torch.inference_mode():
            features = as_stored(extract([image])[0])
            local, weights, codes = self._described(image, features, box)
            if crop is not None:
                codes = self._described(crop, as_stored(extract([crop])[0]), None)[2]
        if _empty(codes):
            raise InstsearchError(f"query '{id}': {_why_empty(box, features)}")
        self.timing.encode += time.perf_counter() - began
        return Query(id, image, box, features, local, codes, exclude, weights=weights)

    def _described(
        self, image: Image, features: Features, box: Box | None
    ) -> tuple[Features, WeightMap | None, Codes]:
        """What the encoder makes of the features in a box: local features, weights, codes."""
        encoder = self.data.encoder
        local = features
        if encoder.local is not None:
            local = (getattr(encoder, "embed_query", None) or encoder.embed)(features)
        weights = self._weights(image, features, box)
        within = weights if box is None else BoxWeight(box, weights)
        asked = getattr(encoder, "aggregate_query", None)
        if getattr(encoder, "query_regions", False) and self.assembly.detector is not None:
            return local, weights, encoder.aggregate(local, within, self._regions(image, features, box))
        return local, weights, asked(local, within) if asked else encoder.aggregate(local, within, None)

    def _closer(self, path: Path, box: Box) -> Image:
        """What is in a box, at the size at which a picture of its size would be read."""
        fit = self.assembly.extractor.component.fit_size
        w, h = max(round(box[2] - box[0]), 1), max(round(box[3] - box[1]), 1)
        r = min(1.0, max(a / b for a, b in zip(fit(w, h), (w, h), strict=True)))
        whole = read_image(path, lambda W, H: (max(round(W * r), 1), max(round(H * r), 1)), name=str(path))
        return whole.cropped(box)

    def _weights(self, image: Image, features: Features, box: Box | None) -> WeightMap | None:
        """The weighting's map of a query, where there is to be one, with the regions that it may need."""
        kinds = self.assembly.kinds
        if "weights" not in kinds:
            return None
        before = kinds[: kinds.index("weights")]
        apart = getattr(self.assembly.part("weights").component, "weigh_query", None)
        if apart is not None:
            got = self._made(image, features, before)
            inputs = Inputs(size=image.size, name=image.name, grid=features.grid, **got)
            return apart(inputs, partial(self._cropped, image, features, box))  # type: ignore[no-any-return]
        if not self.assembly.pipeline.weigh_query:
            return None
        weights: WeightMap = self._made(image, features, [*before, "weights"])["weights"]
        return weights

    def _cropped(self, image: Image, features: Features, box: Box | None) -> Features:
        """The features of what is in the box, as a picture by itself."""
        if box is None:
            return features
        return as_stored(self.assembly.extractor.component.extract([image.cropped(box)])[0])

    def _regions(self, image: Image, features: Features, box: Box | None) -> Regions:
        """The detector's regions of a query, in its box."""
        kinds = self.assembly.kinds
        found: Regions = self._made(image, features, kinds[: kinds.index("regions") + 1])["regions"]
        return found if box is None else regions_in(found, box)

    def _made(self, image: Image, features: Features, kinds: Sequence[str]) -> dict[str, Any]:
        """Layers of a picture, in the order in which the pipeline makes them."""
        got: dict[str, Any] = {"image": image, "features": features}
        for kind in kinds:
            got[kind] = self.data.compute(
                kind, Inputs(size=image.size, name=image.name, grid=features.grid, **got)
            )
        return got

    def stages(self, path: Path) -> tuple[dict[str, Any], dict[str, list[Drawing]]]:
        """Every layer of one picture, in or out of the collection: kind -> data type; and what there is to show.

        The drawings are those of the components that explain themselves, by the layer that each makes.
        """
        part = self.assembly.extractor
        image = read_image(path, part.component.fit_size, name=str(path))
        with torch.inference_mode():
            features = as_stored(part.component.extract([image])[0])
            got = self._made(image, features, self.assembly.kinds)
            inputs = Inputs(size=image.size, name=image.name, grid=features.grid, **got)
            drawings = {}
            for kind in ("features", *self.assembly.kinds):
                explain = getattr(self.assembly.part(kind).component, "explain", None)
                if explain is not None and kind != "local":  # of an encoder, beside its codes
                    drawings[kind] = list(explain(inputs))
        return {kind: got[kind] for kind in ("features", *self.assembly.kinds)}, drawings

    def search(self, queries: Sequence[Query], k: int) -> Hits:
        """Rank the collection for each query, then rerank as the pipeline says. One row of k hits each.

        Raises UsageError where a query wants several hits of an image (``per_image``) and cannot have them.
        """
        began = time.perf_counter()
        rerankers = self.assembly.rerankers
        if any(query.per_image != 1 for query in queries):
            self._check_lists_regions()
        deepest = max([k, *(getattr(r.config, "depth", 0) for r in rerankers)])
        queries = [self._restricted(q) for q in queries]
        hits = self._first(queries, deepest)
        middle = time.perf_counter()
        self.timing.search += middle - began
        for part in rerankers:
            with torch.inference_mode():
                hits = part.component.rerank(queries, hits, self.data, self._again(queries))
        self.timing.rerank += time.perf_counter() - middle
        return Hits(hits.images[:, :k], hits.scores[:, :k], hits.boxes[:, :k])

    def _check_lists_regions(self) -> None:
        part = self.assembly.part("search")
        if not getattr(part.component, "lists_regions", False):
            raise UsageError(
                f"searcher '{part.offer.spec.name}' ranks whole images: with more than one hit an image "
                "(--per-image) take searcher faiss or inverted"
            )
        if self.assembly.rerankers:
            raise UsageError(
                f"reranker '{self.assembly.rerankers[0].offer.spec.name}' takes one hit an image: with more "
                "(--per-image) add --rerank none"
            )

    def _restricted(self, query: Query) -> Query:
        """Exclude what lies outside ``within`` too."""
        if self.within is None:
            return query
        outside = set(self.data.images.tolist()) - self.within
        return replace(query, exclude=query.exclude | outside) if outside else query

    def _first(self, queries: Sequence[Query], k: int) -> Hits:
        with torch.inference_mode():
            found = [component.search(queries, data, k) for data, component in self.segments]
        hits = found[0] if len(found) == 1 else merge(found, k)
        own = getattr(self.assembly.part("search").component, "locates", False)
        detected = self.assembly.detector is not None and getattr(self.data.encoder, "localises", True)
        if not (own or detected):  # a code of the whole picture says nothing of where the object is
            hits = replace(hits, boxes=np.full_like(hits.boxes, np.nan))
        return hits

    def _again(self, queries: Sequence[Query]) -> Callable[[Sequence[Codes | Query], int], Hits]:
        def search(asked: Sequence[Codes | Query], k: int) -> Hits:
            pairs = zip(queries, asked, strict=True)
            return self._first([a if isinstance(a, Query) else replace(q, codes=a) for q, a in pairs], k)

        return search


def _empty(codes: Codes) -> bool:
    return len(codes.data) == 0 if isinstance(codes, SparseVectors) else not bool(codes.vectors.any())


def _why_empty(box: Box | None, features: Features) -> str:
    """Why nothing describes a query, and what would help."""
    where = "picture" if box is None else "box"
    if isinstance(features, FeatureMap):
        return (
            f"no features in the {where}, it is blank. Take another {where}, or an index of another network."
        )
    there, inside = len(features.geometry), keypoints_in(box, features)
    if inside:
        return (
            f"the weighting leaves out every keypoint in the {where} ({inside:,}). Take another {where}, or ask "
            "with --no-weigh-query."
        )
    network = "an index made with a network (--extractor squeezenet1_0)"
    if box is None or not there:
        return f"no keypoints in the picture. Take a sharper picture or one with more texture, or {network}."
    return (
        f"no keypoints in the box, {there:,} in the whole picture. Take a larger box or one with more texture, "
        f"or {network}."
    )


def keypoints_in(box: Box | None, features: Keypoints) -> int:
    """How many keypoints a query has."""
    return len(features.geometry) if box is None else int(BoxWeight(box).over(features).sum())


def regions_in(regions: Regions, box: Box) -> Regions:
    """The regions whose centre is in a box, cut to it; if there is none, the box, with score 1."""
    low, high = regions.boxes.new_tensor([box[:2], box[2:]])
    centres = (regions.boxes[:, :2] + regions.boxes[:, 2:]) / 2
    inside = ((centres >= low) & (centres < high)).all(1)
    if not inside.any():
        return Regions(torch.tensor([box]), torch.ones(1))
    cut = torch.minimum(torch.maximum(regions.boxes[inside], low.repeat(2)), high.repeat(2))
    return Regions(cut, regions.scores[inside])


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
