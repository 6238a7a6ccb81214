"""Feature maps of convolutional networks, as torchvision builds them, at any of their layers.

The papers' names in torchvision's: VGG-16's conv5_1 after ReLU is ``features.25``, before it ``features.24``;
conv5_3 ``features.29``, pool5 ``features.30``; ResNet's Block4_unit1 ``layer4.0``; SqueezeNet's fire9
``features.12``.
"""

from __future__ import annotations

import difflib
import re
import threading
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instsearch_cli.components import Extractor, option
from instsearch_cli.data import FeatureMap, Grid
from instsearch_cli.errors import InstsearchError, UsageError, nearest
from instsearch_cli.networks.weights import find_weights, load_state_dict, put_weights, sha256
from instsearch_plugins.extractors.heads import set_classes
from instsearch_plugins.extractors.tiles import MOST, tile_maps
from instsearch_plugins.numeric.matconvnet import is_matlab, read_vgg16

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from instsearch_cli.data import Image

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
SMALLEST = 32  # pixels: a shorter side would leave the deepest layers no cell
LONGEST = 4  # times its shorter side a picture may be long, when that is brought to a size
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class _Reached(Exception):  # noqa: N818
    """Ends the forward pass at the layer, so that nothing after it is computed."""


def normalise(
    pixels: Tensor,
    dtype: torch.dtype = torch.float32,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> Tensor:
    """torchvision's input: each channel less ImageNet's mean, by its standard deviation; or others.

    x = (u / 255 - mean) / std

    u8[B, 3, H, W] in RGB -> dtype[B, 3, H, W], in the same memory format.
    """
    m, s = (torch.tensor(tuple(v), device=pixels.device)[:, None, None] for v in (mean, std))
    return torch.addcmul((-m / s).to(dtype), pixels.to(dtype), (1 / (255 * s)).to(dtype))


def scaled(width: int, height: int, side: int) -> tuple[int, int]:
    """A picture's size with its shorter side brought to ``side`` pixels, enlarged if need be.

    Where the longer one would be over 4 times that it is 4 times that, and the shorter one at least 32.
    """
    r = min(side / min(width, height), LONGEST * side / max(width, height))
    return max(round(width * r), SMALLEST), max(round(height * r), SMALLEST)


class Network(Extractor):
    """Feature maps of one of torchvision's networks, computed as far as the layer asked for.

    What the forward pass does not reach is never read from the weights file and takes no memory.
    """

    encoding: str = "dense-map"  #: "pyramid" where several sizes are asked for
    classifies = True
    architecture: ClassVar[str]  #: torchvision's name of the network
    published: ClassVar[str] = ""  #: where its weights are from, if not from torchvision
    default: ClassVar[str] = ""  #: the layer that the papers use
    rectify: ClassVar[bool] = False  #: whether the network applies a ReLU to it that is no module of its own
    head: ClassVar[str] = (
        ""  #: weights of its linear classifier over global average pooling; empty: it has none
    )
    cam: ClassVar[str] = ""  #: the layer that is averaged for it
    trial: ClassVar[tuple[int, int]] = (224, 224)  #: height and width at which layers are looked at
    interpolation: ClassVar[str] = "bilinear"  #: torch's name of how pictures are resized

    @dataclass(frozen=True)
    class Config:
        layer: str = ""  #: a module of the network, by torchvision's name; empty is the network's default
        max_size: int = 448  #: larger pictures are reduced to this long side, in pixels
        enlarge: bool = option(False, omitted_at_default=True)  #: and smaller ones are enlarged to it
        logits: bool = False  #: also run the rest of the network and keep its class logits
        precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto"  #: auto is fp16 on a GPU, fp32 elsewhere
        #: a layer kept for class maps, with the logits; empty is none
        cam_layer: str = option("", omitted_at_default=True)
        #: shorter sides of several sizes, in place of max-size
        scales: tuple[int, ...] = option((), omitted_at_default=True)
        #: grids of 1 x 1 ... n x n patches, each a picture by itself, in place of scales; for encoder.apart
        tiles: int = option(0, omitted_at_default=True)
        weights: str = option("", digested=True)  #: weights file; empty: INSTSEARCH_WEIGHTS, torchvision's
        batch: int = option(0, "query")  #: pictures at once; 0 is 8 on a GPU, 1 elsewhere

        def __post_init__(self) -> None:
            if min((self.max_size, *self.scales)) < SMALLEST or self.batch < 0:
                raise ValueError(f"max_size is at least {SMALLEST}, as are scales, batch at least 0")
            if (self.scales or self.tiles) and (self.cam_layer or self.logits):
                raise ValueError("cam_layer and logits are kept of one size: not with scales, nor tiles")
            if not 0 <= self.tiles <= MOST or (self.tiles and self.scales):
                raise ValueError(f"tiles is 0 to {MOST}, and goes without scales")

    def __init__(self, config: Config, device: torch.device) -> None:
        gpu = device.type == "cuda"
        self.config, self.device = config, device
        self.encoding = "pyramid" if config.scales or config.tiles else "dense-map"
        self.layer = config.layer or self.default
        self.layers = tuple(dict.fromkeys(filter(None, (self.layer, config.cam_layer))))  # may be one
        self.logits = config.logits or bool(config.cam_layer)
        self.batch = config.batch or (8 if gpu else 1)
        self.dtype = DTYPES[("fp16" if gpu else "fp32") if config.precision == "auto" else config.precision]
        self.concurrent = not gpu
        self._building, self._passing = threading.Lock(), threading.local()

    def identity(self) -> dict[str, Any]:
        """The weights' sha256, the network and the layer."""
        return {"weights": sha256(self.weights), "architecture": self.architecture, "layer": self.layer}

    def fit_size(self, width: int, height: int) -> tuple[int, int]:
        """At most ``max_size`` along the longer side, enlarged to it on demand; narrow strips keep 32 pixels across.

        With ``scales`` the largest of them along the shorter side; with ``tiles`` what its smallest ones want.
        """
        if self.config.scales:
            return scaled(width, height, max(self.config.scales))
        r = self.config.max_size * max(self.config.tiles, 1) / max(width, height)
        r = r if self.config.enlarge else min(1.0, r)
        return max(round(width * r), min(width, SMALLEST)), max(round(height * r), min(height, SMALLEST))

    def extract(self, images: Sequence[Image]) -> list[FeatureMap]:
        """The layer's map of each of some pictures of equal shape, with what else was asked for of them.

        Where memory does not hold them together they come half by half. Raises InstsearchError where it does not hold
        one.
        """
        try:
            return self._extract(images)
        except torch.cuda.OutOfMemoryError as error:
            if len(images) == 1:
                h, w = images[0].pixels.shape[:2]
                raise InstsearchError(
                    f"{self.architecture} at {w} x {h} pixels does not fit into the memory of {self.device}: set a "
                    "smaller extractor.max-size, or scales"
                ) from error
        half = len(images) // 2
        return [*self.extract(images[:half]), *self.extract(images[half:])]

    def _extract(self, images: Sequence[Image]) -> list[FeatureMap]:
        one = images[0].pixels[None]  # no copy
        batch = one if len(images) == 1 else np.stack([image.pixels for image in images])
        with torch.inference_mode():
            pixels = torch.from_numpy(batch).to(self.device).permute(0, 3, 1, 2)  # channels last
            if self.encoding != "pyramid":
                return self._maps(self.prepare(pixels, self.dtype), images)
            x = self.prepare(pixels, torch.float32)
            w, h = images[0].pixels.shape[1::-1]
            if self.config.tiles:
                r = self.config.max_size / max(w, h)
                size = max(round(w * r), SMALLEST), max(round(h * r), SMALLEST)
                levels = tile_maps(x, self.config.tiles, images, lambda part: self._sized(part, size, images))
            else:
                sizes = (scaled(w, h, side) for side in self.config.scales)
                levels = [self._sized(x, size, images) for size in sizes]
        return [replace(first, levels=tuple(others)) for first, *others in zip(*levels, strict=True)]

    def prepare(self, pixels: Tensor, dtype: torch.dtype) -> Tensor:
        """The network's input: :func:`normalise`."""
        return normalise(pixels, dtype)

    def input_size(self, h: int, w: int) -> tuple[int, int]:
        """The height and width at which the network takes a picture of h x w pixels."""
        return max(h, SMALLEST), max(w, SMALLEST)

    def _resized(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        h, w = self.input_size(*size)
        if (h, w) == tuple(x.shape[2:]):
            return x
        return F.interpolate(x.float(), size=(h, w), mode=self.interpolation, antialias=True).to(x.dtype)

    def _sized(self, x: Tensor, size: tuple[int, int], images: Sequence[Image]) -> list[FeatureMap]:
        """The maps of pictures that are brought to a size (width, height) before."""
        return self._maps(self._resized(x, (size[1], size[0])).to(self.dtype), images)

    def _maps(self, x: Tensor, images: Sequence[Image]) -> list[FeatureMap]:
        h, w = x.shape[2:]
        values, logits, cam = self.forward(self._resized(x, (h, w)))
        h, w = values.shape[2:]
        return [
            FeatureMap(
                values[i],
                Grid.over(h, w, image.size),
                None if logits is None else logits[i],
                None if cam is None else cam[i],
            )
            for i, image in enumerate(images)
        ]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """[B, 3, H, W], normalised -> the layer's output f32[B, D, h, w], logits f32[B, C], CAM layer f32[B, K, h, w].

        The logits are None where they are off; the CAM layer, resized to the grid of the layer, where there is none
        of its own. All of one pass.
        """
        outputs = self._passing.outputs = dict[str, Tensor]()
        try:
            logits = self.network(x).float()
        except _Reached:
            logits = None
        maps = [self.as_map(name, outputs[name].float(), (x.shape[2], x.shape[3])) for name in self.layers]
        if len(maps) == 1:
            return maps[0], logits, None
        values, cam = maps
        if cam.shape[2:] != values.shape[2:]:
            cam = F.interpolate(cam, size=values.shape[2:], mode="bilinear", align_corners=False)
        return values, logits, cam

    def as_map(self, layer: str, output: Tensor, size: tuple[int, int]) -> Tensor:
        """A layer's output of pictures of ``size`` = (height, width) as maps f32[B, D, h, w]."""
        return F.relu(output) if self.rectify and layer == self.default else output

    @cached_property
    def weights(self) -> Path:
        """The weights file. Raises InstsearchError if there is none."""
        return self.find(self.config.weights)

    @classmethod
    def find(cls, explicit: str = "") -> Path:
        """The network's weights file: the explicit one, or where it is looked for. Raises InstsearchError."""
        return find_weights(cls.architecture, explicit, cls.published)

    @classmethod
    def build(cls) -> nn.Module:
        """The network without weights."""
        from torchvision.models import get_model

        network: nn.Module = get_model(cls.architecture, weights=None)
        return network

    @classmethod
    def import_weights(cls, path: Path) -> dict[str, Tensor]:
        """A checkpoint by torchvision's names, or what it has of them below "network.", as `train` writes them.

        Of a detection network it is the trunk, below "backbone.body.". Raises InstsearchError for a damaged one.
        """
        state = load_state_dict(path)
        for below in ("network.", "backbone.body."):
            if own := {name.removeprefix(below): x for name, x in state.items() if name.startswith(below)}:
                return own
        return state

    def class_names(self) -> list[str]:
        """The names of the network's classes, in the order of its logits."""
        from instsearch_plugins.extractors.class_maps import class_names

        return class_names(type(self), self.weights)

    @classmethod
    def of(cls, model: str) -> type[Network]:
        """The network of one of its models, where there are several. Raises UsageError."""
        raise UsageError(f"{cls.architecture} is one network: name it without ':{model}'")

    def state_dict(self) -> dict[str, Tensor]:
        """The weights by torchvision's names."""
        return self.import_weights(self.weights)

    def _take(self, name: str, module: nn.Module, args: Any, output: Tensor) -> None:
        self._passing.outputs[name] = (
            output.clone() if self.logits else output
        )  # what follows may work in place
        if not self.logits:
            raise _Reached

    @property
    def network(self) -> nn.Module:
        """The network, with the weights that it needs to get to the layer. Raises UsageError, InstsearchError."""
        with self._building:  # images are extracted side by side
            return self._network

    @cached_property
    def _network(self) -> nn.Module:
        with torch.device("meta"):
            network = self.build()
        names, state = self._needed(network.eval()), self.state_dict()
        network = self.whole(network)
        rows = state[self.head].shape[:1] if self.head in state else ()
        if rows and rows != network.get_parameter(self.head).shape[:1]:
            with torch.device("meta"):
                set_classes(network, self.head, rows[0])  # trained to tell others apart
        network.requires_grad_(False)
        put_weights(network, names, state, self.weights, self.device, self.dtype)
        for name in self.layers:
            network.get_submodule(name).register_forward_hook(partial(self._take, name))
        return network

    def whole(self, network: nn.Module) -> nn.Module:
        """The network, which has shapes alone, with the numbers that no weights file has."""
        return network

    def _needed(self, network: nn.Module) -> list[str]:
        """Names of the tensors that the forward pass touches up to the layer; all of them with logits.

        A rehearsal on the meta device, which has shapes but no numbers. Raises UsageError for a layer
        that is not there, is used several times, or has no map.
        """
        modules = dict(network.named_modules())
        for layer in self.layers:
            if layer not in modules:
                top = [name for name in modules if name and name.count(".") <= 1]
                close = difflib.get_close_matches(layer, modules, n=1, cutoff=0.5)
                raise UsageError(f"{self.architecture} has no layer '{layer}'.{nearest(layer, close or top)}")
        shapes: dict[str, list[tuple[int, ...]]] = {layer: [] for layer in self.layers}
        touched: dict[str, None] = {}

        def enter(prefix: str, module: nn.Module, _: Any) -> None:
            if self.logits or not shapes[self.layer]:
                tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
                touched.update((f"{prefix}.{name}", None) for name, _ in tensors)

        def leave(layer: str, module: nn.Module, _: Any, output: Any) -> None:
            shapes[layer].append(tuple(output.shape) if isinstance(output, Tensor) else ())

        handles = [module.register_forward_pre_hook(partial(enter, name)) for name, module in modules.items()]
        handles += [modules[layer].register_forward_hook(partial(leave, layer)) for layer in self.layers]
        network(torch.empty(1, 3, *self.trial, device="meta"))
        for handle in handles:
            handle.remove()
        for layer, found in shapes.items():
            if len(found) != 1:
                times = f"{len(found)} times in one pass: name one that is used once"
                raise UsageError(f"{self.architecture} uses layer '{layer}' {times}")
            if not self.has_map(layer, found[0]):
                raise UsageError(f"{self.architecture}'s layer '{layer}' gives one vector, not a map")
        return [name for name in touched if not name.endswith("num_batches_tracked")]  # for training only

    def has_map(self, layer: str, shape: tuple[int, ...]) -> bool:
        """Whether a layer's output of a picture of the size of ``trial`` is a map."""
        return len(shape) == 4


class VGG16(Network):
    """conv5_1 after ReLU: 512 channels, stride 16 (Simonyan & Zisserman 2015)."""

    architecture = "vgg16"
    default = "features.25"

    @classmethod
    def import_weights(cls, path: Path) -> dict[str, Tensor]:
        """As :meth:`Network.import_weights`, or the convolutions of a NetVLAD that its authors published."""
        return read_vgg16(path, MEAN, STD) if is_matlab(path) else super().import_weights(path)


class ResNet50(Network):
    """layer4: 2048 channels, stride 32 (He et al. 2016)."""

    architecture = "resnet50"
    default = cam = "layer4"
    head = "fc.weight"


class ResNet101(Network):
    """layer4: 2048 channels, stride 32 (He et al. 2016)."""

    architecture = "resnet101"
    default = cam = "layer4"
    head = "fc.weight"


class DenseNet161(Network):
    """norm5 after ReLU: 2208 channels, stride 32 (Huang et al. 2017)."""

    architecture = "densenet161"
    default = cam = "features"
    head = "classifier.weight"
    rectify = True

    @classmethod
    def import_weights(cls, path: Path) -> dict[str, Tensor]:
        """The weights by torchvision's names; its published file has older ones, ``norm.1`` for ``norm1``."""
        older = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
        return {older.sub(r"\1\2", name): tensor for name, tensor in super().import_weights(path).items()}


class SqueezeNet10(Network):
    """The last fire module, fire9, after its ReLU: 512 channels, stride 16 (Iandola et al. 2016)."""

    architecture = "squeezenet1_0"
    default = cam = "features.12"
    head = "classifier.1.weight"  # a 1 x 1 convolution, rectified before it is averaged
