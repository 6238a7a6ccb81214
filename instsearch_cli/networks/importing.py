"""Published checkpoints made the weights files of networks: converted, checked, written whole.

torch is imported on use.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

from instsearch_cli.components import Component
from instsearch_cli.errors import InstsearchError
from instsearch_cli.networks.weights import (
    check_finite,
    check_state_dict,
    named_folders,
    needed,
    sha256,
    user_folder,
    weights_in,
    write_tensors,
)
from instsearch_cli.outside.files import open_plain
from instsearch_formats import FormatError
from instsearch_formats.files import make_folder, replacing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor, nn


class Importable(Protocol):
    """A component's class whose network has published weights."""

    architecture: ClassVar[str]  #: what the weights are called: NAME.pth

    @classmethod
    def build(cls) -> nn.Module:
        """The network; its numbers do not matter, and under ``torch.device("meta")`` it has none."""
        ...

    @classmethod
    def import_weights(cls, path: Path) -> dict[str, Tensor]:
        """A published checkpoint by the names of the network's tensors. Raises InstsearchError."""
        ...


class Several(Component):
    """What a component's class inherits from that has the choice of several networks, each with weights of its own."""

    @classmethod
    def networks(cls) -> Mapping[type[Component], Path | None]:
        """A class for each network, and its weights where they are in a cache that is not this program's."""
        raise NotImplementedError


class Imported(NamedTuple):
    """What was written."""

    path: Path
    sha256: str
    parameters: int


def default_folder() -> Path:
    """Where weights are imported to: the first folder of INSTSEARCH_WEIGHTS, the user's own without one."""
    return next(iter(named_folders()), user_folder())


def import_weights(component: type[Importable], path: Path, folder: Path, force: bool = False) -> Imported:
    """Write a published checkpoint of a component's network as ``folder``/NAME.pth, a plain state dict in f32.

    The same file imported twice gives the same bytes. Raises InstsearchError for a file that is not there,
    not a checkpoint of this network, or has other than finite numbers; for other weights of the network in
    ``folder`` already, which only ``force`` replaces if they are NAME.pth.
    """
    import torch

    name = component.architecture
    open_plain(path).close()
    with torch.device("meta"):
        network = component.build()
    state = component.import_weights(path)
    _check(network, state, path, name)
    # copies: a view would be saved with all that it is a view of
    plain = {
        key: state[key].to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        for key in needed(network)
    }
    target = folder / f"{name}.pth"
    try:
        _write(plain, target, name, force)
    except (OSError, FormatError) as error:
        reason = error.__cause__ or error
        raise InstsearchError(
            f"cannot write {target}: {getattr(reason, 'strerror', None) or reason}.\nGive another folder with --to DIR."
        ) from error
    return Imported(target, sha256(target), sum(p.numel() for p in network.parameters()))


def _write(plain: dict[str, Tensor], target: Path, name: str, force: bool) -> None:
    make_folder(target.parent)
    if others := [other.name for other in weights_in(target.parent, name) if other != target]:
        raise InstsearchError(
            f"{target.parent}: has weights of {name} already: {others[0]}.\nRemove them, or give --to DIR."
        )
    with replacing(target) as aside:
        write_tensors(aside, plain)
        if target.exists() and not force and sha256(target) != sha256(aside):
            raise InstsearchError(
                f"{target}: other weights are there already.\n--force replaces them; or give --to DIR."
            )


def check_names(
    network: nn.Module, wanted: Sequence[str], state: Mapping[str, Tensor], path: Path, name: str
) -> None:
    """Raise InstsearchError that counts what is missing in ``state``, unless it has ``wanted`` and none of others'."""
    missing = [key for key in wanted if key not in state]
    surplus = [key for key in state if key not in network.state_dict()]
    lines = []
    if missing:
        close = difflib.get_close_matches(missing[0], surplus, n=1, cutoff=0.5)
        there = f" (nearest there: {close[0]!r})" if close else ""
        lines.append(f"{len(missing)} of {len(wanted)} tensors are missing, {missing[0]!r} first{there}")
    if surplus:
        lines.append(f"{len(surplus)} others are in it, {surplus[0]!r} first")
    if lines:
        raise InstsearchError(f"{path}: not the weights of {name}: " + ";\n".join(lines) + ".")


def _check(network: nn.Module, state: dict[str, Tensor], path: Path, name: str) -> None:
    """Raise InstsearchError unless ``state`` has the network's tensors, no others, and finite numbers."""
    wanted = needed(network)
    check_names(network, wanted, state, path, name)
    check_state_dict(network, wanted, state, path)
    for key in wanted:
        check_finite(key, state[key].float(), path)  # as they will be written
