"""Options: a component's frozen ``Config`` from TOML tables and ``--set key=value``, checked."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import types
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instsearch_cli.components import STAGES
from instsearch_cli.errors import UsageError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

UNIONS = (typing.Union, types.UnionType)


@functools.cache
def based(cls: Any, base: Any) -> Any:
    """The class, with the base class of its kind if it has not got it: what it leaves out is then at its default."""
    if issubclass(cls, base):
        return cls
    names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    return types.new_class(cls.__name__, (cls, base), exec_body=lambda namespace: namespace.update(names))


def make_config(cls: type[Any], values: Mapping[str, Any], where: str) -> Any:
    """Build ``cls.Config`` from names and values, text or typed.

    Raises UsageError for an unknown name (with the nearest), a value of the wrong type, or an option that no file can
    hold; ``where`` is the prefix the user writes, "encoder" say.
    """
    config, fields = cls.Config, option_names(cls)
    hints = typing.get_type_hints(config)
    for f in dataclasses.fields(config):
        if not _settable(hints[f.name]) or not (f.default is dataclasses.MISSING or _plain(f.default)):
            raise UsageError(
                f"{where}: option '{f.name}' of {cls.__module__}.{cls.__qualname__} is {hints[f.name]}, by default "
                f"{f.default!r}; options are numbers, text, truth values, None, and a Literal or tuple of these"
            )
    checked = {}
    for name, value in values.items():
        key = name.replace("-", "_")
        if key not in fields:
            raise UsageError(f"{where} has no option '{name}'.{nearest(key, fields)}")
        checked[key] = coerce(value, hints[key], f"{where}.{name}")
    try:
        return config(**checked)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from error


def absolute_files(config: Any) -> Any:
    """The same options, but that the files and folders named by them are found from any folder."""
    named = [
        f.name for f in dataclasses.fields(config) if f.metadata.get("digested") and vars(config)[f.name]
    ]
    paths = {name: str(Path(vars(config)[name]).expanduser().absolute()) for name in named}
    return dataclasses.replace(config, **paths) if paths else config


def option_names(cls: type[Any]) -> list[str]:
    """The names of a component's options."""
    return [f.name for f in dataclasses.fields(cls.Config)]


def coerce(value: Any, hint: Any, where: str) -> Any:
    """Turn text or a TOML value into the annotated type. Raises UsageError saying what was expected."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in UNIONS:
        if value is None or (str(value).lower() == "none" and types.NoneType in arguments):
            return None
        return _member(value, [a for a in arguments if a is not types.NoneType], where)
    if origin is typing.Literal:
        for argument in arguments:
            if _means(value, argument):
                return argument
        raise UsageError(f"{where} is {_words(hint)}, not '{value}'")
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
        except (TypeError, ValueError, OverflowError):
            number = None
        if isinstance(number, float) and not math.isfinite(number):
            raise UsageError(f"{where} is a finite number, not '{value}'")
        if number is not None and (hint is float or not isinstance(value, float) or value == number):
            return number
    if hint is str and isinstance(value, (str, int, float)):
        return str(value)
    raise UsageError(f"{where} is {_words(hint)}, not '{value}'")


def _member(value: Any, members: list[Any], where: str) -> Any:
    """The value as the first member of a union that takes it; what is no text is of its own type, if that is one."""
    if len(members) == 1:
        return coerce(value, members[0], where)
    if not isinstance(value, str):
        members = sorted(members, key=lambda member: member is not type(value))
    for member in members:
        with contextlib.suppress(UsageError):
            return coerce(value, member, where)
    raise UsageError(f"{where} is {' or '.join(map(_words, members))}, not '{value}'")


def _means(value: Any, argument: Any) -> bool:
    """Whether a value, or its text, is that argument of a Literal."""
    if isinstance(argument, str):
        return argument == str(value)
    numbers = {type(value), type(argument)} <= {int, float}
    return written(argument).lower() == str(value).lower() or (numbers and value == argument)


def _words(hint: Any) -> str:
    """What a value of a type is called."""
    if typing.get_origin(hint) is typing.Literal:
        return f"one of {', '.join(map(written, typing.get_args(hint)))}"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(hint, str(hint))


def _settable(hint: Any) -> bool:
    """Whether there are values of a type for :func:`coerce` to make."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return all(map(_plain, arguments))
    if origin is tuple or origin in UNIONS:
        return all(a is ... or _settable(a) for a in arguments)
    return hint in (bool, int, float, str, types.NoneType)


def _plain(value: Any) -> bool:
    """Whether JSON can hold a value."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def as_toml(value: Any) -> Any:
    """An option's value as a file has it, for :func:`coerce` to read."""
    if isinstance(value, tuple):
        return [as_toml(each) for each in value]
    return "none" if value is None else value


def written(value: Any) -> str:
    """An option's value as ``--set`` takes it."""
    return ",".join(map(written, value)) if isinstance(value, (list, tuple)) else str(as_toml(value))


def config_for(config: Any, stage: str) -> dict[str, Any]:
    """The options that decide a layer: those that touch ``stage`` or one before it, as plain JSON values.

    Not among them are those that :func:`late` has, and files that are known by their digest.
    """
    limit = STAGES.index(stage)
    return {
        f.name: vars(config)[f.name]
        for f in dataclasses.fields(config)
        if STAGES.index(f.metadata.get("touches", STAGES[0])) <= limit
        and not f.metadata.get("digested")
        and not f.metadata.get("late")
    }


def late(config: Any) -> dict[str, Any]:
    """The options that a layer's identity names only where they are not at their defaults, as ``--set`` spells them."""
    fields = {f.name: f for f in dataclasses.fields(config) if f.metadata.get("late")}
    named = {
        name for name, f in fields.items() if not f.metadata["only_with"] and vars(config)[name] != f.default
    }
    named |= {name for name, f in fields.items() if f.metadata["only_with"] in named}
    return {name.replace("_", "-"): vars(config)[name] for name in sorted(named)}


class Assignment(typing.NamedTuple):
    """``--set stage.option=value``, of a reranker, or of one of several components, ``stage.name.option=value``."""

    text: str
    stage: str
    name: str  #: "" where the component is not named
    option: str
    value: str

    @property
    def key(self) -> str:
        """What is before the equals sign."""
        return self.text.partition("=")[0].strip()

    @property
    def option_of_one(self) -> str:
        """The option, where a stage has but one component: what would be its name is part of it."""
        return f"{self.name}.{self.option}" if self.name else self.option


def parse_assignment(text: str) -> Assignment:
    """Take ``--set`` apart. Raises UsageError for what is no assignment."""
    key, equals, value = text.partition("=")
    stage, _, rest = key.strip().partition(".")
    name, _, option = rest.rpartition(".")
    if not equals or not option:
        raise UsageError(f"--set takes stage.option=value, encoder.words=25000 say; not '{text}'")
    return Assignment(text, stage, name, option, value)


@dataclasses.dataclass(frozen=True)
class Documented:
    """An option as `instsearch plugins NAME` shows it."""

    name: str
    default: Any
    text: str


def documented(cls: type[Any]) -> list[Documented]:
    """A component's options with their defaults and the text of their ``#:`` comments."""
    import inspect

    config = cls.Config
    try:
        own: list[Any] = [c for c in config.__mro__ if dataclasses.is_dataclass(c)]
        lines = [line for c in own for line in inspect.getsource(c).splitlines()]
    except (OSError, TypeError):
        lines = []
    shown = []
    for f in dataclasses.fields(config):
        at = next((i for i, line in enumerate(lines) if line.strip().startswith(f"{f.name}:")), None)
        text = ""
        if at is not None:
            within = next((i for i in range(at, len(lines)) if lines[i].strip().startswith(")")), at)
            whole = lines[at : within + 1] if lines[at].rstrip().endswith("(") else [lines[at]]
            text = next((line.partition("#:")[2].strip() for line in whole if "#:" in line), "")
            above = at - 1
            trailing = bool(text)
            while not trailing and above >= 0 and lines[above].strip().startswith("#:"):
                text = lines[above].strip().removeprefix("#:").strip() + " " + text
                above -= 1
        shown.append(Documented(f.name.replace("_", "-"), f.default, text.strip()))
    return shown
