"""Formulas against their authors' own public code, run on the same random arrays.

python benchmarks/parity.py NAME --original PATH

PATH is a clone of the project that NAME is of: `python benchmarks/parity.py --help` lists them. Its code is run, so
look at it before; it may want packages of its own. Each row is one formula: the largest difference between its results
and ours, and the largest of the results themselves.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.machinery
import importlib.util
import io
import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from instsearch_plugins.encoders.gem import gem_pool
from instsearch_plugins.numeric.channels import channel_weights
from instsearch_plugins.numeric.graph import mutual_graph, normalised
from instsearch_plugins.numeric.netvlad import Vocabulary, netvlad
from instsearch_plugins.numeric.normalise import l2
from instsearch_plugins.numeric.pooling import max_pool, spatial_weights, sum_pool
from instsearch_plugins.numeric.reciprocal import distances
from instsearch_plugins.numeric.regions import rmac_grid
from instsearch_plugins.searchers.offline_diffusion import columns, nearest_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Pair = tuple[str, Any, Any]
MAPS = ((5, 8), (12, 9), (16, 16), (7, 23))


def pooling(theirs: Any) -> Iterator[Pair]:
    """MAC, SPoC, GeM and R-MAC of maps of several shapes."""
    for h, w in MAPS:
        X = torch.rand(32, h, w)
        one = torch.ones(1, h, w)
        yield f"mac, {h} x {w}", theirs.mac(X[None]).flatten(), max_pool(X, one > 0)[0]
        yield f"spoc, {h} x {w}", theirs.spoc(X[None]).flatten(), sum_pool(X, one)[0] / (h * w)
        yield f"gem, {h} x {w}", theirs.gem(X[None]).flatten(), gem_pool(X, one)[0]
        squares = rmac_grid(h, w, 3).tolist()
        inside = torch.zeros(1 + len(squares), h, w, dtype=torch.bool)
        inside[0] = True
        for mask, (x0, y0, x1, y1) in zip(inside[1:], squares, strict=True):
            mask[y0:y1, x0:x1] = True
        yield f"rmac, {h} x {w}", theirs.rmac(X[None]).flatten(), l2(max_pool(X, inside)).sum(0)


def crow(theirs: Any) -> Iterator[Pair]:
    """CroW's two weightings, and the sum of both."""
    for h, w in MAPS:
        X = (torch.rand(32, h, w) - 0.4).clamp(min=0)
        x, alpha = X.numpy(), spatial_weights(X)
        beta = channel_weights(X, torch.ones(1, h, w, dtype=torch.bool))[0]
        yield f"cells, {h} x {w}", theirs.compute_crow_spatial_weight(x), alpha
        yield f"channels, {h} x {w}", theirs.compute_crow_channel_weight(x), beta
        yield f"crow, {h} x {w}", theirs.apply_crow_aggregation(x), sum_pool(X, alpha[None])[0] * beta


def soft_residuals(theirs: Any) -> Iterator[Pair]:
    """A NetVLAD layer of random words."""
    for h, w in MAPS:
        X, layer = torch.randn(16, h, w), theirs.NetVLAD(num_clusters=8, dim=16, alpha=3.0)
        x = l2(X.flatten(1).T)
        words = Vocabulary(layer.centroids.data, layer.conv.weight.data.flatten(1), layer.conv.bias.data)
        with torch.inference_mode():
            yield f"netvlad, {h} x {w}", layer(X[None])[0], l2(netvlad(x, torch.ones(1, h * w), words))[0]


def reciprocal(theirs: Any) -> Iterator[Pair]:
    """Distances of one query to some others."""
    for n in (40, 200):
        X = l2(torch.randn(n, 8))
        d = torch.cdist(X, X, compute_mode="donot_use_mm_for_euclid_dist").numpy()
        found = theirs.re_ranking(d[:1, 1:], d[:1, :1], d[1:, 1:], 20, 6, 0.3)[0]
        yield f"k-reciprocal, {n} vectors", found, distances(X, 20, 6, 0.3, "code")


def offline(theirs: Any) -> Iterator[Pair]:
    """The columns of diffusion worked out beforehand."""
    solve = theirs.linalg.cg
    theirs.linalg = SimpleNamespace(cg=lambda A, b, tol, maxiter: solve(A, b, rtol=tol, maxiter=maxiter))
    for n, k, m in ((200, 10, 60), (300, 15, 300)):
        V = l2(torch.randn(n, 6) + 2 * torch.eye(6)[torch.arange(n) % 6]).numpy()
        with tempfile.TemporaryDirectory() as folder:
            found = theirs.Diffusion(V, folder).get_offline_results(m, k)
        S, own = normalised(mutual_graph(V, k, 3.0)), np.zeros((n, n), np.float32)
        for first, near in nearest_rows(V, m):
            rows = np.arange(first, first + len(near))
            own[rows[:, None], near] = columns(S, near, rows, 0.99, 20)[0]
        yield f"columns, {n} vectors, {k} neighbours, cut at {m}", found.toarray(), own


class Original(NamedTuple):
    """A project, the file of it that is run, and what is compared."""

    project: str
    file: str
    compare: Callable[[Any], Iterator[Pair]]


ORIGINALS = {
    "pooling": Original(
        "github.com/filipradenovic/cnnimageretrieval-pytorch", "cirtorch/layers/functional.py", pooling
    ),
    "crow": Original("github.com/yahoo/crow", "crow.py", crow),
    "netvlad": Original("github.com/lyakaap/NetVLAD-pytorch", "netvlad.py", soft_residuals),
    "k-reciprocal": Original(
        "github.com/zhunzhong07/person-re-ranking", "python-version/re_ranking_ranklist.py", reciprocal
    ),
    "offline-diffusion": Original("github.com/fyang93/diffusion", "diffusion.py", offline),
}


def loaded(path: Path) -> Any:
    """The module of a file, with its folder to import from."""
    loader = importlib.machinery.SourceFileLoader("original", os.fspath(path))
    spec = importlib.util.spec_from_loader("original", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, os.fspath(path.parent))
    loader.exec_module(module)
    return module


def difference(theirs: Any, own: Any) -> tuple[float, float]:
    """The largest difference of two arrays, and the largest value."""
    a, b = (np.asarray(v, np.float64) for v in (theirs, own))
    return float(np.abs(a - b).max()), float(np.abs(a).max())


def main() -> None:
    """Print a table."""
    listed = "\n".join(f"  {name:18} {its.project}" for name, its in ORIGINALS.items())
    parser = argparse.ArgumentParser(
        description=f"{__doc__}\n{listed}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=ORIGINALS, metavar="NAME", help=", ".join(ORIGINALS))
    parser.add_argument("--original", type=Path, required=True, metavar="PATH", help="a clone of the project")
    arguments = parser.parse_args()
    original = ORIGINALS[arguments.name]
    path = arguments.original / original.file
    if not path.is_file():
        parser.error(f"there is no {path}: --original is a clone of {original.project}")
    try:
        theirs = loaded(path)
    except ImportError as error:
        parser.error(f"{path} wants the package {error.name}: pip install it")
    torch.manual_seed(0)
    print(f"{'':46}{'largest difference':>20}{'largest value':>16}")
    rows = original.compare(theirs)
    while True:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            row = next(rows, None)
        if row is None:
            return
        apart, largest = difference(*row[1:])
        print(f"{row[0]:46}{apart:20.2g}{largest:16.3g}")


if __name__ == "__main__":
    main()
