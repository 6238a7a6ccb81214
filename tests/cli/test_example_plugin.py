"""The example plugin: installed from its own pyproject, found through its entry point, held to the contracts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from instsearch_cli.testing import RerankerContract, WeighterContract, make_inputs

EXAMPLE = Path(__file__).parents[2] / "examples" / "instsearch-example-plugin"
sys.path.insert(0, str(EXAMPLE))
import instsearch_example_plugin  # type: ignore[import-not-found]  # noqa: E402

sys.path.remove(str(EXAMPLE))


class TestEdges(WeighterContract):
    component = instsearch_example_plugin.Edges

    def test_edges_weigh_more_than_flat_cells(self) -> None:
        inputs = make_inputs()
        pixels = np.zeros_like(inputs.image.pixels)
        pixels[:16, :16:2] = 255
        image = type(inputs.image)(pixels, inputs.image.size)
        weights = self.make().weigh(type(inputs)(size=inputs.size, grid=inputs.grid, image=image)).values[0]
        assert torch.argmax(weights) == 0
        assert float(weights[-1, -1]) < 0.2


class TestCut(RerankerContract):
    component = instsearch_example_plugin.Cut
    options = {"share": 0.6}  # noqa: RUF012

    def test_low_scores_become_padding(self) -> None:
        from instsearch_cli.data import Hits

        hits = Hits(
            np.array([[4, 2, 7]]), np.array([[1.0, 0.7, 0.5]], np.float32), np.zeros((1, 3, 4), np.float32)
        )
        cut = self.make().rerank([None], hits, None, None)
        assert cut.images.tolist() == [[4, 2, -1]]
        assert np.isneginf(cut.scores[0, 2])
        assert np.isnan(cut.boxes[0, 2]).all()


@pytest.mark.slow
def test_installed_and_run(tmp_path: Path, photos: Path) -> None:
    target = tmp_path / "site"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(target),
        str(EXAMPLE),
    ]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if done.returncode and "hatchling" in done.stderr:
        pytest.skip("no package index: hatchling cannot be installed to build the plugin")
    assert done.returncode == 0, done.stderr

    def program(*arguments: object) -> str:
        return subprocess.run(
            [sys.executable, "-m", "instsearch_cli.main", *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": str(target)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    assert "[instsearch-example-plugin 0.1.0]" in program("plugins")
    index = tmp_path / "index"
    flags = ("--weighting", "edges", "--rerank", "cut", "--quiet")
    program("index", photos, "--index", index, *flags)
    hits = json.loads(program("query", photos / "a/1.png", "--index", index, "--json"))["hits"]
    assert hits[0]["image"] == "a/1.png"
    assert all(hit["score"] >= 0.5 * hits[0]["score"] for hit in hits)
