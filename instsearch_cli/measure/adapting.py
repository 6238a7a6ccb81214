"""A pipeline adapted to its collection by matching pairs, and what that is worth on pairs that were held out."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from instsearch_cli.data import Query
from instsearch_cli.engine.assembly import Assembly, pick_device
from instsearch_cli.engine.choosing import as_path, recorded_pipeline
from instsearch_cli.engine.looking import check_open
from instsearch_cli.engine.opened import format_errors
from instsearch_cli.engine.query import Engine
from instsearch_cli.engine.registry import load_registry
from instsearch_cli.engine.stages import CODES
from instsearch_cli.errors import InstsearchError, UsageError, printable
from instsearch_cli.measure.pairs import as_csv
from instsearch_cli.outside.files import write_text
from instsearch_cli.outside.text import csv_pairs

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from instsearch_cli.engine.choosing import Anywhere
    from instsearch_cli.engine.making import Indexed
    from instsearch_cli.engine.registry import Registry
    from instsearch_cli.engine.session import Index
    from instsearch_cli.progress import Quiet

MOST = 256 << 20  #: bytes of a file of pairs
DEEP = 1000  #: hits among which the other image of a pair is looked for
NOTHING: Any = None  #: what stored codes are asked without


@dataclass(frozen=True)
class Found:
    """How far up the images of held-out pairs find each other: by the first hit, within ten, and mean 1 / rank."""

    first: float
    within_ten: float
    reciprocal_rank: float


@dataclass(frozen=True)
class Adapted:
    """What came of it: pairs = learnt + held_out. ``before`` and ``after`` are None where none was held out."""

    pipeline: str
    of: str
    pairs: int
    learnt: int
    held_out: int
    before: Found | None
    after: Found | None
    wrote: str
    indexed: Indexed

    def plain(self) -> dict[str, Any]:
        """JSON-ready."""
        before, after = (part and asdict(part) for part in (self.before, self.after))
        own = {
            name: value for name, value in vars(self).items() if name not in ("indexed", "before", "after")
        }
        return {**own, "before": before, "after": after, "indexed": self.indexed.plain()}


def adapt(
    index: Index,
    pairs: Anywhere,
    *,
    pipeline: str | None = None,
    held_out: float = 0.2,
    seed: int = 0,
    name: str | None = None,
) -> Adapted:
    """Learn a recorded pipeline's encoder anew from pairs of matching images, as another pipeline, and measure both.

    pairs     CSV file, two names of images a line, as :func:`instsearch.pairs` writes it
    held_out  share of the pairs that is measured by and not learnt from; no image of theirs is in the others
    name      of the new pipeline; None: the old one's with "-adapted" behind it

    What was learnt from is written beside the file. Raises InstsearchError where the encoder learns from no pairs, and
    for a file that names images which are not in the index.
    """
    if not 0 <= held_out < 1:
        raise UsageError("held_out is from 0 to below 1")
    check_open(index)
    file, registry = as_path(pairs, "pairs"), load_registry()
    with format_errors():
        base = recorded_pipeline(index.store, pipeline)
        option = _option(registry, base.encoder.name if base.encoder else "")
        names = csv_pairs(file, MOST)
        rows = _rows(index, file, names)
        out = held(rows, held_out, seed)
        learnt = [pair for pair, away in zip(names, out, strict=True) if not away]
        text = as_csv(learnt)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        wrote = file.with_name(f"{file.stem}-learnt-{digest}.csv").absolute()
        write_text(wrote, text)
    before = _found(index, base.name, rows[out], index.progress)
    chosen = [f"encoder.{option}={wrote}"]
    indexed = index.index(pipeline=base.name, options=chosen, name=name or f"{base.name}-adapted")
    new = indexed.pipeline.name
    after = _found(index, new, rows[out], index.progress)
    n = int(out.sum())
    return Adapted(new, base.name, len(rows), len(rows) - n, n, before, after, str(wrote), indexed)


def held(rows: np.ndarray, share: float, seed: int = 0) -> np.ndarray:
    """Which pairs i64[n, 2] are held out: bool[n], whole groups of images that hang together, by chance.

    Groups of more than twice the share stay, so that it may be less than the share, and nothing at all.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = int(rows.max()) + 1
    graph = coo_array((np.ones(len(rows)), (rows[:, 0], rows[:, 1])), shape=(n, n))
    group = connected_components(graph, directed=False)[1][rows[:, 0]]
    sizes = np.bincount(group)
    wanted, out = share * len(rows), np.zeros(len(rows), bool)
    for each in np.random.default_rng(seed).permutation(np.unique(group)):
        if out.sum() >= wanted:
            break
        if sizes[each] <= 2 * wanted and out.sum() + sizes[each] < len(rows):
            out |= group == each
    return out


def ranks(engine: Engine, rows: np.ndarray, progress: Quiet) -> np.ndarray:
    """For each pair i64[n, 2], both ways, the rank from 1 at which one image's code finds the other: f64[2 n], inf."""
    found = []
    progress.start("asking held-out pairs", 2 * len(rows))
    for a, b in [*rows.tolist(), *rows[:, ::-1].tolist()]:
        codes = engine.data.read(CODES, a)
        query = Query("", NOTHING, None, NOTHING, NOTHING, codes, frozenset({a}))
        hits = engine.search([query], DEEP)
        at = np.flatnonzero(hits.images[0] == b)
        found.append(float(at[0] + 1) if len(at) else np.inf)
        progress.advance()
    progress.close()
    return np.array(found)


def _found(index: Index, name: str, rows: np.ndarray, progress: Quiet) -> Found | None:
    if not len(rows):
        return None
    pipeline = replace(recorded_pipeline(index.store, name), rerank=())
    engine = Engine(index.store, Assembly(pipeline, load_registry(), pick_device(index.device)))
    rank = ranks(engine, rows, progress)
    return Found(float((rank <= 1).mean()), float((rank <= 10).mean()), float((1 / rank).mean()))


def _option(registry: Registry, encoder: str) -> str:
    """The option by which an encoder learns from pairs. Raises InstsearchError where it has none."""
    options = {name: str(offer.load().pairs) for name, offer in registry.offers["encoder"].items()}
    if options.get(encoder):
        return options[encoder]
    raise InstsearchError(
        f"encoder '{encoder}' learns nothing from pairs; these do: {', '.join(sorted(filter(options.get, options)))}.\n"
        "Index with one of them first, or name its pipeline (--pipeline)."
    )


def _rows(index: Index, file: Path, names: Sequence[tuple[str, str]]) -> np.ndarray:
    """The rows of pairs of names: i64[n, 2]."""
    table = index.store.images
    alive = np.flatnonzero(table.alive()).tolist()
    row = {table.name(i): i for i in alive}
    unknown = [name for pair in names for name in pair if name not in row]
    if unknown:
        raise InstsearchError(
            f"{file} names {len(set(unknown)):,} images that are not in the index, {printable(unknown[0])} the first: "
            "an image is named as `instsearch pairs` names it"
        )
    return np.array([[row[name] for name in pair] for pair in names], np.int64)
