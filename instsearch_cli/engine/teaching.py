"""Training what plugins can train, into a weights file and its card."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instsearch_cli.engine.assembly import pick_device
from instsearch_cli.engine.choosing import absolute
from instsearch_cli.engine.registry import load_registry
from instsearch_cli.engine.stages import SEARCH
from instsearch_cli.errors import UsageError, nearest
from instsearch_cli.networks.safe import SUFFIX as SAFE
from instsearch_cli.networks.trained import finished, folder_of
from instsearch_cli.options import config_for, make_config
from instsearch_cli.progress import Quiet

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from instsearch_cli.engine.registry import Offer, Registry


@dataclass(frozen=True)
class Trained:
    """A weights file, and the card that says how it was made; ``already``: it was there, trained as asked."""

    out: Path
    card: dict[str, Any]
    offer: Offer
    already: bool = False


def trainable(registry: Registry, name: str) -> Offer:
    """The offer of that name that can be trained. Raises UsageError with the nearest."""
    offers = [offer for kind in registry.offers.values() for offer in kind.values()]
    found = {offer.spec.name: offer for offer in offers if offer.spec.trainer}
    if name not in found:
        what = "cannot be trained" if any(o.spec.name == name for o in offers) else "is no component"
        raise UsageError(f"'{name}' {what}.{nearest(name, found)}")
    return found[name]


def train(
    name: str,
    data: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    device: str = "auto",
    progress: Quiet | None = None,
) -> Trained:
    """Train the network of a component on a folder; a training that was stopped goes on from its last checkpoint."""
    from instsearch_cli.networks.training import Run

    offer = trainable(load_registry(), name)
    trained = offer.load_trainer()
    config = make_config(trained, options or {}, name)
    data, out = Path(data), absolute(Path(out or f"{name}.pth"))
    _check(data, out)
    on = pick_device(device)
    trainer, progress = trained(config, on), progress or Quiet()
    request = {
        "network": name,
        "plugin": offer.plugin,
        "version": offer.spec.version,
        "options": config_for(config, SEARCH),
        "inputs": trainer.identity(),
        "data": trainer.digest(data, progress),
    }
    request = json.loads(json.dumps(request))
    if card := finished(out, request):
        return Trained(out, card, offer, already=True)
    with Run(folder_of(out), request, progress) as run:
        card = run.finish(out, trainer.train(data, run), on)
    return Trained(out, card, offer)


def _check(data: Path, out: Path) -> None:
    if out.suffix == ".json":
        raise UsageError("--out is the weights file; its card is the .json beside it")
    if out.suffix == SAFE:
        raise UsageError("--out is a checkpoint as torch writes it: call it NAME.pth")
    if not out.parent.is_dir():
        raise UsageError(f"--out: there is no folder {out.parent}")
    if data.resolve() in out.parent.resolve().joinpath(out.name).parents:
        raise UsageError("--out: choose a file outside --data, which would change with it")
