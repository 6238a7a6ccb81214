"""What weightings gain over none, on objects that nothing was chosen on: five splits of the objects.

python benchmarks/gains.py [NAME[:OPTION=VALUE,...]...] --data DIR --weights FILE [--words N] [--work DIR]

Every row is `instsearch eval` of `blcf` with one weighting, on the queries of both manifests; the queries of one
object share their positives. A split's gain is the mean over its objects of the mean over each object's queries.
The last row takes for each split the weighting that gains most in the others. Indexes are kept in --work.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from arguments import Parser
from evaluating import evaluate

if TYPE_CHECKING:
    from collections.abc import Sequence

MANIFESTS = ("manifest.json", "manifest-ext.json")
SPLITS = 5


def objects(manifests: Sequence[Path]) -> dict[tuple[str, str], frozenset[str]]:
    """The object of each query, by the name of its manifest and its id: all pictures that show it."""
    of = {}
    for path in manifests:
        for query in json.loads(path.read_text("utf-8"))["queries"]:
            shown = frozenset(query["positives"]) | frozenset(query.get("exclude", ()))
            of[path.name, query["id"]] = shown
    return of


def split_gains(ap: np.ndarray, none: np.ndarray, of: Sequence[frozenset[str]]) -> np.ndarray:
    """The mean gain over the objects of each split: f64[SPLITS].

    Objects are dealt to the splits in turn, in the order of their queries. ap, none: f64[Q]; of: of each query.
    """
    gain = ap - none
    each = [gain[[other == shown for other in of]].mean() for shown in dict.fromkeys(of)]
    return np.array([np.mean(each[split::SPLITS]) for split in range(SPLITS)])


def chosen_elsewhere(gains: np.ndarray) -> np.ndarray:
    """Each split's gain of what gains most in the others: f64[V, SPLITS] -> f64[SPLITS]."""
    others = gains.sum(1, keepdims=True) - gains
    return np.take_along_axis(gains, others.argmax(0)[None], 0)[0]


def main() -> None:
    """Print a table."""
    parser = Parser(__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        default=["gaussian", "l2norm", "l2norm:stretch=false", "bms", "bms:width=none"],
        metavar="NAME",
    )
    parser.add_data(*MANIFESTS)
    parser.add_weights()
    parser.add_argument("--words", type=int, default=10_000, help="size of the vocabulary")
    parser.add_argument("--work", type=Path, default=Path("out/gains"), help="where the index is kept")
    args = parser.parse_args()
    of = objects([args.data / name for name in MANIFESTS])
    blcf = ("--extractor", "squeezenet1_0", "--encoder", "blcf", "--set", f"encoder.words={args.words}")
    where = ("--index", args.work, "--keep-features", "--weights", args.weights, "--rerank", "none")

    def precisions(name: str) -> tuple[np.ndarray, list[float]]:
        weighting, _, options = name.partition(":")
        flags = [f for text in options.split(",") if text for f in ("--set", f"weighting.{text}")]
        reports = [
            evaluate("--dataset", args.data / manifest, *where, *blcf, "--weighting", weighting, *flags)
            for manifest in MANIFESTS
        ]
        found = {
            (manifest, query["id"]): query["ap"]
            for manifest, report in zip(MANIFESTS, reports, strict=True)
            for query in report["queries"]
        }
        return np.array([found[key] for key in of]), [report["metrics"]["mAP"] for report in reports]

    splits = "".join(f"{f'split {i + 1}':>9}" for i in range(SPLITS))
    print(f"{'weighting':<34}{'mAP':>7}{'ext':>7}{'gain':>8}{'worst':>8}{splits}")
    none, means = precisions("none")
    print(f"{'none':<34}{means[0]:7.3f}{means[1]:7.3f}", flush=True)
    table = []
    for name in args.names:
        ap, means = precisions(name)
        table.append(split_gains(ap, none, list(of.values())))
        row(name, means, table[-1])
    if len(table) > 1:
        row("chosen on the other splits", [], chosen_elsewhere(np.array(table)))


def row(name: str, means: Sequence[float], gains: np.ndarray) -> None:
    """Print a line of the table."""
    left = "".join(f"{mean:7.3f}" for mean in means) or " " * 14
    each = "".join(f"{gain:+9.3f}" for gain in gains)
    print(f"{name:<34}{left}{gains.mean():+8.3f}{gains.min():+8.3f}{each}", flush=True)


if __name__ == "__main__":
    main()
