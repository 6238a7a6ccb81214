"""Ten million on paper: a sample is indexed at two sizes and asked; lines through both say what many images take."""

from __future__ import annotations

import os
import random
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from instsearch_cli.engine import mirrors, records
from instsearch_cli.engine.assembly import Assembly
from instsearch_cli.engine.choosing import choose, chosen, listed, of_each, recorded_pipeline
from instsearch_cli.engine.records import MOST as MOST_ROWS
from instsearch_cli.engine.registry import load_registry
from instsearch_cli.engine.runner import FITTING, MAPPING, SEARCHING
from instsearch_cli.engine.session import Index
from instsearch_cli.engine.stages import CODES, SEARCH
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.images import discover
from instsearch_cli.measure.forecast import Asking, Estimate, Line, Making, Mirror, through
from instsearch_cli.measure.scratch import scratch
from instsearch_cli.measure.trials import WARMING, tried
from instsearch_cli.progress import Quiet
from instsearch_cli.storage import Mirror as MirrorSearcher

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from instsearch_cli.engine.choosing import Anywhere

SMALL, LARGE = 150, 900  #: images of the two index runs; where there are fewer than LARGE, all
MOST = 16_000  #: images of the larger index that is asked, where none is given
MIRRORED = 6_000  #: the same where a mirror answers
QUESTIONS = 20
BUSY = 0.5  #: load of other programs, as a share of the cores, from which times are said to be too long
OTHERS = "others"


@dataclass(frozen=True)
class Given:
    """What is to be estimated, and how it is measured.

    choices      the pipelines that are chosen, one or several asked as one; or of ``recorded`` ones, as TOML
    assemblies   of these
    photographs  to measure with; ``sample``, where they are from
    index        one of these pipelines, to measure besides; None: there is none
    sizes        photographs of the two index runs
    """

    choices: Sequence[dict[str, Any]]
    recorded: Sequence[str]
    assemblies: Sequence[Assembly]
    photographs: Sequence[Path]
    sample: str
    index: Index | None
    sizes: tuple[int, int]
    questions: int
    workers: int | None
    device: str
    load: float

    @property
    def names(self) -> list[str]:
        """Of the pipelines, in the index that is given."""
        return [assembly.pipeline.name for assembly in self.assemblies]

    @property
    def mirrored(self) -> bool:
        """Whether a mirror answers."""
        parts = (assembly.searcher for assembly in self.assemblies)
        return any(part is not None and isinstance(part.component, MirrorSearcher) for part in parts)


def estimate(
    images: int,
    *,
    sample: Anywhere | Sequence[Anywhere] = (),
    index: Index | None = None,
    pipeline: str | None = None,
    workers: int | None = None,
    small: int = SMALL,
    large: int = LARGE,
    questions: int = QUESTIONS,
    seed: int = 0,
    device: str = "auto",
    progress: Quiet | None = None,
    **choice: Any,
) -> Estimate:
    """What an index of so many images will take: seconds, bytes on disk and in memory, seconds a question.

    y(n) = a + b n, through what is measured with ``small`` and ``large`` photographs, all where there are fewer of them

    sample   photographs like those that there will be, files or folders, of which some are drawn evenly; (): those of
             ``index``. Nothing is written there
    index    one whose recorded ``pipeline`` (None: the last) is meant, where ``choice`` names no other; if it has more
             than ``large`` images, its layers, and questions to it, are measured in place of the larger sample's
    workers  of Ray, one core each like one of this machine's

    Questions, for the middle of a photograph, are asked to indexes that repeat the sample's rows where ``index`` is no
    larger, so that searches grow and rerankers have as much to do as in a real one. Raises UsageError for fewer
    images than 1 and too few photographs, and what a pipeline that is chosen wrongly does.
    """
    _check(images, small, large, questions, workers)
    load = _load()
    how = {
        "small": small,
        "large": large,
        "questions": questions,
        "workers": workers,
        "device": device,
        "load": load,
    }
    given = _given(sample, index, pipeline, seed, choice, how)
    said = progress or Quiet()
    with scratch() as folder, ExitStack() as stack:
        for n in given.sizes:
            stack.callback(_drop_copies, folder / f"{n}", given, said)
        return _measured(given, images, folder, said)


def _check(images: int, small: int, large: int, questions: int, workers: int | None) -> None:
    """Raises UsageError for numbers that mean nothing."""
    for name, value, least in (
        ("images", images, 1),
        ("small", small, 2),
        ("large", large, small + 1),
        ("questions", questions, 1),
        ("workers", 1 if workers is None else workers, 1),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UsageError(f"{name} is a whole number of at least {least:,}, not {value!r}")
    if images > MOST_ROWS:
        raise UsageError(f"images is at most {MOST_ROWS:,}, as many as an index can have, not {images:,}")


def check(choice: dict[str, Any], device: str = "auto") -> list[Assembly]:
    """The pipelines that are chosen, assembled. Raises UsageError or InstsearchError for what is not there."""
    registry = load_registry()
    each = of_each(chosen(choice), registry)
    assemblies = [Assembly(choose(registry, None, one), registry, device) for one in each]
    for assembly in assemblies:
        records.folders(assembly)  # weights have to be there
    return assemblies


def _given(
    sample: Anywhere | Sequence[Anywhere],
    index: Index | None,
    pipeline: str | None,
    seed: int,
    choice: dict[str, Any],
    how: dict[str, Any],
) -> Given:
    """What is meant. Raises UsageError for what is not there."""
    own = index is not None and not chosen(choice).stages
    if pipeline is not None and not own:
        raise UsageError("a pipeline is one of an index, without other choices: name that alone (--index)")
    if index is None and not sample:
        raise UsageError("give photographs to measure with (--sample), or an index of some (--index)")
    paths = listed(sample) if sample else _photographs(index) if index else []
    recorded = []
    if index is not None and own:
        recorded = [recorded_pipeline(index.store, name) for name in index.pipelines_of(pipeline)]
        assemblies = [Assembly(each, load_registry(), how["device"]) for each in recorded]
    else:
        assemblies = check(choice, how["device"])
    files, small = [each.path for each in discover(paths).found] if paths else [], how.pop("small")
    large = min(how.pop("large"), max(len(files), 2 * small))
    if len(files) < large:
        raise UsageError(
            f"there are {len(files):,} photographs to measure with, and {large:,} are wanted: give more (--sample), or "
            "measure fewer (--small, --large)"
        )
    return Given(
        choices=() if own else [{name: _text(value) for name, value in choice.items()}],
        recorded=[each.to_toml() for each in recorded],
        assemblies=assemblies,
        photographs=drawn(files, large, seed),
        sample=", ".join(map(str, paths)) if sample or index is None else str(index.path),
        index=index if own else None,
        sizes=(small, large),
        **how,
    )


def _photographs(index: Index) -> list[Path]:
    """The files of an index's images that are there."""
    table = index.store.images
    paths = [table.path(int(row)) for row in table.alive().nonzero()[0]]
    return [path for path in paths if path.is_file()]


def _text(value: Any) -> Any:
    """A path as text, which JSON has."""
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def drawn(files: Sequence[Path], n: int, seed: int) -> list[Path]:
    """n of some files, spread over them evenly: one of each of n stretches of one length, by chance."""
    rng, m = random.Random(seed), len(files)
    return [files[rng.randrange(i * m // n, max((i + 1) * m // n, i * m // n + 1))] for i in range(n)]


def _measured(given: Given, images: int, place: Path, progress: Quiet) -> Estimate:
    """The estimate, with what is measured in a folder."""
    runs = _runs(given, place, progress)
    names, counts = runs[1]["names"], [run["images"] for run in runs]
    if counts[0] < 1 or counts[1] <= counts[0]:
        raise InstsearchError(
            f"of {given.sizes[1]:,} photographs {counts[1]:,} could be read: give others to measure with (--sample)"
        )
    few, grown = (Index.open(place / f"{n}", given.device) for n in given.sizes)
    with few, grown:
        last = grown if given.index is None or len(given.index) <= counts[1] else given.index
        measured = len(last), sizes_on_disk(last, names if last is grown else given.names)
        layers = lines((counts[0], sizes_on_disk(few, names)), measured)
        codes = _rows(grown, names)
        answers = _answers(given, images, grown, names, progress)  # it grows meanwhile
        asking, ray = _asking(*answers), None
        if given.workers:
            ray = tried("ray", progress, index=str(few.path), workers=given.workers, label="Ray")["start"]
        return Estimate(
            images=images,
            pipeline="+".join(names),
            sample=given.sample,
            sizes=(counts[0], counts[1]),
            among=(answers[0]["images"], answers[1]["images"]),
            cores=_cores(),
            load=given.load,
            making=_making(counts, runs),
            asking=asking,
            layers=layers,
            searched=tuple(name for name in layers if name.split()[0] == SEARCH),
            mirror=codes._replace(query=asking) if given.mirrored else codes,
            workers=given.workers,
            ray=ray,
            notes=tuple(_notes(given, runs[1]["fitted"], ray)),
        )


def _cores() -> int:
    """How many this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def _load() -> float:
    """How many programs were busy, on average of a minute; 0 where the system does not say."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return 0.0


def _runs(given: Given, place: Path, progress: Quiet) -> list[dict[str, Any]]:
    """What indexing few photographs took, and more of them."""
    choices = list(given.choices)
    for number, text in enumerate(given.recorded):
        file = place / f"pipeline-{number}.toml"
        file.write_text(text, "utf-8")
        choices.append({"preset": str(file)})
    runs, (small, large) = [], given.sizes
    for n in (small, large):
        photographs = [str(given.photographs[i * large // n]) for i in range(n)]
        request = {"index": str(place / f"{n}"), "photographs": photographs, "choices": choices}
        runs.append(tried("index", progress, **request, device=given.device, label=f"{n:,} images"))
    return runs


def _making(counts: Sequence[int], runs: Sequence[Mapping[str, Any]]) -> Making:
    """Lines through two index runs."""
    steps = (FITTING, MAPPING, SEARCHING)
    took = [{name: run[name] for name in ("process", "cpu", "core", *steps)} for run in runs]
    for run in took:
        run["process"] -= sum(run[step] for step in steps)
    of = lines((counts[0], took[0]), (counts[1], took[1]))
    return Making(of["process"], took[1][FITTING], of[MAPPING], of["cpu"], of[SEARCHING], of["core"])


def _drop_copies(folder: Path, given: Given, progress: Quiet) -> None:
    """Drop the copies of codes that mirrors keep of an index that was made to measure, as far as it was."""
    if given.mirrored and folder.is_dir():
        every = [records.Record(assembly.pipeline, (), {}) for assembly in given.assemblies]
        with Index.open(folder) as index:
            mirrors.sweep(index.store, load_registry(), [], every, dry_run=False, say=progress.say)


def _answers(
    given: Given, images: int, grown: Index, names: Sequence[str], progress: Quiet
) -> list[dict[str, Any]]:
    """What two indexes of growing size say to the same questions: the sample's, its rows repeated, or the one given."""
    own, larger = len(grown.store.images), given.index
    top = min(MIRRORED if given.mirrored else MOST, images)
    if larger is not None and len(larger) < 2 * own:
        larger = None
    top = max(2 * own, top if larger is None else min(top, len(larger)))
    many = [max(own, top // 4), *([top] if larger is None else [])]
    pictures = drawn(given.photographs, min(given.questions + WARMING, len(given.photographs)), 1)
    request = {"pictures": list(map(str, pictures)), "device": grown.device}
    said = []
    for n in many:
        crowd = {"index": str(grown.path), "names": list(names), "own": own, "label": f"{n:,} images"}
        tried("grow", progress, **crowd, images=n, device=grown.device)
        said.append(tried("ask", progress, **crowd, **request))
    if larger is not None:
        whole = {
            "index": str(larger.path),
            "names": given.names,
            "own": 0,
            "label": f"{len(larger):,} images",
        }
        said.append(tried("ask", progress, **whole, **request))
    return said


def _asking(small: Mapping[str, Any], large: Mapping[str, Any]) -> Asking:
    """Lines through what two indexes said."""
    of = lines((small["images"], small), (large["images"], large))
    described = (small["describe"] + large["describe"]) / 2
    return Asking(described, of[SEARCH], of["rerank"], of["core"], of["memory"], large["images"])


def sizes_on_disk(index: Index, names: Sequence[str]) -> dict[str, float]:
    """Bytes on disk of each layer of some pipelines, "kind name", and of all that is no image's layer as OTHERS."""
    found: dict[str, float] = {}
    for name in names:
        for engine in index.engines(name):
            for kind in (*engine.assembly.kinds, SEARCH):
                if kind != SEARCH or engine.assembly.part(SEARCH).fits:
                    layer = engine.data.layer(kind)
                    found[f"{kind} {layer.name}"] = layer.nbytes
    table = index.path / "images"
    rest = [
        index.path / "stamps.txt",
        index.path / "names.txt",
        *table.rglob("*"),
        *(index.path / "models").rglob("*"),
    ]
    return found | {OTHERS: sum(file.stat().st_size for file in rest if file.is_file())}


def lines(small: tuple[int, Mapping[str, float]], large: tuple[int, Mapping[str, float]]) -> dict[str, Line]:
    """A line for each name, through what two of some sizes have."""
    (n1, first), (n2, second) = small, large
    return {name: through((n1, first.get(name, 0.0)), (n2, second[name])) for name in second}


def _rows(index: Index, names: Sequence[str]) -> Mirror:
    """The codes as a mirror would keep them: how many an image has, and the bytes of their values."""
    codes, nbytes, kinds = 0, 0, []
    for name in names:
        arrays = index.layer(CODES, pipeline=name)
        sparse = "indices" in arrays
        values = arrays["data"].nbytes + arrays["indices"].nbytes if sparse else arrays["vectors"].nbytes
        codes, nbytes = codes + len(arrays["image"]), nbytes + values
        kinds.append("sparse" if sparse else "dense")
    return Mirror(codes / len(index), nbytes / max(codes, 1), " and ".join(dict.fromkeys(kinds)))


def _notes(given: Given, fitted: Sequence[str], ray: float | None) -> Iterator[str]:
    """What one should know of the figures."""
    yield "searches are taken for linear in images: approximate searchers do better"
    if given.load > BUSY * _cores():
        yield f"other programs were busy (load {given.load:.1f} on {_cores()} cores): times are too long"
    if fitted:
        yield f"fitted {'; '.join(fitted)}: a large collection is learnt from on more, once"
    if given.workers:
        start = (
            "their start is not counted: Ray is not installed"
            if ray is None
            else f"Ray starts in {ray:.1f} s"
        )
        yield f"each worker has a core like one of these, and disks keep up; {start}"
    if not given.mirrored:
        yield "questions to a mirror are not measured: estimate a pipeline whose searcher asks one"
    if len(given.assemblies) > 1:
        yield "of pipelines that are asked as one, vectors are asked once more, which is not counted"
