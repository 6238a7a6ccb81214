"""The name that a set of options has on disk: sha256 of canonical JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from instsearch_formats.errors import FormatError


def canonical(identity: Mapping[str, Any]) -> str:
    """JSON of ``identity`` with sorted keys, no spaces and ASCII only: equal identities, equal text.

    Tuples count as lists. 1 and 1.0 differ. Raises FormatError for what JSON does not have: other
    types, keys that are no strings, NaN and infinities.
    """
    try:
        return json.dumps(_plain(identity), sort_keys=True, separators=(",", ":"), allow_nan=False)
    except ValueError as error:
        raise FormatError(f"an identity holds numbers that JSON does not have: {error}") from error


def fingerprint(identity: Mapping[str, Any]) -> str:
    """The sha256 of :func:`canonical`, as 64 hex digits."""
    return hashlib.sha256(canonical(identity).encode("ascii")).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise FormatError(f"an identity's keys are strings, not {key!r}")
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise FormatError(f"an identity holds plain JSON values, not {type(value).__name__}: {value!r}")
