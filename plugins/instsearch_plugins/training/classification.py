"""Training by a classification: labelled pictures, those held out, and how often the right class is among the first."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from instsearch_cli.errors import InstsearchError, printable
from instsearch_cli.images import BadImage, Reader
from instsearch_cli.networks.training import Best, Trainer
from instsearch_plugins.training.descent import descend
from instsearch_plugins.training.labelled import classes_of, labelled
from instsearch_plugins.training.mscnet_batches import Crops, Pictures, Sample, Shuffled
from instsearch_plugins.training.netvlad_tuples import by_pairs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor, nn

    from instsearch_cli.networks.training import Run

    Pair = tuple[Path, str]


def divided(data: Path, share: float) -> tuple[list[Pair], list[Pair]]:
    """The pictures to train on and those held out: data/train and data/val, each with its class folders.

    Without data/val the last ``share`` of every class, by name, is held out: at least one picture, and never
    all. Without data/train the class folders are those of ``data``. Raises InstsearchError for a single class,
    if val has other classes, or if a class has too few pictures to be divided.
    """
    train, val = data / "train", data / "val"
    root = train if _has_folders(train) else data
    pairs = labelled(root)
    classes = classes_of(pairs, root)
    if root == train and _has_folders(val):
        held_out = labelled(val)
        if odd := sorted(set(classes) ^ {label for _, label in held_out}):
            there, missing = ("train", "val") if odd[0] in classes else ("val", "train")
            raise InstsearchError(
                f"{printable(data)}: class '{printable(odd[0])}' is in {there}, not in {missing}"
            )
        return pairs, held_out
    return _parted(pairs, share, root)


def grouped(data: Path, pairs: Path, least: int, share: float) -> tuple[list[Pair], list[Pair]]:
    """The pictures to train on and those held out, the last ``share`` of every class: groups of a folder or an index.

    A group are pictures that hang together by ``pairs``, a file of two names a line; those of fewer than ``least``
    pictures are left out. Raises InstsearchError for fewer than two groups.
    """
    places = by_pairs(data, pairs)
    sizes = np.bincount(places.group)
    rows = [i for i in np.argsort(places.group, kind="stable").tolist() if sizes[places.group[i]] >= least]
    if (classes := int((sizes >= least).sum())) < 2:
        raise InstsearchError(
            f"{printable(pairs)}: pairs make {classes} groups of {least} pictures or more; "
            f"a classifier needs two: the largest has {sizes.max()}"
        )
    return _parted([(places.paths[i], f"{places.group[i]:09}") for i in rows], share, data)


def _parted(pairs: list[Pair], share: float, root: Path) -> tuple[list[Pair], list[Pair]]:
    trained_on: list[Pair] = []
    held_out: list[Pair] = []
    for label, group in groupby(pairs, key=lambda pair: pair[1]):
        members = list(group)
        if len(members) < 2:
            raise InstsearchError(
                f"{printable(root)}: class '{printable(label)}' has one picture; it needs one to train on and one "
                "to hold out"
            )
        kept = len(members) - min(math.ceil(share * len(members)), len(members) - 1)
        trained_on += members[:kept]
        held_out += members[kept:]
    return trained_on, held_out


def _has_folders(folder: Path) -> bool:
    return folder.is_dir() and any(path.is_dir() and path.name[0] != "." for path in folder.iterdir())


@dataclass(frozen=True)
class Centre(Crops):
    """The square in the middle of a picture whose shorter side is the first of ``short_side``."""

    def read(self, path: Path, sample: Sample) -> np.ndarray:
        pixels = self.resized(path, self.short_side[0])
        top, left = ((n - self.crop) // 2 for n in pixels.shape[:2])
        return pixels[top : top + self.crop, left : left + self.crop]


def hits(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """bool[B]: whether the label is among the k largest of its row of logits f32[B, C]; ties count against it."""
    return (logits >= logits.gather(1, labels[:, None])).sum(1) <= k


def measure(
    classify: Callable[[Tensor], Tensor], pictures: Pictures, batch: int, workers: int, run: Run
) -> dict[str, float]:
    """The mean cross-entropy, and the shares top-1 and, of more than five classes, top-5.

    classify: pixels u8[B, 3, H, W] in RGB -> logits f32[B, C]. Raises InstsearchError if no picture can be read.
    """
    samples = [Sample(i, 0, i) for i in range(len(pictures.paths))]
    batches = [samples[i : i + batch] for i in range(0, len(samples), batch)]
    ks = (1, 5) if len(pictures.classes) > 5 else (1,)
    total, right, n, reason = 0.0, dict.fromkeys(ks, 0), 0, ""
    with Reader(batches, pictures.load, workers, workers + 1) as reader, torch.inference_mode():
        for _, loaded in reader:
            run.check()
            if isinstance(loaded, BadImage):
                reason = loaded.reason
                continue
            pixels, labels = loaded
            logits = classify(pixels).float().cpu()
            total += float(F.cross_entropy(logits, labels, reduction="sum"))
            n += len(labels)
            for k in ks:
                right[k] += int(hits(logits, labels, k).sum())
    if not n:
        raise InstsearchError(f"nothing of what is held out can be read: {reason}")
    return {"cross-entropy": total / n} | {f"top-{k}": right[k] / n for k in ks}


class ClassTrainer(Trainer):
    """Trains a network down the cross-entropy of class folders, and measures it on the pictures held out."""

    config: Any

    def divided(self, data: Path) -> tuple[list[Pair], list[Pair]]:
        """The pictures to train on and those held out, with their classes."""
        return divided(data, self.config.held_out)

    def pictures(self, data: Path, views: int = 0) -> tuple[Shuffled, Pictures]:
        """Those to train on, in batches of random crops, and the middles of those held out."""
        c = self.config
        trained_on, held_out = self.divided(data)
        batches = Shuffled(trained_on, Crops(c.short_side, c.crop, c.flip, c.seed), c.batch, views)
        return batches, Pictures(held_out, Centre(c.short_side, c.crop))

    def begin(self, network: nn.Module, optimizer: torch.optim.Optimizer, epoch: int) -> None:
        """What is set before the steps of an epoch."""

    def descend(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        pictures: tuple[Shuffled, Pictures],
        run: Run,
        logits: Callable[[Any], Tensor],
        load: Callable[[Any], Any],
    ) -> None:
        """Leave ``network`` as after the epoch that ``keep`` says; the card has the pictures and what it reaches.

        logits: what ``load`` makes of a batch, or pixels u8[B, 3, H, W] in RGB -> f32[B, C]
        """
        c, best, (batches, validated) = self.config, Best(), pictures
        parts: dict[str, Any] = {"network": network, "optimizer": optimizer, "best": best}
        for epoch in run.stage("descent", c.epochs, **parts, batches=batches, validated=validated):
            self.begin(network, optimizer, epoch)
            for x, labels in run.steps(batches.epoch(epoch), load, c.workers):
                loss = F.cross_entropy(logits(x), labels.to(self.device))
                run.log(cross_entropy=loss)
                descend(loss, optimizer)
            measured = self._measure(network, logits, validated, run)
            run.measured(held_out=measured["cross-entropy"], top_1=measured["top-1"])
            if c.keep == "best":
                best.offer(measured["cross-entropy"], network)

        if c.keep == "best":
            network.load_state_dict(best.weights)
        run.card["images"] = {"trained on": batches.counts(), "held out": validated.counts()}
        measured = self._measure(network, logits, validated, run)
        run.card["held out"] = {name: round(value, 4) for name, value in measured.items()}

    def _measure(
        self, network: nn.Module, logits: Callable[[Tensor], Tensor], pictures: Pictures, run: Run
    ) -> dict[str, float]:
        network.eval()
        return measure(logits, pictures, self.config.batch, self.config.workers, run)
