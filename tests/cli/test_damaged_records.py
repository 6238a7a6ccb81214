"""Records of pipelines that are damaged, lost or of another version: named, mended, dropped."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from instsearch_cli.engine import records
from instsearch_formats import Index
from two_pipelines import NAME, command, hits, index, photos, problems, shelf

__all__ = ["index", "photos", "shelf"]  # fixtures

Cli = Callable[..., Any]
pytestmark = pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")


def half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def digit(file: Path) -> None:
    text = file.read_text()
    at = text.index("models/") + text[text.index("models/") :].index("-") + 1
    file.write_text(text[:at] + ("0" if text[at] != "0" else "1") + text[at + 1 :])


def endless(file: Path) -> None:
    file.unlink()
    file.symlink_to("/dev/zero")


def pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def deep(file: Path) -> None:
    file.write_text("[" * 200_000)


def bytes_(file: Path) -> None:
    file.write_bytes(b"\xff\xfe" * 100)


@pytest.mark.parametrize("spoil", [half, digit, endless, pipe, deep, bytes_, Path.unlink])
@pytest.mark.parametrize("name", [NAME, "other"])
def test_a_damaged_record_is_named_and_mended(
    cli: Cli, index: Path, photos: Path, name: str, spoil: Callable[[Path], None]
) -> None:
    sound = "other" if name == NAME else NAME
    query = photos / "a/1.png"
    expected = {n: hits(cli, index, query, "--pipeline", n) for n in (sound, name)}
    record = index / "pipelines" / f"{name}.json"
    layers = {info.path for info in Index.open(index).layers()}
    spoil(record)
    named = problems(cli, index)[f"pipelines/{name}.json"]
    assert hits(cli, index, query, "--pipeline", sound) == expected[sound]
    assert (
        "is damaged"
        in cli(
            "query",
            query,
            "--index",
            index,
            "--pipeline",
            name,
            status=1,
        ).err
    )
    answer = cli("query", query, "--index", index, "--json", "-k", "30").json
    assert answer["hits"] == expected[sound]
    assert (f"Pipeline '{sound}' is taken for it" in " ".join(answer["cautions"])) is (name == "other")
    failed = cli("gc", "--index", index, status=1).err
    assert f"--forget {name}" in failed
    assert "nothing is removed" in failed
    assert {info.path for info in Index.open(index).layers()} == layers
    cli(*command(named["mend"]), "--quiet")
    if name == NAME:
        cli("index", "--index", index, "--preset", index / "pipelines" / "other.toml", "--quiet")
    assert "sound" in cli("verify", "--index", index).out
    for n, before in expected.items():
        assert hits(cli, index, query, "--pipeline", n) == before
    cli("gc", "--index", index)
    assert {info.path for info in Index.open(index).layers()} == layers


def test_a_damaged_record_can_be_dropped(cli: Cli, index: Path, photos: Path) -> None:
    half(index / "pipelines" / "other.json")
    half(index / "pipelines" / "other.toml")
    mend = problems(cli, index)["pipelines/other.json"]["mend"]
    assert command(mend)[:3] == ["gc", "--forget", "other"]
    cli(*command(mend))
    assert "sound" in cli("verify", "--index", index).out
    assert sorted(p.name for p in (index / "pipelines").iterdir()) == ["LAST", f"{NAME}.json", f"{NAME}.toml"]
    assert hits(cli, index, photos / "a/1.png")


def test_a_text_beside_a_record_is_written_anew(cli: Cli, index: Path, photos: Path, tmp_path: Path) -> None:
    before, query = hits(cli, index, photos / "a/1.png"), photos / "a/1.png"
    text = index / "pipelines" / "other.toml"
    told = text.read_bytes()
    (tmp_path / "outside").write_text("mine")
    for spoil in (
        half,
        Path.unlink,
        endless,
        lambda file: (file.unlink(), file.symlink_to(tmp_path / "outside")),
    ):
        spoil(text)
        mend = problems(cli, index)["pipelines/other.toml"]["mend"]
        assert hits(cli, index, query) == before
        cli(*command(mend))
        assert text.read_bytes() == told
        assert "sound" in cli("verify", "--index", index).out
    assert (tmp_path / "outside").read_text() == "mine"


def test_records_of_older_versions_are_read(cli: Cli, index: Path, photos: Path) -> None:
    before = hits(cli, index, photos / "a/1.png")
    for record in (index / "pipelines").glob("*.json"):
        whole = json.loads(record.read_text())
        record.write_text(json.dumps({name: whole[name] for name in ("layers", "facts")}, indent=1))
    assert hits(cli, index, photos / "a/1.png") == before
    assert "sound" in cli("verify", "--index", index).out
    assert cli("gc", "--index", index).out == "0 removed\n"
    part = next((index / "codes").rglob("*.h5"))
    part.unlink()
    assert str(part.relative_to(index)) in problems(cli, index)
    cli("index", "--index", index, "--preset", index / "pipelines" / f"{NAME}.toml", "--quiet")
    cli("index", "--index", index, "--preset", index / "pipelines" / "other.toml", "--quiet")
    assert "sound" in cli("verify", "--index", index).out
    record.write_text(json.dumps({name: whole[name] for name in ("layers", "facts")}))
    digit(record)
    models = Index.open(index).models()
    assert "is not there" in cli("gc", "--index", index, status=1).err
    assert Index.open(index).models() == models
    (index / "pipelines" / record.name).with_suffix(".toml").unlink()  # what a kill left half is none
    assert cli("info", "--index", index, "--json").json["pipelines"].keys() == {
        n for n in (NAME, "other") if n != record.stem
    }


def test_the_last_pipeline_forgotten_leaves_another_or_none(cli: Cli, index: Path, photos: Path) -> None:
    cli("gc", "--index", index, "--forget", "other")
    assert "sound" in cli("verify", "--index", index).out
    assert cli("info", "--index", index, "--json").json["last"] == NAME
    assert hits(cli, index, photos / "a/1.png")
    cli("gc", "--index", index, "--forget", NAME)
    assert not list((index / "pipelines").iterdir())
    assert "sound" in cli("verify", "--index", index).out
    assert "no searchable pipeline" in cli("query", photos / "a/1.png", "--index", index, status=1).err
    cli(
        "index",
        "--index",
        index,
        "--extractor",
        "cells",
        "--encoder",
        "centred",
        "--searcher",
        "scan",
        "--quiet",
    )
    assert hits(cli, index, photos / "a/1.png")


@pytest.mark.parametrize("name", ["a/b", "../x", "", ".x", "a b", "n" * 200, "a\nb"])
def test_a_pipelines_name_is_one_from_the_start(
    cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path, name: str
) -> None:
    preset = tmp_path / "p.toml"
    preset.write_text(
        f"name = {json.dumps(name)}\n[extractor]\nname = 'cells'\n"
        "[encoder]\nname = 'centred'\n[weighting]\nname = 'flat'\n"
    )
    run = ("index", photos, "--index", tmp_path / "j", "--preset", preset, "--quiet")
    if name:
        assert "--name takes" in cli(*run, status=2).err
        assert not (tmp_path / "j").exists()
    else:
        cli(*run)
        assert (tmp_path / "j" / "pipelines" / f"{NAME}.toml").exists()


@pytest.mark.parametrize(
    ("key", "value"), [("tombstones", 10**400), ("tombstones", -1), ("rows", {"codes/x": 10**12})]
)
def test_numbers_of_a_record_that_there_cannot_be(cli: Cli, index: Path, key: str, value: Any) -> None:
    path = index / "pipelines" / "other.json"
    used = json.loads(path.read_text()) | {key: value}
    used.pop("sha256")
    path.write_text(json.dumps(used | {"sha256": records._checksum(used)}))
    told = cli("verify", "--index", index, status=1)
    assert "other.json" in told.out
    assert "is no number of rows" in told.out


def test_a_question_reads_the_record_that_it_is_to_alone(
    cli: Cli, index: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many pipelines experiments left: a service reads them with every question."""
    read: list[str] = []
    whole = records._read
    monkeypatch.setattr(records, "_read", lambda index, name: read.append(name) or whole(index, name))
    store = Index.open(index)
    for name in ("other", NAME):
        assert records.last(store, name).pipeline.name == name
        assert read == [name]
        read.clear()
    asked = records.last_names(store)
    assert [record.pipeline.name for record in records.together(store)] == asked
    assert set(read) == set(asked)
