"""Whitening by matching pairs: the card, its noise, files of pairs, and pooled pictures and R-MAC whitened by them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from instsearch_cli.data import FeatureMap
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.options import make_config
from instsearch_plugins.encoders.crow import CroW
from instsearch_plugins.encoders.gem import GeM
from instsearch_plugins.encoders.mac import MAC
from instsearch_plugins.encoders.pwa import PWA
from instsearch_plugins.encoders.regions_sum import RegionsSum
from instsearch_plugins.encoders.spoc import SPoC
from instsearch_plugins.encoders.sum_pooling import SumPooling
from instsearch_plugins.numeric.normalise import l2
from instsearch_plugins.numeric.pairs import read_pairs
from instsearch_plugins.numeric.whitening import supervised_whitening, whiten
from region_collection import GRID, GRIDDED, IMAGES, Collection, angles, bare, fitted, image


def test_the_cards_supervised_whitening():
    X = torch.tensor([[1, 0, 0.9, 0.2, 0.7, 0.6], [0, 1, 0.3, 0.9, 0.6, 0.9]]).T
    q, p = torch.tensor([0, 1, 4]), torch.tensor([2, 3, 5])
    mean, P = supervised_whitening(X, q, p)
    torch.testing.assert_close(mean, torch.tensor([0.566667, 0.533333]), atol=1e-4, rtol=0)
    expected = torch.tensor([[9.760145, 2.498477], [4.328922, 5.455054]])
    torch.testing.assert_close(P.T.abs(), expected, atol=1e-4, rtol=0)
    w = l2(whiten(X[:1], mean, P)).abs()
    torch.testing.assert_close(w, torch.tensor([[0.941855, 0.336018]]), atol=1e-4, rtol=0)
    one = supervised_whitening(X, q, p, dims=1)[1]
    torch.testing.assert_close(one.abs(), P[:, :1].abs())


def test_shrunk_to_a_sphere_it_is_a_rotation_of_the_vectors():
    """By rho = 1 all directions differ alike in pairs: P^T P = I D / tr S; between, P^T S' P = I."""
    X = torch.rand(9, 3, generator=torch.Generator().manual_seed(1))
    q, p = torch.arange(4), torch.arange(4, 8)
    d = (X[q] - X[p]).double()
    S = d.T @ d / 4
    for rho in (0.25, 1.0):
        _, P = supervised_whitening(X, q, p, shrink=rho)
        shrunk = (1 - rho) * S + rho * S.trace() / 3 * torch.eye(3)
        torch.testing.assert_close(
            P.double().T @ shrunk @ P.double(), torch.eye(3).double(), atol=1e-4, rtol=0
        )


@given(seed=st.integers(0, 50), D=st.integers(1, 6))
def test_matching_pairs_differ_by_unit_noise(seed, D):
    g = torch.Generator().manual_seed(seed)
    X = torch.randn(60, D, generator=g)
    X[30:] = X[:30] + 0.2 * torch.randn(30, D, generator=g) @ torch.randn(D, D, generator=g)
    q, p = torch.arange(30), torch.arange(30, 60)
    mean, P = (a.double() for a in supervised_whitening(X, q, p))
    d = (X[q] - X[p]).double()
    torch.testing.assert_close(P.T @ (d.T @ d / 30) @ P, torch.eye(D).double(), atol=2e-3, rtol=0)
    spread = whiten(X.double(), mean, P)
    scatter = spread.T @ spread
    off = scatter - torch.diag(scatter.diagonal())
    assert off.abs().max() <= 1e-4 * scatter.abs().max()
    assert (scatter.diagonal().diff() <= 1e-4 * scatter.abs().max()).all()


def test_a_dead_dimension_is_left_out():
    g = torch.Generator().manual_seed(0)
    X = torch.randn(40, 4, generator=g)
    X[:, 2] = 0
    _, P = supervised_whitening(X, torch.arange(20), torch.arange(20, 40))
    assert P.shape == (4, 3)
    assert P[2].abs().max() < 1e-3
    with pytest.raises(ValueError, match="finite"):
        supervised_whitening(X * torch.inf, torch.arange(20), torch.arange(20, 40))


def test_read_pairs(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text('a.jpg,b/ö.jpg\n\n"c, d.jpg", a.jpg\n', "utf-8")
    assert read_pairs(str(path), {"a.jpg": 3, "b/ö.jpg": 1, "c, d.jpg": 7}).tolist() == [[3, 1], [7, 3]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\na\n", r"line 2: a pair is two names of images, not 1"),
        ("a,b,c\n", r"line 1: a pair is two names of images, not 3"),
        ("a,b\nb, b\n", r"line 2: a pair is of two images, not of one with itself"),
        ("", r"has no pair"),
        ("a,x1\nx2,x3\nx1,x4\nx5,x6\nb,x7", r"names 7 images that .*: x1, x2, x3, x4, x5, \.\.\.\nAn image"),
        ("a,nobody.jpg", r"names 1 images that are not in the collection: nobody.jpg\n"),
    ],
)
def test_pairs_that_do_not_do(tmp_path, text, message):
    path = tmp_path / "pairs.csv"
    path.write_text(text)
    with pytest.raises(InstsearchError, match=message):
        read_pairs(str(path), {"a": 0, "b": 1})


def test_pairs_that_are_not_there(tmp_path):
    with pytest.raises(InstsearchError, match=r"cannot read .*no\.csv"):
        read_pairs(str(tmp_path / "no.csv"), {})


def write_pairs(path, pairs):
    path.write_text("".join(f"{a + 10}.jpg,{b + 10}.jpg\n" for a, b in pairs))
    return str(path)


@pytest.mark.parametrize("stage", ["sum", "both"])
def test_the_sum_is_whitened_by_pairs(tmp_path, stage):
    twins = [FeatureMap(f.values * (1 + 0.2 * image(99 + i).values), GRID) for i, f in enumerate(IMAGES)]
    both = [*IMAGES, *twins]
    pairs = [(i, i + 12) for i in range(12)]
    path = write_pairs(tmp_path / "p.csv", pairs)
    encoder = fitted(RegionsSum, Collection(both), whiten=stage, pairs=path, fit_images=8)
    first = fitted(RegionsSum, Collection(both), fit_images=8) if stage == "both" else bare(RegionsSum)
    X = torch.cat([first.aggregate(f, None, GRIDDED).vectors for f in both])
    q, p = torch.arange(12), torch.arange(12, 24)
    expected = l2(whiten(X, *supervised_whitening(X, q, p)))
    got = torch.cat([encoder.aggregate(f, None, GRIDDED).vectors for f in both])
    torch.testing.assert_close(angles(got), angles(expected), atol=1e-3, rtol=0)


@pytest.mark.parametrize("pooling", [SumPooling, GeM, MAC, CroW, SPoC, PWA])
def test_pooled_pictures_are_whitened_by_pairs(tmp_path, pooling):
    """Twins that differ in one channel above all come closer than by what varies."""
    noise = torch.tensor([3.0, 0.1, 0.1, 0.1, 0.1, 0.1])[:, None, None]
    twins = [FeatureMap(f.values + noise * image(99 + i).values, GRID) for i, f in enumerate(IMAGES)]
    both, options = [*IMAGES, *twins], {"parts": 1} if pooling is PWA else {}
    path = write_pairs(tmp_path / "p.csv", [(i, i + 12) for i in range(12)])

    def likenesses(**more):
        encoder = fitted(pooling, Collection(both), fit_images=24, **options, **more)
        X = torch.cat([encoder.aggregate(f, None, None).vectors for f in both])
        torch.testing.assert_close(X.norm(dim=1), torch.ones(24))
        return (X[:12] * X[12:]).sum(1).mean()

    assert likenesses(pairs=path, shrink=0.0) > likenesses() + 0.1


def test_by_pairs_is_the_cards_whitening(tmp_path):
    twins = [FeatureMap(f.values * (1 + 0.2 * image(99 + i).values), GRID) for i, f in enumerate(IMAGES)]
    path = write_pairs(tmp_path / "p.csv", [(i, i + 12) for i in range(12)])
    encoder = fitted(GeM, Collection([*IMAGES, *twins]), pairs=path, fit_images=8, shrink=0.2)
    X = torch.cat([bare(GeM).aggregate(f, None, None).vectors for f in (*IMAGES, *twins)])
    expected = l2(whiten(X, *supervised_whitening(X, torch.arange(12), torch.arange(12, 24), shrink=0.2)))
    found = torch.cat([encoder.aggregate(f, None, None).vectors for f in (*IMAGES, *twins)])
    torch.testing.assert_close(angles(found), angles(expected), atol=1e-3, rtol=0)


@pytest.mark.parametrize(("encoder", "options"), [(RegionsSum, {"whiten": "sum"}), (GeM, {})])
def test_too_few_pairs(tmp_path, encoder, options):
    path = write_pairs(tmp_path / "p.csv", [(0, 1), (2, 3)])
    with pytest.raises(InstsearchError, match=r"has 2 pairs, too few to whiten 6 dimensions by"):
        fitted(encoder, Collection(IMAGES), pairs=path, **options)


def test_pairs_whiten_the_sum_only():
    with pytest.raises(UsageError, match="set whiten to sum or both"):
        make_config(RegionsSum, {"pairs": "p.csv"}, "encoder")
    with pytest.raises(UsageError, match="query-levels"):
        make_config(RegionsSum, {"query_levels": "-1"}, "encoder")
