"""`instsearch demo`: the whole path, on few scenes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from schema_check import valid


@pytest.mark.slow
def test_demo_finds_its_objects_and_shows_them(cli: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    text = cli("demo", folder, "--scenes", 40, "--quiet").out
    found = re.search(r"mAP +([0-9.]+)", text)
    assert found
    assert float(found[1]) > 0.6
    localised = re.search(r"localised@10 +([0-9.]+)", text)
    assert localised
    assert float(localised[1]) > 0.6
    assert re.search(r"^[0-9]+ found of at least 0\.5 among 40 images in ", text, re.MULTILINE)
    page = (folder / "hits.html").read_text("utf-8")
    assert "data:image/jpeg;base64," in page
    assert not re.search(r'(?:src|href)="https?:', page)
    with PIL.Image.open(folder / "hits.png") as sheet:
        assert sheet.width > 500
    again = valid("demo", cli("demo", folder, "--scenes", 40, "--quiet", "--json").out)
    assert f"{again['metrics']['mAP']:.3f}" == found[1]
    assert again["hits"] >= 1
    assert all(Path(again[key]).exists() for key in ("manifest", "index", "html", "sheet"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not delete")
    cli("demo", tmp_path / "mine", status=1)
    assert (tmp_path / "mine" / "thesis.txt").exists()
