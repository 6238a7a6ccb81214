"""What every method of an opened index passes through: it is not closed, and errors of the format are ours."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any, TypeVar

from instsearch_cli.engine.asking import Warm
from instsearch_cli.engine.names import Names
from instsearch_cli.engine.registry import load_registry
from instsearch_cli.errors import IndexInUse, InstsearchError
from instsearch_formats import FormatError, LockedError
from instsearch_formats import Index as Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Method = TypeVar("Method", bound="Callable[..., Any]")


@contextlib.contextmanager
def format_errors() -> Iterator[None]:
    """What the format raises is an InstsearchError too, with the same words."""
    try:
        yield
    except LockedError as error:
        raise IndexInUse(str(error)) from error
    except FormatError as error:
        raise InstsearchError(str(error)) from error


class Loaded:
    """An index that lies in a folder, and what is loaded of it."""

    def __init__(self, store: Store, device: str) -> None:
        self.store, self.device, self.identity = store, device, _identity(store.path)
        self.warm = Warm(store, load_registry(), device)

    @functools.cached_property
    def names(self) -> Names:
        """What its images are called."""
        return Names(self.store)

    def now(self) -> Loaded:
        """Itself, or what came to lie in its place."""
        path = self.store.path
        return self if _identity(path) == self.identity else Loaded(Store.open(path), self.device)


def _identity(folder: Path) -> tuple[int, ...] | None:
    """Tells an index from another that comes to lie in its place; None: there is none."""
    try:
        there = (folder / "format.json").stat()  # written once, when an index is made
    except OSError:
        return None
    return there.st_dev, there.st_ino, there.st_mtime_ns


def opened(method: Method) -> Method:
    """A method of an index that is not closed; of the one that lies in its folder now."""

    @functools.wraps(method)
    def checked(self: Any, *arguments: Any, **options: Any) -> Any:
        if self.closed:
            raise InstsearchError(f"the index {self.path} is closed: open it again")
        with format_errors():
            self._loaded = self._loaded.now()
            return method(self, *arguments, **options)

    return checked  # type: ignore[return-value]
