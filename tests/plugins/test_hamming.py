"""Hamming embedding, each part against a plain loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from instsearch_plugins.numeric import hamming
from instsearch_plugins.numeric.mirrored import mirrored

SEEDS = st.integers(0, 10_000)


@pytest.mark.parametrize("D", [128, 64, 40, 3])
def test_projection_is_orthonormal_in_blocks_and_seeded(D):
    P = hamming.projection(D, 7)
    assert P.shape == (64, D)
    assert P.dtype == torch.float32
    for first in range(0, 64, D):
        block = P[first : first + D]
        assert torch.allclose(block @ block.T, torch.eye(len(block)), atol=1e-6)
    assert torch.equal(P, hamming.projection(D, 7))
    assert not torch.equal(P, hamming.projection(D, 8))


@settings(deadline=None)
@given(SEEDS, st.integers(1, 60), st.integers(1, 9), st.sampled_from([1, 7, 1 << 16]))
def test_thresholds_are_medians(seed, n, K, chunk):
    g = torch.Generator().manual_seed(seed)
    x, words = torch.randn(n, 6, generator=g), torch.randint(K, (n,), generator=g)
    P, centroids = hamming.projection(6, 0), torch.randn(K, 6, generator=g)
    before, hamming.CHUNK = hamming.CHUNK, chunk
    try:
        tau = hamming.thresholds(x, words, P, centroids)
    finally:
        hamming.CHUNK = before
    for k in range(K):
        members = x[words == k]
        for b in range(64):
            ys = [float(P[b] @ row) for row in members]
            wanted = float(np.median(ys)) if ys else float(P[b] @ centroids[k])
            assert tau[k, b] == pytest.approx(wanted, abs=1e-5)


@settings(deadline=None)
@given(SEEDS)
def test_signatures_and_distances_equal_bit_by_bit(seed):
    g = torch.Generator().manual_seed(seed)
    x, words = torch.randn(5, 8, generator=g), torch.randint(3, (5,), generator=g)
    P, tau = hamming.projection(8, 1), torch.randn(3, 64, generator=g) / 4
    found = hamming.signatures(*(v.numpy() for v in (x, words, P, tau)))
    assert found.dtype == np.int64
    bits = []
    for i in range(5):
        y = P @ x[i]
        bits.append([bool(y[b] > tau[words[i], b]) for b in range(64)])
        value = sum(1 << b for b in range(64) if bits[i][b])
        assert int(found[i]) % (1 << 64) == value
    packed = found.view(np.uint64)
    got = hamming.distances(packed[:, None], packed[None])
    for i in range(5):
        for j in range(5):
            assert got[i, j] == sum(a != b for a, b in zip(bits[i], bits[j], strict=True))


def test_near_descriptors_have_near_signatures():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(400, 32, generator=g)
    words, P = torch.zeros(400, dtype=torch.int64), hamming.projection(32, 0)
    tau = hamming.thresholds(x, words, P, torch.zeros(1, 32))
    rest = [v.numpy() for v in (words, P, tau)]
    a = hamming.signatures(x.numpy(), *rest).view(np.uint64)
    b = hamming.signatures((x + 0.1 * torch.randn(400, 32, generator=g)).numpy(), *rest).view(np.uint64)
    assert hamming.distances(a, b).mean() < 6
    assert 28 < hamming.distances(a, np.roll(b, 1)).mean() < 36


def test_weights():
    w = hamming.weights(16, 24)
    assert w[0] == 1
    assert w[24] == pytest.approx(math.exp(-((24 / 16) ** 2)))
    assert (w[25:] == 0).all()
    assert hamming.weights(0, 2).tolist() == [1, 1, 1] + [0] * 62


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.floats(0.1, 2)), max_size=25),
    st.booleans(),
    st.sampled_from([3, 1000]),
)
def test_bursts_equal_the_plain_loop(matches, ordered, n):
    matches = sorted(matches) if ordered else matches
    keypoint = np.array([m[0] for m in matches], np.int64)
    image = np.array([m[1] for m in matches], np.int64)
    score = np.array([m[2] for m in matches], np.float32)
    intra, inter = hamming.intra_image(score, keypoint, image, n), hamming.inter_image(score, keypoint)
    for m, (k, j, s) in enumerate(matches):
        here = sum(t for a, b, t in matches if (a, b) == (k, j))
        everywhere = sum(t for a, _, t in matches if a == k)
        assert intra[m] == pytest.approx(s / math.sqrt(here), rel=1e-5)
        assert inter[m] == pytest.approx(s / math.sqrt(everywhere), rel=1e-5)


def slow_consistency(score, image, growth, turn, n):
    votes = []
    for j in range(n):
        scales, angles = [0.0] * 17, [0.0] * 24
        for s, i, d, e in zip(score, image, growth, turn, strict=True):
            if i == j:
                scales[math.floor(2 * (min(max(d / 8, -4), 4) + 4) + 0.5)] += float(s)
                angles[round(int(e) % 64 * 24 / 64) % 24] += float(s)
        peak = max(sum(scales[max(b - 1, 0) : b + 2]) for b in range(17))
        votes.append(min(peak, max(angles[b - 1] + angles[b] + angles[(b + 1) % 24] for b in range(24))))
    return votes


@given(SEEDS, st.integers(0, 40))
def test_weak_geometric_consistency_equals_the_plain_loop(seed, m):
    rng = np.random.default_rng(seed)
    image, score = rng.integers(0, 4, m), rng.random(m).astype(np.float32)
    growth = rng.normal(0, 24, m).astype(np.int16)
    turn = rng.integers(0, 256, m).astype(np.uint8)
    found = hamming.consistent(score, image, growth, turn, 4)
    assert found == pytest.approx(slow_consistency(score, image, growth, turn, 4), rel=1e-5)


def test_matches_that_turn_alike_across_the_border_are_one_peak():
    image, score = np.zeros(4, np.int64), np.ones(4, np.float32)
    none = np.zeros(4, np.int64)

    def votes(growth, turn):
        return hamming.consistent(score, image, growth, turn, 1).tolist()

    assert votes(none, np.array([63, 1, -1, 128])) == [4]
    assert votes(none, np.array([0, 16, 32, 48])) == [1]
    assert votes(np.array([-24, -8, 8, 24]), none) == [1]


@given(SEEDS, st.integers(0, 60))
def test_peaked_equals_the_plain_loop(seed, m):
    rng = np.random.default_rng(seed)
    image, weight = rng.integers(0, 3, m), rng.random(m).astype(np.float32)
    growth = rng.integers(-60, 60, m).astype(np.int16)
    turn = rng.integers(0, 256, m).astype(np.uint8)
    found = hamming.peaked(weight, image, growth, turn, 3)
    for j in range(3):
        cells = np.zeros((19, 24))  # a row of none at either end
        for i in np.flatnonzero(image == j):
            d = math.floor(2 * (min(max(growth[i] / 8, -4), 4) + 4) + 0.5)
            cells[d + 1, round(int(turn[i]) % 64 * 24 / 64) % 24] += weight[i]
        around = sum(np.roll(np.roll(cells, a, 0), b, 1) for a in (-1, 0, 1) for b in (-1, 0, 1))[1:18]
        if np.sort(around, axis=None)[-1] - np.sort(around, axis=None)[-2] < 1e-4:
            continue  # two peaks as high
        d, e = np.unravel_index(around.argmax(), around.shape)
        for i in np.flatnonzero(image == j):
            off = abs((int(turn[i]) % 64 - round(e * 64 / 24) + 32) % 64 - 32)
            assert found[i] == (off <= 9 and abs(growth[i] - (4 * d - 32)) <= 12)


def test_octaves_and_turns_are_steps_of_an_eighth_and_of_a_64th():
    assert hamming.octaves(np.array([1, 2, 0.5, 2**0.125, 0])).tolist()[:4] == [0, 8, -8, 1]
    assert hamming.turns(np.array([0, 90, 359.9, -90, 5.625])).tolist() == [0, 16, 0, 48, 1]


@settings(deadline=None)
@given(SEEDS, st.integers(1, 5), st.sampled_from([1.0, 1.2, 5.0]))
def test_multiple_assignment_equals_the_plain_loop(seed, k, ratio):
    g = torch.Generator().manual_seed(seed)
    x, centroids = torch.randn(6, 4, generator=g), torch.randn(4, 4, generator=g)
    nearest = torch.cdist(x, centroids).argmin(1)
    near = hamming.neighbours(centroids).numpy()
    rows, words = hamming.nearest_words(x.numpy(), nearest.numpy(), near, centroids.numpy(), k, ratio)
    assert rows.dtype == words.dtype == np.int64
    wanted = []
    for i in range(6):
        near = sorted((float((x[i] - c).norm()), j) for j, c in enumerate(centroids))
        wanted += [(i, j) for d, j in near[:k] if d <= ratio * near[0][0] * (1 + 1e-7) or j == near[0][1]]
    assert list(zip(rows.tolist(), words.tolist(), strict=True)) == wanted


def test_neighbours_are_the_nearest_words_and_no_others_are_assigned(monkeypatch):
    g = torch.Generator().manual_seed(0)
    centroids = torch.randn(50, 6, generator=g)
    monkeypatch.setattr(hamming, "TILE", 130)
    near = hamming.neighbours(centroids, 4)
    for j in range(50):
        assert near[j].tolist() == (centroids - centroids[j]).norm(dim=1).argsort()[:4].tolist()
    c = centroids.numpy()
    _, words = hamming.nearest_words(c[:1] + 0.01, np.array([0]), near.numpy(), c, 9, 1e9)
    assert set(words.tolist()) == set(near[0].tolist())


def test_words_of_another_length_are_not_compared():
    centroids = torch.randn(50, 6)
    with pytest.raises(ValueError, match="5 values, and words 6"):
        hamming.nearest_words(
            np.zeros((2, 5), "f4"),
            np.array([0, 1]),
            hamming.neighbours(centroids).numpy(),
            centroids.numpy(),
            2,
            2,
        )


def test_no_descriptor_has_no_words():
    centroids = torch.randn(50, 6)
    near, none = hamming.neighbours(centroids).numpy(), np.empty(0, np.int64)
    found = hamming.nearest_words(np.empty((0, 6), "f4"), none, near, centroids.numpy(), 3, 1.2)
    assert [len(v) for v in found] == [0, 0]


@given(st.floats(0, 799.9), st.floats(0, 599.9), st.floats(0.5, 90), st.floats(-360, 720), st.integers(1, 4))
def test_geometry_survives_packing_to_its_steps(x, y, scale, angle, grown):
    geometry = np.array([[x, y, scale, angle]], np.float32) * np.array([grown, grown, grown, 1], np.float32)
    size = np.array([[800.0, 600.0]]) * grown
    bits = hamming.packed(geometry, size)
    assert bits.dtype == np.uint32
    back = hamming.unpacked(bits, size)[0]
    assert abs(back[0] - grown * x) <= 0.5 * 800 * grown / 1024 + 1e-3
    assert abs(back[1] - grown * y) <= 0.5 * 600 * grown / 1024 + 1e-3
    assert abs(np.log2(back[2] / (grown * scale))) <= 1 / 16 + 1e-3
    assert abs((back[3] - angle + 180) % 360 - 180) <= 180 / 64 + 1e-3
    assert hamming.packed(hamming.unpacked(bits, size), size).tolist() == bits.tolist()


def test_geometry_out_of_bounds_is_brought_to_them():
    back = hamming.unpacked(
        hamming.packed(np.array([[-5, 700, 0, 0], [900, 3, 1e6, 0]], "f4"), (800, 600)), (800, 600)
    )
    assert back[0, 0] < 1
    assert back[0, 1] > 599
    assert back[1, 0] > 799
    assert back[:, 2].tolist() == pytest.approx([800 * 2**-11, 800 * 2 ** (-11 + 63 / 8)])


def test_mirrored_keypoints_are_those_of_the_mirrored_picture():
    cv2 = pytest.importorskip("cv2")
    from instsearch_cli.data import Image
    from instsearch_plugins.extractors.sift import Sift

    noise = np.random.default_rng(3).integers(0, 255, (30, 40, 3), np.uint8)
    pixels = cv2.GaussianBlur(cv2.resize(noise, (320, 240), interpolation=cv2.INTER_CUBIC), (0, 0), 2)
    sift = Sift(Sift.Config(), torch.device("cpu"))
    there, back = sift.extract(
        [Image(p, (320, 240)) for p in (pixels, np.ascontiguousarray(pixels[:, ::-1]))]
    )
    values, geometry = mirrored(there.values, there.geometry)
    geometry[:, 0] += 320
    other = back.geometry
    miss = np.abs(geometry[:, None, :3] - other[None, :, :3]).max(2)
    miss += np.abs((geometry[:, None, 3] - other[None, :, 3] + 180) % 360 - 180)
    pair = miss.argmin(1)
    same = miss[np.arange(len(pair)), pair] < 2
    assert same.mean() > 0.8
    assert same.sum() > 50
    alike = (values * back.values[pair]).sum(1)[same]
    unmirrored = (there.values * back.values[pair]).sum(1)[same]
    assert np.median(alike) > 0.98 > np.median(unmirrored) + 0.1
