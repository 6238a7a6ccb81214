"""SAM's network against plain loops and the card's numbers, its pictures in and out against the authors' steps."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import scipy.ndimage
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from instsearch_plugins.weighters.sam import SamResNet, SamVGG, network_input, padded, restored
from instsearch_plugins.weighters.sam_network import (
    AttentiveConvLSTM,
    SameMaxPool,
    attention,
    gaussian_priors,
    lstm_update,
    upsample,
)

BOTH = pytest.mark.parametrize("component", [SamVGG, SamResNet])


def on_meta(component):
    with torch.device("meta"):
        return component.build()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def priors(parameters, h, w):
    out = np.zeros((len(parameters) // 4, h, w))
    for k in range(len(out)):
        mx, my, sx, sy = parameters[k :: len(out)]
        mx, my = min(max(mx, 0.25), 0.75), min(max(my, 0.35), 0.65)
        sx, sy = min(max(sx, 0.1), 0.9), min(max(sy, 0.2), 0.8)
        for i, y in enumerate(np.linspace((1 - h / w) / 2, (1 + h / w) / 2, h)):
            for j, x in enumerate(np.linspace(0, 1, w)):
                out[k, i, j] = math.exp(-((x - mx) ** 2) / (2 * sx**2) - (y - my) ** 2 / (2 * sy**2))
        out[k] /= out[k].max()
    return out


def pool(x, k, stride, before):
    """Maxima of windows k x k that begin ``before`` the first value."""
    h, w = (-(-n // stride) for n in x.shape[1:])
    return np.stack(
        [
            np.stack(
                [
                    x[
                        :,
                        max(0, i * stride - before) : i * stride - before + k,
                        max(0, j * stride - before) : j * stride - before + k,
                    ].max((1, 2))
                    for j in range(w)
                ],
                -1,
            )
            for i in range(h)
        ],
        -2,
    )


def interpolated(x, r=16):
    """Value i lies at 16 i + 7."""
    for axis in (0, 1):
        at = (np.arange(r * x.shape[axis]) - (r - 1) // 2) / r
        x = np.apply_along_axis(lambda v, at=at: np.interp(at, np.arange(len(v)), v), axis, x)
    return x


# The networks.


@pytest.mark.parametrize(
    ("component", "features"), [(SamVGG, 14_714_688), (SamResNet, 23_587_712 + 9_437_696)]
)
def test_numbers_of_parameters(component, features):
    """VGG-16's or ResNet-50's (53 batch normalisations, every convolution biased; then 2048 to 512, 3 x 3)."""
    network = on_meta(component)

    def count(module):
        return sum(x.numel() for x in module.state_dict().values())

    lstm = 10 * (512 * 512 * 9 + 512) + 512 * 9  # all but V_a have a bias
    prior = 528 * 512 * 25 + 512
    assert (lstm, prior) == (23_602_688, 6_758_912)
    assert count(network.features) == features
    assert count(network.convlstm) == lstm
    assert count(network.prior1.convolution) == count(network.prior2.convolution) == prior
    assert count(network) == features + lstm + 2 * (prior + 64) + 513
    assert count(network) == (51_835_841 if component is SamVGG else 70_146_561)


@BOTH
def test_the_whole_network_has_the_published_shapes(component):
    network = on_meta(component)
    x = torch.empty(1, 3, 240, 320, device="meta")
    assert network.features(x).shape == (1, 512, 30, 40)
    assert network(x).shape == (1, 1, 480, 640)


def test_dilations_and_strides():
    def convolutions(component, part):
        modules = on_meta(component).named_modules()
        return [m for name, m in modules if isinstance(m, torch.nn.Conv2d) and part in name]

    assert [m.dilation[0] for m in convolutions(SamVGG, "features")] == [1] * 10 + [2] * 3
    assert [m.dilation[0] for m in convolutions(SamVGG, "prior")] == [4, 4]
    for stage, dilation, stride in ((2, 1, 1), (3, 1, 2), (4, 2, 1), (5, 4, 1)):
        assert {m.dilation[0] for m in convolutions(SamResNet, f"res{stage}") if m.kernel_size == (3, 3)} == {
            dilation
        }
        assert [m.stride[0] for m in convolutions(SamResNet, f"res{stage}a.branch")] == [stride, 1, 1, stride]
        assert all(m.stride == (1, 1) for m in convolutions(SamResNet, f"res{stage}b"))


def test_zero_kernel_attends_everywhere_alike():
    a = attention(
        torch.nn.functional.conv2d(torch.randn(1, 512, 30, 40), torch.zeros(1, 512, 3, 3), padding=1)
    )
    torch.testing.assert_close(a, torch.full((1, 1, 30, 40), 1 / 1200))


def test_attention_is_over_the_positions_of_each_picture():
    z = torch.tensor([[[[0.0, math.log(3)]]], [[[2.0, 2.0]]]])
    torch.testing.assert_close(attention(z), torch.tensor([[[[0.25, 0.75]]], [[[0.5, 0.5]]]]))


def test_lstm_update_by_hand():
    gates, c = torch.tensor([0.5, -1.0, 2.0, 0.25]).view(1, 4, 1, 1), torch.full((1, 1, 1, 1), 0.7)
    h, new = lstm_update(gates, c)
    expected = sigmoid(-1) * 0.7 + sigmoid(0.5) * math.tanh(2)
    assert new.item() == pytest.approx(expected, rel=1e-6)
    assert h.item() == pytest.approx(sigmoid(0.25) * math.tanh(expected), rel=1e-6)


def test_convlstm_against_plain_loops():
    """Four steps on 2 channels of 3 x 4, the convolutions as torch's: correlations."""
    torch.manual_seed(0)
    cell = AttentiveConvLSTM(2).requires_grad_(False).double()
    cell.V_a.weight *= 5
    x = torch.randn(1, 2, 3, 4, dtype=torch.float64)

    def conv(module, y):
        out = np.zeros((module.out_channels, 3, 4))
        for d, i, j in np.ndindex(out.shape):
            out[d, i, j] = 0 if module.bias is None else module.bias[d]
            for c, a, b in np.ndindex(2, 3, 3):
                if 0 <= i + a - 1 < 3 and 0 <= j + b - 1 < 4:
                    out[d, i, j] += module.weight[d, c, a, b] * y[c, i + a - 1, j + b - 1]
        return out

    X = x[0].numpy()
    h = c = np.zeros_like(X)
    for _ in range(4):
        z = np.exp(conv(cell.V_a, np.tanh(conv(cell.W_a, h) + conv(cell.U_a, X))))
        gates = conv(cell.W, X * z / z.sum()) + conv(cell.U, h)
        i, f, g, o = gates[0:2], gates[2:4], gates[4:6], gates[6:8]
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
    np.testing.assert_allclose(cell(x)[0].numpy(), h, atol=1e-12)


def test_prior_of_the_card():
    f = gaussian_priors(torch.tensor([0.5, 0.5, 0.1, 0.2]), 30, 40)
    assert f.shape == (1, 30, 40)
    assert f[0, 14, 19].item() == 1
    assert f[0, 0, 19].item() == pytest.approx(0.172782, abs=1e-6)
    assert f[0, 14, 0].item() == pytest.approx(3.7574e-6, rel=1e-4)


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 7), st.integers(2, 7), st.integers(0, 2**32 - 1))
def test_priors_against_a_plain_loop(h, w, seed):
    parameters = np.random.default_rng(seed).uniform(-0.5, 1.5, 12).astype(np.float32)
    actual = gaussian_priors(torch.from_numpy(parameters), h, w)
    np.testing.assert_allclose(actual.numpy(), priors(parameters, h, w), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("stride", [1, 2])
def test_windows_of_theanos_pooling_begin_before_the_first_value(stride):
    x = torch.rand(1, 2, 7, 6)
    y = SameMaxPool(stride)(x)[0]
    np.testing.assert_array_equal(y.numpy(), pool(x[0].numpy(), 2, stride, 1))
    assert y[0, 0, 0] == x[0, 0, 0, 0]
    assert SameMaxPool(2)(torch.arange(6.0).view(1, 1, 1, 6)).flatten().tolist() == [0, 2, 4]


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 5), st.integers(1, 5), st.sampled_from([2, 3, 16]))
def test_upsampling_is_theanos(h, w, r):
    x = torch.rand(h, w)
    y = upsample(x[None, None], r)[0, 0]
    np.testing.assert_allclose(y.numpy(), interpolated(x.numpy(), r), atol=1e-6)


def test_upsampling_puts_values_on_seven_and_every_sixteen():
    x = torch.tensor([[1.0, 3.0, 2.0]])
    y = upsample(x[None, None])[0, 0]
    assert y.shape == (16, 48)
    assert y[5, [0, 7, 8, 23, 39, 47]].tolist() == [1, 1, 1.125, 3, 2, 2]


# Pictures in and out.


def test_input_is_blue_green_red_less_the_means():
    x = network_input(np.full((24, 32, 3), (10, 20, 30), np.uint8))
    assert x.shape == (1, 3, 240, 320)
    assert x.dtype == torch.float32
    expected = torch.tensor([30 - 103.939, 20 - 116.779, 10 - 123.68])
    torch.testing.assert_close(x[0, :, 100, 100], expected)


def test_padding_is_black_before_the_means_and_centred():
    out = padded(np.full((100, 50, 3), 200, np.uint8))
    assert (out[:, 100:220] == 200).all()
    assert not out[:, :100].any()
    assert not out[:, 220:].any()
    out = padded(np.full((90, 300, 3), 200, np.uint8))  # 96 rows
    assert (out[72:168] == 200).all()
    assert not out[:72].any()
    assert not out[168:].any()
    x = network_input(np.full((90, 300, 3), 200, np.uint8))
    assert x[0, 0, 0, 0].item() == pytest.approx(-103.939)


def as_published(prediction, rows, columns):
    """The authors' steps, with scipy's smoothing."""
    h, w = prediction.shape
    s = prediction / prediction.max() * 255
    if rows / h > columns / w:
        across = w * rows // h
        s = cv2.resize(s, (across, rows))[:, (across - columns) // 2 :][:, :columns]
    else:
        down = h * columns // w
        s = cv2.resize(s, (columns, down))[(down - rows) // 2 :][:rows]
    s = scipy.ndimage.gaussian_filter(s, sigma=7)
    return s / s.max() * 255


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 2**32 - 1))
def test_map_comes_back_as_published(rows, columns, seed):
    prediction = np.random.default_rng(seed).random((48, 64)).astype(np.float32)
    s = restored(prediction, rows, columns)
    assert s.dtype == np.uint8
    assert s.max() == 255
    exact = as_published(prediction, rows, columns)
    assert exact.shape == s.shape
    assert (s <= exact + 0.01).all()  # rounded down
    assert (s > exact - 1.01).all()


def test_blank_map_stays_blank():
    assert not restored(np.zeros((48, 64), np.float32), 20, 30).any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (3, 448)])
def test_thin_pictures(shape):
    assert padded(np.full((*shape, 3), 9, np.uint8)).any()
    assert restored(np.ones((480, 640), np.float32), *shape).shape == shape
