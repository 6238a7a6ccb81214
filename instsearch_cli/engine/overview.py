"""A pipeline in words: what runs, and what of it came from the last one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from instsearch_cli.engine.assembly import Assembly

FROM_LAST = "[from the last pipeline]"


def pipeline_lines(assembly: Assembly, inherited: Sequence[str] = ()) -> list[str]:
    """A line a stage that runs, with its options, and one a setting; what is ``inherited`` is marked."""
    pipeline = assembly.pipeline
    plain = pipeline.plain()
    shown: dict[str, str] = {name: part.name for name, part in assembly.stages.items()}
    shown |= {name: in_words(value) for name, value in plain.items() if name not in ("name", "keep_features")}
    order = [*assembly.stages, *(name for name in shown if name not in assembly.stages)]
    width = max(map(len, order))
    lines = [f"pipeline {pipeline.name}"]
    for name in order:
        mark = f"  {FROM_LAST}" if name in inherited else ""
        lines.append(f"  {name:<{width}}  {shown[name]}{mark}")
    return lines


def in_words(stage: Any) -> str:
    """A stage, or a table of settings, in one line."""
    if isinstance(stage, dict) and "name" in stage:
        options = ", ".join(f"{k.replace('_', '-')}={v}" for k, v in stage["options"].items())
        return f"{stage['name']} ({options})" if options else str(stage["name"])
    if isinstance(stage, dict):
        return ", ".join(f"{k}={v}" for k, v in stage.items())
    if isinstance(stage, (list, tuple)):
        return ", then ".join(in_words(s) for s in stage)
    return str(stage)
