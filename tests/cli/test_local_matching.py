"""What compares local features, through the command line: encoder and searcher `asmk`, reranker `chamfer`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest

Cli = Callable[..., Any]
SHOWS = {"0.png": "A", "1.png": "A", "2.png": "B", "3.png": "B", "4.png": "C"}
ASMK = (
    "--preset",
    "sift",
    "--encoder",
    "asmk",
    "--searcher",
    "asmk",
    "--set",
    "encoder.whiten=false",
    "--quiet",
)
OWN = ("--set", "encoder.words=200", "--rerank", "none")
INCLUDED = ("--set", "encoder.vocabulary=included", "--rerank", "none")


def texture(seed: int, width: int, height: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(height, width, 3)).astype(np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), 2.0)
    return np.clip(128 + 60 * noise / noise.std(), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Objects at (40, 30), 110 by 110, each picture with a background of its own."""
    folder = tmp_path_factory.mktemp("scenes")
    for i, (name, shows) in enumerate(SHOWS.items()):
        pixels = texture(i, 240, 200)
        pixels[30:140, 40:150] = texture(ord(shows), 110, 110)
        PIL.Image.fromarray(pixels).save(folder / name)
    return folder


def found(cli: Cli, index: Path, picture: Path, *flags: str) -> list[dict[str, Any]]:
    hits: list[dict[str, Any]] = cli(
        "query", picture, "--box", "40,30,110,110", "--index", index, "--json", *flags
    ).json["hits"]
    return hits


@pytest.mark.parametrize(
    "flags", [OWN, (*OWN, "--set", "encoder.binary=false"), INCLUDED], ids=["own", "vectors", "included"]
)
def test_asmk_finds_the_other_picture_of_the_object(
    cli: Cli, scenes: Path, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    index = tmp_path / "i"
    cli("index", *(scenes / n for n in ("0.png", "2.png", "4.png")), "--index", index, *ASMK, *flags)
    cli("add", scenes / "1.png", scenes / "3.png", "--index", index, "--quiet")  # a segment of its own
    for picture, other in (("0.png", "1.png"), ("3.png", "2.png")):
        first, second, *_ = found(cli, index, scenes / picture)
        assert {Path(hit["image"]).name for hit in (first, second)} == {picture, other}
        assert 0 < second["score"] <= first["score"]
    cli("remove", "1.png", "--index", index)
    assert "1.png" not in [Path(hit["image"]).name for hit in found(cli, index, scenes / "0.png")]
    cli("verify", "--index", index)


@pytest.mark.parametrize("transport", ["false", "true"])
def test_chamfer_gives_scores_and_boxes_over_keypoints(
    cli: Cli, scenes: Path, tmp_path: Path, transport: str
) -> None:
    index = tmp_path / "i"
    flags = ("--encoder", "bovw", "--searcher", "inverted", "--keep-features", "--rerank", "chamfer")
    option = ("--set", f"rerank.chamfer.transport={transport}")
    cli("index", scenes, "--index", index, "--preset", "sift", *flags, *option, "--quiet")
    first, second, *_ = found(cli, index, scenes / "0.png")
    assert [Path(hit["image"]).name for hit in (first, second)] == ["0.png", "1.png"]
    x, y, w, h = first["box"]
    assert 20 < x < 70
    assert 10 < y < 60
    assert 60 < w < 150
    assert 60 < h < 150


def test_what_does_not_go_together_is_said(cli: Cli, scenes: Path, tmp_path: Path) -> None:
    index = tmp_path / "i"
    flags = ("--preset", "sift", "--encoder", "bovw", "--searcher", "asmk", "--rerank", "none", "--quiet")
    assert "--encoder asmk" in cli("index", scenes, "--index", index, *flags, status=None).err
    flags = ("--preset", "sift", "--searcher", "inverted", "--rerank", "superglobal", "--quiet")
    cli("index", scenes, "--index", index, *flags)
    said = cli("query", scenes / "0.png", "--index", index, status=None)
    assert said.status
    assert "superglobal refines dense codes" in said.err
