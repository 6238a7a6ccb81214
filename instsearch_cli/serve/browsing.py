"""Before the service starts: whether its packages are there, and whether a browser is beside it."""

from __future__ import annotations

import importlib.util
import os
import socket

from instsearch_cli.errors import InstsearchError

PACKAGES = ("starlette", "uvicorn", "h11", "python_multipart", "prometheus_client")


def require() -> None:
    """Raises InstsearchError that says how to get what is missing."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InstsearchError(
            f"the page needs {', '.join(missing)}: run `pip install 'instsearch[serve]'` (or in a clone: "
            "`pip install -e '.[serve]'`)"
        )


def remote() -> bool:
    """Whether this runs over ssh, so that a browser here is none before the person."""
    return "SSH_CONNECTION" in os.environ and not os.environ.get("DISPLAY")


def forwarding(port: int) -> str:
    """The command that brings the port to the machine that the person sits at."""
    return f"ssh -L {port}:localhost:{port} {socket.gethostname()}"
