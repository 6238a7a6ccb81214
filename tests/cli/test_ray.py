"""Layers made by workers of Ray: the same parts, workers that die, pictures that end them, clear words."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import torchvision

import instsearch
from instsearch_cli.engine import on_ray, workers
from instsearch_cli.engine.ray_cluster import send_token, started
from instsearch_cli.engine.registry import load_registry
from instsearch_cli.engine.workers import Workers, workers_of
from instsearch_cli.errors import InstsearchError, UsageError
from served_scenes import scene

ray: Any = pytest.importorskip("ray", reason="Ray is not installed: pip install '.[ray]'")
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(240)]

Cli = Callable[..., Any]
ROOT = Path(__file__).parents[2]
FAKES = Path(__file__).parent / "fake_plugins"
RAY = ("--engine", "ray", "--workers", 2)
CELLS = ("--extractor", "cells", "--encoder", "centred", "--searcher", "scan", "--weighting")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Two workers on this machine, that see this program and the plugins that the tests bring."""
    places = [ROOT, ROOT / "plugins", ROOT / "formats", FAKES / "tiny", FAKES / "deadly"]
    seen = {"env_vars": {"PYTHONPATH": os.pathsep.join(map(str, places))}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=seen)
        yield
        ray.shutdown()


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("tiny", "deadly"):
        monkeypatch.syspath_prepend(str(FAKES / name))
    load_registry.cache_clear()
    yield
    load_registry.cache_clear()


def photos(folder: Path, n: int) -> Path:
    folder.mkdir(parents=True)
    for i in range(n):
        PIL.Image.fromarray(scene(i, 2, n)).save(folder / f"{i}.png")
    return folder


def in_three_runs(cli: Cli, folder: Path, index: Path) -> None:
    """Three ranges of rows, made by one pipeline here."""
    files = sorted(folder.iterdir())
    for first in range(0, len(files), 2):
        cli("index", *files[first : first + 2], "--index", index, "--quiet")


def same(one: Path, other: Path) -> None:
    """Every file of two indexes is the same, the lock and what of them is told by when they were made aside."""
    files = [sorted(p.relative_to(i) for p in i.rglob("*.h5")) for i in (one, other)]
    assert files[0] == files[1]
    for name in files[0]:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.usefixtures("cluster")
def test_parts_are_the_same_by_whomever_they_are_made(cli: Cli, tmp_path: Path) -> None:
    """Keypoints, and maps of a network: three ranges, two workers; what is added, and what is measured, too."""
    folder = photos(tmp_path / "p", 6)
    torch.manual_seed(0)
    torch.save(torchvision.models.squeezenet1_0().state_dict(), tmp_path / "net.pth")
    maps = ("--extractor", "squeezenet1_0", "--weights", tmp_path / "net.pth", "--encoder", "sum", "--quiet")
    for name, how in (("here", ()), ("there", RAY)):
        in_three_runs(cli, folder, tmp_path / name)
        cli("index", "--index", tmp_path / name, *maps, "--name", "maps", "--keep-features", *how)
    same(tmp_path / "here", tmp_path / "there")
    more = photos(tmp_path / "q", 3)
    for name, how in (("here", ()), ("there", RAY)):
        cli("add", more, "--index", tmp_path / name, "--quiet", *how)
    same(tmp_path / "here", tmp_path / "there")
    other = instsearch.create(tmp_path / "python").index(folder, engine="ray", workers=2)
    assert other.written["codes"] == 6
    said = cli("extract", folder, "--index", tmp_path / "e", *maps[:4], "--engine", "ray").err
    assert "Ray: 1 machine, 2 tasks at once" in said


@pytest.mark.usefixtures("cluster", "plugins")
def test_parts_that_go_through_storage_are_the_same(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[Any] = []
    plan = on_ray.OnRay._plan
    monkeypatch.setattr(on_ray.OnRay, "_plan", lambda *given: plans.append(plan(*given)) or plans[-1])
    folder, store = photos(tmp_path / "p", 6), tmp_path / "store"
    through = (*RAY, "--through", f"file://{store}/way")
    for name, how in (("here", ()), ("there", through)):
        cli("index", folder, "--index", tmp_path / name, *CELLS, "flat", *how)
    same(tmp_path / "here", tmp_path / "there")
    assert [*store.rglob("*")] == [store / "way"]
    assert plans
    assert not [p for made in plans for p in Path(tempfile.gettempdir()).glob(f"instsearch-{made.id}*")]
    changed = through[:-1]
    said = cli("index", folder, "--index", tmp_path / "x", *CELLS, "flat", *changed, "nowhere", status=2).err
    assert "--through takes a URL of storage" in said
    said = cli(
        "index", folder, "--index", tmp_path / "x", *CELLS, "flat", *changed, "odd://a/b", status=2
    ).err
    assert "--through odd://a/b: " in said
    said = cli("index", folder, "--index", tmp_path / "x", "--through", "file:///x", status=2).err
    assert "are of --engine ray" in said


@pytest.mark.usefixtures("cluster", "plugins")
def test_storage_that_workers_do_not_share(cli: Cli, tmp_path: Path) -> None:
    index = ("index", photos(tmp_path / "p", 2), "--index", tmp_path / "i", *CELLS, "flat")
    first, second = cli(*index, *RAY, "--through", "memory://way", "--quiet", status=1).err.splitlines()
    assert re.fullmatch(
        r"error: \S+ cannot write into memory://way/\w{32}: it is not the same storage there\.", first
    )
    assert second.startswith("Storage that parts go through is one that all machines read and write")
    (tmp_path / "file").touch()
    there = f"file://{tmp_path}/file"
    first, second = cli(*index, *RAY, "--through", there, "--quiet", status=1).err.splitlines()
    assert re.fullmatch(rf"error: {there}/\w{{32}}: Not a directory\.", first)
    assert second == "Give --through storage that this machine and the workers read and write."
    assert cli(*index).status == 0


def test_storage_with_errors_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    from instsearch_cli.engine.exchange import Exchange

    def refuse(*given: Any, **more: Any) -> None:
        raise NotImplementedError

    monkeypatch.setattr(MemoryFileSystem, "put_file", refuse)
    (tmp_path / "one.h5").touch()
    with pytest.raises(
        InstsearchError, match=r"^memory://way: NotImplementedError\.\nGive --through storage"
    ):
        Exchange("memory://way").send(tmp_path, ["one.h5"])


def test_what_is_sent_is_what_is_fetched(tmp_path: Path) -> None:
    from instsearch_cli.engine.exchange import Exchange

    (tmp_path / "a" / "deep").mkdir(parents=True)
    (tmp_path / "a" / "deep" / "one.h5").write_bytes(b"one")
    (tmp_path / "a" / "two.h5").write_bytes(b"two")
    there = Exchange("memory://bucket/run")
    there.send(tmp_path / "a", ["deep/one.h5", "two.h5"])
    there.fetch(tmp_path / "b")
    assert (tmp_path / "b" / "deep" / "one.h5").read_bytes() == b"one"
    there.fetch(tmp_path / "c", ["two.h5"])
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["two.h5"]
    there.clear()
    with pytest.raises(InstsearchError, match="bucket/run"):
        there.fetch(tmp_path / "d", ["two.h5"])
    there.clear()  # what is not there is left


@pytest.mark.usefixtures("cluster", "plugins")
def test_a_worker_that_dies_and_a_picture_that_ends_every_worker(cli: Cli, tmp_path: Path) -> None:
    folder = photos(tmp_path / "p", 6)
    PIL.Image.fromarray(np.full((48, 64, 3), 255, np.uint8)).save(folder / "2.png")
    in_three_runs(cli, folder, tmp_path / "i")
    once = ("--set", f"weighting.once={tmp_path / 'met'}")
    said = cli("index", "--index", tmp_path / "i", *CELLS, "deadly", *once, "--name", "once", *RAY).err
    assert "workers ended before their time: 1 range of rows given out again" in said
    assert instsearch.open(tmp_path / "i").info()["searchable"]["once"] == 6
    PIL.Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(folder / "black.png")
    done = cli("add", folder, "--index", tmp_path / "i", "--pipeline", "once", "--json", *RAY).json
    assert done["found"] == done["indexed"] + done["there"] + len(done["skipped"])
    ((name, reason),) = [(one["image"], one["reason"]) for one in done["skipped"]]
    assert name.endswith("black.png")
    assert reason.startswith("its worker ended 3 times")
    assert instsearch.open(tmp_path / "i").info()["images"] == 6


@pytest.mark.usefixtures("cluster", "plugins")
def test_a_worker_that_would_make_something_else_is_found_out(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from instsearch_cli.engine import ray_cluster

    folder = photos(tmp_path / "p", 2)
    monkeypatch.setattr(ray_cluster, "__version__", "99.0")
    said = cli("index", folder, "--index", tmp_path / "i", *CELLS, "flat", *RAY, status=1).err
    assert "has instsearch " in said
    assert "and this is 99.0: run `pip install 'instsearch[ray]==99.0'` there" in said
    monkeypatch.undo()
    for name in ("tiny", "deadly"):
        monkeypatch.syspath_prepend(str(FAKES / name))
    assert cli("index", folder, "--index", tmp_path / "i", *CELLS, "flat").status == 0  # it goes on here


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--workers", 2], "--workers, --gpus-a-worker and --through are of --engine ray"),
        (["--engine", "rye"], "--engine is local, ray, or ray://HOST:PORT, not 'rye'"),
        (["--engine", "ray://host"], "not 'ray://host'"),
        (["--engine", "ray://host:99999"], "not 'ray://host:99999'"),
        (["--engine", "ray", "--workers", 0], "x>=1"),
        (["--engine", "ray", "--through", "nowhere"], "--through takes a URL of storage"),
    ],
)
def test_wrong_usage(cli: Cli, tmp_path: Path, flags: list[Any], said: str) -> None:
    folder = photos(tmp_path / "p", 1)
    assert said in cli("index", folder, "--index", tmp_path / "i", *flags, status=2).err
    assert not (tmp_path / "i").exists()  # before photographs are looked at


def test_without_the_extra(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    folder = photos(tmp_path / "p", 1)
    said = cli("index", folder, "--index", tmp_path / "i", "--engine", "ray", status=1).err
    assert "needs Ray: run `pip install 'instsearch[ray]'`" in said
    monkeypatch.undo()
    assert workers_of("local") is None
    assert workers_of("ray://host:10001", 3, 0.5) == Workers("ray://host:10001", 3, 0.5)
    for gpus in (-1, float("nan")):
        with pytest.raises(UsageError, match="at least 0"):
            workers_of("ray", gpus=gpus)
    assert workers.INSTALL in said


def test_a_token_that_is_there_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    send_token()
    assert "RAY_AUTH_MODE" not in os.environ
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("0" * 64)
    send_token()
    assert os.environ["RAY_AUTH_MODE"] == "token"
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    send_token()
    assert os.environ["RAY_AUTH_MODE"] == "disabled"


@pytest.mark.parametrize("how", ["ray://127.0.0.1:{}", "ray"])
def test_nobody_listens(tmp_path: Path, how: str) -> None:
    """Said at once, where Ray itself would try for minutes."""
    photos(tmp_path / "photos", 1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "instsearch_cli.main", "index", str(tmp_path / "photos"), "--quiet"]
    command += ["--index", str(tmp_path / "index"), "--engine", how.format(port)]
    env = {**os.environ, "RAY_ADDRESS": f"127.0.0.1:{port}"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    first, second = done.stderr.splitlines()
    assert first.startswith("error: cannot reach Ray at ")
    assert f"127.0.0.1:{port}: " in first
    assert "`ray start --head`" in second


def test_a_cluster_that_has_ended_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ray start` leaves its address behind where it is killed; Ray itself would try it for ever."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert not started()
    note = tmp_path / "ray" / "ray_current_cluster"
    note.parent.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        note.write_text(address)
        assert started() == address
    assert not started()
    for nonsense in ("nonsense", "127.0.0.1:99999", ""):
        note.write_text(nonsense)
        assert not started()


@pytest.mark.usefixtures("cluster")
def test_workers_ask_several_indexes_as_threads_do(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for half in ("a", "b"):
        folder = tmp_path / half
        folder.mkdir()
        for i in range(4):
            PIL.Image.fromarray(scene(i + 4 * (half == "b"))).save(folder / f"{half}{i}.png")
        cli("index", folder, "--index", tmp_path / f"{half}.idx", "--quiet")
    indexes = [instsearch.open(tmp_path / f"{half}.idx") for half in ("a", "b")]
    asked = tmp_path / "a" / "a1.png"
    here = instsearch.query(indexes, asked, k=8)
    there = instsearch.query(indexes, asked, k=8, engine="ray", workers=2)
    assert [hit.path for hit in there] == [hit.path for hit in here]
    np.testing.assert_allclose([h.score for h in there], [h.score for h in here], rtol=1e-6)
    assert there[0].path == asked
    monkeypatch.chdir(tmp_path)
    assert instsearch.query(indexes, "a/a1.png", k=1, engine="ray")[0].path == asked
    with PIL.Image.open(asked) as picture:
        assert instsearch.query(indexes, picture.copy(), k=1, engine="ray")[0].path == asked
    both = ("--index", tmp_path / "a.idx", "--index", tmp_path / "b.idx")
    said = [
        cli("query", "--batch", tmp_path / "b", *both, "-k", 3, "--quiet", "--json", *how).out
        for how in ((), ("--engine", "ray", "--workers", 2))
    ]
    lines = [[json.loads(line) for line in each.splitlines()] for each in said]
    assert len(lines[0]) == 4
    for one, other in zip(*lines, strict=True):
        assert [h["path"] for h in one["hits"]] == [h["path"] for h in other["hits"]]


@pytest.mark.usefixtures("cluster")
def test_workers_that_end_over_a_question(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from instsearch_cli.engine import ray_asking

    folder = photos(tmp_path / "p", 2)
    cli("index", folder, "--index", tmp_path / "i", "--quiet")

    def end(*given: Any) -> None:
        os._exit(1)

    monkeypatch.setattr(ray_asking, "ask", end)
    picture = sorted(folder.iterdir())[0]
    said = cli("query", picture, "--index", tmp_path / "i", "--engine", "ray", status=1).err
    assert "3 workers ended over a question, killed or crashed" in said

    def other(*given: Any) -> None:
        raise ModuleNotFoundError("instsearch_cli")

    monkeypatch.setattr(ray_asking, "ask", other)
    said = cli("query", picture, "--index", tmp_path / "i", "--engine", "ray", status=1).err
    assert "a worker has no instsearch of this version" in said
