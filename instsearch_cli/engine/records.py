"""What an index remembers of its runs: each pipeline under its name, and which one came last."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from instsearch_cli.engine.pipeline import Pipeline
from instsearch_cli.engine.stages import CACHE, FEATURES, SEARCH
from instsearch_cli.errors import InstsearchError, nearest
from instsearch_formats import fingerprint

if TYPE_CHECKING:
    from instsearch_cli.engine.assembly import Assembly
    from instsearch_formats import Index


@dataclass(frozen=True)
class Record:
    """A pipeline that was run, and the layers and models it uses: paths relative to the index."""

    pipeline: Pipeline
    layers: tuple[str, ...]
    facts: dict[str, Any]  #: what the extractor depended on beside its options: sha256 of weights

    @property
    def searchable(self) -> bool:
        """Whether it was indexed, not only extracted."""
        return self.pipeline.encoder is not None


def record(index: Index, assembly: Assembly) -> None:
    """Remember a pipeline under its name and as the last one."""
    pipeline = assembly.pipeline
    layers = []
    for kind in ([FEATURES] if pipeline.keep_features else []) + assembly.kinds:
        part = assembly.part(kind)
        layers.append(_folder(kind, part.name, assembly.fingerprint(kind)))
        if part.fits and kind in assembly.kinds:
            layers.append(_folder("models", part.name, fingerprint(assembly.model_identity(kind))) + ".h5")
    if assembly.searcher is not None:
        name = assembly.searcher.name
        layers += [_folder(kind, name, assembly.fingerprint(kind)) for kind in (SEARCH, CACHE)]
    used = {"layers": sorted(set(layers)), "facts": assembly.extractor.facts}
    index.write_text(f"pipelines/{pipeline.name}.json", json.dumps(used, indent=1) + "\n")
    index.write_text(f"pipelines/{pipeline.name}.toml", pipeline.to_toml())
    index.write_text("pipelines/LAST", pipeline.name + "\n")


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
    """The pipeline of that name, or the last one that was run; None if none was.

    Raises InstsearchError for a name that is not there.
    """
    names = [r.pipeline.name for r in recorded(index)]
    if name is None:
        if not names:
            return None
        name = (index.read_text("pipelines/LAST") or names[-1]).strip()
    if name not in names:
        raise InstsearchError(f"{index.path} has no pipeline '{name}'.{nearest(name, names)}")
    return _read(index, name)


def _read(index: Index, name: str) -> Record:
    where = f"pipelines/{name}.toml"
    pipeline = Pipeline.from_toml(index.read_text(where) or "", str(index.path / where))
    try:
        used = json.loads(index.read_text(f"pipelines/{name}.json") or "{}")
        return Record(pipeline, tuple(str(layer) for layer in used["layers"]), dict(used["facts"]))
    except (json.JSONDecodeError, LookupError, TypeError, ValueError) as error:
        raise InstsearchError(
            f"{index.path / 'pipelines' / name}.json is damaged: run `instsearch index` with this pipeline again"
        ) from error


def forget(index: Index, name: str) -> None:
    """Drop a recorded pipeline; its layers stay until `gc`."""
    for suffix in (".toml", ".json"):
        (index.path / "pipelines" / f"{name}{suffix}").unlink(missing_ok=True)
