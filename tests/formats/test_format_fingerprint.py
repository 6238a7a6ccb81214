"""The fingerprint names a set of options, whatever order they were written in."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instsearch_formats import FormatError, canonical, fingerprint

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def test_known_value():
    text = '{"a":[1,2.5,null],"b":{"c":true,"d":"\\u00e9"}}'
    identity = {"b": {"d": "é", "c": True}, "a": (1, 2.5, None)}
    assert canonical(identity) == text
    assert fingerprint(identity) == hashlib.sha256(text.encode()).hexdigest()


@given(st.dictionaries(st.text(), plain, max_size=6))
def test_order_of_keys_does_not_matter(identity):
    backwards = dict(reversed(identity.items()))
    assert fingerprint(backwards) == fingerprint(identity)
    assert canonical(identity).isascii()


def test_every_change_matters():
    identities = [
        {"k": 1},
        {"k": 1.0},
        {"k": "1"},
        {"k": True},
        {"k": [1]},
        {"k": None},
        {"K": 1},
        {},
        {"k": {}},
    ]
    assert len({fingerprint(identity) for identity in identities}) == len(identities)


@pytest.mark.parametrize(
    "identity",
    [
        {1: 2},
        {"a": {1: 2}},
        {"a": np.int64(1)},
        {"a": {1, 2}},
        {"a": float("nan")},
        {"a": [float("inf")]},
        {"a": b"x"},
    ],
)
def test_what_is_not_json_is_refused(identity):
    with pytest.raises(FormatError, match="identity"):
        fingerprint(identity)


def test_names_that_are_not_utf8():
    assert canonical({"name": b"\xe9".decode("utf-8", "surrogateescape")}) == '{"name":"\\udce9"}'
