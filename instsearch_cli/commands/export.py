"""`instsearch export`: a layer as a file of numpy arrays."""

from __future__ import annotations

import json
from pathlib import Path

import click

from instsearch_cli.commands import common
from instsearch_cli.commands.common_outputs import check_unindexed


@common.command("export")
@common.index_option
@click.option("--layer", required=True, help="features, weights, regions, local or codes.")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help=".npz file to write.")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@click.option("--pipeline", "pipeline_name", help="Which of the index's pipelines (default: the last).")
@common.json_option
def command(
    index_path: Path, layer: str, out: Path, force: bool, pipeline_name: str | None, as_json: bool
) -> None:
    """Write a layer of all images, as it is stored, to a file that numpy.load reads.

    Its arrays are those of the layer's encoding (formats/instsearch_formats/SPEC.md), one image after another;
    ``images`` has the images' names, ``image`` the number of the one that each vector, region, cell or point is of.
    """
    from instsearch_cli.engine.answer import counted
    from instsearch_cli.errors import InstsearchError

    common.writable("--out", out, ".npz")
    if out.exists() and not force:
        raise InstsearchError(f"{out} is there already: --force replaces it")
    index = common.open_index(index_path)
    check_unindexed([("--out", out)], [index])
    found = index.export(layer, out, pipeline_name)
    if as_json:
        arrays = {name: {"shape": list(a.shape), "dtype": str(a.dtype)} for name, a in found.items()}
        common.echo(
            json.dumps({"out": str(out), "layer": layer, "images": len(found.images), "arrays": arrays})
        )
        return
    shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in found.items())
    common.echo(f"wrote {out}: {layer} of {counted(len(found.images), 'image')}: {shapes}")
