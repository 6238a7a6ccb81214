"""Instance-160 and Instance-335: frames of videos, one object a video followed by a box.

Zhan and Zhao, Instance search via instance level segmentation and feature representation, 2021 (Instance-160);
Xiao, Zhao, Lin, Hong and Ngo, Deeply activated salient region for instance search, 2022 (Instance-335).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from instsearch_cli.components import Dataset, ImageRef, QueryRef, Relevance
from instsearch_cli.errors import InstsearchError, printable
from instsearch_cli.images import suffixes
from instsearch_plugins.datasets import layout

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from instsearch_cli.data import Box

BOX_FOLDERS = ("bbox", "merge_bbox")


class Frames(Dataset):
    """Pictures below ROOT at any depth, by their file names; those that the box files name are the collection.

    The first line of a box file is a query, and its picture is not in the collection. Nor is it a positive,
    of its own query or of another.
    """

    name: str
    size: int
    _count: ClassVar[int]  #: queries
    _file: ClassVar[str]

    average_precision = "plain"
    tops = (10, 20, 50, 100)
    protocol = (
        "average precision is the mean of the precision at each positive, those beyond the first k hits counted "
        "as not found in mAP@k; the query images are not in the collection"
    )

    @dataclass(frozen=True)
    class Config:
        #: Ins160-mAP.txt or Ins335-mAP.txt: lines of a query, a count and its references;
        #: empty: looked for in ROOT, ROOT/mAP and the like
        ground_truth: str = ""
        bbox: str = (
            ""  #: folder of a file a video, lines of image x y w h; empty: ROOT/bbox or ROOT/merge_bbox
        )
        distractors: str = ""  #: folder of other pictures to rank among, any depth
        most_distractors: int = -1  #: only so many of them, the first by name; -1: all

    def __init__(self, config: Config, root: Path | None) -> None:
        self.source = f"its authors, see https://github.com/wlzhao22/DASR (Images, bbox, {self._file})"
        root = layout.need_root(root, self.name)
        truth = layout.find_truth(root, config.ground_truth, [self._file, f"mAP/{self._file}"], self.source)
        folder = _box_folder(root, config.bbox, self.source)
        boxes, queries = _read_boxes(folder)
        listed = _read_lists(truth)
        self._check(queries, listed, folder, truth)
        named = list(dict.fromkeys([*boxes, *(name for names in listed.values() for name in sorted(names))]))
        paths = _paths(root, named, {name: video for name, (video, _) in boxes.items()})
        self._images = [ImageRef(name, paths[name]) for name in named if name not in queries]
        self._boxes = {name: [box] for name, (_, box) in boxes.items() if box and name not in queries}
        self._queries = [QueryRef(name, paths[name], queries[name]) for name in listed]
        self._positives = {name: frozenset(names.difference(queries)) for name, names in listed.items()}
        self.size = max(self.size, len(self._images))
        if config.distractors:
            others = layout.distractors(root, config.distractors, config.most_distractors, paths.values())
            self._images += others
            self.size += len(others)

    def images(self) -> Sequence[ImageRef]:
        return self._images

    def queries(self) -> Sequence[QueryRef]:
        return self._queries

    def relevance(self, query: QueryRef) -> Relevance:
        return Relevance(self._positives[query.id])

    def boxes(self) -> Mapping[str, Sequence[Box]]:
        """The followed object in each picture of the collection; none where its box has no area."""
        return self._boxes

    def _check(
        self, queries: Mapping[str, Box], listed: Mapping[str, object], folder: Path, truth: Path
    ) -> None:
        """Raises InstsearchError unless both files speak of the same queries, at most as many as there are."""
        wrong = f"{truth} is not the ground truth of {self.name}:"
        if len(listed) > self._count:
            raise InstsearchError(f"{wrong} it has {len(listed)} queries, {self.name} has {self._count}")
        for name in listed:
            if name not in queries:
                raise InstsearchError(f"{wrong} its query '{name}' is the first line of no file in {folder}")
        for name in queries:
            if name not in listed:
                raise InstsearchError(f"{wrong} it lacks '{name}', the first line of a file in {folder}")


class Instance160(Frames):
    """160 queries, 11,885 other pictures."""

    name, size, _count, _file = "instance160", 11885, 160, "Ins160-mAP.txt"


class Instance335(Frames):
    """335 queries, 40,914 other pictures."""

    name, size, _count, _file = "instance335", 40914, 335, "Ins335-mAP.txt"


def _box_folder(root: Path, option: str, source: str) -> Path:
    places = [layout.given(root, option)] if option else [root / name for name in BOX_FOLDERS]
    for place in places:
        if place.is_dir() and any(place.rglob("*.txt")):
            return place
    raise InstsearchError(
        f"no box files in {' or '.join(map(str, places))}: wanted a folder of VIDEO.txt, from {source}\n"
        "Say where it is with --set dataset.bbox=DIR."
    )


def _read_boxes(folder: Path) -> tuple[dict[str, tuple[str, Box | None]], dict[str, Box]]:
    """Of each picture its video and box, None if that has no area; and the box of each video's query."""
    boxes: dict[str, tuple[str, Box | None]] = {}
    queries: dict[str, Box] = {}
    for path in sorted(folder.rglob("*.txt")):
        for place, (number, line) in enumerate(layout.lines(path)):
            try:
                text, *numbers = line.rsplit(maxsplit=4)
                x, y, w, h = map(float, numbers)
            except ValueError:
                raise InstsearchError(
                    f"{path}, line {number}: wanted an image and x y w h, not {line[:40]!r}"
                ) from None
            name, box = _stem(text), (x, y, x + w, y + h)
            if name in boxes:
                raise InstsearchError(f"{path}, line {number}: there is another line of image '{name}'")
            there = all(map(math.isfinite, box)) and w > 0 and h > 0
            boxes[name] = path.stem, box if there else None
            if place == 0 and not there:
                raise InstsearchError(
                    f"{path}, line {number}: the box of query '{name}' has no area (x y w h)"
                )
            if place == 0:
                queries[name] = box
    return boxes, queries


def _read_lists(path: Path) -> dict[str, set[str]]:
    """The pictures listed with each query, itself left out."""
    listed: dict[str, set[str]] = {}
    for number, line in layout.lines(path):
        query, *rest = (_stem(word) for word in line.split())
        # whether the count and the list include the query itself is not written anywhere
        counts = {str(len(rest) + i) for i in (-2, -1, 0)}
        if not rest or rest[0] not in counts:
            raise InstsearchError(
                f"{path}, line {number}: wanted a query, the number of its references, and these, "
                f"not {line[:40]!r} and so on"
            )
        if query in listed:
            raise InstsearchError(f"{path}, line {number}: there is another line of query '{query}'")
        listed[query] = set(rest[1:]) - {query}
    if not listed:
        raise InstsearchError(f"{path} has no queries")
    return listed


def _stem(text: str) -> str:
    """A picture's name without folders and suffix, in printable characters."""
    name = text.rpartition("/")[2]
    stem, dot, suffix = name.rpartition(".")
    return printable(stem if stem and f"{dot}{suffix}".lower() in suffixes() else name)


def _paths(root: Path, names: Iterable[str], videos: Mapping[str, str]) -> dict[str, Path]:
    """Where each picture is, or would be. Raises InstsearchError for two of one name."""
    paths: dict[str, Path | None] = dict.fromkeys(names)
    for path in layout.pictures(root).values():
        name = printable(path.stem)
        if name not in paths:
            continue
        other = paths[name]
        if other is not None:
            raise InstsearchError(
                f"two images are called {name}: {other} and {path}\n"
                "Give the folder of one set with --root, and --set dataset.ground_truth=PATH and dataset.bbox=DIR."
            )
        paths[name] = path
    return {
        name: path or root / "Images" / videos.get(name, name.rpartition("_")[0]) / f"{name}.jpg"
        for name, path in paths.items()
    }
