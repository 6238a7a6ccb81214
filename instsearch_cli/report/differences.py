"""A page of the queries where pipelines differ most, with the first hits of each; of one alone, its worst queries."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from instsearch_cli.measure.evaluation import JUNK, RIGHT, WRONG
from instsearch_cli.outside.files import write_text
from instsearch_cli.report.markup import BRAND, STYLE, aspect, document, escaped, framed, href
from instsearch_cli.report.pictures import thumbnail

if TYPE_CHECKING:
    from collections.abc import Sequence

    from instsearch_cli.components import QueryRef
    from instsearch_cli.measure.comparison import Comparison
    from instsearch_cli.measure.datasets import Measured
    from instsearch_cli.measure.evaluation import Ranked
    from instsearch_cli.measure.runs import ScoredRun

QUERIES, HITS = 20, 8
SIDE = 240  #: longer side of a hit's thumbnail; a query's has half as much again
SIGNS = {RIGHT: "✓ right", WRONG: "✗ wrong", JUNK: "– junk, not counted"}
OWN = """
.page { display: block; }
main > p { color: var(--soft); max-width: 70ch; }
section { display: grid; grid-template-columns: 300px minmax(0, 1fr); gap: 8px 28px; margin: 0 0 26px;
  padding: 22px 0 0; border-top: 1px solid var(--line); }
section > div > h2 { margin: 12px 0 2px; font-size: 16px; overflow-wrap: anywhere; }
h3 { margin: 0 0 8px; font-size: 14px; font-weight: 600; }
h3 b { margin-left: 8px; font-weight: 680; }
.hits { gap: 10px; margin: 0 0 18px; }
.hits li { flex: 0 1 auto; width: calc(var(--r) * 118px); max-width: none; }
.hits::after { content: none; }
.hits .view { box-shadow: none; border: 3px solid var(--line); }
.right .view { border-color: #1f9d55; } .wrong .view { border-color: #d64545; border-style: dashed; }
.junk .view { opacity: .6; }
.mark { display: block; margin-top: 4px; font-size: 12px; font-weight: 600; }
.right .mark { color: #178244; } .wrong .mark { color: #c23030; } .junk .mark { color: var(--soft); }
.hits .name { font-size: 11px; color: var(--soft); }
@media (prefers-color-scheme: dark) { .right .mark { color: #5fd38d; } .wrong .mark { color: #ff8f8f; } }
@media (max-width: 860px) { section { display: block; } section > div:first-child { max-width: 300px; } }
"""


def differences_page(
    measured: Sequence[Measured | ScoredRun], comparisons: Sequence[Comparison], folder: Path | None = None
) -> str:
    """The page as text, for a file in ``folder``. The evaluations' rankings must have been kept."""
    dataset = measured[0].dataset
    refs = {ref.id: ref for ref in dataset.queries()}
    paths = {ref.name: ref.path for ref in dataset.images()}
    precisions = [{str(q["id"]): q["ap"] for q in one.queries} for one in measured]
    spreads = {id: _spread(precisions, id) for id in precisions[0]}
    shown = sorted((id for id, spread in spreads.items() if spread > 0), key=lambda id: (-spreads[id], id))
    shown = shown[:QUERIES]
    sections = "\n".join(_section(refs[id], measured, precisions, paths, folder) for id in shown)
    names = ", ".join(escaped(one.name) for one in measured)
    if len(measured) > 1:
        title = f"Where {names} differ most"
        said = [
            f"{escaped(c.b)} against {escaped(c.a)}: {c.means[1] - c.means[0]:+.3f} mAP, p = {c.p:.2g}; better for "
            f"{c.counts[0]:,} queries, worse for {c.counts[1]:,}, equal for {c.counts[2]:,}."
            for c in comparisons
        ]
    else:
        title, ap = f"The worst queries of {names}", measured[0].metrics["mAP"]
        said = [f"mAP {ap:.3f} over {len(measured[0].queries):,} queries."]
    intro = "".join(f"<p>{line}</p>" for line in said)
    if shown:
        queries = "one query" if len(shown) == 1 else f"{len(shown):,} queries"
        intro += f"<p>The first {HITS} hits of {queries} of {escaped(dataset.name)}, as that judges them.</p>"
    else:
        intro += (
            f'<p class="none">{"No query differs." if len(measured) > 1 else "Every query is perfect."}</p>'
        )
    head = f'<p class="brand">{BRAND}instsearch</p><header><h1>{title}</h1></header>'
    return document(
        f"{title} - instsearch",
        STYLE + OWN,
        f'<div class="page"><main>{head}{intro}\n{sections}</main></div>',
    )


def write_differences(
    measured: Sequence[Measured | ScoredRun], comparisons: Sequence[Comparison], path: Path
) -> None:
    """Write the page to a file; InstsearchError if it cannot be written."""
    write_text(path, differences_page(measured, comparisons, path.parent))


def _spread(precisions: Sequence[dict[str, float | None]], id: str) -> float:
    """How far a query's precisions are apart; of one pipeline, how far from 1."""
    there = [ap for its in precisions if (ap := its.get(id)) is not None]
    if not there:
        return -1.0
    return 1 - there[0] if len(precisions) == 1 else max(there) - min(there)


def _section(
    ref: QueryRef,
    measured: Sequence[Measured | ScoredRun],
    precisions: Sequence[dict[str, float | None]],
    paths: dict[str, Path],
    folder: Path | None,
) -> str:
    """A query, and a row of hits for each pipeline."""
    query = thumbnail(ref.image, SIDE * 3 // 2)
    picture = f"<a{href(ref.image, folder)}>{framed(query, ref.box, f'the query {escaped(ref.id)}')}</a>"
    rows = []
    for one, its in zip(measured, precisions, strict=True):
        ap = its.get(ref.id)
        said = "none" if ap is None else f"{ap:.3f}"
        hits = one.evaluation.rankings.get(ref.id, [])[:HITS]
        cards = "".join(_hit(hit, paths.get(hit.image), folder) for hit in hits) or "<li>no hits</li>"
        rows.append(f'<h3>{escaped(one.name)}<b>AP {said}</b></h3><ol class="hits">{cards}</ol>')
    return f"<section><div>{picture}<h2>{escaped(ref.id)}</h2></div><div>{''.join(rows)}</div></section>"


def _hit(hit: Ranked, path: Path | None, folder: Path | None) -> str:
    thumb = thumbnail(path or Path(hit.image), SIDE)
    name = escaped(hit.image)
    link = href(path, folder) if path is not None else ""
    return (
        f'<li class="{hit.mark}" style="--r:{aspect(thumb):.4f}"><a{link} title="{name}">'
        f"{framed(thumb, hit.box, f'{name}, {SIGNS[hit.mark][2:]}')}"
        f'<span class="mark">{SIGNS[hit.mark]}</span>'
        f'<span class="name"><span class="file">{name}</span></span></a></li>'
    )
