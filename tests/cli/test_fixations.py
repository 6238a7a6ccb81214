"""Folders of pictures with fixations, in both layouts, whole and damaged."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import scipy.io
from hypothesis import given
from hypothesis import strategies as st

from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.images import BadImage
from instsearch_cli.measure import fixations as module
from instsearch_cli.measure.fixations import Fixations, Scene, blurred, fixated, split

SIZE = (64, 48)
PEOPLE = [[[10.2, 20.9], [40, 5]], [[63.9, 47.9]], []]

Draw = Callable[..., None]


def table(folder: Path, draw: Draw, entries: dict[str, Any] | None = None, n: int = 3) -> Path:
    """A folder with fixations.json; picture i.png for every name in it."""
    if entries is None:
        entries = {f"{i}.png": {"size": list(SIZE), "fixations": PEOPLE} for i in range(n)}
    for i, name in enumerate(entries):
        draw(folder / "images" / name, i, SIZE)
    (folder / "fixations.json").write_text(json.dumps(entries))
    return folder


def gaze(path: Path, people: list[Any], resolution: tuple[int, int] = SIZE[::-1], **more: Any) -> None:
    """A .mat as SALICON's."""
    fields = np.zeros((len(people), 1), [("location", "O"), ("timestamp", "O"), ("fixations", "O")])
    for i, points in enumerate(people):
        fields[i, 0] = (np.zeros((2, 2)), np.arange(2.0)[:, None], np.array(points))
    path.parent.mkdir(parents=True, exist_ok=True)
    table = {"image": path.stem, "resolution": np.array([resolution]), "gaze": fields} | more
    scipy.io.savemat(path, table, do_compression=True)


def salicon(folder: Path, draw: Draw, splits: tuple[str, ...] = ("train", "val"), maps: bool = True) -> Path:
    """SALICON's folders, two pictures a split."""
    for s in splits:
        for i in (1, 2):
            stem = f"COCO_{s}_{i}"
            draw(folder / "images" / s / f"{stem}.jpg", i, SIZE)
            gaze(
                folder / "fixations" / s / f"{stem}.mat",
                [
                    np.array([[1, 1], [64, 48]], np.uint16),
                    np.zeros((0, 0)),
                    np.array([[30, 9 + i]], np.uint16),
                ],
            )
            if maps:
                density = np.zeros(SIZE[::-1], np.uint8)
                density[9, 30] = 128
                (folder / "maps" / s).mkdir(parents=True, exist_ok=True)
                PIL.Image.fromarray(density).save(folder / "maps" / s / f"{stem}.png")
    return folder


def slow_blur(points: np.ndarray, size: tuple[int, int], sigma: float) -> np.ndarray:
    q = np.zeros((size[1], size[0]))
    for i in range(size[1]):
        for j in range(size[0]):
            for x, y in points.tolist():
                q[i, j] += math.exp(-((j + 0.5 - x) ** 2 + (i + 0.5 - y) ** 2) / (2 * sigma**2))
    return q


coordinates = st.tuples(st.floats(0, 6.75, width=32), st.floats(0, 4.75, width=32))


@given(st.lists(coordinates, max_size=5), st.floats(0.3, 4))
def test_a_blur_is_a_sum_of_gaussians(points: list[tuple[float, float]], sigma: float) -> None:
    p = np.array(points, np.float32).reshape(-1, 2)
    assert blurred(p, (7, 5), sigma) == pytest.approx(slow_blur(p, (7, 5), sigma), abs=1e-12)
    F = fixated(p, (7, 5))
    assert F.shape == (5, 7)
    assert {(int(y), int(x)) for x, y in points} == set(
        zip(*(a.tolist() for a in np.nonzero(F)), strict=True)
    )


def test_many_points_are_blurred_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    points = np.random.default_rng(0).random((50, 2)) * 9
    whole = blurred(points, (9, 9), 2.0)
    monkeypatch.setattr(module, "CHUNK", 7)
    assert blurred(points, (9, 9), 2.0) == pytest.approx(whole)


def test_a_split_is_always_the_same() -> None:
    names = [f"{i:03}" for i in range(500)]
    train, held = split(names[::-1])
    assert (len(train), len(held)) == (400, 100)
    assert train + held == names
    assert split(names, 1)[1] == ["499"]
    for wrong in (0, 500, 501, -1):
        with pytest.raises(UsageError, match="1 to 499"):
            split(names, wrong)


def test_a_scene_of_a_table(tmp_path: Path, draw: Draw) -> None:
    data = Fixations(table(tmp_path, draw))
    assert data.names == ["0.png", "1.png", "2.png"]
    assert len(data) == 3
    scene = data.read("1.png")
    assert isinstance(scene, Scene)
    assert scene.size == SIZE
    assert scene.path == tmp_path / "images" / "1.png"
    assert (scene.pixels == np.asarray(PIL.Image.open(scene.path))).all()
    for found, given_ in zip(scene.points, PEOPLE, strict=True):
        assert (found == np.array(given_, np.float32).reshape(-1, 2)).all()
    assert [p.dtype for p in scene.points] == [np.float32] * 3
    assert np.argwhere(scene.fixations).tolist() == [[5, 40], [20, 10], [47, 63]]
    points = np.concatenate(scene.points)
    assert scene.sigma == pytest.approx(0.0375 * 64)
    expected = slow_blur(points, SIZE, scene.sigma)
    assert scene.density == pytest.approx(expected / expected.max(), abs=1e-6)
    assert scene.density.dtype == np.float32
    assert scene.density.max() == 1
    assert scene.outside == 0
    wider = Fixations(tmp_path, sigma=7.5).read("1.png")
    expected = slow_blur(points, SIZE, 7.5)
    assert wider.density == pytest.approx(expected / expected.max(), abs=1e-6)


def test_points_outside_are_dropped_and_counted(tmp_path: Path, draw: Draw) -> None:
    text = "[[[64, 5], [-0.1, 5], [3, 48.0], [3, 47.99], [NaN, 1], [1, Infinity], [1e300, 2], [63.9999999999, 1]]]"
    draw(tmp_path / "images" / "a.png", 0, SIZE)
    (tmp_path / "fixations.json").write_text(f'{{"a.png": {{"size": [64, 48], "fixations": {text}}}}}')
    scene = Fixations(tmp_path).read("a.png")
    assert scene.outside == 7  # the last one is 64 as a f32
    assert np.argwhere(scene.fixations).tolist() == [[47, 3]]
    assert scene.points[0].tolist() == [[3, pytest.approx(47.99)]]


def test_a_picture_nobody_looked_at_has_no_density(tmp_path: Path, draw: Draw) -> None:
    table(tmp_path, draw, {"a.png": {"size": SIZE, "fixations": []}})
    scene = Fixations(tmp_path).read("a.png")
    assert scene.points == ()
    assert not scene.fixations.any()
    assert not scene.density.any()


def test_a_turned_picture_is_measured_upright(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "images").mkdir()
    PIL.Image.new("RGB", (40, 30)).save(tmp_path / "images" / "a.jpg", exif=exif)
    entry = {"size": [30, 40], "fixations": [[[29, 39]]]}
    (tmp_path / "fixations.json").write_text(json.dumps({"a.jpg": entry}))
    assert Fixations(tmp_path).read("a.jpg").fixations[39, 29]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"a.png": {"size": [64, 48], "fixations": [[[1' + "0" * 5000 + ", 1]]]}}", "not JSON"),
        ('{"a.png": {"size": [64, 48], "fixations": [[[1' + "0" * 400 + ", 1]]]}}", "a number of 401 digits"),
        ("[]", "wanted an object"),
        ("{}", "no picture with fixations"),
        ('{"a.png": 3}', "a.png: wanted"),
        ('{"a.png": {"fixations": []}}', "a.png: wanted"),
        ('{"a.png": {"size": [64, 48]}}', "a.png: wanted"),
        ('{"a.png": {"size": [64, 0], "fixations": []}}', "above 0"),
        ('{"a.png": {"size": [64.5, 48], "fixations": []}}', "whole numbers"),
        ('{"a.png": {"size": 64, "fixations": []}}', "a.png: wanted"),
        ('{"a.png": {"size": [64, 48], "fixations": 5}}', "a.png: wanted"),
        ('{"a.png": {"size": [64, 48], "fixations": [[1, 2]]}}', r"\[x, y\]"),
        ('{"a.png": {"size": [64, 48], "fixations": [[[1, 2, 3]]]}}', r"\[x, y\]"),
        ('{"a.png": {"size": [64, 48], "fixations": [[[1, 2], [3]]]}}', "a.png: wanted"),
        ('{"a.png": {"size": [64, 48], "fixations": [[["a", "b"]]]}}', "a.png: wanted"),
        ('{"a.png": {"size": [64, 48], "fixations": [[[null, {}]]]}}', "a.png: wanted"),
        ('{"../a.png": {"size": [64, 48], "fixations": []}}', "no file below"),
        ('{"/etc/a.png": {"size": [64, 48], "fixations": []}}', "no file below"),
        ('{"": {"size": [64, 48], "fixations": []}}', "no file below"),
        ('{"\\ud800.png": {"size": [64, 48], "fixations": []}}', "no file below"),
        ('{"' + "a" * 5000 + '": {"size": [64, 48], "fixations": []}}', "1 of the 1 pictures"),
        ('{"a\\u0000.png": {"size": [64, 48], "fixations": []}}', "no file below"),
    ],
)
def test_a_damaged_table_is_told(tmp_path: Path, draw: Draw, text: str, message: str) -> None:
    draw(tmp_path / "images" / "a.png", 0, SIZE)
    (tmp_path / "fixations.json").write_text(text)
    with pytest.raises(InstsearchError, match=message) as failed:
        Fixations(tmp_path)
    assert len(str(failed.value)) < 600


def test_missing_pictures_are_counted_and_five_are_named(tmp_path: Path, draw: Draw) -> None:
    table(tmp_path, draw, n=9)
    for i in range(1, 8):
        (tmp_path / "images" / f"{i}.png").unlink()
    named = "1.png, 2.png, 3.png, 4.png, 5.png, …"
    with pytest.raises(InstsearchError, match=f"7 of the 9 pictures of .* are not there: {named}"):
        Fixations(tmp_path)


def test_what_is_wrong_with_one_picture_is_told_when_it_is_read(tmp_path: Path, draw: Draw) -> None:
    data = Fixations(table(tmp_path, draw, n=4))
    draw(tmp_path / "images" / "0.png", 0, (48, 64))
    (tmp_path / "images" / "1.png").write_bytes(b"no picture at all")
    (tmp_path / "images" / "2.png").unlink()
    with pytest.raises(BadImage, match="is 48 x 64 pixels, and its fixations were recorded on 64 x 48"):
        data.read("0.png")
    with pytest.raises(BadImage, match="not an image"):
        data.read("1.png")
    with pytest.raises(BadImage, match="No such file"):
        data.read("2.png")
    with pytest.raises(BadImage, match="too large"):
        Fixations(table(tmp_path, draw), max_pixels=1000).read("0.png")


def test_limits_on_files(tmp_path: Path, draw: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    table(tmp_path / "a", draw)
    monkeypatch.setattr(module, "MOST_JSON", 20)
    with pytest.raises(InstsearchError, match="larger than"):
        Fixations(tmp_path / "a")
    salicon(tmp_path / "b", draw)
    path = tmp_path / "b" / "fixations" / "val" / "COCO_val_1.mat"
    gaze(path, [np.zeros((100_000, 2))])
    data = Fixations(tmp_path / "b")
    assert data.read("COCO_val_1.jpg").outside == 100_000
    monkeypatch.setattr(module, "MOST_MAT", 200_000)
    assert path.stat().st_size < 10_000
    with pytest.raises(BadImage, match="too large when decompressed"):
        data.read("COCO_val_1.jpg")
    monkeypatch.setattr(module, "MOST_MAT", 1000)
    with pytest.raises(BadImage, match="larger than"):
        data.read("COCO_val_1.jpg")


def test_a_scene_of_salicon(tmp_path: Path, draw: Draw) -> None:
    data = Fixations(salicon(tmp_path, draw))
    assert data.names == ["COCO_val_1.jpg", "COCO_val_2.jpg"]
    scene = data.read("COCO_val_2.jpg")
    assert [p.tolist() for p in scene.points] == [[[0.5, 0.5], [63.5, 47.5]], [], [[29.5, 10.5]]]
    assert np.argwhere(scene.fixations).tolist() == [[0, 0], [10, 29], [47, 63]]
    assert np.argwhere(scene.density).tolist() == [[9, 30]]
    assert scene.density[9, 30] == 1
    anew = Fixations(tmp_path, sigma=3).read("COCO_val_2.jpg").density
    points = np.concatenate(scene.points)
    expected = slow_blur(points, SIZE, 3)
    assert anew == pytest.approx(expected / expected.max(), abs=1e-6)
    assert Fixations(tmp_path, "train").names == ["COCO_train_1.jpg", "COCO_train_2.jpg"]


def test_salicon_without_maps_or_with_one_split(tmp_path: Path, draw: Draw) -> None:
    data = Fixations(salicon(tmp_path, draw, ("train",), maps=False))
    assert data.names == ["COCO_train_1.jpg", "COCO_train_2.jpg"]
    scene = data.read("COCO_train_1.jpg")
    expected = slow_blur(np.concatenate(scene.points), SIZE, 0.0375 * 64)
    assert scene.density == pytest.approx(expected / expected.max(), abs=1e-6)
    with pytest.raises(UsageError, match="no folder 'val': there is train"):
        Fixations(tmp_path, "val")
    with pytest.raises(UsageError, match=r"no folder '\.\./train'"):
        Fixations(tmp_path, "../train")


def test_damaged_salicon(tmp_path: Path, draw: Draw) -> None:
    data = Fixations(salicon(tmp_path, draw))
    name, path = "COCO_val_1.jpg", tmp_path / "fixations" / "val" / "COCO_val_1.mat"
    good = path.read_bytes()
    for damaged in (
        b"",
        b"MATLAB",
        good[:200],
        good[:140] + b"\xff" * 40 + good[180:],
        np.random.default_rng(0).bytes(3000),
    ):
        path.write_bytes(damaged)
        with pytest.raises(BadImage, match="its fixations"):
            data.read(name)
    for wrong in ([["a"]], [np.zeros((2, 3))], [np.zeros((2, 2), complex)], [{"x": 1}]):
        gaze(path, wrong)
        with pytest.raises(BadImage, match="cannot be read"):
            data.read(name)
    scipy.io.savemat(path, {"resolution": np.array([[48, 64]]), "gaze": 3})
    with pytest.raises(BadImage, match="cannot be read"):
        data.read(name)
    gaze(path, [[[1, 1]]], resolution=(64, 48))
    with pytest.raises(BadImage, match="is 64 x 48 pixels, and its fixations were recorded on 48 x 64"):
        data.read(name)
    path.unlink()
    with pytest.raises(BadImage, match="No such file"):
        data.read(name)
    other = "COCO_val_2"
    draw(tmp_path / "maps" / "val" / f"{other}.png", 0, (48, 64))
    with pytest.raises(BadImage, match="its density 48 x 64"):
        data.read(f"{other}.jpg")
    (tmp_path / "maps" / "val" / f"{other}.png").write_bytes(b"x")
    with pytest.raises(BadImage, match=r"its density .*not an image"):
        data.read(f"{other}.jpg")


def test_a_folder_of_neither_layout(tmp_path: Path, draw: Draw) -> None:
    with pytest.raises(InstsearchError, match="holds no fixations"):
        Fixations(tmp_path)
    with pytest.raises(InstsearchError, match="holds no fixations"):
        Fixations(tmp_path / "nowhere")
    table(tmp_path / "a", draw)
    with pytest.raises(UsageError, match="no splits"):
        Fixations(tmp_path / "a", "val")
    (tmp_path / "b" / "fixations").mkdir(parents=True)
    (tmp_path / "b" / "images").mkdir()
    with pytest.raises(InstsearchError, match="neither a folder train nor val"):
        Fixations(tmp_path / "b")
    (tmp_path / "b" / "fixations" / "val").mkdir()
    with pytest.raises(InstsearchError, match="no picture with fixations"):
        Fixations(tmp_path / "b")
    gaze(tmp_path / "b" / "fixations" / "val" / "x.mat", [[[1, 1]]])
    with pytest.raises(InstsearchError, match=r"1 of the 1 pictures of .*: x\.jpg"):
        Fixations(tmp_path / "b")
