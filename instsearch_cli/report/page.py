"""Hits as one self-contained page: no script, no address outside the file, light or dark as the reader likes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from instsearch_cli.engine.answer import counted
from instsearch_cli.report.markup import BRAND, STYLE, aspect, document, escaped, framed, href
from instsearch_cli.report.pictures import Thumbnail, thumbnail
from instsearch_cli.report.results import box_text, score_texts, write_text

if TYPE_CHECKING:
    from instsearch_cli.engine.answer import XYWH, Answer, Hit

SIDE = 480  #: longer side of thumbnails
FULL = 60  #: so many hits have thumbnails of full size; more share the same weight


def _alt(name: str, thumb: Thumbnail, box: XYWH | None) -> str:
    if thumb.size is None:
        return f"{escaped(name)}: cannot be read ({escaped(thumb.reason)})"
    where = "whole picture" if box is None else f"box at {box_text(box)} (x, y, width, height)"
    return f"{escaped(name)}, {where}"


def _hit(hit: Hit, score: str, share: float, side: int, folder: Path | None) -> str:
    thumb = thumbnail(hit.path, side)
    above, _, file = hit.image.rpartition("/")
    place = f'<span class="folder">{escaped(above)}/</span>' if above else ""
    where = f'<div class="where">{box_text(hit.box)}</div>' if hit.box is not None else ""
    return (
        f'<li style="--r:{aspect(thumb):.4f}"><a{href(hit.path, folder)} title="{escaped(hit.image)}">'
        f"{framed(thumb, hit.corners, _alt(hit.image, thumb, hit.box))}"
        f'<span class="line"><span class="rank" aria-label="rank {hit.rank}">{hit.rank}</span>'
        f'<span class="score" aria-label="score {score}">{score}</span>'
        f'<span class="bar" aria-hidden="true"><i style="width:{100 * share:.1f}%"></i></span></span>'
        f'<span class="name">{place}<span class="file">{escaped(file)}</span></span></a>{where}</li>'
    )


def page(result: Answer, folder: Path | None = None) -> str:
    """The page as text, for a file in ``folder``; photographs below that are linked from there."""
    query = thumbnail(result.picture, SIDE)
    side = max(160, min(SIDE, int(SIDE * math.sqrt(FULL / max(len(result.hits), 1)))))
    best = max((hit.score for hit in result.hits), default=0.0)
    shares = [min(1.0, max(0.0, hit.score / best)) if best > 0 else 0.0 for hit in result.hits]
    cards = [
        _hit(*row, side, folder) for row in zip(result.hits, score_texts(result.hits), shares, strict=True)
    ]
    hits = (
        f'<ol class="hits">{"".join(cards)}</ol>'
        if cards
        else f'<p class="none">{escaped(result.nothing.capitalize())}.</p>'
    )
    settings = "".join(
        f"<div><dt>{escaped(k)}</dt><dd>{escaped(v)}</dd></div>" for k, v in result.settings.items()
    )
    box = f"--box {box_text(result.box)}" if result.box is not None else "the whole picture"
    if result.size is not None:
        box += f" of {result.size[0]} x {result.size[1]}"
    searched = f"{counted(result.n_images, 'image')} searched in {result.seconds:.2f} s"
    title = escaped(Path(result.query).name)
    view = framed(query, result.corners, _alt(result.query, query, result.box))
    named = f'{view}<p class="name">{title}</p>'
    if isinstance(result.picture, Path):
        named = f"<a{href(result.picture, folder)}>{named}</a>"
    aside = (
        f'<aside class="query" aria-label="Query"><p class="brand">{BRAND}instsearch</p>'
        f'<p class="label">Looking for</p>{named}<div class="where">{box}</div>'
        f"{f'<dl>{settings}</dl>' if settings else ''}</aside>"
    )
    header = f"<header><h1>{result.counts.capitalize()}</h1><p>{searched}</p></header>"
    body = f'<div class="page">{aside}\n<main>{header}\n{hits}</main></div>'
    return document(f"{title} - instsearch", STYLE, body)


def write_page(result: Answer, path: Path) -> None:
    """Write the page to a file; InstsearchError if it cannot be written."""
    write_text(path, page(result, path.parent))
