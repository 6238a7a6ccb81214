"""SalNet: its network against Caffe's definitions of the layers, its map, its checkpoints."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from instsearch_cli.data import Grid, Image, Inputs
from instsearch_cli.errors import InstsearchError
from instsearch_plugins.weighters import salnet
from instsearch_plugins.weighters.salnet import SalNet, SalNetNetwork, from_caffe, input_size, normalise

CPU = torch.device("cpu")
RNG = np.random.default_rng(4)
COUNTS = {
    "conv1": 14_208,
    "conv2": 614_656,
    "conv3": 1_180_160,
    "conv4": 6_554_112,
    "conv5": 6_554_112,
    "conv6": 6_422_784,
    "conv7": 3_965_056,
    "conv8": 495_648,
    "conv9": 5_409,
    "deconv1": 64,
}


@pytest.fixture(scope="module")
def network():
    """SalNet with random weights of which the output varies."""
    torch.manual_seed(2)
    network = SalNetNetwork().eval().requires_grad_(False)
    for name, module in network.named_children():
        if name.startswith("conv"):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.normal_(module.bias, std=0.1)
    network.deconv1.weight.copy_(torch.full((8, 8), 1 / 16))
    return network


def component(network: nn.Module) -> SalNet:
    made = SalNet(SalNet.Config(), CPU)
    made.__dict__["_network"] = network  # where the cached property keeps it
    return made


def picture(h: int, w: int) -> np.ndarray:
    blocks = RNG.integers(0, 256, (-(-h // 16), -(-w // 16), 3), np.uint8)
    return np.ascontiguousarray(np.kron(blocks, np.ones((16, 16, 1), np.uint8))[:h, :w])


class TestNetwork:
    def test_size(self):
        with torch.device("meta"):
            network = SalNetNetwork()
        counts = {
            name: sum(p.numel() for p in module.parameters())
            for name, module in network.named_children()
            if list(module.parameters())
        }
        assert counts == COUNTS
        assert sum(counts.values()) == 25_806_209
        assert network.deconv1.bias is None

    def test_shapes_along_the_way(self):
        with torch.device("meta"):
            network, x = SalNetNetwork(), torch.empty(1, 3, 240, 320)
        shapes = {}
        for name, module in network.named_children():
            x = module(x)
            shapes[name] = tuple(x.shape[1:])
        assert shapes["pool1"] == (96, 120, 160)
        assert shapes["pool2"] == (256, 60, 80)
        assert shapes["conv8"] == (32, 60, 80)
        assert shapes["conv9"] == (1, 60, 80)
        assert shapes["deconv1"] == (1, 240, 320)
        assert list(shapes)[-2:] == ["conv9", "deconv1"]  # nothing rectifies the map
        assert sum(isinstance(m, nn.ReLU) for m in network) == 8

    @pytest.mark.parametrize(("h", "w"), [(4, 4), (5, 320), (213, 320), (320, 241), (319, 318)])
    def test_any_size_as_caffe_computes_it(self, h, w):
        def pooled(n: int) -> int:  # Caffe: the last window begins inside
            return math.ceil((n - 3) / 2) + 1

        with torch.device("meta"):
            output = SalNetNetwork()(torch.empty(1, 3, h, w))
        sides = [(pooled(pooled(n)) - 1) * 4 + 8 - 2 * 2 for n in (h, w)]
        assert list(output.shape) == [1, 1, *sides]
        assert sides == [4 * (n // 4) for n in (h, w)]

    def test_lrn_divides_alpha_by_the_window_as_caffe_does(self):
        x = RNG.normal(size=(1, 7, 2, 3)) * 50
        slow = np.empty_like(x)
        for c in range(7):
            near = x[:, max(0, c - 2) : c + 3]
            slow[:, c] = x[:, c] / (1 + 1e-4 / 5 * (near**2).sum(1)) ** 0.75
        with torch.device("meta"):
            norm = SalNetNetwork().norm1
        np.testing.assert_allclose(norm(torch.from_numpy(x)), slow, rtol=1e-6)

    def test_pools_look_beyond_the_border(self):
        with torch.device("meta"):
            pool = SalNetNetwork().pool1
        x = torch.arange(36.0).reshape(1, 1, 6, 6)
        assert pool(x)[0, 0].tolist() == [[14, 16, 17], [26, 28, 29], [32, 34, 35]]

    def test_normalise(self):
        x = normalise(torch.tensor([10, 20, 30], dtype=torch.uint8).reshape(1, 3, 1, 1))
        torch.testing.assert_close(x.flatten(), torch.tensor([-70, -90, -108]) * 0.0078431372549)


class TestMap:
    @pytest.mark.parametrize(
        ("given", "size"),
        [((340, 255), (320, 240)), ((255, 340), (240, 320)), ((320, 200), (320, 200)), ((64, 50), (64, 50)),
         ((5000, 10), (320, 4)), ((1000, 501), (320, 160))],
    )  # fmt: skip
    def test_pictures_are_fitted_and_never_enlarged(self, given, size):
        assert input_size(*given) == size

    def test_the_map_is_the_networks_brought_back_to_the_picture(self, network):
        """The steps of the authors' script, one by one."""
        pixels = picture(67, 90)
        x = (pixels[:, :, ::-1].astype(np.float32) - np.float32([100, 110, 118])) * np.float32(
            0.0078431372549
        )
        p = network(torch.from_numpy(x.transpose(2, 0, 1).copy())[None])[0, 0].numpy()
        assert p.shape == (64, 88)
        p = np.clip(p * 128 + 127, 0, 255)
        p = cv2.resize(p, (90, 67), interpolation=cv2.INTER_CUBIC)
        kernel = cv2.getGaussianKernel(5, 1.1)
        p = np.clip(cv2.sepFilter2D(p, -1, kernel, kernel), 0, 255)
        expected = (p / p.max() * 255).astype(np.uint8)
        saliency = component(network).saliency(pixels)
        assert saliency.dtype == np.uint8
        assert saliency.max() == 255
        assert np.ptp(saliency) > 20  # not the constant that would fit anything
        assert np.abs(saliency.astype(int) - expected).max() <= 1

    def test_large_pictures_keep_their_size(self):
        sizes = []

        class Looking(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                sizes.append(x.shape)
                return x[:, :1]

        saliency = component(Looking()).saliency(picture(640, 480))
        assert sizes == [(1, 3, 320, 240)]
        assert saliency.shape == (640, 480)

    def test_a_network_of_zeros_gives_127_everywhere_and_so_weights_of_one(self, network):
        zeros = SalNetNetwork().eval().requires_grad_(False)
        for p in zeros.parameters():
            p.zero_()
        assert not zeros(torch.zeros(1, 3, 16, 16)).any()
        made = component(zeros)
        assert (made.saliency(picture(40, 56)) == 255).all()  # 127, stretched
        grid = Grid.over(3, 4, (56, 40))
        weights = made.weigh(Inputs((56, 40), grid=grid, image=Image(picture(40, 56), (56, 40))))
        assert torch.equal(weights.values, torch.ones(1, 3, 4))
        assert weights.grid is grid

    def test_a_map_below_zero_is_all_zero_and_gives_ones_too(self):
        class Dark(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return torch.full_like(x[:, :1], -9)

        made = component(Dark())
        assert not made.saliency(picture(40, 56)).any()
        image = Image(picture(40, 56), (56, 40))
        assert made.weigh(Inputs((56, 40), grid=Grid.over(2, 2, (56, 40)), image=image)).values.min() == 1


class TestImport:
    wanted = {  # noqa: RUF012
        "conv9.weight": torch.zeros(1, 2, 3, 3),
        "conv9.bias": torch.zeros(1),
        "conv8.weight": torch.zeros(2, 3, 1, 1),
        "conv8.bias": torch.zeros(2),
        "deconv1.weight": torch.zeros(1, 1, 8, 8),
    }

    @pytest.mark.parametrize("older", [False, True])
    def test_blobs_become_weights_and_biases(self, older):
        layers = {
            "conv8": [RNG.normal(size=(2, 3, 1, 1)), RNG.normal(size=2)],
            "conv9": [RNG.normal(size=(1, 2, 3, 3)), RNG.normal(size=1)],
            "deconv1": [RNG.normal(size=(1, 1, 8, 8))],
        }
        given = {
            k: [b.reshape(1, 1, 1, -1) if older and b.ndim == 1 else b for b in v] for k, v in layers.items()
        }
        state = from_caffe(given, self.wanted)
        assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in self.wanted.items()}
        for name, blobs in layers.items():
            assert np.array_equal(state[f"{name}.weight"], blobs[0])
            assert len(blobs) == 1 or np.array_equal(state[f"{name}.bias"], blobs[1])

    def test_other_shapes_and_names_are_left_for_the_caller_to_name(self):
        state = from_caffe({"conv8": [np.zeros((3, 2, 1, 1))], "fc": [np.zeros(2)] * 3}, self.wanted)
        assert {k: tuple(v.shape) for k, v in state.items()} == {
            "conv8.weight": (3, 2, 1, 1),
            "fc.weight": (2,),
            "fc.bias": (2,),
            "fc.third": (2,),
        }

    def test_a_caffemodel(self, tmp_path, monkeypatch):
        """The file as Caffe writes it, of one layer; test_checkpoints has the rest of the format."""
        bias = np.arange(96, dtype="<f4")
        blob = b"\x3a\x03\x0a\x01\x60" + b"\x2a\x80\x03" + bias.tobytes()  # shape [96], 384 bytes of data
        weight = (
            b"\x3a\x06\x0a\x04\x01\x01\x01\x01" + b"\x2a\x04" + b"\0\0\x80\x3f"
        )  # 1 x 1 x 1 x 1: another net's
        layer = b"\x0a\x05conv1" + b"\x3a" + bytes([len(weight)]) + weight + b"\x3a\x88\x03" + blob
        assert len(blob) == 0x188
        path = tmp_path / "deep_net_model.caffemodel"
        path.write_bytes(
            b"\x0a\x03Net" + b"\xa2\x06" + bytes([len(layer) & 0x7F | 0x80, len(layer) >> 7]) + layer
        )
        state = SalNet.import_weights(path)
        assert torch.equal(state["conv1.bias"], torch.arange(96.0))
        assert state["conv1.weight"].tolist() == [[[[1.0]]]]

    def test_a_pytorch_checkpoint(self, tmp_path):
        torch.save({"state_dict": {"module.conv9.bias": torch.ones(1)}}, tmp_path / "w.pth")
        assert SalNet.import_weights(tmp_path / "w.pth") == {"conv9.bias": torch.ones(1)}

    def test_the_shallow_networks_pickle_is_refused(self, tmp_path):
        (tmp_path / "shallow_net.pickle").write_bytes(b"(lp1\ncnumpy\n")
        with pytest.raises(InstsearchError, match=r"pickle, .*refused\.\nTake deep_net_model\.caffemodel"):
            SalNet.import_weights(tmp_path / "shallow_net.pickle")


def test_options_and_identity(tmp_path):
    torch.save({}, tmp_path / "w.pth")
    made = SalNet(SalNet.Config(weights=str(tmp_path / "w.pth")), CPU)
    assert list(made.identity()) == ["weights"]
    assert salnet.SalNet.architecture == "salnet"
    with pytest.raises(InstsearchError, match=r"no tensor 'conv1\.weight'"):
        _ = made.network
