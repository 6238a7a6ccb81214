"""Training SalNet: the Euclidean distance to maps in -1 to 1, by stochastic descent (Pan et al., CVPR 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from instsearch_cli.components import option
from instsearch_cli.networks.training import Best, Trainer
from instsearch_cli.networks.weights import check_state_dict, find_weights, sha256
from instsearch_plugins.training.descent import bilinear, descend, he
from instsearch_plugins.training.saliency_batches import SaliencyBatches, SaliencyOptions
from instsearch_plugins.weighters.salnet import CENTRE, SPREAD, SalNet, SalNetNetwork, normalise

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from instsearch_cli.networks.training import Run

PAPER = 240 * 320  #: pixels of the paper's maps
ADAPTED = ("conv1", "conv2", "conv3")  #: layers of VGG_CNN_M that the authors began with


def euclidean_loss(predicted: Tensor, S: Tensor) -> Tensor:
    """Half the squared distance of the maps, as Caffe has it, of maps of the paper's size.

    L = 1/(2B) sum_b sum_j (P_bj - (2 S_bj - 1))^2  240 320 / (H W)

    where P and S are f32[B, 1, H, W], S in 0 to 1. It is a sum over pixels: the learning rate of a mean
    over pixels would be 76 800 times as large. The last factor makes one learning rate do for all sizes.
    """
    b, _, h, w = S.shape
    return (predicted - (2 * S - 1)).square().sum() / (2 * b) * (PAPER / (h * w))


class SalNetTrainer(Trainer):
    """Trains SalNet on pictures with fixations."""

    @dataclass(frozen=True)
    class Config(SaliencyOptions):
        """Options; the paper's by default, without its first layers from VGG_CNN_M."""

        size: tuple[int, int] = (240, 320)  #: height, width of the network's input; smaller is faster
        batch: int = 2  #: pictures a step
        #: weights with conv1 to conv3, such as VGG_CNN_M's .caffemodel; empty: from scratch
        encoder: str = option("", digested=True)
        #: how the other layers begin; he needs a far lower learning rate
        init: Literal["gaussian", "he"] = "gaussian"
        std: float = 0.01  #: standard deviation of gaussian
        iterations: int = 24_000  #: steps
        lr: float = 1.3e-7  #: for a sum over 240 x 320 pixels, whatever the size
        lr_every: int = 7000  #: steps after which lr is halved
        momentum: float = 0.9  #: of the descent
        weight_decay: float = 5e-4  #: L2 of all weights

        def __post_init__(self) -> None:
            SaliencyOptions.__post_init__(self)
            if min(self.iterations, self.lr_every) < 1:
                raise ValueError("iterations and lr-every are at least 1")

    config: Config

    def identity(self) -> dict[str, str]:
        """The sha256 of the first layers' weights."""
        return {"encoder": sha256(path) if (path := self._encoder()) else "from scratch"}

    def train(self, data: Path, run: Run) -> Mapping[str, Tensor]:
        """The network's weights."""
        c = self.config
        torch.manual_seed(c.seed)
        batches = SaliencyBatches(data, c)
        network = self._network().to(self.device)
        run.card["initial weights"] = self._origin()
        run.progress.say(f"first weights: {self._origin()}")

        best = Best()
        optimizer = torch.optim.SGD(network.parameters(), c.lr, c.momentum, weight_decay=c.weight_decay)
        of_epoch = len(batches.epoch(0, 0))
        epochs = -(-c.iterations // of_epoch)
        for epoch in run.stage(
            "descent", epochs, network=network, optimizer=optimizer, batches=batches, best=best
        ):
            todo = batches.epoch(0, epoch)[: c.iterations - epoch * of_epoch]
            for pixels, S in run.steps(todo, batches.load, c.workers):
                for group in optimizer.param_groups:
                    group["lr"] = c.lr * 0.5 ** (run.step // c.lr_every)
                loss = self._loss(network, pixels, S)
                run.log(euclidean=loss)
                descend(loss, optimizer)
            held_out = self._held_out(network, batches, run)
            run.measured(held_out=held_out)
            if c.keep == "best":
                best.offer(held_out, network)

        weights = best.weights if c.keep == "best" else network.state_dict()
        network.load_state_dict(weights)
        run.card["images"] = batches.counts()
        run.card["held out"] = {
            "euclidean": round(self._held_out(network, batches, run), 1)
        } | batches.measure(lambda pixels: SPREAD * network(normalise(pixels.to(self.device))) + CENTRE, run)
        return weights

    def _loss(self, network: SalNetNetwork, pixels: Tensor, S: Tensor) -> Tensor:
        """The Euclidean loss of the network on a batch."""
        return euclidean_loss(network(normalise(pixels.to(self.device))), S.to(self.device))

    def _network(self) -> SalNetNetwork:
        """The network with its first weights."""
        c, network = self.config, SalNetNetwork()
        he(network)
        if c.init == "gaussian":
            for layer in network:
                if isinstance(layer, nn.Conv2d):
                    nn.init.normal_(layer.weight, std=c.std)
        bilinear(network[-1])
        if path := self._encoder():
            state = SalNet.import_weights(path)
            names = [name for name in network.state_dict() if name.partition(".")[0] in ADAPTED]
            check_state_dict(network, names, state, path)
            network.load_state_dict({name: state[name] for name in names}, strict=False)
        return network

    def _held_out(self, network: SalNetNetwork, batches: SaliencyBatches, run: Run) -> float:
        return batches.validate(lambda pixels, S: self._loss(network, pixels, S), run)

    def _encoder(self) -> Path | None:
        """The file with the first layers' weights. Raises InstsearchError if it is not there."""
        return find_weights("salnet", self.config.encoder) if self.config.encoder else None

    def _origin(self) -> str:
        c, path = self.config, self._encoder()
        how = f"normal with standard deviation {c.std}" if c.init == "gaussian" else "He et al., 2015"
        if path is None:
            return f"drawn at random ({how}): from scratch, without pretrained layers"
        return f"conv1 to conv3 from {path.name} (sha256 {sha256(path)[:12]}), the rest at random ({how})"
