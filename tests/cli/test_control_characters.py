"""No control character of a name or a text from elsewhere reaches a terminal, whatever the verb."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]
ODD = "\x1b[31m\x07\r\n\u202e\x9b"
FOLDER, PHOTO = f"fol{ODD}der", f"pho{ODD}to.png"


@pytest.fixture
def place(cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path) -> Path:
    """Photographs, one of them, its folder, and all in an index below another folder, of an odd name."""
    there = tmp_path / FOLDER
    there.mkdir()
    photos.rename(there / "photos")
    (there / "photos" / "a" / "1.png").rename(there / "photos" / "a" / PHOTO)
    (there / "photos" / f"bad{ODD}.jpg").write_text("no picture")
    cli("index", there / "photos", "--index", there / "i", *tiny)
    return there


def plain(outcome: Any) -> None:
    for text in outcome.out, outcome.err:
        odd = {c for c in text if not c.isprintable() and c != "\n"}
        assert not odd, (odd, text)
        assert "\nto.png" not in text  # no line that a name began


def commands(place: Path) -> list[tuple[object, ...]]:
    i, photos = place / "i", place / "photos"
    photo = photos / "a" / PHOTO
    index = ("--index", i)
    return [
        ("index", photos, *index),
        ("index", photos, *index, "--strict"),
        ("index", photos / f"gone{ODD}", *index),
        ("index", *index, "--name", f"na{ODD}me"),
        ("index", *index, "--set", f"encoder.dim={ODD}"),
        ("index", *index, "--set", f"enc{ODD}.dim=3"),
        ("index", *index, "--encoder", f"cent{ODD}"),
        ("index", *index, "--preset", f"{ODD}.toml"),
        ("index", *index, "--preset", place / "odd.toml"),
        ("extract", photos, *index),
        ("add", photos, *index),
        ("add", place, "--index", place / f"none{ODD}"),
        ("sync", *index, "--dry-run"),
        ("sync", *index, photos / f"gone{ODD}"),
        ("info", *index),
        ("query", photo, *index, "-k", 20),
        ("query", photo, *index, "--box", "900,900,5,5"),
        ("query", photo, *index, "--box", f"1,2,{ODD},4"),
        ("query", photo, *index, "--pipeline", f"p{ODD}"),
        ("query", photo, *index, "--min-score", 0.99),
        ("query", photo, *index, "--html", place / f"hits{ODD}.html"),
        ("query", photo, *index, "--sheet", place / f"none{ODD}" / "hits.png"),
        ("query", photo, *index, "--copy-to", place / f"copies{ODD}"),
        ("query", photo, *index, "--also", f"{photo}:{ODD}"),
        ("query", photo, *index, "--not", place / f"none{ODD}.png"),
        ("query", photos / f"bad{ODD}.jpg", *index),
        ("query", *index, "--batch", place / "batch.csv", "-o", place / f"out{ODD}.csv"),
        ("query", *index, "--batch", place / "odd.csv"),
        ("query", *index, "--session", place / "odd.json"),
        ("show", f"a/{PHOTO}", *index, "--out", place / f"shown{ODD}.png"),
        ("show", f"none{ODD}", *index),
        ("eval", "--dataset", place / "manifest.json", *index),
        ("eval", "--dataset", place / f"none{ODD}.json", *index),
        ("eval", "--dataset", place / "odd.json", *index),
        ("export", "features", *index, "--out", place / f"out{ODD}.npz"),
        ("export", f"feat{ODD}", *index, "--out", place / "o.npz"),
        ("pairs", *index, "--out", place / f"pairs{ODD}"),
        ("remove", f"a/{PHOTO}", *index),
        ("restore", f"a/{PHOTO}", *index),
        ("remove", "--missing", *index),
        ("relocate", photos, place / f"else{ODD}", *index),
        ("relocate", place / f"else{ODD}", photos, *index),
        ("relocate", place / f"other{ODD}", photos, *index),
        ("verify", *index),
        ("gc", *index, "--dry-run"),
        ("gc", *index, "--forget", f"p{ODD}"),
        ("weights", "import", place / f"none{ODD}.pth"),
        (f"que{ODD}ry",),
        ("query", photo, f"--in{ODD}dex", i),
        ("plugins", f"cent{ODD}"),
        ("box", place / f"none{ODD}.png"),
        ("serve", "--index", place / f"none{ODD}"),
    ]


def test_no_verb_hands_one_on(cli: Cli, place: Path) -> None:
    name = f"photos/a/{PHOTO}"
    query = {"id": f"q{ODD}", "image": name, "box": [1, 2, 40, 30], "positives": [name]}
    manifest = {"name": f"m{ODD}", "root": str(place), "images": [name], "queries": [query]}
    (place / "manifest.json").write_text(json.dumps(manifest))
    (place / "odd.json").write_text(json.dumps({**manifest, ODD: 1, "queries": [{**query, ODD: 2}]}))
    (place / "odd.toml").write_text(f"[{json.dumps(ODD)}]\nname = 1\n")
    (place / "batch.csv").write_bytes(b"image,box,id\nphotos/a/2.png,,\x1b[31m\n\x1b[2J.png,,\x07\n")
    (place / "odd.csv").write_bytes(b"image,\x1b[31m\nphotos/a/2.png,\x07\n")
    for words in commands(place):
        plain(cli(*words, status=None))


def test_nor_does_an_index_that_somebody_else_made(cli: Cli, place: Path, tmp_path: Path) -> None:
    """Its texts: who made it, who locks it, which pipelines there are, what files lie in it."""
    whole = tmp_path / "whole"
    shutil.copytree(place / "i", whole)
    texts = [path for path in whole.rglob("*") if path.suffix in (".json", ".toml", ".txt", "")]
    texts = sorted(path.relative_to(whole) for path in texts if path.is_file())
    assert len(texts) > 4
    for text in texts:
        for change in ODD, None:
            i = tmp_path / "i"
            shutil.rmtree(i, ignore_errors=True)
            shutil.copytree(whole, i)
            if change:
                data = (i / text).read_bytes()
                (i / text).write_bytes(data.replace(b'":"', f'":"{ODD}'.encode()) + os.fsencode(ODD))
            else:
                (i / text).rename(i / text.parent / f"{ODD}{text.name}")
            for verb in (
                ("info",),
                ("verify",),
                ("query", place / "photos" / "a" / "2.png"),
                ("gc", "--dry-run"),
            ):
                plain(cli(*verb, "--index", i, status=None))
