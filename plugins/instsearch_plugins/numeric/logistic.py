"""Logistic regression of a few variables."""

from __future__ import annotations

import numpy as np
from scipy.special import expit

STEPS = 100  # of Newton's method at most


def logistic_regression(X: np.ndarray, y: np.ndarray, ridge: float = 0.01) -> np.ndarray:
    """argmin over w of sum_i log(1 + exp(-(2 y_i - 1) x_i w)) + ridge / 2 |w_1..|^2, by Newton's method.

    X f64[n, d], whose first column is the constant and not penalised; y bool[n] -> f64[d].
    """
    w = np.zeros(X.shape[1])
    penalty = np.diag([1e-9] + [ridge] * (X.shape[1] - 1))

    def loss(w: np.ndarray) -> float:
        z = X @ w
        return float(np.logaddexp(0, np.where(y, -z, z)).sum() + w @ penalty @ w / 2)

    for _ in range(STEPS):
        p = expit(X @ w)
        curvature = (X.T * (p * (1 - p))) @ X + penalty + 1e-12 * np.eye(len(w))
        step = np.linalg.solve(curvature, X.T @ (y - p) - penalty @ w)
        before = loss(w)
        while loss(w + step) > before and np.abs(step).max() > 1e-9:
            step /= 2  # far from the minimum Newton's step may be too long
        w = w + step
        if np.abs(step).max() < 1e-9:
            break
    return w
