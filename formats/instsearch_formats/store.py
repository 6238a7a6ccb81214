"""An index: a folder of layers, models and an image table."""

from __future__ import annotations

import contextlib
import json
import tempfile
import uuid
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from instsearch_formats import files, places
from instsearch_formats.cache import PartCache
from instsearch_formats.errors import FormatError, NewerFormatError, writing
from instsearch_formats.fingerprint import canonical
from instsearch_formats.images import ImageTable
from instsearch_formats.layer import Layer, check_word, folder_name, part_ranges
from instsearch_formats.lock import WriterLock
from instsearch_formats.part import Part, part_name, read_arrays
from instsearch_formats.survey import NOT_KINDS, cache_folders, layer_folders, model_files
from instsearch_formats.sweep import sweep
from instsearch_formats.verify import verify
from instsearch_formats.writer import write_arrays

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    import numpy as np

    from instsearch_formats.declared import Array
    from instsearch_formats.verify import Problem, Progress

VERSION = 1


class LayerInfo(NamedTuple):
    """A layer on disk. ``path`` is relative to the index, as gc's ``keep`` wants it.

    encoding is "" and identity empty where no part could be read.
    """

    path: str
    kind: str
    name: str
    fingerprint: str
    encoding: str
    parts: int
    rows: int
    nbytes: int
    identity: dict[str, Any]


class ModelInfo(NamedTuple):
    """A fitted model on disk, like :class:`LayerInfo`; identity is empty where it could not be read.

    rows  how many the image table had then, 0 where that is not said
    """

    path: str
    name: str
    fingerprint: str
    rows: int
    nbytes: int
    identity: dict[str, Any]
    attrs: dict[str, Any]


class CacheInfo(NamedTuple):
    """A folder of what can be computed again, like :class:`LayerInfo`."""

    path: str
    name: str
    fingerprint: str
    nbytes: int


class Index:
    """An open index. Readers need no lock; whoever writes holds :meth:`lock`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = WriterLock(path / "lock")
        self._cache = PartCache(path)
        self.images = ImageTable(path, self._lock, self._cache)

    @classmethod
    def create(cls, path: str | Path) -> Index:
        """Make an empty index in a folder that is new or empty."""
        path = Path(path)
        if path.exists():
            if not path.is_dir():
                raise FormatError(f"{path} is a file; an index is a folder")
            if (path / "format.json").exists():
                raise FormatError(f"{path} is an index already")
            if not files.vacant(path):
                raise FormatError(
                    f"{path} has other files in it: choose a new or an empty folder for the index"
                )
        head = {"format": "instsearch", "version": VERSION, "created-by": files.version()}
        files.make_folder(path)
        files.write_text(path / "format.json", json.dumps(head) + "\n")
        return cls(path)

    @classmethod
    def open(cls, path: str | Path) -> Index:
        """Open an index; FormatError says what the folder is instead, NewerFormatError what is needed."""
        path = Path(path)
        text = files.read_text(path / "format.json", path) if path.is_dir() else None
        if text is None:
            raise FormatError(_what_it_is(path))
        try:
            head = json.loads(text)
            written_by, version = str(head.get("created-by", "unknown"))[:64], head["version"]
            if head["format"] != "instsearch" or type(version) is not int or version < 1:
                raise ValueError
        except (ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
            raise FormatError(f"{path / 'format.json'} is not that of an index") from error
        if version > VERSION:
            raise NewerFormatError(
                f"{path} has format version {version}, written by instsearch {written_by}: "
                f"install that version or a later one"
            )
        return cls(path)

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Hold the index for writing; LockedError names the process that does. It ends with the process."""
        return self._lock.hold()

    def layer(self, kind: str, name: str, encoding: str, identity: Mapping[str, Any]) -> Layer:
        """The layer made with exactly these options; nothing is on disk before its first part."""
        if kind in NOT_KINDS:
            raise FormatError(f"{kind} is no kind of layer")
        path = self.path / check_word(kind, "the kind") / folder_name(name, identity)
        return Layer(path, kind, name, encoding, identity, self._cache, self.path, self.images.pictures)

    def layers(self) -> list[LayerInfo]:
        """The layers on disk, by path. Reads attributes only."""
        return [info for folder in layer_folders(self.path) if (info := self._layer_info(folder))]

    def _layer_info(self, folder: Path) -> LayerInfo | None:
        spans = part_ranges(folder, self.path)
        if not spans:
            return None
        encoding, identity = "", {}
        for span in spans:
            with contextlib.suppress(FormatError):
                part = Part(folder / part_name(span), self.path)
                encoding, identity = part.encoding.name, part.options()
                break
        rows, end = 0, 0
        for span in spans:
            rows, end = rows + max(0, span.stop - max(span.start, end)), max(end, span.stop)
        nbytes = sum((folder / part_name(span)).stat().st_size for span in spans)
        name, digits = folder.name.rsplit("-", 1)
        relative = folder.relative_to(self.path).as_posix()
        return LayerInfo(
            relative, folder.parent.name, name, digits, encoding, len(spans), rows, nbytes, identity
        )

    def write_model(
        self,
        name: str,
        identity: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray],
        attrs: Mapping[str, Any],
    ) -> None:
        """Store a fitted model: named arrays and JSON attributes. FormatError if it is there already."""
        rows = range(len(self.images))
        header: dict[str, str | int] = {"kind": "models", "name": name, "identity": canonical(identity)}
        if pictures := self.images.pictures(rows):
            header |= {"start": rows.start, "stop": rows.stop, "pictures": pictures}
        write_arrays(self._model(name, identity), header, arrays, attrs)

    def read_model(
        self, name: str, identity: Mapping[str, Any], wanted: Mapping[str, Array] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """Arrays and attributes of a model, every byte checked; None if it is not there.

        Raises FormatError where they are damaged, or not as ``wanted``.
        """
        path = self._model(name, identity)
        if not path.exists():
            return None
        return read_arrays(path, canonical(identity), self.path, wanted, self.images.pictures)

    def has_model(self, name: str, identity: Mapping[str, Any]) -> bool:
        """Whether there is such a model; nothing of it is read."""
        return self._model(name, identity).exists()

    def models(self) -> list[ModelInfo]:
        """The models on disk, by name. Reads attributes only."""
        out = []
        for path in model_files(self.path):
            identity: dict[str, Any] = {}
            attrs: dict[str, Any] = {}
            rows = 0
            with contextlib.suppress(FormatError):
                part = Part(path, self.path)
                identity, attrs, rows = part.options(), part.attributes(), len(part.span)
            name, digits = path.stem.rsplit("-", 1)
            relative = path.relative_to(self.path).as_posix()
            out.append(ModelInfo(relative, name, digits, rows, path.stat().st_size, identity, attrs))
        return out

    def _model(self, name: str, identity: Mapping[str, Any]) -> Path:
        path = self.path / "models" / f"{folder_name(name, identity)}.h5"
        places.check(path, self.path)
        return path

    def write_text(self, relative: str, text: str) -> None:
        """Write a small file of the index atomically, a pipeline say."""
        path = self._inside(relative)
        places.check(path.parent, self.path)
        files.write_text(path, text)

    def read_text(self, relative: str, limit: int = places.TEXT) -> str | None:
        """The text of a small file of the index, of at most ``limit`` bytes; None if it is not there."""
        return files.read_text(self._inside(relative), self.path, limit)

    def remove_text(self, relative: str) -> None:
        """Remove a small file of the index; nothing if it is not there."""
        path = self._inside(relative)
        with writing(path):
            places.remove(path, self.path)

    def texts(self, folder: str) -> list[str]:
        """The names in a folder of small files, in order; none where it is not there."""
        return sorted(places.names(self._inside(folder), self.path))

    def _inside(self, relative: str) -> Path:
        parts = PurePosixPath(relative).parts
        if not parts or ".." in parts or PurePosixPath(relative).is_absolute():
            raise FormatError(f"{relative!r} is not a path inside the index")
        return self.path.joinpath(*parts)

    def verify(self, progress: Progress | None = None) -> list[Problem]:
        """Read every byte of every file and say what is wrong; an empty list is a sound index."""
        return verify(self.path, self.images, progress)

    def gc(self, keep: Collection[str], dry_run: bool = False) -> list[Path]:
        """Remove the layers, models and caches that ``keep`` does not name, and what killed runs left.

        keep: paths as in :class:`LayerInfo` and :class:`ModelInfo`; a cache's is "cache/<name>-<fp12>".
        Returns what was, or would be, removed.
        """
        if dry_run:
            return sweep(self.path, keep, dry_run=True)
        with self.lock():
            self._cache.clear()
            return sweep(self.path, keep, dry_run=False)

    def cache(self, name: str, identity: Mapping[str, Any]) -> Path | None:
        """A folder for what can be computed again from layers, one for each identity; None where none can be written.

        Nobody holds the lock for it, its files are replaced atomically, and :meth:`gc` may remove it any time.
        """
        path = self.path / "cache" / folder_name(name, identity)
        try:
            places.check(path, self.path)
            files.make_folder(path)
            with tempfile.TemporaryFile(dir=path):
                return path
        except (FormatError, OSError):
            return None

    def caches(self) -> list[CacheInfo]:
        """The folders of :meth:`cache` on disk, by path."""
        out = []
        for folder in cache_folders(self.path):
            name, digits = folder.name.rsplit("-", 1)
            inside = places.entries(folder, self.path)
            nbytes = sum(entry.path.stat().st_size for entry in inside if entry.is_file)
            out.append(CacheInfo(folder.relative_to(self.path).as_posix(), name, digits, nbytes))
        return out

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A new folder on the index's disk for temporary files, removed at the end."""
        path = self.path / "scratch" / uuid.uuid4().hex
        places.check(path, self.path)
        files.make_folder(path)
        try:
            yield path
        finally:
            with contextlib.suppress(FormatError, OSError):
                places.remove(path, self.path, whole=True)


def _what_it_is(path: Path) -> str:
    if not path.exists():
        return f"there is no index at {path}: make one with `instsearch index IMAGES --index {path}`"
    if not path.is_dir():
        return f"{path} is a file; an index is a folder"
    names = [entry.suffix.lower() for entry in path.iterdir()]
    if files.vacant(path):
        return (
            f"{path} is an empty folder, no index yet: make one with `instsearch index IMAGES --index {path}`"
        )
    pictures = sum(suffix in {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp"} for suffix in names)
    if pictures:
        return (
            f"{path} is a folder of {pictures} pictures, not an index: "
            f"make one of it with `instsearch index {path} --index DIR`"
        )
    return f"{path} is not an index: it has no format.json"
