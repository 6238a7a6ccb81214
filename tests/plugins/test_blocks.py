"""From saliency maps to weights of cells: the card's example and a plain loop."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from instsearch_plugins.numeric.blocks import block_max


def test_hand_computed_case():
    s = np.zeros((32, 32), np.uint8)
    s[3, 4], s[20, 5], s[2, 30] = 200, 100, 50
    torch.testing.assert_close(block_max(s, 2, 2), torch.tensor([[1, 0.25], [0.5, 0]]))


def test_all_zero_gives_ones():
    assert block_max(np.zeros((50, 40), np.uint8), 3, 2).tolist() == [[1, 1], [1, 1], [1, 1]]


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_plain_loop(h, w, seed):
    s = np.random.default_rng(seed).random((16 * h, 16 * w)).astype(np.float32)
    expected = [[s[16 * i : 16 * i + 16, 16 * j : 16 * j + 16].max() for j in range(w)] for i in range(h)]
    torch.testing.assert_close(block_max(s, h, w), torch.tensor(expected) / s.max())
