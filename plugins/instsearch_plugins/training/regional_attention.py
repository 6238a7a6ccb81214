"""Training regional attention by a classification of whole pictures.

Kim and Yoon, "Regional attention based deep feature for image retrieval", BMVC 2018: the network under it is frozen;
its regions' maxima, as much as the attention lets them count, are what a linear classifier reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from instsearch_cli.components import option
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.images import BadImage
from instsearch_cli.networks.weights import sha256
from instsearch_plugins.encoders.regional_attention_network import UNITS, drawn
from instsearch_plugins.numeric.regional_attention import Hidden, attended_mean, pools_of_rectangles
from instsearch_plugins.numeric.regions import rmac_grid
from instsearch_plugins.training.basic_conv import BasicConv, Precision
from instsearch_plugins.training.classification import ClassTrainer, grouped
from instsearch_plugins.training.descent import trainable
from instsearch_plugins.training.kept_maps import KeptMaps
from instsearch_plugins.training.labelled import option_file
from instsearch_plugins.training.mscnet_batches import Shuffled, check_crops, digest, is_index

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from instsearch_cli.networks.training import Run
    from instsearch_cli.progress import Quiet
    from instsearch_plugins.encoders.regional_attention_network import ContextAttention
    from instsearch_plugins.training.classification import Pair

STD = 0.01  #: standard deviation of the classifier's first weights


class AttendedClassifier(nn.Module):
    """Maps f32[B, C, h, w] -> logits f32[B, K] of W (1/R sum_i phi_i psi_i / n) + b over R-MAC's regions of them.

    phi is of means over m: networks differ a hundredfold in the size of their activations, and one learning rate is to
    do for all. ``sizes`` f32[2] = (m, n) is kept with the weights.
    """

    sizes: Tensor

    def __init__(self, attention: ContextAttention, classifier: nn.Linear, levels: int) -> None:
        super().__init__()
        self.attention, self.classifier, self.levels = attention, classifier, levels
        self.register_buffer("sizes", torch.ones(2))

    def forward(self, X: Tensor) -> Tensor:
        """The logits of some maps."""
        h, w = X.shape[2:]
        psi, r = pools_of_rectangles(X, rmac_grid(h, w, self.levels))
        m, n = self.sizes
        phi = self.attention(r / m, X.mean((2, 3)) / m)
        logits: Tensor = self.classifier(attended_mean(phi, psi / n))
        return logits

    def measure(self, X: Tensor, scale: float) -> None:
        """Take over the sizes of some maps: m the root mean square of the regions' means, n the vectors', over scale.

        n = sqrt(mean_i |psi_i|^2) / scale, and 1 for scale 0.
        """
        h, w = X.shape[2:]
        psi, r = pools_of_rectangles(X, rmac_grid(h, w, self.levels))
        sizes = (
            r.square().mean().sqrt(),
            psi.square().sum(2).mean().sqrt() / scale if scale else torch.ones(()),
        )
        self.sizes.copy_(torch.stack([size if size > 0 else torch.ones_like(size) for size in sizes]))

    def weights(self) -> dict[str, Tensor]:
        """The attention's, for means as they are."""
        state = dict(self.attention.state_dict())
        return state | {"context.weight": state["context.weight"] / self.sizes[0]}


class RegionalAttentionTrainer(ClassTrainer):
    """Trains a regional attention on class folders, or on the groups that pairs of matching images make."""

    @dataclass(frozen=True)
    class Config:
        """Options; the authors' by default, but for epochs, which they do not give."""

        #: CSV file of matching images, two names a line, as `instsearch pairs` writes it; empty: class folders
        pairs: str = option("", digested=True)
        least: int = 8  #: pictures of a group that hangs together by pairs, to be a class
        network: str = "resnet101"  #: what makes the maps, frozen: a torchvision network among the extractors
        layer: str = ""  #: of the network; empty: its last ReLU
        #: the network's file; empty: INSTSEARCH_WEIGHTS, torchvision's
        weights: str = option("", digested=True)
        #: trained from random numbers, or frozen: the network's own, whose classes the folders are, in their order
        classifier: Literal["trained", "frozen"] = "trained"
        #: how long the vectors of regions are that a trained classifier reads, by mean square; 0: as the maps have them
        scale: float = 16.0
        levels: int = 5  #: of R-MAC's grid
        units: int = UNITS  #: D, of the attention's hidden layer
        hidden: Hidden = (
            "tanh"  #: between the two layers; the authors' training has softplus, their test tanh
        )
        epochs: int = 10  #: each picture once in each
        batch: int = 16  #: pictures a step
        lr: float = 1e-3  #: learning rate
        momentum: float = 0.9  #: of the descent
        weight_decay: float = 5e-5  #: L2 of all weights
        short_side: tuple[int, ...] = (850, 859)  #: the shorter side is drawn from these, in pixels
        crop: int = 800  #: pixels of the square cut out of it
        flip: bool = False  #: mirror every other crop, at random
        #: crops of each picture whose maps are kept on disk and used in turn; 0: new crops in every epoch
        views: int = 0
        held_out: float = 0.1  #: share of every class that is validated on, where there is no data/val
        keep: Literal["last", "best"] = "best"  #: which epoch's weights; best: of the lowest held-out loss
        precision: Precision = "auto"  #: of the network: fp16 on a GPU, fp32 elsewhere
        seed: int = 0  #: of first weights, order and crops
        workers: int = option(2, "query")  #: threads that read ahead

        def __post_init__(self) -> None:
            whole = (self.levels, self.units, self.epochs, self.batch, self.workers)
            if self.least < 2:
                raise ValueError("least is 2 pictures or more, one to train on and one to hold out")
            if min(whole) < 1 or min(self.views, self.seed) < 0:
                raise ValueError(
                    "levels, units, epochs, batch and workers are at least 1, views and seed at least 0"
                )
            check_crops(self.short_side, self.crop)
            if not (0 < self.held_out < 1 and self.scale >= 0):
                raise ValueError("held-out is between 0 and 1, scale 0 or more")

    config: Config

    def identity(self) -> dict[str, str]:
        """The sha256 of the network's weights, and of the pairs. Raises InstsearchError if they are not there."""
        found = {"weights": sha256(self._basic_conv().extractor.weights)}
        if self.config.pairs:
            found["pairs"] = sha256(option_file("pairs", self.config.pairs))
        return found

    def digest(self, data: Path, progress: Quiet) -> dict[str, Any]:
        return digest(data, progress)

    def divided(self, data: Path) -> tuple[list[Pair], list[Pair]]:
        c = self.config
        if not c.pairs and is_index(data):
            raise UsageError(
                "pictures of an index have no classes: give --pairs, a file of `instsearch pairs`"
            )
        if not c.pairs:
            return super().divided(data)
        return grouped(data, option_file("pairs", c.pairs), c.least, c.held_out)

    def train(self, data: Path, run: Run) -> Mapping[str, Tensor]:
        """context.*, score.*: the attention; the classifier has served its purpose."""
        c = self.config
        torch.manual_seed(c.seed)
        pictures = batches, _ = self.pictures(data, c.views)
        conv = self._basic_conv()
        C, h, w = conv.shape(c.crop)
        if not len(rmac_grid(h, w, c.levels)):
            raise UsageError(f"crops of {c.crop} pixels have a map of {h} x {w} cells and no region")
        model = self._model(conv, C, len(batches.classes))
        model.measure(conv(_first(batches)), c.scale if c.classifier == "trained" else 0)
        maps = KeptMaps(run.folder, batches, conv, (C, h, w)) if c.views else None
        optimizer = torch.optim.SGD(trainable(model), c.lr, c.momentum, weight_decay=c.weight_decay)
        run.progress.say(
            f"{len(batches.paths):,} pictures, {len(batches.classes):,} classes; {c.network} up to "
            f"{conv.extractor.layer} is frozen"
        )
        of, load = maps or conv, (maps or batches).load
        self.descend(model, optimizer, pictures, run, lambda x: model(of(x)), load)
        layer = conv.extractor.layer
        used = {
            "extractor": c.network,
            "extractor.layer": layer,
            "detector": "grid",
            "detector.levels": c.levels,
        }
        run.card |= {"used with": used, "component options": {"query_levels": c.levels, "hidden": c.hidden}}
        if maps is not None:
            maps.remove()
        return model.weights()

    def _model(self, conv: BasicConv, C: int, classes: int) -> AttendedClassifier:
        """The attention and the classifier with their first weights.

        Raises InstsearchError if the network's own classifier is asked for, and reads something else than the mean of
        these maps, or tells other classes apart.
        """
        c = self.config
        classifier = nn.Linear(C, classes)
        if c.classifier == "frozen":
            self._take(classifier, conv)
        else:
            nn.init.normal_(classifier.weight, std=STD)
            nn.init.zeros_(classifier.bias)
        return AttendedClassifier(drawn(C, c.units, c.hidden, c.seed), classifier, c.levels).to(self.device)

    def _take(self, classifier: nn.Linear, conv: BasicConv) -> None:
        """Give the classifier the numbers of the network's own."""
        extractor = conv.extractor
        state, head = extractor.state_dict(), extractor.head
        weight = state.get(head)
        bias = state.get(head.removesuffix("weight") + "bias")
        shape = (classifier.out_features, classifier.in_features)
        if weight is None or bias is None or tuple(weight.flatten(1).shape) != shape:
            found = (
                "none" if weight is None else f"of {' x '.join(map(str, weight.flatten(1).shape))} numbers"
            )
            raise InstsearchError(
                f"{extractor.weights}: the classifier is {found}, and {shape[0]:,} classes of {shape[1]:,} channels "
                "need another: leave out --classifier frozen"
            )
        classifier.load_state_dict({"weight": weight.flatten(1).float(), "bias": bias.float()})
        classifier.requires_grad_(False)

    def _basic_conv(self) -> BasicConv:
        c = self.config
        return BasicConv(c.network, c.layer, c.weights, self.device, True, c.precision)


def _first(batches: Shuffled) -> Tensor:
    """The pixels of the first batch of which anything can be read. Raises InstsearchError if there is none."""
    reason = ""
    for batch in batches.epoch(0):
        try:
            return batches.load(batch)[0]
        except BadImage as error:
            reason = error.reason
    raise InstsearchError(f"nothing of the data can be trained on: {reason}")
