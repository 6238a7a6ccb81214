import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from instsearch_cli.data import Grid, Inputs, WeightMap
from instsearch_cli.errors import UsageError
from instsearch_cli.options import make_config
from instsearch_cli.testing import DetectorContract
from instsearch_plugins.detectors.egm import EGM
from instsearch_plugins.numeric import egm, egm_batch
from instsearch_plugins.numeric.egm import Recipe, cells, fit, inner, purge
from instsearch_plugins.numeric.egm_batch import fit_batch
from instsearch_plugins.numeric.regions import grid_in

CPU = torch.device("cpu")


def benchmark():
    """The plain loop over samples and components that the benchmark measures against."""
    path = Path(__file__).parents[2] / "benchmarks/egm.py"
    spec = importlib.util.spec_from_file_location("benchmark_egm", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


plain = benchmark()


def planted():
    S = np.zeros((12, 20), np.float32)
    S[2:7, 2:9], S[5:10, 13:18] = 1, 0.5
    return S


@st.composite
def maps(draw, largest=9):
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    h, w = rng.integers(1, largest, 2, endpoint=True)
    y, x = np.mgrid[:h, :w]
    cy, cx, s = rng.random(3) * (h, w, 4) + (0, 0, 1)
    return (0.5 * rng.random((h, w)) + np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * s**2))).astype(
        np.float32
    )


recipes = st.builds(
    Recipe,
    rho=st.sampled_from([1, 2, 5]),
    tau=st.sampled_from([0, 0.2, 0.4]),
    sigma=st.sampled_from([1, 2.5]),
    weighted=st.booleans(),
    add_sigma=st.booleans(),
    overlap=st.sampled_from([0.5, 0.55, 0.6]),
    iterations=st.sampled_from([1, 2, 50]),
)


def both(pairs):
    """One function in numpy and in torch, as functions of arrays."""
    name, *rest = pairs
    many = getattr(egm_batch, name)
    return [getattr(egm, name), lambda *a: many(*(torch.tensor(x)[None] for x in a), *rest)[0].numpy()]


@pytest.mark.parametrize("product", both(["inner"]))
def test_inner_products_of_diagonal_gaussians(product):
    a, b = np.array([[1.0, 0, 0, 1, 1]]), np.array([[0.5, 0, 1, 1, 2]])
    assert product(a, b).item() == pytest.approx(0.0275, abs=1e-7)
    assert product(b, a).item() == pytest.approx(0.0275, abs=1e-7)
    assert product(a, a).item() == pytest.approx(0.0795775, abs=1e-7)


def test_inner_product_is_the_integral():
    a, b = (0.7, 1.0, -0.5, 0.8, 1.5), (1.3, 0.2, 0.6, 2.0, 0.4)
    y, x = np.meshgrid(np.linspace(-12, 12, 601), np.linspace(-12, 12, 601), indexing="ij")

    def density(pi, my, mx, vy, vx):
        g = np.exp(-((y - my) ** 2) / (2 * vy) - (x - mx) ** 2 / (2 * vx))
        return pi * g / (2 * math.pi * math.sqrt(vy * vx))

    integral = (density(*a) * density(*b)).sum() * 0.04**2
    assert inner(np.array([a]), np.array([b])).item() == pytest.approx(integral, rel=1e-6)
    assert plain.loop_inner(a, b) == pytest.approx(integral, rel=1e-6)


@pytest.mark.parametrize(("x", "rho"), [(1.0, 0.461212), (4.0, 0.973261)])
def test_purge_compares_with_what_is_kept(x, rho):
    q = np.array([[0.4, 0, x, 1, 1], [0.6, 0, 0, 1, 1]])
    for purged, kept in ((rho + 1e-6, 1), (rho - 1e-6, 2)):
        for found in (purge(q, purged), egm_batch.purge(torch.tensor(q)[None], purged)[0].numpy()):
            assert len(found) == kept
            assert found[:, 0].sum() == pytest.approx(1)
            assert [0.6 if kept == 2 else 1.0, 0, 0, 1, 1] in found.tolist()


@pytest.mark.parametrize("block", [1, 3, 64])
def test_purge_is_the_same_in_any_blocks(block, monkeypatch):
    rng = np.random.default_rng(1)
    q = np.concatenate([rng.random((80, 1)), 12 * rng.random((80, 2)), 0.2 + rng.random((80, 2))], axis=1)
    expected = np.array(plain.loop_purge([tuple(row) for row in q.tolist()], 0.55))
    assert 5 < len(expected) < 70
    for module in (egm, egm_batch):
        monkeypatch.setattr(module, "BLOCK", block)
    np.testing.assert_allclose(purge(q, 0.55), expected)
    np.testing.assert_allclose(egm_batch.purge(torch.tensor(q)[None], 0.55)[0].numpy(), expected)


def test_of_two_equal_components_one_is_purged():
    q = np.array([[0.5, 3, 3, 2, 2], [0.5, 3, 3, 2, 2]])
    assert purge(q, 0.55).tolist() == [[1, 3, 3, 2, 2]]


@pytest.mark.parametrize(("weighted", "pi"), [(True, [0.7376, 0.2624]), (False, [0.5837, 0.4163])])
def test_planted_boxes_are_found(weighted, pi):
    recipe = Recipe(rho=1, tau=0, weighted=weighted)
    q = fit(planted(), recipe)
    np.testing.assert_allclose(q[:, 0], pi, atol=1e-4)
    np.testing.assert_allclose(q[:, 1:3], [[4.002, 5.010], [7.002, 15.000]], atol=1e-3 if weighted else 4e-3)
    radius = math.sqrt(3) * np.sqrt(q[:, 3:])
    np.testing.assert_allclose(radius, [[2.452, 3.502], [2.450, 2.476]], atol=1e-3 if weighted else 2e-3)
    assert cells(q, 12, 20).tolist() == [[2, 2, 9, 7], [13, 5, 18, 10]]


@pytest.mark.parametrize("weighted", [True, False])
def test_two_components_are_left_of_the_planted_map_after_one_purge(weighted):
    assert len(fit(planted(), Recipe(rho=1, tau=0, weighted=weighted, iterations=1))) == 2


def test_the_tuned_options_find_the_planted_boxes():
    for weighted in (True, False):
        q = fit(planted(), Recipe(weighted=weighted))
        assert cells(q, 12, 20).tolist() == [[2, 2, 9, 7], [13, 5, 18, 10]]


def test_samples_are_masked_and_raised():
    S = np.array([[4, 1.6, 1.5], [0, -1, 3]], np.float32)
    expected = [[1, 0.4**5, 0], [0, 0, 0.75**5]]
    np.testing.assert_allclose(egm.samples(S, 5, 0.4), expected, rtol=1e-6)
    np.testing.assert_allclose(
        egm_batch.samples(torch.tensor(S)[None], 5, 0.4)[0].numpy(), expected, rtol=1e-6
    )
    assert egm.samples(np.array([[1, 0.03, 0.04]]), 2, 0).tolist() == [[1, 0, 0.04**2]]


@given(maps(), recipes)
def test_first_step_is_the_general_step(S, recipe):
    A = egm.samples(S, recipe.rho, recipe.tau)
    weight = A if recipe.weighted else (A > 0).astype(float)
    y, x = np.nonzero(A)
    v = np.full(len(y), float(recipe.sigma))
    q = np.stack([A[y, x] / A.sum(), y, x, v, v], axis=1)
    expected = egm.m_step(*egm.e_step(q, recipe.sigma, *S.shape), weight, 0.5)
    np.testing.assert_allclose(egm.first_step(A, weight, recipe.sigma, 0.5), expected, atol=1e-9)


@given(maps(), recipes)
def test_equals_the_plain_loop(S, recipe):
    expected = plain.loop(S, recipe)
    q = fit(S, recipe)
    assert q.shape == expected.shape
    np.testing.assert_allclose(q, expected, atol=1e-6)
    assert np.array_equal(cells(q, *S.shape), cells(expected, *S.shape))


@given(maps(largest=24), recipes)
def test_equals_one_table_of_all_pairs_on_larger_maps(S, recipe):
    expected = plain.dense(S, recipe)
    np.testing.assert_allclose(fit(S, recipe), expected, atol=1e-6)


@given(maps(largest=24), recipes)
def test_invariants(S, recipe):
    q = fit(S, recipe)
    h, w = S.shape
    assert np.array_equal(q, fit(S.copy(), recipe))
    if (egm.samples(S, recipe.rho, recipe.tau) > 0).sum() < 2:
        assert q.shape == (0, 5)
        return
    assert len(q) >= 1
    assert q[:, 0].sum() == pytest.approx(1)
    assert (np.diff(q[:, 0]) <= 1e-9).all()
    assert (q[:, 3:] >= egm.FLOOR).all()
    x0, y0, x1, y1 = cells(q, h, w).T
    assert ((x0 >= 0) & (x0 < x1) & (x1 <= w) & (y0 >= 0) & (y0 < y1) & (y1 <= h)).all()


@given(st.lists(maps(largest=14), min_size=1, max_size=5), recipes)
def test_a_batch_equals_one_by_one(several, recipe):
    found = fit_batch(plain.padded(several), recipe)
    assert len(found) == len(several)
    for S, q in zip(several, found, strict=True):
        expected = fit(S, recipe)
        assert q.shape == expected.shape
        np.testing.assert_allclose(q.numpy(), expected, atol=1e-6)


def test_a_batch_of_nothing_and_of_maps_without_samples():
    assert fit_batch(torch.zeros(0, 3, 4)) == []
    S = torch.zeros(3, 3, 4)
    S[1, 1:] = 1
    empty, full, also_empty = fit_batch(S)
    assert len(empty) == len(also_empty) == 0
    np.testing.assert_allclose(full.numpy(), fit(S[1].numpy()), atol=1e-9)


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (1, 9), (7, 1), (2, 2), (6, 6), (5, 8)])
def test_flat_maps_give_regions_that_cover_them(shape):
    q = fit(np.ones(shape, np.float32))
    np.testing.assert_allclose(q, fit_batch(torch.ones(1, *shape))[0].numpy(), atol=1e-6)
    if shape == (1, 1):
        assert len(q) == 0
    else:
        covered = np.zeros(shape, bool)
        for x0, y0, x1, y1 in cells(q, *shape):
            covered[y0:y1, x0:x1] = True
        assert covered.mean() > 0.5


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_maps_without_anything_to_find(value):
    S = np.full((3, 4), value, np.float32)
    assert fit(S).shape == (0, 5)
    assert len(fit_batch(torch.from_numpy(S)[None])[0]) == 0


def test_samples_out_of_reach_of_every_component_do_no_harm():
    S = np.zeros((1, 400), np.float32)
    S[0, :3], S[0, -2:] = 1, 0.9
    q = egm.m_step(*egm.e_step(np.array([[1.0, 0, 1, 0.01, 0.01]]), 0.05, 1, 400), S.astype(float))
    np.testing.assert_allclose(q[0, :3], [1, 0, 1], atol=1e-6)
    assert np.isfinite(fit(S, Recipe(sigma=0.05))).all()


def test_cells_are_rounded_clipped_and_at_least_one():
    q = np.array([[1, 4, 10, 1, 4], [1, 0, 0, 25, 1], [1, 3, 5.4, 1e-3, 1e-3], [1, 6.9, 11.9, 1e-3, 1e-3]])
    assert cells(q, 8, 12, 2.0).tolist() == [[7, 3, 12, 7], [0, 0, 3, 8], [5, 3, 6, 4], [11, 7, 12, 8]]


class TestEGM(DetectorContract):
    component = EGM


class TestEGMTriangle(DetectorContract):
    component = EGM
    options = {"inner_levels": 2}  # noqa: RUF012


def detect(values, size=(320, 192), **options):
    values = torch.as_tensor(values)
    values = values if values.ndim == 3 else values[None]
    grid = Grid.over(*values.shape[1:], size=size)
    component = EGM(make_config(EGM, options, "detector"), CPU)
    return component.detect(Inputs(size=size, grid=grid, weights=WeightMap(values, grid)))


def test_boxes_are_in_pixels_and_scores_are_mixing_coefficients():
    regions = detect(planted(), rho=1, tau=0)
    assert regions.boxes.tolist() == [[32, 32, 144, 112], [208, 80, 288, 160]]
    torch.testing.assert_close(regions.scores, torch.tensor([0.7376, 0.2624]), atol=1e-4, rtol=0)


def test_channels_are_summed():
    S = torch.from_numpy(planted())
    alone, split = detect(S), detect(torch.stack([0.25 * S, 0.75 * S]))
    assert torch.equal(alone.boxes, split.boxes)
    torch.testing.assert_close(alone.scores, split.scores)


def test_sigma_may_be_a_standard_deviation():
    S = plain.random_maps(1, 20, 28)[0]
    std, variance, other = detect(S, sigma=2.0, sigma_is_std=True), detect(S, sigma=4.0), detect(S, sigma=2.0)
    assert torch.equal(std.boxes, variance.boxes)
    assert torch.equal(std.scores, variance.scores)
    assert not torch.equal(std.scores, other.scores)


def test_the_triangle_adds_a_grid_inside_each_region():
    plainly, triangle = detect(planted()), detect(planted(), inner_levels=2)
    n = [len(grid_in(torch.tensor([c]), 2)) for c in ([2, 2, 9, 7], [13, 5, 18, 10])]
    assert len(triangle.boxes) == sum(n) > 6
    assert torch.equal(triangle.boxes[[0, n[0]]], plainly.boxes)
    assert torch.equal(triangle.scores, plainly.scores.repeat_interleave(torch.tensor(n)))
    for i, box in enumerate(plainly.boxes):
        inside = triangle.boxes[i * n[0] : n[0] + i * n[1]]
        assert bool((inside[:, :2] >= box[:2]).all() and (inside[:, 2:] <= box[2:]).all())


@pytest.mark.parametrize("levels", [0, 2])
def test_several_images_at_once_get_the_regions_that_each_gets_alone(levels):
    """On a GPU images are detected together: the same code here, on the CPU."""
    maps = [
        *plain.random_maps(4, 20, 28),
        planted(),
        np.zeros((7, 3), np.float32),
        np.ones((1, 9), np.float32),
    ]
    many = []
    for S in maps:
        grid = Grid.over(*S.shape, size=(320, 192))
        values = torch.from_numpy(np.stack([S / 4, S * 3 / 4]))
        many.append(Inputs(size=(320, 192), grid=grid, weights=WeightMap(values, grid)))
    component = EGM(make_config(EGM, {"inner_levels": levels}, "detector"), CPU)
    for found in (component._together(many), component.detect_many(many)):
        assert len(found) == len(many)
        for regions, inputs in zip(found, many, strict=True):
            expected = component.detect(inputs)
            assert torch.equal(regions.boxes, expected.boxes)
            torch.testing.assert_close(regions.scores, expected.scores)
    assert len(component._together(many[:1])[0].boxes) > 1


def test_how_its_grid_is_decided_names_its_regions():
    assert EGM(EGM.Config(), CPU).identity() == {}
    assert EGM(EGM.Config(inner_levels=2), CPU).identity() == {"grid": "integers"}


@pytest.mark.parametrize("where", [(), (5, 7)])
def test_no_cell_or_one_gives_the_whole_picture(where):
    S = torch.zeros(12, 20)
    if where:
        S[where] = 2
    regions = detect(S)
    assert regions.boxes.tolist() == [[0, 0, 320, 192]]
    assert regions.scores.tolist() == [1]


@pytest.mark.parametrize(
    "options",
    [
        {"rho": 0.0},
        {"tau": 1.5},
        {"sigma": -1.0},
        {"tau_o": 0.4},
        {"tau_o": 1.0},
        {"box_scale": 0.0},
        {"iterations": 0},
        {"tolerance": 0.0},
        {"inner_levels": -1},
    ],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        make_config(EGM, options, "detector")
