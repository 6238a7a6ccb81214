"""A pipeline made real: its components, built, and the identity of every layer they make."""

from __future__ import annotations

import functools
import json
import re
import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from instsearch_cli.engine.pipeline import Stage
from instsearch_cli.engine.stages import FEATURES, GRID, IMAGE, MAPPED, TABLE
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.options import absolute_files, as_toml, config_for, late, make_config
from instsearch_formats import fingerprint
from instsearch_formats.encodings import ENCODINGS

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch

    from instsearch_cli.engine.pipeline import Pipeline
    from instsearch_cli.engine.registry import Offer, Registry
    from instsearch_cli.engine.stages import Row

Identity = dict[str, Any]
LEARNING = ("weighting", "detector", "encoder", "searcher")  #: the stages whose components may have a ``fit``


DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


def check_device(name: str) -> None:
    """Raises UsageError for what is no name of a device; whether it is there is seen when a component needs one."""
    if not DEVICE.fullmatch(name):
        raise UsageError(f"--device is auto, cpu or cuda[:n], not '{name}'")


def pick_device(name: str) -> torch.device:
    """ "auto", "cpu", "cuda" or "cuda:n". Raises UsageError for what this machine has not got."""
    import torch

    check_device(name)

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"--device {name}: torch {torch.__version__} sees {torch.cuda.device_count()} GPUs here"
        )
    return device


@dataclass(frozen=True)
class Part:
    """One built component and where it came from; ``lock`` is for one that does not work in several threads at once.

    device: what it was built with, None for one that computes with numpy alone
    """

    stage: str
    offer: Offer
    config: Any
    device: Any
    component: Any
    lock: threading.RLock = field(default_factory=threading.RLock, compare=False)

    def __str__(self) -> str:
        """ "weighting 'x' of some-package 1.2", for messages."""
        return f"{self.stage} '{self.name}' of {self.offer.distribution} {self.offer.version}"

    @property
    def name(self) -> str:
        return self.offer.spec.name

    def anew(self) -> Any:
        """Another component with the same options."""
        return type(self.component)(self.config, self.device)

    @property
    def fits(self) -> bool:
        return bool(self.component.fits)

    @property
    def needs(self) -> tuple[str, ...]:
        return self.offer.spec.needs

    @property
    def fit_needs(self) -> tuple[str, ...]:
        """The layers that its fit reads."""
        read: tuple[str, ...] | None = self.component.fit_needs
        return self.needs if read is None else read

    def typed(self, stage: Stage) -> Stage:
        """The stage with the values that its options came to, as a file has them."""
        return Stage(stage.name, {n: as_toml(vars(self.config)[n.replace("-", "_")]) for n in stage.options})

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """What beside the options decides the output: sha256 of weights, say; and options younger than the layers."""
        return {**self.component.identity(), **late(self.config)}

    def identity(self, kind: str, encoding: str, rank: str, inputs: dict[str, str]) -> Identity:
        """What a layer's fingerprint is taken of."""
        spec = self.offer.spec
        identity: Identity = {
            "kind": kind,
            "encoding": encoding,
            "encoding-version": ENCODINGS[encoding].version,
            "plugin": self.offer.plugin,
            "plugin-version": spec.version,
            "config": config_for(self.config, rank),
            "inputs": inputs,
        }
        if self.facts:
            identity["facts"] = self.facts
        return json.loads(json.dumps(identity))  # type: ignore[no-any-return]


class Assembly:
    """The components of a pipeline and the identities of its layers, as the stage table has them.

    Layers are named after their fingerprints: {kind, encoding and version, plugin and version, config,
    fingerprints of the inputs}.
    """

    def __init__(self, pipeline: Pipeline, registry: Registry, device: torch.device | str) -> None:
        self.pipeline, self.registry, self._device = pipeline, registry, device
        if isinstance(device, str):
            check_device(device)
        self.stages: dict[str, Part] = {}
        for name, stage in pipeline.stages().items():
            if name != "searcher":
                self.stages[name] = self._build(name, stage)
        if self.encoder is not None:
            self.stages["searcher"] = self._searcher(self.encoder)
        self.identity = functools.cache(self._identity)
        self.model_identity = functools.cache(self._model_identity)
        self.reads = functools.cache(self._reads)
        self.rerankers = [self._build("rerank", stage) for stage in pipeline.rerank]
        self.pipeline = self._typed()
        self._check_needs()

    @functools.cached_property
    def device(self) -> torch.device:
        """Where tensors are. Raises UsageError for what this machine has not got."""
        return pick_device(self._device) if isinstance(self._device, str) else self._device

    @property
    def asked_device(self) -> str:
        """The device as it was asked for, "auto" say: another machine has its own."""
        return str(self._device)

    @property
    def extractor(self) -> Part:
        return self.stages["extractor"]

    @property
    def weighting(self) -> Part | None:
        return self.stages.get("weighting")

    @property
    def detector(self) -> Part | None:
        return self.stages.get("detector")

    @property
    def encoder(self) -> Part | None:
        return self.stages.get("encoder")

    @property
    def searcher(self) -> Part | None:
        return self.stages.get("searcher")

    def _searcher(self, encoder: Part) -> Part:
        codes = encoder.component.codes
        stage = self.pipeline.searcher or Stage(self.registry.default("searcher", codes))
        part = self._build("searcher", stage)
        accepts = part.component.accepts
        if codes not in accepts:
            raise UsageError(
                f"searcher '{part.name}' reads {' or '.join(accepts)} codes; encoder '{encoder.name}' makes {codes}"
            )
        return part

    def _build(self, kind: str, stage: Stage) -> Part:
        offer = self.registry.get(kind, stage.name)
        cls = offer.load()
        prefix = f"rerank.{stage.name}" if kind == "rerank" else kind
        config = absolute_files(make_config(cls, stage.options, prefix))
        device = self.device if cls.on_device else None
        part = Part(kind, offer, config, device, cls(config, device))
        if kind not in LEARNING and part.fits:
            raise UsageError(
                f"{part} has a fit, which nobody calls: only a {', '.join(LEARNING[:-1])} or {LEARNING[-1]} learns"
            )
        return part

    def _typed(self) -> Pipeline:
        """The pipeline with its options as numbers and truth values, not as the text of a flag."""
        stages: dict[str, Any] = {
            name: self.stages[name].typed(stage)
            for name, stage in self.pipeline.stages().items()
            if name in self.stages
        }
        rerank = tuple(p.typed(s) for p, s in zip(self.rerankers, self.pipeline.rerank, strict=True))
        return replace(self.pipeline, rerank=rerank, **stages)

    def _check_needs(self) -> None:
        """Raises UsageError where a component declares a layer that no other makes, or two read each other's.

        And where a reranker does not understand the extractor's features.
        """
        for reranker in self.rerankers:
            if (some := reranker.component.extractors) and self.extractor.name not in some:
                raise UsageError(
                    f"reranker '{reranker.name}' understands what extractor {' or '.join(some)} makes, not "
                    f"'{self.extractor.name}'"
                )
        for row in MAPPED:
            part = self.stages.get(row.stage)
            for need in set(row.declared).intersection(part.needs if part else ()):
                if (other := TABLE.get(need)) is None:
                    continue
                maker = self.stages.get(other.stage)
                if maker is None:
                    raise UsageError(
                        f"{row.stage} '{part and part.name}' reads {need}: name a {other.stage} too"
                    )
                if row.kind in set(other.declared).intersection(maker.needs):
                    raise UsageError(
                        f"{row.stage} '{part and part.name}' and {other.stage} '{maker.name}' read each other's "
                        "output: choose another of one"
                    )

    # -- what each layer is -------------------------------------------------------------------------

    @functools.cached_property
    def kinds(self) -> list[str]:
        """The layers that an index run writes, each after those that it is made of, features aside."""
        waiting = [row for row in MAPPED if row.kind != FEATURES and self._encoded(row) is not None]
        kinds: list[str] = []
        while waiting:
            later = {row.kind for row in waiting}
            row = next(row for row in waiting if not later.intersection(self._declared(row)))
            waiting.remove(row)
            kinds.append(row.kind)
        return kinds

    @functools.cached_property
    def learnt(self) -> list[str]:
        """The first layer of each component that learns: one for each model."""
        first = {self.part(kind).stage: kind for kind in reversed(self.kinds)}
        return [kind for kind in self.kinds if kind in first.values() and self.part(kind).fits]

    def part(self, kind: str) -> Part:
        """The component that makes a layer."""
        part = self.stages.get(TABLE[kind].stage)
        if part is None:
            raise InstsearchError(f"the pipeline makes no {kind}: name an encoder and run `instsearch index`")
        return part

    def makes(self, kind: str) -> bool:
        """Whether there is such a layer."""
        return kind == FEATURES or kind in self.kinds

    def encoding(self, kind: str) -> str:
        """How a layer is stored."""
        return str(TABLE[kind].encoded(self.part(kind).component))

    def _encoded(self, row: Row) -> str | None:
        part = self.stages.get(row.stage)
        return None if part is None else row.encoded(part.component)

    def _declared(self, row: Row) -> tuple[str, ...]:
        needs = self.stages[row.stage].needs
        return tuple(kind for kind in row.declared if kind in needs)

    def _reads(self, kind: str) -> tuple[str, ...]:
        """What a layer is made of: kinds of layers, IMAGE, and GRID where features do not bring it."""
        row, needs = TABLE[kind], self.part(kind).needs
        found: list[str] = []
        for read in row.reads:
            found += [read] if read == IMAGE or self.makes(read) else TABLE[read].reads
        found += self._declared(row)
        found += [read for read in row.if_made if read in needs and self.makes(read)]
        if row.on_grid and FEATURES not in found:
            found.append(GRID)
        return tuple(found)

    def gridded(self, kind: str) -> bool:
        """Whether the component behind a layer is told the cells of the features."""
        return TABLE[kind].on_grid or GRID in self.reads(kind)

    def _identity(self, kind: str) -> Identity:
        """The identity of a layer, or of the searcher's cache: what its fingerprint is taken of."""
        part = self.part(kind)
        inputs = {} if kind == FEATURES else self._fingerprints(self.reads(kind))
        if part.fits and kind in self.kinds:
            inputs["model"] = fingerprint(self.model_identity(kind))
        return part.identity(kind, self.encoding(kind), TABLE[kind].rank, inputs)

    def _model_identity(self, kind: str) -> Identity:
        """The identity of the fitted model of the component that makes a layer."""
        part, fit = self.part(kind), self.pipeline.fit
        identity = part.identity("models", "arrays", "model", self._fingerprints(part.fit_needs))
        if fit.generation:
            identity["generation"] = fit.generation
        if fit.on and part is self.encoder:
            identity["fit-on"] = fit.digest
        return identity

    def _fingerprints(self, reads: Iterable[str]) -> dict[str, str]:
        """Those of what is read; pictures and cells are as the extractor has them, which features and cells name."""
        inputs = [read for read in reads if read in (IMAGE, GRID) or self.makes(read)]
        named = {FEATURES, GRID}.intersection(inputs)
        return {
            read: self.fingerprint(FEATURES if read in (IMAGE, GRID) else read)
            for read in inputs
            if read != IMAGE or not named
        }

    def fingerprint(self, kind: str) -> str:
        return fingerprint(self.identity(kind))
