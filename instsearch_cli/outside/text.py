"""JSON, TOML and CSV from outside: sizes, depths and numbers within bounds, every error in one line."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import reprlib
import tomllib
from typing import TYPE_CHECKING, Any

from instsearch_cli.errors import InstsearchError
from instsearch_cli.outside.files import open_plain, read_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MOST_VALUES = 20_000_000  #: of a JSON text, a gigabyte as Python holds them
MOST_ROWS = 5_000_000  #: of a CSV file
DIGITS = 20  #: of a whole number, 64 bits
DEEPEST = 32  #: tables within tables of a TOML file
PARTS = 16  #: dots between the parts of a TOML file's keys, in a line; tomllib's time grows with their square
MOST_TOML = 1 << 20  #: bytes
NO_KEY = re.compile(r"""\d\.\d|"[^"]*"|'[^']*'|\#.*""")
LONGEST = 1 << 20  #: characters of a line of a CSV file


def shown(value: Any) -> str:
    """What a value from a file looks like, in a few words, however large or deep it is."""
    return reprlib.repr(value)


def read_json(path: Path, most: int, finite: bool = True) -> Any:
    """What a JSON file of at most ``most`` bytes holds. Raises InstsearchError naming it."""
    return parse_json(read_text(path, most), str(path), finite)


def parse_json(text: str, where: str, finite: bool = True) -> Any:
    """What a JSON text holds; a key that is twice in an object, and whole numbers of over 64 bits, are refused.

    So are numbers that are not ``finite``, unless they are asked for: Python writes NaN and Infinity, too. Raises
    InstsearchError that begins with ``where``.
    """
    try:
        if sum(map(text.count, ",[{")) > MOST_VALUES:
            raise ValueError(f"over {MOST_VALUES:,} values")
        return json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_no_number if finite else None,
            parse_int=_integer,
            parse_float=_finite if finite else None,
        )
    except RecursionError as error:
        raise InstsearchError(f"{where} is not JSON that can be read: it is nested too deep") from error
    except ValueError as error:
        raise InstsearchError(f"{where} is not JSON: {error}") from error


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """What a TOML text holds. Raises InstsearchError that begins with ``where``."""
    try:
        if len(text) > MOST_TOML:
            raise ValueError(f"over {MOST_TOML >> 20} MB")
        if any(NO_KEY.sub("", line).count(".") > PARTS for line in text.splitlines()):
            raise ValueError(f"a key of over {PARTS} parts")
        table = tomllib.loads(text)
        if depth(table) > DEEPEST:
            raise RecursionError
        return table
    except RecursionError as error:
        raise InstsearchError(f"{where} is not TOML that can be read: it is nested too deep") from error
    except tomllib.TOMLDecodeError as error:
        raise InstsearchError(f"{where} is not TOML: {error}") from error
    except ValueError as error:  # of more digits than Python reads, or one of those above
        reason = "a number of thousands of digits" if "digits" in str(error) else error
        raise InstsearchError(f"{where} is not TOML that can be read: {reason}") from error


def csv_rows(path: Path, most: int) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV file in UTF-8 that are not blank, each with the number of its last line.

    Raises InstsearchError for a file that cannot be read, or is no such text.
    """
    with open_plain(path, most) as raw, io.TextIOWrapper(raw, "utf-8-sig", newline="") as file:
        rows = csv.reader(_lines(file), strict=True)
        try:
            for number, row in enumerate(rows):
                if number >= MOST_ROWS:
                    raise csv.Error(f"over {MOST_ROWS:,} rows")
                if row:
                    yield rows.line_num, row
        except UnicodeDecodeError as error:
            raise InstsearchError(f"{path} is not text in UTF-8 ({error.reason})") from error
        except (csv.Error, OSError) as error:
            raise InstsearchError(f"{path}, line {rows.line_num or 1}: {error}") from error


def csv_table(
    path: Path, most: int, columns: tuple[str, ...], maybe: tuple[str, ...] = ()
) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows below a line that names the columns, of which ``columns`` have to be there, once each.

    ``maybe`` are there once at most. Raises InstsearchError, for a row that has not one field a column too.
    """
    wanted = f"wanted the columns {','.join(columns)}"
    rows = csv_rows(path, most)
    number, head = next(rows, (1, []))
    head = [name.strip() for name in head]
    if any(head.count(column) != 1 for column in columns) or any(head.count(column) > 1 for column in maybe):
        found = f"; it is {shown(','.join(head))}" if head else ""
        raise InstsearchError(f"{path}, line {number}: {wanted}, named in the first line, each once{found}")
    for number, row in rows:
        if len(row) != len(head):
            raise InstsearchError(
                f"{path}, line {number}: {wanted}: {len(head)} fields, and there are {len(row)}"
            )
        yield number, dict(zip(head, row, strict=True))


def csv_pairs(path: Path, most: int) -> list[tuple[str, str]]:
    """The two names of images in each line of a CSV file of matching pairs.

    Raises InstsearchError for a line of other than two, or of one twice, and where there is none.
    """
    pairs = []
    for number, row in csv_rows(path, most):
        if len(row) != 2:
            raise InstsearchError(f"{path}, line {number}: a pair is two names of images, not {len(row)}")
        a, b = (name.strip() for name in row)
        if a == b:
            raise InstsearchError(f"{path}, line {number}: a pair is of two images, not of one with itself")
        pairs.append((a, b))
    if not pairs:
        raise InstsearchError(f"{path} has no pair: write the names of two matching images on each line")
    return pairs


def _lines(file: io.TextIOWrapper) -> Iterator[str]:
    for line in iter(lambda: file.readline(LONGEST + 1), ""):
        if len(line) > LONGEST:
            raise csv.Error(f"a line of over {LONGEST:,} characters")
        if "\0" in line:
            raise csv.Error("a NUL, which no text has")
        yield line


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for i, key in enumerate(keys) if key in keys[:i])
        raise ValueError(f"{shown(twice)} is there twice in one object")
    return table


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON's")


def _integer(digits: str) -> int:
    if len(digits) > DIGITS:
        raise ValueError(f"a number of {len(digits):,} digits")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits[:40]} is out of range")
    return value


def depth(table: Any, most: int = DEEPEST) -> int:
    """Of the tables and lists within each other, ``most`` + 1 at most."""
    level: list[Any] = [table]
    for n in range(most + 1):
        below = [v for x in level for v in (x.values() if isinstance(x, dict) else x)]
        level = [v for v in below if isinstance(v, (dict, list))]
        if not level:
            return n + 1
    return most + 1
