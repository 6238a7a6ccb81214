"""How well regions cover annotated boxes: the lines of `instsearch eval --regions`, its JSON and its plot."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from instsearch_cli.measure.localisation import THRESHOLDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import numpy as np

    from instsearch_cli.measure.localisation import Coverage

HALF = THRESHOLDS.tolist().index(0.5)


def lines(dataset: str, covered: Mapping[str, Coverage]) -> Iterator[str]:
    """A line a pipeline with what is known at IoU 0.5, then the curves in percent."""
    one = next(iter(covered.values()))
    curves = {
        "recall, % at IoU": {name: c.recall for name, c in covered.items()},
        "covering, % at IoU": {name: c.covering for name, c in covered.items()},
    }
    wide = max(map(len, [*covered, *curves]))
    yield f"{dataset}: {len(one.annotated):,} annotated boxes in {one.images:,} images"
    yield "recall: annotated boxes that a region covers; covering: regions that cover an annotated box"
    yield f"{'pipeline':<{wide}}  regions/image  recall@0.5  covering@0.5  mean best IoU"
    for name, c in covered.items():
        yield (
            f"{name:<{wide}}  {c.regions_per_image:>13.1f}  {c.recall[HALF]:>10.3f}  {c.covering[HALF]:>12.3f}"
            f"  {c.annotated.mean():>13.3f}"
        )
    for title, shares in curves.items():
        yield f"{title:<{wide}} " + "".join(f"{t:4.2f}"[1:].rjust(5) for t in THRESHOLDS)
        for name, values in shares.items():
            yield f"{name:<{wide}} " + "".join(_percent(v) for v in values)


def _percent(share: float) -> str:
    return ("–" if math.isnan(share) else f"{100 * share:.1f}" if share < 0.9995 else "100").rjust(5)


def plain(covered: Mapping[str, Coverage], configs: Mapping[str, Any]) -> dict[str, Any]:
    """For JSON: "iou", the thresholds, and "pipelines" with a value of each curve for each of them."""
    rows = [
        {
            "name": name,
            "config": configs[name],
            "annotated_images": c.images,
            "annotated_boxes": len(c.annotated),
            "regions_per_image": c.regions_per_image,
            "mean_best_iou": float(c.annotated.mean()),
            "recall": _numbers(c.recall),
            "covering": _numbers(c.covering),
        }
        for name, c in covered.items()
    ]
    return {"iou": THRESHOLDS.tolist(), "pipelines": rows}


def _numbers(shares: np.ndarray) -> list[float | None]:
    return [None if math.isnan(v) else float(v) for v in shares]


def plot_recall(path: Path, dataset: str, covered: Mapping[str, Coverage]) -> None:
    """Recall against IoU, a curve a pipeline, as PNG or SVG."""
    from instsearch_cli.report.plot import Curve, curves

    shown = [Curve(name, THRESHOLDS.tolist(), c.recall.tolist()) for name, c in covered.items()]
    curves(path, shown, "IoU", "share of the annotated boxes that a region covers", dataset)
