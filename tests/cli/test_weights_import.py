"""`instsearch weights`: the listing, and published checkpoints made weights files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from instsearch_cli.engine.registry import load_registry
from instsearch_cli.errors import InstsearchError
from instsearch_cli.networks.importing import import_weights
from instsearch_cli.networks.weights import find_weights, load_state_dict, user_folder

PLUGIN = """
import warnings
import torch
from torch import nn
from instsearch_cli import EncoderSpec, WeighterSpec, hookimpl
from instsearch_cli.networks.weights import load_state_dict

@hookimpl
def instsearch_weighters():
    return [
        WeighterSpec("eyes", "fake_eyes:Eyes", "a network"),
        WeighterSpec("own", "fake_eyes:Own", "a network that takes its files as they are"),
        WeighterSpec("broken", "fake_eyes:Nothing", "not there"),
    ]

@hookimpl
def instsearch_encoders():
    return [EncoderSpec("brain", "fake_eyes:Brain", "the same network under another name")]

class Eyes:
    architecture = "eyes-v2"
    published = "eyes.bin of a/b (MIT licence)"

    @classmethod
    def build(cls):
        return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))

    @classmethod
    def import_weights(cls, path):
        state = load_state_dict(path)
        if "old.weight" in state:
            warnings.warn("an older one", stacklevel=2)
            state["0.weight"] = state.pop("old.weight")
        return state

class Brain(Eyes):
    pass

class Own:
    architecture = "own"
"""
STATE = {
    "0.weight": torch.arange(6.0).reshape(2, 3),
    "0.bias": torch.ones(2),
    "1.weight": torch.ones(2),
    "1.bias": torch.zeros(2),
    "1.running_mean": torch.zeros(2),
    "1.running_var": torch.ones(2),
}


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A plugin with networks; no weights anywhere, and no way out."""
    info = tmp_path / "site/eyes-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: eyes\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[instsearch]\neyes = fake_eyes\n")
    (tmp_path / "site/fake_eyes.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("INSTSEARCH_OFFLINE", "1")
    monkeypatch.delenv("INSTSEARCH_WEIGHTS", raising=False)
    load_registry.cache_clear()
    yield
    load_registry.cache_clear()


def save(path: Path, state: dict[str, torch.Tensor]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    return path


def loaded(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)


class TestListing:
    def test_networks_of_every_kind_once_each(self, cli):
        outcome = cli("weights")
        lines = {line.split()[0]: line for line in outcome.out.splitlines()}
        assert {"vgg16", "squeezenet1_0", "eyes-v2", "own"} <= lines.keys()
        assert len(lines) == len(outcome.out.splitlines())
        assert lines["eyes-v2"].split(maxsplit=1)[1] == "missing: eyes.bin of a/b (MIT licence)"
        assert lines["vgg16"].endswith("missing: vgg16-397923af.pth of torchvision")
        assert "weighting 'broken' of eyes 1.0 cannot be loaded" in outcome.err

    def test_imported_ones_are_found(self, cli, tmp_path):
        cli("weights", "import", "eyes", save(tmp_path / "eyes.bin", STATE))
        line = next(line for line in cli("weights").out.splitlines() if line.startswith("eyes-v2"))
        assert f"{user_folder() / 'eyes-v2.pth'}  (imported, sha256 " in line

    def test_a_network_does_not_take_the_file_of_one_with_a_longer_name(self, cli):
        path = save(user_folder() / "vgg16-cam.pth", STATE)
        lines = {line.split()[0]: line for line in cli("weights").out.splitlines()}
        assert lines["vgg16"].endswith("missing: vgg16-397923af.pth of torchvision")
        assert f"{path}  (imported, sha256 " in lines["vgg16-cam"]


class TestImport:
    @pytest.mark.parametrize("name", ["eyes", "brain", "eyes-v2"])
    def test_by_the_component_or_the_network_into_the_users_folder(self, cli, tmp_path, name):
        outcome = cli("weights", "import", name, save(tmp_path / "eyes.bin", STATE))
        path = tmp_path / "data/instsearch/weights/eyes-v2.pth"
        sha = hashlib.sha256(path.read_bytes()).hexdigest()
        assert outcome.out == f"{path}\nsha256 {sha}\n12 parameters\n"
        assert [p.name for p in path.parent.iterdir()] == ["eyes-v2.pth"]
        assert find_weights("eyes-v2", published="x") == path
        written = loaded(path)
        assert list(written) == list(STATE)
        assert all(torch.equal(written[k], v) for k, v in STATE.items())

    def test_into_the_first_folder_of_the_environment(self, cli, tmp_path, monkeypatch):
        for folder in ("a", "b"):
            (tmp_path / folder).mkdir()
        monkeypatch.setenv("INSTSEARCH_WEIGHTS", f"{tmp_path / 'a'}{os.pathsep}{tmp_path / 'b'}")
        cli("weights", "import", "eyes", save(tmp_path / "eyes.bin", STATE))
        assert (tmp_path / "a/eyes-v2.pth").is_file()

    def test_into_a_folder_of_choice(self, cli, tmp_path):
        outcome = cli("weights", "import", "eyes", save(tmp_path / "e", STATE), "--to", tmp_path / "x/y")
        assert (tmp_path / "x/y/eyes-v2.pth").is_file()
        assert outcome.out.endswith(f"To have it found, add {tmp_path / 'x/y'} to INSTSEARCH_WEIGHTS.\n")

    def test_the_same_file_twice_gives_the_same_bytes(self, cli, tmp_path):
        path = save(tmp_path / "eyes.bin", STATE)
        first = cli("weights", "import", "eyes", path).out
        again = cli("weights", "import", "eyes", path, "--to", tmp_path / "other").out
        assert first.splitlines()[1] == again.splitlines()[1]
        assert cli("weights", "import", "eyes", path).out == first

    def test_other_weights_are_replaced_by_force_only(self, cli, tmp_path):
        cli("weights", "import", "eyes", save(tmp_path / "eyes.bin", STATE))
        other = save(tmp_path / "other.bin", {**STATE, "0.bias": torch.zeros(2)})
        assert "other weights are there already" in cli("weights", "import", "eyes", other, status=1).err
        assert torch.equal(loaded(user_folder() / "eyes-v2.pth")["0.bias"], torch.ones(2))
        assert len(list(user_folder().iterdir())) == 1
        cli("weights", "import", "eyes", other, "--force")
        assert torch.equal(loaded(user_folder() / "eyes-v2.pth")["0.bias"], torch.zeros(2))

    def test_weights_under_another_name_are_for_the_user_to_remove(self, cli, tmp_path):
        save(user_folder() / "eyes-v2-mine.pth", STATE)
        outcome = cli("weights", "import", "eyes", save(tmp_path / "e", STATE), "--force", status=1)
        assert "has weights of eyes-v2 already: eyes-v2-mine.pth" in outcome.err

    def test_views_halves_and_counters_become_plain_f32(self, cli, tmp_path):
        wide = torch.randn(2, 3_000)
        state = {**STATE, "0.weight": wide[:, :3], "0.bias": torch.ones(2, dtype=torch.float16)}
        path = save(tmp_path / "e", {**state, "1.num_batches_tracked": torch.tensor(7)})
        cli("weights", "import", "eyes", path)
        written = user_folder() / "eyes-v2.pth"
        assert path.stat().st_size > 24_000 > written.stat().st_size
        assert {t.dtype for t in loaded(written).values()} == {torch.float32}
        assert torch.equal(loaded(written)["0.weight"], wide[:, :3])

    def test_what_the_reader_warns_of_is_said(self, cli, tmp_path):
        state = dict(STATE)
        state["old.weight"] = state.pop("0.weight")
        outcome = cli("weights", "import", "eyes", save(tmp_path / "e", state))
        assert outcome.err == "warning: an older one\n"

    def test_one_of_torchvisions(self, cli, tmp_path):
        from torchvision.models import get_model

        network = get_model("squeezenet1_0")
        path = save(
            tmp_path / "mine.tar", {"state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}}
        )
        outcome = cli("weights", "import", "squeezenet1_0", path)
        assert "1,248,424 parameters" in outcome.out
        state = load_state_dict(find_weights("squeezenet1_0"))
        assert all(torch.equal(state[k], v) for k, v in network.state_dict().items())


class TestRefusal:
    def refused(self, cli, tmp_path, state) -> str:
        error = cli("weights", "import", "eyes", save(tmp_path / "e", state), status=1).err
        assert len(error.splitlines()) <= 2
        assert not user_folder().exists()
        return error

    def test_another_network(self, cli, tmp_path):
        error = self.refused(cli, tmp_path, nn.Conv2d(1, 1, 1).state_dict())
        assert (
            "e: not the weights of eyes-v2: 6 of 6 tensors are missing, '0.weight' first (nearest there: "
            in error
        )
        assert "2 others are in it, 'weight' first." in error

    def test_a_missing_tensor_and_its_nearest(self, cli, tmp_path):
        state = dict(STATE)
        state["1.running_mean_"] = state.pop("1.running_mean")
        error = self.refused(cli, tmp_path, state)
        assert (
            "1 of 6 tensors are missing, '1.running_mean' first (nearest there: '1.running_mean_')" in error
        )

    def test_surplus_tensors(self, cli, tmp_path):
        error = self.refused(cli, tmp_path, {**STATE, "2.weight": torch.zeros(1)})
        assert error.endswith("not the weights of eyes-v2: 1 others are in it, '2.weight' first.\n")

    def test_another_shape(self, cli, tmp_path):
        error = self.refused(cli, tmp_path, {**STATE, "0.weight": torch.zeros(3, 2)})
        assert "tensor '0.weight' has shape (3, 2), the network's has (2, 3)" in error

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    def test_numbers_that_are_not_finite(self, cli, tmp_path, value):
        error = self.refused(cli, tmp_path, {**STATE, "1.bias": torch.tensor([0, value])})
        assert "damaged: 1 values of tensor '1.bias' are not finite" in error

    def test_a_truncated_file(self, cli, tmp_path):
        path = save(tmp_path / "e", STATE)
        path.write_bytes(path.read_bytes()[:500])
        assert "damaged" in cli("weights", "import", "eyes", path, status=1).err

    def test_a_file_that_is_not_there(self, cli, tmp_path):
        assert "No such file" in cli("weights", "import", "eyes", tmp_path / "no", status=1).err
        assert "it is a folder, not a file" in cli("weights", "import", "eyes", tmp_path, status=1).err

    def test_a_folder_that_cannot_be_made(self, cli, tmp_path):
        path = save(tmp_path / "e", STATE)
        error = cli("weights", "import", "eyes", path, "--to", path / "sub", status=1).err
        assert "cannot write" in error
        assert "--to DIR" in error

    def test_a_name_that_nothing_has(self, cli, tmp_path):
        error = cli("weights", "import", "eyez", save(tmp_path / "e", STATE), status=2).err
        assert "no network is called 'eyez'. Did you mean 'eyes'?" in error

    def test_a_component_without_a_network(self, cli, tmp_path):
        error = cli("weights", "import", "sift", save(tmp_path / "e", STATE), status=2).err
        assert "no network is called 'sift'" in error

    def test_a_component_that_imports_nothing(self, cli, tmp_path):
        error = cli("weights", "import", "own", save(tmp_path / "e", STATE), status=1).err
        assert "own imports no weights" in error


def test_the_saliency_networks_round_trip(tmp_path):
    """A whole network, written as its authors did not, imported, and found by the component."""
    from instsearch_plugins.weighters.salnet import SalNet

    network = SalNet.build()
    done = import_weights(SalNet, save(tmp_path / "w.pt", network.state_dict()), user_folder())
    assert done.parameters == 25_806_209
    component = SalNet(SalNet.Config(), torch.device("cpu"))
    assert component.identity() == {"weights": done.sha256}
    ours = component.network.state_dict()
    assert all(torch.equal(ours[k], v) for k, v in network.state_dict().items())
    with pytest.raises(InstsearchError, match=r"of salnet: 19 of 19 tensors are missing"):
        import_weights(SalNet, save(tmp_path / "e", STATE), tmp_path)
