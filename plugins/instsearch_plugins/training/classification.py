"""Labelled pictures to train a classifier on, those held out, and how often the right class is among the first."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from instsearch_cli.errors import InstsearchError, printable
from instsearch_cli.images import BadImage, Reader, read_image
from instsearch_plugins.training.labelled import classes_of, labelled
from instsearch_plugins.training.mscnet_batches import NARROWEST, Crops, Pictures, Sample

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    from torch import Tensor

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
    trained_on: list[Pair] = []
    held_out = []
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
        side = self.short_side[0]

        def fit(width: int, height: int) -> tuple[int, int]:
            r = side / min(width, height)
            return min(round(width * r), NARROWEST * side), min(round(height * r), NARROWEST * side)

        pixels = read_image(path, fit).pixels
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
