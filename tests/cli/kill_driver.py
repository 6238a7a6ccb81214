"""Run by test_kill.py in a process of its own: kill `index` at random moments, resume, compare with a whole run.

Or, with other arguments, kill `add`, `remove`, `relocate` and `gc`, or `sync` and `restore`, at every fifth or seventh
of the moments before and after they write or remove a file (benchmarks/fuzz.py has all of them).

Every run is a fork of this process, which imports first what runs import, so that this is paid once.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from instsearch_cli.engine import intake, streaming
from instsearch_cli.engine.registry import load_registry
from instsearch_cli.main import run
from instsearch_formats import Index

FLAGS = [
    *("--preset", "sift", "--rerank", "none", "--quiet", "--json"),
    *("--set", "encoder.vocabulary=own", "--set", "encoder.words=64", "--set", "extractor.keypoints=60"),
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


def import_here(*commands: list[str]) -> None:
    """Import what these commands import, which a fork runs and tells: the forks that follow find it there."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        for command in commands:
            if run(command):
                os._exit(1)
        with os.fdopen(write, "w") as file:
            file.write("\n".join(sys.modules))
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        names = file.read().split("\n")
    _, status = os.waitpid(pid, 0)
    if status:
        raise SystemExit(f"{commands} ended with {status}")
    for name in names:
        with contextlib.suppress(Exception):  # parts of packages that only these can import
            importlib.import_module(name)
    load_registry()


def import_for(photos: Path, index: Path, flags: list[str]) -> None:
    """Import what it takes to make, ask and examine an index."""
    picture = str(next(photos.iterdir()))
    import_here(
        ["index", str(photos), "--index", str(index), *flags],
        ["query", picture, "--index", str(index), "--json"],
        ["verify", "--index", str(index), "--quiet"],
        ["gc", "--index", str(index)],
    )
    shutil.rmtree(index)


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


# -- kills at every event ---------------------------------------------------------------------------------


def killed_at(n: int, arguments: list[str]) -> bool:
    """Run a command that is killed before or after a renaming or removal, the n-th of these moments; whether it was."""
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        seen = 0

        def lethal(real: Callable[..., None]) -> Callable[..., None]:
            def call(*where: Any, **how: Any) -> None:
                nonlocal seen
                seen += 1
                if seen == n:
                    os.kill(os.getpid(), signal.SIGKILL)
                real(*where, **how)
                seen += 1
                if seen == n:
                    os.kill(os.getpid(), signal.SIGKILL)

            return call

        for name in ("replace", "unlink", "rmdir"):
            setattr(os, name, lethal(getattr(os, name)))
        os._exit(run(arguments))
    _, status = os.waitpid(pid, 0)
    if not os.WIFSIGNALED(status) and status:
        raise SystemExit(f"{arguments} ended with {status}")
    return os.WIFSIGNALED(status)


def output(arguments: list[str]) -> Any:
    """What a command prints as JSON, run in a fork."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(write, 1)
        os._exit(run(arguments))
    os.close(write)
    with os.fdopen(read) as file:
        text = file.read()
    _, status = os.waitpid(pid, 0)
    if status:
        raise SystemExit(f"{arguments} ended with {status}: {text}")
    return json.loads(text)


def answers(index: Path, pictures: list[Path]) -> list[Any]:
    """What an index answers to some pictures, as people see it."""
    asked = [output(["query", str(p), "--index", str(index), "--json", "-k", "40"]) for p in pictures]
    return [[(hit["image"], hit["score"], hit["box"]) for hit in answer["hits"]] for answer in asked]


def at_events(
    index: Path, work: Path, command: list[str], pictures: list[Path], moments: range
) -> dict[str, int]:
    """Kill a command at some moments: the answer is of before or of after, and the command repeated ends well."""
    before, whole = answers(index, pictures), work / "whole"
    shutil.rmtree(whole, ignore_errors=True)
    shutil.copytree(index, whole)
    finish([word.replace("INDEX", str(whole)) for word in command])
    after, expected, counts = answers(whole, pictures), contents(whole), {"before": 0, "after": 0}
    for n in moments:
        killed = work / "killed"
        shutil.rmtree(killed, ignore_errors=True)
        shutil.copytree(index, killed)
        there = [word.replace("INDEX", str(killed)) for word in command]
        if not killed_at(n, there):
            break
        now = answers(killed, pictures)
        assert now in (before, after), f"{command} killed at {n}: {now} is neither {before} nor {after}"
        counts["before" if now == before else "after"] += 1
        finish(there)
        assert answers(killed, pictures) == after, f"{command} killed at {n}: another answer in the end"
        finish(["verify", "--index", str(killed), "--quiet"])
        finish(["gc", "--index", str(killed)])
        resumed = contents(killed)
        assert resumed.keys() == expected.keys(), (
            f"{command} killed at {n}: {resumed.keys() ^ expected.keys()}"
        )
        for key, array in expected.items():
            assert np.array_equal(array, resumed[key]), f"{command} killed at {n}: {key} differs"
        live = Index.open(killed).images
        names = [(r.root, r.name) for row, r in live.records() if live.alive()[row]]
        assert len(names) == len(set(names)), f"{command} killed at {n}: a file has two rows"
        assert not (killed / "replacing.json").exists()
    return counts


def events(photos: Path, work: Path) -> None:
    """Kills of the commands that change what is answered; two photographs change, and one is new."""
    torch.set_num_threads(1)
    streaming.WORKERS = 1
    flags = ["--extractor", "cells", "--encoder", "centred", "--weighting", "flat", "--quiet"]
    report = {}
    import_for(photos, work / "first", [*flags, "--searcher", "faiss"])
    for searcher in ("faiss", "scan"):
        finish(["index", str(photos), "--index", str(work / searcher), *flags, "--searcher", searcher])
    pictures = [work / "old.png", photos / "09.png"]
    shutil.copy(photos / "00.png", pictures[0])
    for new in (work / "new").iterdir():
        shutil.copy(new, photos)
    for first, searcher in enumerate(("faiss", "scan"), 1):
        command = ["add", str(photos), "--index", "INDEX", "--quiet"]
        moments = range(first, 1000, 5)
        report[f"add {searcher}"] = at_events(work / searcher, work, command, pictures, moments)
    (work / "faiss" / "scratch" / "left" / "deep").mkdir(parents=True)
    for command in (["remove", "03.png"], ["relocate", str(photos), str(work)], ["gc"]):
        whole = [*command, "--index", "INDEX"]
        moments = range(1, 1000, 5)
        report[command[0]] = at_events(work / "faiss", work, whole, pictures[:1], moments)
    print(json.dumps(report))


def folders_that_changed(photos: Path, work: Path) -> None:
    """Kills of `sync`, where files came, went, changed, were renamed and exchanged names, and of `restore`."""
    torch.set_num_threads(1)
    streaming.WORKERS = 1
    flags = ["--extractor", "cells", "--encoder", "centred", "--weighting", "flat", "--quiet"]
    import_for(photos, work / "first", [*flags, "--searcher", "faiss"])
    for searcher in ("faiss", "scan"):
        finish(["index", str(photos), "--index", str(work / searcher), *flags, "--searcher", searcher])
    pictures = [work / "old.png", photos / "05.png", work / "new" / "new.png"]
    shutil.copy(photos / "01.png", pictures[0])
    (photos / "00.png").unlink()
    for new in (work / "new").iterdir():
        shutil.copy(new, photos)
    for old, new_name in (("02", "moved"), ("03", "aside"), ("04", "03"), ("aside", "04"), ("06", "07")):
        (photos / f"{old}.png").rename(photos / f"{new_name}.png")
    os.link(photos / "05.png", photos / "zz.png")
    report = {}
    for first, searcher in enumerate(("faiss", "scan"), 1):
        command, moments = ["sync", "--index", "INDEX", "--quiet"], range(first, 1000, 7)
        report[f"sync {searcher}"] = at_events(work / searcher, work, command, pictures, moments)
        finish(["remove", str(photos), "--index", str(work / searcher)])
        command = ["restore", "--all", "--index", "INDEX", "--quiet"]
        moments = range(1, 1000)
        report[f"restore {searcher}"] = at_events(work / searcher, work, command, pictures[1:2], moments)
    print(json.dumps(report))


def main(photos: Path, work: Path, kills: int, seed: int) -> None:
    torch.set_num_threads(1)
    intake.RANGE = 8
    streaming.WORKERS = 1
    whole = work / "whole"
    import_for(photos, work / "first", FLAGS)
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


if __name__ == "__main__" and sys.argv[3:] == ["events"]:
    events(Path(sys.argv[1]), Path(sys.argv[2]))
elif __name__ == "__main__" and sys.argv[3:] == ["sync"]:
    folders_that_changed(Path(sys.argv[1]), Path(sys.argv[2]))
elif __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
