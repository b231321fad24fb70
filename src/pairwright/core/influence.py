"""How much a small step on one pair helps a validation set, from numbers that forward passes give.

h is the log-ratio gap of a pair, [log pi - log ref](chosen) - [log pi - log ref](rejected), summed nats; m = beta h its
margin; l(m) = softplus(-m) its DPO loss. With g_d the gradient of a pair's loss, g_V the mean of the gradients over the
validation set V and u = g_V / ||g_V||,

    influence(d) = <g_V, g_d> = ||g_V|| d/dt l(theta + t u; d) = -beta sigmoid(-m) ||g_V|| h'(d)

above 0 where a small step on d lowers the validation loss. h' is the slope of h along u, one number per pair, and
linear in the responses: it is taken of each response once, however many pairs it is in.

Source: Zhang et al. 2025 (arXiv 2510.13212) for influence, LossDiff and IRM; no inverse Hessian is in it.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pairwright.core.margins import spearman
from pairwright.core.pair_terms import positive, sigmoid, softplus
from pairwright.errors import ConfigError, DataError, NotIdentifiable

Floats = NDArray[np.float64]

ACCURATE = (0.99, 0.02)  # Spearman and relative error of a step that is taken without looking further
LEAST_SPEARMAN = 0.9  # of the best step with the exact sample, below which there is no influence to speak of
UNORDERED = 0.1  # the largest relative error of the best step where the exact sample has no order
SUSPICIOUS = -0.5  # Spearman of LossDiff and IRM below which theta_val looks as if it had started at the reference
LEAST_SAMPLE = 8


def influence(slope_I: Floats, margin_I: Floats, *, beta: float, norm: float) -> Floats:
    """-beta sigmoid(-m) ||g_V|| h', shape (I,), loss per unit of squared parameter step; `norm` is ||g_V|| > 0.

    `slope_I` h' along g_V / ||g_V||, nats per unit of parameters; `margin_I` m at theta, logits.
    """
    positive(beta=beta, norm=norm)
    return np.asarray(-beta * sigmoid(-margin_I) * norm * slope_I, np.float64)


def slope_of_influence(influence_I: Floats, margin_I: Floats, *, beta: float, norm: float) -> Floats:
    """h' of a known influence: the inverse of `influence`."""
    positive(beta=beta, norm=norm)
    return np.asarray(-influence_I / (beta * sigmoid(-margin_I) * norm), np.float64)


def central_slope(plus_I: Floats, minus_I: Floats, step: float) -> Floats:
    """(h(theta + step u) - h(theta - step u)) / (2 step); error O(step^2) + rounding / step."""
    positive(step=step)
    return np.asarray((plus_I - minus_I) / (2 * step), np.float64)


def forward_slope(plus_I: Floats, here_I: Floats, step: float) -> Floats:
    """(h(theta + step u) - h(theta)) / step; error O(step) + rounding / step. h(theta) is needed for m anyway."""
    positive(step=step)
    return np.asarray((plus_I - here_I) / step, np.float64)


def losses(margin_I: Floats) -> Floats:
    """l = softplus(-m), nats; m in logits."""
    return np.asarray(softplus(-margin_I), np.float64)


def lossdiff(margin_I: Floats, margin_val_I: Floats) -> Floats:
    """l(m) - l(m_val): what training on V took off the loss of each pair. With theta_val = theta - eta g_V it is
    eta x influence + O(eta^2)."""
    return losses(margin_I) - losses(margin_val_I)


class Agreement(NamedTuple):
    """An estimate against exact values. `max_relative` is the largest |error| / max(|exact|, median |exact|)."""

    spearman: float
    max_relative: float
    n: int


def agreement(estimate_I: Floats, exact_I: Floats) -> Agreement:
    """How well the estimate does, over the pairs that both know."""
    both = np.isfinite(estimate_I) & np.isfinite(exact_I)
    estimate, exact = estimate_I[both], exact_I[both]
    if not len(exact):
        return Agreement(float("nan"), float("nan"), 0)
    scale = np.maximum(np.abs(exact), np.median(np.abs(exact)))
    with np.errstate(divide="ignore", invalid="ignore"):
        off = np.abs(estimate - exact) / scale
    return Agreement(spearman(estimate, exact), float(off.max()), len(exact))


def accurate(found: Agreement) -> bool:
    """Within ACCURATE. A sample without an order (two pairs, or equal values) is judged by its relative error alone."""
    return found.max_relative <= ACCURATE[1] and not found.spearman < ACCURATE[0]


class Step(NamedTuple):
    """A step that was tried: its length in parameters, the scheme, and how well it agrees with the exact sample."""

    step: float
    scheme: str  # forward: theta and theta + step u; central: theta + step u and theta - step u
    agreement: Agreement


def steps_for(slope_I: Floats, nats: Sequence[float]) -> list[float]:
    """Steps along u that change the gap h of the median pair by so many nats; DataError where no pair moves."""
    typical = float(np.median(np.abs(slope_I[np.isfinite(slope_I)]))) if np.isfinite(slope_I).any() else 0.0
    if not typical > 0:
        raise DataError("the sampled pairs do not change along the validation gradient: there is no influence to scale")
    return [float(change / typical) for change in nats]


def choose_step(tried: Sequence[Step]) -> Step:
    """The step that is used: the most accurate forward one where it is ACCURATE, else the most accurate of all.

    NotIdentifiable where the best one does not order the exact sample: the differences are rounding. Where that sample
    has no order, its error must be at most UNORDERED.
    """
    known = [each for each in tried if np.isfinite(each.agreement.max_relative)]
    if not known:
        raise NotIdentifiable("no step gave finite differences; look at the model's log-probabilities first")
    best = min(known, key=lambda each: each.agreement.max_relative)
    ahead = [each for each in known if each.scheme == "forward"]
    if ahead:
        first = min(ahead, key=lambda each: each.agreement.max_relative)
        if accurate(first.agreement):
            return first
    if np.isnan(best.agreement.spearman):
        if best.agreement.max_relative <= UNORDERED:
            return best
        raise NotIdentifiable(
            f"no step agrees with the exact sample: the best of {len(tried)} is {best.agreement.max_relative:.2g} off, and "
            f"{best.agreement.n} pairs have no order that could speak for it; give more pairs, or load the model in float32"
        )
    if not best.agreement.spearman >= LEAST_SPEARMAN:
        raise NotIdentifiable(
            f"no step agrees with the exact sample: the best of {len(tried)} has Spearman {best.agreement.spearman:.2f} and "
            f"relative error {best.agreement.max_relative:.2g} over {best.agreement.n} pairs. Below rounding there is only "
            "noise: load the model in float32, and take a model that was trained (its gradients are not near 0)"
        )
    return best


def weighted(influence_KI: Floats, rate_K: Floats) -> Floats:
    """sum_k rate_k influence_k / sum_k rate_k over checkpoints, shape (I,); nan where a checkpoint does not know a pair.

    The sum is TracIn's (Pruthi et al. 2020), the rates being learning rates > 0.
    """
    if not len(rate_K) or not (np.isfinite(rate_K).all() and (rate_K > 0).all()):
        raise ConfigError(f"learning rates of checkpoints are above 0, one each; got {list(map(float, rate_K))}")
    return np.asarray(rate_K @ influence_KI / rate_K.sum(), np.float64)


def warnings_of(columns: Mapping[str, Floats], *, loss_val: tuple[float, float] | None = None) -> list[str]:
    """What to look at before the scores are used. `loss_val` is the mean validation loss at theta and at theta_val."""
    told = []
    rho = spearman(columns["lossdiff"], columns["irm"])
    if rho < SUSPICIOUS:
        told.append(
            f"Spearman(lossdiff, irm) = {rho:.2f}: theta_val probably started at the reference; LossDiff is then almost "
            "minus IRM, and two bands are one. Train it from theta"
        )
    if loss_val is not None and not loss_val[1] < loss_val[0]:
        told.append(
            f"the mean validation loss did not fall ({loss_val[0]:.4g} at theta, {loss_val[1]:.4g} at theta_val): LossDiff "
            "says nothing about the validation set; lower the learning rate"
        )
    return told
