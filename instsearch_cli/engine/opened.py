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
        self.store, self.device, self.identity = store, device, identity(store.path)
        self.warm = Warm(store, load_registry(), device)

    @functools.cached_property
    def names(self) -> Names:
        """What its images are called."""
        return Names(self.store)

    @property
    def there(self) -> bool:
        """Whether it is still what lies there."""
        return identity(self.store.path) == self.identity

    def now(self) -> Loaded:
        """Itself, or what came to lie in its place."""
        return self if self.there else Loaded(Store.open(self.store.path), self.device)


def identity(folder: Path) -> tuple[int, ...] | None:
    """Tells an index from another that comes to lie in its place; None: there is none."""
    try:
        there = (folder / "format.json").stat()  # written once, when an index is made
    except OSError:
        return None
    return there.st_dev, there.st_ino, there.st_mtime_ns


def replaced(path: Path) -> InstsearchError:
    """What is wrong where an index gave way to another in the midst of something."""
    what = "there is no index any more at" if identity(path) is None else "another index came to lie at"
    return InstsearchError(f"{what} {path}: do it again")


@contextlib.contextmanager
def lasting(*some: Loaded) -> Iterator[None]:
    """What fails where an index gives way to another in the midst of it is said so."""
    with format_errors():
        try:
            yield
        except Exception as error:
            for loaded in some:
                if not loaded.there:
                    raise replaced(loaded.store.path) from error
            raise


def opened(method: Method) -> Method:
    """A method of an index that is not closed; of the one that lies in its folder now."""

    @functools.wraps(method)
    def checked(self: Any, *arguments: Any, **options: Any) -> Any:
        if self.closed:
            raise InstsearchError(f"the index {self.path} is closed: open it again")
        with format_errors():
            loaded = self._loaded = self._loaded.now()
        with lasting(loaded):
            result = method(self, *arguments, **options)
        if identity(loaded.store.path) is None:  # what was read of it may be nothing
            raise replaced(self.path)
        return result

    return checked  # type: ignore[return-value]
