"""What there is to choose from: components, named pipelines, network weights."""

from __future__ import annotations

import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instsearch_cli.components import Component, own
from instsearch_cli.engine.registry import load_registry
from instsearch_cli.errors import InstsearchError, UsageError, nearest
from instsearch_cli.options import documented

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator

    from instsearch_cli.engine.registry import Offer, Registry
    from instsearch_cli.networks.importing import Imported
    from instsearch_cli.networks.weights import WeightsRow


def plugins(name: str | None = None) -> list[dict[str, Any]]:
    """Every component on offer, or those of a name, with their options, {"name", "default", "text"}.

    "training" are the options of its training, None where it has none.
    """
    offers = offered(load_registry(), name)
    rows = [plain(offer) for offer in offers]
    if name is not None:
        for row, offer in zip(rows, offers, strict=True):
            row["options"] = [asdict(option) for option in documented(offer.load())]
            trainer = offer.load_trainer() if offer.spec.trainer else None
            row["training"] = trainer and [asdict(option) for option in documented(trainer)]
    return rows


def presets() -> dict[str, str]:
    """The named pipelines: what each is for."""
    from instsearch_cli.engine.pipeline import presets as named

    return {
        name: str(tomllib.loads(text).get("summary", ""))
        for name, (text, _) in named(load_registry()).items()
    }


def weights(broken: Callable[[InstsearchError], None] | None = None) -> list[WeightsRow]:
    """Networks whose weights can be given, where each was found, and what is missing."""
    from instsearch_cli.networks.importing import Several
    from instsearch_cli.networks.weights import list_weights

    published: dict[str, str] = {}
    cached: dict[str, Path] = {}
    for _, component in networks(load_registry(), broken):
        published.setdefault(component.architecture, component.published)
        if issubclass(component, Several) and (path := component.networks()[component]):
            cached[component.architecture] = path
    return list_weights(published, cached)


def preset(name: str) -> str:
    """A named pipeline as TOML, ready to be edited."""
    from instsearch_cli.engine.pipeline import load_preset, parts_of_preset
    from instsearch_cli.engine.pipeline import presets as named

    registry = load_registry()
    found = named(registry)
    if name not in found:
        raise UsageError(f"no preset is called '{name}'.{nearest(name, found)}")
    for part in parts_of_preset(name, registry):
        load_preset(part, registry)
    return found[name][0]


def import_weights(
    name: str, file: str | os.PathLike[str], to: str | os.PathLike[str] | None = None, force: bool = False
) -> Imported:
    """Convert the published checkpoint of a network, check it, and keep it as NAME.pth where it is found."""
    from instsearch_cli.networks import importing

    component = network(load_registry(), name)
    if not own(component.import_weights, Component.import_weights.__func__):  # type: ignore[attr-defined]
        raise InstsearchError(f"{name} imports no weights: it takes its own files as they are.")
    return importing.import_weights(
        component, Path(file), Path(to) if to else importing.default_folder(), force
    )


def offered(registry: Registry, name: str | None = None) -> list[Offer]:
    """The components of a name, all for None. Raises UsageError with the nearest."""
    offers = [offer for kind in registry.offers.values() for offer in kind.values()]
    found = [offer for offer in offers if name in (None, offer.spec.name)]
    if name is not None and not found:
        raise UsageError(f"no component '{name}'.{nearest(name, {o.spec.name for o in offers})}")
    return found


def plain(offer: Offer) -> dict[str, Any]:
    """An offer, JSON-ready."""
    origin = {"distribution": offer.distribution, "distribution_version": offer.version}
    return {"kind": offer.spec.kind, **origin, **asdict(offer.spec)}


def networks(
    registry: Registry, broken: Callable[[InstsearchError], None] | None = None
) -> Iterator[tuple[str, Any]]:
    """(name, class) of every network that a component is or has; ``broken`` is told of one that cannot be imported.

    The name is the component's, or the network's where it has several.
    """
    from instsearch_cli.networks.importing import Several  # numpy, which listing components spares

    for offer in offered(registry):
        try:
            component = offer.load()
        except InstsearchError as error:
            if broken is not None:
                broken(error)
            continue
        if issubclass(component, Several):
            yield from ((each.architecture, each) for each in component.networks())
        elif issubclass(component, Component) and component.architecture:
            yield offer.spec.name, component


def network(registry: Registry, name: str) -> Any:
    """The class that is called so, or whose network is. Raises UsageError naming the nearest."""
    found = list(networks(registry))
    for given, component in found:
        if name == given:
            return component
    for _, component in found:
        if name == component.architecture:
            return component
    raise UsageError(f"no network is called '{name}'.{nearest(name, {given for given, _ in found})}")
