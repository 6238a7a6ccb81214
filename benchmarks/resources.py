"""What a run costs: memory as the collection grows, bytes an image, what a second weighting writes, start-up.

python benchmarks/resources.py memory     # peak memory of `index` at 1,000 and at 5,000 images
python benchmarks/resources.py bytes      # bytes an image of every layer, beside the raw features
python benchmarks/resources.py rerun      # a second weighting after `extract`: time, and what it writes
python benchmarks/resources.py start      # `instsearch --help` against `python -c pass`
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

SHARED = Path(__file__).parents[2] / "shared"
PROGRAM = [sys.executable, "-m", "instsearch_cli.main"]


def instsearch(*arguments: object, weights: Path) -> tuple[float, int, str]:
    """Run a command; returns (seconds, peak resident bytes, standard output)."""
    environment = {**os.environ, "INSTSEARCH_WEIGHTS": str(weights), "INSTSEARCH_OFFLINE": "1"}
    began = time.perf_counter()
    process = subprocess.Popen(
        [*PROGRAM, *map(str, arguments)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{arguments[0]} failed")
    return time.perf_counter() - began, usage.ru_maxrss * 1024, output


def subset(data: Path, manifest: str, folder: Path) -> Path:
    """A folder of hard links to a manifest's images."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in json.loads((data / manifest).read_text())["images"]:
        target = folder / Path(name).name
        if not target.exists():
            shutil.copyfile(data / name, target)
    return folder


def tree(index: Path) -> dict[Path, tuple[int, int]]:
    return {p: (p.stat().st_size, p.stat().st_mtime_ns) for p in index.rglob("*") if p.is_file()}


def memory(data: Path, weights: Path, work: Path, flags: list[str]) -> None:
    peaks = {}
    for manifest in ("manifest-mini.json", "manifest.json"):
        photos = subset(data, manifest, work / Path(manifest).stem)
        n = len(list(photos.iterdir()))
        shutil.rmtree(work / "memory", ignore_errors=True)
        seconds, peaks[n], _ = instsearch(
            "index", photos, "--index", work / "memory", *flags, weights=weights
        )
        print(f"{n:>6,} images  {peaks[n] / 1e6:>8,.0f} MB peak  {n / seconds:>6.1f} images/s", flush=True)
    low, high = (peaks[n] for n in sorted(peaks))
    print(f"difference {(high - low) / 1e6:,.0f} MB (under 200 wanted)")


def bytes_an_image(data: Path, weights: Path, work: Path, flags: list[str]) -> None:
    photos = subset(data, "manifest-mini.json", work / "manifest-mini")
    instsearch("index", photos, "--index", work / "bytes", "--keep-features", *flags, weights=weights)
    info = json.loads(instsearch("info", "--index", work / "bytes", "--json", weights=weights)[2])
    for layer in info["layers"]:
        print(
            f"{layer['kind']:<10} {layer['encoding']:<11} {layer['bytes'] / layer['rows']:>12,.0f} bytes an image"
        )


def rerun(data: Path, weights: Path, work: Path, flags: list[str]) -> None:
    photos = subset(data, "manifest-mini.json", work / "manifest-mini")
    index = work / "rerun"
    shutil.rmtree(index, ignore_errors=True)
    instsearch("extract", photos, "--index", index, *flags[:2], weights=weights)
    first, _, _ = instsearch("index", "--index", index, *flags, "--weighting", "none", weights=weights)
    before = tree(index)
    second, _, _ = instsearch("index", "--index", index, *flags, "--weighting", "l2norm", weights=weights)
    written = {p.relative_to(index).parts[0] for p, facts in tree(index).items() if before.get(p) != facts}
    print(
        f"first index run {first:.1f} s, another weighting {second:.1f} s: {first / second:.1f} times faster"
    )
    print(f"written: {', '.join(sorted(written))}")


def start(**_: object) -> None:
    def median(command: list[str]) -> float:
        times = []
        for _ in range(21):
            began = time.perf_counter()
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            times.append(time.perf_counter() - began)
        return sorted(times)[10]

    script = Path(sys.executable).parent / "instsearch"
    bare, program = median([sys.executable, "-c", "pass"]), median([str(script), "--help"])
    print(
        f"python -c pass {1000 * bare:.0f} ms, instsearch --help {1000 * program:.0f} ms: {program / bare:.1f} times"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    tasks = {"memory": memory, "bytes": bytes_an_image, "rerun": rerun, "start": start}
    parser.add_argument("task", choices=tasks)
    parser.add_argument("--data", type=Path, default=SHARED / "data" / "instre5k")
    parser.add_argument("--weights", type=Path, default=SHARED / "weights")
    parser.add_argument("--work", type=Path, default=Path("out/resources"))
    options, flags = parser.parse_known_args()  # what is not known here goes to `index`
    default = {
        "memory": ["--preset", "sift"],
        "bytes": ["--extractor", "squeezenet1_0", "--encoder", "blcf", "--set", "encoder.words=10000"],
        "rerun": ["--extractor", "squeezenet1_0", "--encoder", "blcf", "--set", "encoder.words=10000"],
    }
    if options.task == "start":
        start()
        return
    options.work.mkdir(parents=True, exist_ok=True)
    tasks[options.task](options.data, options.weights, options.work, flags or default[options.task])


if __name__ == "__main__":
    main()
