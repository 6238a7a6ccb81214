"""Deeply activated salient regions (Xiao et al., Deeply activated salient region for instance search, 2020).

Peaks of a classification network's last map, gone back to the picture by excitation backprop, whose authors
(Zhang et al., Top-down neural attention by excitation backprop, 2018) say that a patent on it is pending.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
import torch.nn.functional as F

from instsearch_cli.components import Detector, option
from instsearch_cli.data import Drawing, Ellipses, Regions, WeightMap
from instsearch_plugins.extractors import networks
from instsearch_plugins.numeric import dasr
from instsearch_plugins.numeric.excitation import Rules, maps, seeds
from instsearch_plugins.numeric.layers import INPUT, record
from instsearch_plugins.numeric.tracing import trace

if TYPE_CHECKING:
    from torch import Tensor

    from instsearch_cli.data import Inputs
    from instsearch_plugins.numeric.layers import Circuit, Recording

NETWORKS = {
    "resnet50": networks.ResNet50,
    "resnet101": networks.ResNet101,
    "vgg16": networks.VGG16,
    "densenet161": networks.DenseNet161,
    "squeezenet1_0": networks.SqueezeNet10,
}
TOP = {"vgg16": "features.30"}  #: pool5, as in the paper; of the others the extractor's own layer
TOGETHER = 64  #: maps of a picture that are held at once
SHOWN = 6  #: regions whose maps are drawn


class Found(NamedTuple):
    """A picture's peaks and their ellipses, in original pixels; without a peak, one box."""

    X: Tensor  #: mean activation map f64[h, w]
    cells: Tensor  #: i64[K, 2], (y, x) in X
    scores: Tensor  #: f32[K], X there
    mean: Tensor  #: f64[K, 2]
    covariance: Tensor  #: f64[K, 2, 2]
    boxes: Tensor  #: f32[K, 4]
    kept: Tensor  #: i64[R], of the boxes, best first
    merged: Regions  #: what these have together, which takes their place; empty: they stay

    @property
    def regions(self) -> Regions:
        alone = Regions(self.boxes[self.kept], self.scores[self.kept])
        return self.merged if len(self.merged.boxes) else alone


class DASR(Detector):
    """A box around what made each peak of a network's mean activation map, scored by the peak.

    M >= tau max M for the map M that a peak has in the picture; an ellipse with the second moments of these
    pixels; the rectangle around it.
    """

    @dataclass(frozen=True)
    class Config:
        """Options of ``dasr``, the paper's by default.

        The authors' later code is above_mean, border off, start uniform, max_pool argmax, residual copy,
        average_pool gradient, batch_norm gradient, percentile 95, whole_pixels, with pictures that the extractor
        enlarges (extractor.enlarge, max_size 512); its DASR* is that without above_mean, with nms 0.3.
        """

        #: torchvision's classifier that is gone back through, whatever the extractor is
        network: Literal["resnet50", "resnet101", "vgg16", "densenet161", "squeezenet1_0"] = "resnet50"
        layer: str = ""  #: where peaks are looked for, by torchvision's name; empty: the network's last map
        weights: str = option("", digested=True)  #: weights file; empty: INSTSEARCH_WEIGHTS, torchvision's
        #: 3 x 3 maxima of the mean activation map, or all its cells above the mean
        peaks: Literal["maxima", "above-mean"] = "maxima"
        above_mean: bool = False  #: maxima below the map's mean are none
        border: bool = True  #: maxima in the map's outer rows and columns count
        start: Literal["activation", "uniform"] = "activation"  #: a peak's channels by response, or all alike
        max_pool: Literal["all-one", "argmax"] = "all-one"  #: back to all of a window, or to its maximum
        #: back to the parts of a sum: by their positive or signed shares, past the block to nothing, all to both
        residual: Literal["ratio-pos", "ratio-signed", "residual-only", "copy"] = "ratio-pos"
        batch_norm: Literal["fold", "gradient"] = "fold"  #: part of the convolution, or a factor
        #: back through an average by its inputs, or alike to all of them
        average_pool: Literal["excitation", "gradient"] = option("excitation", omitted_at_default=True)
        stop: int = 1  #: back to where cells are this many pixels apart; 1 is the picture, 8 much faster
        threshold: float = 0.1  #: tau: pixels below this share of their map's maximum do not count
        percentile: float = 0.0  #: instead of tau: pixels below this percentile do not count; 0 is off
        scale: float = 2.0  #: half an ellipse's axis, in standard deviations
        whole_pixels: bool = False  #: boxes of whole pixels
        nms: float = 1.0  #: beta: a box with more IoU than this with a better one is dropped; 1 keeps all
        #: in place of regions the boxes around those that are near and alike, joined two by two up to all of them
        merge: bool = False
        appearance: float = 0.7  #: of merging: what being alike counts beside being near
        memory: int = option(1024, "query")  #: MiB that going back may take

        def __post_init__(self) -> None:
            if self.stop < 1 or self.memory < 1:
                raise ValueError("stop and memory are at least 1")
            if not 0 < self.threshold <= 1 or not 0 <= self.nms <= 1:
                raise ValueError("threshold is above 0 and at most 1, nms from 0 to 1")
            if not 0 <= self.percentile < 100:
                raise ValueError(f"percentile is at least 0 and below 100, not {self.percentile}")
            if self.scale <= 0:
                raise ValueError(f"scale is above 0, not {self.scale}")

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config, self.device = config, device
        network = NETWORKS[config.network]
        layer = config.layer or TOP.get(config.network, network.default)
        self.extractor = network(
            network.Config(layer=layer, weights=config.weights, precision="fp32"), device
        )
        self.rules = Rules(config.max_pool, config.residual, config.average_pool)
        self.concurrent = device.type != "cuda"
        self._tracing = threading.Lock()

    def identity(self) -> dict[str, str]:
        """The weights' sha256, the network, the layer; of whole pixels, too, how, which was another way once."""
        return self.extractor.identity() | ({"pixels": "numbered"} if self.config.whole_pixels else {})

    def detect(self, inputs: Inputs) -> Regions:
        """Boxes by descending mean activation at their peaks, which is their score; merged ones as they are joined.

        A map without a peak, a flat one say, gives the whole picture. Raises UsageError if ``memory`` does not
        hold one peak, or for a layer that there is no way back from, and InstsearchError without weights.
        """
        return self._find(self._record(inputs), inputs.size).regions

    def explain(self, inputs: Inputs) -> list[Drawing]:
        """The mean activation map with its peaks, boxes before and after NMS, and the maps of the best regions.

        As in the paper's figures 1 and 3.
        """
        recording = self._record(inputs)
        found = self._find(recording, inputs.size)
        grid = dasr.lattice(recording, recording.circuit.top, inputs.size)
        sx, sy, ox, oy = grid.transform
        step, origin = torch.tensor([sx, sy]), torch.tensor([ox, oy])
        at = origin + step * (found.cells.cpu().flip(1) + 0.5)
        n, m = len(at), len(found.kept)
        circles = Ellipses(at, (step / 4).expand_as(at), found.scores[:n])
        mean = WeightMap(found.X.float().cpu()[None], grid)
        drawings = [Drawing(f"mean activation: {_count(n, 'peak')}", (mean, circles))]
        if m < n:
            drawings.append(
                Drawing(f"before NMS: {_count(n, 'box', 'es')}", (Regions(found.boxes, found.scores),))
            )
        after = Regions(found.boxes[found.kept], found.scores[found.kept])
        drawings.append(Drawing(f"{'after NMS' if m < n else 'regions'}: {_count(m, 'box', 'es')}", (after,)))
        if len(found.merged.boxes):
            drawings.append(
                Drawing(f"merged: {_count(len(found.merged.boxes), 'box', 'es')}", (found.merged,))
            )
        best = found.kept[:SHOWN] if n else found.kept[:0]
        backs = self._back(recording, found.cells[best.to(found.cells.device)]).cpu()
        grid = dasr.lattice(recording, recording.at(self.config.stop), inputs.size)
        radii, angles = (v.float() for v in dasr.axes(found.covariance, self.config.scale))
        for place, (k, M) in enumerate(zip(best.tolist(), backs, strict=True), 1):
            score = found.scores[[k]]
            ellipse = Ellipses(found.mean[[k]].float(), radii[[k]], score, angles[[k]])
            over = WeightMap((M / M.max())[None], grid), ellipse, Regions(found.boxes[[k]], score)
            drawings.append(Drawing(f"region {place}: response {float(score):.3g}", over))
        return drawings

    @property
    def _circuit(self) -> Circuit:
        """What lies below the layer. Raises UsageError, InstsearchError."""
        with self._tracing:  # pictures are worked on side by side
            return self._traced

    @cached_property
    def _traced(self) -> Circuit:
        return trace(self.extractor.network, self.extractor.layer, self.config.batch_norm == "fold")

    def _record(self, inputs: Inputs) -> Recording:
        """What the network makes of the picture, which is enlarged if it is under 32 pixels wide or high."""
        assert inputs.image is not None
        pixels = torch.from_numpy(inputs.image.pixels).to(self.device)
        x = networks.normalise(pixels.permute(2, 0, 1)[None])
        h, w = (max(n, networks.SMALLEST) for n in x.shape[2:])
        if (h, w) != x.shape[2:]:
            x = F.interpolate(x, size=(h, w), mode="bilinear")
        return record(self._circuit, x)

    def _find(self, recording: Recording, size: tuple[int, int]) -> Found:
        config, X = self.config, dasr.mean_map(recording.output)
        maxima = config.peaks == "maxima"
        cells = dasr.maxima(X, config.above_mean, config.border) if maxima else dasr.above_mean(X)
        mean, C = X.new_zeros(len(cells), 2), X.new_zeros(len(cells), 2, 2)
        for first in range(0, len(cells), TOGETHER):
            part = slice(first, first + TOGETHER)
            M = self._back(recording, cells[part])
            mean[part], C[part] = dasr.moments(dasr.active(M, config.threshold, config.percentile))
        mean, C = dasr.in_pixels(mean, C, dasr.lattice(recording, recording.at(config.stop)))
        some = mean.isfinite().all(1)  # but for peaks of which nothing came down
        cells, mean, C = cells[some], mean[some].cpu(), C[some].cpu()
        if not len(cells):
            whole = torch.tensor([[0.0, 0.0, *size]])
            one = torch.tensor([0])
            return Found(X, cells, X.mean().float().cpu()[None], mean, C, whole, one, _none())
        scores = X[cells[:, 0], cells[:, 1]].float().cpu()
        _, h, w = recording.shapes[INPUT]
        boxes = dasr.boxes(mean, C, (w, h), config.scale, config.whole_pixels)
        scale = torch.tensor([size[0] / w, size[1] / h], dtype=C.dtype)
        boxes = (boxes.double() * scale.repeat(2)).float()
        kept = dasr.suppress(boxes, scores, config.nms)
        groups = _none()
        if config.merge:
            y, x = cells[kept.to(cells.device)].unbind(1)
            at = recording.output[:, y, x].T
            groups = Regions(*dasr.merged(boxes[kept], scores[kept], at, size, config.appearance))
        return Found(X, cells, scores, mean * scale, C * scale * scale[:, None], boxes, kept, groups)

    def _back(self, recording: Recording, cells: Tensor) -> Tensor:
        """The map f32[K, h, w] that each cell has where going back stops."""
        at = [(y, x) for y, x in cells.tolist()]
        start = seeds(recording.output, at, self.config.start)
        memory = self.config.memory * 2**20
        M = maps(recording, start, at, recording.at(self.config.stop), self.rules, memory)
        return M.clamp(min=0)


class DASRStar(DASR):
    """DASR from every cell above the mean, less boxes that overlap better ones."""

    @dataclass(frozen=True)
    class Config(DASR.Config):
        """Options of ``dasr-star``: as of ``dasr``."""

        #: 3 x 3 maxima of the mean activation map, or all its cells above the mean
        peaks: Literal["maxima", "above-mean"] = "above-mean"
        nms: float = 0.3  #: beta: a box with more IoU than this with a better one is dropped; 1 keeps all


def _none() -> Regions:
    return Regions(torch.empty(0, 4), torch.empty(0))


def _count(n: int, noun: str, plural: str = "s") -> str:
    return f"{n:,} {noun}{plural * (n != 1)}"
