"""Extractors of learnt keypoints: kornia's networks, their files, and the frames of their keypoints."""

from __future__ import annotations

import importlib.util
import math

import numpy as np
import pytest
import torch

from instsearch_cli.data import Image
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.networks.importing import import_weights
from instsearch_cli.storage import from_item, to_item
from instsearch_cli.testing import ExtractorContract
from instsearch_plugins.encoders.bovw import BagOfVisualWords
from instsearch_plugins.extractors.aliked import Aliked
from instsearch_plugins.extractors.dedode import DeDoDe
from instsearch_plugins.extractors.keynet_hardnet import KeyNetHardNet
from instsearch_plugins.extractors.learnt_keypoints import SUPPORT, gradient_angles, textured
from learnt_keypoints import CPU, SMALL, drawn, extractor, files, picture, published

pytest.importorskip("kornia")

__all__ = ["files"]
NAMES = pytest.mark.parametrize("name", SMALL)


class Contract(ExtractorContract):
    name: str

    @pytest.fixture(autouse=True)
    def _weights(self, files, monkeypatch):
        monkeypatch.setattr(type(self), "options", {"weights": str(files[self.name])})


class TestAliked(Contract):
    name, component = "aliked", SMALL["aliked"]


class TestDisk(Contract):
    name, component = "disk", SMALL["disk"]


class TestXFeat(Contract):
    name, component = "xfeat", SMALL["xfeat"]


class TestKeyNetHardNet(Contract):
    name, component = "keynet-hardnet", SMALL["keynet-hardnet"]


def by_kornia(name, image):
    """Places, scores and descriptors as kornia's own forward pass has them."""
    network = drawn(SMALL[name].build)
    x = torch.from_numpy(image.pixels).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        match name:
            case "aliked":
                network.dkd.top_k = 100_000
                found = network(x)[0]
                return found.keypoints, found.keypoint_scores, found.descriptors
            case "disk":
                found = network(x)[0]
                return found.keypoints, found.detection_scores, found.descriptors
            case "xfeat":
                found = network.detectAndCompute(x)[0]
                return found["keypoints"], found["scores"], found["descriptors"]


@pytest.mark.parametrize("name", ["aliked", "disk", "xfeat"])
def test_keypoints_are_those_of_kornia(name, files):
    image = picture()
    places, scores, descriptors = by_kornia(name, image)
    some = scores > 0
    order = scores[some].argsort(descending=True, stable=True)
    features = extractor(name, files, scales=(1.0,), keypoints=100_000).extract([image])[0]
    assert len(features.values) == len(order) > 5
    np.testing.assert_allclose(features.geometry[:, :2], places[some][order] + 0.5, atol=1e-4)
    np.testing.assert_allclose(features.values, descriptors[some][order], atol=1e-5)
    assert (features.geometry[:, 2:] == (SUPPORT, 0)).all()


def test_disk_of_two_pictures_keeps_the_strongest_of_each(files):
    images = [picture(), Image(picture().pixels[::-1].copy(), picture().size)]
    found = extractor("disk", files, scales=(1.0,), keypoints=7).extract(images)
    for features, image in zip(found, images, strict=True):
        places, scores, descriptors = by_kornia("disk", image)
        order = scores.argsort(descending=True, stable=True)[:7]
        np.testing.assert_allclose(features.geometry[:, :2], places[order] + 0.5, atol=1e-4)
        np.testing.assert_allclose(features.values, descriptors[order], atol=1e-5)


def test_keynet_frames_are_those_of_kornia(files):
    from kornia.feature.laf import get_laf_center, get_laf_orientation, laf_is_filled

    image = picture(128, 160)
    network = drawn(KeyNetHardNet.build)
    network.detector.num_features = 50
    x = torch.from_numpy(image.pixels).permute(2, 0, 1)[None].float().mean(1, keepdim=True) / 255
    with torch.inference_mode():
        frames, scores, descriptors = network(x)
    some = laf_is_filled(frames)[0]
    features = extractor("keynet-hardnet", files, keypoints=50).extract([image])[0]
    assert len(features.values) == int(some.sum()) > 5
    order = scores[0, some].argsort(descending=True, stable=True)
    np.testing.assert_allclose(features.values, descriptors[0, some][order], atol=1e-5)
    apart = features.geometry[:, :2] - get_laf_center(frames)[0, some][order].numpy()
    growth = (
        features.geometry[:, 2:3] / SUPPORT
    )  # a pixel (u, v) of a level is brought back to (u + 1/2) growth
    np.testing.assert_allclose(apart, np.broadcast_to(growth / 2, apart.shape), atol=0.02)
    np.testing.assert_allclose(
        features.geometry[:, 3], (-get_laf_orientation(frames)[0, some, 0][order]) % 360, atol=0.01
    )


def test_dedode_is_that_of_kornia(monkeypatch):
    network = drawn(DeDoDe.build)
    image = picture(56, 84)
    component = DeDoDe(DeDoDe.Config(scales=(1.0,), keypoints=20), CPU)
    monkeypatch.setattr(type(component), "_network", network)
    features = component.extract([image])[0]
    x = torch.from_numpy(image.pixels).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        places, _, descriptors = network(x, 20)  # kornia counts from the corner here
    assert features.values.shape == (20, 256)
    np.testing.assert_allclose(features.geometry[:, :2], places[0], atol=1e-3)
    unit = torch.nn.functional.normalize(descriptors[0], dim=1)
    np.testing.assert_allclose(features.values, unit, atol=1e-4)


@NAMES
@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (31, 47)])
def test_tiny_pictures_and_strips(name, shape, files):
    features = extractor(name, files).extract([picture(*shape)])[0]
    h, w = shape
    assert np.isfinite(features.values).all()
    assert ((features.geometry[:, :2] >= 0) & (features.geometry[:, :2] <= (w, h))).all()


@NAMES
def test_blank_pictures_have_no_keypoints(name, files):
    for level in (0, 128, 255):
        blank = Image(np.full((90, 70, 3), level, np.uint8), (70, 90), "blank")
        features = extractor(name, files).extract([blank])[0]
        assert features.geometry.shape == (0, 4)
        assert len(features.values) == 0


@NAMES
def test_the_strongest_are_kept_at_several_sizes(name, files):
    image = picture(128, 192)
    every = extractor(name, files, keypoints=10_000, scales=(1.0, 0.5)).extract([image])[0]
    few = extractor(name, files, keypoints=10, scales=(1.0, 0.5)).extract([image])[0]
    assert len(every.values) > 10 == len(few.values)
    np.testing.assert_allclose(few.geometry, every.geometry[:10], atol=1e-3)
    assert {SUPPORT, 2 * SUPPORT} <= set(np.round(every.geometry[:, 2], 3).tolist())


def test_geometry_is_in_pixels_of_the_original(files):
    once = extractor("xfeat", files, scales=(1.0,)).extract([picture()])[0]
    twice = extractor("xfeat", files, scales=(1.0,)).extract([picture(size=(256, 288))])[0]
    np.testing.assert_allclose(twice.geometry[:, :2], once.geometry[:, :2] * (2, 3), rtol=1e-6)
    np.testing.assert_allclose(twice.geometry[:, 2], SUPPORT * math.sqrt(6), rtol=1e-6)


@pytest.mark.parametrize(("turns", "angle"), [(0, 0), (3, 90), (2, 180), (1, 270)])
def test_gradient_angles_turn_with_the_picture(turns, angle):
    ramp = np.rot90(np.tile(np.linspace(0, 1, 64, dtype=np.float32), (64, 1)), turns).copy()
    found = gradient_angles(torch.from_numpy(ramp), torch.tensor([[32.0, 32.0], [30.0, 33.0]]))
    apart = (found.numpy() - angle + 180) % 360 - 180
    assert np.abs(apart).max() < 3


def test_gradient_angles_of_texture_turn_with_it():
    grey = picture(128, 128, seed=4).pixels[:, :, 0] / np.float32(255)
    rng = np.random.default_rng(0)
    places = rng.integers(30, 98, (50, 2)).astype(np.float32)
    turned = np.stack(
        [127 - places[:, 1], places[:, 0]], axis=1
    )  # clockwise, about the centres of the pixels
    one, two = (
        gradient_angles(torch.from_numpy(x.copy()), torch.from_numpy(at)).numpy()
        for x, at in ((grey, places), (np.rot90(grey, 3), turned))
    )
    apart = np.abs((two - one - 90 + 180) % 360 - 180)
    assert np.median(apart) < 1
    assert (apart < 15).mean() > 0.85  # two directions may be as strong


@pytest.mark.parametrize("name", ["aliked", "xfeat"])
def test_angles_are_those_asked_for(name, files):
    image = picture(seed=4)
    upright, turned = (
        extractor(name, files, angle=angle, scales=(1.0,)).extract([image])[0]
        for angle in ("own", "gradient")
    )
    grey = torch.from_numpy(image.pixels).float().mean(2) / 255
    expected = gradient_angles(grey, torch.from_numpy(upright.geometry[:, :2] - np.float32(0.5)))
    apart = (turned.geometry[:, 3] - expected.numpy() + 180) % 360 - 180
    assert not upright.geometry[:, 3].any()
    assert np.abs(apart).max() < 0.1
    assert np.array_equal(turned.values, upright.values)


def test_textured_is_what_is_not_amid_one_colour():
    x = torch.full((3, 40, 40), 0.5)
    x[1, 20, 20] += 1 / 255
    places = torch.tensor([[20.0, 20.0], [24.0, 16.0], [25.0, 20.0], [20.0, 15.4], [-3.0, 60.0]])
    assert textured(x, places).tolist() == [True, True, False, False, False]


def test_stored_descriptors_are_off_by_half_a_unit_of_f16(files):
    features = extractor("aliked", files).extract([picture()])[0]
    stored = from_item("keypoints", to_item("keypoints", features))
    assert np.array_equal(stored.geometry, features.geometry)
    assert np.abs(stored.values - features.values).max() <= 2**-12  # of numbers below 1
    np.testing.assert_allclose(np.linalg.norm(stored.values, axis=1), 1, atol=1e-3)


# -- weights ------------------------------------------------------------------------------------------


@NAMES
def test_published_files_are_imported(name, files, tmp_path):
    done = import_weights(SMALL[name], files[name], tmp_path)
    assert done.path.name == f"{SMALL[name].architecture}.pth"
    own, again = (drawn(SMALL[name].build, seed).state_dict() for seed in (0, 1))
    kept = torch.load(done.path, weights_only=True)
    assert all(torch.equal(kept[key], own[key]) for key in kept)
    assert not all(torch.equal(kept[key], again[key]) for key in kept)


@NAMES
def test_another_networks_file_is_refused(name, files):
    other = next(n for n in SMALL if n != name)
    component = SMALL[name](SMALL[name].Config(weights=str(files[other])), CPU)
    with pytest.raises(InstsearchError, match=r"no tensor '.*' of shape|not a state dict"):
        component.extract([picture(32, 32)])


def test_models_of_aliked_are_told_by_their_shapes(files, tmp_path):
    from kornia.feature import ALIKED

    small = published("aliked", drawn(lambda: ALIKED("aliked-t16")))
    torch.save(small, tmp_path / "aliked-t16.pth")
    wrong = Aliked(Aliked.Config(weights=str(tmp_path / "aliked-t16.pth")), CPU)
    with pytest.raises(InstsearchError, match="has shape"):
        wrong.extract([picture()])
    right = Aliked(Aliked.Config(weights=str(tmp_path / "aliked-t16.pth"), model="t16"), CPU)
    assert right.extract([picture()])[0].values.shape[1] == 64


def test_what_is_missing_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("INSTSEARCH_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with pytest.raises(InstsearchError, match=r"no weights for xfeat. Published: xfeat.pt of .*Apache-2.0"):
        SMALL["xfeat"](SMALL["xfeat"].Config(), CPU).identity()
    with pytest.raises(InstsearchError, match=r"aliked-t16.pth and point INSTSEARCH_WEIGHTS"):
        Aliked(Aliked.Config(model="t16"), CPU).identity()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name, component in {**SMALL, "dedode": DeDoDe}.items():
        with pytest.raises(InstsearchError, match=rf"extractor {name} needs kornia.*instsearch\[kornia\]"):
            component.build()


@pytest.mark.parametrize(
    "options", [{"keypoints": 0}, {"max_size": 31}, {"scales": ()}, {"scales": (1.5,)}, {"batch": -1}]
)
def test_options_out_of_range(options):
    with pytest.raises(ValueError, match=r"at least|scales"):
        Aliked.Config(**options)


def test_words_of_sift_are_not_given_to_others(files):
    features = extractor("aliked", files).extract([picture()])[0]  # as many values as SIFT has
    with pytest.raises(UsageError, match=r"is of SIFT.*vocabulary=own"):
        BagOfVisualWords(BagOfVisualWords.Config()).embed(features)
