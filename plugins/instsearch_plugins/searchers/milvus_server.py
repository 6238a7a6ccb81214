"""A Milvus server, or a folder of Milvus Lite: a connection that its users share, and in words what goes wrong with it.

pymilvus is imported on use.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import re
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, unquote, urlsplit

from instsearch_cli.errors import InstsearchError, UsageError, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

LOGIN = "INSTSEARCH_MILVUS"  #: of the environment: whom to be for which server; never in an index
EXAMPLE = f"{LOGIN}=http://user:password@host:19530"
OLDEST = (2, 4)  #: the first version with sparse vectors
UNASKED = {
    "grpc.keepalive_time_ms": 2**31 - 1
}  #: Milvus Lite takes offence where it is asked whether it is there
SECONDS = 10.0  #: for a server to answer when it is first called
MISSING = (
    "searching in Milvus needs pymilvus and milvus-lite: run `pip install 'instsearch[milvus]'` (or in a clone: "
    "`pip install -e '.[milvus]'`)"
)
NOT_THERE = 100  #: Milvus's code for a collection that is not there
REFUSED = re.compile(r"unauth|auth check|permission|credential|password", re.IGNORECASE)


class NoCollection(InstsearchError):  # noqa: N818
    """There is no collection of that name."""


def address(uri: str) -> str:
    """A server's address, or the absolute path of a folder. Raises ValueError for what is neither."""
    if "://" not in uri:
        if not uri.endswith(".db"):
            raise ValueError(
                f"uri is the address of a server, http://host:19530, or a folder NAME.db of Milvus Lite, not '{uri}'"
            )
        return os.path.abspath(uri)  # noqa: PTH100 (links stay as they are)
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https", "tcp") or not parts.hostname:
        raise ValueError(f"uri is http://host:19530 or https://host:19530, not '{uri}'")
    if parts.username or parts.password:
        raise ValueError(f"uri is kept in the index: leave the password out of it, and set {EXAMPLE}")
    return uri


def login(uri: str) -> str:
    """What to tell a server, "user:password" or a key, if the environment names this very server; else "".

    An index from elsewhere may name any server, which is to learn no password.
    """
    named = urlsplit(os.environ.get(LOGIN, ""))
    server = urlsplit(uri)
    if (named.scheme, named.hostname, _port(named)) != (server.scheme, server.hostname, _port(server)):
        return ""
    return ":".join(unquote(part) for part in (named.username, named.password) if part)


def _port(parts: SplitResult) -> int | None:
    try:
        return parts.port
    except ValueError:
        return None


class Server:
    """An open connection. Closed, and a folder let go of, when nobody holds it any more."""

    def __init__(self, uri: str, database: str) -> None:
        self.uri = uri
        self.client: Any = _client(uri, database)
        weakref.finalize(self, _close, self.client, "" if "://" in uri else uri)
        with self.answering():
            version = str(self.client.get_server_version())
        numbers = re.match(r"v?(\d+)\.(\d+)", version)
        if numbers and (int(numbers[1]), int(numbers[2])) < OLDEST:
            raise InstsearchError(
                f"{uri} is Milvus {version}: its mirror needs {OLDEST[0]}.{OLDEST[1]} or later"
            )

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Within this context what goes wrong is an InstsearchError of one or two lines."""
        try:
            yield
        except _errors() as error:
            raise _in_words(self.uri, error) from error


_open: weakref.WeakValueDictionary[tuple[str, str], Server] = weakref.WeakValueDictionary()
_opening = threading.Lock()


def connected(uri: str, database: str, create: bool = False) -> Server:
    """The connection to a server, shared by all who hold it. Raises InstsearchError.

    A folder that is not there is made if ``create`` says so; NoCollection otherwise.
    """
    if not create and "://" not in uri and not Path(uri).exists():
        raise NoCollection(f"{printable(uri)} is not there")
    with _opening:
        server = _open.get((uri, database))
        if server is None:
            _open[uri, database] = server = Server(uri, database)
        return server


def _client(uri: str, database: str) -> Any:
    local = "://" not in uri
    if not all(importlib.util.find_spec(name) for name in ("pymilvus", *["milvus_lite"] * local)):
        raise InstsearchError(MISSING)
    import pymilvus

    for name in ("pymilvus", "milvus_lite"):  # they print tracebacks of what is raised as well
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if local:
        _check_folder(uri)
    options: dict[str, Any] = {"grpc_options": UNASKED} if local else {"token": login(uri)}
    try:
        return pymilvus.MilvusClient(uri=uri, db_name=database, timeout=SECONDS, **options)
    except _errors() as error:
        if local:
            raise InstsearchError(
                f"{printable(uri)} is open in another program: Milvus Lite is for one at a time. Wait until that ends, "
                "or run a Milvus server"
            ) from error
        raise _in_words(uri, error, connecting=True) from error


def _check_folder(uri: str) -> None:
    path, where = Path(uri), printable(uri)
    if not path.parent.is_dir():
        raise UsageError(f"searcher.uri: there is no folder {printable(path.parent)}")
    if path.is_file():
        raise UsageError(f"searcher.uri: {where} is a file; Milvus Lite 3 keeps a folder: give another name")
    if path.is_dir() and any(path.iterdir()) and not (path / "collections").is_dir():
        raise UsageError(f"searcher.uri: {where} has other files in it: give a new name")


def _errors() -> tuple[type[Exception], ...]:
    import grpc
    from pymilvus.exceptions import MilvusException

    return MilvusException, grpc.RpcError, OSError, ValueError


def _in_words(uri: str, error: Exception, connecting: bool = False) -> InstsearchError:
    import grpc
    from pymilvus.exceptions import MilvusException

    what = error.message if isinstance(error, MilvusException) else str(error)
    if isinstance(cause := error.__cause__, grpc.RpcError):  # what the first one leaves unsaid
        what = cause.details() or what
    first = printable(" ".join(str(what).split())[:300])
    if isinstance(error, MilvusException) and error.code == NOT_THERE:
        return NoCollection(f"{uri}: {first}")
    if REFUSED.search(first):
        return InstsearchError(f"{uri} refuses the login: set {EXAMPLE} ({first})")
    if connecting:
        return InstsearchError(
            f"no Milvus answers at {uri}: start it, or name another with --set searcher.uri=http://host:19530 ({first})"
        )
    return InstsearchError(f"{uri}: Milvus says: {first}")


def _close(client: Any, folder: str) -> None:
    with contextlib.suppress(Exception):
        client.close()
    if folder:
        from milvus_lite.server_manager import server_manager_instance

        with contextlib.suppress(Exception):
            server_manager_instance.release_server(folder)
