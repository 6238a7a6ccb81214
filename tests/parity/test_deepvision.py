"""DeepVision against plain loops: image-wise pooling, region-wise re-ranking."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from instsearch_cli.data import BoxWeight, FeatureMap, Grid, Hits, Image, Inputs, Query, Regions, Vectors
from instsearch_cli.errors import InstsearchError
from instsearch_cli.testing import EncoderContract
from instsearch_plugins.encoders.deepvision import DeepVision
from instsearch_plugins.rerankers.deepvision import DeepVision as Reranker

CPU = torch.device("cpu")
GRID = Grid.over(5, 6, (60, 50))


def encoder(**options: Any) -> DeepVision:
    made = DeepVision(DeepVision.Config(**options), CPU)
    made.load({})
    return made


def map_of(seed: int) -> FeatureMap:
    return FeatureMap(torch.rand(4, 5, 6, generator=torch.Generator().manual_seed(seed)), GRID)


def pooled(X: torch.Tensor, box: tuple[float, ...], how: str) -> np.ndarray:
    """Cells of 10 pixels whose centre is in the box, one by one."""
    out = np.zeros(4)
    for i in range(5):
        for j in range(6):
            if box[0] <= 10 * j + 5 < box[2] and box[1] <= 10 * i + 5 < box[3]:
                x = X[:, i, j].numpy()
                out = out + x if how == "sum" else np.maximum(out, x)
    return out / np.linalg.norm(out)


@pytest.mark.parametrize("how", ["sum", "max"])
def test_a_picture_is_one_vector_and_so_is_a_query(how: str) -> None:
    X, box = map_of(0), (0.0, 0.0, 31.0, 22.0)
    whole = pooled(X.values, (0, 0, 60, 50), how)
    code = encoder(pool=how).aggregate(X, None, None)
    np.testing.assert_allclose(code.vectors[0], whole, rtol=1e-5)
    asked = encoder(pool=how).aggregate_query(X, BoxWeight(box))
    np.testing.assert_allclose(asked.vectors[0], whole, rtol=1e-5)
    alone = encoder(pool=how, query_whole=False).aggregate_query(X, BoxWeight(box))
    np.testing.assert_allclose(alone.vectors[0], pooled(X.values, box, how), rtol=1e-5)


class Collection:
    """Maps with their regions, by row."""

    def __init__(self, encoder: Any, regions: dict[int, Regions | None]) -> None:
        self.encoder, self.regions = encoder, regions

    def inputs(self, kinds: Any, rows: Any) -> Any:
        assert set(kinds) == {"features", "regions"}
        for row in map(int, rows):
            yield Inputs(size=(60, 50), row=row, features=map_of(row), regions=self.regions[row])


def query(box: tuple[float, float, float, float]) -> Query:
    X = map_of(9)
    image = Image(np.zeros((50, 60, 3), np.uint8), (60, 50))
    code = Vectors(torch.zeros(1, 4), torch.tensor([box]))
    return Query(id="q", image=image, box=box, features=X, local=X, codes=code)


def test_hits_come_by_the_region_most_like_the_box() -> None:
    rng = np.random.default_rng(0)
    regions: dict[int, Regions | None] = {3: None}
    for row in range(3):
        corners = rng.uniform(0, 30, (4, 2))
        boxes = np.hstack([corners, corners + 20]).astype(np.float32)
        regions[row] = Regions(torch.from_numpy(boxes), torch.ones(4))
    box = (10.0, 10.0, 40.0, 40.0)
    scores: dict[int, float] = {}
    places: dict[int, list[float]] = {}
    for row, found in regions.items():
        boxes = [[0.0, 0.0, 60.0, 50.0]] if found is None else found.boxes.tolist()
        asked = pooled(map_of(9).values, box, "sum")
        cosines = [float(pooled(map_of(row).values, tuple(each), "sum") @ asked) for each in boxes]
        scores[row], places[row] = max(cosines), boxes[int(np.argmax(cosines))]
    hits = Hits(
        np.array([[0, 1, 2, 3]]),
        np.array([[4.0, 3, 2, 1]], np.float32),
        np.full((1, 4, 4), np.nan, np.float32),
    )
    collection: Any = Collection(encoder(), regions)
    found_hits = Reranker(Reranker.Config(), CPU).rerank([query(box)], hits, collection, None)
    order = sorted(scores, key=lambda row: -scores[row])
    assert found_hits.images[0].tolist() == order
    np.testing.assert_allclose(found_hits.scores[0], [scores[row] for row in order], rtol=1e-5)
    np.testing.assert_allclose(found_hits.boxes[0], [places[row] for row in order])


def test_an_encoder_of_all_regions_together_is_refused() -> None:
    class Together:
        local = None

        def aggregate(self, local: Any, weights: Any, regions: Any) -> Vectors:
            return Vectors(torch.ones(1, 4), torch.zeros(1, 4))

    two = Regions(torch.tensor([[0.0, 0, 9, 9], [9, 9, 30, 30]]), torch.ones(2))
    collection: Any = Collection(Together(), {0: two})
    hits = Hits(np.array([[0]]), np.ones((1, 1), np.float32), np.full((1, 1, 4), np.nan, np.float32))
    with pytest.raises(InstsearchError, match="compares single regions"):
        Reranker(Reranker.Config(), CPU).rerank([query((0, 0, 9, 9))], hits, collection, None)


class TestDeepVision(EncoderContract):
    component = DeepVision

    def make_fitted(self) -> Any:
        return encoder()
