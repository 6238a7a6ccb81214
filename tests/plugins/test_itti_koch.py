"""Itti-Koch saliency: the combination as a plain loop, pictures of any size and colour, and the weighter."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from instsearch_cli.data import Grid, Image, Inputs
from instsearch_cli.testing import WeighterContract
from instsearch_plugins.numeric.blocks import block_max
from instsearch_plugins.numeric.itti import iterated, promoted, stretched_to
from instsearch_plugins.weighters.itti_koch import IttiKoch, feature_maps, saliency
from itti_pictures import picture, variants

CPU = torch.device("cpu")


def weights(pixels, h, w, **options):
    size = pixels.shape[1], pixels.shape[0]
    inputs = Inputs(size=size, grid=Grid.over(h, w, size), image=Image(pixels, size))
    result = IttiKoch(IttiKoch.Config(**options), CPU).weigh(inputs)
    assert result.grid is inputs.grid
    return result.values


# --- saliency ---


@variants
def test_combination_is_the_plain_loop(norm, form):
    def n(x, top=None):
        if form == "itti98":
            return promoted(stretched_to(x, 10), others=True)
        x = x if top is None else stretched_to(x, top)
        return iterated(x) if norm == "iterative" else promoted(x, top)

    pixels = picture(255, 340)
    features = feature_maps(pixels, form)
    total = np.zeros((15, 21), np.float32)
    for feature in features:
        subfeatures = [n(sum(n(x, 10) for x in maps)) for maps in feature]
        if len(subfeatures) > 1:
            total += n(sum(subfeatures)) / (3 * len(subfeatures))
        else:
            total += subfeatures[0] / 3
    expected = cv2.resize(n(total, 2), (340, 255), interpolation=cv2.INTER_LINEAR)
    actual = saliency(pixels, norm=norm, form=form)
    assert expected.max() > 0
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-3 * expected.max())


@variants
@pytest.mark.parametrize(("y", "x"), [(40, 60), (120, 250), (180, 100)])
def test_a_bright_square_on_grey_is_salient(norm, form, y, x):
    pixels = np.full((255, 340, 3), 100, np.uint8)
    pixels[y : y + 40, x : x + 40] = 220
    s = saliency(pixels, norm=norm, form=form)
    i, j = np.unravel_index(s.argmax(), s.shape)
    assert y - 8 <= i < y + 48, "to half a cell"
    assert x - 8 <= j < x + 48


@variants
def test_the_odd_colour_is_salient(norm, form):
    pixels = np.full((255, 340, 3), (0, 127, 0), np.uint8)
    pixels[100:140, 200:240] = (250, 0, 0)  # as bright: 0.2989 * 250 = 0.587 * 127
    i, j = np.unravel_index(saliency(pixels, norm=norm, form=form).argmax(), (255, 340))
    assert 100 <= i < 140
    assert 200 <= j < 240


@variants
@settings(deadline=None, max_examples=15)
@given(
    colour=st.tuples(*[st.integers(0, 255)] * 3),
    shape=st.sampled_from([(1, 1), (31, 90), (33, 40), (40, 340), (64, 97), (255, 340), (340, 340)]),
)
def test_a_constant_image_is_flat(norm, form, colour, shape):
    pixels = np.full((*shape, 3), colour, np.uint8)
    s = saliency(pixels, norm=norm, form=form)
    assert not s.any()
    assert torch.equal(weights(pixels, 3, 4, norm=norm, form=form), torch.ones(1, 3, 4))


def test_the_border_gives_a_flat_map_no_shape():
    red = np.full((40, 340, 3), (200, 10, 30), np.uint8)  # its maps are 2 x 21: all border, faded at the ends
    assert not any(maps.any() for maps in feature_maps(red, "itti98")[1])
    assert not saliency(red, form="itti98").any()


@variants
@pytest.mark.parametrize("shape", [(1, 500), (500, 1), (1, 1), (31, 31), (30, 900)])
def test_an_image_too_small_for_any_pair_is_flat(norm, form, shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    assert feature_maps(pixels[:340, :340], form) == []
    assert torch.equal(weights(pixels, 2, 5, norm=norm, form=form), torch.ones(1, 2, 5))


@variants
@settings(deadline=None, max_examples=20)
@given(h=st.integers(1, 200), w=st.integers(1, 200), max_size=st.integers(1, 220), seed=st.integers(0, 9))
def test_shape_and_range(norm, form, h, w, max_size, seed):
    s = saliency(picture(h, w, seed), max_size, norm, form)
    r = min(1, max_size / max(h, w))
    assert s.shape == (max(1, round(r * h)), max(1, round(r * w)))
    assert s.dtype == np.float32
    assert np.isfinite(s).all()
    assert s.min() >= 0


def test_working_size():
    pixels = picture(768, 1024)
    small = cv2.resize(pixels, (340, 255), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(saliency(pixels), saliency(small))
    assert saliency(pixels, max_size=500).shape == (375, 500)
    assert saliency(picture(80, 100)).shape == (80, 100)


def test_same_picture_same_map_in_any_thread():
    pictures = [picture(120 + 7 * k, 160 - 5 * k, seed=k) for k in range(6)]
    expected = [saliency(p) for p in pictures]
    with ThreadPoolExecutor(4) as pool:
        for actual, alone in zip(pool.map(saliency, pictures * 3), expected * 3, strict=True):
            np.testing.assert_array_equal(actual, alone)


def test_pixels_are_left_as_they_were():
    pixels = picture(90, 120)
    before = pixels.copy()
    saliency(pixels)
    np.testing.assert_array_equal(pixels, before)


# --- weighter ---


class TestIterative(WeighterContract):
    component = IttiKoch


class TestLocalMax(WeighterContract):
    component = IttiKoch
    options = {"norm": "localmax"}  # noqa: RUF012


class TestItti98(WeighterContract):
    component = IttiKoch
    options = {"form": "itti98"}  # noqa: RUF012


@variants
def test_weights_are_the_maps_largest_values_by_cell(norm, form):
    pixels = picture(200, 150)
    alpha = weights(pixels, 12, 9, norm=norm, form=form, max_size=120)
    assert alpha.shape == (1, 12, 9)
    assert alpha.max() == 1
    assert torch.equal(alpha[0], block_max(saliency(pixels, 120, norm, form), 12, 9))


def test_no_size_is_refused():
    with pytest.raises(ValueError, match="max_size is at least 1"):
        IttiKoch.Config(max_size=0)
