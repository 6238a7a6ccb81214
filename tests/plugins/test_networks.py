"""Feature maps of torchvision's networks. The weights are random, of the sizes of the real ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from instsearch_cli.data import Grid, Image
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.networks.weights import sha256
from instsearch_cli.options import make_config
from instsearch_cli.testing import ExtractorContract, make_image
from instsearch_plugins.extractors import networks
from instsearch_plugins.extractors.networks import (
    VGG16,
    DenseNet161,
    ResNet50,
    ResNet101,
    SqueezeNet10,
    normalise,
)
from random_networks import by_hand, folder, make, meta, randomised, resnet, squeezenet, weights_folder

__all__ = ["folder", "resnet", "squeezenet", "weights_folder"]  # fixtures


class TestContract(ExtractorContract):
    component = SqueezeNet10

    @pytest.fixture(autouse=True)
    def weights(self, squeezenet):
        pass


def test_normalise_is_torchvisions():
    image = make_image()
    x = normalise(torch.from_numpy(image.pixels[None]).permute(0, 3, 1, 2))
    torch.testing.assert_close(x, by_hand(image), atol=1e-6, rtol=1e-5)
    assert x.is_contiguous(memory_format=torch.channels_last)


def test_squeezenet_is_the_features_run_by_hand(squeezenet):
    image = make_image()
    features = make(SqueezeNet10).extract([image])[0]
    with torch.no_grad():
        expected = squeezenet.features[:13](by_hand(image))[0]
    torch.testing.assert_close(features.values, expected, rtol=1e-4, atol=1e-4)
    assert features.values.dtype == torch.float32
    assert features.grid == Grid.over(*expected.shape[1:], size=image.size)
    assert features.logits is None


@pytest.mark.parametrize("layer", ["layer4", "layer4.0", "layer3.5", "layer2.1.bn3", "layer1.0.conv1"])
def test_resnet_is_its_layers_run_by_hand(resnet, layer):
    image = make_image()
    values = make(ResNet50, layer=layer).extract([image])[0].values
    kept = []
    with (
        torch.no_grad(),
        resnet.get_submodule(layer).register_forward_hook(lambda *args: kept.append(args[2].clone())),
    ):
        resnet(by_hand(image))
    torch.testing.assert_close(values, kept[0][0], rtol=1e-3, atol=1e-3)


def test_densenet_rectifies_its_default_layer_and_reads_the_published_names(monkeypatch):
    network = randomised(meta("densenet121"))  # a smaller one of the same making
    image = make_image()
    with torch.no_grad():
        features = network.features(by_hand(image))[0]
    # the published file has norm.1 where torchvision now has norm1
    published = {
        name.replace(".norm1.", ".norm.1.").replace(".norm2.", ".norm.2.").replace(".conv1.", ".conv.1.")
        if "denselayer" in name
        else name: tensor
        for name, tensor in network.state_dict().items()
        if not name.startswith("classifier") and not name.endswith("num_batches_tracked")
    }
    assert "features.denseblock1.denselayer1.norm.1.running_mean" in published
    monkeypatch.setattr(networks, "load_state_dict", lambda path: published)
    monkeypatch.setattr(networks, "find_weights", lambda *asked: None)
    monkeypatch.setattr(DenseNet161, "architecture", "densenet121")
    assert (features < 0).any()
    rectified = make(DenseNet161).extract([image])[0].values
    torch.testing.assert_close(rectified, features.relu(), rtol=1e-3, atol=1e-3)
    plain = make(DenseNet161, layer="features.norm5").extract([image])[0].values
    torch.testing.assert_close(plain, features, rtol=1e-3, atol=1e-3)


def test_vgg_reads_no_more_of_the_file_than_it_needs(monkeypatch):
    trunk = randomised(meta("vgg16").features[:26])
    # conv5_1 is the last tensor; there is no conv5_2, no fully connected layer
    state = {f"features.{name}": tensor for name, tensor in trunk.state_dict().items()}
    monkeypatch.setattr(networks, "load_state_dict", lambda path: state)
    monkeypatch.setattr(networks, "is_matlab", lambda path: False)
    monkeypatch.setattr(networks, "find_weights", lambda *asked: None)
    image = make_image()
    vgg = make(VGG16)
    with torch.no_grad():
        expected = trunk(by_hand(image))[0]
    features = vgg.extract([image])[0]
    torch.testing.assert_close(features.values, expected, rtol=1e-4, atol=1e-4)
    assert features.values.shape == (512, image.pixels.shape[0] // 16, image.pixels.shape[1] // 16)
    assert (features.values >= 0).all()
    unread = {name for name, tensor in vgg.network.named_parameters() if tensor.is_meta}
    assert {name.split(".")[0] for name in unread} == {"features", "classifier"}
    assert min(int(name.split(".")[1]) for name in unread if name.startswith("features")) == 26


def test_nothing_after_the_layer_is_computed(squeezenet):
    extractor = make(SqueezeNet10, layer="features.3")
    reached = []
    for name, module in extractor.network.named_modules():
        module.register_forward_pre_hook(lambda module, args, name=name: reached.append(name))
    extractor.extract([make_image()])
    assert "features.3.expand3x3_activation" in reached
    assert not {name for name in reached if name.startswith(("features.4", "classifier"))}


@pytest.mark.parametrize("layer", ["", "features.0", "features.12.squeeze"])
def test_logits_are_the_networks_and_leave_the_map_alone(squeezenet, layer):
    image = make_image()
    features = make(SqueezeNet10, layer=layer, logits=True).extract([image])[0]
    with torch.no_grad():
        expected = squeezenet(by_hand(image))[0]
    assert features.logits.shape == (1000,)
    torch.testing.assert_close(features.logits, expected, rtol=1e-3, atol=1e-3)
    # features.0 and the squeeze are followed by ReLUs that work in place
    stopped = make(SqueezeNet10, layer=layer).extract([image])[0]
    assert torch.equal(features.values, stopped.values)


@pytest.mark.parametrize("logits", [False, True])
def test_a_batch_is_its_pictures_one_by_one(squeezenet, logits):
    extractor = make(SqueezeNet10, logits=logits)
    images = [make_image(seed=s) for s in range(3)]
    for image, together in zip(images, extractor.extract(images), strict=True):
        alone = extractor.extract([image])[0]
        torch.testing.assert_close(together.values, alone.values, rtol=1e-4, atol=1e-4)
        if logits:
            torch.testing.assert_close(together.logits, alone.logits, rtol=1e-4, atol=1e-4)


def test_the_grid_covers_the_original_picture(squeezenet):
    image = make_image(width=96, height=80)
    original = Image(image.pixels, (960, 640), "large")
    features = make(SqueezeNet10).extract([original])[0]
    h, w = features.values.shape[1:]
    assert features.grid == Grid(h, w, (960 / w, 640 / h, 0.0, 0.0))


def test_lower_precision_is_near_and_comes_back_as_f32(squeezenet):
    image = make_image()
    full = make(SqueezeNet10).extract([image])[0].values
    half = make(SqueezeNet10, precision="bf16").extract([image])[0].values
    assert half.dtype == torch.float32
    error = (half - full).norm() / full.norm()
    assert 0 < error < 0.05


@pytest.mark.parametrize("shape", [(1, 1, 3), (8, 64, 3), (64, 8, 3)])
def test_tiny_pictures_have_a_cell(squeezenet, shape):
    pixels = np.full(shape, 200, np.uint8)
    features = make(SqueezeNet10).extract([Image(pixels, (shape[1], shape[0]), "tiny")])[0]
    assert min(features.values.shape[1:]) >= 1
    assert features.grid == Grid.over(*features.values.shape[1:], size=(shape[1], shape[0]))


def test_fit_size():
    extractor = make(SqueezeNet10)
    assert extractor.fit_size(4000, 3000) == (448, 336)
    assert extractor.fit_size(300, 400) == (300, 400)
    assert extractor.fit_size(10_000, 200) == (448, 32)
    assert extractor.fit_size(10_000, 5) == (448, 5)
    enlarging = make(SqueezeNet10, enlarge=True, max_size=512)
    assert enlarging.fit_size(300, 400) == (384, 512)
    assert enlarging.fit_size(4000, 3000) == (512, 384)


@pytest.mark.parametrize(
    ("cls", "name", "layer"),
    [
        (VGG16, "vgg16", "features.25"),
        (ResNet50, "resnet50", "layer4"),
        (ResNet101, "resnet101", "layer4"),
        (DenseNet161, "densenet161", "features"),
        (SqueezeNet10, "squeezenet1_0", "features.12"),
    ],
)
def test_identity_is_known_without_the_network(cls, name, layer, tmp_path, monkeypatch):
    monkeypatch.setattr("torchvision.models.get_model", None)
    path = tmp_path / "weights.pth"
    path.write_bytes(b"never opened as a checkpoint")
    extractor = make(cls, weights=str(path))
    assert extractor.identity() == {"weights": sha256(path), "architecture": name, "layer": layer}
    assert make(cls, weights=str(path), layer="x.1").identity()["layer"] == "x.1"
    with pytest.raises(TypeError):  # the patch above would show
        _ = extractor.network


@pytest.mark.parametrize(
    ("layer", "hint"),
    [("features.122", r"Did you mean 'features\.12'\?"), ("conv5_1", r"There is: .*features\.12,")],
)
def test_an_unknown_layer_is_refused_with_the_nearest(layer, hint):
    with pytest.raises(UsageError, match=f"squeezenet1_0 has no layer '{layer}'.*{hint}"):
        make(SqueezeNet10, layer=layer)._needed(meta("squeezenet1_0"))


def test_a_layer_used_twice_or_without_a_map_is_refused():
    with pytest.raises(UsageError, match=r"uses layer 'layer4\.0\.relu' 3 times"):
        make(ResNet50, layer="layer4.0.relu")._needed(meta("resnet50"))
    with pytest.raises(UsageError, match="layer 'fc' gives one vector"):
        make(ResNet50, layer="fc")._needed(meta("resnet50"))


def test_needed_tensors_are_those_on_the_way():
    needed = make(ResNet101, layer="layer4.0")._needed(meta("resnet101"))
    assert needed[0] == "conv1.weight"
    assert "layer4.0.downsample.1.running_var" in needed
    assert not [name for name in needed if name.startswith(("layer4.1", "fc")) or "tracked" in name]
    everything = make(ResNet101, layer="layer4.0", logits=True)._needed(meta("resnet101"))
    assert {"layer4.2.bn3.bias", "fc.weight", "fc.bias"} <= set(everything)


def test_weights_of_another_network_are_refused(squeezenet, folder):
    with pytest.raises(InstsearchError, match=r"'features\.0\.weight' has shape \(96, 3, 7, 7\)"):
        _ = make(VGG16, weights=str(folder / "squeezenet1_0.pth")).network
    with pytest.raises(InstsearchError, match=r"no tensor 'conv1\.weight' of shape \(64, 3, 7, 7\)"):
        _ = make(ResNet50, weights=str(folder / "squeezenet1_0.pth")).network


def test_options_are_checked():
    with pytest.raises(UsageError, match="precision is one of auto, fp32, fp16, bf16"):
        make_config(VGG16, {"precision": "fp8"}, "extractor")
    with pytest.raises(UsageError, match="max_size is at least 32"):
        make_config(VGG16, {"max_size": "31"}, "extractor")
