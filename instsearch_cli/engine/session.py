"""An index opened to work with: all that the verbs of the command line do with one, as methods."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

from instsearch_cli.engine import records, together, upkeep
from instsearch_cli.engine.answer import Wish
from instsearch_cli.engine.choosing import Anywhere, Choice, as_path, chosen, listed, of_each
from instsearch_cli.engine.jointly import names_of
from instsearch_cli.engine.looking import Looking
from instsearch_cli.engine.making import How, Start, extract_images, index_each, index_images
from instsearch_cli.engine.opened import Loaded, format_errors, lasting, opened, replaced
from instsearch_cli.engine.pipeline import SEPARATOR
from instsearch_cli.engine.questions import Question, asked_for
from instsearch_cli.engine.registry import load_registry
from instsearch_cli.engine.restoring import restore
from instsearch_cli.engine.soundness import verify
from instsearch_cli.engine.syncing import Plan
from instsearch_cli.engine.workers import LOCAL, workers_of
from instsearch_cli.errors import UsageError
from instsearch_cli.images import MAX_PIXELS
from instsearch_cli.images.budget import decoding_within
from instsearch_cli.progress import Quiet
from instsearch_formats import Index as Store
from instsearch_formats.files import vacant
from instsearch_formats.lock import waiting

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence
    from pathlib import Path

    from instsearch_cli.engine.answer import Answer
    from instsearch_cli.engine.making import Indexed
    from instsearch_cli.engine.pipeline import Pipeline
    from instsearch_cli.engine.query import Engine
    from instsearch_cli.engine.questions import Picture
    from instsearch_cli.engine.restoring import Restored
    from instsearch_cli.engine.syncing import Synced
    from instsearch_cli.errors import InstsearchError
    from instsearch_formats.verify import Problem


class Index(Looking):
    """A folder of photographs made searchable.

    It stays warm: what a question loads, the next one finds loaded. It may be asked from several threads, and sees
    what other processes add to the index or remove from it. Options that choose a pipeline are those of the command
    line: ``preset``, ``extractor``, ``weighting``, ``detector``, ``encoder``, ``searcher``, ``rerank``, ``refine``,
    ``fit_on``, ``weigh_query``, ``crop_query``, ``weights``, and ``options``, "stage.option=value" as ``--set``
    takes them. All methods raise InstsearchError, in the words of the command line, UsageError among them.
    """

    def __init__(
        self, store: Store, device: str = "auto", progress: Quiet | None = None, wait: float | None = None
    ) -> None:
        self.path = store.path
        self.device, self.progress, self.wait = device, progress or Quiet(), wait
        self.closed = False
        self._registry = load_registry()
        self._loaded = Loaded(store, device)
        self._writing = threading.RLock()

    @classmethod
    def open(
        cls, path: Anywhere, device: str = "auto", progress: Quiet | None = None, wait: float | None = None
    ) -> Index:
        """An index that is there; while another process writes to it, writing waits so many seconds."""
        with format_errors():
            return cls(Store.open(as_path(path, "an index")), device, progress, wait)

    @classmethod
    def create(
        cls, path: Anywhere, device: str = "auto", progress: Quiet | None = None, wait: float | None = None
    ) -> Index:
        """A new index in a new or empty folder, or the one that is there."""
        with format_errors():
            place = as_path(path, "an index")
            store = Store.create(place) if vacant(place) else Store.open(place)
            return cls(store, device, progress, wait)

    def close(self) -> None:
        """Let go of what is loaded; the index can be asked nothing more."""
        self.closed = True
        self._loaded.warm.forget()

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<instsearch index {self.path}{' (closed)' if self.closed else ''}>"

    # -- what it holds --------------------------------------------------------------------------------

    @opened
    def __len__(self) -> int:
        """How many images there are."""
        return int(self._loaded.store.images.alive().sum())

    @property
    @opened
    def images(self) -> list[str]:
        """The names of the images."""
        names = self._loaded.names
        names.refresh()
        return [names.of(record) for _, record in names.live()]

    @opened
    def path_of(self, image: Anywhere) -> Path:
        """Where an image lies that is called so, as hits and tables have it."""
        return self._loaded.store.images.path(self._loaded.names.find(as_path(image, "an image"))[0])

    @property
    @opened
    def pipelines(self) -> dict[str, Pipeline]:
        """The pipelines that were run, by name."""
        return {record.pipeline.name: record.pipeline for record in records.recorded(self._loaded.store)}

    @property
    @opened
    def last(self) -> str | None:
        """The name of the pipeline that was run last, which is asked where none is named; "a+b" of several."""
        return SEPARATOR.join(record.pipeline.name for record in records.together(self._loaded.store)) or None

    @opened
    def pipelines_of(self, pipeline: str | None = None) -> list[str | None]:
        """The names of the pipelines that a name stands for: "a+b" for two; None: the last."""
        return names_of(self._loaded.warm.meant(pipeline))

    @opened
    def info(self) -> dict[str, Any]:
        """What `instsearch info --json` prints."""
        return upkeep.facts(self._loaded.store)

    # -- making it ------------------------------------------------------------------------------------

    @opened
    def index(
        self,
        images: Anywhere | Sequence[Anywhere] = (),
        *,
        name: str | None = None,
        pipeline: str | None = None,
        keep_features: bool | None = None,
        refit: bool = False,
        strict: bool = False,
        max_pixels: int = MAX_PIXELS,
        recheck: bool = False,
        memory: str = "",
        engine: str = LOCAL,
        workers: int | None = None,
        gpus_a_worker: float = 0.0,
        through: str = "",
        **choice: Any,
    ) -> Indexed:
        """Take in photographs, files or folders, and make every layer of the pipeline that is missing.

        ``memory`` is for decoding, "2G" say ("": a quarter of what is free); ``recheck`` reads every file again.
        It starts from a recorded ``pipeline`` by name (None: the last), unless a preset or another extractor is chosen.
        ``engine`` "ray", or "ray://host:10001", has so many ``workers`` make the layers of photographs, which come
        ``through`` the storage of a URL where they do not see the index's folder.
        Of a preset of several pipelines the other choices are for the last of them.
        """
        crew = workers_of(engine, workers, gpus_a_worker, memory, through)
        selection, how = chosen(choice), How(self.device, strict, max_pixels, recheck, self.progress, crew)
        with self._locked() as store, decoding_within(memory):
            starts = self._starts(store, pipeline, selection)
            taken = (store, self._registry, listed(images))
            if len(starts) == 1:
                (one,) = starts
                return index_images(*taken, one.base, one.choice, how, name, keep_features, refit)
            if name:
                raise UsageError(f"--name is of one pipeline: these are {len(starts)}, each under its own")
            return index_each(*taken, starts, how, keep_features, refit)

    def _starts(self, store: Store, name: str | None, choice: Choice) -> list[Start]:
        """What the pipelines are made from that a run makes: several where they are asked as one."""
        base = self._base(store, name)
        several = records.together(store) if name is None and base and choice == Choice() else []
        if len(several) > 1:
            return [Start(record.pipeline) for record in several]
        return [Start(base, each) for each in of_each(choice, self._registry)]

    def _base(self, store: Store, name: str | None) -> Pipeline | None:
        """The recorded pipeline of a name (None: the last), which a run starts from; a damaged last one is none."""
        try:
            record = records.last(store, name)
        except records.RecordError as error:
            if name is not None:
                raise
            self.progress.say(f"warning: {error}")
            return None
        if name is None and (note := records.stand_in(store)):
            self.progress.say(f"warning: {note}")
        return record.pipeline if record else None

    @opened
    def add(
        self,
        images: Anywhere | Sequence[Anywhere],
        *,
        pipeline: str | None = None,
        strict: bool = False,
        max_pixels: int = MAX_PIXELS,
        recheck: bool = False,
        memory: str = "",
        engine: str = LOCAL,
        workers: int | None = None,
        gpus_a_worker: float = 0.0,
        through: str = "",
    ) -> Indexed:
        """Take in more photographs with the pipeline that made the index, or its default one if there is none."""
        crew = workers_of(engine, workers, gpus_a_worker, memory, through)
        how = How(self.device, strict, max_pixels, recheck, self.progress, crew)
        with self._locked() as store, decoding_within(memory):
            if pipeline is None:
                records.last(store)  # a damaged one is not replaced by a default one
            starts = self._starts(store, pipeline, Choice())
            return index_each(store, self._registry, listed(images), starts, how)

    @opened
    def extract(
        self,
        images: Anywhere | Sequence[Anywhere],
        *,
        strict: bool = False,
        max_pixels: int = MAX_PIXELS,
        recheck: bool = False,
        memory: str = "",
        engine: str = LOCAL,
        workers: int | None = None,
        gpus_a_worker: float = 0.0,
        through: str = "",
        **choice: Any,
    ) -> Indexed:
        """Take in photographs and keep their features."""
        crew = workers_of(engine, workers, gpus_a_worker, memory, through)
        selection, how = chosen(choice), How(self.device, strict, max_pixels, recheck, self.progress, crew)
        with self._locked() as store, decoding_within(memory):
            return extract_images(store, self._registry, listed(images), selection, how)

    @opened
    def sync(
        self,
        folders: Anywhere | Sequence[Anywhere] = (),
        *,
        dry_run: bool = False,
        max_remove: str | int | None = None,
        pipeline: str | None = None,
        strict: bool = False,
        max_pixels: int = MAX_PIXELS,
        recheck: bool = False,
        memory: str = "",
    ) -> Synced:
        """Bring the index to what its folders hold now, or some: add, remove, rename and replace, in one go.

        A folder that is not there, or empty, is offline, and its images stay. Where more images would be removed than
        ``max_remove`` allows (a count, or "10%" of all; None: a tenth, and ten in any case) nothing is done.
        """
        how = How(self.device, strict, max_pixels, recheck, self.progress)
        locked = contextlib.nullcontext(self._loaded.store) if dry_run else self._locked()
        with locked as store, decoding_within(memory):
            plan = Plan(store, listed(folders), how)
            if dry_run:
                return plan.preview()
            return plan.carry_out(self._registry, self._starts(store, pipeline, Choice()), max_remove)

    @opened
    def remove(
        self, *images: Anywhere, missing: bool = False, max_remove: str | int | None = None
    ) -> tuple[int, int]:
        """Take images out of the index, by file, folder, name or pattern; returns how many, and how many are left."""
        with self._locked() as store:
            paths = [as_path(image, "an image") for image in images]
            return upkeep.remove_images(store, paths, missing, max_remove)

    @opened
    def restore(self, *images: Anywhere, everything: bool = False) -> Restored:
        """Bring back images that were removed, by file, folder, name or pattern, or all; nothing is computed again."""
        with self._locked() as store:
            return restore(store, [as_path(image, "an image") for image in images], everything)

    @opened
    def relocate(self, old: Anywhere, new: Anywhere) -> tuple[str, str]:
        """The photographs under ``old`` now lie under ``new``."""
        with self._locked() as store:
            return upkeep.relocate(store, as_path(old, "a folder"), as_path(new, "a folder"))

    @opened
    def gc(
        self, *, dry_run: bool = False, forget: Sequence[str] = (), cache: bool = False
    ) -> list[Path | str]:
        """Remove what no recorded pipeline uses; returns what was, or would be, removed: a path, or a copy's name."""
        with contextlib.nullcontext(self._loaded.store) if dry_run else self._locked() as store:
            self._loaded.warm.forget()
            say = self.progress.say
            return upkeep.sweep(store, self._registry, dry_run, forget, cache, say)

    @opened
    def verify(self, *, mirror: bool = False) -> list[Problem]:
        """Read every byte; returns what is damaged. ``mirror``: compare copies of codes that are kept elsewhere, too.

        Raises UsageError where no recorded pipeline asks such a copy.
        """
        try:
            copies = (self._registry, self.device) if mirror else None
            return verify(self._loaded.store, self.progress, copies)
        finally:
            self.progress.close()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[Store]:
        """The files of the index, which nobody else writes to."""
        patient = contextlib.nullcontext() if self.wait is None else waiting(self.wait, self.progress.say)
        with self._writing, patient, (loaded := self._loaded).store.lock():
            if not loaded.there:  # while it was waited for
                raise replaced(self.path)
            yield loaded.store

    # -- asking it ------------------------------------------------------------------------------------

    @opened
    def query(
        self,
        picture: Picture,
        box: Sequence[float] | Sequence[Sequence[float]] | None = None,
        k: int = 20,
        *,
        also: Sequence[Any] = (),
        against: Sequence[Any] = (),
        pipeline: str | None = None,
        per_image: int = 1,
        min_score: float | None = None,
        **choice: Any,
    ) -> Answer:
        """The photographs that show what is in a box (x, y, width, height) of a picture, best first, and where.

        picture: a path, a picture of Pillow's or an array u8[H, W, 3]; without a box all of it is asked for. Several
        boxes, and pictures or (picture, box) pairs in ``also``, are views of one object: of each photograph the best
        counts. What fits some of ``against`` better, which is given likewise, is no hit; what fits it less well, but
        does, counts less where scores are probabilities.
        ``pipeline`` "a+b" asks two pipelines as one.
        """
        question = Question(picture, box, also, against)
        return self._loaded.warm.ask(question, pipeline, Wish(k, per_image, min_score), chosen(choice))

    def answers(
        self, picture: Any, box: Any = None, k: int = 20, **wishes: Any
    ) -> Generator[Answer, None, None]:
        """What :meth:`query` gives, as it comes: first of the searcher, then of each reranker, at last the answer.

        All but the last have a ``step``, the component's name, and scores that only order. While they come, no other
        question is answered by the pipeline: take them all, or close the iterator.
        """
        question, pipeline, wish, choice = asked_for(picture, box, k, wishes)
        warm = self._warm
        with lasting(self._loaded):
            yield from warm.answers(question, pipeline, wish, chosen(choice))

    @opened
    def query_many(
        self,
        questions: Iterable[Any],
        k: int = 20,
        *,
        pipeline: str | None = None,
        per_image: int = 1,
        min_score: float | None = None,
        **choice: Any,
    ) -> list[Answer]:
        """The answer to each question, by one engine, several searched at once.

        A question is a picture, a (picture, box) pair, or a dict of ``picture``, ``box``, ``also`` and ``against``.
        """
        wishes = {"pipeline": pipeline, "per_image": per_image, "min_score": min_score, **choice}
        return together.query_many([self], questions, k, **wishes)

    @opened
    def query_each(
        self, questions: Sequence[Question], wish: Wish, pipeline: str | None = None, **choice: Any
    ) -> list[Answer | InstsearchError]:
        """The answers to some questions, searched at once; what is wrong with one of them is in its place."""
        return self._loaded.warm.ask_each(questions, pipeline, wish, chosen(choice))

    @opened
    def engine(self, pipeline: str | None = None, **choice: Any) -> Engine:
        """The engine that answers questions to a pipeline."""
        return self._loaded.warm.engine(pipeline, chosen(choice))[0]

    @opened
    def engines(self, pipeline: str | None = None, **choice: Any) -> list[Engine]:
        """The engines of the pipelines that a name stands for, "a+b" for two that are asked as one."""
        return self._loaded.warm.engines(pipeline, chosen(choice))
