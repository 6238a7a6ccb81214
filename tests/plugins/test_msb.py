import pytest
import torch

from instsearch_cli.data import Inputs, Keypoints
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.options import make_config
from instsearch_cli.testing import WeighterContract, make_features, make_inputs
from instsearch_plugins.encoders.mscnet_network import drawn
from instsearch_plugins.weighters.msb import MSB

CPU = torch.device("cpu")


def weighter(**options):
    return MSB(make_config(MSB, options, "weighting"), CPU)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "mine.pth"
    torch.save({name: tensor.contiguous() for name, tensor in drawn(16, 3, 8, 2).state_dict().items()}, path)
    return path


def test_a_map_for_each_mask(weights):
    inputs = make_inputs()
    found = weighter(weights=str(weights)).weigh(inputs)
    assert found.grid == inputs.features.grid
    expected = drawn(16, 3, 8, 2)(inputs.features.values[None])[1][0]
    torch.testing.assert_close(found.values, expected.detach())
    assert found.values.shape[0] == 3
    assert not found.values.requires_grad


def test_what_it_cannot_weigh(weights, tmp_path):
    made = weighter(weights=str(weights))
    with pytest.raises(InstsearchError, match=r"mine.pth is for features of 16 channels, and these have 7"):
        made.weigh(Inputs(size=(192, 128), features=make_features(dim=7)))
    points = Keypoints(torch.rand(3, 16), torch.rand(3, 4), make_features().grid)
    with pytest.raises(UsageError, match="msb weighting needs a feature map"):
        made.weigh(Inputs(size=(192, 128), features=points))
    with pytest.raises(UsageError, match=r"instsearch train mscnet.*weighting.weights=FILE"):
        weighter().weigh(make_inputs())
    with pytest.raises(InstsearchError, match="does not exist"):
        weighter(weights=str(tmp_path / "no.pth")).weigh(make_inputs())


def test_identity_is_the_files(weights, tmp_path):
    one = weighter(weights=str(weights)).identity()
    copy = tmp_path / "copy.pth"
    copy.write_bytes(weights.read_bytes())
    assert weighter(weights=str(copy)).identity() == one
    torch.save({name: tensor.contiguous() for name, tensor in drawn(16, 3, 8, 3).state_dict().items()}, copy)
    assert weighter(weights=str(copy)).identity() != one


def test_every_mask_is_shown(weights):
    inputs = make_inputs()
    made = weighter(weights=str(weights))
    shown = made.explain(inputs)
    assert [drawing.caption.partition(":")[0] for drawing in shown] == ["mask 1", "mask 2", "mask 3"]
    torch.testing.assert_close(torch.cat([d.items[0].values for d in shown]), made.weigh(inputs).values)


class TestContract(WeighterContract):
    component = MSB

    @pytest.fixture(autouse=True)
    def _with_weights(self, weights):
        type(self).options = {"weights": str(weights)}
