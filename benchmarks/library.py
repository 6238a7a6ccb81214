"""What an open index saves: many questions to one engine against as many commands, and a second question's time.

    python benchmarks/library.py --data DIR                                   # 100 questions, 3 commands timed
    python benchmarks/library.py --data DIR --manifest manifest-mini.json     # fewer photographs

The ratio is between the mean time of a command (a process: imports, opening, one question) and the time of a question
among many to an index that is opened in the same run, opening included. Of a second question the share that the
extractor's keypoints take is measured beside it, on the same picture.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import instsearch
from arguments import Parser
from instsearch_cli.images import Photograph

if TYPE_CHECKING:
    import argparse


def questions(args: argparse.Namespace) -> list[tuple[Path, list[float] | None]]:
    """As many as asked for, the manifest's over and over."""
    asked = json.loads((args.data / args.manifest).read_text())["queries"]
    some = itertools.islice(itertools.cycle(asked), args.questions)
    return [(args.data / entry["image"], entry["box"]) for entry in some]


def command_seconds(args: argparse.Namespace, asked: list[tuple[Path, list[float] | None]]) -> float:
    """The mean time of a command, over ``--commands`` of them."""
    taken = []
    for picture, box in asked[: args.commands]:
        flags = [] if box is None else ["--box", ",".join(map(str, box))]
        program = [
            sys.executable,
            "-m",
            "instsearch_cli.main",
            "query",
            str(picture),
            "--index",
            str(args.index),
        ]
        began = time.perf_counter()
        subprocess.run([*program, *flags, "--json"], check=True, stdout=subprocess.DEVNULL)
        taken.append(time.perf_counter() - began)
    return float(np.mean(taken))


def second(index: instsearch.Index, asked: list[tuple[Path, list[float] | None]]) -> tuple[float, float]:
    """The median time of a question to a warm index, and of its picture's features alone."""
    engine = index.engine()
    index.query(*asked[0])
    whole, features = [], []
    for picture, box in asked[1:20]:
        began = time.perf_counter()
        index.query(picture, box)
        whole.append(time.perf_counter() - began)
        began = time.perf_counter()
        image = Photograph(picture).read(engine.assembly.extractor.component.fit_size)
        engine.assembly.extractor.component.extract([image])
        features.append(time.perf_counter() - began)
    return float(np.median(whole)), float(np.median(features))


def main() -> None:
    parser = Parser(__doc__)
    parser.add_data("manifest.json")
    parser.add_argument("--manifest", default="manifest.json", help="of --data")
    parser.add_argument("--index", type=Path, help="an index of its images (default: made in out/)")
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--commands", type=int, default=3)
    args = parser.parse_args()
    args.index = args.index or Path("out") / f"library-{Path(args.manifest).stem}"
    manifest = json.loads((args.data / args.manifest).read_text())
    index = instsearch.create(args.index)
    if index.last is None:
        index.index([args.data / name for name in manifest["images"]])
    asked = questions(args)
    each = command_seconds(args, asked)
    began = time.perf_counter()
    with instsearch.open(args.index) as warm:
        answers = warm.query_many(asked)
    many = time.perf_counter() - began
    whole, features = second(index, asked)
    print(f"{len(index):,} photographs, pipeline {index.last}, {len(asked)} questions, features not ready")
    print(f"  a command            {each:8.3f} s   (mean of {args.commands})")
    print(f"  a question of many   {many / len(asked):8.4f} s   opening included")
    print(f"                       {len(asked) * each / many:8.1f}     times as fast")
    print(f"  a second question    {whole:8.4f} s")
    print(f"    of it the features {features:8.4f} s   reading and extracting: {features / whole:.0%}")
    print(f"  found something      {sum(answer.found for answer in answers):8d}")


if __name__ == "__main__":
    main()
