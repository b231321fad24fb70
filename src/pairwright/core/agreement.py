"""How far raters agree: rank correlation within prompts, Krippendorff's alpha, Cohen's kappa, ties and full ends.

nan, inf and -inf are missing everywhere: no number is made of them. A measure that the data cannot give is nan.

Sources: Spearman 1904; Cohen 1960, 1968; Krippendorff, "Computing Krippendorff's Alpha-Reliability", 2011.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pairwright.core.rewards import midrank
from pairwright.core.segments import Bools, Floats, Ints, owner
from pairwright.errors import ConfigError, DataError

Matrix = NDArray[np.float64]
Metric = Literal["nominal", "ordinal", "interval", "ratio"]
MOST_RATIO = 5000  # distinct values: their table of distances is 200 MB
LEAST = 3  # shared values of a prompt below which a rank correlation says nothing: with two it is always -1 or 1


class Agreement(NamedTuple):
    """Mean rank correlation over prompts. `used + too_few + constant` is the number of prompts."""

    mean: float  # nan where no prompt can be used
    se: float  # sd over the used prompts / sqrt(used): prompts are the independent units. nan below 2 prompts
    used: int
    too_few: int  # fewer than three responses that both raters scored
    constant: int  # a rater gave all shared responses of the prompt the same score


def spearman_within(a_R: Floats, b_R: Floats, start_P: Ints) -> Floats:
    """Spearman's rho of two raters in each prompt: Pearson's r of the mid-ranks of the responses that both scored.

    Shape (P,), -1 .. 1. nan where fewer than three responses are shared or where a rater does not tell them apart.
    """
    return _correlate(a_R, b_R, start_P)[0]


def agreement_within(a_R: Floats, b_R: Floats, start_P: Ints) -> Agreement:
    """`spearman_within` averaged over prompts, with the standard error over prompts and the prompts left out."""
    rho_P, shared_P = _correlate(a_R, b_R, start_P)
    rho = rho_P[~np.isnan(rho_P)]
    used, too_few = len(rho), int((shared_P < LEAST).sum())
    mean = float(rho.mean()) if used else np.nan
    se = float(rho.std(ddof=1) / np.sqrt(used)) if used > 1 else np.nan
    return Agreement(mean, se, used, too_few, len(rho_P) - used - too_few)


def _correlate(a_R: Floats, b_R: Floats, start_P: Ints) -> tuple[Floats, Ints]:
    if not len(a_R) == len(b_R) == start_P[-1]:
        raise DataError(f"{len(a_R)} and {len(b_R)} scores for {start_P[-1]} responses; pass one per response")
    prompts, prompt_R = len(start_P) - 1, owner(start_P)
    shared_R = np.isfinite(a_R) & np.isfinite(b_R)
    ranks_RJ = midrank(np.stack([np.where(shared_R, score_R, np.nan) for score_R in (a_R, b_R)], axis=1), start_P)
    off_RJ = np.nan_to_num(ranks_RJ - 0.5)  # the mean of mid-rank shares is 1/2
    a, b = off_RJ[:, 0], off_RJ[:, 1]
    cross_P, aa_P, bb_P = (np.bincount(prompt_R, product, minlength=prompts) for product in (a * b, a * a, b * b))
    shared_P = np.bincount(prompt_R[shared_R], minlength=prompts)
    spread_P = np.sqrt(aa_P) * np.sqrt(bb_P)  # a constant rater has ranks nan, hence 0 here
    usable_P = (shared_P >= LEAST) & (spread_P > 0)
    rho_P = np.full(prompts, np.nan)
    rho_P[usable_P] = np.clip(cross_P[usable_P] / spread_P[usable_P], -1.0, 1.0)
    return rho_P, shared_P


class _Cells(NamedTuple):
    """The pairable values (suffix C): those of units with two values or more. Levels V are the distinct values."""

    unit_C: Ints
    code_C: Ints
    level_V: Floats
    size_U: Floats  # values in each unit, all at least 2


def krippendorff_alpha(values_RJ: Matrix, *, metric: Metric) -> float:
    """Krippendorff's alpha = 1 - observed / expected disagreement; rows are units, columns are raters, nan is missing.

        alpha = 1 - (n - 1) * sum_u [sum_{pairs in u} d2 / (m_u - 1)] / sum_{all pairs} d2

    over the n values of units with m_u >= 2. d2: 1 if unequal (nominal), (a - b)^2 of the values (interval) or of their
    mid-ranks in the pool (ordinal), ((a - b) / (a + b))^2 (ratio, values >= 0). 1 is perfect, 0 is chance.
    nan where no unit holds two values, or where all pairable values are equal: no variation, no reliability.
    Cost: the number of cells; ratio also the square of the number of distinct values.
    """
    cells = _pairable(values_RJ)
    return _ALPHA[_known(metric)](cells)(np.ones(len(cells.size_U))) if len(cells.size_U) else np.nan


def alpha_interval(
    values_RJ: Matrix, *, metric: Metric, rng: np.random.Generator, level: float = 0.95, draws: int = 1000
) -> tuple[float, float]:
    """Percentile bootstrap over units of `krippendorff_alpha`: (low, high), nan where alpha is nan.

    Whole units are drawn, so raters keep their dependence. Draws without any variation have no alpha and are left out.
    """
    cells = _pairable(values_RJ)
    units = len(cells.size_U)
    if units == 0:
        return np.nan, np.nan
    alpha = _ALPHA[_known(metric)](cells)
    drawn = [alpha(np.bincount(rng.integers(0, units, units), minlength=units).astype(float)) for _ in range(draws)]
    known = np.array(drawn)[~np.isnan(drawn)]
    if len(known) == 0:
        return np.nan, np.nan
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _known(metric: Metric) -> Metric:
    if metric not in _ALPHA:
        raise ConfigError(f"metric {metric!r} is not one of {', '.join(_ALPHA)}")
    return metric


def _pairable(values_RJ: Matrix) -> _Cells:
    known_RJ = np.isfinite(values_RJ)
    count_R = known_RJ.sum(axis=1)
    kept_R = count_R >= 2
    unit_C, rater_C = np.nonzero(known_RJ[kept_R])
    level_V, code_C = np.unique(values_RJ[kept_R][unit_C, rater_C], return_inverse=True)
    return _Cells(unit_C, code_C, level_V, count_R[kept_R].astype(float))


def _ratio_of(observed: float, expected: float, n: float) -> float:
    return 1 - (n - 1) * observed / expected if expected > 0 else np.nan


def _counts(cells: _Cells, weight_U: Floats) -> Floats:
    return np.bincount(cells.code_C, weight_U[cells.unit_C], minlength=len(cells.level_V)).astype(np.float64)


def _nominal(cells: _Cells) -> Callable[[Floats], float]:
    key_C = cells.unit_C * len(cells.level_V) + cells.code_C
    key, count = np.unique(key_C, return_counts=True)
    same_U = np.bincount(key // len(cells.level_V), count.astype(float) ** 2, minlength=len(cells.size_U))
    unlike_U = (cells.size_U**2 - same_U) / 2 / (cells.size_U - 1)

    def alpha(weight_U: Floats) -> float:
        count_V = _counts(cells, weight_U)
        n = count_V.sum()
        return _ratio_of(float(weight_U @ unlike_U), float(n**2 - count_V @ count_V) / 2, n)

    return alpha


def _squared(cells: _Cells, place_V: Floats, weight_U: Floats) -> float:
    """Squared distances by the identity sum_{pairs} (a - b)^2 = m * sum (a - mean)^2."""
    count_V = _counts(cells, weight_U)
    n = count_V.sum()
    if np.count_nonzero(count_V) < 2:
        return np.nan
    place_V = place_V - place_V @ count_V / n
    place_C = place_V[cells.code_C]
    mean_U = np.bincount(cells.unit_C, place_C) / cells.size_U
    within_U = np.bincount(cells.unit_C, (place_C - mean_U[cells.unit_C]) ** 2)
    observed = float(weight_U @ (within_U * cells.size_U / (cells.size_U - 1)))
    return _ratio_of(observed, float(n * (count_V @ place_V**2)), n)


def _interval(cells: _Cells) -> Callable[[Floats], float]:
    place_V = cells.level_V / np.abs(cells.level_V).max(initial=np.finfo(float).tiny)  # no square overflows
    return lambda weight_U: _squared(cells, place_V, weight_U)


def _ordinal(cells: _Cells) -> Callable[[Floats], float]:
    """d = n_c / 2 + (values between) + n_k / 2 is a difference of mid-ranks."""

    def alpha(weight_U: Floats) -> float:
        count_V = _counts(cells, weight_U)
        return _squared(cells, np.cumsum(count_V) - count_V / 2, weight_U)

    return alpha


def _ratio(cells: _Cells) -> Callable[[Floats], float]:
    level_V = cells.level_V
    if level_V.min(initial=0.0) < 0:
        raise DataError(f"the ratio metric needs values of at least 0, found {level_V.min():g}; use metric='interval'")
    if len(level_V) > MOST_RATIO:
        raise DataError(f"the ratio metric takes {MOST_RATIO} distinct values, found {len(level_V)}; round them")
    apart_VV = np.abs(level_V[:, None] - level_V) / np.maximum(level_V[:, None] + level_V, np.finfo(float).tiny)
    apart_VV **= 2
    unlike_U = np.zeros(len(cells.size_U))
    start_U = np.concatenate(([0], np.cumsum(cells.size_U))).astype(np.int64)
    place_C = np.arange(len(cells.unit_C)) - start_U[cells.unit_C]
    for step in range(1, int(cells.size_U.max(initial=0))):  # over raters, not over units
        later = np.flatnonzero(place_C >= step)
        apart = apart_VV[cells.code_C[later], cells.code_C[later - step]]
        unlike_U += np.bincount(cells.unit_C[later], apart, minlength=len(unlike_U))
    unlike_U /= cells.size_U - 1

    def alpha(weight_U: Floats) -> float:
        count_V = _counts(cells, weight_U)
        return _ratio_of(float(weight_U @ unlike_U), float(count_V @ apart_VV @ count_V) / 2, count_V.sum())

    return alpha


_ALPHA: dict[str, Callable[[_Cells], Callable[[Floats], float]]] = {
    "nominal": _nominal,
    "ordinal": _ordinal,
    "interval": _interval,
    "ratio": _ratio,
}


def cohen_kappa(a_R: Floats, b_R: Floats, *, power: int = 0) -> float:
    """Cohen's kappa of two raters over the items that both labelled: 1 - observed / expected disagreement.

    Disagreement is |place of a - place of b| ** power among the distinct labels in order: power 0 counts unequal labels,
    1 is linear, 2 quadratic weighting. nan where nothing is shared or where both gave one and the same label throughout.
    """
    if power not in (0, 1, 2):
        raise ConfigError(f"power {power} is not 0 (unweighted), 1 (linear) or 2 (quadratic)")
    if len(a_R) != len(b_R):
        raise DataError(f"{len(a_R)} and {len(b_R)} labels; pass one of each rater per item, nan where it is missing")
    shared_R = np.isfinite(a_R) & np.isfinite(b_R)
    n = int(shared_R.sum())
    if n == 0:
        return np.nan
    level_V, code = np.unique(np.concatenate([a_R[shared_R], b_R[shared_R]]), return_inverse=True)
    a, b = code[:n], code[n:]
    observed = _apart(a - b, power).mean()
    share_a, share_b = (np.bincount(side, minlength=len(level_V)) / n for side in (a, b))
    place_V = np.arange(len(level_V))
    if power == 0:
        expected = 1 - share_a @ share_b
    elif power == 1:  # E|a - b| = integral of the two ways to lie on different sides
        below_a, below_b = np.cumsum(share_a), np.cumsum(share_b)
        expected = (below_a * (1 - below_b) + below_b * (1 - below_a)).sum()
    else:
        expected = share_a @ place_V**2 + share_b @ place_V**2 - 2 * (share_a @ place_V) * (share_b @ place_V)
    return float(1 - observed / expected) if len(level_V) > 1 and expected > 0 else np.nan


def _apart(step: Ints, power: int) -> Floats:
    distance: Floats = np.abs(step).astype(np.float64) ** power
    return np.where(step == 0, 0.0, distance)


class Saturation(NamedTuple):
    """Shares of the known scores that stand at the ends of the scale, where a rater can say no more."""

    low: float
    high: float
    n: int


def saturation(score_R: Floats, *, low: float, high: float) -> Saturation:
    """Shares of scores at or below `low` and at or above `high`, the ends of the scale; nan without scores."""
    if not low < high:
        raise ConfigError(f"the scale runs from {low:g} to {high:g}; low must be below high")
    known = score_R[np.isfinite(score_R)]
    if len(known) == 0:
        return Saturation(np.nan, np.nan, 0)
    return Saturation(float((known <= low).mean()), float((known >= high).mean()), len(known))


def ties_within(score_R: Floats, start_P: Ints) -> float:
    """Share of the comparisons within prompts, all pairs of known scores, that are ties; nan without any comparison."""
    known_R: Bools = np.isfinite(score_R)
    prompt, score = owner(start_P)[known_R], score_R[known_R]
    order = np.lexsort((score, prompt))
    new = np.ones(len(order), bool)
    new[1:] = (score[order][1:] != score[order][:-1]) | (prompt[order][1:] != prompt[order][:-1])
    equal = np.diff(np.append(np.flatnonzero(new), len(order))) if len(order) else np.zeros(0, np.int64)
    size_P = np.bincount(prompt, minlength=len(start_P) - 1)
    pairs = (size_P * (size_P - 1)).sum()
    return float((equal * (equal - 1)).sum() / pairs) if pairs else np.nan
