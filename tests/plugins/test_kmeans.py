import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from instsearch_plugins.numeric import kmeans as module
from instsearch_plugins.numeric.kmeans import kmeans, nearest, nearest_nearby


def slow_nearest(x, c):
    return np.array([np.argmin([((row - other) ** 2).sum() for other in c]) for row in x])


def distortion(x, c):
    return (x - c[nearest(x, c)]).square().sum(1).mean().item()


def slow_lloyd(x, k, iterations, seed):
    """Plain loops from the same random rows."""
    start = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:k]
    c = x[start].double().numpy()
    for _ in range(iterations):
        a = slow_nearest(x.double().numpy(), c)
        c = np.stack([x.double().numpy()[a == j].mean(0) for j in range(k)])
    return c


@given(n=st.integers(1, 30), k=st.integers(1, 12), d=st.integers(1, 6), seed=st.integers(0, 99))
def test_nearest_against_a_slow_loop(n, k, d, seed):
    rng = np.random.default_rng(seed)
    x, c = rng.integers(-9, 9, (n, d)).astype(np.float32), rng.integers(-9, 9, (k, d)).astype(np.float32)
    assert nearest(torch.from_numpy(x), torch.from_numpy(c)).tolist() == slow_nearest(x, c).tolist()


def test_nearest_in_chunks_is_the_same(monkeypatch):
    x, c = torch.randn(101, 8), torch.randn(13, 8)
    whole = nearest(x, c)
    monkeypatch.setattr(module, "TILE", 13 * 7)
    assert torch.equal(nearest(x, c), whole)
    assert torch.equal(nearest(x[:0], c), whole[:0])


def test_ties_go_to_the_lower_word():
    c = torch.tensor([[1.0, 0], [0, 1], [1, 0]])
    assert nearest(torch.tensor([[1.0, 0], [0, 0]]), c).tolist() == [0, 0]


def test_nearby_with_every_neighbour_is_exact(monkeypatch):
    x, c = torch.randn(200, 5), torch.randn(17, 5)
    monkeypatch.setattr(module, "TILE", 17 * 4)
    anything = torch.randint(17, (200,))
    assert torch.equal(nearest_nearby(x, c, anything, 17), nearest(x, c))
    assert torch.equal(nearest_nearby(x, c, anything, 99), nearest(x, c))


def test_nearby_is_the_best_of_the_neighbourhood():
    g = torch.Generator().manual_seed(3)
    x, c = torch.randn(150, 4, generator=g), torch.randn(20, 4, generator=g)
    before = torch.randint(20, (150,), generator=g)
    after = nearest_nearby(x, c, before, 6)
    for i in range(150):
        around = (c - c[before[i]]).square().sum(1).argsort()[:6]
        best = around[(c[around] - x[i]).square().sum(1).argmin()]
        assert after[i] == best


@pytest.mark.parametrize("neighbours", [None, 3])
def test_blobs_are_found(neighbours):
    g = torch.Generator().manual_seed(0)
    centres = torch.randn(6, 16, generator=g) * 100
    x = (centres[:, None] + 0.01 * torch.randn(6, 50, 16, generator=g)).reshape(-1, 16)
    c = min((kmeans(x, 6, 10, seed, neighbours)[0] for seed in range(60)), key=lambda c: distortion(x, c))
    torch.testing.assert_close(c[nearest(centres, c)], centres, atol=0.01, rtol=0)


def test_exact_iterations_are_lloyds():
    x = torch.randn(120, 3, generator=torch.Generator().manual_seed(5))
    expected = torch.from_numpy(slow_lloyd(x, 7, 4, seed=2)).float()
    torch.testing.assert_close(kmeans(x, 7, 4, seed=2)[0], expected, atol=1e-5, rtol=0)


def test_few_comparisons_come_close_to_exact():
    g = torch.Generator().manual_seed(1)
    x = torch.nn.functional.normalize(torch.randn(4000, 16, generator=g), dim=1)
    start = distortion(x, kmeans(x, 200, 1)[0])
    exact, near = distortion(x, kmeans(x, 200, 8)[0]), distortion(x, kmeans(x, 200, 8, neighbours=40)[0])
    assert exact < start
    assert near < exact * 1.02
    assert near < start


def test_empty_clusters_start_again():
    x = torch.cat([torch.zeros(90, 2), torch.eye(2).repeat(5, 1) * 9])  # most starts are copies of one point
    for seed in range(5):
        c, _ = kmeans(x, 8, 12, seed)
        assert torch.isfinite(c).all()
        assert {tuple(row) for row in c.tolist()} <= {(0.0, 0.0), (9.0, 0.0), (0.0, 9.0)}
    found, _ = kmeans(x, 8, 40, 0)
    assert distortion(x, found) == 0


def test_a_seed_decides_everything():
    x = torch.randn(300, 4)
    once, again, other = (kmeans(x, 9, 5, seed, neighbours=4) for seed in (4, 4, 5))
    assert torch.equal(once[0], again[0])
    assert torch.equal(once[1], again[1])
    assert not torch.equal(once[0], other[0])


@pytest.mark.parametrize("neighbours", [None, 4])
def test_centroids_are_the_means_of_what_they_were_given(neighbours):
    x = torch.randn(300, 4)
    c, a = kmeans(x, 9, 3, neighbours=neighbours)
    for j in range(9):
        torch.testing.assert_close(c[j], x[a == j].mean(0))


def test_progress_is_told():
    told = []

    class Progress:
        def start(self, label, total=None, unit="images"):
            told.append((label, total, unit))

        def advance(self, n=1):
            told.append(n)

    kmeans(torch.randn(20, 2), 4, 3, progress=Progress())
    assert told == [("clustering 20 local features into 4 words", 3, "iterations"), 1, 1, 1]


def test_too_few_vectors():
    with pytest.raises(ValueError, match="5 clusters need as many vectors, and there are 3"):
        kmeans(torch.randn(3, 2), 5, 1)
    with pytest.raises(ValueError, match="0 iterations"):
        kmeans(torch.randn(3, 2), 2, 0)
