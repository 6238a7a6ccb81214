"""Options: types, unknown names, and which layers an option touches."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from instsearch_cli.components import option
from instsearch_cli.errors import UsageError
from instsearch_cli.options import (
    as_toml,
    coerce,
    config_for,
    documented,
    late,
    make_config,
    parse_assignment,
    written,
)


class Component:
    @dataclass(frozen=True)
    class Config:
        words: int = 100  #: size of the vocabulary
        #: share of the shorter side,
        #: of the map
        sigma: float = 0.5
        whiten: bool = True
        form: Literal["a", "b"] = "a"
        classes: tuple[int, ...] = ()
        path: str | None = None
        sqrt: bool = option(False, touches="codes")
        zoom: int = option(2, touches="query")


def test_text_becomes_the_annotated_type() -> None:
    config = make_config(
        Component,
        {
            "words": "25",
            "sigma": "1e-1",
            "whiten": "no",
            "form": "b",
            "classes": "1,2",
            "sqrt": "true",
            "path": "x",
        },
        "encoder",
    )
    assert config == Component.Config(25, 0.1, False, "b", (1, 2), "x", True)
    assert make_config(Component, {"path": "none"}, "encoder").path is None


def test_typed_values_from_toml_are_taken() -> None:
    assert make_config(Component, {"sigma": 2, "classes": [3]}, "encoder") == Component.Config(
        sigma=2.0, classes=(3,)
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"wrods": 3}, "Did you mean 'words'"),
        ({"words": "many"}, "whole number"),
        ({"words": 2.5}, "whole number"),
        ({"words": True}, "whole number"),
        ({"sigma": "wide"}, "a number"),
        ({"whiten": "perhaps"}, "true or false"),
        ({"form": "c"}, "one of a, b"),
    ],
)
def test_wrong_values_say_what_was_expected(values: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_config(Component, values, "encoder")


@pytest.mark.parametrize(
    ("hint", "text", "value"),
    [
        (Literal[1, 2, 4], "2", 2),
        (Literal["auto", 8], "8", 8),
        (Literal[True, "some"], "true", True),
        (Literal["a", None], "none", None),
        (Literal[1, 2], 1.0, 1),
        (int | str, "3", 3),
        (int | str, "wide", "wide"),
        (int | float, "2.5", 2.5),
        (str | int, "3", "3"),
        (float | Literal["auto"] | None, "auto", "auto"),
        (int | None, "None", None),
        (str | None, "none", None),
        (tuple[int, ...] | str, "1,2", (1, 2)),
        (tuple[int | None, ...], "1,none", (1, None)),
    ],
)
def test_values_there_and_back(hint: Any, text: str, value: object) -> None:
    found = coerce(text, hint, "x")
    assert (found, type(found)) == (value, type(value))
    for again in (coerce(as_toml(found), hint, "x"), coerce(written(found), hint, "x")):
        assert (again, type(again)) == (value, type(value))


def test_a_number_stays_one_where_text_is_taken_first() -> None:
    assert coerce(3, str | int, "x") == 3
    assert coerce(2.0, int | float, "x") == 2.0


@pytest.mark.parametrize(
    ("hint", "message"),
    [
        (Literal[1, 2, 4], "x is one of 1, 2, 4, not '3'"),
        (int | Literal["auto"], "x is a whole number or one of auto, not '1.5'"),
    ],
)
def test_no_member_takes_it(hint: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        coerce("3" if hint == Literal[1, 2, 4] else "1.5", hint, "x")


@pytest.mark.parametrize("hint", [Path, Path | None, list[str], tuple[Path, ...], Any, object])
def test_types_that_no_file_can_hold_are_refused(hint: Any) -> None:
    class Odd:
        @dataclass(frozen=True)
        class Config:
            odd: Any = ()

    Odd.Config.__annotations__["odd"] = hint
    with pytest.raises(UsageError, match=r"encoder: option 'odd' of .*Odd is"):
        make_config(Odd, {}, "encoder")


def test_an_option_counts_from_the_layer_that_it_touches() -> None:
    config = Component.Config()
    assert "sqrt" not in config_for(config, "model")
    assert "sqrt" not in config_for(config, "local")
    assert "sqrt" in config_for(config, "codes")
    assert "zoom" not in config_for(config, "codes")
    assert config_for(config, "model")["words"] == 100
    with pytest.raises(ValueError, match="touches"):
        option(1, touches="nowhere")


def test_options_are_documented_by_their_comments() -> None:
    texts = {d.name: d.text for d in documented(Component)}
    assert texts["words"] == "size of the vocabulary"
    assert texts["sigma"] == "share of the shorter side, of the map"
    assert texts["whiten"] == ""


@dataclass(frozen=True)
class Aged:
    """Options of a component, some of them younger than its layers."""

    first: int = 1
    file: str = option("", digested=True)
    young: int = option(0, omitted_at_default=True)
    beside: float = option(0.5, only_with="young")
    late: str = option("", "codes")


def test_an_option_at_its_default_leaves_older_identities_as_they_were() -> None:
    assert config_for(Aged(file="/a"), "model") == {"first": 1}
    assert config_for(Aged(file="/a"), "codes") == {"first": 1, "late": ""}
    assert late(Aged(beside=0.7)) == {}
    assert late(Aged(young=3)) == {"young": 3, "beside": 0.5}
    assert late(Aged(young=3, beside=0.7)) == {"young": 3, "beside": 0.7}


@pytest.mark.parametrize(
    ("text", "stage", "name", "rest", "value"),
    [
        ("encoder.words=7", "encoder", "", "words", "7"),
        (" rerank.aqe.depth =a=b", "rerank", "aqe", "depth", "a=b"),
        ("dataset.x=", "dataset", "", "x", ""),
    ],
)
def test_assignments_are_taken_apart(text: str, stage: str, name: str, rest: str, value: str) -> None:
    given = parse_assignment(text)
    assert (given.stage, given.name, given.option, given.value) == (stage, name, rest, value)
    assert given.option_of_one == (f"{name}.{rest}" if name else rest)
    for wrong in ("encoder", "encoder=3", "encoder.words", "=3"):
        with pytest.raises(UsageError, match=r"stage\.option=value"):
            parse_assignment(wrong)
