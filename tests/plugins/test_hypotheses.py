from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instsearch_plugins.numeric import hypotheses
from instsearch_plugins.numeric.geometry import Agreement, places
from instsearch_plugins.numeric.hypotheses import SCALES, STRETCH, Found


def verified(p, q, image, keypoint, *rest) -> Found:
    return hypotheses.verified(p, q, image, (keypoint, places(q)), *rest)


def turned(degrees: float, scale: float = 1.0) -> np.ndarray:
    """A f32[2, 2]: a turn, clockwise on the screen, and a change of scale."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return (scale * np.array([[c, -s], [s, c]])).astype(np.float32)


def keypoints(n: int, seed: int = 0, size=(600, 400)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    columns = [rng.uniform(0, size[0], n), rng.uniform(0, size[1], n), rng.uniform(2, 12, n)]
    return np.stack([*columns, rng.uniform(0, 360, n)], 1).astype(np.float32)


def moved(p: np.ndarray, degrees: float, scale: float, t) -> np.ndarray:
    x = p[:, :2] @ turned(degrees, scale).T + np.float32(t)
    return np.concatenate([x, p[:, 2:3] * scale, (p[:, 3:] + degrees) % 360], 1).astype(np.float32)


def planted(n: int, inliers: int, seed: int, noise: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Correspondences, in random order, of which the first ``inliers`` follow a random similarity."""
    rng = np.random.default_rng(seed)
    p = keypoints(n, seed)
    q = moved(p, rng.uniform(0, 360), 2 ** rng.uniform(-1, 1), rng.uniform(0, 300, 2))
    q[:, :2] += rng.normal(scale=noise, size=(n, 2))
    q[inliers:] = keypoints(n - inliers, seed + 1000)
    order = rng.permutation(n)
    return p[order], q[order]


def single(p, q, agreement=None, weight=None, keypoint=None) -> Found:
    """One image."""
    weight = np.ones(len(p), np.float32) if weight is None else weight
    keypoint = np.arange(len(p)) if keypoint is None else keypoint
    return verified(p, q, np.zeros(len(p), np.int64), keypoint, weight, 1, agreement or Agreement(8.0))


def plain(p, q, keypoint, weight, agreement) -> tuple[int, float, np.ndarray | None]:
    """The docstring of ``verified``, one image, one hypothesis and one correspondence at a time."""
    p, q = p.astype(np.float64), q.astype(np.float64)
    growth = [np.log2(max(b[2], 1e-6) / max(a[2], 1e-6)) for a, b in zip(p, q, strict=True)]

    def agreeing(A, t) -> list[int]:
        scale = np.log2(np.linalg.det(A)) / 2
        angle = np.degrees(np.arctan2(A[1, 0] - A[0, 1], A[0, 0] + A[1, 1]))
        found = []
        for j in range(len(p)):
            off = (q[j, 3] - p[j, 3] - angle + 180) % 360 - 180
            near = np.linalg.norm(A @ p[j, :2] + t - q[j, :2]) < agreement.pixels
            if near and abs(growth[j] - scale) < agreement.octaves and abs(off) < agreement.degrees:
                found.append(j)
        return found

    def counted(pairs) -> int:
        return min(len({keypoint[j] for j in pairs}), len({tuple(q[j, :2]) for j in pairs}))

    best: tuple[float, int, np.ndarray, np.ndarray] | None = None
    for h in range(len(p)):
        if not np.log2(SCALES[0]) <= growth[h] <= np.log2(SCALES[1]):
            continue
        phi, s = np.radians(q[h, 3] - p[h, 3]), 2 ** growth[h]
        A = s * np.array([[np.cos(phi), -np.sin(phi)], [np.sin(phi), np.cos(phi)]])
        t = q[h, :2] - A @ p[h, :2]
        pairs = agreeing(A, t)
        miss = np.array([np.sum((A @ p[j, :2] + t - q[j, :2]) ** 2) for j in pairs])
        e = np.sum(weight[pairs] * (1 - miss / agreement.pixels**2)) / (1 + weight.sum())
        if best is None or counted(pairs) + e > best[0]:
            best = counted(pairs) + e, counted(pairs), A, t
    if best is None:
        return 0, 0.0, None
    _, n, A, t = best
    for _ in range(hypotheses.REFINEMENTS):
        pairs = agreeing(A, t)
        if n < 3:
            break
        x = np.concatenate([p[pairs, :2], np.ones((len(pairs), 1))], 1)
        spread = np.linalg.svd(p[pairs, :2] - p[pairs, :2].mean(0), compute_uv=False)
        if spread[1] <= 1e-3 * spread[0]:
            break
        solution = np.linalg.lstsq(x, q[pairs, :2], rcond=None)[0]
        B, u = solution[:2].T, solution[2]
        large, small = np.linalg.svd(B, compute_uv=False)
        if np.linalg.det(B) <= 0 or large > STRETCH * small:
            break
        if not SCALES[0] <= np.sqrt(large * small) <= SCALES[1] or counted(agreeing(B, u)) < n:
            break
        gained = counted(agreeing(B, u)) > n
        n, A, t = counted(agreeing(B, u)), B, u
        if not gained:
            break
    pairs = agreeing(A, t)
    sides = [keypoint[j] for j in pairs], [tuple(q[j, :2]) for j in pairs]
    sums = [sum(max(w for k, w in zip(side, weight[pairs], strict=True) if k == one) for one in set(side))
            for side in sides]  # fmt: skip
    return n, float(min(sums)), np.concatenate([A, t[:, None]], 1).ravel()


@given(
    st.lists(st.tuples(st.integers(0, hypotheses.HYPOTHESES), st.floats(0, 1)), max_size=6),
    st.integers(0, 10_000),
)
def test_equals_the_plain_loop(images, seed):
    """Images of any number of correspondences, with a share planted, and keypoints that several of them have."""
    rng = np.random.default_rng(seed)
    parts = [planted(n, int(share * n), seed + i) for i, (n, share) in enumerate(images)]
    p, q = (
        np.concatenate([np.empty((0, 4), np.float32), *(part[side] for part in parts)]) for side in (0, 1)
    )
    image = np.repeat(np.arange(len(images)), [n for n, _ in images])
    keypoint = rng.integers(0, 20, len(p))
    twice = np.flatnonzero(rng.random(len(p)) < 0.2)
    twice = twice[(twice > 0) & (image[twice] == image[twice - 1])]
    q[twice, :2] = q[twice - 1, :2]
    weight = rng.uniform(0.1, 1, len(p)).astype(np.float32)
    agreement = Agreement(8.0)
    found = verified(p, q, image, keypoint, weight, len(images), agreement)
    for i in range(len(images)):
        its = image == i
        inliers, total, transform = plain(p[its], q[its], keypoint[its], weight[its], agreement)
        assert found.inliers[i] == inliers
        if transform is None:
            assert np.isnan(found.transform[i]).all()
            assert found.weight[i] == 0
        else:
            np.testing.assert_allclose(
                found.transform[i], transform, atol=2e-3 * max(1, np.abs(transform).max())
            )
            assert found.weight[i] == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize(("degrees", "scale"), [(0, 1), (35, 0.5), (200, 2.5), (-80, 1.3)])
def test_finds_the_similarity_among_wrong_matches(degrees, scale):
    p = keypoints(60)
    q = moved(p, degrees, scale, [40, 30])
    q[:, :2] += np.random.default_rng(1).normal(scale=0.5, size=(60, 2))
    q[20:] = keypoints(40, seed=2)
    found = single(p, q)
    assert 20 <= found.inliers[0] <= 23
    corners = np.float32([[0, 0], [600, 0], [600, 400], [0, 400]])
    expected = corners @ turned(degrees, scale).T + np.float32([40, 30])
    assert np.abs(found.transforms(corners)[0] - expected).max() < 2 * max(1, scale)


def test_a_pair_of_keypoints_is_a_similarity():
    """Twice as large and a quarter turn clockwise: right goes down, so x' = (-2y, 2x) + (52, 54)."""
    found = single(np.float32([[3, 1, 2, 10]]), np.float32([[50, 60, 4, 100]]), weight=np.float32([0.7]))
    np.testing.assert_allclose(found.transform, [[0, -2, 52, 2, 0, 54]], atol=1e-5)
    assert found.inliers.tolist() == [1]
    assert found.weight.tolist() == [pytest.approx(0.7)]
    assert found.transforms.A.tolist() == [
        [found.transform[0, :2].tolist(), found.transform[0, 3:5].tolist()]
    ]


def test_refines_to_an_affine_transform():
    A, t = np.float32([[1.15, 0.1], [0, 0.9]]), np.float32([10, 20])
    p = keypoints(40, size=(150, 150))
    q = np.concatenate([p[:, :2] @ A.T + t, p[:, 2:]], 1)
    found = single(p, q, Agreement(9.0))
    assert found.inliers.tolist() == [40]
    np.testing.assert_allclose(found.transforms.A[0], A, atol=1e-3)


def test_agreement_looks_at_place_scale_and_angle():
    """A second pair that is off in one of these leaves the first alone; an angle goes around at 360."""
    p = np.float32([[0, 0, 4, 350], [50, 0, 4, 350]])
    good = moved(p, 20, 2, [100, 100])
    assert good[:, 3].tolist() == [10, 10]
    agreement = Agreement(3.0, octaves=1, degrees=30)
    assert single(p, good, agreement).inliers.tolist() == [2]
    for column, by in ((0, 3.1), (1, -3.1), (2, 8.5), (2, -4.1), (3, 31.0), (3, -31.0)):
        off = good.copy()
        off[1, column] += by
        assert single(p, off, agreement).inliers.tolist() == [1]
    near = good + np.float32([1.0, 1.0, 3.0, 20.0])
    assert single(p, np.stack([good[0], near[1]]), agreement).inliers.tolist() == [2]


def test_each_keypoint_counts_once():
    """Many to one, one to many, and one keypoint of the image with several angles."""
    p = keypoints(12)
    q = moved(p, 10, 1.2, [5, 5])
    assert single(p, q, keypoint=np.arange(12) // 3).inliers.tolist() == [4]
    merged = q.copy()
    merged[:, :2] = q[[0, 1, 2] * 4, :2]
    assert single(p[[0, 1, 2] * 4], q[[0, 1, 2] * 4]).inliers.tolist() == [3]
    angles = q[[0] * 8].copy()
    angles[:, 3] += np.arange(8)
    found = single(p[[0] * 8], angles, weight=np.linspace(0.1, 0.8, 8).astype(np.float32))
    assert found.inliers.tolist() == [1]
    assert found.weight.tolist() == [pytest.approx(0.8)]


def test_a_mirrored_object_is_not_verified():
    p = keypoints(60)
    q = np.concatenate([[400, 0] + p[:, :2] * [-1, 1], p[:, 2:3], (180 - p[:, 3:]) % 360], 1).astype(
        np.float32
    )
    assert single(p, q, Agreement(8.0)).inliers[0] <= 4


def test_of_equal_counts_the_heavier_and_nearer_wins():
    """Two motions with three correspondences each."""
    p = keypoints(6)
    q = np.concatenate([moved(p[:3], 0, 1, [10, 10]), moved(p[3:], 0, 1, [200, 90])])
    for heavy, t in ((slice(0, 3), (10, 10)), (slice(3, 6), (200, 90))):
        weight = np.ones(6, np.float32)
        weight[heavy] = 2
        found = single(p, q, weight=weight)
        assert found.inliers.tolist() == [3]
        assert found.weight.tolist() == [pytest.approx(6)]
        np.testing.assert_allclose(found.transforms.t[0], t, atol=0.05)


@given(st.integers(0, 10_000), st.floats(0.2, 5), st.floats(-500, 500))
def test_invariants(seed, factor, shift):
    """Order changes nothing; the two pictures may be scaled and moved."""
    p, q = planted(30, 12, seed)
    found = single(p, q)
    order = np.random.default_rng(seed).permutation(30)
    again = single(p[order], q[order], keypoint=order)
    assert again.inliers.tolist() == found.inliers.tolist()
    np.testing.assert_allclose(again.transform, found.transform, atol=0.05, rtol=1e-3)
    larger = q.copy()
    larger[:, :3] *= np.float32(factor)
    larger[:, :2] += np.float32(shift)
    if 0.2 < factor < 5:
        scaled = single(p, larger, Agreement(8.0 * factor))
        assert abs(int(scaled.inliers[0]) - int(found.inliers[0])) <= 1
        np.testing.assert_allclose(
            scaled.transforms.A, factor * found.transforms.A, atol=0.05 * max(1, factor)
        )


def test_images_do_not_concern_each_other(monkeypatch):
    """Together, each alone, and in small blocks: the same; pixels may be those of each image."""
    parts = [planted(5 + 3 * i, 4 + i, i) for i in range(12)]
    p, q = (np.concatenate([part[side] for part in parts]) for side in (0, 1))
    image = np.repeat(np.arange(12), [len(part[0]) for part in parts])
    pixels = np.linspace(2, 20, 12).astype(np.float32)
    args = (p, q, image, np.arange(len(p)), np.ones(len(p), np.float32), 12, Agreement(pixels))
    together = verified(*args)
    monkeypatch.setattr(hypotheses, "COMPARED", 2000)
    blocks = verified(*args)
    for field, other in zip(together, blocks, strict=True):
        np.testing.assert_array_equal(field, other)
    for i, part in enumerate(parts):
        alone = single(*part, Agreement(float(pixels[i])))
        assert alone.inliers[0] == together.inliers[i]
        np.testing.assert_allclose(alone.transform[0], together.transform[i], atol=1e-3, rtol=1e-4)


def test_no_correspondences_and_images_without():
    nothing = np.empty((0, 4), np.float32), np.empty(0, np.int64)
    found = verified(
        nothing[0], nothing[0], nothing[1], nothing[1], np.empty(0, np.float32), 3, Agreement(5.0)
    )
    assert found.inliers.tolist() == [0, 0, 0]
    assert np.isnan(found.transform).all()
    p = keypoints(4)
    found = verified(p, p, np.full(4, 1), np.arange(4), np.ones(4, np.float32), 3, Agreement(5.0))
    assert found.inliers.tolist() == [0, 4, 0]
    assert found.weight.tolist() == [0, 4, 0]
    none = verified(
        nothing[0], nothing[0], nothing[1], nothing[1], np.empty(0, np.float32), 0, Agreement(5.0)
    )
    assert none.transform.shape == (0, 6)


def test_thousands_of_identical_keypoints_are_one():
    p = np.repeat(keypoints(1), 3000, axis=0)
    found = single(p, p, keypoint=np.zeros(3000, np.int64))
    assert found.inliers.tolist() == [1]
    assert np.isfinite(found.transform).all()


def test_a_brick_wall_counts_each_keypoint_once():
    """Every brick matches every brick; all correspondences alike, more than may propose or count."""
    x, y = np.meshgrid(np.arange(8) * 40.0, np.arange(5) * 20.0)
    wall = np.stack([x.ravel(), y.ravel(), np.full(40, 4.0), np.zeros(40)], 1).astype(np.float32)
    i, j = np.divmod(np.arange(1600), 40)
    found = single(wall[i], wall[j], Agreement(3.0), keypoint=i)
    assert 1 <= found.inliers[0] <= 40


def test_the_heaviest_propose():
    """The true correspondences are few, at the end, and heavier than what may propose before them."""
    p, q = keypoints(400), keypoints(400, seed=9)
    q[-10:] = moved(p[-10:], 30, 1.5, [50, 80])
    weight = np.linspace(0, 1, 400).astype(np.float32)
    assert single(p, q, Agreement(3.0), weight).inliers[0] >= 10


def test_implausible_scales_and_zero_scales():
    p = keypoints(10)
    found = single(p, moved(p, 0, 12, [0, 0]))
    assert found.inliers.tolist() == [0]
    assert np.isnan(found.transform).all()
    zero = p.copy()
    zero[:, 2] = 0
    assert single(zero, p).inliers.tolist() == [0]
    assert single(p, zero).inliers.tolist() == [0]
    assert single(zero, zero).inliers.tolist() == [10]


def test_points_on_a_line_keep_their_similarity():
    p = keypoints(8)
    p[:, 0], p[:, 1] = np.arange(8) * 10, np.arange(8) * 20
    found = single(p, moved(p, 40, 1.5, [3, 4]))
    assert found.inliers.tolist() == [8]
    np.testing.assert_allclose(found.transforms.A[0], turned(40, 1.5), atol=1e-4)


def test_correspondences_may_come_in_any_order():
    p, q = (np.concatenate(sides) for sides in zip(planted(30, 20, 1), planted(20, 9, 2), strict=True))
    image, keypoint = np.repeat([0, 1], [30, 20]), np.arange(50)
    weight = np.random.default_rng(0).uniform(0.1, 1, 50).astype(np.float32)
    order = np.random.default_rng(1).permutation(50)
    one = verified(p, q, image, keypoint, weight, 2, Agreement(5.0))
    other = verified(*(v[order] for v in (p, q, image, keypoint, weight)), 2, Agreement(5.0))
    for field, same in zip(one, other, strict=True):
        np.testing.assert_allclose(field, same, rtol=1e-5)


def test_images_with_less_than_least_have_no_transform():
    p, q = planted(12, 6, 3)
    image, rest = np.repeat([0, 1], [12, 4]), (np.ones(16, np.float32), 2, Agreement(5.0))
    both = np.concatenate([p, p[:4]]), np.concatenate([q, keypoints(4, 99)])
    found = verified(*both, image, np.arange(16), *rest, 5)
    assert found.inliers[0] >= 6
    assert (found.inliers[1], found.weight[1]) == (0, 0)
    assert np.isnan(found.transform[1]).all()
