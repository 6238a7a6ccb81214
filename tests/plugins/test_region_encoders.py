"""R-MAC and regions by themselves: against plain loops; what the whitenings are learnt from; queries."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from instsearch_cli.components import Encoder
from instsearch_cli.data import BoxWeight, FeatureMap, Grid, Inputs, Keypoints, Regions, WeightMap
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.options import config_for, make_config
from instsearch_cli.testing import EncoderContract, make_features
from instsearch_plugins.encoders.mac import MAC
from instsearch_plugins.encoders.regions import RegionCodes
from instsearch_plugins.encoders.regions_sum import RegionsSum
from instsearch_plugins.numeric.normalise import l2
from instsearch_plugins.numeric.pairs import read_pairs
from instsearch_plugins.numeric.regions import cell_boxes, rmac_grid
from instsearch_plugins.numeric.whitening import pca_whitening, supervised_whitening, whiten

CPU = torch.device("cpu")
QUIET = SimpleNamespace(start=lambda *a: None, advance=lambda n=1: None)
SIZE = (80, 60)
GRID = Grid.over(6, 8, SIZE)
CELLS = rmac_grid(6, 8, 2)


def image(seed, C=6, grid=GRID):
    values = torch.rand(C, *grid.shape, generator=torch.Generator().manual_seed(seed)).sub(0.3).clamp(min=0)
    return FeatureMap(values, grid)


def regions_of(cells, grid=GRID):
    return Regions(cell_boxes(cells, grid), torch.ones(len(cells)))


GRIDDED = regions_of(CELLS)


class Collection:
    """Images 10, 11, ..., each with the same regions (None: without)."""

    def __init__(self, features, regions=GRIDDED, weights=None):
        self.features, self.regions, self.weights = features, regions, weights
        self.images = np.arange(len(features)) + 10

    def inputs(self, kinds, rows=None):
        for row in self.images if rows is None else rows:
            known = {"features": self.features[row - 10], "regions": self.regions, "weights": self.weights}
            yield Inputs(size=SIZE, row=int(row), name=f"{row}.jpg", **{k: known[k] for k in kinds})


def fitted(cls, collection, **options):
    encoder = cls(cls.Config(**options), CPU)
    state = encoder.fit(collection, QUIET)
    encoder.load({k: np.asarray(v) for k, v in state.items()})
    return encoder


def bare(cls, **options):
    """Without any whitening."""
    encoder = cls(cls.Config(**options), CPU)
    encoder.load({})
    return encoder


def pooled(X, cells, mode="max"):
    """Unit vectors of regions, by plain loops."""
    rows = []
    for x0, y0, x1, y1 in cells.tolist():
        inside = [X[:, i, j].tolist() for i in range(y0, y1) for j in range(x0, x1)]
        columns = list(zip(*inside, strict=True))
        row = [max(c) if mode == "max" else sum(c) / len(c) for c in columns]
        length = sum(v * v for v in row) ** 0.5 or 1.0
        rows.append([v / length for v in row])
    return torch.tensor(rows)


def angles(x):
    """What the open signs of the axes leave."""
    return x @ x.T


IMAGES = [image(i) for i in range(12)]
RAW = torch.cat([pooled(f.values, CELLS) for f in IMAGES])


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 50), mode=st.sampled_from(["max", "mean"]))
def test_unwhitened_against_plain_loops(seed, mode):
    f = image(seed)
    v = pooled(f.values, CELLS, mode)
    codes = bare(RegionCodes, pool=mode).aggregate(f, None, GRIDDED)
    torch.testing.assert_close(codes.vectors, v, atol=1e-5, rtol=0)
    assert codes.boxes is GRIDDED.boxes
    total = bare(RegionsSum, pool=mode).aggregate(f, None, GRIDDED)
    torch.testing.assert_close(total.vectors, l2(v.sum(0, keepdim=True)), atol=1e-5, rtol=0)
    assert total.boxes.tolist() == [[0, 0, *SIZE]]


def test_regions_are_whitened_by_what_is_learnt_from_regions():
    encoder = fitted(RegionCodes, Collection(IMAGES))
    assert isinstance(encoder, Encoder)
    expected = l2(whiten(RAW, *pca_whitening([RAW])))
    got = torch.cat([encoder.aggregate(f, None, GRIDDED).vectors for f in IMAGES])
    torch.testing.assert_close(angles(got), angles(expected), atol=1e-3, rtol=0)


@pytest.mark.parametrize("stage", ["regions", "sum", "both"])
def test_r_mac_whitened_where_it_is_asked(stage):
    encoder = fitted(RegionsSum, Collection(IMAGES), whiten=stage)
    assert isinstance(encoder, Encoder)
    v = RAW
    if stage != "sum":
        v = l2(whiten(v, *pca_whitening([v])))
    total = l2(v.reshape(len(IMAGES), len(CELLS), -1).sum(1))
    if stage != "regions":
        total = l2(whiten(total, *pca_whitening([total], 16)))
    got = torch.cat([encoder.aggregate(f, None, GRIDDED).vectors for f in IMAGES])
    torch.testing.assert_close(angles(got), angles(total), atol=1e-3, rtol=0)
    torch.testing.assert_close(got.norm(dim=1), torch.ones(len(IMAGES)))


def test_regions_are_the_default_of_what_is_whitened():
    assert RegionsSum.Config().whiten == "regions"


def test_dimensions():
    many = [image(i, C=40) for i in range(30)]
    assert fitted(RegionCodes, Collection(many), dims=3).aggregate(many[0], None, GRIDDED).vectors.shape == (
        len(CELLS),
        3,
    )
    n = len(many) * len(CELLS)
    assert fitted(RegionCodes, Collection(many)).whitening[1].shape == (40, n // 8)
    assert fitted(RegionsSum, Collection(many), whiten="both", dims=5).of_sum[1].shape == (5, 5)
    assert fitted(RegionsSum, Collection(many), whiten="sum").of_sum[1].shape == (40, 16)


def test_a_sample_is_learnt_from():
    seen = []

    class Watched(Collection):
        def inputs(self, kinds, rows=None):
            seen.extend(rows)
            return super().inputs(kinds, rows)

    fitted(RegionCodes, Watched(IMAGES), fit_images=5)
    assert len(set(seen)) == len(seen) == 5
    assert seen == sorted(seen)


def test_batches_do_not_matter(monkeypatch):
    whole = fitted(RegionsSum, Collection(IMAGES))
    monkeypatch.setattr("instsearch_plugins.encoders.region_vectors.BATCH", 7)
    parts = fitted(RegionsSum, Collection(IMAGES))
    torch.testing.assert_close(parts.whitening[0], whole.whitening[0])
    torch.testing.assert_close(
        parts.whitening[1] @ parts.whitening[1].T,
        whole.whitening[1] @ whole.whitening[1].T,
        rtol=1e-3,
        atol=1e-3,
    )


@pytest.mark.parametrize("cls", [RegionCodes, RegionsSum])
@pytest.mark.parametrize("none", [None, Regions(torch.zeros(0, 4), torch.zeros(0))])
def test_without_regions_the_whole_picture(cls, none):
    encoder = fitted(cls, Collection(IMAGES, none))
    mac = fitted(MAC, Collection(IMAGES))
    got = torch.cat([encoder.aggregate(f, None, none).vectors for f in IMAGES])
    expected = torch.cat([mac.aggregate(f, None, None).vectors for f in IMAGES])
    assert got.shape[0] == len(IMAGES)
    torch.testing.assert_close(angles(got), angles(expected), atol=1e-3, rtol=0)
    assert encoder.aggregate(IMAGES[0], None, none).boxes.tolist() == [[0, 0, *SIZE]]


@pytest.mark.parametrize("cls", [RegionCodes, RegionsSum])
def test_nothing_to_learn_from(cls):
    with pytest.raises(InstsearchError, match=r"no image to learn the whitening of 'regions"):
        fitted(cls, Collection([]))
    dead = [FeatureMap(torch.zeros(6, 6, 8), GRID)] * 3
    with pytest.raises(InstsearchError, match="no image"):
        fitted(cls, Collection(dead))


@pytest.mark.parametrize("options", [{}, {"whiten": "sum"}, {"whiten": "both"}])
def test_equal_pictures_are_left_unwhitened(options):
    flat = [FeatureMap(torch.linspace(0.1, 1, 6)[:, None, None].expand(6, 6, 8).clone(), GRID)] * 4
    encoder = fitted(RegionsSum, Collection(flat), **options)
    v = l2(flat[0].values[:, 0, 0])
    torch.testing.assert_close(encoder.aggregate(flat[0], None, GRIDDED).vectors[0], v)


@pytest.mark.parametrize("whiten", ["regions", "sum", "both"])
def test_silence_stays_zero(whiten):
    encoder = fitted(RegionsSum, Collection(IMAGES), whiten=whiten)
    dead = FeatureMap(torch.zeros(6, 6, 8), GRID)
    width = encoder.aggregate(IMAGES[0], None, GRIDDED).vectors.shape
    codes = encoder.aggregate(dead, None, GRIDDED)
    assert codes.vectors.shape == width
    assert codes.vectors.eq(0).all()
    half = FeatureMap(IMAGES[0].values.clone(), GRID)
    half.values[:, :, 3:] = 0
    left = fitted(RegionCodes, Collection(IMAGES)).aggregate(
        half, None, regions_of(torch.tensor([[0, 0, 3, 6], [3, 0, 8, 6]]))
    )
    torch.testing.assert_close(left.vectors.norm(dim=1), torch.tensor([1.0, 0]))


def test_weights_mask_the_maximum_and_weigh_the_mean():
    f = IMAGES[0]
    alpha = torch.zeros(1, 6, 8)
    alpha[0, 1, 1], alpha[0, 4, 6], alpha[0, 2, 2] = 2, 1, 3
    cells = torch.tensor([[0, 0, 4, 4], [4, 0, 8, 6]])
    weights = WeightMap(alpha, GRID)
    largest = bare(RegionCodes).aggregate(f, weights, regions_of(cells)).vectors
    mean = bare(RegionCodes, pool="mean").aggregate(f, weights, regions_of(cells)).vectors
    a, b, c = f.values[:, 1, 1], f.values[:, 2, 2], f.values[:, 4, 6]
    torch.testing.assert_close(largest, l2(torch.stack([torch.maximum(a, b), c])))
    torch.testing.assert_close(mean, l2(torch.stack([2 * a + 3 * b, c])))


# -- queries --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_a_query_of_the_whole_picture_is_described_as_the_picture_is(levels):
    encoder = fitted(RegionsSum, Collection(IMAGES), query_levels=levels)
    gridded = regions_of(rmac_grid(6, 8, levels))
    asked = encoder.aggregate_query(IMAGES[0], None)
    torch.testing.assert_close(asked.vectors, encoder.aggregate(IMAGES[0], None, gridded).vectors)


def test_a_box_is_described_as_a_picture_of_its_own():
    encoder = fitted(RegionsSum, Collection(IMAGES))
    asked = encoder.aggregate_query(IMAGES[0], BoxWeight((20.0, 10.0, 70.0, 50.0)))
    own = Grid.over(4, 5, (50, 40))
    crop = FeatureMap(IMAGES[0].values[:, 1:5, 2:7], own)
    expected = encoder.aggregate(crop, None, regions_of(rmac_grid(4, 5, 3), own))
    torch.testing.assert_close(asked.vectors, expected.vectors)


def test_a_query_of_one_region_and_a_box_added_to_its_grid():
    box = (20.0, 10.0, 70.0, 50.0)
    alone = bare(RegionsSum, query_levels=0).aggregate_query(IMAGES[0], BoxWeight(box)).vectors
    mac = bare(MAC).aggregate(IMAGES[0], BoxWeight(box), None).vectors
    torch.testing.assert_close(alone, mac)
    inside = rmac_grid(4, 5, 3) + torch.tensor([2, 1, 2, 1])
    cells = torch.cat([torch.tensor([[2, 1, 7, 5]]), inside])
    for whole, kept in ((True, cells), (False, inside)):
        got = bare(RegionsSum, query_whole=whole).aggregate_query(IMAGES[0], BoxWeight(box)).vectors
        expected = l2(pooled(IMAGES[0].values, kept).sum(0, keepdim=True))
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("levels", [0, 2])
def test_a_query_for_regions_is_one_vector(levels):
    box = (20.0, 10.0, 70.0, 50.0)
    encoder = fitted(RegionCodes, Collection(IMAGES), query_levels=levels)
    asked = encoder.aggregate_query(IMAGES[0], BoxWeight(box))
    assert asked.boxes.tolist() == [list(box)]
    if levels == 0:
        expected = encoder.aggregate(IMAGES[0], BoxWeight(box), None).vectors
    else:
        inside = rmac_grid(4, 5, levels) + torch.tensor([2, 1, 2, 1])
        rows = encoder.aggregate(IMAGES[0], None, regions_of(inside)).vectors
        expected = l2(rows.sum(0, keepdim=True))
    torch.testing.assert_close(asked.vectors, expected)


def test_a_query_whose_regions_stay_apart():
    box = (20.0, 10.0, 70.0, 50.0)
    encoder = fitted(RegionCodes, Collection(IMAGES), query_levels=2, query_apart=True, reduce=2)
    asked = encoder.aggregate_query(IMAGES[0], BoxWeight(box))
    inside = rmac_grid(4, 5, 2) + torch.tensor([2, 1, 2, 1])
    whole = fitted(RegionCodes, Collection(IMAGES))
    expected = whole.aggregate(IMAGES[0], None, regions_of(inside))
    torch.testing.assert_close(asked.vectors, expected.vectors)
    torch.testing.assert_close(asked.boxes, expected.boxes)
    together = fitted(RegionCodes, Collection(IMAGES), query_levels=2, reduce=2)
    summed = together.aggregate_query(IMAGES[0], BoxWeight(box))
    torch.testing.assert_close(summed.vectors, l2(asked.vectors.sum(0, keepdim=True)))


def test_regions_of_a_query_without_activation_are_left_out():
    half = FeatureMap(IMAGES[0].values.clone(), GRID)
    half.values[:, :, :5] = 0
    asked = bare(RegionCodes, query_apart=True, query_levels=2).aggregate_query(half, None)
    assert 0 < len(asked.vectors) == len(asked.boxes) < len(CELLS)
    assert asked.vectors.any(1).all()
    dead = FeatureMap(torch.zeros(6, 6, 8), GRID)
    asked = bare(RegionCodes, query_apart=True).aggregate_query(dead, None)
    assert asked.vectors.shape == (1, 6)
    assert not asked.vectors.any()


def test_regions_reduced_are_the_means_of_a_mixture():
    """Two kinds of cells, left and right: two vectors, each with the box around its regions."""
    values = torch.zeros(6, 6, 8)
    values[0, :, :4], values[1, :, 4:] = 1, 1
    cells = torch.tensor([[0, 0, 2, 2], [4, 0, 6, 3], [1, 2, 4, 5], [5, 3, 8, 4], [2, 5, 4, 6]])
    codes = bare(RegionCodes, reduce=2).aggregate(FeatureMap(values, GRID), None, regions_of(cells))
    torch.testing.assert_close(codes.vectors, torch.eye(6)[:2])
    around = torch.tensor([[0, 0, 4, 6], [4, 0, 8, 4]])
    torch.testing.assert_close(codes.boxes, cell_boxes(around, GRID))


@pytest.mark.parametrize("reduce", [0, 5, 9])
def test_as_many_regions_or_fewer_stay_as_they_are(reduce):
    f, five = IMAGES[0], regions_of(CELLS[:5])
    expected = bare(RegionCodes).aggregate(f, None, five)
    codes = bare(RegionCodes, reduce=reduce).aggregate(f, None, five)
    assert torch.equal(codes.vectors, expected.vectors)
    assert codes.boxes is five.boxes
    one = bare(RegionCodes, reduce=1).aggregate(f, None, five)
    torch.testing.assert_close(one.vectors, l2(expected.vectors.mean(0, keepdim=True)))


def test_regions_without_activation_are_not_reduced_to():
    half = FeatureMap(IMAGES[0].values.clone(), GRID)
    half.values[:, :, 3:] = 0
    cells = torch.tensor([[0, 0, 2, 6], [3, 0, 8, 6], [0, 0, 3, 3], [1, 0, 3, 6]])
    codes = bare(RegionCodes, reduce=2).aggregate(half, None, regions_of(cells))
    torch.testing.assert_close(codes.vectors.norm(dim=1), torch.ones(2))
    assert codes.boxes[:, 2].max() == 30
    assert bare(RegionCodes, reduce=3).aggregate(half, None, regions_of(cells)).vectors.shape == (4, 6)


def test_reducing_touches_the_codes_alone():
    a, b = RegionCodes.Config(), RegionCodes.Config(reduce=5)
    assert config_for(a, "local") == config_for(b, "local")
    assert config_for(a, "codes") != config_for(b, "codes")
    with pytest.raises(UsageError, match="reduce"):
        make_config(RegionCodes, {"reduce": "-1"}, "encoder")
    with pytest.raises(UsageError, match="no option 'reduce'"):
        make_config(RegionsSum, {"reduce": "1"}, "encoder")


def test_query_options_remake_no_layer():
    for cls in (RegionCodes, RegionsSum):
        apart = {"query_apart": True} if cls is RegionCodes else {}
        a, b = cls.Config(), cls.Config(query_levels=0, query_whole=True, **apart)
        assert config_for(a, "search") == config_for(b, "search")
        assert "pool" in config_for(a, "model")


def test_a_query_is_weighted_inside_its_box():
    alpha = torch.zeros(1, 6, 8)
    alpha[0, 1, 2], alpha[0, 0, 0] = 1, 1
    within = BoxWeight((20.0, 10.0, 70.0, 50.0), WeightMap(alpha, GRID))
    got = bare(RegionsSum).aggregate_query(IMAGES[0], within).vectors[0]
    torch.testing.assert_close(got, l2(IMAGES[0].values[:, 1, 2]))


def test_a_box_smaller_than_a_cell():
    got = bare(RegionsSum).aggregate_query(IMAGES[0], BoxWeight((31.0, 21.0, 33.0, 22.0))).vectors[0]
    torch.testing.assert_close(got, l2(IMAGES[0].values[:, 2, 3]))


@pytest.mark.parametrize("cls", [RegionCodes, RegionsSum])
def test_keypoints_are_refused(cls):
    with pytest.raises(UsageError, match=f"the {cls.name} encoder needs a feature map"):
        bare(cls).aggregate(Keypoints(torch.rand(3, 6), torch.rand(3, 4), GRID), None, None)


# -- whitening by pairs ---------------------------------------------------------------------------------


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


@settings(deadline=None, max_examples=60)
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
    with pytest.raises(InstsearchError, match=r"cannot read the pairs .*no\.csv"):
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


def test_too_few_pairs(tmp_path):
    path = write_pairs(tmp_path / "p.csv", [(0, 1), (2, 3)])
    with pytest.raises(InstsearchError, match=r"has 2 pairs, too few to whiten 6 dimensions by"):
        fitted(RegionsSum, Collection(IMAGES), whiten="sum", pairs=path)


def test_pairs_whiten_the_sum_only():
    with pytest.raises(UsageError, match="set whiten to sum or both"):
        make_config(RegionsSum, {"pairs": "p.csv"}, "encoder")
    with pytest.raises(UsageError, match="query-levels"):
        make_config(RegionsSum, {"query_levels": "-1"}, "encoder")


class TestRegionsContract(EncoderContract):
    component = RegionCodes

    def make_fitted(self):
        return fitted(RegionCodes, Collection([make_features(seed=i) for i in range(9)], None))


class TestRegionsSumContract(EncoderContract):
    component = RegionsSum

    def make_fitted(self):
        return fitted(RegionsSum, Collection([make_features(seed=i) for i in range(9)], None), whiten="both")


class TestRegionsReducedContract(EncoderContract):
    component = RegionCodes

    def make_fitted(self):
        collection = Collection([make_features(seed=i) for i in range(9)], None)
        return fitted(RegionCodes, collection, reduce=2, query_apart=True)
