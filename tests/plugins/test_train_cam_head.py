"""Training the linear classifier behind class activation maps: what is trained, kills, and what comes out."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import squeezenet1_0

from cam_head_training import CPU, _narrow, data, make, train
from instsearch_cli.data import Image
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.images import read_image
from instsearch_plugins.extractors import decomposeme, vgg16_cam
from instsearch_plugins.extractors.heads import set_classes
from instsearch_plugins.extractors.networks import Network
from instsearch_plugins.training import classification, descent
from instsearch_plugins.training.cam_head import (
    CamHeadTrainer,
    DecomposeMeTrainer,
    SqueezeNet10Trainer,
    VGG16CAMTrainer,
)
from killed_training import check_same_run, dying
from real_data import SQUEEZENET

__all__ = ["_narrow", "data"]  # fixtures

TRAINERS = [VGG16CAMTrainer, DecomposeMeTrainer]


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """A VGG-16 by torchvision's names, few channels, with the fully connected layers that nobody reads."""
    torch.manual_seed(5)
    features = vgg16_cam.VGG16CAMNetwork().features[:30]
    network = nn.ModuleDict({"features": features, "classifier": nn.Sequential(nn.Linear(7, 9))})
    torch.save(network.state_dict(), tmp_path / "vgg16.pth")
    return tmp_path / "vgg16.pth"


def log(out: Path, name: str) -> list[float]:
    lines = (out.with_name(f"{out.name}.training") / "log.csv").read_text().splitlines()
    return [float(line.split(",")[4]) for line in lines if f",{name}," in line]


# what is trained


def test_the_head_alone_is_trained_by_default(data: Path, encoder: Path, tmp_path: Path) -> None:
    given = torch.load(encoder, weights_only=True)
    weights, card = train(VGG16CAMTrainer, data, tmp_path / "out.pth", encoder=str(encoder))
    before = make(VGG16CAMTrainer, encoder=str(encoder))
    torch.manual_seed(0)
    first = before.network(3)[0].state_dict()
    changed = {name for name in weights if not torch.equal(weights[name], first[name])}
    assert changed == {
        f"{layer}.{kind}" for layer in ("features.30", "classifier") for kind in ("weight", "bias")
    }
    for name, tensor in given.items():
        assert name.startswith("classifier") or torch.equal(weights[name], tensor)
    assert weights["classifier.weight"].shape == (3, 10)
    assert card["classes"] == ["blue", "green", "red"]
    assert card["initial weights"].startswith("from vgg16.pth (sha256 ")
    assert (
        "features.30, classifier at random; layers are trained from features.30 on" in card["initial weights"]
    )


def test_deeper_layers_are_trained_when_asked_at_a_rate_of_their_own(
    data: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = []
    plain = descent.descend

    def descend(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        rates.append([group["lr"] for group in optimizer.param_groups])
        plain(loss, optimizer)

    monkeypatch.setattr(classification, "descend", descend)
    options = {"encoder": str(encoder), "unfreeze": "features.26", "deep_lr": 0.5}
    weights, _ = train(VGG16CAMTrainer, data, tmp_path / "out.pth", **options)
    given = torch.load(encoder, weights_only=True)
    changed = {
        n for n in weights if n in given and n[:8] == "features" and not torch.equal(weights[n], given[n])
    }
    assert changed == {f"features.{i}.{kind}" for i in (26, 28) for kind in ("weight", "bias")}
    steps = len(rates) // 3
    expected = [[0.1, 0.05]] * (2 * steps) + [[0.01, 0.005]] * steps
    assert np.allclose(rates, expected)


@pytest.mark.parametrize("cls", TRAINERS)
def test_from_scratch_everything_is_trained_and_it_says_so(
    cls: type[CamHeadTrainer], data: Path, tmp_path: Path
) -> None:
    weights, card = train(cls, data, tmp_path / "out.pth")
    torch.manual_seed(0)
    first = make(cls).network(3)[0].state_dict()
    assert {name for name in weights if torch.equal(weights[name], first[name])} == set()
    assert "from scratch" in card["initial weights"]
    assert make(cls).identity() == {"encoder": "from scratch"}


def test_a_head_of_as_many_classes_is_gone_on_with(data: Path, encoder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.pth"
    weights, _ = train(VGG16CAMTrainer, data, out, encoder=str(encoder))
    network, origin = make(VGG16CAMTrainer, encoder=str(out)).network(3)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in network.state_dict().items())
    assert "nothing at random" in origin
    network, origin = make(VGG16CAMTrainer, encoder=str(out)).network(4)  # the CAM layer is as good as before
    state = network.state_dict()
    assert torch.equal(state["features.30.weight"], weights["features.30.weight"])
    assert state["classifier.weight"].shape == (4, 10)
    assert "classifier at random" in origin


def test_dropout_is_before_the_linear_layer_and_in_training_alone() -> None:
    for cls, p in ((VGG16CAMTrainer, 0.75), (DecomposeMeTrainer, 0.75), (VGG16CAMTrainer, 0.0)):
        trainer = make(cls, dropout=p)
        network, _ = trainer.network(3)
        read: list[Tensor] = []
        linear = network.get_submodule(cls.extractor.head.removesuffix(".weight"))
        linear.register_forward_hook(lambda module, x, y, read=read: read.append(x[0]))
        pixels = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8)
        trainer._training(network)
        trainer.logits(network, pixels)
        network.eval()
        trainer.logits(network, pixels)
        dropped, whole = read
        kept = (dropped != 0) | (whole == 0)
        assert torch.allclose(dropped[kept], whole[kept] / (1 - p), atol=1e-5)
        share = 1 - kept[whole != 0].float().mean().item()
        assert share == pytest.approx(p, abs=0.1)


def test_frozen_batch_normalisation_learns_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    network[:2].requires_grad_(False)
    make(VGG16CAMTrainer)._training(network)
    assert [module.training for module in network] == [False, False, True, True]


@pytest.mark.parametrize(
    ("unfreeze", "message"),
    [
        ("features.99", "no layer 'features.99' with weights. Did you mean 'features"),
        ("classifier", "trained anyway"),
    ],
)
def test_layers_that_cannot_be_unfrozen(encoder: Path, unfreeze: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(VGG16CAMTrainer, encoder=str(encoder), unfreeze=unfreeze).network(3)


def test_weights_that_do_not_fit(encoder: Path, tmp_path: Path) -> None:
    torch.save({"features.0.weight": torch.zeros(9)}, tmp_path / "bad.pth")
    torch.save(squeezenet1_0().state_dict(), tmp_path / "other.pth")
    for name, message in (
        ("bad.pth", r"'features.0.weight' has shape \(9,\)"),
        ("other.pth", "other.pth: .*tensor 'features.0.weight'|other.pth: no tensor"),
        ("no.pth", "does not exist"),
    ):
        with pytest.raises(InstsearchError, match=message) as raised:
            make(VGG16CAMTrainer, encoder=str(tmp_path / name)).network(3)
        assert str(raised.value).count("\n") < 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": "0"}, "at least 1"),
        ({"unfreeze": "features.28"}, "none is given"),
        ({"crop": "64"}, "at most LEAST"),
        ({"crop": "16"}, "at least 32"),
        ({"short_side": "64,40"}, "LEAST,MOST"),
        ({"dropout": "1"}, "below 1"),
        ({"held_out": "0"}, "between 0 and 1"),
        ({"keep": "worst"}, "is one of last, best"),
    ],
)
def test_options_that_cannot_be(options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(VGG16CAMTrainer, **options)


# runs


@pytest.mark.parametrize("at", [1, 3, 6, 9])
@pytest.mark.parametrize("cls", TRAINERS)
def test_a_run_that_was_killed_ends_in_the_same_weights(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cls: type[CamHeadTrainer], at: int
) -> None:
    undisturbed, card = train(cls, data, tmp_path / "a.pth", keep="best")
    with dying(monkeypatch, classification, "descend", at):
        train(cls, data, tmp_path / "b.pth", keep="best")
    again, card_again = train(cls, data, tmp_path / "b.pth", keep="best")
    assert undisturbed.keys() == again.keys()
    assert all(torch.equal(undisturbed[name], again[name]) for name in again)
    check_same_run(tmp_path, card, card_again, ("steps", "epochs", "images", "held out", "classes"))


def test_training_learns_two_colours(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decomposeme, "BLOCKS", ((8, 8), (8, 8), (12, 12), (16, 16), (16, 16)))
    monkeypatch.setattr(decomposeme, "CHANNELS", 32)
    shutil.rmtree(data / "blue")
    out = tmp_path / "out.pth"
    _, card = train(DecomposeMeTrainer, data, out, epochs=20, lr=0.1, lr_every=20, dropout=0.0)
    losses = log(out, "cross_entropy")
    assert losses[0] > 0.6
    assert np.mean(losses[-4:]) < 0.2 * losses[0]
    assert card["held out"]["top-1"] == 1
    assert log(out, "top_1")[-1] == 1
    trained_on, held_out = card["images"]["trained on"], card["images"]["held out"]
    assert [name.rpartition("/")[2] for name in trained_on["skipped"]] == ["2.png"]
    assert (trained_on["pictures"], held_out["pictures"]) == (7, 4)


@pytest.mark.parametrize(("keep", "epoch"), [("best", 1), ("last", 3)])
def test_the_epoch_that_is_kept(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: str, epoch: int
) -> None:
    states: list[dict[str, Tensor]] = []
    losses = iter((3.0, 1.0, 2.0, 1.5, 9.0))

    def measured(self: CamHeadTrainer, network: nn.Module, *more: Any) -> dict[str, float]:
        states.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        return {"cross-entropy": next(losses), "top-1": 0.5}

    monkeypatch.setattr(CamHeadTrainer, "_measure", measured)
    weights, _ = train(VGG16CAMTrainer, data, tmp_path / "out.pth", epochs=4, keep=keep)
    assert all(torch.equal(weights[name], states[epoch][name]) for name in weights)
    assert not torch.equal(states[1]["classifier.weight"], states[3]["classifier.weight"])
    assert all(torch.equal(weights[name], states[4][name]) for name in weights)  # and these are measured last


def test_a_loss_that_is_not_finite_stops(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InstsearchError, match=r"training diverged in descent, epoch \d, step \d+: "):
        train(VGG16CAMTrainer, data, tmp_path / "x.pth", lr=1e30)


def test_the_weights_are_the_extractors(data: Path, encoder: Path, tmp_path: Path) -> None:
    """The file gives the extractor the logits that the trained network has, on as many classes."""
    out = tmp_path / "out.pth"
    weights, card = train(VGG16CAMTrainer, data, out, encoder=str(encoder))
    network = vgg16_cam.VGG16CAMNetwork(3).eval()
    network.load_state_dict(weights)
    extractor = vgg16_cam.VGG16CAM(vgg16_cam.VGG16CAM.Config(weights=str(out), logits=True), CPU)
    assert extractor.identity()["weights"] == card["sha256"]
    image: Image = read_image(data / "red" / "0.png")
    (found,) = extractor.extract([image])
    x = extractor.prepare(torch.from_numpy(image.pixels).permute(2, 0, 1)[None], torch.float32)
    assert found.logits is not None
    with torch.inference_mode():
        assert torch.allclose(found.logits, network(x)[0], atol=1e-5)


# any network with such a head


def test_another_number_of_classes() -> None:
    network = squeezenet1_0()
    set_classes(network, "classifier.1.weight", 5)
    assert network.state_dict()["classifier.1.weight"].shape == (5, 512, 1, 1)
    assert network.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 5)
    with torch.device("meta"):
        narrow = decomposeme.DecomposeMeNetwork()
        set_classes(narrow, "classifier.weight", 2)
    assert narrow.classifier.weight.is_meta
    assert narrow.classifier.weight.shape == (2, 10)


@pytest.mark.skipif(not SQUEEZENET.is_file(), reason="SqueezeNet's weights are not here")
def test_squeezenets_head_on_its_real_weights(data: Path, tmp_path: Path) -> None:
    """Its features tell three colours apart after a few steps; the extractor takes the file."""
    out = tmp_path / "squeezenet1_0-colours.pth"
    options = {"crop": 64, "short_side": (64, 64), "epochs": 10, "lr": 1e-5, "lr_every": 10}
    weights, card = train(SqueezeNet10Trainer, data, out, encoder=str(SQUEEZENET), **options)
    assert card["held out"]["top-1"] == 1
    assert "classifier.1 at random" in card["initial weights"]
    given = SqueezeNet10Trainer.extractor.import_weights(SQUEEZENET)
    assert all(torch.equal(weights[name], given[name]) for name in given if name.startswith("features"))
    extractor: Network = SqueezeNet10Trainer.extractor(
        SqueezeNet10Trainer.extractor.Config(weights=str(out), logits=True), CPU
    )
    (found,) = extractor.extract([read_image(data / "red" / "0.png")])
    assert found.values.shape[0] == 512
    assert found.logits is not None
    assert card["classes"][int(found.logits.argmax())] == "red"
