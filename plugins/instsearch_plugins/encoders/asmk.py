"""What the local features of each visual word are off it, added up: ASMK (numeric/asmk.py), as in "Learning and
aggregating deep local descriptors for instance-level recognition" (HOW: Tolias, Jenicek and Chum, ECCV 2020)."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch

from instsearch_cli.components import option
from instsearch_cli.data import SparseVectors
from instsearch_plugins.abilities import WordVectorEncoder
from instsearch_plugins.encoders.blcf import BLCF
from instsearch_plugins.encoders.bovw import check_described, included, included_digest
from instsearch_plugins.numeric.asmk import aggregated_residuals, nearest_words, rotation
from instsearch_plugins.numeric.local_features import rows, sizes
from instsearch_plugins.numeric.normalise import l2
from instsearch_plugins.numeric.pooling import region_masks, weights_over
from instsearch_plugins.numeric.whitening import whiten

if TYPE_CHECKING:
    from torch import Tensor

    from instsearch_cli.components import Data, Progress, State
    from instsearch_cli.data import BoxWeight, Features, Regions, WeightMap
    from instsearch_formats import Array


class ASMK(WordVectorEncoder):
    """code = gamma (sqrt(w_c) V_c)_c,  V_c = L2(sum_{i: a_i = c} alpha_i (x_i - c)),  gamma = (sum_c w_c)^(-1/2)

    over the words c that the picture, or the region, has; w_c is 1, or the word's idf. x_i are a map's cells or
    keypoints' descriptors, of unit length, whitened and of unit length again. With ``binary`` V_c is the signs of R V_c
    over sqrt(D), R a random rotation as Hamming embedding has one. A query's features have ``assign`` words each.
    Searcher `asmk` compares word by word; a plain product of codes is its alpha = 1 with tau = -1.
    """

    local: ClassVar[None] = None
    codes: ClassVar[str] = "csr"
    fit_needs: ClassVar[tuple[str, ...]] = ("features",)
    learns: ClassVar[dict[str, Array]] = BLCF.learns
    concurrent: bool = True
    refits: ClassVar[tuple[str, ...]] = ("vocabulary=own",)

    @dataclass(frozen=True)
    class Config:
        """Options of ``asmk``. HOW has 65,536 words, 128 values each, and 5 words for a feature of a query."""

        #: included: the words of keypoints of sift that come with the package, not whitened; nothing is learnt
        vocabulary: Literal["own", "included"] = "own"
        words: int = 25_000  #: size of the vocabulary; fewer where the sample has under 8 features a word
        whiten: bool = True  #: PCA-whiten the features; no for SIFT
        dims: int = 128  #: dimensions kept by the whitening; 0 keeps all
        n_train: int = 256_000  #: features to learn from
        fit_images: int = 2000  #: images to take them from, or more where these have too few
        iterations: int = 6  #: of k-means
        seed: int = 0  #: of the sample and of k-means
        binary: bool = option(True, touches="codes")  #: a bit for each value of what is added up
        rotate: bool = option(True, touches="codes")  #: turn it before its signs are taken; the papers do not
        idf: bool = option(False, touches="codes")  #: weight each word by how rare it is
        assign: int = option(5, touches="query")  #: words that a query's feature is added up at

        def __post_init__(self) -> None:
            for name in ("words", "n_train", "fit_images", "iterations", "assign"):
                if vars(self)[name] < 1:
                    raise ValueError(f"{name} is at least 1, not {vars(self)[name]}")
            if self.dims < 0:
                raise ValueError(f"dims is 0 (all) or more, not {self.dims}")

    config: Config

    def __init__(self, config: Config, device: torch.device) -> None:
        super().__init__(config, device)
        self._state: Any = None

    @property
    def fits(self) -> bool:
        """Whether it learns."""
        return self.config.vocabulary == "own"

    @property
    def width(self) -> int:
        """See :class:`WordVectorEncoder`."""
        return self._learnt["centroids"].shape[1]

    @property
    def binary(self) -> bool:
        """See :class:`WordVectorEncoder`."""
        return self.config.binary

    def identity(self) -> dict[str, Any]:
        """Which vocabulary came with the package."""
        return {} if self.fits else {"vocabulary": included_digest()}

    def fit(self, data: Data, progress: Progress) -> State:
        """As :meth:`BLCF.fit`."""
        c = self.config
        learner = BLCF.Config(
            words=c.words,
            whiten=c.whiten,
            dims=c.dims,
            n_train=c.n_train,
            fit_images=c.fit_images,
            iterations=c.iterations,
            seed=c.seed,
        )
        return BLCF(learner, self.device).fit(data, progress)

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Take over what ``fit`` returned."""
        self._state = state

    @functools.cached_property
    def _learnt(self) -> dict[str, Tensor]:
        state = included() if self._state is None else self._state
        names = [name for name in ("centroids", "idf", "mean", "projection") if name in state]
        learnt = {name: torch.from_numpy(np.asarray(state[name])).to(self.device) for name in names}
        return {**learnt, "rotation": rotation(learnt["centroids"].shape[1]).to(self.device)}

    # -- encoding -------------------------------------------------------------------------------------

    def aggregate(
        self, local: Features, weights: WeightMap | BoxWeight | None, regions: Regions | None
    ) -> SparseVectors:
        """A code of the picture, or one a region; the values of word c are those from c D on."""
        return self._coded(local, weights, regions, 1)

    def aggregate_query(self, local: Features, weights: WeightMap | BoxWeight | None) -> SparseVectors:
        """A code of what the weights leave, with ``assign`` words for each feature."""
        return self._coded(local, weights, None, self.config.assign)

    def _coded(
        self, local: Features, weights: WeightMap | BoxWeight | None, regions: Regions | None, assign: int
    ) -> SparseVectors:
        c, idf = self._learnt["centroids"], self._learnt["idf"]
        alpha, boxes = _counts(local, weights, regions)
        x = self._unit(rows(local).to(self.device))
        some = x.any(1) & (alpha > 0).any(0).to(self.device)
        x, alpha = x[some], alpha.to(self.device)[:, some]
        row, word, V = aggregated_residuals(x, nearest_words(x, c, assign), alpha, c)
        K, D = c.shape
        if self.config.binary:
            turned = V @ self._learnt["rotation"].T if self.config.rotate else V
            V = torch.where(turned > 0, 1.0, -1.0) / D**0.5
        w = idf[word] if self.config.idf else torch.ones(len(word), device=V.device)
        total = torch.zeros(len(boxes), device=V.device).index_add_(0, row, w)
        V = V * (w / total[row]).sqrt()[:, None]
        indices = word[:, None] * D + torch.arange(D, device=V.device)
        indptr = torch.bincount(row, minlength=len(boxes)).cumsum(0) * D
        ends = np.concatenate([[0], indptr.cpu().numpy()])
        return SparseVectors(indices.flatten(), V.flatten(), ends, K * D, boxes)  # type: ignore[arg-type]

    def _unit(self, x: Tensor) -> Tensor:
        """Features f32[n, C] as words are of them: f32[n, D]; those of zeros stay zero."""
        width = self._learnt.get("mean", self._learnt["centroids"].T).shape[0]
        check_described(x, width, self._state is None)
        if "mean" not in self._learnt:
            return l2(x)
        return l2(whiten(l2(x), self._learnt["mean"], self._learnt["projection"])) * x.any(1, keepdim=True)


def _counts(
    local: Features, weights: WeightMap | BoxWeight | None, regions: Regions | None
) -> tuple[Tensor, Tensor]:
    """What each feature, of all the picture's sizes, counts in each region: f32[M, n]; the boxes f32[M, 4]."""
    counts = []
    for size in sizes(local):
        masks, boxes = region_masks(size, regions)
        alpha, over = masks.flatten(1).float(), weights_over(size, weights)
        counts.append(alpha if over is None else alpha * over.flatten().cpu())
    return torch.cat(counts, 1), boxes
