"""What weakly supervised detection makes of proposals (PCL: Tang et al., "PCL: Proposal cluster learning for weakly
supervised object detection", IEEE TPAMI 2018), with soft proposals as in Lin, Zhan and Zhao, "Instance search based on
weakly supervised feature learning", Neurocomputing 2019.

PCL was published with the proposals of selective search, which no library has that this one builds on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from instsearch_cli.components import Detector, option
from instsearch_cli.data import Grid, Regions
from instsearch_plugins.extractors.networks import scaled
from instsearch_plugins.numeric.cam_boxes import threshold_boxes
from instsearch_plugins.numeric.regions import cell_boxes, rmac_grid
from instsearch_plugins.numeric.soft_proposals import objectness
from instsearch_plugins.published_network import PublishedNetwork

if TYPE_CHECKING:
    from torch import Tensor

    from instsearch_cli.data import Inputs

MEAN = (102.9801, 115.9465, 122.7717)  # of blue, green and red, which is the network's order
STRIDE, CELLS = 8, 7  #: of the last map; of a pooled proposal's sides
BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
LAST = "Box_Refine_Outs.refine_score.0.weight"


class ConvBody(nn.Module):
    """VGG-16 without its fourth and fifth pooling; what follows the fourth block is dilated by 2."""

    def __init__(self) -> None:
        super().__init__()
        channels = 3
        for number, widths in enumerate(BLOCKS, 1):
            dilation = 1 + (number == 5)
            layers: list[nn.Module] = []
            for width in widths:
                layers += [nn.Conv2d(channels, width, 3, 1, dilation, dilation), nn.ReLU(inplace=True)]
                channels = width
            self.add_module(f"conv{number}", nn.Sequential(*layers, *[nn.MaxPool2d(2)] * (number < 4)))

    def forward(self, x: Tensor) -> Tensor:
        """f32[B, 3, H, W] -> f32[B, 512, H / 8, W / 8]."""
        for block in self.children():
            x = block(x)
        return x


class PCLNetwork(nn.Module):
    """The network by the names of its authors' PyTorch code; K classes, and three refinements with the background."""

    def __init__(self, classes: int = 20, hidden: int = 4096, refinements: int = 3) -> None:
        super().__init__()
        last = BLOCKS[-1][-1]
        self.Conv_Body = ConvBody()
        self.Box_Head = nn.ModuleDict(
            {"fc1": nn.Linear(last * CELLS * CELLS, hidden), "fc2": nn.Linear(hidden, hidden)}
        )
        self.Box_MIL_Outs = nn.ModuleDict(
            {name: nn.Linear(hidden, classes) for name in ("mil_score0", "mil_score1")}
        )
        refine = nn.ModuleList(nn.Linear(hidden, classes + 1) for _ in range(refinements))
        self.Box_Refine_Outs = nn.ModuleDict({"refine_score": refine})

    def forward(self, X: Tensor, boxes: Tensor) -> Tensor:
        """p[r, c] = 1/3 sum_k softmax_c(W_k f_r + b_k), f_r the two layers over the maxima of 7 x 7 bins of a box.

        X: f32[1, 512, h, w], of :class:`ConvBody`; boxes: f32[R, 4] in pixels of its picture. Returns f32[R, K + 1],
        the background first. Reference: sections 3.2 and 4.1.
        """
        from torchvision.ops import roi_pool

        f = roi_pool(X, [boxes], CELLS, 1 / STRIDE).flatten(1)
        f = F.relu(self.Box_Head["fc2"](F.relu(self.Box_Head["fc1"](f))))
        refined = [refine(f).softmax(1) for refine in self.Box_Refine_Outs["refine_score"]]  # type: ignore[attr-defined]
        return torch.stack(refined).mean(0)


class PCL(PublishedNetwork, Detector):
    """Proposals of soft proposals on the network's own map and of R-MAC's grid, scored by their best class.

    A box that overlaps a better one of its class by more than ``nms`` is none. Where none scores ``min_score`` it is
    the best one.
    """

    architecture: ClassVar[str] = "pcl"
    published: ClassVar[str] = (
        "a VGG-16 trained on VOC, of github.com/ppengtang/pcl.pytorch (model_step19999.pth)"
    )
    concurrent: bool = True

    @dataclass(frozen=True)
    class Config:
        """Options of ``pcl``."""

        weights: str = option("", digested=True)  #: weights file; empty: INSTSEARCH_WEIGHTS, the imported one
        side: int = 480  #: pixels of the shorter side, as the network sees it; the longer one has 4 times that at most
        thresholds: tuple[float, ...] = (
            0.1,
            0.2,
            0.3,
            0.4,
            0.5,
            0.6,
            0.7,
            0.8,
        )  #: of the map of soft proposals
        levels: int = 4  #: of R-MAC's grid, whose squares are proposals, too; 0: none
        min_score: float = 0.05  #: of a region's best class
        nms: float = 0.3  #: a box with more IoU than this with a better one of its class is none
        most: int = 100  #: boxes a picture has, at most, the best

        def __post_init__(self) -> None:
            if self.side < 32 or self.most < 1 or self.levels < 0:
                raise ValueError("side is at least 32, most at least 1, levels 0 or more")
            if not self.thresholds or not all(0 <= t < 1 for t in self.thresholds):
                raise ValueError("thresholds are one or more, from 0 to below 1")
            if not (0 <= self.min_score < 1 and 0 < self.nms <= 1):
                raise ValueError("min_score is at least 0 and below 1, nms above 0 and at most 1")

    config: Config

    @classmethod
    def build(cls) -> nn.Module:
        """The network of the 20 classes of VOC."""
        return PCLNetwork()

    def detect(self, inputs: Inputs) -> Regions:
        """boxes f32[R, 4], the best first, scores f32[R] and classes i64[R], from 1. Raises InstsearchError."""
        from torchvision.ops import batched_nms

        assert inputs.image is not None
        network = self.network
        with torch.inference_mode():
            x = self._input(inputs.image.pixels)
            X = network.Conv_Body(x)  # type: ignore[operator]
            boxes = self._proposals(X[0], inputs.size)
            w, h = inputs.size
            scale = boxes.new_tensor([x.shape[3] / w, x.shape[2] / h]).repeat(2)
            p = network(X, (boxes * scale).to(self.device)).cpu()[:, 1:]
        scores, classes = p.max(1)
        kept = (scores >= self.config.min_score).nonzero().flatten()
        kept = kept if len(kept) else scores.argmax()[None]
        kept = kept[batched_nms(boxes[kept], scores[kept], classes[kept], self.config.nms)][
            : self.config.most
        ]
        return Regions(boxes[kept], scores[kept], None, classes[kept] + 1)

    def _input(self, pixels: np.ndarray) -> Tensor:
        """The network's input f32[1, 3, H, W]: BGR less its means, brought to ``side`` by :func:`scaled`."""
        bgr = torch.from_numpy(np.ascontiguousarray(pixels[:, :, ::-1])).to(self.device, torch.float32)
        w, h = scaled(bgr.shape[1], bgr.shape[0], self.config.side)
        x = (bgr - bgr.new_tensor(MEAN)).permute(2, 0, 1)[None]
        return F.interpolate(x, size=(h, w), mode="bilinear", align_corners=False)

    def _proposals(self, X: Tensor, size: tuple[int, int]) -> Tensor:
        """Distinct boxes f32[R, 4] of a picture's map f32[C, h, w], in original pixels."""
        h, w = X.shape[1:]
        M = objectness(X)
        heat = (M - M.min()).cpu().numpy()
        cells = [threshold_boxes(heat / max(float(heat.max()), 1e-30), self.config.thresholds)]
        if self.config.levels:
            cells.append(rmac_grid(h, w, self.config.levels).numpy())
        return cell_boxes(np.unique(np.concatenate(cells), axis=0), Grid.over(h, w, size))

    def _built(self) -> nn.Module:
        """The network with as many classes, and layers as wide, as its weights have."""
        last, first = (self._state().get(name) for name in (LAST, "Box_Head.fc1.weight"))
        if last is None or first is None or min(last.ndim, first.ndim) < 2 or len(last) < 2:
            return self.build()
        return PCLNetwork(len(last) - 1, len(first))
