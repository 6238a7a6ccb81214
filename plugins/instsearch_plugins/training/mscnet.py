"""Training MSCNet: by instance loss, classification loss, TriHard loss (Xiang, Wang, Zhao and Su, "Multiple
saliency and channel sensitivity network for aggregated convolutional feature", AAAI 2019, section 4).

    un      each picture is a class of its own; no labels       Basic Conv frozen
    sta1    classification of labels                            Basic Conv frozen
    sta2    TriHard loss of labels, from what sta1 made         everything is trained
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instsearch_cli.components import option
from instsearch_cli.errors import InstsearchError
from instsearch_cli.networks.training import Trainer
from instsearch_cli.networks.weights import check_state_dict, load_state_dict, needed, sha256
from instsearch_plugins.encoders.mscnet_network import MSCNet, drawn
from instsearch_plugins.extractors.networks import SMALLEST
from instsearch_plugins.numeric.mscnet import mask_cosine, ngd_loss
from instsearch_plugins.training import curves
from instsearch_plugins.training.basic_conv import PREFIX, BasicConv, Precision
from instsearch_plugins.training.descent import trainable
from instsearch_plugins.training.kept_maps import KeptMaps
from instsearch_plugins.training.labelled import option_file
from instsearch_plugins.training.mscnet_batches import (
    Crops,
    Identities,
    Shuffled,
    check_crops,
    digest,
    identities,
    photographs,
)
from instsearch_plugins.training.trihard import TriHard
from instsearch_plugins.training.validation import HOW, Patience, Validation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from instsearch_cli.networks.training import Run
    from instsearch_cli.progress import Quiet


class Stage(NamedTuple):
    """What the paper's section 5.1 says of a mode: weight of the Gram-difference loss, learning rate; its loss."""

    alpha: float
    lr: float
    loss: str


STAGES = {
    "un": Stage(0.005, 0.01, "instance"),
    "sta1": Stage(0.1, 0.0005, "classification"),
    "sta2": Stage(0.01, 0.0005, "trihard"),
}
LAYERS = {
    "vgg16": "features.29"
}  #: the ReLU of the last convolution, where that is not the extractor's own choice
OUT = "OUT"  #: in a card, the weights file that it is beside


class MSCNetTrainer(Trainer):
    """Trains MSCNet on a folder of photographs, on class folders or labels, or on an index's images."""

    @dataclass(frozen=True)
    class Config:
        """Options; the paper's by default."""

        #: un: no labels; sta1: classification; sta2: triplets, from what sta1 made
        mode: Literal["un", "sta1", "sta2"] = "un"
        labels: str = option(
            "", digested=True
        )  #: CSV file path,label, for sta1 and sta2; empty: class folders
        network: str = "vgg16"  #: the Basic Conv: a torchvision network among the extractors
        layer: str = ""  #: of the network; empty: its last ReLU
        weights: str = option(
            "", digested=True
        )  #: the network's file; empty: INSTSEARCH_WEIGHTS, torchvision's
        start: str = option(
            "", digested=True
        )  #: first weights: a file that this training made; sta2 needs sta1's
        masks: int = 5  #: n
        dims: int = 512  #: D, numbers of a descriptor
        alpha: float | None = None  #: of the Gram-difference loss; none: .005, .1, .01 by mode
        beta: float = 0.5  #: where the Gram-difference loss begins
        ngd: Literal["paper", "mean"] = "paper"  #: its sum over (n - 1)^2, or the masks' mean cosine
        gram_gradient: bool = True  #: in sta2, gradients pass through the channel weights
        scale: float = 1.0  #: of the descriptor before the classifier; 1 is the paper's, 16 learns faster
        margin: float = 0.1  #: m of TriHard
        identities: int = 8  #: P, classes in a batch of sta2
        images: int = 10  #: K, pictures of each
        #: of a batch of sta2; one of each class is K times cheaper, and noisier
        anchors: Literal["all", "one"] = "all"
        lr: float | None = None  #: learning rate; none: .01, .0005, .0005 by mode
        momentum: float = 0.9  #: of the descent
        weight_decay: float = 5e-4  #: L2 of all weights
        epochs: int = 30  #: at most
        batch: int = 32  #: pictures a step of un and sta1
        short_side: tuple[int, ...] = (400, 512)  #: the shorter side is drawn from these, in pixels
        crop: int = 386  #: pixels of the square cut out of it
        flip: bool = False  #: mirror every other crop, at random
        #: crops of each picture whose maps are kept on disk while un or sta1 trains, and used in turn, which is
        #: several times as fast; 0: new crops in every epoch
        views: int = 0
        validation: str = option(
            "", digested=True
        )  #: a manifest.json, whose mAP is measured after every epoch
        validation_size: int = 448  #: longer side of its pictures, in pixels
        patience: int = 5  #: epochs without a better mAP after which training ends
        keep: Literal["best", "last"] = "best"  #: which epoch's weights are written; best needs a validation
        #: auto on a GPU: fp16 for a frozen Basic Conv, bf16 (mixed) for a trained one; fp32 elsewhere
        precision: Precision = "auto"
        seed: int = 0  #: of first weights, order and crops
        workers: int = option(2, "query")  #: threads that read ahead

        def __post_init__(self) -> None:
            whole = (self.masks, self.dims, self.epochs, self.batch, self.workers, self.patience)
            if min(whole) < 1 or self.seed < 0:
                raise ValueError(
                    "masks, dims, epochs, batch, patience and workers are at least 1, seed at least 0"
                )
            if min(self.identities, self.images) < 2:
                raise ValueError("identities and images are at least 2")
            if self.views < 0 or (self.views and self.mode == "sta2"):
                raise ValueError("views is 0 or more, and of un and sta1, whose Basic Conv is frozen")
            check_crops(self.short_side, self.crop)
            if self.validation_size < SMALLEST:
                raise ValueError(f"validation-size is at least {SMALLEST}")
            if self.mode == "sta2" and not self.start:
                raise ValueError("sta2 goes on from what sta1 made: give its file with start")

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config, self.device = config, device
        of = STAGES[config.mode]
        self.loss = of.loss
        self.alpha = of.alpha if config.alpha is None else config.alpha
        self.lr = of.lr if config.lr is None else config.lr
        self.layer = config.layer or LAYERS.get(config.network, "")

    def identity(self) -> dict[str, str]:
        """The sha256 of the files that decide the result. Raises InstsearchError if one is not there."""
        files = {"weights": self._basic_conv().extractor.weights}
        files |= {name: path for name in ("start", "labels", "validation") if (path := self._file(name))}
        return {name: sha256(path) for name, path in files.items()}

    def digest(self, data: Path, progress: Quiet) -> dict[str, Any]:
        return digest(data, progress)

    def train(self, data: Path, run: Run) -> Mapping[str, Tensor]:
        """msb.*, fc.*, and, where the Basic Conv is not torchvision's any more, network.*."""
        c = self.config
        batches = self._batches(data)
        conv = self._basic_conv()
        torch.manual_seed(c.seed)
        net = drawn(conv.channels, c.masks, c.dims, c.seed)
        kept = self._start(net, conv)
        modules = dict(net.named_children()) | ({} if conv.frozen else {"network": conv.network})
        whole = nn.ModuleDict(modules).to(self.device)  # whose weights come out, by their names in the file
        classes = len(batches.classes)
        classifier = nn.Linear(c.dims, classes).to(self.device) if c.mode != "sta2" else nn.Identity()
        taught = nn.ModuleList([whole, classifier])
        optimizer = torch.optim.SGD(trainable(taught), self.lr, c.momentum, weight_decay=c.weight_decay)
        validation, best = self._validation(), Patience()
        run.progress.say(f"{len(batches.paths):,} pictures, {classes:,} classes; {self._frozen(conv)}")
        maps = self._kept(run, batches, conv)

        for epoch in run.stage(
            c.mode,
            c.epochs,
            weights=whole,
            classifier=classifier,
            optimizer=optimizer,
            batches=batches,
            best=best,
        ):
            for pixels, labels in run.steps(batches.epoch(epoch), (maps or batches).load, c.workers):
                optimizer.zero_grad()
                run.log(**self._backward(maps or conv, net, classifier, pixels, labels))
                optimizer.step()
            if validation is not None:
                found = validation.mean_average_precision(lambda u: net(conv(u))[0].cpu(), run)
                run.measured(mAP=found)
                best.offer(-found, whole)
            self._draw(run)
            if best.waited >= c.patience:
                run.progress.say(f"no better mAP for {c.patience} epochs: done after epoch {epoch + 1}")
                break

        if batches.skipped:
            run.progress.say(f"{len(batches.skipped):,} pictures could not be read: see the card")
        chosen = best.weights if c.keep == "best" and validation is not None else whole.state_dict()
        weights = {name: chosen[name] for name in needed(whole)} | kept
        self._write_card(run, batches.counts(), conv, set(weights), None if validation is None else best)
        if maps is not None:
            maps.remove()
        return weights

    def _kept(self, run: Run, batches: Shuffled | Identities, conv: BasicConv) -> KeptMaps | None:
        if not self.config.views or not isinstance(batches, Shuffled):
            return None
        return KeptMaps(run.folder, batches, conv, conv.shape(self.config.crop))

    def _batches(self, data: Path) -> Shuffled | Identities:
        """The data by classes: every picture one, or those of the labels."""
        c = self.config
        crops = Crops(c.short_side, c.crop, c.flip, c.seed)
        if c.mode == "un":
            if len(paths := photographs(data)) < 2:
                raise InstsearchError("the instance loss tells pictures apart: it needs two at least")
            return Shuffled([(path, f"{i:09}") for i, path in enumerate(paths)], crops, c.batch, c.views)
        pairs = identities(data, self._file("labels"))
        if c.mode == "sta1":
            return Shuffled(pairs, crops, c.batch, c.views)
        return Identities(pairs, crops, c.identities, c.images)

    def _basic_conv(self) -> BasicConv:
        """The Basic Conv, trained in sta2 alone."""
        c = self.config
        return BasicConv(c.network, self.layer, c.weights, self.device, c.mode != "sta2", c.precision)

    def _backward(
        self, conv: Callable[[Any], Tensor], net: MSCNet, classifier: nn.Module, pixels: Any, labels: Tensor
    ) -> dict[str, float]:
        """Add the gradient of L_S + alpha L_NGD on a batch (equation 6); returns what goes into the log.

        un, sta1: L_S = -log softmax(A (s z) + b)_label (equation 10); sta2: TriHard (equation 11).

        conv makes maps f32[B, C, h, w] of pixels, or of what else a batch is.
        """
        c = self.config
        if c.mode == "sta2":
            loss = TriHard(c.margin, self.alpha, c.beta, c.ngd, c.anchors)
            means = loss.backward(lambda u: net(conv(u), c.gram_gradient), pixels, labels)
            return {self.loss: means.trihard, "NGD": means.ngd, "mask cosine": means.cosine}
        z, M = net(conv(pixels))
        L_S = F.cross_entropy(classifier(c.scale * z), labels.to(self.device))
        L_NGD = ngd_loss(M, c.beta, c.ngd)
        (L_S + self.alpha * L_NGD).backward()  # type: ignore[no-untyped-call,unused-ignore]
        logged = torch.stack((L_S, L_NGD, mask_cosine(M).mean())).detach().tolist()
        return dict(zip((self.loss, "NGD", "mask cosine"), logged, strict=True))

    def _start(self, net: MSCNet, conv: BasicConv) -> dict[str, Tensor]:
        """Take over the first weights, if a file is given; the frozen Basic Conv's among them, which come out again."""
        if not (path := self._file("start")):
            return {}
        state = load_state_dict(path)
        try:
            check_state_dict(net, net.state_dict(), state, path)
        except InstsearchError as error:
            n, D = self.config.masks, self.config.dims
            raise InstsearchError(
                f"{error}\nThe start has to be of {n} masks and {D} dims over this layer."
            ) from error
        net.load_state_dict({name: state[name] for name in net.state_dict()})
        taken = conv.take(state, path)
        return taken if conv.frozen else {}

    def _validation(self) -> Validation | None:
        path = self._file("validation")
        return None if path is None else Validation(path, self.config.validation_size, self.config.workers)

    def _file(self, name: str) -> Path | None:
        """The file of an option, if any. Raises UsageError if it is not there."""
        value = getattr(self.config, name)
        return option_file(name, value) if value else None

    def _frozen(self, conv: BasicConv) -> str:
        what = f"{self.config.network} up to {conv.extractor.layer}"
        return f"{what} is {'frozen' if conv.frozen else 'trained too'}"

    def _draw(self, run: Run) -> None:
        c = self.config
        curves.draw(run.folder, {self.loss}, f"MSCNet, {c.mode}, {c.network}, {c.masks} masks, {c.dims} dims")

    def _write_card(
        self, run: Run, counts: dict[str, Any], conv: BasicConv, names: set[str], best: Patience | None
    ) -> None:
        c = self.config
        run.card["images"] = counts
        run.card["basic conv"] = self._frozen(conv)
        used = {"extractor": c.network, "extractor.layer": conv.extractor.layer}
        own = any(name.startswith(PREFIX) for name in names)
        run.card["used with"] = used | ({"extractor.weights": OUT} if own else {})
        if best is not None:
            mAP = round(-best.loss, 4)
            run.card["held out"] = {"mAP": mAP}
            run.card["validation"] = {"how": HOW, "best epoch": best.epoch, "epochs": best.offers}
