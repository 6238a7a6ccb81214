"""What each HDF5 filter makes of each kind of data in an index: bytes an image, speed of writing and reading.

python benchmarks/compression.py --data DIR --weights FILE [--images N] [--repeat N]

Real data: SqueezeNet maps, SIFT descriptors, word maps over 10,000 words, weights and sparse
histograms of the first N photographs. Speeds are of uncompressed bytes through h5py, by processor
time (so that a busy machine does not matter), Fletcher-32 included, best of --repeat; those of the
small arrays are mostly HDF5's cost per dataset.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import faiss
import h5py
import hdf5plugin
import numpy as np
import torch
import torchvision

from arguments import Parser, photographs
from instsearch_formats import Index
from instsearch_formats.part import Part, part_name

CHUNK = 2**19

FILTERS = {
    "none": {},
    "lzf": {"compression": "lzf"},
    "shuffle+lzf": {"compression": "lzf", "shuffle": True},
    "gzip-1": {"compression": "gzip", "compression_opts": 1},
    "shuffle+gzip-1": {"compression": "gzip", "compression_opts": 1, "shuffle": True},
    "shuffle+gzip-4": {"compression": "gzip", "compression_opts": 4, "shuffle": True},
    "blosc lz4 noshuffle": hdf5plugin.Blosc(cname="lz4", shuffle=0),
    "blosc lz4 shuffle": hdf5plugin.Blosc(cname="lz4", shuffle=1),
    "blosc lz4 bitshuffle": hdf5plugin.Blosc(cname="lz4", shuffle=2),
    "blosc zstd-1 noshuffle": hdf5plugin.Blosc(cname="zstd", clevel=1, shuffle=0),
    "blosc zstd-1 shuffle": hdf5plugin.Blosc(cname="zstd", clevel=1, shuffle=1),
    "blosc zstd-1 bitshuffle": hdf5plugin.Blosc(cname="zstd", clevel=1, shuffle=2),
    "blosc zstd-5 shuffle": hdf5plugin.Blosc(cname="zstd", clevel=5, shuffle=1),
    "blosc2 lz4 shuffle": hdf5plugin.Blosc2(cname="lz4", filters=hdf5plugin.Blosc2.SHUFFLE),
    "blosc2 zstd-1 shuffle": hdf5plugin.Blosc2(cname="zstd", clevel=1, filters=hdf5plugin.Blosc2.SHUFFLE),
    "bitshuffle lz4": hdf5plugin.Bitshuffle(cname="lz4"),
    "bitshuffle zstd": hdf5plugin.Bitshuffle(cname="zstd", clevel=1),
    "zstd-1": hdf5plugin.Zstd(clevel=1),
    "shuffle+zstd-1": {**hdf5plugin.Zstd(clevel=1), "shuffle": True},
    "shuffle+zstd-3": {**hdf5plugin.Zstd(clevel=3), "shuffle": True},
}


def payloads(data: Path, weights: Path, n: int) -> dict[str, list[np.ndarray]]:
    """One array per image for each kind of data."""
    net = torchvision.models.squeezenet1_0()
    net.load_state_dict(torch.load(weights, weights_only=True))
    trunk = net.features[:13].eval()
    maps, sift, geometry = [], [], []
    for path in photographs(data)[:n]:
        pixels: Any = cv2.imread(str(path))
        grey = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)
        points, found = cv2.SIFT_create(2000).detectAndCompute(grey, None)  # pyright: ignore[reportAttributeAccessIssue]
        sift.append(found.astype(np.uint8))
        geometry.append(np.array([(*p.pt, p.size, p.angle) for p in points], np.float32))
        x = torch.from_numpy(pixels[:, :, ::-1].copy()).permute(2, 0, 1)[None] / 255.0
        with torch.inference_mode():
            maps.append(trunk(x)[0].permute(1, 2, 0).numpy())
    cells = np.concatenate([m.reshape(-1, m.shape[2]) for m in maps])
    unit = cells / np.maximum(np.linalg.norm(cells, axis=1, keepdims=True), 1e-12)
    index: Any = faiss.IndexFlatIP(unit.shape[1])
    index.add(np.random.default_rng(0).choice(unit, min(10_000, len(unit)), replace=False))
    ends = np.cumsum([m.shape[0] * m.shape[1] for m in maps])
    words = np.split(index.search(unit, 1)[1][:, 0].astype(np.uint16), ends[:-1])
    pooled = np.stack([m.max((0, 1)) for m in maps])
    _, _, axes = np.linalg.svd(pooled - pooled.mean(0), full_matrices=False)
    white = (pooled - pooled.mean(0)) @ axes.T
    white = (white / np.linalg.norm(white, axis=1, keepdims=True)).astype(np.float32)
    saliency = [m.sum(2) / m.sum(2).max() for m in maps]
    histograms = [np.unique(w, return_counts=True) for w in words]
    return {
        "features f16 (conv, ReLU)": [m.reshape(-1, m.shape[2]).astype(np.float16) for m in maps],
        "descriptors u8 (SIFT)": sift,
        "geometry f32 (SIFT)": geometry,
        "words u16": words,
        "weights f16": [s.ravel().astype(np.float16)[:, None] for s in saliency],
        "weights u8": [np.round(s.ravel() * 255).astype(np.uint8)[:, None] for s in saliency],
        "histogram indices u16": [h[0].astype(np.uint16) for h in histograms],
        "histogram data f32": [(h[1] / np.linalg.norm(h[1])).astype(np.float32) for h in histograms],
        "vectors f32 (max pooled)": list(pooled[:, None]),
        "vectors f32 (PCA, unit length)": list(white[:, None]),
        "vectors f16 (PCA, unit length)": list(white[:, None].astype(np.float16)),
    }


def measure(items: list[np.ndarray], how: dict, folder: Path, repeat: int) -> tuple[float, float, float]:
    """Bytes an image, and MB/s written and read of uncompressed bytes."""
    whole = np.concatenate(items)
    reps = max(1, 2**23 // whole.nbytes)  # so that the clock has something to measure
    chunk = max(1, CHUNK // (whole.nbytes // len(whole)))
    path = folder / "x.h5"
    wrote, read = [], []
    for _ in range(repeat):
        start = time.process_time()
        with h5py.File(path, "w", libver=("v110", "v110")) as file:
            for i in range(reps):
                chunks = (min(chunk, len(whole)), *whole.shape[1:])
                file.create_dataset(str(i), data=whole, chunks=chunks, fletcher32=True, **how)
        wrote.append(time.process_time() - start)
        start = time.process_time()
        with h5py.File(path, "r") as file:
            stored: list[Any] = [file[str(i)] for i in range(reps)]
            back = [data[()] for data in stored]
            size = sum(data.id.get_storage_size() for data in stored)
        read.append(time.process_time() - start)
        if not np.array_equal(back[-1], whole):
            raise SystemExit("what was read is not what was written")
    nbytes = whole.nbytes * reps / 1e6
    return size / reps / len(items), nbytes / min(wrote), nbytes / min(read)


def whole_parts(items: list[np.ndarray], folder: Path) -> None:
    """Features through the index itself: seal, fsync and rename included."""
    index = Index.create(folder / "index")
    layer = index.layer("features", "squeezenet", "dense-map", {})
    start = time.process_time()
    with layer.writer(range(256)) as writer:
        for row in range(256):
            values = items[row % len(items)]
            writer.append({"values": values, "grid": [1, len(values)], "transform": [16, 16, 0, 0]})
    wrote = time.process_time() - start
    nbytes = sum(items[row % len(items)].nbytes for row in range(256)) / 1e6
    start = time.process_time()
    blocks = sum(1 for _ in layer.blocks())
    streamed = time.process_time() - start
    start = time.process_time()
    for row in np.random.default_rng(0).permutation(256):
        layer.read(int(row))
    picked = time.process_time() - start
    start = time.process_time()
    opened = [Part(layer.path / part_name(range(256))) for _ in range(100)]
    opening = (time.process_time() - start) / len(opened)
    print(f"\none part of 256 feature maps, {nbytes:.0f} MB raw, {layer.nbytes / 1e6:.0f} MB on disk")
    print(
        f"written at {nbytes / wrote:,.0f} MB/s, streamed in {blocks} blocks at {nbytes / streamed:,.0f} MB/s"
    )
    print(f"one image at random {picked / 256 * 1e3:.2f} ms, opening a part {opening * 1e3:.2f} ms")


def main() -> None:
    parser = Parser(__doc__)
    parser.add_data()
    parser.add_weights()
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--repeat", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as folder:
        for title, items in payloads(args.data, args.weights, args.images).items():
            raw = sum(item.nbytes for item in items) / len(items)
            print(f"\n{title}: {raw:,.0f} bytes an image uncompressed")
            print(f"{'filter':24s}{'bytes/image':>12s}{'of raw':>8s}{'write MB/s':>12s}{'read MB/s':>12s}")
            for name, how in FILTERS.items():
                nbytes, write, read = measure(items, dict(how), Path(folder), args.repeat)
                print(f"{name:24s}{nbytes:12,.0f}{nbytes / raw:8.2f}{write:12,.0f}{read:12,.0f}", flush=True)
            if title.startswith("features"):
                whole_parts(items, Path(folder))


if __name__ == "__main__":
    main()
