"""Hits as one self-contained page: no script, no address outside the file, light or dark as the reader likes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from instsearch_cli.engine.answer import counted
from instsearch_cli.engine.choosing import as_path
from instsearch_cli.outside.files import write_text
from instsearch_cli.report.markup import BRAND, STYLE, aspect, document, escaped, framed, href, jpeg_uri
from instsearch_cli.report.pictures import Thumbnail, thumbnail
from instsearch_cli.report.results import box_text, score_texts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from instsearch_cli.data import Beside
    from instsearch_cli.engine.answer import XYWH, Answer, Hit, View
    from instsearch_cli.engine.choosing import Anywhere

SIDE = 480  #: longer side of thumbnails
PAIR = 900  #: width of a hit beside what was asked for
FULL = 60  #: so many hits have thumbnails of full size; more share the same weight


def _alt(name: str, thumb: Thumbnail, box: XYWH | None) -> str:
    if thumb.size is None:
        return f"{escaped(name)}: cannot be read ({escaped(thumb.reason)})"
    where = "whole picture" if box is None else f"box at {box_text(box)} (x, y, width, height)"
    return f"{escaped(name)}, {where}"


def _beside(found: Beside | None) -> str:
    """The hit aligned beside what was asked for, to be unfolded; "" where the two were not compared."""
    if found is None:
        return ""
    pair = Image.fromarray(found.picture)
    thumb = thumbnail(pair, PAIR)
    text = escaped(found.text)
    return (
        f'<details><summary>compared with what was asked for</summary><img src="{jpeg_uri(thumb)}" alt="{text}" '
        f'width="{thumb.image.width}" height="{thumb.image.height}"><p>{text}</p></details>'
    )


def _hit(hit: Hit, score: str, share: float, side: int, folder: Path | None, found: Beside | None) -> str:
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
        f'<span class="name">{place}<span class="file">{escaped(file)}</span></span></a>{where}{_beside(found)}</li>'
    )


def _view(view: View, folder: Path | None) -> str:
    """A picture that was asked with, its box over it and in words."""
    thumb = thumbnail(view.picture, SIDE)
    if thumb.size is not None and view.size is not None:
        thumb = replace(thumb, size=view.size)  # a picture in memory may be a small one of it
    box = f"--box {box_text(view.box)}" if view.box is not None else "the whole picture"
    if view.size is not None:
        box += f" of {view.size[0]} x {view.size[1]}"
    seen = framed(thumb, view.corners, _alt(view.name, thumb, view.box))
    named = f'{seen}<p class="name">{escaped(Path(view.name).name)}</p>'
    if isinstance(view.picture, Path):
        named = f"<a{href(view.picture, folder)}>{named}</a>"
    return f'{named}<div class="where">{box}</div>'


def _hits(result: Answer, folder: Path | None, besides: Mapping[int, Beside]) -> str:
    """The hits, those that count as found parted from the rest by a line."""
    shown, n = result.shown, len(result.above)
    side = max(160, min(SIDE, int(SIDE * math.sqrt(FULL / max(len(shown), 1)))))
    best = max((hit.score for hit in shown), default=0.0)
    shares = [min(1.0, max(0.0, hit.score / best)) if best > 0 else 0.0 for hit in shown]
    cards = [
        _hit(hit, score, share, side, folder, besides.get(hit.rank))
        for hit, score, share in zip(shown, score_texts(shown), shares, strict=True)
    ]
    if not cards:
        return f'<p class="none">{escaped(_capital(result.nothing))}.</p>'
    found, rest = (
        f'<ol class="hits">{"".join(some)}</ol>' if some else "" for some in (cards[:n], cards[n:])
    )
    line = f'<p class="parting">below {result.line:g}</p>' if rest else ""
    return f"{found}{line}{rest}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def page(result: Answer, folder: Path | None = None, besides: Mapping[int, Beside] | None = None) -> str:
    """The page as text, for a file in ``folder``; photographs below that are linked from there.

    besides  hits beside what was asked for, by rank: they are shown with these
    """
    settings = "".join(
        f"<div><dt>{escaped(k)}</dt><dd>{escaped(v)}</dd></div>" for k, v in result.settings.items()
    )
    title = escaped(Path(result.query).name)
    views = "".join(_view(view, folder) for view in result.views)
    against = "".join(_view(view, folder) for view in result.against)
    unlike = f'<p class="label">And not</p>{against}' if against else ""
    aside = (
        f'<aside class="query" aria-label="Query"><p class="brand">{BRAND}instsearch</p>'
        f'<p class="label">Looking for</p>{views}'
        f"{unlike}"
        f"{f'<dl>{settings}</dl>' if settings else ''}</aside>"
    )
    searched = f"{counted(result.n_images, 'image')} searched in {result.seconds:.2f} s"
    said = "".join(f"<p>{escaped(_capital(note))}.</p>" for note in result.notes)
    header = f"<header><h1>{escaped(_capital(result.title))}</h1><p>{searched}</p>{said}</header>"
    body = f'<div class="page">{aside}\n<main>{header}\n{_hits(result, folder, besides or {})}</main></div>'
    return document(f"{title} - instsearch", STYLE, body)


def write_page(result: Answer, path: Anywhere, besides: Mapping[int, Beside] | None = None) -> None:
    """Write the page to a file, with hits ``besides`` the query by rank; InstsearchError if it cannot be written."""
    path = as_path(path, "a page")
    write_text(path, page(result, path.parent, besides))
