"""MSCNet: the network against slow loops, files of weights, and the encoder."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from instsearch_cli.data import BoxWeight, FeatureMap, Grid, Inputs, Keypoints, Regions, WeightMap
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.options import make_config
from instsearch_cli.testing import EncoderContract
from instsearch_plugins.encoders.mscnet import MSCNetCodes
from instsearch_plugins.encoders.mscnet_network import MSB, MSCNet, drawn, trained
from instsearch_plugins.numeric.mscnet import gram_channel_weights, mask_cosine, ngd_loss
from instsearch_plugins.numeric.normalise import l2
from instsearch_plugins.numeric.whitening import pca_whitening, whiten

CPU = torch.device("cpu")
QUIET = SimpleNamespace(start=lambda *a: None, advance=lambda n=1: None)
GRID = Grid.over(3, 4, (40, 30))


def close(actual, expected, atol=1e-5):
    torch.testing.assert_close(actual, torch.as_tensor(expected), atol=atol, rtol=1e-5)


def maps(seed, *shape, dead=0.4):
    """Non-negative activations, many of them 0."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)).sub(dead).clamp(min=0)


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
