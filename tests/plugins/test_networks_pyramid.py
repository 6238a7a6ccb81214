"""Feature maps of torchvision's networks at several sizes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torchvision

from instsearch_cli.data import Grid, Image
from instsearch_cli.errors import UsageError
from instsearch_cli.options import make_config
from instsearch_cli.storage import from_item, to_item
from instsearch_cli.testing import ExtractorContract, make_image
from instsearch_plugins.extractors import networks
from instsearch_plugins.extractors.networks import SqueezeNet10, scaled
from random_networks import by_hand, folder, make, squeezenet, weights_folder

__all__ = ["folder", "squeezenet", "weights_folder"]  # fixtures


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
        assert level.grid == Grid.over(*expected.shape[1:], size=image.size)
        assert level.logits is level.cam is None
    back = from_item("pyramid", to_item("pyramid", features))
    for level, kept in zip(levels, [back, *back.levels], strict=True):
        assert torch.equal(kept.values, level.values.half().float())
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
    assert scaled(*size, side=side) == wanted
    assert scaled(*wanted, side=side) == wanted  # a picture read at the largest size stays as it is


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
