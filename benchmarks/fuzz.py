"""Trials of the program under kills, full disks, damage, lies and crowds; prints how many it survived.

python benchmarks/fuzz.py KIND COUNT [SEED] [--keep DIR] [--work DIR] [--jobs N] [--json]

KIND is kills, disks, raw, sealed, pictures, inputs, crowd, mapped, several of them with commas, or all. The trials have
the seeds SEED to SEED + COUNT - 1, of each kind: one that failed is had again by its seed, with a count of 1 (but for
crowds, which are never the same twice). Small collections are drawn, and indexes of them made, once a run; each trial
works on a copy, in child processes with bounds of time and memory. Prints a table, and below it why trials failed;
--keep DIR keeps what they were about. Ends with 1 if any failed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import pkgutil
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"  # a child of a process with threads cannot start its own

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fuzzing.bench import Result

KINDS = {
    "kills": "fuzzing.kills",
    "disks": "fuzzing.disks",
    "raw": "fuzzing.raw",
    "sealed": "fuzzing.sealed",
    "pictures": "fuzzing.pictures",
    "inputs": "fuzzing.inputs",
    "crowd": "fuzzing.crowd",
    "mapped": "fuzzing.mapped",
}
"""Modules with ``trial(bench)``, which raises FaultError."""

PLUGINS = ("tiny", "school")  #: of the tests: small components, and a small training


def load() -> None:
    """Import all that a command may import, so that a forked child need not; no thread is started."""
    from fuzzing import FAKES

    sys.path[:0] = [str(FAKES / name) for name in PLUGINS]
    os.environ["INSTSEARCH_OFFLINE"] = "1"
    import cv2
    import torch

    for package in ("instsearch_formats", "instsearch_cli", "instsearch_plugins", "instsearch"):
        module = importlib.import_module(package)
        for found in pkgutil.walk_packages(module.__path__, f"{package}."):
            if not found.name.endswith("__main__"):
                importlib.import_module(found.name)
    for module_name in ("faiss", "h5py", "hdf5plugin", "tiny_plugin", "school_plugin", "scipy.sparse"):
        importlib.import_module(module_name)
    from instsearch_cli.engine import intake, registry

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    intake.RANGE = 4  # several parts of ten photographs
    registry.load_registry()


def trials(kind: str, seeds: range, shelf: Path, keep: Path | None, jobs: int) -> Iterator[Result]:
    """Do the trials of a kind, some at a time, as they end."""
    from fuzzing.bench import attempt
    from fuzzing.children import MEMORY, bound

    module = importlib.import_module(KINDS[kind])
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(jobs, context, bound, (2 * MEMORY,)) as pool:
        work = [pool.submit(attempt, kind, module.trial, shelf, seed, keep) for seed in seeds]
        for future in as_completed(work):
            yield future.result()


def table(results: dict[str, list[Result]]) -> list[dict[str, Any]]:
    """A row for each kind of trial: how many, how many survived, the dearest, and the first failing seeds."""
    rows = []
    for kind, found in results.items():
        for name in sorted({result.row for result in found}):
            some = [result for result in found if result.row == name]
            failed = sorted((r for r in some if r.fault), key=lambda r: r.seed)
            rows.append(
                {
                    "trial": f"{kind}: {name}",
                    "count": len(some),
                    "survived": len(some) - len(failed),
                    "slowest": round(max(r.seconds for r in some), 1),
                    "peak": max(r.peak for r in some) >> 20,
                    "failed": [r.seed for r in failed[:5]],
                    "why": [r.fault for r in failed[:5]],
                }
            )
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    width = max([len(row["trial"]) for row in rows] + [5])
    print(f"{'trial':<{width}}  count  survived  slowest s  peak MB  first failing seeds")
    for row in rows:
        seeds = " ".join(map(str, row["failed"]))
        numbers = f"{row['count']:>5}  {row['survived']:>8}  {row['slowest']:>9.1f}  {row['peak']:>7}"
        print(f"{row['trial']:<{width}}  {numbers}  {seeds}".rstrip())
    count, survived = (sum(row[key] for row in rows) for key in ("count", "survived"))
    print(f"{survived:,} of {count:,} survived")
    for row in rows:
        for seed, why in zip(row["failed"], row["why"], strict=True):
            print(f"\n{row['trial']}, seed {seed}: {why}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", help=f"{', '.join(KINDS)}, several of them with commas, or all")
    parser.add_argument("count", type=int)
    parser.add_argument("seed", type=int, nargs="?", default=0)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep what failed trials were about")
    parser.add_argument("--work", type=Path, metavar="DIR", help="where to work (default: the system's)")
    parser.add_argument("--jobs", type=int, default=2, choices=(1, 2), help="trials at a time")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    kinds = list(KINDS) if options.kind == "all" else options.kind.split(",")
    if options.count < 1 or (odd := [kind for kind in kinds if kind not in KINDS]):
        parser.error("count is at least 1" if options.count < 1 else f"there is no kind {odd[0]!r}")
    load()
    results: dict[str, list[Result]] = {}
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=options.work) as work:
        os.environ["XDG_CACHE_HOME"] = f"{work}/cache"
        seeds = range(options.seed, options.seed + options.count)
        for kind in kinds:
            results[kind] = []
            for result in trials(kind, seeds, Path(work), options.keep, options.jobs):
                results[kind].append(result)
                if result.fault:
                    print(f"{kind} {result.seed}, {result.row}: {result.fault}", file=sys.stderr, flush=True)
    rows = table(results)
    if options.json:
        print(json.dumps({"seconds": round(time.monotonic() - began, 1), "trials": rows}))
    else:
        show(rows)
    sys.exit(any(row["failed"] for row in rows))


if __name__ == "__main__":
    main()
