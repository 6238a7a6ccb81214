"""The graph of layers below one of a network's modules, found by following the network once (torch.fx).

Batch norms are multiplied into the convolutions before them. Whatever is of no known kind is an error that
names it.
"""

from __future__ import annotations

import operator
import threading
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.proxy import TraceError

from instsearch_cli.errors import UsageError, nearest
from instsearch_plugins.numeric.layers import (
    INPUT,
    Add,
    Circuit,
    Concatenate,
    Convolution,
    Layer,
    Pair,
    Pool,
    Scale,
    Sliding,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_TRACING = threading.Lock()
KNOWN = "convolution, batch norm, ReLU, max and average pooling, addition, concatenation, dropout"


class _Tracer(fx.Tracer):
    """Follows a network through its modules, past their hooks, and notes what each of them gave.

    While it does, torch.fx gets to see what every thread's modules do: other threads' are left alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.outputs: dict[str, list[str]] = {}
        self.thread = threading.get_ident()

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if threading.get_ident() != self.thread:
            return forward(*args, **kwargs)
        output = super().call_module(m, m.forward, args, kwargs)
        if isinstance(output, fx.Proxy):
            self.outputs.setdefault(self.path_of_module(m), []).append(output.node.name)
        return output

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if threading.get_ident() != self.thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)


def trace(network: nn.Module, layer: str, fold: bool = True) -> Circuit:
    """The layers from the picture to a layer of the network, ready to be computed in f32.

    ``fold`` multiplies a batch norm into the convolution before it: W' = W gamma / sqrt(v + eps). Everything
    is as in evaluation, whatever mode the network is in. What lies behind the layer is never looked at, and may
    have no weights. Raises UsageError if the layer is not there, if it uses an operation of unknown kind, or if
    there is no convolution below it.
    """
    tracer = _Tracer()
    try:
        with _TRACING:
            graph = tracer.trace(network)
    except TraceError as error:
        raise UsageError(
            f"{type(network).__name__} depends on its numbers, or cannot be traced: {error}"
        ) from error
    if layer not in tracer.outputs:
        raise UsageError(f"The network has no layer '{layer}'.{nearest(layer, tracer.outputs)}")
    if len(tracer.outputs[layer]) > 1:
        raise UsageError(f"The network uses layer '{layer}' several times: name one that is used once.")
    nodes = {node.name: node for node in graph.nodes}
    renamed: dict[str, str] = {}
    layers: dict[str, Layer] = {}
    depth = {INPUT: 0}
    for node in _below(nodes[tracer.outputs[layer][0]]):
        if node.op == "placeholder":
            renamed[node.name] = INPUT
            continue
        made = _layer(network, node, renamed, depth)
        before = layers.get(made.inputs[0])
        source = node.all_input_nodes[0]
        alone = len(source.users) == 1 and before is not None and source.name == before.name
        if fold and alone and isinstance(made, Scale) and isinstance(before, Convolution):
            module, batch_norm = (network.get_submodule(str(n.target)) for n in (source, node))
            layers[before.name] = _convolution(before.name, before.inputs, module, batch_norm)
            renamed[node.name] = before.name
            continue
        layers[node.name] = made
        renamed[node.name] = node.name
        depth[node.name] = 1 + max(depth[name] for name in made.inputs)
    if not any(isinstance(made, Convolution) for made in layers.values()):
        raise UsageError(f"There is no convolution below layer '{layer}'.")
    modules = {
        path: [renamed[name] for name in names]
        for path, names in tracer.outputs.items()
        if all(name in renamed for name in names)
    }
    looked_at = {
        name for made in layers.values() if type(made) not in (Layer, Concatenate) for name in made.inputs
    }
    return Circuit(layers, modules, _positive(layers), looked_at | {next(reversed(layers))}, fold)


def _below(top: fx.Node) -> list[fx.Node]:
    """A node and all that it comes from, each after its inputs."""
    needed = {top}
    nodes = list(top.graph.nodes)
    nodes = nodes[: nodes.index(top) + 1]
    for node in reversed(nodes):
        if node in needed:
            needed.update(node.all_input_nodes)
    return [node for node in nodes if node in needed]


def _positive(layers: dict[str, Layer]) -> set[str]:
    """Values that come out of a ReLU, and what leaves them positive."""
    found: set[str] = set()
    for layer in layers.values():
        rectified = type(layer) is Layer and layer.run in (F.relu, F.relu6)
        keeps = not isinstance(layer, Convolution | Scale) and all(name in found for name in layer.inputs)
        if rectified or keeps:
            found.add(layer.name)
    return found


def _same(x: Tensor) -> Tensor:
    return x


_FUNCTIONS: dict[Any, type[nn.Module]] = {
    **dict.fromkeys((F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"), nn.ReLU),
    F.relu6: nn.ReLU6,
    F.max_pool2d: nn.MaxPool2d,
    F.avg_pool2d: nn.AvgPool2d,
    F.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d,
    **dict.fromkeys((F.dropout, F.dropout2d, "contiguous"), nn.Identity),
}
_PARAMETERS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.MaxPool2d: ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
    nn.AvgPool2d: (
        "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override",
    ),
    nn.AdaptiveAvgPool2d: ("output_size",),
}  # fmt: skip
_ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
_CONCATENATIONS = (torch.cat, torch.concat, torch.concatenate)


def _layer(network: nn.Module, node: fx.Node, renamed: dict[str, str], depth: dict[str, int]) -> Layer:
    """The layer that a node of the traced graph is. Raises UsageError, with its name, if it is none."""
    target = node.target
    arguments: Any = node.args
    parts = (
        list(arguments[0]) if arguments and isinstance(arguments[0], list | tuple) else list(arguments[:2])
    )
    maps = all(isinstance(part, fx.Node) for part in parts) and len(parts) > 1
    plain = not {*node.kwargs} - {"dim", "axis"}
    function = node.op != "call_module"  # a module may have any name
    if function and target in _ADDITIONS and maps and plain:
        inputs = [renamed[part.name] for part in parts]
        return Add(node.name, tuple(sorted(inputs, key=lambda name: -depth[name])), torch.add)
    if function and target in _CONCATENATIONS and (maps or len(parts) == 1):
        along = {**dict(zip(("dim",), arguments[1:], strict=False)), **node.kwargs}
        if {*along} <= {"dim", "axis"} and next(iter(along.values()), 0) in (1, -3):
            inputs = [renamed[part.name] for part in parts]
            return Concatenate(node.name, tuple(inputs), lambda *maps: torch.cat(maps, 1))
    module: nn.Module | None = None
    if not function:
        module = network.get_submodule(str(target))
    elif target in _FUNCTIONS:
        kind = _FUNCTIONS[target]
        given = {**dict(zip(_PARAMETERS.get(kind, ()), arguments[1:], strict=False)), **node.kwargs}
        module = kind(**{name: given[name] for name in given if name in _PARAMETERS.get(kind, ())})
    inputs = [renamed[part.name] for part in node.all_input_nodes]
    made = _of_module(node.name, tuple(inputs), module) if len(inputs) == 1 and module is not None else None
    if made is None:
        what = type(module).__name__ if module is not None else getattr(target, "__name__", str(target))
        where = f"layer '{target}'" if not function else f"'{node.name}'"
        raise UsageError(
            f"Excitation backprop cannot pass through {where}, which is a {what} ({node.format_node()}).\n"
            f"It knows {KNOWN}: choose another network, or a layer before this one."
        )
    return made


def _of_module(name: str, inputs: tuple[str, ...], module: nn.Module) -> Layer | None:
    """The layer that one of torch's modules is, None if it is of no known kind."""
    match module:
        case nn.Conv2d() if module.padding_mode == "zeros":
            return _convolution(name, inputs, module)
        case nn.BatchNorm2d() if module.running_var is not None:
            factor, shift = (v[:, None, None] for v in _affine(module))
            return Scale(name, inputs, lambda x: torch.addcmul(shift, x, factor), factor)
        case nn.ReLU():
            return Layer(name, inputs, F.relu)
        case nn.ReLU6():
            return Layer(name, inputs, F.relu6)
        case nn.Identity() | nn.Dropout() | nn.Dropout2d():
            return Layer(name, inputs, _same)
        case nn.MaxPool2d() if not module.return_indices:
            sliding = Sliding(
                *(_pair(v) for v in (module.kernel_size, module.stride, module.padding, module.dilation))
            )
            pool: Any = module.forward  # of maxima alone, without their places
            return Pool(name, inputs, pool, sliding, maximum=True, ceil=module.ceil_mode)
        case nn.AvgPool2d():
            sliding = Sliding(*(_pair(v) for v in (module.kernel_size, module.stride, module.padding)))
            return Pool(name, inputs, module.forward, sliding, ceil=module.ceil_mode)
        case nn.AdaptiveAvgPool2d():
            return Pool(name, inputs, module.forward, None)
    return None


def _convolution(
    name: str, inputs: tuple[str, ...], module: nn.Module, batch_norm: nn.Module | None = None
) -> Convolution:
    """A convolution, with the batch norm after it multiplied in."""
    assert isinstance(module, nn.Conv2d)
    weight = module.weight.detach().float()
    bias = None if module.bias is None else module.bias.detach().float()
    if isinstance(batch_norm, nn.BatchNorm2d):
        factor, shift = _affine(batch_norm)
        weight = weight * factor[:, None, None, None]
        bias = shift if bias is None else shift + factor * bias
    weight = weight.contiguous(memory_format=torch.channels_last)
    kernel, stride, dilation = (_pair(v) for v in (module.kernel_size, module.stride, module.dilation))
    padding = module.padding
    if isinstance(padding, str):
        total = [d * (k - 1) if padding == "same" else 0 for k, d in zip(kernel, dilation, strict=True)]
        if any(n % 2 for n in total):
            raise UsageError(
                f"Excitation backprop cannot pass through layer '{name}': its padding is one-sided."
            )
        padding = total[0] // 2, total[1] // 2
    sliding, groups = Sliding(kernel, stride, _pair(padding), dilation), module.groups

    def run(x: Tensor) -> Tensor:
        return F.conv2d(x, weight, bias, stride, sliding.padding, dilation, groups)

    return Convolution(name, inputs, run, sliding, groups, weight.clamp(min=0))


def _affine(batch_norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """factor = gamma / sqrt(v + eps), shift = beta - mean factor: f32[C] each."""
    mean, variance = batch_norm.running_mean, batch_norm.running_var
    assert mean is not None
    assert variance is not None
    factor = (variance.float() + batch_norm.eps).rsqrt()
    if not batch_norm.affine:
        return factor, -mean.float() * factor
    factor = factor * batch_norm.weight.detach().float()
    return factor, batch_norm.bias.detach().float() - mean.float() * factor


def _pair(value: Any) -> Pair:
    """torch's sizes, one number for both or one for each."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])
