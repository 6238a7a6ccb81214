"""Hits aligned beside what was asked for, in one picture: look-alikes told from it, those that are not, true hits kept.

    python benchmarks/look_alikes.py OUT.jpg MANIFEST INDEX [MANIFEST INDEX ...] [--queries 12] [--each 5] [--seed 0]

Of each collection some queries are asked of its index, and their first hits compared as `show --beside` does. Shown are
the look-alikes of less than 0.5 that agree most, the worst of the others, and of the true hits of 0.9 and more the one
that agrees least and some in the middle.
"""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

import instsearch
from arguments import Parser
from instsearch_cli.boxes import xywh
from instsearch_cli.engine.registry import load_registry
from instsearch_cli.measure.datasets import load_dataset
from instsearch_cli.report.draw import panels

if TYPE_CHECKING:
    from instsearch_cli.data import Beside

WIDTH = 440  #: pixels of a pair
LOOKED_AT = 4  #: first hits of each query that show the object, and that do not


class Pair(NamedTuple):
    """A hit beside its query, whether it shows the object, and its probability."""

    found: Beside
    right: bool
    score: float

    def panel(self, title: str) -> tuple[str, Image.Image]:
        picture = Image.fromarray(self.found.picture)
        h = round(picture.height * WIDTH / picture.width)
        agree, differ = (f"{100 * share:.0f} %" for share in (self.found.agreement, self.found.disagreement))
        return f"{title}: {self.score:.2f}; {agree} agrees, {differ} differs", picture.resize((WIDTH, h))


def pairs_of(manifest: Path, folder: Path, n: int, seed: int) -> list[Pair]:
    """The first right and wrong hits of some queries."""
    dataset, index = load_dataset(load_registry(), str(manifest), None), instsearch.open(folder)
    queries = list(dataset.queries())
    names = {ref.path.resolve(): ref.name for ref in dataset.images()}
    pairs: list[Pair] = []
    for i in np.random.default_rng(seed).permutation(len(queries))[:n].tolist():
        query = queries[i]
        judged = dataset.relevance(query)
        box = None if query.box is None else xywh(query.box)
        seen = {True: 0, False: 0}
        for hit in index.query(query.image, box, k=100):
            name = names.get(hit.path.resolve())
            if name is None or name in judged.junk | judged.exclude:
                continue
            right = name in judged.good | judged.ok
            seen[right] += 1
            if seen[right] <= LOOKED_AT:
                found = index.beside(query.image, box, hit.path)
                if found is not None:
                    pairs.append(Pair(found, right, hit.score))
    return pairs


def chosen(pairs: list[Pair], each: int) -> list[tuple[str, Image.Image]]:
    """As many pairs of a collection, of all kinds."""
    apart = sorted((p for p in pairs if not p.right and p.score < 0.5), key=lambda p: -p.found.agreement)
    missed = sorted((p for p in pairs if not p.right and p.score >= 0.5), key=lambda p: -p.score)
    kept = sorted((p for p in pairs if p.right and p.score >= 0.9), key=lambda p: p.found.agreement)
    kept = kept[:1] + kept[len(kept) // 2 :]
    kinds = (("not it", apart), ("not it, taken for it", missed[:1]), ("it", kept))
    lists = [[pair.panel(title) for pair in some[:each]] for title, some in kinds]
    turns = [panel for turn in zip_longest(*lists) for panel in turn if panel is not None][:each]
    return sorted(turns, key=lambda panel: panel[0].partition(":")[0], reverse=True)


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("collections", nargs="+", type=Path, metavar="MANIFEST INDEX")
    parser.add_argument("--queries", type=int, default=12, help="asked of each collection")
    parser.add_argument("--each", type=int, default=5, help="pairs of each collection")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    shown: list[tuple[str, Image.Image]] = []
    for manifest, folder in zip(options.collections[::2], options.collections[1::2], strict=True):
        shown += chosen(pairs_of(manifest, folder, options.queries, options.seed), options.each)
    panels(shown, columns=2).save(options.out, quality=72, optimize=True)


if __name__ == "__main__":
    main()
