"""Pictures and fixation densities for training a saliency network, and how well it does on those held out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
import torch
from torch import Tensor

from instsearch_cli.components import option
from instsearch_cli.errors import InstsearchError, printable
from instsearch_cli.images import BadImage, Reader
from instsearch_cli.measure.fixations import Fixations, split
from instsearch_cli.measure.saliency_metrics import auc_judd, cc, kl, nss

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from instsearch_cli.measure.fixations import Scene
    from instsearch_cli.networks.training import Run

Sample = tuple[str, bool]
"""A picture's name, and whether it is mirrored."""

MEMORY = 2 << 30  #: bytes of pictures, at the network's size, that are kept for the next epoch


@dataclass(frozen=True)
class SaliencyOptions:
    """Options of training any saliency network."""

    size: tuple[int, int] = (192, 256)  #: height, width of the network's input; smaller is faster
    batch: int = 32  #: pictures a step
    flip: bool = False  #: mirror every other picture, at random
    held_out: int = 100  #: the last pictures by name, which are validated on
    #: which epoch's weights are written; best: that of the lowest held-out loss in the last stage
    keep: Literal["last", "best"] = "last"
    seed: int = 0  #: of the first weights and of the order of pictures
    workers: int = option(2, "query")  #: threads that read ahead

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 16 or any(side % 16 for side in self.size):
            raise ValueError("size is HEIGHT,WIDTH, both multiples of 16")
        if min(self.batch, self.held_out, self.workers) < 1 or self.seed < 0:
            raise ValueError("batch, held-out and workers are at least 1, seed at least 0")


class SaliencyBatches:
    """Batches of a folder with fixations, at the network's size; SALICON's train where there is one.

    Pictures that cannot be read, or in which nobody looked anywhere, are left out and go into ``skipped``,
    name -> reason, which a checkpoint keeps. At its size a picture is kept in memory, up to MEMORY in all.
    """

    def __init__(self, data: Path, options: SaliencyOptions) -> None:
        salicon = (data / "fixations" / "train").is_dir()
        self.fixations = Fixations(data, "train" if salicon else None)
        self.options = options
        self.trained_on, self.held_out = split(self.fixations.names, options.held_out)
        self.skipped: dict[str, str] = {}
        self._kept: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        h, w = options.size
        self._room = MEMORY // (7 * h * w)

    def epoch(self, stage: int, epoch: int) -> list[list[Sample]]:
        """The pictures to train on in batches, in an order that follows from seed, stage and epoch alone."""
        rng = np.random.default_rng([self.options.seed, stage, epoch])
        mirrored = (
            rng.random(len(self.trained_on)) < 0.5 if self.options.flip else np.zeros(len(self.trained_on))
        )
        order = rng.permutation(len(self.trained_on))
        return self._batches([(self.trained_on[i], bool(mirrored[i])) for i in order])

    def load(self, batch: Sequence[Sample]) -> tuple[Tensor, Tensor]:
        """Pixels in RGB u8[B, 3, H, W], densities f32[B, 1, H, W] in 0 to 1. BadImage if none can be read."""
        pairs = []
        for name, mirrored in batch:
            if name in self.skipped:
                continue
            try:
                pixels, S = self._kept.get(name) or self._read(name)
            except BadImage as error:
                self.skipped[name] = error.reason
                continue
            pairs.append((pixels[:, ::-1], S[:, ::-1]) if mirrored else (pixels, S))
        if not pairs:
            raise BadImage(self._why(name for name, _ in batch))
        x = np.stack([pixels for pixels, _ in pairs]).transpose(0, 3, 1, 2)
        return torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(
            np.stack([S for _, S in pairs])[:, None]
        )

    def validate(self, loss: Callable[[Tensor, Tensor], Tensor], run: Run) -> float:
        """The mean over pictures held out of a loss of :meth:`load`'s tensors.

        Raises InstsearchError if none of them can be read.
        """
        total, n = 0.0, 0
        batches = self._batches([(name, False) for name in self.held_out])
        workers = self.options.workers
        with Reader(batches, self.load, workers, workers + 1) as reader, torch.inference_mode():
            for _, loaded in reader:
                run.check()
                if not isinstance(loaded, BadImage):
                    total += float(loss(*loaded)) * len(loaded[0])
                    n += len(loaded[0])
        if not n:
            raise InstsearchError(f"nothing of what is held out can be read: {self._why(self.held_out)}")
        return total / n

    def measure(self, predict: Callable[[Tensor], Tensor], run: Run) -> dict[str, float]:
        """The mean AUC-Judd, CC, NSS and KL over pictures held out, against all their pixels.

        predict  pixels u8[1, 3, H, W] -> a map [1, 1, h, w], which is brought to the picture's size bicubically
        """
        rows = []
        run.progress.start("scoring", len(self.held_out))
        with torch.inference_mode():
            for scene in self._held_scenes():
                run.check()
                run.progress.advance()
                if scene is None:
                    continue
                x = torch.from_numpy(self._fit(scene.pixels)).permute(2, 0, 1)[None]
                map_ = predict(x)[0, 0].float().cpu().numpy()
                P = cv2.resize(map_, scene.size, interpolation=cv2.INTER_CUBIC).clip(0)
                F, Q = scene.fixations, scene.density
                rows.append((auc_judd(P, F), cc(P, Q), nss(P, F), kl(P, Q)))
        run.progress.close()
        names = ("AUC-Judd", "CC", "NSS", "KL")
        means = np.ma.masked_invalid(np.reshape(rows, (-1, len(names)))).mean(0)
        return {
            name: round(float(m), 4) for name, m in zip(names, means, strict=True) if m is not np.ma.masked
        }

    def counts(self) -> dict[str, Any]:
        """How many pictures were trained on, held out and skipped, for the card."""
        bad = set(self.skipped)
        return {
            "trained on": len(set(self.trained_on) - bad),
            "held out": len(set(self.held_out) - bad),
            "skipped": dict(sorted(self.skipped.items())),
        }

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": dict(self.skipped)}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        self.skipped.update(state_dict["skipped"])

    def _batches(self, samples: list[Sample]) -> list[list[Sample]]:
        n = self.options.batch
        return [samples[i : i + n] for i in range(0, len(samples), n)]

    def _why(self, names: Iterable[str]) -> str:
        name = next(name for name in names if name in self.skipped)
        return f"{printable(name)}: {self.skipped[name]}"

    def _held_scenes(self) -> Iterator[Scene | None]:
        workers = self.options.workers
        with Reader(self.held_out, self.fixations.read, workers, workers + 1) as reader:
            for name, scene in reader:
                yield None if isinstance(scene, BadImage) or name in self.skipped else scene

    def _read(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        scene = self.fixations.read(name)
        if not scene.fixations.any():
            raise BadImage("nobody looked anywhere in it")
        pair = self._fit(scene.pixels), self._fit(scene.density)
        if len(self._kept) < self._room:
            self._kept[name] = pair
        return pair

    def _fit(self, picture: np.ndarray) -> np.ndarray:
        h, w = self.options.size
        return np.asarray(cv2.resize(picture, (w, h), interpolation=cv2.INTER_AREA))
