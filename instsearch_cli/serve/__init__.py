"""The service and its page: warm indexes asked over HTTP, as docs/guide/serve.md has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from instsearch_cli.serve.browsing import require

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from instsearch_cli.serve.running import Running

__all__ = ["serve"]


def serve(
    *indexes: str | os.PathLike[str],
    host: str = "127.0.0.1",
    port: int = 0,
    token: str = "",
    allow_hosts: Sequence[str] = (),
    device: str = "auto",
) -> AbstractContextManager[Running]:
    """A service over indexes that answers as long as the context lasts, as `instsearch serve` does.

    port 0 is any that is free, token "" one that is drawn; what comes back has the ``link`` of the page, the ``base``
    of all addresses and the ``token``. Raises InstsearchError where packages are missing or the port is in use,
    UsageError for what is no port or name, and for another host without a token of one's own.
    """
    require()
    from pathlib import Path

    from instsearch_cli.serve.running import Place, running
    from instsearch_cli.serve.service import Service

    place = Place(host, port, token, allow_hosts)
    return running(Service([Path(index) for index in indexes], device), place)
