"""Orders of responses from counts alone, and the distance of an order from the truth."""

import numpy as np

from pairwright.core.comparisons import Comparisons, all_pairs, sum_at
from pairwright.core.segments import Floats, Ints, owner


def copeland(pairs: Comparisons) -> Floats:
    """Opponents beaten by a majority, a drawn pair counting 1/2. `pairs` has one row per pair."""
    return _tally(pairs, 0.5 + 0.5 * np.sign(2 * pairs.wins_I - pairs.votes_I))


def row_sum(pairs: Comparisons, *, a: float = 0.5) -> Floats:
    """Sum over opponents of the smoothed log-odds log((c + a) / (K - c + a)), logits."""
    m_I = np.log((pairs.wins_I + a) / (pairs.votes_I - pairs.wins_I + a))
    n = int(pairs.item_start_P[-1])
    return sum_at(pairs.left_I, m_I, n) - sum_at(pairs.right_I, m_I, n)


def _tally(pairs: Comparisons, for_left_I: Floats) -> Floats:
    n = int(pairs.item_start_P[-1])
    return sum_at(pairs.left_I, for_left_I, n) + sum_at(pairs.right_I, 1 - for_left_I, n)


def copeland_order(pairs: Comparisons) -> Ints:
    """Items of each prompt, best first: by opponents beaten, ties by row sum, then the earlier item."""
    return np.lexsort((-row_sum(pairs), -copeland(pairs), owner(pairs.item_start_P)))


def order_error(score_R: Floats, truth_R: Floats, item_start_P: Ints) -> Floats:
    """Share of the n(n-1)/2 pairs that the scores order against the truth; equal scores count 1/2. nan for n = 1."""
    left_I, right_I = all_pairs(item_start_P)
    real_I = np.sign(truth_R[left_I] - truth_R[right_I])
    said_I = np.sign(score_R[left_I] - score_R[right_I])
    wrong_I = np.where(real_I != 0, (1 - real_I * said_I) / 2, 0.0)
    size_P = np.diff(item_start_P)
    wrong_P = sum_at(owner(item_start_P)[left_I], wrong_I, len(size_P))
    with np.errstate(invalid="ignore", divide="ignore"):
        share_P: Floats = wrong_P / (size_P * (size_P - 1) / 2)
    return share_P
