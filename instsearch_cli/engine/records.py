"""What an index remembers of its runs: each pipeline under its name, and which one came last."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shlex
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from instsearch_cli.engine.pipeline import SEPARATOR, Pipeline, as_name
from instsearch_cli.engine.stages import CACHE, FEATURES, SEARCH
from instsearch_cli.errors import InstsearchError, UsageError, nearest
from instsearch_formats import FormatError, fingerprint

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from instsearch_cli.engine.assembly import Assembly
    from instsearch_formats import Index


INDEX = "index"
LAST = "pipelines/LAST"
MOST = 10**10  #: rows that there can be
FORGOTTEN = ".forgotten"


@dataclass(frozen=True)
class Record:
    """A pipeline that was run, and the layers and models it uses: paths relative to the index."""

    pipeline: Pipeline
    layers: tuple[str, ...]
    facts: dict[str, Any]  #: what the extractor depended on beside its options: sha256 of weights
    by: str = INDEX  #: the verb that ran it; one that measures leaves what is asked as it was
    rows: Mapping[str, int] = field(
        default_factory=dict
    )  #: how many rows each layer had when it was recorded
    tombstones: int = 0  #: how many there were then
    sealed: bool = True  #: it has a checksum; those of older versions have none
    copied: bool = True  #: the .toml beside the record has the pipeline as the record has it

    @property
    def searchable(self) -> bool:
        """Whether it was indexed, not only extracted."""
        return self.pipeline.encoder is not None


class RecordError(InstsearchError):
    """A record that cannot be read; the message says what drops it and what makes it again.

    half: there is no record of what pipeline this was
    """

    def __init__(self, index: Index, name: str, what: str, half: bool = False) -> None:
        self.half = half
        self.forgetting = f"instsearch gc --forget {shlex.quote(name)} --index {quoted(index)}"
        super().__init__(
            f"pipeline '{name}' in {index.path} is damaged: {what}.\n"
            f"Index with its options again, or drop it with `{self.forgetting}`."
        )


def quoted(index: Index) -> str:
    """An index's folder as the command line takes it."""
    return shlex.quote(str(index.path))


def again(index: Index, name: str = "") -> str:
    """The command that runs a recorded pipeline again, the last one if it is ""."""
    return again_in(index.path, name)


def again_in(folder: Path, name: str) -> str:
    """The same, by the index's folder."""
    command = f"instsearch index --index {shlex.quote(str(folder))}"
    return (
        f"{command} --preset {shlex.quote(str(folder / 'pipelines' / f'{name}.toml'))}" if name else command
    )


def renewing(index: Index, name: str) -> str:
    """The command that brings a recorded pipeline up to date: `index`, which takes the last one where none is named."""
    return again(index, "" if name in last_names(index) else name)


def record(index: Index, assembly: Assembly, together: str = "") -> None:
    """Remember a pipeline under its name and as the last one, or, if it is one of several, these as the last."""
    _write(index, assembly.pipeline, _used(assembly))
    index.write_text(LAST, (together or assembly.pipeline.name) + "\n")


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
    """The record is one file, so that a kill leaves the old one or the new one; the .toml beside it is a copy."""
    rows = {layer.path: layer.rows for layer in index.layers() if layer.path in used["layers"]}
    used |= {"rows": rows, "tombstones": len(index.images.tombstones()), "pipeline": pipeline.to_toml()}
    text = json.dumps({**used, "sha256": _checksum(used)}, indent=1)
    index.write_text(f"pipelines/{pipeline.name}.json", text + "\n")
    index.write_text(f"pipelines/{pipeline.name}.toml", pipeline.to_toml())


def _checksum(used: Mapping[str, Any]) -> str:
    """The sha256 of a record's canonical JSON, but for its checksum."""
    return fingerprint(used)


def contents(index: Index) -> str:
    """The sha256 of an index's pictures, in whatever order they were added: what a model fitted on them saw."""
    removed = index.images.removed()
    digests = sorted(record.digest for row, record in index.images.records() if row not in removed)
    return hashlib.sha256(b"".join(digests)).hexdigest()


def _folder(kind: str, name: str, digest: str) -> str:
    return f"{kind}/{name}-{digest[:12]}"


def recorded(index: Index) -> list[Record]:
    """Every recorded pipeline that can be read, by name."""
    return read_all(index)[0]


def read_all(index: Index) -> tuple[list[Record], dict[str, RecordError]]:
    """Every recorded pipeline, by name, and what is wrong with those that cannot be read.

    One of which a kill left half is none.
    """
    files = index.texts("pipelines")
    names = sorted({file.rpartition(".")[0] for file in files if file.endswith((".toml", ".json"))})
    found, damaged = [], {}
    for name in names:
        try:
            if (record := _read(index, name)) is not None:
                found.append(record)
        except RecordError as error:
            damaged[name] = error
    return found, damaged


def last(index: Index, name: str | None = None) -> Record | None:
    """The pipeline of that name, or the last one that was run to be asked; None if none was.

    Where the last one is damaged it is another one that can be read (:func:`stand_in` says so). Raises UsageError for
    a name that is not there, RecordError where that, or all there is, cannot be read.
    """
    named = _last_run(index) if name is None else _readable(index, [as_name(name)])
    if named:
        return named[-1]
    found, damaged = read_all(index)
    if name is not None:
        if name in damaged:
            raise damaged[name]
        there = [record.pipeline.name for record in found]
        raise UsageError(f"{index.path} has no pipeline '{name}'.{nearest(name, there)}")
    own = [record for record in found if record.by == INDEX]
    whole = [error for error in damaged.values() if not error.half]
    if not own and whole:
        raise next((damaged[each] for each in last_names(index) if each in damaged), whole[0])
    return own[-1] if own else None


def together(index: Index) -> list[Record]:
    """The pipelines that are asked where none is named: the last one, or several that were made to be asked as one.

    Raises RecordError where none that there is can be read.
    """
    several = _last_run(index)
    if not several and (one := last(index)) is not None:
        return [one]
    return several


def unrecorded(index: Index) -> int:
    """How many rows there are that no run to the end has seen, as after a kill; all, where older versions made it."""
    seen = [max(record.rows.values(), default=0) for record in recorded(index) if record.by == INDEX]
    return len(index.images) - max(seen, default=0)


def awaited(index: Index, replaced: Mapping[int, int], name: str) -> bool:
    """Whether a pipeline besides ``name`` answers with one of these rows, and has not the one that replaces it."""
    others = [each for each in recorded(index) if each.by == INDEX and each.searchable]
    seen = [max(each.rows.values(), default=0) for each in others if each.pipeline.name != name]
    return any(old < rows <= new for rows in seen for old, new in replaced.items())


def last_names(index: Index) -> list[str]:
    """The names in LAST; none where it is not there or cannot be read."""
    try:
        text = (index.read_text(LAST) or "").strip()
    except FormatError:
        return []
    return text.split(SEPARATOR) if text else []


def _number(value: Any) -> int:
    """A number of rows or of files. Raises ValueError for what there cannot be."""
    if type(value) is not int or not 0 <= value <= MOST:
        raise ValueError(f"{str(value)[:40]} is no number of rows")
    return value


def lost(index: Index, name: str) -> str:
    """That notes of removed images are missing which there were when a pipeline was recorded; "" if none is."""
    if (record := last(index, name)) is None:
        return ""
    missing = record.tombstones - sum(number < record.tombstones for number in index.images.tombstones())
    return (
        f"{missing:,} notes of removed images are missing, which may be found again: run `instsearch verify`"
        * (missing > 0)
    )


def stand_in(index: Index) -> str:
    """Where the last pipeline is damaged and another one is taken for it, that this is so; else ""."""
    try:
        for name in last_names(index):
            _read(index, name)
    except RecordError as error:
        if (record := last(index)) is not None:
            return f"{' '.join(str(error).split())} Pipeline '{record.pipeline.name}' is taken for it."
    return ""


def _last_run(index: Index) -> list[Record]:
    """Those of the pipelines that were run last, to be asked, that can be read."""
    return [record for record in _readable(index, last_names(index)) if record.by == INDEX]


def _readable(index: Index, names: Sequence[str]) -> list[Record]:
    """The pipelines of some names, but for those that are not there, or cannot be read."""
    files, found = index.texts("pipelines"), []
    for name in names:
        with contextlib.suppress(RecordError):
            if f"{name}.json" in files and (record := _read(index, name)) is not None:
                found.append(record)
    return found


def _read(index: Index, name: str) -> Record | None:
    """A record; None for one of which an older version left half. Raises RecordError."""
    stem = f"pipelines/{name}"
    try:
        text, beside, wrong = index.read_text(f"{stem}.json"), None, ""
        try:
            beside = index.read_text(f"{stem}.toml")
        except FormatError as error:
            wrong = str(error)
        if text is None:
            raise RecordError(index, name, f"{stem}.json is not there", half=True)
        used = json.loads(text)
        seal = used.pop("sha256", None)
        if seal is None and beside is None and not wrong:
            return None
        sealed = seal is not None or "pipeline" in used
        if sealed and seal != _checksum(used):
            raise RecordError(index, name, f"{stem}.json is not what was written")
        if wrong and not sealed:
            raise RecordError(index, name, wrong)
        pipeline = Pipeline.from_toml(used.get("pipeline", beside) or "", str(index.path / f"{stem}.toml"))
        if pipeline.name != name:
            raise RecordError(index, name, f"{stem} names itself '{pipeline.name}': it was renamed")
        return Record(
            pipeline,
            tuple(str(layer) for layer in used["layers"]),
            dict(used["facts"]),
            str(used.get("by", INDEX)),
            {str(layer): _number(n) for layer, n in used.get("rows", {}).items()},
            _number(used.get("tombstones", 0)),
            sealed,
            not sealed or beside == used["pipeline"],
        )
    except (
        FormatError,
        UsageError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise RecordError(
            index, name, f"{stem} cannot be read: {' '.join(str(error).split())[:300]}"
        ) from error


def pipeline_beside(index: Index, name: str) -> Pipeline:
    """The pipeline in the text beside a damaged record. Raises RecordError, FormatError or UsageError."""
    try:
        text = index.read_text(f"pipelines/{name}.toml")
        pipeline = Pipeline.from_toml(text or "", name)
    except (ValueError, RecursionError) as error:
        raise RecordError(index, name, str(error)) from error
    if pipeline.name != name:
        raise RecordError(index, name, f"its text names '{pipeline.name}'")
    return pipeline


def mend(index: Index) -> None:
    """Write the text of every pipeline anew that is not as its record has it."""
    for record in recorded(index):
        if not record.copied:
            index.write_text(f"pipelines/{record.pipeline.name}.toml", record.pipeline.to_toml())


def forget(index: Index, name: str) -> None:
    """Drop a recorded pipeline, damaged or not; its layers stay until `gc`. Another one is the last one then.

    That it was is known until :func:`collected`, so that a `gc` that was killed may be repeated.
    """
    index.write_text(f"pipelines/{name}{FORGOTTEN}", "")
    if name in (names := last_names(index)):
        own = [r.pipeline.name for r in recorded(index) if r.by == INDEX and r.pipeline.name != name]
        left = [each for each in names if each in own] or own[-1:]
        if left:
            index.write_text(LAST, SEPARATOR.join(left) + "\n")
        else:
            index.remove_text(LAST)
    for suffix in (".toml", ".json"):  # without the second it is none
        index.remove_text(f"pipelines/{name}{suffix}")


def forgotten(index: Index) -> list[str]:
    """The pipelines that were forgotten, and whose layers may still be there."""
    return [file.removesuffix(FORGOTTEN) for file in index.texts("pipelines") if file.endswith(FORGOTTEN)]


def collected(index: Index) -> None:
    """What no pipeline uses is gone, that of the forgotten ones too."""
    for name in forgotten(index):
        index.remove_text(f"pipelines/{name}{FORGOTTEN}")
