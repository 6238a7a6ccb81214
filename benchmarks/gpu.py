"""What a GPU makes of everything: its numbers against the CPU's, its speed, its memory; one table, within ten minutes.

python benchmarks/gpu.py [--device cuda] [--images 48] [--networks NAME ...] [--minutes 9]

Nothing is needed but the package: photographs are drawn, networks have random weights. `differs` is by how much the
device's values miss the CPU's at most, over the largest of these, and `allowed` how much they may: of extractors in
three precisions, of every preset's answers (models are fitted once, on the CPU), of k-means and excitation backprop,
and of the weights after some steps of a training. `/s` are pictures, vectors, maps or steps a second on the device,
beside `bare`, the network alone on tensors that are there, and `reads`, decoding alone. `peak` is the device's memory
in MB. The last line asks for a batch that no memory holds, which is taken half by half. Ends with 1 where something
differs by more than it may, or fails; with 0 where there is no GPU, which it says. What `--minutes` does not reach is
named.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import PIL.Image
import torch
from torchvision.models import get_model

import instsearch
from arguments import Parser
from excitation import peaks
from extract import measure
from instsearch_cli.demo import make_scenes
from instsearch_cli.engine.assembly import Assembly
from instsearch_cli.engine.pipeline import Pipeline, Stage
from instsearch_cli.engine.registry import load_registry
from instsearch_cli.images import read_image
from instsearch_plugins.numeric.excitation import maps, seeds
from instsearch_plugins.numeric.kmeans import kmeans
from instsearch_plugins.numeric.layers import record
from instsearch_plugins.numeric.tracing import trace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from instsearch_cli.data import Image
    from instsearch_plugins.extractors.networks import Network

CPU = torch.device("cpu")
ALLOWED = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 1e-1}
PRESETS = ("spoc", "blcf", "rmac", "patches", "os-egm", "dasr", "cam")
NETWORKS = ("squeezenet1_0", "vgg16", "resnet50")
SCORES = 2e-2  # by how much scores of answers may differ: features are kept in 16 bits


class Row(NamedTuple):
    """A line of the table; columns that say nothing are left out."""

    what: str
    differs: float | None = None
    allowed: float | None = None
    rate: float | None = None
    bare: float | None = None
    reads: float | None = None
    peak: float | None = None
    failed: str = ""

    @property
    def fine(self) -> bool:
        return not self.failed and (
            self.differs is None or self.allowed is None or self.differs <= self.allowed
        )


class Bench:
    """The device, a folder to work in, and what was found until there is no time left."""

    def __init__(self, device: torch.device, folder: Path, until: float) -> None:
        self.device, self.folder, self.until = device, folder, until
        self.rows: list[Row] = []
        self.left: list[str] = []

    def run(self, what: str, work: Callable[[], Row]) -> None:
        """Do it if there is time; what goes wrong is a row, too."""
        if time.monotonic() > self.until:
            self.left.append(what)
            return
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        try:
            row = work()
        except Exception as error:
            row = Row(what, failed=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
        if self.device.type == "cuda":
            row = row._replace(peak=torch.cuda.max_memory_allocated(self.device) / 1e6)
        self.rows.append(row)
        print(line(row), flush=True)


def random_weights(network: str, folder: Path) -> Path:
    """A file of a network's weights as torch draws them, where ``INSTSEARCH_WEIGHTS`` finds it."""
    torch.save(get_model(network, weights=None).state_dict(), folder / f"{network}.pth")
    return folder / f"{network}.pth"


def missed(found: torch.Tensor | np.ndarray, wanted: torch.Tensor | np.ndarray) -> float:
    """max |found - wanted| / max |wanted|."""
    a, b = (torch.as_tensor(x).detach().cpu().double() for x in (found, wanted))
    if a.shape != b.shape:
        raise ValueError(f"shapes differ: {tuple(a.shape)}, {tuple(b.shape)}")
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-12))


def assembly(network: str, weights: Path, device: torch.device, **options: Any) -> Assembly:
    name, _, model = network.partition(":")
    chosen = {"weights": str(weights), **({"model": model} if model else {}), **options}
    return Assembly(Pipeline("gpu", Stage(name, chosen)), load_registry(), device)


def pictures(network: Network, paths: list[Path], n: int) -> list[Image]:
    """Some photographs at the size of the first of them."""
    first = read_image(paths[0], network.fit_size)
    h, w = first.pixels.shape[:2]
    return [read_image(path, lambda _w, _h: (w, h)) for path in paths[:n]]


def precision_of(bench: Bench, network: str, weights: Path, precision: str, paths: list[Path]) -> Row:
    """Maps on the device in a precision against the CPU's in fp32; pictures a second, bare and with reading."""
    own: Network = assembly(network, weights, CPU, precision="fp32").extractor.component
    there = assembly(network, weights, bench.device, precision=precision)
    extractor: Network = there.extractor.component
    some = pictures(own, paths, 4)
    wanted = torch.stack([found.values for found in own.extract(some)])
    differs = missed(torch.stack([found.values.float() for found in extractor.extract(some)]), wanted)
    speed = measure(there, paths, 3, Path(tempfile.mkdtemp(dir=bench.folder)))
    return Row(
        f"{network}, {precision}",
        differs,
        ALLOWED[precision],
        speed["full /s"],
        speed["bare /s"],
        speed["read /s"],
    )


def answers_of(bench: Bench, preset: str, photos: Path, questions: list[Any]) -> Row:
    """The scores of a preset's answers from an index made on the device against those from one made on the CPU."""
    scores, rate = [], 0.0
    for device in ("cpu", str(bench.device)):
        path = bench.folder / f"{preset}-{device.replace(':', '')}"
        fitted = {"fit_on": bench.folder / f"{preset}-cpu"} if scores else {}
        index = instsearch.create(path, device=device)
        began = time.perf_counter()
        index.index(photos, preset=preset, options=["extractor.precision=fp32"], **fitted)
        rate = len(index) / (time.perf_counter() - began)
        found = [index.query(picture, box, k=len(index)) for picture, box in questions]
        scores.append([{hit.image: hit.score for hit in answer} for answer in found])
    pairs = [
        (there.get(name, 0.0), score)
        for own, there in zip(*scores, strict=True)
        for name, score in own.items()
    ]
    a, b = np.array(pairs).T
    return Row(f"preset {preset}", missed(a, b), SCORES, rate)


def clusters(bench: Bench) -> Row:
    """How far descriptors are from their nearest centroid, on the mean, from the same start."""
    x = torch.randn(50_000, 128, generator=torch.Generator().manual_seed(0))
    means, rate = [], 0.0
    for device in (CPU, bench.device):
        on, began = x.to(device), time.perf_counter()
        centroids, assigned = kmeans(on, 256, iterations=5)
        means.append(((on - centroids[assigned]) ** 2).sum(1).mean().cpu())
        rate = len(x) / (time.perf_counter() - began)
    return Row("k-means, 50,000 x 128, 256 words", missed(means[1], means[0]), 5e-3, rate)


def excited(bench: Bench, weights: Path, paths: list[Path]) -> Row:
    """Excitation backprop from the strongest cells of squeezenet1_0 to the picture."""
    found, rate = [], 0.0
    cells: list[Any] = []
    for device in (CPU, bench.device):
        network: Network = assembly("squeezenet1_0", weights, device, precision="fp32").extractor.component
        (image,) = pictures(network, paths, 1)
        pixels = torch.from_numpy(image.pixels.copy())[None].permute(0, 3, 1, 2).to(device)
        circuit = trace(network.network, network.layer)
        began = time.perf_counter()
        recording = record(circuit, network.prepare(pixels, torch.float32))
        cells = cells or peaks(recording.output.cpu(), 8)
        found.append(maps(recording, seeds(recording.output, cells), cells))
        rate = len(cells) / (time.perf_counter() - began)
    return Row("excitation backprop, maps", missed(found[1], found[0]), 1e-3, rate)


def trained(bench: Bench, weights: Path, photos: Path) -> Row:
    """Weights of MSCNet after some steps, from the same start with the same crops."""
    states, rate = [], 0.0
    options = {"mode": "un", "network": "squeezenet1_0", "weights": str(weights), "epochs": 1, "batch": 4}
    options |= {"crop": 128, "short_side": (160, 160), "precision": "fp32"}
    for device in ("cpu", str(bench.device)):
        out, began = bench.folder / f"mscnet-{device.replace(':', '')}.pth", time.perf_counter()
        instsearch.train("mscnet", photos, out, options, device=device)
        rate = len(list(photos.iterdir())) / (time.perf_counter() - began)
        states.append(torch.load(out, map_location="cpu", weights_only=True))
    found, wanted = ([x.flatten().float() for x in _tensors(state)] for state in reversed(states))
    return Row("training of mscnet, weights", missed(torch.cat(found), torch.cat(wanted)), 1e-2, rate)


def _tensors(state: Any) -> Iterator[torch.Tensor]:
    for value in state.values() if isinstance(state, dict) else ():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            yield value
        else:
            yield from _tensors(value)


def too_much(bench: Bench, weights: Path, paths: list[Path]) -> Row:
    """A batch that fills the memory four times over, taken half by half; its last map against one by itself."""
    extractor: Network = assembly("vgg16", weights, bench.device, precision="fp32").extractor.component
    (one,) = pictures(extractor, paths, 1)
    h, w = one.pixels.shape[:2]
    memory = torch.cuda.mem_get_info(bench.device)[1]
    n = 4 * memory // (2 * 64 * h * w * 4)  # the first layer's input and output
    began = time.perf_counter()
    found = extractor.extract([one] * n)
    rate = n / (time.perf_counter() - began)
    differs = missed(found[-1].values, extractor.extract([one])[0].values)
    return Row(f"vgg16, a batch of {n:,}", differs, ALLOWED["fp32"], rate)


def line(row: Row) -> str:
    def number(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    verdict = row.failed or ("ok" if row.fine else "DIFFERS")
    return (
        f"{row.what:<40} {number(row.differs, '.1e'):>8} {number(row.allowed, '.0e'):>8} {number(row.rate, ',.1f'):>9} "
        f"{number(row.bare, ',.1f'):>9} {number(row.reads, ',.1f'):>9} {number(row.peak, ',.0f'):>8}  {verdict}"
    )


def main() -> None:
    """Print a table."""
    parser = Parser(__doc__)
    parser.add_argument("--device", default="cuda", help="cuda[:n]; cpu tries the script itself")
    parser.add_argument("--images", type=int, default=48, help="photographs that are drawn")
    parser.add_argument("--networks", nargs="+", default=NETWORKS, metavar="NAME")
    parser.add_argument("--presets", nargs="*", default=PRESETS, metavar="NAME")
    parser.add_argument("--minutes", type=float, default=9.0, help="nothing is begun after these")
    args = parser.parse_args()
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print(
            "no GPU here: torch sees none, so that nothing was compared (--device cpu tries the script itself)"
        )
        return
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU against itself"
    print(f"{name}, torch {torch.__version__}, {os.cpu_count()} cores, {args.images} photographs")
    print(f"{'':<40} {'differs':>8} {'allowed':>8} {'/s':>9} {'bare /s':>9} {'reads /s':>9} {'peak MB':>8}")
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        manifest = Path(make_scenes(folder / "drawn", args.images))
        paths = sorted(path for path in manifest.parent.rglob("*.jpg") if "quer" not in str(path))
        photos = folder / "photos"
        photos.mkdir()
        for path in paths:
            PIL.Image.open(path).save(photos / path.name, quality=92)
        paths = sorted(photos.iterdir())
        weights = {each: random_weights(each, folder) for each in {*args.networks, *NETWORKS}}
        os.environ["INSTSEARCH_WEIGHTS"] = str(folder)
        w, h = PIL.Image.open(paths[0]).size
        questions = [(path, (w // 4, h // 4, w // 2, h // 2)) for path in paths[:4]]
        bench = Bench(device, folder, time.monotonic() + 60 * args.minutes)
        squeezed = weights["squeezenet1_0"]
        for each in args.networks:
            for precision in ALLOWED if device.type == "cuda" else ("fp32",):
                what = f"{each}, {precision}"
                bench.run(what, partial(precision_of, bench, each, weights[each], precision, paths))
        bench.run("k-means", partial(clusters, bench))
        bench.run("excitation backprop", partial(excited, bench, squeezed, paths))
        for preset in args.presets:
            bench.run(f"preset {preset}", partial(answers_of, bench, preset, photos, questions))
        bench.run("training of mscnet", partial(trained, bench, squeezed, photos))
        if device.type == "cuda":
            bench.run("a batch too large", partial(too_much, bench, weights["vgg16"], paths))
    bad = [row for row in bench.rows if not row.fine]
    print(f"{len(bench.rows) - len(bad)} of {len(bench.rows)} fine")
    if bench.left:
        print(f"no time for {', '.join(bench.left)}: --minutes")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
