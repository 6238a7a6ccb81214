import math
from itertools import permutations
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from instsearch_cli.data import BoxWeight, FeatureMap, Grid, Inputs, Keypoints, Regions, WeightMap
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.options import make_config
from instsearch_cli.testing import EncoderContract
from instsearch_plugins.encoders.mscnet import MSCNetCodes
from instsearch_plugins.encoders.mscnet_network import MSB, MSCNet, drawn, trained
from instsearch_plugins.numeric.mscnet import (
    gram_channel_weights,
    hardest,
    mask_cosine,
    ngd_loss,
    trihard_loss,
    triplet_terms,
    weighted_sum,
)
from instsearch_plugins.numeric.normalise import l2
from instsearch_plugins.numeric.whitening import pca_whitening, whiten

CPU = torch.device("cpu")
QUIET = SimpleNamespace(start=lambda *a: None, advance=lambda n=1: None)
X = torch.tensor([[[1.0, 0], [0, 0]], [[1, 2], [0, 1]]])
MASK = torch.tensor([[[1, 0.5], [0, 1]]])
GRID = Grid.over(3, 4, (40, 30))


def close(actual, expected, atol=1e-5):
    torch.testing.assert_close(actual, torch.as_tensor(expected), atol=atol, rtol=1e-5)


def maps(seed, *shape, dead=0.4):
    """Non-negative activations, many of them 0."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)).sub(dead).clamp(min=0)


# -- the card's numbers -------------------------------------------------------------------------------


def test_channel_weights_and_sums_of_the_card():
    W = gram_channel_weights(X)
    close(W, [2.58400, 0.07847])
    close(weighted_sum(X, MASK, W), [[2.58400, 0.23542]])


def test_gram_difference_of_the_card():
    rows = torch.tensor([[1.0, 0], [0, 1], [1, 1]])[:, None]
    close(ngd_loss(rows), 0.20711)
    assert ngd_loss(rows, form="mean") == 0
    for n, paper in ((5, 0.75), (10, 0.61111)):
        close(ngd_loss(torch.full((n, 3, 3), 0.5)), paper)
        close(ngd_loss(torch.full((n, 3, 3), 0.5), form="mean"), 0.5)
    assert ngd_loss(torch.rand(1, 3, 3)) == mask_cosine(torch.rand(1, 3, 3)) == 0


def test_trihard_of_the_card():
    z, labels = torch.tensor([[0.0, 0], [3, 4], [1, 0], [0, 2]]), torch.tensor([0, 0, 1, 1])
    p, n = hardest(z, labels)
    assert (p.tolist(), n.tolist()) == ([1, 0, 3, 2], [2, 3, 0, 0])
    close(triplet_terms(z, z[p], z[n]), [4.1, 1.49445, 1.33607, 0.33607])
    close(trihard_loss(z, labels), 1.81665)


# -- against plain loops ------------------------------------------------------------------------------


@given(seed=st.integers(0, 99), C=st.integers(1, 5), h=st.integers(1, 3), w=st.integers(1, 3))
def test_channel_weights_against_the_whole_gram_matrix(seed, C, h, w):
    X, M = maps(seed, 2, C, h, w), maps(seed + 1, 2, 3, h, w)
    gamma, eps = 1.5, 1e-3
    W = gram_channel_weights(X, gamma, eps)
    psi = weighted_sum(X, M, W)
    assert (W.shape, psi.shape) == ((2, C), (2, 3, C))
    for b in range(2):
        F = X[b].flatten(1).tolist()
        G = [[sum(F[i][p] * F[j][p] for p in range(h * w)) for j in range(C)] for i in range(C)]
        v = [sum(G[i][j] for j in range(C)) / C for i in range(C)]
        total = sum(x**gamma for x in v)
        for i in range(C):
            slow = math.log((C * eps + total) / (eps + v[i] ** gamma))
            assert W[b, i].item() == pytest.approx(slow, rel=1e-4, abs=1e-5)
            for k in range(3):
                m = M[b, k].flatten().tolist()
                summed = slow * sum(F[i][p] * m[p] for p in range(h * w))
                assert psi[b, k, i].item() == pytest.approx(summed, rel=1e-4, abs=1e-5)


@given(seed=st.integers(0, 99), n=st.integers(1, 4))
def test_gram_difference_against_slow_loops(seed, n):
    M = torch.rand(2, n, 2, 3, generator=torch.Generator().manual_seed(seed))
    pictures = {"paper": 0.0, "mean": 0.0}
    for masks in M.flatten(2).tolist():
        total = 0.0
        for a, b in permutations(masks, 2):
            total += sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)
        pictures["paper"] += max(total / max(n - 1, 1) ** 2 - 0.6, 0) / 2
        pictures["mean"] += max(total / max(n * (n - 1), 1) - 0.6, 0) / 2
    for form, slow in pictures.items():
        assert ngd_loss(M, 0.6, form).item() == pytest.approx(slow, abs=1e-5)


@given(seed=st.integers(0, 99), classes=st.integers(2, 4), images=st.integers(1, 4))
def test_trihard_against_slow_loops(seed, classes, images):
    z = l2(torch.randn(classes * images, 3, generator=torch.Generator().manual_seed(seed)))
    labels = torch.arange(classes).repeat(images)
    rows, total = z.tolist(), 0.0
    for a, label in zip(rows, labels.tolist(), strict=True):
        far = max(math.dist(a, b) for b, other in zip(rows, labels.tolist(), strict=True) if other == label)
        near = min(math.dist(a, b) for b, other in zip(rows, labels.tolist(), strict=True) if other != label)
        total += max(far - near + 0.2, 0)
    assert trihard_loss(z, labels, 0.2).item() == pytest.approx(total / len(rows), abs=1e-5)


def test_one_class_has_no_triplets():
    with pytest.raises(ValueError, match="two classes"):
        trihard_loss(torch.rand(3, 2), torch.zeros(3, dtype=torch.long))


# -- hard cases ---------------------------------------------------------------------------------------


def test_a_black_picture_and_dead_channels():
    black = torch.zeros(7, 2, 3)
    close(gram_channel_weights(black), [math.log(7)] * 7)
    assert not weighted_sum(black, torch.rand(5, 2, 3), gram_channel_weights(black)).any()
    X = maps(0, 4, 2, 3)
    X[2] = 0
    W = gram_channel_weights(X)
    assert 10 < W[2] < 35
    assert weighted_sum(X, torch.ones(1, 2, 3), W)[0, 2] == 0


def test_weights_heed_no_scale():
    X = maps(1, 16, 4, 4)
    close(gram_channel_weights(X), gram_channel_weights(100 * X), atol=1e-3)


def test_halves_and_autocast_are_computed_in_float32():
    X = 60 * maps(2, 8, 30, 30, dead=0)
    W = gram_channel_weights(X.half())  # v^2 is far beyond float16
    assert W.dtype == torch.float32
    close(W, gram_channel_weights(X), atol=1e-2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(gram_channel_weights(X), gram_channel_weights(X.clone()))
        assert weighted_sum(X, X, W).dtype == mask_cosine(X).dtype == torch.float32
        inside = gram_channel_weights(X)
    close(inside, gram_channel_weights(X))


def test_a_mask_leaves_the_cells_out_of_the_gram_matrix():
    X = maps(3, 5, 3, 4)
    mask = torch.zeros(3, 3, 4, dtype=torch.bool)
    mask[0, 1:, :2] = mask[1] = True
    W = gram_channel_weights(X, mask=mask)
    close(W[0], gram_channel_weights(X[:, 1:, :2]))
    close(W[1], gram_channel_weights(X))
    close(W[2], [math.log(5)] * 5)
    assert gram_channel_weights(X, mask=mask[:0]).shape == (0, 5)


# -- gradients ----------------------------------------------------------------------------------------


def numerical(f, x, step=1e-2):
    """Central differences of a scalar function of x."""
    slopes = torch.zeros_like(x)
    for i in range(x.numel()):
        there = []
        for sign in (1, -1):
            moved = x.detach().clone()
            moved.view(-1)[i] += sign * step
            there.append(f(moved).item())
        slopes.view(-1)[i] = (there[0] - there[1]) / (2 * step)
    return slopes


@pytest.mark.parametrize(
    "f",
    [
        lambda x: gram_channel_weights(x).mul(torch.arange(4.0)).sum(),
        lambda x: weighted_sum(x, x[:, :2] ** 2, gram_channel_weights(x)).sum() / 10,
        lambda x: ngd_loss(x, 0.2),
        lambda x: ngd_loss(x, 0.2, "mean"),
        lambda x: trihard_loss(x.flatten(1), torch.tensor([0, 1, 0]), 2),
    ],
)
def test_gradients_against_differences(f):
    x = torch.rand(3, 4, 2, 2, generator=torch.Generator().manual_seed(5)).add(0.3).requires_grad_()
    (slopes,) = torch.autograd.grad(f(x), x)
    assert slopes.any()
    torch.testing.assert_close(slopes, numerical(f, x), atol=5e-3, rtol=2e-2)


def test_gradients_are_finite_where_nothing_responds():
    x = torch.zeros(2, 4, 3, 3, requires_grad=True)
    net = drawn(4, 2, 8, 0)
    z, M = net(x)
    (z.sum() + ngd_loss(M) + ngd_loss(x) + trihard_loss(z, torch.tensor([0, 1]))).backward()
    for slopes in (x.grad, *(p.grad for p in net.parameters())):
        assert torch.isfinite(slopes).all()


def test_the_weights_of_channels_pass_gradients_or_not():
    x = maps(6, 1, 4, 3, 3).requires_grad_()
    net = drawn(4, 2, 8, 0)
    passed = [torch.autograd.grad(net(x, through)[0][0, 0], x)[0] for through in (True, False)]
    assert not torch.allclose(*passed)
    assert torch.equal(net(x, True)[0], net(x, False)[0])
    for through in (True, False):
        net.zero_grad()
        net(x, through)[0][0, 0].backward()
        assert all(p.grad.any() for p in net.parameters())


# -- the network --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("C", "n", "D"), [(512, 5, 512), (512, 1, 256), (2048, 5, 64), (64, 10, 128)])
def test_shapes_and_counts(C, n, D):
    net = MSCNet(C, n, D)
    z, M = net(maps(7, 2, C, 3, 4))
    assert (z.shape, M.shape, net.shape) == ((2, D), (2, n, 3, 4), (C, n, D))
    close(z.norm(dim=1), torch.ones(2))
    assert ((M > 0) & (M < 1)).all()
    assert list(net.state_dict()) == ["msb.weight", "msb.bias", "fc.weight", "fc.bias"]
    assert sum(p.numel() for p in net.msb.parameters()) == 9 * C * n + n
    assert net.fc.weight.numel() == n * C * D


def test_a_saliency_block_of_the_card():
    assert sum(p.numel() for p in MSB(512, 5).parameters()) == 23_045


def test_the_network_against_slow_loops():
    net, X = drawn(3, 2, 4, 1), maps(8, 1, 3, 3, 4)
    z, M = net(X)
    for k in range(2):
        for y in range(3):
            for x in range(4):
                total = net.msb.bias[k].item()
                for c in range(3):
                    for i in (-1, 0, 1):
                        for j in (-1, 0, 1):
                            if 0 <= y + i < 3 and 0 <= x + j < 4:
                                weight = net.msb.weight[k, c, i + 1, j + 1].item()
                                total += weight * X[0, c, y + i, x + j].item()
                assert M[0, k, y, x].item() == pytest.approx(1 / (1 + math.exp(-total)), abs=1e-5)
    W = gram_channel_weights(X[0])
    Psi = [W[c] * (X[0, c] * M[0, k]).sum() for k in range(2) for c in range(3)]  # mask by mask
    Psi = torch.stack(Psi) / torch.stack(Psi).norm()
    slow = net.fc.weight @ Psi + net.fc.bias
    close(z[0], slow / slow.norm())


def test_an_untrained_network_is_the_seeds_alone():
    torch.manual_seed(3)
    one = drawn(16, 3, 8, 5)
    torch.manual_seed(4)
    for a, b in zip(one.parameters(), drawn(16, 3, 8, 5).parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one.fc.weight, drawn(16, 3, 8, 6).fc.weight)
    for layer, inputs in ((one.msb, 16 * 9), (one.fc, 48)):  # as torch draws them
        for values in layer.parameters():
            assert values.abs().max() <= inputs**-0.5
        assert layer.weight.std().item() == pytest.approx((3 * inputs) ** -0.5, rel=0.1)


def test_masks_begin_alike():
    M = drawn(64, 5, 8, 0)(maps(9, 4, 64, 6, 6))[1]
    assert ngd_loss(M).item() == pytest.approx(0.75, abs=0.05)


# -- files --------------------------------------------------------------------------------------------


def saved(path, C=16, n=3, D=8, **more):
    state = drawn(C, n, D, 9).state_dict()
    torch.save({**{k: v.contiguous() for k, v in state.items()}, **more}, path)
    return path


def test_a_file_has_the_shape_in_it_and_may_hold_more(tmp_path):
    net = trained(saved(tmp_path / "a.pth", **{"network.conv.weight": torch.zeros(2, 2)}), CPU)
    assert net.shape == (16, 3, 8)
    X = maps(10, 2, 16, 3, 3)
    close(net(X)[0], drawn(16, 3, 8, 9)(X)[0])
    assert not any(p.requires_grad for p in net.parameters())


def test_files_that_are_something_else(tmp_path):
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    with pytest.raises(InstsearchError, match="not MSCNet's weights"):
        trained(tmp_path / "other.pth", CPU)
    with pytest.raises(InstsearchError, match=r"'fc.weight' has shape \(8, 9\)"):
        trained(saved(tmp_path / "short.pth", **{"fc.weight": torch.zeros(8, 9)}), CPU)


# -- the encoder --------------------------------------------------------------------------------------


def image(seed, C=16):
    return FeatureMap(maps(seed, C, 3, 4), GRID)


class Collection:
    def __init__(self, features, weights=None):
        self.features, self.weights, self.images = features, weights, np.arange(len(features))

    def inputs(self, kinds, rows):
        assert kinds == ("features", "weights")
        for row in rows:
            yield Inputs(size=(40, 30), row=int(row), features=self.features[row], weights=self.weights)


def encoder(**options):
    return MSCNetCodes(make_config(MSCNetCodes, options, "encoder"), CPU)


def bare(**options):
    made = encoder(**options)
    made.load({"images": np.asarray(0)})
    return made


def test_a_picture_is_the_networks_descriptor():
    one = image(0)
    z = drawn(16, 3, 8, 4)(one.values[None])[0]
    codes = bare(masks=3, projection=8, seed=4).aggregate(one, None, None)
    close(codes.vectors, z)
    assert codes.boxes.tolist() == [[0, 0, 40, 30]]


def test_a_trained_file(tmp_path):
    path, one = saved(tmp_path / "a.pth"), image(1)
    made = bare(weights=str(path), masks=7)
    close(made.aggregate(one, None, None).vectors, drawn(16, 3, 8, 9)(one.values[None])[0])
    assert set(made.identity()) == {"weights"}
    assert bare().identity() == {}
    with pytest.raises(InstsearchError, match="16 channels, and these have 5"):
        made.aggregate(image(1, C=5), None, None)
    with pytest.raises(InstsearchError, match="does not exist"):
        bare(weights=str(tmp_path / "none.pth")).aggregate(one, None, None)


def test_the_whitening_is_learnt_from_descriptors():
    images = [image(seed) for seed in range(40)]
    made = encoder(masks=2, projection=8, dims=6)
    state = made.fit(Collection(images), QUIET)
    z = drawn(16, 2, 8, 0)(torch.stack([f.values for f in images]))[0].detach()
    mean, P = pca_whitening([z], 6)
    made.load({k: np.asarray(v) for k, v in state.items()})
    got = torch.cat([made.aggregate(f, None, None).vectors for f in images])
    expected = l2(whiten(z, mean, P))
    close((got @ got.T), expected @ expected.T, atol=1e-3)  # but for signs of the axes


def test_a_box_is_described_by_the_cells_it_touches():
    one, made = image(2), bare(masks=2, projection=8)
    box = (12.0, 3.0, 29.0, 9.0)  # touches columns 1 and 2, row 0
    net = drawn(16, 2, 8, 0)
    M = net.msb(one.values[None])
    z = net.describe(one.values[None, :, :1, 1:3], M[:, :, :1, 1:3])
    asked = made.aggregate(one, BoxWeight(box), None)
    close(asked.vectors, z.detach())
    region = made.aggregate(one, None, Regions(torch.tensor([box]), torch.ones(1)))
    close(region.vectors, z.detach())
    assert region.boxes.tolist() == [list(box)]
    assert not torch.allclose(z, net(one.values[None])[0], atol=1e-3)


def test_other_weights_weigh_the_cells():
    one, made = image(3), bare(masks=2, projection=8)
    alpha = torch.rand(1, 3, 4, generator=torch.Generator().manual_seed(0))
    net = drawn(16, 2, 8, 0)
    M = net.msb(one.values[None])
    z = net.describe(one.values[None], M * alpha)
    close(made.aggregate(one, WeightMap(alpha, GRID), None).vectors, z.detach())


def test_nothing_gives_zero_and_points_an_error():
    made = bare(masks=2, projection=8)
    assert not made.aggregate(FeatureMap(torch.zeros(16, 3, 4), GRID), None, None).vectors.any()
    with pytest.raises(UsageError, match="mscnet encoder needs a feature map"):
        made.aggregate(Keypoints(torch.rand(5, 16), torch.rand(5, 4), GRID), None, None)


def test_options_that_make_no_sense():
    with pytest.raises(UsageError, match=r"encoder\.channels is one of gram-cs, not 'ssw'"):
        encoder(channels="ssw")
    with pytest.raises(UsageError, match="masks and projection are at least 1"):
        encoder(masks=0)


def test_what_there_is_to_show():
    drawings = bare(masks=3, projection=8).explain(Inputs(size=(40, 30), features=image(4)))
    M = drawn(16, 3, 8, 0).msb(image(4).values[None])[0]
    assert len(drawings) == 3
    for k, drawing in enumerate(drawings):
        assert drawing.caption.startswith(f"mask {k + 1}: ")
        close(drawing.items[0].values[0], M[k].detach())
    cosines = [float(drawing.caption.split()[-1]) for drawing in drawings]
    assert np.mean(cosines) == pytest.approx(mask_cosine(M).item(), abs=0.01)


class TestContract(EncoderContract):
    component = MSCNetCodes
    options = {"masks": 2, "projection": 8}  # noqa: RUF012

    def make_fitted(self):
        return bare(**self.options)
