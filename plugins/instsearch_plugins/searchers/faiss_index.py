"""Search of dense codes: exact over memory-mapped vectors, or any index that faiss can build (Douze et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from instsearch_cli.components import Searcher, option
from instsearch_cli.data import Hits
from instsearch_cli.errors import REPAIR, InstsearchError, UsageError
from instsearch_formats import Array
from instsearch_plugins.numeric.approximate import DAMAGED, built, loaded, stored, tuned
from instsearch_plugins.numeric.expansion import augmented
from instsearch_plugins.numeric.ranking import OWNERS, Appended, Best, Owners, leads
from instsearch_plugins.searchers.dense import gather, image_blocks, r_match, values_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

    from instsearch_cli.components import Data, Progress, State
    from instsearch_cli.data import Query

ROWS = 1 << 16  # vectors scored at once
QUERIES = 64  # queries scored at once
ROUNDING = 1e-5  # what a product of unit vectors may be off by


class Faiss(Searcher):
    """score(i) = sum over the query's vectors q of the max over the rows r of image i of <q, x_r>.

    A query of one vector, as most are, finds each image's best row; one of several is matched with each image
    vector by vector (:func:`r_match`, R-Match). The hit's box is that of the row most like any of the query's.
    Several hits of an image, where asked for, are its best rows, for a query of one vector.

    ``Flat`` is exact and holds nothing in memory. Any other factory is trained on the segment and loaded as a
    whole; its scores are those of faiss, so approximate where it quantises. Of a query's several vectors one that
    did not come upon an image counts the least of what it came upon, as in XTR (Lee et al., 2023): reranker
    `r-match` then tells the best hits apart. With ``refine`` so many of the rows that faiss finds are scored
    again by their vectors, which lie on disk beside the index, as f16: as good as exact, of what was found.
    A segment with fewer than 39 vectors for each centroid that the factory trains is kept exact.

    With ``dba`` each x_r is first augmented with its nearest neighbours in the segment (:func:`augmented`). What
    is stored as codes stays as it was, so that query expansion adds codes that are not augmented. An image
    that is excluded for a query, or removed later, has left its share in its neighbours by then: measure
    without ``dba`` where a protocol excludes images.
    """

    accepts: ClassVar[tuple[str, ...]] = ("vectors",)
    learns: ClassVar[dict[str, Array]] = OWNERS | {
        "vectors": Array("f4", ("R", "D"), group="vectors", unread=True),
        "index": Array("u1", ("bytes",), group="index"),
        "kept": Array("f2", ("R", "D"), group="kept", unread=True),
    }
    lists_regions: bool = True

    @dataclass(frozen=True)
    class Config:
        factory: str = option("Flat", touches="search")  #: faiss index factory, as IVF1024,Flat or HNSW32
        search: str = option("", touches="query")  #: faiss search parameters, as nprobe=16 or efSearch=64
        #: rows that faiss finds which are scored again by their own vectors, kept on disk; 0: none
        refine: int = option(0, touches="search", omitted_at_default=True)
        dba: int = option(0, touches="search")  #: neighbours that each vector is augmented with; 0: none
        dba_alpha: float = option(3.0, touches="search")  #: they weigh their similarity to this power

        def __post_init__(self) -> None:
            if min(self.dba, self.dba_alpha, self.refine) < 0:
                raise ValueError("dba, dba-alpha and refine are not negative")

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config = config

    def fit(self, data: Data, progress: Progress) -> State:
        """Gather the segment's vectors; train and fill the index where there is one.

        Returns vectors f32[R, D], or index u8[...] as faiss writes it and, with ``refine``, kept f16[R, D]; and the
        owners of the rows.
        """
        scratch = data.scratch()
        state, rows = gather(data, scratch, progress)
        if self.config.dba:
            progress.start("augmenting codes", len(rows), "vectors")
            shown = np.ones(len(rows), bool)
            shown[Owners.of_state(state).removed(data)] = False
            into = Appended(scratch / "augmented", np.float32, rows.shape[1])
            for block in augmented(rows, self.config.dba, self.config.dba_alpha, shown):
                into.append(block)
                progress.advance(len(block))
            rows = into.array()
        index = None
        if self.config.factory.strip() != "Flat":
            progress.start("building the index", len(rows), "vectors")
            index = built(rows, self.config.factory, progress.advance)
        if index is None:
            return state | {"vectors": rows}
        if self.config.refine:
            kept = Appended(scratch / "kept", np.float16, rows.shape[1])
            for first in range(0, len(rows), ROWS):
                kept.append(rows[first : first + ROWS])
            state["kept"] = kept.array()
        return state | {"index": stored(index)}

    def load(self, state: Mapping[str, Any]) -> None:
        self.owners = Owners.of_state(state)
        self.index: Any = None
        if "index" not in state:
            if "vectors" not in state:
                raise InstsearchError(DAMAGED)
            self.vectors = np.asanyarray(state["vectors"])  # long ones are checked by pages
            return
        self.index = tuned(loaded(state["index"], self.owners.rows), self.config.search)
        self.kept = np.asanyarray(state["kept"]) if self.config.refine and "kept" in state else None

    def search(self, queries: Sequence[Query], data: Data, k: int) -> Hits:
        width = self.vectors.shape[1] if self.index is None else self.index.d
        vectors = [values_of(q.codes, width if self.owners.rows else None, "faiss") for q in queries]
        if not self.owners.rows:
            return Hits.stack([(np.empty(0, np.int64), np.empty(0, np.float32), None)] * len(queries), k)
        if any(query.per_image != 1 and len(q) > 1 for query, q in zip(queries, vectors, strict=True)):
            raise UsageError(
                "a query of several vectors is matched with each image as a whole: for more than one hit an image "
                "(--per-image) leave the query in one vector (--set encoder.query-apart=false)"
            )
        removed = self.owners.removed(data)
        hidden = [self.owners.hidden(query, removed) for query in queries]
        each = [query.per_image for query in queries]
        if self.index is not None:
            ranked = [self._approximate(*one, k) for one in zip(vectors, hidden, each, strict=True)]
        else:
            ranked = []
            for first in range(0, len(queries), QUERIES):
                part = slice(first, first + QUERIES)
                ranked += self._exact(vectors[part], hidden[part], each[part], k)
        return Hits.stack(ranked, k)

    def _exact(
        self, queries: list[np.ndarray], hidden: list[np.ndarray], per_image: list[int], k: int
    ) -> list[Any]:
        """A matrix product finds the rows that may count; they are then scored one by one, so that equal
        vectors have equal scores wherever they lie."""
        stacked = np.concatenate(queries)
        lengths = [float(np.linalg.norm(q, axis=1).sum()) for q in queries]
        best = [Best(k, self.owners, slack=ROUNDING * length) for length in lengths]
        parts = np.cumsum([len(q) for q in queries])[:-1]
        for images in image_blocks(self.owners.pointers, ROWS):
            pointers = self.owners.pointers[images.start : images.stop + 1]
            first, stop = pointers[[0, -1]].tolist()
            products = np.split(_sound(stacked @ self.vectors[first:stop].T), parts)
            for kept, product, gone in zip(best, products, hidden, strict=True):
                scores = r_match(product, pointers)
                near = slice(*np.searchsorted(gone, (first, stop)))
                scores[gone[near] - first] = -np.inf
                kept.add(first, scores)
        rows = [kept.rows for kept in best]
        return [self._rescored(*one, k) for one in zip(rows, queries, per_image, strict=True)]

    def _rescored(self, rows: np.ndarray, q: np.ndarray, per_image: int, k: int) -> Any:
        """The best k hits, of the images that own these rows i64[n], by exact products."""
        if len(q) == 1:
            return self.owners.ranked(rows, self._dots(rows, q)[0].astype(np.float32), k, per_image)
        images = np.unique(self.owners.image_of(rows))
        rows = self.owners.rows_of(images)
        counts = self.owners.pointers[images + 1] - self.owners.pointers[images]
        scores = r_match(self._dots(rows, q), np.concatenate([[0], counts.cumsum()]))
        found = scores > -np.inf
        return self.owners.ranked(rows[found], scores[found].astype(np.float32), k)

    def _dots(self, rows: np.ndarray, q: np.ndarray) -> np.ndarray:
        """f64[M, n]: the products of the query's vectors q f32[M, D] with each row."""
        products = np.empty((len(q), len(rows)))
        for first in range(0, len(rows), ROWS):
            part = slice(first, first + ROWS)
            x = self.vectors[rows[part]].astype(np.float64)
            for product, row in zip(products, q, strict=True):
                product[part] = np.sum(x * row, axis=1)
        return products

    def _approximate(self, q: np.ndarray, hidden: np.ndarray, per_image: int, k: int) -> Any:
        """Ask for twice as many rows until k hits come back or the index has no more."""
        shown = np.ones(self.owners.rows, bool)
        shown[hidden] = False
        wanted, before = min(max(k, self.config.refine), self.owners.rows), -1
        while True:
            scores, rows = self._ask(q, wanted, shown if len(hidden) else None)
            good = (rows >= 0) & shown[rows]
            found, best = self._gathered(q, scores, rows, good)
            ranked = self.owners.ranked(found, best, k, per_image)
            hits = len(ranked[0])
            spent = hits == before and bool(np.any(rows < 0))
            if hits >= k or wanted >= self.owners.rows or spent:
                return ranked
            wanted, before = min(2 * wanted, self.owners.rows), hits

    def _gathered(
        self, q: np.ndarray, scores: np.ndarray, rows: np.ndarray, good: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The rows that came back, ascending, and their :func:`r_match`, out of f32[M, n], i64[M, n], bool[M, n]."""
        found = np.unique(rows[good])
        products = self._came(scores, rows, good, found) if self.kept is None else self._own(q, found)
        change = np.flatnonzero(leads(self.owners.image_of(found)))
        best = r_match(products, np.append(change, len(found)))
        return found[best > -np.inf], best[best > -np.inf]

    def _own(self, q: np.ndarray, found: np.ndarray) -> np.ndarray:
        """The products of the query's vectors f32[M, D] with rows, by their own vectors: f32[M, n]."""
        assert self.kept is not None
        parts = [self.kept[found[i : i + ROWS]].astype(np.float32) for i in range(0, len(found), ROWS)]
        return _sound(np.concatenate([q[:, :0], *(q @ part.T for part in parts)], axis=1))

    def _came(self, scores: np.ndarray, rows: np.ndarray, good: np.ndarray, found: np.ndarray) -> np.ndarray:
        """The same as faiss has them; what did not come back for a vector counts the least of what did."""
        products = np.full((len(rows), len(found)), -np.inf, np.float32)
        for product, score, row, came in zip(products, scores, rows, good, strict=True):
            np.maximum.at(product, np.searchsorted(found, row[came]), score[came])
        if len(rows) > 1:
            least = np.where(good, scores, np.inf).min(axis=1, initial=np.inf)
            least[np.isinf(least)] = 0  # it came upon nothing
            products = np.maximum(products, least[:, None])
        return products

    def _ask(self, q: np.ndarray, k: int, shown: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        if shown is not None:
            selector = _faiss().IDSelectorBitmap(np.packbits(shown, bitorder="little"))
            try:
                return self._checked(*self.index.search(q, k, params=_selecting(self.index, selector)))
            except RuntimeError:
                pass  # an index that cannot select: the rows are left out of what it returns
        try:
            return self._checked(*self.index.search(q, k))
        except (RuntimeError, MemoryError) as error:
            raise InstsearchError(DAMAGED) from error

    def _checked(self, scores: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What came back, if there are such rows. Raises InstsearchError otherwise."""
        if rows.size and (rows.max() >= self.owners.rows or not np.isfinite(scores[rows >= 0]).all()):
            raise InstsearchError(DAMAGED)
        return scores, rows


def _sound(products: np.ndarray) -> np.ndarray:
    """Products with stored vectors. Raises InstsearchError where they are not finite."""
    if not np.isfinite(products).all():
        raise InstsearchError(f"the vectors are damaged: {REPAIR}")
    return products


def _faiss() -> Any:
    """faiss with what its Python layer adds at run time, of which a type checker knows nothing."""
    import faiss

    return faiss


def _selecting(index: Any, selector: Any) -> Any:
    """The search parameters that an index has, with a selector of rows added."""
    faiss = _faiss()
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        return faiss.SearchParametersPreTransform(index_params=_selecting(index.index, selector))
    if isinstance(index, faiss.IndexIVF):
        return faiss.SearchParametersIVF(sel=selector, nprobe=index.nprobe)
    if isinstance(index, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(sel=selector, efSearch=index.hnsw.efSearch)
    return faiss.SearchParameters(sel=selector)
