"""Hits of one image in places of their own, against a plain loop; overlap coefficients, by hand."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from instsearch_cli.boxes import overlap
from instsearch_plugins.numeric.ranking import separate

HIT = st.tuples(
    st.integers(0, 3),
    st.one_of(st.none(), st.tuples(*[st.integers(0, 6)] * 2, *[st.integers(1, 6)] * 2)),
)


def share(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    w, h = (max(0, min(a[i] + a[i + 2], b[i] + b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    return w * h / min(a[2] * a[3], b[2] * b[3])


@given(st.lists(HIT, max_size=20), st.integers(1, 4))
def test_equals_the_plain_loop(hits: list[tuple[int, tuple[int, ...] | None]], most: int) -> None:
    kept: list[int] = []
    for i, (image, box) in enumerate(hits):
        before = [hits[j][1] for j in kept if hits[j][0] == image]
        own = box is not None and all(other is None or share(box, other) < 0.5 for other in before)
        if not before or (own and len(before) < most):
            kept.append(i)
    boxes = [
        (np.nan,) * 4 if box is None else (*box[:2], box[0] + box[2], box[1] + box[3]) for _, box in hits
    ]
    images = np.array([image for image, _ in hits], np.int64)
    got_at = separate(images, np.array(boxes, np.float32).reshape(-1, 4), most)
    assert np.flatnonzero(got_at).tolist() == kept


def test_overlap_by_hand() -> None:
    a = np.float32([0, 0, 4, 4])
    others = np.float32([[2, 0, 6, 4], [1, 1, 3, 3], [5, 5, 9, 9], [np.nan] * 4])
    assert overlap(a, others).tolist() == [0.5, 1, 0, 0]
