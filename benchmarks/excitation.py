"""All peaks of a picture through excitation backprop at once, against one full backward pass for each.

python benchmarks/excitation.py [NETWORK...] --data DIR [--weights FILE] [--size PIXELS] [--peaks N]
                                [--timed N] [--pictures N] [--threads N]

`one by one` records the picture anew for each peak and takes whole maps down to the picture, with activations
and normalisers of its own: some of the peaks are timed, the others taken to last as long. `whole maps` shares
these among all peaks, which go down together; `windows` (what is used) also keeps to what each peak sees. `to N`
stops where cells are N pixels apart. Peaks are 3 x 3 maxima of the mean activation, the strongest first. Times
are milliseconds for one picture, recording included, the median over the pictures; `x` is how many times as fast
as `one by one` windows are, `differ` the largest difference of their maps from those of one by one, over the
largest value. squeezenet1_0 has the weights of --weights, others random ones.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from arguments import Parser, photographs
from instsearch_cli.images import read_image
from instsearch_plugins.extractors.networks import VGG16, Network, ResNet50, SqueezeNet10, normalise
from instsearch_plugins.numeric.excitation import maps, seeds
from instsearch_plugins.numeric.layers import record
from instsearch_plugins.numeric.tracing import trace

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from instsearch_plugins.numeric.layers import Circuit

NETWORKS: dict[str, type[Network]] = {kind.architecture: kind for kind in (SqueezeNet10, ResNet50, VGG16)}


def random_network(kind: type[Network]) -> nn.Module:
    """He's random weights for the convolutions, and none for the classifier."""
    with torch.device("meta"):
        network = kind.build()
    state = {}
    for key, tensor in network.state_dict().items():
        if tensor.ndim == 4:
            state[key] = torch.randn(tensor.shape) * (2 / tensor[0].numel()) ** 0.5
        elif not key.startswith(("classifier", "fc")):
            state[key] = torch.ones(tensor.shape) * float(key.endswith(("weight", "var")))
    network.load_state_dict(state, strict=False, assign=True)
    return network


def peaks(X: Tensor, n: int) -> list[tuple[int, int]]:
    """The n strongest 3 x 3 maxima of the mean of f32[C, h, w]."""
    mean = X.mean(0)
    found = (mean == F.max_pool2d(mean[None], 3, 1, 1)[0]).nonzero()
    order = mean[found[:, 0], found[:, 1]].argsort(descending=True)[:n]
    return [(y, x) for y, x in found[order].tolist()]


def timed(work: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Milliseconds, and what came out."""
    began = time.perf_counter()
    result = work()
    return 1000 * (time.perf_counter() - began), result


def measure(circuit: Circuit, x: Tensor, n: int, alone: int) -> dict[str, float]:
    """One picture."""
    recording = record(circuit, x)
    cells = peaks(recording.output, n)
    P = seeds(recording.output, cells)

    def together(to: int = 1, windows: bool = True) -> Tensor:
        fresh = record(circuit, x)
        return maps(fresh, P, cells, fresh.at(to), windows=windows)

    def one_by_one() -> Tensor:
        some = enumerate(cells[:alone])
        return torch.cat([maps(record(circuit, x), P[k : k + 1], [cell], windows=False) for k, cell in some])

    together()
    row = {"peaks": float(len(cells)), "record": timed(lambda: record(circuit, x).output)[0]}
    spent, expected = timed(one_by_one)
    row["one by one"] = spent * len(cells) / len(expected)
    row["whole maps"], _ = timed(lambda: together(windows=False))
    row["windows"], found = timed(together)
    row["x"] = row["one by one"] / row["windows"]
    row["differ"] = float((found[: len(expected)] - expected).abs().max() / expected.max())
    row.update({f"to {to}": timed(lambda to=to: together(to))[0] for to in (2, 4, 8)})
    return row


def main() -> None:
    """Print a table."""
    parser = Parser(__doc__)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=", ".join(NETWORKS))
    parser.add_data()
    parser.add_weights(required=False)
    parser.add_argument("--size", type=int, default=448, help="longer side of the pictures")
    parser.add_argument("--peaks", type=int, default=20, help="at most so many in a picture")
    parser.add_argument("--timed", type=int, default=5, help="peaks taken one by one")
    parser.add_argument("--pictures", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    if unknown := {*args.networks} - {*NETWORKS}:
        parser.error(f"no {', '.join(unknown)}; there are {', '.join(NETWORKS)}")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    paths = photographs(args.data, args.pictures)
    print(f"{len(paths)} pictures of at most {args.size} pixels, {args.threads} threads")
    for i, name in enumerate(args.networks or ["squeezenet1_0", "resnet50"]):
        real = name == "squeezenet1_0" and args.weights is not None
        config = Network.Config(max_size=args.size, weights=str(args.weights) if real else "")
        network = NETWORKS[name](config, torch.device("cpu"))
        circuit = trace(network.network if real else random_network(NETWORKS[name]), network.layer)
        pixels = (torch.from_numpy(read_image(path, network.fit_size).pixels) for path in paths)
        rows = [
            measure(circuit, normalise(u[None].permute(0, 3, 1, 2)), args.peaks, args.timed) for u in pixels
        ]
        row = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        row["pictures /s"] = 1000 / row["windows"]
        if i == 0:
            print(f"{'network':>14}", " ".join(f"{key:>11}" for key in row))
        print(f"{name:>14}", " ".join(f"{value:>11.3g}" for value in row.values()), flush=True)


if __name__ == "__main__":
    main()
