"""Online aggregation against each picture described by itself, with and without files, and as images come and go."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from instsearch_cli.data import FeatureMap, Grid, Query, Vectors, WeightMap
from instsearch_cli.errors import UsageError
from instsearch_plugins.abilities import ClassWeighter
from instsearch_plugins.encoders.cam import CAM
from instsearch_plugins.numeric.cam import class_activation_maps, normalised
from instsearch_plugins.searchers import cam_online, class_vectors
from instsearch_plugins.searchers.cam_online import CamOnline
from instsearch_plugins.searchers.class_vectors import ClassVectors, stretches

CPU = torch.device("cpu")
CHANNELS, CLASSES, PER_BLOCK = 12, 20, 4
GAP = 5e-4


class Maps(ClassWeighter):
    """What the searcher asks of weighting `cam`, with a classifier of its own."""

    def __init__(self, of: int = CHANNELS) -> None:
        self.w = torch.from_numpy(np.random.default_rng(5).standard_normal((CLASSES, of)).astype(np.float32))

    def class_maps(self, features: FeatureMap, classes: torch.Tensor) -> WeightMap:
        source = features.values if features.cam is None else features.cam
        return WeightMap(normalised(class_activation_maps(source, self.w[classes])), features.grid, classes)


class Data:
    """Stored features of made pictures, handed out in blocks; counts the pictures that were read."""

    def __init__(self, n: int, folder: Path | None, cam: int = 0, whiten: bool = True) -> None:
        rng = np.random.default_rng(0)
        shapes = [(3, 4), (4, 3), (2, 5), (1, 1)]
        self.items = []
        for i in range(n):
            h, w = shapes[i % len(shapes)]
            x = rng.standard_normal((h * w, CHANNELS)).clip(min=0).astype(np.float16)
            source = rng.standard_normal((h * w, cam)).astype(np.float16) if cam else None
            self.items.append((h, w, x, source))
        self.folder, self.read_rows = folder, 0
        self.span, self.images = range(n), np.arange(n)
        self.weighter = Maps(cam or CHANNELS)
        self.encoder = CAM(CAM.Config(), CPU)
        state = {}
        if whiten:
            basis = np.linalg.qr(rng.standard_normal((CHANNELS, CHANNELS)))[0][:, :7]
            mean = rng.standard_normal(CHANNELS) / 10
            state = {"mean": mean.astype(np.float32), "projection": basis.astype(np.float32)}
        self.encoder.load(state)

    def cache(self) -> Path | None:
        return self.folder

    def grown(self, n: int) -> None:
        self.span, self.images = range(n), np.arange(n)

    def blocks(self, kind: str, span: range | None = None):
        assert kind == "features"
        span = span or self.span
        for start in range(span.start, span.stop, PER_BLOCK):
            stop = min(start + PER_BLOCK, span.stop)
            items = self.items[start:stop]
            self.read_rows += len(items)
            cells = [h * w for h, w, _, _ in items]
            block = {
                "start": start,
                "stop": stop,
                "values": np.concatenate([x for _, _, x, _ in items]),
                "grid": np.array([(h, w) for h, w, _, _ in items], np.int32),
                "transform": np.tile([8.0, 8.0, 0.0, 0.0], (len(items), 1)),
                "indptr": np.concatenate([[0], np.cumsum(cells)]),
            }
            if items[0][3] is not None:
                block["cam"] = np.concatenate([source for _, _, _, source in items])
            yield block

    def described(self, row: int, classes: list[int]) -> np.ndarray:
        """D of one picture by the encoder alone."""
        h, w, x, source = self.items[row]
        grid = Grid(h, w, (8.0, 8.0, 0.0, 0.0))

        def on_grid(a: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(a.astype(np.float32)).T.reshape(-1, h, w)

        features = FeatureMap(on_grid(x), grid, cam=None if source is None else on_grid(source))
        weights = self.weighter.class_maps(features, torch.tensor(classes))
        return self.encoder.aggregate(features, weights, None).vectors[0].numpy()

    def query(self, row: int, classes: list[int], exclude: frozenset[int] = frozenset()) -> Query:
        codes = Vectors(torch.from_numpy(self.described(row, classes))[None], torch.zeros(1, 4))
        weights = WeightMap(
            torch.ones(len(classes), 1, 1), Grid(1, 1, (1.0, 1.0, 0.0, 0.0)), torch.tensor(classes)
        )
        nothing = SimpleNamespace()
        return Query("q", nothing, None, nothing, nothing, codes, exclude, weights=weights)

    def clear(self, classes: list[int], k: int = 6) -> Query:
        """A query whose best k pictures differ in score by more than what f16 may be off by."""
        queries = (self.query(row, classes) for row in range(len(self.items)))
        return next(q for q in queries if (-np.diff(self.expected(q)[1][: k + 1]) > GAP).all())

    def expected(self, query: Query) -> tuple[np.ndarray, np.ndarray]:
        classes = query.weights.classes.tolist()
        rows = np.array([r for r in self.images.tolist() if r not in query.exclude])
        scores = np.array([self.described(r, classes) @ query.codes.vectors[0].numpy() for r in rows])
        order = np.lexsort((rows, -scores))
        return rows[order], scores[order]


def searcher(**options) -> CamOnline:
    return CamOnline(CamOnline.Config(**options), CPU)


def agrees(data: Data, queries: list[Query], hits, k: int) -> None:
    """The hits are those of pictures described one by one, in their order."""
    for i, query in enumerate(queries):
        rows, scores = data.expected(query)
        assert (-np.diff(scores[: k + 1]) > GAP).all(), "the made data leaves the order open"
        assert hits.images[i].tolist() == rows[:k].tolist()
        np.testing.assert_allclose(hits.scores[i], scores[:k], atol=1e-3)


@pytest.mark.parametrize("cam", [0, 9])
@pytest.mark.parametrize("whiten", [True, False])
@pytest.mark.parametrize("cached", [True, False])
def test_as_pictures_described_one_by_one(tmp_path, cam, whiten, cached):
    data = Data(23, tmp_path if cached else None, cam, whiten)
    queries = [data.clear([4, 7, 1]), data.clear([7, 12]), data.clear([0])]
    queries.append(replace(queries[0], exclude=frozenset({int(data.expected(queries[0])[0][1])})))
    online = searcher()
    agrees(data, queries, online.search(queries, data, 5), 5)
    assert data.read_rows == 23  # one pass for all queries
    agrees(data, queries, online.search(queries, data, 5), 5)
    other = [data.clear([12, 0])]
    agrees(data, other, online.search(other, data, 6), 6)
    assert data.read_rows == 23  # what was computed is known
    assert len(list(tmp_path.iterdir())) == (5 if cached else 0)  # one file a class


def test_files_serve_another_process(tmp_path):
    data = Data(23, tmp_path)
    query = data.query(3, [4, 7])
    first = searcher().search([query], data, 23)
    data.read_rows = 0
    again = searcher().search([query], data, 23)
    assert data.read_rows == 0
    np.testing.assert_array_equal(first.images, again.images)
    np.testing.assert_array_equal(first.scores, again.scores)
    other = Data(23, None)
    without = searcher(memory=0)
    for _ in range(2):
        hits = without.search([query], other, 23)
        np.testing.assert_array_equal(first.images, hits.images)
        np.testing.assert_allclose(first.scores, hits.scores, atol=1e-6)
    assert other.read_rows == 46  # nowhere to keep anything


def test_added_images_add_files_and_removed_ones_change_none(tmp_path):
    data = Data(23, tmp_path)
    query = data.clear([4, 7])
    data.grown(15)
    searcher().search([query], data, 5)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    data.grown(23)
    data.read_rows = 0
    agrees(data, [query], searcher().search([query], data, 5), 5)
    assert data.read_rows == 8
    data.images = np.delete(data.images, [0, 3, 20])
    agrees(data, [query], searcher().search([query], data, 5), 5)
    assert data.read_rows == 8
    after = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(after) == 4
    assert before.items() <= after.items()


def test_only_the_classes_that_lack_are_computed(tmp_path, monkeypatch):
    data = Data(23, tmp_path)
    asked = []
    class_maps = data.weighter.class_maps
    monkeypatch.setattr(
        data.weighter, "class_maps", lambda f, c: asked.append(c.tolist()) or class_maps(f, c), raising=True
    )
    searcher().search([data.query(3, [4, 7])], data, 5)
    query = data.clear([7, 2, 4])
    asked.clear()
    hits = searcher().search([query], data, 5)
    assert asked == [[2]] * 23
    agrees(data, [query], hits, 5)


def spoilt(path: Path, how: str) -> None:
    vectors = np.load(path)
    if how == "text":
        path.write_bytes(b"no array")
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-5])
    elif how == "dtype":
        np.save(path, vectors.astype(np.float32))
    elif how == "shape":
        np.save(path, vectors[:-1])
    elif how == "objects":
        np.save(path, np.array([{"a": 1}], object), allow_pickle=True)
    else:
        vectors[2, 3] = {"nan": np.nan, "inf": np.inf}[how]
        np.save(path, vectors)


@pytest.mark.parametrize("how", ["text", "empty", "cut", "dtype", "shape", "objects", "nan", "inf"])
def test_a_file_that_does_not_fit_is_made_again(tmp_path, how):
    data = Data(23, tmp_path)
    query = data.query(3, [4, 7])
    first = searcher().search([query], data, 23)
    path = next(tmp_path.glob("00007-*"))
    sound = path.read_bytes()
    spoilt(path, how)
    data.read_rows = 0
    again = searcher().search([query], data, 23)
    assert data.read_rows == 23
    np.testing.assert_array_equal(first.scores, again.scores)
    assert path.read_bytes() == sound


def test_files_come_as_the_search_goes_and_a_full_disk_does_not_end_it(tmp_path, monkeypatch):
    monkeypatch.setattr(cam_online, "WRITTEN", 1)  # a file for each block
    data = Data(23, tmp_path)
    query = data.clear([4, 7])
    save, saved = np.save, []

    def full(file, array, **options):
        if len(saved) == 4:
            raise OSError(28, "No space left on device")
        saved.append(len(array))
        save(file, array, **options)

    monkeypatch.setattr(class_vectors.np, "save", full)  # type: ignore[attr-defined]
    online = searcher()
    agrees(data, [query], online.search([query], data, 5), 5)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        f"{c:05d}-{a:010d}-{a + 4:010d}.npy" for c in (4, 7) for a in (0, 4)
    ]
    agrees(data, [query], online.search([query], data, 5), 5)
    assert data.read_rows == 23  # the rest is in memory


def test_memory_is_bounded():
    vectors = np.ones((10, 8), np.float16)  # 160 bytes
    store = ClassVectors(None, 8, 400)
    for c in range(4):
        store.add(c, range(10), vectors)
    assert [c for c in range(4) if not store.missing(c, range(10))] == [0, 1]
    store.make_room()  # at most half is left: one of them
    assert [c for c in range(4) if not store.missing(c, range(10))] == [1]
    store.make_room()
    assert [c for c in range(4) if not store.missing(c, range(10))] == [1]


def test_ranges_that_are_missing(tmp_path):
    store = ClassVectors(tmp_path, 2, 0)
    for span in (range(5, 10), range(12, 14), range(8, 13)):
        store.add(3, span, np.repeat(np.arange(span.start, span.stop), 2).reshape(-1, 2).astype(np.float16))
    assert store.missing(3, range(20)) == [range(5), range(14, 20)]
    assert store.missing(3, range(6, 14)) == []
    assert store.missing(3, range(3)) == [range(3)]
    assert store.missing(4, range(2)) == [range(2)]
    assert store.read(3, range(6, 14))[:, 1].tolist() == list(range(6, 14))
    missing = {1: [range(2, 6)], 2: [range(4, 10)], 3: []}
    assert list(stretches(range(10), missing)) == [
        (range(2), []),
        (range(2, 4), [1]),
        (range(4, 6), [1, 2]),
        (range(6, 10), [2]),
    ]


def test_a_changed_bit_of_a_file_costs_no_more_than_the_file(tmp_path):
    vectors = np.arange(40, dtype=np.float16).reshape(20, 2)
    ClassVectors(tmp_path, 2, 0).add(3, range(20), vectors)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    np.testing.assert_array_equal(ClassVectors(tmp_path, 2, 0).read(3, range(20)), vectors)
    for changed in (whole[:-60] + bytes([whole[-60] ^ 1]) + whole[-59:], whole[:-8], whole + b"0"):
        path.write_bytes(changed)
        assert ClassVectors(tmp_path, 2, 0).missing(3, range(20)) == [range(20)]


def test_pieces_do_not_matter(tmp_path, monkeypatch):
    data = Data(23, tmp_path)
    queries = [data.query(3, [4, 7]), data.query(2, [4])]
    whole = searcher().search(queries, data, 9)
    monkeypatch.setattr(cam_online, "PIECE", 50)
    pieces = searcher().search(queries, data, 9)
    np.testing.assert_array_equal(whole.images, pieces.images)
    np.testing.assert_array_equal(whole.scores, pieces.scores)


def test_a_picture_without_cells_or_response_scores_nothing():
    data = Data(8, None)
    data.items[2] = (0, 0, np.zeros((0, CHANNELS), np.float16), None)
    data.items[5] = (2, 2, np.zeros((4, CHANNELS), np.float16), None)
    query = data.query(3, [4, 7])
    hits = searcher().search([query], data, 8)
    scores = dict(zip(hits.images[0].tolist(), hits.scores[0].tolist(), strict=True))
    assert scores[2] == scores[5] == 0
    assert scores[3] == pytest.approx(1, abs=1e-3)
    assert hits.images[0].tolist().index(2) + 1 == hits.images[0].tolist().index(5)  # ties by row


def test_equal_pictures_come_by_row(tmp_path):
    data = Data(23, tmp_path)
    for row in (21, 10, 17):
        data.items[row] = data.items[4]
    online = searcher()
    for _ in range(2):
        hits = online.search([data.query(4, [4, 7, 9])], data, 5)
        assert hits.images[0, :4].tolist() == [4, 10, 17, 21]
        assert len(set(hits.scores[0, :4].tolist())) == 1


def test_threads_are_given_back():
    data = Data(8, None)
    before = torch.get_num_threads()
    searcher().search([data.query(3, [4])], data, 2)
    assert torch.get_num_threads() == before


def test_what_it_needs_is_named():
    data = Data(8, None)
    query = data.query(3, [4, 7])
    bare = Query("q", SimpleNamespace(), None, SimpleNamespace(), SimpleNamespace(), query.codes)
    with pytest.raises(UsageError, match="--weighting cam"):
        searcher().search([bare], data, 2)
    data.weighter = None
    with pytest.raises(UsageError, match="--weighting cam"):
        searcher().search([query], data, 2)
    data.encoder = SimpleNamespace()
    with pytest.raises(UsageError, match="--encoder cam"):
        searcher().search([query], data, 2)
    data.encoder = CAM(CAM.Config(cams=False), CPU)
    with pytest.raises(UsageError, match="cams=true"):
        searcher().search([query], data, 2)
    with pytest.raises(ValueError, match="negative"):
        CamOnline.Config(memory=-1)


def test_keypoints_and_several_sizes_are_refused(monkeypatch):
    data = Data(8, None)
    query = data.query(3, [4])
    for odd in ({"geometry": np.zeros((1, 4))}, {}):
        block = {"start": 0, "stop": 8, "values": np.zeros((1, 2)), "indptr": np.zeros(9), **odd}
        monkeypatch.setattr(data, "blocks", lambda kind, span, block=block: iter([block]))
        with pytest.raises(UsageError, match="one size"):
            searcher().search([query], data, 2)
