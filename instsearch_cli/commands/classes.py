"""`instsearch classes`: what a network takes pictures for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from instsearch_cli.commands import common

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

    from instsearch_cli.engine.registry import Registry

    Boxed = tuple[Path, tuple[float, float, float, float] | None]  # a picture, and x, y, w, h in it


class Ranked(NamedTuple):
    """One of a network's classes among some pictures."""

    number: int
    name: str
    share: float  #: of the pictures, that have it among their most probable
    probability: float  #: mean over the pictures


@click.command("classes")
@click.argument("images", nargs=-1, type=click.Path(path_type=Path))
@click.option("--box", help="x,y,w,h in pixels of the upright picture: what is in it, of one picture.")
@click.option("--dataset", help="What is in the boxes of its queries: a dataset by name, or a MANIFEST.json.")
@click.option("--root", type=click.Path(path_type=Path), help="Where the dataset's images are.")
@click.option(
    "--top", default=64, show_default=True, type=click.IntRange(min=1), help="Most probable classes counted."
)
@click.option(
    "-k", "--classes", "k", type=click.IntRange(min=1), help="Classes to print (default: as many as --top)."
)
@click.option("--extractor", default="squeezenet1_0", show_default=True, help="Network.")
@common.set_option
@common.weights_option
@common.device_option
@click.option(
    "--list", "as_list", is_flag=True, help="Print numbers as --set weighting.classes=... takes them."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@common.quiet_option
def command(images: tuple[Path, ...], **options: Any) -> None:
    """Print the most probable classes of IMAGES, or of a dataset's queries: first those that most pictures have.

    A class counts in a picture where it is among the --top most probable; classes that equally many pictures
    have are in the order of their mean probability. With --list the numbers, for the cam weighting:

    \b
    instsearch index PHOTOS --index DIR --encoder cam --weighting cam \\
        --set weighting.classes=$(instsearch classes --dataset MANIFEST.json --list)
    """
    from instsearch_cli.progress import make_progress

    dataset, box = options["dataset"], options["box"]
    common.usage(bool(images) != bool(dataset), "name pictures, or a --dataset: one of the two")
    common.usage(box is None or len(images) == 1, "--box is of one picture")
    common.usage(not (options["as_list"] and options["as_json"]), "--list and --json exclude each other")
    known = common.registry()
    own = [a for a in options["assignments"] if a.strip().startswith("dataset.")]
    common.usage(bool(dataset) or not own, "--set dataset.OPTION goes with --dataset")
    of = queries(known, dataset, options["root"], own) if dataset else pictures(images, box)
    options["assignments"] = [a for a in options["assignments"] if a not in own]
    progress = make_progress(options["quiet"])
    extractor, chances = build(known, options), []
    progress.start("classifying", len(of), "pictures")
    for path, where in of:
        chances.append(probabilities(extractor, path, where, options["extractor"]))
        progress.advance()
    progress.close()
    names: Sequence[str] = getattr(extractor, "class_names", list)()
    ranked = rank(chances, names, options["top"])[: options["k"] or options["top"]]
    if options["as_list"]:
        click.echo(",".join(str(found.number) for found in ranked))
    elif options["as_json"]:
        classes = [found._asdict() for found in ranked]
        click.echo(json.dumps({"pictures": len(of), "top": options["top"], "classes": classes}))
    else:
        for line in table(ranked, len(of), options["top"]):
            click.echo(line)


def pictures(images: Sequence[Path], box: str | None) -> list[Boxed]:
    """Files, and the box of the only one."""
    from instsearch_cli.boxes import parse_box

    parsed = None if box is None else parse_box(box)
    return [(image, parsed) for image in images]


def queries(known: Registry, name: str, root: Path | None, own: Iterable[str]) -> list[Boxed]:
    """The query pictures of a dataset and their boxes. Raises InstsearchError if there is none."""
    from instsearch_cli.errors import InstsearchError
    from instsearch_cli.measure.datasets import load_dataset

    found: list[Boxed] = []
    dataset = load_dataset(known, name, root, None, own)
    for query in dataset.queries():
        x0, y0, x1, y1 = query.box or (0.0, 0.0, 0.0, 0.0)
        found.append((query.image, (x0, y0, x1 - x0, y1 - y0) if query.box else None))
    if not found:
        raise InstsearchError(f"dataset '{dataset.name}' has no queries")
    return found


def build(known: Registry, options: dict[str, Any]) -> Any:
    """The extractor, with its class logits. Raises UsageError for one that has none."""
    from instsearch_cli.errors import UsageError

    offer = known.get("extractor", options["extractor"])
    if not hasattr(getattr(offer.load(), "Config", None), "logits"):
        raise UsageError(_none(options["extractor"]))
    assignments = [*options["assignments"], "extractor.logits=true"]
    for assignment in assignments:
        mine = assignment.strip().startswith("extractor.")
        common.usage(mine, f"--set {assignment}: only options of the extractor matter here")
    chosen = {"extractor": options["extractor"], "weights": options["weights"], "assignments": assignments}
    pipeline = common.choose_pipeline(known, None, {**chosen, "extract_only": True})
    alone = replace(pipeline, weighting=None, detector=None, encoder=None, searcher=None, rerank=())
    return common.assemble(alone, known, options["device"]).extractor.component


def _none(extractor: str) -> str:
    return f"extractor '{extractor}' predicts no classes: name a network, --extractor squeezenet1_0 say"


def probabilities(
    extractor: Any, path: Path, box: tuple[float, float, float, float] | None, name: str
) -> Tensor:
    """The softmax f32[C] of what is in a box of a picture, as a query with it is classified."""
    import torch

    from instsearch_cli.boxes import clip_box
    from instsearch_cli.errors import InstsearchError, UsageError
    from instsearch_cli.images import BadImage, printable, read_image

    try:
        image = read_image(path, extractor.fit_size, name=str(path))
    except BadImage as error:
        raise InstsearchError(f"{printable(path)}: {error.reason}") from error
    if box is not None:
        image = image.cropped(clip_box(box, image.size))
    with torch.inference_mode():
        logits = extractor.extract([image])[0].logits
    if logits is None:
        raise UsageError(_none(name))
    chances: Tensor = logits.float().softmax(0).cpu()
    return chances


def rank(chances: Sequence[Tensor], names: Sequence[str], top: int) -> list[Ranked]:
    """The classes that are among the ``top`` most probable f32[C] of a picture: most pictures first.

    Of equals the one of higher mean probability, then the lower number, is first. Raises UsageError for more
    classes than there are.
    """
    import torch

    p = torch.stack(list(chances))
    n, C = p.shape
    common.usage(top <= C, f"--top {top:,}: the network tells {C:,} classes apart")
    best = p.sort(dim=1, descending=True, stable=True).indices[:, :top]
    count, mean = best.flatten().bincount(minlength=C).tolist(), p.mean(0).tolist()
    order = sorted((c for c in range(C) if count[c]), key=lambda c: (-count[c], -mean[c], c))
    known = len(names) == C
    return [Ranked(c, names[c] if known else "", count[c] / n, mean[c]) for c in order]


def table(ranked: Sequence[Ranked], n: int, top: int) -> list[str]:
    """The classes in columns, names last; of several pictures with the share that has each."""
    lines = [f"{'class':>5}  " + ("" if n == 1 else f"{'share':>5}  ") + "probability  name"]
    for found in ranked:
        share = "" if n == 1 else f"{found.share:>5.0%}  "
        lines.append(f"{found.number:>5}  {share}{found.probability:>11.4f}  {found.name}".rstrip())
    if n > 1:
        lines.append(f"{n:,} pictures; share: of them, with the class among their {top:,} most probable")
    return lines
