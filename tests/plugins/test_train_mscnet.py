"""Training MSCNet: options, the Basic Conv, losses, gradients by passes, what is frozen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.networks.weights import needed
from instsearch_cli.options import make_config
from instsearch_plugins.encoders.mscnet_network import MSCNet, drawn
from instsearch_plugins.extractors.networks import normalise
from instsearch_plugins.numeric.mscnet import hardest, mask_cosine, ngd_loss, trihard_loss
from instsearch_plugins.training.basic_conv import BasicConv, extractors
from instsearch_plugins.training.mscnet import MSCNetTrainer
from instsearch_plugins.training.trihard import TriHard
from mscnet_training import CPU, TRIPLETS, C, TinyBN, data, log, sta1, train, trainer, weights

__all__ = ["data", "sta1", "weights"]  # fixtures


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
        trainer(weights, mode="sta2", start="x", precision="fp16")._basic_conv()


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
        conv, net, A = t._basic_conv(), MSCNet(C, 3, 8), nn.Linear(8, 5)
        pixels, y = torch.randint(0, 256, (4, 3, 40, 40), dtype=torch.uint8), torch.tensor([0, 4, 2, 2])
        logged = t._backward(conv, net, A, pixels, y)
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
        conv, net = t._basic_conv(), MSCNet(C, 3, 8)
        t._backward(conv, net, nn.Identity(), pixels, torch.tensor([0, 0, 1, 1]))
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
