"""Kills, full disks, read-only folders and second writers: nothing half-made is ever seen."""

from __future__ import annotations

import errno
import importlib.util
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from instsearch_formats import FormatError, Index, LockedError, files, sink

DRIVER = Path(__file__).with_name("writing_driver.py")
spec = importlib.util.spec_from_file_location("writing_driver", DRIVER)
driver = importlib.util.module_from_spec(spec)
spec.loader.exec_module(driver)


def start(task: str, index: Index) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, str(DRIVER), task, str(index.path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return process


def finish(process: subprocess.Popen) -> None:
    process.kill()
    process.communicate()


def test_sigkill_at_random_moments(tmp_path):
    index = Index.create(tmp_path / "index")
    rng = random.Random(0)
    for _ in range(6):
        process = start("work", index)
        try:
            assert process.stdout.readline() == "ready\n", process.stderr.read()
            time.sleep(rng.uniform(0.0, 0.15))
        finally:
            finish(process)
        index = Index.open(index.path)
        assert index.verify() == []
        given, layer = index.images.ranges(), index.layer("features", "net", "dense-map", {"k": 1})
        assert all(len(span) == 5 for span in given)
        assert layer.ranges() == given[: len(layer.ranges())]
        assert len(layer.ranges()) >= len(given) - 1
        for block in layer.blocks():
            for i, row in enumerate(range(block["start"], block["stop"])):
                for name in ("values", "cam"):
                    np.testing.assert_array_equal(block[name][12 * i : 12 * i + 12], driver.item(row)[name])
                np.testing.assert_array_equal(block["logits"][i], driver.item(row)["logits"])
        assert set(index.images.removed()) <= {span.start for span in layer.ranges()}
        text = index.read_text("pipelines/p.toml")
        assert text is None or len(set(text.splitlines())) == 1
        for model in index.models():
            arrays, _ = index.read_model("m", model.identity)
            np.testing.assert_array_equal(arrays["a"], driver.values(model.identity["upto"]))
    assert len(index.images) > 0
    (layer.path / "part-0000000000-0000000005.h5.0123.partial").touch()
    index.gc([*(info.path for info in index.layers()), *(info.path for info in index.models())])
    assert not list(index.path.rglob(f"*{files.PARTIAL}"))
    assert index.verify() == []
    assert index.images.ranges() == given


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="no limit on the size of files here")
def test_a_full_disk_at_every_moment(tmp_path):
    index = Index.create(tmp_path / "index")
    process = start("full", index)
    out, err = process.communicate(timeout=200)
    assert (out, err, process.returncode) == ("done\n", "", 0)
    assert index.verify() == []
    assert index.layers()[0].rows == 2


READ_ONLY = OSError(errno.EROFS, "Read-only file system")


def refuse(*_args, **_kwargs):
    raise READ_ONLY


def test_a_read_only_folder(index, item_of, monkeypatch):
    layer = index.layer("features", "net", "dense-map", {})
    layer.path.mkdir(parents=True)
    (index.path / "models").mkdir()
    (index.path / "pipelines").mkdir()
    before = sorted(index.path.rglob("*"))
    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(FormatError, match="read-only"), layer.writer(range(8)):
        pass
    for write in (
        lambda: index.write_model("m", {}, {}, {}),
        lambda: index.write_text("pipelines/p.toml", ""),
        lambda: index.scratch().__enter__(),
        lambda: Index.create(index.path / "sub"),
    ):
        with pytest.raises(FormatError, match="read-only"):
            write()
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(FormatError, match="read-only"), index.lock():
        pass
    monkeypatch.undo()
    assert sorted(index.path.rglob("*")) == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission(index):
    index.path.chmod(0o555)
    try:
        with pytest.raises(FormatError, match="read-only"), index.lock():
            pass
        assert len(Index.open(index.path).images) == 20
    finally:
        index.path.chmod(0o755)


def test_a_failure_while_renaming_leaves_nothing(index, item_of, monkeypatch):
    layer = index.layer("regions", "x", "regions", {})
    monkeypatch.setattr(sink.os, "replace", refuse)  # type: ignore[attr-defined]
    with pytest.raises(FormatError, match="read-only"), layer.writer(range(1)) as writer:
        writer.append(item_of("regions", 0))
    assert not list(layer.path.iterdir())


class Tripwire:
    """A file on which the n-th call of a method is interrupted."""

    def __init__(self, file, method, n):
        self.file, self.method, self.n = file, method, n

    def __getattr__(self, name):
        if name == self.method:
            self.n -= 1
            if self.n < 0:
                raise KeyboardInterrupt
        return getattr(self.file, name)


@pytest.mark.parametrize(
    ("method", "n"), [("write", 0), ("write", 1), ("write", 3), ("seek", 4), ("truncate", 0)]
)
def test_an_interrupt_below_hdf5_comes_out_above_it(index, item_of, monkeypatch, method, n):
    """Ctrl+C while HDF5 is writing: it closes its file in peace, and the interrupt arrives all the same."""
    layer = index.layer("features", "net", "dense-map", {})
    original = sink.Sink.__init__

    def rigged(self, path):
        original(self, path)
        self._file = Tripwire(self._file, method, n)

    monkeypatch.setattr(sink.Sink, "__init__", rigged)
    values = np.random.default_rng(0).standard_normal((1200, 512)).astype(np.float32)
    with pytest.raises(KeyboardInterrupt), layer.writer(range(1)) as writer:
        writer.append({"values": values, "grid": [30, 40], "transform": [1, 1, 0, 0]})
    assert not list(layer.path.iterdir())
    monkeypatch.undo()
    with layer.writer(range(1)) as writer:
        writer.append(item_of("dense-map", 1))
    assert layer.read(0)["transform"][3] == 1


def test_one_writer_at_a_time(index):
    process = start("hold", index)
    try:
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(LockedError, match=f"process {process.pid}, since 20") as caught, index.lock():
            pass
        assert "wait until it has ended" in str(caught.value)
        with pytest.raises(LockedError):
            index.gc([])
        with pytest.raises(LockedError):
            index.images.remove([3], "x")
        assert len(index.images) == 20  # readers need no lock
        assert index.gc([], dry_run=True) == []
    finally:
        finish(process)
    with index.lock():  # the lock died with its process
        index.images.remove([3], "x")


def test_the_lock_may_be_taken_again_by_its_holder(index):
    other = Index.open(index.path)
    with index.lock():
        with index.lock():
            index.images.remove([1], "x")
        with pytest.raises(LockedError, match=str(os.getpid())), other.lock():
            pass
    with other.lock(), pytest.raises(LockedError), index.lock():
        pass
    with pytest.raises(RuntimeError), index.lock():
        raise RuntimeError
    with other.lock():
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_does_not_keep_the_lock(index):
    process = start("fork", index)
    child = int(process.stdout.readline())
    try:
        with pytest.raises(LockedError), index.lock():
            pass
        process.kill()
        process.wait()
        os.kill(child, 0)  # still there
        deadline = time.monotonic() + 20
        while True:  # on a busy machine the child may not have run yet
            try:
                with index.lock():
                    break
            except LockedError:
                assert time.monotonic() < deadline, "the child keeps its parent's lock"
                time.sleep(0.02)
        os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)
        finish(process)


def test_a_spoilt_lock_file_is_no_obstacle(index):
    (index.path / "lock").write_bytes(b"\xff{")
    with index.lock():
        pass
    process = start("hold", index)
    try:
        assert process.stdout.readline() == "ready\n"
        (index.path / "lock").write_bytes(b"nonsense")
        with pytest.raises(LockedError, match="another process"), index.lock():
            pass
    finally:
        finish(process)
