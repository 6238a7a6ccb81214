"""Verification of correspondences: milliseconds for a query's candidates, together and one by one.

    python benchmarks/verification.py [--candidates 50 200] [--correspondences 10 30 100] [--share 0.2]

Everything runs in one process on one core with one thread. A fifth of the candidates show the object: half of their
correspondences follow one similarity, with noise; all others are random. The times are medians; m is the number of
correspondences in all.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table

from instsearch_plugins.numeric.geometry import Agreement, places
from instsearch_plugins.numeric.hypotheses import Found, verified

if TYPE_CHECKING:
    from collections.abc import Callable

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
QUERY = 1500  # keypoints
AGREEMENT = Agreement(pixels=40.0)


def keypoints(rng: np.random.Generator, n: int) -> np.ndarray:
    """f32[n, 4] in a picture of 1,024 x 768."""
    columns = [rng.uniform(0, 1024, n), rng.uniform(0, 768, n), rng.uniform(2, 12, n), rng.uniform(0, 360, n)]
    return np.stack(columns, 1).astype(np.float32)


def made(candidates: int, correspondences: int, share: float, uneven: bool) -> tuple[np.ndarray, ...]:
    """p, q, image, query keypoint and weight; uneven: so many in the mean."""
    rng = np.random.default_rng(0)
    query = keypoints(rng, QUERY)
    counts = np.full(candidates, correspondences)
    if uneven:
        counts = np.maximum(1, rng.exponential(correspondences, candidates)).astype(int)
    image = np.repeat(np.arange(candidates), counts)
    number = rng.integers(0, QUERY, len(image))
    p, q = query[number], keypoints(rng, len(image))
    for i in np.flatnonzero(rng.random(candidates) < share):
        its = np.flatnonzero((image == i) & (rng.random(len(image)) < 0.5))
        s, phi = 2 ** rng.uniform(-1, 1), rng.uniform(0, 360)
        c, d = s * np.cos(np.radians(phi)), s * np.sin(np.radians(phi))
        q[its, :2] = p[its, :2] @ np.array([[c, d], [-d, c]]) + rng.uniform(0, 300, 2)
        q[its, :2] += rng.normal(scale=3, size=(len(its), 2))
        q[its, 2], q[its, 3] = p[its, 2] * s, (p[its, 3] + phi) % 360
    return p, q, image, number, rng.uniform(0.1, 1, len(image)).astype(np.float32)


def found(
    p: np.ndarray, q: np.ndarray, image: np.ndarray, number: np.ndarray, weight: np.ndarray, n: int
) -> Found:
    return verified(p, q, image, (number, places(q)), weight, n, AGREEMENT)


def milliseconds(work: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return 1e3 * float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--candidates", type=int, nargs="+", default=[50, 200])
    parser.add_argument("--correspondences", type=int, nargs="+", default=[10, 30, 100])
    parser.add_argument("--share", type=float, default=0.2, help="of the candidates that show the object")
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()
    if any(os.environ.get(name) != "1" for name in ONE_THREAD):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ONE_THREAD})

    table = Table("candidates", "each", "m", "together, ms", "one by one, ms", "same inliers")
    for candidates in args.candidates:
        for n, uneven in ((n, uneven) for n in args.correspondences for uneven in (False, True)):
            data = made(candidates, n, args.share, uneven)
            image = data[2]
            whole = partial(found, *data, candidates)
            together = milliseconds(whole, args.repeats)
            parts = [[v[image == i] for v in data] for i in range(candidates)]
            for part in parts:
                part[2] = np.zeros_like(part[2])
            inliers: list[int] = []

            def one_by_one(parts=parts, inliers=inliers) -> None:
                inliers[:] = [int(found(*part, 1).inliers[0]) for part in parts]  # pyright: ignore[reportCallIssue]

            apart = milliseconds(one_by_one, max(1, args.repeats // 10))
            same = np.mean(np.array(inliers) == whole().inliers)
            each = f"~{n}" if uneven else f"{n}"
            table.add_row(
                f"{candidates}", each, f"{len(image):,}", f"{together:.1f}", f"{apart:.0f}", f"{same:.1%}"
            )
    Console().print(table)


if __name__ == "__main__":
    main()
