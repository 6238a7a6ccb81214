"""Bag of local convolutional features (Mohedano et al. 2018; Mohedano et al., ICMR 2016)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from instsearch_cli.components import option
from instsearch_cli.data import BoxWeight, FeatureMap, SparseVectors, WeightMap, Words
from instsearch_cli.errors import InstsearchError
from instsearch_plugins.abilities import DAMAGED, VOCABULARY, WordEncoder, stepped
from instsearch_plugins.numeric import hamming
from instsearch_plugins.numeric.kmeans import kmeans, nearest
from instsearch_plugins.numeric.normalise import l2
from instsearch_plugins.numeric.pooling import region_masks, weights_over
from instsearch_plugins.numeric.whitening import LEARNT, pca_whitening, whiten

if TYPE_CHECKING:
    from torch import Tensor

    from instsearch_cli.components import Data, Progress, State
    from instsearch_cli.data import Features, Regions
    from instsearch_formats import Array

CHUNK = 1 << 14  #: descriptors worked on at once while fitting
MIN_PER_WORD = 8  #: descriptors that a word is learnt from, at least
SHORT = 128  #: descriptors of so many values are compared to all centroids faster than to the right hundred
COMPARISONS = 100  #: centroids that a descriptor is compared to while clustering, as in the paper's k-means


def weighted_histogram(words: Tensor, alpha: Tensor, K: int) -> tuple[Tensor, Tensor, Tensor]:
    """Bag of words of each region, with weights.

    h_rk = sum_{i: a_i = k} alpha_ri

    where a = words: int[n], -1 being no word, and alpha: f32[M, n] is 0 outside the region. Returns the rows
    in CSR form without zeros: indices i64[nnz] ascending in each row, h f32[nnz], indptr i64[M + 1].
    """
    region, i = ((alpha > 0) & (words >= 0)).nonzero(as_tuple=True)
    key, position = torch.unique(region * K + words[i], return_inverse=True)
    h = torch.zeros(len(key), device=alpha.device).index_add_(0, position, alpha[region, i])
    starts = torch.arange(len(alpha) + 1, device=key.device) * K
    return key % K, h, torch.searchsorted(key, starts)


def inverse_document_frequency(words: Tensor, image: Tensor, K: int) -> Tensor:
    """How rare a word is among the images that the vocabulary was learnt from.

    idf_k = log((N + 1) / (N_k + 1/2))

    where N_k of the N images have word k: log(N / N_k) but for a smoothing that keeps it finite for a word
    that no image has, and above 0 for one that all have. words: i64[n], image: i64[n]. Returns f32[K].
    """
    pairs = torch.unique(image * K + words)
    N_k = torch.bincount(pairs % K, minlength=K)
    return torch.log((len(torch.unique(image)) + 1) / (N_k + 0.5)).float()


class BLCF(WordEncoder):
    """Assignment map, then weighted histogram: L2, PCA-whitening, L2, nearest of K words.

    Keypoints are encoded alike. What is fitted comes from a random sample of the collection's descriptors:
    as many from each image, from images in random order.
    """

    local: ClassVar[str] = "word-map"
    codes: ClassVar[str] = "csr"
    fit_needs: ClassVar[tuple[str, ...]] = ("features",)
    learns: ClassVar[dict[str, Array]] = LEARNT | VOCABULARY
    concurrent: bool = True

    @dataclass(frozen=True)
    class Config:
        """Options of ``blcf``."""

        words: int = 25_000  #: size of the vocabulary; fewer where the sample has under 8 descriptors a word
        whiten: bool = True  #: PCA-whiten the descriptors; no for SIFT
        dims: int = 512  #: dimensions kept by the whitening; 0 keeps all
        n_train: int = 256_000  #: descriptors to learn from (paper: 3,000,000)
        fit_images: int = 2000  #: images to take them from, or more where these have too few
        iterations: int = 6  #: of k-means
        seed: int = 0  #: of the sample and of k-means
        query_interp: int = option(2, touches="query")  #: how much finer a query's feature map is made
        db_interp: int = option(1, touches="local")  #: the same for the collection
        #: whether cells outside of a query's box count: not at all, or less the farther off they are
        query_outside: Literal["none", "distance"] = option("none", touches="query")
        sqrt: bool = option(False, touches="codes")  #: square root of the counts, against bursts of one word
        idf: bool = option(False, touches="codes")  #: weight each word by how rare it is
        #: 64 bits of Hamming embedding for each local feature, for searcher hamming
        signatures: bool = option(False, omitted_at_default=True)

        def __post_init__(self) -> None:
            for name in ("words", "n_train", "fit_images", "iterations", "query_interp", "db_interp"):
                if getattr(self, name) < 1:
                    raise ValueError(f"{name} is at least 1, not {getattr(self, name)}")
            if self.dims < 0:
                raise ValueError(f"dims is 0 (all) or more, not {self.dims}")

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config = config
        self.device = device
        self.same_grid = config.db_interp == 1

    # -- learning -------------------------------------------------------------------------------------

    def fit(self, data: Data, progress: Progress) -> State:
        """Learn the whitening, the vocabulary and the idf.

        Returns mean f32[D] and projection f32[D, d] (if it whitens), centroids f32[K, d], idf f32[K], for
        signatures rotation f32[64, d], thresholds f32[K, 64] and neighbours i32[K, m], and images, the number
        sampled. Raises InstsearchError if the collection has no descriptor.
        """
        x, image = self._sample(data, progress)
        state: State = {"images": len(torch.unique(image))}
        if self.config.whiten:
            batches = (c.to(self.device) for c in torch.split(x, CHUNK))
            state["mean"], state["projection"] = pca_whitening(batches, self.config.dims)
            x = _in_place(x, state["mean"], state["projection"])
        K = min(self.config.words, max(1, len(x) // MIN_PER_WORD))
        x = x.to(self.device)
        exact = self.device.type != "cpu" or x.shape[1] <= SHORT
        neighbours = None if exact else COMPARISONS
        centroids, words = kmeans(x, K, self.config.iterations, self.config.seed, neighbours, progress)
        if self.config.signatures:
            P = hamming.projection(x.shape[1], self.config.seed).to(self.device)
            state |= {"rotation": P, "thresholds": hamming.thresholds(x, words, P, centroids)}
            state["neighbours"] = hamming.neighbours(centroids).int()
        return {**state, "centroids": centroids, "idf": inverse_document_frequency(words.cpu(), image, K)}

    def _sample(self, data: Data, progress: Progress) -> tuple[Tensor, Tensor]:
        """Random unit descriptors f32[n, D] with n <= n_train, and the row i64[n] of the image of each."""
        config = self.config
        rows = np.random.default_rng(config.seed).permutation(data.images)
        generator = torch.Generator().manual_seed(config.seed)
        per_image = math.ceil(config.n_train / max(1, min(len(rows), config.fit_images)))
        progress.start("sampling local features", min(len(rows), config.fit_images))
        x, image, n = torch.empty(0), torch.empty(config.n_train, dtype=torch.int64), 0
        for inputs in data.inputs(self.fit_needs, rows):
            assert inputs.features is not None
            found = _rows(inputs.features)
            found = found[(found != 0).any(1)]
            found = found[torch.randperm(len(found), generator=generator)[:per_image].to(found.device)]
            found = found[: config.n_train - n]
            if n == 0:
                x = torch.empty(config.n_train, found.shape[1])
            x[n : n + len(found)] = l2(found).cpu()
            image[n : n + len(found)] = inputs.row
            n += len(found)
            progress.advance()
            if n == config.n_train:
                break
        if n == 0:
            raise InstsearchError(
                "no image of the collection has a local feature to learn the vocabulary from"
            )
        return x[:n], image[:n]

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Take over what ``fit`` returned. Raises InstsearchError where something of it is missing."""
        if self.config.signatures and "rotation" not in state:
            raise InstsearchError(DAMAGED)
        arrays = {k: torch.from_numpy(np.asarray(v)).to(self.device) for k, v in state.items()}
        self.centroids, self.idf = arrays["centroids"], np.asarray(state["idf"])
        self.whitening = (arrays["mean"], arrays["projection"]) if "mean" in arrays else None
        self.hamming = self.compared = None
        if "rotation" in state:
            self.hamming = (np.asarray(state["rotation"]), np.asarray(state["thresholds"]))
            self.compared = (np.asarray(state["neighbours"]), np.asarray(state["centroids"]))

    # -- encoding -------------------------------------------------------------------------------------

    def embed(self, features: Features) -> Words:
        """The word of each local feature: i32[h, w] or i32[N]; a feature that is all zero has none (-1).

        With signatures, keypoints are brought to the steps of :func:`hamming.packed`, which take less room.
        """
        return stepped(self._assign(features, self.config.db_interp))

    def embed_query(self, features: Features) -> Words:
        """As :meth:`embed`, on a map made ``query_interp`` times as fine."""
        return self._assign(features, self.config.query_interp)

    def _assign(self, features: Features, interp: int) -> Words:
        grid, geometry = features.grid, None
        if isinstance(features, FeatureMap):
            features = interpolated(features, interp)
            grid = features.grid
        else:
            geometry = features.geometry
        x = _rows(features).to(self.device)
        some = (x != 0).any(1)
        x = self._unit(x[some])
        found = nearest(x, self.centroids).cpu().numpy()
        there = some.cpu().numpy()
        words = np.full(len(there), -1, np.int32)
        words[there] = found
        signatures = None
        if self.hamming is not None:
            signatures = np.zeros(len(words), np.int64)
            signatures[there] = hamming.signatures(x.cpu().numpy(), found, *self.hamming)
        if geometry is None:
            words = words.reshape(grid.shape)
        return Words(words, grid, geometry, len(self.centroids), signatures)

    def _unit(self, x: Tensor) -> Tensor:
        """Descriptors f32[n, D] as words are of them: f32[n, d]."""
        x = l2(x)
        return x if self.whitening is None else l2(whiten(x, *self.whitening))

    def assignments(
        self, values: np.ndarray, k: int, ratio: float, words: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See :meth:`WordEncoder.assignments`."""
        if self.hamming is None or self.compared is None:
            raise InstsearchError(hamming.UNSIGNED)
        unit, (P, tau) = self._unit(torch.from_numpy(values).to(self.device)), self.hamming
        first = nearest(unit, self.centroids).cpu().numpy() if words is None else words
        x = unit.cpu().numpy()
        i, found = hamming.nearest_words(x, first, *self.compared, k, ratio)
        return i, found, hamming.signed((x @ P.T)[i], found, tau)

    def aggregate(
        self, local: Words, weights: WeightMap | BoxWeight | None, regions: Regions | None
    ) -> SparseVectors:
        """One L2-normalised histogram a region, or one for the picture; an empty one is an empty row."""
        masks, boxes = region_masks(local, regions)
        words = torch.from_numpy(local.words).flatten().long()
        alpha = masks.flatten(1).float()
        over = weights_over(local, weights)
        if over is not None:
            alpha = alpha * over.flatten().cpu()
        indices, h, indptr = weighted_histogram(words, alpha, len(self.centroids))
        if self.config.sqrt:
            h = h.sqrt()
        if self.config.idf:
            h = h * torch.from_numpy(self.idf)[indices]
        row = torch.repeat_interleave(indptr.diff())
        norm = torch.zeros(len(boxes), device=h.device).index_add_(0, row, h.square()).sqrt()
        return SparseVectors(indices, h / norm[row], indptr, len(self.centroids), boxes)  # type: ignore[arg-type]

    def aggregate_query(self, local: Words, weights: WeightMap | BoxWeight | None) -> SparseVectors:
        """The histogram of the box, or of the picture by :func:`nearness` to the box."""
        if (
            self.config.query_outside == "distance"
            and isinstance(weights, BoxWeight)
            and local.geometry is None
        ):
            alpha = torch.from_numpy(nearness(local.grid.mask(weights.box)))[None]
            if weights.weights is not None:
                alpha = alpha * weights.weights.on(*local.grid.shape).cpu()
            weights = WeightMap(alpha, local.grid)
        return self.aggregate(local, weights, None)


def nearness(mask: np.ndarray) -> np.ndarray:
    """1 in a mask, and outside less the farther off: alpha_ij = 1 - d_ij / max d, d the distance to the mask's cells.

    mask: bool[h, w], some of it set. Returns f32[h, w]. Reference: the weighted distances of BLCF's authors' code.
    """
    d = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(1 - d / (d.max() or 1), np.float32)


def interpolated(features: FeatureMap, factor: int) -> FeatureMap:
    """The map made ``factor`` times as fine, bilinearly, its first and last cells staying where they are."""
    if factor == 1:
        return features
    X = F.interpolate(features.values[None], scale_factor=factor, mode="bilinear", align_corners=True)[0]
    return FeatureMap(X, features.grid.resized(X.shape[1], X.shape[2]))


def _rows(features: Features) -> Tensor:
    x = torch.as_tensor(features.values)
    return x.flatten(1).T if isinstance(features, FeatureMap) else x


def _in_place(x: Tensor, mean: Tensor, projection: Tensor) -> Tensor:
    """Whitened unit rows f32[n, d], written over x: f32[n, D], d <= D, behind what is still to be read."""
    d = projection.shape[1]
    out = x.view(-1)[: len(x) * d].view(len(x), d)
    for start in range(0, len(x), CHUNK):
        out[start : start + CHUNK] = l2(
            whiten(x[start : start + CHUNK].to(mean.device), mean, projection)
        ).cpu()
    return out
