"""An index whose files lie, though their seals fit, or are of other pictures: named in one line, by every verb."""

from __future__ import annotations

import gc
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest

import instsearch
from resealed import rewrite

Cli = Callable[..., Any]
Draw = Callable[..., None]
OWN = ("--set", "encoder.vocabulary=own", "--set", "encoder.words=20", "--set", "encoder.n-train=2000")
SIFT = ("--preset", "sift", *OWN, "--quiet")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shelf")


def made(cli: Cli, draw: Draw, shelf: Path, name: str, *flags: str, first: int = 0) -> Path:
    """An index of six drawn pictures, made once."""
    if not (shelf / name).exists():
        for i in range(6):
            draw(shelf / f"{name} pictures" / f"{i}.png", first + i, (160, 120))
        cli("index", shelf / f"{name} pictures", "--index", shelf / name, *flags)
    return shelf / name


@pytest.fixture
def index(cli: Cli, draw: Draw, shelf: Path, tmp_path: Path) -> Path:
    """A copy of an index of the default pipeline."""
    shutil.copytree(made(cli, draw, shelf, "sift", *SIFT), tmp_path / "i")
    return tmp_path / "i"


@pytest.fixture
def inverted(cli: Cli, draw: Draw, shelf: Path, tmp_path: Path) -> Path:
    """A copy of one with an inverted file."""
    flags = (*SIFT, "--searcher", "inverted", "--rerank", "none")
    shutil.copytree(made(cli, draw, shelf, "inverted", *flags), tmp_path / "j")
    return tmp_path / "j"


def ask(cli: Cli, index: Path, shelf: Path, status: int | None = 0) -> Any:
    gc.collect()  # HDF5 reads a file that is open somewhere in the process as it was
    picture = next(path for path in sorted(shelf.glob("* pictures/3.png")) if "other" not in str(path))
    return cli("query", picture, "--index", index, "--json", status=status)


def refused(cli: Cli, index: Path, shelf: Path, name: str) -> None:
    """A query and verify name the file; no traceback, no bug."""
    for outcome in (ask(cli, index, shelf, 1), cli("verify", "--index", index, status=1)):
        assert name in outcome.out + outcome.err
        assert "bug" not in outcome.err
        assert "Traceback" not in outcome.err


def short(file: h5py.File) -> None:
    """Chunks of 8 stored bytes that claim 16 MiB."""
    n, indptr = 2**22 - 1000, file["indptr"][()]
    for name in ("words", "signatures", "geometry"):
        tail, dtype = file[name].shape[1:], file[name].dtype
        del file[name]
        rows = min(n, 2**24 // (dtype.itemsize * int(np.prod(tail, dtype=int))))
        data = file.create_dataset(name, (n, *tail), dtype, chunks=(rows, *tail), **hdf5plugin.Zstd())
        for at in range(0, n, rows):
            data.id.write_direct_chunk((at,) + (0,) * len(tail), b"\1\0\0\0" * 2, filter_mask=1)
    indptr[-1] = n
    file["indptr"][...] = indptr


def bomb(file: h5py.File) -> None:
    """25 GB of zeros in 1,500 chunks, which lie one on the other."""
    step = 2**22
    data = file.create_dataset("bomb", (step * 1500,), "f4", chunks=(step,), **hdf5plugin.Zstd())
    data[:step] = 0
    _, stored = data.id.read_direct_chunk((0,))
    for at in range(step, step * 1500, step):
        data.id.write_direct_chunk((at,), stored)


def test_chunks_that_are_shorter_than_they_claim(cli: Cli, index: Path, shelf: Path) -> None:
    path = next(index.glob("local/*/part*.h5"))
    rewrite(path, short)
    assert path.name in cli("verify", "--index", index, status=1).out
    shutil.rmtree(next(index.glob("search/*")))
    again = cli("index", shelf / "sift pictures", "--index", index, *SIFT, status=1)
    assert path.name in again.err
    assert "bug" not in again.err


def test_a_model_that_claims_more_than_there_is(cli: Cli, index: Path, shelf: Path) -> None:
    path = next(index.glob("models/*.h5"))
    rewrite(path, bomb)
    refused(cli, index, shelf, path.name)


@pytest.mark.skipif(os.name == "nt", reason="it has no pipes of this kind")
def test_a_link_to_a_pipe(cli: Cli, index: Path, shelf: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    path = next(index.glob("search/*/part*.h5"))

    def link(file: h5py.File) -> None:
        name = next(iter(file))
        del file[name]
        file[name] = h5py.ExternalLink(str(tmp_path / "pipe"), "/x")

    rewrite(path, link)
    refused(cli, index, shelf, path.name)


@pytest.mark.parametrize(
    "name", ["values", "rows", "layouts", "layout-boxes", "images", "blocks", "pointers"]
)
@pytest.mark.parametrize("how", ["short", "far"])
def test_an_inverted_file_that_lies(cli: Cli, inverted: Path, shelf: Path, name: str, how: str) -> None:
    path = next(inverted.glob("search/*/part*.h5"))

    def change(file: h5py.File) -> None:
        values = file[name][()]
        del file[name]
        if how == "short":
            values = values[:, :-1] if name == "pointers" else values[: len(values) > 1]
        else:
            values[values.shape[0] // 2] = np.nan if values.dtype.kind == "f" else 2**30
        file[name] = values

    rewrite(path, change)
    outcome = ask(cli, inverted, shelf, 1)
    assert "damaged" in outcome.err
    assert "bug" not in outcome.err


@pytest.mark.parametrize("name", ["signatures", "geometry", "images", "norms", "sizes", "pointers"])
def test_a_bit_of_a_segment(cli: Cli, index: Path, shelf: Path, name: str) -> None:
    """The answer would be another one."""
    path = next(index.glob("search/*/part*.h5"))
    before = ask(cli, index, shelf).json["hits"]
    with h5py.File(path, locking=False) as file:
        at = file[name].id.get_offset() + file[name].nbytes // 2
    whole = path.read_bytes()
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
    refused(cli, index, shelf, path.name)
    path.write_bytes(whole)
    assert ask(cli, index, shelf).json["hits"] == before


@pytest.mark.parametrize(
    "pattern", ["search/*/part*.h5", "models/*.h5", "codes/*/part*.h5", "local/*/part*.h5"]
)
def test_a_file_of_another_index_with_equal_options(
    cli: Cli, draw: Draw, index: Path, shelf: Path, tmp_path: Path, pattern: str
) -> None:
    other = made(cli, draw, shelf, "other", *SIFT, first=100)
    mine = sorted(index.glob(pattern))
    assert [path.relative_to(index) for path in mine] == [
        p.relative_to(other) for p in sorted(other.glob(pattern))
    ]
    before = ask(cli, index, shelf).json["hits"]
    for path in mine:
        shutil.copy(other / path.relative_to(index), path)
    answer = ask(cli, index, shelf, None)
    assert "other pictures" in cli("verify", "--index", index, status=1).out
    assert answer.status == 1 or json.loads(answer.out)["hits"] == before  # codes are not read by this query
    assert answer.status == 0 or "other pictures" in answer.err


def test_a_segment_cut_short_while_it_is_open(index: Path, shelf: Path) -> None:
    with instsearch.Index.open(index) as opened:
        opened.query(shelf / "sift pictures" / "3.png")
        path = next(index.glob("search/*/part*.h5"))
        os.truncate(path, 5000)
        with pytest.raises(instsearch.InstsearchError, match="cut short"):
            opened.query(shelf / "sift pictures" / "3.png")
