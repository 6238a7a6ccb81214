"""Training MSCNet: losses, gradients by passes, what is frozen, batches, kills, validation, and bad data."""

from __future__ import annotations

import csv
import json
import shutil
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.images import BadImage, discover, read_image
from instsearch_cli.intake import take_in
from instsearch_cli.options import make_config
from instsearch_cli.progress import Quiet
from instsearch_cli.training import Run
from instsearch_cli.weights import needed
from instsearch_formats import Index
from instsearch_plugins.encoders.mscnet_network import MSCNet, drawn
from instsearch_plugins.extractors.networks import Network, normalise
from instsearch_plugins.numeric.mscnet import hardest, mask_cosine, ngd_loss, trihard_loss
from instsearch_plugins.training import curves, mscnet
from instsearch_plugins.training.basic_conv import BasicConv, extractors
from instsearch_plugins.training.mscnet import MSCNetTrainer
from instsearch_plugins.training.mscnet_batches import Crops, Identities, Sample, Shuffled, photographs
from instsearch_plugins.training.trihard import TriHard
from instsearch_plugins.training.validation import Patience, Validation

CPU = torch.device("cpu")
C = 6
BASE = {
    "network": "tinybn",
    "crop": 40,
    "short_side": (40, 50),
    "masks": 3,
    "dims": 8,
    "batch": 4,
    "epochs": 2,
}
BASE |= {"lr": 0.05, "scale": 4.0, "validation_size": 40}
TRIPLETS = {"mode": "sta2", "identities": 2, "images": 3, "lr": 0.01, "margin": 0.5}


class TinyBN(Network):
    """Two convolutions with batch normalisation, and a classifier behind the layer."""

    architecture = "tinybn"
    default = "features.4"

    @classmethod
    def build(cls) -> nn.Module:
        features = nn.Sequential(
            nn.Conv2d(3, 4, 5, stride=4, padding=2),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, C, 3, padding=1),
            nn.ReLU(),
        )
        head = nn.Sequential(nn.Conv2d(C, 7, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(7, 3))
        return nn.Sequential(OrderedDict(features=features, head=head))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(11)
    network = TinyBN.build()
    network.features[1].running_mean.uniform_(-0.2, 0.2)
    network.features[1].running_var.uniform_(0.5, 2)
    torch.save(network.state_dict(), tmp_path / "tinybn.pth")
    return tmp_path / "tinybn.pth"


def picture(path: Path, kind: int, seed: int, size: tuple[int, int] = (56, 48)) -> None:
    """Stripes whose width, direction and colour are the kind's, with noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[1], : size[0]]
    wave = ((x if kind % 2 else y) + rng.integers(9)) // (3 + 2 * kind) % 2
    colour = np.array([60 + 60 * (kind % 3), 200 - 50 * kind % 150, 90])
    pixels = wave[..., None] * colour + rng.integers(0, 40, (size[1], size[0], 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels.astype(np.uint8)).save(path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three classes of four, two and one pictures besides a damaged one, in class folders."""
    folder = tmp_path / "data"
    for kind, n in enumerate((4, 3, 2)):
        for i in range(n):
            picture(folder / f"class{kind}" / f"{i}.png", kind, 10 * kind + i)
    (folder / "class0" / "broken.png").write_bytes(b"no picture")
    return folder


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    folder = tmp_path / "valid"
    for kind in range(3):
        for i in range(3):
            picture(folder / f"{kind}{i}.png", kind, 100 + 10 * kind + i)
    queries = [
        {
            "id": str(kind),
            "image": f"{kind}2.png",
            "box": [4, 4, 40, 36],
            "positives": [f"{kind}0.png", f"{kind}1.png"],
        }
        for kind in range(3)
    ]
    images = [f"{kind}{i}.png" for kind in range(3) for i in range(2)]
    (folder / "manifest.json").write_text(json.dumps({"images": images, "queries": queries}))
    return folder / "manifest.json"


def trainer(weights: Path, **options: Any) -> MSCNetTrainer:
    return MSCNetTrainer(
        make_config(MSCNetTrainer, BASE | {"weights": str(weights)} | options, "mscnet"), CPU
    )


def train(weights: Path, data: Path, out: Path, **options: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    t = trainer(weights, **options)
    asked = json.loads(
        json.dumps({"options": str(t.config), "inputs": t.identity(), "data": t.digest(data, Quiet())})
    )
    with Run(out.with_name(f"{out.name}.training"), asked, Quiet()) as run:
        trained = {k: v.detach().clone() for k, v in t.train(data, run).items()}
        return trained, run.finish(out, trained, CPU)


def log(out: Path) -> list[dict[str, str]]:
    with (out.with_name(f"{out.name}.training") / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture
def sta1(weights: Path, data: Path, tmp_path: Path) -> Path:
    train(weights, data, tmp_path / "sta1.pth", mode="sta1")
    return tmp_path / "sta1.pth"


# options and the paper's table


def test_the_papers_numbers_by_mode(weights: Path) -> None:
    table = {"un": (0.005, 0.01), "sta1": (0.1, 0.0005), "sta2": (0.01, 0.0005)}
    for mode, (alpha, lr) in table.items():
        t = MSCNetTrainer(make_config(MSCNetTrainer, {"mode": mode, "start": "x"}, "x"), CPU)
        assert (t.alpha, t.lr) == (alpha, lr)
        assert t.layer == "features.29"  # relu5_3
    c = t.config
    assert (c.network, c.masks, c.dims, c.beta, c.ngd, c.scale) == ("vgg16", 5, 512, 0.5, "paper", 1)
    assert (c.margin, c.identities, c.images, c.momentum, c.weight_decay) == (0.1, 8, 10, 0.9, 5e-4)
    assert (c.short_side, c.crop, c.flip) == ((400, 512), 386, False)
    own = trainer(weights, alpha=0.3, lr=2.0)
    assert (own.alpha, own.lr, own.layer) == (0.3, 2.0, "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"masks": 0}, "masks, dims"),
        ({"crop": 60}, "crop at least 32 and at most"),
        ({"short_side": "50,40"}, "short-side"),
        ({"short_side": "50"}, "short-side"),
        ({"images": 1}, "at least 2"),
        ({"mode": "sta2"}, "sta2 goes on from what sta1 made"),
        ({"validation_size": 3}, "validation-size"),
    ],
)
def test_options_that_cannot_be(weights: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        trainer(weights, **options)


def test_files_that_are_not_there(weights: Path, data: Path) -> None:
    for name in ("labels", "start", "validation"):
        with pytest.raises(UsageError, match=f"{name}: there is no file nowhere"):
            trainer(weights, **{name: "nowhere"}).identity()
    with pytest.raises(UsageError, match=r"no network .tinybm.*Did you mean .tinybn"):
        trainer(weights, network="tinybm").identity()
    with pytest.raises(UsageError, match="precision fp16"):
        trainer(weights, mode="sta2", start="x", precision="fp16").basic_conv()


# the Basic Conv


def test_the_basic_conv_is_the_extractors_network(weights: Path) -> None:
    pixels = torch.randint(0, 256, (2, 3, 40, 44), dtype=torch.uint8)
    whole = TinyBN.build().eval()
    whole.load_state_dict(torch.load(weights, weights_only=True))
    expected = whole.features(normalise(pixels))
    for frozen in (True, False):
        conv = BasicConv("tinybn", "", str(weights), CPU, frozen, "auto")
        assert torch.allclose(conv(pixels), expected, atol=1e-5)
        assert conv(pixels).requires_grad == (not frozen)
        assert conv.channels == C
        assert set(needed(conv.network)) == {
            name for name in whole.state_dict() if name.startswith("features.") and "num_batches" not in name
        }
        assert not conv.network.training
    assert conv(pixels[..., :5, :5]).shape == (2, C, 8, 8)  # as the extractor has it: 32 pixels at least
    assert {"vgg16", "resnet50", "resnet101", "densenet161", "squeezenet1_0", "tinybn"} <= set(extractors())


def test_half_precision_is_near_and_comes_back_as_fp32(weights: Path) -> None:
    pixels = torch.randint(0, 256, (1, 3, 40, 40), dtype=torch.uint8)
    exact = BasicConv("tinybn", "", str(weights), CPU, True, "fp32")(pixels)
    for frozen in (True, False):
        conv = BasicConv("tinybn", "", str(weights), CPU, frozen, "bf16")
        found = conv(pixels)
        assert found.dtype == torch.float32
        assert torch.allclose(found, exact, atol=0.05)
        assert not torch.equal(found, exact)
        assert all(
            p.dtype == (torch.bfloat16 if frozen else torch.float32) for p in conv.network.parameters()
        )


# losses and gradients


def gradients(modules: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in modules.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("form", ["paper", "mean"])
@pytest.mark.parametrize("labels", [[0, 0, 0, 1, 1, 1, 2, 2, 2], [0, 1, 0, 0, 2, 1]])
def test_passes_of_p_times_3_give_the_gradients_of_one_big_pass(
    weights: Path, labels: list[int], form: Any
) -> None:
    torch.manual_seed(3)
    y = torch.tensor(labels)
    pixels = torch.randint(0, 256, (len(y), 3, 40, 40), dtype=torch.uint8)
    conv = BasicConv("tinybn", "", str(weights), CPU, False, "fp32")
    net = MSCNet(C, 3, 8)
    whole = nn.ModuleDict({"net": net, "network": conv.network})
    seen: list[int] = []

    def describe(u: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(len(u))
        return net(conv(u))

    z, M = net(conv(pixels))
    trihard, ngd = trihard_loss(z, y, 0.5), ngd_loss(M, 0.3, form)
    (trihard + 0.2 * ngd).backward()
    expected = gradients(whole)
    whole.zero_grad()
    means = TriHard(0.5, 0.2, 0.3, form).backward(describe, pixels, y)
    found = gradients(whole)
    assert found.keys() == expected.keys() == {name for name, _ in whole.named_parameters()}
    assert all(grad.abs().max() > 1e-4 for grad in expected.values())
    off = torch.cat([(found[name] - grad).flatten() for name, grad in expected.items()])
    assert off.norm() <= 1e-5 * torch.cat([grad.flatten() for grad in expected.values()]).norm()
    assert means.trihard == pytest.approx(trihard.item(), abs=1e-5)
    assert means.ngd == pytest.approx(ngd.item(), abs=1e-5)
    assert means.cosine == pytest.approx(mask_cosine(M).mean().item(), abs=1e-5)
    assert max(seen) <= 3 * len(set(labels))
    assert sum(seen[-(max(labels.count(i) for i in labels)) :]) <= 3 * len(y)


def test_without_hard_triplets_only_the_masks_have_gradients() -> None:
    z = torch.tensor([[0.0, 1], [0, 1], [1, 0], [1, 0]], requires_grad=True)
    M = torch.rand(4, 2, 3, 3).requires_grad_()
    pixels = torch.arange(4)
    means = TriHard(0.1, 1.0, 0.0).backward(lambda u: (z[u], M[u]), pixels, torch.tensor([0, 0, 1, 1]))
    assert means.trihard == 0
    assert z.grad is None or not z.grad.any()
    assert M.grad is not None
    assert M.grad.abs().min() > 0


def test_one_anchor_of_each_class_is_the_first_pass_alone() -> None:
    torch.manual_seed(0)
    z, M, y = torch.randn(6, 4), torch.rand(6, 2, 3, 3), torch.tensor([0, 0, 0, 1, 1, 1])
    p, n = hardest(z, y)
    terms = [max(float((z[a] - z[p[a]]).norm() - (z[a] - z[n[a]]).norm()) + 0.1, 0.0) for a in (0, 3)]
    z.requires_grad_()
    M.requires_grad_()
    means = TriHard(0.1, 0.5, 0.1, anchors="one").backward(lambda u: (z[u], M[u]), torch.arange(6), y)
    assert means.trihard == pytest.approx(sum(terms) / 2, abs=1e-6)
    assert M.grad is not None
    assert M.grad[[1, 2, 4, 5]].abs().sum() == 0  # no anchors


def test_the_losses_of_classes_by_hand(weights: Path) -> None:
    for mode in ("un", "sta1"):
        t = trainer(weights, mode=mode, alpha=0.7, beta=0.2)
        torch.manual_seed(1)
        conv, net, A = t.basic_conv(), MSCNet(C, 3, 8), nn.Linear(8, 5)
        pixels, y = torch.randint(0, 256, (4, 3, 40, 40), dtype=torch.uint8), torch.tensor([0, 4, 2, 2])
        logged = t.backward(conv, net, A, pixels, y)
        found = gradients(nn.ModuleList([net, A]))
        z, M = net(conv(pixels))
        p = (A.weight @ (4.0 * z).T + A.bias[:, None]).T.softmax(1)
        L = -torch.stack([p[i, c].log() for i, c in enumerate(y)]).mean()
        ngd = torch.zeros(())
        for m in M.flatten(2):
            cosines = [F.cosine_similarity(m[i], m[j], dim=0) for i in range(3) for j in range(3) if i != j]
            ngd = ngd + torch.stack(cosines).sum().div(4).sub(0.2).clamp(min=0) / 4
        net.zero_grad()
        A.zero_grad()
        (L + 0.7 * ngd).backward()
        expected = gradients(nn.ModuleList([net, A]))
        assert logged[{"un": "instance", "sta1": "classification"}[mode]] == pytest.approx(L.item(), rel=1e-5)
        assert logged["NGD"] == pytest.approx(float(ngd.detach()), rel=1e-5)
        assert all(torch.allclose(found[k], expected[k], atol=1e-6) for k in expected)
        assert found.keys() == expected.keys()


def test_at_the_start_masks_are_alike(weights: Path, data: Path, tmp_path: Path) -> None:
    train(weights, data, tmp_path / "x.pth", masks=5, epochs=1, lr=1e-9)
    of = {row["name"]: float(row["value"]) for row in reversed(log(tmp_path / "x.pth"))}
    assert of["NGD"] == pytest.approx(5 / 4 * of["mask cosine"] - 0.5, abs=1e-6)
    assert of["NGD"] == pytest.approx(0.75, abs=0.03)
    assert of["instance"] == pytest.approx(np.log(10), rel=0.5)


def test_a_single_mask_has_no_gram_difference(weights: Path, data: Path, tmp_path: Path) -> None:
    after, _ = train(weights, data, tmp_path / "x.pth", masks=1)
    assert after["msb.weight"].shape == (1, C, 3, 3)
    assert {float(row["value"]) for row in log(tmp_path / "x.pth") if row["name"] == "NGD"} == {0.0}


# what is trained


def test_what_is_frozen_when(weights: Path, data: Path, sta1: Path, tmp_path: Path) -> None:
    first = torch.load(weights, weights_only=True)
    heads = {"msb.weight", "msb.bias", "fc.weight", "fc.bias"}
    for mode in ("un", "sta1"):
        start = drawn(C, 3, 8, 0).state_dict()
        after, card = train(weights, data, tmp_path / f"{mode}-again.pth", mode=mode)
        assert set(after) == heads
        assert all(not torch.equal(after[k], start[k]) for k in heads)
        assert card["used with"] == {"extractor": "tinybn", "extractor.layer": "features.4"}
        assert "frozen" in card["basic conv"]
    before = torch.load(sta1, weights_only=True)
    after, card = train(weights, data, tmp_path / "sta2.pth", start=str(sta1), **TRIPLETS)
    network = {f"network.{k}": v for k, v in first.items() if k.startswith("features.") and "num_" not in k}
    assert set(after) == heads | set(network)
    same = {k for k, v in (before | network).items() if torch.equal(after[k], v)}
    assert same == {"network.features.1.running_mean", "network.features.1.running_var"}
    assert card["used with"]["extractor.weights"] == "OUT"
    assert card["images"]["classes"] == 3
    assert torch.load(tmp_path / "sta2.pth", weights_only=True).keys() == after.keys()


def test_gram_weights_pass_gradients_on_in_sta2_unless_told_not_to(weights: Path) -> None:
    pixels = torch.randint(0, 256, (4, 3, 40, 40), dtype=torch.uint8)
    found = []
    for through in (True, False):
        t = trainer(weights, mode="sta2", start="x", gram_gradient=through, alpha=0.0, margin=2.0)
        torch.manual_seed(5)
        conv, net = t.basic_conv(), MSCNet(C, 3, 8)
        t.backward(conv, net, nn.Identity(), pixels, torch.tensor([0, 0, 1, 1]))
        found.append((gradients(net), gradients(conv.network)))
    (heads, network), (heads_without, network_without) = found
    assert all(torch.allclose(heads[k], heads_without[k], atol=1e-6) for k in heads)
    assert any(not torch.allclose(network[k], network_without[k], rtol=1e-3) for k in network)


def test_a_start_of_a_trained_network_keeps_it(weights: Path, data: Path, sta1: Path, tmp_path: Path) -> None:
    second, _ = train(weights, data, tmp_path / "sta2.pth", start=str(sta1), **TRIPLETS)
    third, card = train(weights, data, tmp_path / "un.pth", start=str(tmp_path / "sta2.pth"))
    assert all(torch.equal(second[k], third[k]) for k in second if k.startswith("network."))
    assert not torch.equal(second["fc.weight"], third["fc.weight"])
    assert card["used with"]["extractor.weights"] == "OUT"


@pytest.mark.parametrize("options", [{"masks": 4}, {"dims": 9}, {"layer": "features.2"}])
def test_a_start_of_another_shape_is_refused(
    weights: Path, data: Path, sta1: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    with pytest.raises(
        InstsearchError, match=r"sta1\.pth: tensor 'msb|fc.* has shape .*\nThe start has to be of"
    ):
        train(weights, data, tmp_path / "x.pth", start=str(sta1), **options)
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(InstsearchError, match=r"no tensor 'msb\.weight'"):
        train(weights, data, tmp_path / "y.pth", start=str(tmp_path / "other.pth"))


@pytest.mark.parametrize(
    ("mode", "name"), [("un", "instance"), ("sta1", "classification"), ("sta2", "trihard")]
)
def test_training_learns(weights: Path, data: Path, sta1: Path, tmp_path: Path, mode: str, name: str) -> None:
    options = {"mode": mode, "epochs": 25, "lr": 0.05, "scale": 8.0, "crop": 40, "short_side": (40, 42)}
    if mode == "sta2":
        options |= TRIPLETS | {"lr": 0.1, "start": str(sta1)}
    train(weights, data, tmp_path / "x.pth", **options)
    losses = [float(row["value"]) for row in log(tmp_path / "x.pth") if row["name"] == name]
    assert np.mean(losses[-6:]) < 0.85 * np.mean(losses[:3])


# kills, divergence, the end of training


@pytest.mark.parametrize("at", [0, 1, 4])
@pytest.mark.parametrize(("mode", "views"), [("un", 0), ("un", 2), ("sta1", 0), ("sta1", 1), ("sta2", 0)])
def test_a_run_that_was_killed_ends_in_the_same_weights(
    weights: Path,
    data: Path,
    sta1: Path,
    manifest: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    views: int,
    at: int,
) -> None:
    options: dict[str, Any] = {"mode": mode, "flip": True, "validation": str(manifest), "epochs": 3}
    options |= {"views": views}
    if mode == "sta2":
        options |= TRIPLETS | {"start": str(sta1)}
    undisturbed, card = train(weights, data, tmp_path / "a.pth", **options)
    plain, count = MSCNetTrainer.backward, 0

    def backward(self: MSCNetTrainer, *rest: Any) -> dict[str, float]:
        nonlocal count
        count += 1
        if count == at + 1:
            raise RuntimeError("killed")
        return plain(self, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "every", 0.0)
        patch.setattr(MSCNetTrainer, "backward", backward)
        with pytest.raises(RuntimeError, match="killed"):
            train(weights, data, tmp_path / "b.pth", **options)
    again, card_again = train(weights, data, tmp_path / "b.pth", **options)
    assert equal(undisturbed, again)
    for key in ("steps", "epochs", "images", "held out", "validation"):
        assert card[key] == card_again[key]
    logs = [(tmp_path / f"{x}.pth.training" / "log.csv").read_text() for x in "ab"]
    assert logs[0] == logs[1]


def test_maps_of_kept_views_are_computed_once(
    weights: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed, plain = [0], BasicConv.__call__

    def counted(self: BasicConv, pixels: torch.Tensor) -> torch.Tensor:
        computed[0] += len(pixels) if len(pixels) > 1 else 0  # rehearsals have one
        return plain(self, pixels)

    monkeypatch.setattr(BasicConv, "__call__", counted)
    _, card = train(weights, data, tmp_path / "a.pth", views=2, epochs=5, batch=5)
    assert computed[0] == 2 * card["images"]["pictures"] == 18
    assert list(card["images"]["skipped"]) == [str(data / "class0" / "broken.png")]
    assert not list((tmp_path / "a.pth.training").glob("maps*"))


def test_views_without_room_are_said_before_training(
    weights: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("instsearch_plugins.training.kept_maps.shutil.disk_usage", lambda _: usage)
    with pytest.raises(InstsearchError, match="take fewer views"):
        train(weights, data, tmp_path / "a.pth", views=1)
    with pytest.raises((UsageError, ValueError), match="views"):
        train(weights, data, tmp_path / "a.pth", mode="sta2", start=str(tmp_path), views=1)


def test_a_loss_that_is_not_finite_stops_and_says_where(weights: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(InstsearchError, match=r"training diverged in un, epoch \d+, step \d+: "):
        train(weights, data, tmp_path / "x.pth", lr=1e30, epochs=9)
    assert not (tmp_path / "x.pth").exists()


def test_training_ends_early_and_the_best_weights_are_kept(
    weights: Path, data: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, offered = [0.2, 0.5, 0.4, 0.5, 0.3, 0.9], []
    plain = Patience.offer

    def offer(self: Patience, loss: float, network: nn.Module) -> None:
        offered.append({k: v.clone() for k, v in network.state_dict().items()})
        plain(self, loss, network)

    monkeypatch.setattr(Patience, "offer", offer)
    for keep, kept in (("best", 1), ("last", 4)):
        found = iter(given)
        offered.clear()
        monkeypatch.setattr(Validation, "mean_average_precision", lambda *_: next(found))  # noqa: B023
        options = {"validation": str(manifest), "patience": 3, "epochs": 6, "keep": keep}
        after, card = train(weights, data, tmp_path / f"{keep}.pth", **options)
        assert len(offered) == 5
        assert equal(after, offered[kept])
        assert card["held out"] == {"mAP": 0.5}
        assert card["validation"]["best epoch"] == 2
        assert card["validation"]["epochs"] == 5


def test_the_curves_are_the_means_of_the_log(
    weights: Path, data: Path, manifest: Path, tmp_path: Path
) -> None:
    out = tmp_path / "x.pth"
    train(weights, data, out, validation=str(manifest))
    rows = log(out)
    found = curves.means(tmp_path / "x.pth.training" / "log.csv")
    assert set(found) == {"instance", "NGD", "mask cosine", "mAP"}
    for name, of in found.items():
        assert list(of) == [1, 2]
        for epoch, mean in of.items():
            own = [float(r["value"]) for r in rows if (r["name"], r["epoch"]) == (name, str(epoch))]
            assert mean == pytest.approx(np.mean(own))
            assert len(own) == (1 if name == "mAP" else 3)  # ten pictures in batches of four
    text = (tmp_path / "x.pth.training" / "curves.svg").read_text()
    assert text.startswith("<?xml")
    assert "MSCNet" not in text or len(text) > 1000


# data


def test_pictures_alone_labels_and_an_index(weights: Path, data: Path, tmp_path: Path) -> None:
    t = trainer(weights)
    assert len(t.batches(data).classes) == 10
    sta1 = trainer(weights, mode="sta1").batches(data)
    assert sta1.classes == ["class0", "class1", "class2"]
    table = tmp_path / "labels.csv"
    table.write_text("path,label\nclass0/0.png,a\nclass1/1.png,b\nclass2/0.png,a\n")
    by_table = trainer(weights, mode="sta1", labels=str(table)).batches(data)
    assert [p.name for p in by_table.paths] == ["0.png", "1.png", "0.png"]
    assert by_table.labels.tolist() == [0, 1, 0]
    table.write_text("path,label\nclass0/0.png,a\nnot/there.png,b\n")
    with pytest.raises(InstsearchError, match=r"there\.png"):
        trainer(weights, mode="sta1", labels=str(table)).batches(data)

    index = Index.create(tmp_path / "index")
    with index.lock():
        take_in(index, discover([data]), Quiet())
        before = t.digest(tmp_path / "index", Quiet())
        index.images.remove([0], "no more")
    found = photographs(tmp_path / "index")
    assert sorted(found) == sorted(f.path for f in discover([data]).found if "broken" not in f.path.name)[1:]
    after = t.digest(tmp_path / "index", Quiet())
    assert (before["images"], after["images"]) == (9, 8)
    assert before["sha256"] != after["sha256"]
    assert len(t.batches(tmp_path / "index").classes) == 8
    of_index = trainer(weights, mode="sta1").batches(tmp_path / "index")
    assert sorted(of_index.paths) == sorted(found)
    trained, card = train(weights, tmp_path / "index", tmp_path / "x.pth")
    assert trained["fc.weight"].shape == (8, 3 * C)
    assert card["data"] == after
    assert card["images"] == {"pictures": 8, "classes": 8, "skipped": {}}


def test_pictures_that_cannot_be_read_are_skipped_and_counted(
    weights: Path, data: Path, sta1: Path, tmp_path: Path
) -> None:
    for mode, more in (("un", {}), ("sta1", {}), ("sta2", TRIPLETS | {"start": str(sta1)})):
        _, card = train(weights, data, tmp_path / f"{mode}2.pth", **({"mode": mode} | more))
        assert card["images"]["pictures"] == 9
        assert [Path(name).name for name in card["images"]["skipped"]] == ["broken.png"]
    for path in data.rglob("*.png"):
        path.write_bytes(b"no picture")
    for mode, more in (("un", {}), ("sta2", TRIPLETS | {"start": str(sta1)})):
        with pytest.raises(InstsearchError, match="nothing of the data can be trained on: "):
            train(weights, data, tmp_path / f"{mode}3.pth", **({"mode": mode} | more))


def test_too_few_classes_and_pictures(weights: Path, data: Path, tmp_path: Path) -> None:
    shutil.rmtree(data / "class2")
    (data / "class1" / "0.png").unlink()
    (data / "class1" / "1.png").unlink()
    with pytest.raises(InstsearchError, match=r"triplets need two classes .*; of 2 classes 1 have a single"):
        trainer(weights, mode="sta2", start="x").batches(data)
    shutil.rmtree(data / "class1")
    with pytest.raises(InstsearchError, match="two classes at least; here are 5 of one, class0"):
        trainer(weights, mode="sta1").batches(data)
    with pytest.raises(InstsearchError, match="no class folders"):
        trainer(weights, mode="sta1").batches(data / "class0")
    one = tmp_path / "one"
    picture(one / "a.png", 0, 0)
    with pytest.raises(InstsearchError, match="two at least"):
        trainer(weights).batches(one)


def pairs_of(counts: dict[str, int]) -> list[tuple[Path, str]]:
    return [(Path(f"{label}{i}"), label) for label, n in counts.items() for i in range(n)]


def test_batches_of_identities() -> None:
    pairs = pairs_of({"a": 9, "b": 2, "c": 3, "d": 1, "e": 5, "f": 4})
    batches = Identities(pairs, Crops(seed=4), 3, 4)
    assert batches.alone == ["d"]
    assert batches.classes == ["a", "b", "c", "e", "f"]
    assert batches.epoch(0) == Identities(pairs, Crops(seed=4), 3, 4).epoch(0)
    assert batches.epoch(0) != batches.epoch(1)
    seen: set[int] = set()
    for epoch in range(8):
        todo = batches.epoch(epoch)
        assert len(todo) == 2  # 23 pictures in batches of twelve
        assert [s.place for batch in todo for s in batch] == list(range(24))
        for batch in todo:
            labels = batches.labels[[s.image for s in batch]].reshape(3, 4)
            assert (labels == labels[:, :1]).all()
            assert len(set(labels[:, 0].tolist())) == 3
            for row in np.reshape([s.image for s in batch], (3, 4)):
                n = len(batches.members[batches.labels[row[0]]])
                assert len(set(row.tolist())) == min(n, 4)
        assert {int(batches.labels[s.image]) for batch in todo for s in batch} == set(range(5))
        seen |= {s.image for batch in todo for s in batch}
    assert len(seen) == 23
    few = Identities(pairs_of({"a": 2, "b": 2}), Crops(), 8, 10)
    assert [len(batch) for batch in few.epoch(0)] == [20]


def test_another_picture_of_the_class_stands_in(data: Path) -> None:
    pairs = [(path, path.parent.name) for path in sorted(data.rglob("*.png"))]
    batches = Identities(pairs, Crops((40, 40), 40), 2, 2)
    broken = next(i for i, path in enumerate(batches.paths) if path.name == "broken.png")
    other = [int(i) for i in batches.members[1][:2]]
    pixels, labels = batches.load([Sample(i, 0, k) for k, i in enumerate([broken, *other])])
    assert labels.tolist() == [0, 1, 1]
    expected = batches.crops.read(batches.paths[0], Sample(0, 0, 0))  # the next one, around the end
    assert torch.equal(pixels[0], torch.from_numpy(expected).permute(2, 0, 1))
    assert list(batches.skipped) == [str(batches.paths[broken])]
    for path in (data / "class1").iterdir():
        path.write_bytes(b"")
    with pytest.raises(BadImage, match=r"broken\.png: "):
        batches.load([Sample(i, 0, k) for k, i in enumerate([broken, *other])])


def test_shuffled_batches_have_every_picture_once(data: Path) -> None:
    pairs = [(path, path.parent.name) for path in sorted(data.rglob("*.png"))]
    batches = Shuffled(pairs, Crops((40, 44), 40, seed=1), 4)
    todo = batches.epoch(0)
    assert [len(batch) for batch in todo] == [4, 4, 2]
    assert sorted(s.image for batch in todo for s in batch) == list(range(10))
    assert todo == Shuffled(pairs, Crops(seed=1), 4).epoch(0)
    assert len({str([s.image for b in batches.epoch(e) for s in b]) for e in range(5)}) == 5
    pixels, labels = batches.load(todo[0])
    assert pixels.dtype == torch.uint8
    assert pixels.shape[1:] == (3, 40, 40)
    assert pixels.is_contiguous(memory_format=torch.channels_last)
    good = [s for s in todo[0] if batches.paths[s.image].name != "broken.png"]
    assert labels.tolist() == [int(batches.paths[s.image].parent.name[-1]) for s in good]
    again = batches.load(todo[0])
    assert torch.equal(again[0], pixels)


def test_a_crop_is_of_a_random_size_at_a_random_place(tmp_path: Path) -> None:
    size = (120, 80)
    y, x = np.mgrid[: size[1], : size[0]]
    ramp = np.stack([2 * x, 3 * y, 0 * x], -1).astype(np.uint8)
    PIL.Image.fromarray(ramp).save(tmp_path / "ramp.png")
    scales, lefts, tops = [], [], []
    for place in range(200):
        cut = Crops((40, 60), 40, seed=7).read(tmp_path / "ramp.png", Sample(0, 3, place))
        assert cut.shape == (40, 40, 3)
        step = (float(cut[20, 35, 0]) - cut[20, 5, 0]) / 30  # 2 x the original's pixels in one of the crop's
        scales.append(80 / (step / 2))
        lefts.append(float(cut[20, 0, 0]) / 2 / size[0])
        tops.append(float(cut[0, 20, 1]) / 3 / size[1])
    assert 38 <= min(scales) < 43
    assert 57 < max(scales) <= 62
    assert min(lefts) < 0.03
    assert max(lefts) > 0.5  # a crop of 40 in a picture of 90 may begin at 50
    assert min(tops) < 0.03
    assert max(tops) > 0.25
    one = Crops((40, 40), 40).read(tmp_path / "ramp.png", Sample(0, 0, 0))
    assert (one[:, 1:, 0] >= one[:, :-1, 0]).all()
    flips = [
        bool(
            np.diff(
                Crops((40, 60), 40, True).read(tmp_path / "ramp.png", Sample(0, 0, i))[9, :, 0].astype(int)
            ).sum()
            < 0
        )
        for i in range(100)
    ]
    assert 0.3 < np.mean(flips) < 0.7
    PIL.Image.fromarray(ramp[:2]).save(tmp_path / "strip.png")
    assert Crops((40, 60), 40).read(tmp_path / "strip.png", Sample(0, 0, 1)).shape == (40, 40, 3)


# validation


def test_validation_is_the_mean_of_average_precisions(tmp_path: Path) -> None:
    colours = {"a": (255, 0, 0), "b": (230, 100, 0), "c": (200, 160, 0), "d": (120, 200, 0), "e": (0, 255, 0)}
    for name, colour in colours.items():
        PIL.Image.new("RGB", (40, 30), colour).save(tmp_path / f"{name}.png")
    both = np.zeros((40, 80, 3), np.uint8)
    both[:, :40], both[:, 40:] = (255, 0, 0), (0, 255, 0)
    PIL.Image.fromarray(both).save(tmp_path / "both.png")
    (tmp_path / "bad.png").write_bytes(b"no")
    names = [f"{name}.png" for name in colours]
    queries = [
        # red half: order a b c d e; positives b, d -> (1/2 + 2/4) / 2
        {"id": "red", "image": "both.png", "box": [2, 2, 30, 30], "positives": ["b.png", "d.png"]},
        # green half: e d c b a; d is junk, e excluded: c b a; positives a -> 1/3
        {
            "id": "green",
            "image": "both.png",
            "box": [45, 0, 99, 99],
            "positives": ["a.png"],
            "junk": ["d.png"],
            "exclude": ["e.png"],
        },
        {"id": "bad", "image": "bad.png", "positives": ["a.png"]},
        # a positive that cannot be read counts as not found: a first of two
        {"id": "half", "image": "a.png", "positives": ["a.png", "bad.png"]},
    ]
    (tmp_path / "m.json").write_text(json.dumps({"images": [*names, "bad.png"], "queries": queries}))
    sizes = []

    def describe(u: Tensor) -> Tensor:
        sizes.append(tuple(u.shape[2:]))
        v = u.float().mean((2, 3))
        return v / v.norm(dim=1, keepdim=True)

    with Run(tmp_path / "run", {}, Quiet()) as run:
        found = Validation(tmp_path / "m.json", 20, 2).mean_average_precision(describe, run)
        assert found == pytest.approx(((1 / 2 + 2 / 4) / 2 + 1 / 3 + 1 / 2) / 3)
        assert sizes[:5] == [(15, 20)] * 5
        assert max(sizes[5]) in (20, 21)
        (tmp_path / "both.png").unlink()
        (tmp_path / "a.png").unlink()
        with pytest.raises(InstsearchError, match="none of its queries can be read"):
            Validation(tmp_path / "m.json", 20, 1).mean_average_precision(describe, run)


def test_validation_is_the_trained_networks(
    weights: Path, data: Path, manifest: Path, tmp_path: Path
) -> None:
    after, card = train(weights, data, tmp_path / "x.pth", validation=str(manifest), epochs=1)
    net = MSCNet(C, 3, 8)
    net.load_state_dict(after)
    conv = trainer(weights).basic_conv()

    def z(name: str, box: bool = False) -> Tensor:
        r = 40 / (40 if box else 56)
        pixels = read_image(manifest.parent / name, lambda w, h: (round(r * w), round(r * h))).pixels
        pixels = np.ascontiguousarray(pixels[4:40, 4:44] if box else pixels)
        return net(conv(torch.from_numpy(pixels).permute(2, 0, 1)[None]))[0][0].detach()

    precisions = []
    names = [f"{kind}{i}.png" for kind in range(3) for i in range(2)]
    X = torch.stack([z(name) for name in names])
    for kind in range(3):
        order = (X @ z(f"{kind}2.png", True)).argsort(descending=True).tolist()
        ranks = sorted(order.index(i) + 1 for i in (2 * kind, 2 * kind + 1))
        precisions.append((1 / ranks[0] + 2 / ranks[1]) / 2)
    assert card["held out"]["mAP"] == pytest.approx(np.mean(precisions), abs=1e-4)
    assert float(next(r["value"] for r in log(tmp_path / "x.pth") if r["name"] == "mAP")) == pytest.approx(
        np.mean(precisions)
    )
    assert card["validation"]["how"] == mscnet.HOW
