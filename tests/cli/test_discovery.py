"""Finding pictures: what is found and what is skipped add up, and no link leads in circles."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from instsearch_cli.errors import InstsearchError, printable
from instsearch_cli.images import Discovery, Found, discover, suffixes

if TYPE_CHECKING:
    from collections.abc import Iterator


def plant(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"not looked into: " + name.encode())
    return folder


def names(discovery: Discovery) -> list[bytes]:
    return [found.name for found in discovery.found]


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the current one, so that paths in messages are short."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_folders_are_walked_whole_in_order(inside: Path) -> None:
    plant(inside / "p", "b.jpg", "a/z.png", "a/b/c.tif", "a.jpg", "a-b/c.webp", "Z.JPG")
    discovery = discover([Path("p")])
    assert names(discovery) == [b"Z.JPG", b"a-b/c.webp", b"a.jpg", b"a/b/c.tif", b"a/z.png", b"b.jpg"]
    assert discovery.skipped == []
    assert discovery.found[3] == Found(inside / "p", b"a/b/c.tif", Path("p/a/b/c.tif"))
    assert discovery.found[3].display == "p/a/b/c.tif"
    assert all(found.root / os.fsdecode(found.name) == inside / found.path for found in discovery.found)


def test_roots_come_in_order_and_are_absolute(inside: Path) -> None:
    plant(inside, "q/b.jpg", "p/c.jpg", "p.x/a.jpg")
    discovery = discover([Path("q"), Path("p.x/../p"), Path("p.x/")])
    places = [(found.root, found.name) for found in discovery.found]
    assert places == [(inside / "p", b"c.jpg"), (inside / "p.x", b"a.jpg"), (inside / "q", b"b.jpg")]


def test_the_current_folder(inside: Path) -> None:
    plant(inside, "a.jpg", "b/c.jpg")
    discovery = discover([Path()])
    assert [(found.root, found.name, found.display) for found in discovery.found] == [
        (inside, b"a.jpg", "a.jpg"),
        (inside, b"b/c.jpg", "b/c.jpg"),
    ]


def test_hidden_and_other_files_do_not_count(inside: Path) -> None:
    plant(
        inside / "p",
        "a.jpg",
        ".b.jpg",
        ".cache/c.jpg",
        "__MACOSX/._a.jpg",
        "notes.txt",
        "jpg",
        "a.jpg.part",
    )
    discovery = discover([Path("p")])
    assert names(discovery) == [b"a.jpg"]
    assert discovery.skipped == []


def test_a_hidden_folder_that_is_asked_for(inside: Path) -> None:
    assert names(discover([plant(inside / ".p", "a.jpg")])) == [b"a.jpg"]


def test_suffixes() -> None:
    expected = ".jpg .jpeg .jpe .jfif .png .gif .bmp .tif .tiff .webp .ppm .pgm .pnm .jp2"
    assert set(expected.split()) <= suffixes()
    assert not suffixes() & {".eps", ".ps", ".pdf", ".wmf", ".psd", ".h5", ".mpg", ".txt", ""}
    assert all(suffix == suffix.lower() for suffix in suffixes())


def test_files_are_taken_whatever_their_suffix(inside: Path) -> None:
    plant(inside / "p", "a.dat", ".b")
    discovery = discover([Path("p/a.dat"), Path("p/.b")])
    assert [(found.root, found.name) for found in discovery.found] == [
        (inside / "p", b".b"),
        (inside / "p", b"a.dat"),
    ]


def test_nothing_asked_nothing_found() -> None:
    assert discover([]) == Discovery([], [])


# the same file twice --------------------------------------------------------------------------------------


def test_given_twice(inside: Path) -> None:
    plant(inside / "p", "a.jpg", "s/b.jpg")
    discovery = discover([Path("p"), Path("p/s"), Path("p/a.jpg"), Path("p")])
    assert names(discovery) == [b"a.jpg", b"s/b.jpg"]
    assert discovery.skipped == [
        ("p/a.jpg", "same file as p/a.jpg"),
        ("p/a.jpg", "same file as p/a.jpg"),
        ("p/s/b.jpg", "same file as p/s/b.jpg"),
        ("p/s/b.jpg", "same file as p/s/b.jpg"),
    ]


def test_the_real_place_wins_over_a_link(inside: Path) -> None:
    plant(inside, "links/x.txt", "real/z.jpg")
    (inside / "links/a.jpg").symlink_to("../real/z.jpg")
    (inside / "real/a.jpg").symlink_to("z.jpg")
    discovery = discover([Path("links"), Path("real")])
    assert [found.display for found in discovery.found] == ["real/z.jpg"]
    assert discovery.skipped == [
        ("links/a.jpg", "same file as real/z.jpg"),
        ("real/a.jpg", "same file as real/z.jpg"),
    ]


def test_a_link_out_of_the_folder_is_followed(inside: Path) -> None:
    plant(inside, "elsewhere/s/b.jpg", "elsewhere/c.jpg", "p/z.jpg")
    (inside / "p/a").symlink_to("../elsewhere/s")
    (inside / "p/c.jpg").symlink_to(inside / "elsewhere/c.jpg")
    discovery = discover([Path("p")])
    assert [(found.name, found.display) for found in discovery.found] == [
        (b"a/b.jpg", "p/a/b.jpg"),
        (b"c.jpg", "p/c.jpg"),
        (b"z.jpg", "p/z.jpg"),
    ]


def test_hard_links_are_one_file(inside: Path) -> None:
    plant(inside / "p", "b.jpg")
    (inside / "p/a.jpg").hardlink_to(inside / "p/b.jpg")
    discovery = discover([Path("p")])
    assert names(discovery) == [b"a.jpg"]
    assert discovery.skipped == [("p/b.jpg", "same file as p/a.jpg")]


class Numberless:
    """What os.stat says on a file system whose files all have one inode number."""

    def __init__(self, status: os.stat_result, number: int) -> None:
        self._status, self.st_ino = status, number

    def __getattr__(self, name: str) -> object:
        return getattr(self._status, name)


@pytest.mark.parametrize("number", [0, 7])
def test_file_systems_without_inode_numbers(
    inside: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    plant(inside / "p", "a.jpg", "b.jpg", "s/a.jpg", "s/b.jpg", "t/a.jpg")
    (inside / "p/t/link.jpg").symlink_to("a.jpg")
    for path in (inside / "p").rglob("*.jpg"):
        os.utime(path, ns=(10**18, 10**18))
    (inside / "p/s/up").symlink_to(inside / "p")
    stat = os.stat
    monkeypatch.setattr(os, "stat", lambda *a, **k: Numberless(stat(*a, **k), number))
    discovery = discover([Path("p"), Path("p/s/b.jpg")])
    assert names(discovery) == [b"a.jpg", b"b.jpg", b"s/a.jpg", b"s/b.jpg", b"t/a.jpg"]
    assert discovery.skipped == [
        ("p/s/b.jpg", "same file as p/s/b.jpg"),
        ("p/s/up", "symbolic-link loop"),
        ("p/t/link.jpg", "same file as p/t/a.jpg"),
    ]


# links in circles -----------------------------------------------------------------------------------------


def test_links_to_folders_above(inside: Path) -> None:
    plant(inside / "p", "a.jpg", "s/t/b.jpg")
    (inside / "p/s/t/up").symlink_to(inside / "p")
    (inside / "p/s/self").symlink_to(".")
    discovery = discover([Path("p")])
    assert names(discovery) == [b"a.jpg", b"s/t/b.jpg"]
    assert discovery.skipped == [("p/s/self", "symbolic-link loop"), ("p/s/t/up", "symbolic-link loop")]


def test_two_folders_that_link_to_each_other(inside: Path) -> None:
    plant(inside, "p/a/1.jpg", "p/b/2.jpg", "out/3.jpg")
    (inside / "p/a/to-b").symlink_to("../b")
    (inside / "p/b/to-a").symlink_to("../a")
    (inside / "p/b/to-out").symlink_to("../../out")
    (inside / "out/back").symlink_to("../p")
    discovery = discover([Path("p")])
    assert names(discovery) == [b"a/1.jpg", b"b/2.jpg", b"b/to-out/3.jpg"]
    assert discovery.skipped == [
        ("p/a/to-b", "same folder as p/b"),
        ("p/b/to-a", "same folder as p/a"),
        ("p/b/to-out/back", "symbolic-link loop"),
    ]


def test_links_that_lead_nowhere(inside: Path) -> None:
    plant(inside / "p", "a.jpg")
    (inside / "p/gone.jpg").symlink_to("nothing.jpg")
    (inside / "p/gone.txt").symlink_to("nothing.txt")
    (inside / "p/ouroboros").symlink_to("ouroboros")
    discovery = discover([Path("p")])
    assert names(discovery) == [b"a.jpg"]
    assert discovery.skipped == [
        ("p/gone.jpg", "symbolic link to nothing"),
        ("p/ouroboros", "symbolic-link loop"),
    ]
    for name, message in {"gone.jpg": "symbolic link to nothing", "ouroboros": "symbolic-link loop"}.items():
        with pytest.raises(InstsearchError, match=message):
            discover([Path("p") / name])


def test_many_crossing_links_end(inside: Path) -> None:
    """Every folder links to every other: walking all the ways would take 12! steps."""
    for i in range(12):
        plant(inside / "p", f"{i:02}/x.jpg")
        for j in range(12):
            (inside / f"p/{i:02}/to-{j:02}").symlink_to(f"../{j:02}")
    discovery = discover([Path("p")])
    assert len(discovery.found) == 12
    assert len(discovery.skipped) == 12 * 12


# what cannot be read --------------------------------------------------------------------------------------


def test_a_folder_without_permission(inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(inside / "p", "a.jpg", "secret/b.jpg", "z/c.jpg")
    scandir = os.scandir

    def refuse(path: str) -> Iterator[os.DirEntry[str]]:
        if Path(path).name == "secret":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    discovery = discover([Path("p")])
    assert names(discovery) == [b"a.jpg", b"z/c.jpg"]
    assert discovery.skipped == [("p/secret", "cannot be read: Permission denied")]
    with pytest.raises(InstsearchError, match=r"no picture in the folder 'p/secret' \(.*Permission denied\)"):
        discover([Path("p"), Path("p/secret")])


def test_what_is_not_a_file(inside: Path) -> None:
    plant(inside / "p", "a.jpg")
    os.mkfifo(inside / "p/pipe.jpg")
    discovery = discover([Path("p")])
    assert names(discovery) == [b"a.jpg"]
    assert discovery.skipped == [("p/pipe.jpg", "not a file but a FIFO")]
    with pytest.raises(InstsearchError, match=r"'p/pipe\.jpg' is neither a file nor a folder, .* a FIFO"):
        discover([Path("p/pipe.jpg")])


def test_names_that_are_not_utf8(inside: Path) -> None:
    folder = os.fsencode(inside / "p") + b"/d\xff"
    name = b"caf\xe9\n.jpg"
    try:
        Path(os.fsdecode(folder)).mkdir(parents=True)
        Path(os.fsdecode(folder + b"/" + name)).touch()
    except OSError as error:
        pytest.skip(f"this file system takes no such names: {error}")
    found = discover([Path("p")]).found[0]
    assert found.name == b"d\xff/" + name
    assert found.display == r"p/d\xff/caf\xe9\n.jpg"
    assert found.path.exists()
    assert discover([found.path]).found[0].name == name


def test_printable() -> None:
    assert printable("a/ö 図.jpg") == "a/ö 図.jpg"
    assert printable("a\x1b[31m.jpg") == r"a\x1b[31m.jpg"
    assert printable("\udcff") == r"\xff"
    assert printable("\ud83d") == r"\ud83d"


def test_paths_that_do_not_exist(inside: Path) -> None:
    plant(inside / "photos", "beach.jpg")
    cases = {
        "fotos": "there is no file or folder 'fotos'. Did you mean 'photos'?",
        "photos/baech.jpg": "there is no file or folder 'photos/baech.jpg'. Did you mean 'photos/beach.jpg'?",
        "photos/zzz": "there is no file or folder 'photos/zzz'.",
        "no/such/thing": "there is no file or folder 'no/such/thing'.",
        "photos/beach.jpg/x": "there is no file or folder 'photos/beach.jpg/x'.",
    }
    for path, message in cases.items():
        with pytest.raises(InstsearchError) as caught:
            discover([Path("photos"), Path(path)])
        assert str(caught.value) == message


def test_a_folder_without_pictures(inside: Path) -> None:
    plant(inside, "p/a.jpg", "q/notes.txt", "q/.hidden.jpg")
    (inside / "empty").mkdir()
    for name in "q", "empty":
        with pytest.raises(InstsearchError, match=f"no picture in the folder '{name}' "):
            discover([Path("p"), Path(name)])
