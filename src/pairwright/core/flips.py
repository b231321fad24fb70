"""Labels that a surrogate finds surprising: two mirrored normal components and the cut between them (PerpCorrect).

    x = NLL(chosen) - NLL(rejected)        a N(mu, s^2) + (1 - a) N(-mu, s^2),  mu < 0, a = share of right labels

Source: Kong et al. 2024 (PerpCorrect); the Bayes cut is derived: both weighted densities are equal at
t = s^2 / (2 mu) log((1 - a) / a).
"""

from typing import NamedTuple

import numpy as np
import scipy.special

from pairwright.core.segments import Floats
from pairwright.errors import DataError, NotConverged, NotIdentifiable


class Mirrored(NamedTuple):
    """`a` in 0 .. 1; `mu` < 0 and `s` > 0 in the units of x."""

    a: float
    mu: float
    s: float
    n_iter: int

    @property
    def separation(self) -> float:
        """|mu| / s: below 1 the two components are one hump."""
        return abs(self.mu) / self.s


def fit_mirrored(x_I: Floats, *, tol: float = 1e-7, steps: int = 1000) -> Mirrored:
    """Maximum likelihood by EM, mu < 0. Finite values; at least ten. NotConverged when it does not settle."""
    if len(x_I) < 10 or not np.isfinite(x_I).all():
        raise DataError(f"{len(x_I)} values: a mixture needs at least ten, all finite")
    square = float(np.mean(x_I**2))
    if not square > 0:
        raise NotIdentifiable("every perplexity difference is 0: nothing tells the two kinds of label apart")
    a, mu = 0.5 + 0.4 * float(np.tanh(-np.mean(x_I) / np.sqrt(square))), -np.sqrt(square) * 0.8
    s = np.sqrt(max(square - mu**2, 1e-12 * square))
    for step in range(1, steps + 1):
        logit_I = np.log(a / (1 - a)) + 2 * mu * x_I / s**2
        right_I = scipy.special.expit(logit_I)
        new_a, new_mu = float(right_I.mean()), float(np.mean((2 * right_I - 1) * x_I))
        if new_mu > 0:  # the same mixture with its components named the other way round
            new_a, new_mu = 1 - new_a, -new_mu
        new_a = min(max(new_a, 1e-9), 1 - 1e-9)
        new_s = float(np.sqrt(max(square - new_mu**2, 1e-12 * square)))
        moved = max(abs(new_a - a), abs(new_mu - mu) / new_s, abs(new_s - s) / new_s)
        a, mu, s = new_a, new_mu, new_s
        if moved < tol:
            return Mirrored(a, mu, s, step)
    raise NotConverged(
        f"the mixture did not settle in {steps} steps (last move {moved:.1e}): the humps overlap too far"
    )


def bayes_cut(fit: Mirrored) -> float:
    """t with a N(t; mu, s) = (1 - a) N(t; -mu, s): a label is more likely flipped than not where x > t."""
    if not fit.mu < 0:
        raise NotIdentifiable("mu = 0: both components are the same, and no cut tells them apart")
    return float(fit.s**2 / (2 * fit.mu) * np.log((1 - fit.a) / fit.a))


def why_not_separable(fit: Mirrored) -> str | None:
    """In words, when nothing may be flagged; None when the two kinds can be told apart."""
    if fit.a < 0.5:
        return (
            f"not separable: the mixture calls {1 - fit.a:.0%} of the labels flipped; does the surrogate follow them?"
        )
    if fit.separation < 1:
        return f"not separable: the two humps are {fit.separation:.2f} sd from 0 each, and need 1; nothing is flagged"
    return None
