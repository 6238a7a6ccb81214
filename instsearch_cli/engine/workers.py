"""Who makes the layers of photographs, or answers: this process, or workers of a Ray cluster."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from typing import Any

from instsearch_cli.engine.exchange import Exchange
from instsearch_cli.errors import InstsearchError, UsageError

LOCAL, RAY = "local", "ray"
INSTALL = "pip install 'instsearch[ray]'"


@dataclass(frozen=True)
class Workers:
    """Workers of Ray.

    address  of a cluster, ray://host:10001 say; "": the one that this machine is a node of, else one made here
    count    how many there are at most; None: as many as the cluster has cores, or GPUs, for
    gpus     that each has to itself; less than 1: several share one
    memory   for decoding, of a machine, as ``--memory`` has it
    through  URL of storage that parts go through, where the machines see no common folder; "": they see the index
    """

    address: str = ""
    count: int | None = None
    gpus: float = 0.0
    memory: str = ""
    through: str = ""


def workers_of(
    engine: str, count: int | None = None, gpus: float = 0.0, memory: str = "", through: str = ""
) -> Workers | None:
    """The workers that are meant by "ray" or "ray://HOST:PORT"; None for "local", this process.

    Raises UsageError for another engine, and options that it has no meaning for; InstsearchError without the extra.
    """
    if engine == LOCAL:
        if count is not None or gpus or through:
            raise UsageError("--workers, --gpus-a-worker and --through are of --engine ray: give that, too")
        return None
    port = re.fullmatch(r"ray://[^/\s:]+:(\d{1,5})", engine)
    if engine != RAY and (port is None or not 0 < int(port[1]) < 1 << 16):
        raise UsageError(f"--engine is local, ray, or ray://HOST:PORT, not '{engine}'")
    if (count is not None and count < 1) or not gpus >= 0:
        raise UsageError("--workers is at least 1, --gpus-a-worker at least 0")
    if importlib.util.find_spec("ray") is None:
        raise InstsearchError(
            f"--engine {engine} needs Ray: run `{INSTALL}` (or in a clone: `pip install -e '.[ray]'`)"
        )
    if through:
        Exchange(through).check()
    return Workers(engine if engine != RAY else "", count, gpus, memory, through)


def workers_in(options: dict[str, Any]) -> Workers | None:
    """The workers that ``engine``, ``workers``, ``gpus_a_worker`` and ``through`` mean; these are taken out."""
    engine, count = options.pop("engine", LOCAL), options.pop("workers", None)
    return workers_of(engine, count, options.pop("gpus_a_worker", 0.0), through=options.pop("through", ""))
