"""What a run costs: memory as the collection grows, bytes an image, what a second weighting writes, start-up.

python benchmarks/resources.py memory --data DIR                  # peak memory of `index`, few images and many
python benchmarks/resources.py bytes --data DIR --weights FILE    # bytes an image of every layer, and raw features
python benchmarks/resources.py rerun --data DIR --weights FILE    # a second weighting: time, and what it writes
python benchmarks/resources.py start                              # `instsearch --help` against `python -c pass`
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from arguments import Parser

PROGRAM = [sys.executable, "-m", "instsearch_cli.main"]


def instsearch(*arguments: object) -> tuple[float, int, str]:
    """Run a command; returns (seconds, peak resident bytes, standard output)."""
    began = time.perf_counter()
    process = subprocess.Popen([*PROGRAM, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
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


def memory(data: Path, work: Path, flags: list[str]) -> None:
    peaks = {}
    for manifest in ("manifest-mini.json", "manifest.json"):
        photos = subset(data, manifest, work / Path(manifest).stem)
        n = len(list(photos.iterdir()))
        shutil.rmtree(work / "memory", ignore_errors=True)
        seconds, peaks[n], _ = instsearch("index", photos, "--index", work / "memory", *flags)
        print(f"{n:>6,} images  {peaks[n] / 1e6:>8,.0f} MB peak  {n / seconds:>6.1f} images/s", flush=True)
    low, high = (peaks[n] for n in sorted(peaks))
    print(f"difference {(high - low) / 1e6:,.0f} MB (under 200 wanted)")


def bytes_an_image(data: Path, work: Path, flags: list[str]) -> None:
    photos = subset(data, "manifest-mini.json", work / "manifest-mini")
    instsearch("index", photos, "--index", work / "bytes", "--keep-features", *flags)
    info = json.loads(instsearch("info", "--index", work / "bytes", "--json")[2])
    for layer in info["layers"]:
        print(
            f"{layer['kind']:<10} {layer['encoding']:<11} {layer['bytes'] / layer['rows']:>12,.0f} bytes an image"
        )


def rerun(data: Path, work: Path, flags: list[str]) -> None:
    photos = subset(data, "manifest-mini.json", work / "manifest-mini")
    index = work / "rerun"
    shutil.rmtree(index, ignore_errors=True)
    instsearch("extract", photos, "--index", index, *flags[:4])
    first, _, _ = instsearch("index", "--index", index, *flags, "--weighting", "none")
    before = tree(index)
    second, _, _ = instsearch("index", "--index", index, *flags, "--weighting", "l2norm")
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
    parser = Parser(__doc__)
    tasks = {"memory": memory, "bytes": bytes_an_image, "rerun": rerun, "start": start}
    parser.add_argument("task", choices=tasks)
    parser.add_data("manifest-mini.json", "manifest.json", required=False)
    parser.add_weights(required=False)
    parser.add_argument("--work", type=Path, default=Path("out/resources"))
    options, flags = parser.parse_known_args()  # what is not known here goes to `index`
    blcf = ["--extractor", "squeezenet1_0", "--encoder", "blcf", "--set", "encoder.words=10000"]
    flags = flags or (["--preset", "sift"] if options.task == "memory" else blcf)
    if options.task == "start":
        start()
        return
    if options.data is None:
        parser.error(f"{options.task} needs --data")
    if options.task != "memory":
        if options.weights is None:
            parser.error(f"{options.task} needs --weights")
        flags = [*flags[:2], "--weights", str(options.weights), *flags[2:]]
    options.work.mkdir(parents=True, exist_ok=True)
    tasks[options.task](options.data, options.work, flags)


if __name__ == "__main__":
    main()
