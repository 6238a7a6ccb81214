"""Local features of a frozen network, computed once and kept in files while what lies on top of it is trained."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import torch

from instsearch_cli.errors import printable
from instsearch_cli.images import BadImage, read_image
from instsearch_formats.errors import writing
from instsearch_formats.files import make_folder, replacing, write_text
from instsearch_plugins.numeric.local_features import rows
from instsearch_plugins.numeric.normalise import l2

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from instsearch_plugins.extractors.networks import Network


class KeptCells:
    """The unit vectors f16[n, D] of each picture's map, a file each.

    Pictures without any are ``skipped``, name -> reason, which lies in a file too.
    """

    def __init__(self, folder: Path, paths: Sequence[Path], extractor: Network) -> None:
        make_folder(folder)
        self.folder, self.paths, self.extractor = folder, paths, extractor
        self.skipped = {
            printable(paths[int(file.stem)]): file.read_text("utf-8") for file in folder.glob("*.txt")
        }

    def make(self, batch: Sequence[int]) -> int:
        """Compute the vectors of one picture, if they are not there, and return how many. Raises BadImage."""
        [i] = batch
        return len(self._read(i))

    def __getitem__(self, i: int) -> Tensor:
        """The vectors f32[n, D] of a picture. Raises BadImage."""
        return torch.from_numpy(self._read(i)).float()

    def usable(self) -> np.ndarray:
        """Which pictures are not skipped: bool[N]."""
        return np.array([printable(path) not in self.skipped for path in self.paths])

    def remove(self) -> None:
        """Delete the files: training is over."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, i: int) -> Path:
        return self.folder / f"{i:07}.npy"

    def _read(self, i: int) -> np.ndarray:
        try:
            return np.array(np.lib.format.open_memmap(self._file(i), mode="r"))
        except (OSError, ValueError, EOFError):  # not there, or the disk lost its end
            pass
        try:
            X = self.extractor.extract([read_image(self.paths[i], self.extractor.fit_size)])[0]
            unit = l2(rows(X).float())
            x = unit[unit.any(1)].half().cpu().numpy()
            if not len(x):
                raise BadImage("the network's map of it is zero")
        except BadImage as error:
            self.skipped[printable(self.paths[i])] = error.reason
            write_text(self.folder / f"{i:07}.txt", error.reason)
            raise
        with replacing(self._file(i)) as aside, writing(aside), aside.open("wb") as file:
            np.save(file, x, allow_pickle=False)
        return np.asarray(x)
