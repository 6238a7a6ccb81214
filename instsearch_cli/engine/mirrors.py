"""Copies of codes that are kept elsewhere: which index they are of, how they differ from it, and which nothing uses."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from instsearch_cli.engine import records
from instsearch_cli.engine.assembly import Assembly
from instsearch_cli.engine.collection import Collection
from instsearch_cli.engine.stages import SEARCH, TABLE
from instsearch_cli.errors import InstsearchError, UsageError, printable
from instsearch_cli.options import config_for, make_config
from instsearch_cli.storage import Mirror, Origin
from instsearch_formats import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from instsearch_cli.components import Progress
    from instsearch_cli.engine.records import Record
    from instsearch_cli.engine.registry import Registry
    from instsearch_formats import Index

DIGITS = 12  #: of each half of a copy's key


def origin(index: Index, search: str) -> Origin:
    """The index that a copy is of, by the fingerprint of what is searched."""
    images = index.images

    def pictures(stop: int) -> str:
        return images.pictures(range(stop))

    def names(span: range) -> list[str]:
        return [printable(os.fsdecode(record.name)) for _, record in images.records(span)]

    return Origin(index.path.resolve(), _key(index, search), pictures, names)


def _key(index: Index, search: str) -> str:
    """The pictures that were given rows first, which stay the first, and what is searched of them."""
    first = index.images.ranges()[:1]
    return f"{index.images.pictures(first[0])[:DIGITS] if first else ''}_{search[:DIGITS]}"


def differing(
    index: Index, registry: Registry, device: Any, found: Iterable[Record], progress: Progress
) -> Iterator[Problem]:
    """How the copies that recorded pipelines ask differ from the index. Raises UsageError where none asks one."""
    own = [record for record in found if _mirror(registry, record) is not None]
    if not own:
        raise UsageError(
            f"no pipeline of {index.path} asks a copy of its codes elsewhere: leave out --mirror"
        )
    for record in own:
        assembly = Assembly(record.pipeline, registry, device)
        collection = Collection(index, assembly)
        layer, path = collection.layer(SEARCH), index.path / records.folders(assembly)[SEARCH]
        cover = layer.cover(len(index.images))
        mend = f"`{records.renewing(index, record.pipeline.name)}` brings it up to date"
        if not cover:
            yield Problem(path, "the copy of the codes was not filled to its end", mend)
            continue
        mirror, data = assembly.part(SEARCH).component, collection.segment(range(cover[-1].stop))
        try:
            said = mirror.differences(data, origin(index, assembly.fingerprint(SEARCH)), progress)
        except InstsearchError as error:  # it could not be looked at, and says why
            said, mend = [str(error)], "as that says"
        finally:
            data.close()
        yield from (Problem(path, " ".join(what.split("\n")), mend) for what in said)


def sweep(
    index: Index,
    registry: Registry,
    kept: Sequence[Record],
    others: Sequence[Record],
    dry_run: bool,
    say: Callable[[str], None],
) -> list[str]:
    """Drop the copies of this index that no pipeline of ``kept`` asks, wherever one is, or was, asked.

    Where that is, ``others`` say too, which are being forgotten, and what earlier options left in the index. One who
    does not answer is said, and what is there stays.
    """
    used = {_key(index, layer.rpartition("-")[2]) for r in kept for layer in r.layers if _is_search(layer)}
    swept: dict[str, None] = {}
    for mirror in _everyone(index, registry, [*kept, *others]):
        try:
            swept |= dict.fromkeys(mirror.sweep(origin(index, ""), used, dry_run))
        except InstsearchError as error:
            say(f"warning: what is unused there stays: {error}")
    return [*swept]


def _is_search(layer: str) -> bool:
    return layer.startswith(f"{SEARCH}/")


def _everyone(index: Index, registry: Registry, found: Iterable[Record]) -> Iterator[Mirror]:
    """Each of the mirrors that pipelines ask, or that layers in the index are of, once."""
    mirrors = [_mirror(registry, record) for record in found]
    for layer in index.layers():
        with contextlib.suppress(UsageError):  # of options that there are no more
            if layer.kind == SEARCH and layer.identity:
                mirrors.append(_of(registry, layer.name, layer.identity.get("config", {})))
    distinct = {(type(m), str(config_for(m.config, SEARCH))): m for m in mirrors if m is not None}
    yield from distinct.values()


def _mirror(registry: Registry, record: Record) -> Mirror | None:
    stage = record.pipeline.searcher
    return None if stage is None else _of(registry, stage.name, stage.options)


def _of(registry: Registry, name: str, options: Mapping[str, Any]) -> Mirror | None:
    """The searcher of that name, if it is a mirror; None also where it is of a plugin that is not here."""
    offer = registry.offers[TABLE[SEARCH].stage].get(name)
    cls = offer.load() if offer else None
    if cls is None or not issubclass(cls, Mirror):
        return None
    component: Any = cls
    mirror: Mirror = component(make_config(cls, options, TABLE[SEARCH].stage), None)
    return mirror
