"""`instsearch eval` on manifests: numbers, exclusion, and what wrong manifests are told."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instsearch_cli.engine.query import Engine

Cli = Callable[..., Any]


@pytest.fixture
def manifest(photos: Path) -> Path:
    """Each of the first four pictures looks for itself and for one that is not like it."""
    names = [f"photos/a/{i}.png" for i in (1, 3, 5, 7, 9)] + [f"photos/b/{i}.png" for i in (0, 2, 4, 6, 8)]
    queries = [
        {"id": f"q{i}", "image": names[i], "box": [0, 0, 64, 48], "positives": [names[i], names[i + 4]]}
        for i in range(4)
    ]
    path = photos.parent / "manifest.json"
    path.write_text(json.dumps({"name": "small", "images": names, "queries": queries}))
    rows = "".join(f"{Path(n).name},0,0,64,48\n" for n in names[:5])
    (photos.parent / "boxes.csv").write_text("image,x,y,w,h\n" + rows)
    return path


def change(manifest: Path, **fields: Any) -> None:
    table = json.loads(manifest.read_text())
    table["queries"][1] |= fields
    manifest.write_text(json.dumps(table))


def test_metrics_agree_with_the_rankings(
    cli: Cli, tiny: tuple[str, ...], manifest: Path, tmp_path: Path
) -> None:
    run = ("eval", "--dataset", manifest, "--index", tmp_path / "i", *tiny)
    report = cli(*run, "--json").json
    assert report["dataset"] == "small"
    assert report["images"] == {"dataset": 10, "indexed": 10}
    expected = []
    for query in json.loads(manifest.read_text())["queries"]:
        asked = ("--index", tmp_path / "i", "--pipeline", "eval-cells-centred-flat", "--json", "-k", 10)
        hits = cli("query", tmp_path / query["image"], *asked).json["hits"]
        ranks = sorted(h["rank"] for h in hits if f"photos/{h['image']}" in query["positives"])
        assert ranks[0] == 1
        expected.append(sum((i + 1) / r for i, r in enumerate(ranks)) / 2)
    assert [q["ap"] for q in report["queries"]] == pytest.approx(expected)
    assert report["metrics"]["mAP"] == pytest.approx(sum(expected) / 4)
    assert report["metrics"]["precision@1"] == 1
    assert report["metrics"]["recall@10"] == 1
    assert report["metrics"]["localised@10"] is None  # codes of whole pictures say nothing of where
    text = cli(*run).out
    assert "protocol:" in text
    assert "small: 4 queries over 10 images" in text


def test_boxes_of_true_hits_are_held_against_annotated_ones(
    cli: Cli, tiny: tuple[str, ...], manifest: Path, tmp_path: Path
) -> None:
    names = json.loads(manifest.read_text())["images"]
    rows = [
        f"{names[0]},0,0,32,48",
        f"{names[1]},32,0,32,48",
        f"{names[1]},2,0,32,48",
        f"{names[2]},40,0,16,48",
    ]
    (manifest.parent / "boxes.csv").write_text("\n".join(["image,x,y,w,h", *rows]))
    table = json.loads(manifest.read_text())
    for query in table["queries"]:
        query |= {"positives": [query["image"]], "box": [0, 0, 32, 48]}
    manifest.write_text(json.dumps(table))
    run = ("eval", "--dataset", manifest, "--index", tmp_path / "i", *tiny, "--detector", "halves", "--json")
    metrics = cli(*run).json["metrics"]
    assert metrics["annotated true hits@10"] == 3
    assert metrics["localised@10"] == pytest.approx(2 / 3)
    assert metrics["mean IoU@10"] == pytest.approx((1 + 30 / 34 + 0) / 3, abs=1e-4)


def test_a_query_without_boxes_counts_where_others_have_some(
    cli: Cli, tiny: tuple[str, ...], manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ("eval", "--dataset", manifest, "--index", tmp_path / "i", *tiny, "--detector", "halves", "--json")
    whole, search = cli(*run).json, Engine.search
    assert all(isinstance(query["localised"], int) for query in whole["queries"])

    def unlocated(engine: Engine, queries: Any, k: int) -> Any:
        hits = search(engine, queries, k)
        some = queries[0].id == "q0"
        return replace(hits, boxes=np.full_like(hits.boxes, np.nan)) if some or everywhere else hits

    monkeypatch.setattr(Engine, "search", unlocated)
    everywhere = False
    found = cli(*run).json
    assert [query["localised"] for query in found["queries"]] == [
        0,
        *(query["localised"] for query in whole["queries"][1:]),
    ]
    hits = found["metrics"]["annotated true hits@10"]
    assert found["metrics"]["localised@10"] == sum(q["localised"] for q in found["queries"]) / hits
    everywhere = True
    found = cli(*run).json
    assert {query["localised"] for query in found["queries"]} == {None}
    assert found["metrics"]["localised@10"] is None
    assert found["metrics"]["annotated true hits@10"] == hits


def test_excluded_images_are_not_there_and_junk_is_not_counted(
    cli: Cli, tiny: tuple[str, ...], manifest: Path, tmp_path: Path
) -> None:
    run = ("eval", "--dataset", manifest, "--index", tmp_path / "i", *tiny, "--json")
    before = cli(*run).json["queries"][1]["ap"]
    names = json.loads(manifest.read_text())["images"]
    change(manifest, positives=[names[5]], exclude=[names[1]])
    excluded = cli(*run).json["queries"][1]["ap"]
    change(manifest, positives=[names[5]], exclude=[], junk=[names[1]])
    junk = cli(*run).json["queries"][1]["ap"]
    assert excluded == junk
    assert excluded < before
    others = [n for n in names if n not in (names[1], names[5])]
    change(manifest, exclude=[names[1]], junk=others)
    assert cli(*run).json["queries"][1]["ap"] == 1


def test_tops_cut_the_ranking(cli: Cli, tiny: tuple[str, ...], manifest: Path, tmp_path: Path) -> None:
    table = json.loads(manifest.read_text())
    for query in table["queries"]:
        query["positives"] = [query["image"], *table["images"][4:]]
    manifest.write_text(json.dumps(table))
    run = ("eval", "--dataset", manifest, "--index", tmp_path / "i", *tiny)
    assert not [m for m in cli(*run, "--json").json["metrics"] if m.startswith("mAP@")]
    report = cli(*run, "--top", 2, "--top", 5, "--json").json
    cut: dict[int, list[float]] = {2: [], 5: []}
    for query in table["queries"]:
        index = ("--index", tmp_path / "i", "--pipeline", "eval-cells-centred-flat")
        asked = ("--box", "0,0,64,48", "--json", "-k", 10)
        hits = cli("query", tmp_path / query["image"], *index, *asked).json["hits"]
        ranks = sorted(h["rank"] for h in hits if f"photos/{h['image']}" in query["positives"])
        for k, scores in cut.items():
            scores.append(sum((i + 1) / r for i, r in enumerate(ranks) if r <= k) / len(query["positives"]))
    for k, scores in cut.items():
        assert [q[f"ap@{k}"] for q in report["queries"]] == pytest.approx(scores)
        assert report["metrics"][f"mAP@{k}"] == pytest.approx(sum(scores) / 4)
    assert list(report["metrics"])[:3] == ["mAP", "mAP@2", "mAP@5"]
    n = len(table["queries"][0]["positives"])
    other = cli(*run, "--top", 2, "--top-of", "reachable", "--json").json
    assert other["metrics"]["mAP@2 (reachable)"] == pytest.approx(sum(cut[2]) / 4 * n / 2)
    assert "mAP@2" not in other["metrics"]
    assert "mAP@2 (reachable)" in cli(*run, "--top", 2, "--top-of", "reachable").out
    assert "--top" in cli(*run, "--top", 0, status=2).err


def test_other_images_of_the_index_are_not_ranked(
    cli: Cli, tiny: tuple[str, ...], manifest: Path, photos: Path, tmp_path: Path
) -> None:
    cli("index", photos, "--index", tmp_path / "i", *tiny)
    table = json.loads(manifest.read_text())
    for query in table["queries"]:
        query["positives"] = [query["image"]]
    table["images"] = table["images"][:6]
    manifest.write_text(json.dumps(table))
    report = cli("eval", "--dataset", manifest, "--index", tmp_path / "i", *tiny, "--json").json
    assert report["images"] == {"dataset": 6, "indexed": 6}
    assert report["metrics"]["precision@10"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"box": [500, 500, 10, 10]}, "query 'q1'"),
        ({"box": [1, 2, 3]}, "query 'q1': box is"),
        ({"box": [1, 2, 0, 3]}, "query 'q1': box .* no area"),
        ({"positives": []}, "query 'q1' has no positives"),
        ({"positives": ["nowhere.png"]}, "query 'q1': positive 'nowhere.png'"),
        ({"image": "nowhere.png"}, "query 'q1'"),
        ({"junk": "photos"}, "junk is a list"),
        ({"junk": ["photos/b/988.png"]}, "query 'q1': junk image 'photos/b/988.png' is not among the images"),
        ({"junk": ["photos/b/0.png"]}, "query 'q1': 'photos/b/0.png' is in positives and in junk"),
        ({"Junk": ["photos/b/2.png"]}, "query 'q1': there is no key 'Junk'. Did you mean 'junk'"),
        ({"excludes": []}, "query 'q1': there is no key 'excludes'. Did you mean 'exclude'"),
        ({"id": "q0"}, "two queries are called 'q0'"),
    ],
)
def test_a_wrong_query_is_named(
    cli: Cli, tiny: tuple[str, ...], manifest: Path, tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    import re

    change(manifest, **fields)
    failed = cli("eval", "--dataset", manifest, "--index", tmp_path / "i", *tiny, status=1)
    assert re.search(message, failed.err), failed.err
    assert len(failed.err.split("error: ")[1].splitlines()) <= 2


@pytest.mark.parametrize(
    ("text", "message"), [("{", "not JSON"), ("[]", "not a manifest"), ("{}", "no queries")]
)
def test_a_wrong_manifest_is_named(
    cli: Cli, tiny: tuple[str, ...], manifest: Path, tmp_path: Path, text: str, message: str
) -> None:
    manifest.write_text(text)
    assert message in cli("eval", "--dataset", manifest, "--index", tmp_path / "i", *tiny, status=1).err


def test_missing_images_are_counted(cli: Cli, tiny: tuple[str, ...], manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "photos/a/1.png").unlink()
    (tmp_path / "photos/a/3.png").unlink()
    failed = cli("eval", "--dataset", manifest, "--index", tmp_path / "i", *tiny, status=1)
    assert "2 of the 10 images" in failed.err
    assert "--root" in failed.err
    assert "Did you mean 'manifest'" in cli("eval", "--dataset", "manifst", status=2).err
