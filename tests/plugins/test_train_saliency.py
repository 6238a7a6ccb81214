"""Training SalGAN and SalNet: their losses and first weights, what each step changes, kills, and what comes out."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest
import scipy.io
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.images import BadImage
from instsearch_cli.options import make_config
from instsearch_cli.progress import Quiet
from instsearch_cli.saliency_metrics import auc_judd, cc, kl, nss
from instsearch_cli.training import Run
from instsearch_plugins.training import salgan, salnet
from instsearch_plugins.training.descent import bilinear, he
from instsearch_plugins.training.discriminator import Discriminator, adversarial_loss, seen
from instsearch_plugins.training.salgan import SalGANTrainer, content_loss, take_bgr
from instsearch_plugins.training.saliency_batches import SaliencyBatches, SaliencyOptions
from instsearch_plugins.training.salnet import SalNetTrainer, euclidean_loss
from instsearch_plugins.weighters import salgan as of_salgan
from instsearch_plugins.weighters import salnet as of_salnet

SHARED = Path(__file__).parents[3] / "shared"
SCENES = SHARED / "data" / "scene-fixations"
SIZE = (48, 40)  #: width and height of the made pictures
SALGAN = {"size": (16, 32), "batch": 2, "held_out": 2, "bootstrap_epochs": 2, "epochs": 2, "lr": 1e-3}
SALNET = {"size": (16, 32), "batch": 2, "held_out": 2, "iterations": 5, "lr_every": 2, "std": 0.1}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _few_channels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The networks with their layers and places, and a few channels each, unless a test wants them whole."""
    if "whole" not in request.fixturenames:
        monkeypatch.setattr(of_salgan, "ENCODER", ((4, 2), (4, 2), (6, 3), (8, 3), (8, 3)))
        monkeypatch.setattr(of_salgan, "DECODER", ((8, 3), (8, 3), (6, 3), (4, 2), (4, 2)))
        narrow = [min(c[2], 6) for c in of_salnet.CONVOLUTIONS]
        table = [
            (n, i, o, k)
            for (n, _, _, k), i, o in zip(of_salnet.CONVOLUTIONS, [3, *narrow], narrow, strict=False)
        ]
        monkeypatch.setattr(of_salnet, "CONVOLUTIONS", tuple(table))


@pytest.fixture
def whole() -> None:
    """Nothing: asks for the networks as they are."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Eight pictures with fixations where they are bright: six to train on, one of them damaged, two held out."""
    folder, table = tmp_path / "data", {}
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(8):
        pixels = rng.integers(0, 90, (SIZE[1], SIZE[0], 3), np.uint8)
        x, y = int(rng.integers(4, SIZE[0] - 12)), int(rng.integers(4, SIZE[1] - 12))
        pixels[y : y + 8, x : x + 8] += 150
        PIL.Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
        table[f"{i}.png"] = {"size": list(SIZE), "fixations": [[[x + 4, y + 4], [x + 2, y + 6]]]}
    (folder / "images" / "2.png").write_bytes(b"no picture")
    (folder / "fixations.json").write_text(json.dumps(table))
    return folder


def train(
    cls: type[Any], data: Path, out: Path, options: dict[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    trainer = cls(make_config(cls, options, "x"), CPU)
    with Run(out.with_name(f"{out.name}.training"), {}, Quiet()) as run:
        weights = {k: v.clone() for k, v in trainer.train(data, run).items()}
        return weights, run.finish(out, weights, CPU)


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {k for k in before if not torch.equal(before[k], after[k])}


def state(network: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in network.state_dict().items()}


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
    G, D = trainer.generator(), Discriminator(16, 32)
    pixels, S = SaliencyBatches(data, trainer.config).load([("0.png", False), ("1.png", False)])
    fake = G(of_salgan.normalise(pixels))
    judged = torch.sigmoid(torch.cat((D(seen(pixels, S)), D(seen(pixels, fake)))))
    of_D = F.binary_cross_entropy(judged, torch.tensor([[1.0], [1], [0], [0]]))
    assert trainer.discriminator_loss(G, D, pixels, S).item() == pytest.approx(of_D.item(), rel=1e-5)
    loss, content = trainer.generator_loss(G, D, pixels, S)
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
    G = trainer.generator()
    first = state(G)
    for name, tensor in first.items():
        if name.startswith("encoder.") and not name.startswith("encoder.0."):
            assert torch.equal(tensor, given[name.replace("encoder", "features")])
    after, card = train(SalGANTrainer, data, tmp_path / "g.pth", options)
    frozen = {k for k in first if k.startswith("encoder.") and int(k.split(".")[1]) < 16}
    assert len(frozen) == 14
    assert {k for k in after if torch.equal(after[k], trainer.generator().state_dict()[k])} == frozen
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
    first = SalNetTrainer(make_config(SalNetTrainer, options, "x"), CPU).network().state_dict()
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
    plain = salgan.descend

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

    for name in ("discriminator_loss", "generator_loss"):
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
        optimizer = SalGANTrainer(make_config(SalGANTrainer, options, "x"), CPU).bootstrap_optimizer(G)
        group = optimizer.param_groups[0]
        assert type(optimizer).__name__ == {"adagrad": "Adagrad", "nesterov": "SGD"}[name]
        assert (group["lr"], group["weight_decay"]) == (expected, 0.5)
        assert group.get("nesterov", False) == (name == "nesterov")


def test_salnet_makes_its_steps_at_a_rate_that_is_halved(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = []
    plain = salnet.descend

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
    plain, count = module.descend, 0

    def descend(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        nonlocal count
        count += 1
        if count == at:
            raise RuntimeError("killed")
        plain(loss, optimizer)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "every", 0.0)
        patch.setattr(module, "descend", descend)
        with pytest.raises(RuntimeError, match="killed"):
            train(cls, data, tmp_path / "b.pth", options)
    again, card_again = train(cls, data, tmp_path / "b.pth", options)
    assert equal(undisturbed, again)
    for key in ("steps", "epochs", "images", "held out"):
        assert card[key] == card_again[key]
    logs = [(tmp_path / f"{x}.pth.training" / "log.csv").read_text() for x in "ab"]
    assert logs[0] == logs[1]


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


# the data


def batches(data: Path, **options: Any) -> SaliencyBatches:
    return SaliencyBatches(data, SaliencyOptions(**({"size": (16, 32), "batch": 2, "held_out": 2} | options)))


def test_a_batch_is_the_pictures_at_the_networks_size(data: Path) -> None:
    b = batches(data)
    pixels, S = b.load([("0.png", False), ("1.png", True)])
    assert pixels.shape == (2, 3, 16, 32)
    assert pixels.dtype == torch.uint8
    assert S.shape == (2, 1, 16, 32)
    for i, (name, mirrored) in enumerate((("0.png", False), ("1.png", True))):
        scene = b.fixations.read(name)
        small = cv2.resize(scene.pixels, (32, 16), interpolation=cv2.INTER_AREA)
        density = cv2.resize(scene.density, (32, 16), interpolation=cv2.INTER_AREA)
        flip = slice(None, None, -1 if mirrored else 1)
        assert np.array_equal(pixels[i].permute(1, 2, 0).numpy(), small[:, flip])
        assert np.array_equal(S[i, 0].numpy(), density[:, flip])
    again = b.load([("0.png", False), ("1.png", True)])
    assert torch.equal(again[0], pixels)
    assert torch.equal(again[1], S)


def test_the_order_follows_from_seed_stage_and_epoch(data: Path) -> None:
    b = batches(data)
    assert b.trained_on == [f"{i}.png" for i in range(6)]
    assert b.held_out == ["6.png", "7.png"]
    assert b.epoch(0, 3) == batches(data).epoch(0, 3)
    assert (
        len(
            {str(e) for e in (b.epoch(0, 0), b.epoch(0, 1), b.epoch(1, 0), batches(data, seed=1).epoch(0, 0))}
        )
        == 4
    )
    assert sorted(name for batch in b.epoch(0, 0) for name, _ in batch) == b.trained_on
    assert [len(batch) for batch in batches(data, batch=4).epoch(0, 0)] == [4, 2]
    assert not any(mirrored for e in range(9) for batch in b.epoch(0, e) for _, mirrored in batch)
    flips = [m for e in range(50) for batch in batches(data, flip=True).epoch(0, e) for _, m in batch]
    assert 0.35 < np.mean(flips) < 0.65


def test_pictures_that_cannot_be_used_are_counted_with_their_reasons(data: Path, tmp_path: Path) -> None:
    table = json.loads((data / "fixations.json").read_text())
    table["4.png"]["fixations"] = [[]]
    table["7.png"]["size"] = [9, 9]
    (data / "fixations.json").write_text(json.dumps(table))
    _, card = train(SalGANTrainer, data, tmp_path / "g.pth", SALGAN)
    assert card["images"]["trained on"] == 4
    assert card["images"]["held out"] == 1
    skipped = card["images"]["skipped"]
    assert list(skipped) == ["2.png", "4.png", "7.png"]
    assert "nobody looked anywhere" in skipped["4.png"]
    assert "9 x 9" in skipped["7.png"]
    with pytest.raises(BadImage, match=r"2\.png: "):
        batches(data).load([("2.png", False), ("4.png", False)])


@pytest.mark.parametrize(
    ("bad", "message"), [(range(6), "can be trained on: "), ((6, 7), "is held out can be read: 6.png: ")]
)
def test_data_that_is_bad_altogether_is_an_error(data: Path, tmp_path: Path, bad: Any, message: str) -> None:
    for i in bad:
        (data / "images" / f"{i}.png").write_bytes(b"")
    with pytest.raises(InstsearchError, match=message):
        train(SalGANTrainer, data, tmp_path / "g.pth", SALGAN)


def test_the_network_is_measured_on_what_is_held_out(data: Path, tmp_path: Path) -> None:
    b = batches(data)

    def predict(pixels: Tensor) -> Tensor:
        return pixels.float().mean(1, keepdim=True)

    with Run(tmp_path / "run", {}, Quiet()) as run:
        found = b.measure(predict, run)
        loss = b.validate(lambda pixels, S: S.mean() + len(S), run)
    expected = []
    for name in b.held_out:
        scene = b.fixations.read(name)
        small = cv2.resize(scene.pixels, (32, 16), interpolation=cv2.INTER_AREA).astype(np.float32).mean(2)
        P = cv2.resize(small, SIZE, interpolation=cv2.INTER_CUBIC).clip(0)
        Q, fixated = scene.density, scene.fixations
        expected.append([auc_judd(P, fixated), cc(P, Q), nss(P, fixated), kl(P, Q)])
    assert list(found) == ["AUC-Judd", "CC", "NSS", "KL"]
    assert list(found.values()) == pytest.approx(np.mean(expected, 0).tolist(), abs=1e-4)
    S = b.load([(name, False) for name in b.held_out])[1]
    assert loss == pytest.approx(float(S.mean()) + 2)


def test_the_best_epoch_is_kept_when_asked(data: Path, tmp_path: Path) -> None:
    """A learning rate that spoils later epochs: the weights kept have the lowest held-out loss of the log."""
    options = SALNET | {"iterations": 18, "lr": 2e-6, "lr_every": 1000, "keep": "best"}
    _, card = train(SalNetTrainer, data, tmp_path / "n.pth", options)
    lines = (tmp_path / "n.pth.training" / "log.csv").read_text().splitlines()
    held_out = [float(line.split(",")[4]) for line in lines if ",held_out," in line]
    assert len(held_out) == 6
    assert min(held_out) < held_out[-1]
    assert card["held out"]["euclidean"] == pytest.approx(min(held_out), abs=0.06)


def test_salicons_train_is_trained_on(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for kind in ("images", "fixations"):
            (tmp_path / kind / split).mkdir(parents=True)
        for i in range(3):
            PIL.Image.new("RGB", SIZE, (i * 60, 9, 9)).save(tmp_path / "images" / split / f"{split}{i}.jpg")
            gaze = np.zeros((1, 1), [("fixations", "O")])
            gaze[0, 0] = (np.array([[5, 6], [9, 9 + i]], np.uint16),)
            scipy.io.savemat(
                tmp_path / "fixations" / split / f"{split}{i}.mat",
                {"gaze": gaze, "resolution": np.array([SIZE[::-1]])},
            )
    b = batches(tmp_path, held_out=1)
    assert (b.trained_on, b.held_out) == (["train0.jpg", "train1.jpg"], ["train2.jpg"])
    assert b.load([("train0.jpg", False)])[1].max() > 0


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


def test_more_held_out_than_there_are(data: Path) -> None:
    with pytest.raises(UsageError, match="8 of 8 images cannot be held out"):
        batches(data, held_out=8)


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


@pytest.mark.skipif(not SCENES.is_dir(), reason="scene-fixations is not here")
def test_the_real_pictures_are_four_hundred_and_a_hundred() -> None:
    b = SaliencyBatches(SCENES, SaliencyOptions(size=(48, 64)))
    assert (len(b.trained_on), len(b.held_out)) == (400, 100)
    pixels, S = b.load(b.epoch(0, 0)[0][:2])
    assert pixels.shape == (2, 3, 48, 64)
    assert 0.5 < S.max() <= 1
