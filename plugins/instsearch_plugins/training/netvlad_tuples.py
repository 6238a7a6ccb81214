"""What NetVLAD is trained on: queries with their potential positives and their hardest negatives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from instsearch_formats import Index
from instsearch_plugins.numeric.pairs import read_pairs
from instsearch_plugins.numeric.weak_ranking import hardest
from instsearch_plugins.training.mscnet_batches import identities, is_index, photographs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

BLOCK = 64  #: queries whose distances to all images are held at once
SLICE = 1024  #: images that these are computed from at once


class Tuple(NamedTuple):
    """A query, its potential positives and its negatives, as rows."""

    q: int
    positives: np.ndarray
    negatives: np.ndarray


class Places:
    """Pictures, which of them may match, and which cannot.

    Pictures of one group are no negatives of each other: those of a class, or those that hang together by pairs. The
    potential positives of a picture are the others of its class, or those that it makes a pair with.
    """

    def __init__(self, paths: Sequence[Path], group: np.ndarray, pairs: np.ndarray | None = None) -> None:
        self.paths, self.group, self.there = list(paths), group, np.ones(len(paths), bool)
        if pairs is None:
            self._of = np.argsort(group, kind="stable")
            ends = np.searchsorted(group[self._of], [group, group + 1])
        else:
            both = np.unique(np.concatenate((pairs, pairs[:, ::-1])), axis=0)
            self._of = both[:, 1]
            ends = np.searchsorted(both[:, 0], [np.arange(len(group)), np.arange(len(group)) + 1])
        self._start, self._end = ends

    def positives(self, i: int) -> np.ndarray:
        """The rows i64[n] of what may match a picture, itself left out."""
        rows = self._of[self._start[i] : self._end[i]]
        return np.asarray(rows[(rows != i) & self.there[rows]])

    def queries(self) -> np.ndarray:
        """The pictures that something may match: i64[n]."""
        return np.array([i for i in np.flatnonzero(self.there).tolist() if len(self.positives(i))], np.int64)

    def held(self, queries: np.ndarray, share: float, seed: int) -> np.ndarray:
        """Which pictures are held out, bool[N]: whole groups by chance, with about that share of the queries.

        Groups of more than twice the share stay, so that it may be none.
        """
        sizes = np.bincount(self.group[queries], minlength=int(self.group.max()) + 1)
        out, wanted = np.zeros(len(sizes), bool), share * len(queries)
        for each in np.random.default_rng([seed, 2]).permutation(np.flatnonzero(sizes)):
            taken = sizes[out].sum()
            if taken >= wanted:
                break
            out[each] = sizes[each] <= 2 * wanted and taken + sizes[each] < len(queries)
        return np.asarray(out[self.group])


def by_labels(data: Path, labels: Path | None) -> Places:
    """Pictures by their classes: a table path,label, or class folders. Raises InstsearchError."""
    found = identities(data, labels)
    _, group = np.unique([label for _, label in found], return_inverse=True)
    return Places([path for path, _ in found], group.astype(np.int64))


def by_pairs(data: Path, pairs: Path) -> Places:
    """All pictures of a folder or of an index, and which of them match: a file of two names a line.

    A name is a path below the folder, or as in the hits of the index. Raises InstsearchError for names of no pictures.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    paths = photographs(data)
    if is_index(data):
        images = Index.open(data).images
        rows = np.flatnonzero(images.alive())
        named = {name: int(np.searchsorted(rows, row)) for name, row in images.named(rows.tolist()).items()}
    else:
        named = {path.relative_to(data).as_posix(): i for i, path in enumerate(paths)}
    found = read_pairs(str(pairs), named)
    edges = coo_array((np.ones(len(found)), (found[:, 0], found[:, 1])), shape=(len(paths), len(paths)))
    return Places(paths, connected_components(edges, directed=False)[1].astype(np.int64), found)


def distances(vectors: np.ndarray, queries: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Each query with its squared distances to all images, f32[N], of unit vectors f32[N, D]."""
    for start in range(0, len(queries), BLOCK):
        block = queries[start : start + BLOCK]
        q = torch.from_numpy(np.array(vectors[block])).T
        parts = (
            torch.from_numpy(np.array(vectors[i : i + SLICE])) @ q for i in range(0, len(vectors), SLICE)
        )
        d = (2 - 2 * torch.cat(list(parts)).T).clamp(min=0).numpy()
        yield from zip(block.tolist(), d, strict=True)


def ranks(places: Places, vectors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """How many images of other groups are nearer than the nearest potential positive, and one: i64[n]."""
    found = []
    for q, d in distances(vectors, queries):
        others = places.there & (places.group != places.group[q])
        found.append(1 + int((d[others] < d[places.positives(q)].min()).sum()))
    return np.array(found, np.int64)


class Mined:
    """The tuples of a round, which a checkpoint keeps: of each picture the positives and the negatives, -1 for none."""

    def __init__(self, places: Places, positives: int, negatives: int, sampled: int, seed: int) -> None:
        self.places, self.sampled, self.seed, self.round = places, sampled, seed, -1
        n = len(places.paths)
        self.positives = np.full((n, positives), -1, np.int64)
        self.negatives = np.full((n, negatives), -1, np.int64)

    def mine(self, number: int, queries: np.ndarray, trained: np.ndarray, vectors: np.ndarray) -> None:
        """Choose the tuples of a round from the vectors f32[N, D] of all pictures, of which ``trained`` bool[N] count.

        The positives are the nearest; the negatives the hardest of a sample and of those that the query had before.
        """
        positives, negatives = self.positives.copy(), self.negatives.copy()
        group = self.places.group
        for q, d in distances(vectors, queries):
            near = self.places.positives(q)
            _put(positives[q], near[np.argsort(d[near], kind="stable")])
            others = np.flatnonzero(trained & (group != group[q]))
            rng = np.random.default_rng([self.seed, 1, number, q])
            before = negatives[q][negatives[q] >= 0]
            _put(negatives[q], hardest(d, others, before, self.sampled, negatives.shape[1], rng))
        self.positives, self.negatives, self.round = positives, negatives, number

    def tuples(self, queries: Iterable[int]) -> list[Tuple]:
        """The tuples of some queries."""
        return [Tuple(q, *(x[q][x[q] >= 0] for x in (self.positives, self.negatives))) for q in queries]

    def state_dict(self) -> dict[str, Any]:
        arrays = {"positives": self.positives, "negatives": self.negatives}
        return {"round": self.round} | {name: torch.from_numpy(x) for name, x in arrays.items()}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        positives, negatives = (state_dict[name].numpy() for name in ("positives", "negatives"))
        if (positives.shape, negatives.shape) != (self.positives.shape, self.negatives.shape):
            raise ValueError("it is of other pictures")
        self.positives, self.negatives, self.round = positives, negatives, int(state_dict["round"])


def _put(row: np.ndarray, found: np.ndarray) -> None:
    row[:] = -1
    row[: len(found)] = found[: len(row)]
