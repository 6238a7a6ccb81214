"""Learns the vocabulary that comes with encoder bovw: 2,500 words of RootSIFT, with Hamming signatures.

python benchmarks/included_vocabulary.py FOLDER [FOLDER ...] [--drawn N] [--out FILE] [--words N] [--descriptors N]

From photographs of openly licensed collections (the one that is published: the Scene Saliency Dataset, NUS VIP, and the
Grocery Store Dataset, Klasson et al. 2019, both under the MIT licence) and from N scenes that the demo draws. As many
descriptors are taken of each picture. Prints where they came from, how long the file is and its sha256.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
from importlib import resources
from pathlib import Path

import numpy as np
import torch

from arguments import Parser
from instsearch_cli.demo import make_scenes
from instsearch_cli.images import discover, read_image
from instsearch_plugins.encoders.blcf import COMPARISONS, inverse_document_frequency
from instsearch_plugins.encoders.bovw import INCLUDED, packed_vocabulary
from instsearch_plugins.extractors.sift import Sift
from instsearch_plugins.numeric import hamming
from instsearch_plugins.numeric.kmeans import kmeans
from instsearch_plugins.numeric.normalise import l2

OUT = Path(str(resources.files("instsearch_plugins") / INCLUDED))


def descriptors(paths: list[Path], n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """As many of each picture, n in all at most: f32[n, 128], and the number of the picture of each."""
    extractor, rng = Sift(Sift.Config(keypoints=1000), torch.device("cpu")), np.random.default_rng(seed)
    each, found, image = -(-n // len(paths)), [], []
    for i, path in enumerate(paths):
        values = extractor.extract([read_image(path, extractor.fit_size)])[0].values
        values = values[rng.permutation(len(values))[:each]]
        found.append(values[values.any(axis=1)])
        image += [i] * len(found[-1])
    return l2(torch.from_numpy(np.concatenate(found))), torch.tensor(image)


def learnt(
    x: torch.Tensor, image: torch.Tensor, words: int, iterations: int, seed: int
) -> dict[str, np.ndarray]:
    """Centroids, idf and what signatures need."""
    centroids, assigned = kmeans(x, words, iterations, seed, COMPARISONS)
    P = hamming.projection(x.shape[1], seed)
    return {
        "centroids": centroids.numpy(),
        "idf": inverse_document_frequency(assigned, image, words).numpy(),
        "rotation": P.numpy(),
        "thresholds": hamming.thresholds(x, assigned, P, centroids).numpy(),
        "neighbours": hamming.neighbours(centroids).numpy(),
    }


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="photographs")
    parser.add_argument("--drawn", type=int, default=150, help="scenes that the demo draws")
    parser.add_argument("--words", type=int, default=2_500)
    parser.add_argument("--descriptors", type=int, default=640_000)
    parser.add_argument("--iterations", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    paths = [found.path for found in discover(options.folders).found]
    for folder in options.folders:
        print(f"{sum(folder in path.parents for path in paths):,} photographs of {folder.name}")
    with tempfile.TemporaryDirectory() as drawn:
        if options.drawn:
            make_scenes(Path(drawn), options.drawn, seed=1000 + options.seed)
            paths += sorted(Path(drawn).rglob("*.jpg"))
            print(f"{options.drawn:,} drawn scenes")
        x, image = descriptors(paths, options.descriptors, options.seed)
    print(f"{len(x):,} descriptors of {len(paths):,} pictures")
    state = learnt(x, image, options.words, options.iterations, options.seed)
    file = io.BytesIO()
    np.savez_compressed(file, **packed_vocabulary(state))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_bytes(file.getvalue())
    print(
        f"{options.out.name}: {len(file.getvalue()):,} bytes, sha256 {hashlib.sha256(file.getvalue()).hexdigest()}"
    )


if __name__ == "__main__":
    main()
