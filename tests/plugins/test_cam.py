"""Class-weighted features: the card's numbers, plain loops, boxes in cells, whitening, what cannot be."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from class_weighted import SIZE, close, drawn, made
from instsearch_cli.components import Encoder
from instsearch_cli.data import BoxWeight, FeatureMap, Grid, Inputs, Keypoints, Regions, WeightMap
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.options import make_config
from instsearch_cli.storage import to_state
from instsearch_plugins.encoders import cam as encoder
from instsearch_plugins.numeric.cam import class_activation_maps, most_probable, normalised

QUIET = SimpleNamespace(start=lambda *a: None, advance=lambda n=1: None)


# -- numbers ---------------------------------------------------------------------------------------------------


def test_the_cards_map():
    A = torch.tensor([[[1.0, 0], [2, 1]], [[0, 3], [1, 0]]])
    raw = class_activation_maps(A, torch.tensor([[1.0, -1]]))
    close(raw, [[[1, -3], [1, 1]]])
    close(normalised(raw), [[[1, 0], [1, 1]]])
    close(normalised(raw, "code"), [[[1, 0], [1, 1]]])
    close(normalised(raw, "stretch"), [[[1, 0], [1, 1]]])


def test_class_activation_maps_against_a_loop():
    A, W = drawn(0, 5, 3, 4) - 0.3, drawn(1, 7, 5) - 0.5
    expected = torch.zeros(7, 3, 4)
    for n in range(7):
        for k in range(5):
            for y in range(3):
                for x in range(4):
                    expected[n, y, x] += W[n, k] * A[k, y, x]
    close(class_activation_maps(A, W), expected)
    close(class_activation_maps(A, W).mean((1, 2)), W @ A.mean((1, 2)))  # the logits, but for the bias


def test_maps_that_are_negative_everywhere():
    raw = torch.tensor(
        [[[-1.0, -2], [-4, -2]], [[0.0, -1], [-1, -1]], [[0.0, 0], [0, 0]], [[2.0, -2], [1, 0]]]
    )
    zeros = [[0.0, 0], [0, 0]]
    close(normalised(raw), [zeros, zeros, zeros, [[1, 0], [0.5, 0]]])
    close(normalised(raw, "code"), [[[1, 2], [4, 2]], zeros, zeros, [[1, 0], [0.5, 0]]])
    close(
        normalised(raw, "stretch"), [[[1, 2 / 3], [0, 2 / 3]], [[1, 0], [0, 0]], zeros, [[1, 0], [0.75, 0.5]]]
    )


@given(st.integers(0, 10**6), st.sampled_from(["relu", "stretch"]), st.floats(0.01, 100))
def test_normalised_maps_lie_in_the_unit_range_whatever_their_scale(seed, form, scale):
    raw = drawn(seed, 4, 3, 5) * 2 - 1.2
    maps = normalised(raw, form)
    assert ((maps >= 0) & (maps <= 1)).all()
    close(normalised(raw * scale, form), maps, 1e-5)


def test_the_most_probable_classes_come_first_and_of_equals_the_lower_number():
    logits = torch.tensor([0.0, 3, 1, 3, 0, 0, 7])
    assert most_probable(logits, 5).tolist() == [6, 1, 3, 2, 0]
    assert most_probable(torch.zeros(1000), 64).tolist() == list(range(64))


# -- the encoder -----------------------------------------------------------------------------------------------


def features_of(values):
    return FeatureMap(values, Grid.over(*values.shape[1:], size=SIZE))


def maps_of(values, classes=None):
    classes = torch.arange(len(values)) if classes is None else classes
    return WeightMap(values, Grid.over(*values.shape[1:], size=SIZE), classes)


def photo(seed, C=6, Z=3, h=6, w=10):
    """Features, many of them 0, and class maps."""
    values = (drawn(seed, C, h, w) - 0.5).clamp(min=0)
    return features_of(values), maps_of(normalised(drawn(seed + 1000, Z, h, w) - 0.6))


def unit(v):
    norm = math.sqrt(sum(float(x) ** 2 for x in v))
    return [float(x) / norm if norm else 0.0 for x in v]


def by_loops(X, M, whitening=None, weigh=True):
    """w(F^c) of each class as the paper's formulas have it, number by number."""
    K, h, w = X.shape
    Q = [sum(float(X[k, y, x]) > 0 for y in range(h) for x in range(w)) / (w * h) for k in range(K)]
    CW = [math.log(sum(Q) / q) if q else 0.0 for q in Q]
    found = []
    for m in M:
        f = [
            (CW[k] if weigh else 1) * sum(float(X[k, y, x] * m[y, x]) for y in range(h) for x in range(w))
            for k in range(K)
        ]
        v = unit(f)
        if whitening is not None and any(v):
            mean, P = whitening
            v = unit([sum((v[k] - mean[k]) * P[k, d] for k in range(K)) for d in range(P.shape[1])])
        found.append(v)
    return found


def test_the_cards_class_vector():
    X = torch.tensor([[[1.0, 1], [0, 2]], [[0, 1], [0, 0]]])
    M = torch.tensor([[[1.0, 0], [1, 1]]])
    component = made()
    close(component.describe(X, M), [[0.863046, 0]])
    close(component.class_vectors(features_of(X), maps_of(M)), [[1, 0]])
    close(component._channels(X, M > 0), [[0.287682, 1.386294]])
    dead = torch.cat([X, torch.zeros(1, 2, 2)])
    close(component._channels(dead, M > 0), [[0.287682, 1.386294, 0]])


@pytest.mark.parametrize("channels", ["ssw", "none"])
def test_codes_against_loops(channels):
    component = made(channels=channels)
    features, maps = photo(3)
    whitening = torch.tensor(unit(range(1, 7))), drawn(9, 6, 4) - 0.5
    expected = by_loops(features.values, maps.values, whitening, channels == "ssw")
    component.load({"mean": whitening[0].numpy(), "projection": whitening[1].numpy()})
    close(component.class_vectors(features, maps), expected, 1e-5)
    codes = component.aggregate(features, maps, None)
    close(codes.vectors, [unit([sum(column) for column in zip(*expected, strict=True)])], 1e-5)
    assert codes.boxes.tolist() == [[0, 0, *SIZE]]
    regions = Regions(torch.tensor([[0.0, 0, 40, 40]]), torch.ones(1))
    assert torch.equal(component.aggregate(features, maps, regions).vectors, codes.vectors)
    assert not component.localises


def test_a_querys_box_is_cut_out_by_the_cells_that_it_touches():
    component = made()
    features, maps = photo(4)  # cells of 16 x 16 pixels
    box = (20.0, 33.0, 64.0, 81.0)  # from 1.25 to 4 across, from 2.06 to 5.06 down
    v = component.class_vectors(features, BoxWeight(box, maps))
    close(v, by_loops(features.values[:, 2:6, 1:4], maps.values[:, 2:6, 1:4]), 1e-5)
    codes = component.aggregate(features, BoxWeight(box, maps), None)
    close(codes.boxes, [list(box)])
    close(codes.vectors, [unit(v.sum(0))], 1e-5)
    small = component.class_vectors(features, BoxWeight((20.0, 33.0, 21.0, 34.0), maps))
    close(small, by_loops(features.values[:, 2:3, 1:2], maps.values[:, 2:3, 1:2]), 1e-5)


def test_a_box_of_the_whole_picture_is_the_picture():
    component = made()
    features, maps = photo(5)
    whole = component.aggregate(features, maps, None)
    assert torch.equal(
        component.aggregate(features, BoxWeight((0.0, 0.0, *SIZE), maps), None).vectors, whole.vectors
    )


class Collection:
    """Images 10, 11, ... of features and maps."""

    def __init__(self, items):
        self.items = items
        self.images = np.arange(len(items)) + 10

    def inputs(self, kinds, rows=None):
        assert kinds == ("features", "weights")
        for row in self.images if rows is None else rows:
            features, weights = self.items[row - 10]
            yield Inputs(size=SIZE, row=int(row), features=features, weights=weights)


@pytest.mark.parametrize(("n_pca", "n"), [(1, 20), (2, 40), (64, 60)])
def test_the_whitening_is_learnt_from_the_first_classes(n_pca, n):
    collection = Collection([photo(seed) for seed in range(20)])
    component = made(n_pca=n_pca)
    state = component.fit(collection, QUIET)
    x = np.array([v for X, M in collection.items for v in by_loops(X.values, M.values[:n_pca])])
    assert state["images"] == len(x) == n
    component.load(to_state(state))
    close(component.whitening[0], x.mean(0), 1e-5)
    v = (torch.from_numpy(x).float() - component.whitening[0]) @ component.whitening[1]
    close(v.T @ v / (n - 1), np.eye(6), 1e-3)  # all six dimensions, uncorrelated, of variance 1
    features, maps = collection.items[0]
    P = component.whitening
    close(component.class_vectors(features, maps), by_loops(features.values, maps.values, P), 1e-4)


def test_dims_and_no_whitening():
    collection = Collection([photo(seed) for seed in range(20)])
    component = made(dims=2)
    component.load(to_state(component.fit(collection, QUIET)))
    assert component.aggregate(*collection.items[0], None).vectors.shape == (1, 2)
    plain = made(whiten=False)
    assert plain.fit(Collection([]), QUIET) == {}  # looks at nothing
    close(plain.class_vectors(*collection.items[0]), by_loops(*(i.values for i in collection.items[0])), 1e-5)


def test_classes_without_a_map_are_nothing():
    features, maps = photo(6)
    none = maps_of(maps.values * torch.tensor([1.0, 0, 1])[:, None, None])
    without = maps_of(maps.values[[0, 2]])
    component = made()
    component.load({"mean": drawn(1, 6).numpy(), "projection": drawn(2, 6, 6).numpy()})
    assert component.class_vectors(features, none)[1].eq(0).all()
    close(
        component.aggregate(features, none, None).vectors,
        component.aggregate(features, without, None).vectors,
    )
    zeros = maps_of(torch.zeros_like(maps.values))
    assert not component.aggregate(features, zeros, None).vectors.any()
    state = component.fit(Collection([(features, zeros), *(photo(seed) for seed in range(5))]), QUIET)
    assert state["images"] == 5
    with pytest.raises(InstsearchError, match="no picture has a class map above zero"):
        component.fit(Collection([(features, zeros)]), QUIET)
    with pytest.raises(InstsearchError, match="no image to learn"):
        component.fit(Collection([]), QUIET)


def test_the_baselines_without_maps():
    features, maps = photo(7)
    for channels, weigh in (("none", False), ("ssw", True)):
        component = made(cams=False, whiten=False, channels=channels)
        ones = WeightMap(torch.ones(1, 6, 10), features.grid)
        expected = by_loops(features.values, ones.values, weigh=weigh)
        for weights in (ones, None):
            close(component.aggregate(features, weights, None).vectors, expected, 1e-5)
        box = BoxWeight((0.0, 0.0, 80.0, 48.0))
        inside = by_loops(features.values[:, :3, :5], ones.values[:, :3, :5], weigh=weigh)
        close(component.aggregate(features, box, None).vectors, inside, 1e-5)
        summed = by_loops(features.values, maps.values.sum(0, keepdim=True), weigh=weigh)
        close(component.aggregate(features, maps, None).vectors, summed, 1e-5)


def test_codes_need_class_maps():
    features, maps = photo(8)
    for weights in (None, WeightMap(maps.values, maps.grid), BoxWeight((0.0, 0.0, 9.0, 9.0))):
        with pytest.raises(UsageError, match="--weighting cam"):
            made().aggregate(features, weights, None)
    points = Keypoints(torch.ones(2, 6), torch.ones(2, 4), features.grid)
    with pytest.raises(UsageError, match="feature map"):
        made().aggregate(points, maps, None)
    with pytest.raises(UsageError, match="n-pca is at least 1"):
        make_config(encoder.CAM, {"n_pca": 0}, "encoder")
    assert isinstance(made(), Encoder)
