"""What class maps take from torchvision's networks: the cam layer, the classifier's weights, class names."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from instsearch_cli.data import Image
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.options import config_for, late
from instsearch_cli.storage import from_item, to_item
from instsearch_cli.testing import make_image
from instsearch_plugins.extractors import networks
from instsearch_plugins.extractors.class_maps import class_names, class_weights, with_class_weights
from instsearch_plugins.extractors.networks import VGG16, DenseNet161, ResNet50, ResNet101, SqueezeNet10
from random_networks import by_hand, folder, make, meta, randomised, resnet, squeezenet, weights_folder

__all__ = ["folder", "resnet", "squeezenet", "weights_folder"]  # fixtures


# -- the layer that class maps are made of -------------------------------------------------------------


def hooked(network: nn.Module, image: Image, *layers: str) -> list[torch.Tensor]:
    """What the layers put out, and at the end the logits, by hooks of this test's own."""
    kept: dict[str, torch.Tensor] = {}
    handles = [
        network.get_submodule(name).register_forward_hook(
            lambda *args, name=name: kept.update({name: args[2].clone()})
        )
        for name in layers
    ]
    with torch.no_grad():
        logits = network(by_hand(image))[0]
    for handle in handles:
        handle.remove()
    return [*(kept[name][0] for name in layers), logits]


@pytest.mark.parametrize("layer", ["layer3.5", "layer4.0", "layer1"])
def test_the_cam_layer_is_the_networks_on_the_grid_of_the_layer(resnet, layer):
    image = make_image()
    features = make(ResNet50, layer=layer, cam_layer="layer4").extract([image])[0]
    values, cam, logits = hooked(resnet, image, layer, "layer4")
    torch.testing.assert_close(features.values, values, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(features.logits, logits, rtol=1e-3, atol=1e-3)
    assert features.cam.shape == (2048, *values.shape[1:])
    if layer == "layer4.0":
        torch.testing.assert_close(features.cam, cam, rtol=1e-3, atol=1e-3)
    else:  # each cell between the centres of the coarser ones, as arithmetic has it
        h, w = values.shape[1:]
        i, j = h // 2, w - 1
        y, x = (
            (np.array(at) + 0.5) * n / m - 0.5 for at, n, m in ((i, cam.shape[1], h), (j, cam.shape[2], w))
        )
        y, x = np.clip(y, 0, cam.shape[1] - 1), np.clip(x, 0, cam.shape[2] - 1)
        a, b = int(y), int(x)
        c, d = min(a + 1, cam.shape[1] - 1), min(b + 1, cam.shape[2] - 1)
        top = (1 - (x - b)) * cam[:, a, b] + (x - b) * cam[:, a, d]
        bottom = (1 - (x - b)) * cam[:, c, b] + (x - b) * cam[:, c, d]
        expected = torch.as_tensor((1 - (y - a)) * top + (y - a) * bottom).float()
        torch.testing.assert_close(features.cam[:, i, j], expected, rtol=1e-3, atol=1e-3)


def test_a_cam_layer_that_is_the_layer_is_kept_once_and_has_the_logits(squeezenet):
    image = make_image()
    for options in ({}, {"layer": "features.12"}):
        features = make(SqueezeNet10, cam_layer="features.12", **options).extract([image])[0]
        assert features.cam is None
        assert features.logits.shape == (1000,)
        assert torch.equal(features.values, make(SqueezeNet10).extract([image])[0].values)


def test_one_pass_has_the_layer_the_cam_layer_and_the_logits(squeezenet):
    extractor = make(SqueezeNet10, layer="features.3", cam_layer="features.12")
    entered = []
    for name, module in extractor.network.named_modules():
        module.register_forward_pre_hook(lambda module, args, name=name: entered.append(name))
    images = [make_image(seed=s) for s in range(2)]
    together = extractor.extract(images)
    assert entered.count("features.0") == entered.count("classifier.1") == 1
    for image, features in zip(images, together, strict=True):
        alone = extractor.extract([image])[0]
        for name in ("values", "cam", "logits"):
            torch.testing.assert_close(getattr(features, name), getattr(alone, name), rtol=1e-3, atol=1e-3)
        back = from_item("dense-map", to_item("dense-map", features))
        assert torch.equal(back.cam, features.cam.half().float())
        assert torch.equal(back.logits, features.logits)


def test_densenets_cam_layer_is_rectified_whatever_the_layer(monkeypatch):
    network = randomised(meta("densenet121"))
    monkeypatch.setattr(networks, "load_state_dict", lambda path: network.state_dict())
    monkeypatch.setattr(networks, "find_weights", lambda *asked: None)
    monkeypatch.setattr(DenseNet161, "architecture", "densenet121")
    image = make_image()
    features = make(DenseNet161, layer="features.denseblock3", cam_layer="features").extract([image])[0]
    block, cam, _ = hooked(network, image, "features.denseblock3", "features.norm5")
    torch.testing.assert_close(features.values, block, rtol=1e-3, atol=1e-3)
    assert (block < 0).any()
    assert features.cam.shape[1:] == block.shape[1:]
    assert (features.cam >= 0).all()
    torch.testing.assert_close(features.cam.mean((1, 2)), cam.relu().mean((1, 2)), rtol=1e-3, atol=1e-3)


def test_the_cam_layer_is_looked_for_as_the_layer_is():
    with pytest.raises(UsageError, match=r"no layer 'features\.122'\. Did you mean 'features\.12'"):
        make(SqueezeNet10, cam_layer="features.122")._needed(meta("squeezenet1_0"))
    with pytest.raises(UsageError, match=r"layer 'fc' gives one vector"):
        make(ResNet50, cam_layer="fc")._needed(meta("resnet50"))
    with pytest.raises(UsageError, match=r"uses layer 'layer4\.0\.relu' 3 times"):
        make(ResNet50, cam_layer="layer4.0.relu")._needed(meta("resnet50"))
    assert "fc.weight" in make(ResNet50, layer="layer1", cam_layer="layer3")._needed(meta("resnet50"))


def test_layers_made_before_there_were_these_options_keep_their_identity(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"never opened")
    plain = make(SqueezeNet10, weights=str(path))
    assert config_for(plain.config, "codes").keys() == {"layer", "max_size", "logits", "precision"}
    told = [
        late(make(SqueezeNet10, weights=str(path), **options).config)
        for options in ({}, {"cam_layer": "features.12"}, {"scales": (64, 96)}, {"scales": (96, 64)})
    ]
    assert all(a != b for i, a in enumerate(told) for b in told[:i])
    assert told[1]["cam-layer"] == "features.12"
    assert told[2]["scales"] == (64, 96)


# -- what class maps take from the classifier ----------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "name", "head", "K", "cam"),
    [
        (ResNet50, "resnet50", "fc.weight", 2048, "layer4"),
        (ResNet101, "resnet101", "fc.weight", 2048, "layer4"),
        (DenseNet161, "densenet161", "classifier.weight", 2208, "features"),
        (SqueezeNet10, "squeezenet1_0", "classifier.1.weight", 512, "features.12"),
    ],
)
def test_class_weights_are_those_of_the_file_and_of_nothing_else_in_it(cls, name, head, K, cam, tmp_path):
    assert (cls.head, cls.cam) == (head, cam)
    with torch.device("meta"):
        network = torchvision.models.get_model(name, weights=None)
    shape = network.get_parameter(head).shape
    w = torch.randn(shape)
    torch.save({head: w}, tmp_path / "only.pth")
    found = class_weights(cls, str(tmp_path / "only.pth"))
    assert found.shape == (1000, K)
    assert torch.equal(found, w.reshape(1000, K))
    assert network.get_submodule(cam) is not None
    torch.save({"conv1.weight": w}, tmp_path / "trunk.pth")
    with pytest.raises(InstsearchError, match=f"no tensor '{head}', the classifier's weights"):
        class_weights(cls, str(tmp_path / "trunk.pth"))


def test_the_mean_of_a_class_map_and_the_bias_are_the_logit(resnet, folder):
    """GAP and the linear layer change places: sum_k w(c, k) mean f_k = mean sum_k w(c, k) f_k."""
    w = class_weights(ResNet50, str(folder / "resnet50.pth"))
    features = make(ResNet50, logits=True).extract([make_image()])[0]
    maps = torch.einsum("ck,khw->chw", w, features.values)
    torch.testing.assert_close(maps.mean((1, 2)) + resnet.fc.bias, features.logits, rtol=1e-3, atol=1e-3)


def test_a_network_without_a_linear_classifier_names_those_that_have_one():
    with pytest.raises(UsageError, match=r"vgg16 has no linear classifier .*") as caught:
        class_weights(VGG16)
    named = with_class_weights()
    assert {"resnet50", "resnet101", "densenet161", "squeezenet1_0"} <= set(named)
    assert {"vgg16", "sift"}.isdisjoint(named)
    assert str(caught.value).endswith(f"Take an extractor that has: {', '.join(named)}.")


def test_class_names_are_torchvisions():
    for cls in (ResNet50, SqueezeNet10, VGG16):
        names = class_names(cls)
        assert len(names) == 1000
        assert (names[0], names[497], names[698], names[999]) == (
            "tench",
            "church",
            "palace",
            "toilet tissue",
        )
