"""One matrix of comparisons, completed and cleaned as low rank plus sparse under a link, then ranked.

In the spirit of CURATRON (Nguyen, Naresh and Tulabandhula, arXiv 2403.02745), reconstructed from its lineage (Rajkumar and
Agarwal 2016; Niranjan and Rajkumar 2017): the paper's inner steps, constants and numbers are not known to us, and nothing
here claims to reproduce them. The default way to rank and to flag comparisons is another one, least absolute deviations.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import scipy.sparse.csgraph
import scipy.special
from numpy.typing import NDArray

from pairwright.core.lowrank import LowRank, split_low_rank
from pairwright.core.segments import Bools, Floats, Ints
from pairwright.errors import DataError, NotIdentifiable

Matrix = NDArray[np.float64]
Link = Literal["logit", "probit"]
LINK: dict[str, tuple[Callable[[Matrix], Matrix], Callable[[Matrix], Matrix]]] = {
    "logit": (scipy.special.logit, scipy.special.expit),  # Bradley-Terry-Luce
    "probit": (scipy.special.ndtri, scipy.special.ndtr),  # Thurstone
}


class Linked(NamedTuple):
    """psi(P) of the smoothed shares, the pairs observed (with the diagonal, known to be 0) and the sd of each entry."""

    link_NN: Matrix
    mask_NN: Bools
    sd_NN: Matrix


def link_matrix(wins_NN: Matrix, *, link: Link = "logit", smooth: float = 0.5) -> Linked:
    """psi((c + a) / (K + 2 a)) of the votes c_ij for i over j, a tie 1/2 to each; K_ij = c_ij + c_ji, a = `smooth`.

    Skew-symmetric; |logit| <= log(2 K + 1) for a = 1/2. sd by the delta method: sqrt(p (1 - p) / K) * psi'(p).
    Smoothing must be positive: one vote, or a unanimous pair, has no finite link.
    """
    if smooth <= 0 or not (wins_NN >= 0).all():
        raise DataError(
            "votes must be numbers of at least 0 and the smoothing positive; write pairs without votes as 0"
        )
    votes_NN = wins_NN + wins_NN.T
    mask_NN = (votes_NN > 0) | np.eye(len(wins_NN), dtype=bool)
    share_NN = (wins_NN + smooth) / (votes_NN + 2 * smooth)
    link_NN = LINK[link][0](share_NN)
    link_NN = np.where(mask_NN, (link_NN - link_NN.T) / 2, 0.0)
    np.fill_diagonal(link_NN, 0.0)
    shape_NN = share_NN * (1 - share_NN)
    slope_NN = 1 / shape_NN if link == "logit" else np.sqrt(2 * np.pi) * np.exp(LINK[link][0](share_NN) ** 2 / 2)
    sd_NN = np.where(votes_NN > 0, np.sqrt(shape_NN / np.maximum(votes_NN, 1e-300)) * slope_NN, 0.0)
    return Linked(link_NN, mask_NN, sd_NN)


class Ranked(NamedTuple):
    """The repaired comparisons and the order they give; `sparse_NN` holds the suspects, in units of the link."""

    order_N: Ints  # best first, by row sums of the low-rank part; equal sums in their order
    copeland_N: Ints  # best first, by the number of others beaten with more than 1/2, ties by row sums
    strength_N: Floats  # row sums / n: for an exact gradient matrix the centred strengths
    prob_NN: Matrix  # repaired P(i beats j)
    sparse_NN: Matrix
    fit: LowRank


def skew_split(value_NN: Matrix) -> tuple[Matrix, Matrix]:
    """Skew-symmetric and symmetric part. Where presentation order was kept, the symmetric part is position bias."""
    return (value_NN - value_NN.T) / 2, (value_NN + value_NN.T) / 2


def rank_repaired(
    link_NN: Matrix,
    *,
    mask_NN: Bools | None = None,
    sd: float | Matrix = 0.0,
    rank: int = 2,
    link: Link = "logit",
    fade: float | None = None,
    most: int = 500,
) -> Ranked:
    """Order, repaired probabilities and suspects from psi(P): RORATRON with all pairs seen, CURATRON with some missing.

    The rank is even: 2 for Bradley-Terry or Thurstone; more lets cycles count as structure. `sd` as in `split_low_rank`: with
    few votes no pair can stand out. Pass skew-symmetric values (`skew_split`); pairs seen must join all responses. With fewer
    than four responses nothing is repaired.
    """
    mask_NN = np.isfinite(link_NN) if mask_NN is None else mask_NN & np.isfinite(link_NN)
    mask_NN = mask_NN | np.eye(len(link_NN), dtype=bool)
    known_NN = np.where(mask_NN, link_NN, 0.0)
    np.fill_diagonal(known_NN, 0.0)
    if (mask_NN != mask_NN.T).any() or np.abs(known_NN + known_NN.T).max(initial=0) > 1e-9 * np.abs(known_NN).max(
        initial=0
    ):
        raise DataError("psi(P) is not skew-symmetric; take skew_split, whose symmetric part is position bias")
    parts, _ = scipy.sparse.csgraph.connected_components(mask_NN, directed=False)
    if parts > 1:
        raise NotIdentifiable(f"the pairs seen leave {parts} groups of responses without a link; rank each by itself")
    fit = split_low_rank(known_NN, rank=rank, mask_PJ=mask_NN, sd=sd, skew=True, fade=fade, most=most)
    strength_N = fit.low_PJ.sum(axis=1) / max(len(known_NN), 1)
    prob_NN = LINK[link][1](fit.low_PJ)
    beaten_N = (prob_NN > 0.5).sum(axis=1)
    order_N, copeland_N = np.argsort(-strength_N, kind="stable"), np.lexsort((-strength_N, -beaten_N))
    return Ranked(order_N, copeland_N, strength_N, prob_NN, fit.sparse_PJ, fit)
