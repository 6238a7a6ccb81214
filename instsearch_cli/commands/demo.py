"""`instsearch demo`: the whole path on scenes that the program draws."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import click

from instsearch_cli.commands import common

SURE = 0.5  #: score of a hit that is shown
WRITTEN = {"manifest": "manifest.json", "index": "index", "html": "hits.html", "sheet": "hits.png"}


@common.command("demo", long=True)
@click.argument("folder", type=click.Path(path_type=Path), default="demo")
@click.option(
    "-n", "--scenes", default=150, show_default=True, type=click.IntRange(min=40), help="How many scenes."
)
@click.option("--seed", default=7, show_default=True)
@common.device_option
@common.json_option
@common.quiet_option
def command(folder: Path, scenes: int, seed: int, device: str, as_json: bool, quiet: bool) -> None:
    """Draw scenes with known objects, index them, look for each object by a box, and show the hits.

    Writes FOLDER/images, FOLDER/queries, FOLDER/manifest.json, FOLDER/index, FOLDER/hits.html and
    FOLDER/hits.png.
    """
    from instsearch_cli.commands.eval import say
    from instsearch_cli.demo import make_scenes
    from instsearch_cli.engine.assembly import check_device
    from instsearch_cli.engine.pipeline import default_preset
    from instsearch_cli.measure.verbs import evaluate
    from instsearch_cli.progress import make_progress
    from instsearch_cli.report import print_table, write_page, write_sheet

    check_device(device)
    began = time.perf_counter()
    progress = make_progress(quiet)
    manifest = make_scenes(folder, n=scenes, seed=seed, progress=progress)
    progress.close()
    shutil.rmtree(folder / "index", ignore_errors=True)
    first = json.loads(manifest.read_text("utf-8"))["queries"][0]
    preset = default_preset(common.registry())
    index = common.open_index(folder / "index", {"device": device, "quiet": quiet}, create=True)
    index.index(folder / "images", preset=preset, keep_features=True)
    measured = evaluate(index, manifest, pipeline=index.last, device=device, progress=progress)
    result = index.query(folder / first["image"], first["box"], 12, min_score=SURE)
    write_page(result, folder / "hits.html")
    write_sheet(result, folder / "hits.png")
    took = time.perf_counter() - began
    if as_json:
        plain = {"folder": str(folder), "images": measured.indexed, "metrics": measured.evaluation.metrics}
        plain |= {"query": {key: first[key] for key in ("id", "image", "box")}, "hits": len(result)}
        plain |= {"seconds": round(took, 3)}
        common.echo(json.dumps(plain | {each: str(folder / path) for each, path in WRITTEN.items()}))
        return
    say(measured, folder / "index")
    common.echo(f"\nlooking for '{first['id']}':")
    print_table(result)
    common.echo(f"\nwrote {folder / 'hits.html'} and {folder / 'hits.png'}: open one to see the hits")
    box = ",".join(f"{v:g}" for v in first["box"])
    common.echo(f"try: instsearch query {folder / first['image']} --box {box} --index {folder / 'index'}")
    common.echo(f"all of it took {took:.0f} s")
