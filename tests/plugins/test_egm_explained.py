"""What the egm detector shows of its iterations: the mixtures that the fit goes through, in pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from instsearch_cli.data import Ellipses, Grid, Inputs, WeightMap
from instsearch_plugins.detectors.egm import EGM
from instsearch_plugins.numeric.egm import fit, samples

SIZE = (320, 240)


def blobs(h: int = 12, w: int = 16) -> torch.Tensor:
    """Two bumps, one the larger, on a faint floor: f32[1, h, w]."""
    y, x = np.mgrid[:h, :w].astype(float)
    bump = np.exp(-((y - 3) ** 2 + (x - 4) ** 2) / 6) + 0.8 * np.exp(-((y - 8) ** 2 + (x - 11) ** 2) / 9)
    return torch.from_numpy(bump + 0.1).float()[None]


def inputs(values: torch.Tensor, grid: Grid | None = None) -> Inputs:
    h, w = values.shape[1:]
    return Inputs(size=SIZE, weights=WeightMap(values, grid or Grid.over(h, w, SIZE)))


def shown(detector: EGM, values: torch.Tensor) -> dict[int, Ellipses]:
    found = {}
    for drawing in detector.explain(inputs(values)):
        title, _, detail = drawing.caption.partition(": ")
        weights, ellipses = drawing.items
        assert isinstance(weights, WeightMap)
        assert isinstance(ellipses, Ellipses)
        assert detail.split()[0] == f"{len(ellipses.centres):,}"
        found[int(title.removeprefix("iteration "))] = ellipses
    return found


def test_the_panels_are_the_mixtures_after_so_many_iterations() -> None:
    detector, S = EGM(EGM.Config(), torch.device("cpu")), blobs()
    found = shown(detector, S)
    assert list(found)[:2] == [0, 1]
    assert list(found) == sorted(found)
    counts = [len(e.centres) for e in found.values()]
    assert counts == sorted(counts, reverse=True)
    assert len(set(counts[:-1])) == len(counts) - 1  # each but the last has fewer than the one before
    for n, ellipses in list(found.items())[1:]:
        q = fit(S[0].numpy(), detector.recipe._replace(iterations=n))
        assert ellipses.scores.numpy() == pytest.approx(q[:, 0], abs=1e-6)
        assert ellipses.centres.numpy() == pytest.approx((q[:, [2, 1]] + 0.5) * 20, rel=1e-5)
        assert ellipses.radii.numpy() == pytest.approx(np.sqrt(3 * q[:, [4, 3]]) * 20, rel=1e-5)


def test_it_starts_with_one_component_a_sample_and_ends_with_the_regions() -> None:
    detector, S = EGM(EGM.Config(), torch.device("cpu")), blobs()
    found = list(shown(detector, S).items())
    first, (last, final) = found[0][1], found[-1]
    amplitude = samples(S[0].numpy(), 5, 0.4)
    assert len(first.centres) == (amplitude > 0).sum()
    assert first.scores.numpy() == pytest.approx(amplitude[amplitude > 0])
    assert first.radii.numpy() == pytest.approx(
        np.full((len(first.radii), 2), np.sqrt(3 * 2.5) * 20), rel=1e-5
    )
    regions = detector.detect(inputs(S))
    assert final.scores.numpy() == pytest.approx(regions.scores.numpy())
    middle = (regions.boxes[:, :2] + regions.boxes[:, 2:]) / 2
    assert (middle - final.centres).abs().max() <= 20  # a cell: boxes are whole cells
    recipe = detector.recipe
    assert np.array_equal(fit(S[0].numpy(), recipe._replace(iterations=last)), fit(S[0].numpy(), recipe))
    if last > 1:
        before = fit(S[0].numpy(), recipe._replace(iterations=last - 1))
        assert not np.array_equal(before, fit(S[0].numpy(), recipe))


def test_a_fit_that_is_cut_short_ends_there() -> None:
    found = shown(EGM(EGM.Config(iterations=3, tau=0.0, rho=1.0), torch.device("cpu")), blobs())
    assert list(found)[-1] == 3
    assert list(shown(EGM(EGM.Config(iterations=1), torch.device("cpu")), blobs())) == [0, 1]


def test_cells_that_do_not_start_at_the_corner_and_are_not_square() -> None:
    grid = Grid(12, 16, (10.0, 7.0, 30.0, -5.0))
    detector = EGM(EGM.Config(), torch.device("cpu"))
    there = detector.explain(inputs(blobs(), grid))[-1].items[1]
    here = detector.explain(inputs(blobs()))[-1].items[1]
    assert isinstance(there, Ellipses)
    assert isinstance(here, Ellipses)
    step = torch.tensor([10.0, 7.0])
    assert torch.allclose(there.centres, torch.tensor([30.0, -5.0]) + here.centres / 20 * step, atol=1e-3)
    assert torch.allclose(there.radii, here.radii / 20 * step, atol=1e-3)


@pytest.mark.parametrize("values", [torch.zeros(1, 4, 4), torch.ones(1, 1, 1)])
def test_a_map_with_nothing_to_fit_shows_nothing(values: torch.Tensor) -> None:
    assert EGM(EGM.Config(), torch.device("cpu")).explain(inputs(values)) == []
