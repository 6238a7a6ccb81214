"""What a network takes pictures for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from instsearch_cli.boxes import clip_box
from instsearch_cli.data import FeatureMap
from instsearch_cli.engine.assembly import Assembly, pick_device
from instsearch_cli.engine.choosing import Choice, choose
from instsearch_cli.engine.describe import Described, Picture
from instsearch_cli.engine.registry import load_registry
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.images import Photograph
from instsearch_cli.options import parse_assignment
from instsearch_cli.progress import Quiet

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence

    from torch import Tensor

    from instsearch_cli.components import Dataset
    from instsearch_cli.engine.questions import Picture as Given
    from instsearch_cli.engine.registry import Registry

    XYWH = tuple[float, float, float, float]


class Ranked(NamedTuple):
    """One of a network's classes among some pictures."""

    number: int
    name: str
    share: float  #: of the pictures, that have it among their most probable
    probability: float  #: mean over the pictures


class Classifier:
    """An extractor with its class logits. Raises UsageError for one that has none."""

    def __init__(
        self,
        registry: Registry,
        extractor: str | None = None,
        options: Sequence[str] = (),
        weights: str | os.PathLike[str] | None = None,
        device: str = "auto",
    ) -> None:
        usual = registry.default("extractor", "classes")
        name = extractor or usual
        self._none = f"extractor '{name}' predicts no classes: name a network, --extractor {usual} say"
        if not registry.get("extractor", name).load().classifies:
            raise UsageError(self._none)
        for option in options:
            if parse_assignment(option).stage != "extractor":
                raise UsageError(f"--set {option}: only options of the extractor matter here")
        selection = Choice(extractor=name, options=[*options, "extractor.logits=true"], weights=weights)
        pipeline = choose(registry, None, selection, extract_only=True)
        alone = replace(pipeline, weighting=None, detector=None, encoder=None, searcher=None, rerank=())
        self.assembly = Assembly(alone, registry, pick_device(device))
        self.extractor = self.assembly.extractor.component

    def probabilities(self, picture: Given, box: XYWH | None = None) -> Tensor:
        """The softmax f32[C] of what is in a box of a picture, as a query with it is classified."""
        photograph = Photograph.of(picture)
        image = photograph.read(self.extractor.fit_size)
        if box is not None:
            image = image.cropped(clip_box(box, image.size))
        features = Described(self.assembly, Picture(image)).features
        if not isinstance(features, FeatureMap) or features.logits is None:
            raise UsageError(self._none)
        return features.logits.float().softmax(0).cpu()

    def ranked(self, chances: Sequence[Tensor], top: int) -> list[Ranked]:
        """:func:`rank` with the names of the network's classes."""
        return rank(chances, self.extractor.class_names(), top)


def classes(
    pictures: Iterable[Any] | Given,
    box: XYWH | None = None,
    *,
    top: int = 64,
    extractor: str | None = None,
    options: Sequence[str] = (),
    weights: str | os.PathLike[str] | None = None,
    device: str = "auto",
    progress: Quiet | None = None,
) -> list[Ranked]:
    """The most probable classes of a picture, or of several, pictures or (picture, box): most pictures first."""
    several: list[Any] = list(pictures) if isinstance(pictures, (list, tuple)) else [(pictures, box)]
    classifier = Classifier(load_registry(), extractor, options, weights, device)
    chances, progress = [], progress or Quiet()
    progress.start("classifying", len(several), "pictures")
    for each in several:
        pair: tuple[Any, ...] = each if isinstance(each, tuple) else (each, box)
        chances.append(classifier.probabilities(*pair))
        progress.advance()
    progress.close()
    return classifier.ranked(chances, top)


def queries_of(dataset: Dataset) -> list[tuple[Any, XYWH | None]]:
    """The query pictures of a dataset and their boxes (x, y, w, h). Raises InstsearchError if there is none."""
    found: list[tuple[Any, XYWH | None]] = []
    for query in dataset.queries():
        x0, y0, x1, y1 = query.box or (0.0, 0.0, 0.0, 0.0)
        found.append((query.image, (x0, y0, x1 - x0, y1 - y0) if query.box else None))
    if not found:
        raise InstsearchError(f"dataset '{dataset.name}' has no queries")
    return found


def rank(chances: Sequence[Tensor], names: Sequence[str], top: int) -> list[Ranked]:
    """The classes that are among the ``top`` most probable f32[C] of a picture: most pictures first.

    Of equals the one of higher mean probability, then the lower number, is first. Raises UsageError for more
    classes than there are.
    """
    p = torch.stack(list(chances))
    n, C = p.shape
    if top > C:
        raise UsageError(f"--top {top:,}: the network tells {C:,} classes apart")
    best = p.sort(dim=1, descending=True, stable=True).indices[:, :top]
    count, mean = best.flatten().bincount(minlength=C).tolist(), p.mean(0).tolist()
    order = sorted((c for c in range(C) if count[c]), key=lambda c: (-count[c], -mean[c], c))
    named = len(names) == C
    return [Ranked(c, names[c] if named else "", count[c] / n, mean[c]) for c in order]
