"""What a component learnt, handed to it as the program does it."""

from typing import Any

from instsearch_formats.declared import check


def load(component: Any, state: Any, span: range | None = None) -> None:
    """Check the arrays as they are declared, then load them. ValueError if they are not as declared."""
    check(state, component.learns, **({} if span is None else {"start": span.start, "n": len(span)}))
    component.load(state)
