"""What noise in preference strength does to a fitted reward, and what selections do about it (selection on a known world).

A pair has features x, true margin x.w > 0, and a label drawn from sigmoid(x.w + noise). Noise shrinks the fitted vector;
a random subset leaves the shrinkage as it is; the largest noisy margins overshoot, the smallest shrink further.
"""

from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from scipy.special import expit

from pairwright.select.run import Selection, select

D, N, SIZE = 8, 20_000, 2.0


def world(noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, w, and the noisy strength of each pair."""
    rng = np.random.default_rng(seed)
    w = rng.normal(size=D)
    w *= SIZE / np.linalg.norm(w)
    x = rng.normal(size=(N, D))
    x *= np.sign(x @ w)[:, None]
    return x, w, x @ w + noise * rng.normal(size=N)


def fit(x: np.ndarray, strength: np.ndarray, l2: float = 1e-3) -> np.ndarray:
    """Logistic regression on soft labels sigmoid(strength), by Newton."""
    theta, p = np.zeros(D), expit(strength)
    for _ in range(50):
        q = expit(x @ theta)
        gradient = x.T @ (q - p) / len(x) + l2 * theta
        hessian = (x * (q * (1 - q))[:, None]).T @ x / len(x) + l2 * np.eye(D)
        step = np.linalg.solve(hessian, gradient)
        theta -= step
        if np.abs(step).max() < 1e-10:
            return theta
    raise AssertionError("the fit did not settle")


def ratio(x: np.ndarray, w: np.ndarray, strength: np.ndarray, l2: float = 1e-3) -> float:
    """Length of the fitted vector along w, as a share of that of w."""
    theta = fit(x, strength, l2)
    assert theta @ w / (np.linalg.norm(theta) * SIZE) > 0.93  # the direction stays
    return float(theta @ w / SIZE**2)


def test_noise_shrinks_and_a_random_subset_does_not_change_that() -> None:
    ratios = []
    for noise in (0.0, 0.5, 1.0, 2.0, 4.0, 8.0):
        x, w, strength = world(noise)
        ratios.append(ratio(x, w, strength))
        pairs = pl.DataFrame({"pair_id": np.arange(N), "margin": strength})
        some = select(pairs, Selection(rule="random", keep=0.25)).table["kept"].to_numpy()
        assert ratio(x[some], w, strength[some]) == pytest.approx(ratios[-1], abs=0.05)
    assert ratios[0] == pytest.approx(1, abs=0.03)
    assert all(left > right for left, right in pairwise(ratios))


def test_the_largest_margins_overshoot_and_the_smallest_shrink() -> None:
    x, w, strength = world(4.0)
    pairs = pl.DataFrame({"pair_id": np.arange(N), "margin": strength})
    whole = ratio(x, w, strength)
    grown = []
    for keep in (0.5, 0.25, 0.1):
        took = select(pairs, Selection(keep=keep)).table["kept"].to_numpy()
        grown.append(ratio(x[took], w, strength[took], 1e-4))
    assert whole < grown[0] < grown[1] < grown[2]
    assert grown[-1] > 1
    small = select(pairs, Selection(rule="lowest_gap", keep=0.25)).table["kept"].to_numpy()
    assert np.linalg.norm(fit(x[small], strength[small])) / SIZE < whole
