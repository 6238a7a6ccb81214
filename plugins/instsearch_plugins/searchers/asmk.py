"""An inverted file of aggregated selective match kernels (Tolias, Avrithis and Jégou, ICCV 2013; IJCV 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from instsearch_cli.components import Searcher, option
from instsearch_cli.data import Hits, SparseVectors
from instsearch_cli.errors import REPAIR, InstsearchError
from instsearch_formats import Array
from instsearch_plugins.abilities import WordVectorEncoder
from instsearch_plugins.numeric.asmk import selected
from instsearch_plugins.numeric.ranking import OWNERS, Best, Gathered, Owners, leads

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from instsearch_cli.components import Data, Progress, State
    from instsearch_cli.data import Query

VALUES = 1 << 22  # values of codes held at once while postings are made
BITS = 64
DAMAGED = f"the postings are damaged: {REPAIR}"
NEEDS = "searcher asmk needs codes with a vector for each word: take --encoder asmk, or --searcher inverted"


class Postings(NamedTuple):
    """Words of some rows: row and word i64[p], the vector's values f32[p, D], and its length f32[p]."""

    row: np.ndarray
    word: np.ndarray
    unit: np.ndarray
    length: np.ndarray


def postings_of(indptr: np.ndarray, indices: np.ndarray, data: np.ndarray, D: int) -> Postings:
    """The words of CSR rows whose columns ascend, the values of word c being in columns c D to (c + 1) D."""
    row = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    word, place = np.divmod(indices.astype(np.int64), D)
    first = leads(word) | leads(row)
    values = np.zeros((int(first.sum()), D), np.float32)
    values[np.cumsum(first) - 1, place] = data
    length = np.linalg.norm(values, axis=1)
    return Postings(row[first], word[first], values / np.maximum(length, 1e-12)[:, None], length)


def bits_of(values: np.ndarray) -> np.ndarray:
    """The signs of f32[p, D], 1 being above 0: u64[p, ceil(D / 64)]."""
    p, D = values.shape
    above = np.zeros((p, -(-D // BITS) * BITS), bool)
    above[:, :D] = values > 0
    packed: np.ndarray = np.packbits(above, axis=1, bitorder="little").view("<u8")
    return packed


class SelectiveMatch(Searcher):
    """score(i) = max over the rows r of image i of sum_c |q_c| |x_rc| sigma(u_c),  u_c = <q_c, x_rc> / (|q_c| |x_rc|)

    over the words c that both have; sigma(u) = sign(u) |u|^alpha for u > tau, 0 otherwise. Of binary codes u_c is
    1 - 2 h / D where h of the D signs differ. A query with several rows takes the best of them. Images that score 0 or
    less are no hits.
    """

    accepts: ClassVar[tuple[str, ...]] = ("csr",)
    on_device: ClassVar[bool] = False
    lists_regions: bool = True
    learns: ClassVar[dict[str, Array]] = OWNERS | {
        "pointers": Array("i8", ("K+1",), climbs="P"),
        "rows": Array("i4", ("P",), unread=True),
        "lengths": Array("f2", ("P",), unread=True),
        "bits": Array("u8", ("P", "W"), group="binary", unread=True),
        "vectors": Array("f2", ("P", "D"), group="vectors", unread=True),
    }

    @dataclass(frozen=True)
    class Config:
        """Options of ``asmk``: those of both papers."""

        alpha: float = option(3.0, "query")  #: a larger one leaves less of words that are not alike
        tau: float = option(0.0, "query")  #: words less alike than this count nothing

        def __post_init__(self) -> None:
            if not (self.alpha > 0 and -1 <= self.tau < 1):
                raise ValueError("alpha is above 0, tau at least -1 and below 1")

    def __init__(self, config: Config, device: None = None) -> None:
        self.config = config

    def fit(self, data: Data, progress: Progress) -> State:
        """Postings word by word, in a word by row; two passes, a part of the codes in memory at a time.

        Returns the owners of the rows, pointers i64[K + 1], and for each posting its row i32, its length f16, and its
        signs u64[W], or its unit vector f16[D]. Raises InstsearchError for codes that have no vector for each word.
        """
        encoder = _encoder(data)
        scratch = data.scratch()
        gathered = Gathered(data, scratch)
        counts = np.zeros(1, np.int64)
        progress.start("counting words", len(data.span))
        for block in data.blocks("codes"):
            gathered.add(block, np.asarray(block["rows"]))
            counts = np.zeros(int(block["dim"]) // encoder.width, np.int64) if len(counts) == 1 else counts
            for some in _postings(block, encoder.width):
                counts += np.bincount(some.word, minlength=len(counts))
            progress.advance(len(block["rows"]) - 1)
        pointers = np.concatenate([[0], counts.cumsum()])
        P, D = int(pointers[-1]), encoder.width
        rows, lengths = (_file(scratch / n, d, P) for n, d in (("rows", np.int32), ("lengths", np.float16)))
        binary = encoder.binary
        vectors = _file(
            scratch / "vectors", *((np.uint64, P, -(-D // BITS)) if binary else (np.float16, P, D))
        )
        free, first = pointers[:-1].copy(), 0
        progress.start("inverting words", len(data.span))
        for block in data.blocks("codes"):
            for some in _postings(block, D):
                order = np.argsort(some.word, kind="stable")
                word = some.word[order]
                at = free[word] + np.arange(len(word)) - np.searchsorted(word, word)
                free += np.bincount(word, minlength=len(free))
                rows[at], lengths[at] = some.row[order] + first, some.length[order]
                vectors[at] = bits_of(some.unit[order]) if binary else some.unit[order]
            first += len(block["indptr"]) - 1
            progress.advance(len(block["rows"]) - 1)
        state = {"pointers": pointers, "rows": rows, "lengths": lengths}
        return {**gathered.state(), **state, "bits" if binary else "vectors": vectors}

    def load(self, state: Mapping[str, Any]) -> None:
        self.owners = Owners.of_state(state)
        self.pointers, self.rows = np.asarray(state["pointers"]), np.asanyarray(state["rows"])
        self.lengths = np.asanyarray(state["lengths"])
        self.binary = "bits" in state
        self.vectors = np.asanyarray(state["bits" if self.binary else "vectors"])

    def search(self, queries: Sequence[Query], data: Data, k: int) -> Hits:
        D, removed = _encoder(data).width, self.owners.removed(data)
        ranked = []
        for query in queries:
            codes = query.codes
            if not isinstance(codes, SparseVectors) or codes.dim % D:
                raise InstsearchError(NEEDS)
            asked = postings_of(codes.indptr, codes.indices, codes.data, D)
            scores = np.zeros(self.owners.rows, np.float32)
            for row in range(len(codes.boxes)):
                own = asked.row == row
                one = self._scores(asked.word[own], asked.unit[own], asked.length[own])
                scores = one if row == 0 else np.maximum(scores, one)
            scores[self.owners.hidden(query, removed)] = 0
            best = Best(k, self.owners, floor=0.0)
            best.add(0, scores)
            ranked.append(self.owners.ranked(best.rows, best.scores, k, query.per_image))
        return Hits.stack(ranked, k)

    def _scores(self, words: np.ndarray, unit: np.ndarray, length: np.ndarray) -> np.ndarray:
        """What the words i64[A] of a query, with unit vectors f32[A, D] and their lengths, score: f32[rows]."""
        K, D = len(self.pointers) - 1, unit.shape[1]
        sigma = selected(1 - 2 * np.arange(D + 1, dtype=np.float32) / D, self.config.alpha, self.config.tau)
        there = np.flatnonzero(words < K)
        starts, ends = self.pointers[words[there]], self.pointers[words[there] + 1]
        bits = bits_of(unit[there]) if self.binary else unit[there]
        rows, worth = [np.empty(0, np.int64)], [np.empty(0, np.float32)]
        for a, b, v, weight in zip(starts.tolist(), ends.tolist(), bits, length[there], strict=True):
            if self.binary:
                s = sigma[np.bitwise_count(self.vectors[a:b] ^ v).sum(axis=1)]
            else:
                s = selected(self.vectors[a:b].astype(np.float32) @ v, self.config.alpha, self.config.tau)
            some = np.flatnonzero(s)
            rows.append(self.rows[a:b][some])
            worth.append(s[some] * self.lengths[a:b][some] * weight)
        row = np.concatenate(rows)
        if len(row) and not 0 <= row.min() <= row.max() < self.owners.rows:
            raise InstsearchError(DAMAGED)
        return np.bincount(row, np.concatenate(worth), self.owners.rows).astype(np.float32)


def _encoder(data: Data) -> WordVectorEncoder:
    if not isinstance(data.encoder, WordVectorEncoder):
        raise InstsearchError(NEEDS)
    return data.encoder


def _postings(block: Mapping[str, Any], D: int) -> Iterator[Postings]:
    """A block's postings, rows of about VALUES values at a time; rows are counted within the block."""
    indptr = np.asarray(block["indptr"])
    row = 0
    while row < len(indptr) - 1:
        until = max(row + 1, int(np.searchsorted(indptr, indptr[row] + VALUES, side="right")) - 1)
        part = slice(int(indptr[row]), int(indptr[until]))
        some = postings_of(
            indptr[row : until + 1] - indptr[row], block["indices"][part], block["data"][part], D
        )
        yield some._replace(row=some.row + row)
        row = until


def _file(path: Path, dtype: Any, n: int, *shape: int) -> np.ndarray:
    return np.memmap(path, dtype, "w+", shape=(n, *shape)) if n else np.empty((0, *shape), dtype)
