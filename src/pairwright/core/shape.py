"""What the scores of a prompt look like: normal or not, and whether a far low cluster inflates sigma."""

import numpy as np
from scipy.special import log_ndtr

from pairwright.core.positions import Candidates, Moments, median_mad
from pairwright.core.segments import Bools, Floats, Ints, order_within, owner, total

AD_CRITICAL = 0.752  # 5 %, mean and sd estimated (Stephens 1974, case 3), for A^2 (1 + 0.75/n + 2.25/n^2)
AD_SMALLEST = 8  # below this n the approximation is not used


def anderson_darling(score_R: Floats, start_P: Ints) -> Floats:
    """Stephens' modified A^2 of each prompt's scores against a normal with estimated mean and sample sd.

    Above 0.752 normality is rejected at 5 %. nan where n < 8 or all scores are equal. A Kolmogorov-Smirnov test with
    parameters estimated from the same scores would be far too lenient and is not offered.
    """
    n_P = np.diff(start_P)
    prompt_R = owner(start_P)
    sorted_R = score_R[order_within(score_R, start_P)]
    mean_P = total(sorted_R, start_P) / n_P
    away_R = sorted_R - mean_P[prompt_R]
    with np.errstate(invalid="ignore", divide="ignore"):
        z_R = away_R / np.sqrt(total(away_R**2, start_P) / (n_P - 1))[prompt_R]
    usable_R = np.isfinite(z_R)
    z_R = np.where(usable_R, z_R, 0.0)
    place_R = np.arange(len(z_R)) - np.repeat(start_P[:-1], n_P)
    mirrored = np.repeat(start_P[1:], n_P) - 1 - place_R
    terms_R = (2 * place_R + 1) * (log_ndtr(z_R) + log_ndtr(-z_R[mirrored]))
    a2_P = -n_P - total(terms_R, start_P) / n_P
    fair_P = (n_P >= AD_SMALLEST) & (total(usable_R, start_P) == n_P)
    return np.where(fair_P, a2_P * (1 + 0.75 / n_P + 2.25 / n_P**2), np.nan)


def junk_mode(candidates: Candidates, spread: Moments, *, far: float = 5.0, share: float = 0.3) -> Bools:
    """Prompts where a few scores lie far below the rest and inflate sigma.

    Some, but at most `share`, of the rows lie more than `far` robust sd (1.4826 MAD) below the median, and the sd is more
    than 1.5 times the robust one: mean - 2 sd then stands where no honest response is.
    """
    median_P, mad_P = median_mad(candidates)
    low_C = candidates.score_C < np.repeat(median_P - far * mad_P, np.diff(candidates.start_P))
    low_P = total(low_C * candidates.count_C, candidates.start_P) / spread.n_P
    return (mad_P > 0) & (low_P > 0) & (low_P <= share) & (spread.sd_P > 1.5 * mad_P)
