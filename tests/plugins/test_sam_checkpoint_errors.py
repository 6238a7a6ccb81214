"""SAM's checkpoints that are another network's, incomplete, damaged or hostile: they are refused."""

from __future__ import annotations

import pickle  # noqa: TID251  (to write what others hand out)

import h5py
import numpy as np
import pytest
import torch

from instsearch_cli.errors import InstsearchError
from instsearch_cli.networks.importing import import_weights
from instsearch_plugins.weighters import sam_network
from instsearch_plugins.weighters.sam import SamResNet, SamVGG
from sam_published import SMALL_RESNET, SMALL_VGG, draw, published, save


@pytest.fixture
def small(monkeypatch):
    """The same networks with few channels."""
    monkeypatch.setattr(sam_network, "CHANNELS", 4)
    monkeypatch.setattr(sam_network, "BLOCKS", SMALL_VGG)
    monkeypatch.setattr(sam_network, "STAGES", SMALL_RESNET)


def spoiled(tmp_path, change, component=SamVGG):
    """The error for a checkpoint after ``change`` of its arrays."""
    p = draw(published(component))
    change(p)
    with pytest.raises(InstsearchError) as caught:
        component.import_weights(save(tmp_path / "weights.pkl", p))
    text = str(caught.value)
    assert "weights.pkl: " in text
    return text


def test_another_networks_checkpoint(small, tmp_path):
    path = save(tmp_path / "resnet.pkl", draw(published(SamResNet)))
    with pytest.raises(
        InstsearchError, match=r"not the weights of sam-vgg: 13 of its 19 .*block1_conv1 first"
    ):
        SamVGG.import_weights(path)
    path = save(tmp_path / "vgg.pkl", draw(published(SamVGG)))
    with pytest.raises(InstsearchError, match=r"not the weights of sam-resnet: .* missing, conv1 first"):
        SamResNet.import_weights(path)


def test_missing_and_surplus_layers_are_named_with_the_nearest(small, tmp_path):
    text = spoiled(tmp_path, lambda p: p.update(block3_convx=p.pop("block3_conv2")))
    assert "1 of its 19 layers are missing, block3_conv2 first; the nearest is block3_convx." in text
    text = spoiled(tmp_path, lambda p: p.update(block5_conv4=p["block5_conv3"]))
    assert "layer block5_conv4 is not one of its layers; the nearest is block5_conv" in text


def test_wrong_shapes_and_values(small, tmp_path):
    def change(layer, name, values):
        return lambda p: p[layer].update({name: values})

    text = spoiled(tmp_path, change("block1_conv2", "block1_conv2_W", np.zeros((2, 3, 3, 3), "f4")))
    assert "block1_conv2_W has shape (2, 3, 3, 3), sam-vgg's block1_conv2 has (2, 2, 3, 3)" in text
    text = spoiled(tmp_path, lambda p: p["attentiveconvlstm_1"].pop("convolution2d_3_W"))
    assert "layer attentiveconvlstm_1 has 20 arrays, sam-vgg's has 21" in text
    for bad in (np.full(2, np.nan, "f4"), np.full(2, 1e300)):  # the second too large for a float
        text = spoiled(tmp_path, change("block1_conv2", "block1_conv2_b", bad))
        assert "/block1_conv2/block1_conv2_b has values that are not finite" in text
    text = spoiled(tmp_path, change("block1_conv2", "block1_conv2_b", np.zeros(2, "i4")))
    assert "block1_conv2_b is not all there" in text


def test_damaged_files(small, tmp_path):
    whole = save(tmp_path / "whole.pkl", draw(published(SamVGG))).read_bytes()
    for n in (9, 100, 2000, len(whole) // 2, len(whole) - 1):
        (tmp_path / "part.pkl").write_bytes(whole[:n])
        with pytest.raises(InstsearchError, match=r"part\.pkl: .*damaged"):
            SamVGG.import_weights(tmp_path / "part.pkl")
    rng = np.random.default_rng(0)
    for _ in range(40):  # whatever becomes of it, nothing but tensors or an error
        bad = np.frombuffer(whole, np.uint8).copy()
        bad[rng.integers(8, len(bad), 200)] = 0xFF
        (tmp_path / "bad.pkl").write_bytes(bad)
        try:
            state = SamVGG.import_weights(tmp_path / "bad.pkl")
        except InstsearchError:
            continue
        assert all(x.isfinite().all() for x in state.values())


def test_files_that_are_no_weights(small, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "made"), "w"))

    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(InstsearchError, match=r"evil\.pkl"):
        SamVGG.import_weights(tmp_path / "evil.pkl")
    assert not (tmp_path / "made").exists()
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = [1.0]
    with pytest.raises(InstsearchError, match="not the weights of a Keras network"):
        SamVGG.import_weights(tmp_path / "other.h5")
    torch.save({"features.block1_conv0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(
        InstsearchError, match=r"other\.pth: not the weights of sam-vgg: .* tensors are missing"
    ):
        import_weights(SamVGG, tmp_path / "other.pth", tmp_path)


def test_nothing_outside_the_file_is_read(small, tmp_path):
    (tmp_path / "secret").write_bytes(bytes(8))
    with h5py.File(tmp_path / "away.h5", "w") as file:
        file["block1_conv1_b"] = np.zeros(2, "f4")
    layers = draw(published(SamVGG))

    def external(group):
        group.create_dataset("block1_conv1_b", (2,), "f4", external=[(str(tmp_path / "secret"), 0, 8)])

    def virtual(group):
        layout = h5py.VirtualLayout((2,), "f4")
        layout[:] = h5py.VirtualSource(tmp_path / "away.h5", "block1_conv1_b", (2,))
        group.create_virtual_dataset("block1_conv1_b", layout)

    def linked(group):
        group["block1_conv1_b"] = h5py.ExternalLink(tmp_path / "away.h5", "block1_conv1_b")

    def soft(group):
        group["block1_conv1_b"] = h5py.SoftLink("/block1_conv2/block1_conv2_b")

    def unwritten(group):
        group.create_dataset("block1_conv1_b", (2,), "f4")

    for change in (external, virtual, linked, soft, unwritten):
        path = save(tmp_path / "weights.pkl", layers)
        with h5py.File(path, "r+") as file:
            del file["block1_conv1/block1_conv1_b"]
            change(file["block1_conv1"])
        with pytest.raises(InstsearchError, match="block1_conv1_b"):
            SamVGG.import_weights(path)


def test_huge_claims_are_not_believed(small, tmp_path):
    path = save(tmp_path / "weights.pkl", draw(published(SamVGG)))
    with h5py.File(path, "r+") as file:
        del file["block1_conv1/block1_conv1_W"]
        file["block1_conv1"].create_dataset("block1_conv1_W", (1 << 20, 1 << 20), "f4", chunks=(64, 64))[
            0, 0
        ] = 1
    with pytest.raises(InstsearchError, match=r"block1_conv1_W has shape \(1048576, 1048576\)"):
        SamVGG.import_weights(path)
    with h5py.File(path, "r+") as file:
        del file.attrs["layer_names"]
        file.attrs["layer_names"] = np.zeros(5000, "S8")
    with pytest.raises(InstsearchError, match="layer_names is no list of names"):
        SamVGG.import_weights(path)
    with h5py.File(path, "r+") as file:
        file.attrs["layer_names"] = ["of", "variable", "length"]
    with pytest.raises(InstsearchError, match="layer_names is no list of names"):
        SamVGG.import_weights(path)
