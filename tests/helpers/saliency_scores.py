"""The scores of saliency maps as the metrics give them, and those of a report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from instsearch_cli.measure.fixations import Fixations
from instsearch_cli.measure.saliency import METRICS
from instsearch_cli.measure.saliency_metrics import auc_judd, cc, kl, nss, sim


def by_name(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in report["rows"]}


def expected(data: Path, mapped: Callable[[Any], np.ndarray], jitter: float = 0.0) -> dict[str, float]:
    fixations = Fixations(data)
    table = []
    for name in fixations.names:
        scene = fixations.read(name)
        P = mapped(scene).astype(np.float64)
        S, Q = scene.fixations, scene.density
        table.append([auc_judd(P / P.max(), S, jitter), cc(P, Q), nss(P, S), kl(P, Q), sim(P, Q)])
    return dict(zip(METRICS, np.mean(table, axis=0).tolist(), strict=True))


def numbers(row: dict[str, Any]) -> dict[str, float]:
    return {m: row[m] for m in METRICS}


def red(scene: Any) -> np.ndarray:
    return np.asarray(scene.pixels[..., 0] / np.float32(255))
