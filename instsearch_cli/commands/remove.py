"""`instsearch remove`: images out of an index."""

from __future__ import annotations

import os
from pathlib import Path

import click

from instsearch_cli.commands import common


@click.command("remove")
@click.argument("images", nargs=-1, type=click.Path(path_type=Path))
@common.index_option
@click.option("--missing", is_flag=True, help="Remove every image whose file is no longer there.")
def command(images: tuple[Path, ...], index_path: Path, missing: bool) -> None:
    """Remove IMAGES (files, folders, or names as the index shows them); the photographs are not touched.

    A tombstone is written and nothing recomputed; the images are gone from every search at once.
    """
    from instsearch_cli.errors import InstsearchError, nearest

    common.usage(bool(images) or missing, "name images to remove, or --missing")
    with common.writing(index_path) as index:
        table = index.images
        alive = table.alive()
        live = {row: record for row, record in table.records() if alive[row]}
        roots = table.roots
        rows: set[int] = set()
        for given in images:
            wanted = os.fsencode(given)
            full = os.fsencode(common.absolute(given))
            matches = set()
            for row, record in live.items():
                path = os.path.join(os.fsencode(roots[record.root]), record.name)  # noqa: PTH118 - bytes
                if wanted == record.name or path == full or path.startswith(full.rstrip(b"/") + b"/"):
                    matches.add(row)
            if not matches:
                names = (table.name(row) for row in live)
                raise InstsearchError(
                    f"no image '{given}' in {index_path}.{nearest(str(given), names)[:200]}"
                )
            rows |= matches
        if missing:
            rows |= {row for row in live if not table.path(row).exists()}
            if live and len(rows) == len(live) and not images:
                raise InstsearchError(
                    f"none of the {len(live):,} images is there: is the disk mounted?\n"
                    "If the collection moved, run `instsearch relocate OLD NEW`; nothing was removed."
                )
        if rows:
            table.remove(sorted(rows), "missing" if missing and not images else "removed")
        click.echo(f"removed {len(rows):,}, {len(live) - len(rows):,} left")
