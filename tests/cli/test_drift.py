from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instsearch_cli.engine.drift import divergence, drift
from instsearch_formats import Index

if TYPE_CHECKING:
    from pathlib import Path

Cli = Callable[..., Any]
Draw = Callable[..., None]
histograms = st.lists(st.integers(0, 9), min_size=4, max_size=4).filter(any)


def test_divergence_by_hand() -> None:
    """(1, 0) and (1/2, 1/2): m = (3/4, 1/4), H(m) = 0.8113, H(p) = 0, H(q) = 1, so JS = 0.3113."""
    assert divergence(np.array([2, 0]), np.array([3, 3])) == pytest.approx(0.311278, abs=1e-6)
    assert divergence(np.array([1, 2, 3]), np.array([2, 4, 6])) == pytest.approx(0, abs=1e-12)
    assert divergence(np.array([1, 1, 0, 0]), np.array([0, 0, 5, 1])) == pytest.approx(1)


@given(histograms, histograms)
def test_divergence_equals_the_sum_of_two_relative_entropies(p, q) -> None:
    a, b = np.array(p) / sum(p), np.array(q) / sum(q)
    m = (a + b) / 2
    expected = sum(x * np.log2(x / y) / 2 for side in (a, b) for x, y in zip(side, m, strict=True) if x > 0)
    assert divergence(np.array(p), np.array(q)) == pytest.approx(expected, abs=1e-9)
    assert divergence(np.array(p), np.array(q)) == pytest.approx(divergence(np.array(q), np.array(p)))


def bursts(n: int, words: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images of ten words each, every one three times."""
    rng = np.random.default_rng(seed)
    chosen = rng.choice(words, (n, 10)).repeat(3, axis=1)
    return chosen.ravel(), np.arange(n).repeat(30)


def test_images_of_one_kind_differ_as_chance_does_and_others_by_more() -> None:
    words, image = bursts(200, np.arange(50), 0)
    new = np.arange(200) >= 150
    alike = drift(words, image, new)
    assert alike is not None
    assert 0.8 < alike.divergence / alike.by_chance < 1.25
    others, _ = bursts(200, np.arange(25, 75), 1)
    mixed = drift(np.where(new[image], others, words), image, new)
    assert mixed is not None
    assert mixed.divergence > 3 * mixed.by_chance
    p, q = (
        np.bincount(np.where(new[image], others, words)[new[image] == side], minlength=75) for side in (0, 1)
    )
    assert mixed.divergence == pytest.approx(divergence(p, q), rel=1e-5)


def test_nothing_to_compare() -> None:
    words, image = bursts(4, np.arange(5), 0)
    assert drift(words, image, np.zeros(4, bool)) is None
    assert drift(words, image, np.ones(4, bool)) is None
    assert drift(words[:0], image[:0], np.array([True, False])) is None


SIFT = (
    "--extractor",
    "sift",
    "--encoder",
    "blcf",
    "--set",
    "encoder.whiten=false",
    "--set",
    "encoder.words=20",
)


def vocabularies(cli: Cli, index: Path) -> list[dict[str, Any]]:
    return [m for m in cli("info", "--index", index, "--json").json["models"] if m["name"] == "blcf"]


def test_info_says_how_far_new_images_are_from_those_of_the_vocabulary(
    cli: Cli, photos: Path, draw: Draw, tmp_path: Path
) -> None:
    """Of the stored words it is what the functions above make of them; a removed image is not among them."""
    index = tmp_path / "i"
    cli("index", photos, "--index", index, *SIFT)
    assert [m["drift"] for m in vocabularies(cli, index)] == [None]
    for i in range(3):
        draw(photos / "c" / f"{i}.png", 50 + i, (160, 160))
    cli("add", photos, "--index", index)
    [model] = vocabularies(cli, index)
    assert model["not_seen"] == 3
    rows, words, image = 13, [], []
    info = next(x for x in Index.open(index).layers() if x.encoding == "word-map")
    layer = Index.open(index).layer(info.kind, info.name, info.encoding, info.identity)
    for row in range(rows):
        words.append(layer.read(row)["words"].astype(np.int64))
        image.append(np.full(len(words[-1]), row))
    expected = drift(np.concatenate(words), np.concatenate(image), np.arange(rows) >= 10)
    assert expected is not None
    assert model["drift"] == pytest.approx(expected._asdict(), abs=1e-6)
    said = f"3 added since (--refit): their words differ by {expected.divergence:.3f} bits"
    assert said in cli("info", "--index", index).out
    cli("remove", photos / "c" / "0.png", photos / "c" / "1.png", "--index", index)
    [model] = vocabularies(cli, index)
    fewer = np.concatenate(image) < 10, np.concatenate(image) == 12
    p, q = (np.bincount(np.concatenate(words)[side], minlength=20) for side in fewer)
    assert model["drift"]["divergence"] == pytest.approx(divergence(p, q), abs=1e-6)


@pytest.mark.parametrize("said", [True, False])
def test_new_images_are_not_seen_though_as_many_went(
    cli: Cli, photos: Path, draw: Draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: bool
) -> None:
    """By the rows that there were when the model was fitted; where it does not say how many, by the images."""
    index = tmp_path / "i"
    cli("index", photos, "--index", index, *SIFT)
    for path in photos.glob("a/*.png"):
        path.unlink()
    for i in range(3):
        draw(photos / "c" / f"{i}.png", 50 + i, (160, 160))
    cli("sync", "--index", index, "--max-remove", "5")
    if not said:
        models = Index.models
        monkeypatch.setattr(Index, "models", lambda self: [m._replace(rows=0) for m in models(self)])
    [model] = vocabularies(cli, index)
    assert (model["fitted_on"], model["not_seen"], model["drift"] is not None) == (10, 3 * said, said)


def test_a_vocabulary_of_another_index_serves_without_training(
    cli: Cli, photos: Path, draw: Draw, tmp_path: Path
) -> None:
    """--fit-on takes it over; images added later are given its words, and nothing is fitted again."""
    general, own = tmp_path / "general", tmp_path / "own"
    cli("index", photos / "a", "--index", general, *SIFT)
    first = cli("index", photos / "b", "--index", own, *SIFT, "--fit-on", general, "--json").json
    assert [f for f in first["fitted"] if "blcf" in f] == [f"encoder 'blcf' on 5 images of {general}"]
    draw(photos / "b" / "new.png", 60, (160, 160))
    assert not cli("add", photos / "b", "--index", own, "--json").json["fitted"]
    [model] = vocabularies(cli, own)
    assert (model["fitted_in"], model["not_seen"], model["drift"]) == (str(general), 1, None)
    theirs, mine = (
        Index.open(path).read_model("blcf", vocabularies(cli, path)[0]["identity"]) for path in (general, own)
    )
    assert theirs is not None
    assert mine is not None
    np.testing.assert_array_equal(theirs[0]["centroids"], mine[0]["centroids"])
    assert (
        cli("query", photos / "b" / "new.png", "--index", own, "--json").json["hits"][0]["image"] == "new.png"
    )
