"""What each default of preset `sift` is worth: every other value of one option at a time.

    python benchmarks/sift_defaults.py --data DIR                  # manifest-ext's queries over manifest-mini's images
    python benchmarks/sift_defaults.py --data DIR --only assign    # rows with this in their name
    python benchmarks/sift_defaults.py --data DIR --images manifest-ext.json    # over 5,000 images, hours

Each row is an `instsearch eval --preset sift --absent`; rows of options that an index holds (keypoints, words) make
layers of their own in --work. found is the share of queries whose object is found at the score at which 5 % of those
without find one; the images of unlabelled.json count for neither. ms is the median of a whole query, encoding included.
"""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from arguments import Parser
from evaluating import evaluate, unlabelled

VALUES: dict[str, tuple[object, ...]] = {
    "extractor.keypoints": (500, 1500),
    "extractor.contrast-threshold": (0.02,),
    "extractor.at-least": (300,),
    "extractor.spread": (4,),
    "encoder.words": (5000, 20000),
    "searcher.ht": (24, 28, 32, 36),
    "searcher.sigma": (16, 24),
    "searcher.assign": (1, 2, 5),
    "searcher.assign-ratio": (1.1, 1.2),
    "searcher.burstiness": ("none", "inter", "both"),
    "searcher.wgc": ("false",),
    "searcher.verify": (100, 400),
    "searcher.min-inliers": (3, 6),
    "searcher.tolerance": (0.02, 0.08),
    "rerank.verified-qe.depth": (5, 20),
    "rerank.verified-qe.min-weight": (0.75, 3),
    "rerank.verified-qe.ht": (28, 32),
}
ROWS = [("preset sift", []), ("--rerank none", ["--rerank", "none"]), ("--refine", ["--refine"])] + [
    (f"{option}={value}", ["--set", f"{option}={value}"])
    for option, values in VALUES.items()
    for value in values
]
COLUMNS = ("mAP", "precision@1", "localised@10", "found at 5% false")


def manifest(data: Path, queries: str, images: str, out: Path) -> Path:
    """The queries of one manifest over the images of another, less what shows an object unlabelled."""
    asked = json.loads((data / queries).read_text())["queries"]
    shown = json.loads((data / images).read_text())["images"]
    there = set(shown)
    for query in asked:
        query["image"] = str((data / query["image"]).resolve())
        query["positives"] = [name for name in query["positives"] if name in there]
        query["junk"] = sorted({*query.get("junk", []), *unlabelled(query["id"])} & there)
        query["exclude"] = [name for name in query.get("exclude", []) if name in there]
    asked = [query for query in asked if query["positives"]]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"name": out.stem, "images": shown, "queries": asked}))
    return out


def main() -> None:
    parser = Parser(__doc__)
    parser.add_data("manifest-ext.json", "manifest-mini.json", "boxes.csv")
    parser.add_argument("--queries", default="manifest-ext.json")
    parser.add_argument("--images", default="manifest-mini.json")
    parser.add_argument("--work", type=Path, default=Path("out/sift-defaults"))
    parser.add_argument("--only", help="rows with this in their name")
    args = parser.parse_args()
    dataset = manifest(args.data, args.queries, args.images, args.work / "queries.json")
    where = ["--dataset", dataset, "--root", args.data, "--boxes", args.data / "boxes.csv"]
    where += ["--index", args.work / "index", "--preset", "sift", "--absent", "--keep-features"]
    table = Table(title=f"{args.queries} over {args.images}")
    for column in ("", *(name.replace("@", " at ") for name in COLUMNS), "ms"):
        table.add_column(column, no_wrap=True)
    console = Console(width=110)
    for name, flags in ROWS:
        if args.only and args.only not in name:
            continue
        report = evaluate(*where, *flags)
        numbers = [report["metrics"][column] for column in COLUMNS]
        row = ["n/a" if number is None else f"{number:.3f}" for number in numbers]
        row.append(f"{1e3 * report['timing']['median seconds']:.0f}")
        console.print(name, *row, style="dim")
        table.add_row(name, *row)
    console.print(table)


if __name__ == "__main__":
    main()
