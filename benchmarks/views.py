"""What several views of an object are worth, and what is given as not the object.

    python benchmarks/views.py --manifest FILE [--index DIR] [--preset sift]

Against the others: every query of the manifest is asked alone, and with the queries of all other objects as what it is
not, which are compared by the reranker's evidence or by its scores. Several views: where the manifest has annotated
boxes (boxes.csv beside it), triples of images of an object are drawn, and what is in their boxes is asked for one by
one, fused (the best view counts), and pooled: by the sum of the log-odds, or as if each view were another independent
observation (noisy or); an image that is not in a view's list has the evidence of its last one there. The images of a
triple are not in the collection for it.

Reported are mAP, the share of true hits at 0.5 or more, and how many false ones there are a query.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from arguments import Parser
from instsearch_cli.engine.choosing import Choice
from instsearch_cli.engine.choosing import choose as choose_pipeline
from instsearch_cli.engine.fusion import fuse
from instsearch_cli.engine.query import Engine
from instsearch_cli.engine.registry import load_registry
from instsearch_cli.images import Photograph
from instsearch_cli.measure.datasets import load_dataset, prepare
from instsearch_cli.measure.evaluation import encode_query
from instsearch_cli.measure.metrics import average_precision
from instsearch_cli.progress import make_progress

if TYPE_CHECKING:
    from instsearch_cli.components import Dataset
    from instsearch_cli.data import Hits
    from instsearch_cli.measure.datasets import Prepared

DEPTH = 100  #: hits of a list
VIEWS = 3  #: of an object


class Table:
    """Rankings by the way in which they were made, with what is true of them."""

    def __init__(self, score: Any) -> None:
        self.score = score
        self.rows: dict[str, list[tuple[float, float, int]]] = {}

    def add(self, name: str, images: np.ndarray, evidence: np.ndarray, good: set[int]) -> None:
        """One ranking, of images i64[n] by evidence f[n], best first."""
        true, sure = np.isin(images, list(good)), self.score(evidence) >= 0.5
        ap = average_precision(true, len(good))
        self.rows.setdefault(name, []).append(
            (ap, (true & sure).sum() / len(good), int((~true & sure).sum()))
        )

    def print(self) -> None:
        """A line for each way."""
        print(f"{'':<30}{'asked':>7}{'mAP':>8}{'true':>8}{'false':>8}")
        for name, results in self.rows.items():
            ap, true, false = np.mean(results, axis=0)
            print(f"{name:<30}{len(results):>7}{ap:>8.3f}{true:>8.3f}{false:>8.2f}")


def part(hits: Hits, rows: list[int], score: Any = None) -> Hits:
    """Some rows, with scores for their evidence if ``score`` is given."""
    scores = hits.scores[rows]
    scores = scores if score is None else score(scores).astype(np.float32)
    return replace(hits, images=hits.images[rows], scores=scores, boxes=hits.boxes[rows])


def against_the_others(engine: Engine, dataset: Dataset, made: Prepared, score: Any) -> Table:
    refs = dataset.queries()
    judged = [dataset.relevance(ref) for ref in refs]
    good = [{made.rows[name] for name in each.good | each.ok if name in made.rows} for each in judged]
    queries = [encode_query(engine, ref, each, made.rows) for ref, each in zip(refs, judged, strict=True)]
    hits = engine.search(queries, DEPTH, evidence=True)
    table = Table(lambda s: s)
    for i in range(len(refs)):
        others = [j for j in range(len(refs)) if not good[i] & good[j]]
        for name, negatives, how in (
            ("alone", [], None),
            ("not the others, by evidence", others, None),
            ("not the others, by score", others, score),
        ):
            fused = fuse(part(hits, [i], how), part(hits, negatives, how), DEPTH)
            scores = fused.hits.scores[0] if how else score(fused.hits.scores[0])
            table.add(name, fused.hits.images[0], scores, good[i])
    return table


def several_views(
    engine: Engine, dataset: Dataset, made: Prepared, score: Any, triples: int, seed: int
) -> Table:
    table, dice, seen = Table(score), np.random.default_rng(seed), set()
    boxes, paths = dataset.boxes(), {ref.name: ref.path for ref in dataset.images()}
    for ref in dataset.queries():
        judged = dataset.relevance(ref)
        shown = frozenset(name for name in judged.good | judged.ok | judged.junk if name in made.rows)
        boxed = sorted(name for name in shown if boxes.get(name))
        if shown in seen or len(boxed) < 2 * VIEWS:
            continue
        seen.add(shown)
        for _ in range(triples):
            views = dice.choice(boxed, VIEWS, replace=False).tolist()
            good = {made.rows[name] for name in shown.difference(views)}
            gone = frozenset(made.rows[name] for name in views)
            queries = [engine.query(name, Photograph(paths[name]), boxes[name][0], gone) for name in views]
            hits = engine.search(queries, DEPTH, evidence=True)
            for v in range(VIEWS):
                n = hits.valid(v)
                table.add("one view", hits.images[v, :n], hits.scores[v, :n], good)
            fused = fuse(hits, part(hits, []), VIEWS * DEPTH).hits
            table.add(f"{VIEWS} views, the best", fused.images[0], fused.scores[0], good)
            rows, x = listed(hits)
            for name, pooled in (
                ("log-odds added", x.sum(0)),
                ("noisy or", noisy_or(x)),
            ):
                order = np.lexsort((rows, -pooled))
                table.add(f"{VIEWS} views, {name}", rows[order], pooled[order], good)
    return table


def listed(hits: Hits) -> tuple[np.ndarray, np.ndarray]:
    """The images in any of the lists, i64[n], and the evidence for each of each view, f64[V, n]."""
    rows = np.unique(hits.images[hits.images >= 0])
    x = np.zeros((len(hits.images), len(rows)))
    for v in range(len(hits.images)):
        n = hits.valid(v)
        x[v] = hits.scores[v, n - 1]
        x[v, np.searchsorted(rows, hits.images[v, :n])] = hits.scores[v, :n]
    return rows, x


def noisy_or(x: np.ndarray) -> np.ndarray:
    """Log-odds f64[n] that some view is right, of the views' f64[V, n]: p = 1 - prod_v (1 - p_v)."""
    s = np.logaddexp(0, x).sum(0)  # -log prod (1 - p_v)
    odds: np.ndarray = s + np.log(-np.expm1(-s).clip(max=-1e-300))
    return odds


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--manifest", type=Path, required=True, metavar="FILE", help="of images and queries")
    parser.add_argument(
        "--index", type=Path, default=Path("out/views"), metavar="DIR", help="where the index is kept"
    )
    parser.add_argument("--preset", default="sift", help="a pipeline whose scores are probabilities")
    parser.add_argument("--triples", type=int, default=5, help="drawn of each object")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    registry = load_registry()
    dataset = load_dataset(registry, str(options.manifest), None)

    def choose(last: Any) -> Any:
        return choose_pipeline(registry, None, Choice(preset=options.preset))

    made = prepare(registry, dataset, options.index, choose, make_progress(False))
    engine = Engine(made.index, made.assembly)
    score = made.assembly.rerankers[-1].component.score
    against_the_others(engine, dataset, made, score).print()
    print()
    several_views(engine, dataset, made, score, options.triples, options.seed).print()


if __name__ == "__main__":
    main()
