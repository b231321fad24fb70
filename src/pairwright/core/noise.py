"""Noise that is not sparse: how often labels are wrong, from their agreement alone; soft labels from votes.

A label is one of two answers, flipped with a probability that does not depend on which is right: show answers in random
order, or a rater's habit of position counts as an error of one side only. Flips are independent given the truth; raters
that share errors look better than they are. An estimate that the data does not give is None, with the reason.

Source: Dawid and Skene 1979; Wilson 1927; the closed forms are derived in the docstrings.
"""

from typing import NamedTuple

import numpy as np
import scipy.sparse.csgraph
import scipy.special
import scipy.stats
from numpy.typing import NDArray

from pairwright.core.segments import Bools, Floats, Ints
from pairwright.errors import DataError, NotIdentifiable

Matrix = NDArray[np.float64]


class Rate(NamedTuple):
    """A flip rate with its interval; `value` is None where undefined, and `reason` says why.

    An undefined value may keep its bounds: an agreement a little below 1/2 says that the rate is high.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int  # items it rests on
    reason: str = ""


def wilson(hits: float, n: float, *, level: float = 0.95) -> tuple[float, float]:
    """Score interval of a share: all p with |hits / n - p| <= z sqrt(p (1 - p) / n). (0, 1) for n = 0."""
    if n == 0:
        return 0.0, 1.0
    z2 = float(scipy.stats.norm.ppf((1 + level) / 2)) ** 2
    p = hits / n
    middle, half = p + z2 / (2 * n), np.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n)))
    low, high = (middle - half) / (1 + z2 / n), (middle + half) / (1 + z2 / n)
    return max(0.0, float(low)) if hits > 0 else 0.0, min(1.0, float(high)) if hits < n else 1.0


def agreement_of_two(flip: float) -> float:
    """Two labels with the same flip rate e agree with probability (1 - e)^2 + e^2."""
    return (1 - flip) ** 2 + flip**2


def flip_of_agreement(agreement: float) -> float | None:
    """The root below 1/2 of agreement = (1 - e)^2 + e^2: e = (1 - sqrt(2 A - 1)) / 2. None where A < 1/2: no e has it."""
    if not 0 <= agreement <= 1:
        raise DataError(f"an agreement of {agreement:g} is not a share; pass agreeing / compared, within 0 .. 1")
    # (1 - s) / 2 with s^2 = 2 A - 1, written as (1 - A) / (1 + s): nothing cancels near A = 1
    return (1 - agreement) / (1 + float(np.sqrt(2 * agreement - 1))) if agreement >= 0.5 else None


def flip_rate_from_two(agreeing: int, n: int, *, level: float = 0.95) -> Rate:
    """Flip rate from two independent labels of n items, `agreeing` of which are equal.

    The interval is Wilson's of the agreement, mapped through the falling e(A) and cut at e = 1/2.
    """
    if not 0 <= agreeing <= n:
        raise DataError(f"{agreeing} of {n} labels agree; pass counts with 0 <= agreeing <= n")
    if n == 0:
        return Rate(None, None, None, 0, "no_labels")
    return _mapped(agreeing / n, wilson(agreeing, n, level=level), n)


def _mapped(agreement: float, within: tuple[float, float], n: int) -> Rate:
    """An agreement and its interval as a flip rate."""
    low, high = flip_of_agreement(within[1]), flip_of_agreement(max(0.5, within[0]))
    if low is None:
        return Rate(None, None, None, n, "agreement_below_half")
    value = flip_of_agreement(agreement)
    return Rate(value, low, high, n, "" if value is not None else "agreement_below_half")


def flip_rate_from_repeats(
    count_I: Ints, votes_I: Ints, *, rng: np.random.Generator, level: float = 0.95, draws: int = 2000
) -> Rate:
    """Flip rate of one rater from repeated votes: `count_I` of the `votes_I` labels of an item say the first answer.

    Agreement of an item, unbiased: [c (c - 1) + (K - c)(K - c - 1)] / [K (K - 1)]; its mean is weighted by K - 1, the
    checks that an item holds. Interval: bootstrap over items, mapped as above. Items with one vote say nothing.
    Where the rate differs between items this is a lower bound of its mean: 2 A - 1 = mean (1 - 2 e)^2 >= (1 - 2 mean e)^2.
    """
    if ((count_I < 0) | (count_I > votes_I)).any():
        at = int(np.flatnonzero((count_I < 0) | (count_I > votes_I))[0])
        raise DataError(f"item {at}: {count_I[at]} of {votes_I[at]} votes; pass counts with 0 <= count <= votes")
    kept_I = votes_I >= 2
    n = int(kept_I.sum())
    if n == 0:
        return Rate(None, None, None, 0, "no_repeated_votes")
    # items with the same votes are alike: the bootstrap draws how often each kind occurs
    kind_VK, times_V = np.unique(np.stack([votes_I[kept_I], count_I[kept_I]], axis=1), axis=0, return_counts=True)
    votes_V, count_V = kind_VK.astype(np.float64).T
    checks_V = votes_V - 1
    agree_V = (count_V * (count_V - 1) + (votes_V - count_V) * (votes_V - count_V - 1)) / votes_V  # times K - 1
    drawn_DV = rng.multinomial(n, times_V / n, size=draws)
    low, high = np.quantile((drawn_DV @ agree_V) / (drawn_DV @ checks_V), [(1 - level) / 2, (1 + level) / 2])
    return _mapped(float(times_V @ agree_V / (times_V @ checks_V)), (float(low), float(high)), n)


class TwoSources(NamedTuple):
    """What the agreement of two sources of different quality says: only (1 - 2 e1)(1 - 2 e2) is known."""

    contrast: float  # 2 A - 1 = (1 - 2 e1)(1 - 2 e2)
    most: float | None  # neither rate is above 1 - A, if both sources beat chance: the other one would be perfect
    even: float | None  # the rate if both are equal; one rate is at or below it, the other at or above
    second: float | None  # the rate of the second source where that of the first is given
    reason: str = ""


def noise_rate_of_two_sources(agreement: float, *, first: float | None = None) -> TwoSources:
    """Bounds on the flip rates of two sources; with the rate of the first, that of the second: (1 - c/(1 - 2 e1)) / 2.

    `first` must be below 1/2. A second rate outside 0 .. 1 contradicts the independence of the two and is None.
    """
    even = flip_of_agreement(agreement)
    if first is not None and not 0 <= first < 0.5:
        raise DataError(f"a first rate of {first:g} leaves nothing to compare with; pass a rate in 0 .. 1/2")
    contrast = 2 * agreement - 1
    reason = "" if even is not None else "agreement_below_half"
    second = None
    if first is not None:
        second = (1 - contrast / (1 - 2 * first)) / 2
        if not -1e-12 <= second <= 1 + 1e-12:
            second, reason = None, "agreement_beyond_first_rate"
        else:
            second = min(max(second, 0.0), 1.0)
    return TwoSources(contrast, 1 - agreement if even is not None else None, even, second, reason)


def majority_accuracy(accuracy: float, k: int) -> float:
    """Chance that most of k independent votes of that accuracy are right, a tie counting 1/2; a^2 (3 - 2 a) for k = 3."""
    if not 0 <= accuracy <= 1 or k < 1:
        raise DataError(f"accuracy {accuracy:g} of {k} votes; pass an accuracy within 0 .. 1 and at least one vote")
    odd = k - (k % 2 == 0)  # with ties at 1/2 the last of an even number of votes changes nothing
    return float(scipy.special.bdtrc(odd // 2, odd, accuracy))


class Judges(NamedTuple):
    """Accuracy of each judge, nan where it is not identified; standard errors from a bootstrap over items."""

    accuracy_J: Floats
    se_J: Floats
    identified_J: Bools
    shared_JJ: Ints  # items that two judges both labelled; the diagonal: items of each


def judge_accuracy(vote_IJ: Matrix, *, rng: np.random.Generator, draws: int = 200) -> Judges:
    """Accuracies of three judges or more from their agreements; votes are 0 or 1, nan where missing.

    c_jk = 2 A_jk - 1 = b_j b_k with b = 2 a - 1, so b_1 = sqrt(c_12 c_13 / c_23) for three. For more judges all pairs
    enter: log |c_jk| = log |b_j| + log |b_k| by least squares, weighted by n c^2 / (1 - c^2), the inverse variance of
    log |c|. Signs of b: the leading eigenvector of the signed agreements, the majority of the judges being above chance.
    A judge is identified where its pairs form a cycle of odd length; a pair alone gives only a product.
    """
    if vote_IJ.shape[1] < 3:
        raise NotIdentifiable(
            f"{vote_IJ.shape[1]} judges: their agreement gives only the product of two accuracies. Add a third judge, or "
            "label a sample twice with the same judge"
        )
    if not np.isin(vote_IJ[np.isfinite(vote_IJ)], (0, 1)).all():
        raise DataError("judge_accuracy needs votes that are 0 or 1, nan where missing; code the two answers so")
    sign_IJ = np.where(np.isfinite(vote_IJ), 2 * np.nan_to_num(vote_IJ) - 1, 0.0)
    sign_UJ, times_U = np.unique(sign_IJ, axis=0, return_counts=True)
    accuracy_J = _accuracy(sign_UJ, times_U)
    items = len(vote_IJ)
    drawn_DJ = np.array(
        [_accuracy(sign_UJ, rng.multinomial(items, times_U / items)) for _ in range(draws if items else 0)]
    )
    told_DJ = ~np.isnan(drawn_DJ.reshape(-1, len(accuracy_J)))
    identified_J = ~np.isnan(accuracy_J)
    se_J = np.full(len(accuracy_J), np.nan)
    for j in np.flatnonzero(identified_J & (told_DJ.sum(axis=0) > 1)):
        se_J[j] = drawn_DJ[told_DJ[:, j], j].std(ddof=1)
    known_UJ = np.abs(sign_UJ)
    return Judges(accuracy_J, se_J, identified_J, np.rint((known_UJ * times_U[:, None]).T @ known_UJ).astype(np.int64))


def _accuracy(sign_UJ: Matrix, times_U: Ints) -> Floats:
    known_UJ, weighted_UJ = np.abs(sign_UJ), sign_UJ * times_U[:, None]
    shared_JJ = (known_UJ * times_U[:, None]).T @ known_UJ
    contrast_JJ = (weighted_UJ.T @ sign_UJ) / np.maximum(shared_JJ, 1)
    j, k = np.nonzero(np.triu((shared_JJ > 0) & (contrast_JJ != 0), 1))
    judges, c, n = len(shared_JJ), contrast_JJ[j, k], shared_JJ[j, k]
    weight = n * c**2 / (1 - c**2 + 1 / n)
    rows = np.arange(len(c))
    design = np.zeros((len(c), judges))
    design[rows, j] = design[rows, k] = 1.0
    root = np.sqrt(weight)
    log_b = np.linalg.lstsq(design * root[:, None], np.log(np.abs(c)) * root, rcond=None)[0]
    signed_JJ = np.zeros((judges, judges))
    signed_JJ[j, k] = signed_JJ[k, j] = np.sign(c) * root
    b_J = _signs(signed_JJ) * np.minimum(np.exp(log_b), 1.0)
    free, toward = np.linalg.eigh(design.T @ design)  # D + A: singular for each component without an odd cycle
    unknown_J = (toward[:, free < 1e-9] ** 2).sum(axis=1) > 1e-9
    return np.where(unknown_J, np.nan, (1 + b_J) / 2)


def _signs(signed_JJ: Matrix) -> Floats:
    """Signs that fit the agreements best, within each component most of them plus."""
    _, part_J = scipy.sparse.csgraph.connected_components(signed_JJ != 0, directed=False)
    sign_J = np.ones(len(part_J))
    for part in range(part_J.max(initial=-1) + 1):
        inside = np.flatnonzero(part_J == part)
        leading = np.linalg.eigh(signed_JJ[np.ix_(inside, inside)])[1][:, -1]
        sign_J[inside] = np.where(leading * np.sign(leading.sum() or 1.0) < 0, -1.0, 1.0)
    return sign_J


def soft_labels(vote_IJ: Matrix, accuracy_J: Floats, *, prior: float = 0.5, floor: float = 1e-6) -> Floats:
    """P(the answer coded 1 is right | votes): logit = logit(prior) + sum_j (2 vote - 1) logit(a_j), judges independent.

    Judges of accuracy nan have no say; accuracies are kept `floor` away from 0 and 1, so no single judge is certain.
    """
    clipped_J = np.where(np.isnan(accuracy_J), 0.5, np.clip(accuracy_J, floor, 1 - floor))
    say_IJ = np.where(np.isfinite(vote_IJ), 2 * np.nan_to_num(vote_IJ) - 1, 0.0)
    soft_I: Floats = scipy.special.expit(scipy.special.logit(prior) + say_IJ @ scipy.special.logit(clipped_J))
    return soft_I
