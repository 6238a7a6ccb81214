"""What `estimate` says against what a real run takes: time, bytes of each layer, time a question, memory.

python benchmarks/estimates.py --data DIR                     # 1,000 photographs of DIR, preset sift
python benchmarks/estimates.py --data DIR --images 5000       # more of them, half an hour
python benchmarks/estimates.py --data DIR --images 5000 --index INDEX    # from an index of some of them

Seconds of cores stand beside those of the clock: other programs that run meanwhile change them less.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import instsearch
from arguments import Parser, photographs
from instsearch_cli.measure.estimating import sizes_on_disk
from instsearch_cli.measure.trials import WARMING, tried
from instsearch_cli.progress import Quiet, make_progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from instsearch_cli.measure.forecast import Estimate


def measured(
    photos: list[Path], preset: str, questions: int, place: Path, progress: Quiet
) -> dict[str, float]:
    """What an index of the photographs took, by quantity."""
    index = str(place / "index")
    request = {"photographs": list(map(str, photos)), "choices": [{"preset": preset}]}
    made = tried("index", progress, index=index, **request, device="auto", label="really")
    wanted = photos[:: max(1, len(photos) // (questions + WARMING))][: questions + WARMING]
    asking = {"names": made["names"], "pictures": list(map(str, wanted)), "own": 0}
    answered = tried("ask", progress, index=index, **asking, device="auto", label="really")
    with instsearch.open(index) as opened:
        layers = sizes_on_disk(opened, made["names"])
    stages = {stage: 1000 * answered[stage] for stage in ("describe", "search", "rerank", "core")}
    return {
        "to index, s": made["process"],
        "to index, core s": made["core"],
        **{f"bytes of {name}": nbytes for name, nbytes in layers.items()},
        "bytes in all": sum(layers.values()),
        **{f"a question, {stage} ms": value for stage, value in stages.items()},
        "a question, ms": sum(stages.values()) - stages["core"],
        "memory of a warm process": answered["memory"] + answered["searched"],
    }


def estimated(done: Estimate) -> dict[str, float]:
    """The same of an estimate."""
    said = done.plain()
    query = said["query"]
    stages = {stage: 1000 * seconds for stage, seconds in query["stages"].items()}
    return {
        "to index, s": said["machine"]["seconds"],
        "to index, core s": said["machine"]["core_seconds"],
        **{f"bytes of {name}": line["bytes"] for name, line in said["on_disk"]["layers"].items()},
        "bytes in all": said["on_disk"]["bytes"],
        **{f"a question, {stage} ms": value for stage, value in stages.items()},
        "a question, core ms": 1000 * done.asking.core.at(done.images),
        "a question, ms": 1000 * query["seconds"],
        "memory of a warm process": said["memory"]["bytes"] + said["memory"]["mapped"],
    }


def compared(real: dict[str, float], paper: dict[str, float]) -> Iterator[str]:
    """A line a quantity."""
    yield f"{'':<28}{'measured':>16}{'estimated':>16}{'ratio':>8}"
    for name, value in real.items():
        yield f"{name:<28}{value:>16,.1f}{paper[name]:>16,.1f}{paper[name] / value:>8.2f}"


def main() -> None:
    parser = Parser(__doc__)
    parser.add_data()
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--preset", default="sift")
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument(
        "--index", type=Path, metavar="INDEX", help="an index to estimate from, by the preset"
    )
    parser.add_argument("--quiet", action=argparse.BooleanOptionalAction, default=False)
    options = parser.parse_args()
    progress = make_progress(options.quiet)
    few = {"questions": options.questions, "progress": progress}
    if options.index:
        with instsearch.open(options.index) as index:
            done = instsearch.estimate(options.images, index=index, **few)
    else:
        sample = options.data / "images"
        done = instsearch.estimate(options.images, sample=sample, preset=options.preset, **few)
    photos = photographs(options.data, options.images)
    with tempfile.TemporaryDirectory() as place:
        real = measured(photos, options.preset, options.questions, Path(place), progress)
    print(
        f"{len(photos):,} photographs, {options.preset}; load {done.load:.1f} on {done.cores} cores at first"
    )
    print("\n".join(compared(real, estimated(done))))


if __name__ == "__main__":
    main()
