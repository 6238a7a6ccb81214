"""Measuring a pipeline on a dataset: ranking, localisation and time, query by query."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from instsearch_cli.boxes import clip_box
from instsearch_cli.errors import InstsearchError
from instsearch_cli.images import BadImage, read_header
from instsearch_cli.metrics import average_precision, localisation, precision_at, recall_at, relevance

if TYPE_CHECKING:
    from collections.abc import Mapping

    from instsearch_cli.components import Dataset, QueryRef, Relevance
    from instsearch_cli.progress import Quiet
    from instsearch_cli.search import Engine

DEPTHS = (1, 5, 10, 20)
LOCALISED_DEPTH = 10


@dataclass
class Evaluation:
    """The numbers of one run. ``queries`` has one row per query, ``metrics`` their means."""

    metrics: dict[str, float]
    queries: list[dict[str, Any]]
    timing: dict[str, float]


def evaluate(engine: Engine, dataset: Dataset, rows: Mapping[str, int], progress: Quiet) -> Evaluation:
    """Run every query of a dataset. ``rows`` maps its image names to rows of the index.

    Raises InstsearchError naming a query without positives, or whose box selects nothing.
    """
    names = {row: name for name, row in rows.items()}
    annotated = dataset.boxes()
    queries: list[dict[str, Any]] = []
    seconds: list[float] = []
    found: list[tuple[np.ndarray, list[Any]]] = []
    refs = dataset.queries()
    progress.start("queries", len(refs), "queries")
    for ref in refs:
        judged = dataset.relevance(ref)
        began = time.perf_counter()
        ranked, boxes = _rank(engine, ref, judged, rows, names)
        seconds.append(time.perf_counter() - began)
        scored = _score(ranked, judged, dataset.protocol)
        places = _places(ranked, boxes, judged, annotated)
        found += places
        iou = localisation(np.array([b for b, _ in places]).reshape(-1, 4), [a for _, a in places])
        queries.append(
            {
                "id": ref.id,
                **scored,
                "seconds": round(seconds[-1], 4),
                "localised": iou["n_localised"],
                "annotated": iou["n_annotated"],
            }
        )
        progress.advance()
    progress.close()
    means = {"mAP": float(np.mean([q["ap"] for q in queries]))}
    for name in [f"{m}@{k}" for m in ("precision", "recall") for k in DEPTHS]:
        means[name] = float(np.mean([q[name] for q in queries]))
    overall = localisation(np.array([b for b, _ in found]).reshape(-1, 4), [a for _, a in found])
    if overall["n_annotated"]:
        means |= {
            f"localised@{LOCALISED_DEPTH}": overall["share"],
            f"mean IoU@{LOCALISED_DEPTH}": overall["mean_iou"],
            f"annotated true hits@{LOCALISED_DEPTH}": overall["n_annotated"],
        }
    timing = {
        "queries": len(queries),
        "median seconds": float(np.median(seconds)),
        "encode": engine.timing.encode / len(queries),
        "search": engine.timing.search / len(queries),
        "rerank": engine.timing.rerank / len(queries),
    }
    return Evaluation(means, queries, timing)


def _rank(
    engine: Engine, ref: QueryRef, judged: Relevance, rows: Mapping[str, int], names: Mapping[int, str]
) -> tuple[list[str], np.ndarray]:
    """Names of the whole collection, best first, and their boxes."""
    if not judged.good | judged.ok:
        raise InstsearchError(f"query '{ref.id}' has no positives: nothing can be measured")
    try:
        header = read_header(ref.image)
        box = clip_box(_xywh(ref.box), (header.width, header.height)) if ref.box is not None else None
    except BadImage as error:
        raise InstsearchError(f"query '{ref.id}': {ref.image}: {error.reason}") from error
    except InstsearchError as error:
        raise InstsearchError(f"query '{ref.id}': {error}") from error
    exclude = frozenset(rows[name] for name in judged.exclude if name in rows)
    query = engine.query(ref.id, ref.image, box, exclude)
    hits = engine.search([query], len(engine.data.images))
    n = hits.valid(0)
    return [names[int(row)] for row in hits.images[0, :n]], hits.boxes[0, :n]


def _xywh(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    return box[0], box[1], box[2] - box[0], box[3] - box[1]


def _score(ranked: list[str], judged: Relevance, protocol: str) -> dict[str, float]:
    positives = (judged.good | judged.ok) - judged.junk - judged.exclude
    found = relevance(ranked, positives, judged.junk)
    n = len(positives)
    scored = {"ap": average_precision(found, n, "trapezoid" if "trapezoid" in protocol else "plain")}
    for k in DEPTHS:
        scored |= {f"precision@{k}": precision_at(found, k), f"recall@{k}": recall_at(found, k, n)}
    return scored


def _places(
    ranked: list[str], boxes: np.ndarray, judged: Relevance, annotated: Mapping[str, Any]
) -> list[tuple[np.ndarray, list[Any]]]:
    """(box of the hit, annotated boxes) of the true hits among the first ten."""
    positives = judged.good | judged.ok
    counted = [(n, b) for n, b in zip(ranked, boxes, strict=True) if n not in judged.junk]
    return [
        (box, list(annotated.get(name, ()))) for name, box in counted[:LOCALISED_DEPTH] if name in positives
    ]
