"""What marking hits right and wrong is worth: mAP of the first answer, and after one round of marks.

    python benchmarks/marking.py --manifest FILE --index DIR [--marks 3] [--limit N]

Each query of the manifest is asked; by the ground truth the first hits that are wrong are marked wrong, and the first
that are right, right, each with its box; and the question is asked again with them, as the page does: as what the
object is not, and as further views. What is marked stays in the ranking, where the engine puts it. Images of the index
that the manifest does not name are no hits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import instsearch
from arguments import Parser
from instsearch_cli.boxes import xywh
from instsearch_cli.engine.registry import load_registry
from instsearch_cli.images import Photograph
from instsearch_cli.measure.datasets import load_dataset
from instsearch_cli.measure.metrics import average_precision, relevance


def measured(answer: instsearch.Answer, positives: set[Path], junk: set[Path]) -> float:
    """The answer's average precision."""
    ranked = [hit.path.resolve() for hit in (*answer.hits, *answer.near)]
    return average_precision(relevance(ranked, positives, junk), len(positives))


def marked(answer: instsearch.Answer, positives: set[Path], junk: set[Path], n: int) -> dict[str, Any]:
    """The first n hits of either kind, as Index.query takes them."""
    right = [hit for hit in answer.hits if hit.path.resolve() in positives][:n]
    wrong = [hit for hit in answer.hits if hit.path.resolve() not in positives | junk][:n]
    return {
        name: [(hit.path, hit.box) for hit in hits] for name, hits in (("also", right), ("against", wrong))
    }


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--manifest", type=Path, required=True, metavar="FILE", help="of images and queries")
    parser.add_argument("--index", type=Path, required=True, metavar="DIR", help="an index of its images")
    parser.add_argument("--marks", type=int, default=3, help="of either kind")
    parser.add_argument("--limit", type=int, help="so many queries only")
    options = parser.parse_args()
    dataset = load_dataset(load_registry(), str(options.manifest), None)
    paths = {ref.name: ref.path.resolve() for ref in dataset.images()}
    index = instsearch.open(options.index)
    others = {index.path_of(name).resolve() for name in index.images} - set(paths.values())
    table: dict[str, list[float]] = {}
    for ref in list(dataset.queries())[: options.limit]:
        judged = dataset.relevance(ref)
        positives = {paths[name] for name in judged.good | judged.ok}
        junk = {paths[name] for name in judged.junk | judged.exclude if name in paths} | others
        picture, box = Photograph(ref.image), None if ref.box is None else xywh(ref.box)
        first = index.query(picture, box, len(paths))
        marks = marked(first, positives, junk, options.marks)
        rows = {"no marks": {}, "right": {"also": marks["also"]}, "wrong": {"against": marks["against"]}}
        for name, more in {**rows, "right and wrong": marks}.items():
            answer = index.query(picture, box, len(paths), **more) if more else first
            table.setdefault(name, []).append(measured(answer, positives, junk))
        print(f"{ref.id:<24}" + "".join(f"{values[-1]:>9.3f}" for values in table.values()), flush=True)
    print()
    for name, values in table.items():
        gain = np.mean(values) - np.mean(table["no marks"])
        print(f"{name:<24}mAP {np.mean(values):.3f}  {gain:+.3f}")


if __name__ == "__main__":
    main()
