"""Diffusion: what making the graph and asking one query cost, and how far the quick ways agree with the whole.

    OMP_NUM_THREADS=1 python benchmarks/diffusion.py [--vectors 100000] [--dims 64] [--k 50] [--truncate 10000]
        [--offline 1000]

Made vectors: Gaussian clusters of --members unit vectors around centres of their own, as wide as --spread. The
graph takes time with the square of --vectors: half a minute for 100,000 on one core; columns of `offline-diffusion`
take a few times that (--offline without a number leaves them out). Times are medians over --queries queries, made
like the vectors; each is asked alone, and once all are asked together. Agreement is the share of the best --depth
images of diffusion among all that are among those of the other, the mean over the queries.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy import sparse

from instsearch_cli.data import Query, Vectors
from instsearch_plugins.searchers.diffusion import Diffusion
from instsearch_plugins.searchers.faiss_index import Faiss
from instsearch_plugins.searchers.offline_diffusion import OfflineDiffusion

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from instsearch_cli.data import Hits

CPU = torch.device("cpu")
NOTHING: Any = None


class Made:
    """Codes in memory, one vector an image."""

    def __init__(self, vectors: np.ndarray, folder: Path) -> None:
        self.vectors, self.folder, self.span = vectors, folder, range(len(vectors))
        self.images = np.arange(len(vectors))

    def scratch(self) -> Path:
        return self.folder

    def blocks(self, kind: str) -> Iterator[dict[str, Any]]:
        n = len(self.vectors)
        yield {
            "start": 0, "stop": n, "indptr": np.arange(n + 1), "vectors": self.vectors, "boxes": np.zeros((n, 4))
        }  # fmt: skip


class Silent:
    def start(self, label: str, total: int | None = None, unit: str = "images") -> None: ...
    def advance(self, n: int = 1) -> None: ...


def clusters(n: int, dims: int, members: int, spread: float, queries: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors f32[n, dims] and queries f32[queries, dims]; noise of length about ``spread`` on unit centres."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(max(1, n // members), dims)).astype(np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    noise = rng.normal(size=(n + queries, dims)).astype(np.float32) * np.float32(spread / dims**0.5)
    x = centres[rng.integers(0, len(centres), n + queries)] + noise
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x[:n], x[n:]


def asked(searcher: Any, data: Any, queries: list[Query], depth: int) -> tuple[float, float, Hits]:
    """Milliseconds for a query asked alone, and for one of all asked together; what was found."""

    def took(action: Callable[[], Any]) -> float:
        began = time.perf_counter()
        action()
        return 1000 * (time.perf_counter() - began)

    hits = searcher.search(queries, data, depth)
    alone = statistics.median(took(lambda q=q: searcher.search([q], data, depth)) for q in queries)
    return alone, took(lambda: searcher.search(queries, data, depth)) / len(queries), hits


def agreement(hits: Hits, whole: Hits) -> float:
    """The share of the images of ``whole`` that are among ``hits``, the mean over the queries."""
    pairs = zip(hits.images, whole.images, strict=True)
    return float(np.mean([np.isin(w[w >= 0], h).mean() for h, w in pairs]))


def offline(state: dict[str, Any], scratch: Path, config: OfflineDiffusion.Config) -> OfflineDiffusion:
    """`offline-diffusion` of a graph that `diffusion` has made."""
    R = len(state["vectors"])
    graph = sparse.csr_array((state["edges"], state["ends"], state["pointers"]), shape=(R, R))
    node = np.argsort(state["order"])
    W = graph[node][:, node]
    searcher = OfflineDiffusion(config, CPU)
    made = searcher.prepared(W, state["vectors"], np.ones(R, bool), scratch, Silent())
    searcher.load({**state, **made})
    return searcher


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--dims", type=int, default=64)
    parser.add_argument("--members", type=int, default=50)
    parser.add_argument("--spread", type=float, default=1.0)
    parser.add_argument("--k", type=int, default=50)
    parser.add_argument("--truncate", type=int, nargs="+", default=[10_000])
    parser.add_argument("--offline", type=int, nargs="*", default=[1000])
    parser.add_argument("--queries", type=int, default=16)
    parser.add_argument("--depth", type=int, default=100, help="images to return")
    args = parser.parse_args()
    vectors, asking = clusters(args.vectors, args.dims, args.members, args.spread, args.queries)
    queries = [
        Query("q", NOTHING, None, NOTHING, NOTHING, Vectors(torch.from_numpy(q[None]), torch.zeros(1, 4)))
        for q in asking
    ]
    table = Table("search", "ms/query alone", f"ms/query of {args.queries}", f"agreement, top {args.depth}")
    with tempfile.TemporaryDirectory() as folder:
        data = Made(vectors, Path(folder))
        began = time.perf_counter()
        state = Diffusion(Diffusion.Config(k=args.k), CPU).fit(data, Silent())
        making = time.perf_counter() - began
        searchers: dict[str, Any] = {}
        for truncate in (0, *args.truncate):
            name = f"diffusion among {truncate:,}" if truncate else "diffusion among all"
            searchers[name] = Diffusion(Diffusion.Config(k=args.k, truncate=truncate), CPU)
            searchers[name].load(state)
        for truncate in args.offline:
            began = time.perf_counter()
            apart = Path(folder) / str(truncate)
            apart.mkdir()
            found = offline(state, apart, OfflineDiffusion.Config(k=args.k, truncate=truncate))
            took = time.perf_counter() - began
            name = f"offline-diffusion among {truncate:,}: {took:.0f} s, {found.bounds[-1]:,} entries"
            searchers[name] = found
        searchers["faiss, Flat"] = Faiss(Faiss.Config(), CPU)
        searchers["faiss, Flat"].load(state)
        whole: Hits | None = None
        for name, searcher in searchers.items():
            alone, together, hits = asked(searcher, data, queries, args.depth)
            whole = whole or hits
            table.add_row(name, f"{alone:.1f}", f"{together:.1f}", f"{agreement(hits, whole):.3f}")
    largest = np.bincount(state["components"]).max()
    console = Console()
    console.print(
        f"{args.vectors:,} vectors of {args.dims}: graph of k = {args.k} made in {making:.1f} s, "
        f"{len(state['edges']):,} entries, {largest:,} vectors in its largest component"
    )
    console.print(table)


if __name__ == "__main__":
    main()
