"""Measuring saliency maps against where people looked, picture by picture."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from instsearch_cli.components import Weighter, own
from instsearch_cli.data import Grid, WeightMap
from instsearch_cli.engine.describe import Described, Picture, noted
from instsearch_cli.engine.stages import FEATURES, GRID, IMAGE
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.images import BadImage, Reader, read_image
from instsearch_cli.measure.fixations import blurred, fixated
from instsearch_cli.measure.saliency_metrics import auc_judd, cc, kl, nss, sim

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from instsearch_cli.data import Features, Image
    from instsearch_cli.engine.assembly import Assembly
    from instsearch_cli.measure.fixations import Fixations, Scene
    from instsearch_cli.progress import Quiet

    Watch = Callable[[Scene, dict[str, np.ndarray], dict[str, np.ndarray]], None]
    """Is shown each picture with the weightings' maps f32[H, W] and the scores f64[5], by row."""

METRICS = ("AUC-Judd", "CC", "NSS", "KL", "SIM")
CENTRE, PEOPLE = "centre Gaussian", "people"  #: the rows that give the scale
MOST_PEOPLE = 15  #: left out in turn, evenly chosen among those who looked at a picture
WORKERS, AHEAD = 2, 4


def scores(P: np.ndarray, F: np.ndarray, Q: np.ndarray, jitter: float = 0.0) -> np.ndarray:
    """All METRICS of a map P [H, W] against fixated pixels F and density Q: f64[5], NaN where undefined.

    P is divided by its largest value, which matters to ``jitter`` alone.
    """
    peak = P.max()
    P = P / peak if peak > 0 else P
    return np.array([auc_judd(P, F, jitter), cc(P, Q), nss(P, F), kl(P, Q), sim(P, Q)])


def centre_gaussian(size: tuple[int, int], sigma: float = 0.25) -> np.ndarray:
    """A Gaussian on the picture's centre, as much wider than high as the picture is: f64[H, W].

    g(y, x) = exp(-((x - W/2)^2 / W^2 + (y - H/2)^2 / H^2) / (2 sigma^2))

    at the pixels' centres; size is (W, H). It looks at no picture: what a map must beat to say anything.
    """
    gx, gy = (np.exp(-(((np.arange(n) + 0.5) / n - 0.5) ** 2) / (2 * sigma**2)) for n in size)
    return np.outer(gy, gx)


def people_scores(scene: Scene, jitter: float = 0.0) -> np.ndarray:
    """How well the others predict one person, each person in turn, averaged: f64[5].

    P are the fixations of all the others, blurred; F and Q those of the person left out, for Q blurred too.
    What a map can hope for in AUC and NSS; CC and KL are harder here, since the density of one person is
    sparser than that of all. NaN unless two people looked at the picture; at most MOST_PEOPLE are left out.
    """
    points = [p for p in scene.points if len(p)]
    if len(points) < 2:
        return np.full(len(METRICS), np.nan)
    each = []
    for i in np.linspace(0, len(points) - 1, min(len(points), MOST_PEOPLE)).round().astype(int):
        others = np.concatenate(points[:i] + points[i + 1 :])
        P, Q = (blurred(p, scene.size, scene.sigma) for p in (others, points[i]))
        each.append(scores(P, fixated(points[i], scene.size), Q, jitter))
    return np.asarray(np.mean(each, axis=0))


def spread(weights: WeightMap, size: tuple[int, int]) -> np.ndarray:
    """Weights on cells, read bilinearly at the centre of each pixel: f32[H, W]; several maps are added up.

    a + t (b - a) along each side in turn, t the pixel's place between the centres of cells a and b, so that
    equal cells give equal pixels to the last bit; beyond the outermost centres their cells go on. size is (W, H).
    """
    sx, sy, ox, oy = weights.grid.transform
    laid = weights.values.sum(0).cpu().numpy()
    for axis, pixels, step, origin in ((0, size[1], sy, oy), (1, size[0], sx, ox)):
        last = laid.shape[axis] - 1
        at = ((np.arange(pixels) + 0.5 - origin) / step - 0.5).clip(0, last)
        i = at.astype(np.int64)
        t = np.expand_dims((at - i).astype(np.float32), 1 - axis)
        a, b = laid.take(i, axis), laid.take(np.minimum(i + 1, last), axis)
        laid = a + t * (b - a)
    return np.asarray(laid)


class Mapper:
    """A weighting, asked for the maps of whole pictures.

    Where the component has ``saliency(pixels u8[H, W, 3]) -> [H, W]``, that is its map. Else ``weigh`` is
    asked as in an index run, and its cells are spread over the picture; a weighting that reads no features
    gets the nominal grid, whatever the extractor.

    Raises UsageError for a weighting that needs more than one picture.
    """

    def __init__(self, assembly: Assembly) -> None:
        assert assembly.weighting is not None
        self.part = assembly.weighting
        self.name = self.part.name
        self.assembly, self.pipeline, self.device = assembly, assembly.pipeline, assembly.device
        self.full = own(self.part.component.saliency, Weighter.saliency)
        needs = set() if self.full else set(self.part.needs)
        self.features, self.image = FEATURES in needs, bool(needs)
        if self.part.fits or needs - {IMAGE, FEATURES}:
            raise UsageError(f"weighting '{self.name}' needs an indexed collection, not single pictures")

    def config(self) -> dict[str, Any]:
        """The weighting with its options, and the extractor's if its features are read."""
        stages = ("extractor", "weighting") if self.features else ("weighting",)
        return {stage: self.pipeline.stages()[stage].table() for stage in stages}

    def map(self, scene: Scene, image: Image | None, features: Features | None) -> np.ndarray:
        """f32[H, W], finite and not negative. Raises InstsearchError if the component gives another."""
        laid = self._map(scene, image, features)
        if not np.isfinite(laid).all() or laid.min() < 0:
            raise InstsearchError(
                f"{self.part} gave a map that is not finite and not negative, for {scene.name}"
            )
        return laid

    def _map(self, scene: Scene, image: Image | None, features: Features | None) -> np.ndarray:
        if self.full:
            with noted(self.part, [scene.name]):
                computed = self.part.component.saliency(scene.pixels)
            values = torch.as_tensor(computed, dtype=torch.float32)
            if values.shape == scene.pixels.shape[:2]:
                return np.asarray(values.cpu().numpy())
            h, w = values.shape
            return spread(WeightMap(values[None], Grid.over(h, w, scene.size)), scene.size)
        described = Described(self.assembly, Picture(image, scene.name, scene.size))
        if self.features:
            described.take(FEATURES, features)
        else:
            described.take(GRID, Grid.nominal(scene.size))
        return spread(described.weights, scene.size)


@dataclass
class Row:
    """One line of the table: a map's scores, f64[4] a picture, and the seconds it took; what made it."""

    name: str
    config: dict[str, Any] = field(default_factory=dict)
    scores: list[np.ndarray] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def means(self) -> dict[str, float]:
        """The mean of each metric over the pictures where it is defined; NaN if it is nowhere."""
        table = np.reshape(self.scores, (-1, len(METRICS)))
        defined = (~np.isnan(table)).sum(0)
        sums = np.nansum(table, axis=0)
        return {
            m: float(s / n) if n else float("nan") for m, s, n in zip(METRICS, sums, defined, strict=True)
        }

    def undefined(self) -> dict[str, int]:
        """In how many pictures each metric is not defined; only those where it is any."""
        counts = np.isnan(np.reshape(self.scores, (-1, len(METRICS)))).sum(0)
        return {m: int(n) for m, n in zip(METRICS, counts, strict=True) if n}

    def rate(self) -> float | None:
        """Pictures a second, by the median picture, reading and scoring not counted; None for a scale row."""
        return 1 / max(float(np.median(self.seconds)), 1e-9) if self.seconds else None

    def plain(self) -> dict[str, Any]:
        """JSON-ready; None where a metric is not defined."""
        rate = self.rate()
        return {
            "name": self.name,
            "config": self.config,
            **{metric: defined(value) for metric, value in self.means().items()},
            "images": len(self.scores),
            "undefined": self.undefined(),
            "images/s": rate and round(rate, 3),
        }


def defined(value: float) -> float | None:
    """The number, None for NaN."""
    return None if math.isnan(value) else value


@dataclass
class Report:
    """The rows, how many pictures they are over, why the others are not, and points dropped as outside.

    found = scored + skipped + unscored; ``protocol``: what was asked for, by name
    """

    rows: list[Row]
    found: int = 0
    scored: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    outside: int = 0
    data: str = ""
    protocol: dict[str, Any] = field(default_factory=dict)

    @property
    def unscored(self) -> int:
        """How many pictures were not wanted."""
        return self.found - self.scored - len(self.skipped)

    def plain(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "data": self.data,
            "images": {
                "found": self.found,
                "scored": self.scored,
                "skipped": [{"image": name, "reason": reason} for name, reason in self.skipped],
                "not asked for": self.unscored,
            },
            "outside": self.outside,
            "protocol": self.protocol,
            "rows": [row.plain() for row in self.rows],
        }


def measure(
    fixations: Fixations,
    names: Sequence[str],
    assemblies: Sequence[Assembly],
    progress: Quiet,
    blur: float = 0.0,
    jitter: float = 0.0,
    watch: Watch | None = None,
) -> Report:
    """Score the weighting of each assembly on the same pictures, and the two rows that give the scale.

    blur    a Gaussian's standard deviation as a share of the picture's width, laid over each weighting's map
            before scoring; 0: maps are scored as they are
    jitter  of :func:`auc_judd`

    Pictures that cannot be read, or in which nobody looked anywhere, are skipped. The features of a picture
    are extracted once, by the first assembly's extractor: all assemblies have the same. Raises InstsearchError
    if no picture could be scored.
    """
    mappers = [Mapper(assembly) for assembly in assemblies]
    fit = assemblies[0].extractor.component.fit_size
    with_image = any(m.image for m in mappers)
    rows = {m.name: Row(m.name, m.config()) for m in mappers} | {n: Row(n) for n in (CENTRE, PEOPLE)}
    report = Report(list(rows.values()), len(fixations))

    def load(name: str) -> tuple[Scene, Image | None]:
        scene = fixations.read(name)
        return scene, read_image(scene.path, fit, fixations.max_pixels, name) if with_image else None

    progress.start("scoring", len(names))
    with Reader(names, load, WORKERS, AHEAD) as reader, torch.inference_mode():
        for name, loaded in reader:
            progress.advance()
            if isinstance(loaded, BadImage):
                report.skipped.append((name, loaded.reason))
                continue
            scene, image = loaded
            report.outside += scene.outside
            if not scene.fixations.any():
                report.skipped.append((name, "nobody looked anywhere in it"))
                continue
            maps = _maps(mappers, scene, image, rows)
            if blur:
                maps = {m: _smooth(P, blur * scene.size[0]) for m, P in maps.items()}
            judged = maps | {CENTRE: centre_gaussian(scene.size)}
            found = {m: scores(P, scene.fixations, scene.density, jitter) for m, P in judged.items()}
            found[PEOPLE] = people_scores(scene, jitter)
            for row in report.rows:
                row.scores.append(found[row.name])
            report.scored += 1
            if watch is not None:
                watch(scene, maps, found)
    progress.close()
    if not report.scored:
        first = f": {report.skipped[0][0]}: {report.skipped[0][1]}" if report.skipped else ""
        raise InstsearchError(f"none of the {len(names):,} pictures could be scored{first}")
    return report


def _maps(
    mappers: Sequence[Mapper], scene: Scene, image: Image | None, rows: dict[str, Row]
) -> dict[str, np.ndarray]:
    """The map of each weighting; what it took goes into its row, the features it read included."""
    features, extracting = None, 0.0
    if any(m.features for m in mappers):
        began = time.perf_counter()
        features = Described(mappers[0].assembly, Picture(image)).features
        _finish(mappers[0].device)
        extracting = time.perf_counter() - began
    maps = {}
    for mapper in mappers:
        began = time.perf_counter()
        maps[mapper.name] = mapper.map(scene, image if mapper.image else None, features)
        took = time.perf_counter() - began
        rows[mapper.name].seconds.append(took + extracting if mapper.features else took)
    return maps


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _smooth(P: np.ndarray, sigma: float) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    return np.asarray(gaussian_filter(P, sigma, mode="nearest"))
