"""Lies in an index's texts, with checksums that fit: records of pipelines, roots, replacements, stamps, the format."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

VALUES: tuple[Any, ...] = (
    None,
    -1,
    0,
    10**12,
    1e308,
    "x",
    "../../x",
    [],
    {},
    [[0, 1]],
    True,
    "é\n",
    10**400,
    1.5,
)


def lie(index: Path, chance: Random) -> tuple[str, str, bool]:
    """Tell a lie in one text: which, what lie, and whether it is a statement that may be true."""
    what = chance.choice(sorted(LIES))
    return LIES[what](index, chance), what, what in PLAIN


def _record(index: Path, chance: Random) -> str:
    """A record that names other layers or other facts."""
    path = _any_record(index, chance)
    used = json.loads(path.read_text())
    key = chance.choice(sorted(used.keys() - {"sha256"}))
    if isinstance(used[key], list) and used[key] and chance.random() < 0.7:
        words = ("../../x", "codes/../images", "lock", "", "models/x-0123456789ab.h5", "/etc", 7, None)
        used[key][chance.randrange(len(used[key]))] = chance.choice(words)
    elif isinstance(used[key], dict) and used[key] and chance.random() < 0.7:
        used[key][chance.choice(sorted(used[key]))] = chance.choice(VALUES)
    else:
        used[key] = chance.choice(VALUES)
    return _write_record(index, path, used)


def _options(index: Path, chance: Random) -> str:
    """A pipeline with another option, another component, or another kind of value."""
    path = _any_record(index, chance)
    used = json.loads(path.read_text())
    lines = used["pipeline"].splitlines()
    at = [i for i, line in enumerate(lines) if "=" in line]
    chosen = chance.choice(at)
    key = lines[chosen].partition("=")[0]
    words = (
        "-1",
        "0",
        "1e308",
        "nan",
        "100000000000",
        '"x"',
        "[]",
        "{}",
        "true",
        '"../x"',
        '""',
        "1e",
        "9" * 5000,
    )
    lines[chosen] = f"{key}= {chance.choice(words)}"
    used["pipeline"] = "\n".join(lines) + "\n"
    return _write_record(index, path, used)


def _any_record(index: Path, chance: Random) -> Path:
    return chance.choice(sorted((index / "pipelines").glob("*.json")))


def _write_record(index: Path, path: Path, used: dict[str, Any]) -> str:
    """Write a record with the checksum that it should have."""
    from instsearch_formats import fingerprint

    used.pop("sha256", None)
    try:
        used["sha256"] = fingerprint(used)
    except (ValueError, TypeError):
        used["sha256"] = "0" * 64
    path.write_text(json.dumps(used, indent=1))
    if isinstance(used.get("pipeline"), str):
        path.with_suffix(".toml").write_text(used["pipeline"])
    return str(path.relative_to(index))


def _roots(index: Path, chance: Random) -> str:
    roots = json.loads((index / "roots.json").read_text())
    found = (
        {"roots": []},
        {"roots": [""]},
        {"roots": ["relative"]},
        {"roots": ["/dev"]},
        {"roots": ["/etc\0x"]},
        {"roots": [7]},
        {"roots": {}},
        {"roots": roots["roots"] * 100_000},
        {"roots": ["\udcff/x"]},
        [],
        {**roots, "moved": 7},
        {**roots, "moved": ["/", "/x"]},
    )
    (index / "roots.json").write_text(json.dumps(chance.choice(found)))
    return "roots.json"


def _replacing(index: Path, chance: Random) -> str:
    found: tuple[Any, ...] = (
        {"rows": [[0, 1]]},
        {"rows": [[0, 0]]},
        {"rows": [[-1, 10**9]]},
        {"rows": [[2**70, 1]]},
        {"rows": [[0]]},
        {"rows": [["a", "b"]]},
        {"rows": [[1, 2], [2, 1]]},
        {"rows": [[1.5, 2]]},
        {"rows": {}},
        [],
        {"rows": [[i, i + 1] for i in range(100_000)]},
    )
    (index / "replacing.json").write_text(json.dumps(chance.choice(found)))
    return "replacing.json"


def _stamps(index: Path, chance: Random) -> str:
    path = index / "stamps.txt"
    lines = path.read_text().splitlines()
    at = chance.randrange(len(lines))
    fields = lines[at].split("\t")
    fields[chance.randrange(len(fields))] = chance.choice(("-1", "9" * 400, "", "x", "0", "nan", "\0"))
    lines[at] = "\t".join(fields)
    path.write_text("\n".join(lines * chance.choice((1, 1, 1000))) + "\n")
    return "stamps.txt"


def _format(index: Path, chance: Random) -> str:
    head = json.loads((index / "format.json").read_text())
    found = (
        {**head, "version": chance.choice((0, -1, 2, 1.0, "1", None, 10**400, True, [1]))},
        {**head, "format": chance.choice(("x", None, 7, "instsearch "))},
        {**head, "created-by": chance.choice((7, None, "x" * 10**6, "\x1b[31m"))},
        {"format": "instsearch"},
        [],
    )
    (index / "format.json").write_text(json.dumps(chance.choice(found)))
    return "format.json"


def _last(index: Path, chance: Random) -> str:
    words = ("", "nobody", "../LAST", "x\0y", "\n\n", "LAST", "é", "x" * 100_000, "words\nscan")
    (index / "pipelines" / "LAST").write_text(chance.choice(words))
    return "pipelines/LAST"


def _lock(index: Path, chance: Random) -> str:
    words = ("", "x" * 128, '{"pid": -1, "since": 7}', '{"pid": "\\u001b[31m", "since": null}', "[" * 60_000)
    (index / "lock").write_text(chance.choice(words))
    return "lock"


LIES = {
    "a record": _record,
    "options": _options,
    "roots": _roots,
    "replacing": _replacing,
    "stamps": _stamps,
    "the format": _format,
    "the last pipeline": _last,
    "the lock": _lock,
}
PLAIN = ("a record", "options", "roots", "replacing")
"""Statements that may be true: another answer is allowed."""
