"""The base classes of the components: what a plugin author writes, and what there is to override.

Every component has a nested frozen dataclass ``Config`` (its options, each with a default and a ``#:`` comment) and
a constructor ``(config, device)`` that does nothing heavy. All that the program asks of it is a method or an attribute
of its base class here, with a default where it may be left out. A ``Config`` field made by :func:`option` says which
layer its value first touches, the first ("model") without it: changing it remakes none before.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    import torch

    from instsearch_cli.data import (
        Beside,
        Box,
        BoxWeight,
        Codes,
        Drawing,
        Features,
        Hits,
        Image,
        Inputs,
        Local,
        Query,
        Regions,
        WeightMap,
    )
    from instsearch_formats import Array

    Search = Callable[[Sequence[Codes | Query], int], Hits]

State = dict[str, Any]  #: named arrays: torch's or numpy's going out of ``fit``, numpy's coming into ``load``

STAGES = ("model", "local", "codes", "search", "query")


def option(
    default: Any,
    touches: str = STAGES[0],
    *,
    digested: bool = False,
    omitted_at_default: bool = False,
    only_with: str = "",
    **metadata: Any,
) -> Any:
    """A ``Config`` field whose value first matters for the layer ``touches``, one of STAGES; "query" remakes nothing.

    digested            it names a file or a folder, kept as an absolute path, whose digest ``identity()`` has
    omitted_at_default  younger than the component: a layer's identity names it only where it is not at its default
    only_with           likewise, but named exactly where that other option is
    """
    if touches not in STAGES:
        raise ValueError(f"touches is one of {STAGES}, not {touches!r}")
    late = bool(omitted_at_default or only_with)
    decides = {"touches": touches, "digested": digested, "late": late, "only_with": only_with}
    return dataclasses.field(default=default, metadata={**decides, **metadata})


def own(method: Callable[..., Any], default: Callable[..., Any]) -> bool:
    """Whether a component's method is another than its base class's."""
    return getattr(method, "__func__", method) is not default


class Progress(Protocol):
    """Says how far a long piece of work is: ``start`` begins one, ``advance`` says that n more units of it are done."""

    def start(self, label: str, total: int | None = None, unit: str = "images") -> None: ...
    def advance(self, n: int = 1) -> None: ...


class Data(Protocol):
    """Read-only view of the collection. It never shows relevance judgements."""

    images: np.ndarray  #: i64[n]: the live rows in reach, ascending; removed images are not among them
    span: range  #: all rows in reach, removed ones included: what a searcher's segment covers
    encoder: Encoder
    weighter: Weighter | None  #: the pipeline's; None where it has none

    def read(self, kind: str, row: int) -> Any:
        """One image's item of a layer (features, regions, weights, local, codes): the types of data.py."""

    def inputs(self, kinds: Sequence[str], rows: Iterable[int] | None = None) -> Iterator[Inputs]:
        """Stream images with these layers, in the given order; bounded memory."""
        ...

    def named(self) -> dict[str, int]:
        """The rows of the images in reach by what each is called: as in hits, and by its path where no other has it."""
        ...

    def blocks(self, kind: str, span: range | None = None) -> Iterator[Mapping[str, Any]]:
        """Stream a layer's stored arrays over ``span``, which is the whole one by default, part by part.

        Each block holds the encoding's datasets (formats/SPEC.md), those of removed images too, and "start" and "stop".
        """
        ...

    def scratch(self) -> Path:
        """A folder on the index's disk for temporary files; emptied after ``fit``."""
        ...

    def cache(self) -> Path | None:
        """A folder on its disk for what a searcher can make again, as long as what it reads stays; None: no writing."""


class Component:
    """What all components but datasets have.

    concurrent  its methods may run in several threads at once, an image in each; lazy building is behind a lock
    on_device   False: it computes with numpy alone, and is given None for a device
    refits      options, "name=value", that `--refit` sets: those with which it learns
    learns      the named arrays that ``fit`` returns, as they must be before ``load`` gets them out of a file
    fit_needs   the layers that ``fit`` reads; None: those that its spec's ``needs`` has
    architecture, published  of a network: its name (NAME.pth is its file), what to fetch ("": torchvision has it)
    """

    concurrent: bool = False
    on_device: ClassVar[bool] = True
    refits: ClassVar[tuple[str, ...]] = ()
    learns: ClassVar[dict[str, Array]] = {}
    by_name: ClassVar[bool] = False  #: what it makes depends on images' names: renamed, they are made anew
    fit_needs: ClassVar[tuple[str, ...] | None] = None
    architecture: ClassVar[str] = ""
    published: ClassVar[str] = ""

    @dataclasses.dataclass(frozen=True)
    class Config:
        """Its options."""

    def __init__(self, config: Any, device: torch.device) -> None:
        self.config, self.device = config, device

    def identity(self) -> dict[str, Any]:
        """Facts beside the options that decide its output: sha256 of weights."""
        return {}

    def fit(self, data: Data, progress: Progress) -> State:
        """What it learns from the collection: called once; the runner stores the result and hands it to ``load``."""
        raise NotImplementedError

    def load(self, state: Any) -> None:
        """Take over named arrays as ``fit`` returned them; memory-mapped for searchers."""

    def explain(self, inputs: Inputs) -> Sequence[Drawing]:
        """How it came to what it made of one picture, for `instsearch show`; ``inputs`` has that, too, and no row."""
        return ()

    @classmethod
    def import_weights(cls, path: Path) -> dict[str, Any]:
        """The tensors of a checkpoint as its authors published it, by the network's own names."""
        raise NotImplementedError

    @property
    def fits(self) -> bool:
        """Whether it learns."""
        return own(self.fit, Component.fit)


class Extractor(Component):
    """Image -> local features.

    encoding    "dense-map", "pyramid" or "keypoints"
    batch       how many images to hand over at once (of equal shape, for maps); 1 where it gains nothing
    classifies  has an option ``logits``, with which features have the network's class logits
    """

    encoding: str = "dense-map"
    batch: int = 1
    classifies: ClassVar[bool] = False

    def fit_size(self, width: int, height: int) -> tuple[int, int]:
        """The size (width, height) at which a picture of the given size is to be read."""
        return width, height

    def extract(self, images: Sequence[Image]) -> Sequence[Features]:
        """Local features of some images, one item each, on the component's device."""
        raise NotImplementedError

    def class_names(self) -> Sequence[str]:
        """What the logits are of, in their order; empty where nobody has said."""
        return ()


class Weighter(Component):
    """Image or features -> non-negative weights. ``maps`` is about how many maps it makes of a picture."""

    maps: int = 1

    def weigh(self, inputs: Inputs) -> WeightMap:
        """Weights f32[Z, h, w] on ``inputs.grid``."""
        raise NotImplementedError

    def weigh_many(self, inputs: Sequence[Inputs]) -> Sequence[WeightMap]:
        """As ``weigh``, of several images at once: where images come in batches, on a GPU say."""
        return [self.weigh(each) for each in inputs]

    def weigh_query(self, inputs: Inputs, crop: Callable[[], Features]) -> WeightMap:
        """Where a query cannot do without weights of its own: these, over the whole picture, which ``inputs`` has.

        ``crop()`` returns the features of what is in the query's box as a picture by itself, of all of it without one.
        """
        raise NotImplementedError

    def saliency(self, pixels: np.ndarray) -> Any:
        """A map [H, W] of pixels u8[H, W, 3], where it is made before there are cells."""
        raise NotImplementedError


class Detector(Component):
    """Features or weights -> regions."""

    def detect(self, inputs: Inputs) -> Regions:
        """Boxes in original pixels, with their scores."""
        raise NotImplementedError

    def detect_many(self, inputs: Sequence[Inputs]) -> Sequence[Regions]:
        """As ``detect``, of several images at once."""
        return [self.detect(each) for each in inputs]


class Encoder(Component):
    """Local features, weights and regions -> codes.

    local          encoding of ``embed``'s result; None: the features as they are
    codes          "csr" or "vectors"
    same_grid      ``embed``'s result lies on the cells of the features that it is of
    localises      False where a code describes the picture as a whole whatever its regions: hits then have no boxes
    query_regions  a query is described by the regions that the pipeline's detector finds in its box
    pairs          its option that takes a file of matching images to learn from; "": it learns from none
    """

    local: ClassVar[str | None] = None
    codes: ClassVar[str] = "vectors"
    same_grid: bool = False
    localises: bool = True
    query_regions: bool = False
    pairs: ClassVar[str] = ""

    def embed(self, features: Features) -> Local:
        """Local features as ``aggregate`` takes them."""
        return features

    def embed_query(self, features: Features) -> Local:
        """Likewise, of a query."""
        return self.embed(features)

    def aggregate(self, local: Any, weights: WeightMap | BoxWeight | None, regions: Regions | None) -> Codes:
        """One code of the picture, or one a region, of what ``embed`` made."""
        raise NotImplementedError

    def aggregate_query(self, local: Any, weights: WeightMap | BoxWeight | None) -> Codes:
        """Likewise, of a query: its box is one region, unless it is described in another way."""
        return self.aggregate(local, weights, None)


class Searcher(Component):
    """Codes -> hits. One instance serves one segment, a contiguous range of rows (``data.span``).

    accepts        encodings of codes, among "csr" and "vectors"
    lists_regions  heeds ``Query.per_image``
    locates        its boxes are no regions', so that they hold without a detector
    """

    accepts: ClassVar[tuple[str, ...]] = ("csr", "vectors")
    lists_regions: bool = False
    locates: bool = False

    def search(self, queries: Sequence[Query], data: Data, k: int) -> Hits:
        """Best k images of ``data.images`` less each query's ``exclude``; ties by row; rows are global."""
        raise NotImplementedError


class Reranker(Component):
    """Hits -> better hits."""

    probabilities: ClassVar[bool] = False  #: its scores are probabilities that a hit shows the object
    several: ClassVar[bool] = False  #: takes several hits of an image, each with a box (``Query.per_image``)
    extractors: ClassVar[tuple[str, ...]] = ()  #: those whose features it understands, by name; (): any's

    @property
    def depth(self) -> int:
        """How many hits it wants to see: its option of that name, if it has one."""
        return int(vars(self.config).get("depth", 0))

    @property
    def min_score(self) -> float | None:
        """The score below which a hit is none, its option of that name; None: there is no such score."""
        return vars(self.config).get("min_score") or None

    def caution(self, query: Query, name: str) -> str:
        """What one who asks this should know of the reranker, by its name; "" for nothing."""
        return ""

    def rerank(self, queries: Sequence[Query], hits: Hits, data: Data, search: Search) -> Hits:
        """``search`` asks again, with other codes for each, or with other queries of some, for k hits each."""
        raise NotImplementedError

    def evidence(self, queries: Sequence[Query], hits: Hits, data: Data, search: Search) -> Hits:
        """As :meth:`rerank`, for :meth:`score` to make its scores of: log-odds, say, where sure hits are all 1."""
        return self.rerank(queries, hits, data, search)

    def score(self, evidence: np.ndarray) -> np.ndarray:
        """The scores that these of :meth:`evidence` stand for; they rise with them."""
        return evidence

    def contested(self, own: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Hits' evidence ``own`` where what the object is not has evidence ``other``; -inf: they are none."""
        from instsearch_cli.data import without_equals

        return without_equals(own, other)

    def beside(self, query: Query, row: int, data: Data, where: np.ndarray | None = None) -> Beside | None:
        """An image, found in a box f32[4] if known, as it is compared with the query; None where it cannot be."""
        return None


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


class Dataset:
    """Images, queries, and what is relevant. Its constructor takes ``(config, root)``.

    protocol           one line for people: how average precision is taken, what is junk
    average_precision  how it is taken, "plain" or "trapezoid" (measure/metrics.py)
    settings           judgements of one ranking, ``relevance(query, setting)``; queries without positives are left out
    tops               the k of the mAP@k that are reported beside mAP
    source             where the images come from, for those who lack them
    size               how many images there should be, where ``images`` cannot name all
    """

    name: str = ""  #: what it is called
    protocol: str = ""
    average_precision: str = "plain"
    settings: tuple[str, ...] = ()
    tops: tuple[int, ...] = ()
    source: str = ""
    size: int = 0

    @dataclasses.dataclass(frozen=True)
    class Config:
        """Its options."""

    def __init__(self, config: Any, root: Path | None) -> None:
        self.config, self.root = config, root

    def images(self) -> Sequence[ImageRef]:
        """All images, those that are not there too."""
        raise NotImplementedError

    def queries(self) -> Sequence[QueryRef]:
        """The queries, with their boxes."""
        raise NotImplementedError

    def relevance(self, query: QueryRef) -> Relevance:
        """What a query should find."""
        raise NotImplementedError

    def boxes(self) -> Mapping[str, Sequence[Box]]:
        """Annotated boxes of the object, by image name; empty where there are none."""
        return {}

    def boxes_of(self, query: QueryRef, name: str) -> Sequence[Box]:
        """Annotated boxes of the query's object in an image."""
        return self.boxes().get(name, ())


BASES: dict[str, Any] = {"extractor": Extractor, "weighting": Weighter, "detector": Detector}  #: by kind
BASES |= {"encoder": Encoder, "searcher": Searcher, "rerank": Reranker, "dataset": Dataset}
