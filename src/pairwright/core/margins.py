"""Margins as evidence about a label: bounds, scores in 0 .. 1, and several sources in one number.

A margin belongs to the labelled direction: score of chosen minus score of rejected. What is made of it here is for
ranking; none of it is the probability that a label is right, except the sigmoid with a scale that was fitted.

Source: Deng et al. 2025, "Less is More" (arXiv 2502.14560, v1): clipped linear scores, their bounds, the product rule.
Clamped log-odds, ranks, the fitted scale and the diagnostics are ours.
"""

from collections.abc import Sequence

import numpy as np
import scipy.special
from numpy.typing import NDArray

from pairwright.core.segments import Bools, Floats, Ints
from pairwright.errors import ConfigError, DataError, NotConverged, NotIdentifiable

Matrix = NDArray[np.float64]
LOW = -2.0  # M1 of the paper, for every source
FEW = 30  # margins that may lie above the upper bound
EPS = 1e-6  # scores are clamped to EPS .. 1 - EPS before their log-odds


def upper_bound(margin_I: Floats, *, divisor: float, few: int = FEW) -> float:
    """M2, in the units of the margin: the first x = trunc(max / divisor) + 0, 1, 2 ... above which few margins lie.

    Few: fewer than `few`, or fewer than max - x. Then min(x, max), so that the largest margin always scores 1. The
    paper starts at max / 1.5 for an external source and at max / 2 for an implicit one. Finite margins only.
    """
    if not len(margin_I) or not np.isfinite(margin_I).all():
        raise DataError("bounds need at least one margin, and finite ones; leave out what is missing")
    top = float(margin_I.max())
    start = float(np.trunc(top / divisor))
    above = np.sort(margin_I[margin_I > start])
    # Between two margins the number above x stays and max - x falls: if any x there will do, the first one does.
    steps = np.unique(np.concatenate(([0.0], np.ceil(above - start))))
    x = start + steps
    count = len(above) - np.searchsorted(above, x, side="right")
    good = (count < few) | (count < top - x) | (x > top)
    return min(float(x[np.argmax(good)]), top)


def clipped_linear(margin_I: Floats, low: float, high: float) -> Floats:
    """(clip(m, M1, M2) - M1) / (M2 - M1): 0 at M1 and below, 1 at M2 and above. A margin of 0 scores -M1 / (M2 - M1)."""
    if not low < high:
        raise ConfigError(f"the bounds {low:g} .. {high:g} hold nothing: no margin is above the lower one; lower it")
    score_I: Floats = np.clip(margin_I, low, high)
    score_I -= low
    score_I /= high - low
    return score_I


def sigmoid(margin_I: Floats, scale: float) -> Floats:
    """1 / (1 + exp(-m / scale)); margin 0 scores 1/2."""
    return np.asarray(scipy.special.expit(margin_I / scale))


def fit_scale(margin_I: Floats, *, steps: int = 200) -> float:
    """The s that makes sigmoid(m / s) the likeliest account of the labels: maximum of sum log sigmoid(m / s).

    The labels are all "chosen is better", so s is finite where the source contradicts some of them and agrees with more:
    the mean margin must be above 0 and some margin below it. Concave in 1/s: safeguarded Newton. Bradley-Terry 1952.
    """
    top = float(np.abs(margin_I).max()) if len(margin_I) else 0.0
    unit_I = margin_I / top if top > 0 else margin_I
    if not (unit_I < 0).any():
        raise NotIdentifiable(
            "a scale cannot be fitted: this source contradicts no label (were the labels made from it?). Give the scale "
            "by hand, or take clipped or rank scores"
        )
    if not unit_I.mean() > 0:
        raise NotIdentifiable(
            "a scale cannot be fitted: this source contradicts the labels at least as much as it agrees with them. Is its "
            "sign right?"
        )
    low, high = 0.0, 1.0
    while _slope(unit_I, high) > 0:
        low, high = high, 2 * high
        if high > 2.0**60:
            raise NotConverged("the scale has no bound within floats: next to no margin is below 0; give it by hand")
    b = (low + high) / 2
    for _ in range(steps):
        slope = _slope(unit_I, b)
        low, high = (b, high) if slope > 0 else (low, b)
        p_I = scipy.special.expit(b * unit_I)
        bend = float(np.mean(unit_I**2 * p_I * (1 - p_I)))
        step = b + slope / bend if bend > 0 else low
        step = step if low < step < high else (low + high) / 2
        if abs(step - b) <= 1e-12 * b:
            return top / step
        b = step
    raise NotConverged(f"the scale did not settle in {steps} steps; give it by hand")


def _slope(unit_I: Floats, b: float) -> float:
    return float(np.mean(unit_I * scipy.special.expit(-b * unit_I)))


def log_odds(score_I: Floats, eps: float = EPS) -> Floats:
    """log q - log(1 - q) with q the score clamped to eps .. 1 - eps: finite everywhere."""
    work_I = np.clip(score_I, eps, 1 - eps)
    odds_I: Floats = np.log(work_I)
    np.negative(work_I, out=work_I)
    odds_I -= np.log1p(work_I, out=work_I)
    return odds_I


def aggregate(score_SI: Sequence[Floats], eps: float = EPS) -> Floats:
    """prod p / (prod p + prod (1 - p)) over the sources, through the sum of log-odds; exact within eps .. 1 - eps.

    Two sources: equation 3 of the paper. It supposes that the sources err independently given the truth, prior 1/2.
    """
    total_I = np.zeros_like(np.asarray(score_SI[0], float))
    for score_I in score_SI:
        total_I += log_odds(np.asarray(score_I, float), eps)
    return np.asarray(scipy.special.expit(total_I))


def conflicts(score_SI: Sequence[Floats]) -> Bools:
    """One source says 1 and another 0: the product rule is 0/0 there."""
    sure_I = np.zeros(len(score_SI[0]), bool)
    never_I = np.zeros(len(score_SI[0]), bool)
    for score_I in score_SI:
        sure_I |= score_I == 1
        never_I |= score_I == 0
    return sure_I & never_I


def near_conflicts(score_SI: Sequence[Floats], *, sure: float = 0.99) -> Bools:
    """One source is all but sure and another is below 1/2: saturation outvotes it."""
    high_I, low_I = np.zeros(len(score_SI[0]), bool), np.zeros(len(score_SI[0]), bool)
    for score_I in score_SI:
        high_I |= score_I >= sure
        low_I |= score_I < 0.5
    return high_I & low_I


def midrank_share(value_I: Floats) -> Floats:
    """(number below + half of the others that are equal + 1/2) / n, in 0 .. 1; equal values share a rank. nan stays nan."""
    share_I = np.full(len(value_I), np.nan)
    known = np.flatnonzero(~np.isnan(value_I))
    n = len(known)
    if n == 0:
        return share_I
    order = np.argsort(value_I[known])
    ranked_I = value_I[known][order]
    first = np.flatnonzero(np.concatenate(([True], ranked_I[1:] != ranked_I[:-1])))
    size = np.diff(np.concatenate((first, [n])))
    share_I[known[order]] = np.repeat((first + size / 2) / n, size)
    return share_I


def spearman(a_I: Floats, b_I: Floats) -> float:
    """Rank correlation of the pairs that have both; nan below three or where one does not vary."""
    both_I = np.isfinite(a_I) & np.isfinite(b_I)
    if both_I.sum() < 3:
        return float("nan")
    a, b = (midrank_share(x_I[both_I]) - 0.5 for x_I in (a_I, b_I))
    spread = np.sqrt((a @ a) * (b @ b))
    return float(np.clip((a @ b) / spread, -1, 1)) if spread > 0 else float("nan")


def partial_spearman(a_I: Floats, b_I: Floats, given_I: Floats) -> float:
    """Rank correlation of a and b with that of each to a third taken out; nan where undefined."""
    known_I = np.isfinite(a_I) & np.isfinite(b_I) & np.isfinite(given_I)
    a, b, c = a_I[known_I], b_I[known_I], given_I[known_I]
    ab, ac, bc = spearman(a, b), spearman(a, c), spearman(b, c)
    left = (1 - ac**2) * (1 - bc**2)
    return float(np.clip((ab - ac * bc) / np.sqrt(left), -1, 1)) if left > 1e-12 else float("nan")


def iqr(value_I: Floats) -> float:
    """Distance of the quartiles."""
    low, high = np.quantile(value_I, (0.25, 0.75))
    return float(high - low)


def ensemble(margin_KI: Matrix) -> tuple[Floats, Floats, Ints]:
    """Mean, sd (K - 1) and number of members per pair, after each member's margins were scaled to sd 1; shape (K, I).

    nan is a missing member and lowers K of its pair; sd is nan where K is below 2: one model has no disagreement.
    """
    sd_K = np.array([np.std(row[np.isfinite(row)], ddof=0) if np.isfinite(row).any() else 0.0 for row in margin_KI])
    if dull := np.flatnonzero(~(sd_K > 0)).tolist():
        raise DataError(f"member {dull[0]} of the ensemble gives every pair the same margin; leave it out")
    known_KI = np.isfinite(margin_KI)
    scaled_KI = np.where(known_KI, margin_KI, 0.0) / sd_K[:, None]
    k_I = known_KI.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_I = np.where(k_I > 0, scaled_KI.sum(axis=0) / k_I, np.nan)
        square_I = (np.where(known_KI, scaled_KI - mean_I, 0.0) ** 2).sum(axis=0) / (k_I - 1)
    return mean_I, np.where(k_I > 1, np.sqrt(np.maximum(square_I, 0)), np.nan), k_I
