"""The papers whose tables and figures can be measured again, listed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from instsearch_cli.measure.tables import Figure

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from instsearch_cli.measure.tables import Table


def listing(papers: Mapping[str, Sequence[Table]]) -> list[dict[str, Any]]:
    """Each paper with its other names, title, note, tables and figures, JSON-ready."""
    return [
        {
            "paper": name,
            "also": list(dict.fromkeys(other for table in its for other in table.also)),
            "title": its[0].paper_title,
            "note": its[0].note,
            "tables": [_entry(table) for table in its if not isinstance(table, Figure)],
            "figures": [
                _entry(table) | {"command": table.command or None}
                for table in its
                if isinstance(table, Figure)
            ],
        }
        for name, its in papers.items()
    ]


def _entry(table: Table) -> dict[str, Any]:
    return {"number": table.number, "title": table.title}


def listing_lines(papers: Mapping[str, Sequence[Table]]) -> Iterator[str]:
    """A line a paper: what of it can be measured; and one for each figure that another command makes."""
    listed = listing(papers)
    names = [paper["paper"] + "".join(f" ({other})" for other in paper["also"][:1]) for paper in listed]
    width = max(map(len, names), default=0)
    for name, paper in zip(names, listed, strict=True):
        there = {
            "table": [table["number"] for table in paper["tables"]],
            "figure": [figure["number"] for figure in paper["figures"] if figure["command"] is None],
        }
        kinds = [f"{k}{'s' * (len(v) > 1)} {', '.join(v)}" for k, v in there.items() if v]
        yield f"{name:<{width}}  {paper['title']}: {'; '.join(kinds)}"
        for figure in paper["figures"]:
            if figure["command"] is not None:
                yield f"{'':<{width}}  figure {figure['number']}: {figure['command']}"
