"""Images per second from files to feature maps, against the bare network on tensors already in memory.

python benchmarks/extract.py [NETWORK...] [--data DIR] [--weights FILE] [--images N] [--rounds N] [--workers N]

Bare and full runs over the same pictures take turns in one process, so that what else the machine does
falls on both; the ratio is the median over the rounds. squeezenet1_0 has real weights, other networks
random ones, which take as long. `cpu` is the processor time of the whole process for one picture.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from instsearch_cli.images import BadImage, Reader, read_image
from instsearch_plugins.extractors import networks
from instsearch_plugins.extractors.networks import Network, normalise

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from instsearch_cli.data import Image

SHARED = Path(__file__).parents[1] / "../shared"
CLASSES = {
    cls.architecture: cls
    for cls in vars(networks).values()
    if isinstance(cls, type) and issubclass(cls, Network) and cls is not Network
}


def random_weights(name: str, folder: Path) -> Path:
    """He's random weights for the convolutions of a network, and nothing for its classifier."""
    from torchvision.models import get_model

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


def batches(images: Iterable[Image], n: int) -> Iterator[list[Image]]:
    """Runs of at most n pictures of equal shape, near each other, as the command makes them."""
    window: list[Image] = []
    for image in images:
        window.append(image)
        if len(window) == (4 * n if n > 1 else 1):
            yield from _of_equal_shape(window, n)
            window = []
    yield from _of_equal_shape(window, n)


def _of_equal_shape(window: list[Image], n: int) -> Iterator[list[Image]]:
    for _, group in groupby(sorted(window, key=lambda i: i.pixels.shape), key=lambda i: i.pixels.shape):
        members = list(group)
        for start in range(0, len(members), n):
            yield members[start : start + n]


def read(paths: list[Path], extractor: Network, workers: int) -> Iterator[Image]:
    """Decode ahead of the network, as the command does."""
    load = lambda path: read_image(path, extractor.fit_size)  # noqa: E731
    with Reader(paths, load, workers=workers, ahead=max(8 * extractor.batch, 8)) as reader:
        for _, image in reader:
            if not isinstance(image, BadImage):
                yield image


def timed(work: Iterable[object]) -> tuple[float, float]:
    """Wall and processor seconds of drawing an iterator empty."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in work:
        pass
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def measure(extractor: Network, paths: list[Path], rounds: int, workers: int) -> dict[str, float]:
    """Bare and full, in turns."""
    n = extractor.batch
    ready = [
        normalise(
            torch.from_numpy(np.stack([image.pixels for image in batch]))
            .to(extractor.device)
            .permute(0, 3, 1, 2),
            extractor.dtype,
        )
        for batch in batches(read(paths, extractor, workers), n)
    ]

    def bare() -> Iterator[object]:
        with torch.inference_mode():
            yield from (extractor.forward(x) for x in ready)

    def full() -> Iterator[object]:
        yield from (extractor.extract(batch) for batch in batches(read(paths, extractor, workers), n))

    alone = read(paths, extractor, workers)
    reading = timed(alone)
    timed(bare()), timed(full())
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="*", default=["squeezenet1_0", "vgg16"], metavar="NETWORK")
    parser.add_argument("--data", type=Path, default=SHARED / "data/instre5k/images")
    parser.add_argument("--weights", type=Path, default=SHARED / "weights/squeezenet1_0-deepcompression.pth")
    parser.add_argument("--images", type=int, default=20, help="pictures in a round")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--workers", type=int, default=2, help="threads that read")
    parser.add_argument("--max-size", type=int, default=448)
    parser.add_argument("--batch", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    every = sorted(args.data.rglob("*.jpg"))
    paths = every[:: max(1, len(every) // args.images)][: args.images]
    print(f"{len(paths)} pictures, {args.rounds} rounds, {torch.get_num_threads()} threads, {args.device}")
    with tempfile.TemporaryDirectory() as folder:
        for i, name in enumerate(args.networks):
            real = name == "squeezenet1_0" and args.weights.is_file()
            file = args.weights if real else random_weights(name, Path(folder))
            cls = CLASSES[name]
            config = cls.Config(weights=str(file), max_size=args.max_size, batch=args.batch)
            row = measure(cls(config, torch.device(args.device)), paths, args.rounds, args.workers)
            if i == 0:
                print(" ".join(f"{column:>13}" for column in ("network", *row)))
            print(f"{name:>13} " + " ".join(f"{value:13.3g}" for value in row.values()), flush=True)


if __name__ == "__main__":
    main()
