"""Learnt keypoints from the command line: drawn pictures found and located with a network of random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest

from learnt_keypoints import files, picture

Cli = Callable[..., Any]
pytest.importorskip("kornia")

__all__ = ["files"]


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    """Six textures, the last of them larger and moved on grey, and one blank picture."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(5):
        PIL.Image.fromarray(picture(192, 256, i).pixels).save(folder / f"{i}.png")
    moved = cv2.warpAffine(
        picture(192, 256, 0).pixels,
        np.float32([[1, 0, 64], [0, 1, 32]]),
        (384, 256),
        borderValue=(99, 99, 99),
    )
    PIL.Image.fromarray(moved).save(folder / "moved.png")
    PIL.Image.new("RGB", (200, 100), (99, 99, 99)).save(folder / "blank.png")
    return folder


@pytest.mark.parametrize("rerank", [(), ("--rerank", "geometric")], ids=["words", "descriptors"])
def test_a_texture_is_found_and_located(
    cli: Cli, collection: Path, tmp_path: Path, files: dict[str, Path], rerank: tuple[str, ...]
) -> None:
    flags = ("--extractor", "aliked", "--weights", files["aliked"], "--set", "extractor.scales=1")
    cli("index", collection, "--index", tmp_path / "i", *flags, "--quiet")
    asked = cli(
        "query", collection / "0.png", "--box", "64,64,128,96", "--index", tmp_path / "i", "--json", *rerank
    ).json
    assert asked["probability"] == (not rerank)
    assert {hit["image"] for hit in asked["hits"][:2]} == {"0.png", "moved.png"}
    boxes = {hit["image"]: hit["box"] for hit in asked["hits"][:2]}
    np.testing.assert_allclose(boxes["0.png"], (64, 64, 128, 96), atol=4)
    np.testing.assert_allclose(boxes["moved.png"], (128, 96, 128, 96), atol=4)


def test_the_vocabulary_of_sift_is_refused(
    cli: Cli, collection: Path, tmp_path: Path, files: dict[str, Path]
) -> None:
    flags = ("--extractor", "disk", "--weights", files["disk"], "--encoder", "bovw")  # which no preset starts
    said = cli("index", collection, "--index", tmp_path / "i", *flags, "--quiet", status=2)
    assert "is of SIFT" in said.err
    assert "take --set encoder.vocabulary=own" in said.err
