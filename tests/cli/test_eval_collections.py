"""`instsearch eval` on the known collections, small ones made under their names, in every layout."""

from __future__ import annotations

import pickle  # noqa: TID251  (to write what others hand out)
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from real_data import PROTOCOLS

Cli = Callable[..., Any]
OXFORD = [f"{landmark}_{i:06}" for landmark in ("all_souls", "oxford") for i in range(4)]


@pytest.fixture
def oxford(tmp_path: Path, draw: Callable[..., None]) -> Path:
    """Eight pictures, the first of them asked for."""
    for i, name in enumerate(OXFORD):
        draw(tmp_path / "oxford/jpg" / f"{name}.jpg", i)
    return tmp_path / "oxford"


def cells(values: list[Any]) -> np.ndarray:
    out = np.empty((1, len(values)), object)
    out[0, :] = values
    return out


def structs(entries: list[dict[str, Any]]) -> np.ndarray:
    out = np.empty((1, len(entries)), [(key, object) for key in entries[0]])
    for i, entry in enumerate(entries):
        out[0, i] = tuple(entry.values())
    return out


def write_mat(path: Path, names: list[str], queries: list[tuple[int, list[int], list[int]]]) -> None:
    entries = [
        {
            "ok": np.array([ok], np.uint16),
            "junk": np.array([junk], np.uint16),
            "bbx": np.array([[0, 0, 40, 48]]),
        }
        for _, ok, junk in queries
    ]
    table = {"imlist": cells(names), "qidx": np.array([q for q, _, _ in queries], np.uint16)}
    scipy.io.savemat(path, table | {"gnd": structs(entries)})


def write_text(folder: Path, id: str, query: str, good: list[str], ok: list[str], junk: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{id}_query.txt").write_text(f"oxc1_{query} 0 0 40 48\n")
    for label, names in (("good", good), ("ok", ok), ("junk", junk)):
        (folder / f"{id}_{label}.txt").write_text("".join(f"{name}\n" for name in names))


def ranking(cli: Cli, image: Path, index: Path, k: int) -> list[str]:
    """Stems of the hits for the box of the queries above."""
    (name,) = cli("info", "--index", index, "--json").json["measured"]
    asked = ("--index", index, "--pipeline", name, "--box", "0,0,40,48", "--json", "-k", k)
    found = cli("query", image, *asked).json["hits"]
    return [Path(hit["image"]).stem for hit in found]


def compute_ap(ranked: list[str], positives: set[str], junk: set[str]) -> float:
    """compute_ap.cpp of the Oxford buildings, as it stands there."""
    old_recall, old_precision, ap, found, j = 0.0, 1.0, 0.0, 0, 0
    for name in ranked:
        if name in junk:
            continue
        if name in positives:
            found += 1
        recall, precision = found / len(positives), found / (j + 1)
        ap += (recall - old_recall) * (old_precision + precision) / 2
        old_recall, old_precision = recall, precision
        j += 1
    return ap


def compute_precision(ranked: list[str], positives: set[str], junk: set[str], k: int) -> float:
    """compute_map of the revisited protocol: precision at min(k, last positive)."""
    kept = [name for name in ranked if name not in junk]
    ranks = [i + 1 for i, name in enumerate(kept) if name in positives]
    kq = min(max(ranks), k)
    return sum(rank <= kq for rank in ranks) / kq


def test_oxford_from_matlab(cli: Cli, run: Cli, oxford: Path, tmp_path: Path) -> None:
    write_mat(oxford / "gnd_oxford5k.mat", OXFORD, [(1, [1, 4, 7], [3]), (6, [6, 2], [1, 8])])
    report = run("oxford5k", oxford, "--json").json
    assert report["dataset"] == "oxford5k"
    assert report["images"] == {"dataset": 8, "indexed": 8}
    assert "present_only" not in report
    expected = []
    for place, good, junk in ((0, (0, 3, 6), (2,)), (5, (5, 1), (0, 7))):
        ranked = ranking(cli, oxford / "jpg" / f"{OXFORD[place]}.jpg", tmp_path / "index-oxford5k", 8)
        assert ranked[0] == OXFORD[place]  # the query image stays in the collection
        expected.append(compute_ap(ranked, {OXFORD[i] for i in good}, {OXFORD[i] for i in junk}))
    assert [q["id"] for q in report["queries"]] == ["all_souls_1", "all_souls_2"]
    assert [q["ap"] for q in report["queries"]] == pytest.approx(expected)
    assert 0.3 < min(expected) < 1
    assert report["metrics"]["mAP"] == pytest.approx(np.mean(expected))
    assert report["metrics"]["precision@1"] == 1
    text = run("oxford5k", oxford, "--queries").out
    assert "protocol: average precision by the trapezoid rule; good and ok" in text
    assert "oxford5k: 2 queries over 8 images" in text


def test_oxford_from_text_counts_what_is_not_there(run: Cli, oxford: Path) -> None:
    write_text(oxford / "gt", "all_souls_1", OXFORD[0], [OXFORD[0]], [OXFORD[3], OXFORD[6]], [OXFORD[2]])
    write_text(oxford / "gt", "all_souls_2", "oxford_000077", ["oxford_000077"], [], [])
    failed = run("oxford5k", oxford, status=1).err
    assert "5,054 of the 5,062 images of 'oxford5k' are not there: oxford_000077" in failed
    assert "--present-only; they come from https://www.robots.ox.ac.uk/~vgg/data/oxbuildings/" in failed
    assert str(oxford / "jpg/oxford_000077.jpg") in failed
    report = run("oxford5k", oxford, "--present-only", "--json").json
    assert report["images"] == {"dataset": 5062, "indexed": 8}
    assert report["present_only"] == {
        "missing_images": 5054,
        "missing_positives": 1,
        "dropped_queries": ["all_souls_2"],
    }
    assert [q["id"] for q in report["queries"]] == ["all_souls_1"]
    write_mat(oxford / "gnd.mat", OXFORD, [(1, [1, 4, 7], [3])])
    other = run("oxford5k", oxford, "--set", f"dataset.ground_truth={oxford / 'gnd.mat'}", "--json").json
    assert other["queries"][0]["ap"] == report["queries"][0]["ap"]
    text = run("oxford5k", oxford, "--present-only").out
    assert "present only: 8 of 5,062 images; queries dropped: 1 of 2; positives missing: 1" in text


def test_positives_that_are_missing_do_not_count_when_told_so(
    cli: Cli, run: Cli, oxford: Path, tmp_path: Path
) -> None:
    write_mat(oxford / "gnd_oxford5k.mat", OXFORD, [(1, [1, 4, 7], [3]), (5, [5, 6], [])])
    (oxford / "jpg" / f"{OXFORD[6]}.jpg").unlink()
    (oxford / "jpg" / f"{OXFORD[4]}.jpg").unlink()
    assert "2 of the 8 images" in run("oxford5k", oxford, status=1).err
    report = run("oxford5k", oxford, "--present-only", "--json").json
    assert report["present_only"] == {
        "missing_images": 2,
        "missing_positives": 2,
        "dropped_queries": ["all_souls_2"],  # its image is not there
    }
    ranked = ranking(cli, oxford / "jpg" / f"{OXFORD[0]}.jpg", tmp_path / "index-oxford5k", 6)
    expected = compute_ap(ranked, {OXFORD[0], OXFORD[3]}, {OXFORD[2]})
    assert report["metrics"]["mAP"] == pytest.approx(expected)


def test_images_that_cannot_be_read_are_counted_as_not_found(run: Cli, oxford: Path) -> None:
    write_mat(oxford / "gnd_oxford5k.mat", OXFORD, [(1, [1, 4], [])])
    (oxford / "jpg" / f"{OXFORD[3]}.jpg").write_bytes(b"no picture")
    outcome = run("oxford5k", oxford, "--json")
    assert f"1 of the 8 images of 'oxford5k' are not in the index: {OXFORD[3]}" in outcome.err
    assert outcome.json["images"] == {"dataset": 8, "indexed": 7}
    assert outcome.json["metrics"]["mAP"] == 0.5
    assert run("oxford5k", oxford, "--json", "--present-only").json["metrics"]["mAP"] == 1


def test_distractors_are_ranked(run: Cli, oxford: Path, draw: Callable[..., None]) -> None:
    write_mat(oxford / "gnd_oxford5k.mat", OXFORD, [(1, [1, 4, 7], [3])])
    for i in range(20):
        draw(oxford / "oxc1_100k" / str(i % 2) / f"{i}.jpg", 100 + i)
    alone = run("oxford5k", oxford, "--json").json
    among = run("oxford105k", oxford, "--json").json
    assert among["images"] == {"dataset": 28, "indexed": 28}
    assert among["metrics"]["mAP"] < alone["metrics"]["mAP"]


def test_revisited_gives_three_numbers_from_one_ranking(
    cli: Cli, run: Cli, tmp_path: Path, oxford: Path
) -> None:
    names, queries = OXFORD[2:], OXFORD[:2]
    lists: list[dict[str, Any]] = [
        {"easy": [0, 4], "hard": [2, 5], "junk": [3]},
        {"easy": [], "hard": [1], "junk": [0]},
    ]
    gnd = [{k: np.array(v, np.int64) for k, v in e.items()} | {"bbx": [0.0, 0.0, 40.0, 48.0]} for e in lists]
    truth = oxford / "gnd_roxford5k.pkl"
    truth.write_bytes(pickle.dumps({"gnd": gnd, "imlist": names, "qimlist": queries}, 2))
    report = run("roxford5k", oxford, "--json").json
    assert report["images"] == {"dataset": 6, "indexed": 6}
    expected: dict[str, list[float]] = {}
    for query, entry in zip(queries, lists, strict=True):
        ranked = ranking(cli, oxford / "jpg" / f"{query}.jpg", tmp_path / "index-roxford5k", 6)
        easy, hard, junk = ({names[i] for i in entry[k]} for k in ("easy", "hard", "junk"))
        for setting, positives, ignored in (
            ("easy", easy, junk | hard),
            ("medium", easy | hard, junk),
            ("hard", hard, junk | easy),
        ):
            if positives:
                expected.setdefault(f"mAP {setting}", []).append(compute_ap(ranked, positives, ignored))
                for k in (1, 5, 10):
                    at = compute_precision(ranked, positives, ignored, k)
                    expected.setdefault(f"mP@{k} {setting}", []).append(at)
    metrics = report["metrics"]
    assert {name: metrics[name] for name in expected} == {
        name: pytest.approx(np.mean(values)) for name, values in expected.items()
    }
    assert metrics["mAP"] == metrics["mAP medium"]
    assert [metrics[f"queries {s}"] for s in ("easy", "medium", "hard")] == [1, 2, 2]
    assert len({metrics[f"mAP {s}"] for s in ("easy", "medium", "hard")}) == 3
    rows = report["queries"]
    assert [row["id"] for row in rows] == queries
    assert rows[1]["ap easy"] is None
    assert rows[1]["mP@5 easy"] is None
    assert [row["ap hard"] for row in rows] == pytest.approx(expected["mAP hard"])
    assert [row["ap"] for row in rows] == [row["ap medium"] for row in rows]
    assert "mAP hard" in run("roxford5k", oxford).out

    (oxford / "jpg" / f"{queries[1]}.jpg").unlink()
    failed = run("roxford5k", oxford, status=1).err
    assert f"1 of the 2 query images not there, first that of query '{queries[1]}'" in failed
    present = run("roxford5k", oxford, "--present-only", "--json").json
    assert present["present_only"]["dropped_queries"] == [queries[1]]
    assert present["metrics"]["mAP"] == pytest.approx(expected["mAP medium"][0])

    gnd[0] |= {"easy": [], "hard": []}
    truth.write_bytes(pickle.dumps({"gnd": gnd[:1], "imlist": names, "qimlist": queries[:1]}, 2))
    assert "none of the 1 queries" in run("roxford5k", oxford, status=1).err


def test_instre(cli: Cli, run: Cli, tmp_path: Path, draw: Callable[..., None]) -> None:
    root = tmp_path / "instre"
    images = [f"INSTRE-S1/01a_book/{i:03}.jpg" for i in range(3)]
    images += [f"INSTRE-M/01/{i:03}.jpg" for i in range(3, 6)]
    queries = ["INSTRE-S1/01a_book/100.jpg", "INSTRE-M/01/101.jpg"]
    for i, name in enumerate([*images, *queries]):
        draw(root / name, i % 7)
    for name in images[:3]:
        (root / name).with_suffix(".txt").write_text("0 0 32 48")
    for name in images[3:]:
        (root / name).with_suffix(".txt").write_text("32 0 32 48\n0 0 32 24\n")
    box = np.array([[0, 0, 40, 48]], np.uint8)
    gnd = [{"ok": np.array([ok], np.uint16), "bbx": box} for ok in ((1, 2, 5), (3, 6))]
    table = {"imlist": cells(images), "qimlist": cells(queries), "gnd": structs(gnd)}
    scipy.io.savemat(root / "gnd_instre.mat", table)

    report = run("instre", root, "--detector", "halves", "--json").json
    index = tmp_path / "index-instre"
    ranked = [ranking(cli, root / query, index, 6) for query in queries]
    stems = [Path(name).stem for name in images]
    right = [
        compute_ap(r, {stems[i] for i in p}, set()) for r, p in zip(ranked, ((0, 1, 4), (2, 5)), strict=True)
    ]
    assert [q["id"] for q in report["queries"]] == queries
    assert [q["ap"] for q in report["queries"]] == pytest.approx(right)
    assert report["metrics"]["annotated true hits@10"] == 5
    assert [q["annotated"] for q in report["queries"]] == [3, 2]

    legacy = run("instre", root, "--detector", "halves", "--set", "dataset.legacy_offset=true", "--json").json
    late = [
        compute_ap(ranked[0], {stems[i] for i in (1, 2, 5)}, set()),
        compute_ap(ranked[1], {stems[3], "-"}, set()),
    ]
    assert [q["ap"] for q in legacy["queries"]] == pytest.approx(late)
    assert legacy["metrics"]["mAP"] != report["metrics"]["mAP"]
    assert "salbow" in legacy["protocol"]


def test_options_of_datasets_are_checked(run: Cli, oxford: Path) -> None:
    wrong = run("oxford5k", oxford, "--set", "dataset.groundtruth=x", status=2).err
    assert "dataset has no option 'groundtruth'. Did you mean 'ground_truth'?" in wrong
    assert "stage.option=value" in run("oxford5k", oxford, "--set", "dataset.ground_truth", status=2).err
    assert "there is no x" in run("oxford5k", oxford, "--set", "dataset.ground_truth=x", status=1).err


@pytest.mark.skipif(not PROTOCOLS.exists(), reason="the real ground-truth files are not at hand")
def test_a_part_of_paris_with_its_real_ground_truth(
    run: Cli, tmp_path: Path, draw: Callable[..., None]
) -> None:
    first = ["paris_defense_000605", "paris_defense_000050", "paris_defense_000032", "paris_general_000001"]
    for i, name in enumerate(first):
        draw(tmp_path / "paris/defense" / f"{name}.jpg", i, (1024, 768))
    real = ("--set", f"dataset.ground_truth={PROTOCOLS / 'gnd_paris6k.mat'}")
    failed = run("paris6k", tmp_path / "paris", *real, status=1).err
    assert "of the 6,392 images of 'paris6k' are not there: paris_defense_000000, " in failed
    report = run("paris6k", tmp_path / "paris", *real, "--present-only", "--json").json
    assert report["present_only"]["missing_images"] == 6392 - report["images"]["indexed"]
    assert len(report["present_only"]["dropped_queries"]) == 54
    assert [q["id"] for q in report["queries"]] == ["defense_1"]
    assert 0 < report["metrics"]["mAP"] <= 1
