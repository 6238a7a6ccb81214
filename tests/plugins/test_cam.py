"""Class-weighted features: the card's numbers, plain loops, boxes in cells, given classes, what cannot be."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from instsearch_cli.components import Encoder, Weighter
from instsearch_cli.data import BoxWeight, FeatureMap, Grid, Inputs, Keypoints, Regions, WeightMap
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.options import make_config
from instsearch_cli.storage import from_item, to_item, to_state
from instsearch_plugins.encoders import cam as encoder
from instsearch_plugins.extractors.networks import SqueezeNet10
from instsearch_plugins.numeric.cam import class_activation_maps, most_probable, normalised
from instsearch_plugins.weighters.cam import CAM

CPU = torch.device("cpu")
QUIET = SimpleNamespace(start=lambda *a: None, advance=lambda n=1: None)
SIZE = (160, 96)


def close(actual, expected, atol=1e-6):
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=actual.dtype), atol=atol, rtol=1e-5)


def drawn(seed, *shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


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


def made(**options):
    config = make_config(encoder.CAM, options, "encoder")
    component = encoder.CAM(config, CPU)
    component.load({})
    return component


def features_of(values):
    return FeatureMap(values, Grid.over(*values.shape[1:], SIZE))


def maps_of(values, classes=None):
    classes = torch.arange(len(values)) if classes is None else classes
    return WeightMap(values, Grid.over(*values.shape[1:], SIZE), classes)


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


# -- the weighter ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """Squeezenet's classifier, drawn by lot, in a weights file of the whole network."""
    from torchvision.models import squeezenet1_0

    torch.manual_seed(5)
    network = squeezenet1_0(weights=None)
    network.classifier[1].weight.data.normal_(0, 1)
    path = tmp_path_factory.mktemp("weights") / "squeezenet1_0.pth"
    torch.save(network.state_dict(), path)
    return path, network.classifier[1].weight.detach().flatten(1)


@pytest.fixture
def weighter(network):
    """A weighter on that network: ``weighter(n_classes=4)``."""

    def made(**options):
        given = {"network": "squeezenet1_0", "weights": str(network[0]), **options}
        return CAM(make_config(CAM, given, "weighting"), CPU)

    return made


def classified(seed, cam=None, K=512, logits=True):
    values = (drawn(seed, K, 4, 6) - 0.5).clamp(min=0)
    told = drawn(seed + 50, 1000) * 9 if logits else None
    return FeatureMap(values, Grid.over(4, 6, SIZE), told, cam)


def asked(features):
    return Inputs(size=SIZE, grid=features.grid, features=features)


def test_a_pictures_most_probable_classes_and_their_maps(weighter, network):
    component, features = weighter(n_classes=5), classified(1)
    weights = component.weigh(asked(features))
    assert weights.classes.tolist() == sorted(range(1000), key=lambda c: -features.logits[c])[:5]
    for c, found in zip(weights.classes, weights.values, strict=True):
        M = torch.einsum("k,khw->hw", network[1][c], features.values)
        close(found, (M / M.max()).clamp(min=0), 1e-5)
    assert weights.grid == features.grid
    assert isinstance(component, Weighter)
    again = from_item("weight-map", to_item("weight-map", weights))
    assert torch.equal(again.classes, weights.classes)
    close(again.values, weights.values, 1e-3)
    with ThreadPoolExecutor(4) as pool:
        others = list(pool.map(lambda _: weighter(n_classes=5).weigh(asked(features)).values, range(4)))
    assert all(torch.equal(other, weights.values) for other in others)


def test_maps_are_made_of_the_cam_layer_where_it_is_kept(weighter):
    A = (drawn(2, 512, 4, 6) - 0.5).clamp(min=0)
    features = classified(3, cam=A, K=16)
    alone = FeatureMap(A, features.grid, features.logits)
    component = weighter(n_classes=3)
    assert torch.equal(component.weigh(asked(features)).values, component.weigh(asked(alone)).values)


def test_a_query_has_the_classes_of_its_box_over_the_whole_picture(weighter):
    whole, crop = classified(4), classified(5)
    component = weighter(n_classes=4)
    weights = component.weigh_query(asked(whole), lambda: crop)
    assert weights.classes.tolist() == most_probable(crop.logits, 4).tolist()
    assert torch.equal(weights.values, component.class_maps(whole, weights.classes).values)
    named = weighter(classes="3,5")

    def never():
        raise AssertionError("given classes need no crop")

    assert named.weigh_query(asked(whole), never).classes.tolist() == [3, 5]


def test_given_classes(weighter):
    component = weighter(classes="Bell Cote, 538,dome,church,7,bell cote")
    features = classified(6, logits=False)
    assert component.weigh(asked(features)).classes.tolist() == [442, 538, 497, 7]
    assert component.identity()["classes"] == [442, 538, 497, 7]
    assert "classes" not in weighter().identity()
    listed = weighter(classes=["442", "538"], n_classes=5000)
    assert listed.weigh(asked(features)).classes.tolist() == [442, 538]
    assert weighter(classes="", n_classes=2).weigh(asked(classified(6))).classes.shape == (2,)


def test_names_of_a_network_trained_on_other_classes(weighter, network, tmp_path):
    state = torch.load(network[0], weights_only=True)
    state["classifier.1.weight"] = state["classifier.1.weight"][:3].clone()
    path = tmp_path / "own.pth"
    torch.save(state, path)
    own = weighter(weights=str(path), n_classes=2)
    assert own.names == ["0", "1", "2"]
    path.with_suffix(".json").write_text(json.dumps({"classes": ["cup", "tin", "0"]}))
    own = weighter(weights=str(path), n_classes=2, classes="tin,0,1")
    assert own.listed.tolist() == [1, 2]  # a class called 0 is that one
    with pytest.raises(UsageError, match="0 to 2, not 3"):
        _ = weighter(weights=str(path), n_classes=2, classes="3").listed


def test_bad_input_says_what_to_do(weighter, network, tmp_path, monkeypatch):
    def refused(text, features=None, kind=UsageError, **options):
        def weigh():
            component = weighter(**options)
            component.identity()
            component.weigh(asked(features or classified(7)))

        with pytest.raises(kind) as caught:
            weigh()
        assert text in str(caught.value)
        return str(caught.value)

    assert "--set extractor.logits=true" in refused("without logits", classified(8, logits=False))
    told = refused("made of 512 channels, and the features have 16", classified(9, K=16))
    assert "weighting.network" in told
    assert "extractor.cam-layer=features.12" in told
    assert "Did you mean 'dome'?" in refused("no class 'domme'", classes="domme")
    assert "instsearch classes" in refused("no class 'qqqqqq'", classes="qqqqqq")
    refused("0 to 999, not 1000", classes="1000")
    assert "at most that, not 1,001" in refused("1,000 classes apart", n_classes=1001)
    assert "squeezenet1_0" in refused("no linear classifier", network="vgg16")
    refused("Did you mean 'resnet50'?", network="resnet5")
    few = FeatureMap(classified(1).values, classified(1).grid, torch.zeros(20))
    refused("squeezenet1_0 tells 1,000 classes apart, and the extractor 20", few)
    monkeypatch.setenv("INSTSEARCH_OFFLINE", "1")
    monkeypatch.setenv("INSTSEARCH_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    refused("weighting.weights=FILE", kind=InstsearchError, weights="")
    with pytest.raises(UsageError, match="n-classes is at least 1"):
        weighter(n_classes=0)
    points = Keypoints(torch.ones(2, 6), torch.ones(2, 4), classified(1).grid)
    with pytest.raises(UsageError, match="needs a feature map"):
        weighter().weigh(asked(points))


def test_what_is_drawn(weighter):
    component, features = weighter(n_classes=8), classified(10)
    drawings = component.explain(asked(features))
    assert len(drawings) == 7
    best = int(features.logits.argmax())
    p = float(features.logits.softmax(0)[best])
    assert drawings[0].caption == f"class 1: {component.names[best]}, probability {p:.2g}"
    weights = component.weigh(asked(features))
    assert torch.equal(drawings[0].items[0].values[0], weights.values[0])
    assert drawings[-1].caption == "boxes: above 1, 10, 20, 30, 40 % of classes 1, 2"
    heat, boxes = drawings[-1].items
    close(heat.values[0], (weights.values[0] + weights.values[1]) / 2)
    assert boxes.boxes.shape == (5, 4)
    widths = boxes.boxes[:, 2] - boxes.boxes[:, 0]
    assert (widths[:-1] >= widths[1:]).all()  # higher thresholds, smaller boxes
    top = WeightMap(
        torch.zeros(2, 4, 6).index_fill_(1, torch.tensor([2]), 1.0), features.grid, torch.tensor([1, 2])
    )
    row = component.explain(Inputs(size=SIZE, features=features, weights=top))[-1].items[1].boxes
    close(row, [[0, 48, 160, 72]] * 5)
    alone = weighter(classes="538").explain(asked(classified(11, logits=False)))
    assert [d.caption for d in alone] == ["class 1: dome", "boxes: above 1, 10, 20, 30, 40 % of class 1"]


def test_given_classes_are_drawn_by_probability(weighter):
    features = classified(12)
    order = sorted((3, 5, 9), key=lambda c: -float(features.logits[c]))
    component = weighter(classes="3,5,9")
    captions = [d.caption for d in component.explain(asked(features))[:3]]
    assert [c.split(": ")[1].split(",")[0] for c in captions] == [component.names[c] for c in order]


def test_from_the_network_to_the_code(network):
    """Features, logits and maps of one network agree: the mean of a class's map is its logit, but for the ReLU."""
    from instsearch_cli.testing import make_image

    given = {"weights": str(network[0]), "logits": True}
    extractor = SqueezeNet10(make_config(SqueezeNet10, given, "extractor"), CPU)
    features = extractor.extract([make_image(160, 128)])[0]
    W = network[1]
    means = class_activation_maps(features.values, W).clamp(min=0).mean((1, 2))
    close(means, features.logits, 1e-3)
    options = {"network": "squeezenet1_0", "weights": str(network[0]), "n_classes": 8}
    weights = CAM(make_config(CAM, options, "weighting"), CPU).weigh(Inputs(size=SIZE, features=features))
    v = made().class_vectors(features, weights)
    assert v.shape == (8, 512)
    close(v.norm(dim=1), torch.ones(8), 1e-5)
