"""Positions in the score distribution of each prompt, and which candidate stands there.

Source: Xiao et al., "Finding the Sweet Spot: Preference Data Construction for Scaling Preference Optimization", ACL 2025
(arXiv 2502.16825). The paper names seven positions mu + k*sigma, k in {-inf, -2, -1, 0, 1, 2, inf}; that the response
*nearest* to the position is meant is our reading of the released checkpoint names (docs/pairing.md).

A candidate is a distinct text. Every pick is a candidate's row, or -1 where the position does not exist.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pairwright.core.segments import (
    Bools,
    Floats,
    Ints,
    Keys,
    first_lowest,
    first_true,
    highest,
    lowest,
    order_within,
    owner,
    total,
)

TIE = 1e-9  # two distances to a target that differ by less than this many sigma are equal
ROUNDING = 4 * np.finfo(np.float64).eps  # what rounding can add to such a difference, as a share of |mean|


class Candidates(NamedTuple):
    """The distinct texts of every prompt (suffix C), in the order in which they first occur."""

    score_C: Floats  # mean over the copies of a text
    count_C: Ints  # copies
    row_C: Ints  # the input row of the first copy
    start_P: Ints  # offsets into the candidates
    candidate_R: Ints  # the candidate that each input row belongs to


class Moments(NamedTuple):
    """Of all rows of a prompt, copies included. sd in score units; skewness g1 = m3 / m2^1.5, nan where sd is 0."""

    n_P: Ints
    mean_P: Floats
    sd_P: Floats
    skewness_P: Floats


def distinct(score_R: Floats, start_P: Ints, text_R: NDArray[np.generic] | None = None) -> Candidates:
    """Merges the copies of a text within a prompt; their scores are averaged. `text_R` holds one code per text.

    Without codes every row is a candidate of its own. The mean of equal scores is that score, to the last bit.
    """
    n = len(score_R)
    if text_R is None:
        rows = np.arange(n)
        return Candidates(score_R, np.ones(n, np.int64), rows, start_P, rows)
    prompt_R = owner(start_P)
    order = np.lexsort((text_R, prompt_R))
    new = np.ones(n, bool)
    new[1:] = (text_R[order][1:] != text_R[order][:-1]) | (prompt_R[order][1:] != prompt_R[order][:-1])
    first = np.flatnonzero(new)
    count = np.diff(np.append(first, n))
    row = order[first]  # lexsort is stable: the first of a group is its earliest row
    down_P = _into_unit(score_R, start_P)
    unit_R = score_R * down_P[prompt_R]
    base = unit_R[row]
    offset = np.add.reduceat(unit_R[order] - np.repeat(base, count), first) / count if n else base
    score = np.where(offset == 0, score_R[row], (base + offset) / down_P[prompt_R[row]])
    by_row = np.argsort(row)
    place = np.empty(len(row), np.int64)
    place[by_row] = np.arange(len(row))
    candidate_R = np.empty(n, np.int64)
    candidate_R[order] = np.repeat(place, count)
    row_C = row[by_row]
    return Candidates(score[by_row], count[by_row], row_C, np.searchsorted(row_C, start_P), candidate_R)


def _into_unit(score: Floats, start_P: Ints) -> Floats:
    """A power of two per prompt that brings its scores into -1 .. 1: exact, and no sum, square or cube overflows."""
    most_P = np.maximum(highest(score, start_P), -lowest(score, start_P))
    return np.ldexp(1.0, -np.maximum(np.frexp(most_P)[1], -1000))


def moments(candidates: Candidates, *, ddof: int = 0) -> Moments:
    """Mean, standard deviation (ddof 0: population, 1: sample) and skewness of each prompt's rows.

    Two passes around the first score of the prompt, so that equal scores give sd = 0 exactly. With ddof 1 the sd of a
    single row is nan. Right for every finite score; a sample sd beyond the largest float is inf.
    """
    score_C, count_C, _, start_P, _ = candidates
    size_P = np.diff(start_P)
    n_P = total(count_C, start_P)
    down_P = _into_unit(score_C, start_P)
    unit_C = score_C * np.repeat(down_P, size_P)
    first_P = unit_C[start_P[:-1]]
    shifted_C = unit_C - np.repeat(first_P, size_P)
    shift_P = total(count_C * shifted_C, start_P) / n_P
    deviation_C = shifted_C - np.repeat(shift_P, size_P)
    square_C = count_C * deviation_C * deviation_C  # products: numpy's ** 3 is twenty times as slow
    square_P, cube_P = total(square_C, start_P), total(square_C * deviation_C, start_P)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        sd_P = np.sqrt(square_P / (n_P - ddof)) / down_P
        skewness_P = cube_P / n_P / (square_P / n_P) ** 1.5
    return Moments(n_P, (first_P + shift_P) / down_P, sd_P, skewness_P)


def zero_variance(spread: Moments, *, tol: float = 1e-9) -> Bools:
    """Prompts whose scores are all the same, up to tol * max(1, |mean|)."""
    return ~(spread.sd_P > tol * np.maximum(1.0, np.abs(spread.mean_P)))


def two_valued(candidates: Candidates) -> Bools:
    """Prompts with exactly two distinct scores: no position between them exists."""
    score_C, start_P = candidates.score_C, candidates.start_P
    low_P, high_P = lowest(score_C, start_P), highest(score_C, start_P)
    prompt_C = owner(start_P)
    outer_C = (score_C == low_P[prompt_C]) | (score_C == high_P[prompt_C])
    no_other_P: Bools = total(outer_C, start_P) == np.diff(start_P)
    return no_other_P & (low_P < high_P)


def tied(candidates: Candidates) -> Ints:
    """Texts that share a prompt's highest or lowest score, beyond the one that is taken there; 0 where all are equal."""
    score_C, start_P = candidates.score_C, candidates.start_P
    prompt_C = owner(start_P)
    low_P, high_P = lowest(score_C, start_P), highest(score_C, start_P)
    outer_P = total(((score_C == low_P[prompt_C]) | (score_C == high_P[prompt_C])).astype(np.int64), start_P)
    return np.where(low_P < high_P, outer_P - 2, 0)


def minimum(candidates: Candidates) -> Ints:
    """The lowest score, the earliest of equals."""
    return first_lowest(candidates.score_C, candidates.start_P)


def maximum(candidates: Candidates) -> Ints:
    """The highest score, the earliest of equals."""
    return first_lowest(-candidates.score_C, candidates.start_P)


def nearest(candidates: Candidates, target_P: Floats, *, side: float, tol_P: Floats) -> Ints:
    """The candidate whose score is nearest to the target.

    Ties (distances within tol_P): the more extreme score on the side of `side` (lower for < 0, higher for > 0), then the
    earlier candidate; for side 0 the earlier candidate alone.
    """
    score_C, start_P = candidates.score_C, candidates.start_P
    size_P = np.diff(start_P)
    with np.errstate(over="ignore"):  # too far to be a float is still far
        distance_C = np.abs(score_C - np.repeat(target_P, size_P))
        near_C = distance_C <= np.repeat(lowest(distance_C, start_P) + tol_P, size_P)
    if side == 0:
        return first_true(near_C, start_P)
    return first_lowest(-np.sign(side) * score_C, start_P, near_C)


def sigma(candidates: Candidates, spread: Moments, k: float) -> Ints:
    """The candidate nearest to mu + k*sigma (Xiao et al. 2025; "nearest" is inferred)."""
    tol_P = TIE * spread.sd_P + ROUNDING * np.abs(spread.mean_P)
    with np.errstate(over="ignore"):
        target_P = spread.mean_P + k * spread.sd_P
    return nearest(candidates, target_P, side=k, tol_P=tol_P)


def n_same(k: float, *, ddof: int = 0) -> int:
    """The largest n for which the candidate nearest to mu + k*sigma is the extreme one, whatever the scores.

    Differing needs n > 2k^2 + 2 (population sd) or n^2 - (3 + 2k^2) n + 2 > 0 (sample sd): if the nearest is not the
    minimum, the two lowest z sum below -2k, and Cauchy-Schwarz on the rest exceeds the sum of squares. For k = 2 both
    give 10. 0 for k = 0, where nothing forces the extreme.
    """
    if k == 0:
        return 0
    if ddof == 0:
        return int(np.floor(2 * k**2 + 2 + 1e-9))
    b = 3 + 2 * k**2
    return int(np.floor((b + np.sqrt(b**2 - 8)) / 2 + 1e-9))


def quantile(candidates: Candidates, q: float) -> Ints:
    """The candidate at rank ceil(q * n) from the bottom, copies counted: the inverse of the empirical distribution.

    q = 0 is the minimum, q = 1 the maximum. Among equal scores the earliest candidate.
    """
    score_C, count_C, _, start_P, _ = candidates
    order = order_within(score_C, start_P)
    size_P = np.diff(start_P)
    below = np.cumsum(count_C[order])
    before_P = np.concatenate(([0], below))[start_P[:-1]]
    n_P = total(count_C, start_P)
    rank_P = np.maximum(1, np.ceil(q * n_P - 1e-9))
    reached = below - np.repeat(before_P, size_P) >= np.repeat(rank_P, size_P)
    value_P = score_C[order[first_true(reached, start_P)]]
    return first_true(score_C == np.repeat(value_P, size_P), start_P)


def median_mad(candidates: Candidates) -> tuple[Floats, Floats]:
    """Median and 1.4826 * median absolute deviation (the sd of a normal distribution), copies counted."""
    median_P = _weighted_median(candidates.score_C, candidates.count_C, candidates.start_P)
    size_P = np.diff(candidates.start_P)
    with np.errstate(over="ignore"):
        away_C = np.abs(candidates.score_C - np.repeat(median_P, size_P))
        return median_P, 1.4826 * _weighted_median(away_C, candidates.count_C, candidates.start_P)


def _weighted_median(value_C: Floats, count_C: Ints, start_P: Ints) -> Floats:
    """Median of each group with repeated values: the mean of the two middle ones for an even number."""
    order = order_within(value_C, start_P)
    size_P = np.diff(start_P)
    below = np.cumsum(count_C[order])
    before_P = np.concatenate(([0], below))[start_P[:-1]]
    within = below - np.repeat(before_P, size_P)
    n_P = total(count_C, start_P)
    low, high = ((n_P + 1) // 2, n_P // 2 + 1)
    middle = [value_C[order[first_true(within >= np.repeat(at, size_P), start_P)]] for at in (low, high)]
    return np.where(middle[0] == middle[1], middle[0], middle[0] / 2 + middle[1] / 2)  # their sum may overflow


def robust_sigma(candidates: Candidates, k: float) -> Ints:
    """The candidate nearest to median + k * 1.4826 * MAD; -1 where the MAD is 0 and so has no scale."""
    median_P, mad_P = median_mad(candidates)
    with np.errstate(over="ignore"):
        target_P = median_P + k * mad_P if k else median_P
    at_P = nearest(candidates, target_P, side=k, tol_P=TIE * mad_P + ROUNDING * np.abs(median_P))
    return np.where(mad_P > 0, at_P, -1) if k else at_P


def rank(candidates: Candidates, j: int) -> Ints:
    """The j-th best candidate (1 is the best, -1 the worst); equal scores in their order; -1 where there is none."""
    score_C, start_P = candidates.score_C, candidates.start_P
    size_P = np.diff(start_P)
    order = order_within(-score_C if j > 0 else score_C, start_P)
    at_P = start_P[:-1] + abs(j) - 1
    return np.where(abs(j) <= size_P, order[np.minimum(at_P, start_P[1:] - 1)], -1)


def subset(candidates: Candidates, draw_R: Keys, start_R: Ints, m: int) -> Bools:
    """The candidates with a row among the m of the prompt with the smallest draws: m rows without replacement.

    `start_R` are the offsets of the input rows. All candidates where a prompt has m rows or fewer.
    """
    order = order_within(draw_R, start_R)
    place = np.arange(len(order)) - np.repeat(start_R[:-1], np.diff(start_R))
    drawn_C = np.zeros(len(candidates.score_C), bool)
    drawn_C[candidates.candidate_R[order[place < m]]] = True
    return drawn_C


def min_of(candidates: Candidates, drawn_C: Bools) -> Ints:
    """The lowest of a drawn subset. Not a stand-in for mu - 2 sigma: E[min of 5 standard normals] is -1.163."""
    return first_lowest(candidates.score_C, candidates.start_P, drawn_C)


def max_of(candidates: Candidates, drawn_C: Bools) -> Ints:
    """The highest of a drawn subset (best of m)."""
    return first_lowest(-candidates.score_C, candidates.start_P, drawn_C)


def uniform(candidates: Candidates, draw_C: Keys, other_P: Ints | None = None) -> Ints:
    """One candidate at random, never the one that the other side picked."""
    eligible_C = np.ones(len(draw_C), bool)
    if other_P is not None:
        eligible_C[other_P[other_P >= 0]] = False
    # 53 bits survive the change to float; equal draws fall to the earlier candidate
    return first_lowest((draw_C >> np.uint64(11)).astype(np.float64), candidates.start_P, eligible_C)


def threshold(candidates: Candidates, chosen_P: Ints, gap: float) -> Ints:
    """The best candidate that still stands `gap` or more below the chosen one: the smallest gap that passes."""
    score_C, start_P = candidates.score_C, candidates.start_P
    limit_P = np.where(chosen_P >= 0, score_C[chosen_P], -np.inf) - gap
    passes_C = score_C <= np.repeat(limit_P, np.diff(start_P)) + TIE * max(1.0, abs(gap))
    passes_C &= score_C < np.repeat(np.where(chosen_P >= 0, score_C[chosen_P], -np.inf), np.diff(start_P))
    return first_lowest(-score_C, start_P, passes_C)


def length_matched(
    candidates: Candidates, spread: Moments, chosen_P: Ints, length_C: Floats, *, low: float, high: float
) -> Ints:
    """Of the candidates with low <= z <= high and a lower score than the chosen one, the nearest to it in length."""
    score_C, start_P = candidates.score_C, candidates.start_P
    size_P = np.diff(start_P)
    z_C = z(score_C, np.repeat(spread.mean_P, size_P), np.repeat(spread.sd_P, size_P))
    safe_P = np.maximum(chosen_P, 0)
    eligible_C = (z_C >= low - TIE) & (z_C <= high + TIE) & (score_C < np.repeat(score_C[safe_P], size_P))
    eligible_C &= np.repeat(chosen_P >= 0, size_P)
    return first_lowest(np.abs(length_C - np.repeat(length_C[safe_P], size_P)), start_P, eligible_C)


def z(score: Floats, mean: Floats, sd: Floats) -> Floats:
    """(score - mean) / sd, nan where sd is 0."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return np.where(sd > 0, (score / 2 - mean / 2) / sd * 2, np.nan)  # score - mean may overflow
