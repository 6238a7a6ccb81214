"""Search in a copy of the codes that Milvus keeps (Wang et al., "Milvus: a purpose-built vector data management
system", SIGMOD 2021): on a server, or in a folder of Milvus Lite.

The index is the truth, the copy is made of it. Requests go to the server that the option ``uri`` names; nothing but
codes, boxes, names and row numbers is there.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from instsearch_cli.components import option
from instsearch_cli.data import Hits, SparseVectors
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.storage import Filled, Mirror
from instsearch_formats import Array
from instsearch_plugins.searchers.dense import values_of
from instsearch_plugins.searchers.milvus_asking import NOTHING, Among, Asking, Found
from instsearch_plugins.searchers.milvus_copy import REGIONS, SHOWN, Copy, Head
from instsearch_plugins.searchers.milvus_server import NoCollection, address, connected

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import torch

    from instsearch_cli.components import Data, Progress
    from instsearch_cli.data import Query
    from instsearch_cli.storage import Origin
    from instsearch_plugins.searchers.milvus_server import Server

AGAIN = "run `instsearch index` with this pipeline again"


class Milvus(Mirror):
    """score(i) as searchers `inverted` and `faiss` have it, of sparse codes and of dense ones.

    Sparse: max over the query's rows m and the image's r of sum_w q_mw x_rw, images above 0; dense: sum over m of the
    max over r of <q_m, x_r>. The box is that of the entity that scored. With the exact index of a kind, which is the
    default, what is found is exact, whatever is excluded: where an image's regions fill what Milvus returns at once, it
    is asked again without them.
    """

    accepts: ClassVar[tuple[str, ...]] = ("csr", "vectors")
    on_device: ClassVar[bool] = False
    learns: ClassVar[dict[str, Array]] = {
        "collection": Array("u1", ("letters",)),
        "pictures": Array("u1", ("digits",)),
        "filled": Array("i8", (2,)),
    }
    lists_regions: bool = True

    @dataclass(frozen=True)
    class Config:
        #: a server, or NAME.db: a folder of Milvus Lite
        uri: str = option("http://localhost:19530", "search")
        database: str = option("", "search")  #: of the server; "": its default one
        collection: str = option("instsearch", "search")  #: what collections' names begin with
        #: kind of index: HNSW, IVF_FLAT, DISKANN or another of the server's; "": exact (FLAT, SPARSE_INVERTED_INDEX)
        index: str = option("", "search")
        build: str = option("", "search")  #: its parameters: M=16,efConstruction=200
        search: str = option("", "query")  #: parameters of a search: ef=64 or nprobe=16

        def __post_init__(self) -> None:
            object.__setattr__(self, "uri", address(self.uri))
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", self.collection):
                raise ValueError(f"collection is letters, digits and _, not '{self.collection}'")
            _parameters("build", self.build)
            _parameters("search", self.search)

    config: Config

    def __init__(self, config: Config, device: torch.device | None = None) -> None:
        self.config = config
        self._server: Server | None = None
        self._asking: Asking | None = None
        self._gone: tuple[np.ndarray, np.ndarray] | None = None

    def _connected(self, create: bool = False) -> Server:
        if self._server is None:
            self._server = connected(self.config.uri, self.config.database, create)
        return self._server

    # -- the copy ---------------------------------------------------------------------------------------

    def _copy(self, name: str) -> tuple[Copy, Head] | None:
        """The copy of a name and what its head says; None where it is not there."""
        try:
            copy = Copy(self._connected(), name)
            head = copy.head()
        except NoCollection:
            return None
        return None if head is None else (copy, head)

    def _name(self, origin: Origin) -> str:
        return f"{self.config.collection}_{origin.key}"

    def fill(self, data: Data, origin: Origin, progress: Progress) -> Filled:
        """Compare by checksums and write what is missing; every value where the last fill reached as far.

        Returns the collection's name and the digest of the pictures, u1[...] each, and how many rows and entities
        there are.
        """
        copy, rows = Copy(self._connected(create=True), self._name(origin)), len(data.span)
        head = self._own(copy.head(), origin, rows)
        width, words = _width(data)
        empty = copy.prepare(width, words, self._index(width), head)
        changed, entities = 0, 0
        for found in copy.compared(data, origin, progress, whole=rows in head.fills, empty=empty):
            changed += copy.mend(found)
            entities += len(found.own.ids)
        copy.say(head._replace(fills=head.fills | {rows: origin.pictures(rows)}), width, words)
        copy.settle()
        if empty and self.config.index:
            copy.check_index()
        if (there := copy.count()) < entities:
            raise InstsearchError(
                f"{self.config.uri}: {copy.name} has {there:,} of {entities:,} entities: is another program writing to "
                f"it? Then {AGAIN}"
            )
        state = {
            "collection": np.frombuffer(copy.name.encode(), np.uint8),
            "pictures": np.frombuffer(origin.pictures(rows).encode(), np.uint8),
            "filled": np.array([rows, entities]),
        }
        return Filled(state, changed)

    def _own(self, head: Head | None, origin: Origin, rows: int) -> Head:
        """What the head is to say. Raises InstsearchError for that of another index, which has other pictures."""
        place = str(origin.place)
        if head is None:
            return Head(place, {})
        ours = {n: digest for n, digest in head.fills.items() if n <= rows and origin.pictures(n) == digest}
        if head.place != place and len(ours) < len(head.fills):
            raise InstsearchError(
                f"{self._name(origin)} at {self.config.uri} is the mirror of another index, {head.place}: for one of "
                "this index give another name with --set searcher.collection=NAME"
            )
        return Head(place, ours)

    def _index(self, width: int | None) -> dict[str, Any]:
        usual = "SPARSE_INVERTED_INDEX" if width is None else "FLAT"
        kind = self.config.index or usual
        return {"index_type": kind, "params": _parameters("build", self.config.build)}

    def differences(self, data: Data, origin: Origin, progress: Progress) -> Sequence[str]:
        """What is missing, what should not be there, and what is otherwise, with some names of each."""
        there = self._copy(self._name(origin))
        if there is None:
            return [
                f"there is no mirror of this index at {self.config.uri}: {self._name(origin)} is not there"
            ]
        copy, head = there
        try:
            self._own(head, origin, len(data.span))
        except InstsearchError as error:
            return [str(error)]
        counts: Counter[str] = Counter()
        some: dict[str, list[str]] = {}
        for found in copy.compared(data, origin, progress, whole=True):
            for what, number, name in found.named():
                counts[what] += 1
                if counts[what] <= SHOWN:
                    some.setdefault(what, []).append(_called(number, name))
        lines = [
            f"{n:,} {what}: {', '.join(some[what])}{', …' if n > SHOWN else ''}" for what, n in counts.items()
        ]
        last = {len(data.span): origin.pictures(len(data.span))}
        if not lines and not last.items() <= head.fills.items():
            lines = ["it does not say that it was filled to its end"]
        return [f"{copy.name} at {self.config.uri}: {line}" for line in lines]

    def sweep(self, origin: Origin, used: Collection[str], dry_run: bool) -> Sequence[str]:
        """Drop the collections of the index's first pictures that its folder filled and whose keys are not used."""
        begins = f"{self.config.collection}_{origin.key.partition('_')[0]}_"
        try:
            server = self._connected()
        except NoCollection:
            return []
        gone = []
        with server.answering():
            names = sorted(str(name) for name in server.client.list_collections())
        for name in names:
            key = name.removeprefix(f"{self.config.collection}_")
            if name.startswith(begins) and key not in used:
                there = self._copy(name)
                if there is not None and there[1].place != str(origin.place):
                    continue
                gone.append(f"collection {name} at {self.config.uri}")
                if not dry_run:
                    with server.answering():
                        server.client.drop_collection(name)
        return gone

    def load(self, state: Mapping[str, Any]) -> None:
        """Note which collection to ask; it is looked at when it is first asked."""
        self._collection = bytes(np.asarray(state["collection"])).decode("ascii", "replace")
        self._pictures = bytes(np.asarray(state["pictures"])).decode("ascii", "replace")
        self._rows, self._entities = np.asarray(state["filled"]).tolist()
        self._asking = None

    def _looked(self) -> Asking:
        """The copy, to be asked. Raises InstsearchError where it is not there, not whole, or not of this index."""
        there, where = self._copy(self._collection), self.config.uri
        if there is None:
            raise InstsearchError(f"the mirror of this index is not at {where}: {AGAIN}, which fills it")
        copy, head = there
        if head.fills.get(self._rows) not in (None, self._pictures):
            raise InstsearchError(
                f"{self._collection} at {where} is the mirror of another index, {head.place}: {AGAIN}, with --set "
                "searcher.collection=NAME for a mirror of its own"
            )
        if self._rows not in head.fills or copy.count() < self._entities:
            raise InstsearchError(f"the mirror of this index at {where} is not whole: {AGAIN}, which goes on")
        return Asking(copy.server, self._collection, self._rows, _parameters("search", self.config.search))

    # -- searching --------------------------------------------------------------------------------------

    def search(self, queries: Sequence[Query], data: Data, k: int) -> Hits:
        if self._asking is None:
            self._asking = self._looked()
        codes, among = [_vectors(query) for query in queries], [self._among(query, data) for query in queries]
        first: dict[int, Found] = {}
        same: dict[str, list[int]] = {}
        for i in (i for i, own in enumerate(codes) if own):
            same.setdefault(among[i].filter(), []).append(i)
        for wanted, those in same.items():
            found = self._asking.first([codes[i][0] for i in those], wanted, k)
            first |= dict(zip(those, found, strict=True))
        ranked = [
            self._ranked(query, codes[i], among[i], k, first.get(i, NOTHING))
            for i, query in enumerate(queries)
        ]
        return Hits.stack([(found.images, found.scores, found.boxes) for found in ranked], k)

    def _among(self, query: Query, data: Data) -> Among:
        """The rows that are not there for a query, removed or excluded; or those that are, if these are fewer."""
        images, n = data.images, len(data.span)
        if self._gone is None or self._gone[0] is not images:
            self._gone = images, _others(images, n)
        gone = self._gone[1]
        if query.exclude:
            gone = np.union1d(gone, np.fromiter(query.exclude, np.int64, len(query.exclude)))
        return Among(_others(gone, n), only=True) if 2 * len(gone) > n else Among(gone)

    def _ranked(self, query: Query, codes: Sequence[Any], among: Among, k: int, first: Found) -> Found:
        """The hits of a query, of whose first vector these were found at first."""
        assert self._asking is not None
        if not codes:
            return NOTHING
        sparse, each = isinstance(query.codes, SparseVectors), query.per_image
        if len(codes) > 1 and not sparse:
            if each != 1:
                raise UsageError(
                    "a query of several vectors is matched with each image as a whole: for more than one hit an "
                    "image (--per-image) leave the query in one vector (--set encoder.query-apart=false)"
                )
            return self._asking.matched(codes, among, k)
        found = self._asking.best(codes[0], among, k, each, first)
        if sparse:
            others = [self._asking.best(code, among, k, each) for code in codes[1:]]
            found = found.with_those(*others).ranked(each)
            found = found.some(found.scores > 0)
        return found.some(slice(k))


def _parameters(name: str, text: str) -> dict[str, Any]:
    """ "M=16,efConstruction=200" -> numbers where they are numbers. Raises ValueError."""
    found: dict[str, Any] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not (key and equals and value):
            raise ValueError(f"{name} is NAME=VALUE,..., not '{text}'")
        for kind in (int, float, str):
            try:
                found[key] = kind(value)
                break
            except ValueError:
                continue
    return found


def _width(data: Data) -> tuple[int | None, int]:
    """D of dense codes, None of sparse ones; and how many words there are."""
    for block in data.blocks("codes"):
        if "indices" in block:
            if len(block["indices"]):
                return None, int(block["dim"])
        elif len(block["vectors"]):
            return int(block["vectors"].shape[1]), 0
    raise InstsearchError("no image of the index has a code: there is nothing to search")


def _called(number: int, name: str) -> str:
    row, region = divmod(number, REGIONS)
    return (name or f"row {row}") + (f" (region {region})" if region else "")


def _vectors(query: Query) -> list[Any]:
    """The query's rows as Milvus takes them; sparse ones without a word are none."""
    codes = query.codes
    if not isinstance(codes, SparseVectors):
        return [*values_of(codes, None, "milvus")]
    ends = codes.indptr.tolist()
    rows = [(codes.indices[a:b], codes.data[a:b]) for a, b in pairwise(ends)]
    vectors = [dict(zip(words[v != 0].tolist(), v[v != 0].tolist(), strict=True)) for words, v in rows]
    return [vector for vector in vectors if vector]


def _others(rows: np.ndarray, n: int) -> np.ndarray:
    """The rows below n that are not among these."""
    left = np.ones(n, bool)
    left[rows[(rows >= 0) & (rows < n)]] = False
    return np.flatnonzero(left)
