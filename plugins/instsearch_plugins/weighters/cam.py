"""Class activation maps as weights (Jiménez, Álvarez and Giró-i-Nieto, "Class-weighted convolutional features for
visual instance search", BMVC 2017; the maps: Zhou et al., CVPR 2016)."""

from __future__ import annotations

import difflib
import threading
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch

from instsearch_cli.components import option
from instsearch_cli.data import Drawing, FeatureMap, Regions, WeightMap
from instsearch_cli.errors import InstsearchError, UsageError, nearest
from instsearch_cli.networks.weights import sha256
from instsearch_plugins.abilities import ClassWeighter
from instsearch_plugins.extractors.class_maps import class_names, class_weights, network_of
from instsearch_plugins.numeric.cam import class_activation_maps, most_probable, normalised
from instsearch_plugins.numeric.cam_boxes import threshold_boxes
from instsearch_plugins.numeric.regions import cell_boxes
from instsearch_plugins.weighters.maps_only import feature_map

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from instsearch_cli.data import Features, Inputs

SHOWN = 6  #: classes whose maps are drawn
THRESHOLDS = (0.01, 0.1, 0.2, 0.3, 0.4)  #: of the boxes that are drawn, as in section 6.4


class CAM(ClassWeighter):
    """M_c = sum_k w_kc A_k in [0, 1], one map a class; the picture's most probable classes, or given ones.

    A is the extractor's CAM layer, or its layer itself, and w its network's classifier. A query has the most
    probable classes of what is in its box, and their maps over the whole picture.
    """

    concurrent: bool = True

    @dataclass(frozen=True)
    class Config:
        """Options of ``cam``."""

        network: str = "vgg16-cam"  #: whose classifier makes the maps: the extractor's; timm:MODEL of timm's
        weights: str = option(
            "", digested=True
        )  #: its weights file; empty: INSTSEARCH_WEIGHTS, torchvision's
        n_classes: int = 64  #: N_C: how many of a picture's most probable classes
        classes: tuple[str, ...] = ()  #: these in their place for every picture and query: names or numbers
        #: how maps come to [0, 1]: parts above zero by the maximum; the same as the authors' code, which turns
        #: maps round that are negative everywhere; from minimum to maximum
        normalisation: Literal["relu", "code", "stretch"] = "relu"

        def __post_init__(self) -> None:
            if self.n_classes < 1:
                raise ValueError("n-classes is at least 1")

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config, self.device = config, device
        self._reading = threading.Lock()
        self.maps = len(config.classes) or config.n_classes

    def identity(self) -> dict[str, Any]:
        """The weights' sha256, the network, and the numbers of the classes where they are given.

        Raises UsageError for a network without a classifier to make maps with, and for classes it has not got.
        """
        listed = {} if self._listed is None else {"classes": self._listed.tolist()}
        return {"weights": sha256(self._path), "architecture": self._network.architecture, **listed}

    def weigh(self, inputs: Inputs) -> WeightMap:
        """Maps f32[Z, h, w] and their classes, the most probable first, on the feature map's grid.

        Raises UsageError for features that class maps cannot be made of, which keypoints are.
        """
        features = feature_map(inputs.features, "cam")
        return self.class_maps(features, self._classes_of(features))

    def weigh_query(self, inputs: Inputs, crop: Callable[[], Features]) -> WeightMap:
        """The same over the whole picture, of the classes of what is in the query's box."""
        features = feature_map(inputs.features, "cam")
        classes = self._listed
        if classes is None:
            classes = self._classes_of(feature_map(crop(), "cam"))
        return self.class_maps(features, classes)

    def _classes_of(self, features: FeatureMap) -> Tensor:
        """The classes i64[Z] that the options choose: given ones, or the most probable. Raises UsageError."""
        if self._listed is not None:
            return self._listed
        return most_probable(self._logits(features), self.config.n_classes)

    def class_maps(self, features: FeatureMap, classes: Tensor) -> WeightMap:
        """The normalised maps f32[Z, h, w] of some classes i64[Z], in their order. Raises UsageError."""
        A = features.values if features.cam is None else features.cam
        w = self._class_weights
        if len(A) != w.shape[1]:
            layer = self._network.cam or "LAYER"
            raise UsageError(
                f"the class maps of {self.config.network} are made of {w.shape[1]:,} channels, and the features "
                f"have {len(A):,}.\nName the extractor's network with --set weighting.network=NAME, or have it "
                f"keep what its classifier reads with --set extractor.cam-layer={layer}"
            )
        maps = class_activation_maps(A.to(self.device), w[classes.to(self.device)])
        return WeightMap(normalised(maps, self.config.normalisation), features.grid, classes)

    def explain(self, inputs: Inputs) -> list[Drawing]:
        """The maps of the best classes with their names and probabilities, and the boxes of the best two.

        As in the thesis' figures 6.2 and 6.5.
        """
        features = feature_map(inputs.features, "cam")
        weights = inputs.weights or self.weigh(inputs)
        assert weights.classes is not None
        order, chances = list(range(len(weights.values))), None
        if features.logits is not None:
            chances = features.logits.softmax(0)[weights.classes].tolist()
            order.sort(key=lambda z: -chances[z])  # but for given classes it is that already
        drawings = []
        for place, z in enumerate(order[:SHOWN], 1):
            name = self._names[int(weights.classes[z])]
            said = name if chances is None else f"{name}, probability {chances[z]:.2g}"
            drawings.append(Drawing(f"class {place}: {said}", (self._one(weights.values[z], weights),)))
        two = weights.values[order[:2]].mean(0)
        cells = threshold_boxes(two.cpu().numpy(), THRESHOLDS)
        boxes = Regions(cell_boxes(cells, weights.grid), torch.tensor(THRESHOLDS))
        shares = ", ".join(f"{100 * t:g}" for t in THRESHOLDS)
        both = "classes 1, 2" if len(order) > 1 else "class 1"
        heat = self._one(two, weights)
        return [*drawings, Drawing(f"boxes: above {shares} % of {both}", (heat, boxes))]

    @staticmethod
    def _one(heat: Tensor, weights: WeightMap) -> WeightMap:
        return WeightMap(heat[None], weights.grid)

    def _logits(self, features: FeatureMap) -> Tensor:
        """The class logits f32[C]. Raises UsageError if they are not there, or of other classes."""
        if features.logits is None:
            raise UsageError(
                "the cam weighting takes the most probable classes, and the features came without logits: add "
                "--set extractor.logits=true\n(extractor.cam-layer=LAYER has them too), or say which classes "
                "with --set weighting.classes=dome,church"
            )
        if len(features.logits) != len(self._names):
            raise UsageError(
                f"{self.config.network} tells {len(self._names):,} classes apart, and the extractor "
                f"{len(features.logits):,}: name the extractor's network with --set weighting.network=NAME"
            )
        return features.logits

    # -- the network ---------------------------------------------------------------------------------------

    @cached_property
    def _network(self) -> Any:
        """The extractor class. Raises UsageError for an unknown one."""
        return network_of(self.config.network)

    @cached_property
    def _path(self) -> Path:
        """The weights file. Raises InstsearchError if there is none."""
        path: Path = self._network.find(self.config.weights)
        return path

    @property
    def _class_weights(self) -> Tensor:
        """The classifier's weights f32[C, K]. Raises UsageError for a network without one that will do."""
        with self._reading:  # pictures are weighed side by side
            return self._read_class_weights

    @cached_property
    def _read_class_weights(self) -> Tensor:
        try:
            return class_weights(self._network, self.config.weights).to(self.device)
        except UsageError:
            raise
        except InstsearchError as error:
            options = "--set weighting.network=NAME, weighting.weights=FILE"
            raise InstsearchError(f"weighting cam ({options}): {error}") from error

    @cached_property
    def _names(self) -> list[str]:
        """The names of the network's classes, by number. Raises UsageError if they are fewer than asked for."""
        n, C = self.config.n_classes, len(self._class_weights)
        if n > C and not self.config.classes:
            raise UsageError(
                f"{self.config.network} tells {C:,} classes apart: weighting.n-classes is at most that, not {n:,}"
            )
        names = class_names(self._network, self._path)
        return names if len(names) == C else [str(c) for c in range(C)]

    @cached_property
    def _listed(self) -> Tensor | None:
        """The given classes i64[Z], each once; None without any. Raises UsageError for unknown ones."""
        given = [name.strip() for name in self.config.classes if name.strip()]
        known = {name.casefold(): number for number, name in enumerate(self._names)}
        numbers = [self._number(name, known) for name in given]
        return torch.tensor(list(dict.fromkeys(numbers))) if numbers else None

    def _number(self, name: str, known: dict[str, int]) -> int:
        if name.casefold() in known:
            return known[name.casefold()]
        if name.isdecimal():
            if int(name) < len(self._names):
                return int(name)
            raise UsageError(
                f"the classes of {self.config.network} are 0 to {len(self._names) - 1}, not {name}"
            )
        close = difflib.get_close_matches(name, self._names, n=1, cutoff=0.5)
        hint = nearest(name, close) or " `instsearch classes` prints those of your pictures."
        raise UsageError(f"{self.config.network} has no class '{name}'.{hint}")
