"""Storage that all machines reach where they see no common folder: s3://bucket/way, gs://..., by fsspec.

What workers need of an index goes there, the image table and the models, and the parts that they made come from there.
"""

from __future__ import annotations

import contextlib
import posixpath
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_formats.files import make_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

NEEDED = ("format.json", "roots.json", "images/*.h5", "models/*.h5")  #: of an index, to make layers


@dataclass(frozen=True)
class Exchange:
    """A folder of the storage, by its URL.

    Raises UsageError for what is no URL of storage that fsspec reaches, InstsearchError for what fails there.
    """

    url: str

    def __post_init__(self) -> None:
        if "://" not in self.url:
            raise UsageError(f"--through takes a URL of storage, s3://bucket/folder say, not '{self.url}'")

    def check(self) -> None:
        """Raise UsageError or InstsearchError where nothing here reaches such storage."""
        with self._files():
            pass

    def below(self, name: str) -> Exchange:
        """A folder in it."""
        return Exchange(f"{self.url.rstrip('/')}/{name}")

    def send_index(self, index: Path) -> None:
        """Put what workers need of an index there."""
        self.send(
            index, [str(path.relative_to(index)) for name in NEEDED for path in sorted(index.glob(name))]
        )

    def send(self, folder: Path, names: Sequence[str]) -> None:
        """Put files of a folder there, each under its name."""
        with self._files() as (files, root):
            for name in names:
                at = posixpath.join(root, name)
                files.makedirs(posixpath.dirname(at), exist_ok=True)
                files.put_file(str(folder / name), at)

    def fetch(self, folder: Path, names: Sequence[str] | None = None) -> None:
        """Get files of it, or all there are, into a folder, each under its name."""
        with self._files() as (files, root):
            if names is None:
                names = [found[len(root) :].lstrip("/") for found in files.find(root)]
            for name in names:
                make_folder((folder / name).parent)
                files.get_file(posixpath.join(root, name), str(folder / name))

    def clear(self) -> None:
        """Remove it; what cannot be is left."""
        with contextlib.suppress(InstsearchError), self._files() as (files, root):
            files.rm(root, recursive=True)

    @contextlib.contextmanager
    def _files(self) -> Iterator[tuple[Any, str]]:
        try:
            import fsspec

            files, root = fsspec.url_to_fs(self.url)
            yield files, root
        except ImportError as error:
            raise InstsearchError(f"--through {self.url}: {error}") from error
        except ValueError as error:
            raise UsageError(f"--through {self.url}: {error}") from error
        except Exception as error:  # of the store's own kinds
            what = getattr(error, "strerror", "") or str(error) or type(error).__name__
            raise InstsearchError(
                f"{self.url}: {what}.\nGive --through storage that this machine and the workers read and write."
            ) from error
