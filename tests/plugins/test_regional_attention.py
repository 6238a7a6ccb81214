"""Regional attention: the network and the descriptor against plain loops, files of weights, extremes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from instsearch_cli.data import BoxWeight, FeatureMap, Grid, Inputs, Keypoints, Regions, WeightMap
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.testing import EncoderContract
from instsearch_plugins.encoders import pooled as pooled_encoders
from instsearch_plugins.encoders.regional_attention import RegionalAttention
from instsearch_plugins.encoders.regional_attention_network import ContextAttention, drawn
from instsearch_plugins.encoders.regions_sum import RegionsSum
from instsearch_plugins.numeric.pooling import region_masks
from instsearch_plugins.numeric.regional_attention import attention, mean_pool, pools_of_rectangles
from instsearch_plugins.numeric.regions import rmac_grid
from region_collection import CELLS, GRID, GRIDDED, IMAGES, Collection, bare, fitted, pooled, regions_of

C = len(IMAGES[0].values)
BOX = (20.0, 10.0, 70.0, 50.0)  # columns 2 to 7, rows 1 to 5 of the grid


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A network whose regions differ in what they count."""
    network = drawn(C, 4, "tanh", 3)
    with torch.no_grad():
        network.context.weight *= 8
        network.context.bias -= 4 * network.context.weight.sum(1) / 20
        network.score.weight *= 8
    torch.save(network.state_dict(), tmp_path / "attention.pth")
    return tmp_path / "attention.pth"


def equal_weights(path: Path) -> Path:
    """phi = softplus(0) = log 2 for every region."""
    torch.save({k: torch.zeros_like(v) for k, v in drawn(C, 4, "tanh", 0).state_dict().items()}, path)
    return path


def plain_phi(r: Any, g: Any, state: dict[str, Tensor], hidden: str = "tanh") -> list[float]:
    """What each region counts, number by number."""
    W_c, b_c, W_r, b_r = (
        state[k].double().numpy() for k in ("context.weight", "context.bias", "score.weight", "score.bias")
    )
    found = []
    for mean in np.asarray(r, float):
        x, total = [*mean, *np.asarray(g, float)], float(b_r[0])
        for d in range(len(W_c)):
            u = b_c[d] + sum(W_c[d, i] * x[i] for i in range(len(x)))
            total += W_r[0, d] * (math.tanh(u) if hidden == "tanh" else math.log1p(math.exp(u)))
        found.append(math.log1p(math.exp(total)))
    return found


def plain_code(X: Tensor, cells: Any, state: dict[str, Tensor], context: Any) -> np.ndarray:
    """L2(sum phi v) of maps without a whitening, by slices."""
    x = X.double().numpy()
    parts = [x[:, y0:y1, x0:x1].reshape(len(x), -1) for x0, y0, x1, y1 in cells.tolist()]
    x0, y0, x1, y1 = context
    phi = plain_phi([p.mean(1) for p in parts], x[:, y0:y1, x0:x1].mean((1, 2)), state)
    v = sum(f * p.max(1) / np.linalg.norm(p.max(1)) for f, p in zip(phi, parts, strict=True))
    return np.asarray(v / np.linalg.norm(v))


# the network


@given(
    R=st.integers(1, 6),
    channels=st.integers(1, 5),
    D=st.integers(1, 4),
    hidden=st.sampled_from(["tanh", "softplus"]),
    seed=st.integers(0, 99),
)
def test_attention_is_the_plain_loop(R: int, channels: int, D: int, hidden: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    r, g = (torch.from_numpy(rng.normal(size=shape)) for shape in ((R, channels), (channels,)))
    network = drawn(channels, D, hidden, seed).double()
    wanted = plain_phi(r, g, network.state_dict(), hidden)
    np.testing.assert_allclose(network(r, g).detach().numpy(), wanted, rtol=1e-9)
    many = network(torch.stack([r, 2 * r]), torch.stack([g, g])).detach()
    np.testing.assert_allclose(many[0].numpy(), wanted, rtol=1e-9)
    assert many.shape == (2, R)


def test_attention_by_hand() -> None:
    """W_c [1; 2] = 3, tanh; twice that, softplus."""
    layers = [torch.tensor(x) for x in ([[1.0, 1.0]], [0.0], [[2.0]], [0.5])]
    (phi,) = attention(torch.tensor([[1.0]]), torch.tensor([2.0]), *layers)
    assert float(phi) == pytest.approx(math.log1p(math.exp(2 * math.tanh(3) + 0.5)), rel=1e-6)


def test_what_is_large_stays_finite_and_above_nothing() -> None:
    network = ContextAttention(2, 3)
    phi = network(torch.tensor([[1e30, 0.0], [0.0, 0.0]]), torch.tensor([1e30, 1e30]))
    assert torch.isfinite(phi).all()
    assert (phi > 0).all()


def test_an_untrained_network_is_the_seeds_alone() -> None:
    one, same, other = (drawn(5, 3, "tanh", seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert not torch.equal(one["context.weight"], other["context.weight"])
    assert one["context.weight"].abs().max() <= 10**-0.5
    assert {k: tuple(v.shape) for k, v in one.items()} == {
        "context.weight": (3, 10),
        "context.bias": (3,),
        "score.weight": (1, 3),
        "score.bias": (1,),
    }


def test_pools() -> None:
    X = torch.arange(24.0).reshape(2, 3, 4)
    alpha = torch.zeros(3, 3, 4)
    alpha[0, :2, :2], alpha[1, 0, 0], alpha[1, 0, 1] = 1, 3, 1
    assert mean_pool(X, alpha).tolist() == [[2.5, 14.5], [0.25, 12.25], [0, 0]]
    most, mean = pools_of_rectangles(torch.stack([X, -X]), torch.tensor([[0, 0, 2, 2], [3, 2, 4, 3]]))
    assert most.tolist() == [[[5, 17], [11, 23]], [[0, -12], [-11, -23]]]
    assert mean.tolist() == [[[2.5, 14.5], [11, 23]], [[-2.5, -14.5], [-11, -23]]]


# the descriptor


def test_the_descriptor_is_the_plain_loop(weights: Path) -> None:
    state = torch.load(weights, weights_only=True)
    encoder = bare(RegionalAttention, weights=str(weights))
    for image in IMAGES[:4]:
        code = encoder.aggregate(image, None, GRIDDED)
        np.testing.assert_allclose(
            code.vectors[0], plain_code(image.values, CELLS, state, (0, 0, 8, 6)), atol=1e-5
        )
        assert code.boxes.tolist() == [[0, 0, 80, 60]]
    phi = encoder._attention(IMAGES[0], None, GRIDDED, (0, 0, 80, 60))
    assert phi.max() > 1.2 * phi.min()


def test_a_query_has_its_box_as_context_like_a_picture_of_its_own(weights: Path) -> None:
    encoder = bare(RegionalAttention, weights=str(weights))
    asked = encoder.aggregate_query(IMAGES[0], BoxWeight(BOX))
    inside = rmac_grid(4, 5, 3) + torch.tensor([2, 1, 2, 1])
    state = torch.load(weights, weights_only=True)
    wanted = plain_code(IMAGES[0].values, inside, state, (2, 1, 7, 5))
    np.testing.assert_allclose(asked.vectors[0], wanted, atol=1e-5)
    assert asked.boxes.tolist() == [list(BOX)]
    own = Grid.over(4, 5, (50, 40))
    crop = FeatureMap(IMAGES[0].values[:, 1:5, 2:7], own)
    expected = encoder.aggregate(crop, None, regions_of(rmac_grid(4, 5, 3), own))
    torch.testing.assert_close(asked.vectors, expected.vectors)


def test_a_query_of_the_whole_picture_is_described_as_the_picture_is(weights: Path) -> None:
    encoder = fitted(RegionalAttention, Collection(IMAGES), weights=str(weights), query_levels=2)
    asked = encoder.aggregate_query(IMAGES[0], None)
    torch.testing.assert_close(asked.vectors, encoder.aggregate(IMAGES[0], None, GRIDDED).vectors)


@pytest.mark.parametrize("hidden", ["tanh", "softplus"])
def test_equal_weights_are_r_mac(tmp_path: Path, hidden: str) -> None:
    options = {"weights": str(equal_weights(tmp_path / "equal.pth")), "hidden": hidden}
    attended = fitted(RegionalAttention, Collection(IMAGES), **options)
    plain = fitted(RegionsSum, Collection(IMAGES))
    over = WeightMap(torch.rand(1, 6, 8, generator=torch.Generator().manual_seed(1)), GRID)
    for image in IMAGES:
        for alpha in (None, over):
            torch.testing.assert_close(
                attended.aggregate(image, alpha, GRIDDED).vectors,
                plain.aggregate(image, alpha, GRIDDED).vectors,
            )
        for asked in (None, BoxWeight(BOX), BoxWeight(BOX, over)):
            torch.testing.assert_close(
                attended.aggregate_query(image, asked).vectors, plain.aggregate_query(image, asked).vectors
            )


def test_whitened_vectors_are_weighed(weights: Path) -> None:
    encoder = fitted(RegionalAttention, Collection(IMAGES), weights=str(weights), dims=4)
    v = super(RegionalAttention, encoder).aggregate(IMAGES[0], None, GRIDDED).vectors
    phi = encoder._attention(IMAGES[0], None, GRIDDED, (0, 0, 80, 60))
    total = sum(f * each for f, each in zip(phi, v, strict=True))
    (code,) = encoder.aggregate(IMAGES[0], None, GRIDDED).vectors
    torch.testing.assert_close(code, total / total.norm())
    assert v.shape == (len(CELLS), 4)


def test_raw_vectors_are_whitened_as_they_are_pooled(weights: Path) -> None:
    encoder = fitted(RegionalAttention, Collection(IMAGES), weights=str(weights), raw=True, dims=4)
    raw = torch.cat([torch.stack([x.amax((1, 2)) for x in parts(image)]) for image in IMAGES])
    torch.testing.assert_close(encoder.whitening[0].cpu(), raw.mean(0), atol=1e-5, rtol=1e-4)
    mean, projection = (x.cpu() for x in encoder.whitening)
    v = torch.stack([(x.amax((1, 2)) - mean) @ projection for x in parts(IMAGES[0])])
    phi = encoder._attention(IMAGES[0], None, GRIDDED, (0, 0, 80, 60))
    total = phi @ (v / v.norm(dim=1, keepdim=True))
    (code,) = encoder.aggregate(IMAGES[0], None, GRIDDED).vectors
    torch.testing.assert_close(code, total / total.norm(), atol=1e-5, rtol=1e-4)


def parts(image: FeatureMap) -> list[Tensor]:
    return [image.values[:, y0:y1, x0:x1] for x0, y0, x1, y1 in CELLS.tolist()]


def test_weights_count_in_the_means(weights: Path) -> None:
    """Cells of weight 0 are as if they were not there, in the region and in the picture."""
    encoder = bare(RegionalAttention, weights=str(weights))
    alpha = torch.ones(1, 6, 8)
    alpha[0, :, 4:] = 0
    whole, left = torch.tensor([[0, 0, 8, 6]]), torch.tensor([[0, 0, 4, 6]])
    masked = encoder._attention(IMAGES[0], WeightMap(alpha, GRID), regions_of(whole), (0, 0, 80, 60))
    alone = encoder._attention(IMAGES[0], None, regions_of(left), (0, 0, 40, 60))
    torch.testing.assert_close(masked, alone)


def test_masks_are_worked_out_once_and_count_for_the_attention_too(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A region with a mask is what the mask leaves of it: here the left or the upper half of the picture."""
    left, upper = torch.zeros(2, 28, 28, dtype=torch.bool)
    left[:, :14], upper[:14] = True, True
    whole = torch.tensor([[0.0, 0, 80, 60]] * 2)
    masked = Regions(whole, torch.ones(2), torch.stack([left, upper]))
    halves = regions_of(torch.tensor([[0, 0, 4, 6], [0, 0, 8, 3]]))
    encoder, asked = bare(RegionalAttention, weights=str(weights)), []

    def once(*given: Any) -> Any:
        asked.append(given)
        return region_masks(*given)

    expected = encoder.aggregate(IMAGES[0], None, halves)
    monkeypatch.setattr(pooled_encoders, "region_masks", once)
    torch.testing.assert_close(encoder.aggregate(IMAGES[0], None, masked).vectors, expected.vectors)
    assert len(asked) == 1


def test_one_region_none_and_an_empty_map(weights: Path) -> None:
    encoder = bare(RegionalAttention, weights=str(weights))
    mac = IMAGES[0].values.amax((1, 2))
    for regions in (
        None,
        Regions(torch.zeros(0, 4), torch.zeros(0)),
        regions_of(torch.tensor([[0, 0, 8, 6]])),
    ):
        (code,) = encoder.aggregate(IMAGES[0], None, regions).vectors
        torch.testing.assert_close(code, mac / mac.norm())
    zero = FeatureMap(torch.zeros(C, 6, 8), GRID)
    assert not encoder.aggregate(zero, None, GRIDDED).vectors.any()
    assert not encoder.aggregate_query(zero, BoxWeight(BOX)).vectors.any()
    learnt = fitted(RegionalAttention, Collection(IMAGES), weights=str(weights))
    assert not learnt.aggregate(zero, None, GRIDDED).vectors.any()
    assert not learnt.aggregate(IMAGES[0], WeightMap(torch.zeros(1, 6, 8), GRID), GRIDDED).vectors.any()
    tiny = FeatureMap(torch.ones(C, 1, 1), Grid.over(1, 1, (5, 5)))
    assert float(encoder.aggregate_query(tiny, BoxWeight((1, 1, 2, 2))).vectors.norm()) == pytest.approx(1)


def test_a_region_without_activation_adds_nothing(weights: Path) -> None:
    X = IMAGES[0].values.clone()
    X[:, :, 4:] = 0
    encoder = bare(RegionalAttention, weights=str(weights))
    left, right = torch.tensor([[0, 0, 4, 6]]), torch.tensor([[4, 0, 8, 6]])
    both = encoder.aggregate(FeatureMap(X, GRID), None, regions_of(torch.cat([left, right]))).vectors
    torch.testing.assert_close(both[0], pooled(X, left)[0], atol=1e-5, rtol=1e-5)


def test_what_show_draws(weights: Path) -> None:
    encoder = bare(RegionalAttention, weights=str(weights))
    (drawing,) = encoder.explain(Inputs(size=(80, 60), features=IMAGES[0], grid=GRID, regions=GRIDDED))
    phi = encoder._attention(IMAGES[0], None, GRIDDED, (0, 0, 80, 60))
    over = drawing.items[0].values[0]
    inside = [
        f for f, (x0, y0, x1, y1) in zip(phi, CELLS.tolist(), strict=True) if x0 <= 3 < x1 and y0 <= 2 < y1
    ]
    assert float(over[2, 3]) == pytest.approx(float(torch.stack(inside).mean()), rel=1e-5)
    assert drawing.caption.startswith(f"attention of {len(CELLS)} regions")
    (one,) = encoder.explain(Inputs(size=(80, 60), features=IMAGES[0], grid=GRID))
    assert one.items[0].values.unique().numel() == 1


# files and features that do not fit


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"context.weight": None}, "not a regional attention's weights"),
        ({"context.weight": torch.zeros(4, 7)}, "not a regional attention's weights"),
        ({"context.weight": torch.zeros(4)}, "not a regional attention's weights"),
        ({"score.weight": torch.zeros(1, 9)}, r"'score.weight' has shape \(1, 9\)"),
        ({"context.bias": None}, "no tensor 'context.bias'"),
        ({"score.bias": torch.tensor([torch.nan])}, "not finite"),
        ({"context.weight": torch.zeros(4, 10)}, "for features of 5 channels, and these have 6"),
    ],
)
def test_files_that_are_something_else(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    state = drawn(C, 4, "tanh", 0).state_dict() | changed
    torch.save({k: v for k, v in state.items() if v is not None}, tmp_path / "x.pth")
    with pytest.raises(InstsearchError, match=message) as raised:
        bare(RegionalAttention, weights=str(tmp_path / "x.pth")).aggregate(IMAGES[0], None, GRIDDED)
    assert str(raised.value).count("\n") < 2


def test_without_a_file_it_says_what_to_fetch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.delenv("INSTSEARCH_WEIGHTS", raising=False)
    with pytest.raises(InstsearchError, match="weights import regional-attention FILE"):
        bare(RegionalAttention).identity()


def test_keypoints_are_refused(weights: Path) -> None:
    points = Keypoints(np.zeros((1, 4), np.float32), np.zeros((1, 4), np.float32), Grid(1, 1, (1, 1, 0, 0)))
    with pytest.raises(UsageError, match="regional-attention encoder needs a feature map"):
        bare(RegionalAttention, weights=str(weights)).aggregate(points, None, None)


class TestContract(EncoderContract):
    component = RegionalAttention
    features = IMAGES[0]

    @pytest.fixture(autouse=True)
    def _file(self, weights: Path) -> None:
        self.path = weights

    def make_fitted(self) -> Any:
        return bare(RegionalAttention, weights=str(self.path))
