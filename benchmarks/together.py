"""Several indexes asked as one, against one index of all their photographs: the same hits, and how their scores differ.

    python benchmarks/together.py MANIFEST [--parts 2] [--index out/together] [--preset sift] [--seed 0]

The photographs, but for those that a query must not find, are dealt into as many indexes of one size, and into one. The
table has, for hits of so much and more in either answer: how many there are, which share is in both, by how much scores
differ in the median, in 19 of 20, and at most.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import instsearch
from arguments import Parser
from instsearch_cli.boxes import xywh
from instsearch_cli.engine.registry import load_registry
from instsearch_cli.measure.datasets import load_dataset

if TYPE_CHECKING:
    from collections.abc import Sequence

LINES = (0.9, 0.5, 0.1)


def opened(folder: Path, photographs: Sequence[Path], preset: str) -> instsearch.Index:
    """An index of some photographs, made where it is not there yet."""
    index = instsearch.create(folder)
    if not len(index):
        index.index(photographs, preset=preset)
    return index


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--parts", type=int, default=2)
    parser.add_argument("--index", type=Path, default=Path("out/together"), help="where the indexes are kept")
    parser.add_argument("--preset", default="sift")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    dataset = load_dataset(load_registry(), str(options.manifest), None)
    queries = list(dataset.queries())
    left_out = {name for query in queries for name in dataset.relevance(query).exclude}
    paths = [ref.path for ref in dataset.images() if ref.name not in left_out]
    dealt = np.random.default_rng(options.seed).permutation(len(paths)) % options.parts
    parts = [
        opened(options.index / f"part-{i}", [paths[j] for j in np.flatnonzero(dealt == i)], options.preset)
        for i in range(options.parts)
    ]
    whole = opened(options.index / "whole", paths, options.preset)
    print(
        f"{len(queries)} queries, indexes of {', '.join(str(len(part)) for part in parts)}, and of {len(whole)}\n"
    )
    found: list[list[dict[Path, float]]] = [[], []]
    for query in queries:
        box = None if query.box is None else xywh(query.box)
        for i, indexes in enumerate((parts, [whole])):
            answer = instsearch.query(indexes, query.image, box, k=100)
            found[i].append({hit.path: hit.score for hit in answer})
    print(f"{'hits of':<10}{'hits':>9}{'in both':>9}{'median':>9}{'95 %':>9}{'largest':>9}")
    for line in LINES:
        sure = [
            (path, a.get(path, 0.0), b.get(path, 0.0))
            for a, b in zip(*found, strict=True)
            for path in {**a, **b}
            if max(a.get(path, 0.0), b.get(path, 0.0)) >= line
        ]
        a, b = (np.array([each[i] for each in sure]) for i in (1, 2))
        both = ((a >= line) & (b >= line)).mean()
        apart = np.quantile(np.abs(a - b), (0.5, 0.95, 1))
        print(f"{line:<10g}{len(sure):>9,}{both:>9.3f}" + "".join(f"{value:>9.4f}" for value in apart))


if __name__ == "__main__":
    main()
