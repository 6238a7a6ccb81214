"""Workers of Ray killed while they make an index: is it the same, and what is done again.

    python benchmarks/ray_kills.py [--runs 20] [--images 1024] [--workers 2] [--seed 0] [--folder DIR]

Scenes are drawn and indexed on this machine first; a network of random weights then makes codes, in parts of 256.
Each run makes these again with Ray, while half of its workers, and in the last run this process's, are killed at random
moments by SIGKILL. Every file of the index is then compared with that of this machine. Prints a line a run.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
import torchvision
from rich.console import Console
from rich.table import Table

import instsearch

INDEX = (sys.executable, "-m", "instsearch_cli.main", "index", "--quiet")
MAPS = (
    "--extractor",
    "squeezenet1_0",
    "--encoder",
    "sum",
    "--name",
    "maps",
    "--set",
    "extractor.max-size=128",
)
AGAIN = re.compile(r"(\d+) ranges? of rows given out again")
LONGEST = 600  #: seconds of a run


def workers_of(process: int) -> list[int]:
    """The processes of Ray below one that work on a task."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            title = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if title.startswith((b"ray::make", b"ray::look")) and _below(int(folder.name), process):
            found.append(int(folder.name))
    return found


def _below(pid: int, ancestor: int) -> bool:
    while pid > 1:
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
        if pid == ancestor:
            return True
    return False


def killing(process: subprocess.Popen[bytes], rng: random.Random, most: int, done: list[int]) -> None:
    """Kill a worker every few seconds, ``most`` in all."""
    while process.poll() is None and len(done) < most:
        time.sleep(rng.uniform(0.5, 3))
        there = workers_of(process.pid)
        if there:
            victim = rng.choice(there)
            try:
                os.kill(victim, signal.SIGKILL)
                done.append(victim)
            except OSError:
                continue


def same(one: Path, other: Path) -> bool:
    """Whether every HDF5 file of two indexes is the same."""
    files = [sorted(p.relative_to(i) for p in i.rglob("*.h5")) for i in (one, other)]
    return files[0] == files[1] and all((one / n).read_bytes() == (other / n).read_bytes() for n in files[0])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary one)")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        folder = Path(temporary)
        instsearch.demo(folder / "scenes", n=args.images)
        torch.manual_seed(0)
        torch.save(torchvision.models.squeezenet1_0().state_dict(), folder / "net.pth")
        maps = (*MAPS, "--weights", str(folder / "net.pth"))
        images = str(folder / "scenes" / "images")
        subprocess.run(
            [*INDEX, images, "--index", str(folder / "here")], check=True, stdout=subprocess.DEVNULL
        )
        shutil.copytree(folder / "here", folder / "base")
        began = time.perf_counter()
        subprocess.run(
            [*INDEX, "--index", str(folder / "here"), *maps], check=True, stdout=subprocess.DEVNULL
        )
        alone = time.perf_counter() - began
        table = Table(title=f"{args.images:,} images, {alone:.0f} s on this machine alone")
        for column in ("run", "killed", "done again", "this process", "seconds", "parts"):
            table.add_column(column, justify="right")
        for run in range(args.runs):
            there = folder / f"there-{run}"
            shutil.copytree(folder / "base", there)
            command = [
                *(word for word in INDEX if word != "--quiet"),
                "--index",
                str(there),
                *maps,
                "--engine",
                "ray",
                "--workers",
                str(args.workers),
            ]
            last, done, began = run == args.runs - 1, list[int](), time.perf_counter()
            said = (folder / "said").open("w+")
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
            killer = threading.Thread(target=killing, args=(process, rng, max(1, args.workers // 2), done))
            killer.start()
            if last:
                time.sleep(rng.uniform(5, 5 + alone))
                process.kill()
                process.wait()
                process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
            try:
                status = process.wait(LONGEST)
            except subprocess.TimeoutExpired:
                process.kill()
                status = -1
            killer.join()
            took = time.perf_counter() - began
            how = "same" if status == 0 and same(folder / "here", there) else f"OTHERS (status {status})"
            said.seek(0)
            again = sum(map(int, AGAIN.findall(said.read())))
            said.close()
            killed = "killed" if last else ""
            table.add_row(str(run + 1), str(len(done)), str(again), killed, f"{took:.0f}", how)
            shutil.rmtree(there)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
