"""Harm what is read and what writes, and see what becomes of it: a table of trials, and the first that did not survive.

python benchmarks/fuzz.py KIND COUNT [SEED] [--keep DIR] [--json]

KIND is kills, disks (commands that are killed, or whose disk fails, then run again), raw, sealed (files of an index,
harmed with their seals or without), crowd, mapped (questions while others write or cut files), pictures, inputs
(everything else that is read), or all, with COUNT of each. A trial is decided by its seed; --keep DIR keeps what the
failed ones were made of. The exit status is 1 if one failed.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import resource
import shutil
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arguments import Parser

if TYPE_CHECKING:
    from collections.abc import Callable

KINDS = ("kills", "disks", "raw", "sealed", "crowd", "mapped")
WORKERS = 2
SHOWN = 10  # failures that are listed of each kind


@cache
def grounds(work: str) -> tuple[Any, Any]:
    """What a worker makes its trials with; everything is imported once, here."""
    import instsearch
    import instsearch_cli
    import instsearch_plugins

    for package in (instsearch_cli, instsearch_plugins):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    import faiss
    import torch

    from fuzzing.scenes import Scenes
    from fuzzing.shelf import Shelf

    assert instsearch.__version__
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    shelf = Shelf(Path(work))
    return shelf, Scenes(shelf)


def trial_of(kind: str, shelf: Any, scenes: Any) -> Callable[[int, Path], tuple[str, str]]:
    """The function that makes a trial of a kind from a seed in a folder."""
    from fuzzing import crowd, disks, kills, raw, sealed

    if kind in ("kills", "disks"):
        module = kills if kind == "kills" else disks
        return lambda seed, work: module.trial(scenes, seed, work)
    call = {"raw": raw.trial, "sealed": sealed.trial, "crowd": crowd.crowd, "mapped": crowd.mapped}[kind]
    return lambda seed, work: call(shelf, seed, work)


def place(home: str) -> None:
    """Where a worker puts what it makes; it is removed with all in it at the end."""
    tempfile.tempdir = home


def some(kind: str, seeds: list[int], keep: str | None) -> list[dict[str, Any]]:
    """Trials of some seeds, in a folder of this process's own."""
    home = Path(tempfile.gettempdir(), str(os.getpid()))
    home.mkdir(exist_ok=True)
    shelf, scenes = grounds(str(home))
    make, found = trial_of(kind, shelf, scenes), []
    for seed in seeds:
        work = home / "trial"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        began = time.monotonic()
        try:
            what, fault = make(seed, work)
        except Exception as error:
            what, fault = f"{kind} {seed}", f"{type(error).__name__}: {error}"
        seconds = time.monotonic() - began
        if fault and keep:
            shutil.copytree(work, Path(keep) / f"{kind}-{seed}", dirs_exist_ok=True, symlinks=True)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        found.append({"seed": seed, "what": what, "fault": fault, "seconds": seconds, "megabytes": peak})
    return found


def run(pool: ProcessPoolExecutor, kind: str, count: int, first: int, keep: str | None) -> dict[str, Any]:
    """COUNT trials of a kind; returns its row of the table."""
    seeds = list(range(first, first + count))
    step = max(1, min(25, -(-count // WORKERS)))
    batches = [seeds[i : i + step] for i in range(0, count, step)]
    found: list[dict[str, Any]] = []
    for one in pool.map(some, [kind] * len(batches), batches, [keep] * len(batches)):
        found += one
        failed = [t for t in found if t["fault"]]
        print(f"{kind}: {len(found):,} of {count:,}, {len(failed)} failed", file=sys.stderr, flush=True)
    return {
        "kind": kind,
        "trials": len(found),
        "survived": len(found) - len(failed),
        "in range": sum("within its range" in t["what"] for t in found),
        "slowest": max(t["seconds"] for t in found),
        "megabytes": max(t["megabytes"] for t in found),
        "failed": failed,
    }


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("kind", help=f"{', '.join(KINDS)}, several of them with commas, or all")
    parser.add_argument("count", type=int)
    parser.add_argument("seed", type=int, nargs="?", default=0)
    parser.add_argument("--keep", metavar="DIR", help="keep what failed trials were made of in this folder")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    if arguments.count < 1:
        parser.error("count is at least 1")
    kinds = KINDS if arguments.kind == "all" else tuple(arguments.kind.split(","))
    if odd := [kind for kind in kinds if kind not in KINDS]:
        parser.error(f"there is no kind {odd[0]!r}; there is {', '.join(KINDS)} and all")
    with (
        tempfile.TemporaryDirectory(prefix="instsearch-fuzz-") as home,
        ProcessPoolExecutor(WORKERS, get_context("spawn"), place, (home,)) as pool,
    ):
        rows = [run(pool, kind, arguments.count, arguments.seed, arguments.keep) for kind in kinds]
    if arguments.json:
        print(json.dumps(rows))
    else:
        print(f"{'trial':10} {'count':>7} {'survived':>9} {'slowest s':>10} {'peak MB':>8}")
        for row in rows:
            print(
                f"{row['kind']:10} {row['trials']:>7,} {row['survived']:>9,} {row['slowest']:>10.1f} "
                f"{row['megabytes']:>8,.0f}"
                + (
                    f"   ({row['in range']:,} answers differ by a number within its range)"
                    if row["in range"]
                    else ""
                )
            )
        for row in rows:
            for one in row["failed"][:SHOWN]:
                print(f"\n{row['kind']}, seed {one['seed']}: {one['what']}\n  {one['fault']}")
    raise SystemExit(any(row["failed"] for row in rows))


if __name__ == "__main__":
    main()
