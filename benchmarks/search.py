"""Searching: the inverted file against a scipy product and a sort; exact dense search against faiss.

    python benchmarks/search.py [--codes 1000000] [--words 25000] [--nonzero 300] [--distribution uniform zipf]
    python benchmarks/search.py --dense [--codes 1000000] [--dims 512]

Everything runs in one process on one core with one thread. Times are medians over the queries; next to wall time
stands processor time, which other work on the machine disturbs less. The codes' values are exponentially
distributed and normalised to unit length; the words of codes and queries come from the same distribution:

    uniform   every word is as frequent as every other
    k-means   log-normal frequencies with the imbalance (K sum p^2 = 1.36) of a SIFT vocabulary by k-means
    zipf      the r-th most frequent word has a frequency of 1 / r: the worst case

The codes, and the index made from them, take about 8 GB in --folder for a million codes; they are removed again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy import sparse

from instsearch_cli.data import Query, SparseVectors, Vectors
from instsearch_formats import Index
from instsearch_plugins.searchers.faiss_index import Faiss
from instsearch_plugins.searchers.inverted import Inverted

NOTHING: Any = None
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
PART = 256  # images in a part


class Words:
    """Draws codes: ``nonzero`` distinct words each, with values of unit length."""

    def __init__(self, distribution: str, words: int, nonzero: int, seed: int) -> None:
        self.nonzero, self.words = nonzero, words
        self.rng = np.random.default_rng(seed)
        p = {
            "uniform": np.ones(words),
            "k-means": np.exp(np.sqrt(np.log(1.36)) * np.random.default_rng(0).normal(size=words)),
            "zipf": 1 / np.arange(1.0, words + 1),
        }[distribution]
        self.p = p / p.sum()
        cells = np.maximum(1, np.rint(self.p * (1 << 22)).astype(np.int64))
        self.table = np.repeat(np.arange(words, dtype=np.int32), cells)

    def draw(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Words i32[n, nonzero], ascending in a row, and values f32[n, nonzero]."""
        words = self.table[self.rng.integers(0, len(self.table), (n, self.nonzero))]
        rows = np.arange(n)
        while len(rows):
            part = np.sort(words[rows], axis=1)
            again = np.zeros(part.shape, bool)
            again[:, 1:] = part[:, 1:] == part[:, :-1]
            part[again] = self.table[self.rng.integers(0, len(self.table), np.count_nonzero(again))]
            words[rows] = part
            rows = rows[again.any(axis=1)]
        values = self.rng.exponential(size=words.shape).astype(np.float32) + np.float32(0.05)
        return words, values / np.linalg.norm(values, axis=1, keepdims=True)

    def query(self) -> Query:
        words, values = self.draw(1)
        indptr = torch.tensor([0, self.nonzero])
        codes = SparseVectors(
            torch.from_numpy(words[0].astype(np.int64)),
            torch.from_numpy(values[0]),
            indptr,
            self.words,
            torch.zeros(1, 4),
        )
        return Query("", NOTHING, None, NOTHING, NOTHING, codes)


class Collection:
    """Codes in files, as components see them."""

    encoder: Any = None

    def __init__(self, folder: Path, n: int, **fields: Any) -> None:
        self.folder, self.span, self.images, self.fields = folder, range(n), np.arange(n), fields

    def scratch(self) -> Path:
        return self.folder

    def blocks(self, kind: str):
        for start in range(0, len(self.span), PART):
            stop = min(start + PART, len(self.span))
            n = stop - start
            common = {"start": start, "stop": stop, "boxes": np.zeros((n, 4), np.float32)}
            if "vectors" in self.fields:
                yield common | {"indptr": np.arange(n + 1), "vectors": self.fields["vectors"][start:stop]}
                continue
            words, values = self.fields["words"][start:stop], self.fields["values"][start:stop]
            yield common | {
                "rows": np.arange(n + 1),
                "indptr": np.arange(n + 1) * words.shape[1],
                "indices": words.ravel(),
                "data": values.ravel(),
                "dim": self.fields["dim"],
            }


class Silent:
    def start(self, label: str, total: int | None = None, unit: str = "images") -> None: ...
    def advance(self, n: int = 1) -> None: ...


class Clock:
    """Wall and processor milliseconds of what runs between two looks."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def __enter__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.thread_time()

    def __exit__(self, *_: object) -> None:
        self.wall.append(1e3 * (time.perf_counter() - self._wall))
        self.cpu.append(1e3 * (time.thread_time() - self._cpu))

    def __str__(self) -> str:
        return f"{np.median(self.wall):.2f} / {np.median(self.cpu):.2f}"


def resident() -> dict[str, int]:
    """MB of this process: all that is resident, and what of it is no file's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {k: int(fields[k].split()[0]) // 1024 for k in ("VmRSS", "RssAnon", "VmHWM") if k in fields}


def stored(folder: Path, n: int) -> dict[str, np.ndarray]:
    return Index.open(folder).layer("search", "bench", "arrays", {}).arrays(range(n))


def opening(folder: Path, n: int) -> None:
    """Open an index in a process of its own, and say what it costs."""
    before = resident()
    began = time.perf_counter()
    searcher = Inverted(Inverted.Config(), torch.device("cpu"))
    searcher.load(stored(folder, n))
    took, after = time.perf_counter() - began, resident()
    print(
        f"opening {n:,} codes: {took:.3f} s; resident memory {before['VmRSS']} MB with the imports, "
        f"{after['VmRSS']} MB after opening (+{after['VmRSS'] - before['VmRSS']} MB)"
    )


def sparse_of(query: Query) -> tuple[np.ndarray, np.ndarray]:
    """The words of a query i64[m] and their values f32[m]."""
    assert isinstance(query.codes, SparseVectors)
    return query.codes.indices, query.codes.data


def exact(codes: sparse.csr_array, query: Query) -> np.ndarray:
    q = np.zeros(codes.shape[1], np.float32)
    words, values = sparse_of(query)
    q[words] = values
    return codes @ q


def plain(
    pointers: np.ndarray, rows: np.ndarray, values: np.ndarray, query: Query, n: int, k: int
) -> np.ndarray:
    """An inverted file in a few lines of numpy."""
    scores = np.zeros(n, np.float32)
    for word, weight in zip(*(part.tolist() for part in sparse_of(query)), strict=True):
        at = slice(pointers[word], pointers[word + 1])
        scores[rows[at]] += weight * values[at]
    best = np.argpartition(-scores, k)[:k]
    return best[np.argsort(-scores[best])]


def compare(
    searcher: Inverted, collection: Collection, codes: sparse.csr_array, query: Query, k: int
) -> float:
    """The largest relative error of the k best scores; raises where the ranking is not the exact one."""
    words, values = sparse_of(query)
    q = np.zeros(codes.shape[1])
    q[words] = values
    scores = np.empty(codes.shape[0])
    for first in range(0, len(scores), 1 << 16):
        scores[first : first + (1 << 16)] = codes[first : first + (1 << 16)].astype(np.float64) @ q
    hits = searcher.search([query], collection, k)
    expected = np.sort(scores)[::-1][:k]
    error = np.abs(hits.scores[0] / expected - 1).max()
    misplaced = np.abs(scores[hits.images[0]] / expected - 1).max()
    if max(error, misplaced) > 1e-6:
        raise SystemExit(f"not exact: scores off by {error:.1e}, ranking by {misplaced:.1e}")
    return float(error)


def inverted(args: argparse.Namespace, distribution: str, folder: Path) -> dict[str, str]:
    draw = Words(distribution, args.words, args.nonzero, args.seed)
    n = args.codes
    words = np.lib.format.open_memmap(folder / "words.npy", "w+", np.int32, (n, args.nonzero))
    values = np.lib.format.open_memmap(folder / "values.npy", "w+", np.float32, (n, args.nonzero))
    for first in range(0, n, 1 << 14):
        part = draw.draw(min(1 << 14, n - first))
        words[first : first + (1 << 14)], values[first : first + (1 << 14)] = part
    collection = Collection(folder, n, words=words, values=values, dim=args.words)
    scratch = folder / "scratch"
    scratch.mkdir()
    collection.folder = scratch

    searcher = Inverted(Inverted.Config(), torch.device("cpu"))
    before, began = resident(), time.perf_counter()
    state = searcher.fit(collection, Silent())
    took = time.perf_counter() - began
    print(f"{distribution}: fitted in {took:.0f} s, {resident()['RssAnon'] - before['RssAnon']} MB left over")
    index = Index.create(folder / "index")
    index.layer("search", "bench", "arrays", {}).write_arrays(range(n), state)
    size = sum(np.asarray(array).nbytes for array in state.values())
    del state
    for path in scratch.iterdir():
        path.unlink()
    print(f"{distribution}: {size / n:.0f} bytes a code")
    subprocess.run([sys.executable, __file__, "--open", str(folder / "index"), "--codes", str(n)], check=True)

    searcher.load(stored(folder / "index", n))
    indptr = np.arange(0, n * args.nonzero + 1, args.nonzero)
    if indptr[-1] < 1 << 31:
        indptr = indptr.astype(np.int32)  # as scipy would have it: with i64 it takes a fifth longer
    codes = sparse.csr_array(
        (np.array(values).ravel(), np.array(words).ravel(), indptr), shape=(n, args.words)
    )
    errors = [compare(searcher, collection, codes, draw.query(), args.k) for _ in range(args.checked)]
    print(
        f"{distribution}: {args.checked} queries equal the exact ones; scores off by {max(errors):.1e} at most"
    )

    clocks = {name: Clock() for name in ("product", "sort", "product and sort", "first", "inverted", "numpy")}
    for _ in range(args.queries):
        query = draw.query()
        with clocks["first"]:
            searcher.search([query], collection, args.k)
    touched = []
    for i in range(args.queries):
        query = draw.query()
        chosen, _ = sparse_of(query)
        touched.append((searcher.pointers[:, chosen + 1] - searcher.pointers[:, chosen]).sum())
        if i % args.every == 0:
            with clocks["product and sort"]:
                with clocks["product"]:
                    scores = exact(codes, query)
                with clocks["sort"]:
                    np.argsort(-scores)
        with clocks["inverted"]:
            searcher.search([query], collection, args.k)
    del codes
    if not args.no_numpy:
        columns = sparse.csr_array((np.array(values).ravel(), np.array(words).ravel(), indptr)).tocsc()
        for _ in range(max(1, args.queries // args.every)):
            query = draw.query()
            with clocks["numpy"]:
                plain(columns.indptr, columns.indices, columns.data, query, n, args.k)
    wall, cpu = (
        np.median(getattr(clocks["product and sort"], kind)) / np.median(getattr(clocks["inverted"], kind))
        for kind in ("wall", "cpu")
    )
    return {
        "K sum p^2": f"{args.words * float(np.square(draw.p).sum()):.2f}",
        "postings a query": f"{np.mean(touched) / 1e6:.1f} million",
        "scipy CSR product": str(clocks["product"]),
        "sort (numpy.argsort)": str(clocks["sort"]),
        "product and sort": str(clocks["product and sort"]),
        "inverted file in plain numpy": str(clocks["numpy"]) if clocks["numpy"].wall else "",
        "searcher inverted, first 20 queries": f"{np.median(clocks['first'].wall[:20]):.2f}",
        "searcher inverted": str(clocks["inverted"]),
        "product and sort / inverted": f"{wall:.1f} / {cpu:.1f}",
    }


def dense(args: argparse.Namespace, folder: Path) -> Table:
    """Flat over memory-mapped vectors, against faiss with all of them in memory."""
    import faiss

    rng, n = np.random.default_rng(args.seed), args.codes
    vectors = np.lib.format.open_memmap(folder / "vectors.npy", "w+", np.float32, (n, args.dims))
    for first in range(0, n, 1 << 14):
        part = rng.normal(size=(min(1 << 14, n - first), args.dims)).astype(np.float32)
        vectors[first : first + (1 << 14)] = part / np.linalg.norm(part, axis=1, keepdims=True)
    collection = Collection(folder, n, vectors=vectors)
    searcher = Faiss(Faiss.Config(), torch.device("cpu"))
    searcher.load(searcher.fit(collection, Silent()))
    flat = faiss.IndexFlatIP(args.dims)
    flat.add(np.array(vectors))
    table = Table(title=f"{n:,} vectors of {args.dims}, k = {args.k}; ms a query, wall / processor")
    for column in ("queries at once", "faiss IndexFlatIP in memory", "searcher faiss, Flat"):
        table.add_column(column, justify="right")
    for batch in (1, 32):
        clocks = Clock(), Clock()
        for _ in range(max(3, args.queries // batch)):
            q = rng.normal(size=(batch, args.dims)).astype(np.float32)
            q /= np.linalg.norm(q, axis=1, keepdims=True)
            queries = [
                Query(
                    "",
                    NOTHING,
                    None,
                    NOTHING,
                    NOTHING,
                    Vectors(torch.from_numpy(row[None]), torch.zeros(1, 4)),
                )
                for row in q
            ]
            with clocks[0]:
                _, rows = flat.search(q, args.k)
            with clocks[1]:
                hits = searcher.search(queries, collection, args.k)
            if not (hits.images == rows).mean() > 0.99:
                raise SystemExit("the two do not agree")
        each = [f"{np.median(c.wall) / batch:.1f} / {np.median(c.cpu) / batch:.1f}" for c in clocks]
        table.add_row(str(batch), *each)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--codes", type=int, default=1_000_000)
    parser.add_argument("--words", type=int, default=25_000)
    parser.add_argument("--nonzero", type=int, default=300)
    parser.add_argument(
        "--distribution", nargs="+", choices=["uniform", "k-means", "zipf"], default=["uniform"]
    )
    parser.add_argument("--dense", action="store_true")
    parser.add_argument("--dims", type=int, default=512)
    parser.add_argument(
        "--queries", type=int, default=200, help="how many are timed, after as many to warm up"
    )
    parser.add_argument(
        "--every", type=int, default=10, help="every so manieth query is also timed the slow way"
    )
    parser.add_argument("--checked", type=int, default=3, help="how many are compared with the exact answer")
    parser.add_argument("--no-numpy", action="store_true", help="leave out the inverted file in plain numpy")
    parser.add_argument("-k", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--core", type=int, help="which core to run on; default the last")
    parser.add_argument("--folder", type=Path, help="where the codes go; default the system's")
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in ONE_THREAD.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ONE_THREAD})
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0)) if args.core is None else args.core})
    if args.open:
        opening(args.open, args.codes)
        return
    console = Console()
    if args.dense:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            console.print(dense(args, Path(folder)))
        return
    results = {}
    for distribution in args.distribution:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            results[distribution] = inverted(args, distribution, Path(folder))
    table = Table(
        "",
        *results,
        title=f"{args.codes:,} codes, {args.words:,} words, {args.nonzero} non-zero, k = {args.k}; "
        "ms a query, wall / processor",
    )
    for name in next(iter(results.values())):
        table.add_row(name, *(result[name] for result in results.values()))
    console.print(table)


if __name__ == "__main__":
    main()
