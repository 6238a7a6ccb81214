"""How excitation backprop hands a probability from a layer's output down to its inputs, for each kind of layer.

What depends on the picture alone (shares, and the excitation that divides) is computed for whole maps, once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from instsearch_plugins.numeric.layers import Add, Concatenate, Convolution, Layer, Pool, Recording, Scale
from instsearch_plugins.numeric.windows import Span, Window, cut

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from instsearch_plugins.numeric.layers import Sliding
    from instsearch_plugins.numeric.windows import Cell

DEAD = 1e-12  #: an output with less excitation than this hands nothing down
FEW = 16  #: channels


class Rules(NamedTuple):
    """What is open in how a probability goes down; the defaults are the paper's, or nearest to it.

    max_pool      all-one: like average pooling, as in the paper; argmax: to the largest input of each window
    residual      ratio-pos: by the positive part of each summand; ratio-signed: by the summands as they are, over
                  their sum; residual-only: nothing past the block; copy: all of it to both
    average_pool  excitation: by the inputs of each window; gradient: alike to all of them, as it is averaged

    The authors' later code has argmax, copy and gradient, and takes batch norms as gradients do: P times the factor,
    which a circuit traced with ``fold=False`` gives.
    """

    max_pool: Literal["all-one", "argmax"] = "all-one"
    residual: Literal["ratio-pos", "ratio-signed", "residual-only", "copy"] = "ratio-pos"
    average_pool: Literal["excitation", "gradient"] = "excitation"


PAPER = Rules()
AUTHORS = Rules("argmax", "copy", "gradient")


class Descent(NamedTuple):
    """Some P on their way down, each P in a window of its own."""

    recording: Recording
    windows: dict[str, Window]  #: of each value
    cells: Sequence[Cell]
    rules: Rules

    def down(self, layer: Layer, P: Tensor) -> Iterator[tuple[str, Tensor, Window]]:
        """What each input of a layer gets from P f32[K, C, n, m] on its output, and in which window.

        P is used up: its memory may be written to.
        """
        window = self.windows[layer.name]
        match layer:
            case Convolution() | Pool():
                yield layer.inputs[0], *self.slide(layer, P, window)
            case Scale():
                yield layer.inputs[0], P * self.cut(scaled(self.recording, layer), window), window
            case Concatenate():
                sizes = [self.recording.shapes[name][0] for name in layer.inputs]
                for name, part in zip(layer.inputs, torch.split(P, sizes, 1), strict=True):
                    yield name, part, window
            case Add():
                first, second = layer.inputs
                if self.rules.residual in ("copy", "residual-only"):
                    yield first, P, window
                    if self.rules.residual == "copy":
                        yield second, P.clone(), window
                else:
                    for name, share in zip(
                        layer.inputs, shares(self.recording, layer, self.rules.residual), strict=True
                    ):
                        yield name, P * self.cut(share, window), window
            case _:
                yield layer.inputs[0], P, window

    def cut(self, A: Tensor, window: Window) -> Tensor:
        return cut(A, window, self.cells)

    def slide(self, layer: Convolution | Pool, P: Tensor, window: Window) -> tuple[Tensor, Window]:
        """P_A = A * (W+ transposed)(P / N), and the window of the input that it is in."""
        sliding = self.recording.sliding(layer)
        if isinstance(layer, Pool) and sliding.kernel == (1, 1) == sliding.stride:
            return P, window
        under = window.under(sliding)
        if isinstance(layer, Pool) and layer.maximum and self.rules.max_pool == "argmax":
            chosen = self.cut(winners(self.recording, layer), window)
            return spread(P, sliding, chosen), under
        if isinstance(layer, Pool) and not layer.maximum and self.rules.average_pool == "gradient":
            return spread(P.mul_(self.cut(averaged(self.recording, layer), window)), sliding), under
        P = P.mul_(self.cut(reciprocal(self.recording, layer), window))
        if isinstance(layer, Pool):
            part = spread(P, sliding)
        else:
            crop = [margin(a, b) for a, b in zip(under, self.windows[layer.inputs[0]], strict=True)]
            under = under.shrunk(*crop)
            part = transposed(P, layer, crop)
        return part.mul_(self.cut(activation(self.recording, layer.inputs[0]), under)), under


def transposed(P: Tensor, layer: Convolution, crop: Sequence[int]) -> Tensor:
    """The positive convolution's transpose, less ``crop`` cells at either end.

    With a stride s and few channels, as from the first layer to the picture, it is several times faster as a
    convolution to s x s times as many channels, which are the cells between those of P.
    """
    _, stride, _, dilation = layer.sliding
    s, groups = stride[0], layer.groups
    if stride != (s, s) or s == 1 or dilation != (1, 1) or groups > 1 or layer.positive.shape[1] > FEW:
        return F.conv_transpose2d(P, layer.positive, None, stride, tuple(crop), 0, groups, dilation)
    d, c, *kernel = layer.positive.shape
    m, n = (-(-k // s) for k in kernel)
    weight = F.pad(layer.positive, (0, n * s - kernel[1], 0, m * s - kernel[0])).reshape(d, c, m, s, n, s)
    weight = weight.permute(1, 3, 5, 0, 2, 4).reshape(c * s * s, d, m, n).flip(2, 3)
    part = F.pixel_shuffle(F.conv2d(P, weight, padding=(m - 1, n - 1)), s)
    h, w = (layer.sliding.reach(axis, size) for axis, size in enumerate(P.shape[2:]))
    return part[:, :, crop[0] : h - crop[0], crop[1] : w - crop[1]]


def margin(a: Span, b: Span) -> int:
    """How many cells of a are outside b at either end, the smaller number."""
    if a.scale != b.scale:
        return 0
    return max(0, min(b.first - a.first, a.first + a.size - b.first - b.size))


def once(recording: Recording, name: str, what: str, compute: Callable[[], Tensor]) -> Tensor:
    """What was computed before for this picture, or what ``compute`` gives."""
    if (name, what) not in recording.prepared:
        recording.prepared[name, what] = compute()
    return recording.prepared[name, what]


def activation(recording: Recording, name: str) -> Tensor:
    """A f32[C, h, w], less its smallest value where that can be negative."""
    A = recording.values[name]
    if name in recording.circuit.positive:
        return A
    return once(recording, name, "activation", lambda: A - A.amin().clamp(max=0))


def reciprocal(recording: Recording, layer: Convolution | Pool) -> Tensor:
    """1 / N of what excites each output, N = W+ A without the bias, and 0 where N <= 1e-12: f32[C, h, w]."""

    def compute() -> Tensor:
        A, sliding = activation(recording, layer.inputs[0]), recording.sliding(layer)
        if isinstance(layer, Convolution):
            _, stride, padding, dilation = sliding
            N = F.conv2d(A[None], layer.positive, None, stride, padding, dilation, layer.groups)[0]
        else:
            N = gathered(A, sliding, recording.shapes[layer.name][1:])
        return F.threshold(N, DEAD, torch.inf, inplace=True).reciprocal_()

    return once(recording, layer.name, "reciprocal", compute)


def averaged(recording: Recording, layer: Pool) -> Tensor:
    """What each input of a window counts in its average, however it treats what is outside: f32[1, h, w]."""

    def compute() -> Tensor:
        A = recording.values[layer.inputs[0]]
        ones = A.new_ones(1, *A.shape[1:])
        average = layer.run(ones[None])[0]
        counted: Tensor = average / gathered(ones, recording.sliding(layer), average.shape[1:]).clamp(min=1)
        return counted

    return once(recording, layer.name, "averaged", compute)


def scaled(recording: Recording, layer: Scale) -> Tensor:
    """The share of P that a batch norm of its own hands down, f32[C, h, w] of 0 and 1; its factor if not folded.

    It is a convolution with one weight for each channel, so that all goes down where A factor > 0.
    """
    if not recording.circuit.folded:
        return layer.factor.expand(recording.shapes[layer.name])
    A = activation(recording, layer.inputs[0])
    return once(recording, layer.name, "scaled", lambda: (A * layer.factor > DEAD).float())


def shares(recording: Recording, layer: Add, residual: str) -> tuple[Tensor, Tensor]:
    """Which share of P each summand gets, f32[C, h, w] twice.

    ratio-pos:     b+ / (b+ + s+), 1/2 where both are 0
    ratio-signed:  b / (b + s), 0 where the sum is not positive
    """
    b, s = (recording.values[name] for name in layer.inputs)

    def compute() -> Tensor:
        if residual == "ratio-signed":
            total = b + s
            return torch.stack([b / total, s / total]).masked_fill_(total <= DEAD, 0)
        positive, other = b.clamp(min=0), s.clamp(min=0)
        total = positive + other
        share = torch.where(total > 0, positive / total, 0.5)
        return torch.stack([share, 1 - share])

    first, second = once(recording, layer.name, residual, compute)
    return first, second


def winners(recording: Recording, layer: Pool) -> Tensor:
    """Which cell of its window each output of a max pooling is, in reading order: f32[C, h, w]."""

    def compute() -> Tensor:
        A, (kernel, stride, padding, dilation) = recording.values[layer.inputs[0]], recording.sliding(layer)
        ceil = layer.ceil
        _, index = F.max_pool2d(A[None], kernel, stride, padding, dilation, ceil, return_indices=True)
        _, h, w = recording.shapes[layer.name]
        y, x = index[0] // A.shape[2], index[0] % A.shape[2]
        y = y - (torch.arange(h, device=A.device) * stride[0] - padding[0])[:, None]
        x = x - (torch.arange(w, device=A.device) * stride[1] - padding[1])
        return (y // dilation[0] * kernel[1] + x // dilation[1]).float()

    return once(recording, layer.name, "winners", compute)


def gathered(A: Tensor, sliding: Sliding, size: Sequence[int]) -> Tensor:
    """Sum of A f32[C, H, W] in each window, nothing counted outside the map: f32[C, h, w]."""
    pad: list[int] = []
    for axis in (1, 0):
        left = sliding.padding[axis]
        pad += [left, sliding.reach(axis, size[axis]) - left - A.shape[1 + axis]]
    A = F.pad(A, pad)
    A = total([A[:, ys] for ys in steps(sliding, 0, size[0])])
    return total([A[:, :, xs] for xs in steps(sliding, 1, size[1])])


def total(parts: list[Tensor]) -> Tensor:
    """Their sum."""
    result = parts[0].clone()
    for part in parts[1:]:
        result += part
    return result


def spread(P: Tensor, sliding: Sliding, chosen: Tensor | None = None) -> Tensor:
    """The transpose of :func:`gathered`, f32[K, C, n, m] to all that it sees; or to the chosen cells alone."""
    n, m = P.shape[2:]
    size = (sliding.reach(0, n), sliding.reach(1, m))
    rows, columns = (list(steps(sliding, axis, count)) for axis, count in enumerate((n, m)))
    whole = zeros(P, size)
    if chosen is not None:
        for i, ys in enumerate(rows):
            for j, xs in enumerate(columns):
                whole[:, :, ys, xs] += P * (chosen == i * len(columns) + j)
        return whole
    tall = zeros(P, (size[0], m))
    for ys in rows:
        tall[:, :, ys] += P
    for xs in columns:
        whole[:, :, :, xs] += tall
    return whole


def zeros(like: Tensor, size: tuple[int, int]) -> Tensor:
    """f32[K, C, n, m] of another size, channels last."""
    return like.new_zeros(len(like), *size, like.shape[1]).permute(0, 3, 1, 2)


def steps(sliding: Sliding, axis: int, n: int) -> Iterator[slice]:
    """For each place in the kernel, the cells that n windows have there."""
    stride, dilation = sliding.stride[axis], sliding.dilation[axis]
    for i in range(sliding.kernel[axis]):
        yield slice(i * dilation, i * dilation + (n - 1) * stride + 1, stride)
