"""Minutes to learn a vocabulary from real local features, and how far approximate clustering is from exact.

python benchmarks/vocabulary.py --data DIR --weights FILE [--words N] [--features N] [--iterations N]

squeezenet1_0's cells of the photographs, L2, PCA-whitened, L2, as `blcf` learns from them. `agreement` is the share of
features whose word by the approximate assignment is their nearest word by the exact one, on the final centroids;
`distance` is the mean squared distance to the centroid, approximate over exact.
"""

from __future__ import annotations

import resource
import time
from typing import TYPE_CHECKING

import torch

from arguments import Parser, photographs
from instsearch_cli.images import read_image
from instsearch_plugins.encoders.blcf import COMPARISONS
from instsearch_plugins.extractors.networks import SqueezeNet10
from instsearch_plugins.numeric.kmeans import kmeans, nearest, nearest_nearby
from instsearch_plugins.numeric.normalise import l2
from instsearch_plugins.numeric.whitening import pca_whitening, whiten

if TYPE_CHECKING:
    from pathlib import Path


class Said:
    """Prints each iteration's seconds."""

    def start(self, label: str, total: int | None = None, unit: str = "") -> None:
        print(label, flush=True)
        self.last = time.perf_counter()

    def advance(self, n: int = 1) -> None:
        now = time.perf_counter()
        print(f"  {now - self.last:6.1f} s", flush=True)
        self.last = now


def local_features(paths: list[Path], weights: Path, n: int, device: torch.device) -> torch.Tensor:
    """n whitened unit vectors f32[n, 512] from as many pictures as it takes, all their cells."""
    extractor = SqueezeNet10(SqueezeNet10.Config(weights=str(weights)), device)
    x, count = torch.empty(n, 512), 0
    for path in paths:
        cells = extractor.extract([read_image(path, extractor.fit_size)])[0].values.flatten(1).T
        cells = cells[(cells != 0).any(1)][: n - count]
        x[count : count + len(cells)] = l2(cells).cpu()
        count += len(cells)
        if count == n:
            break
    x = x[:count]
    mean, projection = pca_whitening(x.split(1 << 14))
    for chunk in x.split(1 << 14):
        chunk.copy_(l2(whiten(chunk, mean, projection)))
    return x


def main() -> None:
    """Print what was measured."""
    parser = Parser(__doc__)
    parser.add_argument("--words", type=int, default=25_000)
    parser.add_argument("--features", type=int, default=1_000_000)
    parser.add_argument("--iterations", type=int, default=6)
    parser.add_argument("--checked", type=int, default=50_000, help="features whose exact word is looked up")
    parser.add_data()
    parser.add_weights()
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    device = torch.device(args.device)
    with torch.inference_mode():
        began = time.perf_counter()
        x = local_features(photographs(args.data), args.weights, args.features, device).to(device)
        print(f"{len(x):,} features of {x.shape[1]}-D in {time.perf_counter() - began:.0f} s")
        began = time.perf_counter()
        neighbours = COMPARISONS if device.type == "cpu" else None
        centroids, words = kmeans(x, args.words, args.iterations, 0, neighbours, Said())
        minutes = (time.perf_counter() - began) / 60
        some = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))[: args.checked].to(device)
        exact = nearest(x[some], centroids)
        found = nearest_nearby(x[some], centroids, words[some], COMPARISONS)
        near = [(x[some] - centroids[k]).square().sum(1).mean().item() for k in (found, exact)]
    print(
        f"{'words':>8} {'features':>10} {'threads':>8} {'minutes':>8} {'agreement':>10} {'distance':>9} {'peak GB':>8}"
    )
    print(
        f"{args.words:8,} {len(x):10,} {torch.get_num_threads():8} {minutes:8.1f} "
        f"{(found == exact).float().mean().item():10.3f} {near[0] / near[1]:9.4f} "
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:8.1f}"
    )


if __name__ == "__main__":
    main()
