"""Diffusion: what making the graph and asking one query cost.

    OMP_NUM_THREADS=1 python benchmarks/diffusion.py [--vectors 100000] [--dims 64] [--k 50] [--truncate 10000]

Made vectors: Gaussian clusters of --members unit vectors around centres of their own, as wide as --spread. The
graph takes time with the square of --vectors: half a minute for 100,000 on one core. Times are medians over
--queries queries, made like the vectors; each is asked alone, and once all are asked together.
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

from instsearch_cli.data import Query, Vectors
from instsearch_plugins.searchers.diffusion import Diffusion
from instsearch_plugins.searchers.faiss_index import Faiss

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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


def asked(searcher: Any, data: Any, queries: list[Query], depth: int) -> tuple[float, float]:
    """Milliseconds for a query asked alone, and for one of all asked together."""

    def took(action: Callable[[], Any]) -> float:
        began = time.perf_counter()
        action()
        return 1000 * (time.perf_counter() - began)

    searcher.search(queries[:1], data, depth)
    alone = statistics.median(took(lambda q=q: searcher.search([q], data, depth)) for q in queries)
    return alone, took(lambda: searcher.search(queries, data, depth)) / len(queries)


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
    parser.add_argument("--queries", type=int, default=16)
    parser.add_argument("--depth", type=int, default=100, help="images to return")
    args = parser.parse_args()
    vectors, asking = clusters(args.vectors, args.dims, args.members, args.spread, args.queries)
    queries = [
        Query("q", NOTHING, None, NOTHING, NOTHING, Vectors(torch.from_numpy(q[None]), torch.zeros(1, 4)))
        for q in asking
    ]
    table = Table("search", "ms/query alone", f"ms/query of {args.queries}")
    with tempfile.TemporaryDirectory() as folder:
        data = Made(vectors, Path(folder))
        plain = Faiss(Faiss.Config(), CPU)
        plain.load(plain.fit(data, Silent()))
        table.add_row("faiss, Flat", *(f"{ms:.1f}" for ms in asked(plain, data, queries, args.depth)))
        began = time.perf_counter()
        state = Diffusion(Diffusion.Config(k=args.k), CPU).fit(data, Silent())
        making = time.perf_counter() - began
        for truncate in (0, *args.truncate):
            searcher = Diffusion(Diffusion.Config(k=args.k, truncate=truncate), CPU)
            searcher.load(state)
            name = f"diffusion among {truncate:,}" if truncate else "diffusion among all"
            table.add_row(name, *(f"{ms:.1f}" for ms in asked(searcher, data, queries, args.depth)))
    largest = np.bincount(state["components"]).max()
    console = Console()
    console.print(
        f"{args.vectors:,} vectors of {args.dims}: graph of k = {args.k} made in {making:.1f} s, "
        f"{len(state['edges']):,} entries, {largest:,} vectors in its largest component"
    )
    console.print(table)


if __name__ == "__main__":
    main()
