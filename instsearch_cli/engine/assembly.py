"""A pipeline made real: its components, built, and the identity of every layer they make."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from instsearch_cli.engine.pipeline import STAGE_NAMES, Stage
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.options import config_for, make_config
from instsearch_formats import fingerprint
from instsearch_formats.encodings import ENCODINGS

if TYPE_CHECKING:
    from instsearch_cli.engine.pipeline import Pipeline
    from instsearch_cli.engine.registry import Offer, Registry

Identity = dict[str, Any]


def pick_device(name: str) -> torch.device:
    """ "auto", "cpu", "cuda" or "cuda:n". Raises UsageError for what this machine has not got."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"--device is auto, cpu or cuda[:n], not '{name}'") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"--device {name}: torch {torch.__version__} sees {torch.cuda.device_count()} GPUs here"
        )
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"--device is auto, cpu or cuda[:n], not '{name}'")
    return device


@dataclass(frozen=True)
class Part:
    """One built component and where it came from."""

    stage: str
    offer: Offer
    config: Any
    component: Any

    @property
    def fits(self) -> bool:
        return hasattr(self.component, "fit")

    @property
    def needs(self) -> tuple[str, ...]:
        return self.offer.spec.needs

    def typed(self, stage: Stage) -> Stage:
        """The stage with the values that its options came to."""
        return Stage(
            stage.name, {name: getattr(self.config, name.replace("-", "_")) for name in stage.options}
        )

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """What beside the options decides the output: sha256 of weights, say."""
        identity = getattr(self.component, "identity", None)
        return dict(identity()) if identity is not None else {}

    def identity(self, kind: str, encoding: str, touches: str, inputs: dict[str, str]) -> Identity:
        """What a layer's fingerprint is taken of."""
        spec = self.offer.spec
        identity: Identity = {
            "kind": kind,
            "encoding": encoding,
            "encoding-version": ENCODINGS[encoding].version,
            "plugin": self.offer.plugin,
            "plugin-version": spec.version,
            "config": config_for(self.config, touches),
            "inputs": inputs,
        }
        if self.facts:
            identity["facts"] = self.facts
        return json.loads(json.dumps(identity))  # type: ignore[no-any-return]


class Assembly:
    """The components of a pipeline and the identities of its layers.

    Layers are named after their fingerprints: {kind, encoding and version, plugin and version, config,
    fingerprints of the inputs}.
    """

    def __init__(self, pipeline: Pipeline, registry: Registry, device: torch.device) -> None:
        self.pipeline, self.device = pipeline, device
        self.extractor = self._build(registry, "extractor", pipeline.extractor)
        self.weighting = self._maybe(registry, "weighting", pipeline.weighting)
        self.detector = self._maybe(registry, "detector", pipeline.detector)
        self.encoder = self._maybe(registry, "encoder", pipeline.encoder)
        self.searcher: Part | None = None
        if self.encoder is not None:
            name = pipeline.searcher or self._default_searcher()
            self.searcher = self._build(registry, "searcher", name)
            accepts = self.searcher.component.accepts
            if self.encoder.component.codes not in accepts:
                raise UsageError(
                    f"searcher '{name.name}' reads {' or '.join(accepts)} codes; encoder "
                    f"'{self.encoder.offer.spec.name}' makes {self.encoder.component.codes}"
                )
        self.rerankers = [self._build(registry, "rerank", stage) for stage in pipeline.rerank]
        self.pipeline = self._typed()
        self._check_needs()

    def _default_searcher(self) -> Stage:
        assert self.encoder is not None
        return Stage("inverted" if self.encoder.component.codes == "csr" else "faiss")

    def _build(self, registry: Registry, kind: str, stage: Stage) -> Part:
        offer = registry.get(kind, stage.name)
        cls = offer.load()
        prefix = f"rerank.{stage.name}" if kind == "rerank" else kind
        config = make_config(cls, stage.options, prefix)
        return Part(kind, offer, config, cls(config, self.device))

    def _typed(self) -> Pipeline:
        """The pipeline with its options as numbers and truth values, not as the text of a flag."""
        stages: dict[str, Any] = {
            name: part.typed(stage)
            for name in STAGE_NAMES
            if (stage := getattr(self.pipeline, name)) is not None
            and (part := getattr(self, name)) is not None
        }
        rerank = tuple(p.typed(s) for p, s in zip(self.rerankers, self.pipeline.rerank, strict=True))
        return replace(self.pipeline, rerank=rerank, **stages)

    def _maybe(self, registry: Registry, kind: str, stage: Stage | None) -> Part | None:
        return None if stage is None else self._build(registry, kind, stage)

    def _check_needs(self) -> None:
        made_by = {"regions": self.detector, "weights": self.weighting}
        for part in filter(None, (self.weighting, self.detector)):
            for need in part.needs:
                if need in made_by and made_by[need] is None:
                    kind = "detector" if need == "regions" else "weighting"
                    raise UsageError(f"{part.stage} '{part.offer.spec.name}' reads {need}: name a {kind} too")
        a, b = self.weighting, self.detector
        if a and b and "regions" in a.needs and "weights" in b.needs:
            raise UsageError(
                f"weighting '{a.offer.spec.name}' and detector '{b.offer.spec.name}' read each other's output: "
                "choose another of one"
            )

    # -- what each layer is -------------------------------------------------------------------------

    @functools.cached_property
    def kinds(self) -> list[str]:
        """The layers that an index run writes, left to right, features aside."""
        kinds = ["regions"] if self.detector else []
        if self.weighting:
            kinds.insert(0 if self.detector and "weights" in self.detector.needs else 1, "weights")
        if self.encoder:
            if self.encoder.component.local is not None:
                kinds.append("local")
            kinds.append("codes")
        return kinds

    def part(self, kind: str) -> Part:
        """The component that makes a layer."""
        part = {
            "features": self.extractor,
            "regions": self.detector,
            "weights": self.weighting,
            "local": self.encoder,
            "codes": self.encoder,
            "search": self.searcher,
            "cache": self.searcher,
        }[kind]
        if part is None:
            raise InstsearchError(f"the pipeline makes no {kind}: name an encoder and run `instsearch index`")
        return part

    def encoding(self, kind: str) -> str:
        """How a layer is stored."""
        fixed = {"regions": "regions", "weights": "weight-map", "search": "arrays", "cache": "arrays"}
        if kind in fixed:
            return fixed[kind]
        return str(getattr(self.part(kind).component, "encoding" if kind == "features" else kind))

    @functools.cache  # noqa: B019 - one assembly a process
    def identity(self, kind: str) -> Identity:
        """The identity of a layer, or of the searcher's cache: what its fingerprint is taken of."""
        part = self.part(kind)
        touches = {"local": "local", "search": "search", "cache": "search"}.get(kind, "codes")
        return part.identity(kind, self.encoding(kind), touches, self._inputs(kind))

    @functools.cache  # noqa: B019
    def model_identity(self, kind: str) -> Identity:
        """The identity of the fitted model of the component that makes a layer."""
        part = self.part(kind)
        needs = part.component.fit_needs if kind in ("local", "codes") else part.needs
        inputs = {need: self.fingerprint(need) for need in needs if need != "image" and self._makes(need)}
        identity = part.identity("models", "arrays", "model", inputs)
        if self.pipeline.generation:
            identity["generation"] = self.pipeline.generation
        if self.pipeline.fit_on and part is self.encoder:
            identity["fit-on"] = self.pipeline.fit_on_digest
        return identity

    def fingerprint(self, kind: str) -> str:
        return fingerprint(self.identity(kind))

    def _makes(self, kind: str) -> bool:
        return kind == "features" or kind in self.kinds

    def _inputs(self, kind: str) -> dict[str, str]:
        part = self.part(kind)
        wanted = {
            "features": (),
            "local": ("features",),
            "codes": ("local" if "local" in self.kinds else "features", "weights", "regions"),
            "search": ("codes",),
        }.get(kind, part.needs)
        inputs = {w: self.fingerprint(w) for w in wanted if w != "image" and self._makes(w)}
        if part.fits and kind not in ("features", "search", "cache"):
            inputs["model"] = fingerprint(self.model_identity(kind))
        return inputs
