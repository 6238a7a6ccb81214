"""How well a saliency map agrees with where people looked: the metrics of the MIT saliency benchmark.

P is the map that is judged, F the pixels that were fixated, Q the density of fixations; all are [H, W] of one
picture. Each metric is NaN where it has no value: on a flat map (KL has one there), without a fixation.

Reference: Bylinskii, Judd, Oliva, Torralba and Durand, "What do different evaluation metrics tell us about
saliency models?", 2019, and the benchmark's code.
"""

from __future__ import annotations

import numpy as np

EPSILON = float(np.finfo(np.float64).eps)


def auc_judd(P: np.ndarray, F: np.ndarray, jitter: float = 0.0, seed: int = 0) -> float:
    """Area under the curve of hits over false alarms, thresholds at the values of the fixated pixels.

    tp_i = i / n,  fp_i = (#{P >= t_i} - i) / (H W - n),  trapezoids from (0, 0) through all (fp_i, tp_i) to (1, 1)

    where t_1 >= ... >= t_n are the values of P at the n fixated pixels, repeated ones kept: i counts ranks, so
    pixels that share a value with a fixated one count against the map. ``jitter`` parts them: P + jitter U(0, 1)
    with a generator of ``seed``; the benchmark takes 1e-7, on maps with values in [0, 1].

    0.5 for chance. NaN on a flat map, and if no pixel or every pixel is fixated. Raises ValueError if the
    shapes differ.
    """
    P, F = _pair(P, F)
    F = F != 0
    n = np.count_nonzero(F)
    if jitter:
        P = P + jitter * np.random.default_rng(seed).random(P.shape)
    if not 0 < n < P.size or _flat(P):
        return float("nan")
    t = np.sort(P[F])[::-1]
    i = np.arange(1, n + 1)
    ordered = np.sort(P[t[-1] <= P])
    at_least = len(ordered) - np.searchsorted(ordered, t, side="left")
    tp = np.concatenate([[0], i / n, [1]])
    fp = np.concatenate([[0], (at_least - i) / (P.size - n), [1]])
    return float(np.sum(np.diff(fp) * (tp[1:] + tp[:-1]) / 2))


def nss(P: np.ndarray, F: np.ndarray) -> float:
    """Normalised scanpath saliency: the mean standard score of the fixated pixels.

    NSS = 1/n sum_{F} (P - mean P) / std P

    where std divides by H W - 1. 0 for chance, larger is better. NaN on a flat map or if no pixel is fixated.
    Raises ValueError if the shapes differ.
    """
    P, F = _pair(P, F)
    F = F != 0
    if not F.any() or _flat(P):
        return float("nan")
    return float((P[F].mean() - P.mean()) / P.std(ddof=1))


def cc(P: np.ndarray, Q: np.ndarray) -> float:
    """Pearson's correlation of the map and the density of fixations, over pixels.

    CC = sum (P - mean P) (Q - mean Q) / sqrt(sum (P - mean P)^2  sum (Q - mean Q)^2)

    In [-1, 1], 1 is best. NaN if either is flat. Raises ValueError if the shapes differ.
    """
    P, Q = _pair(P, Q)
    if _flat(P) or _flat(Q):
        return float("nan")
    p, q = (P - P.mean()).ravel(), (Q - Q.mean()).ravel()
    return float(p @ q / np.sqrt((p @ p) * (q @ q)))


def kl(P: np.ndarray, Q: np.ndarray) -> float:
    """Kullback-Leibler divergence KL(Q || P) of the map from the density of fixations, in nats.

    KL = sum Q log(e + Q / (P + e))

    where P and Q are first divided by their sums and e = 2.2204e-16. At least 0 (but for rounding), 0 is best;
    harsh on a map that is zero where people looked. NaN if either does not sum to more than 0. Raises
    ValueError if the shapes differ.
    """
    P, Q = _pair(P, Q)
    p, q = P.sum(), Q.sum()
    if not (p > 0 and q > 0):
        return float("nan")
    Q = Q / q
    return float(np.sum(Q * np.log(EPSILON + Q / (P / p + EPSILON))))


def sim(P: np.ndarray, Q: np.ndarray) -> float:
    """Similarity: what the map and the density of fixations have in common.

    SIM = sum min(P, Q)

    where each is first stretched to [0, 1] and divided by its sum, as the benchmark does. In [0, 1], 1 is best. NaN if
    either is flat. Raises ValueError if the shapes differ.
    """
    P, Q = _pair(P, Q)
    if _flat(P) or _flat(Q):
        return float("nan")
    p, q = ((X - X.min()) / (X.max() - X.min()) for X in (P, Q))
    return float(np.minimum(p / p.sum(), q / q.sum()).sum())


def _pair(A: np.ndarray, B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(A, np.float64), np.asarray(B, np.float64)
    if a.shape != b.shape:
        raise ValueError(f"maps of one picture have one shape, not {a.shape} and {b.shape}")
    return a, b


def _flat(P: np.ndarray) -> bool:
    return not (P.size and P.max() > P.min())
