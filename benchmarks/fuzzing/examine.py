"""What is asked of an index after something was done to it, and when an answer is a fault.

An answer is that of the sound index, or the exit status is not 0, or a warning says why. What is written to such an
index afterwards ends, with whatever it says.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from fuzzing.bench import Bench, sound_answers
from fuzzing.children import FaultError, Outcome
from fuzzing.shelf import PIPELINES, copied, hits, warned

if TYPE_CHECKING:
    from collections.abc import Callable

KEPT = (
    "features",
    "weights",
    "regions",
    "local",
    "codes",
    "search",
)  #: kinds of layers, each made of those before


def layers(index: Path) -> dict[str, list[str]]:
    """The layers and models of each pipeline of a sound index, as it recorded them."""
    records = sorted((index / "pipelines").glob("*.json"))
    return {record.stem: json.loads(record.read_text())["layers"] for record in records}


def related(bench: Bench, name: str, changed: str) -> list[str]:
    """The pipelines that use a file, at most three; of files that all of them use, two."""
    index = bench.shelf.index(name)
    using = [
        pipeline
        for pipeline, used in layers(index).items()
        if Path(changed).stem == pipeline or any(changed.startswith(layer) for layer in used)
    ]
    names = using or list(PIPELINES[name])
    return sorted(bench.chance.sample(names, min(len(names), 3 if using else 2)))


def examine(bench: Bench, index: Path, name: str, changed: str, plain: bool = False) -> bool:
    """Ask, look at it, and write to it; whether nothing was said of the change. Raises FaultError.

    plain: what was changed are numbers within their range, so that another answer is no fault; the trial's row says so
    """
    pipelines = related(bench, name, changed)
    quiet = ask(bench, index, name, pipelines, plain)
    verified = bench.run("verify", "--index", index, "--json")
    bench.run("info", "--index", index)
    verb = bench.chance.choice(list(AFTERWARDS))
    AFTERWARDS[verb](bench, index, pipelines)
    if quiet and not verified.status and verb in KEEP:
        ask(bench, index, name, pipelines, plain)
    else:
        for pipeline in pipelines[:1]:
            bench.query(index, pipeline)
    return quiet and not verified.status


def ask(
    bench: Bench,
    index: Path,
    name: str,
    pipelines: list[str],
    plain: bool = False,
    sound: dict[str, str] | None = None,
) -> bool:
    """Ask some pipelines; whether they answered as the sound index does, without a word. Raises FaultError."""
    sound = sound or sound_answers(bench.shelf, bench.shelf.index(name), name, list(PIPELINES[name]))
    quiet = True
    for pipeline in pipelines:
        outcome = bench.query(index, pipeline)
        if warned(outcome):
            quiet = False
        elif hits(outcome) != sound[pipeline]:
            if not plain:
                raise FaultError(f"'{pipeline}' answers otherwise, without a word")
            bench.row = f"{bench.row.partition(':')[0]}: differs, in range"
    return quiet


def again(bench: Bench, index: Path, pipelines: list[str]) -> list[Outcome]:
    """Run pipelines again, as their records say, so that what is missing is made."""
    presets = [index / "pipelines" / f"{pipeline}.toml" for pipeline in pipelines]
    return [bench.run("index", "--index", index, "--preset", preset, "--quiet") for preset in presets]


def reread(bench: Bench, index: Path, name: str, changed: str, pipelines: list[str], plain: bool) -> None:
    """Have what is made of a layer made again, so that the layer is read, and ask. Raises FaultError."""
    kind = changed.partition("/")[0]
    _drop_later(bench, index, name, kind, pipelines)
    again(bench, index, pipelines)
    ask(bench, index, name, pipelines, plain, _made_again(bench, name, kind))


def mended(bench: Bench, index: Path, name: str, changed: str, pipelines: list[str]) -> None:
    """Do what the messages say: delete the file, index again. All is as it was. Raises FaultError."""
    (index / changed).unlink(missing_ok=True)
    using = [p for p, used in layers(bench.shelf.index(name)).items() if str(Path(changed).parent) in used]
    for outcome in again(bench, index, using):
        if outcome.status:
            raise FaultError(f"mending fails: {outcome.err.strip()[:300]}")
    verified = bench.run("verify", "--index", index, "--quiet")
    if verified.status:
        raise FaultError(f"mended, but not sound: {verified.out.strip()[:300]}")
    if not ask(bench, index, name, pipelines, sound=_made_again(bench, name, changed.partition("/")[0])):
        raise FaultError("mended, but a query warns or fails")


def _drop_later(bench: Bench, index: Path, name: str, kind: str, pipelines: list[str]) -> None:
    """Delete the parts of layers that come after a kind, of some pipelines; of kind search those themselves."""
    used = layers(bench.shelf.index(name))
    later = KEPT[KEPT.index(kind) + 1 :] or ("search",)
    for layer in sorted({layer for pipeline in pipelines for layer in used[pipeline]}):
        if layer.partition("/")[0] in later:
            for path in (index / layer).glob("part-*.h5"):
                path.unlink()


def _made_again(bench: Bench, name: str, kind: str) -> dict[str, str]:
    """What pipelines answer whose layers after a kind were made again: of the images that are left."""

    def make() -> dict[str, str]:
        found = {}
        for pipeline in PIPELINES[name]:
            index = copied(bench.shelf.index(name), bench.folder / "made again")
            _drop_later(bench, index, name, kind, [pipeline])
            again(bench, index, [pipeline])
            found[pipeline] = hits(bench.query(index, pipeline))
            shutil.rmtree(index)
        return found

    answers: dict[str, str] = bench.shelf.expected(f"answers {name} made again after {kind}", make)
    return answers


def _add(bench: Bench, index: Path, pipelines: list[str]) -> None:
    bench.run("add", bench.shelf.new(), "--index", index, "--quiet")


def _remove(bench: Bench, index: Path, pipelines: list[str]) -> None:
    bench.run("remove", "a/02.png", "--index", index)


def _gc(bench: Bench, index: Path, pipelines: list[str]) -> None:
    bench.run("gc", "--index", index)


def _export(bench: Bench, index: Path, pipelines: list[str]) -> None:
    layer = bench.chance.choice(KEPT[:-1])
    out = bench.folder / "out.npz"
    bench.run("export", "--index", index, "--layer", layer, "--pipeline", pipelines[0], "-o", out)


def _show(bench: Bench, index: Path, pipelines: list[str]) -> None:
    bench.run(
        "show", "a/02.png", "--index", index, "--pipeline", pipelines[0], "-o", bench.folder / "show.png"
    )


AFTERWARDS: dict[str, Callable[[Bench, Path, list[str]], object]] = {
    "add": _add,
    "remove": _remove,
    "gc": _gc,
    "index": again,
    "export": _export,
    "show": _show,
}
KEEP = ("gc", "index", "export", "show")  #: after which the answer is as before
