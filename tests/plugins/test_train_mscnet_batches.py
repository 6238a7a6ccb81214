"""What MSCNet is trained on: labels, indexes, bad pictures, batches of identities, crops."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from instsearch_cli.engine.intake import take_in
from instsearch_cli.errors import InstsearchError
from instsearch_cli.images import BadImage, discover
from instsearch_cli.progress import Quiet
from instsearch_formats import Index
from instsearch_plugins.training.mscnet_batches import (
    Crops,
    Identities,
    Sample,
    Shuffled,
    identities,
    photographs,
)
from mscnet_training import TRIPLETS, C, data, picture, sta1, train, trainer, weights

__all__ = ["data", "sta1", "weights"]  # fixtures


def test_pictures_alone_labels_and_an_index(weights: Path, data: Path, tmp_path: Path) -> None:
    t = trainer(weights)
    assert len(t._batches(data).classes) == 10
    sta1 = trainer(weights, mode="sta1")._batches(data)
    assert sta1.classes == ["class0", "class1", "class2"]
    table = tmp_path / "labels.csv"
    table.write_text("path,label\nclass0/0.png,a\nclass1/1.png,b\nclass2/0.png,a\n")
    by_table = trainer(weights, mode="sta1", labels=str(table))._batches(data)
    assert [p.name for p in by_table.paths] == ["0.png", "1.png", "0.png"]
    assert by_table.labels.tolist() == [0, 1, 0]
    table.write_text("path,label\nclass0/0.png,a\nnot/there.png,b\n")
    with pytest.raises(InstsearchError, match=r"there\.png"):
        trainer(weights, mode="sta1", labels=str(table))._batches(data)

    index = Index.create(tmp_path / "index")
    with index.lock():
        take_in(index, discover([data]), Quiet())
        before = t.digest(tmp_path / "index", Quiet())
        index.images.remove([0], "no more")
    found = photographs(tmp_path / "index")
    assert sorted(found) == sorted(f.path for f in discover([data]).found if "broken" not in f.path.name)[1:]
    after = t.digest(tmp_path / "index", Quiet())
    assert (before["images"], after["images"]) == (9, 8)
    assert before["sha256"] != after["sha256"]
    assert len(t._batches(tmp_path / "index").classes) == 8
    of_index = trainer(weights, mode="sta1")._batches(tmp_path / "index")
    assert sorted(of_index.paths) == sorted(found)
    trained, card = train(weights, tmp_path / "index", tmp_path / "x.pth")
    assert trained["fc.weight"].shape == (8, 3 * C)
    assert card["data"] == after
    assert card["images"] == {"pictures": 8, "classes": 8, "skipped": {}}


def test_labels_of_an_index_of_several_folders(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("r1/a/0.png", "r1/a/1.png", "r2/b/2.png", "r3/c/3.png")]
    for i, file in enumerate(files):
        picture(file, i % 3, i)
    index = Index.create(tmp_path / "index")
    with index.lock():
        take_in(index, discover([tmp_path / f"r{i}" for i in (1, 2, 3)]), Quiet())
        names = {Path(name).name: row for name, row in index.images.named(range(4)).items()}
        index.images.remove([names["3.png"]], "no more")
    shutil.rmtree(tmp_path / "r3")
    expected = [(files[0], "a"), (files[1], "a"), (files[2], "b")]
    assert identities(index.path, None) == expected
    table = tmp_path / "labels.csv"
    for written in (("a/0.png", "a/1.png", "b/2.png"), map(str, files[:3])):
        table.write_text("path,label\n" + "".join(f"{n},{k}\n" for n, k in zip(written, "aab", strict=True)))
        assert identities(index.path, table) == expected
    table.write_text("path,label\na/9.png,a\n")
    with pytest.raises(
        InstsearchError, match=r"line 2: there is no picture '.*r1/a/9\.png' or '.*r2/a/9\.png'"
    ):
        identities(index.path, table)
    shutil.copytree(tmp_path / "r1/a", tmp_path / "r2/a")
    table.write_text("path,label\nb/2.png,b\na/1.png,a\n")
    with pytest.raises(
        InstsearchError, match=r"line 3: .*r1/a/1\.png' and '.*r2/a/1\.png': write the whole path"
    ):
        identities(index.path, table)
    with index.lock():
        index.images.remove(sorted(names.values()), "no more")
    assert identities(index.path, table) == []


def test_pictures_that_cannot_be_read_are_skipped_and_counted(
    weights: Path, data: Path, sta1: Path, tmp_path: Path
) -> None:
    for mode, more in (("un", {}), ("sta1", {}), ("sta2", TRIPLETS | {"start": str(sta1)})):
        _, card = train(weights, data, tmp_path / f"{mode}2.pth", **({"mode": mode} | more))
        assert card["images"]["pictures"] == 9
        assert [Path(name).name for name in card["images"]["skipped"]] == ["broken.png"]
    for path in data.rglob("*.png"):
        path.write_bytes(b"no picture")
    for mode, more in (("un", {}), ("sta2", TRIPLETS | {"start": str(sta1)})):
        with pytest.raises(InstsearchError, match="nothing of the data can be trained on: "):
            train(weights, data, tmp_path / f"{mode}3.pth", **({"mode": mode} | more))


def test_too_few_classes_and_pictures(weights: Path, data: Path, tmp_path: Path) -> None:
    shutil.rmtree(data / "class2")
    (data / "class1" / "0.png").unlink()
    (data / "class1" / "1.png").unlink()
    with pytest.raises(InstsearchError, match=r"triplets need two classes .*; of 2 classes 1 have a single"):
        trainer(weights, mode="sta2", start="x")._batches(data)
    shutil.rmtree(data / "class1")
    with pytest.raises(InstsearchError, match="two classes at least; here are 5 of one, class0"):
        trainer(weights, mode="sta1")._batches(data)
    with pytest.raises(InstsearchError, match="no class folders"):
        trainer(weights, mode="sta1")._batches(data / "class0")
    one = tmp_path / "one"
    picture(one / "a.png", 0, 0)
    with pytest.raises(InstsearchError, match="two at least"):
        trainer(weights)._batches(one)


def pairs_of(counts: dict[str, int]) -> list[tuple[Path, str]]:
    return [(Path(f"{label}{i}"), label) for label, n in counts.items() for i in range(n)]


def test_batches_of_identities() -> None:
    pairs = pairs_of({"a": 9, "b": 2, "c": 3, "d": 1, "e": 5, "f": 4})
    batches = Identities(pairs, Crops(seed=4), 3, 4)
    assert batches.alone == ["d"]
    assert batches.classes == ["a", "b", "c", "e", "f"]
    assert batches.epoch(0) == Identities(pairs, Crops(seed=4), 3, 4).epoch(0)
    assert batches.epoch(0) != batches.epoch(1)
    seen: set[int] = set()
    for epoch in range(8):
        todo = batches.epoch(epoch)
        assert len(todo) == 2  # 23 pictures in batches of twelve
        assert [s.place for batch in todo for s in batch] == list(range(24))
        for batch in todo:
            labels = batches.labels[[s.image for s in batch]].reshape(3, 4)
            assert (labels == labels[:, :1]).all()
            assert len(set(labels[:, 0].tolist())) == 3
            for row in np.reshape([s.image for s in batch], (3, 4)):
                n = len(batches.members[batches.labels[row[0]]])
                assert len(set(row.tolist())) == min(n, 4)
        assert {int(batches.labels[s.image]) for batch in todo for s in batch} == set(range(5))
        seen |= {s.image for batch in todo for s in batch}
    assert len(seen) == 23
    few = Identities(pairs_of({"a": 2, "b": 2}), Crops(), 8, 10)
    assert [len(batch) for batch in few.epoch(0)] == [20]


def test_another_picture_of_the_class_stands_in(data: Path) -> None:
    pairs = [(path, path.parent.name) for path in sorted(data.rglob("*.png"))]
    batches = Identities(pairs, Crops((40, 40), 40), 2, 2)
    broken = next(i for i, path in enumerate(batches.paths) if path.name == "broken.png")
    other = [int(i) for i in batches.members[1][:2]]
    pixels, labels = batches.load([Sample(i, 0, k) for k, i in enumerate([broken, *other])])
    assert labels.tolist() == [0, 1, 1]
    expected = batches.crops.read(batches.paths[0], Sample(0, 0, 0))  # the next one, around the end
    assert torch.equal(pixels[0], torch.from_numpy(expected).permute(2, 0, 1))
    assert list(batches.skipped) == [str(batches.paths[broken])]
    for path in (data / "class1").iterdir():
        path.write_bytes(b"")
    with pytest.raises(BadImage, match=r"broken\.png: "):
        batches.load([Sample(i, 0, k) for k, i in enumerate([broken, *other])])


def test_shuffled_batches_have_every_picture_once(data: Path) -> None:
    pairs = [(path, path.parent.name) for path in sorted(data.rglob("*.png"))]
    batches = Shuffled(pairs, Crops((40, 44), 40, seed=1), 4)
    todo = batches.epoch(0)
    assert [len(batch) for batch in todo] == [4, 4, 2]
    assert sorted(s.image for batch in todo for s in batch) == list(range(10))
    assert todo == Shuffled(pairs, Crops(seed=1), 4).epoch(0)
    assert len({str([s.image for b in batches.epoch(e) for s in b]) for e in range(5)}) == 5
    pixels, labels = batches.load(todo[0])
    assert pixels.dtype == torch.uint8
    assert pixels.shape[1:] == (3, 40, 40)
    assert pixels.is_contiguous(memory_format=torch.channels_last)
    good = [s for s in todo[0] if batches.paths[s.image].name != "broken.png"]
    assert labels.tolist() == [int(batches.paths[s.image].parent.name[-1]) for s in good]
    again = batches.load(todo[0])
    assert torch.equal(again[0], pixels)


def test_a_crop_is_of_a_random_size_at_a_random_place(tmp_path: Path) -> None:
    size = (120, 80)
    y, x = np.mgrid[: size[1], : size[0]]
    ramp = np.stack([2 * x, 3 * y, 0 * x], -1).astype(np.uint8)
    PIL.Image.fromarray(ramp).save(tmp_path / "ramp.png")
    scales, lefts, tops = [], [], []
    for place in range(200):
        cut = Crops((40, 60), 40, seed=7).read(tmp_path / "ramp.png", Sample(0, 3, place))
        assert cut.shape == (40, 40, 3)
        step = (float(cut[20, 35, 0]) - cut[20, 5, 0]) / 30  # 2 x the original's pixels in one of the crop's
        scales.append(80 / (step / 2))
        lefts.append(float(cut[20, 0, 0]) / 2 / size[0])
        tops.append(float(cut[0, 20, 1]) / 3 / size[1])
    assert 38 <= min(scales) < 43
    assert 57 < max(scales) <= 62
    assert min(lefts) < 0.03
    assert max(lefts) > 0.5  # a crop of 40 in a picture of 90 may begin at 50
    assert min(tops) < 0.03
    assert max(tops) > 0.25
    one = Crops((40, 40), 40).read(tmp_path / "ramp.png", Sample(0, 0, 0))
    assert (one[:, 1:, 0] >= one[:, :-1, 0]).all()
    flips = [
        bool(
            np.diff(
                Crops((40, 60), 40, True).read(tmp_path / "ramp.png", Sample(0, 0, i))[9, :, 0].astype(int)
            ).sum()
            < 0
        )
        for i in range(100)
    ]
    assert 0.3 < np.mean(flips) < 0.7
    PIL.Image.fromarray(ramp[:2]).save(tmp_path / "strip.png")
    assert Crops((40, 60), 40).read(tmp_path / "strip.png", Sample(0, 0, 1)).shape == (40, 40, 3)
