"""What became of rows since they were given out: removed, there again, found elsewhere. One file says it of many."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from instsearch_formats.declared import Array
from instsearch_formats.errors import damaged
from instsearch_formats.fingerprint import canonical
from instsearch_formats.part import read_arrays
from instsearch_formats.writer import write_arrays

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

Place = tuple[int, bytes]  #: the number of a root, and a path below it

_IDENTITY = canonical({"kind": "images"})
_ROW = 10**10
_ARRAYS = {
    "rows": Array("i8", ("m",), below=_ROW),
    "reason": Array("i8", ("m",), group="reason", below=_ROW),
    "restored": Array("i8", ("k",), group="restored", below=_ROW),
    "placed": Array("i8", ("p",), group="places", below=_ROW),
    "root": Array("u4", ("p",), group="places"),
    "indptr": Array("i8", ("p+1",), group="places", climbs="bytes"),
    "name": Array("u1", ("bytes",), group="places"),
}


@dataclass
class Change:
    """What becomes of rows at one moment.

    removed   rows that are images no more, and why
    restored  rows that are images again
    places    where the file of a row lies now: what the image is called, then the other names that the file has
    """

    removed: dict[int, str] = field(default_factory=dict)
    restored: set[int] = field(default_factory=set)
    places: dict[int, tuple[Place, ...]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.removed or self.restored or self.places)

    @classmethod
    def of(cls, several: Iterable[Change]) -> Change:
        """Several in their order as one: what the last one says of a row holds."""
        whole = cls()
        for change in several:
            for row in change.restored:
                whole.removed.pop(row, None)
            whole.restored -= change.removed.keys()
            whole.restored |= change.restored
            whole.removed |= change.removed
            whole.places |= change.places
        return whole


def valid(name: bytes) -> bool:
    """Whether a name is a path below a root, and leads nowhere else."""
    return bool(name) and b"\0" not in name and not name.startswith(b"/") and b".." not in name.split(b"/")


def write(path: Path, change: Change, settles: str = "") -> None:
    """Write a change as one file, which says what it is called; ``settles``: the replacement that it completes."""
    reasons = sorted(set(change.removed.values()))
    attrs: dict[str, Any] = {"reason": reasons[0] if len(reasons) == 1 else "", "file": path.name}
    arrays = {"rows": _rows(change.removed)}
    if len(reasons) > 1:
        attrs["reasons"] = reasons
        arrays["reason"] = np.array([reasons.index(change.removed[row]) for row in sorted(change.removed)])
    if change.restored:
        arrays["restored"] = _rows(change.restored)
    if change.places:
        pairs = [(row, *place) for row in sorted(change.places) for place in change.places[row]]
        arrays["placed"] = np.array([row for row, _, _ in pairs], np.int64)
        arrays["root"] = np.array([root for _, root, _ in pairs], np.uint32)
        arrays["indptr"] = np.cumsum([0, *(len(name) for _, _, name in pairs)], dtype=np.int64)
        arrays["name"] = np.frombuffer(b"".join(name for _, _, name in pairs), np.uint8)
    if settles:
        attrs["settles"] = settles
    write_arrays(path, {"kind": "images", "name": "removed", "identity": _IDENTITY}, arrays, attrs)


def read(path: Path, top: Path, n: int = _ROW) -> tuple[Change, str]:
    """A change of n rows, every byte of its file checked, and the replacement that it completes, "" for none."""
    arrays, attrs = read_arrays(path, _IDENTITY, top, _ARRAYS)
    if attrs.get("file", path.name) != path.name:
        raise damaged(path, f"it is {str(attrs['file'])[:40]!r}, renamed or copied")
    for name in ("rows", "restored", "placed"):
        if name in arrays and arrays[name].max(initial=-1) >= n:
            raise damaged(path, f"it names row {arrays[name].max()}, and there are {n:,}")
    rows, reasons = arrays["rows"].tolist(), [attrs.get("reason", "")] * len(arrays["rows"])
    if "reason" in arrays:
        kinds = attrs.get("reasons")
        if not isinstance(kinds, list) or arrays["reason"].max(initial=-1) >= len(kinds):
            raise damaged(path, "its reasons are not those of its rows")
        reasons = [kinds[i] for i in arrays["reason"].tolist()]
    removed = dict(zip(rows, map(str, reasons), strict=True))
    restored = set(arrays["restored"].tolist()) if "restored" in arrays else set()
    return Change(removed, restored, _places(path, arrays)), str(attrs.get("settles", ""))


def _rows(rows: Iterable[int]) -> np.ndarray:
    return np.array(sorted(rows), np.int64)


def _places(path: Path, arrays: Mapping[str, np.ndarray]) -> dict[int, tuple[Place, ...]]:
    if "placed" not in arrays:
        return {}
    names = [arrays["name"][a:b].tobytes() for a, b in pairwise(arrays["indptr"])]
    if not all(map(valid, names)):
        raise damaged(path, "it has names that are none")
    rows, roots = arrays["placed"], arrays["root"]
    found: dict[int, tuple[Place, ...]] = {}
    for row, root, name in zip(rows.tolist(), roots.tolist(), names, strict=True):
        found[row] = (*found.get(row, ()), (root, name))
    return found
