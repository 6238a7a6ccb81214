"""Lies in the frame of a file: HDF5 of other versions and settings, and bytes that HDF5 checks itself."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import h5py

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

FRAMES: tuple[dict[str, Any], ...] = (
    {"libver": "earliest"},
    {"libver": "latest"},
    {"userblock_size": 1024},
    {"userblock_size": 2**20},
    {"fs_strategy": "page", "fs_page_size": 512},
    {"fs_strategy": "aggregate", "fs_persist": True},
    {"track_order": True},
    {"alignment_threshold": 1, "alignment_interval": 256},
)


def lie(index: Path, chance: Random) -> str:
    """Tell such a lie in some file of HDF5; which."""
    from instsearch_formats import seal

    path = chance.choice(sorted(index.rglob("*.h5")))
    sealed = seal.read(path)
    how = chance.randrange(3)
    if how == 0:
        body = _copied(path, chance.choice(FRAMES))
    else:
        data = bytearray(path.read_bytes()[seal.SIZE :])
        _spoil(data, chance, heads=how == 1)
        body = bytes(data)
    digest = hashlib.sha256(body).hexdigest()
    path.write_bytes(seal.Seal(sealed.written_by, len(body), digest).encode() + body)
    return str(path.relative_to(index))


def _copied(path: Path, frame: dict[str, Any]) -> bytes:
    """All of a file in a file of other settings, behind 512 bytes."""
    from instsearch_formats import seal

    raw = path.with_suffix(".raw")
    with h5py.File(path, "r") as old, h5py.File(raw, "w", **({"userblock_size": 512} | frame)) as new:
        for name in old:
            old.copy(name, new)
        for name, value in old.attrs.items():
            new.attrs[name] = value
    data = raw.read_bytes()
    raw.unlink()
    return data[seal.SIZE :]


def _spoil(data: bytearray, chance: Random, heads: bool) -> None:
    """Change some bytes: anywhere, or near the marks by which HDF5 knows its own structures."""
    marks = [
        b"OHDR",
        b"OCHK",
        b"FRHP",
        b"BTHD",
        b"BTLF",
        b"FADB",
        b"EADB",
        b"FAHD",
        b"\x89HDF",
        b"FHDB",
        b"FSHD",
    ]
    places = [at for mark in marks for at in _found(data, mark)] if heads else []
    for _ in range(chance.choice((1, 2, 10))):
        at = chance.choice(places) + chance.randrange(4, 200) if places else chance.randrange(len(data))
        n = chance.choice((1, 2, 8))
        data[at : at + n] = chance.choice((b"\xff" * n, b"\0" * n, chance.randbytes(n)))
    if chance.random() < 0.7:
        _check_heads(data)


def _found(data: bytes | bytearray, mark: bytes) -> list[int]:
    places, at = [], data.find(mark)
    while at >= 0:
        places.append(at)
        at = data.find(mark, at + 1)
    return places


def _check_heads(data: bytearray) -> None:
    """Give object headers of version 2 the checksums of what they hold now (HDF5's format specification, IV.A.1.b)."""
    for at in _found(data, b"OHDR"):
        flags = data[at + 5]
        start = at + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        width = 1 << (flags & 3)
        size = int.from_bytes(data[start : start + width], "little")
        end = start + width + size
        if end + 4 <= len(data):
            data[end : end + 4] = lookup3(bytes(data[at:end])).to_bytes(4, "little")


def lookup3(key: bytes) -> int:
    """Jenkins' hash, of 32 bits, as HDF5 uses it for its structures."""
    mask = 0xFFFFFFFF

    def rot(x: int, k: int) -> int:
        return ((x << k) | (x >> (32 - k))) & mask

    a = b = c = (0xDEADBEEF + len(key)) & mask
    at = 0
    while len(key) - at > 12:
        a, b, c = (
            (x + int.from_bytes(key[at + 4 * i : at + 4 * i + 4], "little")) & mask
            for i, x in enumerate((a, b, c))
        )
        a = ((a - c) & mask) ^ rot(c, 4)
        c = (c + b) & mask
        b = ((b - a) & mask) ^ rot(a, 6)
        a = (a + c) & mask
        c = ((c - b) & mask) ^ rot(b, 8)
        b = (b + a) & mask
        a = ((a - c) & mask) ^ rot(c, 16)
        c = (c + b) & mask
        b = ((b - a) & mask) ^ rot(a, 19)
        a = (a + c) & mask
        c = ((c - b) & mask) ^ rot(b, 4)
        b = (b + a) & mask
        at += 12
    rest = key[at:].ljust(12, b"\0")
    if len(key) == at:
        return c
    a, b, c = (
        (x + int.from_bytes(rest[4 * i : 4 * i + 4], "little")) & mask for i, x in enumerate((a, b, c))
    )
    c = ((c ^ b) - rot(b, 14)) & mask
    a = ((a ^ c) - rot(c, 11)) & mask
    b = ((b ^ a) - rot(a, 25)) & mask
    c = ((c ^ b) - rot(b, 16)) & mask
    a = ((a ^ c) - rot(c, 4)) & mask
    b = ((b ^ a) - rot(a, 14)) & mask
    return ((c ^ b) - rot(b, 24)) & mask
