"""examples/channel_correlation.py: figure 2 of xiang2019."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from instsearch_cli.components import Relevance
from real_data import INSTRE, WEIGHTS

ROOT = Path(__file__).parents[2]
MANIFEST = INSTRE / "manifest.json"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location(
        "channel_correlation", ROOT / "examples/channel_correlation.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_queries_of_one_object_stand_together(script):
    sought = {"a": {"x", "y"}, "b": {"z"}, "c": {"y", "x"}, "d": {"z"}, "e": {"x"}}
    dataset = SimpleNamespace(
        queries=lambda: list(sought), relevance=lambda q: Relevance(frozenset(sought[q]))
    )
    queries, objects = script.by_object(dataset)
    assert (queries, objects.tolist()) == (["a", "c", "b", "d", "e"], [0, 0, 1, 1, 2])


def test_means_leave_out_what_is_correlated_with_itself(script):
    R = np.array([[1, 0.8, 0.1], [0.8, 1, 0.3], [0.1, 0.3, 1]])
    assert script.means(R, np.array([0, 0, 1])) == pytest.approx((0.8, 0.2))
    one, two = script.means(R, np.array([0, 1, 2]))
    assert np.isnan(one)
    assert two == pytest.approx(0.4)


@pytest.mark.skipif(not (WEIGHTS.is_dir() and MANIFEST.is_file()), reason="no real weights and data here")
def test_queries_of_one_object_are_more_alike(script, tmp_path, monkeypatch):
    monkeypatch.setenv("INSTSEARCH_WEIGHTS", str(WEIGHTS))
    plot = tmp_path / "fig2.png"
    flags = ["--dataset", MANIFEST, "--extractor", "squeezenet1_0", "--set", "extractor.max-size=224"]
    result = CliRunner().invoke(script.main, [str(f) for f in (*flags, "--limit", 8, "--plot", plot)])
    assert result.exit_code == 0, result.output
    said = result.stdout.splitlines()[-2]
    assert said.startswith("gram-cs, 8 queries of 4 objects: correlation ")
    one, two = (float(word) for word in said.split() if word[0].isdigit() and "." in word)
    assert one > two + 0.1
    assert plot.read_bytes().startswith(b"\x89PNG")
