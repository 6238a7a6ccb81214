"""Training NetVLAD: the loss, its step, mining, whole runs, kills."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.networks.training import Run
from instsearch_cli.options import make_config
from instsearch_cli.progress import Quiet
from instsearch_plugins.encoders.netvlad import published
from instsearch_plugins.extractors.networks import Network
from instsearch_plugins.numeric.netvlad import of_words
from instsearch_plugins.numeric.weak_ranking import hardest, triplet_losses
from instsearch_plugins.training import netvlad
from instsearch_plugins.training.netvlad import Layer, NetVLADTrainer
from instsearch_plugins.training.netvlad_tuples import Mined, Places, Tuple, by_pairs, ranks
from killed_training import check_same_run, dying
from mscnet_training import equal, log, picture

CPU = torch.device("cpu")


class Pinned(Network):
    """A convolution and what it is rectified by."""

    architecture = "tinypinned"
    default = "1"

    @classmethod
    def build(cls) -> nn.Module:
        return nn.Sequential(OrderedDict({"0": nn.Conv2d(3, 6, 5, stride=4), "1": nn.ReLU()}))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(5)
    torch.save(Pinned.build().state_dict(), tmp_path / "tinypinned.pth")
    return tmp_path / "tinypinned.pth"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four kinds of four pictures, two by themselves, one of nothing, one that is none."""
    for kind in range(4):
        for i in range(4):
            picture(tmp_path / "data" / f"kind{kind}" / f"{i}.png", kind, 10 * kind + i)
    picture(tmp_path / "data" / "alone" / "0.png", 1, 91)
    picture(tmp_path / "data" / "alone2" / "0.png", 2, 92)
    (tmp_path / "data" / "kind0" / "broken.png").write_bytes(b"no picture")
    return tmp_path / "data"


@pytest.fixture
def pairs(tmp_path: Path, data: Path) -> Path:
    lines = [f"kind{k}/{i}.png,kind{k}/{j}.png\n" for k in range(4) for i in range(4) for j in range(i)]
    (tmp_path / "pairs.csv").write_text("".join(lines))
    return tmp_path / "pairs.csv"


BASE = {"network": "tinypinned", "max_size": 48, "words": 3, "epochs": 4, "lr": 0.02, "held_out": 0.25}


def trainer(weights: Path, **options: Any) -> NetVLADTrainer:
    return NetVLADTrainer(
        make_config(NetVLADTrainer, BASE | {"weights": str(weights)} | options, "netvlad"), CPU
    )


def train(weights: Path, data: Path, out: Path, **options: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    t = trainer(weights, **options)
    asked = json.loads(json.dumps({"options": str(t.config), "inputs": t.identity()}))
    with Run(out.with_name(f"{out.name}.training"), asked, Quiet()) as run:
        trained = {k: v.detach().clone() for k, v in t.train(data, run).items()}
        return trained, run.finish(out, trained, CPU)


# the loss


@given(P=st.integers(1, 4), N=st.integers(1, 5), m=st.floats(0.01, 2), seed=st.integers(0, 99))
def test_the_loss_equals_a_plain_loop(P: int, N: int, m: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    q, p, n = rng.normal(size=3), rng.normal(size=(P, 3)), rng.normal(size=(N, 3))
    nearest = min(sum((q[d] - x[d]) ** 2 for d in range(3)) for x in p)
    wanted = [max(0.0, nearest + m - sum((q[d] - x[d]) ** 2 for d in range(3))) for x in n]
    found = triplet_losses(torch.from_numpy(q), torch.from_numpy(p), torch.from_numpy(n), m)
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-12)


def test_the_nearest_positive_alone_has_a_gradient() -> None:
    """By hand: d^2(q, p) = 4 and 1, d^2(q, n) = 1 and 9, so that l = (1 + .1 - 1, 0)."""
    q, p = torch.zeros(1, requires_grad=True), torch.tensor([[2.0], [1.0]], requires_grad=True)
    n = torch.tensor([[-1.0], [3.0]], requires_grad=True)
    losses = triplet_losses(q, p, n, 0.1)
    assert losses.tolist() == pytest.approx([0.1, 0])
    losses.sum().backward()
    for x, wanted in ((q, [2 * (-1 - 1)]), (p, [[0.0], [2.0]]), (n, [[-2 * -1.0], [0.0]])):
        assert x.grad is not None
        assert x.grad.tolist() == wanted


def test_a_step_is_that_of_the_formula(weights: Path) -> None:
    """One step of plain descent with decay, against gradients by differences of a loss in plain loops."""
    rng = np.random.default_rng(0)
    c = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(2, 3))), dim=1)
    layer = Layer(of_words(c, 3.0)).double()
    x = {i: torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(4, 3))), dim=1) for i in range(5)}
    tuples = [
        Tuple(0, np.array([1, 2]), np.array([3, 4])),
        Tuple(3, np.array([4]), np.array([0, 2])),
    ]
    names = dict(layer.named_parameters())
    first = torch.cat([p.detach().flatten() for p in names.values()]).numpy()

    def loss(theta: np.ndarray) -> tuple[float, int]:
        c, w, b = theta[:6].reshape(2, 3), theta[6:12].reshape(2, 3), theta[12:]

        def f(i: int) -> np.ndarray:
            V = np.zeros((2, 3))
            for v in x[i].numpy():
                e = np.exp(w @ v + b)
                for k in range(2):
                    V[k] += e[k] / e.sum() * (v - c[k])
            V /= np.linalg.norm(V, axis=1, keepdims=True)
            return (V / np.linalg.norm(V)).ravel()

        every = []
        for t in tuples:
            near = min(((f(t.q) - f(i)) ** 2).sum() for i in t.positives)
            every += [max(0.0, near + 0.5 - ((f(t.q) - f(j)) ** 2).sum()) for j in t.negatives]
        return sum(every), sum(each > 0 for each in every)

    total, count = loss(first)
    assert count
    gradient = np.array([(loss(first + h)[0] - loss(first - h)[0]) / 2e-6 for h in np.eye(len(first)) * 1e-6])
    optimizer = torch.optim.SGD(layer.parameters(), 0.1, weight_decay=0.01)
    logged = trainer(weights, margin=0.5)._step(layer, optimizer, tuples, x)
    after = torch.cat([p.detach().flatten() for p in names.values()]).numpy()
    assert logged == pytest.approx(total / 2)
    np.testing.assert_allclose(after, first - 0.1 * (gradient / count + 0.01 * first), atol=1e-7)


# what is trained on


def test_the_hardest_of_a_sample_and_of_the_last_ones() -> None:
    d = np.arange(20, dtype=np.float32)[::-1].copy()  # the last row is the nearest
    others, none = np.arange(20), np.array([], np.int64)
    assert hardest(d, others, none, 50, 3, np.random.default_rng(0)).tolist() == [19, 18, 17]
    sample = np.random.default_rng(0).choice(others, 5, replace=False)
    wanted = sorted({*sample.tolist(), 19}, reverse=True)[:3]
    assert hardest(d, others, np.array([19]), 5, 3, np.random.default_rng(0)).tolist() == wanted
    assert len(hardest(d, others[:2], none, 5, 3, np.random.default_rng(0))) == 2


def test_groups_hang_together_by_pairs_and_are_no_negatives(tmp_path: Path, data: Path) -> None:
    (tmp_path / "p.csv").write_text("kind1/0.png,kind1/1.png\nkind1/1.png,kind1/2.png\n")
    places = by_pairs(data, tmp_path / "p.csv")
    row = {path.relative_to(data).as_posix(): i for i, path in enumerate(places.paths)}
    a, b, c = (row[f"kind1/{i}.png"] for i in range(3))
    assert places.positives(a).tolist() == [b]
    assert sorted(places.positives(b).tolist()) == sorted([a, c])
    assert places.group[a] == places.group[b] == places.group[c]
    assert (places.group == places.group[a]).sum() == 3
    assert sorted(places.queries().tolist()) == sorted([a, b, c])
    (tmp_path / "p.csv").write_text("kind1/0.png,elsewhere.png\n")
    with pytest.raises(InstsearchError, match=r"names 1 images .*: elsewhere\.png"):
        by_pairs(data, tmp_path / "p.csv")
    (tmp_path / "p.csv").write_text("kind1/0.png,kind1/0.png\n")
    with pytest.raises(InstsearchError, match="line 1: a pair is of two images, not of one with itself"):
        by_pairs(data, tmp_path / "p.csv")


def test_mining_against_plain_loops() -> None:
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(12, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    group = np.array([0, 0, 0, 1, 1, 2, 2, 3, 4, 5, 6, 7])
    places, trained = Places([Path(str(i)) for i in range(12)], group), np.arange(12) != 9
    mined = Mined(places, 1, 3, 1000, 0)
    mined.mine(0, np.array([0, 3]), trained, vectors)
    d = ((vectors[:, None] - vectors[None]) ** 2).sum(2)
    for t in mined.tuples([0, 3]):
        mates = [i for i in range(12) if group[i] == group[t.q] and i != t.q]
        others = [i for i in range(12) if group[i] != group[t.q] and i != 9]
        assert t.positives.tolist() == [min(mates, key=lambda i: d[t.q, i])]
        assert t.negatives.tolist() == sorted(others, key=lambda i: d[t.q, i])[:3]
    again = Mined(places, 1, 3, 1000, 0)
    again.load_state_dict(mined.state_dict())
    assert str(again.tuples([0, 3])) == str(mined.tuples([0, 3]))
    assert again.round == 0
    with pytest.raises(ValueError, match="other pictures"):
        Mined(places, 2, 3, 1000, 0).load_state_dict(mined.state_dict())
    rank = ranks(places, vectors, np.array([0, 5]))
    for q, r in zip((0, 5), rank.tolist(), strict=True):
        near = min(d[q, i] for i in range(12) if group[i] == group[q] and i != q)
        assert r == 1 + sum(d[q, i] < near for i in range(12) if group[i] != group[q])


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=8), share=st.floats(0, 0.9))
def test_whole_groups_are_held_out_and_never_all(sizes: list[int], share: float) -> None:
    group = np.repeat(np.arange(len(sizes)), sizes)
    places = Places([Path(str(i)) for i in range(len(group))], group)
    queries = places.queries()
    if len(queries):
        held = places.held(queries, share, 0)
        assert all(len(set(held[group == g])) == 1 for g in range(len(sizes)))
        assert held[queries].sum() < len(queries)
        assert held[queries].sum() <= 3 * share * len(queries)


# whole runs


def test_training_lowers_the_loss_and_is_repeatable(
    weights: Path, data: Path, pairs: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"pairs": str(pairs), "epochs": 12, "lr": 0.05}
    a, card = train(weights, data, tmp_path / "a.pth", **options)
    b, _ = train(weights, data, tmp_path / "b.pth", **options)
    assert equal(a, b)
    steps = [float(row["value"]) for row in log(tmp_path / "a.pth") if row["name"] == "triplet"]
    assert np.mean(steps[-9:]) < 0.9 * np.mean(steps[:9])
    assert card["images"]["queries"] + card["images"]["held out"] == 16
    assert list(card["images"]["skipped"]) == [str(data / "kind0" / "broken.png")]
    assert card["used with"] == {
        "extractor": "tinypinned",
        "extractor.layer": "1",
        "extractor.max-size": 48,
    }
    assert card["component options"] == {"whiten": "false"}
    held = [f"recall@{n}{of}" for of in ("", " of the first words") for n in (1, 5)]
    assert list(card["held out"]) == held
    assert all(0 < card["held out"][name] <= 1 for name in held)
    words = published(tmp_path / "a.pth").words
    assert torch.equal(words.c, a["centroids"])
    assert torch.equal(words.w[..., None, None], a["conv.weight"])
    assert torch.equal(words.b, a["conv.bias"])
    assert sorted(path.name for path in (tmp_path / "a.pth.training").iterdir()) == [
        "lock",
        "log.csv",
        "run.json",
    ]


@pytest.mark.parametrize("at", [0, 2, 5])
@pytest.mark.parametrize("per_round", [1000, 5])
def test_a_run_that_was_killed_ends_in_the_same_weights(
    weights: Path,
    data: Path,
    pairs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    at: int,
    per_round: int,
) -> None:
    options: dict[str, Any] = {"pairs": str(pairs), "epochs": 3, "round": per_round, "sampled": 6}
    undisturbed, card = train(weights, data, tmp_path / "a.pth", **options)
    with dying(monkeypatch, NetVLADTrainer, "_step", at + 1):
        train(weights, data, tmp_path / "b.pth", **options)
    again, card_again = train(weights, data, tmp_path / "b.pth", **options)
    assert equal(undisturbed, again)
    check_same_run(tmp_path, card, card_again, ("steps", "epochs", "images", "held out"))


def test_classes_do_as_well_as_pairs(weights: Path, data: Path, pairs: Path, tmp_path: Path) -> None:
    a, _ = train(weights, data, tmp_path / "a.pth", pairs=str(pairs))
    b, _ = train(weights, data, tmp_path / "b.pth")
    assert a.keys() == b.keys()
    assert equal(a, b)
    table = "".join(f"kind{k}/{i}.png,{k}\n" for k in range(2) for i in range(4))
    (tmp_path / "labels.csv").write_text("path,label\n" + table)
    _, card = train(weights, data, tmp_path / "c.pth", labels=str(tmp_path / "labels.csv"), held_out=0.0)
    assert card["images"]["pictures"] == card["images"]["queries"] == 8
    assert "held out" not in card


def test_training_goes_on_from_a_layer(weights: Path, data: Path, tmp_path: Path) -> None:
    a, _ = train(weights, data, tmp_path / "a.pth")
    start = {"start": str(tmp_path / "a.pth")}
    b, _ = train(weights, data, tmp_path / "b.pth", lr=1e-9, epochs=1, keep="last", **start)
    assert all(torch.allclose(a[name], b[name], atol=1e-6) for name in a)
    torch.save({"centroids": torch.ones(2, 5), "conv.weight": torch.ones(2, 5, 1, 1)}, tmp_path / "5.pth")
    with pytest.raises(UsageError, match="local features of 5 values, these have 6"):
        train(weights, data, tmp_path / "c.pth", start=str(tmp_path / "5.pth"))


def test_what_cannot_be_trained_on_is_said(weights: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no network 'vgg61'"):
        trainer(weights, network="vgg61")
    with pytest.raises(UsageError, match="pairs: there is no file"):
        trainer(weights, pairs=str(tmp_path / "no.csv")).identity()
    with pytest.raises((UsageError, ValueError), match="pairs or labels"):
        trainer(weights, pairs="a", labels="b")
    (tmp_path / "all.csv").write_text("path,label\n" + "".join(f"kind0/{i}.png,x\n" for i in range(3)))
    with pytest.raises(InstsearchError, match="all pictures hang together"):
        train(weights, data, tmp_path / "a.pth", labels=str(tmp_path / "all.csv"))
    (tmp_path / "one.csv").write_text("path,label\n" + "".join(f"kind{i}/0.png,{i}\n" for i in range(3)))
    with pytest.raises(InstsearchError, match="nothing to train on"):
        train(weights, data, tmp_path / "b.pth", labels=str(tmp_path / "one.csv"))


def test_vgg16_is_taken_before_its_rectified_layer(tmp_path: Path) -> None:
    assert netvlad.LAYERS["vgg16"] == "features.28"
    t = NetVLADTrainer(make_config(NetVLADTrainer, {"weights": str(tmp_path / "x.pth")}, "netvlad"), CPU)
    assert t.extractor.layer == "features.28"
