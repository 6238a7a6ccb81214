"""Bag of visual words over keypoints (Sivic and Zisserman, "Video Google", ICCV 2003), with signatures (Jegou, Douze
and Schmid, "Hamming embedding and weak geometric consistency for large scale image search", ECCV 2008). By numpy alone.
"""

from __future__ import annotations

import functools
import hashlib
import io
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from instsearch_cli.components import option
from instsearch_cli.data import Keypoints, SparseVectors, Words
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_plugins.abilities import DAMAGED, VOCABULARY, WordEncoder, stepped
from instsearch_plugins.numeric import hamming

if TYPE_CHECKING:
    from torch import Tensor

    from instsearch_cli.components import Data, Progress, State
    from instsearch_cli.data import BoxWeight, Features, Regions, WeightMap
    from instsearch_formats import Array

TILE = 1 << 21  #: scores held at once
INCLUDED = "vocabularies/rootsift.npz"  #: made by benchmarks/included_vocabulary.py
NEIGHBOURS = 16  #: of each word that come with it


def nearest(x: np.ndarray, centroids: np.ndarray, half: np.ndarray) -> np.ndarray:
    """Exact nearest centroid of each row, in bounded memory.

    a_i = argmin_k |x_i - c_k|^2 = argmax_k x_i . c_k - |c_k|^2 / 2

    x f32[n, D], centroids c f32[K, D], half f32[K] = |c_k|^2 / 2. Returns i64[n]; ties go to the lower number.
    """
    found = np.empty(len(x), np.int64)
    step = max(1, TILE // len(centroids))
    for start in range(0, len(x), step):
        score = x[start : start + step] @ centroids.T
        score -= half
        found[start : start + step] = score.argmax(axis=1)
    return found


def histogram(words: np.ndarray, alpha: np.ndarray, K: int) -> tuple[np.ndarray, np.ndarray]:
    """The words of a bag, ascending, and their weights: h_k = sum_{i: a_i = k} alpha_i, none of them 0.

    words a i64[n], -1 being no word; alpha f32[n], not negative. Returns i64[m], f32[m].
    """
    some = (words >= 0) & (alpha > 0)
    h = np.bincount(words[some], alpha[some], K).astype(np.float32)
    k = np.flatnonzero(h)
    return k, h[k]


class BagOfVisualWords(WordEncoder):
    """A word for each keypoint, and their L2-normalised histogram.

    The vocabulary that comes with this package needs nothing of the collection: indexes made with it can be asked
    together, and the first photographs are searchable at once. Another is learnt as ``blcf`` learns one.
    """

    local: ClassVar[str] = "word-map"
    codes: ClassVar[str] = "csr"
    localises: bool = False
    fit_needs: ClassVar[tuple[str, ...]] = ("features",)
    learns: ClassVar[dict[str, Array]] = VOCABULARY
    concurrent: bool = True
    on_device: ClassVar[bool] = False
    refits: ClassVar[tuple[str, ...]] = ("vocabulary=own",)

    @dataclass(frozen=True)
    class Config:
        """Options of ``bovw``."""

        vocabulary: Literal["included", "own"] = (
            "included"  #: own: learnt from the collection, also by --refit
        )
        words: int = 10_000  #: of an own vocabulary; fewer where the sample has under 8 descriptors a word
        n_train: int = 200_000  #: descriptors to learn it from
        fit_images: int = 2000  #: images to take them from, or more where these have too few
        iterations: int = 6  #: of k-means
        seed: int = 0  #: of the sample and of k-means
        signatures: bool = True  #: 64 bits of Hamming embedding for each keypoint, for searcher hamming
        sqrt: bool = option(True, touches="codes")  #: square root of the counts, against bursts of one word
        idf: bool = option(True, touches="codes")  #: weight each word by how rare it is

        def __post_init__(self) -> None:
            own = ("words", "n_train", "fit_images", "iterations", "seed")
            for name in own:
                if name != "seed" and vars(self)[name] < 1:
                    raise ValueError(f"{name} is at least 1, not {vars(self)[name]}")
            usual = type(self)
            if self.vocabulary == "included" and any(vars(self)[n] != vars(usual)[n] for n in own):
                raise ValueError(
                    f"{', '.join(own)} are of a vocabulary=own; the included one is learnt already"
                )

    config: Config

    def __init__(self, config: Config, device: None = None) -> None:
        self.config = config
        self._state: dict[str, np.ndarray] | None = None

    @property
    def fits(self) -> bool:
        """Whether it learns."""
        return self.config.vocabulary == "own"

    def identity(self) -> dict[str, Any]:
        """Which vocabulary came with the package."""
        return {} if self.fits else {"vocabulary": included_digest()}

    def fit(self, data: Data, progress: Progress) -> State:
        """As :meth:`BLCF.fit`, without whitening."""
        import torch

        from instsearch_plugins.encoders.blcf import BLCF

        c = self.config
        learner = BLCF.Config(
            words=c.words,
            whiten=False,
            n_train=c.n_train,
            fit_images=c.fit_images,
            iterations=c.iterations,
            seed=c.seed,
            signatures=c.signatures,
        )
        return BLCF(learner, torch.device("cpu")).fit(data, progress)

    def load(self, state: Any) -> None:
        """Take over what ``fit`` returned."""
        if self.config.signatures and "rotation" not in state:
            raise InstsearchError(DAMAGED)
        self._state = {name: np.asarray(array) for name, array in state.items()}

    @functools.cached_property
    def _vocabulary(self) -> dict[str, np.ndarray]:
        state = included() if self._state is None else self._state
        centroids = state["centroids"]
        return {**state, "half": np.einsum("kd,kd->k", centroids, centroids) / 2}

    @property
    def idf(self) -> np.ndarray:  # type: ignore[override]
        """How rare each word is: f32[K]."""
        return self._vocabulary["idf"]

    # -- encoding -------------------------------------------------------------------------------------

    def embed(self, features: Features) -> Words:
        """The word of each keypoint, i32[N]; a descriptor that is all zero has none (-1).

        Keypoints are brought to the steps of :func:`hamming.packed`, which take less room.
        """
        return stepped(self.embed_query(features))

    def embed_query(self, features: Features) -> Words:
        """As :meth:`embed`, with the keypoints where they are. Raises UsageError for maps."""
        if not isinstance(features, Keypoints):
            raise UsageError("encoder bovw is of keypoints (--extractor sift); for maps take --encoder blcf")
        vocabulary = self._vocabulary
        x = features.values
        check_described(x, vocabulary["centroids"].shape[1], self._state is None)
        words, signatures = np.full(len(x), -1, np.int32), None
        some = np.flatnonzero(x.any(axis=1))
        found = nearest(x[some], vocabulary["centroids"], vocabulary["half"])
        words[some] = found
        if self._signed:
            signatures = np.zeros(len(x), np.int64)
            signatures[some] = hamming.signatures(x[some], found, *self._signed)
        return Words(words, features.grid, features.geometry, len(vocabulary["centroids"]), signatures)

    @property
    def _signed(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The projection and the thresholds; None where no signatures are wanted."""
        if not self.config.signatures:
            return None
        return self._vocabulary["rotation"], self._vocabulary["thresholds"]

    def assignments(
        self, values: np.ndarray, k: int, ratio: float, words: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See :meth:`WordEncoder.assignments`."""
        if self._signed is None:
            raise InstsearchError(hamming.UNSIGNED)
        vocabulary, (P, tau) = self._vocabulary, self._signed
        centroids = vocabulary["centroids"]
        first = nearest(values, centroids, vocabulary["half"]) if words is None else words
        near = vocabulary["neighbours"]
        i, found = hamming.nearest_words(values, first, near, centroids, k, ratio)
        return i, found, hamming.signed((values @ P.T)[i], found, tau)

    def aggregate(
        self, local: Words, weights: WeightMap | BoxWeight | None, regions: Regions | None
    ) -> SparseVectors:
        """One histogram of the picture, or of what the weights leave; an empty one is an empty row."""
        alpha = np.ones(len(local.words), np.float32) if weights is None else weights.over(local).sum(0)
        k, h = histogram(local.words.astype(np.int64), alpha, len(self.idf))
        if self.config.sqrt:
            h = np.sqrt(h)
        if self.config.idf:
            h = h * self.idf[k]
        h = h / max(float(np.linalg.norm(h)), 1e-12)
        width, height = np.array(local.grid.transform[:2]) * local.grid.shape[::-1]
        box = np.array([[0, 0, width, height]], np.float32)
        return SparseVectors(k, h.astype(np.float32), np.array([0, len(k)]), len(self.idf), box)


# -- the vocabulary of this package -------------------------------------------------------------------------


@functools.cache
def _packed() -> bytes:
    return resources.files("instsearch_plugins").joinpath(INCLUDED).read_bytes()


@functools.cache
def included_digest() -> str:
    """sha256 of the file of the vocabulary."""
    return hashlib.sha256(_packed()).hexdigest()


@functools.cache
def included() -> dict[str, np.ndarray]:
    """The vocabulary that comes with this package, as ``fit`` would return it: of RootSIFT descriptors."""
    with np.load(io.BytesIO(_packed()), allow_pickle=False) as file:
        packed = {name: file[name] for name in file.files}
    return unpacked_vocabulary(packed)


def check_described(x: np.ndarray | Tensor, width: int, sift: bool) -> None:
    """Raises UsageError unless descriptors [n, D] have ``width`` values; ``sift``: and may be of SIFT."""
    if x.shape[1] != width:
        raise UsageError(
            f"descriptors have {x.shape[1]} values, and words {width}: with another extractor than sift take "
            "--set encoder.vocabulary=own"
        )
    if sift and (x < 0).any():
        raise UsageError(
            "the vocabulary that comes with encoder bovw is of SIFT, whose descriptors are never negative: with "
            "this extractor take --set encoder.vocabulary=own"
        )


def packed_vocabulary(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A vocabulary of RootSIFT, centroids c >= 0 in u8 and thresholds tau in i8, each with its largest value."""
    c, tau = state["centroids"], state["thresholds"]
    largest = np.array([c.max(), np.abs(tau).max()], np.float32)
    return {
        "centroids": np.rint(c / largest[0] * 255).astype(np.uint8),
        "thresholds": np.rint(tau / largest[1] * 127).astype(np.int8),
        "largest": largest,
        "idf": state["idf"].astype(np.float16),
        "rotation": state["rotation"].astype(np.float32),
        "neighbours": state["neighbours"][:, :NEIGHBOURS].astype(np.uint16),
    }


def unpacked_vocabulary(packed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What was :func:`packed_vocabulary`."""
    largest = packed["largest"]
    return {
        "centroids": packed["centroids"] * (largest[0] / np.float32(255)),
        "thresholds": packed["thresholds"] * (largest[1] / np.float32(127)),
        "idf": packed["idf"].astype(np.float32),
        "rotation": packed["rotation"],
        "neighbours": packed["neighbours"].astype(np.int32),
    }
