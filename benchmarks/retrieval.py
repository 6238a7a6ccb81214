"""Retrieval and localisation on real photographs, one row a pipeline, through the command line.

    python benchmarks/retrieval.py --data DIR --weights FILE     # every row: about an hour on two cores
    python benchmarks/retrieval.py --data DIR --only sift        # the default pipeline on manifest-mini's images
    python benchmarks/retrieval.py --data DIR --weights FILE --only squeezenet1_0

Indexes are kept in --work, so that a second run only asks.
"""

from __future__ import annotations

from pathlib import Path

from arguments import Parser
from evaluating import evaluate

BLCF = ("--extractor", "squeezenet1_0", "--encoder", "blcf", "--set", "encoder.words=10000")
ROWS: list[tuple[str, str, str, tuple[str, ...], float | None]] = [
    # group, manifest, label, flags, floor
    ("sift", "manifest-mini.json", "sift, blcf", ("--preset", "sift", "--rerank", "none"), 0.35),
    (
        "sift",
        "manifest-mini.json",
        "sift, blcf, geometric",
        ("--preset", "sift", "--rerank", "geometric"),
        0.45,
    ),
    ("sift5k", "manifest.json", "sift, blcf, geometric", ("--preset", "sift", "--rerank", "geometric"), None),
    ("squeezenet1_0", "manifest.json", "none", (*BLCF, "--weighting", "none", "--rerank", "none"), 0.38),
    (
        "squeezenet1_0",
        "manifest.json",
        "gaussian",
        (*BLCF, "--weighting", "gaussian", "--rerank", "none"),
        0.46,
    ),
    ("squeezenet1_0", "manifest.json", "l2norm", (*BLCF, "--weighting", "l2norm", "--rerank", "none"), 0.50),
    (
        "squeezenet1_0",
        "manifest.json",
        "l2norm, aqe",
        (*BLCF, "--weighting", "l2norm", "--rerank", "aqe"),
        0.60,
    ),
    (
        "squeezenet1_0",
        "manifest.json",
        "sum, none",
        ("--extractor", "squeezenet1_0", "--encoder", "sum", "--weighting", "none", "--rerank", "none"),
        None,
    ),
    (
        "squeezenet1_0",
        "manifest.json",
        "mac, none",
        ("--extractor", "squeezenet1_0", "--encoder", "mac", "--weighting", "none", "--rerank", "none"),
        None,
    ),
]


def main() -> None:
    parser = Parser(__doc__)
    parser.add_data("manifest-mini.json", "manifest.json")
    parser.add_weights(required=False)
    parser.add_argument("--work", type=Path, default=Path("out/retrieval"), help="where the indexes are kept")
    parser.add_argument("--only", help="one group of rows")
    options = parser.parse_args()
    if options.weights is None and options.only in (None, "squeezenet1_0"):
        parser.error("rows of squeezenet1_0 need --weights")
    print(
        f"{'pipeline':<22} {'manifest':<20} {'mAP':>6} {'floor':>6} {'loc@10':>7} {'IoU':>6} {'hits':>5} {'ms/q':>6}"
    )
    for group, manifest, label, flags, floor in ROWS:
        if options.only and options.only != group:
            continue
        where = ("--dataset", options.data / manifest, "--index", options.work / group, "--keep-features")
        weights = ("--weights", options.weights) if group == "squeezenet1_0" else ()
        report = evaluate(*where, *flags, *weights)
        m = {name: float("nan") if value is None else value for name, value in report["metrics"].items()}
        print(
            f"{label:<22} {manifest:<20} {m['mAP']:>6.3f} {floor or '':>6} {m.get('localised@10', float('nan')):>7.3f} "
            f"{m.get('mean IoU@10', float('nan')):>6.3f} {m.get('annotated true hits@10', 0):>5} "
            f"{1000 * report['timing']['median seconds']:>6.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
