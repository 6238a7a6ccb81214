"""Pictures that were handed in: files in a folder of the service's own, the longest unused forgotten first."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import threading
import weakref
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instsearch_cli.errors import InstsearchError
from instsearch_cli.images import Photograph, shrink
from instsearch_cli.serve.problems import Problem

MOST_BYTES = 100_000_000  #: of one picture
MOST_PICTURES = 200
SMALL = 64  #: pixels
MOST_IN_ALL = 1_000_000_000  #: bytes


@dataclass(frozen=True)
class Upload:
    """A picture that was handed in; ``id`` is of its name and bytes. Its file is there as long as this is held."""

    id: str
    path: Path
    photograph: Photograph

    @property
    def name(self) -> str:
        """What its owner calls it."""
        return self.photograph.name

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return {"upload": self.id, "name": self.name, "size": list(self.photograph.size)}


class Uploads:
    """Pictures by id: at most so many, and so many bytes in all. Files are decoded whenever they are asked for."""

    def __init__(
        self, bytes_each: int = MOST_BYTES, pictures: int = MOST_PICTURES, in_all: int = MOST_IN_ALL
    ) -> None:
        self.bytes_each, self.pictures, self.in_all = bytes_each, pictures, in_all
        self._folder = tempfile.TemporaryDirectory(prefix="instsearch-", ignore_cleanup_errors=True)
        self._lock = threading.Lock()
        self._there: OrderedDict[str, Upload] = OrderedDict()
        self._sizes: dict[str, int] = {}

    def close(self) -> None:
        """Forget all of them."""
        self._there.clear()
        self._folder.cleanup()

    def put(self, data: bytes, name: str) -> Upload:
        """Keep a picture. Raises Problem for what is none, or too large."""
        if not data:
            raise Problem(400, "the picture is empty: send the bytes of a file")
        if len(data) > self.bytes_each:
            raise Problem(413, f"a picture has at most {self.bytes_each // 1_000_000:,} MB")
        name = Path(name.replace("\\", "/")).name[:200] or "the picture"
        name = "".join(c if c.isprintable() else "_" for c in name)
        id = hashlib.sha256(name.encode("utf-8", "surrogatepass") + b"\0" + data).hexdigest()[:32]
        with self._lock:
            if id in self._there:
                self._there.move_to_end(id)
                return self._there[id]
        upload = self._read(id, data, name)
        with self._lock:
            if id in self._there:  # others handed in the same at once
                return self._there[id]
            self._there[id], self._sizes[id] = upload, len(data)
            while len(self._there) > self.pictures or sum(self._sizes.values()) > self.in_all:
                oldest, _ = self._there.popitem(last=False)
                del self._sizes[oldest]
        return upload

    def _read(self, id: str, data: bytes, name: str) -> Upload:
        """A picture in a file of its own. Raises Problem for what is damaged."""
        suffix = re.sub(r"[^.a-z0-9]", "", Path(name).suffix.lower())[:8]
        number, place = tempfile.mkstemp(suffix, dir=self._folder.name)
        path = Path(place)
        try:
            with os.fdopen(number, "wb") as file:
                file.write(data)
            upload = Upload(id, path, Photograph(path, name))
            upload.photograph.read(lambda w, h: shrink(w, h, SMALL))  # what is damaged is said now
        except BaseException as error:
            path.unlink(missing_ok=True)
            if isinstance(error, InstsearchError):
                raise Problem(422, str(error)) from error
            raise
        weakref.finalize(upload, path.unlink, missing_ok=True).atexit = False
        return upload

    def get(self, id: str) -> Upload:
        """The picture of an id. Raises Problem where there is none any more."""
        with self._lock:
            if id not in self._there:
                raise Problem(404, "this picture is not here any more: hand it in again")
            self._there.move_to_end(id)
            return self._there[id]

    def __len__(self) -> int:
        return len(self._there)
