"""LightGlue (Lindenberger, Sarlin and Pollefeys, "LightGlue: local feature matching at light speed", ICCV 2023), as
kornia builds it: keypoints of query and hit matched by a network that sees all of both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch

from instsearch_cli.components import option
from instsearch_cli.errors import UsageError
from instsearch_plugins.extractors.learnt_keypoints import require_kornia
from instsearch_plugins.numeric.hypotheses import Found, plausible
from instsearch_plugins.published_network import PublishedNetwork
from instsearch_plugins.rerankers.hit_by_hit import ByInliers, keypoints_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from torch import Tensor, nn

    from instsearch_cli.data import Inputs, Keypoints, Query


def affinity(p: np.ndarray, q: np.ndarray, pixels: float) -> tuple[np.ndarray, np.ndarray] | None:
    """The affine transform that most matches agree on, and which do; None where there is no plausible one.

    argmax_[A | t] sum_i [ |A p_i + t - q_i| < pixels ], by RANSAC, then least squares over these. p, q f32[m, 2] ->
    f32[2, 3], bool[m]. The same for the same matches in every run.
    """
    if len(p) < 3:
        return None
    A, inside = cv2.estimateAffine2D(p, q, method=cv2.RANSAC, ransacReprojThreshold=max(pixels, 1e-3))
    if A is None or not plausible(A[None, :, :2])[0]:
        return None
    return A.astype(np.float32), inside[:, 0].astype(bool)


class Matching(PublishedNetwork, ByInliers):
    """score = inliers + the score before, for verified hits; the others keep score and order, after these.

    Inliers are the network's matches that one affine transform takes from the query's box to the hit.
    """

    @dataclass(frozen=True)
    class Config:
        """Options of ``lightglue``."""

        depth: int = 50  #: how many of the best hits are looked at
        filter_threshold: float = 0.1  #: a match is likelier than this
        tolerance: float = 0.04  #: how far an inlier may miss, as a share of the picture's longer side
        min_inliers: int = 6  #: fewer inliers than this verify nothing
        weights: str = option("", digested=True)  #: weights file; empty: INSTSEARCH_WEIGHTS, imported ones

        def __post_init__(self) -> None:
            if self.depth < 1 or self.min_inliers < 3 or not 0 <= self.filter_threshold < 1:
                raise ValueError("depth is at least 1, min_inliers 3, filter_threshold 0 to below 1")
            if self.tolerance <= 0:
                raise ValueError("tolerance is above 0")

    config: Config

    @classmethod
    def build(cls) -> nn.Module:
        """kornia's LightGlue for these keypoints, without weights."""
        require_kornia("reranker lightglue")
        from kornia.feature import LightGlue as Network

        make: Any = Network  # its first argument may be None, which downloads nothing
        options = {k: v for k, v in Network.features[cls.extractors[0]].items() if k != "weights"}
        network: nn.Module = make(None, **options)
        return network

    @classmethod
    def import_weights(cls, path: Path) -> dict[str, Tensor]:
        """The authors' file by kornia's names, and the thresholds that are no weights."""
        state = {}
        for name, x in super().import_weights(path).items():
            if name.startswith(
                "extractor."
            ):  # what XFeat's authors publish has their keypoints' network, too
                continue
            kind, _, rest = name.removeprefix("matcher.").partition(".")
            layer, _, inner = rest.partition(".")
            older = kind in ("self_attn", "cross_attn")
            state[f"transformers.{layer}.{kind}.{inner}" if older else name.removeprefix("matcher.")] = x
        with torch.device("meta"):
            network: Any = cls.build()
        layers = range(len(network.transformers))
        return {
            "confidence_thresholds": torch.tensor([network.confidence_threshold(i) for i in layers]),
            **state,
        }

    def _found(self, query: Query, candidates: Iterable[Inputs]) -> Iterator[tuple[list[Inputs], Found]]:
        """What the query's keypoints agree on in each candidate."""
        asked = self._asked(keypoints_of(query.features, query.box), query.image.size)
        if asked["descriptors"].shape[1] < self.config.min_inliers:
            return
        for inputs in candidates:
            yield [inputs], self._compared(asked, keypoints_of(inputs.features, None), inputs.size)

    def _compared(self, asked: dict[str, Tensor], hit: Keypoints, size: tuple[int, int]) -> Found:
        """The inliers of one hit, how likely they are together, and its transform."""
        config, nothing = self.config, np.full((1, 6), np.nan, np.float32)
        none = Found(np.zeros(1, np.int64), np.zeros(1, np.float32), nothing)
        if len(hit.values) < config.min_inliers:
            return none
        theirs = self._asked(hit, size)
        with torch.inference_mode():
            found = self.network({"image0": asked, "image1": theirs})
        (i, j), likely = (x.cpu() for x in found["matches"][0].T), found["scores"][0].cpu().numpy()
        p, q = asked["keypoints"][0].cpu()[i].numpy(), theirs["keypoints"][0].cpu()[j].numpy()
        fitted = affinity(p, q, config.tolerance * max(size))
        if fitted is None or fitted[1].sum() < config.min_inliers:
            return none
        A, inside = fitted
        return Found(np.array([inside.sum()]), np.array([likely[inside].sum()]), A.reshape(1, 6))

    def _asked(self, points: Keypoints, size: tuple[int, int]) -> dict[str, Tensor]:
        """Keypoints as the network takes them. Raises UsageError for those of another width."""
        network: Any = self.network
        if points.values.shape[1] != network.conf.input_dim:
            raise UsageError(
                f"reranker '{self.architecture}' matches keypoints of {network.conf.input_dim} values; this pipeline's "
                f"have {points.values.shape[1]}: take other weights of --extractor {self.extractors[0]}"
            )
        sides = torch.tensor([size], dtype=torch.float32, device=self.device)
        places = torch.from_numpy(points.geometry[None, :, :2]).to(self.device)
        return {
            "keypoints": torch.minimum(places.clamp(min=0), sides),
            "descriptors": torch.from_numpy(points.values[None]).to(self.device),
            "image_size": sides,
        }

    def _built(self) -> nn.Module:
        network = self.build()
        network.conf.filter_threshold = self.config.filter_threshold  # type: ignore[union-attr]
        return network


class LightGlue(Matching):
    """LightGlue of ALIKED's keypoints."""

    architecture = "aliked_lightglue"
    published = "aliked_lightglue.pth of github.com/cvg/LightGlue, release v0.1_arxiv (Apache-2.0)"
    extractors = ("aliked",)


class DiskLightGlue(Matching):
    """LightGlue of DISK's keypoints."""

    architecture = "disk_lightglue"
    published = "disk_lightglue.pth of github.com/cvg/LightGlue, release v0.1_arxiv (Apache-2.0)"
    extractors = ("disk",)


class LighterGlue(Matching):
    """LighterGlue: six narrower layers, of XFeat's keypoints."""

    architecture = "lighterglue"
    published = "xfeat-lighterglue.pt of github.com/verlab/accelerated_features (Apache-2.0)"
    extractors = ("xfeat",)
