"""Instance-160, Instance-335 and Holidays: small ones in their layouts, and files that are none of theirs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from instsearch_cli.components import Dataset
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_plugins.datasets.holidays import Holidays
from instsearch_plugins.datasets.instance import Instance160, Instance335
from instsearch_plugins.datasets.layout import TEXT_LIMIT


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


# -- Instance-160 and Instance-335 ------------------------------------------------------------------------


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """Two videos of three and four frames: the first of each is the query."""
    touch(tmp_path, *(f"Images/Woman/Woman_{i:04}.jpg" for i in range(1, 4)))
    touch(tmp_path, *(f"Images/Car_b/Car_b_{i:04}.jpg" for i in range(1, 5)), "Images/notes.txt", "cover.jpg")
    (tmp_path / "bbox").mkdir()
    woman = "Woman_0001\t10 20 30 40\t\r\nWoman_0002 0 0 5 6\r\n\r\nWoman_0003 0 0 0 0\r\n"
    (tmp_path / "bbox/Woman.txt").write_text(woman)
    car = "Car_b_0001 1 2 3 4.5\nCar_b_0002 1 1 2 2\nCar_b_0003 2 2 2 2\nCar_b_0004 nan nan nan nan\n"
    (tmp_path / "bbox/Car_b.txt").write_text(car)
    lists = (
        "Woman_0001 3 Woman_0001 Woman_0002 Woman_0003\nCar_b_0001\t3\tCar_b_0002\tCar_b_0003\tCar_b_0004\n"
    )
    (tmp_path / "Ins160-mAP.txt").write_text(lists)
    return tmp_path


def judged(dataset: Dataset) -> dict[str, set[str]]:
    return {query.id: set(dataset.relevance(query).good) for query in dataset.queries()}


def test_instance160(frames: Path) -> None:
    dataset = Instance160(Instance160.Config(), frames)
    assert isinstance(dataset, Dataset)
    assert (dataset.name, dataset.size, dataset.tops) == ("instance160", 11885, (10, 20, 50, 100))
    names = ["Car_b_0002", "Car_b_0003", "Car_b_0004", "Woman_0002", "Woman_0003"]  # no query among them
    assert [ref.name for ref in dataset.images()] == names
    assert all(ref.path.is_file() for ref in dataset.images())
    woman, car = dataset.queries()
    assert (woman.id, woman.image, woman.box) == (
        "Woman_0001",
        frames / "Images/Woman/Woman_0001.jpg",
        (10, 20, 40, 60),
    )
    assert car.box == (1, 2, 4, 6.5)
    assert judged(dataset) == {"Woman_0001": {"Woman_0002", "Woman_0003"}, "Car_b_0001": set(names[:3])}
    relevance = dataset.relevance(woman)
    assert relevance.ok | relevance.junk | relevance.exclude == frozenset()
    assert dataset.boxes() == {  # frames without the object have none
        "Woman_0002": [(0, 0, 5, 6)],
        "Car_b_0002": [(1, 1, 3, 3)],
        "Car_b_0003": [(2, 2, 4, 4)],
    }


def test_instance335_elsewhere_and_with_paths(frames: Path) -> None:
    truth = frames / "other.txt"
    text = (frames / "Ins160-mAP.txt").read_text()
    truth.write_text(text.replace("Woman_0", "/data/x.y/Woman/Woman_0").replace("0002", "0002.jpg"))
    (frames / "bbox").rename(frames / "merge_bbox")
    (frames / "Images").rename(frames / "deep")
    dataset = Instance335(Instance335.Config(ground_truth="other.txt"), frames)
    assert (dataset.name, dataset.size) == ("instance335", 40914)
    (frames / "Ins160-mAP.txt").rename(frames / "Ins335-mAP.txt")
    same = Instance335(Instance335.Config(), frames)
    assert dataset.images() == same.images()
    assert dataset.queries() == same.queries()
    assert judged(dataset) == judged(same)


def test_query_images_of_others_are_no_positives(frames: Path) -> None:
    lists = "Woman_0001 3 Woman_0002 Car_b_0001 Car_b_0002\nCar_b_0001 2 Car_b_0002 Car_b_0003\n"
    (frames / "Ins160-mAP.txt").write_text(lists)
    found = judged(Instance160(Instance160.Config(), frames))
    assert found["Woman_0001"] == {"Woman_0002", "Car_b_0002"}


def test_images_that_are_not_there_have_a_place(frames: Path) -> None:
    (frames / "Images/Car_b/Car_b_0002.jpg").unlink()
    (frames / "Images/Woman/Woman_0001.jpg").unlink()
    with (frames / "Ins160-mAP.txt").open("a") as file:
        file.write("Bird_0001 1 Bird_0007\n")
    (frames / "bbox/Bird.txt").write_text("Bird_0001 0 0 4 4\n")
    dataset = Instance160(Instance160.Config(), frames)
    gone = [str(ref.path.relative_to(frames)) for ref in dataset.images() if not ref.path.exists()]
    assert gone == ["Images/Car_b/Car_b_0002.jpg", "Images/Bird/Bird_0007.jpg"]
    absent = [q.image for q in dataset.queries() if not q.image.exists()]
    assert absent == [frames / "Images/Woman/Woman_0001.jpg", frames / "Images/Bird/Bird_0001.jpg"]


@pytest.mark.parametrize("name", ["Änne Zoë_0002", "v.1_0002", "视频_0002", "a'b\"c_0002", "bad\udcff_0002"])
def test_names_of_any_kind(frames: Path, name: str) -> None:
    path = frames / "Images/Woman" / f"{name}.JPG"
    try:
        (frames / "Images/Woman/Woman_0002.jpg").rename(path)
    except OSError:
        pytest.skip("the file system takes no such name")
    boxes = f"\ufeffWoman_0001 10 20 30 40\n{name} 0 0 5 6\n"
    (frames / "bbox/Woman.txt").write_bytes(boxes.encode("utf-8", "surrogateescape"))
    word = "Woman_0003" if " " in name else name  # words of the map file are apart by spaces
    lists = f"Woman_0001 1 {word}\nCar_b_0001 1 Car_b_0002\n"
    (frames / "Ins160-mAP.txt").write_bytes(lists.encode("utf-8", "surrogateescape"))
    dataset = Instance160(Instance160.Config(), frames)
    [ref] = [ref for ref in dataset.images() if ref.path == path]
    ref.name.encode("utf-8")  # it can be printed
    assert dataset.boxes()[ref.name] == [(0, 0, 5, 6)]
    if " " not in name:
        assert judged(dataset)["Woman_0001"] == {ref.name}


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("bbox/Woman.txt", "Woman_0001 1 2 3\n", r"Woman\.txt, line 1: wanted an image and x y w h"),
        ("bbox/Woman.txt", "\nWoman_0001 1 2 3 x\n", r"Woman\.txt, line 2: wanted an image and x y w h"),
        ("bbox/Woman.txt", "Woman_0001 1 2 0 4\n", r"line 1: the box of query 'Woman_0001' has no area"),
        ("bbox/Woman.txt", "Woman_0001 1 2 inf 4\n", r"line 1: the box of query 'Woman_0001' has no area"),
        ("bbox/Woman.txt", "Woman_0001 1 1 1 1\nCar_b_0002 1 1 1 1", r"another line of image 'Car_b_0002'"),
        ("bbox/Woman.txt", "Woman_0001 1 1 1 1\0", r"is not a text file"),
        ("bbox/Other.txt", "Bird_0001 1 1 1 1\n", r"it lacks 'Bird_0001', the first line of a file in"),
        ("bbox/Woman.txt", "Woman_0002 1 1 1 1\n", r"its query 'Woman_0001' is the first line of no file"),
        ("Ins160-mAP.txt", "Woman_0001 1 Woman_0002\n", r"it lacks 'Car_b_0001'"),
        ("Ins160-mAP.txt", "Woman_0001\n", r"line 1: wanted a query, the number of its references"),
        (
            "Ins160-mAP.txt",
            "Woman_0001 Woman_0002\n",
            r"line 1: wanted a query, the number of its references",
        ),
        ("Ins160-mAP.txt", "Woman_0001 74 Woman_0002\n", r"line 1: wanted a query, the number"),
        ("Ins160-mAP.txt", "Woman_0001 1 a\nWoman_0001 1 b\n", r"line 2: there is another line of query"),
        ("Ins160-mAP.txt", "\n\n", r"has no queries"),
    ],
)
def test_files_of_another_kind_are_said_so(frames: Path, file: str, text: str, message: str) -> None:
    (frames / file).write_text(text)
    with pytest.raises(InstsearchError, match=message) as caught:
        Instance160(Instance160.Config(), frames)
    assert len(str(caught.value).splitlines()) == 1


def test_more_queries_than_the_dataset_has(frames: Path) -> None:
    videos = [f"v{i}" for i in range(161)]
    for path in (frames / "bbox").iterdir():
        path.unlink()
    for video in videos:
        (frames / "bbox" / f"{video}.txt").write_text(f"{video}_1 0 0 1 1\n{video}_2 0 0 1 1\n")
    lists = "".join(f"{video}_1 1 {video}_2\n" for video in videos)
    (frames / "Ins160-mAP.txt").write_text(lists)
    with pytest.raises(InstsearchError, match="it has 161 queries, instance160 has 160"):
        Instance160(Instance160.Config(), frames)
    dataset = Instance335(Instance335.Config(ground_truth="Ins160-mAP.txt"), frames)
    assert len(dataset.queries()) == len(dataset.images()) == 161


def test_what_is_wanted_is_said(frames: Path) -> None:
    with pytest.raises(UsageError, match="instance160 needs --root"):
        Instance160(Instance160.Config(), None)
    with pytest.raises(
        InstsearchError, match=r"wanted Ins335-mAP\.txt or mAP/Ins335-mAP\.txt, from its authors"
    ):
        Instance335(Instance335.Config(), frames)
    with pytest.raises(InstsearchError, match="there is no nowhere"):
        Instance160(Instance160.Config(bbox="nowhere"), frames)
    (frames / "Images/notes.txt").unlink()
    with pytest.raises(
        InstsearchError, match=r"no box files in .*Images: wanted a folder of VIDEO\.txt"
    ) as caught:
        Instance160(Instance160.Config(bbox="Images"), frames)
    assert "--set dataset.bbox=DIR" in str(caught.value)
    touch(frames, "copy/Woman_0002.png")
    with pytest.raises(InstsearchError, match="two images are called Woman_0002"):
        Instance160(Instance160.Config(), frames)


def test_files_too_large_to_be_lists_are_not_read(frames: Path) -> None:
    os.truncate(frames / "Ins160-mAP.txt", TEXT_LIMIT + 1)
    with pytest.raises(InstsearchError, match="larger than 16 MB"):
        Instance160(Instance160.Config(), frames)


def test_distractors(frames: Path) -> None:
    touch(frames, "others/a/2.jpg", "others/1.jpg", "others/b.png")
    alone = Instance160(Instance160.Config(), frames)
    among = Instance160(Instance160.Config(distractors="others"), frames)
    extra = [ref.name for ref in among.images()[5:]]
    assert extra == ["distractors/1.jpg", "distractors/a/2.jpg", "distractors/b.png"]
    assert among.size == 11885 + 3
    assert judged(among) == judged(alone)
    few = Instance160(Instance160.Config(distractors="others", most_distractors=2), frames)
    assert [ref.name for ref in few.images()[5:]] == extra[:2]
    with pytest.raises(InstsearchError, match=r"there are 3 pictures in .*others, 4 are wanted"):
        Instance160(Instance160.Config(distractors="others", most_distractors=4), frames)
    with pytest.raises(InstsearchError, match=r"there are 0 pictures in .*bbox"):
        Instance160(Instance160.Config(distractors="bbox"), frames)
    whole = Instance160(Instance160.Config(distractors=str(frames)), frames)  # not the collection twice
    assert len(whole.images()) == 5 + 3 + 1


# -- Holidays ---------------------------------------------------------------------------------------------

GROUPS = {"100000": {"100001", "100002"}, "100100": {"100101"}, "149900": {"149901"}}


@pytest.fixture
def holidays(tmp_path: Path) -> Path:
    """Three groups in two folders."""
    for i, (query, others) in enumerate(GROUPS.items()):
        touch(tmp_path / f"jpg{i % 2 + 1}", *(f"{name}.jpg" for name in (query, *others)))
    touch(tmp_path, "jpg1/200000.jpg", "jpg1/10000.jpg", "readme.txt")
    return tmp_path


def test_holidays_from_the_pictures_alone(holidays: Path) -> None:
    dataset = Holidays(Holidays.Config(), holidays)
    assert isinstance(dataset, Dataset)
    assert (dataset.size, dataset.average_precision) == (1491, "trapezoid")
    assert {ref.name for ref in dataset.images()} == set(GROUPS) | set().union(*GROUPS.values())
    assert all(ref.path.is_file() for ref in dataset.images())
    assert [(q.id, q.image.name, q.box) for q in dataset.queries()] == [(n, f"{n}.jpg", None) for n in GROUPS]
    for query in dataset.queries():
        relevance = dataset.relevance(query)
        assert relevance.good == GROUPS[query.id]
        assert relevance.junk == {query.id}  # in the collection, and passed over
        assert relevance.ok | relevance.exclude == frozenset()
    assert dataset.boxes() == {}


def test_holidays_from_its_list(holidays: Path) -> None:
    (holidays / "jpg1/100001.jpg").unlink()
    (holidays / "jpg2/100100.jpg").unlink()
    alone = Holidays(Holidays.Config(), holidays)
    assert judged(alone) == {"100000": {"100002"}, "100100": {"100101"}, "149900": {"149901"}}
    assert [ref.name for ref in alone.images() if not ref.path.exists()] == ["100100"]  # a group has a query
    names = sorted([*GROUPS, *set().union(*GROUPS.values())])
    (holidays / "holidays_images.dat").write_text("".join(f"{name}.jpg\r\n" for name in names))
    listed = Holidays(Holidays.Config(), holidays)
    assert judged(listed) == GROUPS
    assert [ref.name for ref in listed.images() if not ref.path.exists()] == ["100001", "100100"]
    (holidays / "holidays_images.dat").rename(holidays / "list")
    assert judged(Holidays(Holidays.Config(ground_truth="list"), holidays)) == GROUPS


def test_the_upright_copy_is_another_folder(holidays: Path) -> None:
    names = [name for query, others in GROUPS.items() for name in (query, *others)]
    touch(holidays / "holidaysmanrot", *(f"{name}.jpg" for name in names))
    usual = Holidays(Holidays.Config(), holidays)
    assert {ref.path.parent.name for ref in usual.images()} == {"jpg1", "jpg2"}
    upright = Holidays(Holidays.Config(upright="holidaysmanrot"), holidays)
    assert {ref.path.parent.name for ref in upright.images()} == {"holidaysmanrot"}
    assert judged(upright) == judged(usual) == GROUPS
    assert "upright" in upright.protocol
    assert "upright" not in usual.protocol
    (holidays / "holidaysmanrot").rename(holidays / "turned")
    with pytest.raises(InstsearchError, match="two images are called 100000"):
        Holidays(Holidays.Config(), holidays)
    again = Holidays(Holidays.Config(upright=str(holidays / "turned")), holidays)
    assert {ref.path.parent.name for ref in again.images()} == {"turned"}


def test_what_is_not_holidays(holidays: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        InstsearchError, match=r"no pictures of holidays in .*from https://lear\.inrialpes\.fr"
    ):
        Holidays(Holidays.Config(), tmp_path / "empty")
    with pytest.raises(UsageError, match="holidays needs --root"):
        Holidays(Holidays.Config(), None)
    with pytest.raises(InstsearchError, match="there is no nowhere"):
        Holidays(Holidays.Config(upright="nowhere"), holidays)
    with pytest.raises(InstsearchError, match="is not a folder"):
        Holidays(Holidays.Config(upright="readme.txt"), holidays)
    with pytest.raises(InstsearchError, match="there is no nowhere"):
        Holidays(Holidays.Config(ground_truth="nowhere"), holidays)
    for text, why in (
        ("oxford_000001.jpg\n", "not the ground truth of holidays: 'oxford_000001' is no image"),
        ("100000.jpg 100001.jpg\n", "is no image of that collection"),
        ("100000.jpg\n100000.jpg\n", "lists an image twice"),
    ):
        (holidays / "holidays_images.dat").write_text(text)
        with pytest.raises(InstsearchError, match=why):
            Holidays(Holidays.Config(), holidays)


def test_configs_are_plain() -> None:
    for cls in (Instance160, Instance335, Holidays):
        config: Any = cls.Config()
        assert config.ground_truth == ""
