"""The collections' ground-truth files: the real ones counted, and small ones in every layout."""

from __future__ import annotations

import pickle  # noqa: TID251  (to write what others hand out)
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from instsearch_cli.components import Dataset
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_plugins.datasets.instre import Instre
from instsearch_plugins.datasets.oxford_paris import CORRUPT, Oxford5k, Oxford105k, Paris6k, Paris106k
from instsearch_plugins.datasets.revisited import ROxford5k, RParis6k

PROTOCOLS = Path(__file__).parents[2] / "../shared/data/protocols"
real = pytest.mark.skipif(not PROTOCOLS.exists(), reason="the real ground-truth files are not at hand")


def real_one(cls: Any, file: str, root: Path, **options: Any) -> Any:
    return cls(cls.Config(ground_truth=str(PROTOCOLS / file), **options), root)


# -- the real files ---------------------------------------------------------------------------------------


@real
def test_instre_as_it_is(tmp_path: Path) -> None:
    dataset = real_one(Instre, "gnd_instre.mat", tmp_path)
    images = [ref.name for ref in dataset.images()]
    queries = dataset.queries()
    assert (len(images), len(set(images)), len(queries)) == (27293, 27293, 1250)
    assert not {q.id for q in queries} & set(images)
    positives = [dataset.relevance(q).good for q in queries]
    assert sum(map(len, positives)) == 241250
    assert (min(map(len, positives)), max(map(len, positives))) == (95, 382)
    assert queries[0].image == tmp_path / "INSTRE-S1/01a_canada_book/013.jpg"
    assert queries[0].box == (326, 219, 670, 493)
    boxes = np.array([q.box for q in queries])
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert boxes.max() <= 1000  # the longest side of an INSTRE image: corners
    assert (boxes[:, 0] + boxes[:, 2] > 1000).sum() == 600  # so that x, y, w, h is impossible
    for query, names in zip(queries, positives, strict=True):
        subset, folder, _ = query.id.split("/")
        assert {n.split("/")[1] for n in names if n.startswith(subset)} == {folder}


@real
def test_instre_one_place_too_far(tmp_path: Path) -> None:
    right = real_one(Instre, "gnd_instre.mat", tmp_path)
    dataset = real_one(Instre, "gnd_instre.mat", tmp_path, legacy_offset=True)
    images = [ref.name for ref in right.images()]
    after = dict(zip(images, [*images[1:], "(after the last)"], strict=True))
    for query in right.queries()[::50]:
        assert dataset.relevance(query).good == {after[name] for name in right.relevance(query).good}
    beyond = [q.id for q in right.queries() if "(after the last)" in dataset.relevance(q).good]
    assert len(beyond) == sum(images[-1] in right.relevance(q).good for q in right.queries()) > 0
    assert "salbow" in dataset.protocol


@real
@pytest.mark.parametrize(
    ("cls", "file", "images", "positives", "junk", "id", "image", "box"),
    [
        (Oxford5k, "gnd_oxford5k.mat", 5062, 2840, 1495, "all_souls_1", "all_souls_000013", (136.5, 34.1)),
        (Paris6k, "gnd_paris6k.mat", 6392, 8955, 8245, "defense_1", "paris_defense_000605", (130, 17)),
    ],
)
def test_oxford_and_paris_as_they_are(
    tmp_path: Path,
    cls: Any,
    file: str,
    images: int,
    positives: int,
    junk: int,
    id: str,
    image: str,
    box: tuple[float, float],
) -> None:
    dataset = real_one(cls, file, tmp_path)
    names = {ref.name for ref in dataset.images()}
    assert len(names) == len(dataset.images()) == dataset.size == images == cls.size
    assert not names & CORRUPT
    judged = [dataset.relevance(q) for q in dataset.queries()]
    assert len({q.id for q in dataset.queries()}) == 55
    assert sum(len(j.good) for j in judged) == positives
    assert sum(len(j.junk) for j in judged) == junk
    for query, j in zip(dataset.queries(), judged, strict=True):
        assert query.image.stem in j.good
        assert not j.good & j.junk
        assert not j.exclude
        x1, y1, x2, y2 = query.box
        assert 0 <= x1 < x2 <= 1024
        assert 0 <= y1 < y2 <= 1024
    first = dataset.queries()[0]
    assert (first.id, first.image.stem, first.box[:2]) == (id, image, box)


def test_the_files_of_paris_that_do_not_decode() -> None:
    assert len(CORRUPT) == 6412 - 6392
    assert {"paris_louvre_000136", "paris_museedorsay_001059", "paris_triomphe_000867"} <= CORRUPT


@real
@pytest.mark.parametrize(
    ("cls", "file", "why"),
    [
        (Oxford5k, "gnd_paris6k.mat", "'paris_defense_000000' is no image of that collection"),
        (Paris106k, "gnd_oxford5k.mat", "'all_souls_000000' is no image of that collection"),
        (Oxford5k, "gnd_instre.mat", "no 'qidx'"),
        (Instre, "gnd_oxford5k.mat", "no 'qimlist'"),
        (ROxford5k, "gnd_oxford5k.mat", "no 'qimlist'"),
    ],
)
def test_the_truth_of_another_protocol(tmp_path: Path, cls: Any, file: str, why: str) -> None:
    with pytest.raises(InstsearchError, match=f"{file} is not the ground truth of {cls.name}: .*{why}"):
        real_one(cls, file, tmp_path)


# -- small ones -------------------------------------------------------------------------------------------

OXFORD = [f"{landmark}_{i:06}" for landmark in ("all_souls", "oxford") for i in range(4)]
PARIS = [f"paris_{landmark}_{i:06}" for landmark in ("defense", "louvre") for i in range(133, 137)]


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def cells(values: list[Any]) -> np.ndarray:
    """MATLAB's cell array."""
    out = np.empty((1, len(values)), object)
    out[0, :] = values
    return out


def structs(entries: list[dict[str, Any]]) -> np.ndarray:
    """MATLAB's array of structs."""
    out = np.empty((1, len(entries)), [(key, object) for key in entries[0]])
    for i, entry in enumerate(entries):
        out[0, i] = tuple(entry.values())
    return out


def numbers(*values: int) -> np.ndarray:
    return np.array(values, np.uint8).reshape(1, -1)


def write_text(folder: Path, names: list[str], prefix: str = "oxc1_", id: str = "all_souls_1") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{id}_query.txt").write_text(f"{prefix}{names[0]} 10.5 20 210 240.25\n")
    (folder / f"{id}_good.txt").write_text(f"{names[0]}\n{names[1]}\n")
    (folder / f"{id}_ok.txt").write_text(f"{names[4]}\n")
    (folder / f"{id}_junk.txt").write_text(f"{names[5]}\r\n{names[7]}")


def write_mat(path: Path, names: list[str], **changes: Any) -> None:
    """The same as :func:`write_text`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bbx = np.array([[10.5, 20, 210, 240.25]])
    entry = {"ok": numbers(1, 2, 5), "junk": numbers(6, 8), "bbx": bbx} | changes
    scipy.io.savemat(path, {"imlist": cells(names).T, "gnd": structs([entry]).T, "qidx": numbers(1)})


def judged(dataset: Dataset) -> list[Any]:
    return [(q.id, q.image, q.box, dataset.relevance(q)) for q in dataset.queries()]


@pytest.mark.parametrize("below", ["", "jpg", "a/b"])
@pytest.mark.parametrize("where", ["", "gt", "gt_files_170407"])
def test_oxford_in_text_and_in_matlab_is_the_same(tmp_path: Path, below: str, where: str) -> None:
    for kind in ("text", "mat"):
        touch(tmp_path / kind / below, *(f"{name}.jpg" for name in OXFORD), "thumbs.db", "note_000001.jpg")
        touch(tmp_path / kind / "oxc1_100k/oxford", "oxford_000001.jpg")
    write_text(tmp_path / "text" / where, OXFORD)
    write_mat(tmp_path / "mat" / where / "gnd_oxford5k.mat", OXFORD)
    text, mat = (Oxford5k(Oxford5k.Config(), tmp_path / kind) for kind in ("text", "mat"))
    for dataset, kind in ((text, "text"), (mat, "mat")):
        assert isinstance(dataset, Dataset)
        assert [ref.name for ref in dataset.images()] == OXFORD
        assert all(ref.path == tmp_path / kind / below / f"{ref.name}.jpg" for ref in dataset.images())
        [(id, image, box, relevance)] = judged(dataset)
        assert (id, image, box) == ("all_souls_1", dataset.images()[0].path, (10.5, 20, 210, 240.25))
        assert relevance.good | relevance.ok == {OXFORD[0], OXFORD[1], OXFORD[4]}
        assert relevance.junk == {OXFORD[5], OXFORD[7]}
    assert (text.size, mat.size) == (5062, 8)  # the text names no others, but there should be more


def test_images_that_the_lists_name_are_wanted(tmp_path: Path) -> None:
    touch(tmp_path, "jpg/oxford_000009.jpg", "jpg/all_souls_000000.jpg")
    write_text(tmp_path / "gt", OXFORD)
    named = {ref.name: ref.path.exists() for ref in Oxford5k(Oxford5k.Config(), tmp_path).images()}
    assert [n for n, there in named.items() if there] == ["all_souls_000000", "oxford_000009"]
    assert {n for n, there in named.items() if not there} == {OXFORD[1], OXFORD[4], OXFORD[5], OXFORD[7]}


def test_corrupt_files_of_paris_are_left_out(tmp_path: Path) -> None:
    assert PARIS[7] in CORRUPT
    for i, name in enumerate(PARIS):
        touch(tmp_path / f"paris_{i % 2 + 1}" / name.split("_")[1], f"{name}.jpg")
    write_text(tmp_path / "paris_120310", PARIS, prefix="", id="defense_1")
    (tmp_path / "paris_120310" / "defense_1_ok.txt").write_text(f"{PARIS[4]}\n{PARIS[7]}\n")
    dataset = Paris6k(Paris6k.Config(), tmp_path)
    assert [ref.name for ref in dataset.images()] == PARIS[:7]
    assert all(ref.path.exists() for ref in dataset.images())
    [(_, _, _, relevance)] = judged(dataset)
    assert relevance.ok == {PARIS[4]}
    assert relevance.junk == {PARIS[5]}


def test_distractors_join_the_collection(tmp_path: Path) -> None:
    touch(tmp_path / "jpg", *(f"{name}.jpg" for name in OXFORD))
    write_mat(tmp_path / "gnd_oxford5k.mat", OXFORD)
    with pytest.raises(InstsearchError, match=r"no distractors .* oxford105k wants Flickr100k"):
        Oxford105k(Oxford105k.Config(), tmp_path)
    touch(tmp_path / "oxc1_100k", "a/b/1.jpg", "a/2.JPG", "3.png", "list.txt", OXFORD[0] + ".jpg")
    dataset = Oxford105k(Oxford105k.Config(), tmp_path)
    extra = [ref.name for ref in dataset.images()[8:]]
    assert sorted(extra) == [
        f"distractors/{n}" for n in ("3.png", "a/2.JPG", "a/b/1.jpg", f"{OXFORD[0]}.jpg")
    ]
    assert dataset.size == len(dataset.images()) == 12
    assert judged(dataset) == judged(Oxford5k(Oxford5k.Config(), tmp_path))
    touch(tmp_path / "else", "9.jpg")
    other = Oxford105k(Oxford105k.Config(distractors="else"), tmp_path)
    assert [ref.path for ref in other.images()[8:]] == [tmp_path / "else/9.jpg"]
    whole = Oxford105k(Oxford105k.Config(distractors=str(tmp_path)), tmp_path)  # not the collection twice
    assert len(whole.images()) == 8 + 4 + 1
    with pytest.raises(InstsearchError, match="there is no nowhere"):
        Oxford105k(Oxford105k.Config(distractors="nowhere"), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ok": numbers(1, 9)}, "image number 9 of 8"),
        ({"ok": numbers(0, 1)}, "image number 0 of 8"),
        ({"ok": np.array([[1.5]])}, "wanted numbers of images"),
        ({"junk": np.array([["x"]])}, "wanted numbers of images"),
        ({"bbx": np.array([[10, 20, 5, 40]], np.uint8)}, "10,20,5,40 has no area"),
        ({"bbx": np.array([[10, 20, 30]])}, "a box is x1, y1, x2, y2"),
    ],
)
def test_wrong_truth_is_said_so(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_mat(tmp_path / "gnd_oxford5k.mat", OXFORD, **changes)
    with pytest.raises(InstsearchError, match=f"gnd_oxford5k.mat.*{message}"):
        Oxford5k(Oxford5k.Config(), tmp_path)


def test_what_is_not_there_is_said_with_its_source(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="oxford5k needs --root"):
        Oxford5k(Oxford5k.Config(), None)
    with pytest.raises(UsageError, match="not a folder"):
        Instre(Instre.Config(), tmp_path / "nowhere")
    for cls, wanted in (
        (Instre, r"gnd_instre\.mat, from ftp\.irisa\.fr"),
        (Paris6k, r"gnd_paris6k\.mat or \*_query\.txt, from https://www\.robots"),
        (RParis6k, r"gnd_rparis6k\.pkl or gnd_rparis6k\.mat, from http://cmp"),
    ):
        with pytest.raises(InstsearchError, match=rf"wanted {wanted}") as caught:
            cls(cls.Config(), tmp_path)
        assert "--set dataset.ground_truth=PATH" in str(caught.value)
    (tmp_path / "gnd_oxford5k.mat").write_bytes(b"MATLAB no")
    with pytest.raises(InstsearchError, match="is not a MATLAB file"):
        Oxford5k(Oxford5k.Config(), tmp_path)
    with pytest.raises(InstsearchError, match="the ground truth of roxford5k is"):
        ROxford5k(ROxford5k.Config(ground_truth=str(Path(__file__))), tmp_path)
    write_text(tmp_path / "gt", OXFORD)
    (tmp_path / "gt" / "all_souls_1_ok.txt").unlink()
    with pytest.raises(InstsearchError, match=r"cannot read .*all_souls_1_ok\.txt"):
        Oxford5k(Oxford5k.Config(ground_truth="gt"), tmp_path)


def test_two_images_of_one_name(tmp_path: Path) -> None:
    touch(tmp_path, "jpg/oxford_000001.jpg", "small/oxford_000001.jpg")
    write_mat(tmp_path / "gnd_oxford5k.mat", OXFORD)
    with pytest.raises(InstsearchError, match="two images are called oxford_000001"):
        Oxford5k(Oxford5k.Config(), tmp_path)
    elsewhere = Oxford5k.Config(ground_truth=str(tmp_path / "gnd_oxford5k.mat"))
    assert sum(ref.path.exists() for ref in Oxford5k(elsewhere, tmp_path / "jpg").images()) == 1


def test_revisited_from_a_pickle_and_from_matlab(tmp_path: Path) -> None:
    touch(tmp_path / "jpg", *(f"{name}.jpg" for name in OXFORD))
    names, queries = OXFORD[2:], OXFORD[:2]
    lists = [
        {"easy": [0, 1], "hard": [2], "junk": [3]},
        {"easy": [], "hard": [5], "junk": [0, 4]},
    ]
    boxes = [[1.5, 2, 30, 40.0], [100, 200, 255, 250]]
    entries = [
        {label: np.array(v, np.int64) for label, v in entry.items()} | {"bbx": box}
        for entry, box in zip(lists, boxes, strict=True)
    ]
    table = {"imlist": names, "qimlist": queries, "gnd": entries}
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / f"{protocol}.pkl").write_bytes(pickle.dumps(table, protocol))
    counted_from_1 = [
        {label: np.array([v], np.uint16) + 1 for label, v in entry.items()}
        | {"bbx": np.array([box], np.uint8 if i else np.float64)}
        for i, (entry, box) in enumerate(zip(lists, boxes, strict=True))
    ]
    plain = {"imlist": cells(names), "qimlist": cells(queries), "gnd": structs(counted_from_1)}
    scipy.io.savemat(tmp_path / "gnd_roxford5k.mat", plain)
    for file in ("gnd_roxford5k.mat", *(f"{p}.pkl" for p in range(pickle.HIGHEST_PROTOCOL + 1))):
        dataset = ROxford5k(ROxford5k.Config(ground_truth=file), tmp_path)
        assert isinstance(dataset, Dataset)
        assert dataset.settings == ("easy", "medium", "hard")
        assert [ref.name for ref in dataset.images()] == names
        first, second = dataset.queries()
        assert (first.id, first.image, first.box) == (
            queries[0],
            tmp_path / "jpg" / f"{queries[0]}.jpg",
            (1.5, 2, 30, 40),
        )
        assert second.box == (100, 200, 255, 250)
        at = {
            setting: [
                sorted(names.index(n) for n in group)
                for query in (first, second)
                for group in (
                    dataset.relevance(query, setting).good,
                    dataset.relevance(query, setting).junk,
                )
            ]
            for setting in dataset.settings
        }
        assert at == {
            "easy": [[0, 1], [2, 3], [], [0, 4, 5]],
            "medium": [[0, 1, 2], [3], [5], [0, 4]],
            "hard": [[2], [0, 1, 3], [5], [0, 4]],
        }
        assert dataset.relevance(first) == dataset.relevance(first, "medium")


def test_revisited_refuses_the_older_protocol_and_the_other_city(tmp_path: Path) -> None:
    table: dict[str, Any] = {
        "imlist": OXFORD[1:],
        "qimlist": OXFORD[:1],
        "gnd": [{"ok": [0], "bbx": [0, 0, 1, 1]}],
    }
    (tmp_path / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(table))
    with pytest.raises(InstsearchError, match="not the ground truth of roxford5k: it has no 'easy'"):
        ROxford5k(ROxford5k.Config(), tmp_path)
    with pytest.raises(InstsearchError, match="'all_souls_000001' is no image of that collection"):
        RParis6k(RParis6k.Config(ground_truth="gnd_roxford5k.pkl"), tmp_path)
    for wrong in (
        [1, 2],
        {"gnd": 3, "imlist": [], "qimlist": []},
        {"gnd": [3], "imlist": [], "qimlist": ["x"]},
    ):
        (tmp_path / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(wrong))
        with pytest.raises(InstsearchError, match="not the ground truth of roxford5k"):
            ROxford5k(ROxford5k.Config(), tmp_path)


def test_boxes_of_instre_follow_the_query(tmp_path: Path) -> None:
    images = [
        "INSTRE-S1/01a_book/001.jpg",
        "INSTRE-S1/01b_panda/001.jpg",
        "INSTRE-M/01/001.jpg",
        "INSTRE-S2/Ali/1.jpg",
    ]
    queries = ["INSTRE-S1/01a_book/002.jpg", "INSTRE-S1/01b_panda/002.jpg", "INSTRE-M/01/002.jpg"]
    entry = {"ok": numbers(1, 3), "bbx": np.array([[200, 20, 250, 90]], np.uint8)}
    table = {"imlist": cells(images), "qimlist": cells(queries), "gnd": structs([entry] * 3)}
    scipy.io.savemat(tmp_path / "gnd_instre.mat", table)
    for name, text in {images[0]: "1 2 3 4\n", images[2]: "10 20 30 40\r\n100 5 10 10\r\n\r\n"}.items():
        touch(tmp_path, name)
        (tmp_path / name).with_suffix(".txt").write_text(text)
    dataset = Instre(Instre.Config(), tmp_path)
    assert isinstance(dataset, Dataset)
    a, b, both = dataset.queries()
    assert a.box == (200, 20, 250, 90)
    assert dataset.boxes_of(a, images[0]) == dataset.boxes_of(both, images[0]) == [(1, 2, 4, 6)]
    assert dataset.boxes_of(a, images[2]) == [(10, 20, 40, 60)]
    assert dataset.boxes_of(b, images[2]) == [(100, 5, 110, 15)]
    assert dataset.boxes_of(both, images[2]) == [(10, 5, 110, 60)]
    assert dataset.boxes_of(a, images[1]) == []
    assert dataset.boxes() == {images[0]: [(1, 2, 4, 6)], images[2]: [(10, 20, 40, 60), (100, 5, 110, 15)]}
    (tmp_path / images[0]).with_suffix(".txt").write_text("1 2 3\n")
    with pytest.raises(InstsearchError, match=r"001\.txt: wanted lines of x y w h"):
        dataset.boxes_of(a, images[0])
