"""What runs in a worker of Ray: one task of an index that the driver holds the lock of."""

from __future__ import annotations

import os
import shutil
import socket
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import TYPE_CHECKING

from instsearch_cli import __version__
from instsearch_cli.engine.assembly import Assembly
from instsearch_cli.engine.collection import Collection
from instsearch_cli.engine.exchange import Exchange
from instsearch_cli.engine.memory import reuse_memory
from instsearch_cli.engine.parts import Here
from instsearch_cli.engine.registry import load_registry
from instsearch_cli.engine.tensors import compute_in_one_thread
from instsearch_cli.errors import DISK, InstsearchError
from instsearch_cli.images.budget import BUDGET, parse_memory
from instsearch_cli.networks.weights import sha256
from instsearch_formats import FormatError, Index

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from instsearch_cli.engine.parts import Result, Task
    from instsearch_cli.engine.pipeline import Pipeline
    from instsearch_formats.changes import Change


INDEX, PARTS = "index", "parts"  #: folders of the storage


class NodeError(InstsearchError):
    """A machine cannot go on, and another one may: its disk is full, say.

    node  Ray's id of it
    """

    node = ""


@dataclass(frozen=True)
class Plan:
    """What a worker has to know of a run.

    id           of the run
    change       of the image table, which is not written yet; ``hidden`` rows and ``new`` ones as of a collection
    layers       the fingerprint of each layer: what the worker makes is of the same weights and versions
    environment  variables that say where weights are, and which plugins count
    side         tasks on one machine at once, which share the memory for decoding
    through      URL of storage that has what is needed of the index, and takes parts; "": the index is seen here
    """

    id: str
    index: Path
    pipeline: Pipeline
    device: str
    change: Change
    hidden: frozenset[int]
    new: range
    layers: dict[str, str]
    version: str = __version__
    environment: dict[str, str] = field(default_factory=dict)
    memory: str = ""
    side: int = 1
    through: str = ""


def make(plan: Plan, task: Task) -> Result:
    """Write the parts of a task, whole, and yet without their names."""
    skipped: list[tuple[int, str]] = []
    with (
        _collection(plan, task, lambda row, reason: skipped.append((row, reason))) as collection,
        closing(Here(collection, lambda: None).make([task])) as results,
    ):
        ((_, result),) = results
        if plan.through:
            _hand_over(collection.index.path, Exchange(plan.through), result)
    result.skipped = skipped
    return result


def _hand_over(folder: Path, exchange: Exchange, result: Result) -> None:
    """Put parts where the driver gets them from, named as in an index."""
    with reported():
        result.sums = [sha256(aside) for aside, _ in result.parts]
        exchange.below(PARTS).send(folder, [str(aside.relative_to(folder)) for aside, _ in result.parts])
    for aside, _ in result.parts:
        aside.unlink()
    result.parts = [(aside.relative_to(folder), path.relative_to(folder)) for aside, path in result.parts]


def look(plan: Plan, task: Task, rows: Sequence[int]) -> None:
    """Make the layers of some rows of a task, and write nothing: does the worker survive it?"""
    with (
        _collection(plan, task, lambda row, reason: None) as collection,
        closing(collection.stream([(row, task.kinds) for row in rows])) as stream,
    ):
        for _ in stream:
            pass


_here: dict[str, tuple[Assembly, set[str]]] = {}
"""The components of the last run, and which of them have their models: tasks after one another find them loaded."""


@contextmanager
def _collection(plan: Plan, task: Task, skip: Callable[[int, str], None]) -> Iterator[Collection]:
    """The collection as the driver sees it; what goes wrong is told with the name of the machine."""
    with reported():
        if plan.version != __version__:
            raise InstsearchError(f"instsearch {__version__} is there: install {plan.version}, as here")
        index = Index.open(_index(plan))
        assembly = _assembly(plan, index, task.kinds)
        with index.images.foreseeing(plan.change):
            collection = Collection(index, assembly, skip)
            collection.hidden, collection.new = plan.hidden, plan.new
            yield collection


_copies: dict[str, TemporaryDirectory[str]] = {}
"""What this worker has of the index of its last run, where it does not see it."""


def _index(plan: Plan) -> Path:
    """Where the index lies, or what came of it by way of the storage."""
    if not plan.through:
        return plan.index
    if plan.id not in _copies:
        _copies.clear()
        copy = TemporaryDirectory(prefix=_prefix(plan.id), ignore_cleanup_errors=True)
        Exchange(plan.through).below(INDEX).fetch(Path(copy.name))
        _copies[plan.id] = copy
    return Path(_copies[plan.id].name)


def _prefix(run: str) -> str:
    return f"instsearch-{run}-"


def clear(run: str) -> None:
    """Remove what workers of this machine have of the index of a run: they end without a chance to."""
    for folder in Path(gettempdir()).glob(f"{_prefix(run)}*"):
        shutil.rmtree(folder, ignore_errors=True)


def _assembly(plan: Plan, index: Index, kinds: Sequence[str]) -> Assembly:
    """The components, with the models that there are. Raises InstsearchError where they would make other layers."""
    if plan.id not in _here:
        begin(plan.environment)
        BUDGET.divide(parse_memory(plan.memory) if plan.memory else None, plan.side)
        _here.clear()
        _here[plan.id] = Assembly(plan.pipeline, load_registry(), plan.device), set()
    assembly, loaded = _here[plan.id]
    for kind in kinds:
        if assembly.fingerprint(kind) != plan.layers[kind]:
            raise InstsearchError(
                f"{assembly.part(kind)} makes other {kind} than here: is it of the same version there, are weights the "
                "same?"
            )
    for kind in set(assembly.learnt) - loaded:
        part = assembly.part(kind)
        found = index.read_model(part.name, assembly.model_identity(kind), part.component.learns)
        if found is not None:
            part.component.load(found[0])
            loaded.add(kind)
    return assembly


def begin(environment: Mapping[str, str]) -> None:
    """See what the driver sees of plugins and weights; compute in one thread: there are other workers."""
    if any(os.environ.get(name) != value for name, value in environment.items()):
        os.environ.update(environment)
        load_registry.cache_clear()
    compute_in_one_thread()
    reuse_memory()


@contextmanager
def reported() -> Iterator[None]:
    """What goes wrong is told with the name of the machine, and as NodeError where another one may go on."""
    try:
        yield
    except (InstsearchError, FormatError, OSError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        text = f"worker on {socket.gethostname()}: {error}"
        if not isinstance(cause, OSError) or cause.errno not in DISK:
            raise InstsearchError(text) from error
        import ray

        trouble = NodeError(text)
        trouble.node = ray.get_runtime_context().get_node_id()
        raise trouble from error
