"""Hamming embedding over SIFT: what each option is worth, how long a query takes, and what an image takes on disk.

    python benchmarks/hamming.py --data DIR
    python benchmarks/hamming.py --data DIR --manifest manifest-mini.json    # another list of its photographs
    python benchmarks/hamming.py --data DIR --set extractor.keypoints=800

It takes several minutes for 1,000 images on two cores. The index is made by `instsearch eval` and kept in --work.
Times are of the search alone, the query's words being ready: medians over the queries, each asked --repeat times and
its best time taken, verification included where there is any.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

import instsearch
from arguments import Parser
from evaluating import evaluate
from instsearch_cli.images import Photograph

if TYPE_CHECKING:
    import argparse

BARE = {"assign": 1, "wgc": False, "burstiness": "none", "verify": 0}
ROWS: dict[str, dict[str, Any]] = {
    "HE": BARE,
    "HE, burstiness intra": {**BARE, "burstiness": "intra"},
    "HE, burstiness both": {**BARE, "burstiness": "both"},
    "HE, weak geometric consistency": {**BARE, "wgc": True},
    "HE, 3 words a keypoint": {**BARE, "assign": 3},
    "all three, intra": {"verify": 0},
    "HE, verified": {**BARE, "verify": 200},
    "all three, verified": {},
    "all three, verified, 5 words": {"assign": 5},
    "all three, mirrored too": {"mirrored": True},
}
LAYERS = ("images", "local", "codes", "search")


def flags(searcher: str, options: dict[str, Any], settings: list[str]) -> list[str]:
    chosen = [f"searcher.{name.replace('_', '-')}={value}" for name, value in options.items()]
    signed = ["encoder.signatures=true"] if searcher == "hamming" else []
    sets = [part for setting in (*signed, *chosen, *settings) for part in ("--set", setting)]
    return ["--preset", "sift", "--searcher", searcher, "--rerank", "none", *sets]


def seconds(args: argparse.Namespace, path: Path) -> np.ndarray:
    """The best time of each of the manifest's queries, of the last pipeline of an index."""
    engine = instsearch.open(path, device="cpu").engine()
    asked = json.loads((args.data / args.manifest).read_text())["queries"][: args.queries]
    best = []
    for entry in asked:
        box = entry["box"] and (*entry["box"][:2], *np.add(entry["box"][:2], entry["box"][2:]).tolist())
        query = engine.query(entry["id"], Photograph(args.data / entry["image"]), box)
        taken = []
        for _ in range(args.repeat):
            began = time.perf_counter()
            engine.search([query], args.k)
            taken.append(time.perf_counter() - began)
        best.append(min(taken))
    return np.array(best)


def bytes_of(path: Path, kind: str) -> int:
    return sum(file.stat().st_size for file in (path / kind).rglob("*.h5"))


def main() -> None:
    parser = Parser(__doc__)
    parser.add_data("manifest.json")
    parser.add_argument("--manifest", default="manifest.json", help="of --data")
    parser.add_argument("--work", type=Path, default=Path("out/hamming"), help="where the indexes are kept")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="OPTION=VALUE")
    parser.add_argument("--only", help="rows with this in their name")
    parser.add_argument("--queries", type=int, default=50, help="how many of the queries are timed")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("-k", type=int, default=100)
    args = parser.parse_args()
    console, index = Console(), args.work / Path(args.manifest).stem
    table = Table(title=f"{args.manifest}, sift {' '.join(args.settings)}")
    for column in ("", "mAP", "median ms", "90 % ms"):
        table.add_column(column, justify="right" if column else "left")
    rows = [("BoVW", "inverted", {}), *((name, "hamming", options) for name, options in ROWS.items())]
    report: dict[str, Any] = {}
    for name, searcher, options in rows:
        if args.only and args.only not in name:
            continue
        where = index.with_name(f"{index.name}-{searcher}")
        data = ("--dataset", args.data / args.manifest, "--index", where)
        report = evaluate(*data, *flags(searcher, options, args.settings))
        ms = 1e3 * seconds(args, where)
        table.add_row(
            name, f"{report['metrics']['mAP']:.3f}", f"{np.median(ms):.1f}", f"{np.percentile(ms, 90):.1f}"
        )
    console.print(table)
    where = index.with_name(f"{index.name}-hamming")
    if where.exists():
        n = len(instsearch.open(where))
        each = {kind: bytes_of(where, kind) / n for kind in LAYERS}
        told = ", ".join(f"{kind} {size:,.0f}" for kind, size in each.items())
        console.print(
            f"bytes an image: {told}; together {sum(each.values()):,.0f}; what a query reads: search"
        )
        console.print(f"vocabulary: {bytes_of(where, 'models') / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
