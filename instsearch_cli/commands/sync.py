"""`instsearch sync`: an index brought to what its folders hold now."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from instsearch_cli.commands import common

if TYPE_CHECKING:
    from instsearch_cli.engine.syncing import Synced

LISTED = 10  #: files of a kind that are named


@common.command("sync", long=True)
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path))
@common.index_option
@click.option("--dry-run", is_flag=True, help="Only say what would be done; nothing is written.")
@common.max_remove_option
@click.option("--pipeline", "pipeline_name", help="Which of the index's pipelines (default: the last).")
@common.device_option
@common.intake_options
def command(
    folders: tuple[Path, ...],
    index_path: Path,
    dry_run: bool,
    max_remove: str | None,
    pipeline_name: str | None,
    **options: Any,
) -> None:
    """Add, remove, rename and replace images in one go, so that the index has what FOLDERS hold now.

    Without FOLDERS they are those that were indexed; of files that were given one by one only these count. A folder
    that is not there, or empty, as of a disk that is not mounted, is offline: its images stay. A file that was moved
    keeps all that was computed of it. What is removed can be brought back by `instsearch restore`; what `remove` took
    out stays out.
    """
    index = common.open_index(index_path, options)
    before = index.last
    done = index.sync(
        folders,
        dry_run=dry_run,
        max_remove=max_remove,
        pipeline=pipeline_name,
        **common.taking(options),
    )
    common.say_last(index, before)
    if options["as_json"]:
        common.echo(json.dumps(done.plain()))
        return
    for line in words(done, 0 if options["quiet"] else LISTED):
        common.echo(line)
    if done.indexed is not None:
        common.summary_of_layers(done.indexed)


def words(done: Synced, listed: int) -> Iterator[str]:
    """What was done or would be, by kind, each with some of its files."""
    from instsearch_cli.engine.answer import counted

    would = "would be " if done.dry_run else ""
    renamed = [f"{old} -> {new}" for old, new in done.renamed]
    skipped = [f"{name}: {reason}{common.raised(reason)}" for name, reason in done.skipped]
    kinds: list[tuple[str, Sequence[str]]] = [
        (f"{would}added", done.added),
        (f"{would}replaced", done.replaced),
        (f"{would}renamed", renamed),
        (f"{would}removed", done.removed),
        ("skipped", skipped),
    ]
    for kind, files in kinds:
        if files:
            yield f"{len(files):,} {kind}"
            yield from (f"  {file}" for file in files[:listed])
            if listed < len(files) and listed:
                yield f"  … and {len(files) - listed:,} more"
    if done.others:
        yield common.others_of(done.others)
    for root, n in done.offline.items():
        yield common.offline_of(root, n)
    yield f"{done.unchanged:,} unchanged; {counted(done.images, 'image')}" + (" then" if done.dry_run else "")
