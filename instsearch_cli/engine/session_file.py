"""Questions with their pictures in one file: what the page and the command line save, and open again."""

from __future__ import annotations

import base64
import binascii
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instsearch_cli.engine.questions import checked_box
from instsearch_cli.errors import InstsearchError, UsageError, nearest, printable
from instsearch_cli.images import read_stream
from instsearch_cli.outside.files import nameable, read_bytes
from instsearch_cli.outside.text import depth, parse_json, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from instsearch_cli.engine.answer import XYWH
    from instsearch_cli.images import Photograph

VERSION = 1
MOST_BYTES = 512 << 20  #: of a file
MOST_PICTURE = 100_000_000  #: bytes of a picture in it
MOST_VIEWS = 200  #: of the object, and of what it is not
MOST_NAMES = 64  #: indexes, rerankers
MOST_HITS = 100_000
LONGEST = 4096  #: characters of a name
DEEPEST = 16  #: lists and objects within each other, of marks
KEYS: tuple[str, ...] = (
    "instsearch",
    "version",
    "views",
    "against",
    "indexes",
    "pipeline",
    "rerank",
    "refine",
)
KEYS += ("k", "per_image", "min_score", "marks")


@dataclass(frozen=True)
class SavedPicture:
    """A picture by its path, or with its bytes.

    name  what it is called
    path  where it lies; None: ``data`` are its file's bytes
    """

    name: str
    path: Path | None = None
    data: bytes | None = field(default=None, repr=False)

    def photograph(self) -> Path | Photograph:
        """The picture to ask with. Raises InstsearchError for bytes that cannot be read."""
        if self.path is not None:
            return self.path
        assert self.data is not None
        return read_stream(io.BytesIO(self.data), printable(self.name))


@dataclass(frozen=True)
class SavedView:
    """A picture, and a box x, y, w, h in it; None: all of it."""

    picture: SavedPicture
    box: XYWH | None = None


@dataclass(frozen=True)
class Session:
    """A question as it was asked, and what somebody marked of its hits.

    views, against  of the object; of what it is not
    indexes         that were asked
    pipeline, rerank, refine, k, per_image, min_score   as :meth:`Index.query` takes them
    marks           whatever the page keeps there
    """

    views: tuple[SavedView, ...]
    against: tuple[SavedView, ...] = ()
    indexes: tuple[Path, ...] = ()
    pipeline: str | None = None
    rerank: tuple[str, ...] | None = None
    refine: bool = False
    k: int = 20
    per_image: int = 1
    min_score: float | None = None
    marks: Mapping[str, Any] = field(default_factory=dict)

    def question(self) -> dict[str, Any]:
        """As :meth:`Question.of` takes it. Raises InstsearchError for bytes that are no picture."""
        read: dict[SavedPicture, Path | Photograph] = {}

        def part(view: SavedView) -> tuple[Path | Photograph, XYWH | None]:
            if view.picture not in read:
                read[view.picture] = view.picture.photograph()
            return read[view.picture], view.box

        (picture, box), *also = map(part, self.views)
        return {"picture": picture, "box": box, "also": also, "against": list(map(part, self.against))}


def embedded(path: Path) -> SavedPicture:
    """A picture with its file's bytes, so that a session is whole wherever it is. Raises InstsearchError."""
    return SavedPicture(path.name, None, read_bytes(path, MOST_PICTURE))


def read_session(source: bytes | Path, where: str = "the session") -> Session:
    """A session out of a file, or the bytes of one, which ``where`` names. Raises InstsearchError for anything else."""
    if isinstance(source, Path):
        source, where = read_bytes(source, MOST_BYTES), str(source)
    try:
        if len(source) > MOST_BYTES:
            raise InstsearchError(f"{where} is larger than {MOST_BYTES >> 20:,} MB, the most that is read")
        text = source.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InstsearchError(f"{where} is no session: it is not text in UTF-8") from error
    table = parse_json(text, where)
    if not isinstance(table, dict) or table.get("instsearch") != "session":
        raise InstsearchError(
            f"{where} is no session: save one with `instsearch query IMAGE --save-session FILE`"
        )
    version = table.get("version")
    if type(version) is not int or version < 1:
        raise InstsearchError(f"{where}: version is a whole number from 1, not {shown(version)}")
    if version > VERSION:
        raise InstsearchError(f"{where} is a session of version {version}: open it with a newer instsearch")
    try:
        return _session(table)
    except UsageError as error:
        raise InstsearchError(f"{where}: {error}") from error


def write_session(session: Session) -> str:
    """A session as the text of a file. Raises UsageError for what :func:`read_session` would not take."""
    table: dict[str, Any] = {
        "instsearch": "session",
        "version": VERSION,
        "views": [_plain(view) for view in session.views],
        "against": [_plain(view) for view in session.against],
        "indexes": [str(path) for path in session.indexes],
        "pipeline": session.pipeline,
        "rerank": None if session.rerank is None else list(session.rerank),
        "refine": session.refine,
        "k": session.k,
        "per_image": session.per_image,
        "min_score": session.min_score,
        "marks": dict(session.marks),
    }
    _session(table)
    return json.dumps(table, indent=1, allow_nan=False) + "\n"


def _plain(view: SavedView) -> dict[str, Any]:
    picture = view.picture
    if picture.data is None:
        kept = {"path": str(picture.path)}
    else:
        kept = {"name": picture.name, "data": base64.b64encode(picture.data).decode("ascii")}
    return {"picture": kept, "box": None if view.box is None else list(view.box)}


# -- checking -----------------------------------------------------------------------------------------------


def _session(table: dict[str, Any]) -> Session:
    _check_keys(table, KEYS, "a session")
    marks = checked_marks(table.get("marks", {}))
    views = _views(table.get("views"), "views")
    if not views:
        raise UsageError("views are empty: a question has one at least")
    rerank = table.get("rerank")
    return Session(
        views=views,
        against=_views(table.get("against", []), "against"),
        indexes=tuple(map(Path, _names(table.get("indexes", []), "indexes"))),
        pipeline=None if table.get("pipeline") is None else _name(table["pipeline"], "pipeline"),
        rerank=None if rerank is None else _names(rerank, "rerank"),
        refine=_refine(table.get("refine", False)),
        k=_whole(table.get("k", 20), "k", 1),
        per_image=_whole(table.get("per_image", 1), "per_image", 0),
        min_score=_number(table.get("min_score")),
        marks=marks,
    )


def checked_marks(value: Any) -> dict[str, Any]:
    """Marks, as a session keeps them. Raises UsageError for another value."""
    if not isinstance(value, dict) or depth(value, DEEPEST) > DEEPEST:
        raise UsageError(f"marks are an object, of {DEEPEST} levels at most")
    return value


def _check_keys(table: dict[str, Any], keys: tuple[str, ...], what: str) -> None:
    if stray := sorted(table.keys() - set(keys)):
        raise UsageError(f"{what} has no {shown(stray[0])}.{nearest(stray[0], keys)}")


def _views(value: Any, name: str) -> tuple[SavedView, ...]:
    if not isinstance(value, list):
        raise UsageError(f"{name} are a list, not {shown(value)}")
    if len(value) > MOST_VIEWS:
        raise UsageError(f"{name} are {len(value):,}, and {MOST_VIEWS} at most are read")
    return tuple(_view(each, f"{name}, number {i}") for i, each in enumerate(value, 1))


def _view(value: Any, where: str) -> SavedView:
    if not isinstance(value, dict):
        raise UsageError(f"{where} is an object of picture and box, not {shown(value)}")
    _check_keys(value, ("picture", "box"), where)
    picture, box = value.get("picture"), value.get("box")
    if not isinstance(picture, dict):
        raise UsageError(
            f"{where}: the picture is an object of path, or of name and data, not {shown(picture)}"
        )
    if box is not None:
        numbers = isinstance(box, list) and len(box) == 4
        if not numbers or any(isinstance(v, bool) or not isinstance(v, (int, float)) for v in box):
            raise UsageError(f"{where}: a box is [x, y, w, h] or null, not {shown(box)}")
        try:
            box = checked_box(box)
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from error
    return SavedView(_picture(picture, f"{where}: the picture"), box)


def _picture(table: dict[str, Any], where: str) -> SavedPicture:
    _check_keys(table, ("name", "path", "data"), where)
    if ("path" in table) == ("data" in table):
        raise UsageError(f"{where} has a path or data, one of them")
    if "path" in table:
        path = _name(table["path"], f"{where}'s path")
        return SavedPicture(_name(table.get("name", path), f"{where}'s name"), Path(path))
    name, data = _name(table.get("name", "the picture"), f"{where}'s name"), table["data"]
    if not isinstance(data, str):
        raise UsageError(f"{where}'s data is text in base64, not {shown(data)}")
    if len(data) * 3 // 4 > MOST_PICTURE + 2:
        raise UsageError(f"{where} is larger than {MOST_PICTURE // 1_000_000} MB, the most that is read")
    try:
        return SavedPicture(name, None, base64.b64decode(data, validate=True))
    except (binascii.Error, ValueError) as error:
        raise UsageError(f"{where}'s data is not base64: {error}") from error


def _names(value: Any, name: str) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MOST_NAMES:
        raise UsageError(f"{name} is a list of {MOST_NAMES} names at most, not {shown(value)}")
    return tuple(_name(each, name) for each in value)


def _name(value: Any, where: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST or not nameable(value):
        raise UsageError(f"{where} is a name of {LONGEST:,} characters at most, not {shown(value)}")
    return value


def _whole(value: Any, name: str, least: int) -> int:
    if type(value) is not int or not least <= value <= MOST_HITS:
        raise UsageError(f"{name} is a whole number from {least} to {MOST_HITS:,}, not {shown(value)}")
    return value


def _refine(value: Any) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"refine is true or false, not {shown(value)}")
    return value


def _number(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UsageError(f"min_score is a number or null, not {shown(value)}")
    return float(value)
