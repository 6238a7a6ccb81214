"""Training a linear classifier over a global average of maps, for class activation maps of one's own classes.

Zhou et al., "Learning deep features for discriminative localization", CVPR 2016: what lies behind a network's last
convolutions is replaced by the CAM layer, a global average and a linear layer, and fine-tuned.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instsearch_cli.components import option
from instsearch_cli.errors import UsageError, nearest
from instsearch_cli.networks.weights import check_state_dict, find_weights, needed, sha256
from instsearch_plugins.extractors.decomposeme import DecomposeMe
from instsearch_plugins.extractors.heads import set_classes
from instsearch_plugins.extractors.networks import Network, SqueezeNet10
from instsearch_plugins.extractors.vgg16_cam import VGG16CAM
from instsearch_plugins.training.classification import ClassTrainer
from instsearch_plugins.training.descent import he
from instsearch_plugins.training.mscnet_batches import check_crops

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from instsearch_cli.networks.training import Run


STD = 0.01  #: standard deviation of the classifier's first weights


class CamHeadTrainer(ClassTrainer):
    """Trains the head of a network on a folder of class folders."""

    extractor: ClassVar[type[Network]] = Network
    first: ClassVar[str] = ""  #: the module that the head begins with
    rate: ClassVar[float] = 1e-3  #: learning rate of the head on top of an encoder

    @dataclass(frozen=True)
    class Config:
        """Options; the learning rates and their course are choices."""

        #: weights of what is below the head, by torchvision's names; empty: from scratch
        encoder: str = option("", digested=True)
        unfreeze: str = ""  #: first layer that is trained with the head; empty: none; from scratch all are
        epochs: int = 30  #: each picture once in each
        batch: int = 64  #: pictures a step
        #: learning rate of the head; none: .001, SqueezeNet's .0001, and from scratch .01 of all
        lr: float | None = None
        deep_lr: float = 0.1  #: that of unfrozen layers, of the head's
        lr_every: int = 10  #: epochs after which the learning rates fall to a tenth
        momentum: float = 0.9  #: of the descent
        weight_decay: float = 5e-4  #: L2 of all weights
        dropout: float = 0.5  #: of what the linear layer reads
        short_side: tuple[int, ...] = (256, 256)  #: the shorter side is drawn from these, in pixels
        crop: int = 224  #: pixels of the square cut out of it
        flip: bool = True  #: mirror every other crop, at random
        held_out: float = 0.1  #: share of every class that is validated on, where there is no data/val
        keep: Literal["last", "best"] = "last"  #: which epoch's weights; best: of the lowest held-out loss
        seed: int = 0  #: of first weights, order and crops
        workers: int = option(2, "query")  #: threads that read ahead

        def __post_init__(self) -> None:
            if self.unfreeze and not self.encoder:
                raise ValueError("unfreeze is of an encoder's layers, and none is given: all are trained")
            if min(self.epochs, self.batch, self.lr_every, self.workers) < 1 or self.seed < 0:
                raise ValueError("epochs, batch, lr-every and workers are at least 1, seed at least 0")
            check_crops(self.short_side, self.crop)
            if not (0 <= self.dropout < 1 and 0 < self.held_out < 1):
                raise ValueError("dropout is 0 or more and below 1, held-out between 0 and 1")

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config, self.device = config, device
        self.lr = (self.rate if config.encoder else 1e-2) if config.lr is None else config.lr
        self.component = self.extractor(self.extractor.Config(), device)

    def identity(self) -> dict[str, str]:
        """The sha256 of the encoder's weights."""
        return {"encoder": sha256(path) if (path := self._encoder()) else "from scratch"}

    def train(self, data: Path, run: Run) -> Mapping[str, Tensor]:
        """The network's weights; the card has the names of the classes in the order of its logits."""
        torch.manual_seed(self.config.seed)
        pictures = batches, _ = self.pictures(data)
        network, origin = self.network(len(batches.classes))
        run.card |= {"classes": batches.classes, "initial weights": origin}
        run.progress.say(f"{len(batches.classes):,} classes; first weights: {origin}")

        logits, optimizer = partial(self.logits, network), self.optimizer(network)
        self.descend(network, optimizer, pictures, run, logits, batches.load)
        state = network.state_dict()
        return {name: state[name] for name in needed(network)}

    def logits(self, network: nn.Module, pixels: Tensor) -> Tensor:
        """The logits of a batch of pixels."""
        logits: Tensor = network(self.component.prepare(pixels.to(self.device), torch.float32))
        return logits

    def network(self, classes: int) -> tuple[nn.Module, str]:
        """The network with its first weights, frozen where it is not trained, and where these weights are from.

        Raises InstsearchError for weights that do not fit, UsageError for a layer that is not there.
        """
        c, path = self.config, self._encoder()
        network = self.extractor.build()
        set_classes(network, self.extractor.head, classes)
        he(module for module in network.modules() if not any(module.children()))
        nn.init.normal_(network.get_parameter(self.extractor.head), std=STD)  # maps are far from 1 in size
        origin = "drawn at random (He et al., 2015): from scratch, and all layers are trained"
        if path is not None:
            drawn = self._take(network, path)
            frozen = self._below(network, c.unfreeze or self.first)
            for name, parameter in network.named_parameters():
                parameter.requires_grad_(name not in frozen)
            origin = (
                f"from {path.name} (sha256 {sha256(path)[:12]}), {', '.join(drawn) or 'nothing'} at random; "
                f"layers are trained from {c.unfreeze or self.first} on"
            )
        self._drop(network)
        return network.to(self.device), origin

    def optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """Descent with momentum: of the head, and of unfrozen layers, whose learning rate is another."""
        c = self.config
        below = self._below(network, self.first) if c.encoder else set()
        groups: list[list[nn.Parameter]] = [[], []]
        for name, parameter in network.named_parameters():
            if parameter.requires_grad:
                groups[name in below].append(parameter)
        return torch.optim.SGD(
            [{"params": group} for group in groups if group], self.lr, c.momentum, weight_decay=c.weight_decay
        )

    def begin(self, network: nn.Module, optimizer: torch.optim.Optimizer, epoch: int) -> None:
        c = self.config
        self._training(network)
        for group, share in zip(optimizer.param_groups, (1.0, c.deep_lr), strict=False):
            group["lr"] = self.lr * share * 0.1 ** (epoch // c.lr_every)

    def _take(self, network: nn.Module, path: Path) -> list[str]:
        """Take over a file's weights; the head's layers that it lacks, or has for other classes."""
        state, expected, names = self.extractor.import_weights(path), network.state_dict(), needed(network)
        below = self._below(network, self.first)
        check_state_dict(network, [name for name in names if name in below], state, path)
        drawn = dict.fromkeys(
            name.rpartition(".")[0]
            for name in names
            if name not in state or state[name].shape != expected[name].shape
        )
        taken = {name: state[name] for name in names if name.rpartition(".")[0] not in drawn}
        network.load_state_dict(taken, strict=False)
        return list(drawn)

    def _below(self, network: nn.Module, layer: str) -> set[str]:
        """Names of the tensors before a layer. Raises UsageError for one that is not there or in the head."""
        names = list(network.state_dict())
        places = {
            prefix: i
            for prefix in (layer, self.first)
            for i, name in reversed([*enumerate(names)])
            if name.startswith(f"{prefix}.")
        }
        layers = {name.rpartition(".")[0] for name in names}
        if layer not in places:
            raise UsageError(
                f"{self.extractor.architecture} has no layer '{layer}' with weights.{nearest(layer, layers)}"
            )
        if places[layer] > places[self.first]:
            raise UsageError(
                f"unfreeze: the head, from '{self.first}' on, is trained anyway; '{layer}' is in it"
            )
        return set(names[: places[layer]])

    def _drop(self, network: nn.Module) -> None:
        """Set the network's dropout, or put one before its linear layer."""
        p = self.config.dropout
        own = [module for module in network.modules() if isinstance(module, nn.Dropout)]
        for module in own:
            module.p = p
        if not own:
            linear = network.get_submodule(self.extractor.head.removesuffix(".weight"))
            linear.register_forward_pre_hook(lambda module, x: (F.dropout(x[0], p, module.training),))

    def _training(self, network: nn.Module) -> None:
        """Dropout is on, and batch normalisation learns where it is not frozen."""
        for module in network.modules():
            own = module.parameters(recurse=False)
            module.training = isinstance(module, nn.Dropout) or any(p.requires_grad for p in own)

    def _encoder(self) -> Path | None:
        """The encoder's weights file. Raises InstsearchError if it is not there."""
        c = self.config
        return find_weights(self.extractor.architecture, c.encoder) if c.encoder else None


class VGG16CAMTrainer(CamHeadTrainer):
    """Trains VGG-16-CAM's convolution to 1,024 channels and its linear layer, on top of VGG-16."""

    extractor = VGG16CAM
    first = "features.30"


class SqueezeNet10Trainer(CamHeadTrainer):
    """Trains the 1 x 1 convolution that SqueezeNet classifies with."""

    extractor = SqueezeNet10
    first = "classifier"
    rate = 1e-4  # its maps are large, and rectified logits that a long step made negative stay 0


class DecomposeMeTrainer(CamHeadTrainer):
    """Trains DecomposeMe: from scratch, or the CAM layer and what follows."""

    extractor = DecomposeMe
    first = "cam"
