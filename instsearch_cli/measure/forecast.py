"""What many images will take, from lines through what was measured at two sizes: arithmetic alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from instsearch_cli.engine.stages import SEARCH

if TYPE_CHECKING:
    from collections.abc import Mapping


class Line(NamedTuple):
    """y(n) = fixed + each n."""

    fixed: float = 0.0
    each: float = 0.0

    def at(self, n: float) -> float:
        """y(n)."""
        return self.fixed + self.each * n

    def __add__(self, other: object) -> Line:
        """The line of the sum."""
        if not isinstance(other, Line):
            return NotImplemented
        return Line(self.fixed + other.fixed, self.each + other.each)


def through(small: tuple[float, float], large: tuple[float, float]) -> Line:
    """The line through two points (n, y), n and y >= 0, that has no negative part.

    each = (y2 - y1) / (n2 - n1),  fixed = y2 - each n2

    Where y falls, it is ``fixed`` at its mean; where ``fixed`` would be negative, the line from 0 to the larger point.
    """
    (n1, y1), (n2, y2) = small, large
    each = (y2 - y1) / (n2 - n1)
    if each <= 0:
        return Line((y1 + y2) / 2, 0.0)
    fixed = y2 - each * n2
    return Line(fixed, each) if fixed >= 0 else Line(0.0, y2 / n2)


@dataclass(frozen=True)
class Making:
    """Seconds of an index run.

    start    of the program, and what else a run takes whatever it does; n images: reading headers, writing tables
    fitting  what is learnt, once
    mapping  what is made of each image, by all cores of this machine
    cpu      the same in seconds of one core; core, of all steps
    search   what is searched
    """

    start: Line
    fitting: float
    mapping: Line
    cpu: Line
    search: Line
    core: Line

    @property
    def line(self) -> Line:
        """Of all, on this machine."""
        return self.start + self.mapping + self.search + Line(self.fitting)

    def shared(self, workers: int, ray: float) -> Line:
        """Of all, where so many workers of one core each make what is made of each image, and Ray starts in ``ray``.

        start + fitting + search + ray + cpu / workers
        """
        mapping = Line(self.cpu.fixed, self.cpu.each / workers)
        return self.start + self.search + mapping + Line(self.fitting + ray)


@dataclass(frozen=True)
class Asking:
    """Seconds of a question to a warm process, and its memory in bytes.

    describe  reading its picture and describing it, the same for any collection
    search    all searches, those of rerankers too: linear in images
    rerank    linear up to ``most`` images, the most that were measured, and the same beyond: rerankers look at so many
              hits and no more
    core      seconds of one core, all stages, up to as many
    memory    what the process needs besides what is searched
    """

    describe: float
    search: Line
    rerank: Line
    core: Line
    memory: Line
    most: int

    def stages(self, n: int) -> dict[str, float]:
        """Seconds of each stage, of n images."""
        rerank = self.rerank.at(min(n, self.most))
        return {"describe": self.describe, SEARCH: self.search.at(n), "rerank": rerank}

    def at(self, n: int) -> float:
        """Seconds of all."""
        return sum(self.stages(n).values())


class Mirror(NamedTuple):
    """The codes as rows of a mirror: so many of an image, of so many bytes each; seconds a question, None: unknown."""

    codes: float
    bytes_a_code: float
    kind: str
    query: Asking | None = None


@dataclass(frozen=True)
class Estimate:
    """What an index of ``images`` photographs takes, from what was measured on this machine.

    pipeline  its name
    sample    the photographs that were measured, by name; ``sizes`` how many in each run
    among     sizes of the indexes that questions were asked to
    cores     of this machine; ``load``, how many others were busy
    making, asking  seconds, bytes of memory
    layers    bytes on disk of each, and of the image table and models as "others"
    searched  the layers that are searched, by name: mapped into memory, from which they may be dropped
    mirror    the codes as rows of a server
    workers   of Ray; ``ray``, seconds that it takes to start, None: not measured
    notes     what one should know of the figures
    """

    images: int
    pipeline: str
    sample: str
    sizes: tuple[int, int]
    among: tuple[int, int]
    cores: int
    load: float
    making: Making
    asking: Asking
    layers: Mapping[str, Line]
    searched: tuple[str, ...]
    mirror: Mirror
    workers: int | None = None
    ray: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def disk(self) -> Line:
        """Bytes of all layers."""
        return sum(self.layers.values(), Line())

    @property
    def mapped(self) -> Line:
        """Bytes of what is searched."""
        return sum((self.layers[name] for name in self.searched), Line())

    @property
    def shared(self) -> Line | None:
        """Seconds of an index run with the workers; None without."""
        return self.making.shared(self.workers, self.ray or 0.0) if self.workers else None

    def plain(self) -> dict[str, Any]:
        """JSON-ready."""
        n = self.images

        def line(of: Line, unit: str) -> dict[str, float]:
            return {"fixed": of.fixed, "an_image": of.each, unit: of.at(n)}

        def run(of: Line) -> dict[str, float]:
            return {**line(of, "seconds"), "images_a_second": n / max(of.at(n), 1e-9)}

        asking, mirror = self.asking, self.mirror
        return {
            "images": n,
            "pipeline": self.pipeline,
            "measured": {
                "sample": self.sample,
                "indexed": list(self.sizes),
                "asked": list(self.among),
                "cores": self.cores,
                "load": self.load,
            },
            "machine": {
                **run(self.making.line),
                "fitting": self.making.fitting,
                "core_seconds": self.making.core.at(n),
            },
            "workers": None
            if self.shared is None
            else {"workers": self.workers, "ray_start": self.ray, **run(self.shared)},
            "on_disk": {
                **line(self.disk, "bytes"),
                "layers": {name: line(of, "bytes") for name, of in self.layers.items()},
            },
            "query": {
                "seconds": asking.at(n),
                "stages": asking.stages(n),
                "search_an_image": asking.search.each,
            },
            "memory": {**line(asking.memory, "bytes"), "mapped": self.mapped.at(n)},
            "mirror": {
                "codes_an_image": mirror.codes,
                "bytes_a_code": mirror.bytes_a_code,
                "encoding": mirror.kind,
                "rows": mirror.codes * n,
                "bytes": mirror.codes * mirror.bytes_a_code * n,
                "query_seconds": mirror.query.at(n) if mirror.query else None,
            },
            "notes": list(self.notes),
        }
