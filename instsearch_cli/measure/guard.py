"""What keeps measuring from changing what `query` answers: nothing is finished, and nothing taken out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from instsearch_cli.engine import records
from instsearch_cli.engine.collection import Collection
from instsearch_cli.engine.runner import Runner
from instsearch_cli.engine.stages import CODES, SEARCH
from instsearch_cli.errors import InstsearchError

if TYPE_CHECKING:
    from instsearch_cli.engine.assembly import Assembly
    from instsearch_cli.engine.records import Record
    from instsearch_formats import Index


class Careful(Runner):
    """Takes no picture out of an index that can be asked: one that no longer decodes is the end of measuring."""

    def _bad(self, row: int, reason: str) -> None:
        if not answering(self.index):
            super()._bad(row, reason)
            return
        raise InstsearchError(
            f"{self.index.images.path(row)} no longer decodes: {reason}\n"
            "Measuring takes out none that `query` finds: put the file back, or `instsearch remove` it."
        )


def answering(index: Index) -> list[Record]:
    """The pipelines that `query` asks: indexed, not only measured."""
    return [r for r in records.recorded(index) if r.searchable and r.by == records.INDEX]


def check_whole(index: Index, assembly: Assembly) -> None:
    """Raise InstsearchError where measuring would finish what an interrupted run left of a pipeline that is asked.

    It would find more then, for codes and search structures are shared by all pipelines that make them alike.
    """
    data, last = Collection(index, assembly), records.last(index)
    mine = {kind: folder for kind, folder in records.folders(assembly).items() if kind in (CODES, SEARCH)}
    for record in sorted(
        answering(index), key=lambda r: r != last
    ):  # the last first: it is finished most easily
        missing = max((_missing(data, kind) for kind in mine if mine[kind] in record.layers), default=0)
        if missing:
            name = record.pipeline.name
            again = f"instsearch index --index {index.path}"
            if record != last:
                again = f"instsearch add IMAGES --index {index.path} --pipeline {name}"
            raise InstsearchError(
                f"{missing:,} images of {index.path} are not searchable yet with pipeline '{name}', and would be "
                f"after measuring.\nRun `{again}` first."
            )


def _missing(data: Collection, kind: str) -> int:
    """How many rows a layer lacks."""
    layer, table = data.layer(kind), data.index.images
    if kind != SEARCH:
        return sum(len(span) for span in table.ranges() if not layer.has(span))
    if not data.assembly.part(kind).fits:
        return 0
    cover = layer.cover(len(table))
    return len(table) - (cover[-1].stop if cover else 0)
