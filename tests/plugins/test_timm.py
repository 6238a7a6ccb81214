"""Extractor `timm`: its maps are timm's own, at any size. The models are timm's smallest, with random weights."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

pytest.importorskip("timm")

import timm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from instsearch_cli.data import Grid, Image
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.networks.weights import sha256
from instsearch_cli.testing import ExtractorContract, make_image
from instsearch_plugins.extractors.timm import Timm, described

CPU = torch.device("cpu")
VIT, REGISTERS, ROTARY = "test_vit", "test_vit2", "vit_small_patch16_dinov3"
SWIN, CONV = "swin_tiny_patch4_window7_224", "test_efficientnet"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("timm")


@pytest.fixture(autouse=True)
def offline(folder, monkeypatch):
    monkeypatch.setenv("INSTSEARCH_WEIGHTS", str(folder))
    monkeypatch.setenv("INSTSEARCH_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="module")
def networks(folder):
    """timm's own network of a name, for pictures of any size; its weights are in the folder."""
    made = {}

    def own(name):
        if name not in made:
            torch.manual_seed(0)
            made[name] = described(name).build().eval()
            for parameter in made[name].parameters():  # so that tokens, registers and scales of layers count
                parameter.data += 0.02 * torch.randn(parameter.shape)
            save_file(made[name].state_dict(), folder / f"{name}.safetensors")
        return made[name]

    return own


def make(name, **options):
    return Timm(Timm.Config(model=name, **options), CPU)


kept = functools.cache(make)


def picture(h, w, seed=0):
    return Image(np.random.default_rng(seed).integers(0, 256, (h, w, 3), np.uint8), (2 * w, 2 * h), "noise")


def by_hand(image, name):
    """The input as timm's own transforms make it of a picture that has the right size."""
    config = timm.data.resolve_model_data_config(described(name).build())
    mean, std = (torch.tensor(config[key])[:, None, None] for key in ("mean", "std"))
    return ((torch.from_numpy(image.pixels).permute(2, 0, 1).float() / 255 - mean) / std)[None]


class TestContract(ExtractorContract):
    component = Timm
    options = {"model": VIT}  # noqa: RUF012

    @pytest.fixture(autouse=True)
    def weights(self, networks):
        networks(VIT)


@pytest.mark.parametrize(
    ("name", "size", "layer"),
    [
        (VIT, (96, 208), ""),
        (VIT, (48, 64), "blocks.2"),
        (REGISTERS, (64, 144), "blocks.1"),
        (ROTARY, (64, 96), ""),
        (SWIN, (96, 160), ""),
        (SWIN, (71, 130), "layers.1"),
        (CONV, (75, 133), ""),
        (CONV, (64, 96), "blocks.2"),
        ("test_resnet", (65, 97), ""),
    ],
)
def test_maps_are_timms_own_at_any_size(networks, name, size, layer):
    network, image, extractor = networks(name), picture(*size), make(name, layer=layer)
    features = extractor.extract([image])[0]
    with torch.inference_mode():
        x = by_hand(image, name)
        # swin takes whole patches of 4 pixels, as all transformers take theirs
        h, w = extractor.input_size(*size)
        if (h, w) != size:
            x = torch.nn.functional.interpolate(x, (h, w), mode="bicubic", antialias=True)
        if layer:
            index = [each["module"] for each in network.feature_info].index(layer)
            expected = network.forward_intermediates(
                x, [index], norm=False, intermediates_only=True, output_fmt="NCHW"
            )[0]
        else:
            expected = network.forward_features(x)
    if expected.ndim == 3:  # rows of the grid, behind tokens of no place
        expected = expected[:, network.num_prefix_tokens :].transpose(1, 2).unflatten(2, (h // 16, w // 16))
    elif name == SWIN and not layer:
        expected = expected.permute(0, 3, 1, 2)
    torch.testing.assert_close(features.values[None], expected, rtol=1e-5, atol=1e-5)
    assert features.grid == Grid.over(*features.values.shape[1:], size=image.size)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(h=st.integers(1, 120), w=st.integers(1, 120))
def test_a_picture_of_any_shape_has_cells_over_all_of_it(networks, h, w):
    networks(VIT)
    values = kept(VIT).extract([picture(h, w)])[0]
    rows, columns = (max(round(n / 16), 2) for n in (h, w))
    assert values.values.shape == (64, rows, columns)
    assert values.grid == Grid.over(rows, columns, (2 * w, 2 * h))
    assert values.values.isfinite().all()


def test_sizes_are_whole_patches_and_never_larger(networks):
    extractor = make("vit_small_patch14_reg4_dinov2.lvd142m")
    assert extractor.fit_size(4000, 3000) == (448, 336)
    assert extractor.fit_size(300, 200) == (294, 196)
    assert extractor.fit_size(4000, 10) == (448, 10)
    assert extractor.input_size(10, 448) == (42, 448)
    fixed = make("test_vit_relpos")
    assert fixed.fit_size(4000, 3000) == (160, 160)
    assert fixed.fit_size(100, 3000) == (32, 160)
    assert fixed.input_size(90, 40) == (160, 160)
    assert make("dla60").input_size(90, 40) == (96, 32)


def test_a_model_of_one_size_is_given_that_size(networks):
    network, image = networks("test_vit_relpos"), picture(160, 160)
    features = make("test_vit_relpos").extract([Image(image.pixels, (640, 480), "wide")])[0]
    with torch.inference_mode():
        expected = network.forward_features(by_hand(image, "test_vit_relpos"))[0].T.reshape(-1, 10, 10)
    torch.testing.assert_close(features.values, expected, rtol=1e-5, atol=1e-5)
    assert features.grid == Grid(10, 10, (64.0, 48.0, 0.0, 0.0))


def test_the_class_token_comes_behind_the_channels_of_every_cell(networks):
    network, image = networks(VIT), picture(64, 96)
    plain = make(VIT).extract([image])[0].values
    both = make(VIT, class_token=True).extract([image])[0].values
    with torch.inference_mode():
        token = network.forward_features(by_hand(image, VIT))[0, 0]
    assert torch.equal(both[:64], plain)
    torch.testing.assert_close(both[64:], token[:, None, None].expand(64, 4, 6), rtol=1e-5, atol=1e-5)


def test_batches_pyramids_and_precisions(networks):
    networks(SWIN), networks(VIT)
    images = [picture(64, 80, seed) for seed in range(3)]
    for image, one in zip(images, make(VIT).extract(images), strict=True):
        torch.testing.assert_close(make(VIT).extract([image])[0].values, one.values, rtol=1e-4, atol=1e-4)
    levels = make(VIT, scales=(64, 40)).extract(images[:1])[0]
    assert levels.values.shape == (64, 4, 5)
    assert levels.levels[0].values.shape == (64, 2, 3)
    full = make(VIT).extract(images[:1])[0].values
    for precision in ("bf16", "fp16"):
        half = make(VIT, precision=precision).extract(images[:1])[0].values
        assert half.dtype == torch.float32
        assert 0 < (half - full).norm() / full.norm() < 0.05


def test_out_of_memory_goes_on_with_half_of_the_batch(networks, monkeypatch):
    networks(VIT)
    images, extractor, sizes = [picture(32, 48, seed) for seed in range(5)], make(VIT), []
    alone = [extractor.extract([image])[0].values for image in images]
    forward = extractor.forward

    def small(x):
        sizes.append(len(x))
        if len(x) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return forward(x)

    monkeypatch.setattr(extractor, "forward", small)
    together = extractor.extract(images)
    assert sizes == [5, 2, 3, 1, 2]
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one, other.values, rtol=1e-4, atol=1e-4)

    def none(x):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(extractor, "forward", none)
    with pytest.raises(
        InstsearchError, match="test_vit at 48 x 32 pixels does not fit into the memory of cpu"
    ):
        extractor.extract(images)


def test_logits_and_class_maps_are_of_the_linear_classifier(networks):
    from instsearch_plugins.extractors.class_maps import class_weights, network_of

    network, image = networks(CONV), picture(64, 96)
    features = make(CONV, logits=True).extract([image])[0]
    with torch.inference_mode():
        expected = network(by_hand(image, CONV))[0]
    torch.testing.assert_close(features.logits, expected, rtol=1e-4, atol=1e-4)
    w = class_weights(network_of(f"timm:{CONV}"))
    # the logits are the class maps' means, and the bias
    maps = torch.einsum("ck,khw->chw", w, features.values)
    torch.testing.assert_close(maps.mean((1, 2)) + network.classifier.bias, expected, rtol=1e-3, atol=1e-3)
    swin = network_of(f"timm:{SWIN}")
    assert (swin.head, swin.cam) == ("head.fc.weight", "norm")
    for name in (VIT, "test_convnext", "mobilenetv3_small_100"):  # tokens; a norm, a layer between
        with pytest.raises(UsageError, match=f"{name} has no linear classifier over a global average"):
            class_weights(network_of(f"timm:{name}"))
    with pytest.raises(UsageError, match="squeezenet1_0 is one network: name it without ':tiny'"):
        network_of("squeezenet1_0:tiny")


def test_identity(networks, folder):
    networks(VIT)
    path = folder / f"{VIT}.safetensors"
    assert make(VIT).identity() == {"weights": sha256(path), "architecture": VIT, "layer": "norm"}
    assert make(VIT, layer="blocks.1").identity()["layer"] == "blocks.1"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model": "vit_smal_patch16_224"}, r"timm has no model 'vit_smal_patch16_224'\. Did you mean '"),
        ({"model": "vit_tiny_patch16_224.nonsense"}, r"no model 'vit_tiny_patch16_224\.nonsense'"),
        ({"model": "hf-hub:somebody/model"}, "no model 'hf-hub:somebody/model'"),
        (
            {"model": "hiera_tiny_224"},
            "hiera_tiny_224 takes no pictures in colour, or has its tokens in no rows",
        ),
        ({"model": "crossvit_9_240"}, "crossvit_9_240 has no last map: name a module"),
        ({"model": CONV, "class_token": True}, "test_efficientnet has no class token"),
        ({"model": REGISTERS, "class_token": True}, "test_vit2 has no class token"),
        ({"model": "vit_small_patch14_reg4_dinov2.lvd142m", "logits": True}, "has no classifier"),
    ],
)
def test_what_a_model_cannot_do_is_said_at_once(options, said):
    with pytest.raises(UsageError, match=said):
        Timm(Timm.Config(**options), CPU)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"layer": "blocks.99"}, r"test_vit has no layer 'blocks\.99'\. Did you mean 'blocks"),
        ({"layer": "head"}, "'head' 0 times in one pass|layer 'head' gives one vector, not a map"),
        ({"layer": "blocks.0.attn.qkv", "class_token": True}, ""),
        ({"layer": "patch_embed", "class_token": True}, "layer 'patch_embed' has no class token"),
    ],
)
def test_layers(networks, options, said):
    networks(VIT)
    extractor = make(VIT, **options)
    if said:
        with pytest.raises(UsageError, match=said):
            extractor.extract([make_image()])
    else:
        assert extractor.extract([make_image()])[0].values.shape == (2 * 192, 4, 6)
