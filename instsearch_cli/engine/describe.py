"""What the stages make of pictures: the one way in which a layer's item comes about."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Protocol

from instsearch_cli.components import Weighter, own
from instsearch_cli.data import BoxWeight, Inputs, Regions
from instsearch_cli.engine.stages import CODES, FEATURES, GRID, IMAGE, LOCAL, REGIONS, TABLE, WEIGHTS
from instsearch_cli.engine.tensors import inference
from instsearch_cli.errors import InstsearchError
from instsearch_cli.storage import from_item, grid_of, to_item

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from instsearch_cli.data import Box, Codes, Drawing, Features, Grid, Image, Local, WeightMap
    from instsearch_cli.engine.assembly import Assembly, Part
    from instsearch_cli.storage import Item


class Source(Protocol):
    """Where a picture is, and what is stored of it."""

    name: str
    row: int  #: of the image table; -1: it is none of the collection's

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the upright original."""
        ...

    def image(self) -> Image: ...

    def has(self, kind: str) -> bool: ...

    def item(self, kind: str) -> Any:
        """A layer's item, which is stored."""
        ...

    def head(self, kind: str) -> Any:
        """What an item has without its values."""
        ...


class Picture:
    """A picture of which nothing is stored; None: it is not at hand, and nothing can be made of its pixels."""

    row = -1

    def __init__(self, image: Image | None, name: str = "", size: tuple[int, int] = (0, 0)) -> None:
        self._image = image
        self.name, self.size = (name, size) if image is None else (name or image.name, image.size)

    def image(self) -> Image:
        if self._image is None:
            raise InstsearchError(f"{self.name} was not read")
        return self._image

    def has(self, kind: str) -> bool:
        return False

    def item(self, kind: str) -> Any:
        raise InstsearchError(f"{self.name} is in no index")

    head = item


class Described:
    """The layers of one picture, by kind: each made when it is first asked for, and as storage gives it back.

    items  of the layers that were made here, what is to be written
    """

    def __init__(self, assembly: Assembly, source: Source) -> None:
        self.assembly, self.source = assembly, source
        self.items: dict[str, Item] = {}
        self._registry: dict[str, Any] = {}

    def __getitem__(self, kind: str) -> Any:
        """A layer, the image or the grid."""
        if kind not in self._registry:
            if kind == GRID:
                self._registry[kind] = self._grid()
            elif kind == IMAGE:
                self._registry[kind] = self.source.image()
            elif self.source.has(kind):
                self._registry[kind] = from_item(self.assembly.encoding(kind), self.source.item(kind))
            else:
                make(self.assembly, kind, [self])
        return self._registry[kind]

    @property
    def features(self) -> Features:
        """Local features."""
        found: Features = self[FEATURES]
        return found

    @property
    def weights(self) -> WeightMap:
        """Weights of the cells."""
        found: WeightMap = self[WEIGHTS]
        return found

    @property
    def regions(self) -> Regions:
        """Regions, with their scores."""
        found: Regions = self[REGIONS]
        return found

    @property
    def local(self) -> Local:
        """Local features as the encoder takes them."""
        found: Local = self[LOCAL]
        return found

    @property
    def codes(self) -> Codes:
        """What is searched."""
        found: Codes = self[CODES]
        return found

    @property
    def kinds(self) -> list[str]:
        """All the layers that the pipeline makes, features first."""
        return [FEATURES, *self.assembly.kinds]

    def lacks(self, kind: str) -> bool:
        """Whether a layer has to be made."""
        return kind not in self._registry and not self.source.has(kind)

    def take(self, kind: str, value: Any) -> None:
        """Take over a layer that is known already, as storage gives it back."""
        self._registry[kind] = value

    def put(self, kind: str, value: Any) -> None:
        """Take over what a component made: it is stored, and read back."""
        encoding = self.assembly.encoding(kind)
        try:
            self.items[kind] = to_item(encoding, value)
        except InstsearchError as error:
            part = self.assembly.part(kind)
            raise InstsearchError(f"{part}, image {self.source.name}: {error}") from error
        self._registry[kind] = from_item(encoding, self.items[kind])

    def wants(self, kind: str) -> frozenset[str]:
        """Of IMAGE and FEATURES, what has to be had from the picture itself to give a layer."""
        if kind in self._registry or (kind != GRID and self.source.has(kind)):
            return frozenset()
        if kind == IMAGE:
            return frozenset((IMAGE,))
        if kind == GRID:
            return frozenset() if self._gridded() else self.wants(FEATURES)
        found = frozenset[str]().union(*(self.wants(read) for read in self.assembly.reads(kind)))
        return found | {FEATURES} if kind == FEATURES else found

    def inputs(self, kind: str) -> Inputs:
        """Exactly what the component behind a layer declares that it reads."""
        given = {read: self[read] for read in self.assembly.reads(kind) if read != GRID}
        grid = self[GRID] if self.assembly.gridded(kind) else None
        return Inputs(size=self.source.size, row=self.source.row, name=self.source.name, grid=grid, **given)

    def drawings(self) -> dict[str, list[Drawing]]:
        """What the components have to show of how they came to their layers; an encoder's is beside its codes."""
        found = {}
        for kind in self.kinds:
            if kind != LOCAL and (shown := self._explained(kind)):
                found[kind] = shown
        return found

    @inference()
    def _explained(self, kind: str) -> list[Drawing]:
        inputs = self.inputs(kind)
        whole = Inputs(**{**vars(inputs), kind: self[kind]})
        return list(self.assembly.part(kind).component.explain(whole))

    def _gridded(self) -> str | None:
        """A layer at hand, or stored, that lies on the cells of the features."""
        encoder = self.assembly.encoder
        keeps = encoder is not None and encoder.component.same_grid and self.assembly.makes(LOCAL)
        kinds = (FEATURES, LOCAL) if keeps else (FEATURES,)
        return next((kind for kind in kinds if kind in self._registry or self.source.has(kind)), None)

    def _grid(self) -> Grid:
        kind = self._gridded() or FEATURES
        if kind in self._registry or not self.source.has(kind):
            grid: Grid = self[kind].grid
            return grid
        return grid_of(self.source.head(kind))


@inference()
def make(assembly: Assembly, kind: str, many: Sequence[Described]) -> None:
    """Let the component behind a layer make it of some pictures; what it raises is told with its name and theirs.

    Raises InstsearchError where what it made cannot be stored.
    """
    row, part = TABLE[kind], assembly.part(kind)
    assert row.make is not None
    assert row.make_many is not None or len(many) == 1
    inputs = [each.inputs(kind) for each in many]
    alone = contextlib.nullcontext() if part.component.concurrent else part.lock
    with noted(part, [each.source.name for each in many]), alone:
        if len(many) > 1 and row.make_many is not None:
            values = row.make_many(part.component, inputs)
        else:
            values = [row.make(part.component, inputs[0])]
        found = list(zip(many, values, strict=True))
    for each, value in found:
        each.put(kind, value)


@contextlib.contextmanager
def noted(part: Part, names: Sequence[str], what: str = "image") -> Iterator[None]:
    """What a component raises is told with its name and the images', or queries'."""
    try:
        yield
    except Exception as error:
        several = {"image": "images", "query": "queries"}[what] if len(names) > 1 else what
        error.add_note(f"{part}, {several} {', '.join(names)}")
        raise


class DescribedQuery(Described):
    """A picture as a query, of what is in a box of it; None: of the whole.

    Features, weights and regions are as the collection's; what follows is what the encoder makes of a query.
    """

    def __init__(self, assembly: Assembly, image: Image, box: Box | None) -> None:
        super().__init__(assembly, Picture(image))
        self.picture, self.box = image, box

    def embedded(self) -> Local:
        """The local features of the whole picture, as queries have them."""
        encoder = self._encoder
        found: Local = encoder.embed_query(self.features) if encoder.local is not None else self.features
        return found

    def weighed(self) -> WeightMap | None:
        """The weights over the whole picture, where a query is to have some."""
        if not self.assembly.makes(WEIGHTS):
            return None
        part = self.assembly.part(WEIGHTS)
        if own(part.component.weigh_query, Weighter.weigh_query):
            with noted(part, [self.picture.name]):
                weights: WeightMap = part.component.weigh_query(self.inputs(WEIGHTS), self._cropped)
                return weights
        return self.weights if self.assembly.pipeline.query.weigh else None

    def encoded(self, local: Local, weights: WeightMap | None) -> Codes:
        """What the encoder makes of the box."""
        within = weights if self.box is None else BoxWeight(self.box, weights)
        encoder = self._encoder
        codes: Codes
        if encoder.query_regions and self.assembly.makes(REGIONS):
            regions = self.regions if self.box is None else regions_in(self.regions, self.box)
            codes = encoder.aggregate(local, within, regions)
        else:
            codes = encoder.aggregate_query(local, within)
        return codes

    @property
    def _encoder(self) -> Any:
        return self.assembly.part(CODES).component

    def _cropped(self) -> Features:
        """The features of what is in the box, as a picture by itself."""
        if self.box is None:
            return self.features
        alone: Features = Described(self.assembly, Picture(self.picture.cropped(self.box)))[FEATURES]
        return alone


def regions_in(regions: Regions, box: Box) -> Regions:
    """The regions whose centre is in a box, cut to it; if there is none, the box, with score 1."""
    import torch

    low, high = regions.boxes.new_tensor([box[:2], box[2:]])
    centres = (regions.boxes[:, :2] + regions.boxes[:, 2:]) / 2
    inside = ((centres >= low) & (centres < high)).all(1)
    if not inside.any():
        return Regions(torch.tensor([box]), torch.ones(1))
    return regions[inside].cut(box)
