"""Excitation backprop: where in the picture the response of a deep layer comes from.

As in Zhang et al., Top-down neural attention by excitation backprop, IJCV 2018 (ECCV 2016), whose authors say
that a patent on it is pending; for peaks of a network's last map by Xiao et al., Deeply activated salient region
for instance search, 2020 (section 3.1).

A probability P over the cells and channels of a layer's output goes down to its input A >= 0 by the share that
each input has in the outputs' excitation. That is linear in P, and what divides it depends on the picture alone:
it is computed once, and any number of P go down together. One that starts from few cells is carried in windows
of the maps as large as what these cells see, for as long as that is much smaller than the maps.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from instsearch_cli.errors import UsageError
from instsearch_plugins.numeric.excitation_rules import AUTHORS, PAPER, Descent, Rules
from instsearch_plugins.numeric.layers import INPUT, Convolution, Layer, Pool, Recording
from instsearch_plugins.numeric.windows import Window, place, union, whole

if TYPE_CHECKING:
    from instsearch_plugins.numeric.windows import Cell

__all__ = ["AUTHORS", "PAPER", "Rules", "maps", "propagate", "seeds"]
MEMORY = 2**30  #: bytes


def seeds(X: Tensor, cells: list[Cell], start: Literal["activation", "uniform"] = "activation") -> Tensor:
    """The distribution over channels that each peak starts from.

    P(c) = X_c / sum X  at the peak's cell, as in the paper; 1 / C with ``uniform``, as in its authors' code

    X: f32[C, h, w], negative values counting as 0; cells: (y, x) of K peaks. Returns f32[K, C, 1, 1] for
    :func:`propagate`. A cell with no activation starts uniformly.
    """
    if not cells:
        return X.new_zeros(0, len(X), 1, 1)
    at = torch.stack([X[:, y, x] for y, x in cells]).clamp(min=0)
    if start == "uniform":
        at = torch.zeros_like(at)
    total = at.sum(1, keepdim=True)
    return torch.where(total > 0, at / total, 1 / at.shape[1])[:, :, None, None]


def propagate(
    recording: Recording,
    P: Tensor,
    cells: list[Cell] | None = None,
    to: str = INPUT,
    rules: Rules = PAPER,
    memory: int = MEMORY,
    windows: bool = True,
) -> Tensor:
    """K distributions over a layer's map, taken down to a lower layer together.

    P_A(a) = A_a sum_b W+_ab P(b) / N_b,  N_b = sum_a A_a W+_ab,  0 where N_b <= 1e-12

    for convolutions, W+ = max(W, 0) without the bias; poolings have W = 1. An A with negative values is
    taken less its smallest one. The sum of P stays as it is, but for outputs without excitation.

    P: f32[K, C, h, w] on the recorded layer, or f32[K, C, n, m] with ``cells``, the (y, x) of each P's first cell
    there. ``to`` is a module of the network, or a layer of the circuit, that all of it comes through
    (:meth:`Recording.at`). ``memory`` in bytes bounds what is held at once besides the result: if need be the
    K go down some at a time. ``windows=False`` always takes whole maps, to the same result.

    Returns f32[K, C', h', w'] on that layer's output. Raises UsageError if ``to`` is not there or is not
    passed by everything, or if ``memory`` does not hold one distribution.
    """
    return _descend(recording, P, cells, to, rules, memory, windows, summed=False)


def maps(
    recording: Recording,
    P: Tensor,
    cells: list[Cell] | None = None,
    to: str = INPUT,
    rules: Rules = PAPER,
    memory: int = MEMORY,
    windows: bool = True,
) -> Tensor:
    """:func:`propagate` summed over channels: f32[K, h', w'], which is much smaller."""
    return _descend(recording, P, cells, to, rules, memory, windows, summed=True)[:, 0]


@dataclass(frozen=True)
class _Plan:
    """The layers that P goes through, from the top, the window of each value, and the bytes for one P."""

    layers: list[Layer]
    windows: dict[str, Window]
    to: str
    bytes: int


@torch.no_grad()
def _descend(
    recording: Recording,
    P: Tensor,
    cells: list[Cell] | None,
    to: str,
    rules: Rules,
    memory: int,
    windows: bool,
    summed: bool,
) -> Tensor:
    top, to = recording.circuit.top, recording.circuit.find(to)
    c, h, w = recording.shapes[top]
    if P.ndim != 4 or P.shape[1] != c or (cells is None and P.shape[2:] != (h, w)):
        raise ValueError(f"P is {list(P.shape)}, the layer's map has {c} channels of {h} x {w} cells")
    if cells is None:
        cells, P = _support(P)
    if not all(0 <= y <= h - P.shape[2] and 0 <= x <= w - P.shape[3] for y, x in cells):
        raise ValueError(f"some of {cells} are no cells of a map of {h} x {w}")
    plan = _plan(recording, to, (P.shape[2], P.shape[3]), windows)
    if plan.bytes > memory:
        raise UsageError(
            f"Excitation backprop takes {plan.bytes / 2**20:.0f} MiB for one peak, and {memory / 2**20:.0f} MiB are "
            "allowed: allow more, use smaller pictures or stop at a layer before the picture."
        )
    c, h, w = recording.shapes[to]
    result = P.new_zeros(len(P), 1 if summed else c, h, w, dtype=torch.float32)
    n = memory // plan.bytes
    for i in range(0, len(P), n):
        descent = Descent(recording, plan.windows, cells[i : i + n], rules)
        part = _carry(descent, plan.layers, P[i : i + n].float().clone())[to]
        part = part.sum(1, keepdim=True) if summed else part
        place(part, plan.windows[to], whole(h, w), descent.cells, result[i : i + n])
    return result


def _carry(descent: Descent, layers: list[Layer], P: Tensor) -> dict[str, Tensor]:
    """P in windows of the first layer's output, through all the layers: what is left at the end, by value."""
    top, cells = descent.recording.circuit.top, descent.cells
    live = {top: place(P, Window.of(*P.shape[2:]), descent.windows[top], cells)}
    for layer in layers:
        if layer.name in live:
            for name, part, window in descent.down(layer, live.pop(layer.name)):
                live[name] = place(part, window, descent.windows[name], cells, live.get(name))
    return live


def _support(P: Tensor) -> tuple[list[Cell], Tensor]:
    """Equal windows around what is not zero in each of f32[K, C, h, w]: their first cells, and P in them."""
    k, _, h, w = P.shape
    found = (P != 0).any(1)
    firsts, sizes = [], []
    for axis, n in ((2, h), (1, w)):
        line = found.any(axis).int()
        first, end = line.argmax(1), n - line.flip(1).argmax(1)
        sizes.append(int(((end - first) * line.amax(1)).amax().clamp(min=1)) if k else 1)
        firsts.append(first.clamp(max=n - sizes[-1]).tolist())
    cells = list(zip(*firsts, strict=True))
    parts = [p[:, y : y + sizes[0], x : x + sizes[1]] for p, (y, x) in zip(P, cells, strict=True)]
    return cells, torch.stack(parts) if parts else P[:, :, :1, :1]


def _plan(recording: Recording, to: str, size: tuple[int, int], windows: bool) -> _Plan:
    """Which way P goes, and in which windows. Raises UsageError if some of it would miss ``to``."""
    circuit, shapes = recording.circuit, recording.shapes
    wanted: dict[str, list[Window]] = defaultdict(list)
    wanted[circuit.top].append(Window.of(*size))
    chosen: dict[str, Window] = {}
    layers: list[Layer] = []
    live: dict[str, int] = {}
    most = 0
    for name in (*reversed(circuit.layers), INPUT):
        if name not in wanted:
            continue
        window = chosen[name] = union(wanted[name], shapes[name][1:], windows)
        live[name] = 4 * shapes[name][0] * window.area
        if name == to:
            continue
        if name == INPUT:
            raise UsageError(
                f"Not all of '{circuit.top}' comes through '{to}': name a layer that it all does."
            )
        layer = circuit.layers[name]
        layers.append(layer)
        held, below = sum(live.values()), 0
        for source in layer.inputs:
            under = _under(recording, layer, window)
            wanted[source].append(under)
            below = max(below, 4 * shapes[source][0] * under.area)
        most = max(most, held + 2 * live.pop(name) + 4 * below)
    return _Plan(layers, chosen, to, max(most, 1))


def _under(recording: Recording, layer: Layer, window: Window) -> Window:
    """What a window of a layer's output sees of its input."""
    if isinstance(layer, Convolution | Pool):
        return window.under(recording.sliding(layer))
    return window
