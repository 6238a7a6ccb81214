"""The option ``channels`` of the pooling encoders."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from instsearch_cli.data import BoxWeight, FeatureMap, Grid, Inputs, Regions
from instsearch_cli.errors import UsageError
from instsearch_cli.options import config_for, late, make_config
from instsearch_plugins.encoders.crow import CroW
from instsearch_plugins.encoders.gem import GeM
from instsearch_plugins.encoders.mac import MAC
from instsearch_plugins.encoders.pwa import PWA
from instsearch_plugins.encoders.regions import RegionCodes
from instsearch_plugins.encoders.regions_mean import MeanRegionCodes
from instsearch_plugins.encoders.regions_sum import RegionsSum
from instsearch_plugins.encoders.spoc import SPoC
from instsearch_plugins.encoders.sum_pooling import SumPooling
from instsearch_plugins.encoders.vlad import VLAD
from instsearch_plugins.numeric.channels import channel_weights
from instsearch_plugins.numeric.mscnet import gram_channel_weights
from instsearch_plugins.numeric.normalise import l2
from instsearch_plugins.numeric.pooling import spatial_weights, sum_pool

CPU = torch.device("cpu")
QUIET = SimpleNamespace(start=lambda *a: None, advance=lambda n=1: None)
GRID = Grid.over(3, 4, (40, 30))
ENCODERS = [SumPooling, MAC, SPoC, CroW, GeM, PWA, RegionCodes, MeanRegionCodes, RegionsSum]
KINDS = {
    "ssw": lambda X: channel_weights(X, X.new_ones(1, *X.shape[1:]) > 0)[0],
    "gram-cs": gram_channel_weights,
}


def maps(seed, C=6, h=3, w=4):
    return torch.rand(C, h, w, generator=torch.Generator().manual_seed(seed)).sub(0.4).clamp(min=0)


def bare(cls, **options):
    """An encoder that has learnt nothing."""
    made = cls(make_config(cls, options, "encoder"), CPU)
    made.channels, made.whitening, made.of_sum = torch.arange(2), None, None
    return made


def unit(made, local, weights=None, regions=None):
    return made.aggregate(local, weights, regions).vectors


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cls", ENCODERS)
def test_each_channel_by_its_weight(cls, kind):
    X = maps(0)
    plain = bare(cls, channels="none").describe(X, torch.ones(1, 3, 4))
    times = plain.shape[1] // 6  # of each channel, one a part of pwa
    expected = plain * KINDS[kind](X).repeat(times)
    got = bare(cls, channels=kind).describe(X, torch.ones(1, 3, 4))
    torch.testing.assert_close(got, expected)
    assert not torch.allclose(l2(got), l2(plain), atol=1e-3)
    torch.testing.assert_close(unit(bare(cls, channels=kind), FeatureMap(X, GRID)), l2(expected))


@pytest.mark.parametrize("kind", KINDS)
def test_spatial_weights_with_either_channel_weights(kind):
    """Table 1's first rows."""
    X = maps(1)
    expected = KINDS[kind](X) * sum_pool(X, spatial_weights(X)[None])
    torch.testing.assert_close(bare(CroW, channels=kind).describe(X, torch.ones(1, 3, 4)), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_region_has_weights_of_its_own(kind):
    X = maps(2)
    made = bare(SumPooling, channels=kind)
    box = (0.0, 10.0, 20.0, 30.0)  # columns 0 and 1, rows 1 and 2
    alone = unit(made, FeatureMap(X[:, 1:, :2], Grid.over(2, 2, (20, 20))))
    whole = FeatureMap(X, GRID)
    torch.testing.assert_close(unit(made, whole, BoxWeight(box)), alone)
    boxes = torch.tensor([box, (0.0, 0.0, 40.0, 30.0)])
    both = unit(made, whole, None, Regions(boxes, torch.ones(2)))
    torch.testing.assert_close(both, torch.cat([alone, unit(made, whole)]))


class Collection:
    def __init__(self, n):
        self.features = [FeatureMap(maps(seed), GRID) for seed in range(n)]
        self.images = np.arange(n)

    def inputs(self, kinds, rows):
        for row in rows:
            yield Inputs(size=(40, 30), row=int(row), features=self.features[row])


@pytest.mark.parametrize("cls", [SumPooling, RegionCodes])
def test_the_whitening_is_learnt_from_weighed_vectors(cls):
    data = Collection(30)
    state = cls(make_config(cls, {"channels": "gram-cs"}, "encoder"), CPU).fit(data, QUIET)
    vectors = torch.cat([unit(bare(cls, channels="gram-cs"), f) for f in data.features])
    torch.testing.assert_close(state["mean"], vectors.mean(0), atol=1e-6, rtol=1e-5)


def test_vlad_weighs_the_vectors_of_regions_alone():
    assert make_config(VLAD, {"channels": "ssw"}, "encoder").channels == "ssw"
    with pytest.raises(UsageError, match="encoder: channels weigh the vectors of regions"):
        make_config(VLAD, {"channels": "ssw", "over": "local"}, "encoder")


def test_choices_are_checked():
    with pytest.raises(UsageError, match=r"encoder\.channels is one of none, ssw, gram-cs, not 'idf'"):
        make_config(SumPooling, {"channels": "idf"}, "encoder")


@pytest.mark.parametrize("cls", ENCODERS)
def test_what_was_made_before_there_was_a_choice_stays(cls):
    usual = "ssw" if cls is CroW else "none"
    assert bare(cls).config.channels == usual
    assert late(bare(cls).config) == late(bare(cls, channels=usual).config) == {}
    assert "channels" not in config_for(bare(cls, channels="gram-cs").config, "search")
    for other in {"none", "ssw", "gram-cs"} - {usual}:
        assert late(bare(cls, channels=other).config) == {"channels": other}
