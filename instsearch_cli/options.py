"""Options: a component's frozen ``Config`` from TOML tables and ``--set key=value``, checked."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import TYPE_CHECKING, Any

from instsearch_cli.components import STAGES
from instsearch_cli.errors import UsageError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping


def make_config(cls: type[Any], values: Mapping[str, Any], where: str) -> Any:
    """Build ``cls.Config`` from names and values, text or typed.

    Raises UsageError for an unknown name (with the nearest) or a value of the wrong type; ``where`` is
    the prefix the user writes, "encoder" say.
    """
    config = getattr(cls, "Config", None)
    fields = {f.name: f for f in dataclasses.fields(config)} if config else {}
    hints = typing.get_type_hints(config) if config else {}
    checked = {}
    for name, value in values.items():
        key = name.replace("-", "_")
        if key not in fields:
            raise UsageError(f"{where} has no option '{name}'.{nearest(key, fields)}")
        checked[key] = coerce(value, hints[key], f"{where}.{name}")
    if config is None:
        return None
    try:
        return config(**checked)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from error


def coerce(value: Any, hint: Any, where: str) -> Any:
    """Turn text or a TOML value into the annotated type. Raises UsageError saying what was expected."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None or (value == "none" and type(None) in arguments):
            return None
        return coerce(value, next(a for a in arguments if a is not type(None)), where)
    if origin is typing.Literal:
        if value in arguments:
            return value
        raise UsageError(f"{where} is one of {', '.join(map(str, arguments))}, not '{value}'")
    if origin is tuple:
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, (list, tuple)):
            parts = [parts]
        return tuple(coerce(p, arguments[0], where) for p in parts)
    if hint is bool:
        truth = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if isinstance(value, bool):
            return value
        if str(value).lower() in truth:
            return truth[str(value).lower()]
        raise UsageError(f"{where} is true or false, not '{value}'")
    if hint in (int, float) and not isinstance(value, bool):
        try:
            number = hint(value)
        except (TypeError, ValueError):
            number = None
        if number is not None and (hint is float or not isinstance(value, float) or value == number):
            return number
    if hint is str and isinstance(value, (str, int, float)):
        return str(value)
    kind = {int: "a whole number", float: "a number", str: "text"}.get(hint, str(hint))
    raise UsageError(f"{where} is {kind}, not '{value}'")


def config_for(config: Any, stage: str) -> dict[str, Any]:
    """The options that decide a layer: those that touch ``stage`` or one before it, as plain JSON values."""
    if config is None:
        return {}
    limit = STAGES.index(stage)
    return {
        f.name: getattr(config, f.name)
        for f in dataclasses.fields(config)
        if STAGES.index(f.metadata.get("touches", STAGES[0])) <= limit
    }


@dataclasses.dataclass(frozen=True)
class Documented:
    """An option as `instsearch plugins NAME` shows it."""

    name: str
    default: Any
    text: str


def documented(cls: type[Any]) -> list[Documented]:
    """A component's options with their defaults and the text of their ``#:`` comments."""
    import inspect

    config = getattr(cls, "Config", None)
    if config is None:
        return []
    try:
        own = [c for c in config.__mro__ if hasattr(c, "__dataclass_fields__")]
        lines = [line for c in own for line in inspect.getsource(c).splitlines()]
    except (OSError, TypeError):
        lines = []
    shown = []
    for f in dataclasses.fields(config):
        at = next((i for i, line in enumerate(lines) if line.strip().startswith(f"{f.name}:")), None)
        text = ""
        if at is not None:
            text = lines[at].partition("#:")[2].strip()
            above = at - 1
            trailing = bool(text)
            while not trailing and above >= 0 and lines[above].strip().startswith("#:"):
                text = lines[above].strip().removeprefix("#:").strip() + " " + text
                above -= 1
        shown.append(Documented(f.name.replace("_", "-"), f.default, text.strip()))
    return shown
