import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from instsearch_cli.components import Encoder
from instsearch_cli.data import BoxWeight, FeatureMap, Grid, Inputs, Keypoints, Regions, WeightMap, Words
from instsearch_cli.errors import InstsearchError
from instsearch_plugins.encoders.blcf import (
    BLCF,
    interpolated,
    inverse_document_frequency,
    nearness,
    weighted_histogram,
)

CPU = torch.device("cpu")
GRID = Grid.over(2, 2, (20, 10))


class Told:
    def __init__(self):
        self.labels = []

    def start(self, label, total=None, unit="images"):
        self.labels.append(label)

    def advance(self, n=1):
        pass


class Collection:
    def __init__(self, features):
        self.features, self.images, self.asked = features, np.arange(len(features)) + 5, []

    def inputs(self, kinds, rows=None):
        assert tuple(kinds) == ("features",)
        for row in rows:
            self.asked.append(int(row))
            yield Inputs(size=(20, 10), row=int(row), features=self.features[row - 5])


def feature_map(seed, D=8, h=4, w=5):
    values = torch.rand(D, h, w, generator=torch.Generator().manual_seed(seed)) ** 3
    return FeatureMap(values, Grid.over(h, w, (50, 40)))


def fitted(features, **options):
    encoder = BLCF(BLCF.Config(**options), CPU)
    state = encoder.fit(Collection(features), Told())
    encoder.load({k: v.numpy() if isinstance(v, torch.Tensor) else np.asarray(v) for k, v in state.items()})
    return encoder


def with_words(K, **options):
    """An encoder with K words, for what needs no embedding."""
    encoder = BLCF(BLCF.Config(**options), CPU)
    encoder.load({"centroids": np.eye(K, dtype=np.float32), "idf": np.arange(1, K + 1, dtype=np.float32)})
    return encoder


def dense(codes):
    out = torch.zeros(len(codes.indptr) - 1, codes.dim)
    for m in range(len(out)):
        span = slice(int(codes.indptr[m]), int(codes.indptr[m + 1]))
        assert codes.indices[span].tolist() == sorted(set(codes.indices[span].tolist()))
        out[m, torch.from_numpy(codes.indices[span])] = torch.from_numpy(codes.data[span])
    return out


# -- the histogram --------------------------------------------------------------------------------------

WORDS = Words(torch.tensor([[0, 1], [1, 2]], dtype=torch.int32), GRID, None, 4)
ALPHA = WeightMap(torch.tensor([[[0.5, 1], [0.25, 0]]]), GRID)


def test_the_cards_histogram():
    codes = with_words(4).aggregate(WORDS, ALPHA, None)
    torch.testing.assert_close(dense(codes), torch.tensor([[0.37139, 0.92848, 0, 0]]), atol=1e-5, rtol=0)
    assert codes.indices.tolist() == [0, 1]  # the word of weight 0 leaves no entry
    assert codes.indices.dtype == codes.indptr.dtype == np.int64
    assert (codes.dim, codes.boxes.tolist()) == (4, [[0, 0, 20, 10]])


def test_square_root_then_idf_then_length():
    h = torch.tensor([0.5, 1.25, 0, 0])
    for sqrt in (False, True):
        for idf in (False, True):
            expected = (h.sqrt() if sqrt else h) * (torch.arange(1.0, 5) if idf else 1)
            codes = with_words(4, sqrt=sqrt, idf=idf).aggregate(WORDS, ALPHA, None)
            torch.testing.assert_close(dense(codes)[0], expected / expected.norm())


@given(seed=st.integers(0, 200), n=st.integers(0, 25), M=st.integers(1, 4), K=st.integers(1, 9))
def test_histogram_against_a_slow_loop(seed, n, M, K):
    rng = np.random.default_rng(seed)
    words = rng.integers(-1, K, n)
    alpha = np.where(rng.random((M, n)) < 0.3, 0, rng.random((M, n))).astype(np.float32)
    slow = np.zeros((M, K))
    for m in range(M):
        for i in range(n):
            if words[i] >= 0:
                slow[m, words[i]] += alpha[m, i]
    indices, h, indptr = weighted_histogram(torch.from_numpy(words), torch.from_numpy(alpha), K)
    assert indptr[0] == 0
    assert len(indptr) == M + 1
    assert len(h) == np.count_nonzero(slow)
    got = dense(SimpleNamespace(indices=indices.numpy(), data=h.numpy(), indptr=indptr, dim=K)).numpy()
    np.testing.assert_allclose(got, slow, atol=1e-5)


def test_a_row_for_each_region():
    boxes = torch.tensor([[0.0, 0, 10, 10], [10, 0, 20, 10], [0, 0, 20, 10]])
    codes = with_words(4).aggregate(WORDS, ALPHA, Regions(boxes, torch.ones(3)))
    assert np.array_equal(codes.boxes, boxes)
    rows = dense(codes)
    left, right = torch.tensor([0.5, 0.25, 0, 0]), torch.tensor([0, 1.0, 0, 0])
    torch.testing.assert_close(rows[0], left / left.norm())
    torch.testing.assert_close(rows[1], right)
    torch.testing.assert_close(rows[2:], dense(with_words(4).aggregate(WORDS, ALPHA, None)))


def test_words_at_points():
    geometry = torch.tensor([[2.0, 2, 1, 0], [18, 2, 1, 0], [18, 9, 1, 0]])
    points = Words(torch.tensor([3, 1, 1]), GRID, geometry, 4)
    encoder = with_words(4)
    root = math.sqrt(5)
    rows = dense(encoder.aggregate(points, None, None))
    torch.testing.assert_close(rows, torch.tensor([[0, 2 / root, 0, 1 / root]]))
    assert dense(encoder.aggregate(points, BoxWeight((10, 0, 20, 10)), None)).tolist() == [[0, 1, 0, 0]]
    nothing = encoder.aggregate(points, BoxWeight((5, 0, 6, 10)), None)
    assert (len(nothing.data), nothing.indptr.tolist()) == (0, [0, 0])


def test_several_weight_maps_are_summed():
    maps = WeightMap(torch.cat([ALPHA.values, torch.ones(1, 2, 2)]), GRID)
    h = torch.tensor([1.5, 3.25, 1, 0])
    torch.testing.assert_close(dense(with_words(4).aggregate(WORDS, maps, None))[0], h / h.norm())


def test_an_image_without_words_is_an_empty_row():
    nothing = Words(torch.full((2, 2), -1, dtype=torch.int32), GRID, None, 4)
    codes = with_words(4).aggregate(nothing, None, None)
    assert (codes.indptr.tolist(), len(codes.data), codes.boxes.shape) == ([0, 0], 0, (1, 4))


# -- the box of the query -------------------------------------------------------------------------------


def test_the_cards_box_takes_four_cells():
    """Image 100 x 160, box x 40-80, y 20-60, map 5 x 8 (h = 8): rows 1-2, columns 2-3."""
    grid = Grid.over(8, 5, (100, 160))
    words = Words(torch.arange(40, dtype=torch.int32).view(8, 5), grid, None, 40)
    codes = with_words(40).aggregate(words, BoxWeight((40, 20, 80, 60)), None)
    assert codes.indices.tolist() == [1 * 5 + 2, 1 * 5 + 3, 2 * 5 + 2, 2 * 5 + 3]
    np.testing.assert_allclose(codes.data, np.full(4, 0.5), rtol=1e-6)


def test_a_tiny_box_still_takes_a_cell():
    codes = with_words(4).aggregate(WORDS, BoxWeight((16, 6, 16.1, 6.1)), None)
    assert codes.indices.tolist() == [2]


def test_what_is_outside_of_the_box_counts_by_its_distance():
    """A row of 5 cells, the box over the second: weights fall over three cells."""
    grid = Grid.over(1, 5, (50, 10))
    words = Words(torch.arange(5, dtype=torch.int32).view(1, 5), grid, None, 5)
    encoder = with_words(5, query_outside="distance")
    codes = encoder.aggregate_query(words, BoxWeight((10, 0, 20, 10)))
    expected = np.array([1 - 1 / 3, 1, 1 - 1 / 3, 1 - 2 / 3])
    assert codes.indices.tolist() == [0, 1, 2, 3]  # the farthest weighs nothing
    np.testing.assert_allclose(codes.data, expected / np.linalg.norm(expected), rtol=1e-5)
    weighed = WeightMap(torch.tensor([[[0.0, 2, 4, 1, 1]]]), grid)
    codes = encoder.aggregate_query(words, BoxWeight((10, 0, 20, 10), weighed))
    expected = np.array([2, 4 * (1 - 1 / 3), 1 - 2 / 3])
    assert codes.indices.tolist() == [1, 2, 3]
    np.testing.assert_allclose(codes.data, expected / np.linalg.norm(expected), rtol=1e-5)


def test_a_box_over_everything_has_nothing_outside():
    np.testing.assert_array_equal(nearness(np.ones((2, 3), bool)), np.ones((2, 3), np.float32))


# -- interpolation --------------------------------------------------------------------------------------


def test_the_cards_interpolation():
    values = torch.tensor([[[0.0, 1, 2]]])
    fine = interpolated(FeatureMap(values, Grid.over(1, 3, (30, 10))), 2)
    torch.testing.assert_close(fine.values[0, 0], torch.tensor([0, 0.4, 0.8, 1.2, 1.6, 2]))
    assert fine.values.shape == (1, 2, 6)
    assert fine.grid == Grid.over(2, 6, (30, 10))


def test_only_the_query_is_made_finer():
    features = [feature_map(i) for i in range(20)]
    encoder = fitted(features, words=20, iterations=3)
    once, twice = encoder.embed(features[0]), encoder.embed_query(features[0])
    assert once.words.shape == (4, 5)
    assert once.grid == features[0].grid
    assert twice.words.shape == (8, 10)
    assert twice.grid == Grid.over(8, 10, (50, 40))
    for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        assert once.words[corner] == twice.words[corner]
    assert np.array_equal(encoder.embed_query(interpolated(features[0], 1)).words, twice.words)
    both = fitted(features, words=20, iterations=3, db_interp=2)
    assert np.array_equal(both.embed(features[0]).words, twice.words)


# -- learning -------------------------------------------------------------------------------------------


def slow_words(encoder, features):
    """Cell by cell: L2, PCA-whitening, L2, nearest centroid."""
    c = encoder.centroids.double().numpy()
    out = np.full(features.grid.shape, -1)
    for i in range(features.grid.h):
        for j in range(features.grid.w):
            x = features.values[:, i, j].double().numpy()
            if not x.any():
                continue
            x = x / np.linalg.norm(x)
            if encoder.whitening is not None:
                mean, P = (t.double().numpy() for t in encoder.whitening)
                x = (x - mean) @ P
                x = x / np.linalg.norm(x)
            out[i, j] = np.argmin(((c - x) ** 2).sum(1))
    return out


@pytest.mark.parametrize("options", [{}, {"dims": 3}, {"dims": 0}, {"whiten": False}])
def test_embedding_against_a_slow_loop(options):
    features = [feature_map(i) for i in range(40)]
    encoder = fitted(features, words=30, iterations=4, **options)
    assert isinstance(encoder, Encoder)
    assert isinstance(encoder, BLCF)
    assert encoder.centroids.shape == (30, options.get("dims") or 8)
    assert (encoder.whitening is None) == (options.get("whiten") is False)
    for f in features[:4]:
        words = encoder.embed(f)
        assert words.words.dtype == np.int32
        assert words.size == 30
        assert (words.words == slow_words(encoder, f)).all()


def test_a_blank_cell_has_no_word():
    features = [feature_map(i) for i in range(20)]
    features[0].values[:, 1, 2] = 0
    encoder = fitted(features, words=10, iterations=2)
    words = encoder.embed(features[0]).words
    assert np.argwhere(words == -1).tolist() == [[1, 2]]
    assert not any((encoder.embed(f).words == -1).any() for f in features[1:])


def test_keypoints_are_encoded_alike():
    g = torch.Generator().manual_seed(0)
    images = [
        Keypoints(torch.rand(n, 16, generator=g), torch.rand(n, 4, generator=g), GRID)
        for n in (30, 0, 50, 41)
    ]
    encoder = fitted(images, words=12, whiten=False, iterations=3)
    words = encoder.embed(images[2])
    assert words.words.shape == (50,)
    assert words.geometry is images[2].geometry
    x = torch.nn.functional.normalize(torch.from_numpy(images[2].values), dim=1)
    assert np.array_equal(words.words, torch.cdist(x, encoder.centroids).argmin(1))
    assert np.array_equal(encoder.embed_query(images[2]).words, words.words)
    assert encoder.embed(images[1]).words.shape == (0,)
    assert encoder.aggregate(encoder.embed(images[1]), None, None).indptr.tolist() == [0, 0]


def test_the_sample_is_capped_seeded_and_spread():
    features = [feature_map(i) for i in range(30)]  # 20 cells each
    fits = []
    for seed in (0, 0, 1):
        data = Collection(features)
        encoder = BLCF(BLCF.Config(words=5, n_train=100, fit_images=10, iterations=2, seed=seed), CPU)
        fits.append((data, encoder.fit(data, Told())))
    asked = [data.asked for data, _ in fits]
    assert len(asked[0]) == 10  # ten cells of each of ten images
    assert asked[0] == asked[1] != asked[2]
    assert torch.equal(fits[0][1]["centroids"], fits[1][1]["centroids"])
    assert all(state["images"] == 10 for _, state in fits)
    data = Collection(features)
    BLCF(BLCF.Config(words=5, n_train=100, fit_images=2, iterations=2), CPU).fit(data, Told())
    assert len(data.asked) == 5  # an image has only 20 of the 50 wanted: more images are read


def test_a_small_collection_gets_fewer_words():
    told, encoder = Told(), BLCF(BLCF.Config(words=1000, iterations=2), CPU)
    state = encoder.fit(Collection([feature_map(i) for i in range(4)]), told)  # 80 cells
    assert state["centroids"].shape == (10, 8)
    assert "clustering 80 local features into 10 words" in told.labels
    alone = encoder.fit(Collection([feature_map(0, h=1, w=1)]), told)
    assert alone["centroids"].shape == (1, 8)


def test_idf():
    words, image = torch.tensor([0, 0, 1, 0, 2, 0]), torch.tensor([7, 7, 7, 8, 8, 9])
    idf = inverse_document_frequency(words, image, 4)
    expected = [math.log(4 / 3.5), math.log(4 / 1.5), math.log(4 / 1.5), math.log(4 / 0.5)]
    torch.testing.assert_close(idf, torch.tensor(expected))
    assert idf.min() > 0


def test_idf_is_always_learnt():
    encoder = fitted([feature_map(i) for i in range(20)], words=10, iterations=2)
    assert encoder.idf.shape == (10,)
    assert (encoder.idf > 0).all()


def test_nothing_to_learn_from():
    blank = FeatureMap(torch.zeros(8, 2, 2), GRID)
    for features in ([], [blank, blank]):
        with pytest.raises(InstsearchError, match="no image of the collection has a local feature"):
            BLCF(BLCF.Config(), CPU).fit(Collection(features), Told())


@pytest.mark.parametrize("options", [{"words": 0}, {"query_interp": 0}, {"dims": -1}, {"iterations": 0}])
def test_options_out_of_range(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} is"):
        BLCF.Config(**options)


def test_the_same_picture_is_its_own_nearest():
    features = [feature_map(i) for i in range(25)]
    encoder = fitted(features, words=40, iterations=5, query_interp=1)
    codes = torch.cat([dense(encoder.aggregate(encoder.embed(f), None, None)) for f in features])
    scores = codes @ codes.T
    assert torch.equal(scores.argmax(1), torch.arange(25))
    torch.testing.assert_close(scores.diagonal(), torch.ones(25))
