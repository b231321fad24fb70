"""Several raters into one reward, within each prompt. Scales are mixed raw by `mean` alone.

`score_RJ` has one row per response and one column per rater, nan where a score is missing. A missing score takes no part
in the mean of its response; a rater that says the same about all responses of a prompt has no say in that prompt.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pairwright.core.segments import Floats, Ints, owner, total

Matrix = NDArray[np.float64]


def standard(score_RJ: Matrix, start_P: Ints) -> Matrix:
    """z of each score within its prompt and rater (population sd), nan where missing or where the rater is constant."""
    columns = [_standard(score_RJ[:, j], start_P) for j in range(score_RJ.shape[1])]
    return np.stack(columns, axis=1) if columns else score_RJ


def _standard(score_R: Floats, start_P: Ints) -> Floats:
    prompt_R = owner(start_P)
    known_R = np.isfinite(score_R)
    n_P = np.maximum(total(known_R.astype(np.float64), start_P), 1)
    base_P = _first_known(score_R, known_R, start_P)
    shifted_R = np.where(known_R, score_R - base_P[prompt_R], 0.0)
    mean_P = total(shifted_R, start_P) / n_P
    away_R = np.where(known_R, shifted_R - mean_P[prompt_R], 0.0)
    sd_P = np.sqrt(total(away_R**2, start_P) / n_P)
    with np.errstate(invalid="ignore", divide="ignore"):
        z_R = away_R / sd_P[prompt_R]
    flat_P = sd_P <= 1e-9 * np.maximum(1.0, np.abs(base_P + mean_P))
    return np.where(known_R & ~flat_P[prompt_R], z_R, np.nan)


def _first_known(score_R: Floats, known_R: NDArray[np.bool_], start_P: Ints) -> Floats:
    at = np.where(known_R, np.arange(len(score_R)), len(score_R))
    first_P = np.minimum.reduceat(at, start_P[:-1])
    return np.append(np.where(known_R, score_R, 0.0), 0.0)[first_P]


def midrank(score_RJ: Matrix, start_P: Ints) -> Matrix:
    """Mid-rank of each score within its prompt and rater as a share: (rank - 1/2) / n, equal scores share their ranks."""
    columns = [_midrank(score_RJ[:, j], start_P) for j in range(score_RJ.shape[1])]
    return np.stack(columns, axis=1) if columns else score_RJ


def _midrank(score_R: Floats, start_P: Ints) -> Floats:
    prompt_R = owner(start_P)
    known = np.flatnonzero(np.isfinite(score_R))
    order = known[np.lexsort((score_R[known], prompt_R[known]))]
    share_R = np.full(len(score_R), np.nan)
    if len(order) == 0:
        return share_R
    value, prompt = score_R[order], prompt_R[order]
    new = np.ones(len(order), bool)
    new[1:] = (value[1:] != value[:-1]) | (prompt[1:] != prompt[:-1])
    group = np.cumsum(new) - 1
    at = np.arange(len(order))
    middle = np.bincount(group, at) / np.bincount(group)
    count_P = np.bincount(prompt_R[known], minlength=len(start_P) - 1)
    before_P = np.concatenate(([0], np.cumsum(count_P)))[:-1]
    share_R[order] = (middle[group] - before_P[prompt] + 0.5) / count_P[prompt]
    flat_P = np.bincount(prompt[new], minlength=len(start_P) - 1) == 1
    return np.where(flat_P[prompt_R], np.nan, share_R)


def mean_z(score_RJ: Matrix, start_P: Ints, weight_J: Floats) -> Floats:
    """Weighted mean of the raters' z, over those that said something; nan where none did."""
    return _mean(standard(score_RJ, start_P), weight_J)


def mean_rank(score_RJ: Matrix, start_P: Ints, weight_J: Floats) -> Floats:
    """Weighted mean of the raters' mid-rank shares."""
    return _mean(midrank(score_RJ, start_P), weight_J)


def mean(score_RJ: Matrix, start_P: Ints, weight_J: Floats) -> Floats:
    """Weighted mean of the raw scores of the raters that tell the responses of a prompt apart: for raters on one scale."""
    return _mean(np.where(np.isnan(standard(score_RJ, start_P)), np.nan, score_RJ), weight_J)


def worst_z(score_RJ: Matrix, start_P: Ints, weight_J: Floats) -> Floats:
    """The lowest z that any rater gave: a response must please them all. Weights do not enter."""
    z_RJ = standard(score_RJ, start_P)
    lowest_R = np.min(np.where(np.isnan(z_RJ), np.inf, z_RJ), axis=1, initial=np.inf)
    return np.where(np.isinf(lowest_R), np.nan, lowest_R)


def _mean(value_RJ: Matrix, weight_J: Floats) -> Floats:
    said_RJ = ~np.isnan(value_RJ)
    weight_R = (said_RJ * weight_J).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(weight_R > 0, np.where(said_RJ, value_RJ * weight_J, 0.0).sum(axis=1) / weight_R, np.nan)


COMBINE: dict[str, Callable[[Matrix, Ints, Floats], Floats]] = {
    f.__name__: f for f in (mean_z, mean_rank, worst_z, mean)
}
