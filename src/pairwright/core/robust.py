"""Comparisons checked against each other: least absolute deviations, flags for votes that do not fit, refit without them.

    Phat = (c + a) / (K + 2a);  M = psi(Phat);  omega = 1 / sd(M)
    w = argmin sum omega |M - (w_l - w_r)|
    z = (Phat - p) / sqrt(p (1 - p) / K),  p = psi^-1(w_l - w_r);  flagged: |z| > z0 and K >= least_votes

In the spirit of CURATRON (Nguyen et al., arXiv 2403.02745); the estimator is ours (docs/cleaning.md). No vote is ever
changed: a flagged pair is listed with its old and its proposed probability.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit, ndtr, ndtri

from pairwright.core import graphs
from pairwright.core.comparisons import Comparisons, merged, only, prompt_of, sum_at
from pairwright.core.lad import Lad, lad, objective
from pairwright.core.ratings import RIDGE, Fit, fit_newton
from pairwright.core.segments import Bools, Floats, Ints, owner
from pairwright.errors import ConfigError, NotConverged, NotIdentifiable

STATUSES = (
    "ok",  # the maximum likelihood strengths of the pairs that are not flagged
    "separated",  # the same, held finite by the ridge: some responses win, or lose, all that is left
    "contested",  # without the flagged pairs the graph falls apart: LAD strengths. Not seen with a unique exact LAD,
    # whose fit goes through a tree of pairs
    "no_power",  # too few votes for a flag to mean anything: no flags, plain strengths (LAD is worse on clean votes)
    "ambiguous",  # LAD has several answers: no flags, plain strengths
    "detect_only",  # cap_safe = 0: flags say that something is wrong, not what; plain strengths
    "not_identifiable",  # no cycle: votes cannot be questioned; plain strengths
    "not_converged",  # nothing is given out
)


class Link(NamedTuple):
    """psi, its inverse, and the slope dp / dm of the inverse."""

    forward: Callable[[Floats], Floats]
    inverse: Callable[[Floats], Floats]
    density: Callable[[Floats], Floats]


LINKS: dict[str, Link] = {
    "logit": Link(logit, expit, lambda m: expit(m) * expit(-m)),  # Bradley-Terry-Luce
    "probit": Link(ndtri, ndtr, lambda m: np.exp(-m * m / 2) / np.sqrt(2 * np.pi)),  # Thurstone
}


@dataclass(frozen=True, slots=True)
class Flagging:
    """Settings of `repair`."""

    link: str = "logit"
    a: float = 0.5  # smoothing votes on each side
    z0: float = 4.0
    least_votes: float = 2.0  # one vote has no gross error
    min_testable: float = 0.5  # share of pairs below which flags are not used
    ridge: float = RIDGE

    def __post_init__(self) -> None:
        if self.link not in LINKS:
            raise ConfigError(f"[Flagging] link {self.link!r}: one of {', '.join(LINKS)}")
        low = [name for name in ("a", "z0", "ridge") if not getattr(self, name) > 0]
        if low:
            raise ConfigError(f"[Flagging] {low[0]} = {getattr(self, low[0])}: must be above 0")


class Repair(NamedTuple):
    """Suffix I: rows of `pairs` (one per pair). C: problems, the components of the prompts. R: items."""

    pairs: Comparisons
    strength_R: Floats  # what the status says; nan if not converged
    plain_R: Floats  # maximum likelihood of all pairs, logits
    lad_R: Floats  # in the unit of the link
    problem_R: Ints
    prompt_C: Ints
    status_C: Ints  # index into STATUSES
    redundancy: graphs.Redundancy  # of the problems
    testable_C: Floats  # share of pairs that could be flagged; nan without pairs
    tension_C: Floats  # sum omega |M - (w_l - w_r)|: 0 where all votes agree
    flagged_I: Bools
    safe_I: Bools  # of the flagged: no more in the problem than cap_safe
    old_I: Floats  # Phat
    proposed_I: Floats  # P(left wins) under strength_R
    margin_I: Floats  # |w_l - w_r|: what is at stake in the pair
    z_I: Floats


def smoothed(wins_I: Floats, votes_I: Floats, a: float = 0.5) -> Floats:
    """(c + a) / (K + 2a): never 0 or 1."""
    return (wins_I + a) / (votes_I + 2 * a)


def omega(p_I: Floats, votes_I: Floats, link: str = "logit") -> Floats:
    """1 / sd of psi(Phat) by the delta method; for the logit sqrt(K p (1 - p))."""
    law = LINKS[link]
    weight: Floats = law.density(law.forward(p_I)) * np.sqrt(votes_I / (p_I * (1 - p_I)))
    return weight


def flag_statistic(observed_I: Floats, p_I: Floats, votes_I: Floats) -> Floats:
    """(Phat - p) / sqrt(p (1 - p) / K)."""
    z: Floats = (observed_I - p_I) / np.sqrt(np.maximum(p_I * (1 - p_I), 1e-300) / votes_I)
    return z


def least_testable(votes: Floats, *, a: float = 0.5, z0: float = 4.0) -> Floats:
    """p*(K): a favourite that wins with more than this probability is flagged when every vote is against it."""
    q = a / (votes + 2 * a)
    square = z0 * z0
    return (2 * q * votes + square + z0 * np.sqrt(square + 4 * q * votes * (1 - q))) / (2 * (votes + square))


def outliers(pairs: Comparisons, difference_I: Floats, strength_R: Floats, *, tol: float = 1e-6) -> Bools:
    """Flags for data without noise: |M - (w_l - w_r)| > tol."""
    away: Bools = np.abs(difference_I - (strength_R[pairs.left_I] - strength_R[pairs.right_I])) > tol
    return away


class _Evidence(NamedTuple):
    """The least absolute deviations of the problems, and what they say of each pair."""

    lad: Lad
    tension_C: Floats
    old_I: Floats
    z_I: Floats
    testable_C: Floats


def _evidence(apart: Comparisons, settings: Flagging) -> _Evidence:
    law, votes = LINKS[settings.link], apart.votes_I
    old_I = smoothed(apart.wins_I, votes, settings.a)
    weight_I = omega(old_I, votes, settings.link)
    told = lad(apart, law.forward(old_I), weight_I)
    p_I = law.inverse(told.strength_R[apart.left_I] - told.strength_R[apart.right_I])
    enough_I = np.maximum(p_I, 1 - p_I) > least_testable(votes, a=settings.a, z0=settings.z0)
    problem_I, count = prompt_of(apart), len(apart.item_start_P) - 1
    able_C = sum_at(problem_I, (enough_I & (votes >= settings.least_votes)).astype(float), count)
    with np.errstate(invalid="ignore"):
        testable_C = able_C / np.bincount(problem_I, minlength=count)
    tension_C = objective(apart, told, weight_I)
    return _Evidence(told, tension_C, old_I, flag_statistic(old_I, p_I, votes), testable_C)


def repair(
    pairs: Comparisons, settings: Flagging | None = None, *, derived: bool = False, strict: bool = True
) -> Repair:
    """LAD, flags, refit. `derived`: the pairs were made from scores, which cannot contradict each other: refused.

    The two orders of presentation of a pair are added up; see `split_positions`. `strict`: raise NotConverged instead of
    a status. With nothing flagged the strengths are those of `fit_newton`, to the last bit.
    """
    settings = settings or Flagging()
    if derived:
        raise NotIdentifiable(
            "derived_pairs: pairs made from scores are always transitive, so consistency checks are vacuous; "
            "judge pairs independently, or check the scores themselves"
        )
    pairs = merged(pairs)
    apart, row_I, item_R, prompt_C = graphs.by_component(pairs)
    counts = graphs.redundancy(apart)
    plain = fit_newton(apart, ridge=settings.ridge, strict=strict)
    evidence = _evidence(apart, settings)
    converged_C = plain.converged_P & evidence.lad.converged_P
    if strict and not converged_C.all():
        raise NotConverged(
            f"prompt {prompt_C[np.argmin(converged_C)]}: least absolute deviations did not settle; nothing was repaired. "
            "Drop its comparisons, or pass strict=False for a status"
        )
    status_C = _first_status(counts, evidence, converged_C, settings)
    flagged_I = _flags(apart, evidence, status_C, settings)
    status_C, strength_S = _refit(apart, flagged_I, status_C, (plain, evidence.lad.strength_R), settings, strict=strict)

    problem_I, gap_I = prompt_of(apart), strength_S[apart.left_I] - strength_S[apart.right_I]
    flagged_I &= (status_C != STATUSES.index("not_converged"))[problem_I]
    by_lad_C = np.isin(status_C, _codes("contested"))
    count_C = np.bincount(problem_I, flagged_I, len(status_C))
    trusted_C = (count_C <= counts.cap_safe_P) & np.isin(status_C, _codes("ok", "separated"))
    on_rows, on_items = np.argsort(row_I), np.argsort(item_R)  # parts keep the order of their items: no pair is turned
    return Repair(
        pairs=pairs,
        strength_R=strength_S[on_items],
        plain_R=plain.strength_R[on_items],
        lad_R=evidence.lad.strength_R[on_items],
        problem_R=owner(apart.item_start_P)[on_items],
        prompt_C=prompt_C,
        status_C=status_C,
        redundancy=counts,
        testable_C=evidence.testable_C,
        tension_C=evidence.tension_C,
        flagged_I=flagged_I[on_rows],
        safe_I=(flagged_I & trusted_C[problem_I])[on_rows],
        old_I=evidence.old_I[on_rows],
        proposed_I=np.where(by_lad_C[problem_I], LINKS[settings.link].inverse(gap_I), expit(gap_I))[on_rows],
        margin_I=np.abs(gap_I)[on_rows],
        z_I=evidence.z_I[on_rows],
    )


def _codes(*names: str) -> list[int]:
    return [STATUSES.index(name) for name in names]


def _first_status(counts: graphs.Redundancy, evidence: _Evidence, converged_C: Bools, settings: Flagging) -> Ints:
    """Before any flag: the first of these that holds."""
    rules = [
        (~converged_C, "not_converged"),
        (counts.cycle_rank_P == 0, "not_identifiable"),
        (counts.cap_safe_P == 0, "detect_only"),
        (~evidence.lad.unique_P, "ambiguous"),
        (~(evidence.testable_C >= settings.min_testable), "no_power"),
    ]
    return np.select([hit_C for hit_C, _ in rules], _codes(*(name for _, name in rules)), STATUSES.index("ok"))


def _flags(apart: Comparisons, evidence: _Evidence, status_C: Ints, settings: Flagging) -> Bools:
    speaks_C = np.isin(status_C, _codes("ok", "detect_only")) & evidence.lad.unique_P
    loud_I: Bools = (np.abs(evidence.z_I) > settings.z0) & (apart.votes_I >= settings.least_votes)
    return loud_I & speaks_C[prompt_of(apart)]


def _refit(
    apart: Comparisons,
    flagged_I: Bools,
    status_C: Ints,
    known: tuple[Fit, Floats],
    settings: Flagging,
    *,
    strict: bool,
) -> tuple[Ints, Floats]:
    """(final status, strengths) from the plain fit and LAD. Only problems with a flag are fitted again."""
    ok, contested, separated, lost = _codes("ok", "contested", "separated", "not_converged")
    problem_I, problem_R = prompt_of(apart), owner(apart.item_start_P)
    strength_R = known[0].strength_R
    touched_C = (np.bincount(problem_I, flagged_I, len(status_C)) > 0) & (status_C == ok)
    left = only(apart, ~flagged_I & touched_C[problem_I])
    status_C = np.where(touched_C & (graphs.part_count(left) > 1), contested, status_C)
    if touched_C.any():
        again = fit_newton(left, ridge=settings.ridge, strict=strict)
        status_C = np.where((status_C == ok) & ~again.converged_P, lost, status_C)
        strength_R = np.where(touched_C[problem_R], again.strength_R, strength_R)
    kept = only(apart, ~(flagged_I & touched_C[problem_I]))
    status_C = np.where((status_C == ok) & graphs.separated(kept), separated, status_C)
    by_lad_R = (status_C == contested)[problem_R]
    strength_R = np.where(by_lad_R, known[1], strength_R)
    return status_C, np.where((status_C == lost)[problem_R], np.nan, strength_R)


class Positions(NamedTuple):
    """Pairs judged in both orders (suffix I: rows of `merged(pairs)` with both)."""

    row_I: Ints
    skew_I: Floats  # log-odds of left with the order averaged out
    bias_I: Floats  # symmetric part: advantage of being shown first
    bias: float  # of all pairs, each with its precision; nan without any
    sd: float


def split_positions(pairs: Comparisons, settings: Flagging | None = None) -> Positions:
    """Skew and symmetric part of M where P_ij (i first) + P_ji (j first) != 1. `pairs` with orders kept apart.

    With left's psi(Phat) m when shown first and m' when shown second: skew = (m + m') / 2, bias = (m - m') / 2.
    """
    settings = settings or Flagging()
    law = LINKS[settings.link]
    p_I = smoothed(pairs.wins_I, pairs.votes_I, settings.a)
    m_I, variance_I = law.forward(p_I), omega(p_I, pairs.votes_I, settings.link) ** -2.0
    same = (pairs.left_I[1:] == pairs.left_I[:-1]) & (pairs.right_I[1:] == pairs.right_I[:-1])
    at = np.flatnonzero(same & (pairs.first_I[:-1] == 1) & (pairs.first_I[1:] == -1))
    row_I = (np.cumsum(np.concatenate(([True], ~same))) - 1)[at] if len(m_I) else at
    skew_I, bias_I = (m_I[at] + m_I[at + 1]) / 2, (m_I[at] - m_I[at + 1]) / 2
    precision = 4 / (variance_I[at] + variance_I[at + 1])
    whole = float(precision.sum())
    if whole == 0:
        return Positions(row_I, skew_I, bias_I, float("nan"), float("nan"))
    return Positions(row_I, skew_I, bias_I, float(precision @ bias_I) / whole, whole**-0.5)
