"""What every verb prints with --json is what its schema says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
from jsonschema import Draft202012Validator

from instsearch_cli.engine.registry import load_registry
from instsearch_cli.errors import UsageError
from instsearch_cli.main import COMMANDS
from instsearch_cli.main import cli as program
from instsearch_cli.report import schema
from instsearch_cli.report.schemas import SCHEMAS
from schema_check import parsed, valid

Cli = Callable[..., Any]
Draw = Callable[..., None]
FOLDER = Path(__file__).parents[2] / "instsearch_cli" / "report" / "schemas"
NAMES = sorted(path.stem for path in FOLDER.iterdir())


def test_every_verb_has_a_schema_and_every_schema_a_verb() -> None:
    assert list(SCHEMAS) == list(COMMANDS)
    wanted = {*chain.from_iterable(SCHEMAS.values()), "error"}
    assert set(NAMES) == wanted
    for name in COMMANDS:
        command = program.get_command(None, name)
        assert command is not None
        assert any("--json" in parameter.opts for parameter in command.params), name
    with pytest.raises(UsageError, match=r"no schema 'salience'\. Did you mean 'saliency'"):
        schema("salience")


def keys(part: Any) -> Iterator[tuple[str, Any]]:
    """Every key of an object that a schema describes."""
    for value in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from keys(value)
    if isinstance(part, dict) and isinstance(part.get("properties"), dict):
        yield from part["properties"].items()


@pytest.mark.parametrize("name", NAMES)
def test_a_schema_is_one_and_says_of_every_key_what_it_is(name: str) -> None:
    written = schema(name)
    Draft202012Validator.check_schema(written)
    assert written["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    described = list(keys(written))
    assert described or written["type"] == "array"
    for key, value in [("", written), *described]:
        there = written["$defs"][value["$ref"].rpartition("/")[2]] if "$ref" in value else value
        text = value.get("description", there.get("description", ""))
        assert text.endswith("."), f"{name}: {key} is not described"


@pytest.mark.parametrize("name", ["verify", "saliency", "error", "gc"])
def test_a_schema_refuses_what_it_does_not_describe(name: str) -> None:
    written = schema(name)
    empty = [error.message for error in Draft202012Validator(written).iter_errors({"stray": 1})]
    assert any("'stray' was unexpected" in message for message in empty)
    assert sum("is a required property" in message for message in empty) == len(written["required"])


def test_an_error(cli: Cli) -> None:
    said = valid("error", cli("info", "--index", "nowhere", "--json", status=1).out)
    assert said["status"] == 1
    assert said["error"].startswith("there is no index at nowhere")
    with pytest.raises(AssertionError, match="status"):
        valid("error", json.dumps({**said, "status": 0}))
    with pytest.raises(AssertionError, match="NaN is no JSON"):
        parsed('{"error": NaN}')


@pytest.fixture
def index(cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path) -> Path:
    """Ten pictures, and one that cannot be read."""
    (photos / "bad.png").write_bytes(b"no picture")
    found = valid("index", cli("index", photos, "--index", tmp_path / "i", *tiny, "--json").out)
    assert (found["found"], found["indexed"], len(found["skipped"])) == (11, 10, 1)
    return tmp_path / "i"


def test_an_index_is_made_asked_and_looked_into(
    cli: Cli, index: Path, photos: Path, draw: Draw, tmp_path: Path
) -> None:
    draw(tmp_path / "more" / "x.png", 20)
    assert valid("index", cli("add", tmp_path / "more", "--index", index, "-j").out)["indexed"] == 1
    taken = cli("extract", photos, "--index", tmp_path / "e", "--extractor", "cells", "--json")
    assert valid("index", taken.out)["written"]["features"] == 10
    assert valid("info", cli("info", "--index", index, "--json").out)["images"] == 11
    asked = ("query", photos / "a/1.png", "--index", index, "--json")
    answer = valid("query", cli(*asked, "--box", "0,0,64,48").out)
    assert (answer["query"]["box"], answer["hits"][0]["image"]) == ([0, 0, 64, 48], "a/1.png")
    assert valid("query", cli(*asked, "--min-score", 1e9).out)["found"] is False
    drawn = valid(
        "show", cli("show", photos / "a/1.png", "--index", index, "-o", tmp_path / "s.png", "-j").out
    )
    assert drawn["layers"]
    assert Path(drawn["out"]).is_file()
    out = tmp_path / "codes.npz"
    codes = valid("export", cli("export", "--index", index, "--layer", "codes", "-o", out, "-j").out)
    assert (codes["images"], codes["arrays"]["vectors"]["dtype"]) == (11, "float32")
    assert codes["arrays"]["vectors"]["shape"][0] == 11


def test_an_index_is_kept_in_order(cli: Cli, index: Path, photos: Path) -> None:
    sound = valid("verify", cli("verify", "--index", index, "--json").out)
    assert sound == {"sound": True, "problems": [], "rows": 10, "layers": 3, "models": 1}
    removed = valid("remove", cli("remove", "a/1.png", "--index", index, "-j", "--quiet").out)
    assert removed == {"removed": 1, "left": 9}
    assert cli("remove", "a/3.png", "--index", index, "--quiet").out == "removed 1, 8 left\n"
    photos.rename(photos.with_name("moved"))
    moved = cli("relocate", photos, photos.with_name("moved"), "--index", index, "--json").out
    assert valid("relocate", moved) == {"old": str(photos), "new": str(photos.with_name("moved"))}
    run = ("gc", "--index", index, "--forget", "cells-centred-flat")
    listed = valid("gc", cli(*run, "--dry-run", "--json").out)
    assert listed["dry_run"]
    assert len(listed["removed"]) >= 4
    assert all(Path(path).exists() for path in listed["removed"])
    assert cli(*run, "--dry-run", "--quiet").out == f"{len(listed['removed'])} to remove\n"
    assert valid("gc", cli(*run, "--json").out) == {"removed": listed["removed"], "dry_run": False}
    assert not any(Path(path).exists() for path in listed["removed"])


def test_a_damaged_index_is_told_with_status_1(cli: Cli, index: Path) -> None:
    part = sorted((index / "codes").rglob("*.h5"))[0]
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    found = valid("verify", cli("verify", "--index", index, "--json", status=1).out)
    assert not found["sound"]
    assert [Path(problem["path"]).name for problem in found["problems"]] == [part.name]
    assert (found["rows"], found["layers"], found["models"]) == (None, None, None)
    told = cli("verify", "--index", index, "--quiet", status=1).out
    assert told.startswith("1 damaged.")
    assert part.name not in told
    assert part.name in cli("verify", "--index", index, status=1).out


def test_what_there_is_to_choose_from(cli: Cli) -> None:
    listed = valid("plugins", cli("plugins", "--json").out)
    for name in {row["name"] for row in listed}:
        found = valid("plugin", cli("plugins", name, "--json").out)
        assert {row["name"] for row in found} == {name}
    (words,) = [
        row
        for row in valid("plugin", cli("plugins", "blcf", "-j").out)[0]["options"]
        if row["name"] == "words"
    ]
    assert words["default"] == 25000
    assert "vocabulary" in words["text"]
    trained = valid("plugin", cli("plugins", "mscnet", "-j").out)[0]["training"]
    assert {"name": "mode", "default": "un"}.items() <= next(
        o for o in trained if o["name"] == "mode"
    ).items()
    presets = valid("presets", cli("presets", "--json").out)
    for row in presets:
        one = valid("preset", cli("presets", row["name"], "--json").out)
        assert one.items() >= row.items()
        assert one["toml"] == cli("presets", row["name"]).out
        parts = [part["name"] for part in (one["pipeline"], *one["beside"])]
        assert parts == (["sift", "patches"] if row["name"] == "best" else [row["name"]])
    assert "no preset" in cli("presets", "sfit", "--json", status=2).err
    papers = valid("reproduce-list", cli("reproduce", "--json").out)
    assert "mohedano2018" in {paper["paper"] for paper in papers}


def test_weights(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from instsearch_cli.components import Component

    class Eyes(Component):
        architecture = "eyes"
        published = "eyes.bin of a/b"

        @classmethod
        def build(cls) -> Any:
            return torch.nn.Linear(3, 2)

        @classmethod
        def import_weights(cls, path: Path) -> dict[str, torch.Tensor]:
            return torch.nn.Linear(3, 2).state_dict()

    monkeypatch.setenv("INSTSEARCH_WEIGHTS", str(tmp_path))
    monkeypatch.setattr("instsearch_cli.engine.listing.networks", lambda *_: iter([("eyes", Eyes)]))
    (row,) = valid("weights", cli("weights", "--json").out)
    assert (row["network"], row["found"], row["sha256"]) == ("eyes", None, "")
    (tmp_path / "published").write_bytes(b"x")
    done = valid("weights-import", cli("weights", "import", "eyes", tmp_path / "published", "-j").out)
    assert (done["network"], done["parameters"], done["found"]) == ("eyes", 8, True)
    elsewhere = ("weights", "--json", "import", "eyes", tmp_path / "published", "--to", tmp_path / "other")
    assert not valid("weights-import", cli(*elsewhere).out)["found"]
    (row,) = valid("weights", cli("weights", "--json").out)
    assert (row["found"], row["sha256"]) == (done["path"], done["sha256"][:12])


@pytest.mark.usefixtures("fakes")
def test_saliency(cli: Cli, data: Path) -> None:
    run = ("saliency", "--data", data, "--weighting", "red", "--weighting", "none", "--json")
    (data / "images" / "3.png").write_bytes(b"x")
    report = valid("saliency", cli(*run).out)
    assert report["images"] == {
        "found": 6,
        "scored": 5,
        "skipped": report["images"]["skipped"],
        "not asked for": 0,
    }
    assert report["rows"][1]["NSS"] is None


@pytest.fixture
def manifest(photos: Path) -> Path:
    names = sorted(str(p.relative_to(photos)) for p in photos.rglob("*.png"))
    queries = [{"id": n, "image": n, "box": [0, 0, 64, 48], "positives": [n]} for n in names[:3]]
    content = {"name": "mine", "images": names, "queries": queries}
    (photos / "mine.json").write_text(json.dumps(content))
    (photos / "boxes.csv").write_text("image,x,y,w,h\n" + "".join(f"{n},8,8,32,32\n" for n in names[:4]))
    return photos / "mine.json"


def test_measures_on_a_dataset(cli: Cli, tiny: tuple[str, ...], manifest: Path, tmp_path: Path) -> None:
    same = ("--dataset", manifest, "--extractor", "cells", "--index", tmp_path / "i", "--json", "--quiet")
    report = valid("precision", cli("saliency", "--precision", *same, "--weighting", "l2norm").out)
    assert report["images"]["scored"] == 4
    assert list(report["rows"][0]["precision"]) == report_images(manifest)
    table = cli("reproduce", "1", "--table", 3, *same, "--set", "encoder.words=8").out
    rows = {row["name"]: row for row in valid("reproduce", table)["rows"]}
    assert "measured" in rows["None"]["results"][str(manifest)]
    assert "why_not" in rows["SalGAN"]["results"][str(manifest)]
    swept = cli("reproduce", "simeoni2018", "--figure", 5, *same, "--values", "2").out
    assert [row["name"] for row in valid("reproduce", swept)["rows"]] == ["FS.EGM", "OS.EGM"]
    made = valid("reproduce", cli("reproduce", "simeoni2018", "--figure", 8, *same).out)
    assert made["command"].startswith("instsearch saliency")


def report_images(manifest: Path) -> list[str]:
    return json.loads(manifest.read_text())["images"][:4]


def test_classes(cli: Cli, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import squeezenet1_0

    torch.manual_seed(1)
    torch.save(squeezenet1_0(weights=None).state_dict(), tmp_path / "squeezenet1_0.pth")
    monkeypatch.setenv("INSTSEARCH_WEIGHTS", str(tmp_path))
    found = valid("classes", cli("classes", photos / "a/1.png", "--top", 3, "--json", "--quiet").out)
    assert (found["pictures"], found["top"], len(found["classes"])) == (1, 3, 3)


def test_pairs(cli: Cli, photos: Path, draw: Draw, tmp_path: Path) -> None:
    draw(tmp_path / "p" / "0.png", 40, (320, 240))
    draw(tmp_path / "p" / "1.png", 41, (320, 240))
    with PIL.Image.open(tmp_path / "p" / "0.png") as image:
        image.crop((20, 20, 300, 220)).save(tmp_path / "p" / "2.png")
    cli("index", tmp_path / "p", "--index", tmp_path / "i", "--quiet")
    run = ("pairs", "--index", tmp_path / "i", "-o", tmp_path / "p.csv", "--json")
    found = valid("pairs", cli(*run).out)
    assert [{pair["a"], pair["b"]} for pair in found["pairs"]] == [{"0.png", "2.png"}]
    assert found["candidates"] == 1 + found["rejected"] == 3
    assert found["wrote"] == [str(tmp_path / "p.csv")]


def test_train(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "fake_plugins" / "school"))
    load_registry.cache_clear()
    (tmp_path / "numbers").mkdir()
    for i in range(3):
        (tmp_path / "numbers" / f"{i}.txt").write_text(str(i))
    out = tmp_path / "pupil.pth"
    run = ("train", "pupil", "--data", tmp_path / "numbers", "--out", out, "--epochs", 1, "--json", "--quiet")
    done = valid("train", cli(*run).out)
    assert (done["network"], done["already"], done["card"]["network"]) == ("pupil", False, "pupil")
    assert done["use"] == f"--weighting pupil --set weighting.weights={out}"
    again = valid("train", cli(*run).out)
    assert again == {**done, "already": True}
    load_registry.cache_clear()
