"""One vector for the picture out of what each region, or each local feature, is off its visual word: VLAD
(numeric/vlad.py), over salient regions as in Xiao et al., 2020."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch

from instsearch_cli.components import option
from instsearch_cli.data import BoxWeight, FeatureMap, Vectors
from instsearch_cli.errors import REPAIR, InstsearchError, UsageError
from instsearch_formats import Array
from instsearch_plugins.encoders.regions_mean import MeanVectors
from instsearch_plugins.numeric.kmeans import kmeans
from instsearch_plugins.numeric.local_features import rows, sizes
from instsearch_plugins.numeric.normalise import l2
from instsearch_plugins.numeric.pooling import extent, region_masks, weights_over
from instsearch_plugins.numeric.vlad import aggregated, local_axes, residuals, signed_power
from instsearch_plugins.numeric.whitening import LEARNT, pca_whitening, pca_whitening_of_few, whiten

if TYPE_CHECKING:
    from torch import Tensor

    from instsearch_cli.components import Data, Progress, State
    from instsearch_cli.data import Features, Inputs, Regions, WeightMap


class VLAD(MeanVectors):
    """V_k = R_k^T sum_{i: a_i = k} r_i / ||r_i||, r_i = x_i - c_k; then V's signed power, L2: K D values.

    x_i are the vectors of the picture's regions as `regions-mean` has them, or its local features, L2, whitened
    and L2 again. c_k are the K words, R_k the principal axes of each. Over regions a picture has one vector; over
    local features each region has one. A query over regions is described by the regions that the pipeline's
    detector finds in its box, as the collection's pictures are; without a detector, by R-MAC's grid in the box.

    SIFT + VLAD is ``over`` = local, ``words`` = 64, no ``whiten``, no ``unit``, no ``rotate``; with ``intra`` and
    ``power`` = 1 it is Arandjelović and Zisserman's, "All about VLAD", CVPR 2013.
    """

    name: ClassVar[str] = "vlad"
    learns: ClassVar[dict[str, Array]] = LEARNT | {
        "centroids": Array("f4", ("K", "D"), some=True),
        "rotations": Array("f4", ("K", "D", "D"), group="rotations"),
        "axes": Array("f4", ("KD", "e"), group="axes"),
    }

    @dataclass(frozen=True)
    class Config(MeanVectors.Config):
        """Options of ``vlad``."""

        over: Literal["regions", "local"] = (
            "regions"  #: what is added up: regions' vectors, or local features
        )
        words: int = 4  #: size of the vocabulary, 64 say over local features
        whiten: bool = True  #: PCA-whiten what is added up; no for SIFT
        n_train: int = 50_000  #: vectors that the words are learnt from, as many from each picture
        iterations: int = 20  #: of k-means
        unit: bool = True  #: each vector counts alike, however far it is from its word
        rotate: bool = True  #: turn what is added up at a word to its principal axes; words * D * D numbers
        intra: bool = False  #: each word counts alike, however much was added up at it
        pca: int = 0  #: dimensions kept of the whole, turned to its principal axes before the power; 0: all, not turned
        power: float = option(0.5, touches="codes")  #: of each value, its sign kept; 1 for none
        #: a query over regions has those that the detector finds in its box, or R-MAC's grid of query-levels
        query: Literal["detected", "grid"] = option("detected", touches="query")

        def __post_init__(self) -> None:
            super().__post_init__()
            if min(self.words, self.n_train, self.iterations) < 1:
                raise ValueError("words, n-train and iterations are at least 1")
            if self.pca < 0 or self.power <= 0:
                raise ValueError("pca is 0 (all) or more, power above 0")
            if self.over == "local" and self.channels != "none":
                raise ValueError(
                    "channels weigh the vectors of regions: with over=local there are none to weigh"
                )

    config: Config

    def __init__(self, config: Config, device: torch.device) -> None:
        super().__init__(config, device)
        self.localises = config.over == "local"  # over regions a code is of the whole picture
        self.query_regions = config.over == "regions" and config.query == "detected"

    # -- learning -------------------------------------------------------------------------------------

    def fit(self, data: Data, progress: Progress) -> State:
        """Learn the whitening, the words, their axes and those of the whole, whichever are asked for.

        Returns mean f32[D] and projection f32[D, d], centroids f32[K, d], rotations f32[K, d, d] and axes
        f32[K d, d']. Memory is bounded by ``n_train`` vectors, and with ``pca`` by as many codes as they have
        values. Raises InstsearchError if there is nothing to learn from.
        """
        self._share = -(-self.config.n_train // max(len(self._sampled(data)), 1))
        state = super().fit(data, progress) if self.config.whiten else {}
        self._take(state)
        found = list(self._batches(data, progress, f"sampling what '{self.name}' adds up", self._some))
        if not found:
            raise InstsearchError(f"no picture has anything to learn the words of '{self.name}' from")
        x = torch.cat(found)
        state["centroids"], _ = kmeans(
            x, min(self.config.words, len(x)), self.config.iterations, self.config.seed, progress=progress
        )
        if self.config.rotate:
            a, r = residuals(x, state["centroids"], self.config.unit)
            state["rotations"] = local_axes(r, a, len(state["centroids"]))
        self._take(state)
        if self.config.pca:
            del x, found
            state |= self._learnt_axes(data, progress)
        return state

    def _units(self, inputs: Inputs) -> Tensor:
        """Unit vectors f32[n, C] of the regions, or of a share of the local features; none of zeros."""
        if self.config.over == "regions":
            return super()._units(inputs)
        assert inputs.features is not None
        return l2(self._shared(rows(inputs.features), inputs.row).to(self.device))

    def _some(self, inputs: Inputs) -> Tensor:
        """A share of what a picture adds up: f32[n, d]."""
        return self._shared(self._whitened(self._units(inputs)), inputs.row)

    def _shared(self, x: Tensor, row: int) -> Tensor:
        """At most ``n_train`` by the number of pictures of a picture's vectors; those of zeros are left out."""
        x = x[x.any(1)]
        chosen = np.random.default_rng((self.config.seed, max(row, 0))).permutation(len(x))[: self._share]
        return x[torch.from_numpy(np.sort(chosen)).to(x.device)]

    def _whole(self, inputs: Inputs) -> Tensor:
        """A picture's code before it is turned, f32[1, K d]; f32[0, K d] where nothing is added up."""
        assert inputs.features is not None
        regions = inputs.regions if self.config.over == "regions" else None
        V, _ = self._sums(inputs.features, inputs.weights, regions)
        return V[V.any(1)]

    def _learnt_axes(self, data: Data, progress: Progress) -> State:
        """The ``pca`` principal axes f32[K d, d'] of whole codes; none where they are all equal."""
        codes = self._batches(data, progress, f"learning the axes of '{self.name}'", self._whole)
        if len(self._sampled(data)) >= self.centroids.numel():
            return {"axes": l2(pca_whitening(codes, self.config.pca)[1], dim=0)}
        few = torch.cat(list(codes))
        if not (few != few[0]).any():
            return {}
        return {"axes": l2(pca_whitening_of_few(few, self.config.pca)[1], dim=0)}

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Take over what ``fit`` returned. Raises InstsearchError where something of it is missing."""
        if self.config.rotate and "rotations" not in state:
            raise InstsearchError(f"the model of '{self.name}' has no rotations: {REPAIR}")
        self._take({k: torch.from_numpy(np.asarray(v)).to(self.device) for k, v in state.items()})

    def _take(self, learnt: State) -> None:
        self.whitening = (learnt["mean"], learnt["projection"]) if "mean" in learnt else None
        self.rotations, self.axes = learnt.get("rotations"), learnt.get("axes")
        if "centroids" in learnt:
            self.centroids = learnt["centroids"]

    # -- encoding -------------------------------------------------------------------------------------

    def aggregate(
        self, local: Features, weights: WeightMap | BoxWeight | None, regions: Regions | None
    ) -> Vectors:
        """Unit vectors f32[1, K d] of the picture, or f32[M, K d] of its regions; zero where nothing is added up."""
        V, boxes = self._sums(local, weights, regions)
        if self.axes is not None:
            V = V @ self.axes
        return Vectors(l2(signed_power(V, self.config.power)), boxes)

    def aggregate_query(self, local: Features, weights: WeightMap | BoxWeight | None) -> Vectors:
        """A unit vector f32[1, K d] of the box of a BoxWeight, or of the whole picture."""
        if self.config.over == "local":
            box = weights.box if isinstance(weights, BoxWeight) else extent(local.grid)
            return Vectors(self.aggregate(local, weights, None).vectors, torch.tensor([box]))
        box, among, regions = self._asked(local, weights)
        return Vectors(self.aggregate(local, among, regions).vectors, torch.tensor([box]))

    def _sums(
        self, local: Features, weights: WeightMap | BoxWeight | None, regions: Regions | None
    ) -> tuple[Tensor, Tensor]:
        """What is added up at the words, turned: f32[M, K d], and the boxes f32[M, 4]."""
        x, alpha, boxes = (self._of_regions if self.config.over == "regions" else self._of_local)(
            local, weights, regions
        )
        a, r = residuals(x, self.centroids, self.config.unit)
        V = aggregated(r, a, alpha, len(self.centroids))
        if self.rotations is not None:
            V = torch.einsum("mkd,kde->mke", V, self.rotations)
        return (l2(V) if self.config.intra else V).flatten(1), boxes

    def _of_regions(
        self, local: Features, weights: WeightMap | BoxWeight | None, regions: Regions | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The regions' vectors x f32[n, d], which all count 1: alpha f32[1, n], and the picture's box f32[1, 4]."""
        psi = super().aggregate(local, weights, regions).vectors
        x = psi[psi.any(1)]
        return x, x.new_ones(1, len(x)), torch.tensor([extent(local.grid)])

    def _of_local(
        self, local: Features, weights: WeightMap | BoxWeight | None, regions: Regions | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The local features x f32[n, d], what each counts in each region: alpha f32[M, n], and the boxes f32[M, 4]."""
        x = rows(local).to(self.device)
        counts = []
        for size in sizes(local):
            counts.append(region_masks(size, regions)[0].flatten(1).to(self.device, torch.float32))
            over = weights_over(size, weights)
            if over is not None:
                counts[-1] *= over.flatten().to(self.device)
        some = x.any(1)
        boxes = torch.tensor([extent(local.grid)]) if regions is None else regions.boxes
        return self._whitened(l2(x[some])), torch.cat(counts, 1)[:, some], boxes

    def _whitened(self, x: Tensor) -> Tensor:
        """Unit vectors f32[n, C] as they are added up: f32[n, d]."""
        return x if self.whitening is None else l2(whiten(x, *self.whitening))

    def _cells(
        self, local: Features, weights: WeightMap | BoxWeight | None, regions: Regions | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        if not isinstance(local, FeatureMap):
            raise UsageError(
                "vlad over regions needs a feature map, and this extractor gives keypoints: add "
                "--set encoder.over=local, or take another extractor"
            )
        return super()._cells(local, weights, regions)
