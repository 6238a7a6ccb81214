"""Looking into an index: what the stages made of an image, layer by layer, and how it compares with a question."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from instsearch_cli.engine import arrays
from instsearch_cli.engine.besides import Uncompared, beside
from instsearch_cli.engine.choosing import Choice, as_path, chosen
from instsearch_cli.engine.jointly import names_of
from instsearch_cli.engine.opened import format_errors, opened
from instsearch_cli.engine.stages import CODES, FEATURES, LOCAL, REGIONS, WEIGHTS
from instsearch_cli.errors import UsageError
from instsearch_cli.images import Photograph

if TYPE_CHECKING:
    from collections.abc import Sequence

    from instsearch_cli.data import Beside
    from instsearch_cli.engine.arrays import Arrays
    from instsearch_cli.engine.asking import Warm
    from instsearch_cli.engine.choosing import Anywhere
    from instsearch_cli.engine.describe import Described
    from instsearch_cli.engine.opened import Loaded
    from instsearch_cli.engine.questions import Picture
    from instsearch_formats import Index as Store


def check_open(*indexes: Any) -> None:
    """Raises UsageError for what is no open index."""
    for each in indexes:
        if not isinstance(each, Looking):
            raise UsageError(f"an index is what instsearch.open gives, not {type(each).__name__}")


class Looking:
    """What an opened index shows of its images and of any picture."""

    _loaded: Loaded

    @property
    @opened
    def store(self) -> Store:
        """The files of the index."""
        return self._loaded.store

    @property
    @opened
    def _warm(self) -> Warm:
        return self._loaded.warm

    @opened
    def describe(self, picture: Picture, pipeline: str | None = None, **choice: Any) -> Described:
        """What the stages make of any picture, layer by layer, as of the collection's."""
        engine = self._loaded.warm.engine(pipeline, chosen(choice))[0]
        return engine.describe(Photograph.of(picture))

    @opened
    def beside(
        self,
        picture: Picture,
        box: Sequence[float] | None,
        image: Anywhere,
        pipeline: str | None = None,
        **choice: Any,
    ) -> Beside | None:
        """An image, by name or file, aligned with what is in a box of a picture; None where it cannot be.

        Of pipelines that are asked as one, by the first that compares.
        """
        row, _ = self._loaded.names.find(as_path(image, "an image"))
        *others, last = names_of(self._loaded.warm.meant(pipeline))
        for name in others:
            with contextlib.suppress(Uncompared):
                return self._beside(picture, box, row, name, choice)
        return self._beside(picture, box, row, last, choice)

    def _beside(
        self,
        picture: Picture,
        box: Sequence[float] | None,
        row: int,
        name: str | None,
        choice: dict[str, Any],
    ) -> Beside | None:
        warm = self._loaded.warm
        engine, turns = warm.at_hand(name, chosen(choice))
        with turns.soon():
            warm.refresh(engine, name)
            return beside(engine, picture, box, row)

    @opened
    def layer(self, kind: str, image: Anywhere | None = None, pipeline: str | None = None) -> Arrays:
        """A layer of an image, by name or file, as numpy arrays, made if it is not stored; or of all, if stored."""
        engine, turns = self._loaded.warm.engine(pipeline, Choice())
        names = self._loaded.names
        arrays.check_kind(engine.assembly, kind)
        with turns:
            if image is None:
                return arrays.of_all(engine.data, kind)
            row, record = names.find(as_path(image, "an image"))
            name = names.of(record)
            return arrays.of_one(kind, name, engine.data.at(row)[kind])

    def features(self, image: Anywhere, pipeline: str | None = None) -> Arrays:
        """Local features of an image: values f32[D, h, w] on a grid, or f32[N, D] with geometry f32[N, 4]."""
        return self.layer(FEATURES, image, pipeline)

    def weights(self, image: Anywhere, pipeline: str | None = None) -> Arrays:
        """Weights of an image's cells: values f32[Z, h, w]."""
        return self.layer(WEIGHTS, image, pipeline)

    def regions(self, image: Anywhere, pipeline: str | None = None) -> Arrays:
        """Regions of an image: boxes f32[R, 4] (x, y, width, height in pixels of the original), scores f32[R].

        Where a detector says so also masks bool[R, 28, 28], over each box, and classes i64[R], its network's numbers.
        """
        return self.layer(REGIONS, image, pipeline)

    def local(self, image: Anywhere, pipeline: str | None = None) -> Arrays:
        """An image's local features as the encoder stores them: words i32[h, w], or i32[N] with geometry."""
        return self.layer(LOCAL, image, pipeline)

    def codes(self, image: Anywhere | None = None, pipeline: str | None = None) -> Arrays:
        """The codes of an image, or of all: vectors f32[M, D], or sparse ones (``matrix()`` for scipy)."""
        return self.layer(CODES, image, pipeline)

    def export(self, layer: str, out: Anywhere, pipeline: str | None = None) -> Arrays:
        """Write a stored layer of all images to a .npz file."""
        found = self.layer(layer, None, pipeline)
        with format_errors():
            found.save(as_path(out, "a file"))
        return found
