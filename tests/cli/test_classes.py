"""What a network takes pictures for: ranked, printed, ready for the cam weighting; and that from end to end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from instsearch_cli.data import Image
from instsearch_cli.engine.registry import Offer, load_registry
from instsearch_cli.measure.classes import rank
from instsearch_cli.specs import EncoderSpec, WeighterSpec
from real_data import INSTRE, SQUEEZENET

Cli = Callable[..., Any]
Draw = Callable[..., None]
PHOTO = INSTRE / "queries" / "a01.jpg"
NO_MAPS = ("--extractor", "squeezenet1_0", "--weighting", "none", "--encoder", "cam")
PARTS = [
    WeighterSpec("cam", "instsearch_plugins.weighters.cam:CAM", "", "", ("features",)),
    EncoderSpec("cam", "instsearch_plugins.encoders.cam:CAM", "", "", ("features", "weights")),
]


@pytest.fixture
def cam() -> Iterator[None]:
    """The weighting and the encoder on offer."""
    load_registry.cache_clear()
    known = load_registry()
    for spec in PARTS:
        if spec.name not in known.offers[spec.kind]:
            known.add(Offer(spec, "instsearch", "0"))
    yield
    load_registry.cache_clear()


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Squeezenet with numbers drawn by lot, where it is looked for."""
    from torchvision.models import squeezenet1_0

    torch.manual_seed(5)
    path = tmp_path / "weights" / "squeezenet1_0.pth"
    path.parent.mkdir()
    made = squeezenet1_0(weights=None)
    made.classifier[1].weight.data.normal_(0, 1)
    torch.save(made.state_dict(), path)
    monkeypatch.setenv("INSTSEARCH_WEIGHTS", str(path.parent))
    return path


@pytest.fixture
def scenes(tmp_path: Path, draw: Draw) -> Path:
    """Five pictures, and two queries with boxes."""
    for i in range(5):
        draw(tmp_path / "p" / f"{i}.png", i, (160, 128))
    names = [f"p/{i}.png" for i in range(5)]
    boxes: list[Any] = [[0, 0, 80, 128], None]
    queries = [
        {"id": str(i), "image": names[i], "box": box, "positives": names[2:]} for i, box in enumerate(boxes)
    ]
    (tmp_path / "m.json").write_text(json.dumps({"name": "m", "images": names, "queries": queries}))
    return tmp_path / "p"


def predicted(path: Path, box: tuple[int, int, int, int] | None = None) -> torch.Tensor:
    """Probabilities, by torchvision alone."""
    from torchvision.models import squeezenet1_0

    from instsearch_plugins.extractors.networks import normalise

    network = squeezenet1_0(weights=None).eval()
    weights = Path(path.parents[1] / "weights" / "squeezenet1_0.pth")
    network.load_state_dict(torch.load(weights, weights_only=True))
    with PIL.Image.open(path) as image:
        pixels = np.asarray(image.crop(box) if box else image)
    with torch.inference_mode():
        p: torch.Tensor = network(normalise(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]))[
            0
        ].softmax(0)
    return p


def test_classes_that_most_pictures_have_come_first() -> None:
    p = torch.tensor([[0.5, 0.3, 0.1, 0.1, 0], [0.1, 0.2, 0.6, 0.1, 0], [0.05, 0.5, 0.05, 0.4, 0]])
    found = rank(list(p), ["a", "b", "c", "d", "e"], 2)
    assert [(c.name, round(c.share * 3)) for c in found] == [("b", 3), ("c", 1), ("a", 1), ("d", 1)]
    assert found[0].probability == pytest.approx(1 / 3)
    assert [c.number for c in rank([p[0]], [], 3)] == [0, 1, 2]  # the lower number of equals


def test_a_crop_keeps_what_is_in_the_box() -> None:
    pixels = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
    crop = Image(pixels, (16, 12), "x").cropped((3.0, 4.5, 7.0, 8.0))
    assert np.array_equal(crop.pixels, pixels[2:4, 1:4])
    assert crop.size == (6, 4)
    assert Image(pixels, (16, 12), "x").cropped((15.5, 11.5, 16.0, 12.0)).pixels.shape == (1, 1, 3)


def test_a_picture_and_its_box(cli: Cli, network: Path, scenes: Path) -> None:
    path = scenes / "1.png"
    for box in (None, (16, 24, 96, 104)):
        x0, y0, x1, y1 = box or (0, 0, 0, 0)
        flags = ("--box", f"{x0},{y0},{x1 - x0},{y1 - y0}") if box else ()
        got = cli("classes", path, *flags, "--top", 5, "--json", "--quiet").json
        p = predicted(path, box)
        assert got["pictures"] == 1
        assert [c["number"] for c in got["classes"]] == p.sort(descending=True, stable=True).indices[
            :5
        ].tolist()
        assert [c["probability"] for c in got["classes"]] == pytest.approx(
            sorted(p.tolist())[:-6:-1], rel=1e-3
        )
    names = cli("classes", path, "--top", 3, "--quiet").out.splitlines()
    assert names[0].split() == ["class", "probability", "name"]
    assert len(names) == 4


def test_a_datasets_queries(cli: Cli, network: Path, scenes: Path) -> None:
    tops = [
        p.sort(descending=True, stable=True).indices[:8].tolist()
        for p in (predicted(scenes / "0.png", (0, 0, 80, 128)), predicted(scenes / "1.png"))
    ]
    got = cli(
        "classes", "--dataset", scenes.parent / "m.json", "--top", 8, "-k", 99, "--json", "--quiet"
    ).json
    assert got["pictures"] == 2
    assert {c["number"]: round(2 * c["share"]) for c in got["classes"]} == {
        c: sum(c in top for top in tops) for top in tops for c in top
    }
    listed = cli("classes", "--dataset", scenes.parent / "m.json", "--top", 8, "--list", "--quiet").out
    assert listed.strip().split(",") == [str(c["number"]) for c in got["classes"][:8]]
    both = cli("classes", scenes / "0.png", scenes / "1.png", "--top", 8, "-k", 2, "--quiet").out.splitlines()
    assert len(both) == 4
    assert "%" in both[1]
    assert both[-1].startswith("2 pictures")


def test_a_list_goes_into_the_weighting(
    cli: Cli, cam: None, network: Path, scenes: Path, tmp_path: Path
) -> None:
    listed = cli("classes", "--dataset", tmp_path / "m.json", "--top", 4, "--list", "--quiet").out.strip()
    flags: tuple[str, ...] = ("--extractor", "squeezenet1_0", "--weighting", "cam", "--encoder", "cam")
    flags += ("--set", "weighting.network=squeezenet1_0", "--set", f"weighting.classes={listed}")
    cli("index", scenes, "--index", tmp_path / "i", *flags, "--quiet")
    hits = cli("query", scenes / "3.png", "--index", tmp_path / "i", "--json").json["hits"]
    assert hits[0]["image"] == "3.png"
    assert hits[0]["score"] == pytest.approx(1, abs=1e-3)


def test_every_picture_and_query_has_classes_of_its_own(
    cli: Cli, cam: None, network: Path, scenes: Path, tmp_path: Path
) -> None:
    flags: tuple[str, ...] = ("--extractor", "squeezenet1_0", "--weighting", "cam", "--encoder", "cam")
    flags += ("--set", "weighting.network=squeezenet1_0", "--set", "weighting.n-classes=6", "--quiet")
    index = tmp_path / "i"
    told = cli("index", scenes, "--index", index, *flags, status=2).err
    assert "--set extractor.logits=true" in told
    cli("index", scenes, "--index", index, *flags, "--set", "extractor.logits=true")
    hits = cli("query", scenes / "2.png", "--index", index, "--json").json["hits"]
    assert hits[0]["image"] == "2.png"
    assert hits[0]["score"] == pytest.approx(1, abs=1e-3)
    assert all(hit["box"] is None for hit in hits)
    boxed = cli("query", scenes / "2.png", "--box", "0,0,60,60", "--index", index, "--json").json["hits"]
    assert [hit["score"] for hit in boxed] != [hit["score"] for hit in hits]
    assert "wrote" in cli("show", scenes / "1.png", "--index", index, "-o", tmp_path / "o.png").out
    with PIL.Image.open(tmp_path / "o.png") as shown:
        red = (np.abs(np.asarray(shown).astype(int) - (255, 52, 52)) < 30).all(-1)
    assert red.sum() > 100  # boxes over the mean of the best two maps
    none = ("--extractor", "squeezenet1_0", "--weighting", "none", "--encoder", "cam")
    told = cli("index", scenes, "--index", index, *none, status=2)
    assert "--weighting cam" in told.err


def test_the_four_baselines_of_table_6_1(
    cli: Cli, cam: None, network: Path, scenes: Path, tmp_path: Path
) -> None:
    scores = []
    for channels in ("none", "ssw"):
        for whiten in ("false", "true"):
            flags: tuple[str, ...] = NO_MAPS
            for option in ("cams=false", f"channels={channels}", f"whiten={whiten}"):
                flags += ("--set", f"encoder.{option}")
            cli("index", scenes, "--index", tmp_path / "i", *flags, "--quiet")
            asked = ("query", scenes / "3.png", "--index", tmp_path / "i", "--json")
            assert cli(*asked).json["hits"][0]["score"] == pytest.approx(1, abs=1e-3)
            scores.append(cli(*asked, "--box", "0,0,80,64").json["hits"][0]["score"])
    assert np.diff(sorted(scores)).min() > 1e-5, scores


def test_bad_input_says_what_to_do(cli: Cli, network: Path, scenes: Path, tmp_path: Path) -> None:
    one = scenes / "1.png"

    def refused(*flags: object, status: int = 2) -> str:
        return str(cli("classes", *flags, "--quiet", status=status).err)

    assert "name pictures, or a --dataset" in refused()
    assert "name pictures, or a --dataset" in refused(one, "--dataset", tmp_path / "m.json")
    assert "--box is of one picture" in refused(one, one, "--box", "0,0,1,1")
    assert "covers no part" in refused(one, "--box", "900,900,5,5", status=1)
    assert "predicts no classes" in refused(one, "--extractor", "sift")
    assert "Did you mean 'squeezenet1_0'" in refused(one, "--extractor", "squeezenet")
    assert "1,000 classes apart" in refused(one, "--top", 1001)
    assert "only options of the extractor" in refused(one, "--set", "encoder.dims=3")
    assert "--dataset" in refused(one, "--set", "dataset.x=3")
    assert "exclude each other" in refused(one, "--list", "--json")
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    assert "bad.jpg" in refused(tmp_path / "bad.jpg", status=1)
    assert "none.jpg" in refused(tmp_path / "none.jpg", status=1)


@pytest.mark.skipif(
    not (SQUEEZENET.exists() and PHOTO.exists()), reason="real weights and photographs are not here"
)
def test_a_photograph_of_a_tower(cli: Cli) -> None:
    flags = ("--weights", SQUEEZENET, "--top", 3, "--json", "--quiet")
    names = [c["name"] for c in cli("classes", PHOTO, *flags).json["classes"]]
    assert names == ["pole", "pedestal", "suspension bridge"]
