"""Several pipelines of one index asked as one: keypoints for what is textured, vectors for what is not.

Evidence of both is brought to one scale, and added, as if they were independent of each other. How much vectors say of
a query is told from the lists alone, as in query-adaptive late fusion (Zheng et al., CVPR 2015), though otherwise. The
numbers are chosen on INSTRE and on groceries.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from instsearch_cli.data import Hits, Vectors
from instsearch_cli.engine.pipeline import SEPARATOR, as_name
from instsearch_cli.engine.query import Timing
from instsearch_cli.engine.stages import CODES
from instsearch_cli.engine.tensors import inference
from instsearch_cli.errors import InstsearchError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from instsearch_cli.data import Box, Query
    from instsearch_cli.engine.answer import Answer, Hit, Wish
    from instsearch_cli.engine.choosing import Choice
    from instsearch_cli.engine.collection import Collection
    from instsearch_cli.engine.query import Engine
    from instsearch_cli.images import Photograph

DEEP = 1000  #: hits of each pipeline that are compared
USUAL = 10  #: the hits after the first tenth say what the score of an image is that does not show the object
SPREAD = 95  #: percentile of these that is 1 above them
WEIGHT = 2.0  #: of evidence that is no log-odds, beside evidence that is
SURE = 7.0  #: evidence, as log-odds above the usual, that is sure
SEEN = 0.6  #: share of its largest evidence with which a list sees what is sure, where it counts in full
MOST = 6.0  #: as vectors never are surer than keypoints that agree
WIDENED = 10  #: images found together, at most, whose codes are added to a query of vectors
FEW, LITTLE = 20, 3.0  #: hits at least from which that can be told; evidence of the first of fewer


class List(NamedTuple):
    """The hits of one pipeline, best first: images of some names, scores f[n], boxes f[n, 4], NaN where unknown."""

    images: Sequence[Any]
    scores: np.ndarray
    boxes: np.ndarray
    probability: bool


class Guide(NamedTuple):
    """Images that are found together for sure, and what each weighs, f64[n], 1 at most."""

    images: Sequence[Any]
    weights: np.ndarray


class Joint(NamedTuple):
    """Hits in one list: images, their scores f64[n], and for each the list and the place in it that has its box."""

    images: list[Any]
    scores: np.ndarray
    source: list[tuple[int, int]]

    @property
    def guide(self) -> Guide:
        """Those of the first WIDENED images that are sure; they weigh as their scores beside the first one's."""
        sure = self.scores[:WIDENED][self.scores[:WIDENED] > SURE]
        return Guide(self.images[: len(sure)], sure / max(sure.max(initial=0), 1e-9))


def evidence(scores: np.ndarray, probability: bool) -> np.ndarray:
    """By how much scores f[n], the best first, are above those of images that do not show the object; 0 at least.

    probabilities p: log(p / (1 - p)) - b;  others: min((s - b) / d, MOST)

    b: the median, and d: by how much the 95th percentile is above it, of the first DEEP hits but for the first tenth.
    Of fewer than FEW hits b is the last score, and the first counts LITTLE.
    """
    s = np.asarray(scores, np.float64)
    if not len(s):
        return s
    if probability:
        p = np.clip(s, 1e-7, 1 - 1e-7)
        s = np.log(p / (1 - p))
    first = s[:DEEP]
    enough = len(s) >= FEW
    rest = first[len(first) // USUAL :]
    b = float(np.median(rest) if enough else s[-1])
    if probability:
        return np.maximum(s - b, 0)
    d = float(np.percentile(rest, SPREAD)) - b if enough else (s[0] - b) / LITTLE
    return np.clip((s - b) / max(d, 1e-9), 0, MOST)


def joint(lists: Sequence[List]) -> Joint:
    """score(i) = sum_e w_e t_e(i),  t_e the evidence of list e, 0 of an image that it has not.

    w_e = 1 for probabilities, WEIGHT a^2 for others,  a = min(1, mean_i t_e(i) / (SEEN max_i t_e(i)))

    the mean over the images that probabilities are SURE of, where these are two or more; else a = 1. What vectors say
    counts as far as they see what is sure. A hit's box is that of the list that says most, of those that have one.
    """
    found = [evidence(each.scores, each.probability) for each in lists]
    sure = {
        image
        for each, parts in zip(lists, found, strict=True)
        if each.probability
        for image in (each.images[i] for i in np.flatnonzero(parts > SURE).tolist())
    }
    total: dict[Any, float] = {}
    best: dict[Any, tuple[float, int, int]] = {}
    for e, (each, parts) in enumerate(zip(lists, found, strict=True)):
        if not each.probability:
            parts = parts * WEIGHT * _agreement(each, parts, sure) ** 2
        boxed = np.atleast_1d(np.isfinite(each.boxes).all(axis=1))
        for place, (image, part) in enumerate(zip(each.images, parts.tolist(), strict=True)):
            total[image] = total.get(image, 0.0) + part
            said = part if boxed[place] else -1.0
            if image not in best or said > best[image][0]:
                best[image] = said, e, place
    images = sorted(total, key=lambda image: -total[image])
    return Joint(images, np.array([total[i] for i in images]), [best[i][1:] for i in images])


def _agreement(each: List, parts: np.ndarray, sure: set[Any]) -> float:
    """By how much a list sees what is sure, 0 to 1; 1 where too little is."""
    top = float(parts.max(initial=0))
    if len(sure) < 2 or top <= 0:
        return 1.0
    seen: float = sum(part for image, part in zip(each.images, parts.tolist(), strict=True) if image in sure)
    return min(1.0, seen / len(sure) / (SEEN * top))


@inference()
def widened(query: Query, guide: Guide, data: Collection) -> Query:
    """A query of vectors with what was found together; one of sparse codes as it is.

    q' = L2(q + sum_j w_j x_j),  x_j the code of image j that is nearest to q
    """
    if not isinstance(query.codes, Vectors):
        return query
    q = query.codes.vectors
    total, weight = q.clone(), dict(zip(guide.images, guide.weights.tolist(), strict=True))
    for inputs in data.inputs((CODES,), guide.images):
        x = cast("Vectors", inputs.codes).vectors
        if len(x):
            total += weight[inputs.row] * x[(q @ x.T).argmax(dim=1)]
    total /= total.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return replace(query, codes=Vectors(total, query.codes.boxes))


@dataclass(frozen=True)
class JointQuery:
    """What is asked of several engines: a query for each, None where it has nothing to ask with."""

    queries: tuple[Query | None, ...]
    exclude: frozenset[int]


class Ensemble:
    """Engines of one index that are asked as one, as far as measuring goes."""

    min_score = None
    probabilities = False

    def __init__(self, engines: Sequence[Engine]) -> None:
        self.engines, self.data = engines, engines[0].data
        self.timing = Timing()

    @property
    def timing(self) -> Timing:
        """Seconds spent by all of them."""
        return self.engines[0].timing

    @timing.setter
    def timing(self, timing: Timing) -> None:
        for engine in self.engines:
            engine.timing = timing

    def query(self, id: str, picture: Photograph, box: Box | None, exclude: frozenset[int]) -> JointQuery:
        """The picture as each encodes it. Raises InstsearchError where none can."""
        queries: list[Query | None] = []
        wrong: list[InstsearchError] = []
        for engine in self.engines:
            try:
                queries.append(engine.query(id, picture, box, exclude))
            except InstsearchError as error:
                queries.append(None)
                wrong.append(error)
        if len(wrong) == len(queries):
            raise wrong[0]
        return JointQuery(tuple(queries), exclude)

    def search(self, queries: Sequence[JointQuery], k: int) -> Hits:
        """The first k hits of each query."""
        return Hits.stack([self._ranked(query, max(k, DEEP)) for query in queries], k)

    def _ranked(self, query: JointQuery, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        parts = [
            (engine, replace(each, exclude=query.exclude))
            for engine, each in zip(self.engines, query.queries, strict=True)
            if each is not None
        ]
        lists = [_listed(engine, each, k) for engine, each in parts]
        if len(lists) > 1 and (guide := joint(lists).guide).images:
            lists = [
                each if each.probability else _listed(engine, widened(part, guide, engine.data), k)
                for each, (engine, part) in zip(lists, parts, strict=True)
            ]
        found = joint(lists)
        boxes = [lists[e].boxes[place] for e, place in found.source]
        return np.array(found.images, np.int64), found.scores, np.array(boxes, np.float32).reshape(-1, 4)


def _listed(engine: Engine, query: Query, k: int) -> List:
    hits = engine.search([query], k)
    n = hits.valid(0)
    return List(hits.images[0, :n].tolist(), hits.scores[0, :n], hits.boxes[0, :n], engine.probabilities)


def names_of(name: str | None) -> list[str | None]:
    """The pipelines that a name stands for: "a+b" for two. Raises UsageError for one that is there twice."""
    names = [None] if name is None else as_name(name).split(SEPARATOR)
    if len(set(names)) < len(names):
        raise UsageError(f"--pipeline {name}: a pipeline is there twice")
    return list(names)


def chosen_of(name: str | None, choice: Choice) -> list[str | None]:
    """As :func:`names_of`. Raises UsageError, too, where a choice is to change one of several pipelines."""
    names = names_of(name)
    if len(names) > 1 and choice != type(choice)():
        raise UsageError(
            "several pipelines are asked as they were recorded: leave out what changes one (--rerank, --set, "
            "--refine, --weights), or ask one of them"
        )
    return names


def deep(wish: Wish) -> Wish:
    """What is wished of each pipeline, for an answer of all. Raises UsageError for what they cannot give together."""
    if wish.per_image != 1:
        raise UsageError("several pipelines together give one hit an image (--per-image): ask one of them")
    return replace(wish, k=max(wish.k, DEEP), min_score=None)


def guide(answers: Iterable[Answer | InstsearchError]) -> Guide | None:
    """What vectors are asked with once more; None where fewer than two pipelines answer, or nothing is sure."""
    some = [answer for answer in answers if not isinstance(answer, InstsearchError)]
    found = joint(_lists(some)).guide if len(some) > 1 else None
    return found if found and found.images else None


def cuts_only(whose: str, least: float) -> str:
    """What a min-score means where scores are no probabilities."""
    return (
        f"scores of {whose} are no probabilities, and what a good one is depends on the picture: {least:g} only cuts "
        "the list there"
    )


def _deciding(answers: Sequence[Answer]) -> Sequence[Answer]:
    """Those that say what the object is not: of probabilities, where there are any."""
    return [answer for answer in answers if answer.probability] or answers


def _refused(answers: Sequence[Answer]) -> frozenset[int]:
    """The rows of images that what the object is not took from any of those that say so."""
    return frozenset[int]().union(*(answer.refused for answer in _deciding(answers)))


def _hits(answers: Sequence[Answer]) -> list[list[Hit]]:
    """Their hits, but for those."""
    refused = _refused(answers)
    return [[hit for hit in answer if hit.row not in refused] for answer in answers]


def _lists(answers: Sequence[Answer]) -> list[List]:
    lists = []
    for answer, hits in zip(answers, _hits(answers), strict=True):
        boxes = [(np.nan,) * 4 if hit.corners is None else hit.corners for hit in hits]
        scores, rows = np.array([hit.score for hit in hits]), [hit.row for hit in hits]
        lists.append(List(rows, scores, np.array(boxes).reshape(-1, 4), answer.probability))
    return lists


def merged(
    answers: Sequence[Answer | InstsearchError], wish: Wish, name: str | None
) -> Answer | InstsearchError:
    """One answer out of those of several pipelines, ``name`` in all; one that cannot be asked this is left out.

    It is said in a caution. Where something is wrong with all, it is what is wrong with the first.
    """
    some = [answer for answer in answers if not isinstance(answer, InstsearchError)]
    wrong = [answer for answer in answers if isinstance(answer, InstsearchError)]
    if not some:
        return wrong[0]
    found, shown = joint(_lists(some)), _hits(some)
    hits = []
    for rank, ((e, place), score) in enumerate(zip(found.source, found.scores.tolist(), strict=True)):
        if rank == wish.k or (wish.min_score is not None and score < wish.min_score):
            break
        hits.append(replace(shown[e][place], rank=rank + 1, score=score))
    cautions = [text for answer in some for text in answer.cautions]
    if wish.min_score is not None:
        cautions.append(cuts_only("several pipelines together", wish.min_score))
    cautions += [f"left out of what is asked together: {error}" for error in wrong]
    return replace(
        some[0],
        hits=tuple(hits),
        near=(),
        settings={"pipeline": str(name)},
        pipeline=str(name),
        seconds=sum(answer.seconds for answer in some),
        min_score=wish.min_score,
        best=max(found.scores, default=None),
        probability=False,
        cautions=tuple(dict.fromkeys(cautions)),
        dropped=max(answer.dropped for answer in _deciding(some)),
        refused=_refused(some),
    )
