"""Revisited Oxford and Paris: 70 queries, judged easy and hard, in three settings.

Radenovic, Iscen, Tolias, Avrithis and Chum, Revisiting Oxford and Paris: large-scale image retrieval
benchmarking, 2018.

    setting  positives      not counted
    easy     easy           junk, hard
    medium   easy and hard  junk
    hard     hard           junk, easy
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from instsearch_cli.components import Dataset, QueryRef, Relevance
from instsearch_cli.errors import InstsearchError
from instsearch_plugins.datasets import layout
from instsearch_plugins.datasets.oxford_paris import OXFORD, PARIS
from instsearch_plugins.datasets.plain_pickle import load_plain

if TYPE_CHECKING:
    import re
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from instsearch_cli.components import ImageRef
    from instsearch_cli.data import Box

COUNTED = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}
LABELS = ("easy", "hard", "junk")
SOURCE = "http://cmp.felk.cvut.cz/revisitop/"


class Revisited(Dataset):
    """Queries that are not in the collection; pictures below ROOT at any depth, by their file names."""

    name: str
    _pattern: ClassVar[re.Pattern[str]]
    source: str

    average_precision = "trapezoid"
    settings = tuple(COUNTED)
    protocol = (
        "revisited: average precision by the trapezoid rule; easy counts easy, hard hard and medium both, the "
        "rest and junk is not counted; mAP is the medium one"
    )

    @dataclass(frozen=True)
    class Config:
        ground_truth: str = ""  #: gnd_r....pkl or .mat; empty: looked for in ROOT, ROOT/gt and the like

    def __init__(self, config: Config, root: Path | None) -> None:
        root = layout.need_root(root, self.name)
        wanted = [f"gnd_{self.name}.pkl", f"gnd_{self.name}.mat"]
        path = layout.find_truth(root, config.ground_truth, wanted, self.source)
        if path.suffix not in (".pkl", ".mat"):
            raise InstsearchError(f"{path}: the ground truth of {self.name} is {' or '.join(wanted)}")
        keys = ("gnd", "imlist", "qimlist")
        pickled = path.suffix == ".pkl"
        truth = layout.Truth(path, self.name, self._pattern, first=0 if pickled else 1)
        table = truth.need(load_plain(path), *keys) if pickled else truth.mat(*keys)
        found = layout.Stems(root, self._pattern)
        names = truth.names(table["imlist"])
        queries = truth.names(table["qimlist"])
        self._images = found.refs(names)
        self._queries: list[QueryRef] = []
        self._judged: dict[str, dict[str, frozenset[str]]] = {}
        for query, entry in zip(
            queries, truth.entries(table["gnd"], len(queries), *LABELS, "bbx"), strict=True
        ):
            self._queries.append(QueryRef(query, found.path(query), truth.box(entry["bbx"])))
            self._judged[query] = {
                label: frozenset(names[i] for i in truth.rows(entry[label], len(names))) for label in LABELS
            }

    def images(self) -> Sequence[ImageRef]:
        return self._images

    def queries(self) -> Sequence[QueryRef]:
        return self._queries

    def relevance(self, query: QueryRef, setting: str = "medium") -> Relevance:
        judged = self._judged[query.id]
        positives, junk = (frozenset().union(*(judged[k] for k in labels)) for labels in COUNTED[setting])
        return Relevance(positives, junk=junk)

    def boxes(self) -> Mapping[str, Sequence[Box]]:
        return {}


class ROxford5k(Revisited):
    """4,993 pictures of Oxford, 70 others as queries."""

    name, _pattern = "roxford5k", OXFORD
    source = f"{SOURCE} (gnd_roxford5k.pkl; pictures as for oxford5k)"


class RParis6k(Revisited):
    """6,322 pictures of Paris, 70 others as queries."""

    name, _pattern = "rparis6k", PARIS
    source = f"{SOURCE} (gnd_rparis6k.pkl; pictures as for paris6k)"
