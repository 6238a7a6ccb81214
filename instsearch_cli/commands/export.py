"""`instsearch export`: a layer as a file of numpy arrays."""

from __future__ import annotations

from pathlib import Path

import click

from instsearch_cli.commands import common


@click.command("export")
@common.index_option
@click.option("--layer", required=True, help="features, weights, regions, local or codes.")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help=".npz file to write.")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@click.option("--pipeline", "pipeline_name", help="Which of the index's pipelines (default: the last).")
def command(index_path: Path, layer: str, out: Path, force: bool, pipeline_name: str | None) -> None:
    """Write a layer of all images, as it is stored, to a file that numpy.load reads.

    Its arrays are those of the layer's encoding (formats/instsearch_formats/SPEC.md), one image after another;
    ``images`` has the images' names, ``image`` the number of the one that each vector, region, cell or point is of.
    """
    common.usage(out.suffix == ".npz", f"--out {out}: name a .npz file")
    common.usage(out.parent.is_dir(), f"--out: there is no folder {out.parent}")
    common.usage(force or not out.exists(), f"{out} is there already: --force replaces it")
    found = common.open_index(index_path).export(layer, out, pipeline_name)
    shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in found.items())
    click.echo(f"wrote {out}: {layer} of {len(found.images):,} images: {shapes}")
