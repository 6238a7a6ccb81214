"""The layers that a network's map comes from, and what went into each of them for one picture.

There are few kinds of layers; :mod:`.tracing` finds them in a network. Each says how it is computed, which
:func:`record` does, keeping what excitation backprop looks at again.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from instsearch_cli.errors import InstsearchError, UsageError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

INPUT = "input"  #: the picture itself, as a layer's name
Pair = tuple[int, int]


class Sliding(NamedTuple):
    """How a window slides over a map, in cells along y and x."""

    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)

    def reach(self, axis: int, n: int = 1) -> int:
        """Cells that n neighbouring outputs see."""
        return (n - 1) * self.stride[axis] + self.dilation[axis] * (self.kernel[axis] - 1) + 1


@dataclass(frozen=True, eq=False)
class Layer:
    """Something that makes one map of one or more; this one leaves each cell where it is (ReLU, dropout)."""

    name: str
    inputs: tuple[str, ...]
    run: Callable[..., Tensor] = field(repr=False)


@dataclass(frozen=True, eq=False)
class Convolution(Layer):
    """With the batch norm after it, if any, multiplied in. ``positive`` is max(weight, 0)."""

    sliding: Sliding
    groups: int
    positive: Tensor = field(repr=False)


@dataclass(frozen=True, eq=False)
class Scale(Layer):
    """A batch norm of its own: each channel times a factor f32[C, 1, 1], plus something."""

    factor: Tensor = field(repr=False)


@dataclass(frozen=True, eq=False)
class Pool(Layer):
    """Max or average pooling; ``sliding`` is None for an average over a number of parts."""

    sliding: Sliding | None
    maximum: bool = False
    ceil: bool = False


class Add(Layer):
    """The sum of two maps: the block's last layer first, then the shorter way past it."""


class Concatenate(Layer):
    """Channels of several maps one after the other."""


@dataclass(frozen=True)
class Circuit:
    """The layers below a layer, each after its inputs; the last one is the layer itself."""

    layers: dict[str, Layer]
    modules: dict[str, list[str]]  #: what each module of the network gave
    positive: set[str]  #: values that cannot be negative
    kept: set[str]  #: values that excitation backprop looks at
    folded: bool  #: whether batch norms are convolutions with one weight a channel, or factors of P

    @property
    def top(self) -> str:
        return next(reversed(self.layers))

    def find(self, name: str) -> str:
        """The value of a module, or of a layer by its own name. Raises UsageError if there is no such one."""
        found = {name} if name in self.layers or name == INPUT else {*self.modules.get(name, ())}
        if len(found) > 1:
            raise UsageError(f"The network uses layer '{name}' several times: name one that is used once.")
        if not found:
            raise UsageError(f"The network has no layer '{name}' on this way.{nearest(name, self.modules)}")
        return found.pop()

    def bottlenecks(self) -> Iterator[str]:
        """Values that everything above comes through, from the top down."""
        open_ends = {self.top}
        for layer in reversed(self.layers.values()):
            if len(open_ends) == 1:
                yield layer.name
            open_ends = (open_ends - {layer.name}) | {*layer.inputs}
        yield INPUT


@dataclass
class Recording:
    """The maps of one picture f32[C, h, w], those that are looked at again, and the shapes of all."""

    circuit: Circuit
    values: dict[str, Tensor]
    shapes: dict[str, tuple[int, int, int]]
    prepared: dict[tuple[str, str], Tensor] = field(default_factory=dict)  #: computed once, on demand

    @property
    def output(self) -> Tensor:
        """The layer's own map f32[C, h, w]."""
        return self.values[self.circuit.top]

    def sliding(self, layer: Convolution | Pool) -> Sliding:
        """How a layer's window slides; averages over parts are known only with a picture. Raises UsageError."""
        if layer.sliding:
            return layer.sliding
        (_, *size), (_, *parts) = self.shapes[layer.inputs[0]], self.shapes[layer.name]
        if any(n % part for n, part in zip(size, parts, strict=True)):
            raise UsageError(f"'{layer.name}' averages {size} cells to {parts}: parts of unequal size.")
        kernel = size[0] // parts[0], size[1] // parts[1]
        return Sliding(kernel, kernel)

    def stride(self, name: str) -> int:
        """Pixels from one cell of a value to the next, along y and x the larger."""
        strides = {INPUT: (1, 1)}
        for layer in self.circuit.layers.values():
            y, x = strides[layer.inputs[0]]
            if isinstance(layer, Convolution | Pool):
                step = self.sliding(layer).stride
                y, x = y * step[0], x * step[1]
            strides[layer.name] = y, x
        return max(strides[self.circuit.find(name)])

    def at(self, stride: int) -> str:
        """The first value below the top whose cells are at most ``stride`` pixels apart, and that has it all."""
        return next(name for name in self.circuit.bottlenecks() if self.stride(name) <= stride)


@torch.no_grad()
def record(circuit: Circuit, picture: Tensor) -> Recording:
    """What goes into each layer for one picture [3, H, W] or [1, 3, H, W], as the network takes it.

    Computed in f32, on the weights' device. Raises InstsearchError for a picture that is too small for a layer.
    """
    if picture.ndim == 4 and len(picture) != 1:
        raise ValueError(f"one picture at a time, not {len(picture)}")
    x = picture.reshape(1, *picture.shape[-3:]).float().contiguous(memory_format=torch.channels_last)
    values, shapes = {INPUT: x}, {INPUT: _shape(x)}
    uses = Counter(name for layer in circuit.layers.values() for name in layer.inputs)
    for layer in circuit.layers.values():
        sliding = layer.sliding if isinstance(layer, Convolution | Pool) else None
        if sliding:
            ceil = isinstance(layer, Pool) and layer.ceil
            for axis, n in enumerate(shapes[layer.inputs[0]][1:]):
                least = sliding.reach(axis) - 2 * sliding.padding[axis]
                if n >= (least - sliding.stride[axis] + 1 if ceil else least):
                    continue
                h, w = x.shape[2:]
                raise InstsearchError(f"A picture of {w} x {h} pixels is too small for layer '{layer.name}'.")
        values[layer.name] = layer.run(*(values[name] for name in layer.inputs))
        shapes[layer.name] = _shape(values[layer.name])
        uses.subtract(layer.inputs)
        for name in {*layer.inputs}:
            if not uses[name] and name not in circuit.kept:
                del values[name]
    return Recording(circuit, {name: value[0] for name, value in values.items()}, shapes)


def _shape(x: Tensor) -> tuple[int, int, int]:
    _, c, h, w = x.shape
    return c, h, w
