"""The indexes that are served: opened when first needed, and again where another took an index's place."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from instsearch_cli.engine.kept import Kept
from instsearch_cli.engine.listing import plugins, presets
from instsearch_cli.engine.names import Names
from instsearch_cli.engine.opened import identity
from instsearch_cli.engine.pipeline import SEPARATOR
from instsearch_cli.engine.registry import load_registry
from instsearch_cli.engine.session import Index
from instsearch_cli.errors import InstsearchError
from instsearch_cli.images import Photograph
from instsearch_cli.serve.problems import Problem
from instsearch_cli.specs import RerankerSpec
from instsearch_formats import FormatError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from instsearch_cli.engine.pipeline import Pipeline
    from instsearch_formats import ImageRecord

PHOTOGRAPHS = 64  #: of indexes, kept since they were asked with: what was made of them is kept with them
RERANK = RerankerSpec.kind


@dataclass(frozen=True)
class Image:
    """An image of an index: its row, what it is called, where it lies."""

    row: int
    name: str
    path: Path
    size: tuple[int, int]

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return {"row": self.row, "name": self.name, "size": list(self.size)}

    def check(self) -> os.stat_result:
        """Its file as it is. Raises Problem where that is gone."""
        try:
            return self.path.stat()
        except OSError as error:
            raise Problem(410, f"{self.name}: {error.strerror or error}") from error


class Served:
    """One index, by its position among those that are served."""

    def __init__(self, id: int, path: Path, device: str) -> None:
        self.id, self.path, self.name, self._device = id, path, path.name or str(path), device
        self._lock = threading.RLock()
        self._index: Index | None = None
        self._identity: tuple[int, ...] | None = None
        self._list: tuple[Any, list[tuple[int, str, ImageRecord]]] | None = None

    def index(self) -> Index:
        """The index, warm. Raises Problem where it is gone."""
        with self._lock:
            now = identity(self.path)
            if now is None or now != self._identity:
                if self._index is not None:
                    self._index.close()
                self._index, self._identity, self._list = None, None, None
                if now is None:
                    raise Problem(410, f"the index {self.path} is not there any more")
                try:
                    self._index = Index.open(self.path, self._device)
                except (InstsearchError, FormatError) as error:
                    raise Problem(422, str(error)) from error
                self._identity = now
            assert self._index is not None
            return self._index

    def close(self) -> None:
        """Let go of it."""
        if self._index is not None:
            self._index.close()

    def images(self) -> list[tuple[int, str, ImageRecord]]:
        """Row, name and record of every image, by name; listed once for each state of the index."""
        with self._lock:
            store = self.index().store
            state = (store.images.roots, store.images.state)
            if self._list is None or self._list[0] != state:
                names = Names(store)
                listed = [(row, names.of(record), record) for row, record in names.live()]
                self._list = (state, sorted(listed, key=lambda each: each[1]))
            return self._list[1]

    def image(self, row: int) -> Image:
        """The image of a row. Raises Problem where there is none."""
        table = self.index().store.images
        alive = table.alive()
        if not 0 <= row < len(alive) or not alive[row]:
            raise Problem(404, f"there is no image {row} in {self.name} any more")
        record = table.record(row)
        return Image(row, os.fsdecode(record.name), table.path(row), (record.width, record.height))

    def row_of(self, path: Path) -> int | None:
        """The row of the image that lies there; None: there is none."""
        try:
            return Names(self.index().store).find(path)[0]
        except (Problem, InstsearchError, FormatError):
            return None

    def plain(self) -> dict[str, Any]:
        """What it is, as JSON: how many images, which pipelines, and what is wrong with it, in words."""
        table: dict[str, Any] = {"id": self.id, "name": self.name, "path": str(self.path)}
        table |= {"images": 0, "pipelines": [], "last": None, "problem": ""}
        try:
            index = self.index()
            pipelines = {name: p for name, p in index.pipelines.items() if p.encoder is not None}
            about = presets()
            plain = [_plain(pipeline, about.get(name, "")) for name, pipeline in pipelines.items()]
            table |= {"images": len(index), "pipelines": plain}
            if index.last and SEPARATOR in index.last:
                plain.append(_of_several(index.last))
            names = [each["name"] for each in plain]
            table["last"] = index.last if index.last in names else next(iter(names), None)
            if not pipelines:
                table["problem"] = (
                    f"nothing can be searched here yet: run `instsearch index --index {self.path}`"
                )
        except (Problem, InstsearchError, FormatError) as error:
            table["problem"] = str(error)
        return table


def _plain(pipeline: Pipeline, about: str) -> dict[str, Any]:
    """What a pipeline is for, and what its scores are; none of its networks is loaded for that."""
    names = [stage.name for stage in pipeline.rerank]
    offers = [load_registry().offers[RERANK].get(name) for name in names]
    return {
        "name": pipeline.name,
        "about": about,
        "rerankers": names,
        "probability": bool(offers) and offers[-1] is not None and offers[-1].load().probabilities,
        "per_image": all(offer is not None and offer.load().several for offer in offers),
        "refine": bool(pipeline.refine),
    }


def _of_several(name: str) -> dict[str, Any]:
    """Likewise, of pipelines that are asked as one."""
    about = "what each of them finds, together"
    return {
        "name": name,
        "about": about,
        "rerankers": [],
        "probability": False,
        "per_image": False,
        "refine": False,
    }


class Shelf:
    """All that are served, and the photographs of theirs that were asked with."""

    def __init__(self, paths: Sequence[Path], device: str = "auto") -> None:
        self.served = [Served(i, path, device) for i, path in enumerate(paths)]
        self._photographs: Kept[Any, Photograph] = Kept(PHOTOGRAPHS)

    def __getitem__(self, id: int) -> Served:
        if not 0 <= id < len(self.served):
            raise Problem(404, f"there is no index {id} here, of {len(self.served)}")
        return self.served[id]

    def close(self) -> None:
        """Let go of all."""
        for each in self.served:
            each.close()

    def photograph(self, id: int, row: int) -> Photograph:
        """An image to ask with; the same one again as long as its file is the same."""
        image = self[id].image(row)
        there = image.check()
        key = (image.path, there.st_mtime_ns, there.st_ctime_ns, there.st_size)
        photograph = self._photographs.get(key)
        if photograph is None:
            photograph = Photograph(image.path)
            self._photographs.put(key, photograph)
        return photograph


def rerankers() -> list[dict[str, str]]:
    """Those on offer, and what each is for."""
    return [{"name": row["name"], "about": row["summary"]} for row in plugins() if row["kind"] == RERANK]
