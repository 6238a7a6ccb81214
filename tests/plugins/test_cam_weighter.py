"""Weights of class activation maps: most probable and given classes, queries, drawings, what cannot be."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from class_weighted import CPU, SIZE, close, drawn, made
from instsearch_cli.components import Weighter
from instsearch_cli.data import FeatureMap, Grid, Inputs, Keypoints, WeightMap
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.options import make_config
from instsearch_cli.storage import from_item, to_item
from instsearch_plugins.extractors.networks import SqueezeNet10
from instsearch_plugins.numeric.cam import class_activation_maps, most_probable
from instsearch_plugins.weighters.cam import CAM


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
    assert own._names == ["0", "1", "2"]
    path.with_suffix(".json").write_text(json.dumps({"classes": ["cup", "tin", "0"]}))
    own = weighter(weights=str(path), n_classes=2, classes="tin,0,1")
    assert own._listed.tolist() == [1, 2]  # a class called 0 is that one
    with pytest.raises(UsageError, match="0 to 2, not 3"):
        _ = weighter(weights=str(path), n_classes=2, classes="3")._listed


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
    assert drawings[0].caption == f"class 1: {component._names[best]}, probability {p:.2g}"
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
    assert [c.split(": ")[1].split(",")[0] for c in captions] == [component._names[c] for c in order]


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
