"""The stage table: a row a layer. All that has to know how the stages hang together reads it here.

image -> features -> weights, regions -> local -> codes -> search
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from instsearch_cli.components import Detector, Weighter, own

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from instsearch_cli.data import Codes, Inputs

IMAGE, GRID = "image", "grid"
"""What is read and is no layer: the picture, and the cells that its features lie on."""

FEATURES, WEIGHTS, REGIONS = "features", "weights", "regions"
LOCAL, CODES, SEARCH, CACHE = "local", "codes", "search", "cache"


def _never(component: Any) -> bool:
    return False


@dataclass(frozen=True)
class Row:
    """What there is to know of a kind of layer.

    kind       its name, and its folder's in an index
    stage      the stage of a pipeline whose component makes it
    encoded    how a component's layer is stored; None: it makes none
    make       what the component makes of one image; None: it is made of the whole collection, by ``fit``
    make_many  the same of several images at once, where the component is ``batched``
    reads      the layers that it is made of; one that is not made itself stands for what it would be made of
    declared   those that it is made of, too, where the component's spec declares them (``needs``)
    if_made    likewise, if the pipeline makes them at all
    on_grid    it lies on the cells of the features: its identity has what these are made by
    rank       the last of ``components.STAGES`` whose options decide it
    """

    kind: str
    stage: str
    encoded: Callable[[Any], str | None]
    make: Callable[[Any, Inputs], Any] | None = None
    make_many: Callable[[Any, Sequence[Inputs]], Sequence[Any]] | None = None
    batched: Callable[[Any], bool] = _never
    reads: tuple[str, ...] = ()
    declared: tuple[str, ...] = ()
    if_made: tuple[str, ...] = ()
    on_grid: bool = False
    rank: str = CODES


def _aggregated(encoder: Any, inputs: Inputs) -> Codes:
    local = inputs.features if encoder.local is None else inputs.local
    codes: Codes = encoder.aggregate(local, inputs.weights, inputs.regions)
    return codes


ROWS = (
    Row(
        FEATURES,
        "extractor",
        encoded=lambda extractor: extractor.encoding,
        make=lambda extractor, inputs: extractor.extract([inputs.image])[0],
        make_many=lambda extractor, many: extractor.extract([inputs.image for inputs in many]),
        batched=lambda extractor: extractor.batch > 1,
        reads=(IMAGE,),
        rank=LOCAL,
    ),
    Row(
        REGIONS,
        "detector",
        encoded=lambda detector: "regions",
        make=lambda detector, inputs: detector.detect(inputs),
        make_many=lambda detector, many: detector.detect_many(many),
        batched=lambda detector: own(detector.detect_many, Detector.detect_many),
        declared=(IMAGE, FEATURES, WEIGHTS, GRID),
    ),
    Row(
        WEIGHTS,
        "weighting",
        encoded=lambda weighter: "weight-map",
        make=lambda weighter, inputs: weighter.weigh(inputs),
        make_many=lambda weighter, many: weighter.weigh_many(many),
        batched=lambda weighter: own(weighter.weigh_many, Weighter.weigh_many),
        declared=(IMAGE, FEATURES, REGIONS),
        on_grid=True,
    ),
    Row(
        LOCAL,
        "encoder",
        encoded=lambda encoder: encoder.local,
        make=lambda encoder, inputs: encoder.embed(inputs.features),
        reads=(FEATURES,),
        on_grid=True,
        rank=LOCAL,
    ),
    Row(
        CODES,
        "encoder",
        encoded=lambda encoder: encoder.codes,
        make=_aggregated,
        reads=(LOCAL,),
        if_made=(WEIGHTS, REGIONS),
    ),
    Row(SEARCH, "searcher", encoded=lambda searcher: "arrays", reads=(CODES,), rank=SEARCH),
    # what a searcher keeps for itself: not of an image, and not always there
    Row(
        CACHE,
        "searcher",
        encoded=lambda searcher: "arrays",
        if_made=(FEATURES, WEIGHTS, REGIONS, LOCAL, CODES),
        rank=SEARCH,
    ),
)

TABLE = {row.kind: row for row in ROWS}

MAPPED = tuple(row for row in ROWS if row.make is not None)
"""The layers that have an item of every image."""
