"""torchvision's networks with random weights, of the sizes of the real ones, and extractors of them."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from instsearch_cli.data import Image
from instsearch_plugins.extractors.networks import Network

CPU = torch.device("cpu")


def meta(name: str) -> nn.Module:
    """A network without numbers, which takes no time and no memory."""
    with torch.device("meta"):
        return torchvision.models.get_model(name, weights=None).eval()


def randomised(network: nn.Module) -> nn.Module:
    """Weights under which activations keep their size, and batch norms that are not the identity."""
    network = network.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            deviation = (2 / module.weight[0].numel()) ** 0.5
            module.weight.data.normal_(0, deviation, generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.0, generator=generator)
            module.running_mean.uniform_(-0.2, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            module.num_batches_tracked.zero_()
        if getattr(module, "bias", None) is not None:
            module.bias.data.uniform_(-0.1, 0.1, generator=generator)
    return network


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def squeezenet(folder):
    network = randomised(meta("squeezenet1_0"))
    torch.save(network.state_dict(), folder / "squeezenet1_0.pth")
    return network


@pytest.fixture(scope="module")
def resnet(folder):
    network = randomised(meta("resnet50"))
    torch.save(network.state_dict(), folder / "resnet50.pth")
    return network


@pytest.fixture(autouse=True)
def weights_folder(folder, monkeypatch):
    monkeypatch.setenv("INSTSEARCH_WEIGHTS", str(folder))
    monkeypatch.setenv("INSTSEARCH_OFFLINE", "1")


def make(cls: type[Network], **options) -> Network:
    return cls(cls.Config(**options), CPU)


def by_hand(image: Image) -> torch.Tensor:
    """torchvision's own preprocessing."""
    x = torch.from_numpy(image.pixels).permute(2, 0, 1).float() / 255
    return torchvision.transforms.functional.normalize(x, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])[None]
