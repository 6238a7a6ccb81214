"""What a few components can do beyond their kind, declared for the components that rely on it.

One that needs an ability asks by ``isinstance``, so that another plugin's component has it by inheriting from it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from instsearch_cli.components import Encoder, Weighter
from instsearch_cli.errors import REPAIR
from instsearch_formats import Array
from instsearch_plugins.numeric import hamming

if TYPE_CHECKING:
    from torch import Tensor

    from instsearch_cli.data import BoxWeight, FeatureMap, Features, WeightMap, Words

VOCABULARY = {
    "centroids": Array("f4", ("K", "D"), some=True),
    "idf": Array("f4", ("K",)),
    "rotation": Array("f4", (hamming.BITS, "D"), group="signatures"),
    "thresholds": Array("f4", ("K", hamming.BITS), group="signatures"),
    "neighbours": Array("i4", ("K", "m"), group="signatures", below="K", some=True),
}
"""What an encoder by visual words learns, as it must be."""
DAMAGED = f"the vocabulary is damaged: {REPAIR}"


def stepped(words: Words) -> Words:
    """Words with signatures at keypoints brought to the steps of :func:`hamming.packed`; others as they are."""
    if words.signatures is None or words.geometry is None:
        return words
    size = np.array(words.grid.transform[:2]) * words.grid.shape[::-1]
    return replace(words, geometry=hamming.unpacked(hamming.packed(words.geometry, size), size))


class ClassWeighter(Weighter):
    """A weighter whose maps are of classes, and that makes those of any classes."""

    def class_maps(self, features: FeatureMap, classes: Tensor) -> WeightMap:
        """The maps f32[Z, h, w] of some classes i64[Z], in their order. Raises UsageError."""
        raise NotImplementedError


class ClassEncoder(Encoder):
    """An encoder that describes each class by a vector, and a picture by their sum.

    by_class  whether it does so with the options that it has
    """

    by_class: bool = True

    def class_vectors(self, local: Features, weights: WeightMap | BoxWeight | None) -> Tensor:
        """The vectors f32[Z, d], in the order of the weights' classes, before they are added up."""
        raise NotImplementedError


class WordEncoder(Encoder):
    """An encoder by visual words, which have signatures where that was asked for.

    idf  f32[K], how rare each word is
    """

    idf: np.ndarray

    def assignments(
        self, values: np.ndarray, k: int, ratio: float, words: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The words of descriptors f32[n, D] that are not 0, as many as k each (:func:`hamming.nearest_words`).

        words: the nearest ones, int[n], where they are known. Returns number of the descriptor, word, and its
        signature within that word, i64[m] each. Raises InstsearchError where no signatures were learnt.
        """
        raise NotImplementedError


class WordVectorEncoder(Encoder):
    """An encoder whose sparse codes have a vector for each word that occurs."""

    @property
    def width(self) -> int:
        """Values of a word's vector: those of word c are a code's from c width to (c + 1) width."""
        raise NotImplementedError

    @property
    def binary(self) -> bool:
        """Whether of each value the sign alone counts."""
        raise NotImplementedError
