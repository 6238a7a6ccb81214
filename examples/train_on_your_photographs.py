"""Train MSCNet on a folder of photographs, without labels, and see what it does to search in them.

python examples/train_on_your_photographs.py PHOTOGRAPHS OUT [--network NAME] [--weights FILE] [--OPTION VALUE]...

Some photographs are looked for by a detail each, a third of their sides, mirrored, smaller and darker: by MSCNet
before training and after it, and by CroW, which is not trained. OUT gets the weights mscnet.pth (with their card
and curves), the table table.txt, and before.png and after.png, the hits of the detail that gained most. Other
options are those of the training (`instsearch plugins mscnet`): --masks 10, --dims 1024; --epochs 20 for thousands of
photographs, since 60 are for a few hundred. Photographs that were trained on are searched here: this shows that
training works, not how well it does on others.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import PIL.Image
import PIL.ImageOps

from instsearch_cli.images import BadImage, discover, read_image

LEARNS_FAST = {
    "scale": 30,
    "lr": 0.1,
    "momentum": 0,
    "views": 10,
    "flip": "true",
    "epochs": 60,
    "short-side": "288,400",
    "crop": 272,
}


def instsearch(*words: object) -> str:
    """Run a command; its output."""
    done = subprocess.run(["instsearch", *map(str, words)], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout


def details(folder: Path, out: Path, most: int) -> dict[str, Any]:
    """A manifest whose queries are details of photographs, each to find the one that it is from."""
    images, queries, rng = [], [], random.Random(0)
    out.mkdir(exist_ok=True)
    for found in discover([folder]).found:
        try:
            picture = PIL.Image.fromarray(read_image(found.path).pixels)
        except BadImage:
            continue
        name = found.path.relative_to(folder).as_posix()
        images.append(name)
        x, y = (rng.uniform(0, side * 2 / 3) for side in picture.size)
        w, h = (max(32, side // 3) for side in picture.size)
        detail = PIL.ImageOps.mirror(picture.crop((int(x), int(y), int(x) + w, int(y) + h)))
        detail = detail.resize((max(32, w * 2 // 3), max(32, h * 2 // 3))).point(lambda v: v * 0.7)
        detail.save(out / f"{len(images):05}.png")
        queries.append({"id": name, "image": f"{out / f'{len(images):05}.png'}", "positives": [name]})
    return {"name": "details", "images": images, "queries": rng.sample(queries, min(most, len(queries)))}


def main() -> None:
    """Index, measure, train, measure again."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photographs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--network", default="squeezenet1_0")
    parser.add_argument("--weights", default="")
    parser.add_argument("--details", type=int, default=100, help="how many are looked for")
    args, training = parser.parse_known_args()
    photographs, out = args.photographs.resolve(), args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    manifest = out / "details.json"
    manifest.write_text(json.dumps(details(photographs, out / "details", args.details)))
    weights = out / "mscnet.pth"

    options = ["--network", args.network, *training]
    for name, value in LEARNS_FAST.items():
        options += [] if f"--{name}" in training else [f"--{name}", value]
    options += ["--weights", args.weights] if args.weights else []
    print(instsearch("train", "mscnet", "--data", photographs, "--out", weights, *options))
    card = json.loads(weights.with_suffix(".json").read_text())

    extractor = [
        "--extractor",
        args.network,
        "--set",
        f"extractor.layer={card['used with']['extractor.layer']}",
    ]
    extractor += ["--weights", args.weights] if args.weights else []
    made = card["options"]
    shape = ["--set", f"encoder.masks={made['masks']}", "--set", f"encoder.projection={made['dims']}"]
    mscnet = ["--encoder", "mscnet", "--weighting", "none"]
    runs = {
        "CroW": ["--encoder", "crow", "--weighting", "crow"],
        "MSCNet, untrained": [*mscnet, *shape, "--set", "encoder.weights="],
        "MSCNet, trained": [*mscnet, "--set", f"encoder.weights={weights}"],
    }
    measured, pipelines = {}, {}
    for name, run in runs.items():
        where = ["--dataset", manifest, "--root", photographs, "--index", out / "index", "--keep-features"]
        report = json.loads(instsearch("eval", *where, *extractor, *run, "--json", "--quiet"))
        measured[name], pipelines[name] = report, run
    table = [f"{'':20}{'mAP':>8}{'first':>8}   of {len(measured['CroW']['queries'])} details"]
    for name, report in measured.items():
        table.append(f"{name:20}{report['metrics']['mAP']:8.3f}{report['metrics']['precision@1']:8.3f}")
    (out / "table.txt").write_text("\n".join(table) + "\n")
    print("\n".join(table))

    before, after = (measured[name]["queries"] for name in list(runs)[1:])
    gained = max(range(len(after)), key=lambda i: after[i]["ap"] - before[i]["ap"])
    query = next(q for q in json.loads(manifest.read_text())["queries"] if q["id"] == after[gained]["id"])
    for name, run in zip(("before", "after"), list(runs.values())[1:], strict=True):
        instsearch("index", "--index", out / "index", *extractor, *run, "--keep-features", "--quiet")
        instsearch("query", query["image"], "--index", out / "index", "-k", 8, "--sheet", out / f"{name}.png")
    print(f"the hits of a detail of {query['id']}: {out / 'before.png'} and {out / 'after.png'}")


if __name__ == "__main__":
    main()
