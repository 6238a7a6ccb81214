"""How good a ranking is, and how well its boxes lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from instsearch_cli.boxes import iou

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Sequence

    from numpy.typing import ArrayLike

PROTOCOLS = ("plain", "trapezoid")
DENOMINATORS = ("positives", "reachable")


def relevance(
    ranked: Sequence[Hashable], positives: Collection[Hashable], junk: Collection[Hashable] = ()
) -> np.ndarray:
    """Which hits of a ranking are positives, bool[n], junk taken out of it first.

    Junk is neither right nor wrong: the hits after it move up. What is both positive and junk is junk.
    """
    positives, junk = frozenset(positives), frozenset(junk)
    return np.fromiter((hit in positives for hit in ranked if hit not in junk), bool)


def average_precision(relevant: ArrayLike, n_positives: int, protocol: str = "plain") -> float:
    """Average precision of a ranking, given as bool[n], best first, junk removed (:func:`relevance`).

    plain      AP = 1/P sum_j (j + 1) / (r_j + 1)
    trapezoid  AP = 1/P sum_j (p0 + p1) / 2,  p0 = j / r_j (1 where r_j = 0),  p1 = (j + 1) / (r_j + 1)

    where r_j is the rank of the j-th positive found, both counted from 0, and P = ``n_positives`` counts
    those not found too: each of them adds 0.

    Raises ValueError if P < 1, if more than P are relevant, or for another protocol.
    References: Philbin et al. 2007, compute_ap (trapezoid); also the protocol of INSTRE (Iscen et al. 2017).
    """
    r = np.flatnonzero(np.asarray(relevant, bool))
    if n_positives < 1 or len(r) > n_positives:
        raise ValueError(f"{len(r)} relevant hits of {n_positives} positives")
    j = np.arange(len(r))
    precision = (j + 1) / (r + 1)
    if protocol == "trapezoid":
        before = np.where(r == 0, 1.0, j / np.maximum(r, 1))
        precision = (before + precision) / 2
    elif protocol != "plain":
        raise ValueError(f"protocol is one of {PROTOCOLS}, not {protocol!r}")
    return float(precision.sum() / n_positives)


def average_precision_at(
    relevant: ArrayLike, k: int, n_positives: int, protocol: str = "plain", denominator: str = "positives"
) -> float:
    """Average precision of the first k hits, AP@k.

    AP@k = 1/N sum of :func:`average_precision`'s terms of the positives at ranks below k, where

    positives  N = P: what cannot be found among k hits counts as not found, so that AP@k is at most k / P
    reachable  N = min(k, P), so that k positives in front give 1

    Raises ValueError as :func:`average_precision` does, and for another denominator.
    The papers on Instance-160 and Instance-335 do not say which; their numbers grow from k = 10 to all as only
    the first can.
    """
    if denominator not in DENOMINATORS:
        raise ValueError(f"denominator is one of {DENOMINATORS}, not {denominator!r}")
    n = n_positives if denominator == "positives" else min(k, n_positives)
    return average_precision(np.asarray(relevant, bool)[:k], n, protocol)


def precision_at(relevant: ArrayLike, k: int) -> float:
    """The share of positives among the first k hits; hits that a shorter ranking lacks count as wrong."""
    return float(np.asarray(relevant, bool)[:k].sum() / k)


def revisited_precision_at(relevant: ArrayLike, k: int) -> float:
    """The share of positives among the first k hits, or up to the last positive if that comes earlier.

    P@k = |positives at rank <= q| / q,  q = min(k, rank of the last positive)

    A query with fewer than k positives can thus reach 1. No positive found gives 0.
    Reference: Radenovic et al. 2018 (mP@k of ROxford and RParis).
    """
    found = np.flatnonzero(np.asarray(relevant, bool))
    return precision_at(relevant, min(k, int(found[-1]) + 1)) if len(found) else 0.0


def recall_at(relevant: ArrayLike, k: int, n_positives: int) -> float:
    """The share of all positives that are among the first k hits."""
    return float(np.asarray(relevant, bool)[:k].sum() / n_positives)


def localisation(
    boxes: ArrayLike,
    annotated: Sequence[ArrayLike],
    count_missing: bool = True,
    threshold: float = 0.5,
) -> dict[str, float]:
    """How well the boxes of true hits lie: boxes [n, 4] (NaN: none), annotated boxes [m_i, 4] of each hit.

    A hit's overlap is the largest IoU of its box with one of its annotated boxes. Hits without an annotation
    are left out. Hits without a box count as overlap 0, or are left out with ``count_missing=False``.

    Returns n_hits, n_with_box, n_annotated (hits that have an annotation), n_localised (overlap above
    ``threshold``), and over the hits counted ``share`` = n_localised / n and ``mean_iou``; both NaN for none.
    """
    places = np.asarray(boxes, np.float64).reshape(-1, 4)
    if len(places) != len(annotated):
        raise ValueError(f"{len(places)} hits but annotations of {len(annotated)}")
    truth = [np.asarray(rows, np.float64).reshape(-1, 4) for rows in annotated]
    has_box = ~np.isnan(places).any(1)
    has_truth = np.array([len(rows) > 0 for rows in truth], bool)
    counted = has_truth if count_missing else has_truth & has_box
    overlap = np.array([iou(places[i], truth[i]).max() for i in np.flatnonzero(counted)])
    n_localised = int((overlap > threshold).sum())
    return {
        "n_hits": len(places),
        "n_with_box": int(has_box.sum()),
        "n_annotated": int(has_truth.sum()),
        "n_localised": n_localised,
        "share": n_localised / len(overlap) if len(overlap) else float("nan"),
        "mean_iou": float(overlap.mean()) if len(overlap) else float("nan"),
    }
