"""Maps of a frozen network, computed once and kept in files while another is trained on them."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from instsearch_cli.errors import InstsearchError, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor

    from instsearch_plugins.training.mscnet_batches import Sample, Shuffled

MAPS, THERE = "maps.npy", "maps-there.npy"


class Item(NamedTuple):
    """A batch: pixels u8[B, 3, H, W] of the samples, or their maps f16[B, C, h, w]."""

    samples: list[Sample]
    values: Tensor


class KeptMaps:
    """The maps of every view of every picture, f16[V, N, C, h, w] in a file, and which of them are there.

    A network over it is called with the items that :meth:`load` reads, in place of pixels. What is computed is
    rounded as what is read back, so that a run that goes on after a kill has equal results.

    Raises InstsearchError where the disk has no room for the file.
    """

    def __init__(
        self, folder: Path, batches: Shuffled, conv: Callable[[Tensor], Tensor], shape: Sequence[int]
    ) -> None:
        self.batches, self.conv = batches, conv
        views = (batches.views, len(batches.paths))
        self._files = folder / MAPS, folder / THERE
        kinds = (np.dtype(np.float16), (*views, *shape)), (np.dtype(np.bool_), views)
        kept = all(_whole(file, *kind) for file, kind in zip(self._files, kinds, strict=True))
        if not kept:  # neither says anything without the other
            self.remove()
        bytes_, free = 2 * int(np.prod((*views, *shape))), shutil.disk_usage(folder).free
        if not kept and bytes_ > free:
            raise InstsearchError(
                f"{views[0]} views of {views[1]:,} pictures take {bytes_ / 1e9:,.1f} GB, and {printable(folder)} has "
                f"{free / 1e9:,.1f}: take fewer views, a smaller crop, or views 0"
            )
        self.maps, self.there = (
            np.lib.format.open_memmap(file, "r+" if kept else "w+", *kind)
            for file, kind in zip(self._files, kinds, strict=True)
        )

    def load(self, batch: Sequence[Sample]) -> tuple[Item, Tensor]:
        """A batch with its classes i64[B]: its maps if they are all there, else its pixels. Raises BadImage."""
        samples = self._readable(batch)
        view, image = _places(samples)
        if samples and self.there[view, image].all():
            labels = torch.from_numpy(self.batches.labels[image])
            return Item(samples, torch.from_numpy(self.maps[view, image])), labels
        pixels, labels = self.batches.load(batch)
        return Item(self._readable(batch), pixels), labels

    def __call__(self, item: Item | Tensor) -> Tensor:
        """The maps f32[B, C, h, w] of a batch, or of others' pixels, on the device of the network that makes them."""
        if not isinstance(item, Item):
            return self.conv(item)
        if item.values.dtype == torch.float16:
            return item.values.float()
        X = self.conv(item.values).half()
        view, image = _places(item.samples)
        self.maps[view, image] = X.cpu().numpy()
        self.maps.flush()
        self.there[view, image] = True
        return X.float()

    def _readable(self, batch: Sequence[Sample]) -> list[Sample]:
        return [sample for sample in batch if not self.batches.unreadable(sample)]

    def remove(self) -> None:
        """Delete the files: training is over."""
        for file in self._files:
            file.unlink(missing_ok=True)


def _places(samples: Sequence[Sample]) -> np.ndarray:
    return np.array([(s.view, s.image) for s in samples], np.int64).reshape(-1, 2).T


def _whole(file: Path, dtype: np.dtype, shape: tuple[int, ...]) -> bool:
    """Whether a file holds such an array, and all of it."""
    try:
        kept = np.lib.format.open_memmap(file, mode="r")
    except (OSError, ValueError, EOFError):  # not there, or the disk lost some of it
        return False
    size = kept.offset + kept.nbytes
    return (kept.dtype, kept.shape, size) == (dtype, shape, file.stat().st_size)
