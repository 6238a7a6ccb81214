"""A layer: a folder of parts, made with one set of options."""

from __future__ import annotations

import bisect
import contextlib
import json
import re
import threading
import time
from typing import TYPE_CHECKING, Any

from instsearch_formats import places
from instsearch_formats.encodings import ENCODINGS
from instsearch_formats.errors import FormatError, damaged
from instsearch_formats.files import PARTIAL
from instsearch_formats.fingerprint import canonical, fingerprint
from instsearch_formats.part import Part, check_identity, check_pictures, part_name, part_span
from instsearch_formats.writer import PartWriter, write_arrays

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    import numpy as np

    from instsearch_formats.cache import PartCache
    from instsearch_formats.declared import Array
    from instsearch_formats.encodings import Item

_RACY = 2_000_000_000  #: nanoseconds for which a folder's modification time proves nothing
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


def check_word(word: str, what: str) -> str:
    """A kind's or component's name as it may stand in a path; FormatError if it may not."""
    if not _WORD.fullmatch(word):
        raise FormatError(f"{what} {word!r} cannot be a folder's name: use letters, digits and _ . + -")
    return word


def folder_name(name: str, identity: Mapping[str, Any]) -> str:
    """``<name>-<first 12 digits of the fingerprint>``."""
    return f"{check_word(name, 'the name')}-{fingerprint(identity)[:12]}"


class Layer:
    """One kind of data about images, by row. Nothing is on disk before the first part is written.

    Rows lie in parts; :meth:`ranges` lists them. Reading is safe from several threads.
    """

    def __init__(
        self,
        path: Path,
        kind: str,
        name: str,
        encoding: str,
        identity: Mapping[str, Any],
        cache: PartCache,
        top: Path,
        pictures: Callable[[range], str] = lambda span: "",
    ) -> None:
        if encoding not in ENCODINGS:
            raise FormatError(f"there is no encoding {encoding!r}; there is {', '.join(ENCODINGS)}")
        self.path, self.kind, self.name, self.encoding, self._top = path, kind, name, encoding, top
        self._canonical = canonical(identity)
        self.identity: dict[str, Any] = json.loads(self._canonical)
        self._cache, self._pictures = cache, pictures
        self._lock = threading.Lock()
        self._stamp: int | None = None
        self._ranges: list[range] = []
        self._starts: list[int] = []
        self._lengths: dict[range, int] = {}
        self._widths: dict[str, str] = {}

    def ranges(self) -> list[range]:
        """The rows of each part, ascending; FormatError where parts overlap (kind search: they may)."""
        with self._lock:
            return list(self._scan())

    def has(self, span: range) -> bool:
        """Whether there is a part of exactly these rows."""
        path = self.path / part_name(span)
        places.check(path, self._top)
        return path.is_file()

    def covers(self, row: int) -> bool:
        """Whether some part has this row."""
        return self._find(row) is not None

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return sum((self.path / part_name(span)).stat().st_size for span in self.ranges())

    def writer(self, span: range, held: bool = False) -> PartWriter:
        """A context that writes the part of rows ``span``: append one item per row, in order.

        The part appears when the context ends without an exception, if ``held`` when it is put in its place; otherwise
        nothing is left.
        """
        self._want_items()
        return PartWriter(self._part(span), ENCODINGS[self.encoding], self._header(span), len(span), held)

    def write_arrays(
        self, span: range, arrays: Mapping[str, np.ndarray], attrs: Mapping[str, Any] | None = None
    ) -> None:
        """Write named arrays about rows ``span`` as one part (encoding ``arrays``)."""
        self._want_arrays()
        write_arrays(self._part(span), self._header(span), arrays, attrs or {})

    def abandon(self, span: range) -> None:
        """Remove what killed writers left of a part; those that still write fail. The caller holds the lock."""
        for name in places.names(self.path, self._top):
            if name.startswith(part_name(span)) and name.endswith(PARTIAL):
                places.remove(self.path / name, self._top)

    def delete(self) -> None:
        """Remove the folder of the layer with all in it."""
        places.remove(self.path, self._top, whole=True)

    def read(self, row: int) -> Item:
        """One image's item. FormatError if no part has the row."""
        part, index = self._row(row)
        return part.item(index)

    def head(self, row: int) -> Item:
        """What any image has one of, its grid say, without its values. FormatError if no part has the row."""
        part, index = self._row(row)
        return part.head(index)

    def _row(self, row: int) -> tuple[Part, int]:
        self._want_items()
        span = self._find(row)
        if span is None:
            raise FormatError(f"{self.kind}/{self.path.name} has no row {row}")
        return self._open(span), row - span.start

    def blocks(self, span: range | None = None) -> Iterator[dict[str, Any]]:
        """The encoding's arrays, with "start" and "stop", in blocks of about 32 MiB at most.

        ``span`` must be covered; None is all there is. Blocks never cross parts; pointers begin at 0.
        """
        self._want_items()
        ranges = self.ranges()
        if span is not None:
            ranges = [r for r in ranges if r.start < span.stop and span.start < r.stop]
            have = sum(min(r.stop, span.stop) - max(r.start, span.start) for r in ranges)
            if have != len(span):
                raise FormatError(
                    f"{self.kind}/{self.path.name} has {have} of the {len(span)} rows "
                    f"from {span.start} to {span.stop}: run `instsearch index` to make the others"
                )
        for r in ranges:
            part = self._open(r)
            first, last = (
                (r.start, r.stop) if span is None else (max(r.start, span.start), min(r.stop, span.stop))
            )
            for a, b in part.cuts(first - r.start, last - r.start):
                yield {**part.slice(a, b), "start": r.start + a, "stop": r.start + b}

    def arrays(self, span: range, wanted: Mapping[str, Array] | None = None) -> dict[str, np.ndarray]:
        """The named arrays of a part, read-only and memory-mapped where they are not small.

        Raises FormatError where they are not as ``wanted``.
        """
        self._want_arrays()
        part = self._open(span)
        self._lengths[span] = part.length
        return part.mapped(wanted)

    def check_length(self, span: range) -> None:
        """Whether a file that was memory-mapped still has its bytes, or is gone, which takes none away.

        Reading beyond the end of one that was cut short would end the process. Raises FormatError.
        """
        path = self.path / part_name(span)
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size < self._lengths.get(span, 0):
                raise damaged(path, "it was cut short while it was open")

    def attrs(self, span: range) -> dict[str, Any]:
        """What was stored with the named arrays of a part."""
        self._want_arrays()
        return self._open(span).attributes()

    def cover(self, n_rows: int) -> list[range]:
        """Parts that cover rows from 0 on without overlap, the longest at each start, within ``n_rows``."""
        best: dict[int, range] = {}
        for span in self.ranges():
            if span.stop <= n_rows and len(span) > len(best.get(span.start, ())):
                best[span.start] = span
        out: list[range] = []
        while (row := out[-1].stop if out else 0) in best:
            out.append(best[row])
        return out

    def _want_items(self) -> None:
        if self.encoding == "arrays":
            raise FormatError("a layer of named arrays has no items: use write_arrays and arrays")

    def _want_arrays(self) -> None:
        if self.encoding != "arrays":
            raise FormatError(f"a layer of {self.encoding} has items: use writer, read and blocks")

    def _part(self, span: range) -> Path:
        if span.step != 1 or not 0 <= span.start < span.stop < 10**10:
            raise FormatError(f"{span} is no range of rows")
        if self.encoding != "arrays":
            for other in self.ranges():
                if other != span and other.start < span.stop and span.start < other.stop:
                    raise FormatError(
                        f"rows {span.start} to {span.stop} overlap {part_name(other)} in {self.path}"
                    )
        path = self.path / part_name(span)
        places.check(path, self._top)
        return path

    def _header(self, span: range) -> dict[str, str | int]:
        pictures = self._pictures(span)
        return {
            "kind": self.kind,
            "name": self.name,
            "identity": self._canonical,
            "start": span.start,
            "stop": span.stop,
            **({"pictures": pictures} if pictures else {}),
        }

    def _open(self, span: range) -> Part:
        return self._cache.get(self.path / part_name(span), self._check)

    def _check(self, part: Part) -> None:
        check_identity(part, self._canonical, self.encoding)
        for name, width in part.widths().items():
            if self._widths.setdefault(name, width) != width:
                raise damaged(part.path, f"its {name} are {width}, other parts' {self._widths[name]}")
        check_pictures(part, self._pictures)

    def _find(self, row: int) -> range | None:
        with self._lock:
            found = self._look(row)  # parts do not change: what the last listing had is as good as new
            if found is None:
                self._scan()
                found = self._look(row)
            return found

    def _look(self, row: int) -> range | None:
        if self.encoding == "arrays":
            return next((span for span in self._ranges if row in span), None)
        i = bisect.bisect_right(self._starts, row) - 1
        return self._ranges[i] if i >= 0 and row in self._ranges[i] else None

    def _scan(self) -> list[range]:
        """The listing, read again when the folder may have changed."""
        try:
            stamp = self.path.stat().st_mtime_ns
        except FileNotFoundError:
            self._stamp, self._ranges, self._starts = None, [], []
            return self._ranges
        if stamp != self._stamp:
            self._stamp = stamp if time.time_ns() - stamp > _RACY else None
            self._ranges = part_ranges(self.path, self._top)
            self._starts = [span.start for span in self._ranges]
            for a, b in zip(self._ranges, self._ranges[1:], strict=False):
                if b.start < a.stop and self.encoding != "arrays":
                    raise FormatError(f"{part_name(a)} and {part_name(b)} overlap in {self.path}: delete one")
        return self._ranges


def part_ranges(folder: Path, top: Path) -> list[range]:
    """The rows of each part in a folder, by file names, ascending."""
    spans = (part_span(name) for name in places.names(folder, top))
    return sorted((span for span in spans if span is not None), key=lambda span: (span.start, span.stop))
