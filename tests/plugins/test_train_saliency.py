"""Training SalGAN and SalNet: given first weights, what each step changes, kills, and what comes out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.options import make_config
from instsearch_plugins.training import salgan, salnet
from instsearch_plugins.training.salgan import SalGANTrainer
from instsearch_plugins.training.salnet import SalNetTrainer
from instsearch_plugins.weighters import salgan as of_salgan
from instsearch_plugins.weighters import salnet as of_salnet
from killed_training import check_same_run, dying
from saliency_training import CPU, SALGAN, SALNET, SIZE, _few_channels, data, train

__all__ = ["_few_channels", "data"]  # fixtures


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {k for k in before if not torch.equal(before[k], after[k])}


def state(network: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in network.state_dict().items()}


# first weights that are given


def encoder_file(path: Path) -> dict[str, Tensor]:
    """A VGG-16 by torchvision's names, few channels; with a classifier, which nobody reads."""
    torch.manual_seed(5)
    names = nn.ModuleDict({"features": of_salgan.SalGANGenerator().encoder, "classifier": nn.Linear(2, 2)})
    torch.save(names.state_dict(), path)
    return state(names)


def test_a_given_encoder_is_loaded_and_its_first_blocks_are_frozen(data: Path, tmp_path: Path) -> None:
    given = encoder_file(tmp_path / "vgg16.pth")
    options = SALGAN | {"encoder": str(tmp_path / "vgg16.pth")}
    trainer = SalGANTrainer(make_config(SalGANTrainer, options, "x"), CPU)
    G = trainer._generator()
    first = state(G)
    for name, tensor in first.items():
        if name.startswith("encoder.") and not name.startswith("encoder.0."):
            assert torch.equal(tensor, given[name.replace("encoder", "features")])
    after, card = train(SalGANTrainer, data, tmp_path / "g.pth", options)
    frozen = {k for k in first if k.startswith("encoder.") and int(k.split(".")[1]) < 16}
    assert len(frozen) == 14
    assert {k for k in after if torch.equal(after[k], trainer._generator().state_dict()[k])} == frozen
    assert "encoder from vgg16.pth (sha256 " in card["initial weights"]
    digest = hashlib.sha256((tmp_path / "vgg16.pth").read_bytes()).hexdigest()
    assert trainer.identity() == {"encoder": digest}


def test_an_encoder_that_does_not_fit_is_refused(data: Path, tmp_path: Path) -> None:
    torch.save({"features.0.weight": torch.zeros(9)}, tmp_path / "bad.pth")
    for path, message in (
        (tmp_path / "bad.pth", "features.0.weight"),
        (tmp_path / "no.pth", "does not exist"),
    ):
        with pytest.raises(InstsearchError, match=message):
            train(SalGANTrainer, data, tmp_path / "g.pth", SALGAN | {"encoder": str(path)})


def test_salnets_first_layers_are_taken_from_a_file(data: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    given = state(of_salnet.SalNetNetwork())
    torch.save(given | {"fc8.weight": torch.zeros(2)}, tmp_path / "cnn_m.pth")
    options = SALNET | {"encoder": str(tmp_path / "cnn_m.pth")}
    first = SalNetTrainer(make_config(SalNetTrainer, options, "x"), CPU)._network().state_dict()
    same = {name for name in given if torch.equal(given[name], first[name])}
    assert same == {f"conv{i}.{kind}" for i in (1, 2, 3) for kind in ("weight", "bias")}
    _, card = train(SalNetTrainer, data, tmp_path / "n.pth", options)
    assert card["initial weights"].startswith("conv1 to conv3 from cnn_m.pth (sha256 ")


# the steps


def test_steps_are_the_discriminators_and_the_generators_in_turn(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen_in_steps: list[tuple[set[str], set[str]]] = []
    networks: dict[str, nn.Module] = {}
    plain = salgan.descend  # type: ignore[attr-defined]

    def watched(of: str) -> Callable[..., Any]:
        method = getattr(SalGANTrainer, of)

        def call(self: Any, G: nn.Module, D: nn.Module, *more: Any) -> Any:
            networks.update(G=G, D=D)
            return method(self, G, D, *more)

        return call

    def descend(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        before = {name: state(network) for name, network in networks.items()}
        plain(loss, optimizer)
        if networks:
            after = {name: state(network) for name, network in networks.items()}
            seen_in_steps.append((changed(before["G"], after["G"]), changed(before["D"], after["D"])))

    for name in ("_discriminator_loss", "_generator_loss"):
        monkeypatch.setattr(SalGANTrainer, name, watched(name))
    monkeypatch.setattr(salgan, "descend", descend)
    _, card = train(SalGANTrainer, data, tmp_path / "g.pth", SALGAN)
    assert [(bool(g), bool(d)) for g, d in seen_in_steps] == [(False, True), (True, False)] * 3
    assert card["epochs"] == {"bootstrap": 2, "adversarial": 2}
    assert card["component options"] == {"size": "16,32"}
    assert card["steps"] == 2 * 3 + 2 * 3  # six pictures less one in batches of two


def test_both_optimizers_of_the_bootstrap() -> None:
    G = nn.Conv2d(1, 1, 1)
    for name, lr, expected in (
        ("adagrad", None, 3e-4),
        ("adagrad", 0.1, 0.1),
        ("nesterov", None, 1e-3),
        ("nesterov", 0.2, 0.2),
    ):
        options = {"bootstrap_optimizer": name, "bootstrap_lr": lr, "weight_decay": 0.5}
        optimizer = SalGANTrainer(make_config(SalGANTrainer, options, "x"), CPU)._bootstrap_optimizer(G)
        group = optimizer.param_groups[0]
        assert type(optimizer).__name__ == {"adagrad": "Adagrad", "nesterov": "SGD"}[name]
        assert (group["lr"], group["weight_decay"]) == (expected, 0.5)
        assert group.get("nesterov", False) == (name == "nesterov")


def test_salnet_makes_its_steps_at_a_rate_that_is_halved(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = []
    plain = salnet.descend  # type: ignore[attr-defined]

    def descend(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        rates.append(optimizer.param_groups[0]["lr"])
        plain(loss, optimizer)

    monkeypatch.setattr(salnet, "descend", descend)
    _, card = train(SalNetTrainer, data, tmp_path / "n.pth", SALNET | {"lr": 1e-6})
    assert rates == [1e-6, 1e-6, 5e-7, 5e-7, 2.5e-7]
    assert card["steps"] == 5
    assert card["epochs"] == {"descent": 2}


@pytest.mark.parametrize(("cls", "options"), [(SalGANTrainer, SALGAN), (SalNetTrainer, SALNET)])
@pytest.mark.parametrize("at", [1, 4, 7, 10])
def test_a_run_that_was_killed_ends_in_the_same_weights(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cls: type[Any],
    options: dict[str, Any],
    at: int,
) -> None:
    options = options | {"flip": True, "keep": "best"} | ({"iterations": 12} if cls is SalNetTrainer else {})
    module = salgan if cls is SalGANTrainer else salnet
    undisturbed, card = train(cls, data, tmp_path / "a.pth", options)
    with dying(monkeypatch, module, "descend", at):
        train(cls, data, tmp_path / "b.pth", options)
    again, card_again = train(cls, data, tmp_path / "b.pth", options)
    assert equal(undisturbed, again)
    check_same_run(tmp_path, card, card_again, ("steps", "epochs", "images", "held out"))


@pytest.mark.parametrize(
    ("cls", "options"), [(SalGANTrainer, SALGAN | {"lr": 1e30}), (SalNetTrainer, SALNET | {"lr": 1.0})]
)
def test_a_loss_that_is_not_finite_stops(
    data: Path, tmp_path: Path, cls: type[Any], options: dict[str, Any]
) -> None:
    with pytest.raises(InstsearchError, match=r"training diverged in \w+, epoch \d, step \d+: "):
        train(
            cls, data, tmp_path / "x.pth", options | {"iterations": 50} if cls is SalNetTrainer else options
        )
    assert not (tmp_path / "x.pth").exists()


def test_training_learns(data: Path, tmp_path: Path) -> None:
    """The loss on pictures trained on falls, for either network."""
    for cls, options, name in (
        (SalGANTrainer, SALGAN | {"bootstrap_epochs": 12, "epochs": 0, "lr": 1e-2}, "content"),
        (SalNetTrainer, SALNET | {"iterations": 36, "lr_every": 1000, "lr": 1e-6}, "euclidean"),
    ):
        out = tmp_path / f"{name}.pth"
        train(cls, data, out, options)
        lines = (tmp_path / f"{name}.pth.training" / "log.csv").read_text().splitlines()
        losses = [float(line.split(",")[4]) for line in lines if f",{name}," in line]
        assert np.mean(losses[-6:]) < 0.9 * np.mean(losses[:3])


def test_the_best_epoch_is_kept_when_asked(data: Path, tmp_path: Path) -> None:
    """A learning rate that spoils later epochs: the weights kept have the lowest held-out loss of the log."""
    options = SALNET | {"iterations": 18, "lr": 2e-6, "lr_every": 1000, "keep": "best"}
    _, card = train(SalNetTrainer, data, tmp_path / "n.pth", options)
    lines = (tmp_path / "n.pth.training" / "log.csv").read_text().splitlines()
    held_out = [float(line.split(",")[4]) for line in lines if ",held_out," in line]
    assert len(held_out) == 6
    assert min(held_out) < held_out[-1]
    assert card["held out"]["euclidean"] == pytest.approx(min(held_out), abs=0.06)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "100,128"}, "multiples of 16"),
        ({"size": "128"}, "multiples of 16"),
        ({"batch": "0"}, "at least 1"),
        ({"seed": "-1"}, "at least 0"),
        ({"bootstrap_epochs": "0", "epochs": "0"}, "1 together"),
        ({"keep": "worst"}, "is one of last, best"),
        ({"bootstrap_optimizer": "adam"}, "is one of adagrad, nesterov"),
    ],
)
def test_options_that_cannot_be(options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_config(SalGANTrainer, options, "salgan")


# what comes out


@pytest.mark.parametrize(
    ("cls", "options", "component"),
    [(SalGANTrainer, SALGAN, of_salgan.SalGAN), (SalNetTrainer, SALNET, of_salnet.SalNet)],
)
def test_the_weights_are_the_components(
    data: Path, tmp_path: Path, cls: type[Any], options: dict[str, Any], component: type[Any]
) -> None:
    out = tmp_path / "out.pth"
    weights, card = train(cls, data, out, options)
    weighter = component(component.Config(weights=str(out)), CPU)
    assert weighter.identity() == {"weights": card["sha256"]}
    assert equal(weights, state(weighter.network))
    with torch.inference_mode():
        map_ = weighter.saliency(np.zeros((SIZE[1], SIZE[0], 3), np.uint8))
    assert map_.shape == SIZE[::-1]
    assert "from scratch" in card["initial weights"]
    assert set(card["held out"]) == {
        "content" if cls is SalGANTrainer else "euclidean",
        "AUC-Judd",
        "CC",
        "NSS",
        "KL",
    }
