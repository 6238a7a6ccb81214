"""Mirrors on the command line: filled by `index`, compared by `verify --mirror`, dropped by `gc`; in Milvus Lite."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest

from instsearch_cli.engine.registry import load_registry
from instsearch_cli.storage import Mirror
from instsearch_plugins.searchers import milvus_server
from plain_pictures import picture
from served_scenes import BOX, scene

pytest.importorskip("pymilvus")
pytest.importorskip("milvus_lite")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")

Cli = Callable[..., Any]
ROOT = Path(__file__).parents[2]


class Place:
    """An index of small pictures, searched by the tiny plugin and in a mirror, and the program run on it."""

    def __init__(self, cli: Cli, tiny: tuple[str, ...], folder: Path) -> None:
        self.cli, self.photos, self.index, self.uri = cli, folder / "photos", folder / "i", folder / "m.db"
        local = (*tiny[:-2], "--detector", "halves", "--searcher", "faiss", "--name", "local")
        for part in ("a", "b"):
            cli("index", self.photos / part, "--index", self.index, *local, "--quiet")
        self.fill(*self.mirrored, "--name", "mirrored")

    @property
    def mirrored(self) -> tuple[str, ...]:
        return "--searcher", "milvus", "--set", f"searcher.uri={self.uri}"

    def fill(self, *arguments: object) -> Any:
        return self.cli("index", *arguments, "--index", self.index, "--json").json

    def verify(self, status: int = 0) -> Any:
        return self.cli("verify", "--index", self.index, "--mirror", "--json", status=status).json["problems"]

    def hits(self, *arguments: object, pipeline: str = "mirrored") -> list[Any]:
        flags = ("--index", self.index, "--pipeline", pipeline, "--json", "-k", "50")
        found = self.cli("query", self.photos / "b" / "4.png", *flags, *arguments).json["hits"]
        return [(hit["image"], round(hit["score"], 4), hit["box"]) for hit in found]

    def collections(self) -> list[str]:
        return sorted(self.client().list_collections())

    def client(self) -> Any:
        self.server = milvus_server.connected(str(self.uri), "")
        return self.server.client


@pytest.fixture
def place(cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path) -> Iterator[Place]:
    made = Place(cli, tiny, tmp_path)
    yield made
    del made


def test_hits_are_those_of_the_local_searcher_with_their_regions(place: Place) -> None:
    for more in ((), ("--box", "0,0,40,40"), ("--per-image", "2")):
        assert place.hits(*more) == place.hits(*more, pipeline="local")
    assert all(box is not None for _, _, box in place.hits())
    reranked = [place.hits("--rerank", "again", pipeline=name) for name in ("mirrored", "local")]
    assert reranked[0] == reranked[1]
    assert place.verify() == []


def test_after_images_come_go_and_are_renamed(
    place: Place, cli: Cli, draw: Callable[..., None], tmp_path: Path
) -> None:
    cli("remove", "--index", place.index, "1.png")
    assert [hit[0] for hit in place.hits()] == [hit[0] for hit in place.hits(pipeline="local")]
    assert "1.png" not in [hit[0] for hit in place.hits()]
    assert place.verify() == []
    cli("restore", "--index", place.index, "1.png")
    assert "1.png" in [hit[0] for hit in place.hits()]
    (place.photos / "a" / "3.png").rename(place.photos / "a" / "moved.png")
    draw(place.photos / "b" / "new.png", 77)
    done = place.fill(place.photos / "a", place.photos / "b")
    assert done["written"]["mirror"] == 2
    assert place.verify() == []
    names = {hit[0] for hit in place.hits()}
    assert {"moved.png", "new.png"} <= names
    assert "3.png" not in names
    place.fill("--preset", place.index / "pipelines" / "local.toml")
    assert place.hits() == place.hits(pipeline="local")
    assert place.fill("--preset", place.index / "pipelines" / "mirrored.toml")["written"] == {}


def test_a_dropped_collection_is_said_and_one_command_rebuilds_it(place: Place, cli: Cli) -> None:
    (name,) = place.collections()
    before = place.hits()
    place.client().drop_collection(name)
    said = cli("query", place.photos / "b" / "4.png", "--index", place.index, status=1).err
    assert "the mirror of this index is not at" in said
    assert len(said.strip().splitlines()) <= 2
    (problem,) = place.verify(status=1)
    assert "there is no mirror of this index" in problem["what"]
    command = problem["mend"].split("`")[1].split()
    assert command[:2] == ["instsearch", "index"]
    assert "mirror 10" in cli(*command[1:]).out
    assert place.verify() == []
    assert place.hits() == before


@pytest.mark.skipif(not hasattr(os, "kill"), reason="needs SIGKILL")
def test_a_fill_that_was_killed_goes_on(place: Place) -> None:
    """After the first of two parts; until it is whole nothing is searched in it."""
    (name,) = place.collections()
    place.client().drop_collection(name)
    shutil.rmtree(next((place.index / "search").glob("milvus-*")))

    del place.server
    gc.collect()
    program = (
        "import os, signal\n"
        "from instsearch_cli.main import run\n"
        "from instsearch_plugins.searchers.milvus_copy import Copy\n"
        "mend, done = Copy.mend, []\n"
        "def killed(self, found):\n"
        "    if done: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    done.append(mend(self, found))\n"
        "    return done[0]\n"
        "Copy.mend = killed\n"
        f"run(['index', '--index', {str(place.index)!r}, '--quiet'])\n"
    )
    path = [str(ROOT / part) for part in (".", "plugins", "formats", "tests/cli/fake_plugins/tiny")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"}
    killed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, env=environment, check=False
    )
    assert killed.returncode == -9, killed.stderr[-2000:]
    assert place.verify(status=1)
    assert place.fill()["written"] == {"search": 10, "mirror": 5}
    assert place.verify() == []
    assert place.hits() == place.hits(pipeline="local")


def test_what_no_pipeline_uses_is_dropped(place: Place, cli: Cli) -> None:
    (first,) = place.collections()
    place.fill("--set", "encoder.power=3", *place.mirrored, "--name", "other")
    (other,) = set(place.collections()) - {first}
    assert not any(
        "collection" in path for path in cli("gc", "--index", place.index, "--json").json["removed"]
    )
    would = cli("gc", "--index", place.index, "--forget", "other", "--dry-run", "--json").json["removed"]
    assert f"collection {other} at {place.uri}" in would
    assert place.collections() == sorted([first, other])
    cli("gc", "--index", place.index, "--forget", "other")
    assert place.collections() == [first]
    place.fill("--searcher", "faiss", "--name", "mirrored")  # no pipeline names the server any more
    assert f"removed collection {first}" in cli("gc", "--index", place.index).out
    assert place.collections() == []


def test_a_copy_of_the_index_that_went_another_way_is_refused(
    place: Place, cli: Cli, draw: Callable[..., None], tmp_path: Path
) -> None:
    shutil.copytree(place.index, tmp_path / "copy")
    draw(place.photos / "b" / "new.png", 77)
    draw(tmp_path / "others" / "other.png", 78)
    assert place.fill(place.photos / "b")["written"]["mirror"] == 1
    said = cli("add", tmp_path / "others", "--index", tmp_path / "copy", status=1).err
    assert f"is the mirror of another index, {place.index}" in said
    assert place.verify() == []
    own = ("--set", "searcher.collection=own")
    cli("index", "--index", tmp_path / "copy", *place.mirrored, *own, "--name", "mirrored", "--quiet")
    assert cli("verify", "--index", tmp_path / "copy", "--mirror", "--quiet").status == 0
    assert len(place.collections()) == 2


def test_a_server_that_does_not_answer_leaves_the_index_as_it_is(place: Place, cli: Cli) -> None:
    gone = ("--searcher", "milvus", "--set", "searcher.uri=http://127.0.0.1:1")
    said = cli("index", "--index", place.index, *gone, "--name", "gone", status=1).err
    assert "no Milvus answers at http://127.0.0.1:1" in said
    assert place.hits() == place.hits(pipeline="local")
    assert place.verify() == []


def test_what_mends_a_mirror_is_said_of_its_own_pipeline(place: Place, cli: Cli) -> None:
    client = place.client()
    (name,) = client.list_collections()
    client.drop_collection(name)
    cli("index", "--index", place.index, "--searcher", "faiss", "--name", "last", "--quiet")
    quiet = cli("verify", "--mirror", "--quiet", "--index", place.index, status=1).out
    assert (
        quiet
        == f"1 damaged. `instsearch verify --mirror --index {place.index}` says what and what mends it.\n"
    )
    again = f"`instsearch index --index {place.index} --preset {place.index / 'pipelines/mirrored.toml'}`"
    assert (
        f"mend: {again} brings it up to date"
        in cli("verify", "--mirror", "--index", place.index, status=1).out
    )
    query = ("query", place.photos / "b" / "4.png", "--index", place.index, "--pipeline", "mirrored")
    assert cli(*query, status=1).err.endswith(
        "run `instsearch index` with this pipeline again, which fills it\n"
    )
    new = [picture(place.photos / "new" / f"{i}.png", (64, 48), f"#{i}03050") for i in range(2)]
    said = "warning: {} not searchable yet with pipeline 'mirrored': run {}"
    for i, what in enumerate(("1 image is", "2 images are")):
        cli("index", new[i], "--index", place.index, "--quiet")
        assert said.format(what, again) in cli(*query, status=1).err


def test_there_has_to_be_a_mirror_to_compare(
    cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path
) -> None:
    cli("index", photos, "--index", tmp_path / "i", *tiny, "--quiet")
    said = cli("verify", "--index", tmp_path / "i", "--mirror", status=2).err
    assert "leave out --mirror" in said


def test_keypoints_are_found_by_words_and_verified_from_the_index(cli: Cli, tmp_path: Path) -> None:
    """With all images for candidates these are the hits, scores and boxes of `hamming`."""
    (tmp_path / "scenes").mkdir()
    for i in range(12):
        cv2.imwrite(str(tmp_path / "scenes" / f"{i:02}.png"), scene(i))
    cv2.imwrite(str(tmp_path / "query.png"), scene(12))
    index = ("--index", tmp_path / "i")
    cli(
        "index",
        tmp_path / "scenes",
        *index,
        "--preset",
        "sift",
        "--rerank",
        "none",
        "--name",
        "local",
        "--quiet",
    )
    uri = ("--set", f"searcher.uri={tmp_path / 'm.db'}")
    cli("index", *index, "--preset", "sift-milvus", *uri, "--rerank", "none", "--name", "mirrored", "--quiet")
    ask = ("query", tmp_path / "query.png", "--box", ",".join(map(str, BOX)), *index, "--json", "-k")
    mine, theirs = (cli(*ask, "12", "--pipeline", name).json["hits"] for name in ("mirrored", "local"))
    found = [(hit["image"], hit["box"]) for hit in mine]
    assert {name for name, _ in found[:4]} == {"00.png", "03.png", "06.png", "09.png"}
    verified = [hit for hit in theirs if hit["box"] is not None]
    assert found[: len(verified)] == [(hit["image"], hit["box"]) for hit in verified]
    assert [hit["score"] for hit in mine[: len(verified)]] == pytest.approx(
        [hit["score"] for hit in verified]
    )
    few = cli(*ask, "2", "--pipeline", "mirrored", "--set", "searcher.candidates=2").json["hits"]
    assert 0 < len(few) <= 2


def test_nothing_of_it_is_imported_before_it_is_asked() -> None:
    program = (
        "import sys, instsearch\n"
        "from instsearch_cli.engine.registry import load_registry\n"
        "for name in ('milvus', 'milvus-hamming'): load_registry().get('searcher', name).load()\n"
        "print([name for name in ('pymilvus', 'milvus_lite', 'grpc') if name in sys.modules])"
    )
    path = os.pathsep.join(str(ROOT / part) for part in (".", "plugins", "formats"))
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.stdout.strip() == "[]"


def test_mirrors_are_searchers_of_the_registry() -> None:
    offers = load_registry().offers["searcher"]
    assert [name for name, offer in offers.items() if issubclass(offer.load(), Mirror)] == [
        "milvus",
        "milvus-hamming",
    ]
