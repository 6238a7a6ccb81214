"""What class activation maps cost: of each picture's classes when indexing, of the query's when searching.

python benchmarks/class_maps.py offline --data DIR --weights FILE [--network NAME] [--images N] [--size PIXELS]
                                        [--classes N...]
python benchmarks/class_maps.py online --index DIR [--classes N...] [--queries N]

offline: extraction with class maps, class vectors and their sum over the bare forward pass with logits. The variants
take turns on every picture, decoded beforehand, with PCA-whitening to as many dimensions; `over bare` is the median
over pictures of the ratio, with its quartiles.

online: searches of an index made with --weighting cam --encoder cam --searcher cam-online --keep-features, by its own
pictures. `first` has no class vectors, `second` is the same process asked again for the same classes, `new process`
has what the first left in files. Files go to a temporary folder of the index's disk; its cache is left alone. `grown`
is what these searches added to the process's peak of memory.
"""

from __future__ import annotations

import resource
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from arguments import Parser, photographs
from instsearch_cli.data import Inputs
from instsearch_cli.engine import records
from instsearch_cli.engine.assembly import Assembly, pick_device
from instsearch_cli.engine.query import Engine
from instsearch_cli.engine.registry import load_registry
from instsearch_cli.errors import InstsearchError
from instsearch_cli.images import Photograph, read_image
from instsearch_cli.options import make_config
from instsearch_formats import Index

if TYPE_CHECKING:
    import argparse

    from instsearch_cli.data import Query

MIB = 1 << 20


def component(kind: str, name: str, options: dict[str, Any], device: torch.device) -> Any:
    """A built-in component."""
    cls = load_registry().get(kind, name).load()
    return cls(make_config(cls, options, kind), device)


def seconds_of(device: torch.device, work: Any) -> float:
    """How long it takes, what it left to a GPU included."""
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def offline(given: argparse.Namespace, device: torch.device) -> None:
    """Print the cost of each number of class maps."""
    paths = photographs(given.data, given.images)
    network = component(
        "extractor",
        given.network,
        {"logits": True, "max_size": given.size, "weights": str(given.weights)},
        device,
    )
    images = [read_image(path, network.fit_size) for path in paths]
    K = network.extract(images[:1])[0].values.shape[0]
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((K, K)))[0].astype(np.float32)
    encoder = component("encoder", "cam", {}, device)
    encoder.load({"mean": np.zeros(K, np.float32), "projection": basis})
    weighters = {
        n: component(
            "weighting",
            "cam",
            {"network": given.network, "n_classes": n, "weights": str(given.weights)},
            device,
        )
        for n in given.classes
    }

    def described(image: Any, n: int) -> None:
        features = network.extract([image])[0]
        if n:
            inputs = Inputs(image.size, grid=features.grid, image=image, features=features)
            encoder.aggregate(features, weighters[n].weigh(inputs), None).vectors.cpu()

    variants = [0, *given.classes]
    taken: dict[int, list[float]] = {n: [] for n in variants}
    with torch.inference_mode():
        for n in variants:
            described(images[0], n)
        for i, image in enumerate(images):
            for n in variants[i % len(variants) :] + variants[: i % len(variants)]:
                taken[n].append(seconds_of(device, lambda image=image, n=n: described(image, n)))
    print(
        f"{given.network}, {len(images)} pictures, longer side at most {given.size}, {K} channels, {device}"
    )
    print(f"{'class maps':>10}{'ms':>9}{'over bare':>11}{'quartiles':>16}")
    for n in variants:
        ratios = [a / b for a, b in zip(taken[n], taken[0], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        ms = 1e3 * statistics.median(taken[n])
        print(f"{n or 'none':>10}{ms:>9.1f}{middle:>11.3f}{f'{low:.3f} - {high:.3f}':>16}")


def of_classes(query: Query, n: int) -> Query:
    """The query with the first n of its classes; its code stays, which makes no difference in time."""
    weights = query.weights
    assert weights is not None
    assert weights.classes is not None
    return replace(query, weights=replace(weights, values=weights.values[:n], classes=weights.classes[:n]))


def online(given: argparse.Namespace, device: torch.device) -> None:
    """Print the time of first and later searches, and the peak of memory."""
    index = Index.open(given.index)
    record = records.last(index, given.pipeline)
    if record is None:
        raise InstsearchError(f"{given.index} has no pipeline: run `instsearch index`")
    engine = Engine(index, Assembly(record.pipeline, load_registry(), device))
    data: Any = engine.data
    rows = data.images[:: max(1, len(data.images) // given.queries)][: given.queries]
    asked = [engine.query(str(row), Photograph(data.path(int(row))), None) for row in rows]
    print(f"{index.path}: {len(data.images):,} images, {len(asked)} queries one by one, {device}")
    print(
        f"{'classes':>8}{'first s':>10}{'second s':>10}{'times':>8}{'new process s':>15}{'files MiB':>11}",
        end="",
    )
    print(f"{'grown MiB':>11}{'peak MiB':>10}")
    for n in given.classes:
        taken: dict[str, list[float]] = {"first": [], "second": [], "new": []}
        written, before = 0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for query in asked:
            with tempfile.TemporaryDirectory(dir=given.index, prefix="scratch-") as folder:
                data.cache = lambda folder=folder: Path(folder)
                one = [of_classes(query, n)]
                for name in ("first", "second", "new"):
                    if name != "second":  # a searcher that has seen nothing
                        part = engine.assembly.part("search")
                        fresh = type(part.component)(part.config, device)
                        engine.segments = [(data, fresh)]
                    taken[name].append(seconds_of(device, lambda one=one: engine.search(one, 100)))
                written = max(written, sum(file.stat().st_size for file in Path(folder).iterdir()))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        first, second, new = (statistics.median(taken[name]) for name in ("first", "second", "new"))
        print(
            f"{n:>8}{first:>10.2f}{second:>10.3f}{first / second:>8.0f}{new:>15.3f}{written / MIB:>11.0f}",
            end="",
        )
        print(f"{(peak - before) / 1024:>11.0f}{peak / 1024:>10.0f}")


def main() -> None:
    """Measure what is asked for."""
    parser = Parser(__doc__)
    parser.add_argument("what", choices=["offline", "online"])
    parser.add_argument(
        "--classes", type=int, nargs="+", help="numbers of class maps; offline 8 32 64, online 8"
    )
    parser.add_argument("--network", default="squeezenet1_0")
    parser.add_weights("the network", required=False)
    parser.add_data(required=False)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--size", type=int, default=448, help="longer side of a picture")
    parser.add_argument("--index", type=Path)
    parser.add_argument("--pipeline", help="one of the index's; by default its last")
    parser.add_argument("--queries", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0: as many as it likes")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    given.classes = given.classes or ([8, 32, 64] if given.what == "offline" else [8])
    if given.what == "online" and given.index is None:
        parser.error("online needs --index")
    if given.what == "offline" and None in (given.data, given.weights):
        parser.error("offline needs --data and --weights")
    {"offline": offline, "online": online}[given.what](given, pick_device(given.device))


if __name__ == "__main__":
    main()
