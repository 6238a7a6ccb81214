"""Rerankers by LightGlue: its files, its matches, and the affine transform that they agree on."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from instsearch_cli.data import FeatureMap, Grid, Inputs, Keypoints, Query
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.networks.importing import import_weights
from instsearch_plugins.rerankers.lightglue import DiskLightGlue, LighterGlue, LightGlue, Matching, affinity
from learnt_keypoints import CPU, drawn, picture

SIZE = (300, 200)


def scattered(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform((20, 20), (120, 90), (n, 2)).astype(np.float32)


def keypoints(places: np.ndarray, width: int = 128) -> Keypoints:
    geometry = np.concatenate([places, np.tile(np.float32([4, 0]), (len(places), 1))], 1)
    return Keypoints(np.ones((len(places), width), np.float32), geometry, Grid.nominal(SIZE))


# -- the transform ------------------------------------------------------------------------------------


def test_affinity_is_that_of_most_matches():
    A, t = np.float32([[1.2, 0.3], [-0.4, 0.9]]), np.float32([30, 60])
    p = scattered(40)
    q = p @ A.T + t
    q[30:] = scattered(10, 1)[::-1] + 90
    found, inside = affinity(p, q, 2.0)
    np.testing.assert_allclose(found, np.column_stack([A, t]), atol=1e-2)
    assert inside[:30].all()
    assert inside.sum() <= 31
    assert np.array_equal(affinity(p, q, 2.0)[0], found)  # the same again


@pytest.mark.parametrize(
    "A",
    [
        pytest.param([[-1, 0], [0, 1]], id="mirrored"),
        pytest.param([[20, 0], [0, 20]], id="grown"),
        pytest.param([[1, 0], [0, 0.1]], id="squeezed"),
    ],
)
def test_affinity_is_plausible_or_none(A):
    p = scattered(20)
    assert affinity(p, p @ np.float32(A).T, 1.0) is None


def test_too_few_matches_and_those_on_one_point_give_none():
    assert affinity(scattered(2), scattered(2), 1.0) is None
    assert affinity(np.ones((9, 2), np.float32), np.ones((9, 2), np.float32), 1.0) is None


# -- the reranker -------------------------------------------------------------------------------------


class Partners:
    """In the place of the network: keypoint i of the query is keypoint i of the hit, as far as both reach."""

    conf = SimpleNamespace(input_dim=128)

    def __call__(self, data):
        n = min(data[side]["keypoints"].shape[1] for side in ("image0", "image1"))
        each = torch.arange(n)
        return {"matches": [torch.stack([each, each], 1)], "scores": [torch.full((n,), 0.5)]}


class Stored:
    """The features of images, by row."""

    def __init__(self, features):
        self.features = features

    def inputs(self, kinds, rows):
        assert kinds == ("features",)
        return (Inputs(SIZE, row=row, features=self.features[row]) for row in rows)


@pytest.fixture
def reranker(monkeypatch):
    monkeypatch.setattr(Matching, "_network", Partners())
    return LightGlue(LightGlue.Config(depth=3), CPU)


def query(features) -> Query:
    image = picture(20, 30, size=SIZE)
    return Query("q", image, (10.0, 10.0, 130.0, 100.0), features, features, None)


def test_verified_hits_come_first_with_inliers_and_boxes(reranker):
    p = scattered(20)
    outside = np.float32([[200, 150]] * 5)  # of the box: asked after nothing
    asked = keypoints(np.concatenate([p, outside]))
    moved = keypoints(p * 1.5 + np.float32([20, 10]))
    few, apart = keypoints(p[:5]), keypoints(scattered(20, 3))
    ranked = np.array([4, 2, 0, 1]), np.float32([0.9, 0.8, 0.7, 0.6]), np.full((4, 4), np.nan, np.float32)
    data = Stored({4: apart, 2: few, 0: moved, 1: moved})
    images, scores, boxes = reranker.ranked(query(asked), ranked, data)
    assert images.tolist() == [0, 4, 2, 1]  # 1 is not looked at
    np.testing.assert_allclose(scores, [20.7, 0.9, 0.8, 0.6], rtol=1e-6)
    np.testing.assert_allclose(boxes[0], [35, 25, 215, 160], atol=0.1)
    assert np.isnan(boxes[1:]).all()


def test_nothing_in_the_box_leaves_all_as_it_is(reranker):
    ranked = np.array([1, 0]), np.float32([0.9, 0.8]), np.full((2, 4), np.nan, np.float32)
    images, scores, _ = reranker.ranked(query(keypoints(np.zeros((0, 2), np.float32))), ranked, Stored({}))
    assert images.tolist() == [1, 0]
    assert scores.tolist() == ranked[1].tolist()


def test_other_features_are_an_error_of_usage(reranker):
    maps = FeatureMap(torch.ones(8, 2, 3), Grid.over(2, 3, SIZE))
    for features, said in (
        (maps, "needs keypoints"),
        (keypoints(scattered(9), 64), "of 128 values; this pipeline's have 64"),
    ):
        with pytest.raises(UsageError, match=said):
            reranker.ranked(query(features), (np.array([0]), np.ones(1), np.ones((1, 4))), Stored({}))


def test_options_out_of_range():
    for options in ({"depth": 0}, {"min_inliers": 2}, {"tolerance": 0.0}, {"filter_threshold": 1.0}):
        with pytest.raises(ValueError, match=r"at least|above"):
            LightGlue.Config(**options)


# -- the network --------------------------------------------------------------------------------------


def older(name: str) -> str:
    """A tensor's name as the first release has it."""
    parts = name.split(".")
    return ".".join([parts[2], parts[1], *parts[3:]]) if parts[0] == "transformers" else name


def test_published_files_are_imported_and_match_as_kornia_does(tmp_path):
    pytest.importorskip("kornia")
    network = drawn(LighterGlue.build)
    state = {
        f"matcher.{older(k)}": x for k, x in network.state_dict().items() if k != "confidence_thresholds"
    }
    state["extractor.model.net.skip1.1.weight"] = torch.ones(24, 1, 1, 1)
    torch.save(state, tmp_path / "xfeat-lighterglue.pt")
    done = import_weights(LighterGlue, tmp_path / "xfeat-lighterglue.pt", tmp_path)
    assert done.path.name == "lighterglue.pth"
    kept = torch.load(done.path, weights_only=True)
    assert all(torch.equal(kept[k], x) for k, x in network.state_dict().items())

    component = LighterGlue(LighterGlue.Config(weights=str(done.path)), CPU)
    places = torch.from_numpy(scattered(12))[None]
    side = {"keypoints": places, "descriptors": torch.rand(1, 12, 64), "image_size": torch.tensor([SIZE])}
    with torch.inference_mode():
        a, b = (net({"image0": side, "image1": side}) for net in (network, component.network))
    assert torch.equal(a["matching_scores0"], b["matching_scores0"])


def test_what_is_missing_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("INSTSEARCH_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    for component, said in (
        (LightGlue, "no weights for aliked_lightglue. Published: .*Apache-2.0"),
        (DiskLightGlue, "disk_lightglue.pth of"),
        (LighterGlue, "xfeat-lighterglue.pt of"),
    ):
        with pytest.raises(InstsearchError, match=said):
            component(component.Config(), CPU).identity()
