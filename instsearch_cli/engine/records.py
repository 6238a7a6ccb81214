"""What an index remembers of its runs: each pipeline under its name, and which one came last."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from instsearch_cli.engine.pipeline import Pipeline
from instsearch_cli.engine.stages import CACHE, FEATURES, SEARCH
from instsearch_cli.errors import InstsearchError, UsageError, nearest
from instsearch_formats import fingerprint

if TYPE_CHECKING:
    from instsearch_cli.engine.assembly import Assembly
    from instsearch_formats import Index


INDEX = "index"


@dataclass(frozen=True)
class Record:
    """A pipeline that was run, and the layers and models it uses: paths relative to the index."""

    pipeline: Pipeline
    layers: tuple[str, ...]
    facts: dict[str, Any]  #: what the extractor depended on beside its options: sha256 of weights
    by: str = INDEX  #: the verb that ran it; one that measures leaves what is asked as it was

    @property
    def searchable(self) -> bool:
        """Whether it was indexed, not only extracted."""
        return self.pipeline.encoder is not None


def record(index: Index, assembly: Assembly) -> None:
    """Remember a pipeline under its name and as the last one."""
    _write(index, assembly.pipeline, _used(assembly))
    index.write_text("pipelines/LAST", assembly.pipeline.name + "\n")


def record_measured(index: Index, assembly: Assembly, by: str) -> None:
    """Remember a pipeline that the verb ``by`` measured; the last one stays the last, one that is there as it is."""
    there = {record.pipeline.name: record for record in recorded(index)}
    if assembly.pipeline.name not in there:
        _write(index, assembly.pipeline, _used(assembly) | {"by": by})


def name_of_measured(index: Index, assembly: Assembly, by: str) -> str:
    """What a pipeline is called that the verb ``by`` measures: as an equal one that is recorded, else by its own name.

    That is ``by``-NAME, or NAME alone if ``by`` is "", with a digest behind it where another pipeline has that.
    """
    pipeline, layers = assembly.pipeline, set(_used(assembly)["layers"])
    there = {record.pipeline.name: record for record in recorded(index)}
    for name, record in there.items():
        if replace(record.pipeline, name=pipeline.name) == pipeline and layers <= set(record.layers):
            return name
    name = f"{by}-{pipeline.name}" if by else pipeline.name
    digest = hashlib.sha256("\0".join([pipeline.to_toml(), *sorted(layers)]).encode()).hexdigest()[:6]
    return f"{name}-{digest}" if name in there else name


def folders(assembly: Assembly) -> dict[str, str]:
    """Where the layers of a pipeline lie in an index, by kind, what is searched among them; kept features aside."""
    kinds = [*assembly.kinds, *([SEARCH] if assembly.searcher is not None else [])]
    return {kind: _folder(kind, assembly.part(kind).name, assembly.fingerprint(kind)) for kind in kinds}


def _used(assembly: Assembly) -> dict[str, Any]:
    layers = [*folders(assembly).values()]
    for kind in [FEATURES] * assembly.pipeline.keep_features + [CACHE] * (assembly.searcher is not None):
        layers.append(_folder(kind, assembly.part(kind).name, assembly.fingerprint(kind)))
    for kind in assembly.kinds:
        part = assembly.part(kind)
        if part.fits:
            layers.append(_folder("models", part.name, fingerprint(assembly.model_identity(kind))) + ".h5")
    return {"layers": sorted(set(layers)), "facts": assembly.extractor.facts}


def _write(index: Index, pipeline: Pipeline, used: dict[str, Any]) -> None:
    index.write_text(f"pipelines/{pipeline.name}.json", json.dumps(used, indent=1) + "\n")
    index.write_text(f"pipelines/{pipeline.name}.toml", pipeline.to_toml())


def contents(index: Index) -> str:
    """The sha256 of an index's pictures, in whatever order they were added: what a model fitted on them saw."""
    removed = index.images.removed()
    digests = sorted(record.digest for row, record in index.images.records() if row not in removed)
    return hashlib.sha256(b"".join(digests)).hexdigest()


def _folder(kind: str, name: str, digest: str) -> str:
    return f"{kind}/{name}-{digest[:12]}"


def recorded(index: Index) -> list[Record]:
    """Every recorded pipeline, by name; one that a kill left without its second file is none."""
    files = {p.name for p in (index.path / "pipelines").glob("*")}
    names = sorted(f.removesuffix(".toml") for f in files if f.endswith(".toml"))
    return [_read(index, name) for name in names if f"{name}.json" in files]


def last(index: Index, name: str | None = None) -> Record | None:
    """The pipeline of that name, or the last one that was run to be asked; None if none was.

    Raises UsageError for a name that is not there.
    """
    records = {record.pipeline.name: record for record in recorded(index)}
    if name is not None:
        if name not in records:
            raise UsageError(f"{index.path} has no pipeline '{name}'.{nearest(name, records)}")
        return records[name]
    own = [name for name, record in records.items() if record.by == INDEX]
    named = (index.read_text("pipelines/LAST") or "").strip()
    return records[named if named in own else own[-1]] if own else None


def _read(index: Index, name: str) -> Record:
    where = f"pipelines/{name}.toml"
    pipeline = Pipeline.from_toml(index.read_text(where) or "", str(index.path / where))
    try:
        used = json.loads(index.read_text(f"pipelines/{name}.json") or "{}")
        layers = tuple(str(layer) for layer in used["layers"])
        return Record(pipeline, layers, dict(used["facts"]), str(used.get("by", INDEX)))
    except (json.JSONDecodeError, LookupError, TypeError, ValueError) as error:
        raise InstsearchError(
            f"{index.path / 'pipelines' / name}.json is damaged: run `instsearch index` with this pipeline again"
        ) from error


def forget(index: Index, name: str) -> None:
    """Drop a recorded pipeline; its layers stay until `gc`."""
    for suffix in (".toml", ".json"):
        (index.path / "pipelines" / f"{name}{suffix}").unlink(missing_ok=True)
