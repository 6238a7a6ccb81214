"""How well a network that is being trained finds what the queries of a manifest should find."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from instsearch_cli.boxes import clip_box
from instsearch_cli.errors import InstsearchError, printable
from instsearch_cli.images import BadImage, Reader, read_header, read_image
from instsearch_cli.measure.metrics import average_precision, relevance
from instsearch_cli.networks.training import Best
from instsearch_plugins.datasets.manifest import Manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor, nn

    from instsearch_cli.components import QueryRef
    from instsearch_cli.networks.training import Run

    Job = tuple[Path, QueryRef | None]

HOW = "one size, queries cropped to their boxes, no whitening, dot products"


class Validation:
    """The mean average precision of a manifest's queries, by one vector a picture.

    ``size`` is the longer side of pictures and of the queries' crops, in pixels; nothing is enlarged. Raises
    InstsearchError for a manifest that is damaged, and if no query can be measured.
    """

    def __init__(self, manifest: Path, size: int, workers: int) -> None:
        self.dataset = Manifest(Manifest.Config(manifest=str(manifest)), None)
        self.size, self.workers = size, workers

    def mean_average_precision(self, describe: Callable[[Tensor], Tensor], run: Run) -> float:
        """Mean AP over the queries whose picture can be read and that have positives.

        Pictures that cannot be read are found by nobody; junk is skipped, what is excluded is not ranked. Ties
        go to the first picture.

        describe: pixels u8[1, 3, H, W] in RGB -> unit vectors f32[1, D], on the CPU
        """
        refs, queries = self.dataset.images(), self.dataset.queries()
        jobs: list[Job] = [*((ref.path, None) for ref in refs), *((query.image, query) for query in queries)]
        run.progress.start("validating", len(jobs))
        vectors: list[np.ndarray | None] = []
        with Reader(jobs, self._read, self.workers, self.workers + 1) as reader, torch.inference_mode():
            for _, loaded in reader:
                run.check()
                run.progress.advance()
                vectors.append(None if isinstance(loaded, BadImage) else describe(loaded)[0].numpy())
        run.progress.close()
        there = [i for i in range(len(refs)) if vectors[i] is not None]
        X = np.array([vectors[i] for i in there])
        names = [refs[i].name for i in there]
        precisions = [
            self._precision(q, z, X, names)
            for q, z in zip(queries, vectors[len(refs) :], strict=True)
            if z is not None
        ]
        if not precisions or not there:
            raise InstsearchError(
                f"{printable(self.dataset.path)}: none of its {'queries' if there else 'images'} can be read"
            )
        return float(np.mean(precisions))

    def _precision(self, query: QueryRef, z: np.ndarray, X: np.ndarray, names: Sequence[str]) -> float:
        judged = self.dataset.relevance(query)
        positives = (judged.good | judged.ok) - judged.junk - judged.exclude
        order = np.argsort(-(X @ z), kind="stable")
        ranked = [names[i] for i in order if names[i] not in judged.exclude]
        return average_precision(relevance(ranked, positives, judged.junk), len(positives))

    def _read(self, job: Job) -> Tensor:
        path, query = job
        if query is None or query.box is None:
            return _tensor(read_image(path, lambda w, h: self._fit(w, h, max(w, h))).pixels)
        header = read_header(path)
        a, b, c, d = query.box
        try:
            x0, y0, x1, y1 = clip_box((a, b, c - a, d - b), (header.width, header.height))
        except InstsearchError as error:
            raise InstsearchError(f"query '{query.id}': {error}") from error
        image = read_image(path, lambda w, h: self._fit(w, h, max(x1 - x0, y1 - y0)))
        sx, sy = image.scale
        height, width = image.pixels.shape[:2]
        left, top = min(int(x0 / sx), width - 1), min(int(y0 / sy), height - 1)
        cut = image.pixels[top : max(ceil(y1 / sy), top + 1), left : max(ceil(x1 / sx), left + 1)]
        return _tensor(cut)

    def _fit(self, width: int, height: int, longest: float) -> tuple[int, int]:
        r = min(1.0, self.size / longest)
        return max(round(width * r), 1), max(round(height * r), 1)


def _tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None]


class Patience(Best):
    """The weights at their lowest loss, of which offer of all that was, counted from 1."""

    def __init__(self) -> None:
        super().__init__()
        self.epoch = self.offers = 0

    @property
    def waited(self) -> int:
        """Offers since the best."""
        return self.offers - self.epoch

    def offer(self, loss: float, network: nn.Module) -> None:
        before = self.loss
        super().offer(loss, network)
        self.offers += 1
        if self.loss < before:
            self.epoch = self.offers

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"epoch": self.epoch, "offers": self.offers}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        super().load_state_dict(state_dict)
        self.epoch, self.offers = state_dict["epoch"], state_dict["offers"]
