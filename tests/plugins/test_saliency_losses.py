"""The losses that SalGAN and SalNet are trained with, their networks, and the weights that these begin with."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from instsearch_cli.options import make_config
from instsearch_plugins.training.descent import bilinear, he
from instsearch_plugins.training.discriminator import Discriminator, adversarial_loss, seen
from instsearch_plugins.training.salgan import SalGANTrainer, content_loss, take_bgr
from instsearch_plugins.training.saliency_batches import SaliencyBatches
from instsearch_plugins.training.salnet import euclidean_loss
from instsearch_plugins.weighters import salgan as of_salgan
from saliency_training import CPU, SALGAN, _few_channels, data

__all__ = ["_few_channels", "data"]  # fixtures


@pytest.fixture
def whole() -> None:
    """Nothing: asks for the networks as they are."""


# losses


def test_the_content_loss_by_plain_loops() -> None:
    rng = np.random.default_rng(1)
    P, S = rng.random((2, 1, 8, 12), np.float32), rng.random((2, 1, 8, 12), np.float32)
    total, n = 0.0, 0
    for b in range(2):
        for y in range(0, 8, 4):
            for x in range(0, 12, 4):
                p, s = (float(A[b, 0, y : y + 4, x : x + 4].mean(dtype=np.float64)) for A in (P, S))
                total -= s * math.log(p) + (1 - s) * math.log(1 - p)
                n += 1
    assert content_loss(torch.from_numpy(P), torch.from_numpy(S)).item() == pytest.approx(total / n, rel=1e-6)


def test_the_content_loss_is_finite_at_both_ends_and_not_a_number_for_one() -> None:
    P = torch.tensor([0.0, 1.0]).repeat_interleave(16).reshape(1, 1, 8, 4).requires_grad_()
    loss = content_loss(P, 1 - P.detach())
    loss.backward()
    assert loss.item() == pytest.approx(-math.log(1e-7), rel=0.01)
    assert P.grad is not None
    assert P.grad.isfinite().all()
    assert content_loss(P.detach() * float("nan"), P.detach()).isnan()


def test_the_euclidean_loss_by_plain_loops_and_at_the_papers_size() -> None:
    rng = np.random.default_rng(2)
    P, S = rng.standard_normal((3, 1, 4, 6)), rng.random((3, 1, 4, 6))
    total = 0.0
    for b in range(3):
        for y in range(4):
            for x in range(6):
                total += (P[b, 0, y, x] - (2 * S[b, 0, y, x] - 1)) ** 2
    expected = total / (2 * 3) * 240 * 320 / 24
    assert euclidean_loss(torch.from_numpy(P), torch.from_numpy(S)).item() == pytest.approx(expected)
    flat = torch.zeros(2, 1, 240, 320)
    assert euclidean_loss(flat, flat).item() == pytest.approx(240 * 320 / 2)  # Caffe's own


def test_adversarial_losses_by_hand(data: Path) -> None:
    assert adversarial_loss(torch.tensor([[0.0], [2.0]]), True).item() == pytest.approx(
        (math.log(2) + math.log(1 + math.exp(-2))) / 2
    )
    assert adversarial_loss(torch.tensor([[2.0]]), False).item() == pytest.approx(math.log(1 + math.exp(2)))

    trainer = SalGANTrainer(make_config(SalGANTrainer, SALGAN | {"alpha": 0.3}, "x"), CPU)
    torch.manual_seed(0)
    G, D = trainer._generator(), Discriminator(16, 32)
    pixels, S = SaliencyBatches(data, trainer.config).load([("0.png", False), ("1.png", False)])
    fake = G(of_salgan.normalise(pixels))
    judged = torch.sigmoid(torch.cat((D(seen(pixels, S)), D(seen(pixels, fake)))))
    of_D = F.binary_cross_entropy(judged, torch.tensor([[1.0], [1], [0], [0]]))
    assert trainer._discriminator_loss(G, D, pixels, S).item() == pytest.approx(of_D.item(), rel=1e-5)
    loss, content = trainer._generator_loss(G, D, pixels, S)
    of_G = -judged[2:].log().mean() + 0.3 * content_loss(fake, S)
    assert loss.item() == pytest.approx(of_G.item(), rel=1e-5)
    assert content.item() == pytest.approx(content_loss(fake, S).item())


# networks and their first weights


def test_the_discriminator_is_the_papers_table() -> None:
    with torch.device("meta"):
        D = Discriminator(192, 256)
    linear = [layer for layer in D if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(49_152, 100), (100, 2), (2, 1)]
    convolutions = [(c.in_channels, c.out_channels, c.kernel_size[0]) for c in D if isinstance(c, nn.Conv2d)]
    assert convolutions == [(4, 3, 1), (3, 32, 3), (32, 64, 3), (64, 64, 3), (64, 64, 3), (64, 64, 3)]
    assert D(torch.empty(2, 4, 192, 256, device="meta")).shape == (2, 1)
    assert sum(p.numel() for p in D.parameters()) == 15 + 896 + 18_496 + 3 * 36_928 + 4_915_300 + 202 + 3


def test_the_discriminator_sees_the_map_and_the_picture_on_one_scale() -> None:
    pixels = torch.full((1, 3, 2, 2), 51, dtype=torch.uint8)
    assert seen(pixels, torch.ones(1, 1, 2, 2))[0, :, 0, 0].tolist() == pytest.approx([1, 0.2, 0.2, 0.2])


@pytest.mark.usefixtures("whole")
def test_the_generator_is_whole() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in of_salgan.SalGANGenerator().parameters()) == 31_787_009


def test_a_convolution_of_torchvisions_input_is_one_of_ours() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 5, 3, padding=1)
    u = torch.randint(0, 256, (2, 3, 9, 9), dtype=torch.uint8)
    m, s = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    expected = conv((u / 255 - m) / s)
    take_bgr(conv)
    found = conv(of_salgan.normalise(u))
    assert torch.allclose(found[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], atol=1e-4)


def test_first_weights_keep_the_size_of_activations() -> None:
    torch.manual_seed(0)
    layers = [
        m for _ in range(6) for m in (nn.Conv2d(32, 32, 3, padding=1, padding_mode="circular"), nn.ReLU())
    ]
    network = nn.Sequential(*layers, nn.Conv2d(32, 64, 1))
    he(network)
    x = torch.randn(2, 32, 24, 24)
    assert network(x).square().mean().item() == pytest.approx(x.square().mean().item(), rel=0.5)
    assert network[-1].weight.std().item() == pytest.approx(32**-0.5, rel=0.1)
    assert network[0].weight.std().item() == pytest.approx((2 / 288) ** 0.5, rel=0.1)
    assert not network[0].bias.any()


def test_the_deconvolution_interpolates() -> None:
    layer = nn.ConvTranspose2d(1, 1, 8, stride=4, padding=2, bias=False)
    bilinear(layer)
    x = torch.rand(1, 1, 5, 6)
    expected = F.interpolate(x, scale_factor=4, mode="bilinear", align_corners=False)
    assert torch.allclose(layer(x)[..., 2:-2, 2:-2], expected[..., 2:-2, 2:-2], atol=1e-6)
