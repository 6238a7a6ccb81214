"""A cluster of Ray as this program uses it: joined or made, looked at, given plain functions to call."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import logging
import os
import socket
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instsearch_cli import __version__
from instsearch_cli.engine.exchange import Exchange
from instsearch_cli.engine.workers import INSTALL
from instsearch_cli.errors import InstsearchError, UsageError, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from instsearch_cli.engine.workers import Workers
    from instsearch_formats import Index

LISTENING = 5.0  #: seconds in which a cluster has to let us in
PATIENCE = 60.0  #: seconds in which every machine has to answer
LATE = 5.0  #: seconds that clocks may differ by
POLL = 0.2  #: seconds after which Ctrl-C is seen
SEEN = "seen"  #: a file that machines look for, to know that they see the same folder
NODE = "ray.io/node-id"
TOKEN = Path("~/.ray/auth_token")  #: which `ray start` makes
OURS = "INSTSEARCH_"
AT_HOME = ("INSTSEARCH_INDEX",)  #: variables that say nothing to a worker


class Cluster:
    """A connection to Ray; one that this process has already is used, and left.

    alone  made here, for this run: its workers are of this machine and this Python
    """

    def __init__(self, workers: Workers) -> None:
        send_token()  # before Ray is imported
        import ray

        self.ray, self.workers = ray, workers
        self._own, self.alone = not ray.is_initialized(), False
        if self._own:
            self._connect(workers)
        _silence()
        self._functions: dict[Any, Any] = {}

    def _connect(self, workers: Workers) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        logging.getLogger("ray").setLevel(logging.ERROR)
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        address = workers.address or os.environ.get("RAY_ADDRESS", "") or started()
        try:
            if address:
                _check_listening(address)
                self.ray.init(address, **quiet)
                return
            with _light():
                self.ray.init("local", num_cpus=workers.count, include_dashboard=False, **quiet)
            self.alone = True
        except Exception as error:
            where = f"Ray at {address}" if address else "Ray"
            said = error.strerror or str(error) if isinstance(error, OSError) else str(error)
            first = (said.strip().splitlines() or [type(error).__name__])[0]
            raise InstsearchError(
                f"cannot reach {where}: {first}\nStart it there with `ray start --head`, of the same versions of Ray "
                "and Python, with the same ~/.ray/auth_token (for ray:// with RAY_AUTH_MODE=token), or give --engine "
                "ray for workers on this machine."
            ) from error

    def close(self) -> None:
        """Leave it; one that was made here ends."""
        if self._own:
            self.ray.shutdown()

    @property
    def nodes(self) -> list[dict[str, Any]]:
        """The machines that can work."""
        every: list[dict[str, Any]] = self.ray.nodes()  # type: ignore[no-untyped-call]
        return [node for node in every if node["Alive"] and node["Resources"].get("CPU")]

    def fitting(self, avoid: Sequence[str] = ()) -> list[int]:
        """How many tasks fit on each machine that can work. Raises UsageError where none fits on any."""
        gpus = self.workers.gpus
        nodes = [node["Resources"] for node in self.nodes if node["NodeID"] not in avoid]
        counts = [min(int(r["CPU"]), int(r.get("GPU", 0) / gpus) if gpus else int(r["CPU"])) for r in nodes]
        if nodes and gpus and not any(counts):
            wanted = f"{gpus:g} GPU{'s' * (gpus > 1)}"
            raise UsageError(f"no machine of the cluster has {wanted}: leave out --gpus-a-worker")
        return counts

    def call(self, function: Callable[..., Any], *arguments: Any, avoid: Sequence[str] = ()) -> Any:
        """A reference to what a function gives that a worker calls, once."""
        if function not in self._functions:
            self._functions[function] = self.ray.remote(function)
        options: dict[str, Any] = {"max_retries": 0, "num_cpus": 1, "num_gpus": self.workers.gpus}
        if avoid:
            options["label_selector"] = {NODE: f"!in({','.join(avoid)})"}
        return self._functions[function].options(**options).remote(*arguments)

    def cancel(self, references: Sequence[Any]) -> None:
        """End what workers do: they are given a moment to clear up."""
        waiting = list(references)
        for force in (False, True):
            for reference in waiting:
                with contextlib.suppress(Exception):
                    self.ray.cancel(reference, force=force)
            if waiting:
                _, waiting = self.ray.wait(waiting, num_returns=len(waiting), timeout=5)

    def everywhere(self, function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        """References to what a function gives that every machine calls, by Ray's id of it."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        remote, references = self.ray.remote(function), {}
        for node in self.nodes:
            here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            options = {"num_cpus": 0, "max_retries": 3, "scheduling_strategy": here}
            references[node["NodeID"]] = remote.options(**options).remote(*arguments)
        return references

    def check(self, index: Index, through: str = "") -> list[str]:
        """Look whether every machine can work on an index, or reaches storage; gives what is odd and no hindrance.

        Raises InstsearchError for the first that has another version, or does not see the index or its photographs.
        """
        with index.scratch() as folder:
            (folder / SEEN).touch()
            if through:
                Exchange(through).send(folder, [SEEN])
            began, place = time.time(), through or str(folder)
            references = self.everywhere(_probe(), place, SEEN, uuid.uuid4().hex, index.images.roots)
            names = {node["NodeID"]: node["NodeManagerHostname"] for node in self.nodes}
            odd = []
            for node, reference in references.items():
                facts = self._answer(reference, names.get(node, node))
                self._judge(facts, through or index.path)
                span = began - LATE, time.time() + LATE
                if not span[0] <= facts["time"] <= span[1]:
                    gap = facts["time"] - time.time()
                    odd.append(
                        f"the clock of {facts['host']} is {abs(gap):,.0f} s {'ahead' if gap > 0 else 'behind'}: "
                        "set it by NTP. Results are the same, times of files are not"
                    )
            return odd

    def _answer(self, reference: Any, name: str) -> dict[str, Any]:
        try:
            facts: dict[str, Any] = self.ray.get(reference, timeout=PATIENCE)
            return facts
        except self.ray.exceptions.RayError as error:
            raise InstsearchError(
                f"{name} does not answer within {PATIENCE:.0f} s: `ray status` says how it is; `ray stop` there leaves "
                "it out"
            ) from error

    def _judge(self, facts: dict[str, Any], where: str | Path) -> None:
        host = facts["host"]
        if facts["version"] != __version__:
            there = f"has instsearch {facts['version']}" if facts["version"] else "has no instsearch"
            raise InstsearchError(
                f"{host} {there}, and this is {__version__}: run `{INSTALL[:-1]}=={__version__}'` there, in the Python "
                "that Ray runs in"
            )
        if facts["index"]:
            hint = (
                "Storage that parts go through is one that all machines read and write, an s3://bucket/folder say."
                if "://" in str(where)
                else "An index that several machines make lies in a folder that all of them see by the same path, over "
                "NFS say; or its parts go through storage that all of them reach: --through s3://bucket/folder."
            )
            raise InstsearchError(f"{host} cannot write into {printable(where)}: {facts['index']}.\n{hint}")
        if facts["missing"]:
            raise InstsearchError(
                f"{host} does not see the photographs in {printable(facts['missing'][0])}.\nMount them there by the "
                "same path."
            )


def environment() -> dict[str, str]:
    """The variables that say to a worker where weights are, and which plugins count."""
    return {k: v for k, v in os.environ.items() if k.startswith(OURS) and k not in AT_HOME}


def reason(error: Exception) -> str:
    """Why a worker ended, in a few words."""
    first = (str(error).strip().splitlines() or [""])[0]
    return "out of memory" if "OutOfMemory" in type(error).__name__ else f"killed or crashed ({first[:60]})"


def _check_listening(address: str) -> None:
    """Raises OSError where nobody listens at HOST:PORT: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), LISTENING).close()


def started() -> str:
    """The cluster that `ray start` made here; "" where there is none, or it has ended and left its address behind."""
    folder = os.environ.get("RAY_TMPDIR") or (sys.platform == "linux" and os.environ.get("TMPDIR")) or "/tmp"
    with contextlib.suppress(OSError, ValueError, OverflowError):
        address = Path(folder, "ray", "ray_current_cluster").read_text("utf-8").strip()
        if address.rpartition(":")[2].isdecimal():
            _check_listening(address)
            return address
    return ""


@contextlib.contextmanager
def _light() -> Iterator[None]:
    """Have Ray start without monitors of load and logs, for which one machine has no use, and Ray no option.

    They take a second of processor time, and at the end a second of waiting.
    """
    wanted: dict[str, Any] = {"no_monitor": True, "include_log_monitor": False}
    parameters: Any = None
    with contextlib.suppress(ImportError, AttributeError):
        parameters = importlib.import_module("ray._private.parameter").RayParams
    if parameters is None or not wanted.keys() <= inspect.signature(parameters).parameters.keys():
        yield
        return
    whole = parameters.__init__
    parameters.__init__ = functools.partialmethod(whole, **wanted)
    try:
        yield
    finally:
        parameters.__init__ = whole


def send_token() -> None:
    """Have Ray send the token that this user has, as it does by itself where no address is given."""
    given = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if given or TOKEN.expanduser().is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def _silence() -> None:
    """Ray prints what becomes of workers on standard output, where results go, and has no option against that."""
    with contextlib.suppress(ImportError, AttributeError):
        worker: Any = importlib.import_module("ray._private.worker")
        if worker.print_to_stdstream:
            worker.print_to_stdstream = lambda *_, **__: None


def _probe() -> Callable[[str, str, str, list[str]], dict[str, Any]]:
    """A function that goes to a worker as a whole: of this program there may be none, or another."""

    def probe(folder: str, seen: str, name: str, roots: list[str]) -> dict[str, Any]:
        import os
        import socket
        import time

        try:
            from instsearch_cli import __version__ as version
        except ImportError:
            version = ""
        wrong, path = "", os.path.join(folder, name)  # noqa: PTH118
        try:
            if "://" in folder:
                import fsspec

                files, root = fsspec.url_to_fs(folder)
                if files.exists(f"{root}/{seen}"):
                    files.pipe_file(f"{root}/{name}", b"")
                    files.rm_file(f"{root}/{name}")
                else:
                    wrong = "it is not the same storage there"
            elif os.path.exists(os.path.join(folder, seen)):  # noqa: PTH110, PTH118
                with open(path, "x"):  # noqa: PTH123
                    pass
                os.unlink(path)  # noqa: PTH108
            else:
                wrong = "it is not the same folder there"
        except Exception as error:
            wrong = getattr(error, "strerror", "") or str(error) or type(error).__name__
        missing = [root for root in roots if not os.path.isdir(root)]  # noqa: PTH112
        facts = {"version": version, "index": wrong, "missing": missing}
        return facts | {"host": socket.gethostname(), "time": time.time()}

    return probe
