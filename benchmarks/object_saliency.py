"""What the options of object saliency do to its precision (simeoni2018, 4.3), one at a time, and to the time it takes.

    python benchmarks/object_saliency.py --data DIR --weights FILE [--only OPTION] [--images N] [--index DIR]

Regions and their graph are those of the whole collection; N of its annotated images are weighed. A star marks the
default. Features are kept in --index.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from arguments import Parser
from instsearch_cli.engine.assembly import Assembly, pick_device
from instsearch_cli.engine.collection import Collection
from instsearch_cli.engine.making import writing
from instsearch_cli.engine.pipeline import Pipeline, Stage
from instsearch_cli.engine.registry import load_registry
from instsearch_cli.engine.runner import Runner
from instsearch_cli.measure.datasets import load_dataset, present, take_dataset
from instsearch_cli.measure.saliency_precision import coverage, precision
from instsearch_cli.progress import make_progress
from instsearch_cli.storage import to_state
from instsearch_plugins.weighters.object_saliency import ObjectSaliency

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from instsearch_cli.data import Box

SWEEPS: dict[str, tuple[Any, ...]] = {
    "a": (3, 5, 7, 9),  # cells of a patch
    "patch_k": (10, 50, 200),  # k of eq. 14
    "patch_power": (1.0, 2.0),  # Theta
    "region_power": (0.0, 3.0),  # theta
    "faint": (0.0, 0.2, 0.4),
    "exclude_self": (False, True),
    "k": (20, 50, 200),  # of the graph
    "alpha": (0.0, 0.9, 0.99),  # 0: all regions alike
    "dims": (0, 64, 128, 256),  # 0: 512 here
}


def main() -> None:
    """Print a table."""
    parser = Parser(__doc__)
    parser.add_argument("--only", action="append", choices=SWEEPS, help="this option; repeatable")
    parser.add_argument("--images", type=int, default=300, help="annotated images to weigh")
    parser.add_data("manifest.json")
    parser.add_argument("--manifest", default="manifest.json", help="of --data")
    parser.add_weights()
    parser.add_argument("--index", type=Path, default=Path("out/object-discovery"))
    args = parser.parse_args()
    known, progress = load_registry(), make_progress(True)
    dataset = load_dataset(known, str(args.data / args.manifest), None)
    pipeline = Pipeline(
        "object-saliency",
        Stage("squeezenet1_0", {"weights": str(args.weights.resolve())}),
        keep_features=True,
    )
    with writing(args.index, create=True) as index:
        assembly = Assembly(pipeline, known, pick_device("auto"))
        rows = take_dataset(index, dataset, present(dataset, False), False, progress)
        Runner(index, assembly, progress).extract()
        boxes = {rows[name]: list(found) for name, found in dataset.boxes().items() if name in rows and found}
        chosen = sorted(boxes)[:: max(1, len(boxes) // args.images)][: args.images]
        fitted: dict[Any, Mapping[str, np.ndarray]] = {}
        print(
            f"{'option':<14} {'value':>7} {'mean':>7} {'median':>7} {'images/s':>9}   {len(chosen):,} images"
        )
        for option in args.only or SWEEPS:
            for value in SWEEPS[option]:
                config = ObjectSaliency.Config(**{option: value})
                collection = Collection(index, assembly)
                found, rate = score(config, collection, {row: boxes[row] for row in chosen}, fitted)
                star = "*" if config == ObjectSaliency.Config() else " "
                print(
                    f"{option:<14} {value!s:>6}{star} {np.mean(found):>7.3f} {np.median(found):>7.3f} {rate:>9.1f}",
                    flush=True,
                )


def score(
    config: ObjectSaliency.Config,
    collection: Collection,
    boxes: Mapping[int, Sequence[Box]],
    fitted: dict[Any, Mapping[str, np.ndarray]],
) -> tuple[list[float], float]:
    """The precision of each image's map, and how many were weighed a second, images one by one."""
    made = (config.k, config.alpha, config.dims)
    if made not in fitted:
        with torch.inference_mode():
            fitted[made] = to_state(
                ObjectSaliency(config, torch.device("cpu")).fit(collection, make_progress(True))
            )
        collection.close()
    component = ObjectSaliency(config, torch.device("cpu"))
    component.load(fitted[made])
    found, seconds = [], 0.0
    with torch.inference_mode():
        for inputs in collection.inputs(("features",), boxes):
            began = time.perf_counter()
            weights = component.weigh(inputs)
            seconds += time.perf_counter() - began
            inside = coverage(weights.grid, inputs.size, boxes[inputs.row])
            found.append(precision(weights.values[0].numpy(), inside))
    return found, len(found) / seconds


if __name__ == "__main__":
    main()
