"""Object discovery's graph: time and memory of neighbours and centrality, as the regions grow.

    python benchmarks/graph.py [--regions 25000 50000] [--dims 128 512] [--factory "" IVF1024,Flat]

Made regions: unit vectors in Gaussian clusters of about --members around centres of their own, as wide as --spread.
Each line is a process of its own; memory is its peak above what it had with the vectors made, so that it should grow
with the regions, not with their square. Neighbours are sought exactly (factory "") or by a faiss index, searched with
--search; "same" is the share of the exact graph's entries that the index finds too. Exact search takes time with the
square of the regions: at 50,000 of 512 dimensions a minute or two on two cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from instsearch_plugins.numeric import approximate
from instsearch_plugins.numeric.graph import centrality, mutual_graph

ROWS = 8192


def regions(n: int, dims: int, members: int, spread: float) -> np.ndarray:
    """Unit vectors f32[n, dims]; noise of length about ``spread`` on unit centres."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(max(1, n // members), dims)).astype(np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    V = np.empty((n, dims), np.float32)
    for first in range(0, n, ROWS):
        part = V[first : first + ROWS]
        part[:] = rng.standard_normal(part.shape, np.float32) * np.float32(spread / dims**0.5)
        part += centres[rng.integers(0, len(centres), len(part))]
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return V


def resident() -> int:
    """Resident bytes now; the peak is counted from here."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak() -> int:
    """The most resident bytes since :func:`resident`."""
    return _status("VmHWM")


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def measure(args: argparse.Namespace) -> dict[str, float]:
    """One graph, in this process."""
    V = regions(args.regions[0], args.dims[0], args.members, args.spread)
    small = V[:ROWS]
    approximate.built(small, "Flat")
    mutual_graph(small[:64], args.k, args.beta)  # libraries loaded, threads started
    factory = args.factory[0]
    before, began = resident(), time.perf_counter()
    index = approximate.built(V, factory) if factory else None
    if index is not None:
        approximate.tuned(index, args.search)
    filled = time.perf_counter()
    W = mutual_graph(V, args.k, args.beta, index=index)
    linked = time.perf_counter()
    g = centrality(W, args.alpha)
    solved = time.perf_counter()
    above = peak() - before
    same = 1.0
    if index is not None:
        exact = mutual_graph(V, args.k, args.beta)
        same = W.multiply(exact > 0).count_nonzero() / max(exact.nnz, 1)
    return {
        "index": filled - began,
        "graph": linked - filled,
        "centrality": solved - linked,
        "memory": above,
        "entries": W.nnz,
        "isolated": int(np.count_nonzero(np.diff(W.indptr) == 0)),
        "same": same,
        "mean": float(g.mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--regions", type=int, nargs="+", default=[25_000, 50_000])
    parser.add_argument("--dims", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--factory", nargs="+", default=["", "IVF256,Flat"])
    parser.add_argument("--search", default="nprobe=16")
    parser.add_argument("--members", type=int, default=50)
    parser.add_argument("--spread", type=float, default=1.0)
    parser.add_argument("--k", type=int, default=50)
    parser.add_argument("--beta", type=float, default=3.0)
    parser.add_argument("--alpha", type=float, default=0.99)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args)))
        return
    table = Table(
        "dims", "index", "regions", "entries", "isolated", "fill s", "graph s", "centrality s",
        "MB above", "bytes a region", "same",
    )  # fmt: skip
    shared = [
        f"--{name}={getattr(args, name)}" for name in ("search", "members", "spread", "k", "beta", "alpha")
    ]
    for dims in args.dims:
        for factory in args.factory:
            for n in args.regions:
                chosen = [f"--regions={n}", f"--dims={dims}", f"--factory={factory}", "--one"]
                done = subprocess.run(
                    [sys.executable, __file__, *shared, *chosen],
                    stdout=subprocess.PIPE,
                    text=True,
                    check=True,
                )
                got = json.loads(done.stdout)
                table.add_row(
                    str(dims),
                    factory or "exact",
                    f"{n:,}",
                    f"{got['entries']:,.0f}",
                    f"{got['isolated']:,.0f}",
                    *(f"{got[name]:.1f}" for name in ("index", "graph", "centrality")),
                    f"{got['memory'] / 1e6:,.0f}",
                    f"{got['memory'] / n:,.0f}",
                    f"{got['same']:.1%}",
                )
    Console(width=max(120, Console().width)).print(table)


if __name__ == "__main__":
    main()
