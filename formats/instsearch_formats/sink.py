"""A new HDF5 file, invisible until it is whole."""

from __future__ import annotations

import contextlib
import os
import uuid
from typing import TYPE_CHECKING, Any, TypeVar

import h5py
import numpy as np

from instsearch_formats import seal
from instsearch_formats.errors import FormatError, writing
from instsearch_formats.files import PARTIAL, make_folder, put, version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from instsearch_formats.encodings import Encoding

T = TypeVar("T")


class Sink:
    """The file that HDF5 writes into. It keeps its first error and swallows everything after it.

    A library that meets a full disk in the middle of closing a file never gets rid of it. Behind this
    one it always closes cleanly, and the error is raised where Python can handle it.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("x+b", buffering=0)
        self.error: BaseException | None = None

    def _attempt(self, call: Callable[[], T], otherwise: T) -> T:
        if self.error is None:
            try:
                return call()
            except BaseException as error:  # an interrupt, too, must not unwind through HDF5
                self.error = error
        return otherwise

    def _write_all(self, data: memoryview) -> None:
        rest = memoryview(data).cast("B")
        while rest:
            rest = rest[self._file.write(rest) :]

    def write(self, data: memoryview) -> int:
        self._attempt(lambda: self._write_all(data), None)
        return len(data)

    def truncate(self, size: int) -> int:
        return self._attempt(lambda: self._file.truncate(size), size)

    def read(self, size: int = -1) -> bytes:
        return self._attempt(lambda: self._file.read(size), b"")

    def readinto(self, buffer: memoryview) -> int:
        return self._attempt(lambda: self._file.readinto(buffer), len(buffer))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._attempt(lambda: self._file.seek(offset, whence), offset)

    def tell(self) -> int:
        return self._attempt(self._file.tell, 0)

    def flush(self) -> None:
        """Nothing is buffered."""

    def sync(self) -> None:
        """Write all to the disk. Raises the first error that there was."""
        self._attempt(lambda: os.fsync(self._file.fileno()), None)
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        self._file.close()


class NewFile:
    """An HDF5 file under a ``.partial`` name: :meth:`commit` seals and renames it, :meth:`abort` removes it.

    A header entry becomes an attribute of the root group: text (ASCII) or a whole number.
    """

    def __init__(self, path: Path, encoding: Encoding, header: Mapping[str, str | int]) -> None:
        if path.exists():
            raise FormatError(f"{path} is there already, and what is there is never rewritten")
        self.path = path
        self.aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PARTIAL}")
        make_folder(path.parent)
        with writing(path):
            self._sink = Sink(self.aside)
        try:
            self._create(encoding, header)
        except BaseException:
            self.abort()
            raise

    def _create(self, encoding: Encoding, header: Mapping[str, str | int]) -> None:
        with self.guarded():
            # 1.10's layout: readable by every HDF5 since 2016, with checksums on all metadata.
            self.h5 = h5py.File(
                self._sink,
                "w",
                libver=("v110", "v110"),
                userblock_size=seal.SIZE,
                alignment_threshold=4096,
                alignment_interval=seal.SIZE,
            )
            whole = {"encoding-type": encoding.name, "encoding-version": encoding.version} | dict(header)
            for key, value in {**whole, "created-by": version()}.items():
                self.h5.attrs[key] = np.bytes_(value.encode("ascii")) if isinstance(value, str) else value

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Around calls of HDF5: raise what went wrong below it, or, failing that, what it says itself."""
        try:
            yield
        except (OSError, RuntimeError) as error:
            self._check()
            raise FormatError(f"cannot write {self.path}: {error}") from error
        self._check()

    def _check(self) -> None:
        error = self._sink.error
        if error is not None:
            with writing(self.path):
                raise error

    def commit(self) -> None:
        """Close, seal, fsync and rename the file, and fsync its folder; remove it if any of this fails."""
        self.seal()
        try:
            put(self.aside, self.path)
        except BaseException:
            self.abort()
            raise

    def seal(self) -> None:
        """Close, seal and fsync the file, which keeps its ``.partial`` name; remove it if any of this fails."""
        try:
            with self.guarded():
                self.h5.close()
            self._sink.close()
            with writing(self.path):
                seal.put(self.aside)
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        """Close and remove the file; what HDF5 still has to write goes nowhere."""
        self._sink.error = self._sink.error or InterruptedError()
        with contextlib.suppress(Exception):
            self.h5.close()
        self._sink.close()
        with contextlib.suppress(OSError):
            self.aside.unlink(missing_ok=True)

    def dataset(self, name: str, **how: Any) -> Any:
        """Create a dataset: h5py's ``create_dataset``."""
        with self.guarded():
            return self.h5.create_dataset(name, **how)
