"""What a query found, in words and as JSON: what the table, the page and the sheet share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from instsearch_cli.images import printable

if TYPE_CHECKING:
    from instsearch_cli.engine.answer import XYWH, Answer, Hit


def box_text(box: XYWH | None) -> str:
    """A box as ``--box`` takes it, in whole pixels; a dash where there is none."""
    return "-" if box is None else ",".join(f"{v:.0f}" for v in box)


def score_texts(hits: tuple[Hit, ...]) -> list[str]:
    """The scores with as many decimals as their size asks for, the same for all."""
    largest = max((abs(hit.score) for hit in hits), default=0.0)
    decimals = 4 if largest < 10 else 2 if largest < 1000 else 0
    return [f"{hit.score:.{decimals}f}" for hit in hits]


def tail(name: str, width: int) -> str:
    """A name of at most ``width`` characters that keeps its end, fit for any output."""
    name = printable(name)
    return name if len(name) <= width else "…" + name[len(name) - max(width - 1, 0) :]


def to_json(answer: Answer) -> dict[str, Any]:
    """``{"query": {"image", "box"}, "hits": [{"rank", "image", "score", "box"}]}``, boxes as [x, y, w, h] or None.

    Where hits had to have a score, ``"found"``, whether any has it, ``"min_score"`` and ``"best"``, too.
    """
    verdict: dict[str, Any] = {}
    if answer.min_score is not None:
        verdict = {"found": answer.found, "min_score": answer.min_score, "best": answer.best}
    return {
        "query": {"image": answer.query, "box": _listed(answer.box)},
        **verdict,
        "hits": [
            {"rank": hit.rank, "image": hit.image, "score": hit.score, "box": _listed(hit.box)}
            for hit in answer.hits
        ],
    }


def _listed(box: XYWH | None) -> list[float] | None:
    return None if box is None else list(box)
