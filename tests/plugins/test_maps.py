"""Ready saliency maps: files of every kind, names matched to pictures, and a whole run over an index."""

from __future__ import annotations

import os
import time

import h5py
import numpy as np
import PIL.Image
import pytest
import scipy.io
import torch

from instsearch_cli.data import Grid, Inputs
from instsearch_cli.engine.registry import Offer, load_registry
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.main import run
from instsearch_cli.options import config_for, make_config
from instsearch_cli.progress import Quiet
from instsearch_cli.specs import WeighterSpec
from instsearch_cli.testing import WeighterContract
from instsearch_formats import Index
from instsearch_plugins.numeric.blocks import block_max
from instsearch_plugins.weighters import maps
from instsearch_plugins.weighters.maps import Maps, read_map

CPU = torch.device("cpu")
GRID = Grid.over(2, 2, (64, 64))
CARD = np.zeros((32, 32), np.uint8)
CARD[3, 4], CARD[20, 5], CARD[2, 30] = 200, 100, 50
WEIGHTS = torch.tensor([[[1, 0.25], [0.5, 0]]])


def make(folder, **options):
    return Maps(make_config(Maps, {"folder": str(folder), **options}, "weighting"), CPU)


def weigh(component, name):
    return component.weigh(Inputs(size=(64, 64), name=name, grid=GRID)).values


def put(path, s=CARD):
    """Write a map in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, s)
    elif path.suffix == ".mat":
        scipy.io.savemat(path, {"salMap": s, "sigma": 2.0, "name": "x"})
    else:
        PIL.Image.fromarray(s).save(path)


def put_hdf5(path, **arrays):
    """A .mat file as MATLAB 7.3 writes it: HDF5, columns first."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, s in arrays.items():
            dataset = file.create_dataset(name, data=np.atleast_2d(s).T)
            dataset.attrs["MATLAB_class"] = np.bytes_({"f": "double", "u": "uint8"}[np.asarray(s).dtype.kind])
        text = file.create_dataset("label", data=np.zeros((3, 4), np.uint16))
        text.attrs["MATLAB_class"] = np.bytes_("char")
        file.create_group("#refs#")


class Pictures:
    """The names of a collection."""

    def __init__(self, *names):
        self.names, self.images = names, np.arange(len(names))

    def inputs(self, kinds):
        assert kinds == ()
        return (Inputs(size=(64, 64), row=i, name=name) for i, name in enumerate(self.names))


class TestContract(WeighterContract):
    component = Maps

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        put(tmp_path / "image 0.png")
        put(tmp_path / "image 1.npy", CARD / 3)
        self.options = {"folder": str(tmp_path)}


# -- files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".npy", ".mat", ".PNG"])
def test_the_cards_map_in_every_format(tmp_path, suffix):
    put(tmp_path / f"a{suffix}")
    torch.testing.assert_close(weigh(make(tmp_path), "a.jpg"), WEIGHTS)


def test_jpeg(tmp_path):
    smooth = np.add.outer(np.arange(48), np.arange(64)).astype(np.uint8)
    put(tmp_path / "a.jpg", smooth)
    torch.testing.assert_close(weigh(make(tmp_path), "a.png")[0], block_max(smooth, 2, 2), atol=0.03, rtol=0)


def test_matlab_7_3_is_columns_first(tmp_path):
    put_hdf5(tmp_path / "a.mat", salMap=CARD[:, :31], sigma=2.0)
    assert np.array_equal(read_map(tmp_path / "a.mat"), CARD[:, :31])


@pytest.mark.parametrize(
    "dtype", [np.float16, np.float32, np.float64, np.int16, np.uint16, np.int64, np.longdouble, ">f4", "bool"]
)
def test_numbers_of_any_kind(tmp_path, dtype):
    s = np.array([[0, 1, 2], [3, 4, 100]]).astype(dtype)
    np.save(tmp_path / "a.npy", s)
    got = read_map(tmp_path / "a.npy")
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, s.astype(float) / float(s.max()), rtol=1e-6)


@pytest.mark.parametrize("peak", [1e-300, 1e300])
def test_values_beyond_single_precision(tmp_path, peak):
    np.save(tmp_path / "a.npy", np.array([[0.5, 1.0]]) * peak)
    np.testing.assert_allclose(read_map(tmp_path / "a.npy"), [[0.5, 1]])


def test_first_channel_of_a_colour_map(tmp_path):
    rgb = np.dstack([CARD, 255 - CARD, np.full_like(CARD, 77)])
    put(tmp_path / "a.png", rgb)
    assert np.array_equal(read_map(tmp_path / "a.png"), CARD)


def test_16_bits_are_scaled_not_cut(tmp_path):
    PIL.Image.fromarray(np.array([[0, 257 * 40], [257 * 200, 65535]], np.uint16)).save(tmp_path / "a.png")
    assert read_map(tmp_path / "a.png").tolist() == [[0, 40], [200, 255]]


def test_a_map_of_another_size_is_laid_over_the_picture(tmp_path):
    put(tmp_path / "small.png", np.array([[0, 0, 0], [0, 0, 200], [0, 0, 100]], np.uint8))
    put(tmp_path / "zero.npy", np.zeros((5, 700)))
    component = make(tmp_path)
    assert torch.equal(weigh(component, "zero.jpg"), torch.ones(1, 2, 2))
    assert weigh(component, "small.jpg")[0, 0, 0] < weigh(component, "small.jpg")[0, 1, 1]


@pytest.mark.parametrize(
    ("s", "complaint"),
    [
        (np.array([[1, np.nan]]), "not finite"),
        (np.array([[1, np.inf]]), "not finite"),
        (np.array([[1.0, -0.5]]), "negative values, down to -0.5"),
        (np.ones((2, 3, 3)), r"two dimensions .* shape \(2, 3, 3\)"),
        (np.ones(5), r"two dimensions .* shape \(5,\)"),
        (np.ones((0, 4)), r"shape \(0, 4\)"),
        (np.ones((2, 2), complex), "complex128"),
        (np.array([["a", "b"]]), "wanted numbers"),
    ],
)
def test_what_is_no_map_is_said_with_the_files_name(tmp_path, s, complaint):
    np.save(tmp_path / "bad.npy", s)
    with pytest.raises(InstsearchError, match=rf"bad\.npy: .*{complaint}"):
        weigh(make(tmp_path), "bad.jpg")


def test_pickles_are_not_read(tmp_path):
    np.save(tmp_path / "bad.npy", np.array([[{}, 1]], object), allow_pickle=True)
    with pytest.raises(InstsearchError, match=r"bad\.npy cannot be read: .*holds object"):
        weigh(make(tmp_path), "bad.jpg")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".npy", ".mat"])
@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"\x93NUMPY\x01\x00\x46\x00garbage", b"\x89PNG\r\n\x1a\n"]
)
def test_damaged_files(tmp_path, suffix, content):
    (tmp_path / f"bad{suffix}").write_bytes(content)
    with pytest.raises(InstsearchError, match=rf"bad\{suffix}"):
        weigh(make(tmp_path), "bad.jpg")


@pytest.mark.parametrize("suffix", [".png", ".npy", ".mat"])
def test_files_cut_short(tmp_path, suffix):
    path = tmp_path / f"bad{suffix}"
    put(path, np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8))
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(InstsearchError, match=rf"bad\{suffix}"):
        weigh(make(tmp_path), "bad.jpg")


@pytest.mark.parametrize("suffix", [".png", ".npy", ".mat"])
def test_size_limits(tmp_path, monkeypatch, suffix):
    put(tmp_path / f"bad{suffix}")
    monkeypatch.setattr(maps, "MAX_PIXELS", 1000)
    with pytest.raises(InstsearchError, match=rf"bad\{suffix}: .*too large"):
        weigh(make(tmp_path), "bad.jpg")
    monkeypatch.setattr(maps, "MAX_BYTES", 10)
    with pytest.raises(InstsearchError, match=rf"bad\{suffix}: a file of more than"):
        weigh(make(tmp_path), "bad.jpg")


@pytest.mark.parametrize("version", ["5", "7.3"])
def test_one_of_several_variables(tmp_path, version):
    arrays = {"first": np.eye(3), "second": CARD, "row": np.ones((1, 4))}
    if version == "5":
        scipy.io.savemat(tmp_path / "a.mat", {**arrays, "label": "text", "info": {"x": 1}})
    else:
        put_hdf5(tmp_path / "a.mat", **arrays)
    with pytest.raises(
        InstsearchError, match=r"2 arrays .*weighting\.variable=NAME.*first 3x3.*second 32x32"
    ):
        read_map(tmp_path / "a.mat")
    assert np.array_equal(read_map(tmp_path / "a.mat", "second"), CARD)
    assert read_map(tmp_path / "a.mat", "row").shape == (1, 4)
    for name in ("third", "label"):
        with pytest.raises(InstsearchError, match=rf"no numeric array '{name}'; there is: first"):
            read_map(tmp_path / "a.mat", name)
    torch.testing.assert_close(weigh(make(tmp_path, variable="second"), "a.jpg"), WEIGHTS)


def test_matlab_file_without_an_array(tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {"label": "text", "sigma": 1.0})
    with pytest.raises(InstsearchError, match=r"has no arrays that could be the map.*sigma 1x1"):
        read_map(tmp_path / "a.mat")


def test_links_out_of_a_matlab_file_are_not_followed(tmp_path):
    put_hdf5(tmp_path / "other.h5", secret=CARD)
    with h5py.File(tmp_path / "a.mat", "w") as file:
        file["salMap"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "secret")
    with pytest.raises(InstsearchError, match="no arrays that could be the map"):
        read_map(tmp_path / "a.mat")


# -- names ---------------------------------------------------------------------------------------------


def test_relative_path_goes_before_the_stem(tmp_path):
    put(tmp_path / "a/1.png", np.full((4, 4), 10, np.uint8))
    put(tmp_path / "b/1.npy", CARD)
    put(tmp_path / "c/2.v1.png", CARD)
    folder = make(tmp_path)._folder
    assert folder.find("a/1.jpg") == "a/1"
    assert folder.find("b/1.jpeg") == "b/1"
    assert folder.find("c/2.v1.jpg") == folder.find("elsewhere/2.v1.jpg") == "c/2.v1"
    assert folder.find("/home/someone/2.v1.png") == "c/2.v1"
    assert folder.find("1.jpg") is None  # two of that stem
    assert folder.find("c/2.jpg") is None


def test_missing_maps_are_counted_before_any_work(tmp_path):
    put(tmp_path / "m/a/1.png")
    names = ["a/1.jpg", *(f"a/{i}.jpg" for i in range(2, 10))]
    with pytest.raises(InstsearchError) as raised:
        make(tmp_path / "m").fit(Pictures(*names), Quiet())
    message = str(raised.value)
    assert "8 of 9 pictures have no saliency map among the 1 in" in message
    assert "a/2.jpg, a/3.jpg, a/4.jpg, a/5.jpg, a/6.jpg, ...\n" in message
    assert "expected a/2 + .png or" in message


def test_pictures_do_not_share_a_map(tmp_path):
    put(tmp_path / "1.png")
    with pytest.raises(InstsearchError, match=r"^a/1\.jpg and b/1\.jpg both go by .*1\.png\n"):
        make(tmp_path).fit(Pictures("a/1.jpg", "b/1.jpg"), Quiet())


def test_state_of_a_whole_set(tmp_path):
    put(tmp_path / "1.png")
    component = make(tmp_path)
    state = component.fit(Pictures("x/1.jpg"), Quiet())
    assert state["maps"].tobytes().hex() == component.identity()["maps"]
    make(tmp_path).load(state)


def test_missing_map_of_one_picture(tmp_path):
    put(tmp_path / "a/1.png")
    put(tmp_path / "b/1.png")
    with pytest.raises(
        InstsearchError, match=r"x/2\.jpg has no saliency map among the 2 in .*expected x/2 \+"
    ):
        weigh(make(tmp_path), "x/2.jpg")
    with pytest.raises(InstsearchError, match=r"2 maps are called 1, none of them in its folder"):
        weigh(make(tmp_path), "x/1.jpg")


def test_two_maps_of_one_name(tmp_path):
    put(tmp_path / "1.png")
    put(tmp_path / "1.npy")
    with pytest.raises(InstsearchError, match=r"two saliency maps .*1\.npy and .*1\.png"):
        make(tmp_path).identity()


def test_folder_that_is_not_there_empty_or_not_named(tmp_path):
    with pytest.raises(InstsearchError, match="there is no folder"):
        make(tmp_path / "none").identity()
    put(tmp_path / ".hidden/1.png")
    (tmp_path / "._2.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InstsearchError, match="there is no saliency map in"):
        make(tmp_path).identity()
    with pytest.raises(UsageError, match=r"needs --set weighting\.folder=DIR"):
        Maps(Maps.Config(), CPU).identity()


def test_identity_follows_names_sizes_and_times_but_not_the_place(tmp_path):
    put(tmp_path / "m/1.png")
    put(tmp_path / "m/a/2.png")
    (tmp_path / "m/notes.txt").write_text("x")
    first = make(tmp_path / "m").identity()
    (tmp_path / "m/notes.txt").write_text("other")
    assert make(tmp_path / "m").identity() == first
    (tmp_path / "m").rename(tmp_path / "n")
    assert make(tmp_path / "n").identity() == first
    assert config_for(make(tmp_path / "n").config, "codes") == {"variable": ""}
    os.utime(tmp_path / "n/1.png", ns=(1, 1))
    second = make(tmp_path / "n").identity()
    (tmp_path / "n/1.png").rename(tmp_path / "n/3.png")
    third = make(tmp_path / "n").identity()
    assert len({str(i) for i in (first, second, third)}) == 3


# -- a whole run ---------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path):
    for i in range(4):
        rng = np.random.default_rng(i)
        blocks = rng.integers(0, 256, (12, 16, 3), np.uint8)
        path = tmp_path / "photos" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(np.kron(blocks, np.ones((12, 12, 1), np.uint8))).save(path)
        put(tmp_path / "maps" / "ab"[i % 2] / f"{i}.npy", rng.random((30, 40)))
    return tmp_path / "photos"


@pytest.fixture
def registered(monkeypatch):
    spec = WeighterSpec("maps", "instsearch_plugins.weighters.maps:Maps", "saliency maps of a folder")
    monkeypatch.setitem(load_registry().offers["weighting"], "maps", Offer(spec, "instsearch", "0"))


def weight_layers(index):
    return {info.path for info in Index.open(index).layers() if info.path.startswith("weights/")}


def test_index_query_and_changed_maps(photos, registered, tmp_path, monkeypatch, capsys):
    index, folder = tmp_path / "index", tmp_path / "maps"
    monkeypatch.chdir(tmp_path)
    stages = ["--extractor", "sift", "--encoder", "blcf", "--set", "encoder.words=20", "--weighting", "maps"]
    flags = ["--index", str(index), *stages, "--set", "weighting.folder=maps", "--quiet"]
    (folder / "a/0.npy").rename(tmp_path / "kept.npy")
    assert run(["index", str(photos), *flags]) == 1
    assert "1 of 4 pictures have no saliency map among the 3" in capsys.readouterr().err
    (tmp_path / "kept.npy").rename(folder / "a/0.npy")
    assert run(["index", str(photos), *flags]) == 0
    first = weight_layers(index)
    assert len(first) == 1
    monkeypatch.chdir("/")
    capsys.readouterr()
    assert run(["query", str(photos / "a/2.png"), "--index", str(index), "--json", "-k", "1"]) == 0
    assert '"a/2.png"' in capsys.readouterr().out
    np.save(folder / "a/0.npy", np.ones((7, 9)))
    os.utime(folder / "a/0.npy", ns=(time.time_ns(),) * 2)
    monkeypatch.chdir(tmp_path)
    assert run(["index", *flags]) == 0
    assert len(weight_layers(index) - first) == 1
