"""Many patches in few bytes: IVF-PQ of faiss beside exact search, of the codes that an index has of its patches.

    python benchmarks/patches.py --data DIR --index INDEX [--dataset manifest-ext.json] [--pipeline patches]
        [--patches 1000000] [--factory OPQ28_252,IVF1024,PQ28 ...] [--nprobe 32] [--refine 0 2000]

The index's own images answer the queries of a dataset whose images are all in it; made ones, of patches that are drawn
from a normal distribution with the mean and the covariance of these, fill it up. Bytes are what is searched, of each
image, boxes and owners of patches among them, and what lies on disk beside it, where so many patches are scored again
(``--refine``). mAP is of the first thousand. One core, one thread; medians over the queries, of processor time.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import instsearch
from arguments import Parser
from instsearch_cli.engine.registry import load_registry
from instsearch_cli.images import Photograph
from instsearch_cli.measure.datasets import load_dataset
from instsearch_cli.measure.metrics import average_precision
from instsearch_cli.progress import Quiet
from instsearch_plugins.searchers.faiss_index import Faiss

if TYPE_CHECKING:
    from instsearch_cli.data import Query

K = 1000
PART = 256  # images in a block
FACTORIES = ("OPQ28_252,IVF1024,PQ28", "OPQ28_112,IVF1024,PQ28", "IVF1024,SQ8")


class Patches:
    """Codes of images that all have as many patches, as components see them."""

    encoder: Any = None

    def __init__(self, folder: Path, vectors: np.ndarray, boxes: np.ndarray) -> None:
        self.folder, self.vectors, self.boxes = folder, vectors, boxes
        self.span, self.images = range(len(vectors)), np.arange(len(vectors))

    def scratch(self) -> Path:
        return self.folder

    def blocks(self, kind: str):
        n, each, d = self.vectors.shape
        for start in range(0, n, PART):
            stop = min(start + PART, n)
            yield {
                "start": start,
                "stop": stop,
                "indptr": np.arange(stop - start + 1) * each,
                "boxes": self.boxes[start:stop].reshape(-1, 4),
                "vectors": self.vectors[start:stop].reshape(-1, d),
            }


def filled(folder: Path, own: np.ndarray, boxes: np.ndarray, patches: int) -> Patches:
    """The images' own codes f32[n, R, D], and made ones behind them."""
    n, each, d = own.shape
    total = max(n, -(-patches // each))
    vectors = np.lib.format.open_memmap(folder / "v.npy", "w+", np.float32, (total, each, d))
    vectors[:n] = own
    rng = np.random.default_rng(0)
    flat = own.reshape(-1, d)
    mean, root = flat.mean(0), np.linalg.cholesky(np.cov(flat.T) + 1e-9 * np.eye(d)).T.astype(np.float32)
    for start in range(n, total, PART):
        stop = min(start + PART, total)
        made = mean + rng.standard_normal((stop - start, each, d), np.float32) @ root
        vectors[start:stop] = made / np.linalg.norm(made, axis=2, keepdims=True)
    everywhere = np.resize(boxes, (total, *boxes.shape[1:]))
    return Patches(folder, vectors, everywhere)


def main() -> None:
    parser = Parser(__doc__)
    parser.add_data("manifest-ext.json")
    parser.add_argument("--index", type=Path, required=True, metavar="INDEX", help="where the patches are")
    parser.add_argument("--dataset", default="manifest-ext.json", help="a manifest in --data")
    parser.add_argument("--pipeline", default="patches", help="the index's pipeline of patches")
    parser.add_argument("--patches", type=int, default=1_000_000)
    parser.add_argument("--factory", nargs="+", default=FACTORIES, help="of faiss")
    parser.add_argument("--nprobe", type=int, default=32)
    parser.add_argument("--refine", type=int, nargs="+", default=(0, 2000), help="patches scored again")
    args = parser.parse_args()
    torch.set_num_threads(1)
    index = instsearch.open(args.index)
    engine = index.engine(args.pipeline)
    codes = index.codes(pipeline=args.pipeline)
    n = len(index)
    own = codes["vectors"].reshape(n, -1, codes["vectors"].shape[1])
    corners = codes["boxes"].astype(np.float32).reshape(n, -1, 4)
    corners[..., 2:] += corners[..., :2]
    dataset = load_dataset(load_registry(), str(args.data / args.dataset), None)
    places = {str(Path(index.path_of(name)).resolve()): i for i, name in enumerate(index.images)}
    rows = {ref.name: places[str(ref.path.resolve())] for ref in dataset.images()}
    asked = []
    for ref in dataset.queries():
        judged = dataset.relevance(ref)
        out = frozenset(rows[name] for name in judged.exclude | judged.junk if name in rows)
        query = engine.query(ref.id, Photograph(ref.image), ref.box, out)
        asked.append((query, {rows[name] for name in judged.good | judged.ok}))
    table = Table(title=f"{args.patches:,} patches, {len(asked)} queries, nprobe={args.nprobe}")
    for column in ("faiss", "scored again", "bytes an image", "on disk beside", "ms", "mAP"):
        table.add_column(column, justify="left" if column == "faiss" else "right")
    with tempfile.TemporaryDirectory() as folder:
        data = filled(Path(folder), own, corners, args.patches)
        for factory in ("Flat", *args.factory):
            for row in measured(data, factory, asked, args):
                table.add_row(factory, *row)
    Console(width=110).print(table)


def measured(data: Patches, factory: str, asked: list[tuple[Query, set[int]]], args: Any):
    """A row of the table for each number of patches that are scored again; exact search has one."""
    search, numbers = ("", [0]) if factory == "Flat" else (f"nprobe={args.nprobe}", args.refine)
    options = {"factory": factory, "search": search}
    made = Faiss(Faiss.Config(**options, refine=max(numbers)), torch.device("cpu"))
    state = made.fit(data, Quiet())
    beside = np.asarray(state["kept"]).nbytes if "kept" in state else 0
    nbytes = sum(np.asarray(array).nbytes for array in state.values()) - beside
    n = len(data.images)
    for number in numbers:
        searcher = Faiss(Faiss.Config(**options, refine=number), torch.device("cpu"))
        searcher.load(state)
        searcher.search([asked[0][0]], data, K)  # what it reads from disk once
        took, found = [], []
        for query, good in asked:
            began = time.process_time()
            hits = searcher.search([query], data, K)
            took.append(1e3 * (time.process_time() - began))
            images = hits.images[0, : hits.valid(0)]
            found.append(average_precision(np.isin(images, list(good)), len(good)))
        there = f"{beside / n:,.0f}" if number else ""
        yield f"{number:,}", f"{nbytes / n:,.0f}", there, f"{np.median(took):.1f}", f"{np.mean(found):.4f}"


if __name__ == "__main__":
    main()
