"""Oxford5k and Paris6k, alone and among the 100,000 distractors of Flickr100k.

Philbin et al., Object retrieval with large vocabularies and fast spatial matching, 2007;
Philbin et al., Lost in quantization, 2008. 55 queries with boxes; an image is good, ok, junk or bad.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from instsearch_cli.components import Dataset, ImageRef, QueryRef, Relevance
from instsearch_cli.errors import InstsearchError
from instsearch_cli.outside.files import read_bytes
from instsearch_plugins.datasets import layout

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from instsearch_cli.data import Box

OXFORD = re.compile(
    r"(all_souls|ashmolean|balliol|bodleian|christ_church|cornmarket|hertford|jesus|keble|magdalen|new|oriel"
    r"|oxford|pitt_rivers|radcliffe_camera|trinity|worcester)_\d{6}"
)
PARIS = re.compile(
    r"paris_(defense|eiffel|general|invalides|louvre|moulinrouge|museedorsay|notredame|pantheon|pompidou"
    r"|sacrecoeur|triomphe)_\d{6}"
)
CORRUPT = frozenset(
    f"paris_{name}_{number:06}"
    for name, numbers in {
        "louvre": (136, 146),
        "moulinrouge": (422,),
        "museedorsay": (1059,),
        "notredame": (188,),
        "pantheon": (284, 960, 974),
        "pompidou": (195, 196, 201, 467, 640),
        "sacrecoeur": (299, 330, 353),
        "triomphe": (662, 833, 863, 867),
    }.items()
    for number in numbers
)
"""Files of Paris that do not decode: 6,412 are handed out, 6,392 are the collection."""

FLICKR_FOLDERS = ("oxc1_100k", "flickr100k", "Flickr100k", "flickr100K", "distractors")
OXFORD_SOURCE = "https://www.robots.ox.ac.uk/~vgg/data/oxbuildings/"
PARIS_SOURCE = "https://www.robots.ox.ac.uk/~vgg/data/parisbuildings/"


class Buildings(Dataset):
    """55 queries of 11 buildings; pictures below ROOT at any depth, by their file names."""

    name: str
    size: int
    source: str
    _pattern: ClassVar[re.Pattern[str]]
    _buildings: ClassVar[Sequence[str]]  #: those that are asked for, in the order of the .mat
    _base: ClassVar[str]

    average_precision = "trapezoid"
    protocol = (
        "average precision by the trapezoid rule; good and ok are positives, junk is not counted, the query "
        "image stays in the collection"
    )

    @dataclass(frozen=True)
    class Config:
        #: folder of *_query.txt, *_good.txt, *_ok.txt and *_junk.txt, or a gnd_....mat;
        #: empty: looked for in ROOT, ROOT/gt and the like
        ground_truth: str = ""

    def __init__(self, config: Config, root: Path | None) -> None:
        root = layout.need_root(root, self.name)
        wanted = [f"gnd_{self._base}.mat", "*_query.txt"]
        path = layout.find_truth(root, config.ground_truth, wanted, self.source)
        self._root = root
        self._found = layout.Stems(root, self._pattern, FLICKR_FOLDERS)
        self._queries: dict[str, tuple[QueryRef, Relevance]] = {}
        if path.is_dir():
            names = self._read_text(path)
            self.size = max(self.size, len(names))
        elif path.suffix == ".mat":
            names = self._read_mat(path)
            self.size = len(names)
        else:
            raise InstsearchError(
                f"{path}: the ground truth of {self.name} is {wanted[0]} or a folder of {wanted[1]}"
            )
        self._images = self._found.refs(names)

    def images(self) -> Sequence[ImageRef]:
        return self._images

    def queries(self) -> Sequence[QueryRef]:
        return [ref for ref, _ in self._queries.values()]

    def relevance(self, query: QueryRef) -> Relevance:
        return self._queries[query.id][1]

    def boxes(self) -> Mapping[str, Sequence[Box]]:
        return {}

    def _read_mat(self, path: Path) -> list[str]:
        """Names, in the file's order. Its positives are good and ok in one; the queries come five a building."""
        truth = layout.Truth(path, self.name, self._pattern)
        table = truth.mat("gnd", "imlist", "qidx")
        names = truth.names(table["imlist"])
        places = truth.rows(table["qidx"], len(names)).tolist()
        judged = truth.entries(table["gnd"], len(places), "ok", "junk", "bbx")
        ids = [f"{building}_{i}" for building in self._buildings for i in range(1, 6)]
        if len(places) > len(ids):
            raise InstsearchError(f"{path} has {len(places)} queries, {self.name} has {len(ids)}")
        for id, place, entry in zip(ids, places, judged, strict=False):
            good, junk = (
                frozenset(names[i] for i in truth.rows(entry[key], len(names))) for key in ("ok", "junk")
            )
            ref = QueryRef(id, self._found.path(names[place]), truth.box(entry["bbx"]))
            self._queries[id] = (ref, Relevance(good, junk=junk))
        return names

    def _read_text(self, folder: Path) -> list[str]:
        """Names: of the pictures there are, and of those that the lists name beside them."""
        named = set(self._found.paths)
        for path in sorted(folder.glob("*_query.txt")):
            id = path.name.removesuffix("_query.txt")
            good, ok, junk = (self._listed(folder / f"{id}_{label}.txt") for label in ("good", "ok", "junk"))
            name, *box = _words(path) or [""]
            truth = layout.Truth(path, self.name, self._pattern)
            [name] = truth.names([name.removeprefix("oxc1_")])
            self._queries[id] = (
                QueryRef(id, self._found.path(name), truth.box(box)),
                Relevance(good, ok, junk),
            )
            named |= good | ok | junk | {name}
        return sorted(named - CORRUPT)

    def _listed(self, path: Path) -> frozenset[str]:
        names = sorted(set(_words(path)))
        return frozenset(layout.Truth(path, self.name, self._pattern).names(names)) - CORRUPT


class _Among(Buildings):
    """The same queries, the distractors added to the collection."""

    @dataclass(frozen=True)
    class Config:
        ground_truth: str = ""  #: as for the collection without distractors
        distractors: str = ""  #: folder of Flickr100k, any depth; empty: ROOT/oxc1_100k and the like

    def __init__(self, config: Config, root: Path | None) -> None:
        super().__init__(Buildings.Config(config.ground_truth), root)
        folders = [self._root / name for name in FLICKR_FOLDERS]
        if config.distractors:
            folders = [layout.given(self._root, config.distractors)]
        folder = next((f for f in folders if f.is_dir()), None)
        own = {path.absolute() for path in self._found.paths.values()}
        found = layout.pictures(folder) if folder else {}
        distractors = [
            ImageRef(f"distractors/{name}", path)
            for name, path in found.items()
            if path.absolute() not in own
        ]
        if not distractors:
            raise InstsearchError(
                f"no distractors in {folder or folders[0]}: {self.name} wants Flickr100k, from {OXFORD_SOURCE}\n"
                "Say where it is with --set dataset.distractors=DIR."
            )
        self._images += distractors
        self.size += len(distractors)


class Oxford5k(Buildings):
    """5,062 pictures of Oxford."""

    name, _base, size = "oxford5k", "oxford5k", 5062
    _pattern = OXFORD
    _buildings = (
        "all_souls",
        "ashmolean",
        "balliol",
        "bodleian",
        "christ_church",
        "cornmarket",
        "hertford",
        "keble",
        "magdalen",
        "pitt_rivers",
        "radcliffe_camera",
    )
    source = f"{OXFORD_SOURCE} (oxbuild_images.tgz, gt_files_170407.tgz)"


class Paris6k(Buildings):
    """6,392 pictures of Paris."""

    name, _base, size = "paris6k", "paris6k", 6392
    _pattern = PARIS
    _buildings = (
        "defense",
        "eiffel",
        "invalides",
        "louvre",
        "moulinrouge",
        "museedorsay",
        "notredame",
        "pantheon",
        "pompidou",
        "sacrecoeur",
        "triomphe",
    )
    source = f"{PARIS_SOURCE} (paris_1.tgz, paris_2.tgz, paris_120310.tgz)"


class Oxford105k(_Among, Oxford5k):
    """Oxford5k among distractors."""

    name = "oxford105k"


class Paris106k(_Among, Paris6k):
    """Paris6k among distractors."""

    name = "paris106k"


def _words(path: Path) -> list[str]:
    return read_bytes(path, layout.TEXT_LIMIT).decode("ascii", "replace").split()
