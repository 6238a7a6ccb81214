"""The demo's scenes: the same from the same seed, with exact ground truth."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from instsearch_cli.demo import artwork, compose, make_scenes, objects, scenes, textures
from instsearch_cli.demo.lens import camera, photograph
from instsearch_cli.demo.render import Canvas, Pose, rolled, rotation, sprite_of
from instsearch_cli.errors import InstsearchError, UsageError

N, SEED = 10, 3


class Counter:
    def __init__(self) -> None:
        self.total, self.done = 0, 0

    def start(self, label: str, total: int | None = None, unit: str = "images") -> None:
        self.total = total or 0

    def advance(self, n: int = 1) -> None:
        self.done += n


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], Counter]:
    """Drawn where a run that was killed left half of a picture."""
    folder, progress = tmp_path_factory.mktemp("scenes") / "demo", Counter()
    left = folder / "drawing.partial" / "images"
    left.mkdir(parents=True)
    (left / "0001.jpg").write_bytes(b"half")
    manifest = make_scenes(folder, n=N, seed=SEED, progress=progress)
    return folder, json.loads(manifest.read_text()), progress


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_manifest_is_complete(demo: tuple[Path, dict[str, Any], Counter]) -> None:
    folder, manifest, progress = demo
    assert sorted(digests(folder)) == sorted(
        [*manifest["images"], *(q["image"] for q in manifest["queries"]), "boxes.csv", "manifest.json"]
    )
    assert len(manifest["images"]) == N
    assert progress.done == progress.total == N + len(manifest["queries"])
    for query in manifest["queries"]:
        assert set(query) == {"id", "image", "box", "positives", "junk", "exclude"}
        assert query["positives"]
        assert set(query["positives"]) <= set(manifest["images"])


def test_boxes_are_those_of_the_positives_and_lie_in_the_picture(
    demo: tuple[Path, dict[str, Any], Counter],
) -> None:
    folder, manifest, _ = demo
    with (folder / "boxes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["image", "x", "y", "w", "h"]
    positives = sorted(image for query in manifest["queries"] for image in query["positives"])
    assert sorted(row["image"] for row in rows) == positives
    places = [(row["image"], [int(row[k]) for k in "xywh"]) for row in rows]
    places += [(query["image"], query["box"]) for query in manifest["queries"]]
    for image, (x, y, w, h) in places:
        with Image.open(folder / image) as picture:
            assert 0 <= x < x + w <= picture.width
            assert 0 <= y < y + h <= picture.height
            assert min(w, h) >= 12


def test_a_demo_is_left_alone_or_replaced_and_nothing_else_is(
    demo: tuple[Path, dict[str, Any], Counter], tmp_path: Path
) -> None:
    """What is drawn again, where a picture is gone, is the same: the seed says all."""
    folder = Path(shutil.copytree(demo[0], tmp_path / "demo"))
    before = digests(folder)
    stamp = (folder / "images/0001.jpg").stat().st_mtime_ns
    make_scenes(folder, n=N, seed=SEED)
    assert (folder / "images/0001.jpg").stat().st_mtime_ns == stamp
    (folder / "images/0002.jpg").unlink()
    (folder / "hits.html").write_text("kept")
    make_scenes(folder, n=N, seed=SEED)
    assert (folder / "images/0001.jpg").stat().st_mtime_ns != stamp
    assert (folder / "hits.html").read_text() == "kept"
    (folder / "hits.html").unlink()
    assert digests(folder) == before
    make_scenes(folder, n=8, seed=SEED)
    assert len(list((folder / "images").iterdir())) == 8

    photos = tmp_path / "photos"
    (photos / "images").mkdir(parents=True)
    (photos / "images/0001.jpg").write_bytes(b"mine")
    (photos / "manifest.json").write_text('{"name": "mine"}')
    with pytest.raises(InstsearchError, match="not empty"):
        make_scenes(photos, n=8)
    assert (photos / "images/0001.jpg").read_bytes() == b"mine"


def test_too_few_scenes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="8 or more"):
        make_scenes(tmp_path / "demo", n=7)


@given(st.integers(8, 400), st.integers(0, 50))
def test_the_plan_shows_each_object_often_enough(n: int, seed: int) -> None:
    plan = scenes.plan(n, seed)
    assert len(plan) == n
    assert sum(not scene for scene in plan) == n // 5
    shown = [owner for scene in plan for owner in scene]
    assert all(len(set(scene)) == len(scene) <= 2 for scene in plan)
    counts = np.bincount(shown)[1:]
    assert len(counts) <= 12
    assert counts.min() >= 4


def test_the_usual_demo_has_twelve_objects_and_thirty_scenes_without() -> None:
    plan = scenes.plan(150, 7)
    counts = np.bincount([owner for scene in plan for owner in scene])[1:]
    assert len(counts) == 12
    assert counts.min() >= 10
    assert sum(not scene for scene in plan) == 30
    assert sum(len(scene) == 2 for scene in plan) >= 8
    assert len(set(objects.WANTED)) >= 6


# Pictures


@pytest.mark.parametrize(
    "surface",
    sorted({*textures.WALLS, *textures.TABLES, *textures.FLOORS}, key=lambda f: f.__name__),  # type: ignore[attr-defined]
)
def test_surfaces_are_rich_and_repeatable(surface: textures.Surface) -> None:
    first = surface(np.random.default_rng(5), 90, 130)
    assert first.shape == (90, 130, 3)
    assert first.dtype == np.uint8
    assert first.std() > 3
    assert (surface(np.random.default_rng(5), 90, 130) == first).all()
    assert (surface(np.random.default_rng(6), 90, 130) != first).any()


@pytest.mark.parametrize("family", sorted(objects.FAMILIES))
def test_things_of_a_family_differ(family: str) -> None:
    make = objects.FAMILIES[family]
    one, two = make(np.random.default_rng(1), "ALMA"), make(np.random.default_rng(2), "FJORD")
    assert one.family == family
    assert all(face.dtype == np.uint8 and face.shape[2] == 4 for face in one.faces)
    if one.faces[0].shape == two.faces[0].shape:
        assert np.abs(one.faces[0].astype(int) - two.faces[0]).mean() > 4
    assert (make(np.random.default_rng(1), "ALMA").faces[0] == one.faces[0]).all()


def test_objects_are_named_apart_from_all_else(monkeypatch: pytest.MonkeyPatch) -> None:
    named: list[str] = []

    def make(family: str, seed: tuple[int, ...], name: str) -> artwork.Thing:
        named.append(name)
        return artwork.Thing(family, "sheet", ())

    monkeypatch.setattr(objects, "_thing", make)
    assert len(objects.wanted(7)) == 12
    assert len(set(named)) == 12
    theirs = set(named)
    named.clear()
    assert len(objects.others(7)) == 54
    assert not theirs & set(named)


def plain(solid: str, w: int = 120, h: int = 80) -> artwork.Thing:
    """A thing of one loud colour."""
    face = np.empty((h, w, 4), np.uint8)
    face[:] = (255, 0, 255, 255)
    return artwork.Thing("carton" if solid == "carton" else "poster", solid, (face,) * 4)


def test_rotation_keeps_lengths_and_turns_the_right_way() -> None:
    turn = rotation(Pose(20, -30, 50))
    assert turn @ turn.T == pytest.approx(np.eye(3))
    assert np.linalg.det(turn) == pytest.approx(1)
    assert rotation(Pose(roll=90)) @ [1, 0, 0] == pytest.approx([0, 1, 0])
    assert (rotation(Pose(pitch=20)) @ [0, -1, 0])[2] < 0  # its top turns to the camera


def test_a_sheet_seen_straight_on_keeps_its_size_and_shape() -> None:
    sprite = sprite_of(plain("sheet"), Pose(), 60)
    rows, columns = np.nonzero(sprite[..., 3] > 127)
    assert np.ptp(columns) + 1 == pytest.approx(60, abs=1)
    assert np.ptp(rows) + 1 == pytest.approx(40, abs=1)


def test_turned_things_get_narrower_and_nearer_edges_longer() -> None:
    alpha = sprite_of(plain("sheet"), Pose(yaw=50), 200)[..., 3] > 127
    columns = np.nonzero(alpha.any(0))[0]
    assert len(columns) < 160
    heights = alpha.sum(0)[columns]
    assert abs(int(heights[3]) - int(heights[-4])) > 10


@pytest.mark.parametrize("solid", ["sheet", "carton"])
def test_things_have_no_holes(solid: str) -> None:
    alpha = sprite_of(plain(solid), Pose(30, 20, 10), 150)[..., 3] > 127
    for row in alpha[alpha.any(1)]:
        inside = np.nonzero(row)[0]
        assert row[inside[0] : inside[-1] + 1].all()


def test_a_tin_shows_a_third_of_its_label_and_turns() -> None:
    label = np.zeros((100, 360, 4), np.uint8)
    label[..., 3] = 255
    label[..., 0] = np.arange(360) // 2
    thing = artwork.Thing("tin", "tin", (label,))

    def middle(yaw: float) -> float:
        sprite = sprite_of(thing, Pose(yaw, 10), 100)
        y, x = sprite.shape[0] // 2 + 10, sprite.shape[1] // 2
        lit = 0.5 + 0.5 * 0.75
        return float(sprite[y, x, 0]) / lit * 2

    assert middle(0) == pytest.approx(90, abs=6)
    assert middle(45) == pytest.approx(135, abs=8)


def test_rolled_sprites_keep_their_area() -> None:
    sprite = sprite_of(plain("sheet"), Pose(), 120)
    area = (sprite[..., 3] / 255).sum()
    assert (rolled(sprite, 37)[..., 3] / 255).sum() == pytest.approx(area, rel=0.02)


def test_canvas_knows_what_is_seen() -> None:
    canvas = Canvas(np.zeros((100, 100, 3), np.uint8))
    square = np.full((40, 40, 4), 255, np.uint8)
    canvas.paste(square, 10, 20, owner=1)
    assert canvas.box(1) == (10, 20, 40, 40)
    assert canvas.visible(1) == 1
    canvas.paste(square, 30, 20)
    assert canvas.box(1) == (10, 20, 20, 40)
    assert canvas.visible(1) == 0.5
    canvas.paste(square, 80, -20, owner=2)
    assert canvas.box(2) == (80, 0, 20, 20)
    assert canvas.visible(2) == 0.25
    canvas.paste(square, 200, 0, owner=3)
    assert canvas.box(3) is None
    assert canvas.visible(3) == 0


def test_a_warped_canvas_counts_what_left_the_picture() -> None:
    canvas = Canvas(np.zeros((100, 100, 3), np.uint8))
    canvas.paste(np.full((40, 40, 4), 255, np.uint8), 40, 40, owner=1)
    moved = canvas.warped(np.asarray([[1.0, 0, 40], [0, 1, 0], [0, 0, 1]]), (100, 100))
    assert moved.box(1) == (80, 40, 20, 40)
    assert moved.visible(1) == pytest.approx(0.5)


def test_a_camera_straight_on_moves_the_middle_to_the_middle() -> None:
    matrix = camera((640, 480), (1000, 800), Pose(), 1.0)
    for x, y in ((500, 400), (600, 300)):
        u, v, w = matrix @ [x, y, 1]
        assert (u / w, v / w) == pytest.approx((x - 180, y - 160), abs=1e-3)


@pytest.mark.parametrize("build", [compose.wall, compose.desk, compose.table])
@pytest.mark.parametrize("seed", [1, 2])
def test_owners_are_where_their_colour_is(build: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    item = compose.Placed(plain("carton" if build is compose.table else "sheet"), 200, owner=1)
    canvas = build(rng, (640, 480), [item, compose.Placed(objects.others(7)[8], 150)], 1.0)
    pixels = canvas.pixels.astype(int)
    magenta = (pixels[..., 0] > 120) & (pixels[..., 1] < 40) & (pixels[..., 2] > 120)
    assert magenta.sum() > 2000
    owned = canvas.owner == 1
    assert (magenta & owned).sum() / (magenta | owned).sum() > 0.97
    rows, columns = np.nonzero(magenta)
    x, y, w, h = canvas.box(1)
    assert (x, y, x + w, y + h) == pytest.approx(
        (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1), abs=2
    )


def test_what_is_asked_for_can_be_seen() -> None:
    rest = objects.others(7)
    for seed in range(4):
        things = [(i + 1, item) for i, item in enumerate(objects.wanted(7)) if i in (seed, seed + 4)]
        scene = compose.compose(np.random.default_rng(seed), things, rest)
        assert set(scene.boxes) == {owner for owner, _ in things}
        assert all(min(w, h) > 20 for _, _, w, h in scene.boxes.values())


def test_a_photograph_keeps_size_and_content() -> None:
    picture = textures.brick(np.random.default_rng(0), 120, 160)
    taken = photograph(np.random.default_rng(1), picture, 0.5)
    assert taken.shape == picture.shape
    assert taken.dtype == np.uint8
    assert (taken != picture).any()
    assert (
        np.corrcoef(taken[40:80, 60:100].mean(2).ravel(), picture[40:80, 60:100].mean(2).ravel())[0, 1] > 0.6
    )
