"""What networks put out as maps: channels first or last, or tokens row by row, some of which are of no place."""

from __future__ import annotations

from itertools import product
from math import ceil, floor, log, sqrt
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch

if TYPE_CHECKING:
    from torch import Tensor

WHOLE = 1e-6  #: what a number of cells may be off a whole one


class Layout(NamedTuple):
    """How a layer's output is to be read.

    axes    of the output: B images, C channels, H x W cells, or N tokens
    prefix  tokens before those of cells: a class token, registers
    side    pixels that a token's cell is wide and high
    """

    axes: Literal["BCHW", "BHWC", "BNC"]
    prefix: int = 0
    side: float = 0.0


def layout_of(
    shape: tuple[int, ...], size: tuple[int, int], prefix: int = 0, channels_last: bool = False
) -> Layout | None:
    """How an output of ``shape`` is laid out, of one picture of ``size`` = (height, width) pixels; None: it has no map.

    Four axes are read so that cells are as nearly square as can be, |log (H / h) / (W / w)| least; where both ways are
    as good ``channels_last`` decides. Three are n tokens of square cells, s = sqrt(H W / n), behind ``prefix`` others
    or none.
    """
    H, W = size
    if len(shape) == 4 and shape[0] == 1:
        _, a, b, c = shape
        first, last = abs(log(H * c / (W * b))), abs(log(H * b / (W * a)))
        return Layout("BHWC" if last < first or (last == first and channels_last) else "BCHW")
    if len(shape) == 3 and shape[0] == 1:
        for before in dict.fromkeys((prefix, 0)):
            n = shape[1] - before
            if n > 0:
                s = sqrt(H * W / n)
                if max(abs(H / s - round(H / s)), abs(W / s - round(W / s))) < WHOLE:
                    return Layout("BNC", before, s)
    return None


def as_map(output: Tensor, layout: Layout, size: tuple[int, int]) -> Tensor:
    """An output of pictures of ``size`` = (height, width) pixels as maps [B, C, h, w].

    Raises ValueError for tokens that fill no grid of cells as wide and high as the layout's, rounded.
    """
    if layout.axes == "BCHW":
        return output
    if layout.axes == "BHWC":
        return output.permute(0, 3, 1, 2)
    B, N, C = output.shape
    n = N - layout.prefix
    sides = ((floor(x / layout.side + WHOLE), ceil(x / layout.side - WHOLE)) for x in size)
    for h, w in product(*sides):
        if h * w == n:
            return output[:, layout.prefix :].transpose(1, 2).reshape(B, C, h, w)
    raise ValueError(f"{n} tokens are no grid of cells of {layout.side:g} pixels over {size[0]} x {size[1]}")


def beside_class_token(maps: Tensor, output: Tensor) -> Tensor:
    """Each cell's channels, then those of the class token, an output's first: [B, C, h, w] -> [B, 2 C, h, w].

    Reference: Oquab et al., "DINOv2: Learning robust visual features without supervision", TMLR 2024, section 7.4.
    """
    return torch.cat([maps, output[:, 0, :, None, None].expand_as(maps)], 1)
