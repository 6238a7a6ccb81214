"""Contract tests for plugin authors: subclass one, name your component, run pytest.

    from instsearch_cli.testing import WeighterContract

    class TestEdges(WeighterContract):
        component = Edges

Each test says, when it fails, what the runner would have tripped over.
"""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

import numpy as np
import torch

from instsearch_cli.components import Component, Detector, Encoder, Extractor, Reranker, Weighter
from instsearch_cli.data import (
    Codes,
    FeatureMap,
    Grid,
    Hits,
    Image,
    Inputs,
    Keypoints,
    Regions,
    SparseVectors,
    Vectors,
    WeightMap,
)
from instsearch_cli.options import based, make_config
from instsearch_cli.storage import from_item, to_item


def make_image(width: int = 96, height: int = 64, seed: int = 0) -> Image:
    """A small picture with some structure, half the size of its original."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return Image(np.kron(blocks, np.ones((8, 8, 1), np.uint8)), (2 * width, 2 * height), f"image {seed}")


def make_features(dim: int = 16, h: int = 4, w: int = 6, seed: int = 0) -> FeatureMap:
    """A non-negative map, as a ReLU gives it."""
    rng = np.random.default_rng(seed)
    values = torch.from_numpy(rng.standard_normal((dim, h, w)).astype(np.float32)).clamp(min=0)
    return FeatureMap(values, Grid.over(h, w, (192, 128)))


def make_inputs(seed: int = 0) -> Inputs:
    """One image with every layer that a weighter or a detector may ask for."""
    features, image = make_features(seed=seed), make_image(seed=seed)
    boxes = torch.tensor([[0.0, 0.0, 96.0, 64.0], [48.0, 32.0, 192.0, 128.0]])
    return Inputs(
        size=image.size,
        row=seed,
        name=image.name,
        grid=features.grid,
        image=image,
        features=features,
        regions=Regions(boxes, torch.ones(2)),
        weights=WeightMap(torch.ones(1, *features.grid.shape), features.grid),
    )


def undeclared(component: type[Any], base: type[Any]) -> list[str]:
    """The public names of a component's class that neither its base classes nor that of its kind declare."""
    bases = (base, *component.__mro__[1:])
    declared = set[str]().union(*map(dir, bases), *map(inspect.get_annotations, bases))
    return sorted(name for name in vars(component) if not name.startswith("_") and name not in declared)


class Contract:
    """What every component keeps to. ``options`` are handed to its ``Config``, ``base`` is the class of its kind."""

    __test__ = False
    component: ClassVar[type[Any]]
    base: ClassVar[Any] = Component
    options: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls) -> None:
        cls.__test__ = hasattr(cls, "component")

    def loaded(self) -> Any:
        """The component's class as the program has it: with the base class of its kind."""
        component: Any = self.component
        return based(component, self.base)

    def make(self) -> Any:
        """The component with its options, on the CPU."""
        component = self.loaded()
        config = make_config(component, self.options, "component")
        return component(config, torch.device("cpu"))

    def test_no_public_name_is_undeclared(self) -> None:
        names = ", ".join(undeclared(self.component, self.base))
        assert not names, (
            f"no base class of {self.component.__name__} declares {names}: begin private names with _"
        )

    def test_config_is_a_frozen_dataclass_with_defaults(self) -> None:
        config = self.loaded().Config
        assert hasattr(config, "__dataclass_fields__"), "a component needs a nested dataclass Config"
        assert config.__dataclass_params__.frozen, "Config must be frozen: its values are fingerprinted"
        config()

    def test_a_wrong_option_is_refused(self) -> None:
        from instsearch_cli.errors import UsageError

        try:
            make_config(self.loaded(), {"no_such_option": 1}, "component")
        except UsageError:
            return
        raise AssertionError("an unknown option must be an error")


class WeighterContract(Contract):
    """A weighter returns finite, non-negative f32[Z, h, w] on the grid it was given, the same every time."""

    base = Weighter

    def test_shape_and_range(self) -> None:
        inputs = make_inputs()
        weights = self.make().weigh(inputs)
        assert isinstance(weights, WeightMap)
        assert weights.values.ndim == 3
        assert tuple(weights.values.shape[1:]) == weights.grid.shape
        assert bool(torch.isfinite(weights.values).all())
        assert bool((weights.values >= 0).all())

    def test_deterministic_and_storable(self) -> None:
        component = self.make()
        first, second = component.weigh(make_inputs(1)), component.weigh(make_inputs(1))
        assert torch.equal(first.values, second.values)
        stored = from_item("weight-map", to_item("weight-map", first))
        assert torch.allclose(stored.values, first.values.cpu(), rtol=2e-3, atol=1e-6)


class DetectorContract(Contract):
    """A detector returns boxes within the picture and as many scores."""

    base = Detector

    def test_boxes(self) -> None:
        inputs = make_inputs()
        regions = self.make().detect(inputs)
        assert isinstance(regions, Regions)
        assert regions.boxes.shape == (len(regions.scores), 4)
        x0, y0, x1, y1 = regions.boxes.T
        assert bool(((x0 >= 0) & (y0 >= 0) & (x0 < x1) & (y0 < y1)).all())
        assert bool(((x1 <= inputs.size[0]) & (y1 <= inputs.size[1])).all())


class ExtractorContract(Contract):
    """An extractor gives each image its features, the same alone and in a batch."""

    base = Extractor

    def test_features(self) -> None:
        component = self.make()
        images = [make_image(seed=s) for s in range(3)]
        together = component.extract(images)
        assert len(together) == 3
        for image, features in zip(images, together, strict=True):
            assert isinstance(features, FeatureMap | Keypoints)
            kinds = {FeatureMap: ("dense-map", "pyramid"), Keypoints: ("keypoints",)}
            assert component.encoding in kinds[type(features)]
            alone = component.extract([image])[0]
            a, b = (torch.as_tensor(found.values) for found in (alone, features))
            assert torch.allclose(a, b, rtol=1e-3, atol=1e-3)
            to_item(component.encoding, features)

    def test_fit_size_never_enlarges(self) -> None:
        component = self.make()
        for size in ((640, 480), (31, 17), (4000, 3000)):
            width, height = component.fit_size(*size)
            assert 1 <= width <= size[0]
            assert 1 <= height <= size[1]


class RerankerContract(Contract):
    """A reranker returns hits of the same queries: no image twice, none that is excluded, best first."""

    base = Reranker

    def test_hits(self) -> None:
        component = self.make()
        images = np.array([[3, 1, 4, 0, -1]])
        scores = np.array([[0.9, 0.8, 0.5, 0.1, -np.inf]], np.float32)
        hits = Hits(images, scores, np.full((1, 5, 4), np.nan, np.float32))

        def again(codes: list[Codes], k: int) -> Hits:
            return hits

        ranked = component.rerank([make_query()], hits, None, again)
        found = ranked.images[0][ranked.images[0] >= 0]
        assert len(set(found.tolist())) == len(found)
        kept = ranked.scores[0][ranked.images[0] >= 0]
        assert bool((np.diff(kept) <= 0).all())


def make_query() -> Any:
    """A query with one short dense code."""
    from instsearch_cli.data import Query

    features = make_features()
    codes = Vectors(torch.ones(1, 4) / 2, torch.tensor([[0.0, 0.0, 192.0, 128.0]]))
    return Query("q", make_image(), None, features, features, codes)


class EncoderContract(Contract):
    """An encoder's codes are finite, of unit length or zero, storable, and linear in no hidden state."""

    base = Encoder
    features: ClassVar[Any] = None

    def make_fitted(self) -> Any:
        """Override to load a small fitted state."""
        return self.make()

    def test_codes(self) -> None:
        component = self.make_fitted()
        features = self.features or make_features()
        local = features if component.local is None else component.embed(features)
        codes = component.aggregate(local, None, None)
        again = component.aggregate(local, None, None)
        if component.codes == "csr":
            assert isinstance(codes, SparseVectors)
            norm = torch.tensor(np.linalg.norm(codes.data))
            assert np.array_equal(codes.data, again.data)
        else:
            assert isinstance(codes, Vectors)
            norm = torch.linalg.vector_norm(codes.vectors)
            assert torch.equal(codes.vectors, again.vectors)
        assert bool(torch.isclose(norm, torch.tensor(1.0), atol=1e-4)) or float(norm) == 0.0
        to_item(component.codes, codes)
        query_codes = component.aggregate_query(local, None)
        assert type(query_codes) is type(codes), "a query's codes must be of the collection's kind"
        to_item(component.codes, query_codes)
