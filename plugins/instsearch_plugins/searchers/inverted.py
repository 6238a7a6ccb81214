"""Exact search of sparse codes with an inverted file (Sivic and Zisserman, "Video Google", ICCV 2003).

The postings are cut into blocks of rows, so that a block's scores stay in the cache while they are summed,
and in a block they lie word by word. All arrays are memory-mapped: opening reads next to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from scipy import sparse

from instsearch_cli.components import Searcher
from instsearch_cli.data import Hits, SparseVectors
from instsearch_cli.errors import REPAIR, InstsearchError
from instsearch_formats import Array
from instsearch_plugins.numeric.ranking import OWNERS, Appended, Best, Gathered, Owners

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import torch

    from instsearch_cli.components import Data, Progress, State
    from instsearch_cli.data import Query

ROWS = 1 << 18  # rows of a block: one megabyte of scores
POSTINGS = 1 << 26  # postings of a block at most: what bounds the memory of fit, one gigabyte
DAMAGED = f"the inverted file is damaged: {REPAIR}"


def transposed(parts: Iterable[sparse.csr_array]) -> Iterator[sparse.csc_array]:
    """The rows of a stream of matrices, gathered into blocks of at most ROWS rows and POSTINGS entries."""
    words, values = np.empty(POSTINGS, np.int32), np.empty(POSTINGS, np.float32)
    counts: list[np.ndarray] = []
    rows = postings = 0
    wide = 1  # a part of empty rows does not know how many words there are

    def block(width: int) -> sparse.csc_array:
        indptr = np.concatenate([[0], *counts]).cumsum(dtype=np.int32)  # i64 would widen the words as well
        return sparse.csr_array((values[:postings], words[:postings], indptr), (rows, width)).tocsc()

    for part in parts:
        height, width = part.shape  # pyright: ignore[reportGeneralTypeIssues]
        at, indptr, wide = 0, part.indptr, max(wide, width)
        while at < height:
            fits = int(np.searchsorted(indptr, indptr[at] + POSTINGS - postings, side="right")) - 1
            end = min(fits, at + ROWS - rows, height)
            if end > at:
                taken = slice(int(indptr[at]), int(indptr[end]))
                after = postings + taken.stop - taken.start
                words[postings:after], values[postings:after] = part.indices[taken], part.data[taken]
                counts.append(np.diff(indptr[at : end + 1]))
                rows, postings, at = rows + end - at, after, end
            elif rows:
                yield block(wide)
                counts.clear()
                rows = postings = 0
            else:
                raise InstsearchError(f"a code has more than {POSTINGS} words: too many for an inverted file")
    if rows:
        yield block(wide)


class Inverted(Searcher):
    """score(i) = max over the rows r of image i of sum_w q_w x_rw; images scoring 0 or less are no hits.

    For codes that are not negative these are the images that share no word with the query. A query with
    several rows takes, for each row of the collection, the best of them.
    """

    accepts: ClassVar[tuple[str, ...]] = ("csr",)
    learns: ClassVar[dict[str, Array]] = OWNERS | {
        "rows": Array("i4", ("P",), unread=True),
        "values": Array("f4", ("P",), unread=True),
        "pointers": Array("i4", ("B", "K+1")),
        "blocks": Array("i8", ("B+1", 2)),
    }
    lists_regions: bool = True

    @dataclass(frozen=True)
    class Config:
        """It has no options: it is exact."""

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config = config

    def fit(self, data: Data, progress: Progress) -> State:
        """Turn the codes over; one pass, at most about 16 bytes x POSTINGS in memory.

        Returns rows i32[nnz] (counted within their block), values f32[nnz], pointers i32[B, K + 1] (word to
        postings, within the block), blocks i64[B + 1, 2] (first row and first posting of each block), and
        the owners of the rows.
        """
        scratch = data.scratch()
        gathered = Gathered(data, scratch)
        rows = Appended(scratch / "rows", np.int32)
        values = Appended(scratch / "values", np.float32)
        pointers: list[np.ndarray] = []
        blocks = [(0, 0)]
        progress.start("inverting codes", len(data.span))
        for block in transposed(self._parts(data, gathered, progress)):
            rows.append(block.indices)
            values.append(block.data)
            pointers.append(block.indptr.astype(np.int32))
            height = block.shape[0]  # pyright: ignore[reportOptionalSubscript]
            blocks.append((blocks[-1][0] + height, rows.count))
            del block  # before the next is gathered
        return {
            **gathered.state(),
            "rows": rows.array(),
            "values": values.array(),
            "pointers": np.array(pointers) if pointers else np.zeros((0, 1), np.int32),
            "blocks": np.array(blocks, np.int64),
        }

    def _parts(self, data: Data, gathered: Gathered, progress: Progress) -> Iterator[sparse.csr_array]:
        for block in data.blocks("codes"):
            pointers, indptr = np.asarray(block["rows"]), np.asarray(block["indptr"], np.int32)
            gathered.add(block, pointers)
            shape = (len(indptr) - 1, int(block["dim"]))
            data_, indices = np.asarray(block["data"], np.float32), np.asarray(block["indices"], np.int32)
            yield sparse.csr_array((data_, indices, indptr), shape=shape)
            progress.advance(len(pointers) - 1)

    def load(self, state: Mapping[str, Any]) -> None:
        self.owners = Owners.of_state(state)
        self.rows, self.values = np.asanyarray(state["rows"]), np.asanyarray(state["values"])
        self.pointers, self.blocks = np.asarray(state["pointers"]), np.asarray(state["blocks"])
        ends, lengths = [self.owners.rows, len(self.rows)], np.diff(self.blocks, axis=0)
        climbs = (self.blocks[0] == 0).all() and (self.blocks[-1] == ends).all() and (lengths >= 0).all()
        starts, stops, steps = self.pointers[:, 0], self.pointers[:, -1], np.diff(self.pointers, axis=1)
        if not (climbs and (starts == 0).all() and (stops == lengths[:, 1]).all() and (steps >= 0).all()):
            raise InstsearchError(DAMAGED)
        self.checked = np.zeros((len(self.pointers), self.pointers.shape[1] - 1), bool)

    def search(self, queries: Sequence[Query], data: Data, k: int) -> Hits:
        removed = self.owners.removed(data)
        ranked = []
        for query in queries:
            if not isinstance(query.codes, SparseVectors):
                raise InstsearchError("the inverted searcher takes sparse codes; use the faiss searcher")
            if len(self.pointers) and query.codes.dim != self.checked.shape[1]:
                raise InstsearchError(
                    f"the query has {query.codes.dim} words and the index {self.checked.shape[1]}: "
                    "they come from different pipelines"
                )
            hidden = self.owners.hidden(query, removed)
            best = Best(k, self.owners, floor=0.0)
            for block in range(len(self.pointers)):
                first, last = self.blocks[block : block + 2, 0]
                scores = self._scores(query.codes, block, int(last - first))
                near = slice(*np.searchsorted(hidden, (first, last)))
                scores[hidden[near] - first] = 0
                best.add(int(first), scores)
            ranked.append(self.owners.ranked(best.rows, best.scores, k, query.per_image))
        return Hits.stack(ranked, k)

    def _scores(self, codes: SparseVectors, block: int, n: int) -> np.ndarray:
        words, values = codes.indices, codes.data
        scores: np.ndarray | None = None
        for a, b in pairwise(codes.indptr.tolist()):
            one = self._product(words[a:b], values[a:b], block, n)
            scores = one if scores is None else np.maximum(scores, one)
        return np.zeros(n, np.float32) if scores is None else scores

    def _product(self, words: np.ndarray, q: np.ndarray, block: int, n: int) -> np.ndarray:
        """f32[n]: the block's rows times a sparse query.

        One compressed-column product over slices of the postings, without copying them: columns 2j are the
        words of the query, columns 2j + 1 the gaps between their postings. With the words in descending
        order a gap ends before it starts, so that it is empty.
        """
        words = words[::-1]
        self._check(block, words, n)
        pointers, base = self.pointers[block], int(self.blocks[block, 1])
        columns = sparse.csc_array((n, 2 * len(words)), dtype=np.float32)
        indptr = np.empty(2 * len(words) + 1, np.int32)
        indptr[:-1:2], indptr[1::2] = pointers[words], pointers[words + 1]
        indptr[-1] = indptr[-2] if len(words) else 0
        columns.indptr = indptr
        columns.indices = self.rows[base : int(self.blocks[block + 1, 1])]
        columns.data = self.values[base : int(self.blocks[block + 1, 1])]
        weights = np.zeros(2 * len(words), np.float32)
        weights[::2] = q[::-1]
        scores: np.ndarray = columns @ weights
        return scores

    def _check(self, block: int, words: np.ndarray, n: int) -> None:
        """Postings are used by compiled code that trusts them: look at each list once, on its first use."""
        words = words[~self.checked[block, words]]
        base, end = self.blocks[block : block + 2, 1]
        rows, values = self.rows[base:end].view(np.uint32), self.values[base:end]
        starts, stops = self.pointers[block, words], self.pointers[block, words + 1]
        for a, b in zip(starts.tolist(), stops.tolist(), strict=True):
            if a < b and (rows[a:b].max() >= n or not np.isfinite(values[a:b]).all()):
                raise InstsearchError(DAMAGED)
        self.checked[block, words] = True
