"""RootSIFT and the geometry of its keypoints."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from instsearch_cli.data import Image
from instsearch_cli.options import config_for, late
from instsearch_cli.testing import ExtractorContract
from instsearch_plugins.extractors.sift import Sift, rootsift, taking_turns, to_original


def sift(**options) -> Sift:
    return Sift(Sift.Config(**options), None)


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
    geometry = sift().extract([image(pixels, (w, h))])[0].geometry
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
    apart = two.geometry[:, None, :2] - one.geometry[None, :, :2]
    near = np.linalg.norm(apart, axis=2).min(axis=1)
    assert len(two.geometry) > 50
    assert (near < 1.5).mean() > 0.8
    assert np.median(near) < 0.5


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
        return float((a.values @ b.values.T).max(axis=1).mean())

    assert agreement(sift()) > agreement(sift(upright=True)) + 0.02


@pytest.mark.parametrize("upright", [False, True])
@pytest.mark.parametrize("shape", [(64, 64, 3), (1, 1, 3), (1, 50, 3), (3, 400, 3)])
def test_a_blank_or_tiny_picture_has_no_keypoints(shape, upright):
    features = sift(upright=upright).extract([image(np.zeros(shape, np.uint8))])[0]
    assert features.values.shape == (0, 128)
    assert features.geometry.shape == (0, 4)
    assert features.values.dtype == features.geometry.dtype == np.float32


def test_fit_size_keeps_the_ratio_and_never_enlarges():
    assert sift().fit_size(4000, 3000) == (1024, 768)
    assert sift().fit_size(640, 480) == (640, 480)
    assert sift(max_size=100).fit_size(20_000, 10) == (100, 1)


def faint(pixels: np.ndarray, contrast: float) -> np.ndarray:
    return (128 + (pixels.astype(np.float32) - 128) * contrast).round().astype(np.uint8)


def test_poor_texture_is_filled_up_from_fainter_extrema():
    poor = image(faint(texture(6), 0.4))
    few = sift().extract([poor])[0].geometry
    assert 0 < len(few) < 60
    filled = sift(at_least=60, faint_threshold=0.005).extract([poor])[0].geometry
    assert len(filled) == 60
    # the strongest come first, whichever threshold they passed
    np.testing.assert_allclose(filled[: len(few)], few, atol=1e-3)
    every = sift(contrast_threshold=0.005).extract([poor])[0].geometry
    np.testing.assert_array_equal(filled, every[:60])


@pytest.mark.parametrize("options", [{"upright": True}, {"spread": 4}])
def test_faint_extrema_are_found_in_every_way(options):
    poor = image(faint(texture(6), 0.4))
    few = len(sift(**options).extract([poor])[0].geometry)
    assert few < len(sift(at_least=60, faint_threshold=0.005, **options).extract([poor])[0].geometry) == 60


def test_pictures_with_enough_keypoints_are_not_filled_up():
    rich = image(texture(7))
    usual, asked = (sift(at_least=n).extract([rich])[0] for n in (0, 50))
    assert len(usual.geometry) > 50
    assert np.array_equal(usual.geometry, asked.geometry)
    assert np.array_equal(usual.values, asked.values)


def plain_turns(points, side):
    """One after the other, each cell gives its first point; cells in the order of what they give."""
    left = [(i, tuple(int(v // side) for v in p)) for i, p in enumerate(points)]
    order = []
    while left:
        given = set()
        for i, cell in list(left):
            if cell not in given:
                given.add(cell)
                order.append(i)
                left.remove((i, cell))
    return order


@given(hnp.arrays(np.float64, (17, 2), elements=st.floats(0, 99)), st.floats(1, 120))
def test_taking_turns_is_the_plain_loop(points, side):
    assert taking_turns(points, side).tolist() == plain_turns(points, side)


def test_spread_keeps_some_in_every_textured_cell():
    """Strong texture on the left, a fainter one elsewhere: the strongest 64 are all on the left."""
    pixels = np.concatenate([texture(8, (320, 160)), faint(texture(9, (320, 160)), 0.6)], axis=1)

    def shares(**options) -> np.ndarray:
        xy = sift(keypoints=64, **options).extract([image(pixels)])[0].geometry[:, :2]
        assert len(xy) == 64
        return np.histogram2d(xy[:, 0], xy[:, 1], bins=4, range=[[0, 320], [0, 320]])[0]

    assert shares()[2:].sum() < 8
    assert shares(spread=4).min() >= 2


def test_spread_changes_nothing_where_all_are_kept():
    a, b = (sift(keypoints=5000, spread=n).extract([image(texture(10))])[0] for n in (0, 6))
    as_rows = [{tuple(round(v, 1) for v in g) for g in x.geometry.tolist()} for x in (a, b)]
    assert as_rows[0] == as_rows[1]


def test_layers_made_before_there_was_a_choice_keep_their_identity():
    assert late(sift().config) == late(sift(keypoints=700, faint_threshold=0.02).config) == {}
    assert late(sift(at_least=200).config) == {"at-least": 200, "faint-threshold": 0.01}
    assert late(sift(spread=8).config) == {"spread": 8}
    usual = {"keypoints", "contrast_threshold", "edge_threshold", "upright", "max_size"}
    assert set(config_for(Sift.Config(), "codes")) == usual


@pytest.mark.parametrize(
    "options", [{"at_least": -1}, {"at_least": 2000}, {"spread": -1}, {"faint_threshold": 0}]
)
def test_senseless_options(options):
    with pytest.raises(ValueError, match=r"at_least|faint_threshold"):
        sift(**options)
