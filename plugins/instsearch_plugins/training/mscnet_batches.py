"""Pictures of a folder or of an index in batches of random crops, by classes or by identities (MSCNet's training)."""

from __future__ import annotations

import hashlib
import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from instsearch_cli.errors import InstsearchError, printable
from instsearch_cli.images import BadImage, discover, read_image
from instsearch_cli.networks.trained import data_digest
from instsearch_formats import Index
from instsearch_plugins.extractors.networks import SMALLEST
from instsearch_plugins.training.labelled import by_table, labelled

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch import Tensor

    from instsearch_cli.progress import Quiet
    from instsearch_formats import ImageRecord, ImageTable

NARROWEST = 8  #: a picture longer than so many times its width is squeezed to that


def check_crops(short_side: Sequence[int], crop: int) -> None:
    """Raises ValueError for options from which no crop can be cut."""
    if len(short_side) != 2 or not SMALLEST <= crop <= short_side[0] <= short_side[1]:
        raise ValueError(f"short-side is LEAST,MOST, and crop at least {SMALLEST} and at most LEAST")


class Sample(NamedTuple):
    """One of the pictures, which view of it, and where among the view's samples: its crop follows from these."""

    image: int
    view: int
    place: int


@dataclass(frozen=True)
class Crops:
    """A picture's shorter side is drawn from ``short_side``, and of that a square of ``crop`` pixels."""

    short_side: tuple[int, ...] = (400, 512)
    crop: int = 386
    flip: bool = False
    seed: int = 0

    def read(self, path: Path, sample: Sample) -> np.ndarray:
        """The crop u8[crop, crop, 3] of one sample. Raises BadImage."""
        rng = np.random.default_rng([self.seed, 1, sample.view, sample.place])
        side = int(rng.integers(self.short_side[0], self.short_side[1], endpoint=True))
        x, y, mirrored = rng.random(3)
        pixels = self.resized(path, side)
        top, left = (int(at * (n - self.crop + 1)) for at, n in zip((y, x), pixels.shape, strict=False))
        cut = pixels[top : top + self.crop, left : left + self.crop]
        return cut[:, ::-1] if self.flip and mirrored < 0.5 else cut

    def resized(self, path: Path, side: int) -> np.ndarray:
        """The whole picture u8[h, w, 3], its shorter side of ``side`` pixels. Raises BadImage."""

        def fit(width: int, height: int) -> tuple[int, int]:
            r = side / min(width, height)
            return min(round(width * r), NARROWEST * side), min(round(height * r), NARROWEST * side)

        return read_image(path, fit).pixels


class Pictures:
    """Pictures with a class each, and their crops. Those that cannot be read go into ``skipped``, path -> reason.

    A checkpoint keeps that. Raises InstsearchError unless there are two classes at least.
    """

    def __init__(self, pairs: Sequence[tuple[Path, str]], crops: Crops) -> None:
        self.paths = [path for path, _ in pairs]
        self.classes = sorted({label for _, label in pairs})
        number = {label: i for i, label in enumerate(self.classes)}
        self.labels = np.array([number[label] for _, label in pairs], np.int64)
        self.crops, self.skipped = crops, dict[str, str]()
        if len(self.classes) < 2:
            raise InstsearchError(
                f"training needs pictures of two classes at least; here are {len(pairs):,} of "
                f"{'one' if pairs else 'none'}{', ' + printable(self.classes[0]) if pairs else ''}"
            )

    def load(self, batch: Sequence[Sample]) -> tuple[Tensor, Tensor]:
        """Crops in RGB u8[B, 3, crop, crop], laid out channels last, and classes i64[B].

        Raises BadImage if none of the pictures can be read.
        """
        read = [(s.image, cut) for s in batch if (cut := self._read(s)) is not None]
        if not read:
            raise BadImage(self._why(batch))
        return self._together(read)

    def unreadable(self, sample: Sample) -> bool:
        """Whether a sample's picture is known not to be readable."""
        return printable(self.paths[sample.image]) in self.skipped

    def counts(self) -> dict[str, Any]:
        """How many pictures and classes there were, and what was skipped, for the card."""
        return {
            "pictures": len(self.paths) - len(self.skipped),
            "classes": len(self.classes),
            "skipped": dict(sorted(self.skipped.items())),
        }

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": dict(self.skipped)}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        self.skipped.update(state_dict["skipped"])

    def _read(self, sample: Sample) -> np.ndarray | None:
        path = self.paths[sample.image]
        name = printable(path)
        if name in self.skipped:
            return None
        try:
            return self.crops.read(path, sample)
        except BadImage as error:
            self.skipped[name] = error.reason
            return None

    def _together(self, read: Sequence[tuple[int, np.ndarray]]) -> tuple[Tensor, Tensor]:
        pixels = torch.from_numpy(np.stack([cut for _, cut in read])).permute(0, 3, 1, 2)
        return pixels, torch.from_numpy(self.labels[[image for image, _ in read]])

    def _why(self, batch: Iterable[Sample]) -> str:
        name = next(n for s in batch if (n := printable(self.paths[s.image])) in self.skipped)
        return f"{name}: {self.skipped[name]}"


class Shuffled(Pictures):
    """Batches of all pictures, each once an epoch: another crop of it every time, or one of ``views`` in turn."""

    def __init__(self, pairs: Sequence[tuple[Path, str]], crops: Crops, batch: int, views: int = 0) -> None:
        super().__init__(pairs, crops)
        self.batch, self.views = batch, views

    def epoch(self, epoch: int) -> list[list[Sample]]:
        """The order follows from the seed and the epoch alone."""
        order = np.random.default_rng([self.crops.seed, 0, epoch]).permutation(len(self.paths)).tolist()
        if self.views:
            samples = [Sample(image, epoch % self.views, image) for image in order]
        else:
            samples = [Sample(image, epoch, place) for place, image in enumerate(order)]
        return [samples[i : i + self.batch] for i in range(0, len(samples), self.batch)]


class Identities(Pictures):
    """Batches of K pictures each of P classes, as many as hold the number of all pictures.

    Classes take turns. A class with fewer than K pictures gives some more than once, in other crops; one with a
    single picture has no positive and is left out, into ``alone``.
    """

    def __init__(self, pairs: Sequence[tuple[Path, str]], crops: Crops, P: int, K: int) -> None:
        counted = dict[str, int]()
        for _, label in pairs:
            counted[label] = counted.get(label, 0) + 1
        self.alone = sorted(label for label, n in counted.items() if n < 2)
        kept = [(path, label) for path, label in pairs if counted[label] > 1]
        if len(counted) - len(self.alone) < 2:
            raise InstsearchError(
                f"triplets need two classes of two pictures at least; of {len(counted):,} classes "
                f"{len(self.alone):,} have a single picture"
            )
        super().__init__(kept, crops)
        self.P, self.K = min(P, len(self.classes)), K
        self.members = [np.flatnonzero(self.labels == i) for i in range(len(self.classes))]

    def epoch(self, epoch: int) -> list[list[Sample]]:
        """The choice follows from the seed and the epoch alone."""
        rng = np.random.default_rng([self.crops.seed, 0, epoch])
        turns = self._turns(rng)
        places = itertools.count()
        batches = []
        for _ in range(-(-len(self.paths) // (self.P * self.K))):
            chosen = [image for identity in next(turns) for image in self._some(identity, rng)]
            batches.append([Sample(image, epoch, next(places)) for image in chosen])
        return batches

    def load(self, batch: Sequence[Sample]) -> tuple[Tensor, Tensor]:
        """As :meth:`Pictures.load`; another picture of the class stands in for one that cannot be read.

        Raises BadImage if fewer than two classes can be.
        """
        read = [(s.image, cut) for s in batch for s, cut in self._stand_in(s)]
        if len({int(self.labels[image]) for image, _ in read}) < 2:
            raise BadImage(self._why(batch))
        return self._together(read)

    def counts(self) -> dict[str, Any]:
        return super().counts() | {"classes of one picture, left out": len(self.alone)}

    def _turns(self, rng: np.random.Generator) -> Iterator[list[int]]:
        """P different classes at a time; each comes before any comes again, but for those that fill a batch."""
        waiting: list[int] = []
        while True:
            fresh = [i for i in rng.permutation(len(self.members)).tolist() if i not in waiting]
            waiting += fresh if len(waiting) < self.P else []
            yield waiting[: self.P]
            waiting = waiting[self.P :]

    def _some(self, identity: int, rng: np.random.Generator) -> list[int]:
        members = self.members[identity]
        if len(members) >= self.K:
            return [int(i) for i in rng.choice(members, self.K, replace=False)]
        return [int(i) for i in rng.permutation(np.resize(rng.permutation(members), self.K))]

    def _stand_in(self, sample: Sample) -> list[tuple[Sample, np.ndarray]]:
        members = self.members[self.labels[sample.image]].tolist()
        first = members.index(sample.image)
        for image in members[first:] + members[:first]:
            other = sample._replace(image=image)
            if (cut := self._read(other)) is not None:
                return [(other, cut)]
        return []


def is_index(data: Path) -> bool:
    """Whether a folder is an index."""
    return (data / "format.json").is_file()


def photographs(data: Path) -> list[Path]:
    """The pictures of a folder, at any depth, or those of an index that have not been removed."""
    if not is_index(data):
        return [found.path for found in discover([data]).found]
    images = Index.open(data).images
    roots = [Path(root) for root in images.roots]
    return [roots[record.root] / os.fsdecode(record.name) for record in _live(images)]


def identities(data: Path, labels: Path | None) -> list[tuple[Path, str]]:
    """Pictures with their labels: from a CSV file (path,label), else from class folders; of an index, its own.

    Paths in the file are below the folder, or below one of those that the index has pictures of.

    Raises InstsearchError for labels that name missing files, or if there are none.
    """
    if not is_index(data):
        return labelled(data, labels)
    images = Index.open(data).images
    there: dict[Path, set[Path]] = {}
    for record in _live(images):
        root = Path(images.roots[record.root])
        there.setdefault(root, set()).add(root / os.fsdecode(record.name))
    if labels is None or not there:
        return [pair for root, paths in there.items() for pair in labelled(root) if pair[0] in paths]
    live = set[Path]().union(*there.values())
    return [pair for pair in by_table(list(there), labels) if pair[0] in live]


def digest(data: Path, progress: Quiet) -> dict[str, Any]:
    """What an index says of its live images: how many, and a sha256 over their names and contents; all of a folder."""
    if not is_index(data):
        return data_digest(data, progress)
    whole, n = hashlib.sha256(), 0
    for record in _live(Index.open(data).images):
        whole.update(len(record.name).to_bytes(4, "big") + record.name + record.digest)
        n += 1
    return {"images": n, "sha256": whole.hexdigest()}


def _live(images: ImageTable) -> Iterator[ImageRecord]:
    alive, roots = images.alive(), len(images.roots)
    for row, record in images.records():
        if alive[row]:
            if record.root >= roots or b".." in record.name.split(
                b"/"
            ):  # an index from elsewhere is not trusted
                raise InstsearchError(f"row {row} of the index names no file below one of its roots")
            yield record
