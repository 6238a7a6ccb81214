"""Feature maps of torchvision's networks. The weights are random, of the sizes of the real ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from instsearch_cli.data import Grid, Image
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.options import config_for, make_config
from instsearch_cli.storage import as_stored, from_item, to_item
from instsearch_cli.testing import ExtractorContract, make_image
from instsearch_cli.weights import sha256
from instsearch_plugins.extractors import networks
from instsearch_plugins.extractors.class_maps import class_names, class_weights, with_class_weights
from instsearch_plugins.extractors.networks import (
    VGG16,
    DenseNet161,
    Network,
    ResNet50,
    ResNet101,
    SqueezeNet10,
    normalise,
    scaled,
)

CPU = torch.device("cpu")


def meta(name: str) -> nn.Module:
    """A network without numbers, which takes no time and no memory."""
    with torch.device("meta"):
        return torchvision.models.get_model(name, weights=None).eval()


def randomised(network: nn.Module) -> nn.Module:
    """Weights under which activations keep their size, and batch norms that are not the identity."""
    network = network.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            deviation = (2 / module.weight[0].numel()) ** 0.5
            module.weight.data.normal_(0, deviation, generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.0, generator=generator)
            module.running_mean.uniform_(-0.2, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            module.num_batches_tracked.zero_()
        if getattr(module, "bias", None) is not None:
            module.bias.data.uniform_(-0.1, 0.1, generator=generator)
    return network


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def squeezenet(folder):
    network = randomised(meta("squeezenet1_0"))
    torch.save(network.state_dict(), folder / "squeezenet1_0.pth")
    return network


@pytest.fixture(scope="module")
def resnet(folder):
    network = randomised(meta("resnet50"))
    torch.save(network.state_dict(), folder / "resnet50.pth")
    return network


@pytest.fixture(autouse=True)
def weights_folder(folder, monkeypatch):
    monkeypatch.setenv("INSTSEARCH_WEIGHTS", str(folder))
    monkeypatch.setenv("INSTSEARCH_OFFLINE", "1")


def make(cls: type[Network], **options) -> Network:
    return cls(cls.Config(**options), CPU)


def by_hand(image: Image) -> torch.Tensor:
    """torchvision's own preprocessing."""
    x = torch.from_numpy(image.pixels).permute(2, 0, 1).float() / 255
    return torchvision.transforms.functional.normalize(x, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])[None]


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
    assert features.grid == Grid.over(*expected.shape[1:], image.size)
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
    assert features.grid == Grid.over(*features.values.shape[1:], (shape[1], shape[0]))


def test_fit_size():
    extractor = make(SqueezeNet10)
    assert extractor.fit_size(4000, 3000) == (448, 336)
    assert extractor.fit_size(300, 400) == (300, 400)
    assert extractor.fit_size(10_000, 200) == (448, 32)
    assert extractor.fit_size(10_000, 5) == (448, 5)


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
        torch.testing.assert_close(
            features.cam[:, i, j], ((1 - (y - a)) * top + (y - a) * bottom).float(), rtol=1e-3, atol=1e-3
        )


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
        assert torch.equal(back.cam, as_stored(features).cam)
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
        make(SqueezeNet10, weights=str(path), **options).identity()
        for options in ({}, {"cam_layer": "features.12"}, {"scales": (64, 96)}, {"scales": (96, 64)})
    ]
    assert all(a != b for i, a in enumerate(told) for b in told[:i])
    assert told[1]["cam-layer"] == "features.12"
    assert told[2]["scales"] == [64, 96]


# -- several sizes -------------------------------------------------------------------------------------


class TestPyramidContract(ExtractorContract):
    component = SqueezeNet10
    options = {"scales": "32,48"}  # noqa: RUF012

    @pytest.fixture(autouse=True)
    def weights(self, squeezenet):
        pass

    def test_fit_size_never_enlarges(self):
        """It does, where several sizes are asked for."""
        component = self.make()
        assert component.fit_size(640, 480) == (64, 48)
        assert component.fit_size(31, 17) == (88, 48)


def test_each_level_is_the_picture_at_that_size(squeezenet):
    extractor = make(SqueezeNet10, scales=(48, 96, 64))
    assert extractor.encoding == "pyramid"
    image = make_image(144, 96)
    assert extractor.fit_size(*image.size) == (144, 96)
    (features,) = extractor.extract([image])
    levels = [features, *features.levels]
    assert [level.levels for level in levels[1:]] == [(), ()]
    x = torch.from_numpy(image.pixels).permute(2, 0, 1)
    for level, (h, w) in zip(levels, [(48, 72), (96, 144), (64, 96)], strict=True):
        small = torchvision.transforms.functional.resize(x.float(), [h, w], antialias=True) / 255
        x_hat = torchvision.transforms.functional.normalize(small, networks.MEAN, networks.STD)[None]
        with torch.no_grad():
            expected = squeezenet.features[:13](x_hat)[0]
        torch.testing.assert_close(level.values, expected, rtol=1e-3, atol=1e-3)
        assert level.grid == Grid.over(*expected.shape[1:], image.size)
        assert level.logits is level.cam is None
    back = from_item("pyramid", to_item("pyramid", features))
    for level, kept in zip(levels, [back, *back.levels], strict=True):
        assert torch.equal(kept.values, as_stored(level).values)
        assert kept.grid == level.grid


def test_one_size_is_a_pyramid_too(squeezenet):
    image = make_image()
    (one,) = make(SqueezeNet10, scales=(64,)).extract([image])
    assert one.levels == ()
    plain = make(SqueezeNet10).extract([image])[0]
    torch.testing.assert_close(one.values, plain.values, rtol=1e-4, atol=1e-4)
    assert to_item("pyramid", one)["grids"].tolist() == [list(plain.grid.shape)]


def test_a_crop_is_brought_to_the_sizes_too(squeezenet):
    """What a query's box cuts out of a picture is smaller than the sizes."""
    image = make_image(64, 48)
    features = make(SqueezeNet10, scales=(96, 144)).extract([image])[0]
    x = F.interpolate(by_hand(image), size=(144, 192), mode="bilinear")
    with torch.no_grad():
        expected = squeezenet.features[:13](x)[0]
    torch.testing.assert_close(features.levels[0].values, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("size", "side", "wanted"),
    [
        ((640, 480), 240, (320, 240)),
        ((480, 640), 960, (960, 1280)),
        ((100, 400), 100, (100, 400)),
        ((100, 800), 100, (50, 400)),
        ((20_000, 10), 1024, (4096, 32)),
        ((1, 1), 32, (32, 32)),
    ],
)
def test_scaled(size, side, wanted):
    assert scaled(*size, side) == wanted
    assert scaled(*wanted, side) == wanted  # a picture read at the largest size stays as it is


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"scales": "64,31"}, "scales, batch"),
        ({"scales": "64", "cam_layer": "features.12"}, "cam_layer and logits are kept of one size"),
        ({"scales": "64", "logits": "true"}, "cam_layer and logits are kept of one size"),
    ],
)
def test_sizes_that_cannot_be(options, reason):
    with pytest.raises(UsageError, match=reason):
        make_config(SqueezeNet10, options, "extractor")
    assert make_config(SqueezeNet10, {"scales": "64,128"}, "extractor").scales == (64, 128)


def test_an_index_of_several_sizes(squeezenet, tmp_path, capsys):
    """From the command line: kept, read again, added to with a picture that is gone, and asked."""
    from PIL import Image as Pillow

    from instsearch_cli.main import run
    from instsearch_formats import Index

    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(4):
        Pillow.fromarray(make_image(96 + 16 * (i % 2), 64, seed=i).pixels).save(photos / f"{i}.png")
    flags = ["--extractor", "squeezenet1_0", "--set", "extractor.scales=32,64,48", "--encoder", "spoc"]
    index = tmp_path / "index"

    def call(*arguments):
        assert run([str(a) for a in arguments]) == 0, capsys.readouterr()
        return capsys.readouterr().out

    flags += ["--set", "encoder.dims=2"]
    call("index", photos, "--index", index, *flags, "--keep-features")
    opened = Index.open(index)
    (info,) = (layer for layer in opened.layers() if layer.kind == "features")
    assert info.encoding == "pyramid"
    layer = opened.layer("features", info.name, info.encoding, info.identity)
    assert layer.read(1)["grids"].tolist() == [[1, 3], [3, 6], [2, 4]]
    extractor = make(SqueezeNet10, scales=(32, 64, 48))
    made = extractor.extract([Image(make_image(112, 64, seed=1).pixels, (112, 64), "1")])[0]
    stored = from_item("pyramid", layer.read(1))
    torch.testing.assert_close(stored.levels[0].values, made.levels[0].values, rtol=1e-2, atol=1e-2)
    call("remove", "--index", index, photos / "0.png")
    call("verify", "--index", index)
    assert "1.png" in call("query", photos / "1.png", "--index", index, "--box", "10,10,60,40")


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
