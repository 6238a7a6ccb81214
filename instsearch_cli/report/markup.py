"""What pages are made of: their style, names as text, pictures with boxes, links to files that are there."""

from __future__ import annotations

import base64
import io
import os
from html import escape
from typing import TYPE_CHECKING
from urllib.parse import quote

from instsearch_cli.errors import printable

if TYPE_CHECKING:
    from pathlib import Path

    from instsearch_cli.data import Box
    from instsearch_cli.report.pictures import Thumbnail

QUALITY = 80  #: of JPEGs

STYLE = """
:root { color-scheme: light dark; --paper: #f7f6f3; --ink: #1b1a18; --soft: #67645e; --line: #e3e0da;
  --mark: #ff2d7d; --deep: #b80d52; --track: #ebe8e2;
  --shade: 0 1px 2px rgb(40 30 10 / .06), 0 6px 20px rgb(40 30 10 / .06); }
@media (prefers-color-scheme: dark) { :root { --paper: #131316; --ink: #f1efeb; --soft: #a3a09a;
  --line: #2d2d33; --deep: #ff7fb0; --track: #2b2b31;
  --shade: 0 1px 2px rgb(0 0 0 / .4), 0 6px 20px rgb(0 0 0 / .25); } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.45 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", Arial, sans-serif; font-variant-numeric: tabular-nums; -webkit-text-size-adjust: 100%; }
a { color: inherit; text-decoration: none; }
a:not([href]) { cursor: default; }
a:focus-visible { outline: 3px solid var(--mark); outline-offset: 3px; border-radius: 8px; }
.page { display: grid; grid-template-columns: minmax(240px, 320px) minmax(0, 1fr); gap: 0 36px; max-width: 1720px;
  margin: 0 auto; padding: 28px 32px 56px; }
.query { position: sticky; top: 28px; align-self: start; max-height: calc(100vh - 56px); overflow: auto;
  padding: 2px 4px 12px; scrollbar-width: thin; }
.brand { display: flex; align-items: center; gap: 9px; margin: 0 0 26px; font-size: 15px; font-weight: 650;
  letter-spacing: -.01em; }
.brand svg { width: 22px; height: 22px; color: var(--mark); }
.label { margin: 0 0 8px; color: var(--soft); font-size: 12px; font-weight: 600; letter-spacing: .07em;
  text-transform: uppercase; }
.view { position: relative; display: block; overflow: hidden; border-radius: 10px; background: var(--track);
  aspect-ratio: var(--shape); box-shadow: var(--shade); }
.view img, .view svg { position: absolute; inset: 0; width: 100%; height: 100%; object-fit: contain; }
.view rect { fill: none; vector-effect: non-scaling-stroke; }
.view .edge { stroke: rgb(0 0 0 / .5); stroke-width: 5px; }
.view .box { stroke: var(--mark); stroke-width: 2.5px; }
.view .around { fill: rgb(8 8 10 / .55); fill-rule: evenodd; opacity: 0; transition: opacity .18s; }
.query .around { opacity: .75; }
a:hover .around, a:focus-visible .around { opacity: 1; }
.name { overflow: hidden; overflow-wrap: anywhere; }
.query .name { margin: 12px 0 0; font-weight: 600; }
.where { color: var(--soft); font: 12px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  user-select: all; overflow-wrap: anywhere; }
dl { margin: 26px 0 0; border-top: 1px solid var(--line); font-size: 13px; }
dl div { display: grid; grid-template-columns: 92px 1fr; gap: 12px; padding: 8px 0;
  border-bottom: 1px solid var(--line); }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
main header { display: flex; flex-wrap: wrap; align-items: baseline; gap: 4px 14px; margin: 0 0 18px;
  min-height: 31px; }
h1 { margin: 0; font-size: 22px; line-height: 31px; font-weight: 680; letter-spacing: -.02em; }
header p { margin: 0; color: var(--soft); }
.hits { display: flex; flex-wrap: wrap; gap: 22px 16px; margin: 0; padding: 0; list-style: none; }
.hits::after { content: ""; flex: 1000 1 0; }
.hits li { flex: var(--r) 1 calc(var(--r) * 205px); min-width: 0; max-width: calc(var(--r) * 320px); }
.hits a { display: block; }
.hits .view { border-radius: 9px; transition: box-shadow .18s; }
.hits a[href]:hover .view { box-shadow: 0 0 0 2px var(--mark); }
.line { display: flex; align-items: baseline; gap: 9px; margin-top: 9px; }
.rank { flex: none; min-width: 24px; padding: 0 6px; border-radius: 6px; background: var(--ink); color: var(--paper);
  font-size: 12px; font-weight: 680; line-height: 20px; text-align: center; }
.score { flex: none; font-weight: 640; }
.bar { flex: 1; align-self: center; height: 4px; border-radius: 2px; overflow: hidden; background: var(--track); }
.bar i { display: block; height: 100%; border-radius: 2px; background: var(--mark); }
.hits .name { display: flex; margin-top: 4px; font-size: 13px; white-space: nowrap; }
.folder { flex: 0 1 auto; overflow: hidden; color: var(--soft); text-overflow: ellipsis; }
.file { flex: 0 1 auto; min-width: 40%; overflow: hidden; text-overflow: ellipsis; }
.hits .file:only-child { min-width: 0; }
.hits a[href]:hover .file { color: var(--deep); text-decoration: underline; text-underline-offset: 3px; }
.hits details { margin-top: 6px; color: var(--soft); font-size: 13px; }
.hits summary { cursor: pointer; }
.hits details img { display: block; width: 100%; height: auto; margin-top: 8px; border-radius: 9px; }
.hits details p { margin: 6px 0 0; }
.hits li:has(details[open]) { flex-basis: min(100%, 900px); max-width: 900px; }
.hits li:has(details[open]) > a { max-width: 320px; }
.parting { display: flex; align-items: center; gap: 14px; margin: 30px 0 22px; color: var(--soft); font-weight: 600; }
.parting::before, .parting::after { content: ""; flex: 1 0 24px; border-top: 2px solid var(--mark); }
.parting::before { flex: 0 0 24px; }
.query .label:not(:first-of-type) { margin-top: 22px; }
.query a + a, .query .where + a { display: block; margin-top: 16px; }
.none { padding: 72px 24px; border: 1.5px dashed var(--line); border-radius: 14px; color: var(--soft);
  text-align: center; }
@media (max-width: 860px) { .page { display: block; padding: 20px 16px 40px; } .query { position: static;
  max-height: none; margin: 0 0 32px; } .query .view { max-width: 420px; } .brand { margin-bottom: 18px; }
  .hits { gap: 18px 10px; } .hits li { flex-basis: calc(var(--r) * 150px); max-width: calc(var(--r) * 300px); }
  .bar { display: none; } }
@media (prefers-reduced-motion: reduce) { * { transition: none !important; } }
@media print { .page { display: block; } .query { position: static; max-height: none; max-width: 320px;
  margin-bottom: 24px; }
  li { break-inside: avoid; } }
"""

BRAND = (
    '<svg viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="2.4" stroke-linecap="round" '
    'stroke-linejoin="round" aria-hidden="true"><path d="M3 8V5a2 2 0 0 1 2-2h3M16 3h3a2 2 0 0 1 2 2v3'
    'M21 16v3a2 2 0 0 1-2 2h-3M8 21H5a2 2 0 0 1-2-2v-3"/>'
    '<circle cx="12" cy="12" r="3.6" fill="currentColor" stroke="none"/></svg>'
)


def escaped(value: str) -> str:
    """Names are data: nothing in them is markup, and every byte of them can be shown."""
    return escape(printable(value))


def href(path: Path, folder: Path | None) -> str:
    """``href``, to go into a tag: of a file that is there, from the page's folder where it lies below; else nothing."""
    if not path.exists():
        return ""
    place = path.absolute()
    if folder is not None and place.is_relative_to(folder.absolute()):
        address = quote(os.fsencode(place.relative_to(folder.absolute()).as_posix()))
        return f' href="./{escape(address)}"'
    return f' href="{escape(place.as_uri())}"'


def jpeg_uri(thumb: Thumbnail) -> str:
    data = io.BytesIO()
    thumb.image.save(data, "JPEG", quality=QUALITY, optimize=True, progressive=True)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode("ascii")


def aspect(thumb: Thumbnail) -> float:
    """Width over height of the frame of a picture; panoramas get a calmer one."""
    return min(max(thumb.image.width / thumb.image.height, 0.56), 2.6)


def outline(box: Box | None, size: tuple[int, int] | None) -> str:
    """The box as crisp lines over the thumbnail, in pixels of the original, and a shade around it."""
    if box is None or size is None:
        return ""
    w, h = size
    x0, y0 = min(max(box[0], 0.0), w), min(max(box[1], 0.0), h)
    x1, y1 = min(max(box[2], x0), w), min(max(box[3], y0), h)
    rect = f'x="{x0:.1f}" y="{y0:.1f}" width="{x1 - x0:.1f}" height="{y1 - y0:.1f}"'
    hole = f"M0 0H{w}V{h}H0ZM{x0:.1f} {y0:.1f}V{y1:.1f}H{x1:.1f}V{y0:.1f}Z"
    return (
        f'<svg viewBox="0 0 {w} {h}" preserveAspectRatio="xMidYMid meet" aria-hidden="true"><path class="around" '
        f'd="{hole}"/><rect class="edge" {rect}/><rect class="box" {rect}/></svg>'
    )


def framed(thumb: Thumbnail, box: Box | None, alt: str) -> str:
    image = (
        f'<img src="{jpeg_uri(thumb)}" alt="{alt}" width="{thumb.image.width}" height="{thumb.image.height}">'
    )
    overlay = outline(box, thumb.size)
    return f'<span class="view" style="--shape:{aspect(thumb):.4f}">{image}{overlay}</span>'


def document(title: str, style: str, body: str) -> str:
    """A page that needs nothing beside itself: no script, no address, light or dark as the reader likes."""
    return f"{opening(title, style)}{body}</body></html>\n"


def opening(title: str, style: str) -> str:
    """The beginning of such a page, up to what is in it."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        f"<title>{title}</title><style>{style}</style></head>\n<body>"
    )
