"""Feature maps of convolutional networks, as torchvision builds them, at any of their layers.

The papers' names in torchvision's: VGG-16's conv5_1 after ReLU is ``features.25``, before it ``features.24``;
conv5_3 ``features.29``, pool5 ``features.30``; ResNet's Block4_unit1 ``layer4.0``; SqueezeNet's fire9
``features.12``.
"""

from __future__ import annotations

import difflib
import re
import threading
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instsearch_cli.components import option
from instsearch_cli.data import FeatureMap, Grid
from instsearch_cli.errors import UsageError, nearest
from instsearch_cli.weights import find_weights, load_state_dict, put_weights, sha256

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from instsearch_cli.data import Image

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
SMALLEST = 32  # pixels: a shorter side would leave the deepest layers no cell
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class _Reached(Exception):  # noqa: N818
    """Carries the layer's output out of the forward pass, so that nothing after it is computed."""

    def __init__(self, output: Tensor) -> None:
        self.output = output


def normalise(pixels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """torchvision's input: each channel less ImageNet's mean, by its standard deviation.

    x = (u / 255 - mean) / std

    u8[B, 3, H, W] in RGB -> dtype[B, 3, H, W], in the same memory format.
    """
    mean, std = (torch.tensor(v, device=pixels.device)[:, None, None] for v in (MEAN, STD))
    return torch.addcmul((-mean / std).to(dtype), pixels.to(dtype), (1 / (255 * std)).to(dtype))


class Network:
    """Feature maps of one of torchvision's networks, computed as far as the layer asked for.

    What the forward pass does not reach is never read from the weights file and takes no memory.
    """

    encoding: ClassVar[str] = "dense-map"
    architecture: ClassVar[str]  #: torchvision's name of the network
    default: ClassVar[str]  #: the layer that the papers use
    rectify: ClassVar[bool] = False  #: whether the network applies a ReLU to it that is no module of its own

    @dataclass(frozen=True)
    class Config:
        layer: str = ""  #: a module of the network, by torchvision's name; empty is the network's default
        max_size: int = 448  #: larger pictures are reduced to this long side, in pixels
        logits: bool = False  #: also run the rest of the network and keep its class logits
        precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto"  #: auto is fp16 on a GPU, fp32 elsewhere
        weights: str = option("", "query")  #: weights file; empty: INSTSEARCH_WEIGHTS, torchvision's
        batch: int = option(0, "query")  #: pictures at once; 0 is 8 on a GPU, 1 elsewhere

        def __post_init__(self) -> None:
            if self.max_size < SMALLEST or self.batch < 0:
                raise ValueError(f"max_size is at least {SMALLEST}, batch at least 0")

    def __init__(self, config: Config, device: torch.device) -> None:
        gpu = device.type == "cuda"
        self.config, self.device = config, device
        self.layer = config.layer or self.default
        self.batch = config.batch or (8 if gpu else 1)
        self.dtype = DTYPES[("fp16" if gpu else "fp32") if config.precision == "auto" else config.precision]
        self.concurrent = not gpu
        self._building, self._passing = threading.Lock(), threading.local()

    def identity(self) -> dict[str, str]:
        """The weights' sha256, the network and the layer."""
        return {"weights": sha256(self.weights), "architecture": self.architecture, "layer": self.layer}

    def fit_size(self, width: int, height: int) -> tuple[int, int]:
        """At most ``max_size`` along the longer side, never enlarged; narrow strips keep 32 pixels across."""
        r = min(1.0, self.config.max_size / max(width, height))
        return max(round(width * r), min(width, SMALLEST)), max(round(height * r), min(height, SMALLEST))

    def extract(self, images: Sequence[Image]) -> list[FeatureMap]:
        """The layer's map of each of some pictures of equal shape, and the class logits if asked for."""
        with torch.inference_mode():
            one = images[0].pixels[None]  # no copy
            batch = one if len(images) == 1 else np.stack([image.pixels for image in images])
            pixels = torch.from_numpy(batch).to(self.device)
            x = normalise(pixels.permute(0, 3, 1, 2), self.dtype)  # channels last, as the pixels come
            h, w = x.shape[2:]
            if min(h, w) < SMALLEST:
                x = F.interpolate(x, size=(max(h, SMALLEST), max(w, SMALLEST)), mode="bilinear")
            values, logits = self.forward(x)
        h, w = values.shape[2:]
        return [
            FeatureMap(values[i], Grid.over(h, w, image.size), None if logits is None else logits[i])
            for i, image in enumerate(images)
        ]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """[B, 3, H, W], normalised -> the layer's output f32[B, D, h, w], and f32[B, C] if logits are on."""
        try:
            logits = self.network(x).float()
            values = self._passing.output.float()
        except _Reached as reached:
            values, logits = reached.output.float(), None
        return F.relu(values) if self.rectify and self.layer == self.default else values, logits

    @cached_property
    def weights(self) -> Path:
        """The weights file. Raises InstsearchError if there is none."""
        return find_weights(self.architecture, self.config.weights)

    @classmethod
    def build(cls) -> nn.Module:
        """The network without weights."""
        from torchvision.models import get_model

        network: nn.Module = get_model(cls.architecture, weights=None)
        return network

    @classmethod
    def import_weights(cls, path: Path) -> dict[str, Tensor]:
        """A checkpoint by torchvision's names. Raises InstsearchError for a damaged one."""
        return load_state_dict(path)

    def state_dict(self) -> dict[str, Tensor]:
        """The weights by torchvision's names."""
        return self.import_weights(self.weights)

    def _take(self, module: nn.Module, args: Any, output: Tensor) -> None:
        if not self.config.logits:
            raise _Reached(output)
        self._passing.output = output.clone()  # what follows may work in place

    @property
    def network(self) -> nn.Module:
        """The network, with the weights that it needs to get to the layer. Raises UsageError, InstsearchError."""
        with self._building:  # images are extracted side by side
            return self._network

    @cached_property
    def _network(self) -> nn.Module:
        with torch.device("meta"):
            network = self.build()
        network.eval().requires_grad_(False)
        names = self._needed(network)
        put_weights(network, names, self.state_dict(), self.weights, self.device, self.dtype)
        network.get_submodule(self.layer).register_forward_hook(self._take)
        return network

    def _needed(self, network: nn.Module) -> list[str]:
        """Names of the tensors that the forward pass touches up to the layer; all of them with logits.

        A rehearsal on the meta device, which has shapes but no numbers. Raises UsageError for a layer
        that is not there, is used several times, or has no map.
        """
        modules = dict(network.named_modules())
        if self.layer not in modules:
            top = [name for name in modules if name and name.count(".") <= 1]
            close = difflib.get_close_matches(self.layer, modules, n=1, cutoff=0.5)
            raise UsageError(
                f"{self.architecture} has no layer '{self.layer}'.{nearest(self.layer, close or top)}"
            )
        shapes: list[tuple[int, ...]] = []
        touched: dict[str, None] = {}

        def enter(prefix: str, module: nn.Module, _: Any) -> None:
            if self.config.logits or not shapes:
                tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
                touched.update((f"{prefix}.{name}", None) for name, _ in tensors)

        handles = [module.register_forward_pre_hook(partial(enter, name)) for name, module in modules.items()]
        handles.append(modules[self.layer].register_forward_hook(lambda *args: shapes.append(args[2].shape)))
        network(torch.empty(1, 3, 224, 224, device="meta"))
        for handle in handles:
            handle.remove()
        if len(shapes) != 1:
            times = f"{len(shapes)} times in one pass: name one that is used once"
            raise UsageError(f"{self.architecture} uses layer '{self.layer}' {times}")
        if len(shapes[0]) != 4:
            raise UsageError(f"{self.architecture}'s layer '{self.layer}' gives one vector, not a map")
        return [name for name in touched if not name.endswith("num_batches_tracked")]  # for training only


class VGG16(Network):
    """conv5_1 after ReLU: 512 channels, stride 16 (Simonyan & Zisserman 2015)."""

    architecture = "vgg16"
    default = "features.25"


class ResNet50(Network):
    """layer4: 2048 channels, stride 32 (He et al. 2016)."""

    architecture = "resnet50"
    default = "layer4"


class ResNet101(Network):
    """layer4: 2048 channels, stride 32 (He et al. 2016)."""

    architecture = "resnet101"
    default = "layer4"


class DenseNet161(Network):
    """norm5 after ReLU: 2208 channels, stride 32 (Huang et al. 2017)."""

    architecture = "densenet161"
    default = "features"
    rectify = True

    @classmethod
    def import_weights(cls, path: Path) -> dict[str, Tensor]:
        """The weights by torchvision's names; its published file has older ones, ``norm.1`` for ``norm1``."""
        older = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
        return {older.sub(r"\1\2", name): tensor for name, tensor in super().import_weights(path).items()}


class SqueezeNet10(Network):
    """The last fire module, fire9, after its ReLU: 512 channels, stride 16 (Iandola et al. 2016)."""

    architecture = "squeezenet1_0"
    default = "features.12"
