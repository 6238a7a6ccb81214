"""Run by test_kill.py in a process of its own: kill `index` at random moments, resume, compare with a whole run.

Every run is a fork of this process, so that the imports are paid once.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch

from instsearch_cli.engine import intake, streaming
from instsearch_cli.main import run
from instsearch_formats import Index

FLAGS = [
    *("--preset", "sift", "--rerank", "none", "--quiet", "--json"),
    *("--set", "encoder.words=64", "--set", "extractor.keypoints=60"),
]


def child(arguments: list[str]) -> int:
    """Start a command in a fork; returns its process."""
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os._exit(run(arguments))
    return pid


def finish(arguments: list[str]) -> None:
    _, status = os.waitpid(child(arguments), 0)
    if status:
        raise SystemExit(f"{arguments} ended with {status}")


def contents(path: Path) -> dict[str, np.ndarray]:
    """Every array of an index, by where it lies."""
    index = Index.open(path)
    arrays = {}
    for row, record in index.images.records():
        arrays[f"images/{row}"] = np.frombuffer(repr(record).encode(), np.uint8)
    for info in index.layers():
        layer = index.layer(info.kind, info.name, info.encoding, info.identity)
        if info.encoding == "arrays":
            for span in layer.cover(len(index.images)):
                arrays |= {f"{info.path}/{span}/{k}": np.array(v) for k, v in layer.arrays(span).items()}
            continue
        for row in range(len(index.images)):
            arrays |= {f"{info.path}/{row}/{k}": np.asarray(v) for k, v in layer.read(row).items()}
    for model in index.models():
        found = index.read_model(model.name, model.identity)
        assert found is not None
        arrays |= {f"{model.path}/{k}": v for k, v in found[0].items()}
    return arrays


def main(photos: Path, work: Path, kills: int, seed: int) -> None:
    torch.set_num_threads(1)
    intake.RANGE = 8
    streaming.WORKERS = 1
    whole = work / "whole"
    began = time.monotonic()
    finish(["index", str(photos), "--index", str(whole), *FLAGS])
    took = time.monotonic() - began
    expected = contents(whole)
    rng = random.Random(seed)
    killed = 0
    for i in range(kills):
        index = work / "killed"
        shutil.rmtree(index, ignore_errors=True)
        command = ["index", str(photos), "--index", str(index), *FLAGS]
        pid = child(command)
        time.sleep(rng.uniform(0, took))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        killed += os.WIFSIGNALED(status)
        finish(command)
        finish(["verify", "--index", str(index), "--quiet"])
        finish(["gc", "--index", str(index)])
        resumed = contents(index)
        assert resumed.keys() == expected.keys(), f"kill {i}: {resumed.keys() ^ expected.keys()}"
        for key, array in expected.items():
            assert np.array_equal(array, resumed[key]), f"kill {i}: {key} differs"
        files = {str(p.relative_to(index)) for p in index.rglob("*") if p.is_file()}
        wanted = {str(p.relative_to(whole)) for p in whole.rglob("*") if p.is_file()}
        assert files == wanted, f"kill {i}: {files ^ wanted}"
    print(json.dumps({"killed": killed, "of": kills, "arrays": len(expected)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
