"""Strengths of responses from comparisons: Bradley-Terry with ties and presentation order, many prompts at once.

    d = w_left - w_right + gamma * first        first: 1 left was shown first, -1 right, 0 not known
    P(left) : P(tie) : P(right) = exp(d / 2) : nu : exp(-d / 2)
    minimise -sum [(wins - K/2) d + ties log nu - K log(2 cosh(d / 2) + nu)] + (ridge / 2) ||w||^2

nu = 0 is Bradley-Terry (1952), where a tie counts as half a win each; nu > 0 is Davidson (1970). gamma and nu are shared by
the whole batch. Strengths are logits, mean 0 within each component. ridge is 1 / (prior variance): 1e-6 only keeps a
response that wins every vote finite. The covariance is that of the normal approximation at the maximum (Laplace).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import expit

from pairwright.core import graphs
from pairwright.core.comparisons import Comparisons, sum_at
from pairwright.core.newton import Solved, Task, alone, covariance_start, together
from pairwright.core.segments import Bools, Floats, Ints, owner
from pairwright.errors import NotConverged

RIDGE = 1e-6


class Effect(NamedTuple):
    """A number shared by the batch, and its standard error; 0 and nan where it was not fitted."""

    value: float
    sd: float


@dataclass(frozen=True, slots=True)
class Fit:
    """Strengths in logits; the covariance of each prompt's strengths flat, row by row, empty if not asked for."""

    strength_R: Floats
    covariance: Floats
    n_iter: int
    converged_P: Bools
    gradient: float  # largest of the penalised log likelihood, in votes
    position: Effect  # gamma: advantage of being shown first, logits
    log_tie: Effect  # log nu


def win_probability(d: Floats) -> Floats:
    """1 / (1 + exp(-d)) for a difference of strengths d in logits."""
    p: Floats = expit(d)
    return p


def fit_newton(
    pairs: Comparisons,
    *,
    ridge: float = RIDGE,
    position: bool = False,
    davidson: bool = False,
    covariance: bool = False,
    tol: float = 1e-8,
    max_iter: int = 100,
    strict: bool = True,
) -> Fit:
    """Newton's method, damped so that it cannot overshoot. A prompt stops when a step moves no difference by tol logits.

    `position` fits gamma (rows need first_I), `davidson` fits nu. `strict`: raise NotConverged instead of a status.
    """
    task = Task(ridge, position, davidson, covariance, tol, max_iter)
    return _fit((together if position or davidson else alone)(pairs, task), strict=strict)


def _fit(solved: Solved, *, strict: bool) -> Fit:
    open_P = np.flatnonzero(~solved.converged_P)
    if strict and len(open_P):
        raise NotConverged(
            f"{len(open_P)} of {len(solved.converged_P)} prompts (first: {open_P[0]}) still moved after {solved.n_iter} "
            f"steps, largest gradient {solved.gradient:.1e} votes; raise max_iter or ridge, or pass strict=False"
        )
    effects = [Effect(float(value), float(sd)) for value, sd in zip(solved.shared, solved.shared_sd, strict=True)]
    return Fit(solved.strength_R, solved.covariance, solved.n_iter, solved.converged_P, solved.gradient, *effects)


def fit_mm(
    pairs: Comparisons, *, ridge: float = RIDGE, tol: float = 1e-9, max_iter: int = 10_000, strict: bool = True
) -> Fit:
    """Minorise-maximise (Hunter 2004) with the ridge kept exact: the second route, slow where responses are separated.

    log(e^w_l + e^w_r) is replaced by its tangent, so that each item solves c - a e^w - ridge w = 0 alone. Stops when the
    gradient is below tol * (votes of the item + 1).
    """
    label_R = graphs.components(pairs)
    size_L = np.bincount(label_R)
    n = len(label_R)
    prompt_R = owner(pairs.item_start_P)
    left, right = pairs.left_I, pairs.right_I
    won_R = sum_at(left, pairs.wins_I, n) + sum_at(right, pairs.votes_I - pairs.wins_I, n)
    votes_R = sum_at(left, pairs.votes_I, n) + sum_at(right, pairs.votes_I, n)
    w, n_iter = np.zeros(n), 0
    for n_iter in range(max_iter + 1):
        p_I = win_probability(w[left] - w[right])
        expected_R = sum_at(left, pairs.votes_I * p_I, n) + sum_at(right, pairs.votes_I * (1 - p_I), n)
        gradient_R = won_R - expected_R - ridge * w
        open_R = np.abs(gradient_R) > tol * (votes_R + 1)
        if not open_R.any() or n_iter == max_iter:
            break
        w = _tilt(won_R, expected_R * np.exp(-w), ridge)
        w -= (sum_at(label_R, w, len(size_L)) / size_L)[label_R]
    converged_P = np.ones(len(pairs.item_start_P) - 1, bool)
    converged_P[prompt_R[open_R]] = False
    gradient = float(np.abs(gradient_R).max(initial=0.0))
    none = np.zeros(2)
    return _fit(Solved(w, np.zeros(0), converged_P, n_iter, gradient, none, none + np.nan), strict=strict)


def _tilt(c: Floats, a: Floats, ridge: float, steps: int = 60) -> Floats:
    """The w of c = a e^w + ridge w: Newton from the right of the root, where the curve is steeper than its tangent."""
    w = np.where(c > 0, np.log(np.maximum(c, 1e-300) / np.maximum(a, 1e-300)), 0.0)
    w = np.where(a > 0, w, 0.0)
    for _ in range(steps):
        grown = a * np.exp(w)
        change = (c - grown - ridge * w) / (grown + ridge)
        w = w + change
        if (np.abs(change) <= 1e-14 * (1 + np.abs(w))).all():
            break
    return w


ROUTES: dict[str, Callable[..., Fit]] = {fit.__name__: fit for fit in (fit_newton, fit_mm)}


def difference_sd(fit: Fit, left_I: Ints, right_I: Ints, item_start_P: Ints) -> Floats:
    """Standard error of w_left - w_right, logits; nan without a covariance."""
    if not len(fit.covariance):
        return np.full(len(left_I), np.nan)
    prompt_I = owner(item_start_P)[left_I]
    n_I, at_I = np.diff(item_start_P)[prompt_I], covariance_start(item_start_P)[prompt_I]
    i, j = left_I - item_start_P[prompt_I], right_I - item_start_P[prompt_I]
    cov = fit.covariance
    variance = cov[at_I + i * n_I + i] + cov[at_I + j * n_I + j] - 2 * cov[at_I + i * n_I + j]
    sd: Floats = np.sqrt(np.maximum(variance, 0.0))
    return sd
