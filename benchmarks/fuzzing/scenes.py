"""What the verbs that write are tried on: photographs, an index of them as it was, and a command that changes it."""

from __future__ import annotations

import functools
import json
import shutil
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fuzzing.child import Ended, command, hits, must
from fuzzing.shelf import KINDS, SIFT, WORDS, Shelf, draw, texture
from instsearch_formats import Index

if TYPE_CHECKING:
    from pathlib import Path

VERBS = ("index", "stage", "extract", "add", "sync", "remove", "restore", "relocate", "gc", "eval")


class Scene(NamedTuple):
    """An index before a command, that command, and what the index holds and answers before it and after it."""

    before: Path | None
    command: tuple[str, ...]
    pictures: tuple[Path, ...]
    answers: tuple[list[Any], list[Any]]
    after: dict[str, np.ndarray]
    seconds: float

    def at(self, index: Path) -> list[str]:
        return [word.replace("INDEX", str(index)) for word in self.command]

    def copy(self, to: Path) -> Path:
        """The index before, in a place of its own."""
        shutil.rmtree(to, ignore_errors=True)
        if self.before is not None:
            shutil.copytree(self.before, to)
        return to


def answers(index: Path, pictures: tuple[Path, ...]) -> list[Any]:
    """What an index answers to some pictures; None for each that it does not."""
    return [hits(command("query", p, "--index", index, "--json", "-k", "40")) for p in pictures]


def contents(path: Path) -> dict[str, np.ndarray]:
    """Every array of an index, by where it lies, and which rows are images by which names."""
    index, arrays = Index.open(path), {}
    alive = index.images.alive()
    for row, record in index.images.records():
        arrays[f"images/{row}"] = np.frombuffer(repr((record, alive[row])).encode(), np.uint8)
    for info in index.layers():
        layer = index.layer(info.kind, info.name, info.encoding, info.identity)
        if info.encoding == "arrays":
            for span in layer.cover(len(index.images)):
                arrays |= {f"{info.path}/{span}/{k}": np.array(v) for k, v in layer.arrays(span).items()}
            continue
        for span in layer.ranges():
            for row in span:
                arrays |= {f"{info.path}/{row}/{k}": np.asarray(v) for k, v in layer.read(row).items()}
    for model in index.models():
        found = index.read_model(model.name, model.identity)
        assert found is not None
        arrays |= {f"{model.path}/{k}": v for k, v in found[0].items()}
    return arrays


def difference(path: Path, expected: dict[str, np.ndarray]) -> str:
    """The first array that is not as it should be, "" if all are."""
    found = contents(path)
    if odd := sorted(found.keys() ^ expected.keys()):
        return f"{odd[0]} is {'there' if odd[0] in found else 'missing'}"
    return next((f"{k} differs" for k, v in expected.items() if not np.array_equal(v, found[k])), "")


class Scenes:
    """One for each verb, made when it is first asked for."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf

    @functools.cache  # noqa: B019
    def scene(self, verb: str) -> Scene:
        """The scene of a verb."""
        folder = self.shelf.work / f"scene-{verb}"
        photos, before = draw(folder / "photos", range(8)), folder / "before"
        pictures = (self.shelf.picture, folder / "new.png")
        texture(50).resize((150, 112)).save(pictures[1])
        start: Path | None = None
        if verb not in ("index", "extract"):
            must("index", photos, "--index", before, *KINDS["hamming"])
            start = before
        whole = ("--index", "INDEX")
        commands: dict[str, tuple[str, ...]] = {
            "index": ("index", str(photos), *whole, *KINDS["hamming"]),
            "stage": ("index", *whole, *KINDS["inverted"], "--weighting", "gaussian", "--name", "other"),
            "extract": (
                "extract",
                str(photos),
                *whole,
                "--extractor",
                "sift",
                "--set",
                "extractor.keypoints=150",
                "--quiet",
            ),
            "add": ("add", str(photos), *whole, "--quiet"),
            "sync": ("sync", *whole, "--max-remove", "100%", "--quiet"),
            "remove": ("remove", "001.png", "003.png", *whole),
            "restore": ("restore", "--all", *whole, "--quiet"),
            "relocate": ("relocate", str(photos), str(folder / "moved"), *whole),
            "gc": ("gc", "--forget", "old*", *whole),
            "eval": (
                "eval",
                "--dataset",
                str(folder / "manifest.json"),
                *whole,
                *SIFT,
                *WORDS,
                "--weighting",
                "gaussian",
            ),
        }
        self._prepare(verb, folder, photos, before)
        after = folder / "after"
        if start is not None:
            shutil.copytree(start, after)
        was = answers(before, pictures) if start is not None else [None, None]
        done = must(*(word.replace("INDEX", str(after)) for word in commands[verb]))
        found = was, answers(after, pictures)
        return Scene(start, commands[verb], pictures, found, contents(after), done.seconds)

    def _prepare(self, verb: str, folder: Path, photos: Path, before: Path) -> None:
        """What happened between the index and the command."""
        if verb in ("add", "sync"):
            texture(50).save(photos / "new.png")
            texture(51).save(photos / "002.png")
        if verb == "sync":
            (photos / "004.png").rename(photos / "renamed.png")
            (photos / "005.png").unlink()
        elif verb == "restore":
            must("remove", "001.png", "003.png", "--index", before)
        elif verb == "relocate":
            shutil.copytree(photos, folder / "moved")
        elif verb == "gc":
            must("index", "--index", before, *KINDS["inverted"], "--name", "old")
            must("index", "--index", before, *KINDS["hamming"])
        elif verb == "eval":
            names = [f"photos/{i:03}.png" for i in range(8)]
            query = {"id": "a", "image": names[3], "box": None, "positives": names[3:5], "exclude": []}
            manifest = {"name": "drawn", "images": names, "queries": [query]}
            (folder / "manifest.json").write_text(json.dumps(manifest))


def settled(scene: Scene, index: Path) -> str:
    """Run the command again, and look whether the index is what an undisturbed run leaves: the fault, "" for none."""
    again: Ended = command(*scene.at(index))
    if again.status or again.ended_by:
        return f"again: {again.status} {again.ended_by} {again.err.strip()[-200:]}"
    for arguments in (("verify", "--index", index, "--quiet"), ("gc", "--index", index)):
        ended = command(*arguments)
        if ended.status:
            return f"{arguments[0]}: {ended.status} {(ended.out + ended.err).strip()[-200:]}"
    if answers(index, scene.pictures) != scene.answers[1]:
        return "another answer in the end"
    return difference(index, scene.after)
