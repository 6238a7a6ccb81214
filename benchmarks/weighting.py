"""Images per second of weightings that look at the picture, alone and side by side on all cores.

python benchmarks/weighting.py [NAME...] --data DIR [--images N] [--size PIXELS] [--rounds N]

Pictures are decoded beforehand. `bound` is the rate at which all cores would work if one core's rate were
kept: side by side over it is what threads cost.
"""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import cv2
import torch

from arguments import Parser, photographs
from instsearch_cli.data import Grid, Inputs
from instsearch_cli.engine.registry import load_registry
from instsearch_cli.images import read_image
from instsearch_cli.options import make_config

if TYPE_CHECKING:
    from collections.abc import Callable


def rate(work: Callable[[], object], n: int, rounds: int) -> float:
    """The median rate over some rounds."""
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return n / statistics.median(seconds)


def main() -> None:
    """Print a table."""
    parser = Parser(__doc__)
    parser.add_argument(
        "names", nargs="*", default=["itti-koch", "bms", "bms:variant=journal"], metavar="NAME"
    )
    parser.add_data()
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--size", type=int, default=340, help="longer side")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    paths = photographs(args.data, args.images)

    def fit(width: int, height: int) -> tuple[int, int]:
        r = min(1.0, args.size / max(width, height))
        return round(width * r), round(height * r)

    images = [read_image(path, fit) for path in paths]
    inputs = [Inputs(image.size, image=image, grid=Grid.over(15, 21, image.size)) for image in images]
    cores = torch.get_num_threads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    print(f"{len(images)} pictures, longer side at most {args.size}, {cores} cores")
    print(f"{'weighting':<24}{'one core /s':>12}{'side by side /s':>17}{'over bound':>12}")
    for name in args.names:
        name, _, option = name.partition(":")
        cls = load_registry().get("weighting", name).load()
        component = cls(
            make_config(cls, dict([option.split("=")] if option else []), "weighting"), torch.device("cpu")
        )
        alone = rate(lambda weigh=component.weigh: [weigh(i) for i in inputs], len(inputs), args.rounds)
        with ThreadPoolExecutor(cores, initializer=partial(torch.set_num_threads, 1)) as pool:
            together = rate(
                lambda weigh=component.weigh: list(pool.map(weigh, inputs)), len(inputs), args.rounds
            )
        print(
            f"{name + ' ' + option:<24}{alone:12.1f}{together:17.1f}{together / (alone * cores):12.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
