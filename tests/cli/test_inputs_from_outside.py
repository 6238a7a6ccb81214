"""Files from others, through the commands that read them: a line or two, the right exit status, at once."""

from __future__ import annotations

import io
import json
import os
import pickle  # noqa: TID251  (the other side: files as others write them)
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from instsearch_cli.errors import InstsearchError
from instsearch_cli.outside.text import csv_rows
from instsearch_plugins.weighters.maps import read_map

Cli = Callable[..., Any]


def refused(outcome: Any, *parts: str) -> None:
    """Two lines at most, without anything that a terminal takes for more, and no bug."""
    lines = outcome.err.rstrip("\n").split("\n")
    told = [line for line in lines if not line.startswith(("pipeline", "  ", "looking", "to write"))]
    assert 1 <= len(told) <= 2, outcome.err
    assert told[0].startswith("error: ")
    assert "bug" not in outcome.err
    assert all(line.isprintable() and len(line) < 1200 for line in lines)
    for part in parts:
        assert part in outcome.err


def odd_files(folder: Path) -> dict[str, Path]:
    """What is no file: by its kind."""
    os.mkfifo(folder / "fifo")
    (folder / "folder").mkdir()
    (folder / "loop").symlink_to(folder / "loop")
    return {"a FIFO": folder / "fifo", "a folder": folder / "folder", "Too many levels": folder / "loop"} | {
        "device": Path("/dev/zero"),
        "No such file": folder / "nothing",
    }


@pytest.fixture
def manifest(photos: Path) -> Path:
    names = [f"photos/{'a' if i % 2 else 'b'}/{i}.png" for i in range(4)]
    query = {"id": "q", "image": names[0], "box": [0, 0, 40, 40], "positives": [names[1]]}
    path = photos.parent / "manifest.json"
    path.write_text(json.dumps({"name": "small", "images": names, "queries": [query]}))
    return path


@pytest.mark.skipif(os.name == "nt", reason="no FIFOs")
def test_what_is_no_file_is_neither_read_nor_waited_for(cli: Cli, manifest: Path, tmp_path: Path) -> None:
    for what, path in odd_files(tmp_path).items():
        for at, name in enumerate(("m.json", "r.run", "b.csv", "p.toml")):
            (tmp_path / name).unlink(missing_ok=True)
            (tmp_path / name).symlink_to(path)
            if what in ("No such file", "Too many levels") and name == "b.csv":
                continue  # which is looked for first
            command = (
                ("eval", "--dataset", tmp_path / name),
                ("eval", "--dataset", manifest, "--from-run", tmp_path / name),
                ("eval", "--dataset", manifest, "--boxes", tmp_path / name, "--regions"),
                ("index", tmp_path / "photos", "--index", tmp_path / "i", "--preset", tmp_path / name),
            )[at]
            refused(cli(*command, status=2 if at == 3 else 1), what)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (b"[" * 100_000, ("nested too deep",)),
        (b'{"name": ' + b"1" * 5000 + b"}", ("a number of 5,000 digits",)),
        (b'{"queries": NaN}', ("NaN is no number",)),
        (b'{"queries": 1e999}', ("out of range",)),
        (b'{"images": [], "images": []}', ("'images' is there twice",)),
        (b"\xff\xfe{}", ("not text in UTF-8",)),
        (b'["images"]', ("not a manifest",)),
        (b'{"images": {"a": 1}}', ("images is a list",)),
        (b'{"images": ["\\ud800"]}', ("is none",)),
        (b'{"images": ["a\\u0000b"]}', ("is none",)),
        (b'{"images": ["a", "a"]}', ("'a' is there twice",)),
        (b'{"name": [1], "images": []}', ("name is text",)),
        (b'{"images": ["a"], "queries": [[[[[]]]]]}', ("needs an id and an image",)),
    ],
)
def test_a_manifest_that_is_none(cli: Cli, tmp_path: Path, text: bytes, parts: tuple[str, ...]) -> None:
    (tmp_path / "m.json").write_bytes(text)
    refused(cli("eval", "--dataset", tmp_path / "m.json", status=1), *parts)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"id": "\ud800"}, "an id is text"),
        ({"id": "x" * 2000}, "an id is text"),
        ({"id": [1]}, "an id is text"),
        ({"image": "a\0"}, "the name of a file"),
        ({"box": [0, 0, True, 5]}, "box is [x, y, w, h]"),
        ({"box": [0, 0, 1e12, 5]}, "box is [x, y, w, h]"),
        ({"box": [0, 0, -1, 5]}, "box is [x, y, w, h]"),
        ({"box": [0, 0, 0, 5]}, "has no area"),
        ({"box": "1,2,3,4"}, "box is [x, y, w, h]"),
        ({"box": {"x": 1}}, "box is [x, y, w, h]"),
        ({"box": [500, 500, 5, 5]}, "covers no part of the picture"),
        ({"image": "photos"}, "is a folder: name a picture"),
        ({"image": "y" * 3000}, "query images not there"),
        ({"positives": ["a\x1b[31mb"]}, r"a\x1b[31mb"),
    ],
)
def test_a_query_that_is_none(
    cli: Cli, tiny: tuple[str, ...], manifest: Path, tmp_path: Path, change: dict[str, Any], part: str
) -> None:
    table = json.loads(manifest.read_text())
    table["queries"][0] |= change
    manifest.write_text(json.dumps(table))
    outcome = cli("eval", "--dataset", manifest, "--index", tmp_path / "i", *tiny, "--quiet", status=1)
    refused(outcome, part)


def test_names_of_a_manifest_do_not_reach_the_terminal(
    cli: Cli, tiny: tuple[str, ...], manifest: Path, tmp_path: Path
) -> None:
    table = json.loads(manifest.read_text())
    table["name"] = "na\x1b[31mme"
    table["queries"][0]["id"] = "q\x1b]0;title\x07\nz"
    table["images"] += ["x" * 3000, "g\x1b[2Jone.png"]
    manifest.write_text(json.dumps(table))
    run = ("eval", "--dataset", manifest, "--index", tmp_path / "i", *tiny, "--queries")
    refused(cli(*run, status=1), "2 of the 6 images", r"g\x1b[2Jone.png")
    shown = cli(*run, "--present-only").out
    assert "\x1b" not in shown
    assert r"q\x1b]0;title\x07\nz" in shown


def test_many_queries_take_the_time_of_many_not_of_their_square(tmp_path: Path) -> None:
    from instsearch_plugins.datasets.manifest import Manifest

    images = [f"{i:06}.jpg" for i in range(20_000)]
    queries = [{"id": i, "image": images[i], "positives": [images[i]]} for i in range(4_000)]
    (tmp_path / "m.json").write_text(json.dumps({"images": images, "queries": queries}))
    began = time.monotonic()
    assert len(Manifest(Manifest.Config(str(tmp_path / "m.json")), None).queries()) == 4_000
    assert time.monotonic() - began < 3


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (b"image,x,y,w,h\na.png,nan,0,1,1\n", "line 2"),
        (b"image,x,y,w,h\na.png,0,0,inf,1\n", "line 2"),
        (b"image,x,y,w,h\na.png,0,0,-3,1\n", "line 2"),
        (b"image,x,y,w,h\na.png,0,0,1e300,1\n", "line 2"),
        (b"image,x,y,w,h\na.png,0,0," + b"1" * 5000 + b",1\n", "line 2"),
        (b"image,x,y,w,h\na.png,0,0,1\n", "5 fields, and there are 4"),
        (b"image,x,y,w,h,x\na.png,0,0,1,1,1\n", "each once"),
        (b"image,x,y,w\n", "each once"),
        (b"", "each once"),
        (b"image,x,y,w,h\na\0.png,0,0,1,1\n", "a NUL"),
        (b"image,x,y,w,h\n\xe9.png,0,0,1,1\n", "not text in UTF-8"),
        (b'image,x,y,w,h\n"a.png,0,0,1,1\n', "unexpected end"),
        (b"image,x,y,w,h\n" + b"a" * 200_000 + b",0,0,1,1\n", "field larger than"),
        (b"image,x,y,w,h\n" + b"a" * 2_000_000, "a line of over"),
    ],
)
def test_boxes_that_are_none(cli: Cli, manifest: Path, tmp_path: Path, text: bytes, part: str) -> None:
    (tmp_path / "b.csv").write_bytes(text)
    outcome = cli("eval", "--dataset", manifest, "--boxes", tmp_path / "b.csv", "--regions", status=1)
    refused(outcome, "b.csv", part)


def test_a_byte_order_mark_is_no_part_of_a_column(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfimage,x\r\n\r\na.png,1\r\n")
    assert list(csv_rows(tmp_path / "a.csv", 100)) == [(1, ["image", "x"]), (3, ["a.png", "1"])]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a = " + "[" * 10_000, "nested too deep"),
        ("a = " + "{a=" * 10_000, "nested too deep"),
        (".".join(["a"] * 100_000) + " = 1", "a key of over 16 parts"),
        ("[" + '"a".' * 50_000 + "a]", "a key of over 16 parts"),
        ("[extractor]\nname = 'sift'\nkeypoints = " + "1" * 5000, "thousands of digits"),
        ("[extractor]\nname = 'sift'\nkeypoints = inf", "a whole number"),
        ("[extractor]\nname = 'sift'\ncontrast-threshold = nan", "a finite number"),
        ("[extractor]\nname = 'sift'\nkeypoints = 99999999999", "numbers of 31 bits"),
        ("[extractor]\nname = 'sift'\nkeypoints = {a = 1}", "a whole number"),
        ("extractor = 'sift'", "needs a name"),
        ("[extractor]\nname = ['sift']", "needs a name"),
        ('name = "\\ud800"', "not TOML"),
        ("\ufeff[extractor]\nname = 'sift'\nwords = 1", "no option 'words'"),
        ("# " + "a" * 2_000_000, "larger than 1 MB"),
    ],
)
def test_a_pipeline_that_is_none(cli: Cli, photos: Path, tmp_path: Path, text: str, part: str) -> None:
    (tmp_path / "p.toml").write_text(text, "utf-8")
    command = ("index", photos, "--index", tmp_path / "i", "--preset", tmp_path / "p.toml", "--quiet")
    began = time.monotonic()
    refused(cli(*command, status=2), part)
    assert time.monotonic() - began < 5


def test_a_line_without_end_is_cut(cli: Cli, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text("x" * 100_000 + " = 1")
    refused(cli("index", photos, "--index", tmp_path / "i", "--preset", tmp_path / "p.toml", status=2), " … ")


# -- ground truths ---------------------------------------------------------------------------------------


def key(name: str) -> bytes:
    return b"\x8c" + bytes([len(name)]) + name.encode()


def truth(imlist: bytes, rest: bytes = b"]") -> bytes:
    """A pickle of a ground truth, by opcodes."""
    return b"\x80\x04}" + key("imlist") + imlist + b"s" + key("qimlist") + rest + b"s" + key("gnd") + b"]s."


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (truth(b")" + b"2\x86" * 45, b")" + b"2\x86" * 45), "too many values, or nested"),
        (truth(b"]" + b"(" + b"22" * 12 + b"e" * 8), "is not a pickle"),
        (truth(b"]" + b"\x85" * 40), "nested too deep"),
        (b"\x80\x04}" + b")" + b"2\x86" * 60 + b"K\x01s.", "neither text nor a number"),
        (b"\x80\x04(" + b")" + b"2\x86" * 60 + b"K\x01d.", "neither text nor a number"),
        (b"\x80\x04\x8f(" + b")" + b"2\x86" * 60 + b"\x90.", "no pickle of plain values"),
        (b"\x80\x04(" + b")" + b"2\x86" * 60 + b"\x91.", "no pickle of plain values"),
        (b"\x80\x04]\x94h\x00a.", "contains itself"),
        (b"\x80\x04" + b"]0" * 600_000 + b"].", "over 1,000,000 steps"),
        (b"\x80\x05\x96" + b"\xff" * 7 + b"\x7f.", "is not a pickle"),
        (truth(b"\x8a\xff" + b"\x7f" * 255, b"]"), "over 256 bits"),
        (b"\x80\x04\x8c\x0bbuiltins.abc\x8c\x03def\x93.", "is not a pickle"),
        (truth(b"K\x05"), "no image of that collection"),
        (truth(b"](]]]e"), "no image of that collection"),
        (truth(b"](" + key("all_souls_000001") * 2 + b"e"), "lists an image twice"),
    ],
)
def test_a_pickle_that_laughs_or_lies(cli: Cli, tmp_path: Path, data: bytes, part: str) -> None:
    (tmp_path / "gnd_roxford5k.pkl").write_bytes(data)
    began = time.monotonic()
    refused(cli("eval", "--dataset", "roxford5k", "--root", tmp_path, status=1), part)
    assert time.monotonic() - began < 3


@pytest.mark.parametrize(
    "bad", [["a"] * 3, [[1], [2, 3]], [{}], "1234", [1, 2, 3, float("nan")], [0, 0, 1e300, 1]]
)
def test_boxes_and_places_of_a_truth_that_are_none(cli: Cli, tmp_path: Path, bad: Any) -> None:
    entry = {"easy": [0], "hard": [], "junk": [], "bbx": bad}
    names = ["all_souls_000001", "all_souls_000002"]
    table = {"imlist": names[:1], "qimlist": names[1:], "gnd": [entry]}
    (tmp_path / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(table))
    refused(cli("eval", "--dataset", "roxford5k", "--root", tmp_path, status=1), "box")
    table["gnd"] = [entry | {"bbx": [0, 0, 1, 1], "easy": ["x" * 100_000] * 1000}]
    (tmp_path / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(table))
    refused(cli("eval", "--dataset", "roxford5k", "--root", tmp_path, status=1), "gnd_roxford5k.pkl")


# -- MATLAB's and numpy's files --------------------------------------------------------------------------


def element(kind: int, content: bytes) -> bytes:
    return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)


def mat(kind: int, shape: tuple[int, ...], *parts: bytes, name: bytes = b"s", packed: bool = False) -> bytes:
    head = element(6, struct.pack("<II", kind, 0)) + element(5, struct.pack(f"<{len(shape)}i", *shape))
    content = element(14, head + element(1, name) + b"".join(parts))
    if packed:
        squeezed = zlib.compress(content, 1)
        content = struct.pack("<II", 15, len(squeezed)) + squeezed
    return b"MATLAB 5.0".ljust(124) + struct.pack("<H", 0x100) + b"IM" + content


BAD_MATS = {
    "a type that is none, which SciPy dies of": mat(6, (9, 8), element(0x80, bytes(8))),
    "more axes than any array": mat(6, (1,) * 1_000_000, element(9, bytes(8))),
    "a million fields": mat(2, (1, 1), element(5, struct.pack("<i", 1)), element(1, b"a" * 1_000_000)),
    "a million variables": mat(6, (2, 2), element(9, bytes(32)))[:128] + element(14, b"") * 1_000_000,
    "terabytes": mat(6, (1 << 20, 1 << 20), element(9, bytes(64))),
    "complex": mat(0x806, (2, 2), element(9, bytes(32))),
    "a version that is not read": b"\0" * 200,
    "nothing": b"",
    "a bomb": mat(9, (9_000, 9_000), element(2, bytes(81_000_000)), packed=True),
}


@pytest.mark.parametrize("what", BAD_MATS)
def test_a_map_that_is_no_map_ends_no_process(
    cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path, what: str
) -> None:
    (tmp_path / "maps").mkdir()
    for i in range(10):
        (tmp_path / "maps" / f"{i}.mat").write_bytes(BAD_MATS[what])
    command = ("index", photos, "--index", tmp_path / "i", *tiny[:4], "--weighting", "maps", "--quiet")
    refused(cli(*command, "--set", f"weighting.folder={tmp_path / 'maps'}", status=1), "saliency map")


def test_a_mat_that_unfolds_beyond_its_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from instsearch_plugins.weighters import maps

    scipy.io.savemat(tmp_path / "a.mat", {"s": np.ones((900, 900))}, do_compression=True)
    assert read_map(tmp_path / "a.mat").shape == (900, 900)
    monkeypatch.setattr(maps, "MAX_MAT", 1 << 20)
    with pytest.raises(InstsearchError, match="too large when decompressed"):
        read_map(tmp_path / "a.mat")


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (npy(np.ones((3, 4))).replace(b"(3, 4)", b"(3, 9)"), "claims shape"),
        (npy(np.ones((3, 4))).replace(b"(3, 4), ", b"(10**9,4)"), "header that cannot be read"),
        (npy(np.ones((3, 4))).replace(b"(3, 4)", b"(-1,4)"), "claims shape"),
        (npy(np.ones((3, 4))).replace(b"(3, 4)", b"((((((")[:100], "header that cannot be read"),
        (b"\x93NUMPY\x02\0" + b"\xff\xff\xff\x7f" + bytes(50), "header of 2,147,483,647 bytes"),
        (b"\x93NUMPY\x09\0" + bytes(50), "cannot be read"),
        (npy(np.array([{}], object)), "cannot be read"),
        (npy(np.zeros(3, [("a", "i4"), ("b", "f8")])), "cannot be read"),
        (npy(np.full((2, 2), np.nan)), "not finite"),
        (npy(np.full((2, 2), -1.0)), "negative"),
        (npy(np.ones((2, 2), complex)), "complex128"),
        (b"", "cannot be read"),
    ],
)
def test_an_array_that_is_no_map(tmp_path: Path, data: bytes, part: str) -> None:
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(InstsearchError, match=r"a\.npy") as caught:
        read_map(tmp_path / "a.npy")
    assert part in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
