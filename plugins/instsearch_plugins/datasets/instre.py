"""INSTRE with the protocol of Iscen et al. 2017: 1,250 queries with boxes, 27,293 other images.

Wang and Jiang, INSTRE: a new benchmark for instance-level object retrieval and recognition, 2015;
Iscen et al., Efficient diffusion on region manifolds, 2017 (``gnd_instre.mat``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from instsearch_cli.components import Dataset, ImageRef, QueryRef, Relevance
from instsearch_cli.errors import InstsearchError
from instsearch_cli.outside.files import read_bytes
from instsearch_plugins.datasets import layout

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from instsearch_cli.data import Box

FILE = "gnd_instre.mat"
NAME = re.compile(r"INSTRE-(S1|S2|M)/[^/]+/[^/]+\.jpg")


class Instre(Dataset):
    """INSTRE; ROOT has the folders INSTRE-S1, INSTRE-S2 and INSTRE-M."""

    name = "instre"
    average_precision = "trapezoid"
    source = f"ftp.irisa.fr/local/texmex/corpus/instre (instre.tar.gz, {FILE})"

    @dataclass(frozen=True)
    class Config:
        ground_truth: str = ""  #: gnd_instre.mat; empty: looked for in ROOT, ROOT/gt and the like
        legacy_offset: bool = (
            False  #: positives one place too far, as salbow counted them, to compare with it
        )

    def __init__(self, config: Config, root: Path | None) -> None:
        root = layout.need_root(root, self.name)
        path = layout.find_truth(root, config.ground_truth, [FILE], self.source)
        truth = layout.Truth(path, self.name, NAME)
        table = truth.mat("gnd", "imlist", "qimlist")
        self.protocol = "average precision by the trapezoid rule; the query images are not in the collection"
        if config.legacy_offset:
            self.protocol += "; positives one place too far in the list (salbow)"
        self._root = root
        self._images = [ImageRef(name, root / name) for name in truth.names(table["imlist"])]
        queries = truth.names(table["qimlist"])
        judged = truth.entries(table["gnd"], len(queries), "ok", "bbx")
        self._queries = [
            QueryRef(query, root / query, truth.box(entry["bbx"]))
            for query, entry in zip(queries, judged, strict=True)
        ]
        self._positives = {
            query: truth.rows(entry["ok"], len(self._images)) + config.legacy_offset
            for query, entry in zip(queries, judged, strict=True)
        }

    def images(self) -> Sequence[ImageRef]:
        return self._images

    def queries(self) -> Sequence[QueryRef]:
        return self._queries

    def relevance(self, query: QueryRef) -> Relevance:
        """Positives. With ``legacy_offset`` the place after the last counts too, and is never found."""
        images, places = self._images, self._positives[query.id].tolist()
        return Relevance(frozenset(images[i].name if i < len(images) else "(after the last)" for i in places))

    def boxes(self) -> Mapping[str, Sequence[Box]]:
        """Every object's, where the files of :meth:`boxes_of` are there; reads all of them."""
        found = {ref.name: _annotated(ref.path.with_suffix(".txt")) for ref in self._images}
        return {name: boxes for name, boxes in found.items() if boxes}

    def boxes_of(self, query: QueryRef, name: str) -> Sequence[Box]:
        """The query's object in an image, from the file of x, y, w, h beside it (``001.txt``); maybe none.

        An image of INSTRE-M shows two objects: its first line is the object [a] of INSTRE-S1, its second
        line [b]. A query of INSTRE-M has both in its box, and so has the box given here.
        """
        boxes = _annotated((self._root / name).with_suffix(".txt"))
        if not name.startswith("INSTRE-M/") or len(boxes) != 2:
            return boxes
        if query.id.startswith("INSTRE-M/"):
            (a, b, c, d), (e, f, g, h) = boxes
            return [(min(a, e), min(b, f), max(c, g), max(d, h))]
        return [boxes[query.id.split("/")[1][2:3] == "b"]]


def _annotated(path: Path) -> list[Box]:
    """Boxes as corners from lines of x y w h."""
    if not path.exists():
        return []
    text, boxes = read_bytes(path, layout.TEXT_LIMIT).decode("ascii", "replace"), []
    for line in text.splitlines():
        if line.strip():
            if (box := layout.corners(line.replace(",", " ").split())) is None:
                raise InstsearchError(f"{path}: wanted lines of x y w h, not {line[:40]!r}")
            boxes.append(box)
    return boxes
