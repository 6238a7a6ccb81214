"""A hit beside the query, as the reranker of a pipeline that compares the two sees them."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from instsearch_cli.components import Reranker, own
from instsearch_cli.engine.questions import Part
from instsearch_cli.engine.tensors import inference
from instsearch_cli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from instsearch_cli.components import Data
    from instsearch_cli.data import Beside, Query
    from instsearch_cli.engine.query import Engine
    from instsearch_cli.engine.questions import Picture

UNALIGNED = (
    "The two cannot be aligned: neither keypoints of the box nor its look tell where it is in the image."
)


class Uncompared(UsageError):  # noqa: N818
    """No reranker of the pipeline compares hits with the query."""


def comparing(engine: Engine) -> Reranker | None:
    """The reranker that compares hits with the query; None where the pipeline has none."""
    rerankers: list[Any] = [part.component for part in engine.assembly.rerankers]
    able = [component for component in rerankers if own(component.beside, Reranker.beside)]
    return able[-1] if able else None


def beside(engine: Engine, picture: Picture, box: Sequence[float] | None, row: int) -> Beside | None:
    """An image beside what is in a box (x, y, width, height) of a picture; None where it is not aligned with it.

    One that is not by itself is looked at where the pipeline finds the object in it. Raises Uncompared where the
    pipeline has no reranker that compares, InstsearchError where a picture cannot be read.
    """
    reranker = comparing(engine)
    if reranker is None:
        raise Uncompared(
            f"no reranker of pipeline '{engine.assembly.pipeline.name}' compares hits with the query: there is "
            "nothing to show beside it"
        )
    query, data = Part(picture, box).encoded(engine, 1), cast("Data", engine.data)
    with inference():
        one = reranker.beside(query, row, data)
        if one is None and (where := _where(engine, query, row, reranker)) is not None:
            one = reranker.beside(query, row, data, where)
    return one


def _where(engine: Engine, query: Query, row: int, reranker: Reranker) -> np.ndarray | None:
    """The box f32[4] in which an image is handed to a reranker; None where it is not, or too far down."""
    before = [part.component for part in engine.assembly.rerankers].index(reranker)
    *_, (_, hits) = islice(engine.steps([query], max(reranker.depth, 1)), before + 1)
    boxes = hits.boxes[hits.images == row][:1]
    return None if np.isnan(boxes).any() or not len(boxes) else boxes[0]
