"""The network that another one is trained on top of: an extractor's, as far as its layer, frozen or not."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instsearch_cli.errors import UsageError, nearest
from instsearch_cli.networks.weights import check_state_dict, needed
from instsearch_plugins.extractors.networks import DTYPES, SMALLEST, Network

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PREFIX = "network."  #: of its names in a weights file that has more than it
Precision = Literal["auto", "fp32", "fp16", "bf16"]


def extractors() -> dict[str, type[Network]]:
    """The networks of the extractors by torchvision's names."""
    found, todo = dict[str, type[Network]](), Network.__subclasses__()
    while todo:
        cls = todo.pop()
        todo += cls.__subclasses__()
        if "architecture" in vars(cls):
            found.setdefault(cls.architecture, cls)
    return found


class BasicConv:
    """Pixels u8[B, 3, H, W] in RGB -> maps f32[B, C, h, w] of one of the extractors' networks.

    ``network`` is that network without what lies behind the layer. It stays in evaluation mode, trained or
    not, so that batch normalisation keeps ImageNet's statistics. Frozen, it is computed in ``precision`` and
    without a graph; trained, its weights are fp32 and ``precision`` is that of the arithmetic. auto is, on a
    GPU, fp16 if frozen and bf16, whose gradients need no scaling, if not; fp32 elsewhere.

    Raises UsageError for a network or a layer that is not there, and for gradients in fp16; InstsearchError
    for weights that are not there or do not fit.
    """

    def __init__(
        self, name: str, layer: str, weights: str, device: torch.device, frozen: bool, precision: Precision
    ) -> None:
        known = extractors()
        if name not in known:
            raise UsageError(f"there is no network '{name}'.{nearest(name, known)}")
        gpu = device.type == "cuda"
        if precision == "auto":
            precision = ("fp16" if frozen else "bf16") if gpu else "fp32"
        if precision == "fp16" and not frozen:
            raise UsageError(
                "precision fp16 has no room for gradients of the whole network: take bf16 or fp32"
            )
        self.device, self.frozen, self.dtype = device, frozen, DTYPES[precision]
        config = Network.Config(layer=layer, weights=weights, precision=precision if frozen else "fp32")
        self.extractor = known[name](config, device)

    @property
    def network(self) -> nn.Module:
        """The network; gradients reach all of it, or nothing."""
        if not self._cut:
            _cut(self.extractor.network)
            self._cut = True
            self.extractor.network.requires_grad_(not self.frozen)
        return self.extractor.network

    _cut = False

    @property
    def channels(self) -> int:
        """C."""
        return self.shape(64)[0]

    def shape(self, side: int) -> tuple[int, int, int]:
        """C, h, w of the map of a square of ``side`` pixels, by a rehearsal."""
        with torch.no_grad():
            C, h, w = self(torch.zeros(1, 3, side, side, dtype=torch.uint8))[0].shape
        return C, h, w

    def __call__(self, pixels: Tensor) -> Tensor:
        """The maps of a batch."""
        assert self.network is not None  # cut
        u = pixels.to(self.device, non_blocking=True)
        x = self.extractor.prepare(u, self.dtype if self.frozen else torch.float32)
        h, w = x.shape[2:]
        if min(h, w) < SMALLEST:
            x = F.interpolate(x, size=(max(h, SMALLEST), max(w, SMALLEST)), mode="bilinear")
        mixed = not self.frozen and self.dtype != torch.float32
        with (
            torch.no_grad() if self.frozen else nullcontext(),
            torch.autocast(self.device.type, self.dtype) if mixed else nullcontext(),
        ):
            return self.extractor.forward(x)[0]

    def take(self, state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
        """Take over the weights called ``network.*`` among a file's tensors, and return them, if there are any.

        Raises InstsearchError if they are another network's.
        """
        own = {name.removeprefix(PREFIX): t for name, t in state.items() if name.startswith(PREFIX)}
        if own:
            names = needed(self.network)
            check_state_dict(self.network, names, own, path)
            self.network.load_state_dict({name: own[name] for name in names}, strict=False)
        return {PREFIX + name: tensor for name, tensor in own.items()}


def _cut(network: nn.Module) -> None:
    """Drop the modules that were given no weights, as they lie behind the layer."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if any(p.is_meta for p in child.parameters(recurse=False)):
                setattr(module, name, nn.Identity())
            elif isinstance(child, nn.BatchNorm2d):  # the counter, which nobody reads, was given no number
                child.num_batches_tracked = torch.zeros((), dtype=torch.long)
