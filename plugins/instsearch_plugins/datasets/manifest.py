"""A dataset that a JSON file describes: anyone's own images, queries and ground truth.

    {"name", "images": [path...],
     "queries": [{"id", "image", "box": [x, y, w, h] or null, "positives": [path...],
                  "junk": [path...], "exclude": [path...]}]}

Paths are relative to the manifest, or to ``--root``. Junk images are skipped in the scoring only;
excluded ones are not in the collection at all for that query, and may lie outside it. Annotated boxes come from
``boxes.csv`` (image,x,y,w,h; several rows an image) beside the manifest, where there is one.
"""

from __future__ import annotations

import difflib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instsearch_cli.components import Dataset, ImageRef, QueryRef, Relevance
from instsearch_cli.errors import InstsearchError, printable
from instsearch_cli.outside.files import nameable
from instsearch_cli.outside.text import csv_table, read_json, shown
from instsearch_plugins.datasets import layout

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from instsearch_cli.data import Box

LIMIT = 256 << 20
MOST_BOXES = 256 << 20  #: bytes of a CSV file
LONGEST = 1_000  #: characters of a query's id
KEYS = ("id", "image", "box", "positives", "junk", "exclude")


class Manifest(Dataset):
    """Dataset from a manifest file."""

    protocol = "average precision is the mean of the precision at each positive; junk is not counted"

    @dataclass(frozen=True)
    class Config:
        manifest: str = "manifest.json"  #: the JSON file
        boxes: str = ""  #: CSV of annotated boxes; empty: boxes.csv beside the manifest, if there
        distractors: str = ""  #: folder of other pictures to rank among, any depth
        most_distractors: int = -1  #: only so many of them, the first by name; -1: all

    def __init__(self, config: Config, root: Path | None) -> None:
        self.path = Path(config.manifest)
        self.root = Path(root) if root is not None else self.path.parent
        self._table = _load(self.path)
        name = self._table.get("name", self.path.stem)
        if not isinstance(name, str) or not nameable(name):
            raise InstsearchError(f"{self.path}: name is text, not {shown(name)}")
        self.name = printable(name)
        names = self._strings(self._table, "images")
        if len(set(names)) < len(names):
            twice = next(name for name, n in Counter(names).items() if n > 1)
            raise InstsearchError(f"{self.path}: image '{twice}' is there twice")
        self._images = own = [ImageRef(name, self.root / name) for name in names]
        if config.distractors:
            taken = [ref.path for ref in own]
            self._images = own + layout.distractors(
                self.root, config.distractors, config.most_distractors, taken
            )
        self._among = {ref.name for ref in self._images}
        self._queries: dict[str, tuple[QueryRef, Relevance]] = {}
        for entry in self._list(self._table, "queries"):
            ref, relevance = self._query(entry)
            if ref.id in self._queries:
                raise InstsearchError(f"{self.path}: two queries are called '{ref.id}'")
            self._queries[ref.id] = (ref, relevance)
        if not self._queries:
            raise InstsearchError(f"{self.path} has no queries")
        self._given = bool(config.boxes)
        self._boxes = Path(config.boxes) if self._given else self.path.with_name("boxes.csv")
        if self._given and not self._boxes.exists():
            raise InstsearchError(f"{self._boxes} does not exist")

    def images(self) -> Sequence[ImageRef]:
        return self._images

    def queries(self) -> Sequence[QueryRef]:
        return [ref for ref, _ in self._queries.values()]

    def relevance(self, query: QueryRef) -> Relevance:
        return self._queries[query.id][1]

    def boxes(self) -> Mapping[str, Sequence[Box]]:
        """Annotated boxes by image name, as the manifest writes it; the CSV may write a file name that one image has.

        Raises InstsearchError for a damaged file, and for one that was asked for and has none of the images.
        """
        if not self._boxes.exists():
            return {}
        names: list[str] = self._table.get("images", [])
        bare = Counter(Path(name).name for name in names)
        meant = {Path(name).name: name for name in names if bare[Path(name).name] == 1}
        meant |= {name: name for name in names}
        found: dict[str, list[Box]] = {}
        for number, row in csv_table(self._boxes, MOST_BOXES, ("image", "x", "y", "w", "h")):
            box = layout.corners(row[c] for c in "xywh")
            if box is None:
                raise InstsearchError(
                    f"{self._boxes}, line {number}: wanted the columns image,x,y,w,h and numbers, w and h not below 0"
                )
            if name := meant.get(row["image"]):
                found.setdefault(name, []).append(box)
        if self._given and not found:
            raise InstsearchError(f"{self._boxes} has a box of none of the images of {self.path}")
        return found

    def _query(self, entry: Any) -> tuple[QueryRef, Relevance]:
        if not isinstance(entry, dict) or "id" not in entry or not isinstance(entry.get("image"), str):
            raise InstsearchError(f"{self.path}: every query needs an id and an image: {shown(entry)}")
        if not isinstance(entry["id"], (str, int)) or not nameable(entry["image"]):
            raise InstsearchError(f"{self.path}: an id is text, an image the name of a file: {shown(entry)}")
        id = str(entry["id"])
        if len(id) > LONGEST or not nameable(id):
            raise InstsearchError(
                f"{self.path}: an id is text of {LONGEST} characters at most, not {shown(id)}"
            )
        for key in sorted(entry.keys() - set(KEYS)):  # one's own keys are one's own, misspelt ones are not
            if meant := difflib.get_close_matches(key.lower(), KEYS, 1, 0.8):
                raise InstsearchError(
                    f"{self.path}: query '{id}': there is no key {shown(key)}. Did you mean '{meant[0]}'?"
                )
        box = entry.get("box")
        if box is not None:
            given, box = box, layout.corners(box) if isinstance(box, list) else None
            if box is None:
                raise InstsearchError(f"{self.path}: query '{id}': box is [x, y, w, h], not {shown(given)}")
            if not (box[0] < box[2] and box[1] < box[3]):
                raise InstsearchError(f"{self.path}: query '{id}': box {shown(given)} has no area")
        sets = {
            key: frozenset(self._strings(entry, key, f"query '{id}': "))
            for key in ("positives", "junk", "exclude")
        }
        for what, key in (("positive", "positives"), ("junk image", "junk")):
            if strange := sorted(sets[key] - self._among):
                raise InstsearchError(
                    f"{self.path}: query '{id}': {what} '{strange[0]}' is not among the images"
                )
        if both := sorted(sets["positives"] & sets["junk"]):
            raise InstsearchError(
                f"{self.path}: query '{id}': '{both[0]}' is in positives and in junk: take it out of one"
            )
        positives = sets["positives"] - sets["exclude"]
        if not positives:
            raise InstsearchError(f"{self.path}: query '{id}' has no positives: nothing can be measured")
        ref = QueryRef(id, self.root / entry["image"], box)
        return ref, Relevance(positives, frozenset(), sets["junk"], sets["exclude"])

    def _list(self, table: Any, key: str, where: str = "") -> list[Any]:
        value = table.get(key, [])
        if not isinstance(value, list):
            raise InstsearchError(f"{self.path}: {where}{key} is a list, not {shown(value)}")
        return value

    def _strings(self, table: Any, key: str, where: str = "") -> list[str]:
        values = self._list(table, key, where)
        for value in values:
            if not isinstance(value, str) or not nameable(value):
                raise InstsearchError(
                    f"{self.path}: {where}{key} is a list of paths, and {shown(value)} is none"
                )
        return values


def _load(path: Path) -> dict[str, Any]:
    table = read_json(path, LIMIT)
    if not isinstance(table, dict):
        raise InstsearchError(f"{path} is not a manifest: wanted an object with name, images and queries")
    return table
