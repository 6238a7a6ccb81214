"""What a verb prints with --json, held against its schema."""

from __future__ import annotations

import json
from typing import Any

from jsonschema import Draft202012Validator

from instsearch_cli.report import schema


def parsed(text: str) -> Any:
    """One JSON value, without the NaN and Infinity that JSON does not have."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def valid(name: str, text: str) -> Any:
    """The JSON value, which the schema of that name describes."""
    value = parsed(text)
    validator = Draft202012Validator(schema(name))
    problems = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]
    assert not problems, problems
    return value
