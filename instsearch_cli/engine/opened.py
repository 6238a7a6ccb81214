"""What every method of an opened index passes through: it is not closed, and errors of the format are ours."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any, TypeVar

from instsearch_cli.errors import IndexInUse, InstsearchError
from instsearch_formats import FormatError, LockedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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


def opened(method: Method) -> Method:
    """A method of an index that is not closed."""

    @functools.wraps(method)
    def checked(self: Any, *arguments: Any, **options: Any) -> Any:
        if self.closed:
            raise InstsearchError(f"the index {self.path} is closed: open it again")
        with format_errors():
            return method(self, *arguments, **options)

    return checked  # type: ignore[return-value]
