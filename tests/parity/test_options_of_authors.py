"""What the papers leave open and their authors did another way: small options, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from instsearch_cli.errors import UsageError
from instsearch_cli.measure.saliency_metrics import sim
from instsearch_cli.options import late, make_config
from instsearch_plugins.encoders.cam import CAM
from instsearch_plugins.encoders.crow import CroW

CPU = torch.device("cpu")


def test_similarity_by_hand() -> None:
    """Stretched 0 1 / 3 2 is 0 1/3 1 2/3, over its sum 0 1/6 1/2 1/3; the other 1/2 0 1/2 0 of its sum."""
    P, Q = np.array([[0, 1], [3, 2]]), np.array([[5.0, 1], [5, 1]])
    assert sim(P, Q) == pytest.approx(0 + 0 + 0.5 + 0)
    assert sim(P, P) == pytest.approx(1)
    assert sim(2 * P + 7, P) == pytest.approx(1)
    assert np.isnan(sim(np.ones((2, 2)), P))
    with pytest.raises(ValueError, match="one shape"):
        sim(P, np.ones((3, 2)))


def test_class_vectors_are_joined_by_the_largest_of_each_value() -> None:
    D = torch.tensor([[0.6, 0.8, 0], [0, 0, 0], [-0.6, 0, 0.8]])
    most = CAM(CAM.Config(join="max"), CPU)
    assert torch.equal(most.joined(D), torch.tensor([[0.6, 0.8, 0.8]]))
    assert torch.equal(CAM(CAM.Config(), CPU).joined(D), D.sum(0, keepdim=True))
    assert torch.equal(most.joined(torch.zeros(2, 3)), torch.zeros(1, 3))
    assert "join" in late(CAM.Config(join="max"))


def test_pooled_vectors_may_stay_as_they_are() -> None:
    nothing: Any = None
    encoder = CroW(CroW.Config(whiten=False), CPU)
    assert encoder.fit(nothing, nothing) == {}
    encoder.load({})
    assert encoder.whitening is None
    with pytest.raises(UsageError, match="leave whiten on"):
        make_config(CroW, {"whiten": "false", "pairs": "p.csv"}, "encoder")
