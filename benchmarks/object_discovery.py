"""What the options of object discovery do to mAP, one at a time from the defaults, where the paper leaves them open.

    python benchmarks/object_discovery.py --data DIR --weights FILE --keep-features   # every sweep below
    python benchmarks/object_discovery.py --data DIR --weights FILE --only weighting.a
    python benchmarks/object_discovery.py --data DIR --weights FILE --only detector.sigma --values 1,2,3

Pipelines are the preset, os-egm, asked by diffusion instead of query expansion. A star marks the
default. All share one index, kept in --index: what lies left of an option is made once, features too with
--keep-features (about 0.1 MB an image).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arguments import Parser
from instsearch_cli.engine.pipeline import Pipeline, load_preset
from instsearch_cli.engine.registry import load_registry
from instsearch_cli.errors import InstsearchError
from instsearch_cli.measure.datasets import load_dataset, measure
from instsearch_cli.measure.reproduce import addressed
from instsearch_cli.options import make_config
from instsearch_cli.progress import make_progress

if TYPE_CHECKING:
    from instsearch_cli.engine.registry import Registry

SWEEPS: dict[str, tuple[Any, ...]] = {
    "weighting.a": (3, 5, 7, 9),  # cells of a patch
    "weighting.patch-k": (10, 50, 200),  # k of eq. 14
    "weighting.k": (20, 50, 200),  # k of the graph
    "weighting.beta": (1, 3),
    "weighting.faint": (0, 0.1, 0.2, 0.4),
    "weighting.exclude-self": (False, True),
    "weighting.dims": (0, 64, 128, 256),
    "detector.rho": (1, 1.5, 2, 3),
    "detector.sigma": (2, 10, 20, 40, 60),
    "detector.tau-o": (0.5, 0.55, 0.7),
    "detector.box-scale": (1.7320508075688772, 2.5, 3),
    "detector.weighted": (True, False),
    "detector.inner-levels": (0, 2, 3),  # 2: the triangle; 0: none
    "encoder.whiten": ("regions", "sum", "both"),
    "encoder.dims": (0, 64, 128, 256),
    "encoder.weighted": (True, False),
    "encoder.query-levels": (0, 3),  # 0: the paper's, the box alone
    "searcher.k": (15, 25, 50, 100),
}


def typed(known: Registry, pipeline: Pipeline, option: str, *value: Any) -> Any:
    """A value as the option takes it; what the option is if none is given."""
    kind, stage, name = addressed(pipeline, option)
    if stage is None:
        raise InstsearchError(f"--only {option}: the pipeline has no {kind}")
    name = name.replace("-", "_")
    options = {**stage.options, **({name: value[0]} if value else {})}
    config = make_config(known.get(kind, stage.name).load(), options, kind)
    if not hasattr(config, name):
        raise InstsearchError(f"--only {option}: {kind} '{stage.name}' has no such option")
    return getattr(config, name)


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--only", action="append", metavar="OPTION", help="sweep this option; repeatable")
    parser.add_argument("--values", help="values of the one option, as 1,2,5")
    parser.add_data("manifest.json")
    parser.add_argument("--manifest", default="manifest.json", help="of --data")
    parser.add_weights()
    parser.add_argument("--index", type=Path, default=Path("out/object-discovery"))
    parser.add_argument("--preset", default="os-egm")
    parser.add_argument("--searcher", default="diffusion", help="faiss: without diffusion")
    parser.add_argument("--set", action="append", default=[], metavar="STAGE.OPTION=VALUE", dest="settings")
    parser.add_argument("--keep-features", action="store_true")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quiet", action="store_true")
    args = parser.parse_args()
    if args.values and len(args.only or ()) != 1:
        parser.error("--values are of one option: name it with --only")
    known, progress = load_registry(), make_progress(args.quiet)
    base = load_preset(args.preset, known).with_rerank(()).with_stage("searcher", args.searcher)
    base = replace(
        base.with_options([f"extractor.weights={args.weights.resolve()}", *args.settings]),
        keep_features=args.keep_features,
    )
    dataset = load_dataset(known, str(args.data / args.manifest), None)
    measured: dict[str, tuple[float, float, float]] = {}

    def result(pipeline: Pipeline) -> tuple[float, float, float]:
        """mAP, milliseconds a query, seconds to index; the defaults are measured once."""
        key = replace(pipeline, name="").to_toml()
        if key not in measured:
            found = measure(known, dataset, args.index, lambda last: pipeline, progress, args.device)
            timing = found.evaluation.timing
            measured[key] = found.evaluation.metrics["mAP"], 1000 * timing["search"], timing["indexing"]
        return measured[key]

    print(f"{'option':<24} {'value':>12} {'mAP':>7} {'ms/query':>9} {'indexing s':>11}")
    for option in args.only or SWEEPS:
        values = tuple(args.values.split(",")) if args.values else SWEEPS.get(option)
        if values is None:
            parser.error(f"--only {option}: say over which --values")
        default = typed(known, base, option)
        for value in (typed(known, base, option, value) for value in values):
            ours = value == default
            pipeline = base if ours else base.with_options([f"{option}={value}"])
            name = base.name if ours else f"{base.name}-{option}-{value}"
            mean, milliseconds, seconds = result(replace(pipeline, name=name))
            shown = f"{value:.4g}" if isinstance(value, float) else str(value)
            print(
                f"{option:<24} {shown + ('*' if ours else ' '):>12} {mean:>7.3f} {milliseconds:>9.1f} {seconds:>11.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
