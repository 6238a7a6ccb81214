"""`instsearch eval` on Instance-160 and Holidays, small ones made in their layouts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Cli = Callable[..., Any]


def ranking(cli: Cli, image: Path, index: Path, *box: str) -> list[str]:
    (name,) = cli("info", "--index", index, "--json").json["measured"]
    found = cli("query", image, "--index", index, "--pipeline", name, *box, "--json", "-k", 99).json["hits"]
    return [Path(hit["image"]).stem for hit in found]


@pytest.fixture
def frames(tmp_path: Path, draw: Callable[..., None]) -> Path:
    """Three videos of 9, 7 and 5 frames."""
    root = tmp_path / "Instance-160"
    (root / "bbox").mkdir(parents=True)
    (root / "mAP").mkdir()
    lists = []
    for seed, (video, n) in enumerate((("Woman", 9), ("02CoverVideo00003", 7), ("Car24", 5))):
        names = [f"{video}_{i:04}" for i in range(n)]
        for i, name in enumerate(names):
            draw(root / "Images" / video / f"{name}.jpg", 100 * seed + i % 4)
        boxes = "".join(f"{name}\t0 0 {40 - i} 48\t\n" for i, name in enumerate(names))
        (root / "bbox" / f"{video}.txt").write_text(boxes)
        lists.append(" ".join([names[0], str(n), *names]))
    (root / "mAP/Ins160-mAP.txt").write_text("\n".join(lists) + "\n")
    return root


def test_instance160(cli: Cli, run: Cli, frames: Path, tmp_path: Path) -> None:
    failed = run("instance160", frames, status=1).err
    assert "11,867 of the 11,885 images of 'instance160' are not there" in failed
    assert "they come from its authors, see https://github.com/wlzhao22/DASR" in failed
    report = run("instance160", frames, "--present-only", "--detector", "halves", "--json").json
    assert report["images"] == {"dataset": 11885, "indexed": 18}  # 21 less the three queries
    assert [q["id"] for q in report["queries"]] == ["Woman_0000", "02CoverVideo00003_0000", "Car24_0000"]
    expected: dict[str, list[float]] = {}
    for video, n in (("Woman", 9), ("02CoverVideo00003", 7), ("Car24", 5)):
        image = frames / "Images" / video / f"{video}_0000.jpg"
        ranked = ranking(cli, image, tmp_path / "index-instance160", "--box", "0,0,40,48")
        assert len(ranked) == 18
        right = [name.startswith(video) for name in ranked]
        assert sum(right) == n - 1
        for at, k in (("", 18), *((f"@{k}", k) for k in (10, 20, 50, 100))):
            hits = [i for i in range(min(k, 18)) if right[i]]
            ap = sum((j + 1) / (i + 1) for j, i in enumerate(hits)) / (n - 1)
            expected.setdefault(at, []).append(ap)
    for at, scores in expected.items():
        assert [q[f"ap{at}"] for q in report["queries"]] == pytest.approx(scores)
        assert report["metrics"][f"mAP{at}"] == pytest.approx(np.mean(scores))
    assert report["metrics"]["mAP@10"] < report["metrics"]["mAP"]
    assert report["metrics"]["annotated true hits@10"] > 0
    only = run("instance160", frames, "--present-only", "--top", 3, "--top-of", "reachable", "--json").json
    assert [m for m in only["metrics"] if m.startswith("mAP")] == ["mAP", "mAP@3 (reachable)"]

    covered = run("instance160", frames, "--present-only", "--detector", "halves", "--regions", "--json").json
    [row] = covered["pipelines"]
    assert (row["annotated_images"], row["annotated_boxes"]) == (18, 18)
    # the left half is 32 wide; frame i's box 40 - i
    best = [min(32, 40 - i) / max(32, 40 - i) for n in (9, 7, 5) for i in range(1, n)]
    assert row["mean_best_iou"] == pytest.approx(np.mean(best))


def test_instance160_among_distractors(run: Cli, frames: Path, draw: Callable[..., None]) -> None:
    for i in range(30):
        draw(frames / "flickr" / f"{i}.jpg", 900 + i)
    alone = run("instance160", frames, "--present-only", "--json").json
    option = ("--set", "dataset.distractors=flickr")
    among = run("instance160", frames, "--present-only", *option, "--json").json
    assert among["images"] == {"dataset": 11885 + 30, "indexed": 18 + 30}
    assert among["metrics"]["mAP"] < alone["metrics"]["mAP"]
    few = run(
        "instance160", frames, "--present-only", *option, "--set", "dataset.most_distractors=7", "--json"
    )
    assert few.json["images"]["indexed"] == 18 + 7
    assert among["metrics"]["mAP"] <= few.json["metrics"]["mAP"] <= alone["metrics"]["mAP"]
    none = ("--set", "dataset.most_distractors=0", "--json")
    assert run("instance160", frames, "--present-only", *option, *none).json["metrics"] == alone["metrics"]


def test_a_manifest_among_distractors(
    cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path, draw: Callable[..., None]
) -> None:
    names = sorted(str(p.relative_to(photos)) for p in photos.rglob("*.png"))
    queries = [{"id": n, "image": n, "positives": names[i : i + 3]} for i, n in enumerate(names[:4])]
    (photos / "mine.json").write_text(json.dumps({"images": names, "queries": queries}))
    for i in range(30):
        draw(tmp_path / "flickr" / f"{i:02}.png", 900 + i)

    def found(*settings: str) -> tuple[int, float]:
        sets = [word for setting in settings for word in ("--set", f"dataset.{setting}")]
        run = ("eval", "--dataset", photos / "mine.json", "--index", tmp_path / "i", *tiny, *sets, "--json")
        said = cli(*run).json
        return said["images"]["indexed"], said["metrics"]["mAP"]

    n, alone = found()
    folder = f"distractors={tmp_path / 'flickr'}"
    assert found(folder, "most_distractors=0") == (n, alone)
    assert found(folder, "most_distractors=7")[0] == n + 7
    all_of_them, among = found(folder)
    assert all_of_them == n + 30
    assert among < alone
    assert found(f"distractors={photos}", "most_distractors=0") == (n, alone)
    run = (
        "eval",
        "--dataset",
        photos / "mine.json",
        "--index",
        tmp_path / "i",
        *tiny,
        "--set",
        f"dataset.{folder}",
    )
    assert "30 pictures" in cli(*run, "--set", "dataset.most_distractors=31", status=1).err


def test_instance_files_of_the_other_set(run: Cli, frames: Path) -> None:
    other = ("--set", "dataset.ground_truth=bbox/Woman.txt")
    assert "wanted a query, the number of its references" in run("instance160", frames, *other, status=1).err
    assert "wanted Ins335-mAP.txt" in run("instance335", frames, status=1).err


def test_holidays(cli: Cli, run: Cli, tmp_path: Path, draw: Callable[..., None]) -> None:
    groups = {"100000": 4, "100100": 3, "100200": 2}
    root = tmp_path / "holidays"
    for g, (query, n) in enumerate(groups.items()):
        for i in range(n):
            draw(root / f"jpg{1 + g % 2}" / f"{int(query) + i}.jpg", 10 * g + i // 2)
    failed = run("holidays", root, status=1).err
    assert "1,482 of the 1,491 images of 'holidays' are not there" in failed
    assert "they come from https://lear.inrialpes.fr/~jegou/data.php" in failed
    report = run("holidays", root, "--present-only", "--json").json
    assert report["images"] == {"dataset": 1491, "indexed": 9}
    expected = []
    for g, (query, n) in enumerate(groups.items()):
        ranked = ranking(cli, root / f"jpg{1 + g % 2}" / f"{query}.jpg", tmp_path / "index-holidays")
        # as INRIA's script: ranks behind the query's image move up by one, those before it do not
        found, shift, ap = [], 0, 0.0
        for rank, name in enumerate(ranked):
            if name == query:
                shift = -1
            elif name[:4] == query[:4]:
                found.append(rank + shift)
        for j, rank in enumerate(found):
            before = 1.0 if rank == 0 else j / rank
            ap += (before + (j + 1) / (rank + 1)) / (2 * (n - 1))
        expected.append(ap)
    assert [q["ap"] for q in report["queries"]] == pytest.approx(expected)
    assert 0 < np.mean(expected) < 1
    assert report["metrics"]["mAP"] == pytest.approx(np.mean(expected))
    assert not [m for m in report["metrics"] if m.startswith("mAP@")]

    for path in sorted(root.glob("jpg*/*.jpg")):
        turned = tmp_path / "turned" / path.name
        turned.parent.mkdir(exist_ok=True)
        turned.write_bytes(path.read_bytes())
    option = ("--set", f"dataset.upright={tmp_path / 'turned'}")
    upright = run("holidays", root, "--present-only", *option, "--json").json
    assert upright["metrics"]["mAP"] == pytest.approx(report["metrics"]["mAP"])
    assert "upright" in upright["protocol"]
