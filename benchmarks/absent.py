"""Objects that are not there, asked of small and large collections: how many have a hit of 0.9 and more all the same.

python benchmarks/absent.py MANIFEST [--index DIR] [--preset sift] [--sizes 4,10,30,100,1000] [--queries 20] [--seed 0]

Of each query, as many images as each size says are drawn from those that do not show its object, and these alone are
asked. A table: objects with a hit of 0.9 and more, and of 0.5 and more, and the largest score.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from arguments import Parser
from evaluating import UNLABELLED, unlabelled
from instsearch_cli.engine.choosing import Choice, choose
from instsearch_cli.engine.query import Engine
from instsearch_cli.engine.registry import load_registry
from instsearch_cli.measure.datasets import load_dataset, prepare
from instsearch_cli.measure.evaluation import encode_query
from instsearch_cli.progress import make_progress


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--index", type=Path, default=Path("out/absent"), help="where the index is kept")
    parser.add_argument("--preset", default="sift")
    parser.add_argument(
        "--sizes", type=lambda text: [int(n) for n in text.split(",")], default=[4, 10, 30, 100, 1000]
    )
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--unlabelled", type=lambda s: Path(s) if s else None, default=UNLABELLED)
    options = parser.parse_args()
    registry, rng = load_registry(), np.random.default_rng(options.seed)
    dataset = load_dataset(registry, str(options.manifest), None)

    def chosen(last: Any) -> Any:
        return choose(registry, None, Choice(preset=options.preset))

    made = prepare(registry, dataset, options.index, chosen, make_progress(False))
    engine = Engine(made.index, made.assembly)
    every = engine.data.images
    queries = list(dataset.queries())
    best = np.zeros((len(options.sizes), min(options.queries, len(queries))))
    for q, i in enumerate(np.sort(rng.permutation(len(queries))[: options.queries])):
        judged = dataset.relevance(queries[i])
        shown = (
            judged.good
            | judged.ok
            | judged.junk
            | judged.exclude
            | unlabelled(queries[i].id, options.unlabelled)
        )
        rows = np.setdiff1d(every, [made.rows[name] for name in shown if name in made.rows])
        query = encode_query(engine, queries[i], judged, made.rows)
        for s, size in enumerate(options.sizes):
            kept = rng.permutation(rows)[:size]
            alone = replace(query, exclude=frozenset(np.setdiff1d(every, kept).tolist()))
            hits = engine.search([alone], 20)
            best[s, q] = hits.scores[0].max() if hits.valid(0) else 0
    print(f"{'images':>7}{'objects':>9}{'0.9 and more':>14}{'0.5 and more':>14}{'largest':>9}")
    for size, scores in zip(options.sizes, best, strict=True):
        counts = [(scores >= least).sum() for least in (0.9, 0.5)]
        print(f"{size:>7,}{len(scores):>9}{counts[0]:>14}{counts[1]:>14}{scores.max():>9.3f}")


if __name__ == "__main__":
    main()
