"""Small files of each kind that others write, as they should be, and what the program reads them with."""

from __future__ import annotations

import csv
import io
import json
import pickle  # noqa: TID251  (the other side: files as others write them)
from functools import cache
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import scipy.io
import torch

from instsearch_cli.engine.pipeline import load_preset
from instsearch_cli.engine.registry import load_registry
from instsearch_cli.measure.fixations import Fixations
from instsearch_cli.networks.trained import load_json
from instsearch_cli.networks.weights import load_state_dict, put_weights
from instsearch_plugins.datasets.instre import Instre
from instsearch_plugins.datasets.manifest import Manifest
from instsearch_plugins.datasets.revisited import ROxford5k
from instsearch_plugins.numeric.checkpoints import read_caffe, read_lasagne, recognise
from instsearch_plugins.numeric.checkpoints_keras import open_layers
from instsearch_plugins.numeric.pairs import read_pairs
from instsearch_plugins.training.labelled import labelled
from instsearch_plugins.weighters.maps import read_map

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@cache
def valid_files() -> dict[str, list[tuple[str, bytes, Callable[[Path], Any]]]]:
    """For each kind its files: what they are inside, their bytes, and what reads them."""
    rng = np.random.default_rng(0)
    truth = {"imlist": [f"all_souls_{i:06}" for i in range(9)], "qimlist": ["all_souls_000100"]}
    judged = {"easy": [0, 1], "hard": np.array([2]), "junk": [3], "bbx": [1.0, 2.0, 30.0, 40.0]}
    names = np.array([[f"INSTRE-S1/a/{i:03}.jpg"] for i in range(5)], object)
    gnd = np.zeros((1, 1), [("ok", "O"), ("bbx", "O")])
    gnd[0, 0] = (np.array([[1, 2]]), np.array([[1.0, 2, 30, 40]]))
    person = np.zeros((2, 1), [("fixations", "O")])
    for i in range(2):
        person[i, 0] = (rng.integers(1, 60, (4, 2)),)
    instre = {"imlist": names[:4], "qimlist": names[4:], "gnd": gnd}
    state = {"0.weight": torch.ones(3, 2), "0.bias": torch.zeros(3)}
    arrays = [rng.normal(size=s).astype(np.float32) for s in ((3, 2), (3,))]
    npz, packed, npy = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.savez(npz, *arrays)
    np.savez_compressed(packed, *arrays)
    np.save(npy, rng.random((5, 6)))
    rows = io.StringIO(newline="")
    csv.writer(rows).writerows(
        [("image", "x", "y", "w", "h"), ("a.jpg", 1, 2, 3, 4), ("b c.jpg", 1.5, 0, 9, 9)]
    )
    query = {
        "id": "q",
        "image": "a.jpg",
        "box": [1, 2, 30, 40],
        "positives": ["b.jpg"],
        "junk": [],
        "exclude": ["a.jpg"],
    }
    manifest = {"name": "m", "images": ["a.jpg", "b.jpg"], "queries": [query]}
    points = {"a.jpg": {"size": [8, 8], "fixations": [[[1, 2.5], [3, 4]], []]}}
    preset = 'name = "x"\n[extractor]\nname = "sift"\nkeypoints = 500\n[encoder]\nname = "blcf"\nwords = 9\n'
    preset += '[query]\nweigh = true\n[[rerank]]\nname = "aqe"\ndepth = 3\n'
    return {
        "mat": [
            *(("mat", _mat(compressed, instre), _instre) for compressed in (False, True)),
            *(("mat", _mat(compressed, {"s": rng.random((9, 8)), "t": "x"}), _map) for compressed in (False, True)),
            ("mat", _mat(True, {"gaze": person, "resolution": [[8, 8]]}), _gaze),
            ("hdf5", _hdf5(s=rng.random((9, 8)), t=np.zeros(3)), _map),
        ],
        "pickle": [("pickle", pickle.dumps({**truth, "gnd": [judged]}, p), _oxford) for p in (0, 2, 4, 5)],
        "npz": [
            *(("npz", file.getvalue(), _lasagne) for file in (npz, packed)),
            ("npy", npy.getvalue(), _array),
        ],
        "csv": [
            ("csv", rows.getvalue().encode(), _boxes),
            ("csv", b"a.jpg,b.jpg\nb.jpg,a.jpg\n", _pairs),
            ("csv", b"path,label\na.jpg,cat\nb.jpg,dog\n", _labels),
        ],
        "json": [
            ("json", json.dumps(manifest).encode(), _manifest),
            ("json", json.dumps(points).encode(), _fixations),
            ("json", json.dumps({"classes": ["a"], "epochs": {"x": 3}}).encode(), load_json),
        ],
        "toml": [("toml", preset.encode(), _preset)],
        "checkpoint": [
            ("zip", _saved(state), _weights),
            ("zip", _saved({"state_dict": state, "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}}}), _weights),
            ("pickle", _saved(state, False), _weights),
            ("caffe", _caffe(arrays), read_caffe),
            ("hdf5", _keras(arrays), _keras_layers),
        ],
    }  # fmt: skip


def _mat(compressed: bool, variables: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    scipy.io.savemat(file, variables, do_compression=compressed)
    return file.getvalue()


def _hdf5(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    with h5py.File(file, "w", userblock_size=512) as h5:
        for name, array in arrays.items():
            h5.create_dataset(name, data=array).attrs["MATLAB_class"] = np.bytes_("double")
    return file.getvalue()


def _saved(state: Any, zipped: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(state, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2, len(content)]) + content


def _caffe(arrays: list[np.ndarray]) -> bytes:
    blobs = [_field(7, _field(1, bytes(x.shape))) + _field(5, x.tobytes()) for x in arrays]
    layer = _field(1, b"conv") + b"".join(_field(7, blob) for blob in blobs)
    return _field(1, b"net") + b"\xa2\x06" + bytes([len(layer)]) + layer


def _keras(arrays: list[np.ndarray]) -> bytes:
    file = io.BytesIO()
    with h5py.File(file, "w") as h5:
        h5.attrs["layer_names"] = np.array([b"conv"])
        group = h5.create_group("conv")
        group.attrs["weight_names"] = np.array([b"conv_W", b"conv_b"])
        for name, array in zip(("conv_W", "conv_b"), arrays, strict=True):
            group.create_dataset(name, data=array)
    return file.getvalue()


def _named(path: Path, name: str) -> Path:
    """The same file under the name that a reader goes by."""
    return path.replace(path.with_name(name))


def _instre(path: Path) -> None:
    dataset = Instre(Instre.Config(str(_named(path, "gnd.mat"))), path.parent)
    for query in dataset.queries():
        dataset.relevance(query)


def _oxford(path: Path) -> None:
    ROxford5k(ROxford5k.Config(str(_named(path, "gnd.pkl"))), path.parent)


def _map(path: Path) -> None:
    read_map(_named(path, "a.mat"))


def _array(path: Path) -> None:
    read_map(_named(path, "a.npy"))


def _gaze(path: Path) -> None:
    folder = path.parent / "salicon"
    for name in ("images", "fixations"):
        (folder / name / "val").mkdir(parents=True, exist_ok=True)
    np.zeros(8).tofile(folder / "images" / "val" / "a.ppm")
    (folder / "images" / "val" / "a.ppm").write_bytes(b"P6 8 8 255\n" + bytes(192))
    path.replace(folder / "fixations" / "val" / "a.mat")
    Fixations(folder).read("a.ppm")


def _fixations(path: Path) -> None:
    (path.parent / "images").mkdir(exist_ok=True)
    (path.parent / "images" / "a.jpg").write_bytes(b"P6 8 8 255\n" + bytes(192))
    _named(path, "fixations.json")
    data = Fixations(path.parent)
    for name in data.names:
        data.read(name)


def _lasagne(path: Path) -> None:
    if recognise(path) == "npz":
        read_lasagne(path)


def _manifest(path: Path) -> Manifest:
    return Manifest(Manifest.Config(str(path)), None)


def _boxes(path: Path) -> None:
    manifest = path.with_name("m.json")
    query = {"id": "q", "image": "a.jpg", "positives": ["a.jpg"]}
    manifest.write_text(json.dumps({"images": ["a.jpg", "b c.jpg"], "queries": [query]}))
    Manifest(Manifest.Config(str(manifest), str(path)), None).boxes()


def _pairs(path: Path) -> None:
    read_pairs(str(path), {"a.jpg": 0, "b.jpg": 1})


def _labels(path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        path.with_name(name).touch()
    labelled(path.parent, path)


def _preset(path: Path) -> None:
    load_preset(str(_named(path, "a.toml")), load_registry()).to_toml()


def _weights(path: Path) -> None:
    with torch.device("meta"):
        network = torch.nn.Sequential(torch.nn.Linear(2, 3))
    state = load_state_dict(path)
    put_weights(network, network.state_dict(), state, path, torch.device("cpu"), torch.float32)


def _keras_layers(path: Path) -> None:
    with open_layers(path) as layers:
        for arrays in layers.values():
            for array in arrays:
                if array.size < 1000:
                    array[()]
