"""SalGAN: its network, its map, and every kind of checkpoint that there is of it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.signal import convolve2d, correlate2d
from torch import nn

from instsearch_cli.data import Grid, Image, Inputs
from instsearch_cli.errors import InstsearchError
from instsearch_plugins.numeric.blocks import block_max
from instsearch_plugins.weighters import salgan
from instsearch_plugins.weighters.salgan import SalGAN, SalGANGenerator, normalise, tensor_names

CPU = torch.device("cpu")
FLAT = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]  # SalEMA's: the encoder's, and the decoder's after it
FLAT += [30, 32, 34, 37, 39, 41, 44, 46, 48, 51, 53, 56, 58, 60]
TRANSPOSED = [0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 15, 16]  # batsa003's decoder
RNG = np.random.default_rng(3)


@pytest.fixture(scope="module")
def arrays():
    """54 arrays as Lasagne has them: He's normal weights, small biases."""
    generator = torch.Generator().manual_seed(1)
    with torch.device("meta"):
        shapes = [tuple(t.shape) for t in SalGANGenerator().state_dict().values()]
    scale = [(2 / np.prod(s[1:])) ** 0.5 if len(s) == 4 else 0.1 for s in shapes]
    scale[-2] /= 100  # not all 0 or 1
    return [torch.randn(s, generator=generator) * a for s, a in zip(shapes, scale, strict=True)]


@pytest.fixture(scope="module")
def npz(arrays, tmp_path_factory):
    path = tmp_path_factory.mktemp("salgan") / "gen_modelWeights0090.npz"
    np.savez(path, *(a.numpy() for a in arrays))
    return path


@pytest.fixture(scope="module")
def imported(npz):
    return SalGAN.import_weights(npz)


@pytest.fixture(scope="module")
def component(imported, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "salgan.pth"
    torch.save(imported, path)
    return SalGAN(SalGAN.Config(weights=str(path)), CPU)


def save(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def picture(h: int, w: int) -> np.ndarray:
    blocks = RNG.integers(0, 256, (-(-h // 16), -(-w // 16), 3), np.uint8)
    return np.ascontiguousarray(np.kron(blocks, np.ones((16, 16, 1), np.uint8))[:h, :w])


class TestNetwork:
    def test_size(self):
        with torch.device("meta"):
            network = SalGANGenerator()
            output = network(torch.empty(2, 3, 192, 256))
        convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
        assert sum(p.numel() for p in network.parameters()) == 31_787_009
        assert sum(p.numel() for p in network.encoder.parameters()) == 14_714_688
        assert len(convolutions) == 27
        assert output.shape == (2, 1, 192, 256)
        assert network.encoder(torch.empty(1, 3, 192, 256, device="meta")).shape == (1, 512, 12, 16)

    def test_layers_are_those_of_the_paper(self):
        with torch.device("meta"):
            network = SalGANGenerator()
        widths = [m.out_channels for m in network.decoder if isinstance(m, nn.Conv2d)]
        assert widths == [*[512] * 6, *[256] * 3, 128, 128, 64, 64, 1]
        assert sum(isinstance(m, nn.ReLU) for m in network.modules()) == 26
        assert sum(isinstance(m, nn.Upsample) and m.mode == "nearest" for m in network.modules()) == 4

    def test_the_encoder_has_torchvisions_places(self):
        import torchvision

        with torch.device("meta"):
            vgg, mine = torchvision.models.vgg16().features[:30], SalGANGenerator().encoder
        assert {k: v.shape for k, v in vgg.state_dict().items()} == {
            k: v.shape for k, v in mine.state_dict().items()
        }

    def test_gradients_reach_every_tensor(self):
        network = SalGANGenerator()
        network(torch.rand(1, 3, 16, 16) * 100).sum().backward()
        assert all(p.grad is not None for p in network.parameters())

    def test_normalise(self):
        x = normalise(torch.tensor([10, 20, 30], dtype=torch.uint8).reshape(1, 3, 1, 1))
        torch.testing.assert_close(x.flatten(), torch.tensor([30 - 103.939, 20 - 116.779, 10 - 123.68]))


class TestImport:
    def test_the_encoder_comes_as_it_is_and_the_decoder_turned(self, arrays, imported):
        for name, array in zip(tensor_names(), arrays, strict=True):
            turned = name.startswith("decoder") and array.ndim == 4
            assert torch.equal(imported[name], array.flip(2, 3) if turned else array), name

    @pytest.mark.parametrize(("layer", "convolve"), [("decoder.26", convolve2d), ("encoder.0", correlate2d)])
    def test_a_layer_computes_what_lasagnes_did(self, arrays, imported, layer, convolve):
        """conv2d of the imported layer = sum over channels of the true convolution (the encoder: correlation)."""
        W, b = (arrays[tensor_names().index(f"{layer}.{kind}")].numpy() for kind in ("weight", "bias"))
        x = RNG.normal(size=(W.shape[1], 6, 7)).astype(np.float32)
        slow = np.stack(
            [sum(convolve(x[c], W[o, c], "same") for c in range(len(x))) + b[o] for o in range(5)]
        )
        weight, bias = imported[f"{layer}.weight"][:5], imported[f"{layer}.bias"][:5]
        fast = F.conv2d(torch.from_numpy(x)[None], weight, bias, padding=1)[0]
        np.testing.assert_allclose(fast, slow, atol=1e-4)

    def test_fewer_arrays_are_another_network(self, tmp_path):
        np.savez(tmp_path / "discrim.npz", *(np.zeros(2, np.float32) for _ in range(18)))
        with pytest.raises(InstsearchError, match="18 arrays, and SalGAN's generator has 54"):
            SalGAN.import_weights(tmp_path / "discrim.npz")

    def test_a_pickle_is_refused(self, tmp_path):
        (tmp_path / "vgg16.pkl").write_bytes(b"\x80\x02}q\x01(U\x0cparam values")
        with pytest.raises(InstsearchError, match=r"a pickle, which can run code: refused\.\nTake gen_model"):
            SalGAN.import_weights(tmp_path / "vgg16.pkl")

    def test_a_flat_sequence_in_a_training_checkpoint_comes_as_it_is(self, tmp_path):
        state = small_state(lambda i: f"{FLAT[i]}")
        path = save(tmp_path / "SalBCE.pt", {"epoch": 3, "state_dict": state, "optimizer": {"lr": 0.1}})
        assert same(SalGAN.import_weights(path), dict(zip(tensor_names(), state.values(), strict=True)))

    @pytest.mark.parametrize("zipped", [True, False])
    def test_salemas_port_of_lasagnes_arrays_is_undone(self, tmp_path, zipped):
        """Its script wrote w[::-1, ::-1] for kernels, b[::-1] for biases; what it read must come back."""
        state = small_state(lambda i: f"{FLAT[i]}")
        ported = {
            k: torch.from_numpy(a.numpy()[(slice(None, None, -1),) * min(a.ndim, 2)].copy())
            for k, a in state.items()
        }
        path = tmp_path / "gen_model.pt"
        torch.save(ported, path, _use_new_zipfile_serialization=zipped)
        assert same(SalGAN.import_weights(path), salgan.from_lasagne(list(state.values())))

    def test_transposed_convolutions_compute_the_same(self, tmp_path):
        places = [f"encoder.{n}" for n in FLAT[:13]] + [f"decoder.{n}" for n in TRANSPOSED] + ["mymodules.0"]
        state = small_state(lambda i: places[i], transposed=True)
        with pytest.warns(UserWarning, match="without ReLU"):
            read = SalGAN.import_weights(save(tmp_path / "generator.pkl", state))
        x = torch.randn(1, 2, 5, 6)
        theirs = F.conv_transpose2d(x, state["decoder.16.weight"], state["decoder.16.bias"], padding=1)
        ours = F.conv2d(x, read["decoder.28.weight"], read["decoder.28.bias"], padding=1)
        torch.testing.assert_close(ours, theirs)
        last = F.conv_transpose2d(theirs, state["mymodules.0.weight"], state["mymodules.0.bias"])
        torch.testing.assert_close(F.conv2d(ours, read["decoder.30.weight"], read["decoder.30.bias"]), last)
        assert torch.equal(read["encoder.28.weight"], state["encoder.28.weight"])

    def test_our_own_comes_as_it_is(self, tmp_path):
        state = dict(zip(tensor_names(), small_state(lambda i: f"{i}").values(), strict=True))
        assert same(SalGAN.import_weights(save(tmp_path / "salgan.pth", state)), state)

    def test_another_network_comes_as_it_is_for_the_caller_to_name(self, tmp_path):
        state = nn.Linear(2, 2).state_dict()
        assert same(SalGAN.import_weights(save(tmp_path / "w.pth", state)), state)


def small_state(name, transposed=False) -> dict[str, torch.Tensor]:
    """27 small convolutions: 2 channels everywhere, 1 at the end, in a shuffled order of names."""
    generator = torch.Generator().manual_seed(5)
    state = {}
    for i in range(27):
        shape = (1, 2, 1, 1) if i == 26 else (2, 2, 3, 3)
        if transposed and i >= 13:
            shape = (shape[1], shape[0], *shape[2:])
        state[f"{name(i)}.weight"] = torch.randn(shape, generator=generator)
        state[f"{name(i)}.bias"] = torch.randn(1 if i == 26 else 2, generator=generator)
    return state


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) for k in a)


class TestMap:
    def test_the_map_is_the_networks_brought_back_to_the_picture(self, component):
        """Step by step as the card has it, with a network of ours that has Lasagne's numbers."""
        pixels = picture(150, 210)
        small = cv2.resize(pixels, (256, 192), interpolation=cv2.INTER_AREA)
        x = small[:, :, ::-1].astype(np.float32) - np.float32([103.939, 116.779, 123.68])
        with torch.inference_mode():
            predicted = component.network(torch.from_numpy(x.transpose(2, 0, 1).copy())[None])
            saliency = component.saliency(pixels)
        assert predicted.shape == (1, 1, 192, 256)
        assert 0 < predicted.min() < predicted.max() < 1
        expected = (predicted[0, 0].numpy() * 255).astype(np.uint8)
        expected = cv2.resize(expected, (210, 150), interpolation=cv2.INTER_CUBIC)
        kernel = cv2.getGaussianKernel(5, 1.1)
        expected = cv2.sepFilter2D(expected.astype(np.float64), -1, kernel, kernel)
        assert saliency.shape == (150, 210)
        assert saliency.dtype == np.uint8
        assert np.ptp(saliency) > 5  # not the constant that would fit anything
        assert np.abs(saliency - expected).max() < 2  # OpenCV blurs bytes with rounded numbers

        grid = Grid.over(9, 13, (420, 300))
        weights = component.weigh(Inputs((420, 300), grid=grid, image=Image(pixels, (420, 300))))
        assert weights.grid is grid
        assert torch.equal(weights.values, block_max(saliency, 9, 13)[None])
        assert weights.values.max() == 1

    def test_identity_is_the_file(self, component):
        import hashlib

        assert component.identity() == {"weights": hashlib.sha256(component.weights.read_bytes()).hexdigest()}

    def test_the_network_is_ready(self, component):
        assert not component.network.training
        assert not any(p.requires_grad or p.is_meta for p in component.network.parameters())
        assert component.network is component.network
        assert component.concurrent

    def test_without_weights(self, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
        monkeypatch.delenv("INSTSEARCH_WEIGHTS", raising=False)
        with pytest.raises(InstsearchError) as caught:
            SalGAN(SalGAN.Config(), CPU).saliency(picture(32, 32))
        assert str(caught.value) == (
            "no weights for salgan. Published: "
            "gen_modelWeights0090.npz of github.com/imatge-upc/salgan (MIT licence).\n"
            "Fetch that file and run `instsearch weights import salgan FILE`."
        )
