"""The verdict: what it takes to tell an object that is there from one that is not, learnt and measured.

    python benchmarks/verdict.py MANIFEST [MANIFEST ...] [--preset sift] [--score-alone]

Every query is asked twice: as it is, and with all that shows its object taken out of the collection. The weights of
reranker ``verdict`` are fitted to the verified hits and the first hit of both. Reported is what they are worth on
objects that they were not fitted to (one object left out in turn), beside the plain score: the share of queries whose
object is found where 1, 5 and 10 % of those without find one, the reliability, and the expected calibration error.
With several manifests all queries are fitted together, and the reliability of each collection is reported as well.
--score-alone leaves out what depends on the rest of the collection; with --given BIAS SCORE these two weights are
measured as they are, and nothing is left out in turn. The last lines are the weights of all queries together, as a
pipeline file takes them.

An image that shows a query's object although the ground truth does not say so would count as found falsely:
--unlabelled FILE takes such images out as well. unlabelled.json lists what was seen, by eye, among the first hits of
manifest-ext.json; '' for the ground truth as it is.

Raw hits are kept with --hits FILE, so that other caps are tried in a second; --plot FILE draws the reliability.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import expit

from arguments import Parser
from evaluating import UNLABELLED, unlabelled
from instsearch_cli.engine.choosing import Choice
from instsearch_cli.engine.choosing import choose as choose_pipeline
from instsearch_cli.engine.query import Engine
from instsearch_cli.engine.registry import load_registry
from instsearch_cli.measure.datasets import load_dataset, prepare
from instsearch_cli.measure.evaluation import encode_query
from instsearch_cli.measure.verdict import SHARES, calibration_error, found_rate, threshold_at
from instsearch_cli.progress import make_progress
from instsearch_cli.report.plot import Curve, curves
from instsearch_plugins.numeric.logistic import logistic_regression
from instsearch_plugins.rerankers.verdict import Verdict, evidence

if TYPE_CHECKING:
    import argparse

USUAL = Verdict.Config()
Raw = dict[str, np.ndarray]
"""present, absent f32[Q, k]: the scores of each query's hits, -inf after them; truth bool[Q, k], of present;
group i64[Q]: the object; collection i64[Q]: which manifest."""


def together(raws: list[Raw]) -> Raw:
    """Queries of several collections as one."""
    groups = np.cumsum([0, *(raw["group"].max() + 1 for raw in raws)])
    out = {name: np.concatenate([raw[name] for raw in raws]) for name in ("present", "absent", "truth")}
    out["group"] = np.concatenate([raw["group"] + first for raw, first in zip(raws, groups, strict=False)])
    out["collection"] = np.repeat(np.arange(len(raws)), [len(raw["group"]) for raw in raws])
    return out


def collect(manifest: Path, options: argparse.Namespace) -> Raw:
    """Ask all queries twice."""
    known = load_registry()
    dataset = load_dataset(known, str(manifest), None)

    def choose(last: Any) -> Any:
        chosen = Choice(preset=options.preset, options=options.assignments, rerank=options.rerank or None)
        pipeline = choose_pipeline(known, None, chosen)
        rerank = [stage.name for stage in pipeline.rerank if stage.name != "verdict"]
        return pipeline.with_rerank(rerank or ["none"])

    index = options.index / f"{manifest.parent.name}-{manifest.stem}"
    made = prepare(known, dataset, index, choose, make_progress(False))
    engine = Engine(made.index, made.assembly)
    raw: dict[str, list[Any]] = {"present": [], "absent": [], "truth": [], "group": []}
    objects: dict[frozenset[str], int] = {}
    for ref in dataset.queries():
        judged = dataset.relevance(ref)
        shown = judged.good | judged.ok | judged.junk
        rows = {made.rows[name] for name in shown if name in made.rows}
        junk = judged.junk | unlabelled(ref.id, options.unlabelled)
        junk = frozenset(made.rows[name] for name in junk if name in made.rows)
        query = encode_query(engine, ref, judged, made.rows)
        query = replace(query, exclude=query.exclude | junk)
        present = engine.search([query], options.depth)
        absent = engine.search([replace(query, exclude=query.exclude | rows)], options.depth)
        raw["present"].append(present.scores[0])
        raw["absent"].append(absent.scores[0])
        raw["truth"].append(np.isin(present.images[0], list(rows)))
        raw["group"].append(objects.setdefault(frozenset(shown | judged.exclude), len(objects)))
    return {name: np.array(values) for name, values in raw.items()}


def cases(raw: Raw, options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x f64[2 Q, k, 4], truth bool[2 Q, k] and which count bool[2 Q, k], of the queries with, then without."""
    scores = np.concatenate([raw["present"], raw["absent"]])
    truth = np.concatenate([raw["truth"], np.zeros_like(raw["truth"])])
    there = np.isfinite(scores)
    x = np.zeros((*scores.shape, 4))
    for i, (s, n) in enumerate(zip(scores, there.sum(axis=1), strict=True)):
        x[i, :n] = evidence(s[:n], options.start, options.depth, options.rest_cap, options.best_cap)
    counts = there & (scores >= options.floor)
    counts[:, 0] = there[:, 0]
    if options.score_alone:
        x = x[..., :2]
    return x, truth, counts


def left_out(x: np.ndarray, truth: np.ndarray, counts: np.ndarray, group: np.ndarray) -> np.ndarray:
    """f64[2 Q, k]: each hit's probability by the weights fitted to the other objects' queries."""
    p = np.zeros(x.shape[:2])
    for g in np.unique(group):
        others = counts & (group != g)[:, None]
        p[group == g] = expit(x[group == g] @ logistic_regression(x[others], truth[others]))
    return p


def row(name: str, scores: np.ndarray, truth: np.ndarray) -> str:
    """Found rates of scores f[2 Q, k]."""
    q = len(scores) // 2
    present, absent = np.where(truth, scores, -np.inf)[:q].max(axis=1), scores[q:].max(axis=1)
    rates = (found_rate(present, threshold_at(absent, share)) for share in SHARES)
    return f"{name:<22}" + "".join(f"{rate:>9.3f}" for rate in rates)


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("manifests", nargs="+", type=Path, metavar="MANIFEST")
    parser.add_argument("--index", type=Path, default=Path("out/verdict"), help="where the indexes are kept")
    parser.add_argument("--score-alone", action="store_true", help="whatever else is in the collection")
    parser.add_argument("--given", nargs=2, type=float, metavar=("BIAS", "SCORE"), help="weights to measure")
    parser.add_argument("--preset", default="sift")
    parser.add_argument("--rerank", action="append", default=[], help="instead of the preset's; repeatable")
    parser.add_argument(
        "--set", dest="assignments", action="append", default=[], metavar="STAGE.OPTION=VALUE"
    )
    parser.add_argument("--hits", type=Path, help="npz file: hits to read, or to write where it is not there")
    parser.add_argument(
        "--plot", type=Path, help="PNG or SVG file: which share of hits of each probability is right"
    )
    parser.add_argument("--unlabelled", type=lambda s: Path(s) if s else None, default=UNLABELLED)
    parser.add_argument("--floor", type=float, default=1.0, help="score of a verified hit, at least")
    parser.add_argument("--start", type=int, default=USUAL.start)
    parser.add_argument("--depth", type=int, default=USUAL.depth)
    parser.add_argument("--rest-cap", type=float, default=USUAL.rest_cap)
    parser.add_argument("--best-cap", type=float, default=USUAL.best_cap)
    options = parser.parse_args()
    if options.hits is not None and options.hits.exists():
        raw: Raw = dict(np.load(options.hits, allow_pickle=False))
    else:
        raw = together([collect(manifest, options) for manifest in options.manifests])
        if options.hits is not None:
            np.savez(options.hits, **raw)  # type: ignore[arg-type]
    x, truth, counts = cases(raw, options)
    if options.given is None:
        p = left_out(x, truth, counts, np.tile(raw["group"], 2))
    else:
        p = np.where(counts, expit(x[..., :2] @ options.given), 0)
    shares = "".join(f"{100 * share:>8g}%" for share in SHARES)
    print(f"{len(raw['group'])} queries of {raw['group'].max() + 1} objects, with and without the object\n")
    print(f"{'found, false found at':<22}{shares}")
    print(row("plain score", np.concatenate([raw["present"], raw["absent"]]), truth))
    print(row("verdict, left out", np.where(counts, p, 0), truth))
    print(f"\n{'min-score':<22}{'found':>9}{'false':>9}")
    q = len(p) // 2
    for least in (0.1, 0.3, 0.5, 0.7, 0.9):
        present = np.where(truth & counts, p, 0)[:q].max(axis=1)
        print(f"{least:<22}{found_rate(present, least):>9.3f}{found_rate(p[q:, 0], least):>9.3f}")
    shown = [Curve("as stated", (0.0, 1.0), (0.0, 1.0))]
    for c, manifest in enumerate(options.manifests):
        own = np.tile(raw["collection"] == c, 2)[:, None]
        print(f"\n{f'reliability, {manifest.parent.name}':<22}{'hits':>9}{'mean p':>9}{'true':>9}")
        curve: list[tuple[float, float]] = []
        for low in np.arange(0, 1, 0.1):
            inside = own & counts & (p >= low) & ((p < low + 0.1) | (low > 0.85))
            if inside.any():
                curve.append((float(p[inside].mean()), float(truth[inside].mean())))
                name = f"{low:.1f} to {low + 0.1:.1f}"
                print(f"{name:<22}{inside.sum():>9,}{p[inside].mean():>9.3f}{truth[inside].mean():>9.3f}")
        shown.append(Curve(f"{manifest.parent.name}", *zip(*curve, strict=True)))
        sure, q = own & counts & (p >= 0.9), len(p) // 2
        there = (truth & own)[:q].sum()
        print(
            f"of 0.9 and more {truth[sure].mean() if sure.any() else np.nan:.3f} are right, "
            f"{(truth & sure)[:q].sum() / max(there, 1):.3f} of what is found at all; "
            f"{sure[q:].any(axis=1).sum()} of {own[:q].sum()} absent objects have some"
        )
    if options.plot is not None:
        curves(options.plot, shown, "probability of a hit, stated", "share of such hits that show the object")
    first = np.zeros_like(counts)
    first[:, 0] = counts[:, 0]
    print(f"\ncalibration error: verified hits {calibration_error(p[counts], truth[counts]):.3f}, ", end="")
    print(f"first hits {calibration_error(p[first], truth[first]):.3f}\n")
    w = logistic_regression(x[counts], truth[counts])
    print('[[rerank]]\nname = "verdict"')
    print(
        "\n".join(f"{name} = {v:.3f}" for name, v in zip(("bias", "score", "rest", "best"), w, strict=False))
    )
    for name in ("start", "depth", "rest_cap", "best_cap"):
        if getattr(options, name) != getattr(USUAL, name):
            print(f"{name.replace('_', '-')} = {getattr(options, name)}")


if __name__ == "__main__":
    main()
