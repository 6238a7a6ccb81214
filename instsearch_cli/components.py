"""The protocols of the components: what a plugin author writes.

Every component has a nested frozen dataclass ``Config`` (its options, each with a default and a ``#:``
comment) and a constructor ``(config, device)`` that does nothing heavy. It may have

    fit(data, progress) -> State   called once; the runner stores the result and hands it to ``load``
    load(state)                    named arrays, as ``fit`` returned them; memory-mapped for searchers
    identity() -> dict             facts beside the options that decide its output (sha256 of weights)
    explain(inputs) -> Sequence[Drawing]  how it came to what it made of one picture, for `instsearch show`;
                                   inputs has every layer of the picture, its own too, and no row
    concurrent: bool               its methods may run in several threads at once (then images are worked on
                                   side by side on the CPU); what it builds lazily is behind a lock
    weigh_many, detect_many        as ``weigh`` and ``detect``, of a list of Inputs at once, one result each in
                                   their order: called where images come in batches, on a GPU say

A ``Config`` field made by :func:`option` says which layer its value first touches, so that changing
it remakes no layer to the left of that one.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np

    from instsearch_cli.data import (
        Box,
        BoxWeight,
        Codes,
        Features,
        Hits,
        Image,
        Inputs,
        Local,
        Query,
        Regions,
        WeightMap,
    )

State = dict[str, Any]
"""Named arrays: torch tensors or numpy arrays going out of ``fit``, numpy arrays coming into ``load``."""

STAGES = ("model", "local", "codes", "search", "query")


def option(default: Any, touches: str, **metadata: Any) -> Any:
    """A ``Config`` field whose value first matters for the layer ``touches`` (one of STAGES).

    An option without it is taken to matter from the start ("model"). ``touches="query"`` remakes nothing.
    """
    if touches not in STAGES:
        raise ValueError(f"touches is one of {STAGES}, not {touches!r}")
    return dataclasses.field(default=default, metadata={"touches": touches, **metadata})


class Progress(Protocol):
    """Says how far a long piece of work is."""

    def start(self, label: str, total: int | None = None, unit: str = "images") -> None: ...
    def advance(self, n: int = 1) -> None: ...


class Data(Protocol):
    """Read-only view of the collection. It never shows relevance judgements."""

    images: np.ndarray
    """i64[n]: the live rows in reach, ascending. Removed images are not among them."""

    span: range
    """All rows in reach, removed ones included: what a searcher's segment covers."""

    encoder: Encoder

    weighter: Weighter | None
    """The pipeline's; None where it has none."""

    def read(self, kind: str, row: int) -> Any:
        """One image's item of a layer (features, regions, weights, local, codes): the types of data.py."""
        ...

    def inputs(self, kinds: Sequence[str], rows: Iterable[int] | None = None) -> Iterator[Inputs]:
        """Stream images with these layers, in the given order; bounded memory."""
        ...

    def blocks(self, kind: str, span: range | None = None) -> Iterator[Mapping[str, Any]]:
        """Stream a layer's stored arrays over ``span``, which is the whole one by default, part by part.

        Each block holds the encoding's datasets (formats/SPEC.md) plus "start" and "stop", its rows.
        Removed images are still in it: mind ``images``.
        """
        ...

    def scratch(self) -> Path:
        """A folder on the index's disk for temporary files; emptied after ``fit``."""
        ...

    def cache(self) -> Path | None:
        """A folder on the index's disk for what a searcher can make again from the layers that it reads.

        It is kept until one of these layers, or an option of the searcher that decides them, is another.
        None where the index cannot be written.
        """
        ...


@runtime_checkable
class Extractor(Protocol):
    """Image -> local features."""

    encoding: ClassVar[str]  #: "dense-map", "pyramid" or "keypoints"
    batch: int  #: how many images to hand over at once (of equal shape, for maps); 1 where it gains nothing

    def fit_size(self, width: int, height: int) -> tuple[int, int]:
        """The size (width, height) at which a picture of the given size is to be read."""
        ...

    def extract(self, images: Sequence[Image]) -> Sequence[Features]:
        """Local features of some images, one item each, on the component's device."""
        ...


@runtime_checkable
class Weighter(Protocol):
    """Image or features -> non-negative weights.

    It may have ``weigh_query(inputs, crop) -> WeightMap``, where a query cannot do without weights of its own,
    which are over the whole picture: ``inputs`` has it and its features, ``crop()`` returns the features of what
    is in the query's box, extracted as a picture by itself (those of the whole picture without a box). Where it
    makes several maps of a picture, ``maps`` says about how many.
    """

    def weigh(self, inputs: Inputs) -> WeightMap: ...


@runtime_checkable
class Detector(Protocol):
    """Features or weights -> regions."""

    def detect(self, inputs: Inputs) -> Regions: ...


@runtime_checkable
class Encoder(Protocol):
    """Local features, weights and regions -> codes.

    It may have

        embed_query(features)              where a query is embedded in another way than the collection
        aggregate_query(local, weights)    where a query is described in another way than its box as one
                                           region, which is ``aggregate(local, weights, None)``
        localises: bool                    False where a code describes the picture as a whole whatever its
                                           regions: hits then have no boxes
        query_regions: bool                True where a query is described by the regions that the pipeline's
                                           detector finds in its box: ``aggregate(local, weights, regions)``
    """

    local: ClassVar[str | None]  #: encoding of ``embed``'s result; None: the features as they are
    codes: ClassVar[str]  #: "csr" or "vectors"
    fit_needs: ClassVar[tuple[str, ...]]  #: the layers that ``fit`` reads

    def embed(self, features: Features) -> Local: ...

    def aggregate(
        self, local: Local, weights: WeightMap | BoxWeight | None, regions: Regions | None
    ) -> Codes: ...


@runtime_checkable
class Searcher(Protocol):
    """Codes -> hits. One instance serves one segment, a contiguous range of rows (``data.span``).

    It may have ``lists_regions``: True where it heeds ``Query.per_image``; ``locates``: True where its boxes are
    no regions', so that they hold without a detector.
    """

    accepts: ClassVar[tuple[str, ...]]  #: among "csr" and "vectors"

    def search(self, queries: Sequence[Query], data: Data, k: int) -> Hits:
        """Best k images of ``data.images`` less each query's ``exclude``; ties by row; rows are global."""
        ...


@runtime_checkable
class Reranker(Protocol):
    """Hits -> better hits. ``search`` asks again, with other codes or another query for each, for k hits each."""

    def rerank(
        self,
        queries: Sequence[Query],
        hits: Hits,
        data: Data,
        search: Callable[[Sequence[Codes | Query], int], Hits],
    ) -> Hits: ...


@dataclasses.dataclass(frozen=True)
class ImageRef:
    """An image of a dataset: its name there and where it lies."""

    name: str
    path: Path


@dataclasses.dataclass(frozen=True)
class QueryRef:
    """A query of a dataset."""

    id: str
    image: Path
    box: Box | None


@dataclasses.dataclass(frozen=True)
class Relevance:
    """Names of the images that a query should find, that do not count, and that are not there for it."""

    good: frozenset[str]
    ok: frozenset[str] = frozenset()
    junk: frozenset[str] = frozenset()
    exclude: frozenset[str] = frozenset()


@runtime_checkable
class Dataset(Protocol):
    """Images, queries, and what is relevant. Its constructor takes ``(config, root)``. It may have

    average_precision: str     how it is taken, "plain" or "trapezoid" (metrics.py); plain without it
    settings: tuple[str, ...]  several judgements of one ranking: ``relevance(query, setting)`` gives each,
                               ``relevance(query)`` the main one; a query without positives in a setting
                               is left out of its mean
    tops: tuple[int, ...]      the k of the mAP@k that are reported beside mAP
    source: str                where the images come from, for those who lack them
    size: int                  how many images there should be, where ``images`` cannot name all
    boxes_of(query, name)      annotated boxes of the query's object in an image, in place of ``boxes``
    """

    name: str
    protocol: str  #: one line for people: how average precision is taken, what is junk

    def images(self) -> Sequence[ImageRef]: ...
    def queries(self) -> Sequence[QueryRef]: ...
    def relevance(self, query: QueryRef) -> Relevance: ...
    def boxes(self) -> Mapping[str, Sequence[Box]]:
        """Annotated boxes of the object, by image name; empty where there are none."""
        ...
