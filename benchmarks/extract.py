"""Images per second of `extract`, files to index, against the bare network on tensors already in memory.

python benchmarks/extract.py [NETWORK...] --data DIR [--weights FILE] [--images N] [--rounds N]

Bare and full runs over the same pictures take turns in one process, so that what else the machine does
falls on both; the ratio is the median over the rounds. squeezenet1_0 has the weights of --weights,
other networks, timm:MODEL among them, random ones, which take as long. `cpu` is the processor time of the whole
process for one picture.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from itertools import count, groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from arguments import Parser, photographs
from instsearch_cli.engine.assembly import Assembly
from instsearch_cli.engine.intake import take_in
from instsearch_cli.engine.pipeline import Pipeline, Stage
from instsearch_cli.engine.registry import load_registry
from instsearch_cli.engine.runner import Runner
from instsearch_cli.images import Discovery, Found, read_image
from instsearch_cli.progress import Quiet
from instsearch_formats import Index
from instsearch_plugins.extractors.class_maps import network_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from instsearch_cli.data import Image
    from instsearch_plugins.extractors.networks import Network


def random_weights(name: str, folder: Path) -> Path:
    """He's random weights for the convolutions of a network, and nothing for its classifier; timm's own for its."""
    from torchvision.models import get_model

    if model := name.partition(":")[2]:
        path = folder / f"{model}.pth"
        torch.save(network_of(name).build().state_dict(), path)
        return path
    with torch.device("meta"):
        network = get_model(name, weights=None)
    state = {}
    for key, tensor in network.state_dict().items():
        if key.startswith(("classifier", "fc")):
            continue
        if tensor.ndim == 4:
            state[key] = torch.randn(tensor.shape) * (2 / tensor[0].numel()) ** 0.5
        else:  # batch norms pass everything on, biases are 0
            state[key] = torch.ones(tensor.shape) * float(key.endswith(("weight", "var")))
    torch.save(state, folder / f"{name}.pth")
    return folder / f"{name}.pth"


def batches(images: list[Image], n: int) -> Iterator[list[Image]]:
    """Runs of at most n pictures of equal shape."""
    for _, group in groupby(sorted(images, key=lambda i: i.pixels.shape), key=lambda i: i.pixels.shape):
        members = list(group)
        yield from (members[start : start + n] for start in range(0, len(members), n))


def timed(work: Iterable[object]) -> tuple[float, float]:
    """Wall and processor seconds of drawing an iterator empty."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in work:
        pass
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def measure(assembly: Assembly, paths: list[Path], rounds: int, folder: Path) -> dict[str, float]:
    """Bare and full, in turns. Full is what `instsearch extract` does: look, read, extract, write, seal, fsync."""
    extractor: Network = assembly.extractor.component
    images = [read_image(path, extractor.fit_size) for path in paths]
    ready = [
        extractor.prepare(
            torch.from_numpy(np.stack([image.pixels for image in batch]))
            .to(extractor.device)
            .permute(0, 3, 1, 2),
            extractor.dtype,
        )
        for batch in batches(images, extractor.batch)
    ]
    found = [Found(path.parent, path.name.encode(), path) for path in paths]
    number = count()

    def bare() -> Iterator[object]:
        with torch.inference_mode():
            yield from (extractor.forward(x) for x in ready)

    def full() -> Iterator[object]:
        index = Index.create(folder / f"index-{next(number)}")
        with index.lock():
            take_in(index, Discovery(found, []), Quiet())
            yield Runner(index, assembly, Quiet()).extract()

    reading = timed(read_image(path, extractor.fit_size) for path in paths)
    _ = timed(bare()), timed(full())
    rows = [(*timed(bare()), *timed(full())) for _ in range(rounds)]
    return {
        "bare /s": len(paths) / statistics.median(r[0] for r in rows),
        "full /s": len(paths) / statistics.median(r[2] for r in rows),
        "ratio": statistics.median(r[0] / r[2] for r in rows),
        "lowest": min(r[0] / r[2] for r in rows),
        "highest": max(r[0] / r[2] for r in rows),
        "read /s": len(paths) / reading[0],
        "cpu bare ms": statistics.median(r[1] for r in rows) / len(paths) * 1e3,
        "cpu full ms": statistics.median(r[3] for r in rows) / len(paths) * 1e3,
        "cpu read ms": reading[1] / len(paths) * 1e3,
    }


def main() -> None:
    """Print a table."""
    parser = Parser(__doc__)
    parser.add_argument("networks", nargs="*", default=["squeezenet1_0", "vgg16"], metavar="NETWORK")
    parser.add_data()
    parser.add_weights(required=False)
    parser.add_argument("--images", type=int, default=64, help="pictures in a round")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--max-size", type=int, default=448)
    parser.add_argument("--batch", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    paths = photographs(args.data, args.images)
    print(f"{len(paths)} pictures, {args.rounds} rounds, {torch.get_num_threads()} threads, {args.device}")
    with tempfile.TemporaryDirectory() as folder:
        for i, name in enumerate(args.networks):
            real = args.weights if name == "squeezenet1_0" else None
            file = real or random_weights(name, Path(folder))
            options = {"weights": str(file), "max_size": args.max_size, "batch": args.batch}
            extractor, _, model = name.partition(":")
            stage = Stage(extractor, options | ({"model": model} if model else {}))
            pipeline = Pipeline("extract", stage, keep_features=True)
            assembly = Assembly(pipeline, load_registry(), torch.device(args.device))
            row = measure(assembly, paths, args.rounds, Path(folder))
            if i == 0:
                print(" ".join(f"{column:>13}" for column in ("network", *row)))
            print(f"{name:>13} " + " ".join(f"{value:13.3g}" for value in row.values()), flush=True)


if __name__ == "__main__":
    main()
