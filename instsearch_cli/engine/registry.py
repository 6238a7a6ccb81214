"""Finding plugins: entry points loaded one by one, guarded, so that a broken one costs a warning."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import os
import re
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import pluggy

from instsearch_cli import hookspecs
from instsearch_cli.components import BASES
from instsearch_cli.engine.strangers import GROUP
from instsearch_cli.errors import InstsearchError, UsageError, nearest
from instsearch_cli.options import based
from instsearch_cli.specs import SPECS, Spec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import ModuleType

    import click

HOOKS = {
    "extractor": "instsearch_extractors",
    "weighting": "instsearch_weighters",
    "detector": "instsearch_detectors",
    "encoder": "instsearch_encoders",
    "rerank": "instsearch_rerankers",
    "searcher": "instsearch_searchers",
    "dataset": "instsearch_datasets",
}


NAME = re.compile(r"[A-Za-z0-9]+([-_.][A-Za-z0-9]+)*")


class PluginWarning(UserWarning):
    """A plugin could not be used; the program goes on without it."""


@dataclass(frozen=True)
class Offer:
    """A spec and who offers it."""

    spec: Spec
    distribution: str
    version: str

    @property
    def plugin(self) -> str:
        """ "distribution:name", as recorded in the index."""
        return f"{self.distribution}:{self.spec.name}"

    def load(self) -> type[Any]:
        """Import the component's class. Raises InstsearchError naming the distribution if that fails."""
        component: type[Any] = based(self._import(self.spec.factory), BASES[self.spec.kind])
        return component

    def load_trainer(self) -> type[Any]:
        """Import the class that trains it, likewise."""
        from instsearch_cli.networks.training import Trainer

        trainer: type[Any] = based(self._import(self.spec.trainer), cast("Any", Trainer))
        return trainer

    def _import(self, path: str) -> Any:
        module, _, attribute = path.partition(":")
        try:
            return vars(importlib.import_module(module))[attribute]
        except (ImportError, KeyError) as error:
            raise InstsearchError(
                f"{self.spec.kind} '{self.spec.name}' of {self.distribution} {self.version} cannot be loaded: "
                f"{_missing(error)}"
            ) from error


def _missing(error: Exception) -> str:
    return f"there is no {error.args[0]} in its module" if isinstance(error, KeyError) else str(error)


class Shipped(NamedTuple):
    """A file that lies in a folder beside a plugin's module."""

    distribution: str
    package: str
    name: str
    text: str


@dataclass
class Registry:
    """Every component on offer, by kind and name."""

    offers: dict[str, dict[str, Offer]] = field(default_factory=lambda: {kind: {} for kind in SPECS})
    manager: pluggy.PluginManager | None = None
    packages: list[tuple[str, str]] = field(default_factory=list)  #: (distribution, package of its plugin)

    def add(self, offer: Offer) -> None:
        """Take an offer; two with one kind and name is an error that names both."""
        mine = self.offers[offer.spec.kind]
        other = mine.get(offer.spec.name)
        if other is not None:
            raise InstsearchError(
                f"two plugins offer {offer.spec.kind} '{offer.spec.name}': {other.distribution} {other.version} "
                f"and {offer.distribution} {offer.version}; uninstall one of them"
            )
        mine[offer.spec.name] = offer

    def get(self, kind: str, name: str) -> Offer:
        """The offer of that name, or UsageError with the nearest one."""
        try:
            return self.offers[kind][name]
        except KeyError:
            raise UsageError(f"no {kind} is called '{name}'.{nearest(name, self.offers[kind])}") from None

    def default(self, kind: str, use: str) -> str:
        """The name of the component that is taken for a use (``specs.DEFAULTS``) where nobody names another."""
        for name, offer in self.offers[kind].items():
            if use in offer.spec.default_for:
                return name
        raise UsageError(f"no {kind} is there for {use} by default: name one")

    def shipped(self, folder: str) -> Iterator[Shipped]:
        """The TOML files that plugins ship in a folder of that name, in the order of plugins and of names."""
        import importlib.resources

        for distribution, package in self.packages:
            try:
                there = importlib.resources.files(package).joinpath(folder)
                files = sorted(there.iterdir(), key=lambda f: f.name) if there.is_dir() else []
            except (ModuleNotFoundError, TypeError, OSError):
                continue
            for file in files:
                if file.name.endswith(".toml"):
                    yield Shipped(distribution, package, file.name, file.read_text("utf-8"))

    def add_commands(self, cli: click.Group) -> None:
        """Let every plugin add its commands to ``cli``."""
        if self.manager is None:
            return
        for impl in self.manager.hook.instsearch_commands.get_hookimpls():
            with _Guard(impl.plugin_name):
                impl.function(cli)


class _Guard:
    """Turn whatever a plugin raises into a PluginWarning that names its distribution."""

    def __init__(self, who: str) -> None:
        self.who = who

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if error is None or not isinstance(error, Exception) or isinstance(error, InstsearchError):
            return False
        warnings.warn(f"plugin {self.who} is left out: {error!r}", PluginWarning, stacklevel=3)
        return True


def _wanted(distribution: str) -> bool:
    """INSTSEARCH_PLUGINS=a,b loads only those distributions beside our own."""
    only = os.environ.get("INSTSEARCH_PLUGINS")
    return only is None or distribution == GROUP or distribution in only.split(",")


@functools.cache
def load_registry() -> Registry:
    """Load every plugin. Warns (PluginWarning) of a broken one; raises InstsearchError on a name clash."""
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    registry = Registry(manager=manager)
    found = sorted(_entry_points(), key=lambda e: (e[0] != GROUP, e[0], e[2].name))
    for distribution, version, entry in found:
        if not _wanted(distribution):
            continue
        who = f"{distribution} {version} ({entry.name})"
        with _Guard(who):
            module: ModuleType = entry.load()
            manager.register(module, name=who)
            manager.check_pending()
            for spec in list(_specs_of(manager, module)):
                registry.add(Offer(spec, distribution, version))
            registry.packages.append((distribution, entry.module.rpartition(".")[0] or entry.module))
    return registry


def _entry_points() -> Iterable[tuple[str, str, importlib.metadata.EntryPoint]]:
    seen = set()
    for distribution in importlib.metadata.distributions():
        for entry in distribution.entry_points.select(group=GROUP):  # names are in longer files
            key = (distribution.name, entry.name, entry.value)
            if key not in seen:
                seen.add(key)
                yield distribution.name, distribution.version, entry


def _specs_of(manager: pluggy.PluginManager, module: ModuleType) -> Iterable[Spec]:
    for kind, hook in HOOKS.items():
        for impl in getattr(manager.hook, hook).get_hookimpls():
            if impl.plugin is not module:
                continue
            for spec in impl.function():
                if not isinstance(spec, SPECS[kind]):
                    raise TypeError(f"{hook} returned {spec!r}, not a {SPECS[kind].__name__}")
                if not NAME.fullmatch(spec.name):
                    raise ValueError(
                        f"{kind} '{spec.name}': a name is of letters and digits, with '-', '_' or '.' between"
                    )
                yield spec
