"""Searching in Milvus against searching in the index: made codes of each kind, on a server or in Milvus Lite.

    python benchmarks/milvus.py [--codes 100000] [--queries 30] [--kinds sparse dense regions] [--uri URI]

sparse    300 of 25,000 words each, as frequent as those of a vocabulary by k-means
dense     unit vectors of 512 values
regions   unit vectors of 256 values, 20 to an image

Queries are codes of the collection with noise. Times are wall times, medians over the queries: one by one, then all of
them at once; the first query opens what is searched. "same" is the share of the first 100 images that are those of the
local exact searcher. Without --uri it is Milvus Lite in a temporary folder of --folder; with it collections of the
server, which are dropped again.
"""

from __future__ import annotations

import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from arguments import Parser
from instsearch_cli.data import Query, SparseVectors, Vectors
from instsearch_cli.options import make_config
from instsearch_cli.progress import make_progress
from instsearch_cli.storage import Origin
from instsearch_plugins.searchers.faiss_index import Faiss
from instsearch_plugins.searchers.inverted import Inverted
from instsearch_plugins.searchers.milvus import Milvus
from search import Collection, Words

K = 100
WORDS, NONZERO = 25_000, 300
REGIONS = 20
NOTHING: Any = None
APPROXIMATE = {"factory": "HNSW16", "search": "efSearch=128"}
ON_SERVER = {"index": "HNSW", "build": "M=16,efConstruction=40", "search": "ef=128"}


class Regional(Collection):
    """Images with as many regions each, whose vectors lie one after the other."""

    def __init__(self, folder: Path, vectors: np.ndarray, each: int) -> None:
        super().__init__(folder, len(vectors) // each, vectors=vectors)
        self.each = each

    def blocks(self, kind: str):
        for block in super().blocks(kind):
            rows = slice(block["start"] * self.each, block["stop"] * self.each)
            n = block["stop"] - block["start"]
            boxes = np.tile(np.arange(self.each, dtype=np.float32)[:, None], (n, 4))
            yield block | {
                "indptr": np.arange(n + 1) * self.each,
                "vectors": self.fields["vectors"][rows],
                "boxes": boxes,
            }


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def made(kind: str, n: int, queries: int, folder: Path) -> tuple[Collection, list[Query]]:
    """A collection of n codes, and queries to it."""
    rng = np.random.default_rng(0)
    chosen = rng.integers(0, n, queries)
    if kind == "sparse":
        words, values = Words("k-means", WORDS, NONZERO, 0).draw(n)
        data = Collection(folder, n, words=words, values=values, dim=WORDS)
        noisy = unit(values[chosen] * rng.uniform(0.5, 1.5, (queries, NONZERO)))
        ends = np.array([0, NONZERO])
        codes: list[Any] = [
            SparseVectors(words[i].astype(np.int64), noise, ends, WORDS, np.zeros((1, 4)))
            for i, noise in zip(chosen, noisy, strict=True)
        ]
    else:
        x = unit(rng.standard_normal((n, 512 if kind == "dense" else 256), dtype=np.float32))
        data = Regional(folder, x, REGIONS if kind == "regions" else 1)
        noisy = unit(x[chosen] + 0.5 * unit(rng.standard_normal((queries, x.shape[1]))))
        codes = [Vectors(torch.from_numpy(row[None]), torch.zeros(1, 4)) for row in noisy]
    return data, [Query("", NOTHING, None, NOTHING, NOTHING, code) for code in codes]


def nbytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measured(searcher: Any, data: Any, queries: list[Query]) -> tuple[list[str], np.ndarray]:
    """First query in seconds, ms a query, queries a second at once; the images found."""
    began = time.perf_counter()
    searcher.search(queries[:1], data, K)
    first, times = time.perf_counter() - began, []
    for query in queries:
        began = time.perf_counter()
        searcher.search([query], data, K)
        times.append(time.perf_counter() - began)
    began = time.perf_counter()
    hits = searcher.search(queries, data, K)
    rate = len(queries) / (time.perf_counter() - began)
    return [f"{first:.2f}", f"{1e3 * float(np.median(times)):.1f}", f"{rate:,.0f}"], hits.images


def local(cls: Any, data: Any, options: dict[str, str]) -> tuple[Any, str, str]:
    """A filled local searcher, the seconds that took, and the MB that it keeps."""
    searcher = cls(make_config(cls, options, "searcher"), torch.device("cpu"))
    began = time.perf_counter()
    state = searcher.fit(data, make_progress(True))
    seconds = time.perf_counter() - began
    searcher.load({name: np.asanyarray(array) for name, array in state.items()})
    return searcher, f"{seconds:.1f}", f"{sum(np.asanyarray(a).nbytes for a in state.values()) / 1e6:.0f}"


def mirrored(data: Any, options: dict[str, str]) -> tuple[Any, str, str]:
    """A mirror that was filled, likewise."""
    searcher = Milvus(make_config(Milvus, options, "searcher"))
    origin = Origin(
        data.folder,
        f"benchmark_{uuid.uuid4().hex[:12]}",
        lambda stop: str(stop),
        lambda span: [f"{row}.jpg" for row in span],
    )
    began = time.perf_counter()
    filled = searcher.fill(data, origin, make_progress(True))
    seconds = time.perf_counter() - began
    searcher.load(filled.state)
    uri = options["uri"]
    size = "" if "://" in uri else f"{nbytes(Path(uri)) / 1e6:.0f}"
    return searcher, f"{seconds:.1f}", size


def dropped(searcher: Any) -> None:
    """Remove the collection of a mirror."""
    copy, _ = searcher._copy(searcher._collection)
    copy.server.client.drop_collection(copy.name)


def rows_of(kind: str, n: int, queries: int, uri: str, folder: Path) -> list[list[str]]:
    data, asked = made(kind, n, queries, folder)
    plain = Inverted if kind == "sparse" else Faiss
    pairs: list[tuple[dict[str, str], dict[str, str]]] = [({}, {})]
    if kind == "dense":
        pairs.append((APPROXIMATE, ON_SERVER))
    rows, exact = [], NOTHING
    for mine, theirs in pairs:
        for name, make in (
            (plain.__name__.lower(), lambda mine=mine: local(plain, data, mine)),
            ("milvus", lambda theirs=theirs: mirrored(data, {"uri": uri, **theirs})),
        ):
            searcher, seconds, size = make()
            times, images = measured(searcher, data, asked)
            exact = images if exact is NOTHING else exact
            same = np.mean([len(np.intersect1d(a, b)) / K for a, b in zip(images, exact, strict=True)])
            more = (mine if name != "milvus" else theirs).values()
            rows.append([kind, " ".join([name, *more]), seconds, *times, size, f"{same:.4f}"])
            if name == "milvus" and "://" in uri:
                dropped(searcher)
    return rows


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--codes", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=30)
    parser.add_argument("--kinds", nargs="+", default=["sparse", "dense", "regions"])
    parser.add_argument("--uri", default="", help="a Milvus server; default: Milvus Lite")
    parser.add_argument("--folder", type=Path, help="for temporary files")
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(title=f"{options.codes:,} codes, first {K} images")
    for column in ("codes", "searcher", "made in s", "first s", "ms a query", "a second", "MB", "same"):
        table.add_column(column, justify="left" if column in ("codes", "searcher") else "right")
    for kind in options.kinds:
        with tempfile.TemporaryDirectory(dir=options.folder, ignore_cleanup_errors=True) as folder:
            uri = options.uri or str(Path(folder) / "benchmark.db")
            for row in rows_of(kind, options.codes, options.queries, uri, Path(folder)):
                table.add_row(*row)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
