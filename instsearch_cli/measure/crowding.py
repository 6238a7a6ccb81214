"""An index of many images made from one of few by repeating their rows: nothing is described again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from instsearch_cli.engine.runner import Runner

if TYPE_CHECKING:
    from collections.abc import Sequence

    from instsearch_cli.engine.session import Index
    from instsearch_cli.progress import Quiet

RANGE = 256  #: rows given out at once


def crowd(index: Index, names: Sequence[str], m: int, n: int, progress: Quiet) -> None:
    """Repeat the first m rows of an index until it has ``n``: row i is a copy of row i mod m.

    Every layer of the pipelines ``names`` has the copies, and what is searched is built of all. Rows that were removed
    are repeated as what they are in the layers, nothing.
    """
    engines = [engine for name in names for engine in index.engines(name)]
    table = index.store.images
    records = [record for _, record in table.records(range(m))]
    with index.store.lock():
        progress.start("repeating images", n - len(table))
        while len(table) < n:
            rows = [(len(table) + i) % m for i in range(min(RANGE, n - len(table)))]
            span = table.append([records[row] for row in rows])
            parts = {layer.path: layer for e in engines for layer in map(e.data.layer, e.assembly.kinds)}
            for layer in parts.values():
                with layer.writer(span) as writer:
                    for row in rows:
                        writer.append(layer.read(row))
            progress.advance(len(rows))
        progress.close()
        for engine in engines:
            Runner(index.store, engine.assembly, progress).index_all()
