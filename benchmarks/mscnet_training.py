"""Images per second of MSCNet's training against the bare forward and backward pass of its network.

python benchmarks/mscnet_training.py --data DIR --weights FILE [--mode un|sta1|sta2] [--network NAME]
    [--images N] [--batch N] [--rounds N] [--device cpu] [--threads N] [--precision P]

A training step reads, crops, computes the losses, descends and writes the log; a bare pass is the network and a
cross-entropy on the same crops, there already. Rounds of either take turns. In sta2, whose labels are made up
here, the bare pass is one over the whole batch, which the training's passes of P x 3 images are to avoid.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from arguments import Parser
from instsearch_cli.images import discover
from instsearch_cli.networks.training import Run
from instsearch_cli.options import make_config
from instsearch_cli.progress import Quiet
from instsearch_plugins.encoders.mscnet_network import drawn
from instsearch_plugins.training.mscnet import MSCNetTrainer
from instsearch_plugins.training.mscnet_batches import Crops, Identities, Shuffled

if TYPE_CHECKING:
    from collections.abc import Iterator


def main() -> None:
    """Print a table."""
    parser = Parser(__doc__)
    parser.add_argument("--mode", choices=["un", "sta1", "sta2"], default="un")
    parser.add_argument("--network", default="squeezenet1_0")
    parser.add_weights("the network")
    parser.add_data()
    parser.add_argument("--images", type=int, default=64, help="in a round")
    parser.add_argument("--batch", type=int, default=16, help="of un and sta1; sta2 has 4 x 4 images in one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0: its own choice")
    parser.add_argument("--workers", type=int, default=2, help="threads that read")
    parser.add_argument("--precision", default="auto")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    names = ("mode", "network", "weights", "batch", "workers", "precision")
    options = {name: getattr(args, name) for name in names} | {"start": "none", "epochs": args.rounds + 1}
    options["weights"] = str(args.weights)
    trainer = MSCNetTrainer(make_config(MSCNetTrainer, options, "mscnet"), device)

    paths = [found.path for found in discover([args.data / "images"]).found][: args.images]
    crops = Crops()
    batches: Shuffled | Identities
    if args.mode == "sta2":
        batches = Identities([(path, f"{i // 6}") for i, path in enumerate(paths)], crops, 4, 4)
    else:
        batches = Shuffled([(path, f"{i:06}") for i, path in enumerate(paths)], crops, args.batch)
    conv = trainer._basic_conv()
    net = drawn(conv.channels, trainer.config.masks, trainer.config.dims, 0).to(device)
    classifier = nn.Linear(trainer.config.dims, len(batches.classes)).to(device)
    modules = nn.ModuleList([net, classifier, conv.network])
    optimizer = torch.optim.SGD([p for p in modules.parameters() if p.requires_grad], 1e-6, 0.9)
    ready = [batches.load(batch) for batch in batches.epoch(0)]
    n = sum(len(pixels) for pixels, _ in ready)

    def bare() -> None:
        for pixels, labels in ready:
            z, _ = net(conv(pixels))
            F.cross_entropy(classifier(z), labels.to(device)).backward()  # type: ignore[no-untyped-call,unused-ignore]

    def trained(run: Run, epoch: int) -> None:
        for pixels, labels in run.steps(batches.epoch(epoch), batches.load, args.workers):
            optimizer.zero_grad()
            run.log(**trainer._backward(conv, net, classifier, pixels, labels))
            optimizer.step()

    def seconds(began: float) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    rows: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder, Run(Path(folder) / "run", {}, Quiet()) as run:
        epochs: Iterator[int] = run.stage("speed", args.rounds + 1, net=net)
        for epoch in itertools.islice(epochs, args.rounds + 1):
            began = time.perf_counter()
            trained(run, epoch)
            of_training = seconds(began)
            began = time.perf_counter()
            bare()
            if epoch:  # the first round warms up
                rows.append((n / of_training, n / seconds(began)))
    print(f"{args.mode}, {args.network}, {device}, {torch.get_num_threads()} threads, {n} images a round")
    print(f"{'training':>10} {'bare':>10} {'ratio':>7}   images/s")
    for a, b in rows:
        print(f"{a:10.2f} {b:10.2f} {a / b:7.3f}")
    a, b, ratio = (
        statistics.median(v) for v in ([a for a, _ in rows], [b for _, b in rows], [a / b for a, b in rows])
    )
    print(f"{a:10.2f} {b:10.2f} {ratio:7.3f}   median; 5,000 images: {5000 / a / 60:.1f} minutes")


if __name__ == "__main__":
    main()
