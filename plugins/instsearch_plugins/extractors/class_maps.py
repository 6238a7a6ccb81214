"""What class activation maps take from a network beside its maps: the classifier's weights and the classes' names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from instsearch_cli.engine.registry import load_registry
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.networks.trained import card_of, load_json
from instsearch_cli.outside.text import shown
from instsearch_plugins.extractors.networks import Network

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

NAMES_OF = "vgg16"  #: any of torchvision's classifiers: all have the 1,000 classes of ImageNet in one order


def has_class_weights(extractor: type[Any]) -> bool:
    """Whether an extractor's network has a linear classifier over a global average of maps."""
    return issubclass(extractor, Network) and bool(extractor.head)


def network_of(name: str) -> type[Any]:
    """The class of an extractor by its name; EXTRACTOR:MODEL where it has several networks. Raises UsageError."""
    extractor, _, model = name.partition(":")
    component: type[Any] = load_registry().get("extractor", extractor).load()
    if not model:
        return component
    if not issubclass(component, Network):
        raise UsageError(f"extractor {extractor} has no models to choose from: name it without ':{model}'")
    return component.of(model)


def class_weights(network_class: type[Network], weights: str = "") -> Tensor:
    """The weights w of the linear layer over global average pooling: f32[C, K]; its bias is no part of a map.

    M_c(y, x) = sum_k w(c, k) f_k(y, x) is the class activation map of class c, f the CAM layer's K channels.
    ``weights`` as the extractor's option. Of the file nothing else is read where its format allows.

    Raises UsageError for a network without such a layer, InstsearchError for a file that lacks it.
    Reference: Zhou et al., Learning deep features for discriminative localization, 2016.
    """
    if not has_class_weights(network_class):
        raise UsageError(
            f"{network_class.architecture} has no linear classifier over a global average of maps, which class "
            f"activation maps are made from.\nTake an extractor that has: {', '.join(with_class_weights())}."
        )
    path = network_class.find(weights)
    state = network_class.import_weights(path)
    if network_class.head not in state:
        raise InstsearchError(
            f"{path}: no tensor {network_class.head!r}, the classifier's weights.\n"
            f"Give the weights file of the whole {network_class.architecture}."
        )
    w = state[network_class.head].float().flatten(1)  # a 1 x 1 convolution is linear at every cell
    return w.clone() if w.untyped_storage().nbytes() > w.nbytes else w


def class_names(network_class: type[Network], path: Path | None = None) -> list[str]:
    """The names of the classes that the network tells apart, in the order of its logits: torchvision's.

    With ``path`` those on the card beside the weights file, where it was trained on classes of its own.
    """
    from torchvision.models import get_model_weights

    if path is not None and (card := card_of(path)).is_file() and (own := load_json(card).get("classes")):
        if not isinstance(own, list) or not all(isinstance(name, str) for name in own):
            raise InstsearchError(f"{card}: classes is a list of names, not {shown(own)}")
        return own
    try:
        kind = get_model_weights(network_class.architecture)
    except ValueError:  # not one of torchvision's, and trained on the same classes
        kind = get_model_weights(NAMES_OF)
    return list(kind["DEFAULT"].meta["categories"])


def with_class_weights() -> list[str]:
    """Names of the extractors whose network has such a classifier."""
    found = []
    for name, offer in load_registry().offers["extractor"].items():
        try:
            component = offer.load()
        except InstsearchError:  # a broken plugin is no candidate
            continue
        if has_class_weights(component):
            found.append(name)
    return found
