"""A hit beside the query, as the reranker of a pipeline that compares the two sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from instsearch_cli.components import Reranker, own
from instsearch_cli.engine.questions import Part
from instsearch_cli.engine.tensors import inference
from instsearch_cli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from instsearch_cli.components import Data
    from instsearch_cli.data import Beside
    from instsearch_cli.engine.query import Engine
    from instsearch_cli.engine.questions import Picture

UNALIGNED = "The two cannot be aligned: too few keypoints of the box agree on where it is in the image."


class Uncompared(UsageError):  # noqa: N818
    """No reranker of the pipeline compares hits with the query."""


def comparing(engine: Engine) -> Reranker | None:
    """The reranker that compares hits with the query; None where the pipeline has none."""
    rerankers: list[Any] = [part.component for part in engine.assembly.rerankers]
    able = [component for component in rerankers if own(component.beside, Reranker.beside)]
    return able[-1] if able else None


def besides(
    engine: Engine, picture: Picture, box: Sequence[float] | None, rows: Sequence[int]
) -> Iterator[Beside | None]:
    """Images beside what is in a box (x, y, width, height) of a picture; None for one that is not aligned with it.

    Raises Uncompared where the pipeline has no reranker that compares, InstsearchError where a picture cannot be read.
    """
    reranker = comparing(engine)
    if reranker is None:
        raise Uncompared(
            f"no reranker of pipeline '{engine.assembly.pipeline.name}' compares hits with the query: there is "
            "nothing to show beside it"
        )
    query, data = Part(picture, box).encoded(engine, 1), cast("Data", engine.data)
    for row in rows:
        with inference():
            yield reranker.beside(query, row, data)
