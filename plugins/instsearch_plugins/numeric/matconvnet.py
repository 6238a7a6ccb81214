"""NetVLAD as its authors published it: networks of MatConvNet in MATLAB files.

    net.layers{i}.weights          cells of numbers: {w, b} of a convolution, w [h, w, in, out], b [out];
                                   {w, -c} of the VLAD layer, both [1, 1, D, K], or {w, b, -c} with b [1, K];
                                   {P, -P^T mu} of the PCA, P [1, 1, K D, d]
    net.meta.normalization.averageImage    [1, 1, 3] or [H, W, 3], what was taken from the pixels, 0 to 255 in RGB

Nothing else is read, names and types neither: layers are recognised by the shapes of their weights. The layer adds -c
to x, so that the words come with the other sign; its output is [1, K, D], read off with k fastest, in place of d here.

The VLAD layer of the published files is a MATLAB object, which only MATLAB reads. What makes it a struct, there:

    for i = 1:numel(net.layers), net.layers{i} = struct(net.layers{i}); end, save('FILE.mat', 'net', '-v7')

Reference: layerVLAD.m, layerVLADv2.m, addPCA.m and computeRepresentation.m of github.com/Relja/netvlad.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from instsearch_cli.errors import InstsearchError
from instsearch_cli.measure.matfile import read_mat
from instsearch_cli.outside.files import open_plain, read_bytes
from instsearch_plugins.numeric.netvlad import Vocabulary

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

MOST = 2 << 30  #: bytes of a file, and of what it holds; VGG-16's has 0.6 GB
MATLAB = (b"MATLAB 5.0 MAT-file", b"MATLAB 7.3 MAT-file")
AS_STRUCTS = (
    "In MATLAB: for i = 1:numel(net.layers), net.layers{i} = struct(net.layers{i}); end, "
    "save('FILE.mat', 'net', '-v7')"
)
VGG16 = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)  #: torchvision's numbers of its convolutions
REFINED = 2  #: times that the mean is corrected by what is left


class Published(NamedTuple):
    """A layer, and the whitening behind it as mean f32[K D] and projection f32[K D, d], if there is one."""

    words: Vocabulary
    whitening: tuple[Tensor, Tensor] | None


def is_matlab(path: Path) -> bool:
    """Whether a file says that it is MATLAB's."""
    with open_plain(path) as file:
        return file.read(19) in MATLAB


def read_layer(path: Path) -> Published:
    """The VLAD layer of a published network and its whitening. Raises InstsearchError for a file without."""
    layers = [weights for weights in _weights(path) if weights]
    places = [i for i, weights in enumerate(layers) if _is_vlad(weights)]
    if len(places) != 1:
        raise InstsearchError(
            f"{path}: no NetVLAD layer: of its {len(layers):,} layers with weights {len(places)} have words and what "
            f"assigns to them, both [1, 1, D, K]. If the layer is an object, make it a struct.\n{AS_STRUCTS}"
        )
    [place] = places
    w, *b, minus_c = layers[place]
    D, K = _matrix(w).shape
    words = Vocabulary(
        -_tensor(_matrix(minus_c).T),
        _tensor(_matrix(w).T),
        _tensor(b[0].reshape(-1)) if b else torch.zeros(K),
    )
    behind = layers[place + 1 :]
    if not behind:
        return Published(words, None)
    if [*map(len, behind)] != [2] or behind[0][0].shape[:3] != (1, 1, K * D) or behind[0][0].ndim != 4:
        raise InstsearchError(
            f"{path}: behind its NetVLAD layer of {K:,} words of {D:,} values is {_shown(behind[0])}, "
            f"no whitening [1, 1, {K * D:,}, d]"
        )
    P = _tensor(behind[0][0].reshape(D, K, -1).transpose(1, 0, 2).reshape(K * D, -1))
    b_w = _tensor(behind[0][1].reshape(-1))
    if len(b_w) != P.shape[1]:
        raise InstsearchError(f"{path}: a whitening to {P.shape[1]:,} values with {len(b_w):,} biases")
    return Published(words, (_mean(P, b_w, path), P))


def read_vgg16(path: Path, mean: tuple[float, ...], std: tuple[float, ...]) -> dict[str, Tensor]:
    """The convolutions below the VLAD layer by torchvision's names, for pixels u as (u / 255 - mean) / std.

    w'_c = 255 std_c w_c,  b' = b + sum_c (255 mean_c - a_c) sum_ij w_cij

    of the first one, which saw u - a, a the average image: equal but for the outermost pixels, where both take what is
    beyond the border for their own mean, some tenths of 255 apart. Raises InstsearchError for another network.
    """
    average: list[np.ndarray] = []
    convolutions = [
        weights
        for weights in _weights(path, average)
        if len(weights) == 2 and weights[0].ndim == 4 and weights[0].shape[0] > 1
    ]
    if len(convolutions) != len(VGG16) or convolutions[0][0].shape[2] != len(mean):
        raise InstsearchError(
            f"{path}: not VGG-16: {len(convolutions)} convolutions, wanted {len(VGG16)} of which the first is of RGB"
        )
    if not average:
        raise InstsearchError(f"{path}: has no net.meta.normalization.averageImage")
    state = {}
    for number, (w, b) in zip(VGG16, convolutions, strict=True):
        state[f"features.{number}.weight"] = _tensor(w.transpose(3, 2, 0, 1))
        state[f"features.{number}.bias"] = _tensor(b.reshape(-1))
    a = _tensor(average[0].reshape(-1, len(mean)).mean(0))
    first = state["features.0.weight"]
    m, s = torch.tensor(mean), torch.tensor(std)
    state["features.0.bias"] = state["features.0.bias"] + (first.sum((2, 3)) * (255 * m - a)).sum(1)
    state["features.0.weight"] = first * (255 * s)[:, None, None]
    return state


def _weights(path: Path, average: list[np.ndarray] | None = None) -> list[list[np.ndarray]]:
    """The numbers of each layer, [] for none; the average image into ``average``, if there is one."""
    data = read_bytes(path, MOST)
    try:
        net = read_mat(data, ("net",), MOST, lenient=True).get("net")
    except ValueError as error:
        raise InstsearchError(f"{path}: cannot be read: {error}.\nSave it in MATLAB with -v7.") from error
    net = _one(net)
    layers = net.get("layers")
    if not isinstance(layers, list) or not layers:
        raise InstsearchError(f"{path}: no network of MatConvNet: it has no net.layers")
    meta = _one(net.get("meta")) or net  # MatConvNet's older files have no meta
    image = _one(meta.get("normalization")).get("averageImage")
    if average is not None and isinstance(image, np.ndarray) and image.size % 3 == 0 and image.size:
        average.append(image)
    found: list[list[np.ndarray]] = []
    for layer in layers:
        weights = _one(layer).get("weights", [])
        numbers = isinstance(weights, list) and all(isinstance(x, np.ndarray) and x.size for x in weights)
        if numbers and not all(np.isfinite(x).all() for x in weights):
            raise InstsearchError(f"{path}: damaged: layer {len(found) + 1} has numbers that are not finite")
        found.append(weights if numbers else [])
    return found


def _one(value: Any) -> dict[str, Any]:
    """A struct, of which there is one; {} for anything else."""
    [struct] = value if isinstance(value, list) and len(value) == 1 else [None]
    return struct if isinstance(struct, dict) else {}


def _is_vlad(weights: list[np.ndarray]) -> bool:
    """Whether they are {w, -c} or {w, b, -c}."""
    first, last = weights[0], weights[-1]
    if len(weights) not in (2, 3) or first.shape != last.shape or _matrix(first).ndim != 2:
        return False
    return len(weights) == 2 or weights[1].size == first.shape[-1]


def _matrix(x: np.ndarray) -> np.ndarray:
    """[1, 1, D, K] -> [D, K]; others as they are."""
    return x[0, 0] if x.ndim == 4 and x.shape[:2] == (1, 1) else x


def _mean(P: Tensor, b: Tensor, path: Path) -> Tensor:
    """The mu f32[K D] of smallest norm with -P^T mu = b: P z, (P^T P) z = -b."""
    L, failed = torch.linalg.cholesky_ex(P.T @ P)
    if failed:
        raise InstsearchError(f"{path}: the whitening's directions depend on each other: it is no PCA")
    mu = torch.zeros(len(P))
    for _ in range(1 + REFINED):
        left = -b - P.T @ mu
        mu = mu + P @ torch.cholesky_solve(left[:, None], L)[:, 0]
    return mu


def _tensor(x: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(x, np.float32, order="C"))


def _shown(weights: list[np.ndarray]) -> str:
    return " and ".join(str([*x.shape]) for x in weights)
