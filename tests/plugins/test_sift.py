"""RootSIFT and the geometry of its keypoints."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from instsearch_cli.data import Image
from instsearch_cli.testing import ExtractorContract
from instsearch_plugins.extractors.sift import Sift, rootsift, to_original


def sift(**options) -> Sift:
    return Sift(Sift.Config(**options), torch.device("cpu"))


def blobs(points, size, scale=1.0) -> np.ndarray:
    """Gaussian blobs of known centre and width, drawn analytically: u8[H, W, 3]."""
    w, h = size
    y, x = np.mgrid[0:h, 0:w] + 0.5  # pixel centres, corner convention
    picture = np.full((h, w), 40.0)
    for cx, cy, s in points:
        r = ((x - cx * scale) ** 2 + (y - cy * scale) ** 2) / (2 * (s * scale) ** 2)
        picture += 180 * np.exp(-r)
    return np.repeat(picture.clip(0, 255).round().astype(np.uint8)[:, :, None], 3, axis=2)


BLOBS = [(60.5, 72.25, 6.0), (200.75, 60.0, 8.0), (130.0, 190.5, 10.0), (290.25, 200.75, 7.0)]


def texture(seed: int, shape=(120, 160), blur=1.5) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), blur), None, 0, 255, cv2.NORM_MINMAX)


def image(pixels: np.ndarray, size=None) -> Image:
    return Image(pixels, size or (pixels.shape[1], pixels.shape[0]), "test")


class TestContract(ExtractorContract):
    component = Sift


@given(hnp.arrays(np.uint8, (5, 128), elements=st.integers(0, 255)))
def test_rootsift_is_the_plain_loop(d):
    r = rootsift(d)
    assert r.dtype == np.float32
    for row, unit in zip(d.tolist(), r, strict=True):
        total = sum(row)
        expected = [math.sqrt(v / total) if total else 0.0 for v in row]
        np.testing.assert_allclose(unit, expected, atol=1e-6)
        assert np.linalg.norm(unit) == pytest.approx(1.0 if total else 0.0, abs=1e-5)


def test_rootsift_products_are_the_hellinger_kernel():
    # sum sqrt(p q) of p = (1/4, 3/4), q = (1, 0) is 1/2
    d = np.zeros((2, 128), np.uint8)
    d[0, :2] = 1, 3
    d[1, 0] = 200
    r = rootsift(d)
    assert r[0] @ r[1] == pytest.approx(0.5)


def test_to_original_scales_about_the_corner():
    # the centre of the first pixel of a picture read at half width and a third of the height
    moved = to_original(np.array([[0.0, 0.0, 2.0, 30.0]], np.float32), (2.0, 3.0))
    np.testing.assert_allclose(moved, [[1.0, 1.5, 2 * math.sqrt(6), 30.0]], rtol=1e-6)


@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_keypoints_lie_on_the_blobs_in_original_pixels(factor):
    w, h = 360, 280
    pixels = blobs(BLOBS, (round(w * factor), round(h * factor)), factor)
    geometry = sift().extract([image(pixels, (w, h))])[0].geometry.numpy()
    for x, y, s in BLOBS:
        at = geometry[np.hypot(geometry[:, 0] - x, geometry[:, 1] - y).argmin()]
        assert math.hypot(at[0] - x, at[1] - y) < (0.1 if factor == 1.0 else 0.3)
        # a blob of standard deviation s answers most strongly near sigma = s
        assert 0.75 < at[2] / s < 1.34


def test_half_the_size_gives_the_same_places():
    w, h = 480, 400
    whole = texture(1, (h, w), 3.5)
    half = cv2.resize(whole, (w // 2, h // 2), interpolation=cv2.INTER_AREA)
    one, two = sift().extract([image(whole)])[0], sift().extract([image(half, (w, h))])[0]
    near = torch.cdist(two.geometry[:, :2], one.geometry[:, :2]).min(dim=1).values
    assert len(two.geometry) > 50
    assert (near < 1.5).float().mean() > 0.8
    assert near.median() < 0.5


def test_sift_matches_opencv_by_hand():
    pixels = texture(2)
    points, histograms = cv2.SIFT.create(enable_precise_upscale=True).detectAndCompute(
        cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), None
    )
    features = sift(keypoints=10_000).extract([image(pixels)])[0]
    assert len(features.values) == len(points) > 100
    by_hand = {
        (round(p.pt[0] + 0.5, 2), round(p.pt[1] + 0.5, 2), round(p.size / 2, 2), round(p.angle, 2)): d
        for p, d in zip(points, histograms, strict=True)
    }
    for value, at in zip(features.values, features.geometry.tolist(), strict=True):
        histogram = by_hand[tuple(round(v, 2) for v in at)]
        np.testing.assert_allclose(value, np.sqrt(histogram / histogram.sum()), atol=1e-6)


def test_the_strongest_are_kept_exactly_as_many_as_asked():
    pixels = np.tile(texture(3, (60, 80)), (2, 2, 1))  # repeated: many points are equally strong
    every = sift(keypoints=10_000).extract([image(pixels)])[0]
    for n in (1, 7, 50):
        some = sift(keypoints=n).extract([image(pixels)])[0]
        assert some.values.shape == (n, 128)
        assert some.geometry.shape == (n, 4)
        assert {tuple(g) for g in some.geometry.tolist()} <= {tuple(g) for g in every.geometry.tolist()}


def test_upright_points_have_angle_zero_and_no_duplicates():
    features = sift(upright=True, keypoints=100).extract([image(texture(4))])[0]
    assert features.values.shape == (100, 128)
    assert (features.geometry[:, 3] == 0).all()
    assert len({tuple(g) for g in features.geometry.tolist()}) == 100
    turned = sift(keypoints=100).extract([image(texture(4))])[0]
    assert (turned.geometry[:, 3] != 0).any()


def test_upright_descriptors_tell_a_turned_picture_apart_and_others_do_not():
    pixels = texture(5, (160, 160))
    turned = np.ascontiguousarray(np.rot90(pixels))

    def agreement(component: Sift) -> float:
        a, b = component.extract([image(pixels), image(turned)])
        return float((a.values @ b.values.T).max(dim=1).values.mean())

    assert agreement(sift()) > agreement(sift(upright=True)) + 0.02


@pytest.mark.parametrize("upright", [False, True])
@pytest.mark.parametrize("shape", [(64, 64, 3), (1, 1, 3), (1, 50, 3), (3, 400, 3)])
def test_a_blank_or_tiny_picture_has_no_keypoints(shape, upright):
    features = sift(upright=upright).extract([image(np.zeros(shape, np.uint8))])[0]
    assert features.values.shape == (0, 128)
    assert features.geometry.shape == (0, 4)
    assert features.values.dtype == features.geometry.dtype == torch.float32


def test_fit_size_keeps_the_ratio_and_never_enlarges():
    assert sift().fit_size(4000, 3000) == (1024, 768)
    assert sift().fit_size(640, 480) == (640, 480)
    assert sift(max_size=100).fit_size(20_000, 10) == (100, 1)
