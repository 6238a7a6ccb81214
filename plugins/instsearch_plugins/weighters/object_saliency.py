"""Object saliency: what is salient here and common in the collection (Siméoni et al. 2018, sections 3.5 to 3.8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from instsearch_cli.components import Weighter, option
from instsearch_cli.data import Drawing, Regions, WeightMap
from instsearch_cli.errors import REPAIR, InstsearchError
from instsearch_formats import Array
from instsearch_plugins.encoders.pooled import FEW, PER_DIMENSION
from instsearch_plugins.numeric import approximate, egm
from instsearch_plugins.numeric.graph import centrality, mutual_graph
from instsearch_plugins.numeric.normalise import l2, unit_peak
from instsearch_plugins.numeric.ranking import Appended
from instsearch_plugins.numeric.regions import cell_boxes
from instsearch_plugins.numeric.saliency import attention, feature_saliency, patch_maxima
from instsearch_plugins.numeric.whitening import FLOOR, mean_and_covariance, whiten, whitening_of
from instsearch_plugins.weighters.maps_only import feature_map

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

    from instsearch_cli.components import Data, Progress, State
    from instsearch_cli.data import Grid, Inputs

BATCH = 4096  # regions whitened at once
SHOWN = 7  # neighbours of a patch that are drawn
CELLS = 1 << 24  # products of patches and regions held at once


class ObjectSaliency(Weighter):
    """S_p = F^_p^Theta sum_{i in N_p} max(<v_i, u_p>, 0)^beta f_i^theta g_i, over the largest S_p (eq. 14).

    N_p are the regions of the collection nearest to the patch u_p around p: regions that the expanding Gaussian
    mixture finds on feature saliency F^, each with its mean F^ f_i, its centrality g_i in the graph of mutual
    neighbours (:func:`centrality`), and v_i: maximum of its features, L2, PCA-whitening, L2, as u_p is. A map of
    zeros gives ones.

    Pictures added later are weighed by the regions of those that it was learnt from, until it is learnt anew
    (--refit). Making the graph takes time with the square of the regions, unless ``index`` names a quicker search,
    and memory in proportion to them.
    """

    concurrent: bool = True

    @dataclass(frozen=True)
    class Config:
        """Options of ``os``; the paper leaves a, both k, beta and alpha open: benchmarks/object_saliency.py."""

        a: int = option(7, touches="codes")  #: patches are a x a cells, a odd
        patch_k: int = option(10, touches="codes")  #: regions nearest to a patch that tell its saliency
        patch_power: float = option(2.0, touches="codes")  #: Theta, of the patch's own feature saliency
        region_power: float = option(3.0, touches="codes")  #: theta, of the regions' feature saliency
        #: cells below this share of the picture's largest feature saliency get 0; 0: none do
        faint: float = option(0.2, touches="codes")
        exclude_self: bool = option(False, touches="codes")  #: a picture's own regions do not count for it
        k: int = 50  #: nearest regions that may be neighbours in the graph, the region itself among them
        beta: float = 3.0  #: similarities are raised to this power, in the graph and of patches
        alpha: float = 0.99  #: how far centrality reaches: 0 makes all alike, below 1
        rho: float = 5.0  #: of the regions, as are tau and sigma: see the egm detector
        tau: float = 0.4  #: cells below this share of the largest feature saliency are masked
        sigma: float = 2.5  #: how coarse the regions are: variance of one cell, in square cells
        dims: int = 0  #: dimensions kept by the whitening; 0: one for every 8 regions
        epsilon: float = 1e-6  #: see the fs weighting
        fit_images: int = 0  #: pictures that regions are taken from, at most; 0: all
        seed: int = 0  #: of the choice of these pictures
        index: str = ""  #: faiss index factory to find neighbours by, as IVF1024,Flat; without, exact
        search: str = ""  #: its search parameters, as nprobe=16

        def __post_init__(self) -> None:
            if self.a < 1 or self.a % 2 == 0:
                raise ValueError(f"a is odd, so that a patch has a cell in its middle, not {self.a}")
            for name in ("k", "patch_k"):
                if getattr(self, name) < 1:
                    raise ValueError(f"{name} is at least 1, not {getattr(self, name)}")
            for name in ("beta", "rho", "sigma", "epsilon"):
                if not getattr(self, name) > 0:
                    raise ValueError(f"{name} is above 0, not {getattr(self, name)}")
            for name in ("dims", "fit_images", "patch_power", "region_power"):
                if not getattr(self, name) >= 0:
                    raise ValueError(f"{name} is at least 0, not {getattr(self, name)}")
            if not (0 <= self.tau <= 1 and 0 <= self.faint <= 1):
                raise ValueError(f"tau and faint are from 0 to 1, not {self.tau} and {self.faint}")
            if not 0 <= self.alpha < 1:
                raise ValueError(f"alpha is at least 0 and below 1, not {self.alpha}")

    learns: ClassVar[dict[str, Array]] = {
        "mean": Array("f4", ("C",)),
        "projection": Array("f4", ("C", "d")),
        "vectors": Array("f2", ("R", "d"), group="vectors"),
        "index": Array("u1", ("bytes",), group="index"),
        "saliency": Array("f4", ("R",), some=True),
        "centrality": Array("f4", ("R",)),
        "images": Array("i8", ("R",)),
        "boxes": Array("f4", ("R", 4)),
    }

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config = config
        self.device = device

    # -- the collection ------------------------------------------------------------------------------------

    def fit(self, data: Data, progress: Progress) -> State:
        """Find the regions of the pictures, whiten them, and measure how central each is among them all.

        Returns mean f32[C] and projection f32[C, d]; the regions' vectors V f16[n, d], or index u8[...] as faiss
        writes it; their saliency f f32[n] and centrality g f32[n]; images i64[n] and boxes f32[n, 4], where each is.
        Warns, with the residual, where centrality does not converge. Raises InstsearchError if there is no region,
        UsageError for keypoints or an index that faiss cannot build.
        """
        scratch = data.scratch()
        z, f, images, boxes = self._regions(data, scratch, progress)
        n = len(z)
        if not n:
            raise InstsearchError(
                "there is no region to learn object saliency from: the collection is empty, or no picture has any "
                "activation"
            )
        V, state = self._whitened(z, scratch, progress)
        index = None
        if self.config.index:
            progress.start("filling the index of regions", n, "regions")
            index = approximate.built(V, self.config.index, progress.advance)
        if index is not None:
            approximate.tuned(index, self.config.search)
            state["index"] = approximate.stored(index)
            del state["vectors"]
        progress.start("building the graph of regions", n, "regions")
        W = mutual_graph(V, self.config.k, self.config.beta, progress.advance, index)
        progress.start("measuring their centrality", n, "regions")
        g = centrality(W, self.config.alpha)
        progress.advance(n)
        found = {"saliency": f, "centrality": g.astype(np.float32), "images": images, "boxes": boxes}
        return {**state, **found}

    def _regions(
        self, data: Data, scratch: Path, progress: Progress
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Unit vectors f32[n, C] of all regions, memory-mapped; f f32[n] (eq. 9); pictures i64[n]; boxes f32[n, 4]."""
        rows = np.asarray(data.images)
        if self.config.fit_images:
            rows = np.random.default_rng(self.config.seed).permutation(rows)[: self.config.fit_images]
        rows = np.sort(rows)
        progress.start("finding regions", len(rows))
        z: Appended | None = None
        f, images, boxes = [np.empty(0, np.float32)], [np.empty(0, np.int64)], [np.empty((0, 4), np.float32)]
        for inputs in data.inputs(("features",), rows):
            features = feature_map(inputs.features, "os")
            vectors, saliency, cells = self._regions_of(features.values.to(self.device))
            z = z or Appended(scratch / "regions", np.float32, vectors.shape[1])
            z.append(vectors.cpu().numpy())
            f.append(saliency.cpu().numpy())
            images.append(np.full(len(saliency), inputs.row, np.int64))
            boxes.append(cell_boxes(cells, features.grid).numpy())
            progress.advance()
        found = z.array() if z else np.empty((0, 0), np.float32)
        return found, np.concatenate(f), np.concatenate(images), np.concatenate(boxes)

    def _regions_of(self, A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Unit vectors f32[R, C] (eq. 10), f f32[R] (eq. 9) and cells i64[R, 4] of a picture's live regions.

        A picture with fewer than two cells that count is one region.
        """
        F = feature_saliency(A, self.config.epsilon)
        recipe = egm.Recipe(self.config.rho, self.config.tau, self.config.sigma)
        mixture = egm.fit(F.cpu().numpy(), recipe)
        h, w = F.shape
        cells = egm.cells(mixture, h, w).tolist() if len(mixture) else [[0, 0, w, h]]
        z = torch.stack([A[:, y0:y1, x0:x1].amax((1, 2)) for x0, y0, x1, y1 in cells])
        f = torch.stack([F[y0:y1, x0:x1].mean() for x0, y0, x1, y1 in cells])
        live = (z != 0).any(1)
        return l2(z[live]), f[live], torch.tensor(cells)[live.cpu()]

    def _whitened(self, z: np.ndarray, scratch: Path, progress: Progress) -> tuple[np.ndarray, State]:
        """V f32[n, d] of z f32[n, C], memory-mapped; and what of it is kept, with the whitening learnt from z."""

        def batches() -> Iterator[Tensor]:
            for first in range(0, len(z), BATCH):
                yield torch.from_numpy(np.array(z[first : first + BATCH])).to(self.device)

        progress.start("whitening regions", len(z), "regions")
        n, mean, covariance = mean_and_covariance(batches())
        if covariance.trace() <= FLOOR:  # all equal, but for rounding: left as they are
            mean, covariance = torch.zeros_like(mean), torch.zeros_like(covariance)
        self.whitening = whitening_of(mean, covariance, self.config.dims or max(n // PER_DIMENSION, FEW))
        d = self.whitening[1].shape[1]
        V, kept = Appended(scratch / "vectors", np.float32, d), Appended(scratch / "kept", np.float16, d)
        for batch in batches():
            v = self._described(batch).cpu().numpy()
            V.append(v)
            kept.append(v)
            progress.advance(len(batch))
        mean, projection = self.whitening
        return V.array(), {"mean": mean, "projection": projection, "vectors": kept.array()}

    def _described(self, z: Tensor) -> Tensor:
        """w(z) of maxima f32[n, C]: L2, whitening, L2."""
        return l2(whiten(l2(z), *self.whitening))

    # -- a picture -----------------------------------------------------------------------------------------

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what ``fit`` returned."""
        arrays = {k: torch.from_numpy(np.array(v)).to(self.device) for k, v in state.items() if k != "index"}
        self.whitening = arrays["mean"], arrays["projection"]
        self.worth = arrays["saliency"] ** self.config.region_power * arrays["centrality"]
        self.centrality, self.boxes = arrays["centrality"].cpu(), arrays["boxes"].cpu()
        self.images = np.asarray(state["images"])
        self.index = None
        if "index" in state:
            self.index = approximate.tuned(
                approximate.loaded(state["index"], len(self.images)), self.config.search
            )
        elif "vectors" in arrays:
            self.V = arrays["vectors"].float()
        else:
            raise InstsearchError(f"object saliency has neither vectors nor an index of them: {REPAIR}")

    def weigh(self, inputs: Inputs) -> WeightMap:
        """Weights f32[1, h, w] on the feature map's grid, the largest of them 1; keypoints raise UsageError."""
        features = feature_map(inputs.features, "os")
        A = features.values.to(self.device)
        F = feature_saliency(A, self.config.epsilon)
        told = (F > 0) & (self.config.faint * F.max() <= F)
        u = self._described(patch_maxima(A, self.config.a)[:, told].T)
        own = np.flatnonzero(self.images == inputs.row) if self.config.exclude_self else np.empty(0, np.int64)
        step, S = max(1, CELLS // len(self.worth)), torch.zeros_like(F)
        S[told] = torch.cat([self._attended(part, own) for part in torch.split(u, step)])
        return WeightMap(unit_peak(S * F**self.config.patch_power)[None], features.grid)

    def explain(self, inputs: Inputs) -> list[Drawing]:
        """F^, S with its heaviest patch, and the regions nearest to that, each on its picture (figure 4)."""
        features = feature_map(inputs.features, "os")
        A, grid = features.values.to(self.device), features.grid
        F, S = feature_saliency(A, self.config.epsilon), self.weigh(inputs)
        i, j = divmod(int(S.values.argmax()), grid.w)
        u = self._described(patch_maxima(A, self.config.a)[:, i, j][None])
        own = np.flatnonzero(self.images == inputs.row) if self.config.exclude_self else np.empty(0, np.int64)
        found, rows = (x[0, :SHOWN].tolist() for x in self._nearest(u, torch.from_numpy(own).to(self.device)))
        drawings = [
            Drawing("feature saliency", (WeightMap(F[None], grid),)),
            Drawing("object saliency: and its heaviest patch", (S, self._patch(i, j, grid))),
        ]
        for n, (product, row) in enumerate(zip(found, rows, strict=True), start=1):
            caption = f"neighbour {n}: similarity {product:.2f}, centrality {self.centrality[row]:.2f}"
            there = Regions(self.boxes[row : row + 1], torch.ones(1))
            drawings.append(Drawing(caption, (there,), int(self.images[row])))
        return drawings

    def _patch(self, i: int, j: int, grid: Grid) -> Regions:
        r = self.config.a // 2
        cells = [max(j - r, 0), max(i - r, 0), min(j + r + 1, grid.w), min(i + r + 1, grid.h)]
        return Regions(cell_boxes(torch.tensor([cells]), grid), torch.ones(1))

    def _attended(self, u: Tensor, own: np.ndarray) -> Tensor:
        """The sum of eq. 14 for some patches: f32[P, d] -> f32[P]."""
        products, rows = self._nearest(u, torch.from_numpy(own).to(self.device))
        return attention(products, self.worth[rows], self.config.beta)

    def _nearest(self, u: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """The products f32[P, k] with the nearest regions and their rows i64[P, k], best first.

        -inf with those that do not count: those of ``own``, and where an approximate search ends early.
        """
        k = min(self.config.patch_k, len(self.worth))
        if self.index is None:
            products = u @ self.V.T
            products[:, own] = -torch.inf
            found = products.topk(k)
            return found.values, found.indices
        near = approximate.searched(self.index, u.cpu().numpy(), min(k + len(own), len(self.worth)))
        products, rows = (torch.from_numpy(x).to(self.device) for x in near)
        products = products.masked_fill((rows < 0) | torch.isin(rows, own), -torch.inf)
        found = products.topk(k)
        return found.values, rows.gather(1, found.indices).clamp(min=0)
