"""Hamming embedding of local descriptors, and what is weighed with it.

Jegou, Douze and Schmid: "Hamming embedding and weak geometric consistency for large scale image search" (HE), ECCV
2008; "On the burstiness of visual elements", CVPR 2009; "Improving bag-of-features for large scale image search",
IJCV 2010. Learning is of tensors, all else of numpy arrays.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from instsearch_plugins.numeric.ranking import leads

if TYPE_CHECKING:
    import torch

BITS = 64
UNSIGNED = (
    "this vocabulary has no Hamming signatures: index again with --set encoder.signatures=true (encoder blcf), or "
    "take --searcher inverted"
)
CHUNK = 1 << 16  # descriptors projected at once while thresholds are learnt
TILE = 1 << 22  # distances between words in memory at once
SPARSE = 16  # times as many groups as matches are numbered anew
PLACES, STEPS = 1 << 10, 1 << 6  # places along each axis; steps of the scale, and of the angle
FINEST, PER_OCTAVE = -11, 8  # the first step of the scale over the longer side, in log2; steps in an octave
TURNS, OCTAVES = 24, (-4, 4)  # bins of weak geometric consistency: of 15 degrees, and of half octaves
OCTAVE_BINS = 2 * (OCTAVES[1] - OCTAVES[0]) + 1
AROUND = 12, 9  # eighths of an octave, 64ths of a turn: an inlier's tolerance, and a bin
TURN = np.rint(np.arange(STEPS) * (TURNS / STEPS)).astype(np.int64) % TURNS


def projection(D: int, seed: int) -> torch.Tensor:
    """P f32[64, D]: rows of random rotations of the D-dimensional space, drawn from ``seed``.

    The rows are orthonormal; where D < 64, each D of them are. Reference: HE, section 3.2.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    blocks = []
    for _ in range(-(-BITS // D)):
        Q, R = torch.linalg.qr(torch.randn(D, D, generator=generator, dtype=torch.float64))
        blocks.append((Q * R.diagonal().sign()).T)  # signs of R: uniform over rotations
    return torch.cat(blocks)[:BITS].float()


def thresholds(
    x: torch.Tensor, words: torch.Tensor, P: torch.Tensor, centroids: torch.Tensor
) -> torch.Tensor:
    """tau f32[K, 64]: the median of each projected coordinate among the descriptors of each word.

    tau_kb = median {P_b . x_i : a_i = k}

    An even number has the mean of the middle two; a word without a descriptor has its centroid for one.
    x f32[n, D], words a i64[n], P f32[64, D], centroids f32[K, D]. Reference: HE, section 3.2.
    """
    import torch

    tau = centroids @ P.T
    sizes = torch.bincount(words, minlength=len(centroids))
    order = words.argsort(stable=True)
    first = sizes.cumsum(0) - sizes
    for size in torch.unique(sizes[sizes > 0]).tolist():  # words of one size are sorted together
        for alike in (sizes == size).nonzero()[:, 0].split(max(1, CHUNK // size)):
            members = order[first[alike][:, None] + torch.arange(size, device=x.device)]
            y = (x[members.flatten()] @ P.T).view(len(alike), size, BITS).sort(dim=1).values
            tau[alike] = (y[:, (size - 1) // 2] + y[:, size // 2]) / 2
    return tau


def signatures(x: np.ndarray, words: np.ndarray, P: np.ndarray, tau: np.ndarray) -> np.ndarray:
    """The bits of descriptors within their words: i64[n], bit b of b_i being 1 where P_b . x_i > tau_(a_i)b.

    x f32[n, D], words a i64[n], P f32[64, D], tau f32[K, 64]. Reference: HE, equation 6.
    """
    return signed(x @ P.T, words, tau)


def signed(y: np.ndarray, words: np.ndarray, tau: np.ndarray) -> np.ndarray:
    """:func:`signatures` of what is projected already, y = P x: f32[n, 64]."""
    bits = np.packbits(y > tau[words], axis=1, bitorder="little")
    out: np.ndarray = bits.view("<u8")[:, 0].astype(np.int64)
    return out


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How many bits differ: u8[...] of u64[...]."""
    count: np.ndarray = np.bitwise_count(a ^ b)
    return count


def weights(sigma: float, threshold: int) -> np.ndarray:
    """What a match at each Hamming distance counts: w(h) = exp(-h^2 / sigma^2) up to ``threshold``, then 0.

    f32[65]; sigma 0 counts all alike. Reference: burstiness, section 2.2 (sigma = 16).
    """
    h = np.arange(BITS + 1, dtype=np.float64)
    w = np.exp(-np.square(h / sigma)) if sigma else np.ones(BITS + 1)
    w[threshold + 1 :] = 0
    return w.astype(np.float32)


def intra_image(score: np.ndarray, keypoint: np.ndarray, image: np.ndarray, n_images: int) -> np.ndarray:
    """Matches against bursts within an image: s_m / sqrt(sum of s over the same query keypoint and image).

    score f32[m] > 0, keypoint and image i64[m], of one query -> f32[m]. Reference: burstiness, section 3.2.
    """
    return _over_root_of_sum(score, keypoint.astype(np.int64) * n_images + image)


def inter_image(score: np.ndarray, keypoint: np.ndarray) -> np.ndarray:
    """Matches against what is everywhere: s_m / sqrt(sum of s over the same query keypoint, in all images).

    score f32[m] > 0, keypoint i64[m] -> f32[m]. Reference: burstiness, section 3.3.
    """
    return _over_root_of_sum(score, keypoint)


def _over_root_of_sum(score: np.ndarray, group: np.ndarray) -> np.ndarray:
    if (group[1:] >= group[:-1]).all():
        group = np.cumsum(leads(group))
    elif int(group.max()) > SPARSE * len(group):
        group = np.unique(group, return_inverse=True)[1]
    over: np.ndarray = (score / np.sqrt(np.bincount(group, score)).take(group)).astype(np.float32)
    return over


def consistent(
    score: np.ndarray, image: np.ndarray, growth: np.ndarray, turn: np.ndarray, n_images: int
) -> np.ndarray:
    """Weak geometric consistency: votes of matches that change scale alike, and turn alike.

    v_j = min(max_d H_jd, max_e G_je)

    where H_j sums the scores of image j's matches by their change of scale (half octaves), G_j by their turn (15
    degrees), each over three neighbouring bins, so that no peak is cut by a border.
    score f32[m], image i64[m]; growth int[m] and turn int[m], differences of what :func:`octaves` and :func:`turns`
    give -> f32[n_images]. Reference: HE, section 4.
    """
    H = _binned((OCTAVE_BINS, n_images), _octave(growth) * n_images + image, score)
    G = _binned((TURNS, n_images), TURN.take(turn & STEPS - 1) * n_images + image, score)
    H, G = _by_three(H, axis=0), _by_three(G, axis=0, around=True)
    votes: np.ndarray = np.minimum(H.max(axis=0), G.max(axis=0)).astype(np.float32)
    return votes


def _binned(shape: tuple[int, ...], cell: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Sums of the weights in each cell, f32; images are the last axis, where neighbouring bins add up fastest."""
    return np.bincount(cell, weight, math.prod(shape)).astype(np.float32).reshape(shape)


def _by_three(T: np.ndarray, axis: int, around: bool = False) -> np.ndarray:
    """Sums of three neighbouring bins along an axis, which goes round or ends."""
    sums = T.copy()
    S, T = np.moveaxis(sums, axis, 0), np.moveaxis(T, axis, 0)
    S[1:] += T[:-1]
    S[:-1] += T[1:]
    if around:
        S[0] += T[-1]
        S[-1] += T[0]
    return sums


def peaked(
    weight: np.ndarray, image: np.ndarray, growth: np.ndarray, turn: np.ndarray, n_images: int
) -> np.ndarray:
    """Which matches change scale and turn about as the heaviest of their image do together: bool[m].

    The heaviest are those of three by three neighbouring bins (half octaves, 15 degrees); about is within AROUND.
    weight f32[m], image i64[m]; growth and turn as :func:`consistent` takes them. Reference: Lowe 2004, section 7.3.
    """
    cell = (_octave(growth) * TURNS + TURN.take(turn & STEPS - 1)) * n_images + image
    T = _binned((OCTAVE_BINS, TURNS, n_images), cell, weight)
    T = _by_three(_by_three(T, axis=0), axis=1, around=True)
    d, e = np.divmod(T.reshape(-1, n_images).argmax(axis=0), TURNS)
    middle = np.rint(e * (STEPS / TURNS)).astype(np.int64)
    off = (turn - middle.take(image) + STEPS // 2 & STEPS - 1) - STEPS // 2
    near: np.ndarray = np.abs(off) <= AROUND[1]
    near &= np.abs(growth - (PER_OCTAVE * OCTAVES[0] + d * (PER_OCTAVE // 2)).take(image)) <= AROUND[0]
    return near


def _octave(growth: np.ndarray) -> np.ndarray:
    """Bins of half an octave, from 0 to OCTAVE_BINS - 1."""
    low, high = (PER_OCTAVE * end for end in OCTAVES)
    half = PER_OCTAVE // 2
    octave: np.ndarray = (np.clip(growth, low, high).astype(np.int64) - (low - half // 2)) // half
    return octave


def neighbours(centroids: torch.Tensor, m: int = 64) -> torch.Tensor:
    """The m words nearest to each word, itself first, fewer where there are fewer: i64[K, m].

    centroids f32[K, D], all different.
    """
    import torch

    half = centroids.square().sum(1) / 2
    near = [
        torch.addmm(half, some, centroids.T, beta=-1).topk(min(m, len(centroids)), dim=1).indices
        for some in torch.split(centroids, max(1, TILE // len(centroids)))
    ]
    return torch.cat(near)


def nearest_words(
    x: np.ndarray, words: np.ndarray, near: np.ndarray, centroids: np.ndarray, k: int, ratio: float
) -> tuple[np.ndarray, np.ndarray]:
    """Multiple assignment: the k nearest words of each descriptor that are not much farther than the nearest.

    {j among the k nearest of N(a_i) : |x_i - c_j| <= ratio |x_i - c_(a_i)|}

    where a_i, words i64[n], is the nearest word and N its neighbours, near i64[K, m]: m comparisons instead of K.
    x f32[n, D], centroids f32[K, D]. Returns the pairs, by descriptor and nearest first: number of
    the descriptor and word, both i64[p]. Raises ValueError where descriptors and centroids differ in length.
    Reference: IJCV 2010, section 4.4 (ratio 1.2).
    """
    import faiss

    if x.shape[1] != centroids.shape[1]:
        raise ValueError(f"descriptors have {x.shape[1]} values, and words {centroids.shape[1]}")

    around = near[words].astype(np.int64)
    squared = np.empty(around.shape, np.float32)
    x, centroids = (np.ascontiguousarray(v, np.float32) for v in (x, centroids))
    pointers = map(faiss.swig_ptr, (squared, x, centroids, around))
    faiss.fvec_L2sqr_by_idx(*pointers, x.shape[1], *around.shape)  # pyright: ignore[reportAttributeAccessIssue]
    order = np.argsort(squared, axis=1, kind="stable")[:, :k]
    squared = np.take_along_axis(squared, order, 1)
    taken = squared <= ratio**2 * squared[:, :1]
    taken[:, :1] = True
    return np.nonzero(taken)[0], np.take_along_axis(around, order, 1)[taken]


# -- geometry in 32 bits ------------------------------------------------------------------------------------


def octaves(scale: np.ndarray) -> np.ndarray:
    """log2 of pixels f32[n], in steps of 1/8: i16[n]."""
    steps: np.ndarray = np.rint(PER_OCTAVE * np.log2(np.maximum(scale, 1e-6))).astype(np.int16)
    return steps


def turns(degrees: np.ndarray) -> np.ndarray:
    """Angles f32[n] in steps of 1/64 turn: u8[n], below 64."""
    steps: np.ndarray = np.rint(degrees % 360 * (STEPS / 360)).astype(np.uint8) % STEPS
    return steps


def packed(geometry: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Keypoints in 32 bits: x and y to 1/1024 of the picture, scale to 1/8 octave, angle to 1/64 turn.

    geometry f32[n, 4] = x, y, scale, angle (degrees); size f32[n, 2] or [2], the pictures' width and height.
    Scales beyond 2^-11 to 2^-3 of the longer side are brought to the nearest of these. Returns u32[n].
    """
    size = np.broadcast_to(np.maximum(size, 1e-6), (len(geometry), 2))
    place = np.clip(geometry[:, :2] / size * PLACES, 0, PLACES - 1).astype(np.uint32)
    share = octaves(geometry[:, 2] / size.max(axis=1)) - FINEST * PER_OCTAVE
    scale = np.clip(share, 0, STEPS - 1).astype(np.uint32)
    bits: np.ndarray = place[:, 0] << 22 | place[:, 1] << 12 | scale << 6 | turns(geometry[:, 3])
    return bits


def place(bits: np.ndarray) -> np.ndarray:
    """x and y of what was :func:`packed` as one number below 2^20: i64[n]."""
    return (bits >> 12).astype(np.int64)


def steps(bits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of what was :func:`packed`: :func:`octaves` i16[n] of the scale over the longer side, :func:`turns` u8[n]."""
    return (bits >> 6 & STEPS - 1).astype(np.int16) + FINEST * PER_OCTAVE, (bits & STEPS - 1).astype(np.uint8)


def unpacked(bits: np.ndarray, size: np.ndarray) -> np.ndarray:
    """What was :func:`packed`, to the middle of each step: f32[n, 4]."""
    size = np.broadcast_to(np.asarray(size, np.float32), (len(bits), 2))
    out = np.empty((len(bits), 4), np.float32)
    out[:, 0] = ((bits >> 22) + np.float32(0.5)) * size[:, 0] / PLACES
    out[:, 1] = ((bits >> 12 & PLACES - 1) + np.float32(0.5)) * size[:, 1] / PLACES
    octave, turn = steps(bits)
    out[:, 2] = np.exp2(octave / np.float32(PER_OCTAVE)) * np.maximum(size[:, 0], size[:, 1])
    out[:, 3] = turn * np.float32(360 / STEPS)
    return out
