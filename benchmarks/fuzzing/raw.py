"""Bytes of an index's files that change, are lost, or lie elsewhere: named, or harmless, and never a crash."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from fuzzing.children import FaultError
from fuzzing.examine import KEPT, examine, mended, related, reread

if TYPE_CHECKING:
    from fuzzing.bench import Bench

Change = Callable[[Path, Path, Path, Random], None]


def trial(bench: Bench) -> None:
    """Spoil one to three files of one index, and ask, verify, look and write."""
    chance = bench.chance
    name = chance.choice(("sift", "many"))
    index = bench.copy(bench.shelf.index(name))
    other = bench.shelf.index(name, other=True)
    how = chance.choice(list(CHANGES))
    changed = [_some_file(index, chance) for _ in range(chance.choice((1, 1, 1, 1, 2, 3)))]
    kind = changed[0].partition("/")[0]
    bench.row = f"{how}, {kind if '/' in changed[0] else 'text'}"
    bench.note(f"{how}: {', '.join(changed)} of {name}")
    for file in changed:
        if (index / file).exists():
            CHANGES[how](index / file, index, other / file, chance)
    bench.keep_input(index)
    sound = bench.shelf.index(name)
    files = sorted(str(path.relative_to(sound)) for path in sound.rglob("*.*"))
    spoilt = [file for file in files if not _same(index / file, sound / file)]
    plain = "roots.json" in spoilt  # which may say that the photographs lie anywhere
    kind = spoilt[0].partition("/")[0] if len(spoilt) == 1 else ""
    if how != "renamed" and kind in KEPT and chance.random() < 0.3:
        pipelines = related(bench, name, spoilt[0])
        reread(bench, index, name, spoilt[0], pipelines, plain)
        mended(bench, index, name, spoilt[0], pipelines)
        return
    quiet = examine(bench, index, name, changed[0], plain)
    if quiet and any(file.endswith(".h5") for file in spoilt):
        raise FaultError("verify has nothing to say")


def _some_file(index: Path, chance: Random) -> str:
    """A file of an index, each kind of them as likely as the others."""
    files: dict[str, list[str]] = {}
    for path in sorted(p for p in index.rglob("*") if p.is_file()):
        name = str(path.relative_to(index))
        files.setdefault(name.partition("/")[0], []).append(name)
    return chance.choice(files[chance.choice(sorted(files))])


def _same(a: Path, b: Path) -> bool:
    return a.is_file() and b.is_file() and a.read_bytes() == b.read_bytes()


def _flip(path: Path, index: Path, other: Path, chance: Random) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(chance.choice((1, 1, 2, 20)) if data else 0):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def _write_over(path: Path, index: Path, other: Path, chance: Random) -> None:
    data = bytearray(path.read_bytes())
    at, n = chance.randrange(len(data) + 1), chance.choice((1, 8, 64, 512, 4096))
    fill = chance.choice((b"\0" * n, b"\xff" * n, chance.randbytes(n)))
    data[at : at + n] = fill[: len(data) - at]
    path.write_bytes(data)


def _cut(path: Path, index: Path, other: Path, chance: Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: chance.choice((0, 1, 511, 512, chance.randrange(len(data) + 1), len(data) - 1))])


def _grow(path: Path, index: Path, other: Path, chance: Random) -> None:
    with path.open("ab") as file:
        file.write(chance.choice((b"\0", b"\n", chance.randbytes(chance.choice((1, 512, 5000))))))


def _splice(path: Path, index: Path, other: Path, chance: Random) -> None:
    """Bytes of the file, or of the other index's, at another place; or a piece lost."""
    data = bytearray(path.read_bytes())
    source = other.read_bytes() if other.exists() and chance.random() < 0.5 else bytes(data)
    a, b = chance.randrange(len(data) + 1), chance.randrange(len(source) + 1)
    n = chance.choice((1, 16, 512, 2000))
    data[a : a + chance.choice((0, n))] = source[b : b + chance.choice((0, n))]
    path.write_bytes(data)


def _swap(path: Path, index: Path, other: Path, chance: Random) -> None:
    """Two files of the index change places: of a folder, or any."""
    near = sorted(p for p in path.parent.iterdir() if p.is_file() and p != path)
    far = sorted(p for p in index.rglob("*") if p.is_file() and p.suffix == path.suffix and p != path)
    second = chance.choice(near if near and chance.random() < 0.5 else far or near or [path])
    first, data = path.read_bytes(), second.read_bytes()
    path.write_bytes(data)
    second.write_bytes(first)


def _foreign(path: Path, index: Path, other: Path, chance: Random) -> None:
    """The file of the same name of an index of other photographs."""
    if other.exists():
        shutil.copyfile(other, path)


def _delete(path: Path, index: Path, other: Path, chance: Random) -> None:
    path.unlink()


def _delete_folder(path: Path, index: Path, other: Path, chance: Random) -> None:
    if path.parent != index:
        shutil.rmtree(path.parent)
    else:
        path.unlink()


def _rename(path: Path, index: Path, other: Path, chance: Random) -> None:
    """A second file of the same bytes, or the file alone, under the name of another part."""
    names = [*sorted(p.name for p in index.rglob("*.h5")), "part-0000000004-0000000005.h5"]
    target = path.with_name(chance.choice([name for name in names if name != path.name]))
    (shutil.copyfile if chance.random() < 0.5 else shutil.move)(path, target)


def _words(path: Path, index: Path, other: Path, chance: Random) -> None:
    """Something that a reader of text takes for something."""
    data = path.read_bytes()
    word = chance.choice(
        (b"NaN", b"null", b"-1", b"1e999", b'"\\ud800"', b"[" * 5000, b"9" * 5000, b"../x", b"\xff", b"{}")
    )
    pieces = data.split(b'"') if b'"' in data else data.split(b"\n")
    pieces[chance.randrange(len(pieces))] = word
    path.write_bytes((b'"' if b'"' in data else b"\n").join(pieces))


CHANGES: dict[str, Change] = {
    "bits flipped": _flip,
    "written over": _write_over,
    "cut": _cut,
    "grown": _grow,
    "spliced": _splice,
    "swapped": _swap,
    "of another index": _foreign,
    "deleted": _delete,
    "folder deleted": _delete_folder,
    "renamed": _rename,
    "words put in": _words,
}
