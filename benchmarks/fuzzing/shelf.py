"""What trials start from: small drawn collections, indexes of them, made once; what an index holds and answers."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
import PIL.ImageDraw

from fuzzing import children
from fuzzing.children import FaultError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TINY = ("--extractor", "cells", "--encoder", "centred", "--weighting", "flat", "--rerank", "none")
SIFT = (
    *("--preset", "sift", "--set", "encoder.vocabulary=own", "--set", "encoder.words=32"),
    *("--set", "extractor.keypoints=80"),
)
REGIONS = ("--detector", "halves", "--searcher", "faiss")
PIPELINES: dict[str, dict[str, tuple[str, ...]]] = {
    "sift": {"sift-bovw": SIFT},
    "tiny": {"scan": (*TINY, "--searcher", "scan"), "faiss": ("--searcher", "faiss")},
    "many": {
        "scan": (*TINY, "--searcher", "scan", "--keep-features"),
        "words": ("--weighting", "bright", "--encoder", "blcf", "--set", "encoder.words=16"),
        "regions": ("--encoder", "regions-mean", *REGIONS, "--rerank", "region-box"),
        "diffusion": ("--encoder", "regions-sum", "--detector", "grid", "--searcher", "diffusion"),
        "offline": ("--encoder", "vlad", "--searcher", "offline-diffusion", "--rerank", "aqe"),
        "hnsw": ("--encoder", "sum", "--searcher", "faiss", "--set", "searcher.factory=HNSW8"),
        "fs": ("--encoder", "sum", "--weighting", "fs", "--searcher", "faiss", "--rerank", "spatial"),
        "os": ("--encoder", "sum", "--weighting", "os", *REGIONS),
        "regional": ("--encoder", "gem", "--searcher", "regional-diffusion"),
    },
    "large": {
        "hamming": (*SIFT[:6], "--set", "extractor.keypoints=400"),
        "inverted": ("--searcher", "inverted", "--rerank", "none"),
        "vlad": ("--encoder", "vlad", "--set", "encoder.over=local", "--searcher", "faiss"),
    },
}
"""The pipelines of each index, by name, as `index` is told of them one after the other."""

QUERY = ("--box", "20,10,100,90", "-k", "40", "--json")
N = 10  #: photographs of a collection


def texture(seed: int, width: int = 160, height: int = 120) -> PIL.Image.Image:
    """A picture full of edges and corners at places of its own."""
    rng = np.random.default_rng(seed)
    picture = PIL.Image.new("RGB", (width, height), tuple(int(v) for v in rng.integers(0, 256, 3)))
    draw = PIL.ImageDraw.Draw(picture)
    for _ in range(width * height // 200):
        x, y, a, b = (int(v) for v in (*rng.integers(0, (width, height)), *rng.integers(3, 30, 2)))
        shape = (draw.ellipse, draw.rectangle)[int(rng.integers(2))]
        shape((x - a, y - b, x + a, y + b), fill=tuple(int(v) for v in rng.integers(0, 256, 3)))
    return picture


def photographs(folder: Path, first: int = 0, n: int = N) -> Path:
    """A folder of drawn pictures in two folders."""
    for i in range(n):
        path = folder / "ab"[i % 2] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        texture(first + i).save(path)
    return folder


class Shelf:
    """Where collections and indexes lie that trials copy. Each is made once, when it is first wanted."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def once(self, name: str, make: Callable[[Path], object]) -> Path:
        """A file or folder of the shelf, made under another name if it is not there; others wait meanwhile."""
        path = self.path / name
        if not path.exists():
            with (self.path / f"{name.replace('/', ' ')}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not path.exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    aside = path.with_name(f"{path.name}.making")
                    make(aside)
                    aside.rename(path)
        return path

    def photos(self, other: bool = False) -> Path:
        """Photographs that no trial changes, or as many others."""
        return self.once(
            "other photos" if other else "photos", lambda folder: photographs(folder, 1000 * other)
        )

    def new(self) -> Path:
        """Three more photographs."""
        return self.once("new photos", lambda folder: photographs(folder, 500, 3))

    @property
    def picture(self) -> Path:
        return self.photos() / "b" / "03.png"

    def index(self, name: str, other: bool = False) -> Path:
        """An index of these photographs, or of the others, with the pipelines of PIPELINES; two images are removed."""
        where = "other indexes" if other else "indexes"
        return self.once(f"{where}/{name}", lambda path: _make_index(path, self.photos(other), name))

    def expected(self, name: str, make: Callable[[], Any]) -> Any:
        """Something JSON-ready that is worked out once on what is sound, and read afterwards."""
        path = self.once(f"expected/{name}.json", lambda path: path.write_text(json.dumps(make())))
        return json.loads(path.read_text())


def _make_index(path: Path, photos: Path, name: str) -> None:
    for pipeline, flags in PIPELINES[name].items():
        images = [photos] if not path.exists() else []
        done("index", *images, "--index", path, *flags, "--name", pipeline, "--quiet")
    for image in ("a/04.png", "b/05.png"):
        done("remove", image, "--index", path)
    for pipeline in PIPELINES[name]:
        done("index", "--index", path, "--preset", path / "pipelines" / f"{pipeline}.toml", "--quiet")


def done(*words: object) -> children.Outcome:
    """A command that has to succeed. Raises FaultError."""
    outcome = children.command(*words)
    if outcome.status:
        raise FaultError(f"{outcome.what}: {outcome.fault or outcome.err}")
    return outcome


def copied(index: Path, target: Path) -> Path:
    """A real copy of a folder."""
    shutil.copytree(index, target)
    return target


def contents(index: Path) -> dict[str, str]:
    """A digest of every array of an index, by where it lies, and of its images; computed in a child."""
    return children.asked(f"contents of {index.name}", lambda: _contents(index))


def _contents(path: Path) -> dict[str, str]:
    from instsearch_formats import Index

    index = Index.open(path)
    arrays: dict[str, Any] = {}
    removed = index.images.removed()
    for row, record in index.images.records():
        arrays[f"images/{row}"] = (repr(record), removed.get(row))
    for info in index.layers():
        layer = index.layer(info.kind, info.name, info.encoding, info.identity)
        if info.encoding == "arrays":
            for span in layer.cover(len(index.images)):
                for name, array in layer.arrays(span).items():
                    arrays[f"{info.path}/{span}/{name}"] = np.asarray(array)
            continue
        for row in filter(layer.covers, range(len(index.images))):
            for name, array in layer.read(row).items():
                arrays[f"{info.path}/{row}/{name}"] = np.asarray(array)
    for model in index.models():
        found = index.read_model(model.name, model.identity)
        arrays |= {f"{model.path}/{name}": array for name, array in (found or ({}, {}))[0].items()}
    arrays["roots"], arrays["replacing"] = index.images.roots, index.images.replacing()
    return {where: digest(what) for where, what in arrays.items()}


def digest(what: Any) -> str:
    """Some digits that differ where arrays, or other values, do."""
    if isinstance(what, np.ndarray):
        head, body = f"{what.dtype} {what.shape}", np.ascontiguousarray(what).tobytes()
    else:
        head, body = "value", repr(what).encode()
    return hashlib.sha256(head.encode() + b"\0" + body).hexdigest()[:16]


def outputs(folder: Path) -> dict[str, str]:
    """A digest of what commands wrote beside an index: arrays, weights, ranked lists."""
    return children.asked("outputs", lambda: _outputs(folder))


def _outputs(folder: Path) -> dict[str, str]:
    import torch

    found: dict[str, Any] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = str(path.relative_to(folder))
        if path.suffix == ".npz":
            with np.load(path) as arrays:
                found |= {f"{name}/{k}": arrays[k] for k in arrays}
        elif path.suffix == ".pth":
            state = torch.load(path, weights_only=True)
            found |= {f"{name}/{k}": v.numpy() for k, v in state.items()}
        elif path.suffix == ".run":
            found[name] = path.read_text()
    return {where: digest(what) for where, what in found.items()}


def files(index: Path) -> set[str]:
    """The files of an index that a second run leaves as the first one did: all but notes and stamps."""
    spared = {"lock", "stamps.txt"}
    return {str(p.relative_to(index)) for p in index.rglob("*") if p.is_file() and p.name not in spared}


def hits(outcome: children.Outcome) -> str:
    """What a query answered, as people see it, as text that can be compared; nothing where it failed.

    Scores to five digits: sums over other rows, one more that was removed say, are rounded otherwise.
    """
    if outcome.status:
        return ""
    answer = outcome.json
    seen = [[h["path"], float(f"{h['score']:.5g}"), h["box"]] for h in answer["hits"]]
    return json.dumps([answer["found"], seen])


def warned(outcome: children.Outcome) -> bool:
    """Whether a query said that something is not as it should be."""
    return bool(outcome.status) or "warning:" in outcome.err or bool(outcome.json.get("cautions"))
