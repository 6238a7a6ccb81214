"""What a verb is run on: an index before it, its command, and what an undisturbed run makes of both."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fuzzing import calls, children
from fuzzing.shelf import QUERY, SIFT, TINY, Shelf, contents, copied, done, files, hits, outputs, texture

if TYPE_CHECKING:
    from collections.abc import Callable


class Scene(NamedTuple):
    """A command that writes. ``words`` may say INDEX, OUT, PHOTOS, NEW and SHELF; ``base``: the index it is run on.

    renews: repeated it makes the same under other names, since it was complete before it was killed
    refuses: what it says, with exit status 2, where it was complete before it was killed
    """

    base: str
    words: tuple[str, ...]
    writes_index: bool = True
    renews: bool = False
    refuses: str = ""


EVAL = ("eval", "--dataset", "SHELF/manifest.json", "--index", "INDEX", "--encoder", "sum", "--quiet")
SCENES = {
    "index sift": Scene("", ("index", "PHOTOS", "--index", "INDEX", *SIFT, "--quiet")),
    "index tiny": Scene("", ("index", "PHOTOS", "--index", "INDEX", *TINY, "--keep-features", "--quiet")),
    "index another stage": Scene("many", ("index", "--index", "INDEX", "--weighting", "crow", "--quiet")),
    "index --refit": Scene("tiny", ("index", "NEW", "--index", "INDEX", "--refit", "--quiet"), renews=True),
    "add": Scene("changed", ("add", "CHANGED", "--index", "INDEX", "--quiet")),
    "add new": Scene("many", ("add", "NEW", "--index", "INDEX", "--quiet")),
    "remove": Scene("many", ("remove", "a/02.png", "b/07.png", "--index", "INDEX")),
    "relocate": Scene("many", ("relocate", "PHOTOS", "OTHER", "--index", "INDEX")),
    "gc": Scene("littered", ("gc", "--index", "INDEX")),
    "gc --forget": Scene(
        "many",
        ("gc", "--forget", "os", "--forget", "words", "--cache", "--index", "INDEX"),
        refuses="has no pipeline 'os'",
    ),
    "extract": Scene("tiny", ("extract", "NEW", "--index", "INDEX", "--set", "extractor.side=5", "--quiet")),
    "eval": Scene("tiny", (*EVAL, "--run", "OUT/hits.run", "--html", "OUT/page.html")),
    "export": Scene(
        "many",
        ("export", "--index", "INDEX", "--layer", "codes", "--force", "-o", "OUT/codes.npz"),
        writes_index=False,
    ),
    "train": Scene(
        "", ("train", "pupil", "--data", "SHELF/numbers", "--out", "OUT/pupil.pth", "--quiet"), False
    ),
    "sync": Scene("changed", ("sync", "--index", "INDEX", "--quiet")),
    "restore": Scene("many", ("restore", "a/04.png", "--index", "INDEX", "--quiet")),
}


def scenes() -> list[str]:
    """Those whose verb the program has."""
    from instsearch_cli.main import COMMANDS

    return [name for name, scene in SCENES.items() if scene.words[0] in COMMANDS]


def base(shelf: Shelf, name: str) -> Path | None:
    """The index that a scene starts from."""
    scene = SCENES[name]
    if scene.base not in ("changed", "littered"):
        return shelf.index(scene.base) if scene.base else None
    make = _changed if scene.base == "changed" else _littered
    return shelf.once(f"scenes/{scene.base}", lambda path: make(shelf, path))


def _changed(shelf: Shelf, path: Path) -> None:
    """Two of ten photographs have changed since they were indexed, one has gone, and two are new."""
    photos = copied(shelf.photos(), shelf.path / "changed photos")
    done("index", photos, "--index", path, *TINY, "--searcher", "scan", "--name", "scan", "--quiet")
    done("index", "--index", path, "--searcher", "faiss", "--name", "faiss", "--quiet")
    for i, name in enumerate(("a/00.png", "b/09.png", "a/10.png", "b/11.png")):
        texture(700 + i, 120, 100).save(photos / name)
    (photos / "b" / "05.png").unlink()


def _littered(shelf: Shelf, path: Path) -> None:
    """What killed runs leave, and a pipeline that nobody recorded."""
    copied(shelf.index("many"), path)
    for name in ("os.json", "os.toml"):
        (path / "pipelines" / name).unlink()
    (path / "scratch" / "left" / "deep").mkdir(parents=True)
    (path / "scratch" / "left" / "deep" / "file").write_bytes(b"x" * 100)
    for folder in ("images", "models", next(path.glob("codes/*")).relative_to(path)):
        (path / folder / f"part-0000000000-0000000004.h5.{'0' * 32}.partial").write_bytes(b"x" * 100)


def words(shelf: Shelf, name: str, index: Path, out: Path) -> list[str]:
    """A scene's command line for an index and a folder of outputs."""
    places = {
        "INDEX": index,
        "OUT": out,
        "PHOTOS": shelf.photos(),
        "CHANGED": shelf.path / "changed photos",
        "OTHER": shelf.path / "moved photos",
        "NEW": shelf.new(),
        "SHELF": shelf.path,
    }
    found = []
    for word in SCENES[name].words:
        head, slash, tail = word.partition("/")
        found.append(f"{places[head]}{slash}{tail}" if head in places else word)
    return found


class Reference(NamedTuple):
    """An undisturbed run: its moments and seconds, answers before and after it, and what it left, by digests."""

    moments: int
    failures: dict[str, int]
    seconds: float
    before: str
    after: str
    contents: dict[str, str]
    outputs: dict[str, str]
    files: list[str]


def reference(shelf: Shelf, name: str) -> Reference:
    """What an undisturbed run of a scene gives, worked out once."""
    return Reference(**shelf.expected(f"scene {name}", lambda: _reference(shelf, name)))


def _reference(shelf: Shelf, name: str) -> dict[str, Any]:
    _beside(shelf)
    started = base(shelf, name)
    folder = Path(tempfile.mkdtemp(prefix="reference-", dir=shelf.path))
    index, out = folder / "index", folder / "out"
    before = ask(shelf, started)

    def run(prepare: Callable[[], None] | None = None) -> children.Outcome:
        for path in (index, out):
            shutil.rmtree(path, ignore_errors=True)
        out.mkdir()
        if started is not None:
            copied(started, index)
        return children.command(*words(shelf, name, index, out), before=prepare)

    made = _calls(folder, run)
    failures = {error: sum(name in names for name in made) for error, (_, names, _) in calls.ERRORS.items()}
    outcome = run()
    if outcome.status:
        raise children.FaultError(f"undisturbed: {outcome}")
    after = ask(shelf, index)
    if index.exists():
        done("gc", "--index", index)
    value = {
        "moments": 2 * len(made),
        "failures": failures,
        "seconds": outcome.seconds,
        "before": before,
        "after": after,
        "contents": contents(index) if index.exists() else {},
        "outputs": outputs(out),
        "files": sorted(files(index)) if index.exists() else [],
    }
    shutil.rmtree(folder)
    return value


def _calls(folder: Path, run: Callable[[Callable[[], None]], children.Outcome]) -> list[str]:
    """The calls that change the disk in a run."""
    noted = os.open(folder / "calls", os.O_RDWR | os.O_CREAT)
    write = os.write

    def act(name: str, after: bool, path: object) -> None:
        if not after:
            write(noted, f"{name} ".encode())

    run(lambda: calls.watch(act))
    os.close(noted)
    return (folder / "calls").read_text().split()


def _beside(shelf: Shelf) -> None:
    """A manifest, numbers to train on, and where photographs move to."""
    photos = shelf.photos()
    removed = {"04.png", "05.png"}
    images = [str(p.relative_to(shelf.path)) for p in sorted(photos.rglob("*.png")) if p.name not in removed]
    queries = [
        {"id": f"q{i}", "image": image, "box": [20, 10, 100, 90], "positives": [image]}
        for i, image in enumerate(images[:3])
    ]
    manifest = {"name": "drawn", "images": images, "queries": queries}
    (shelf.path / "manifest.json").write_text(json.dumps(manifest))
    (shelf.path / "numbers").mkdir(exist_ok=True)
    for i in range(7):
        (shelf.path / "numbers" / f"{i}.txt").write_text(str(i / 7))
    (shelf.path / "moved photos").mkdir(exist_ok=True)


def ask(shelf: Shelf, index: Path | None) -> str:
    """What the last pipeline of an index answers; nothing where there is none."""
    if index is None or not index.exists():
        return ""
    outcome = children.command("query", shelf.picture, "--index", index, *QUERY)
    if outcome.fault:
        raise children.FaultError(f"{outcome.what}: {outcome.fault}")
    return hits(outcome)
