"""Measuring a pipeline on a dataset: ranking, localisation and time, query by query."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from instsearch_cli.boxes import clip_box, refuse_fractions
from instsearch_cli.components import Dataset, own
from instsearch_cli.errors import InstsearchError
from instsearch_cli.images import Photograph
from instsearch_cli.measure.metrics import (
    average_precision,
    average_precision_at,
    localisation,
    precision_at,
    recall_at,
    relevance,
    revisited_precision_at,
)
from instsearch_cli.measure.verdict import verdicts
from instsearch_cli.outside.files import is_there

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from instsearch_cli.components import QueryRef, Relevance
    from instsearch_cli.engine.jointly import Ensemble
    from instsearch_cli.engine.query import Engine
    from instsearch_cli.progress import Quiet

DEPTHS = (1, 5, 10, 20)
REVISITED_DEPTHS = (1, 5, 10)
LOCALISED_DEPTH = 10
MAIN = ""


RIGHT, WRONG, JUNK = "right", "wrong", "junk"


@dataclass(frozen=True, slots=True)
class Ranked:
    """A hit of a query of a dataset; box: (x0, y0, x1, y1), None: unknown; mark: RIGHT, WRONG or JUNK."""

    image: str
    score: float
    box: tuple[float, float, float, float] | None
    mark: str


@dataclass
class Evaluation:
    """The numbers of one run. ``queries`` has one row per query, ``metrics`` their means.

    A number of a row is None where the query has no positives in that setting. ``dropped`` are the queries
    that have none at all, or no image; ``lost`` counts the positives that are not in the collection. What is said of
    boxes is None where no hit has one.
    """

    metrics: dict[str, float | None]
    queries: list[dict[str, Any]]
    timing: dict[str, float]
    dropped: list[str] = field(default_factory=list)
    lost: int = 0
    rankings: dict[str, list[Ranked]] = field(
        default_factory=dict
    )  #: of each query the first hits, where kept


@dataclass(frozen=True)
class Absent:
    """That every query is asked again without its positives and junk, and the score that a hit must have."""

    min_score: float | None = None  #: None: what the pipeline says


@dataclass(frozen=True)
class Tops:
    """The k of the mAP@k that are wanted, and what AP@k is divided by (metrics.DENOMINATORS)."""

    depths: tuple[int, ...] = ()  #: none: those that the dataset asks for
    denominator: str = "positives"

    def at(self) -> dict[int, str]:
        """How each is named behind "mAP" and "ap": "@10", or "@10 (reachable)"."""
        how = "" if self.denominator == "positives" else f" ({self.denominator})"
        return {k: f"@{k}{how}" for k in self.depths}


def evaluate(
    engine: Engine | Ensemble,
    dataset: Dataset,
    rows: Mapping[str, int],
    progress: Quiet,
    present_only: bool = False,
    tops: Tops | None = None,
    absent: Absent | None = None,
    keep: int = 0,
) -> Evaluation:
    """Run every query of a dataset, and keep its first ``keep`` hits. ``rows``: image names -> rows of the index.

    With ``absent`` the metrics have :func:`instsearch_cli.measure.verdict.verdicts`, too.

    With ``present_only`` positives without a row do not count, and queries left without any are dropped.
    Raises InstsearchError naming a query without positives, or whose box selects nothing.
    """
    names = {row: name for name, row in rows.items()}
    settings: tuple[str, ...] = dataset.settings
    tops = tops or Tops()
    tops = replace(tops, depths=tops.depths or dataset.tops)
    boxes_of = _boxes_of(dataset)
    done = Evaluation({}, [], {})
    seconds: list[float] = []
    found: list[tuple[np.ndarray, Sequence[Any]]] = []
    located = False  # whether hits have boxes
    refs = dataset.queries()
    progress.start("queries", len(refs), "queries")
    for ref in refs:
        progress.advance()
        judged = judged_settings(dataset, ref, settings)
        if present_only:
            wanted = positives_of(*judged.values())
            done.lost += len(wanted.difference(rows))
            judged = {setting: among(j, rows) for setting, j in judged.items()}
        if not positives_of(*judged.values()) or (present_only and not is_there(ref.image)):
            if not (present_only or settings):
                raise InstsearchError(f"query '{ref.id}' has no positives: nothing can be measured")
            done.dropped.append(ref.id)
            continue
        began = time.perf_counter()
        query = encode_query(engine, ref, judged[MAIN], rows)
        ranked, boxes, scores = _rank(engine, query, names)
        seconds.append(time.perf_counter() - began)
        places = _places(ranked, boxes, judged[MAIN], partial(boxes_of, ref))
        found += places
        located = located or bool(np.isfinite(boxes).all(1).any())
        iou = _localised(places)
        done.queries.append(
            {
                "id": ref.id,
                **score_ranking(ranked, judged, dataset.average_precision, tops),
                "seconds": round(seconds[-1], 4),
                "localised": iou["n_localised"],
                "annotated": iou["n_annotated"],
            }
        )
        if keep:
            done.rankings[ref.id] = kept_hits(ranked[:keep], scores, boxes, judged[MAIN])
        if absent is not None:
            done.queries[-1] |= _outcome(ranked, scores, judged[MAIN]) | _without(engine, query, judged, rows)
    progress.close()
    if not done.queries:
        raise InstsearchError(
            f"none of the {len(refs):,} queries of '{dataset.name}' has an image and positives"
        )
    if not located:
        done.queries = [query | {"localised": None} for query in done.queries]
    done.metrics = means_of(done.queries, settings, tops)
    if absent is not None:
        min_score = engine.min_score if absent.min_score is None else absent.min_score
        done.metrics |= _verdicts(done.queries, min_score)
    overall = _localised(found)
    if overall["n_annotated"]:
        done.metrics |= {
            f"localised@{LOCALISED_DEPTH}": overall["share"] if located else None,
            f"mean IoU@{LOCALISED_DEPTH}": overall["mean_iou"] if located else None,
            f"annotated true hits@{LOCALISED_DEPTH}": overall["n_annotated"],
        }
    n = len(done.queries)
    done.timing = {
        "queries": n,
        "median seconds": float(np.median(seconds)),
        "encode": engine.timing.encode / n,
        "search": engine.timing.search / n,
        "rerank": engine.timing.rerank / n,
    }
    return done


def judged_settings(dataset: Dataset, ref: QueryRef, settings: Iterable[str]) -> dict[str, Relevance]:
    """What is relevant, by setting; MAIN is what the dataset gives if asked for none."""
    of: Callable[..., Relevance] = dataset.relevance
    return {MAIN: of(ref)} | {setting: of(ref, setting) for setting in settings}


def positives_of(*judged: Relevance) -> frozenset[str]:
    return frozenset().union(*((j.good | j.ok) - j.junk - j.exclude for j in judged))


def among(judged: Relevance, there: Iterable[str]) -> Relevance:
    """The same, of positives that are there."""
    return replace(judged, good=judged.good.intersection(there), ok=judged.ok.intersection(there))


def _boxes_of(dataset: Dataset) -> Callable[[QueryRef, str], Sequence[Any]]:
    if own(dataset.boxes_of, Dataset.boxes_of):
        return dataset.boxes_of
    annotated = dataset.boxes()
    return lambda ref, name: annotated.get(name, ())


def encode_query(engine: Engine | Ensemble, ref: QueryRef, judged: Relevance, rows: Mapping[str, int]) -> Any:
    """A query, encoded."""
    try:
        picture = Photograph(ref.image)
        box = None
        if ref.box is not None:
            refuse_fractions(_xywh(ref.box), picture.size)
            box = clip_box(_xywh(ref.box), picture.size)
    except InstsearchError as error:
        raise InstsearchError(f"query '{ref.id}': {error}") from error
    exclude = frozenset(rows[name] for name in judged.exclude if name in rows)
    return engine.query(ref.id, picture, box, exclude)


def kept_hits(
    ranked: Sequence[str], scores: Sequence[float] | np.ndarray, boxes: np.ndarray | None, judged: Relevance
) -> list[Ranked]:
    """Hits by name, scores, and boxes f32[n, 4] (NaN or None: unknown), with what the dataset says of each."""
    positives, kept = positives_of(judged), []
    for i, name in enumerate(ranked):
        mark = JUNK if name in judged.junk else RIGHT if name in positives else WRONG
        place = (
            None if boxes is None or not np.isfinite(boxes[i]).all() else tuple(float(v) for v in boxes[i])
        )
        kept.append(Ranked(name, float(scores[i]), place, mark))  # type: ignore[arg-type]
    return kept


def _rank(
    engine: Engine | Ensemble, query: Any, names: Mapping[int, str]
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names of the whole collection, best first, their boxes and their scores."""
    hits = engine.search([query], len(engine.data.images))
    n = hits.valid(0)
    return [names[int(row)] for row in hits.images[0, :n]], hits.boxes[0, :n], hits.scores[0, :n]


def _outcome(ranked: Sequence[str], scores: np.ndarray, judged: Relevance) -> dict[str, Any]:
    """What verdicts are made from: the scores of the best true hit and of the first one, and if that is true."""
    positives = positives_of(judged)
    counted = [
        (float(s), n in positives) for n, s in zip(ranked, scores, strict=True) if n not in judged.junk
    ]
    first, true = counted[0] if counted else (None, False)
    return {
        "true score": max((s for s, t in counted if t), default=None),
        "first score": first,
        "first": true,
    }


def _without(
    engine: Engine | Ensemble, query: Any, judged: Mapping[str, Relevance], rows: Mapping[str, int]
) -> dict[str, float | None]:
    """The score of the best hit where nothing that shows the object is in the collection."""
    shown = frozenset().union(*(j.good | j.ok | j.junk for j in judged.values()))
    exclude = query.exclude | {rows[name] for name in shown if name in rows}
    kept = replace(engine.timing)
    hits = engine.search([replace(query, exclude=exclude)], 1)
    engine.timing = kept  # the times are those of the queries proper
    return {"absent score": float(hits.scores[0, 0]) if hits.valid(0) else None}


def _verdicts(queries: Sequence[Mapping[str, Any]], min_score: float | None) -> dict[str, float]:
    def scores(column: str) -> list[float]:
        return [-np.inf if q[column] is None else q[column] for q in queries]

    first = [(q["first score"], q["first"]) for q in queries if q["first score"] is not None]
    first += [(q["absent score"], False) for q in queries if q["absent score"] is not None]
    return verdicts(scores("true score"), scores("absent score"), first, min_score)


def _xywh(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    return box[0], box[1], box[2] - box[0], box[3] - box[1]


def score_ranking(
    ranked: list[str], judged: Mapping[str, Relevance], protocol: str, tops: Tops
) -> dict[str, float | None]:
    """One query's numbers: the main ones, then "ap SETTING" and "mP@k SETTING" of each setting."""
    scored: dict[str, float | None] = {}
    for setting, j in judged.items():
        positives = positives_of(j)
        n = len(positives)
        found = relevance(ranked, positives, j.junk)
        ap = average_precision(found, n, protocol) if n else None
        if setting == MAIN:
            scored["ap"] = ap
            for k, at in tops.at().items():
                cut = average_precision_at(found, k, n, protocol, tops.denominator) if n else None
                scored[f"ap{at}"] = cut
            for k in DEPTHS:
                scored[f"precision@{k}"] = precision_at(found, k) if n else None
                scored[f"recall@{k}"] = recall_at(found, k, n) if n else None
        else:
            scored[f"ap {setting}"] = ap
            for k in REVISITED_DEPTHS:
                scored[f"mP@{k} {setting}"] = revisited_precision_at(found, k) if n else None
    return scored


def means_of(
    queries: Sequence[Mapping[str, Any]], settings: Iterable[str], tops: Tops
) -> dict[str, float | None]:
    """Means over the queries that have positives. A setting that no query has is left out."""
    columns = {f"mAP{at}": f"ap{at}" for at in ("", *tops.at().values())}
    columns |= {name: name for name in [f"{m}@{k}" for m in ("precision", "recall") for k in DEPTHS]}
    for setting in settings:
        columns[f"mAP {setting}"] = f"ap {setting}"
        columns |= {name: name for name in [f"mP@{k} {setting}" for k in REVISITED_DEPTHS]}
    means: dict[str, float | None] = {}
    for name, column in columns.items():
        values = [q[column] for q in queries if q[column] is not None]
        if values:
            means[name] = float(np.mean(values))
            if name.startswith("mAP "):
                means[f"queries {name.removeprefix('mAP ')}"] = len(values)
    return means


def _localised(places: Sequence[tuple[np.ndarray, Sequence[Any]]]) -> dict[str, float]:
    return localisation(np.array([box for box, _ in places]).reshape(-1, 4), [a for _, a in places])


def _places(
    ranked: list[str], boxes: np.ndarray, judged: Relevance, annotated: Callable[[str], Sequence[Any]]
) -> list[tuple[np.ndarray, Sequence[Any]]]:
    """(box of the hit, annotated boxes) of the true hits among the first ten."""
    positives = judged.good | judged.ok
    counted = [(n, b) for n, b in zip(ranked, boxes, strict=True) if n not in judged.junk]
    return [(box, list(annotated(name))) for name, box in counted[:LOCALISED_DEPTH] if name in positives]
