"""Online aggregation: the collection described anew for the classes of each query (Jiménez, Álvarez and
Giró-i-Nieto, "Class-weighted convolutional features for visual instance search", BMVC 2017, section 3.2)."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from instsearch_cli.components import Searcher, option
from instsearch_cli.data import FeatureMap, Grid, Hits
from instsearch_cli.errors import UsageError
from instsearch_plugins.abilities import ClassEncoder, ClassWeighter
from instsearch_plugins.numeric.normalise import l2
from instsearch_plugins.numeric.threads import one_thread
from instsearch_plugins.searchers.class_vectors import ClassVectors, stretches
from instsearch_plugins.searchers.dense import values_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from concurrent.futures import Future

    from torch import Tensor

    from instsearch_cli.components import Data
    from instsearch_cli.data import Query

PIECE = 1 << 23  #: values of class vectors worked on at once
WRITTEN = 1 << 26  #: bytes of class vectors that come to files together


class CamOnline(Searcher):
    """score(i) = <q, D_i>, with D_i = L2(sum over the query's classes c of w(F_i^c)), as encoder `cam` has it.

    A picture is so described by what it has of the query's classes, not by its own (offline aggregation, which is
    the same encoder's codes in any other searcher). The class vectors w(F_i^c) are computed from the stored features,
    for all queries at once, and kept for later ones, rounded to f16, beside the index.
    """

    accepts: ClassVar[tuple[str, ...]] = ("vectors",)

    @dataclass(frozen=True)
    class Config:
        """Options of ``cam-online``."""

        #: MiB of class vectors held in memory where the index cannot be written; elsewhere its files are mapped
        memory: int = option(1024, touches="query")

        def __post_init__(self) -> None:
            if self.memory < 0:
                raise ValueError("memory is not negative")

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config, self.device = config, device
        self._kept: tuple[Data, ClassVectors] | None = None

    def search(self, queries: Sequence[Query], data: Data, k: int) -> Hits:
        """The best k images for each query; equal scores by row, boxes unknown.

        Raises UsageError without weighting and encoder `cam`, InstsearchError where features are not stored.
        """
        _of_classes(data)
        classes = [_classes(query) for query in queries]
        vectors = [values_of(query.codes, None, "cam-online").sum(0) for query in queries]
        if not queries:
            return Hits.stack([], k)
        q = torch.from_numpy(np.stack(vectors)).to(self.device)
        store = self._store(data, q.shape[1])
        best = [Best(k, query.exclude) for query in queries]
        wanted = np.unique(np.concatenate(classes)).tolist()
        missing = {c: store.missing(c, data.span) for c in wanted}
        for rows, found in self._pieces(data, store, wanted, missing):
            for one, kept, own in zip(q, best, classes, strict=True):
                D = l2(reduce(torch.add, (found[c] for c in own.tolist())))
                kept.add(rows, (D * one).sum(1).cpu().numpy(), data.images)
        return Hits.stack([(kept.rows, kept.scores, None) for kept in best], k)

    def _store(self, data: Data, D: int) -> ClassVectors:
        if self._kept is None or self._kept[0] is not data:
            self._kept = data, ClassVectors(data.cache(), D, self.config.memory << 20)
        self._kept[1].make_room()
        return self._kept[1]

    def _pieces(
        self, data: Data, store: ClassVectors, wanted: list[int], missing: Mapping[int, list[range]]
    ) -> Iterator[tuple[range, dict[int, Tensor]]]:
        """The vectors f32[n, D] of every class for some rows at a time, in order: known, or computed now."""
        step = max(1, PIECE // (len(wanted) * store.D))
        for span, lacking in stretches(data.span, missing):
            known = [c for c in wanted if c not in set(lacking)]
            if lacking:
                pieces = self._computed(data, store, span, lacking)
            else:
                pieces = (
                    (range(a, min(a + step, span.stop)), {}) for a in range(span.start, span.stop, step)
                )
            for rows, found in pieces:
                read = {c: torch.from_numpy(store.read(c, rows)).to(self.device) for c in known}
                yield rows, {c: vectors.float() for c, vectors in (found | read).items()}

    def _computed(
        self, data: Data, store: ClassVectors, span: range, classes: list[int]
    ) -> Iterator[tuple[range, dict[int, Tensor]]]:
        """Compute class vectors over the stored features, block by block, and keep them in the store."""
        waiting: list[Tensor] = []
        start = stop = span.start
        for rows, made in self._aggregated(data, span, torch.tensor(classes), store.D):
            yield rows, dict(zip(classes, made.unbind(1), strict=True))
            waiting.append(made.cpu())
            stop = rows.stop
            if stop == span.stop or sum(w.nbytes for w in waiting) >= WRITTEN:
                whole = torch.cat(waiting).numpy()
                for z, c in enumerate(classes):
                    store.add(c, range(start, stop), np.ascontiguousarray(whole[:, z]))
                waiting, start = [], stop

    def _aggregated(self, data: Data, span: range, classes: Tensor, D: int) -> Iterator[tuple[range, Tensor]]:
        """The vectors f16[n, Z, D] of some classes for each block of features.

        On the CPU pictures are worked on side by side, one thread each, while the next block is read.
        """
        encoder, weighter = _of_classes(data)

        @torch.inference_mode()
        def vectors(grid: Grid, cells: Mapping[str, Tensor]) -> Tensor:
            maps = {name: x.float().T.reshape(-1, *grid.shape) for name, x in cells.items()}
            features = FeatureMap(maps["values"], grid, cam=maps.get("cam"))
            return encoder.class_vectors(features, weighter.class_maps(features, classes)).half()

        def ended(rows: range, begun: list[Future[Tensor] | None]) -> tuple[range, Tensor]:
            none = torch.zeros(len(classes), D, dtype=torch.float16, device=self.device)
            return rows, torch.stack([none if one is None else one.result() for one in begun])

        with self._threads() as pool:
            before: tuple[range, list[Future[Tensor] | None]] | None = None
            for block in data.blocks("features", span):
                begun = [
                    pool.submit(vectors, grid, cells) if grid.h * grid.w else None
                    for grid, cells in self._pictures(block)
                ]
                if before is not None:
                    yield ended(*before)
                before = range(int(block["start"]), int(block["stop"])), begun
            if before is not None:
                yield ended(*before)

    def _pictures(self, block: Mapping[str, Any]) -> Iterator[tuple[Grid, dict[str, Tensor]]]:
        """The grid and the stored values [h w, C] of each picture of a block, which comes to the device as one."""
        if "grid" not in block or "geometry" in block:
            raise UsageError(
                "searcher 'cam-online' needs feature maps of one size: take a network, without extractor.scales"
            )
        names = [name for name in ("values", "cam") if name in block]
        arrays = {name: torch.from_numpy(block[name]).to(self.device) for name in names}
        shapes, transforms = block["grid"].tolist(), block["transform"].tolist()
        for (h, w), transform, cells in zip(
            shapes, transforms, pairwise(block["indptr"].tolist()), strict=True
        ):
            yield Grid(h, w, tuple(transform)), {name: x[slice(*cells)] for name, x in arrays.items()}

    @contextlib.contextmanager
    def _threads(self) -> Iterator[ThreadPoolExecutor]:
        """One thread of torch's for each of several pictures on the CPU; a GPU is given one after the other."""
        if self.device.type != "cpu":
            with ThreadPoolExecutor(1) as pool:
                yield pool
            return
        with (
            one_thread() as threads,
            ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool,
        ):
            yield pool


class Best:
    """The best k images of those seen so far, ties by row."""

    def __init__(self, k: int, exclude: frozenset[int]) -> None:
        self.k, self.exclude = k, np.fromiter(exclude, np.int64, len(exclude))
        self.rows, self.scores = np.empty(0, np.int64), np.empty(0, np.float32)

    def add(self, rows: range, scores: np.ndarray, live: np.ndarray) -> None:
        """Take the scores f32[n] of some rows, of which those count that are in ``live``, ascending."""
        near = live[slice(*np.searchsorted(live, (rows.start, rows.stop)))]
        near = near[~np.isin(near, self.exclude)]
        found = np.concatenate([self.rows, near]), np.concatenate([self.scores, scores[near - rows.start]])
        order = np.lexsort((found[0], -found[1]))[: self.k]
        self.rows, self.scores = found[0][order], found[1][order]


def _classes(query: Query) -> np.ndarray:
    """The query's classes i64[Z]."""
    if query.weights is None or query.weights.classes is None or not len(query.weights.classes):
        raise UsageError(
            "searcher 'cam-online' describes pictures for the query's classes, and it has none: add --weighting cam"
        )
    return query.weights.classes.cpu().numpy()


def _of_classes(data: Data) -> tuple[ClassEncoder, ClassWeighter]:
    """The encoder and the weighter, if they work class by class."""
    encoder, weighter = data.encoder, data.weighter
    if not isinstance(encoder, ClassEncoder) or not encoder.by_class:
        raise UsageError(
            "searcher 'cam-online' adds up a vector for each class: add --encoder cam, with encoder.cams=true"
        )
    if not isinstance(weighter, ClassWeighter):
        raise UsageError("searcher 'cam-online' weighs by the query's classes: add --weighting cam")
    return encoder, weighter
