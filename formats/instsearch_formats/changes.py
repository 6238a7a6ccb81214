"""What became of rows since they were given out: removed, there again, found elsewhere. One file says it of many."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from instsearch_formats.encodings import climbs
from instsearch_formats.errors import damaged
from instsearch_formats.fingerprint import canonical
from instsearch_formats.part import read_arrays
from instsearch_formats.writer import write_arrays

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

Place = tuple[int, bytes]  #: the number of a root, and a path below it

_IDENTITY = canonical({"kind": "images"})


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
    """Write a change as one file; ``settles``: the replacement that it completes."""
    reasons = sorted(set(change.removed.values()))
    attrs: dict[str, Any] = {"reason": reasons[0] if len(reasons) == 1 else ""}
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


def read(path: Path, top: Path) -> tuple[Change, str]:
    """A change, every byte of its file checked, and the replacement that it completes, "" for none."""
    arrays, attrs = read_arrays(path, _IDENTITY, top)
    rows = _integers(path, arrays, "rows")
    if rows is None:
        raise damaged(path, "it has no rows")
    removed = dict.fromkeys(rows.tolist(), str(attrs.get("reason", "")))
    if (which := _integers(path, arrays, "reason")) is not None:
        removed = dict(zip(rows.tolist(), _reasons(path, which, attrs, len(rows)), strict=True))
    restored = _integers(path, arrays, "restored")
    change = Change(removed, set() if restored is None else set(restored.tolist()), _places(path, arrays))
    return change, str(attrs.get("settles", ""))


def _rows(rows: Iterable[int]) -> np.ndarray:
    return np.array(sorted(rows), np.int64)


def _integers(path: Path, arrays: Mapping[str, np.ndarray], name: str) -> np.ndarray | None:
    """An array of integers in one dimension; None if it is not there."""
    values = arrays.get(name)
    if values is not None and (values.dtype.kind not in "iu" or values.ndim != 1):
        raise damaged(path, f"its {name} are {values.dtype} in {values.ndim} dimensions")
    return values


def _reasons(path: Path, which: np.ndarray, attrs: Mapping[str, Any], rows: int) -> list[str]:
    reasons = attrs.get("reasons")
    if not isinstance(reasons, list) or len(which) != rows or not np.isin(which, range(len(reasons))).all():
        raise damaged(path, "its reasons are not those of its rows")
    return [str(reasons[i]) for i in which]


def _places(path: Path, arrays: Mapping[str, np.ndarray]) -> dict[int, tuple[Place, ...]]:
    columns = [_integers(path, arrays, name) for name in ("placed", "root", "indptr", "name")]
    if all(column is None for column in columns):
        return {}
    if any(column is None for column in columns):
        raise damaged(path, "its names are not all there")
    rows, roots, ends, text = (column for column in columns if column is not None)
    fits = len(rows) == len(roots) == len(ends) - 1 and text.dtype == np.uint8 and climbs(ends, len(text))
    names = [text[a:b].tobytes() for a, b in pairwise(ends)] if fits else []
    if not fits or not all(map(valid, names)):
        raise damaged(path, "its names are none, or not one for each row")
    found: dict[int, tuple[Place, ...]] = {}
    for row, root, name in zip(rows.tolist(), roots.tolist(), names, strict=True):
        found[row] = (*found.get(row, ()), (root, name))
    return found
