"""Training SalGAN: content loss alone at first, then against a discriminator (Pan et al., 2017, arXiv:1701.01081)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instsearch_cli.components import option
from instsearch_cli.networks.training import Best, Trainer
from instsearch_cli.networks.weights import check_state_dict, find_weights, load_state_dict, sha256
from instsearch_plugins.training.descent import descend, he, trainable
from instsearch_plugins.training.discriminator import Discriminator, adversarial_loss, seen
from instsearch_plugins.training.saliency_batches import SaliencyBatches, SaliencyOptions
from instsearch_plugins.weighters.salgan import MEAN, SIZE, SalGANGenerator, normalise

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from instsearch_cli.networks.training import Part, Run

RGB_MEAN, RGB_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  #: of torchvision's networks' input
FROZEN = 16  #: layers of the encoder, up to ReLU of conv3_3
EPSILON = 1e-7


def content_loss(predicted: Tensor, S: Tensor) -> Tensor:
    """Binary cross-entropy of maps averaged over 4 x 4 pixels (section 3.1).

    L = -1/N sum_j (S_j log P_j + (1 - S_j) log(1 - P_j))

    where j runs over the N cells of all maps, P and S are f32[B, 1, H, W] in 0 to 1, and P is kept EPSILON
    from both ends. A P that is not a number gives a loss that is none.
    """
    P, S = F.avg_pool2d(predicted, 4).clamp(EPSILON, 1 - EPSILON), F.avg_pool2d(S, 4)
    return -(S * P.log() + (1 - S) * (1 - P).log()).mean()


@torch.no_grad()
def take_bgr(conv: nn.Conv2d) -> None:
    """Turn a convolution of torchvision's input into one of :func:`normalise`'s, with the same output.

    torchvision's x_c = (u_c / 255 - m_c) / s_c and ours y_c = u_c - mean_c of one pixel u give
    w' = w / (255 s),  b' = b + sum w (mean - 255 m) / (255 s),  channels reversed; equal where no padding is in reach.
    """
    m, s = (torch.tensor(v, device=conv.weight.device)[:, None, None] for v in (RGB_MEAN, RGB_STD))
    mean = torch.tensor(MEAN[::-1], device=conv.weight.device)[:, None, None]
    w = conv.weight / (255 * s)
    assert conv.bias is not None
    conv.bias += (w * (mean - 255 * m)).sum((1, 2, 3))
    conv.weight.copy_(w.flip(1))


class SalGANTrainer(Trainer):
    """Trains SalGAN's generator on pictures with fixations."""

    @dataclass(frozen=True)
    class Config(SaliencyOptions):
        """Options; the paper's by default, without its pretrained encoder."""

        encoder: str = option(
            "", digested=True
        )  #: VGG-16's weights, torchvision's names; empty: from scratch
        bootstrap_epochs: int = 15  #: with the content loss alone
        epochs: int = 90  #: against the discriminator; the published weights' number
        alpha: float = 0.05  #: of the content loss beside the adversarial one
        lr: float = 3e-4  #: AdaGrad's; 1e-4 is steadier from scratch
        bootstrap_optimizer: Literal["adagrad", "nesterov"] = "adagrad"  #: the paper's, or its code's
        bootstrap_lr: float | None = None  #: none: lr, and 1e-3 for nesterov
        weight_decay: float = 1e-4  #: L2 of all weights; the code's 0

        def __post_init__(self) -> None:
            SaliencyOptions.__post_init__(self)
            if min(self.bootstrap_epochs, self.epochs) < 0 or not self.bootstrap_epochs + self.epochs:
                raise ValueError("bootstrap-epochs and epochs are at least 0, and 1 together")

    config: Config

    def identity(self) -> dict[str, str]:
        """The sha256 of the encoder's weights."""
        return {"encoder": sha256(path) if (path := self._encoder()) else "from scratch"}

    def train(self, data: Path, run: Run) -> Mapping[str, Tensor]:
        """The generator's weights."""
        c = self.config
        torch.manual_seed(c.seed)
        batches = SaliencyBatches(data, c)
        G = self._generator().to(self.device)
        run.card["initial weights"] = self._origin()
        if c.size != (SIZE[1], SIZE[0]):
            run.card["component options"] = {"size": ",".join(map(str, c.size))}
        run.progress.say(f"first weights: {self._origin()}")

        best = Best()
        optimizer = self._bootstrap_optimizer(G)
        for epoch in run.stage(
            "bootstrap", c.bootstrap_epochs, generator=G, optimizer=optimizer, batches=batches, best=best
        ):
            for pixels, S in run.steps(batches.epoch(0, epoch), batches.load, c.workers):
                loss = self._content(G, pixels, S)
                run.log(content=loss)
                descend(loss, optimizer)
            self._validate(G, batches, best, run)
        if c.epochs:
            best = self._play(G, batches, run)

        weights = best.weights if c.keep == "best" else G.state_dict()
        G.load_state_dict(weights)
        run.card["images"] = batches.counts()
        run.card["held out"] = {"content": round(self._held_out(G, batches, run), 4)} | batches.measure(
            lambda pixels: G(normalise(pixels.to(self.device))), run
        )
        return weights

    def _play(self, G: SalGANGenerator, batches: SaliencyBatches, run: Run) -> Best:
        """The second stage: one batch for the discriminator, the next for the generator, in turn (section 4)."""
        c, best = self.config, Best()
        D = Discriminator(*c.size).to(self.device)
        of_G, of_D = (self._adagrad(network, c.lr) for network in (G, D))
        parts: dict[str, Part] = {
            "generator": G,
            "discriminator": D,
            "of_generator": of_G,
            "of_discriminator": of_D,
        }
        for epoch in run.stage("adversarial", c.epochs, **parts, batches=batches, best=best):
            for pixels, S in run.steps(batches.epoch(1, epoch), batches.load, c.workers):
                if run.step % 2 == 0:
                    loss = self._discriminator_loss(G, D, pixels, S)
                    run.log(discriminator=loss)
                    descend(loss, of_D)
                else:
                    loss, content = self._generator_loss(G, D, pixels, S)
                    run.log(generator=loss, content=content)
                    descend(loss, of_G)
            self._validate(G, batches, best, run)
        return best

    def _content(self, G: SalGANGenerator, pixels: Tensor, S: Tensor) -> Tensor:
        """The content loss of the generator on a batch."""
        return content_loss(G(normalise(pixels.to(self.device))), S.to(self.device))

    def _discriminator_loss(self, G: SalGANGenerator, D: Discriminator, pixels: Tensor, S: Tensor) -> Tensor:
        """L = 1/2 BCE(D(I, S), 1) + 1/2 BCE(D(I, G(I)), 0): the mean over real and fake together."""
        D.requires_grad_(True)
        pixels, S = pixels.to(self.device), S.to(self.device)
        with torch.no_grad():
            fake = G(normalise(pixels))
        return (
            adversarial_loss(D(seen(pixels, S)), True) + adversarial_loss(D(seen(pixels, fake)), False)
        ) / 2

    def _generator_loss(
        self, G: SalGANGenerator, D: Discriminator, pixels: Tensor, S: Tensor
    ) -> tuple[Tensor, Tensor]:
        """L = BCE(D(I, G(I)), 1) + alpha L_content (eq. 5), and L_content."""
        D.requires_grad_(False)
        pixels = pixels.to(self.device)
        predicted = G(normalise(pixels))
        content = content_loss(predicted, S.to(self.device))
        return adversarial_loss(D(seen(pixels, predicted)), True) + self.config.alpha * content, content

    def _generator(self) -> SalGANGenerator:
        """The generator with its first weights; conv1 to conv3 are frozen if the encoder's are given."""
        G = SalGANGenerator()
        he(G.encoder)
        he(G.decoder)
        if path := self._encoder():
            names = nn.ModuleDict({"features": G.encoder})
            state = load_state_dict(path)
            check_state_dict(names, names.state_dict(), state, path)
            names.load_state_dict({name: state[name] for name in names.state_dict()})
            G.encoder[:FROZEN].requires_grad_(False)
        first = G.encoder[0]
        assert isinstance(first, nn.Conv2d)
        take_bgr(first)
        return G

    def _bootstrap_optimizer(self, G: SalGANGenerator) -> torch.optim.Optimizer:
        """The first stage's."""
        c = self.config
        if c.bootstrap_optimizer == "adagrad":
            return self._adagrad(G, c.bootstrap_lr or c.lr)
        lr = c.bootstrap_lr or 1e-3
        return torch.optim.SGD(trainable(G), lr, momentum=0.5, nesterov=True, weight_decay=c.weight_decay)

    def _adagrad(self, network: nn.Module, lr: float) -> torch.optim.Optimizer:
        return torch.optim.Adagrad(trainable(network), lr, weight_decay=self.config.weight_decay)

    def _validate(self, G: SalGANGenerator, batches: SaliencyBatches, best: Best, run: Run) -> None:
        loss = self._held_out(G, batches, run)
        run.measured(held_out=loss)
        if self.config.keep == "best":
            best.offer(loss, G)

    def _held_out(self, G: SalGANGenerator, batches: SaliencyBatches, run: Run) -> float:
        return batches.validate(lambda pixels, S: self._content(G, pixels, S), run)

    def _encoder(self) -> Path | None:
        """The encoder's weights file. Raises InstsearchError if it is not there."""
        return find_weights("vgg16", self.config.encoder) if self.config.encoder else None

    def _origin(self) -> str:
        path = self._encoder()
        if path is None:
            return "drawn at random (He et al., 2015): from scratch, without a pretrained encoder"
        return f"encoder from {path.name} (sha256 {sha256(path)[:12]}), conv1 to conv3 frozen; the rest at random"
