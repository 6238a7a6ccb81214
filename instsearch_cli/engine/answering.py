"""What answers: an index, several as one, or workers that ask them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

    from instsearch_cli.data import Beside
    from instsearch_cli.engine.answer import Answer, Wish
    from instsearch_cli.engine.asking import Warm
    from instsearch_cli.engine.opened import Loaded
    from instsearch_cli.engine.query import Engine
    from instsearch_cli.engine.questions import Question
    from instsearch_cli.errors import InstsearchError


class Answering(Protocol):
    """What answers questions, as an index does."""

    def query(self, picture: Any, box: Any = None, k: int = 20, **wishes: Any) -> Answer: ...

    def answers(
        self, picture: Any, box: Any = None, k: int = 20, **wishes: Any
    ) -> Generator[Answer, None, None]: ...

    def query_each(
        self, questions: Sequence[Question], wish: Wish, pipeline: str | None = None, **choice: Any
    ) -> list[Answer | InstsearchError]: ...


class Opened(Answering, Protocol):
    """An open index, as far as it is asked."""

    path: Path
    _loaded: Loaded

    @property
    def _warm(self) -> Warm: ...

    def engines(self, pipeline: str | None = None, **choice: Any) -> list[Engine]: ...

    def beside(
        self, picture: Any, box: Any, image: Any, pipeline: str | None = None, **choice: Any
    ) -> Beside | None: ...
