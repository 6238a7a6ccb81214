"""An index from a stranger: files that lie in any way, with seals that fit. Refused by name, or as it was."""

from __future__ import annotations

import hashlib
import shutil
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from fuzzing import children, lies_files, lies_marks, lies_storage, lies_texts, lies_values
from fuzzing.children import FaultError
from fuzzing.examine import KEPT, examine, related, reread
from fuzzing.lies_values import UnfitError

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

    from fuzzing.bench import Bench

STATED = {**lies_values.LIES, **lies_storage.LIES, **lies_marks.LIES}
UNDECLARED = {"centred", "scan"}  #: what components of the tests keep, who do not say what it must be
LARGEST = 1 << 26  #: bytes of a file that lies
TRUE = {**lies_values.PLAIN, **lies_marks.PLAIN}


def trial(bench: Bench) -> None:
    """Tell one lie, in a part, in a file's frame, or in a text; then ask, verify, look and write."""
    chance = bench.chance
    name = chance.choice(("sift", "many", "many"))
    index = bench.copy(bench.shelf.index(name))
    where = chance.random()
    if where < 0.12:
        changed, lie, plain = lies_texts.lie(index, chance)
    elif where < 0.18:
        changed, lie, plain = lies_files.lie(index, chance), "frame", False
    else:
        changed, lie, plain = _told(index, chance)
    kind = changed.partition("/")[0]
    kind = "tombstones" if "removed-" in changed else kind
    bench.row = f"{lie}: {kind}"
    bench.note(f"{lie} in {changed} of {name}")
    bench.keep_input(index)
    pipelines = related(bench, name, changed)
    if kind in KEPT and chance.random() < (0.3 if kind == "search" else 0.6):
        reread(bench, index, name, changed, pipelines, plain)
        bench.run("verify", "--index", index, "--json")
        return
    examine(bench, index, name, changed, plain)


def _told(index: Path, chance: Random) -> tuple[str, str, bool]:
    """As :func:`_part`, in a child: HDF5 may not survive what it is made to write."""
    while True:
        chance.random()
        try:
            changed, lie, plain = children.asked("a lie", lambda: _part(index, chance))
        except FaultError:
            for raw in index.rglob("*.raw"):
                raw.unlink()
            continue
        return changed, lie, plain


def _part(index: Path, chance: Random) -> tuple[str, str, bool]:
    """Tell a lie in some file of HDF5: which, what lie, and whether it is a number within its range."""
    files: dict[str, list[Path]] = {}
    for path in sorted(index.rglob("*.h5")):
        if UNDECLARED & {path.stem.rpartition("-")[0], path.parent.name.rpartition("-")[0]}:
            continue
        kind = "tombstones" if path.name.startswith("removed-") else path.relative_to(index).parts[0]
        files.setdefault(kind, []).append(path)
    while True:
        path = chance.choice(files[chance.choice(sorted(files))])
        lie = chance.choice([*STATED, *TRUE])
        raw = path.with_suffix(".raw")
        shutil.copyfile(path, raw)
        try:
            with h5py.File(raw, "r+", libver=("v110", "v110")) as file:
                name = chance.choice(sorted(file))
                (STATED | TRUE)[lie](file, name, chance)
                if file.attrs.get("encoding-type") == b"arrays" and lie != "sums" and chance.random() < 0.9:
                    _sum(file)
            if raw.stat().st_size > LARGEST:
                raise UnfitError
        except (
            UnfitError,
            OSError,
            ValueError,
            TypeError,
            RuntimeError,
            MemoryError,
        ):  # HDF5 does not write it
            raw.unlink()
            continue
        seal(raw, path)
        fewer = lie in ("shorter", "pointers") and path.name.startswith("removed-")  # other rows are removed
        return f"{path.relative_to(index)}", lie, lie in TRUE or fewer


def _sum(file: h5py.File) -> None:
    """Give the arrays the sums of their pages, as their writer does."""
    from instsearch_formats.sums import page_sums

    for name in file:
        if not isinstance(file.get(name, getlink=True), h5py.HardLink):
            continue
        data: Any = file[name]
        plain = isinstance(data, h5py.Dataset) and data.shape is not None and data.dtype.kind in "biuf"
        if plain and data.nbytes < 2**20 and data.is_virtual is False and not data.external:
            sums = page_sums(np.ascontiguousarray(np.asarray(data[()]).reshape(-1)))
            if data.attrs.get("sums") is None or not np.array_equal(data.attrs["sums"], sums):
                data.attrs["sums"] = sums


def seal(raw: Path, path: Path) -> None:
    """Put a changed file in the place of a part, with a seal that fits."""
    from instsearch_formats import seal as seals

    written_by = seals.read(path).written_by
    body = raw.read_bytes()[seals.SIZE :]
    sealed = seals.Seal(written_by, len(body), hashlib.sha256(body).hexdigest())
    path.write_bytes(sealed.encode() + body)
    raw.unlink()
