"""Folders of what can be computed again: given where they can be written, ignored by readers, swept by gc."""

from __future__ import annotations

import errno
import os
import subprocess

import pytest

from instsearch_formats import FormatError, Index, fingerprint


def test_one_folder_for_each_identity(index):
    one, two = index.cache("searcher", {"option": 1}), index.cache("searcher", {"option": 2})
    assert one == index.path / "cache" / f"searcher-{fingerprint({'option': 1})[:12]}"
    assert one.is_dir()
    assert two.is_dir()
    assert one != two
    assert index.cache("searcher", {"option": 1}) == one
    assert not list(one.iterdir())  # what was tried is gone
    with pytest.raises(FormatError, match="name"):
        index.cache("../searcher", {})


def test_none_where_it_cannot_be_written(index, monkeypatch):
    (index.path / "cache").touch()
    assert index.cache("searcher", {}) is None
    (index.path / "cache").unlink()

    def refused(*args, **options):
        raise OSError(errno.EROFS, "Read-only file system")

    there = index.cache("searcher", {})
    monkeypatch.setattr("tempfile.TemporaryFile", refused)
    assert index.cache("searcher", {}) is None
    monkeypatch.undo()
    assert index.cache("searcher", {}) == there
    monkeypatch.setattr("pathlib.Path.mkdir", refused)
    assert index.cache("searcher", {"option": 2}) is None


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions do not bind the superuser")
def test_none_without_permission(index):
    there = index.cache("searcher", {})
    there.chmod(0o500)
    index.path.chmod(0o500)
    try:
        assert index.cache("searcher", {}) is None
        assert index.cache("other", {}) is None
    finally:
        there.chmod(0o700)
        index.path.chmod(0o700)


@pytest.fixture
def mounted_read_only(index):
    """The index through a read-only mount, where this process may make one."""
    index.cache("searcher", {})
    at = index.path.parent / "mounted"
    at.mkdir()
    mount = ["mount", "--bind", str(index.path), str(at)]
    again = ["mount", "-o", "remount,ro,bind", str(at)]
    try:
        made = all(subprocess.run(command, capture_output=True).returncode == 0 for command in (mount, again))
    except FileNotFoundError:
        made = False
    if not made:
        subprocess.run(["umount", str(at)], capture_output=True, check=False)
        pytest.skip("this process may not mount")
    yield at
    subprocess.run(["umount", str(at)], check=True)


def test_none_on_a_read_only_mount(mounted_read_only):
    index = Index.open(mounted_read_only)
    assert index.cache("searcher", {}) is None
    assert index.cache("other", {}) is None


def test_readers_ignore_it(index, fill):
    fill(index, "regions")
    before = index.layers(), index.models()
    folder = index.cache("searcher", {})
    (folder / "part-0000000000-0000000008.h5").write_text("no part at all")
    assert (index.layers(), index.models()) == before
    assert index.verify() == []
    with pytest.raises(FormatError, match="no kind of layer"):
        index.layer("cache", "searcher", "arrays", {})


def test_gc_takes_what_is_not_kept_whole(index, fill, tmp_path):
    layer = fill(index, "regions")
    keep, drop = index.cache("searcher", {"option": 1}), index.cache("searcher", {"option": 2})
    (keep / "x.npy").touch()
    (keep / "y.npy.0123.partial").touch()
    (drop / "deep").mkdir()
    (drop / "deep" / "x.npy").touch()
    ours = index.path / "cache" / "notes"
    ours.mkdir()
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    (outside / "x.npy").touch()
    (index.path / "cache" / "link-0123456789ab").symlink_to(outside)
    kept = [path.relative_to(index.path).as_posix() for path in (layer.path, keep)]
    doomed = sorted([keep / "y.npy.0123.partial", drop])
    assert sorted(index.gc(kept, dry_run=True)) == doomed
    assert drop.exists()
    assert sorted(index.gc(kept)) == doomed
    assert not drop.exists()
    assert [path.name for path in keep.iterdir()] == ["x.npy"]
    assert ours.is_dir()
    assert (outside / "x.npy").exists()
