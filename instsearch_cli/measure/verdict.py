"""Is the object there at all: how well scores tell, on queries whose object is taken out of the collection.

The measures are those of open-set identification (Grother, Ngan, Hanaoka: Face Recognition Vendor Test, part 2):
the share of searches that find what is there, against the share that find what is not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

SHARES = (0.01, 0.05, 0.10)
"""False "found" rates at which the found rate is reported."""


def found_rate(best: ArrayLike, min_score: float) -> float:
    """The share of queries whose best score f32[Q] is at least ``min_score``; -inf stands for no hit."""
    return float(np.mean(np.asarray(best) >= min_score))


def threshold_at(absent: ArrayLike, share: float) -> float:
    """The lowest min-score at which at most this share of queries find what is not there.

    t = the float after the (floor(share Q) + 1)-th largest of the scores absent f32[Q], the least where all may pass
    """
    scores = np.sort(np.asarray(absent, np.float32))[::-1]
    allowed = int(np.floor(share * len(scores) + 1e-9))
    least = scores[allowed] if allowed < len(scores) else np.float32(-np.inf)
    return float(np.nextafter(least, np.float32(np.inf)))


def calibration_error(probability: ArrayLike, truth: ArrayLike, bins: int = 10) -> float:
    """Expected calibration error: how far probabilities are from the shares that come true.

    ECE = sum_b n_b / n |mean of p in bin b - share of true in bin b|

    over ``bins`` equal intervals of [0, 1]. probability f32[n], truth bool[n]; 0 where n = 0.
    Reference: Naeini, Cooper, Hauskrecht, AAAI 2015.
    """
    p, true = np.asarray(probability, np.float64), np.asarray(truth, np.float64)
    b = np.minimum((p * bins).astype(int), bins - 1)
    return float(np.abs(np.bincount(b, p - true)).sum() / max(len(p), 1))


def verdicts(
    present: Sequence[float],
    absent: Sequence[float],
    first: Sequence[tuple[float, bool]],
    min_score: float | None = None,
) -> dict[str, float]:
    """The numbers of Q queries, each asked with its object in the collection and without.

    present  the score of each one's best true hit, absent  that of the best hit without the object; -inf: none
    first    the score of the first hit of each search, and whether it is a true one

    "found at 5% false" is the share of queries whose object is found at the min-score at which 5 % of those without
    find one; with ``min_score`` there are "found" and "false found" at it. Where all scores are in [0, 1], there is
    the "calibration error" of first hits.
    """
    shares = {f"found at {100 * a:g}% false": found_rate(present, threshold_at(absent, a)) for a in SHARES}
    if min_score is not None:
        shares |= {"found": found_rate(present, min_score), "false found": found_rate(absent, min_score)}
    if first and all(0 <= score <= 1 for score, _ in first):
        scores, truth = zip(*first, strict=True)
        shares["calibration error"] = calibration_error(scores, truth)
    return shares
