"""Files changed as a stranger's program might change them, with seals that fit."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py

from instsearch_formats import seal


def rewrite(path: Path, change: Callable[[h5py.File], None], attrs: Any = None) -> None:
    """Change a part as somebody else's program might, and seal it anew."""
    raw = path.with_suffix(".raw")
    raw.write_bytes(path.read_bytes())
    with h5py.File(raw, "r+") as file:
        change(file)
        for name, value in (attrs or {}).items():
            file.attrs[name] = value
    body = raw.read_bytes()[seal.SIZE :]
    sealed = seal.Seal(seal.read(path).written_by, len(body), hashlib.sha256(body).hexdigest())
    path.write_bytes(sealed.encode() + body)
    raw.unlink()
