"""Whether an index is sound: every byte as it was written, all there that its pipelines use; and what mends it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from instsearch_cli.engine import mirrors, records
from instsearch_cli.engine.stages import CACHE, SEARCH
from instsearch_cli.errors import InstsearchError, printable
from instsearch_formats import FormatError, Problem
from instsearch_formats.images import REPLACING, located, tombstone_name
from instsearch_formats.part import part_name
from instsearch_formats.verify import missing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from instsearch_cli.engine.records import Record, RecordError
    from instsearch_cli.engine.registry import Registry
    from instsearch_cli.progress import Quiet
    from instsearch_formats import Index, LayerInfo

MODELS = "models"
COPY = "put it back from a copy of the index"


def verify(index: Index, progress: Quiet, copies: tuple[Registry, str] | None = None) -> list[Problem]:
    """What is damaged or missing, by path, and for each what mends it; nothing where the index is sound.

    copies: compare those that are kept elsewhere too, with these components and on this device. Raises UsageError
    where no recorded pipeline asks one.
    """
    problems = index.verify(progress)
    try:
        found, damaged = records.read_all(index)
    except FormatError:  # the folder of the pipelines is a link, which is among the problems
        found, damaged = [], {}
    named = {problem.path for problem in problems}
    problems += [p for p in _missing(index, found) if p.path not in named]
    problems += _of_names(index)
    if copies is not None:
        problems += mirrors.differing(index, *copies, found, progress)
    problems = [p._replace(mend=_mend(index, p, found)) if not p.mend else p for p in problems]
    of_records = list(_of_records(index, found, damaged))
    named = {problem.path for problem in of_records}
    return sorted({*(problem for problem in problems if problem.path not in named), *of_records})


def _of_records(
    index: Index, found: Sequence[Record], damaged: Mapping[str, RecordError]
) -> Iterator[Problem]:
    """What is wrong with the records of pipelines, and with which is the last."""
    folder = index.path / "pipelines"
    try:
        index.images.replacing()
    except FormatError as wrong:
        mend = f"delete it, then `{records.again(index, '')}`"
        yield Problem(index.path / REPLACING, str(wrong), mend)
    for name, error in damaged.items():
        mend = f"`{error.forgetting}`, then index with its options again"
        try:
            records.pipeline_beside(index, name)
            mend = f"`{records.again(index, name)}`, or drop it: `{error.forgetting}`"
        except (FormatError, InstsearchError):
            pass
        yield Problem(folder / f"{name}.json", str(error).splitlines()[0], mend)
    for record in found:
        if not record.copied:
            what = f"it is not the text that {record.pipeline.name}.json has"
            mend = f"`instsearch gc --index {records.quoted(index)}` writes it anew"
            yield Problem(folder / f"{record.pipeline.name}.toml", what, mend)
    own = [record.pipeline.name for record in found if record.by == records.INDEX]
    last = records.last_names(index)
    if own and (not last or (gone := [name for name in last if name not in [*own, *damaged]])):
        what = f"it names the pipeline '{gone[0]}', which is not there" if last else "it is missing or empty"
        mend = f"`instsearch index --index {records.quoted(index)}`"
        yield Problem(index.path / records.LAST, f"{what}: '{own[-1]}' is taken for the last one", mend)


def _missing(index: Index, found: Sequence[Record]) -> Iterator[Problem]:
    """The files that recorded pipelines use and that are not there."""
    try:
        ranges, numbers = index.images.ranges(), index.images.tombstones()
    except FormatError:
        return
    total, folder = len(index.images), index.path / "images"
    layers = {layer.path: layer for layer in index.layers()}
    for number in missing(set(numbers), max((r.tombstones for r in found), default=0)):
        yield Problem(
            folder / tombstone_name(number), "it is missing, and the images that it removed are found again"
        )
    for record in found:
        whose, rows = f"pipeline '{record.pipeline.name}'", _rows(record, layers)
        if max(rows.values(), default=0) > total:
            yield Problem(
                folder, f"it has {total:,} of the {max(rows.values()):,} rows that {whose} is made of"
            )
        for path in record.layers:
            kind, have = path.partition("/")[0], layers[path].rows if path in layers else 0
            if kind == MODELS and not (index.path / path).exists():
                yield Problem(index.path / path, f"it is missing, and {whose} uses it")
            elif kind == SEARCH and have < rows.get(path, 0):
                what = f"{have:,} of the {rows[path]:,} rows of {whose} can be searched: a part is missing"
                yield Problem(index.path / path, what)
            elif kind not in (MODELS, SEARCH):
                for span in (span for span in ranges if span.stop <= rows.get(path, 0)):
                    if not (index.path / path / part_name(span)).exists():
                        yield Problem(
                            index.path / path / part_name(span), f"it is missing, and {whose} uses it"
                        )


def _of_names(index: Index) -> Iterator[Problem]:
    """The files that are two images', of those that runs to the end have seen and that are not being replaced."""
    table, paths = index.images, set[bytes]()
    mend = f"`instsearch sync --index {records.quoted(index)}`"
    try:
        run, alive, roots, others = table.replacement(), table.alive(), table.roots, table.others()
        stop = min(len(alive) - records.unrecorded(index), run.since if run.id else len(alive))
        for row, record in table.records(range(stop)):
            if alive[row] and row not in run.rows:
                own = ((record.root, record.name), *others.get(row, ()))
                its = {
                    located(roots, place) for place in own if place[0] < len(roots)
                }  # others are named already
                for path in its & paths:
                    what = f"{printable(os.fsdecode(path))} is the file of two images"
                    yield Problem(index.path / "images", what, mend)
                paths |= its
    except FormatError:  # which is among the problems
        return


def _rows(record: Record, layers: Mapping[str, LayerInfo]) -> dict[str, int]:
    """How many rows each layer of a pipeline should have; older records do not say, and the longest layer counts."""
    if record.sealed:
        return dict(record.rows)
    kinds = [path for path in record.layers if path.partition("/")[0] not in (CACHE, MODELS)]
    longest = max((layers[path].rows for path in kinds if path in layers), default=0)
    return {path: longest for path in kinds if path in layers or path.partition("/")[0] != SEARCH}


def _mend(index: Index, problem: Problem, found: Sequence[Record]) -> str:
    """What mends a file that is damaged or missing, by where it lies."""
    kind, *rest = problem.path.relative_to(index.path).parts
    inside = "/".join((kind, *rest[:1]))
    owner = next((record for record in found if inside in record.layers), None)
    if kind == "images":
        lost = "removed-" in problem.path.name
        return f"{COPY}, or " + (
            "delete what is there of it and remove its images again: `instsearch remove`"
            if lost
            else "build it anew"
        )
    if kind in ("lock", "scratch", CACHE):
        return "delete it"
    if kind == "roots.json":
        return COPY
    if not rest or kind == "pipelines":
        refit = " --refit" if kind == MODELS else ""
        return f"delete it, then `{records.again(index, '')}{refit}`"
    if owner is None:
        return f"no pipeline uses it: delete it, or `instsearch gc --index {records.quoted(index)}`"
    again = records.renewing(index, owner.pipeline.name)
    if kind == MODELS:
        return f"`{again} --refit` makes another, and all that depends on it; or {COPY}"
    return f"`{again}` makes it again" + ("" if "missing" in problem.what else ", once it is deleted")
