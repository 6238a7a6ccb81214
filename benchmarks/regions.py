"""Search over regions: bytes, time to build and time of a query, for an exact and a compressed factory.

    python benchmarks/regions.py [--regions 200000 1000000] [--goal 7000000] [--dims 512] [--per 7]
                                 [--factory Flat IVF4096,PQ64] [--search nprobe=16] [--queries 20]

Made regions: unit vectors in clusters, --per of them an image, handed to the searcher `faiss` as an index hands
codes to it, and searched from files that are mapped into memory, as a query does. Flat is exact. Each size is measured;
the row of --goal is worked out from the two largest: bytes by the line through them, which is exact, as each vector and
each image takes the same and the rest is the factory's whatever their number; seconds in proportion to the largest, as
an exact search takes, and a compressed one with as many lists. Training takes a sample of at most 2^18 vectors, or 39
for each centroid, and is counted in proportion too, so that the goal is built in less. Recall is the share of the exact
ten best images that the factory has among its ten.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from instsearch_cli.data import Query, Vectors
from instsearch_plugins.searchers.faiss_index import Faiss

PART = 1 << 14
NOTHING: Any = None
K = 10


class Made:
    """Unit vectors f16[n, D] around centres, in a file, ``per`` an image; what a searcher sees of a collection."""

    encoder: Any = None

    def __init__(self, folder: Path, n: int, dims: int, per: int, members: int, spread: float) -> None:
        self.folder, self.n, self.per = folder, n, per
        self.span = range(-(-n // per))
        self.images = np.arange(len(self.span))
        rng = np.random.default_rng(0)
        centres = rng.standard_normal((max(1, n // members), dims), np.float32)
        centres /= np.linalg.norm(centres, axis=1, keepdims=True)
        self.values = np.memmap(folder / "made", np.float16, "w+", shape=(n, dims))
        for first in range(0, n, PART):
            x = rng.standard_normal((min(PART, n - first), dims), np.float32) * np.float32(spread / dims**0.5)
            x += centres[rng.integers(0, len(centres), len(x))]
            self.values[first : first + PART] = x / np.linalg.norm(x, axis=1, keepdims=True)

    def scratch(self) -> Path:
        return self.folder

    def blocks(self, kind: str) -> Any:
        images = PART // self.per
        for start in range(0, len(self.span), images):
            stop = min(start + images, len(self.span))
            rows = slice(start * self.per, min(stop * self.per, self.n))
            n = rows.stop - rows.start
            pointers = np.minimum(np.arange(stop - start + 1) * self.per, n)
            boxes = np.zeros((n, 4), np.float32)
            yield {
                "start": start,
                "stop": stop,
                "indptr": pointers,
                "vectors": self.values[rows],
                "boxes": boxes,
            }

    def queries(self, count: int) -> list[Query]:
        rows = np.random.default_rng(1).integers(0, self.n, count)
        noise = np.random.default_rng(2).standard_normal((count, self.values.shape[1]), np.float32)
        x = self.values[rows].astype(np.float32) + 0.3 * noise / np.linalg.norm(noise, axis=1, keepdims=True)
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        codes = [Vectors(torch.from_numpy(v[None]), torch.zeros(1, 4)) for v in x]
        return [Query(str(i), NOTHING, None, NOTHING, NOTHING, c) for i, c in enumerate(codes)]


class Silent:
    def start(self, label: str, total: int | None = None, unit: str = "images") -> None: ...
    def advance(self, n: int = 1) -> None: ...


def stored(folder: Path, state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays as a search finds them: in files, mapped."""
    kept = {}
    for name, array in state.items():
        np.save(folder / f"{name}.npy", array)
        kept[name] = np.load(folder / f"{name}.npy", mmap_mode="r")
    return kept


def measured(
    made: Made, factory: str, search: str, queries: list[Query]
) -> tuple[int, float, float, np.ndarray]:
    """Bytes, seconds to build, median seconds of a query, and the images found i64[Q, K]."""
    with tempfile.TemporaryDirectory(dir=made.folder.parent) as folder:
        searcher = Faiss(Faiss.Config(factory, "" if factory == "Flat" else search), torch.device("cpu"))
        began = time.perf_counter()
        state = stored(Path(folder), searcher.fit(made, Silent()))
        build = time.perf_counter() - began
        if factory != "Flat" and "index" not in state:
            raise SystemExit(
                f"{factory} trains too many centroids for {made.n:,} vectors: give another or more"
            )
        searcher.load(state)
        seconds, images = [], []
        searcher.search(queries[:1], made, K)
        for query in queries:
            began = time.perf_counter()
            images.append(searcher.search([query], made, K).images[0])
            seconds.append(time.perf_counter() - began)
        return sum(a.nbytes for a in state.values()), build, float(np.median(seconds)), np.array(images)


def shared(exact: np.ndarray, found: np.ndarray) -> float:
    """The mean share of each row of i64[Q, K] that is in the other's."""
    return float(np.mean([len(set(a) & set(b)) / K for a, b in zip(exact, found, strict=True)]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--regions", type=int, nargs="+", default=[200_000, 1_000_000], help="two sizes or more"
    )
    parser.add_argument("--goal", type=int, default=7_000_000, help="what the last row is worked out for")
    parser.add_argument("--dims", type=int, default=512)
    parser.add_argument("--per", type=int, default=7, help="regions of an image")
    parser.add_argument("--factory", nargs="+", default=["Flat", "IVF4096,PQ64"])
    parser.add_argument("--search", default="nprobe=16", help="search parameters of what is not Flat")
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--members", type=int, default=50, help="vectors of a cluster")
    parser.add_argument("--spread", type=float, default=0.7, help="length of the noise around a unit centre")
    parser.add_argument("--threads", type=int, default=0, help="of faiss and torch; 0: as many as they like")
    parser.add_argument(
        "--folder", type=Path, help="where the made vectors go; a temporary folder by default"
    )
    given = parser.parse_args()
    if given.threads:
        faiss.omp_set_num_threads(given.threads)
        torch.set_num_threads(given.threads)
    table = Table("regions", "factory", "", "bytes", "bytes a region", "build, s", "query, ms", "recall@10")
    sizes: dict[str, list[tuple[int, int, float, float]]] = {factory: [] for factory in given.factory}
    for n in sorted(given.regions):
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            (Path(folder) / "made").mkdir()
            made = Made(Path(folder) / "made", n, given.dims, given.per, given.members, given.spread)
            queries = made.queries(given.queries)
            exact: np.ndarray | None = None
            for factory in given.factory:
                size, build, query, images = measured(made, factory, given.search, queries)
                exact = images if factory == "Flat" else exact
                recall = "" if exact is None else f"{shared(exact, images):.3f}"
                sizes[factory].append((n, size, build, query))
                took = f"{build:.1f}", f"{1e3 * query:.1f}"
                table.add_row(f"{n:,}", factory, "measured", f"{size:,}", f"{size / n:.1f}", *took, recall)
    for factory, done in sizes.items():
        if len(done) < 2:
            continue
        (n0, size0, _, _), (n, size, build, query) = done[-2:]
        total = round(size + (given.goal - n) * (size - size0) / (n - n0))
        times = given.goal / n
        bytes_, seconds = f"{total:,}", f"{times * build:.0f}"
        each, ms = f"{total / given.goal:.1f}", f"{times * 1e3 * query:.0f}"
        table.add_row(f"{given.goal:,}", factory, "worked out", bytes_, each, seconds, ms, "")
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
