"""Questions as JSON: checked wholly, every error with the field that it is about."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from instsearch_cli.boxes import parse_box
from instsearch_cli.engine.questions import checked_box
from instsearch_cli.errors import UsageError, nearest
from instsearch_cli.outside.text import shown

if TYPE_CHECKING:
    from instsearch_cli.serve.uploads import Upload

MOST_PARTS = 100  #: views, and what the object is not
MOST_HITS = 1000
FIELDS = ("views", "against", "indexes", "pipeline", "rerank", "refine", "k", "per_image", "min_score")


@dataclass(frozen=True)
class Ref:
    """A picture: handed in (``upload``), an image of an index (``index``, ``row``), or in the question itself.

    held  the one that was handed in, whose file stays as long as this is there
    """

    upload: str = ""
    index: int = -1
    row: int = -1
    data: bytes = b""
    name: str = ""
    held: Upload | None = None


Part = tuple[Ref, tuple[float, float, float, float] | None]


@dataclass(frozen=True)
class Question:
    """What is asked: views of an object, what it is not, and of which indexes, by position."""

    views: tuple[Part, ...]
    against: tuple[Part, ...] = ()
    indexes: tuple[int, ...] | None = None
    k: int = 40
    wishes: dict[str, Any] = field(default_factory=dict)  #: as Index.query takes them

    @property
    def choice(self) -> dict[str, Any]:
        """What of the wishes decides which engine is asked."""
        return {
            name: value for name, value in self.wishes.items() if name in ("pipeline", "rerank", "refine")
        }


def question(given: Any) -> Question:
    """A question out of JSON. Raises UsageError that names the field."""
    table = _table(given, "the question", FIELDS)
    views = _parts(table.get("views"), "views")
    if not views:
        raise UsageError("views: give at least one picture, with a box or null")
    against = () if table.get("against") is None else _parts(table["against"], "against")
    if len(views) + len(against) > MOST_PARTS:
        raise UsageError(f"views and against are at most {MOST_PARTS} pictures together")
    indexes = table.get("indexes")
    if indexes is not None:
        if not isinstance(indexes, list) or not indexes or len(set(map(repr, indexes))) < len(indexes):
            raise UsageError("indexes is a list of the ids of indexes, each once")
        indexes = tuple(_whole(i, "indexes", 0, 10**6) for i in indexes)
    wishes: dict[str, Any] = {}
    for name in ("pipeline", "rerank", "refine", "per_image", "min_score"):
        if table.get(name) is not None:
            wishes[name] = _CHECKS[name](table[name], name)
    k = table.get("k")
    return Question(views, against, indexes, 40 if k is None else _whole(k, "k", 1, MOST_HITS), wishes)


def of_form(rest: Any, boxes: list[str], picture: Ref) -> Question:
    """A question out of a form: one picture, boxes of it as ``x,y,w,h``, and the rest as JSON."""
    table = dict(_table({} if rest is None else rest, "the question", FIELDS))
    each: list[Any] = [parse_box(box) for box in boxes] or [None]
    asked_for = question({"views": [{"picture": {"upload": "-"}}], **table})
    views = tuple((picture, box) for box in each)
    further = asked_for.views if "views" in table else ()
    return Question((*views, *further), asked_for.against, asked_for.indexes, asked_for.k, asked_for.wishes)


def _table(given: Any, what: str, fields: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise UsageError(f"{what} is an object, not {shown(given)}")
    for name in given:
        if name not in fields:
            raise UsageError(f"{what} has no field '{name}'.{nearest(name, fields)}")
    return given


def _parts(given: Any, name: str) -> tuple[Part, ...]:
    if not isinstance(given, list):
        raise UsageError(f"{name} is a list of objects with a picture and a box")
    if len(given) > MOST_PARTS:
        raise UsageError(f"{name}: at most {MOST_PARTS} pictures")
    parts = []
    for i, each in enumerate(given):
        where = f"{name}[{i}]"
        part = _table(each, where, ("picture", "box"))
        parts.append((ref(part.get("picture"), f"{where}.picture"), _box(part.get("box"), f"{where}.box")))
    return tuple(parts)


def ref(given: Any, where: str) -> Ref:
    """A picture out of JSON. Raises UsageError that begins with ``where``."""
    table = _table(given, where, ("upload", "index", "row", "data", "name"))
    name = table.get("name")
    if name is not None and not isinstance(name, str):
        raise UsageError(f"{where}.name is text, not {shown(name)}")
    if sum(key in table for key in ("upload", "index", "data")) > 1:
        raise UsageError(f"{where} has an upload, or an index and a row, or data: one of these")
    match table:
        case {"upload": str(id)} if id:
            return Ref(upload=id)
        case {"index": index, "row": row}:
            return Ref(
                index=_whole(index, f"{where}.index", 0, 10**6), row=_whole(row, f"{where}.row", 0, 10**10)
            )
        case {"data": str(text)}:
            try:
                data = base64.b64decode(text, validate=True)
            except (binascii.Error, ValueError) as error:
                raise UsageError(f"{where}.data is no base64") from error
            if not data:
                raise UsageError(f"{where}.data is empty: it is the bytes of a file, in base64")
            return Ref(data=data, name=name or "the picture")
    raise UsageError(f"{where} has an upload, or an index and a row, or data; it is {shown(given)}")


def _box(given: Any, where: str) -> tuple[float, float, float, float] | None:
    if given is None:
        return None
    numbers = isinstance(given, list) and all(
        isinstance(v, (int, float)) and not isinstance(v, bool) for v in given
    )
    if not numbers or len(given) != 4:
        raise UsageError(f"{where} is [x, y, width, height] or null, not {shown(given)}")
    try:
        return checked_box(given)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error


def _whole(given: Any, where: str, low: int, high: int) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or not low <= given <= high:
        raise UsageError(f"{where} is a whole number from {low:,} to {high:,}, not {shown(given)}")
    return given


def _text(given: Any, where: str) -> str:
    if not isinstance(given, str) or len(given) > 200:
        raise UsageError(f"{where} is a name, not {shown(given)}")
    return given


def _texts(given: Any, where: str) -> list[str]:
    if not isinstance(given, list) or len(given) > 10:
        raise UsageError(f"{where} is a list of names, not {shown(given)}")
    return [_text(each, where) for each in given]


def _flag(given: Any, where: str) -> bool:
    if not isinstance(given, bool):
        raise UsageError(f"{where} is true or false, not {shown(given)}")
    return given


def _number(given: Any, where: str) -> float:
    if isinstance(given, bool) or not isinstance(given, (int, float)):
        raise UsageError(f"{where} is a number, not {shown(given)}")
    return float(given)


_CHECKS: dict[str, Any] = {
    "pipeline": _text,
    "rerank": _texts,
    "refine": _flag,
    "per_image": lambda given, where: _whole(given, where, 0, 1000),
    "min_score": _number,
}
