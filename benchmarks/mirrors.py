"""The hits of a mirror in Milvus against those of the index itself, on real photographs and questions.

    python benchmarks/mirrors.py MANIFEST INDEX PIPELINE [PIPELINE ...] [--uri URI] [--top 100]

For each of the index's pipelines one that asks a mirror is made, and asked the same, both without rerankers. The table
has, of the first hits: in how many questions these are the same images, by how much scores differ at most, and how many
boxes are others; and the median time of a search. What was made is removed at the end. Without --uri it is Milvus Lite
in a temporary folder.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table

import instsearch
from arguments import Parser
from instsearch_cli.engine.registry import load_registry
from instsearch_cli.images import Photograph
from instsearch_cli.measure.datasets import load_dataset

if TYPE_CHECKING:
    from collections.abc import Sequence

    from instsearch_cli.components import QueryRef
    from instsearch_cli.data import Hits
    from instsearch_cli.engine.query import Engine

MADE = "benchmark-mirror"


def searched(engine: Engine, questions: Sequence[QueryRef], top: int) -> tuple[list[Hits], float]:
    """The first hits of each question, and the median of the milliseconds of a search."""
    found, times = [], []
    for ref in questions:
        query = engine.query(ref.id, Photograph(ref.image), ref.box)
        began = time.perf_counter()
        found.append(engine.search([query], top))
        times.append(1e3 * (time.perf_counter() - began))
    return found, float(np.median(times))


def compared(one: Hits, other: Hits) -> tuple[bool, float, int]:
    """Whether the images are the same, by how much the scores of these differ, and how many of the boxes."""
    here, there = (
        dict(zip(hits.images[0].tolist(), range(hits.valid(0)), strict=False)) for hits in (one, other)
    )
    both = sorted(here.keys() & there.keys())
    i, j = [here[row] for row in both], [there[row] for row in both]
    apart = float(np.abs(one.scores[0, i] - other.scores[0, j]).max(initial=0))
    boxes = (one.boxes[0, i] != other.boxes[0, j]) & ~np.isnan(one.boxes[0, i])
    return here.keys() == there.keys(), apart, int(boxes.any(axis=1).sum())


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("index", type=Path)
    parser.add_argument("pipelines", nargs="+", metavar="PIPELINE")
    parser.add_argument("--uri", default="", help="a Milvus server; default: Milvus Lite")
    parser.add_argument("--top", type=int, default=100)
    options = parser.parse_args()
    index = instsearch.open(options.index)
    questions = list(load_dataset(load_registry(), str(options.manifest), None).queries())
    table = Table(title=f"{len(questions)} questions to {len(index):,} images, first {options.top} hits")
    for column in ("pipeline", "same images", "scores apart", "other boxes", "ms here", "ms there"):
        table.add_column(column, justify="left" if column == "pipeline" else "right")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for name in options.pipelines:
            uri = options.uri or str(Path(folder) / "mirror.db")
            plain = {"rerank": ["none"]}
            index.index(
                name=MADE, pipeline=name, searcher="milvus", options=(f"searcher.uri={uri}",), **plain
            )
            here, ms_here = searched(index.engine(name, **plain), questions, options.top)
            there, ms_there = searched(index.engine(MADE), questions, options.top)
            same, apart, boxes = zip(*map(compared, here, there), strict=True)
            table.add_row(
                name,
                f"{sum(same)} of {len(same)}",
                f"{max(apart):.1e}",
                f"{sum(boxes)}",
                f"{ms_here:.1f}",
                f"{ms_there:.1f}",
            )
            index.gc(forget=[MADE])
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
