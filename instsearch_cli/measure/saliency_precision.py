"""Saliency precision: how much of a weighting's saliency lies on the annotated objects (Siméoni et al. 2018, 4.3)."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from instsearch_cli.data import Grid
from instsearch_cli.engine.assembly import Assembly, pick_device
from instsearch_cli.engine.collection import Collection
from instsearch_cli.engine.estimate import check_space
from instsearch_cli.engine.making import writing
from instsearch_cli.engine.stages import IMAGE, WEIGHTS
from instsearch_cli.errors import InstsearchError
from instsearch_cli.measure.datasets import present, take_dataset
from instsearch_cli.measure.guard import Careful, check_whole
from instsearch_cli.measure.saliency import CENTRE, centre_gaussian, defined

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from instsearch_cli.components import Dataset
    from instsearch_cli.data import Box, WeightMap
    from instsearch_cli.engine.pipeline import Pipeline
    from instsearch_cli.engine.registry import Registry
    from instsearch_cli.progress import Quiet
    from instsearch_formats import Index

    Watch = Callable[[str, Path, Sequence[Box], dict[str, WeightMap], dict[str, float]], None]
    """Is shown each image: its name, file and boxes, the weightings' maps, and all rows' precisions."""

UNIFORM = "uniform"  #: equal saliency everywhere: its precision is the boxes' share of the picture


def coverage(grid: Grid, size: tuple[int, int], boxes: Sequence[Box]) -> np.ndarray:
    """How much of each cell the union of some boxes covers, as a share of what the picture has of it: f64[h, w].

    The boxes' edges cut the picture into rectangles, each of them in the union or not; a cell's overlap with
    such a rectangle is one length along x times one along y. Cells outside the picture get 0; size is (W, H).
    """
    edges = np.asarray(boxes, np.float64).reshape(-1, 4)
    sx, sy, ox, oy = grid.transform
    x, along_x = _overlaps(ox + sx * np.arange(grid.w + 1), size[0], edges[:, 0::2])
    y, along_y = _overlaps(oy + sy * np.arange(grid.h + 1), size[1], edges[:, 1::2])
    within = [
        ((y[:-1] >= y0) & (y[1:] <= y1))[:, None] & ((x[:-1] >= x0) & (x[1:] <= x1))[None]
        for x0, y0, x1, y1 in edges
    ]
    union = np.any(within, axis=0) if within else np.zeros((max(len(y) - 1, 0), max(len(x) - 1, 0)))
    return np.asarray(along_y @ union @ along_x.T)


def _overlaps(cells: np.ndarray, end: int, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct edges f64[n + 1] along a side, and each cell's share in each of the n pieces: f64[cells, n]."""
    cells, cuts = cells.clip(0, end), np.unique(edges)
    shared = np.minimum(cells[1:, None], cuts[1:]) - np.maximum(cells[:-1, None], cuts[:-1])
    length = np.diff(cells)[:, None]
    return cuts, np.divide(shared.clip(0), length, out=np.zeros_like(shared), where=length > 0)


def precision(S: np.ndarray, inside: np.ndarray) -> float:
    """sum_p inside_p S_p / sum_p S_p of a map S f[h, w] and the covered share of its cells; NaN if S is all zero."""
    total = float(S.sum(dtype=np.float64))
    return float((S * inside).sum(dtype=np.float64)) / total if total > 0 else float("nan")


@dataclass
class Row:
    """One line of the table: the precision of each image, NaN where it is not defined."""

    name: str
    config: dict[str, Any] = field(default_factory=dict)
    values: list[float] = field(default_factory=list)
    fitted: list[str] = field(default_factory=list)
    computed: int = 0  #: images whose maps were not in the index
    seconds: float = 0.0  #: taken to make them, with all that they are made from

    def defined(self) -> np.ndarray:
        """The precisions that are defined, f64[n]."""
        values = np.asarray(self.values, np.float64)
        return values[~np.isnan(values)]

    def summary(self) -> dict[str, float]:
        """Mean, lower quartile, median and upper quartile of the precisions that are defined; else NaN."""
        values = self.defined()
        if not len(values):
            return dict.fromkeys(STATISTICS, float("nan"))
        found = (values.mean(), *np.percentile(values, (25, 50, 75)))
        return {name: float(v) for name, v in zip(STATISTICS, found, strict=True)}

    def rate(self) -> float | None:
        """Images a second; None where no map had to be made."""
        return self.computed / max(self.seconds, 1e-9) if self.computed else None

    def plain(self, images: Sequence[str]) -> dict[str, Any]:
        """JSON-ready, with the precision of each of the images; None where it is not defined."""
        rate, n = self.rate(), len(self.defined())
        return {
            "name": self.name,
            "config": self.config,
            **{name: defined(value) for name, value in self.summary().items()},
            "images": n,
            "undefined": len(self.values) - n,
            "images/s": rate and round(rate, 3),
            "fitted": self.fitted,
            "precision": {image: defined(value) for image, value in zip(images, self.values, strict=True)},
        }


STATISTICS = ("mean", "lower quartile", "median", "upper quartile")


@dataclass
class Report:
    """annotated = scored + skipped + unscored; each row has a value for each of ``images``.

    ``index`` is where the maps are kept; ``protocol``: what was asked for, by name.
    """

    rows: list[Row]
    annotated: int
    dataset: str
    index: Path
    images: list[str] = field(default_factory=list)  #: those scored
    skipped: list[tuple[str, str]] = field(default_factory=list)
    protocol: dict[str, Any] = field(default_factory=dict)

    @property
    def scored(self) -> int:
        return len(self.images)

    @property
    def unscored(self) -> int:
        """How many annotated images were not wanted."""
        return self.annotated - self.scored - len(self.skipped)

    def plain(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "dataset": self.dataset,
            "index": str(self.index),
            "images": {
                "annotated": self.annotated,
                "scored": self.scored,
                "skipped": [{"image": name, "reason": reason} for name, reason in self.skipped],
                "not asked for": self.unscored,
            },
            "protocol": self.protocol,
            "rows": [row.plain(self.images) for row in self.rows],
        }


def measure(
    registry: Registry,
    dataset: Dataset,
    index_path: Path,
    pipelines: Sequence[Pipeline],
    progress: Quiet,
    device: str = "auto",
    choose: Callable[[Sequence[str]], Sequence[str]] = lambda names: names,
    present_only: bool = False,
    watch: Watch | None = None,
) -> Report:
    """The precision of each pipeline's weighting on the dataset's annotated images, and of two maps for scale.

    The maps become weights layers of the index, and what they need is fitted on the whole dataset, as `eval`
    does: it finds them there. ``choose`` picks the images to score. The pipelines are named after their
    weightings. Raises InstsearchError if images are missing, unless ``present_only``, if none is annotated or
    none could be scored.
    """
    boxes = {name: list(found) for name, found in dataset.boxes().items() if len(found)}
    if not boxes:
        raise InstsearchError(
            f"dataset '{dataset.name}' has no annotated boxes: give them with --boxes FILE.csv (image,x,y,w,h)"
        )
    refs = present(dataset, present_only)
    assemblies = [Assembly(pipeline, registry, pick_device(device)) for pipeline in pipelines]
    with writing(index_path, create=True) as index:
        rows = take_dataset(index, dataset, refs, False, progress)
        measured = [_measured_row(index, assembly, progress) for assembly in assemblies]
    report = Report([*measured, Row(UNIFORM), Row(CENTRE)], len(boxes), dataset.name, index_path)
    wanted = choose(list(boxes))
    there, removed = {ref.name for ref in refs}, index.images.removed()
    scored = []
    for name in wanted:
        row = rows.get(name)
        if row is not None and row not in removed:
            scored.append((name, row))
        elif row is not None:
            report.skipped.append((name, removed[row].removeprefix("skipped: ")))
        else:
            report.skipped.append((name, "cannot be read" if name in there else "is not there"))
    _score(index, assemblies, scored, boxes, report, progress, watch)
    if not report.images:
        first = f": {report.skipped[0][0]}: {report.skipped[0][1]}" if report.skipped else ""
        raise InstsearchError(f"none of the {len(wanted):,} annotated images could be scored{first}")
    return report


def _measured_row(index: Index, assembly: Assembly, progress: Quiet) -> Row:
    """Write the weights that the index lacks."""
    part = assembly.part(WEIGHTS)
    stages = ("extractor", "weighting") if set(part.needs) - {IMAGE} else ("weighting",)
    row = Row(part.name, {stage: assembly.pipeline.stages()[stage].table() for stage in stages})
    check_whole(index, assembly)
    check_space(index, assembly, assembly.pipeline.keep_features, progress)
    began = time.perf_counter()
    outcome = Careful(index, assembly, progress).index_all()
    row.seconds = time.perf_counter() - began
    row.computed, row.fitted = outcome.written.get(WEIGHTS, 0), outcome.fitted
    return row


def _score(
    index: Index,
    assemblies: Sequence[Assembly],
    scored: Sequence[tuple[str, int]],
    boxes: dict[str, list[Box]],
    report: Report,
    progress: Quiet,
    watch: Watch | None,
) -> None:
    collections = [Collection(index, assembly) for assembly in assemblies]
    progress.start("scoring", len(scored))
    with contextlib.ExitStack() as stack:
        streams = [
            stack.enter_context(contextlib.closing(c.stream([(row, (WEIGHTS,)) for _, row in scored])))
            for c in collections
        ]
        for (name, row), *items in zip(scored, *streams, strict=True):
            progress.advance()
            record = collections[0].record(row)
            size = (record.width, record.height)
            share = float(coverage(Grid.over(1, 1, size), size, boxes[name])[0, 0])
            if not share > 0:
                report.skipped.append((name, "its boxes lie outside the picture"))
                continue
            nominal = Grid.nominal(size)
            maps = {r.name: item[WEIGHTS] for r, (_, item) in zip(report.rows, items, strict=False)}
            found = {n: _of(weights, size, boxes[name]) for n, weights in maps.items()}
            found[UNIFORM] = share
            centred = centre_gaussian((nominal.w, nominal.h))
            found[CENTRE] = precision(centred, coverage(nominal, size, boxes[name]))
            for line in report.rows:
                line.values.append(found[line.name])
            report.images.append(name)
            if watch is not None:
                watch(name, collections[0].path(row), boxes[name], maps, found)
    progress.close()


def _of(weights: WeightMap, size: tuple[int, int], boxes: Sequence[Box]) -> float:
    """The precision of a weight map; several channels are added up."""
    return precision(weights.values.sum(0).cpu().numpy(), coverage(weights.grid, size, boxes))
