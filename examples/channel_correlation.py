"""How alike the channel weights of a dataset's queries are: figure 2 of Xiang et al., MSCNet, AAAI 2019.

    python examples/channel_correlation.py --dataset oxford5k --root DIR --set extractor.layer=features.29 \\
        --plot fig2.png

The weights of every query's picture, correlated with those of every other. Queries that look for the same images
are of one object and stand together. Prints the mean correlation of two queries of one object and of two objects.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import torch

from instsearch_cli.data import FeatureMap
from instsearch_cli.engine.assembly import pick_device
from instsearch_cli.engine.registry import load_registry
from instsearch_cli.errors import InstsearchError
from instsearch_cli.images import read_image
from instsearch_cli.measure.datasets import load_dataset
from instsearch_cli.options import make_config
from instsearch_cli.progress import make_progress
from instsearch_plugins.numeric.channels import channel_weights
from instsearch_plugins.numeric.mscnet import gram_channel_weights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from instsearch_cli.components import Dataset, QueryRef


def by_object(dataset: Dataset) -> tuple[list[QueryRef], np.ndarray]:
    """The queries, those of one object together, and the number of each one's object i64[Q]."""
    sought: dict[frozenset[str], list[QueryRef]] = {}
    for query in dataset.queries():
        judged = dataset.relevance(query)
        sought.setdefault(judged.good | judged.ok, []).append(query)
    numbers = [i for i, queries in enumerate(sought.values()) for _ in queries]
    return [query for queries in sought.values() for query in queries], np.array(numbers)


def weights_of(extractor: Any, path: Path, kind: str) -> np.ndarray:
    """The channel weights f32[C] of a picture. Raises InstsearchError for an extractor of keypoints."""
    features = extractor.extract([read_image(path, extractor.fit_size, name=str(path))])[0]
    if not isinstance(features, FeatureMap):
        raise InstsearchError("channels are of feature maps: take a network as the extractor")
    X = features.values
    W = gram_channel_weights(X) if kind == "gram-cs" else channel_weights(X, torch.ones_like(X[:1]) > 0)[0]
    return W.cpu().numpy()


def means(R: np.ndarray, objects: np.ndarray) -> tuple[float, float]:
    """The mean correlation of two queries of one object, and of two objects; NaN where there are none."""
    same, other = objects[:, None] == objects, ~np.eye(len(R), dtype=bool)
    one, two = R[same & other], R[~same]
    return float(one.mean()) if len(one) else np.nan, float(two.mean()) if len(two) else np.nan


def draw(R: np.ndarray, title: str, path: Path) -> None:
    """The correlations R f64[Q, Q] as a picture."""
    from matplotlib.figure import Figure

    figure = Figure((6, 5), layout="constrained")
    axes = figure.add_subplot()
    figure.colorbar(axes.imshow(R, cmap="viridis"), label="correlation")
    axes.set(title=title, xlabel="queries, by object", ylabel="queries, by object", xticks=[], yticks=[])
    figure.savefig(path)


@click.command()
@click.option("--dataset", required=True, help="A dataset by name, or a MANIFEST.json.")
@click.option("--root", type=click.Path(path_type=Path), help="Where the dataset's images are.")
@click.option("--extractor", default="vgg16", show_default=True, help="Network.")
@click.option("--set", "assignments", multiple=True, metavar="extractor.OPTION=VALUE", help="Its options.")
@click.option("--channels", type=click.Choice(["gram-cs", "ssw"]), default="gram-cs", show_default=True)
@click.option("--limit", type=click.IntRange(min=2), help="At most as many queries, the first.")
@click.option("--device", default="auto", show_default=True)
@click.option("--plot", type=click.Path(path_type=Path), help="PNG or SVG to write.")
def main(dataset: str, root: Path | None, extractor: str, assignments: Sequence[str], **options: Any) -> None:
    """Correlate the channel weights of a dataset's queries."""
    known = load_registry()
    cls = known.get("extractor", extractor).load()
    values = dict(assignment.removeprefix("extractor.").split("=", 1) for assignment in assignments)
    network = cls(make_config(cls, values, "extractor"), pick_device(options["device"]))
    queries, objects = by_object(load_dataset(known, dataset, root))
    queries, objects = queries[: options["limit"]], objects[: options["limit"]]
    progress = make_progress(False)
    progress.start("weighing channels", len(queries), "queries")
    found = []
    for query in queries:
        found.append(weights_of(network, query.image, options["channels"]))
        progress.advance()
    progress.close()
    R = np.asarray(np.corrcoef(np.array(found, np.float64)))
    one, two = means(R, objects)
    counts = f"{len(queries)} queries of {len(set(objects.tolist()))} objects"
    click.echo(f"{options['channels']}, {counts}: correlation {one:.3f} of one object, {two:.3f} of two")
    if options["plot"] is not None:
        draw(R, f"{options['channels']}: {counts}", options["plot"])
        click.echo(f"wrote {options['plot']}")


if __name__ == "__main__":
    main()
