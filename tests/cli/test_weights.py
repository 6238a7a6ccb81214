"""Finding network weights and reading them without trusting them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn

from instsearch_cli.errors import InstsearchError
from instsearch_cli.networks import weights
from instsearch_cli.networks.checkpoints import LARGEST
from instsearch_cli.networks.weights import (
    check_state_dict,
    find_weights,
    list_weights,
    load_state_dict,
    needed,
    sha256,
    user_folder,
)
from real_data import SQUEEZENET


@pytest.fixture(autouse=True)
def hub(tmp_path, monkeypatch):
    """An empty torchvision cache, no folders of weights, nothing imported, and no way out."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("INSTSEARCH_OFFLINE", "1")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("INSTSEARCH_WEIGHTS", raising=False)
    return tmp_path / "torch" / "hub" / "checkpoints"


def put(path: Path, content: bytes = b"weights") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


class TestFinding:
    def test_the_explicit_file_comes_first(self, tmp_path, monkeypatch):
        put(tmp_path / "folder/vgg16.pth")
        monkeypatch.setenv("INSTSEARCH_WEIGHTS", str(tmp_path / "folder"))
        mine = put(tmp_path / "whatever.bin")
        assert find_weights("vgg16", mine) == mine
        assert find_weights("vgg16", str(mine)) == mine

    def test_an_explicit_file_that_is_not_there(self, tmp_path):
        with pytest.raises(InstsearchError, match=r"nothing\.pth: the weights file does not exist"):
            find_weights("vgg16", tmp_path / "nothing.pth")
        with pytest.raises(InstsearchError, match="is a folder, not a file"):
            find_weights("vgg16", tmp_path)

    @pytest.mark.parametrize("name", ["vgg16.pth", "vgg16-397923af.pth", "vgg16-mine.pt", "vgg16.bin"])
    def test_a_file_named_after_the_network(self, tmp_path, monkeypatch, name):
        found = put(tmp_path / "b" / name)
        put(tmp_path / "a/vgg16_bn-6c64b313.pth")
        put(tmp_path / "a/vgg16.pth.txt")
        put(tmp_path / "a/resnet50.pth")
        monkeypatch.setenv("INSTSEARCH_WEIGHTS", f"{tmp_path / 'a'}{os.pathsep}{tmp_path / 'b'}")
        assert find_weights("vgg16") == found

    def test_the_first_folder_wins(self, tmp_path, monkeypatch):
        first, second = put(tmp_path / "a/vgg16-x.pth"), put(tmp_path / "b/vgg16.pth")
        monkeypatch.setenv("INSTSEARCH_WEIGHTS", os.pathsep.join([str(first.parent), str(second.parent)]))
        assert find_weights("vgg16") == first

    def test_two_files_for_one_network_are_for_the_user_to_choose(self, tmp_path, monkeypatch):
        put(tmp_path / "vgg16-a.pth")
        put(tmp_path / "vgg16-b.pth")
        monkeypatch.setenv("INSTSEARCH_WEIGHTS", str(tmp_path))
        with pytest.raises(InstsearchError, match=r"vgg16-a\.pth, vgg16-b\.pth"):
            find_weights("vgg16")

    def test_its_very_name_comes_before_a_longer_one(self, tmp_path, monkeypatch):
        mine = put(tmp_path / "xfeat.pt")
        put(tmp_path / "xfeat-lighterglue.pt")
        monkeypatch.setenv("INSTSEARCH_WEIGHTS", str(tmp_path))
        assert find_weights("xfeat") == mine
        put(tmp_path / "xfeat.pth")
        with pytest.raises(InstsearchError, match=r"several weights for xfeat: xfeat\.pt, xfeat\.pth\.\n"):
            find_weights("xfeat")

    @pytest.mark.parametrize("other", ["vgg16-cam.pth", "vgg16-cam-397923af.pt", "vgg16-cam.safetensors"])
    def test_a_file_of_another_network_whose_name_is_longer(self, tmp_path, monkeypatch, other):
        monkeypatch.setattr(weights, "NAMES", {"vgg16", "vgg16-cam", "cam"})
        theirs = put(tmp_path / other)
        monkeypatch.setenv("INSTSEARCH_WEIGHTS", str(tmp_path))
        with pytest.raises(InstsearchError, match="no weights for vgg16 "):
            find_weights("vgg16")
        assert find_weights("vgg16-cam") == theirs
        mine = put(tmp_path / "vgg16-camera.pth")
        assert find_weights("vgg16") == mine

    @pytest.mark.parametrize("network", ["aliked-n16", "aliked-n16rot"])
    def test_names_that_begin_alike(self, tmp_path, monkeypatch, network):
        for name in ("aliked-n16", "aliked-n16rot"):
            put(tmp_path / f"{name}.pth")
        monkeypatch.setenv("INSTSEARCH_WEIGHTS", str(tmp_path))
        assert find_weights(network) == tmp_path / f"{network}.pth"

    def test_the_file_that_torchvision_publishes_of_a_detection_network(self, tmp_path, monkeypatch):
        network = "fasterrcnn_resnet50_fpn"
        put(tmp_path / f"{network}_v2_coco-dd69338a.pth")
        mine = put(tmp_path / weights.official(network).name)
        monkeypatch.setenv("INSTSEARCH_WEIGHTS", str(tmp_path))
        assert find_weights(network) == mine

    def test_a_folder_that_is_not_there(self, tmp_path, monkeypatch):
        monkeypatch.setenv("INSTSEARCH_WEIGHTS", str(tmp_path / "gone"))
        with pytest.raises(InstsearchError, match="gone is not a folder"):
            find_weights("vgg16")

    def test_missing_weights_say_what_to_get_and_where_to_put_it(self):
        with pytest.raises(InstsearchError) as caught:
            find_weights("vgg16")
        message = str(caught.value)
        assert len(message.splitlines()) == 2
        for part in (
            "vgg16-397923af.pth",
            "torchvision",
            "INSTSEARCH_WEIGHTS",
            "--weights",
            "INSTSEARCH_OFFLINE",
        ):
            assert part in message

    def test_a_network_that_torchvision_does_not_have(self):
        with pytest.raises(InstsearchError, match="torchvision publishes none"):
            find_weights("mscnet")

    def test_a_network_that_others_publish(self):
        with pytest.raises(InstsearchError) as caught:
            find_weights("salgan", published="x.npz of y/z (MIT)")
        assert str(caught.value) == (
            "no weights for salgan. Published: x.npz of y/z (MIT).\n"
            "Fetch that file and run `instsearch weights import salgan FILE`."
        )

    def test_imported_weights_come_after_the_folders(self, tmp_path, monkeypatch):
        imported = put(user_folder() / "vgg16.pth")
        assert imported == tmp_path / "data/instsearch/weights/vgg16.pth"
        assert find_weights("vgg16") == imported
        mine = put(tmp_path / "a/vgg16.pth")
        monkeypatch.setenv("INSTSEARCH_WEIGHTS", str(tmp_path / "a"))
        assert find_weights("vgg16") == mine

    def test_imported_weights_are_in_the_home_without_xdg(self, tmp_path, monkeypatch):
        monkeypatch.delenv("XDG_DATA_HOME")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert user_folder() == tmp_path / ".local/share/instsearch/weights"


def published(monkeypatch, hub, url: str) -> weights.Official:
    """Pretend that torchvision publishes this file."""
    name = url.rsplit("/", 1)[-1]
    source = weights.Official(url, name, hub / name)
    monkeypatch.setattr(weights, "official", lambda network: source)
    return source


class TestTorchvisionsCache:
    content = b"published weights"
    name = f"net-{hashlib.sha256(content).hexdigest()[:8]}.pth"

    def test_official_names_come_from_torchvision(self, hub):
        source = weights.official("resnet50")
        assert source.name == "resnet50-0676ba61.pth"
        assert source.digest == "0676ba61"
        assert source.cached == hub / source.name

    def test_a_cached_file_is_used(self, monkeypatch, hub):
        source = published(monkeypatch, hub, f"https://nowhere.invalid/{self.name}")
        put(source.cached, self.content)
        assert find_weights("net") == source.cached

    def test_a_damaged_cached_file_is_not(self, monkeypatch, hub):
        source = published(monkeypatch, hub, f"https://nowhere.invalid/{self.name}")
        put(source.cached, self.content[:-1])
        with pytest.raises(InstsearchError, match="damaged"):
            find_weights("net")

    def test_a_download(self, monkeypatch, hub, tmp_path):
        monkeypatch.delenv("INSTSEARCH_OFFLINE")
        origin = put(tmp_path / "origin" / self.name, self.content)
        source = published(monkeypatch, hub, origin.as_uri())
        assert find_weights("net") == source.cached
        assert source.cached.read_bytes() == self.content

    def test_a_download_that_is_not_what_was_published(self, monkeypatch, hub, tmp_path):
        monkeypatch.delenv("INSTSEARCH_OFFLINE")
        origin = put(tmp_path / "origin" / self.name, b"something else")
        source = published(monkeypatch, hub, origin.as_uri())
        with pytest.raises(InstsearchError, match="the download failed: invalid hash"):
            find_weights("net")
        assert not source.cached.exists()

    def test_a_network_out_of_reach(self, monkeypatch, hub, tmp_path):
        monkeypatch.delenv("INSTSEARCH_OFFLINE")
        published(monkeypatch, hub, (tmp_path / "nothing" / self.name).as_uri())
        with pytest.raises(InstsearchError, match=r"the download failed: .*\nDownload net-"):
            find_weights("net")

    def test_offline_forbids_it(self, monkeypatch, hub, tmp_path):
        origin = put(tmp_path / "origin" / self.name, self.content)
        published(monkeypatch, hub, origin.as_uri())
        with pytest.raises(InstsearchError, match="INSTSEARCH_OFFLINE is set"):
            find_weights("net")


def test_list_weights_says_where_and_what_is_missing(tmp_path, monkeypatch):
    mine = put(tmp_path / "w/squeezenet1_0-mine.pth", b"abc")
    monkeypatch.setenv("INSTSEARCH_WEIGHTS", str(mine.parent))
    imported = put(user_folder() / "sam.pth", b"abc")
    networks = {"squeezenet1_0": "", "vgg16": "", "mscnet": "", "salgan": "x.npz of y/z", "sam": "x of y"}
    found, missing, unknown, published, sam = list_weights(networks)
    assert found == ("squeezenet1_0", mine, "INSTSEARCH_WEIGHTS", hashlib.sha256(b"abc").hexdigest()[:12])
    assert missing == ("vgg16", None, "missing: vgg16-397923af.pth of torchvision", "")
    assert unknown == ("mscnet", None, "missing", "")
    assert published == ("salgan", None, "missing: x.npz of y/z", "")
    assert sam == ("sam", imported, "imported", hashlib.sha256(b"abc").hexdigest()[:12])


def test_two_files_of_one_network_hide_no_other(tmp_path, monkeypatch):
    for name in ("squeezenet1_0-a.pth", "squeezenet1_0-b.pth", "sam.pth"):
        put(tmp_path / "w" / name, b"abc")
    monkeypatch.setenv("INSTSEARCH_WEIGHTS", str(tmp_path / "w"))
    several, sam = list_weights({"squeezenet1_0": "", "sam": "x of y"})
    assert several[:2] == ("squeezenet1_0", None)
    assert several[2].endswith("several weights for squeezenet1_0: squeezenet1_0-a.pth, squeezenet1_0-b.pth.")
    assert sam[1] == tmp_path / "w" / "sam.pth"


def test_sha256_follows_the_file(tmp_path):
    path = put(tmp_path / "w.pth", b"one")
    assert sha256(path) == hashlib.sha256(b"one").hexdigest()
    put(path, b"other")
    assert sha256(path) == hashlib.sha256(b"other").hexdigest()


class Code:
    """What an attacker puts in a checkpoint: unpickling it would run ``Path.touch``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


class TestReading:
    state: ClassVar = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.zeros(2)}

    @pytest.mark.parametrize("zipped", [True, False])
    @pytest.mark.parametrize(
        "wrap",
        [
            lambda s: s,
            lambda s: {"state_dict": s, "epoch": 3},
            lambda s: {f"module.{k}": v for k, v in s.items()},
            lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}},
        ],
    )
    def test_checkpoints_plain_and_wrapped(self, tmp_path, wrap, zipped):
        path = tmp_path / "w.pth"
        torch.save(wrap(self.state), path, _use_new_zipfile_serialization=zipped)
        loaded = load_state_dict(path)
        assert list(loaded) == list(self.state)
        assert all(torch.equal(loaded[k], v) for k, v in self.state.items())

    @pytest.mark.parametrize("zipped", [True, False])
    def test_code_is_refused_and_not_run(self, tmp_path, zipped):
        path, ran = tmp_path / "w.pth", tmp_path / "ran"
        torch.save({**self.state, "x": Code(ran)}, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(InstsearchError, match="holds code, not only tensors"):
            load_state_dict(path)
        assert not ran.exists()

    def test_a_whole_module_is_code_too(self, tmp_path):
        torch.save(nn.Linear(2, 2), tmp_path / "w.pth")
        with pytest.raises(InstsearchError, match="holds code"):
            load_state_dict(tmp_path / "w.pth")

    @pytest.mark.parametrize("zipped", [True, False])
    @pytest.mark.parametrize("keep", [0.0, 0.05, 0.5, 0.95])
    def test_a_truncated_file(self, tmp_path, zipped, keep):
        path = tmp_path / "w.pth"
        torch.save({"a": torch.zeros(1000)}, path, _use_new_zipfile_serialization=zipped)
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * keep)])
        with pytest.raises(InstsearchError, match="damaged"):
            load_state_dict(path)

    def test_another_kind_of_file(self, tmp_path):
        path = put(tmp_path / "w.pth", b"<html>not found</html>" * 50)
        with pytest.raises(InstsearchError, match="not a PyTorch checkpoint"):
            load_state_dict(path)

    @pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {1: torch.zeros(1)}, torch.zeros(2)])
    def test_not_a_state_dict(self, tmp_path, content):
        torch.save(content, tmp_path / "w.pth")
        with pytest.raises(InstsearchError, match="not a state dict"):
            load_state_dict(tmp_path / "w.pth")

    def test_a_huge_file_is_refused_unread(self, tmp_path):
        path = tmp_path / "w.pth"
        with path.open("wb") as file:
            file.truncate(LARGEST + 1)
        with pytest.raises(InstsearchError, match="over 4 GB"):
            load_state_dict(path)

    @pytest.mark.skipif(not SQUEEZENET.is_file(), reason="SqueezeNet's weights are not here")
    def test_a_real_network(self):
        state = load_state_dict(SQUEEZENET)
        assert state["features.0.weight"].shape == (96, 3, 7, 7)
        assert len(state) == 52


def test_counters_of_batches_are_not_needed():
    network = nn.BatchNorm2d(2)
    assert "num_batches_tracked" in network.state_dict()
    assert needed(network) == ["weight", "bias", "running_mean", "running_var"]


class TestChecking:
    network = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 4))

    def check(self, state):
        check_state_dict(self.network, self.network.state_dict(), state, Path("w.pth"))

    def test_what_fits(self):
        self.check({**self.network.state_dict(), "more": torch.zeros(1)})

    def test_the_first_missing_tensor_is_named(self):
        state = self.network.state_dict()
        del state["0.bias"], state["1.weight"]
        with pytest.raises(InstsearchError, match=r"w\.pth: no tensor '0\.bias' of shape \(2,\)"):
            self.check(state)

    def test_the_first_wrong_shape_is_named(self):
        state: ClassVar = {
            **self.network.state_dict(),
            "1.weight": torch.zeros(5, 2),
            "1.bias": torch.zeros(9),
        }
        with pytest.raises(
            InstsearchError, match=r"'1\.weight' has shape \(5, 2\), the network's has \(4, 2\)"
        ):
            self.check(state)
