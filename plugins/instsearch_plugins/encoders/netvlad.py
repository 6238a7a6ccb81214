"""NetVLAD over any network's map (Arandjelović et al., CVPR 2016): words by k-means, or a trained layer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from instsearch_cli.components import option
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.networks.weights import check_finite, find_weights, load_state_dict, sha256
from instsearch_formats import Array
from instsearch_plugins.encoders.pooled import PooledPicture
from instsearch_plugins.numeric.local_features import rows
from instsearch_plugins.numeric.matconvnet import Published, is_matlab, read_layer
from instsearch_plugins.numeric.netvlad import Vocabulary, by_kmeans, netvlad
from instsearch_plugins.numeric.normalise import l2
from instsearch_plugins.numeric.whitening import LEARNT

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from instsearch_cli.components import Data, Progress, State

CENTROIDS, CONV = "centroids", "conv."  #: ends of the names in the common PyTorch port's files


def published(path: Path) -> Published:
    """The layer in a file that `instsearch train` wrote, of the common PyTorch port, or of its authors'.

    NAME.centroids [K, D], NAME.conv.weight [K, D, 1, 1] and, maybe, NAME.conv.bias [K]; MATLAB's as
    :mod:`instsearch_plugins.numeric.matconvnet` says. Raises InstsearchError for another file.
    """
    if is_matlab(path):
        return read_layer(path)
    state = load_state_dict(path)
    names = [name for name in state if name.rpartition(".")[2] == CENTROIDS]
    if len(names) != 1:
        raise InstsearchError(
            f"{path}: no NetVLAD layer: among its {len(state):,} tensors {len(names) or 'none'} "
            f"{'are' if names else 'is'} called centroids"
        )
    stem = names[0].removesuffix(CENTROIDS)
    c, w = state[names[0]].float(), state.get(f"{stem}{CONV}weight")
    if w is None or c.ndim != 2 or not c.numel() or w.numel() != c.numel() or len(w) != len(c):
        shape = "none" if w is None else f"of shape {[*w.shape]}"
        raise InstsearchError(
            f"{path}: {names[0]} is of shape {[*c.shape]}, and {stem}{CONV}weight {shape}: wanted [K, D] and "
            "[K, D, 1, 1]"
        )
    b = state.get(f"{stem}{CONV}bias")
    if b is not None and b.numel() != len(c):
        raise InstsearchError(f"{path}: {stem}{CONV}bias is of shape {[*b.shape]}, wanted [{len(c)}]")
    b = c.new_zeros(len(c)) if b is None else b.float().reshape(-1)
    for name, values in ((CENTROIDS, c), (f"{CONV}weight", w), (f"{CONV}bias", b)):
        check_finite(f"{stem}{name}", values, path)
    return Published(Vocabulary(c, w.float().reshape(c.shape), b), None)


class NetVLAD(PooledPicture):
    """V_k = L2 of sum_i a_k(x_i) (x_i - c_k), x_i unit vectors; then L2, PCA-whitening, L2: see :func:`netvlad`."""

    name: ClassVar[str] = "netvlad"
    learns: ClassVar[dict[str, Array]] = LEARNT | {
        "centroids": Array("f4", ("K", "F"), group="words"),
        "assigning": Array("f4", ("K", "F"), group="words"),
        "biases": Array("f4", ("K",), group="words"),
    }

    @dataclass(frozen=True)
    class Config(PooledPicture.Config):
        """Options of ``netvlad``."""

        words: int = 64  #: size of the vocabulary that is learnt by k-means
        n_train: int = 50_000  #: local features that it is learnt from, as many from each picture
        iterations: int = 20  #: of k-means
        #: file of a trained layer, in place of k-means; a whitening that it has is used (but for ``pairs``)
        weights: str = option("", digested=True)

        def __post_init__(self) -> None:
            super().__post_init__()
            if min(self.words, self.n_train, self.iterations) < 1:
                raise ValueError("words, n-train and iterations are at least 1")

    config: Config

    def __init__(self, config: Config, device: torch.device) -> None:
        super().__init__(config, device)
        self._words: Vocabulary | None = None

    def identity(self) -> dict[str, Any]:
        """The sha256 of the layer's file, if one is named. Raises InstsearchError where it is not there."""
        return {"weights": sha256(self._file)} if self.config.weights else {}

    @property
    def _file(self) -> Path:
        return find_weights(self.name, self.config.weights)

    @cached_property
    def _given(self) -> Published:
        return published(self._file)

    def fit(self, data: Data, progress: Progress) -> State:
        """Learn the words, if no file has them, then the whitening, if it does not have that too.

        Returns what :meth:`PooledPicture.fit` does, centroids f32[K, D], assigning f32[K, D] and biases f32[K].
        """
        c = self.config
        self._take(self._given.words if c.weights else self._learnt(data, progress))
        words = self._words
        assert words is not None
        learnt: State = {"centroids": words.c, "assigning": words.w, "biases": words.b}
        if c.weights and self._given.whitening is not None and c.whiten and not c.pairs:
            mean, projection = self._given.whitening
            return learnt | {"mean": mean, "projection": projection[:, : c.dims or None].contiguous()}
        return super().fit(data, progress) | learnt

    def _learnt(self, data: Data, progress: Progress) -> Vocabulary:
        sampled = np.random.default_rng(self.config.seed).permutation(data.images)[: self.config.fit_images]
        share = -(-self.config.n_train // max(len(sampled), 1))
        progress.start(f"sampling local features for '{self.name}'", len(sampled))
        found = []
        for inputs in data.inputs(("features",), np.sort(sampled)):
            assert inputs.features is not None
            x = rows(inputs.features)
            chosen = np.random.default_rng((self.config.seed, max(inputs.row, 0))).permutation(len(x))[:share]
            x = l2(x[torch.from_numpy(np.sort(chosen)).to(x.device)].to(self.device))
            found.append(x[x.any(1)])
            progress.advance()
        if not any(map(len, found)):
            raise InstsearchError("no picture has anything to learn the words of 'netvlad' from")
        c = self.config
        return by_kmeans(torch.cat(found), c.words, c.iterations, c.seed, progress)

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Take over what ``fit`` returned."""
        super().load(state)
        arrays = (state["centroids"], state["assigning"], state["biases"])
        self._take(Vocabulary(*(torch.from_numpy(np.asarray(array)) for array in arrays)))

    def _take(self, words: Vocabulary) -> None:
        self._words = Vocabulary(*(part.to(self.device) for part in words))

    def pool(self, X: Tensor, alpha: Tensor) -> Tensor:
        """X f32[C, h, w], alpha f32[M, h, w] -> f32[M, K C]. Raises UsageError for a layer of another network."""
        words = self._words
        assert words is not None
        x = l2(X.flatten(1).T)
        if x.shape[1] != words.c.shape[1]:
            raise UsageError(
                f"encoder.weights is for local features of {words.c.shape[1]:,} values, these have {x.shape[1]:,}: "
                "take the network that it was trained with (--extractor vgg16), or leave it out"
            )
        some = x.any(1)
        return netvlad(x[some], alpha.flatten(1)[:, some], words)
