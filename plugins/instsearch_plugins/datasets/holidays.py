"""INRIA Holidays: 500 groups of pictures of one place, the first of each asked for.

Jégou, Douze and Schmid, Hamming embedding and weak geometric consistency for large scale image search, 2008.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from instsearch_cli.components import Dataset, QueryRef, Relevance
from instsearch_cli.errors import InstsearchError
from instsearch_plugins.datasets import layout

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from instsearch_cli.components import ImageRef
    from instsearch_cli.data import Box

FILE = "holidays_images.dat"
NAME = re.compile(r"1[0-4]\d{4}")
UPRIGHT_FOLDER = "holidaysmanrot"  #: what that copy is called where it is handed out: no part of the other


class Holidays(Dataset):
    """1,491 pictures; of those with the same number // 100 the one with number % 100 = 0 is the query.

    The query's picture is in the collection and not counted: the hits after it move up, those before it do not.
    """

    name = "holidays"
    average_precision = "trapezoid"
    source = "https://lear.inrialpes.fr/~jegou/data.php (jpg1.tar.gz, jpg2.tar.gz)"

    @dataclass(frozen=True)
    class Config:
        #: holidays_images.dat, the list of the pictures; empty: looked for in ROOT, ROOT/gt and the like,
        #: and if it is not there the pictures found are the list
        ground_truth: str = ""
        upright: str = ""  #: folder of the copy that was turned upright by hand, to be taken instead

    def __init__(self, config: Config, root: Path | None) -> None:
        root = layout.need_root(root, self.name)
        self.protocol = (
            "average precision by the trapezoid rule; the query image is in the collection, uncounted"
        )
        folder, without = root, [UPRIGHT_FOLDER]
        if config.upright:
            folder, without = layout.given(root, config.upright), []
            self.protocol += "; pictures turned upright by hand"
            if not folder.is_dir():
                raise InstsearchError(f"{folder} is not a folder: --set dataset.upright=DIR")
        self._found = layout.Stems(folder, NAME, without)
        listed = set(self._found.paths) | set(self._listed(root, config.ground_truth))
        if not listed:
            raise InstsearchError(
                f"no pictures of {self.name} in {folder}: wanted 100000.jpg and the like, from {self.source}"
            )
        self._groups: dict[str, set[str]] = {}
        for name in sorted(listed):
            self._groups.setdefault(name[:-2] + "00", set()).add(name)
        self._images = self._found.refs(sorted(listed.union(self._groups)))
        self.size = max(1491, len(self._images))

    def images(self) -> Sequence[ImageRef]:
        return self._images

    def queries(self) -> Sequence[QueryRef]:
        return [QueryRef(name, self._found.path(name), None) for name in self._groups]

    def relevance(self, query: QueryRef) -> Relevance:
        itself = frozenset([query.id])
        return Relevance(frozenset(self._groups[query.id]) - itself, junk=itself)

    def boxes(self) -> Mapping[str, Sequence[Box]]:
        return {}

    def _listed(self, root: Path, option: str) -> list[str]:
        try:
            path = layout.find_truth(root, option, [FILE], self.source)
        except InstsearchError:
            if option:
                raise
            return []
        words = [line.removesuffix(".jpg") for _, line in layout.lines(path)]
        return layout.Truth(path, self.name, NAME).names(words)
