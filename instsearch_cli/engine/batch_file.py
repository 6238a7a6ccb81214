"""Files of questions: a table, a JSON object a line, or a folder of pictures."""

from __future__ import annotations

import codecs
import csv
import functools
import io
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instsearch_cli.boxes import parse_box, parse_view
from instsearch_cli.engine.questions import boxes, checked_box
from instsearch_cli.errors import InstsearchError, UsageError, nearest, printable
from instsearch_cli.images import discover
from instsearch_cli.outside.files import nameable, read_bytes
from instsearch_cli.outside.text import LONGEST, parse_json, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator

    from instsearch_cli.engine.answer import XYWH

MOST_BYTES = 256 << 20  #: of a file of questions
MOST = 1_000_000  #: questions of a file
MOST_PARTS = 200  #: boxes, or further pictures, of a question
SEPARATORS = "\t;,"
SEVERAL = "|"  #: between several pictures in a field of a table
COLUMNS = ("image", "box", "x", "y", "w", "h", "id", "also", "not")
KEYS = ("id", "image", "box", "boxes", "also", "not")
A_BOX = "a box is"  #: what is said of one that is none begins so
SIDES = ("x", "y", "w", "h")
MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
"""Byte order marks: spreadsheets write them."""


@dataclass(frozen=True)
class Entry:
    """One question of a file, as :meth:`Question.of` takes it; or why it is none.

    id  what tells it from the others
    """

    id: str
    question: dict[str, Any] = field(default_factory=dict)
    wrong: str = ""


def read_questions(path: Path) -> list[Entry]:
    """The questions of a file, or of a folder: each of its pictures, whole. Names are relative to where the file lies.

    A table has a line of titles, among COLUMNS, with ``image`` there; its fields are parted by commas, semicolons or
    tabs. Of JSON lines each is an object of KEYS. What is wrong with one question is said in its place; raises
    InstsearchError for what is no such file, and for an id that is there twice.
    """
    if path.is_dir():
        return _in_folder(path)
    text = decoded(read_bytes(path, MOST_BYTES), str(path))
    return parse_questions(text, str(path), path.parent)


def parse_questions(text: str, where: str, folder: Path = Path()) -> list[Entry]:
    """The questions of a text, JSON lines or a table. Raises InstsearchError that begins with ``where``."""
    parse = _json_lines if text.lstrip().startswith("{") else _table
    entries: list[tuple[int, Entry]] = []
    lines: dict[str, int] = {}
    for line, entry in parse(text, where, folder):
        if entry.id and entry.id in lines:
            raise InstsearchError(
                f"{where}, line {line}: id {shown(entry.id)} is that of line {lines[entry.id]}, too: answers could not "
                "be told one from the other"
            )
        if len(entries) >= MOST:
            raise InstsearchError(f"{where} has over {MOST:,} questions")
        lines[entry.id] = line
        entries.append((line, entry))
    return [entry if entry.id else replace(entry, id=_number(line, lines)) for line, entry in entries]


def _number(line: int, given: Container[str]) -> str:
    """The id of a question that has none: its line's number, with "line" before it where another has that."""
    id = str(line)
    while id in given:
        id = f"line {id}"
    return id


def decoded(data: bytes, where: str) -> str:
    """Text in UTF-8, or UTF-16 with its mark. Raises InstsearchError for other bytes."""
    mark = next((mark for mark in MARKS if data.startswith(mark)), b"")
    try:
        text = data[len(mark) :].decode(MARKS.get(mark, "utf-8"))
    except UnicodeDecodeError as error:
        raise InstsearchError(
            f"{where} is not text in UTF-8 ({error.reason} at byte {error.start:,}): save it as CSV UTF-8"
        ) from error
    if "\0" in text:
        raise InstsearchError(f"{where} has a NUL, which no text has")
    return text


def _in_folder(folder: Path) -> list[Entry]:
    return [
        Entry(printable(os.fsdecode(each.name)), {"picture": each.path}) for each in discover([folder]).found
    ]


def _json_lines(text: str, where: str, folder: Path) -> Iterator[tuple[int, Entry]]:
    """Questions with their lines; the id of one that has none is ""."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        id = ""
        try:
            if len(line) > LONGEST:
                raise UsageError(f"a line of over {LONGEST:,} characters")
            table = parse_json(line, f"{where}, line {number}")
            if not isinstance(table, dict):
                raise UsageError(f"a question is an object, not {shown(table)}")
            own = table.get("id")
            if isinstance(own, (str, int)) and not isinstance(own, bool) and own != "":
                id = str(own)
            elif own is not None:
                raise UsageError(f"an id is text or a whole number, not {shown(own)}")
            yield number, Entry(id, _question(table, folder))
        except InstsearchError as error:
            yield number, Entry(id, wrong=str(error))


def _question(table: dict[str, Any], folder: Path) -> dict[str, Any]:
    if stray := sorted(table.keys() - set(KEYS)):
        raise UsageError(f"a question has no {shown(stray[0])}.{nearest(stray[0], KEYS)}")
    picture, box = _pair(table, folder)
    return {
        "picture": picture,
        "box": box,
        **{
            name: [_part(each, folder, key) for each in _listed(table.get(key), key)]
            for name, key in (("also", "also"), ("against", "not"))
        },
    }


def _pair(table: dict[str, Any], folder: Path) -> tuple[Path, Any]:
    """A picture, and its box or boxes."""
    if table.get("box") is not None and table.get("boxes") is not None:
        raise UsageError("box and boxes are two names for one thing: give one of them")
    given = table.get("box") if table.get("boxes") is None else table["boxes"]
    return _picture(table.get("image"), folder), _boxes(given)


def _listed(value: Any, key: str) -> list[Any]:
    listed = [] if value is None else value if isinstance(value, list) else [value]
    if len(listed) > MOST_PARTS:
        raise UsageError(f"'{key}' has over {MOST_PARTS} pictures")
    return listed


def _part(value: Any, folder: Path, key: str) -> tuple[Path, Any]:
    """A further picture: IMAGE, IMAGE:x,y,w,h, [IMAGE, box], or an object of image and box."""
    if isinstance(value, str):
        return _viewed(value, folder, key)
    if isinstance(value, dict) and value.keys() <= {"image", "box", "boxes"}:
        return _pair(value, folder)
    if isinstance(value, list) and len(value) == 2:
        return _picture(value[0], folder), _boxes(value[1])
    raise UsageError(
        'a further picture is "b.jpg", "b.jpg:x,y,w,h" or {"image": "b.jpg", "box": [x, y, w, h]}, not '
        + shown(value)
    )


def _viewed(text: str, folder: Path, key: str) -> tuple[Path, XYWH | None]:
    name, box = parse_view(str(_picture(text, folder)), f"'{key}'")
    return Path(name), box


def _picture(value: Any, folder: Path) -> Path:
    if not isinstance(value, str) or not value.strip() or not nameable(value):
        raise UsageError("there is no image" if value in (None, "") else f"{shown(value)} is no image's name")
    return folder / value


def _boxes(value: Any) -> Any:
    """A box or several, as :class:`Question` takes them; None for the whole picture."""
    if value is None:
        return None
    if isinstance(value, str):
        return parse_box(value, A_BOX)
    if value == []:
        raise UsageError("there is no box in the list of boxes: give null for the whole picture")
    if not isinstance(value, list) or len(value) > MOST_PARTS:
        raise UsageError(f"a box is [x, y, w, h], not {shown(value)}")
    several = [parse_box(each, A_BOX) if isinstance(each, str) else _box(each) for each in boxes(value)]
    return several[0] if len(several) == 1 else several


def _box(value: Any) -> XYWH:
    numbers = isinstance(value, list) and all(
        isinstance(v, (int, float)) and not isinstance(v, bool) for v in value
    )
    if not numbers:
        raise UsageError(f"a box is [x, y, w, h], not {shown(value)}")
    return checked_box(value)


# -- tables -------------------------------------------------------------------------------------------------


def _table(text: str, where: str, folder: Path) -> Iterator[tuple[int, Entry]]:
    head = text.lstrip().partition("\n")[0]
    separator = max(SEPARATORS, key=head.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    names: list[str] | None = None
    read: Callable[..., dict[str, Any]] | None = None
    try:
        for row in rows:
            if not any(value.strip() for value in row):
                continue
            if names is None or read is None:
                names = _titles(row, where)
                read = functools.partial(_row, folder=folder, comma=separator == ";")
                continue
            number = rows.line_num
            fields = dict(zip(names, (value.strip() for value in row), strict=False))
            id = fields.get("id", "")
            try:
                if len(row) != len(names):
                    raise UsageError(f"{len(row)} fields, and {len(names)} columns have titles")
                yield number, Entry(id, read(fields))
            except InstsearchError as error:
                yield number, Entry(id, wrong=f"line {number}: {error}")
    except csv.Error as error:
        raise InstsearchError(f"{where}, line {rows.line_num or 1}: {error}") from error
    if names is None:
        raise InstsearchError(f"{where} is empty: its first line names the columns, image and box say")


def _titles(row: list[str], where: str) -> list[str]:
    names = [name.strip().lower() for name in row]
    wanted = "a table of questions begins with a line of titles, image,box or image,x,y,w,h say"
    if "image" not in names:
        raise InstsearchError(f"{where}: {wanted}, and there is no column 'image'")
    if twice := [name for name in names if name in COLUMNS and names.count(name) > 1]:
        raise InstsearchError(f"{where}: column '{twice[0]}' is there twice")
    given = [name for name in SIDES if name in names]
    if given and len(given) < len(SIDES):
        raise InstsearchError(f"{where}: of the columns x, y, w, h there are only {', '.join(given)}")
    if given and "box" in names:
        raise InstsearchError(f"{where}: there is a column box, and columns x, y, w, h: leave one out")
    if not given and "box" not in names and (like := [name for name in names if "box" in name]):
        raise InstsearchError(
            f"{where}: column {shown(like[0])} is not looked at: boxes are in a column 'box', or x, y, w, h"
        )
    return names


def _row(fields: dict[str, str], folder: Path, comma: bool) -> dict[str, Any]:
    """A row's question; columns of other names are not looked at. ``comma``: numbers may have one for a point."""
    sides = [fields[name] for name in SIDES if fields.get(name)]
    if sides and len(sides) < len(SIDES):
        raise UsageError("of x, y, w and h some are empty: fill in all, or none for the whole picture")
    numbers = ",".join(side.replace(",", ".") if comma else side for side in sides)
    text = numbers or fields.get("box", "")
    return {
        "picture": _picture(fields["image"], folder),
        "box": parse_box(text, A_BOX) if text else None,
        **{
            name: [
                _viewed(each.strip(), folder, key)
                for each in fields.get(key, "").split(SEVERAL)
                if each.strip()
            ]
            for name, key in (("also", "also"), ("against", "not"))
        },
    }
