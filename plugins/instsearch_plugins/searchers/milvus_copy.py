"""A copy of an index's codes in a collection of Milvus: what it holds, how it differs, how it is brought up to date.

An entity is a row of codes: a picture, or one of its regions. Beside the code it has the number of its image row and
of its region, the picture's name, the box, and a checksum of all of them. The first entity, of row -1, says which index
the copy is of, and of which pictures the rows were that it was filled with.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from instsearch_cli.errors import InstsearchError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from instsearch_cli.components import Data, Progress
    from instsearch_cli.storage import Origin
    from instsearch_plugins.searchers.milvus_server import Server

REGIONS = 1 << 20  #: of an image at most: entity row * REGIONS + region
HEAD = -1  #: the entity that says what the copy is of
FILLS = 64  #: ends of fills that the head remembers
BATCH = 4 << 20  #: bytes of codes in a message
STRAYS = 4096  #: entities deleted at once
NAME = 65535  #: bytes of a VARCHAR at most
BOX = ("x0", "y0", "x1", "y1")
FIELDS = ("id", "row", "region", "name", "sum", *BOX, "code")
SHOWN = 5  #: names in a line of differences

Code = np.ndarray | dict[int, float]


class Entities(NamedTuple):
    """Rows of codes as the copy has them: id i64[m] ascending, name, boxes f32[m, 4], codes, sums."""

    ids: list[int]
    names: list[str]
    boxes: np.ndarray
    codes: list[Code]
    sums: list[int]

    def row(self, i: int) -> dict[str, Any]:
        """An entity as it is inserted."""
        row, region = divmod(self.ids[i], REGIONS)
        corners = dict(zip(BOX, self.boxes[i].tolist(), strict=True))
        own = {"id": self.ids[i], "row": row, "region": region, "name": self.names[i], "sum": self.sums[i]}
        return {**own, **corners, "code": self.codes[i]}


class Head(NamedTuple):
    """What the first entity says: the index's folder; rows -> :attr:`Origin.pictures`, at the end of each fill."""

    place: str
    fills: dict[int, str]


def checksum(name: str, box: np.ndarray, code: Code) -> int:
    """i64: the first 8 bytes of BLAKE2b of an entity's name, box and code."""
    digest = hashlib.blake2b(digest_size=8)
    digest.update(name.encode())
    digest.update(np.asarray(box, "<f4").tobytes())
    if isinstance(code, dict):
        words = sorted(code)
        digest.update(np.array(words, "<u4").tobytes() + np.array([code[w] for w in words], "<f4").tobytes())
    else:
        digest.update(np.asarray(code, "<f4").tobytes())
    return int.from_bytes(digest.digest(), "little", signed=True)


def entities(block: Mapping[str, Any], names: Sequence[str]) -> Entities:
    """The rows of a stored block of codes, of pictures of these names; rows of sparse codes without a word are none.

    Raises InstsearchError for a picture of REGIONS regions or more.
    """
    sparse = "indices" in block
    pointers = np.asarray(block["rows" if sparse else "indptr"])
    counts = np.diff(pointers)
    if counts.max(initial=0) >= REGIONS:
        raise InstsearchError(f"a picture has more than {REGIONS:,} regions: too many for a mirror")
    image = np.repeat(np.arange(len(counts)), counts)
    ids = (image + int(block["start"])) * REGIONS + np.arange(len(image)) - pointers[:-1][image]
    codes: list[Code]
    if sparse:
        codes = [*_words(block)]
        there = [i for i, code in enumerate(codes) if code]
    else:
        codes, there = [*np.asarray(block["vectors"], np.float32)], [*range(len(ids))]
    boxes = np.asarray(block["boxes"], np.float32)[there]
    called, codes = [names[int(image[i])] for i in there], [codes[i] for i in there]
    sums = [checksum(*one) for one in zip(called, boxes, codes, strict=True)]
    return Entities(ids[there].tolist(), called, boxes, codes, sums)


def _words(block: Mapping[str, Any]) -> Iterator[dict[int, float]]:
    indices, data = np.asarray(block["indices"]), np.asarray(block["data"], np.float32)
    ends = np.asarray(block["indptr"]).tolist()
    for a, b in pairwise(ends):
        some = np.flatnonzero(data[a:b]) + a
        yield dict(zip(indices[some].tolist(), data[some].tolist(), strict=True))


def _returned(rows: Sequence[Mapping[str, Any]]) -> Entities:
    """Entities that Milvus returned whole, with sums of what they hold, whatever sums they have."""
    rows = sorted(rows, key=lambda row: int(row["id"]))
    boxes = np.array([[row[side] for side in BOX] for row in rows], np.float32).reshape(-1, 4)
    codes: list[Code] = [
        {int(w): float(v) for w, v in row["code"].items()}
        if isinstance(row["code"], dict)
        else np.array(row["code"], np.float32)
        for row in rows
    ]
    names = [str(row["name"]) for row in rows]
    sums = [checksum(*one) for one in zip(names, boxes, codes, strict=True)]
    return Entities([int(row["id"]) for row in rows], names, boxes, codes, sums)


@dataclass
class Differences:
    """Entities of a block that differ: missing and otherwise, by number in ``own``; strays by id."""

    own: Entities
    missing: list[int]
    otherwise: dict[int, str]
    strays: list[int]

    def named(self) -> Iterator[tuple[str, int, str]]:
        """What is the matter, with which entity, of which picture ("": of none)."""
        for i, what in [*((i, "missing") for i in self.missing), *self.otherwise.items()]:
            yield what, self.own.ids[i], self.own.names[i]
        yield from (("of nothing in the index", number, "") for number in self.strays)


class Copy:
    """The collection of a name; ``width`` is D of dense codes, None for sparse ones."""

    def __init__(self, server: Server, name: str) -> None:
        self.server, self.name = server, name

    # -- what is there ----------------------------------------------------------------------------------

    def head(self) -> Head | None:
        """What the copy is of; None where there is none, or where a kill left it without a word."""
        with self.server.answering():
            if not self.server.client.has_collection(self.name):
                return None
            self.server.client.load_collection(self.name)
        rows = self._query(f"id == {HEAD}", ["name"])
        try:
            said = json.loads(rows[0]["name"])
            return Head(str(said["index"]), {int(n): str(digest) for n, digest in said["fills"].items()})
        except (LookupError, ValueError, TypeError, AttributeError):
            return None

    def count(self) -> int:
        """How many entities there are, without the first; of a condition Milvus Lite would read them all."""
        found = self._query("", ["count(*)"])
        return int(found[0]["count(*)"]) - 1

    def _query(self, wanted: str, fields: Sequence[str]) -> list[Any]:
        with self.server.answering():
            return list(
                self.server.client.query(
                    self.name, filter=wanted, output_fields=list(fields), consistency_level="Strong"
                )
            )

    def _fits(self, width: int | None) -> bool:
        with self.server.answering():
            fields = self.server.client.describe_collection(self.name)["fields"]
        widths = [field["params"].get("dim") for field in fields if field["name"] == "code"]
        return widths == [width]

    def compared(
        self, data: Data, origin: Origin, progress: Progress, whole: bool, empty: bool = False
    ) -> Iterator[Differences]:
        """Block by block what differs: by checksums, or ``whole``, every value; of one that is ``empty``, all."""
        stop = 0
        progress.start("filling the mirror" if empty else "comparing the mirror", len(data.span))
        for block in data.blocks("codes"):
            start, stop = int(block["start"]), int(block["stop"])
            own = entities(block, origin.names(range(start, stop)))
            wanted = f"id >= {start * REGIONS} and id < {stop * REGIONS}"
            there = [] if empty else self._query(wanted, FIELDS if whole else ("id", "sum"))
            yield _differences(own, _returned(there) if whole else None, there)
            progress.advance(stop - start)
        beyond = self._query(f"id >= {stop * REGIONS} or id < {HEAD}", ["id"])
        nothing = Entities([], [], np.empty((0, 4), np.float32), [], [])
        yield Differences(nothing, [], {}, [int(row["id"]) for row in beyond])

    # -- filling it -------------------------------------------------------------------------------------

    def prepare(self, width: int | None, words: int, index: Mapping[str, Any], head: Head) -> bool:
        """A collection that takes such codes, whose head says this; whether it is new, and empty."""
        client = self.server.client
        with self.server.answering():
            there = client.has_collection(self.name)
            if there and not self._fits(width):
                client.drop_collection(self.name)
                there = False
            if not there:
                self._create(width, index)
            client.load_collection(self.name)
        self.say(head, width, words)
        return not there

    def _create(self, width: int | None, index: Mapping[str, Any]) -> None:
        from pymilvus import DataType

        client = self.server.client
        schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("row", DataType.INT64)
        schema.add_field("region", DataType.INT32)
        schema.add_field("name", DataType.VARCHAR, max_length=NAME)
        schema.add_field("sum", DataType.INT64)
        for side in BOX:
            schema.add_field(side, DataType.FLOAT)
        if width is None:
            schema.add_field("code", DataType.SPARSE_FLOAT_VECTOR)
        else:
            schema.add_field("code", DataType.FLOAT_VECTOR, dim=width)
        params = client.prepare_index_params()
        params.add_index("code", metric_type="IP", **index)
        try:
            client.create_collection(
                self.name, schema=schema, index_params=params, consistency_level="Bounded"
            )
        except BaseException:
            client.drop_collection(self.name)  # one without its index
            raise

    def say(self, head: Head, width: int | None, words: int) -> None:
        """Write the first entity; its code is one that no query has a product with."""
        fills = dict(list(head.fills.items())[-FILLS:])
        code: Code = {words: 1.0} if width is None else np.zeros(width, np.float32)
        text = json.dumps({"index": head.place, "fills": fills})
        entity = {"id": HEAD, "row": -1, "region": 0, "name": text, "sum": 0, "code": code}
        with self.server.answering():
            self.server.client.upsert(self.name, [entity | dict.fromkeys(BOX, 0.0)])

    def mend(self, found: Differences) -> int:
        """Put right what differs; of how many images."""
        client = self.server.client
        for numbers, write in ((found.missing, client.insert), ([*found.otherwise], client.upsert)):
            batch: list[dict[str, Any]] = []
            size = 0
            for i in numbers:
                batch.append(found.own.row(i))
                size += 8 * len(found.own.codes[i]) + len(found.own.names[i]) + 64
                if size >= BATCH:
                    self._write(write, batch)
                    batch, size = [], 0
            self._write(write, batch)
        for first in range(0, len(found.strays), STRAYS):
            with self.server.answering():
                client.delete(self.name, ids=found.strays[first : first + STRAYS])
        ids = [found.own.ids[i] for i in (*found.missing, *found.otherwise)] + found.strays
        return len({i // REGIONS for i in ids})

    def _write(self, write: Any, batch: list[dict[str, Any]]) -> None:
        if batch:
            with self.server.answering():
                write(self.name, batch)

    def settle(self) -> None:
        """Have what was written made permanent, and indexed."""
        with self.server.answering():
            self.server.client.flush(self.name)
            self.server.client.load_collection(self.name)

    def check_index(self) -> None:
        """Read it anew, with its index, which Milvus Lite makes only then. Raises InstsearchError, and drops it."""
        client = self.server.client
        try:
            with self.server.answering():
                client.release_collection(self.name)
                client.load_collection(self.name)
        except InstsearchError as error:
            with self.server.answering():
                client.drop_collection(self.name)
            raise InstsearchError(f"{error}: give another --set searcher.index or searcher.build") from error


def _differences(own: Entities, whole: Entities | None, there: Sequence[Mapping[str, Any]]) -> Differences:
    sums = {int(row["id"]): int(row["sum"]) for row in there}
    times = Counter(int(row["id"]) for row in there)
    place = {} if whole is None else {number: i for i, number in enumerate(whole.ids)}
    missing, otherwise = [], {}
    for i, number in enumerate(own.ids):
        if number not in sums:
            missing.append(i)
        elif times[number] > 1:  # as Milvus Lite has it that was killed when it wrote what its log has, too
            otherwise[i] = "there more than once"
        elif whole is None:
            if sums[number] != own.sums[i]:
                otherwise[i] = ""
        elif (what := _otherwise(own, i, whole, place[number], sums[number])) is not None:
            otherwise[i] = what
    strays = sorted(sums.keys() - set(own.ids))
    return Differences(own, missing, otherwise, strays)


def _otherwise(own: Entities, i: int, other: Entities, j: int, noted: int) -> str | None:
    """What of an entity is otherwise; None if it is as it should be."""
    if own.names[i] != other.names[j]:
        return "named otherwise"
    if not np.array_equal(own.boxes[i], other.boxes[j]):
        return "with other boxes"
    if own.sums[i] != other.sums[j]:
        return "with other codes"
    return None if noted == own.sums[i] else "with other checksums"
