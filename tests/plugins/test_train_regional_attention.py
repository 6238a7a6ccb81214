"""Training regional attention: a step by hand, what is trained, kills, and the command line from end to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instsearch_cli import main
from instsearch_cli.data import FeatureMap, Grid
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.networks.training import Run
from instsearch_cli.options import make_config
from instsearch_cli.progress import Quiet
from instsearch_formats import Index
from instsearch_plugins.encoders.regional_attention import RegionalAttention
from instsearch_plugins.encoders.regional_attention_network import drawn
from instsearch_plugins.extractors.networks import SqueezeNet10
from instsearch_plugins.numeric.regions import rmac_grid
from instsearch_plugins.training import classification
from instsearch_plugins.training.descent import descend
from instsearch_plugins.training.regional_attention import AttendedClassifier, RegionalAttentionTrainer
from killed_training import check_same_run, dying
from mscnet_training import CPU, C, equal, log, picture, weights
from random_networks import meta, randomised
from region_collection import regions_of

__all__ = ["weights"]  # a fixture

SMALL = {"network": "tinybn", "crop": 40, "short_side": (40, 50), "levels": 2, "units": 4, "batch": 4}
SMALL |= {"epochs": 3, "lr": 0.01, "held_out": 0.2}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three classes of five striped pictures, and a damaged one."""
    folder = tmp_path / "data"
    for kind in range(3):
        for i in range(5):
            picture(folder / f"class{kind}" / f"{i}.png", kind, 10 * kind + i)
    (folder / "class0" / "0.png").write_bytes(b"no picture")
    return folder


def make(weights: Path, **options: Any) -> RegionalAttentionTrainer:
    return RegionalAttentionTrainer(
        make_config(RegionalAttentionTrainer, SMALL | {"weights": str(weights)} | options, "x"), CPU
    )


def train(weights: Path, data: Path, out: Path, **options: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    trainer = make(weights, **options)
    with Run(out.with_name(f"{out.name}.training"), {}, Quiet()) as run:
        trained = {k: v.detach().clone() for k, v in trainer.train(data, run).items()}
        return trained, run.finish(out, trained, CPU)


def losses(out: Path, name: str = "cross_entropy") -> list[float]:
    return [float(row["value"]) for row in log(out) if row["name"] == name]


# a step


def plain_logits(X: Tensor, model: AttendedClassifier, hidden: str) -> Tensor:
    """Region by region, in double precision, with autograd for what is behind."""
    a, rows, (m, n) = model.attention, [], model.sizes
    for x in X:
        total = torch.zeros(len(x), dtype=X.dtype)
        h, w = x.shape[1:]
        cells = rmac_grid(h, w, model.levels).tolist()
        for x0, y0, x1, y1 in cells:
            part = x[:, y0:y1, x0:x1].flatten(1)
            u = a.context.weight @ torch.cat([part.mean(1), x.flatten(1).mean(1)]) / m + a.context.bias
            u = u.tanh() if hidden == "tanh" else (1 + u.exp()).log()
            phi = (1 + (a.score.weight @ u + a.score.bias).exp()).log()
            total = total + phi * part.max(1).values / n
        rows.append(model.classifier.weight @ (total / len(cells)) + model.classifier.bias)
    return torch.stack(rows)


@pytest.mark.parametrize("hidden", ["tanh", "softplus"])
def test_a_step_is_the_plain_one(hidden: Any) -> None:
    torch.manual_seed(2)
    models = [
        AttendedClassifier(drawn(3, 4, hidden, 1), nn.Linear(3, 5), levels=2).double() for _ in range(2)
    ]
    models[0].sizes.copy_(torch.tensor([0.5, 0.2]))
    models[1].load_state_dict(models[0].state_dict())
    X, y = torch.rand(4, 3, 5, 7, dtype=torch.float64), torch.tensor([0, 4, 2, 2])
    optimizer = torch.optim.SGD(models[0].parameters(), 0.1, momentum=0.9, weight_decay=0.01)
    before = {k: v.clone() for k, v in models[0].state_dict().items()}
    velocity: dict[str, Tensor] = {}
    for _ in range(2):
        descend(F.cross_entropy(models[0](X), y), optimizer)
        logits = plain_logits(X, models[1], hidden)
        loss = -torch.stack([logits[i].log_softmax(0)[k] for i, k in enumerate(y)]).mean()
        grads = torch.autograd.grad(loss, list(models[1].parameters()))
        with torch.no_grad():  # v = m v + g + decay w, w = w - rate v
            for (name, w), g in zip(models[1].named_parameters(), grads, strict=True):
                v = g + 0.01 * w
                velocity[name] = 0.9 * velocity[name] + v if name in velocity else v
                w -= 0.1 * velocity[name]
    for name, w in models[0].state_dict().items():
        torch.testing.assert_close(w, models[1].state_dict()[name], atol=1e-12, rtol=1e-9)
        assert torch.equal(w, before[name]) == (name == "sizes")


def test_the_size_of_activations_does_not_matter() -> None:
    """Of maps a thousand times as large training is the same, and so is what comes out, on them."""
    torch.manual_seed(1)
    X, y = torch.rand(4, 3, 5, 7), torch.tensor([0, 1, 1, 0])
    found = []
    for times in (1.0, 1000.0):
        torch.manual_seed(0)
        model = AttendedClassifier(drawn(3, 4, "tanh", 1), nn.Linear(3, 2), levels=2)
        model.measure(times * X, 16)
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        for _ in range(5):
            descend(F.cross_entropy(model(times * X), y), optimizer)
        found.append(model.weights())
    torch.testing.assert_close(found[0].pop("context.weight"), 1000 * found[1].pop("context.weight"))
    assert all(torch.allclose(found[0][name], found[1][name], atol=1e-5) for name in found[0])


def test_the_sizes_by_hand() -> None:
    """One region of a map: its mean is 2.5, its largest value 4, and a tenth of that is 0.4."""
    model = AttendedClassifier(drawn(1, 4, "tanh", 1), nn.Linear(1, 2), levels=1)
    model.measure(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), 10)
    assert model.sizes.tolist() == pytest.approx([2.5, 0.4])
    model.measure(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), 0)
    assert model.sizes.tolist() == [2.5, 1]
    model.measure(torch.zeros(1, 1, 2, 2), 10)
    assert model.sizes.tolist() == [1, 1]


def test_the_encoder_and_the_training_have_the_same_attention(weights: Path, tmp_path: Path) -> None:
    """On the regions of one map."""
    network = drawn(C, 4, "tanh", 1)
    X, grid = torch.rand(C, 6, 9), Grid.over(6, 9, (90, 60))
    encoder = RegionalAttention(RegionalAttention.Config(weights=str(tmp_path / "a.pth")), CPU)
    cells = rmac_grid(6, 9, 3)
    model = AttendedClassifier(network, nn.Linear(C, 2), 3)
    model.sizes[0] = 0.3
    torch.save(model.weights(), tmp_path / "a.pth")
    phi = encoder._attention(FeatureMap(X, grid), None, regions_of(cells, grid), (0, 0, 90, 60))
    seen: list[Tensor] = []
    network.register_forward_hook(lambda module, x, y: seen.append(y.detach()))
    model(X[None])
    torch.testing.assert_close(phi, seen[0][0])


# what is trained


def test_attention_and_classifier_are_trained_and_the_network_is_not(
    weights: Path, data: Path, tmp_path: Path
) -> None:
    after, card = train(weights, data, tmp_path / "a.pth")
    first = drawn(C, 4, "tanh", 0).state_dict()
    assert after.keys() == first.keys()
    assert not any(torch.equal(after[k], first[k]) for k in first)
    assert card["used with"] == {
        "extractor": "tinybn",
        "extractor.layer": "features.4",
        "detector": "grid",
        "detector.levels": 2,
    }
    assert card["component options"] == {"query_levels": 2, "hidden": "tanh"}
    assert [Path(name).name for name in card["images"]["trained on"]["skipped"]] == ["0.png"]
    assert card["images"]["held out"]["pictures"] == 3
    conv = make(weights)._basic_conv()
    assert not any(p.requires_grad for p in conv.network.parameters())
    encoder = RegionalAttention(RegionalAttention.Config(weights=str(tmp_path / "a.pth")), CPU)
    assert encoder.identity()["weights"] == card["sha256"]
    assert equal(dict(encoder.network.state_dict()), after)


def test_training_lowers_the_loss_and_tells_the_classes_apart(
    weights: Path, data: Path, tmp_path: Path
) -> None:
    _, card = train(weights, data, tmp_path / "a.pth", epochs=40, lr=0.01, views=2)
    found = losses(tmp_path / "a.pth")
    assert found[0] == pytest.approx(np.log(3), rel=0.2)
    assert np.mean(found[-9:]) < 0.5 * found[0]
    assert card["held out"]["top-1"] == 1
    again, _ = train(weights, data, tmp_path / "b.pth", epochs=40, lr=0.01, views=2)
    assert equal(again, torch.load(tmp_path / "a.pth", weights_only=True))


def by_pairs(data: Path, *pairs: tuple[str, str]) -> Path:
    (data.parent / "pairs.csv").write_text("".join(f"class{a}.png,class{b}.png\n" for a, b in pairs))
    return data.parent / "pairs.csv"


def test_groups_that_hang_together_by_pairs_are_classes(weights: Path, data: Path, tmp_path: Path) -> None:
    """Of two pairs three pictures hang together, across folders too; groups of two are left out."""
    pairs = by_pairs(
        data, ("0/1", "0/2"), ("0/2", "1/0"), ("1/2", "1/3"), ("1/3", "1/4"), ("2/0", "2/1"), ("1/2", "1/4")
    )
    trainer = make(weights, pairs=str(pairs), least=3, held_out=0.1)
    trained_on, held_out = trainer.divided(data)
    names = [[(p.relative_to(data).as_posix(), c) for p, c in part] for part in (trained_on, held_out)]
    kinds = list(dict.fromkeys(label for _, label in trained_on))
    assert names[0] == [
        ("class0/1.png", kinds[0]),
        ("class0/2.png", kinds[0]),
        ("class1/2.png", kinds[1]),
        ("class1/3.png", kinds[1]),
    ]
    assert names[1] == [("class1/0.png", kinds[0]), ("class1/4.png", kinds[1])]
    assert "pairs" in trainer.identity()
    _, card = train(weights, data, tmp_path / "a.pth", pairs=str(pairs), least=3)
    assert card["images"]["trained on"]["pictures"] == 4
    assert card["images"]["held out"]["pictures"] == 2


def test_pairs_that_make_no_two_classes(weights: Path, data: Path) -> None:
    pairs = by_pairs(data, ("0/1", "0/2"), ("0/2", "0/3"), ("1/0", "1/1"))
    with pytest.raises(InstsearchError, match=r"1 groups of 3 pictures or more.*the largest has 3"):
        make(weights, pairs=str(pairs), least=3).divided(data)
    Index.create(data.parent / "idx")
    with pytest.raises(UsageError, match="give --pairs"):
        make(weights).divided(data.parent / "idx")
    with pytest.raises(UsageError, match=r"there is no file .*none\.csv"):
        make(weights, pairs="none.csv").identity()


def test_a_frozen_classifier_is_the_networks_own(tmp_path: Path) -> None:
    torch.save(randomised(meta("squeezenet1_0")).state_dict(), tmp_path / "squeezenet1_0.pth")
    trainer = make(tmp_path / "squeezenet1_0.pth", network="squeezenet1_0", classifier="frozen")
    conv = trainer._basic_conv()
    model = trainer._model(conv, 512, 1000)
    state = SqueezeNet10.import_weights(tmp_path / "squeezenet1_0.pth")
    assert torch.equal(model.classifier.weight, state["classifier.1.weight"][..., 0, 0])
    assert torch.equal(model.classifier.bias, state["classifier.1.bias"])
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        f"attention.{layer}.{kind}" for layer in ("context", "score") for kind in ("weight", "bias")
    }
    with pytest.raises(InstsearchError, match="1000 x 512 numbers, and 7 classes of 512 channels"):
        trainer._model(conv, 512, 7)


def test_a_network_without_such_a_classifier(weights: Path) -> None:
    trainer = make(weights, classifier="frozen")
    with pytest.raises(InstsearchError, match="the classifier is none, and 3 classes"):
        trainer._model(trainer._basic_conv(), C, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "at least 1"),
        ({"levels": 0}, "at least 1"),
        ({"least": 1}, "2 pictures or more"),
        ({"views": -1}, "views and seed at least 0"),
        ({"crop": 64}, "at most LEAST"),
        ({"short_side": (50,)}, "LEAST,MOST"),
        ({"held_out": 1.0}, "between 0 and 1"),
        ({"scale": -1.0}, "scale 0 or more"),
        ({"hidden": "relu"}, "tanh, softplus"),
        ({"network": "tinybm"}, "no network 'tinybm'"),
    ],
)
def test_options_that_cannot_be(weights: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises((UsageError, ValueError), match=message):
        make(weights, **options).identity()


# runs


@pytest.mark.parametrize(("at", "views"), [(1, 0), (4, 1), (8, 0)])
def test_a_run_that_was_killed_ends_in_the_same_weights(
    weights: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, views: int
) -> None:
    options: dict[str, Any] = {"flip": True, "views": views}
    undisturbed, card = train(weights, data, tmp_path / "a.pth", **options)
    with dying(monkeypatch, classification, "descend", at):
        train(weights, data, tmp_path / "b.pth", **options)
    again, card_again = train(weights, data, tmp_path / "b.pth", **options)
    assert equal(undisturbed, again)
    check_same_run(tmp_path, card, card_again, ("steps", "epochs", "images", "held out"))


def test_a_loss_that_is_not_finite_stops(weights: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(InstsearchError, match="training diverged in descent"):
        train(weights, data, tmp_path / "x.pth", lr=1e30)


@pytest.mark.parametrize(("keep", "epoch"), [("best", 1), ("last", 2)])
def test_the_epoch_that_is_kept(
    weights: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: str, epoch: int
) -> None:
    states: list[dict[str, Tensor]] = []
    given = iter((3.0, 1.0, 2.0, 9.0))

    def measured(self: RegionalAttentionTrainer, model: AttendedClassifier, *more: Any) -> dict[str, float]:
        states.append({name: x.clone() for name, x in model.weights().items()})
        return {"cross-entropy": next(given), "top-1": 0.5}

    monkeypatch.setattr(RegionalAttentionTrainer, "_measure", measured)
    after, _ = train(weights, data, tmp_path / "x.pth", keep=keep)
    assert equal(after, states[epoch])
    assert equal(after, states[3])  # and these are measured last


# the command line


def run(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    capsys.readouterr()
    code = main.run([str(word) for word in words])
    out, err = capsys.readouterr()
    assert code == 0, err
    return out


def test_from_class_folders_to_hits(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "weights").mkdir()
    torch.save(randomised(meta("squeezenet1_0")).state_dict(), tmp_path / "weights/squeezenet1_0.pth")
    monkeypatch.setenv("INSTSEARCH_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("INSTSEARCH_OFFLINE", "1")
    out, index = tmp_path / "attention.pth", tmp_path / "idx"
    small = (
        "--network",
        "squeezenet1_0",
        "--crop",
        64,
        "--short-side",
        "64,70",
        "--epochs",
        1,
        "--levels",
        2,
    )
    small += ("--lr", 1e-4, "--views", 1)
    trained = json.loads(
        run(capsys, "train", "regional-attention", "--data", data, "--out", out, *small, "--json", "--quiet")
    )
    use = trained["use"].split()
    assert "--encoder" in use
    assert f"encoder.weights={out}" in use
    assert {"detector.levels=2", "encoder.query_levels=2", "encoder.hidden=tanh"} <= set(use)
    run(capsys, "index", data, "--index", index, "--quiet", *use)
    hits = json.loads(
        run(
            capsys,
            "query",
            data / "class1/1.png",
            "--box",
            "4,4,40,36",
            "--index",
            index,
            "--json",
            "--quiet",
        )
    )["hits"]
    assert len(hits) == 14  # all that can be read
    whole = json.loads(run(capsys, "query", data / "class1/1.png", "--index", index, "--json", "--quiet"))[
        "hits"
    ]
    assert Path(whole[0]["path"]).name == "1.png"
    assert whole[0]["score"] == pytest.approx(1, abs=1e-3)
    again = run(capsys, "train", "regional-attention", "--data", data, "--out", out, *small, "--quiet")
    assert "nothing to do" in again
