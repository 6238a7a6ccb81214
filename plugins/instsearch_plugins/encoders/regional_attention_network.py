"""The network that weighs regions (Kim and Yoon, "Regional attention based deep feature for image retrieval",
BMVC 2018)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from instsearch_cli.errors import InstsearchError
from instsearch_plugins.numeric.regional_attention import attention

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from instsearch_plugins.numeric.regional_attention import Hidden

CHANNELS, UNITS = 2048, 64  #: C of the published network, over ResNet-101; D
AUTHORS = {"conv_att_1": "context", "conv_att_2": "score"}  #: names of the layers in the published file


class ContextAttention(nn.Module):
    """r f32[..., R, C], g f32[..., C] -> phi f32[..., R] by :func:`attention`.

    Parameters ``context.weight`` f32[D, 2 C] = W_c, ``context.bias`` f32[D] = b_c, ``score.weight`` f32[1, D] = W_r
    and ``score.bias`` f32[1] = b_r.
    """

    def __init__(self, C: int, D: int = UNITS, hidden: Hidden = "tanh") -> None:
        super().__init__()
        self.context, self.score = nn.Linear(2 * C, D), nn.Linear(D, 1)
        self.hidden: Hidden = hidden

    def forward(self, r: Tensor, g: Tensor) -> Tensor:
        """What each region counts."""
        layers = (self.context.weight, self.context.bias, self.score.weight, self.score.bias)
        return attention(r, g, *layers, self.hidden)

    @property
    def channels(self) -> int:
        """C."""
        return self.context.in_features // 2


def shaped(state: Mapping[str, Tensor], hidden: Hidden, path: Path) -> ContextAttention:
    """A network of the shapes that a file's tensors have. Raises InstsearchError for a file of something else."""
    W_c, W_r = state.get("context.weight"), state.get("score.weight")
    if W_c is None or W_r is None or W_c.ndim != 2 or W_c.shape[1] % 2 or not W_c.numel():
        raise InstsearchError(
            f"{path}: not a regional attention's weights: no 'context.weight' of [D, 2 C] and 'score.weight'.\n"
            "Take a file that `instsearch train regional-attention` wrote, or the published one."
        )
    return ContextAttention(W_c.shape[1] // 2, len(W_c), hidden)


def by_own_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the authors' file, convolutions over one cell, as the linear layers that they are."""
    own = {}
    for name, x in state.items():
        layer, _, kind = name.removeprefix("region_attention.").rpartition(".")
        if layer in AUTHORS:
            own[f"{AUTHORS[layer]}.{kind}"] = x[..., 0] if x.ndim == 3 and x.shape[2] == 1 else x
        else:
            own[name] = x
    return own


def check_channels(network: ContextAttention, C: int, path: Path) -> None:
    """Raise InstsearchError unless features of C channels are what the network is for."""
    if network.channels != C:
        raise InstsearchError(
            f"{path} is for features of {network.channels:,} channels, and these have {C:,}: take the extractor and "
            "the layer (--set extractor.layer=...) that it was trained on; its card names them"
        )


def drawn(C: int, D: int, hidden: Hidden, seed: int) -> ContextAttention:
    """An untrained network: every number even in -1/sqrt(f) to 1/sqrt(f), f the inputs of its layer, by the seed."""
    with torch.device("meta"):
        network = ContextAttention(C, D, hidden)
    network.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in (network.context, network.score):
            for values in layer.parameters():
                values.uniform_(-(layer.in_features**-0.5), layer.in_features**-0.5, generator=generator)
    return network
