"""Network weights from others: plain tensors are read as PyTorch reads them, everything else is refused by name."""

from __future__ import annotations

import io
import os
import pickle  # noqa: TID251  (the other side: files as others write them)
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from instsearch_cli.errors import InstsearchError
from instsearch_cli.networks import weights
from instsearch_cli.networks.checkpoints import load_checkpoint
from instsearch_cli.networks.importing import _check
from instsearch_cli.networks.weights import load_state_dict, put_weights
from instsearch_plugins.extractors.class_maps import class_names
from instsearch_plugins.extractors.networks import ResNet50
from instsearch_plugins.numeric.checkpoints import read_caffe

CPU = torch.device("cpu")


def saved(path: Path, content: Any, zipped: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def repacked(path: Path, change: Callable[[str, bytes], bytes], how: int = zipfile.ZIP_STORED) -> Path:
    """The same archive with other contents of its entries."""
    with zipfile.ZipFile(path) as before:
        contents = {name: change(name, before.read(name)) for name in before.namelist()}
    with zipfile.ZipFile(path, "w", how, compresslevel=1) as after:
        for name, content in contents.items():
            after.writestr(name, content)
    return path


def refused(path: Path, *parts: str) -> None:
    began = time.process_time()
    with pytest.raises(InstsearchError) as caught:
        load_state_dict(path)
    assert time.process_time() - began < 2
    text = str(caught.value)
    assert text.startswith(str(path))
    assert len(text.splitlines()) <= 2
    for part in parts:
        assert part in text, text


# -- what is read ----------------------------------------------------------------------------------------

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
]
NEWER = [torch.float8_e4m3fn, torch.uint16]  # than the older container


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("mapped", [True, False])
def test_tensors_come_back_as_pytorch_reads_them(tmp_path: Path, zipped: bool, mapped: bool) -> None:
    base = torch.arange(24.0)
    marked = nn.Parameter(torch.ones(2))
    marked.mine = "an attribute"  # type: ignore[attr-defined]
    content = {
        "marked": marked,
        "whole": base,
        "turned": base.view(4, 6).T,
        "part": base[5:11:2],
        "empty": torch.empty(0, 5),
        "scalar": torch.tensor(2.5),
        "repeated": torch.ones(1).expand(7),
        "parameter": nn.Parameter(torch.ones(3)),
        **{str(dtype): torch.ones(3).to(dtype) for dtype in DTYPES + NEWER * zipped},
    }
    path = saved(tmp_path / "w.pth", OrderedDict(content), zipped)
    theirs, ours = torch.load(path, weights_only=True), load_checkpoint(path, mapped)
    assert list(ours) == list(theirs)
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype
        assert ours[name].shape == tensor.shape
        same = (x.double() if x.is_floating_point() else x for x in (ours[name], tensor))
        assert torch.equal(*same)
    assert ours["turned"].untyped_storage().data_ptr() == ours["whole"].untyped_storage().data_ptr()
    ours["whole"][0] = 9  # its own memory, not the file's
    assert load_checkpoint(path)["whole"][0] == 0


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.integers(0, 9), inner)
    ),
    max_leaves=6,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(PLAIN, st.booleans())
def test_containers_come_back(tmp_path: Path, content: Any, zipped: bool) -> None:
    assert load_checkpoint(saved(tmp_path / "w.pth", {"x": content}, zipped)) == {"x": content}


def test_the_state_of_an_optimiser_comes_back(tmp_path: Path) -> None:
    network = nn.Linear(3, 2)
    optimiser = torch.optim.Adam(network.parameters())
    network(torch.ones(3)).sum().backward()
    optimiser.step()
    path = saved(tmp_path / "c.pt", {"parts": optimiser.state_dict(), "rng": torch.get_rng_state()})
    read = load_checkpoint(path)
    other = torch.optim.Adam(network.parameters())
    other.load_state_dict(read["parts"])
    assert torch.equal(
        other.state_dict()["state"][0]["exp_avg"], optimiser.state_dict()["state"][0]["exp_avg"]
    )
    torch.set_rng_state(read["rng"])


def test_compressed_archives_are_read_too(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", {"a": torch.arange(5.0)})
    repacked(path, lambda name, content: content, zipfile.ZIP_DEFLATED)
    assert load_state_dict(path)["a"].tolist() == [0, 1, 2, 3, 4]


# -- what is not -----------------------------------------------------------------------------------------


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("true",)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: torch.eye(3).to_sparse(), "holds a sparse tensor"),
        (lambda: torch.eye(3).to_sparse_csr(), "holds a sparse tensor"),
        (lambda: torch.quantize_per_tensor(torch.eye(3), 0.1, 0, torch.quint8), "holds a quantised tensor"),
        (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "holds a nested tensor"),
        (lambda: torch.empty(3, device="meta"), "without numbers, of the device meta"),
        (lambda: torch.ones(3, dtype=torch.complex64).conj(), "negated or conjugated"),
        (lambda: torch.ones(1).expand(2_500_000_000), "claims 10,000,000,000 bytes of 4"),
        (Evil, f"holds code, not only tensors: it asks for {os.system.__module__}.system"),
        (lambda: nn.Linear(2, 2), "holds code, not only tensors: it asks for torch.nn.modules.linear.Linear"),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_what_is_no_plain_tensor_is_named(tmp_path: Path, make: Any, part: str, zipped: bool) -> None:
    try:
        path = saved(tmp_path / "w.pth", {"a": make()}, zipped)
    except (RuntimeError, AttributeError, TypeError) as error:
        pytest.skip(f"PyTorch writes none so: {error}")
    refused(path, part)


@pytest.mark.filterwarnings("ignore")
def test_a_program_is_code(tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "p.pt"))
    refused(tmp_path / "p.pt", "holds code", "TorchScript")


def test_the_oldest_archives_are_not_read(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "w.pth", "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"), io.BytesIO(b""))
    refused(tmp_path / "w.pth", "a tar archive")


def test_lies_about_sizes_take_no_memory(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", {"a": torch.zeros(10)})
    whole = path.read_bytes()
    refused(repacked(path, lambda n, c: c[:20] if n.endswith("data/0") else c), "claims 40 bytes and has 20")
    path.write_bytes(whole)
    ten, billion = pickle.BININT1 + b"\x0a", pickle.BININT + struct.pack("<i", 2_000_000_000)
    refused(repacked(path, lambda n, c: c.replace(ten, billion) if n.endswith(".pkl") else c), "damaged")
    path.write_bytes(whole)
    refused(repacked(path, lambda n, c: bytes(100 << 20), zipfile.ZIP_DEFLATED), "claim to be")
    legacy = saved(tmp_path / "l.pth", {"a": torch.zeros(10)}, zipped=False)
    legacy.write_bytes(legacy.read_bytes()[:-1])
    refused(legacy, "cut short")
    legacy.write_bytes(saved(legacy, {"a": torch.zeros(10)}, False).read_bytes().replace(ten, billion))
    refused(legacy, "damaged")


def test_containers_that_have_no_end(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", {"a": torch.zeros(1)})
    pair = b"2\x86" * 60
    for laugh in (
        b"\x80\x02})" + pair + b"K\x01s.",
        b"\x80\x02]" + pair + b".",
        b"\x80\x02" + b"]0" * 700_000 + b"].",
        b"\x80\x02]q\0h\0a.",
        b"\x80\x04\x8d" + b"\xff" * 7 + b"\0.",
    ):
        refused(repacked(path, lambda n, c, laugh=laugh: laugh if n.endswith(".pkl") else c), "damaged")


def test_numbers_of_another_kind_of_machine(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", {"a": torch.zeros(1)})
    refused(repacked(path, lambda n, c: b"big" if n.endswith("byteorder") else c), "another kind of machine")


def test_too_many_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "MOST", 5)
    refused(saved(tmp_path / "w.pth", {str(i): torch.zeros(1) for i in range(6)}), "6 tensors, too many")


def network() -> nn.Module:
    with torch.device("meta"):
        return nn.Sequential(nn.Linear(2, 3))


def test_numbers_that_are_too_large_for_what_is_written(tmp_path: Path) -> None:
    state = {"0.weight": torch.ones(3, 2), "0.bias": torch.tensor([1e300, 0, 0], dtype=torch.float64)}
    with pytest.raises(InstsearchError, match=r"1 values of tensor '0\.bias' are not finite"):
        _check(network(), state, tmp_path / "w.pth", "made")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (
            {"0.bias": torch.tensor([0, float("nan"), float("inf")])},
            "2 values of tensor '0.bias' are not finite",
        ),
        ({"0.bias": torch.zeros(3, dtype=torch.int64)}, "'0.bias' holds int64, the network's real numbers"),
        ({"0.bias": torch.zeros(3, dtype=torch.complex64)}, "'0.bias' holds complex64"),
        ({"0.bias": torch.zeros(3, dtype=torch.bool)}, "'0.bias' holds bool"),
        ({"0.bias": torch.zeros(4)}, "has shape (4,), the network's has (3,)"),
        (
            {"0.bias": torch.tensor([1e300, 0, 0], dtype=torch.float64)},
            "1 values of tensor '0.bias' are not finite",
        ),
    ],
)
def test_numbers_that_no_network_computes_with(tmp_path: Path, change: dict[str, Any], part: str) -> None:
    state = {"0.weight": torch.ones(3, 2), "0.bias": torch.zeros(3)} | change
    path = saved(tmp_path / "w.pth", state)
    empty = network()
    with pytest.raises(InstsearchError) as caught:
        put_weights(empty, empty.state_dict(), load_state_dict(path), path, CPU, torch.float32)
    assert part in str(caught.value)


def test_through_the_command_line(cli: Any, tmp_path: Path, photos: Path) -> None:
    def told(path: Path) -> str:
        extractor = ("--extractor", "squeezenet1_0", "--weights", path)
        error = cli("index", photos, "--index", tmp_path / "i", *extractor, "--quiet", status=1).err
        assert "bug" not in error
        assert len(error.splitlines()) <= 2
        return str(error)

    assert "holds code, not only tensors: it asks for" in told(saved(tmp_path / "w.pth", {"a": Evil()}))
    (tmp_path / "weights.pth").mkdir()
    assert "is a folder, not a file" in told(tmp_path / "weights.pth")
    os.mkfifo(tmp_path / "fifo.pth")
    assert "is no file, but a FIFO" in told(tmp_path / "fifo.pth")
    for file in ("fifo.pth", "weights.pth"):
        assert "error: cannot read" in cli("weights", "import", "salgan", tmp_path / file, status=1).err


CARDS = ['{"classes": {"a": 1}}', '{"classes": [1, 2]}', '{"classes": "ab"}', "[" * 9999, '{"a": NaN}']


@pytest.mark.parametrize("card", CARDS)
def test_a_card_that_is_none(tmp_path: Path, card: str) -> None:
    (tmp_path / "w.json").write_text(card)
    with pytest.raises(InstsearchError, match=r"w\.json"):
        class_names(ResNet50, tmp_path / "w.pth")


def test_a_caffe_model_of_fields_without_end(tmp_path: Path) -> None:
    (tmp_path / "w.caffemodel").write_bytes(b"\x0a\x00" * 1_500_000)
    with pytest.raises(InstsearchError, match="over 1,000,000 fields"):
        read_caffe(tmp_path / "w.caffemodel")
    blob = b"\x42\x08" + struct.pack("<d", 1e300) + b"\x3a\x03\x0a\x01\x01"
    layer = b"\x0a\x01a" + b"\x3a" + bytes([len(blob)]) + blob
    (tmp_path / "w.caffemodel").write_bytes(b"\xa2\x06" + bytes([len(layer)]) + layer)
    assert np.isinf(read_caffe(tmp_path / "w.caffemodel")["a"][0]).all()


def test_readers_that_believe_a_file_are_not_asked() -> None:
    folders = [Path(weights.__file__).parents[1], Path(read_caffe.__code__.co_filename).parents[1]]
    texts = {path.name: path.read_text("utf-8") for folder in folders for path in folder.rglob("*.py")}
    for call in ("torch.load(", "loadmat(", "whosmat(", "np.fromfile(", "pickle.load("):
        assert not [name for name, text in texts.items() if call in text], call
    loading = {name for name, text in texts.items() if "np.load(" in text}
    assert loading == {"class_vectors.py", "bovw.py"}  # in an index, and what comes with this package


@pytest.mark.slow
def test_files_changed_at_random_are_answered_or_refused() -> None:
    bench = Path(__file__).parents[2] / "benchmarks" / "fuzz_inputs.py"
    command = [sys.executable, str(bench), "--count", "140", "--seed", "9"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" 20 files: ") == 7
