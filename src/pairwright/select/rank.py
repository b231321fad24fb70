"""One order over the pool, and which pairs of it are kept: budget, caps, bands, and a reason for every pair.

Pairs that cannot be ranked (a number is missing, a seed pair of the model behind it) have no rank and are never kept. The
order is that of (conflicts last, score, ties, ids): it does not depend on the order of the rows, and what is kept for a
budget is kept for every larger one.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pairwright.core.bands import Inside, inside
from pairwright.core.ranking import Codes, ordered, place_within, take
from pairwright.core.segments import Bools, Floats, Ints
from pairwright.errors import DataError
from pairwright.select.pool import Pool
from pairwright.select.rules import Scored, model_based, rule_of
from pairwright.select.settings import Limits, Selection

KEPT = "kept"
BELOW = "below_cut"
Small = NDArray[np.uint8]


class Chosen(NamedTuple):
    """Per pair: score (nan where there is none), rank from 1 (0: never ranked), kept, and which of `reasons` it has."""

    score_I: Floats
    rank_I: NDArray[np.uint32]
    keep_I: Bools
    able_I: Bools  # has every number: what random subsets are drawn from
    reason_I: Small
    reasons: list[str]
    scored: Scored
    facts: dict[str, Any]
    warnings: list[str]
    caps: list[tuple[str, int]]  # (column, most) of what may be kept of one value

    def reason_column(self) -> pl.Series:
        names = pl.Series(self.reasons, dtype=pl.Enum(self.reasons))
        return names.gather(pl.Series(self.reason_I)).alias("reason")

    def counts(self) -> dict[str, int]:
        n = np.bincount(self.reason_I, minlength=len(self.reasons))
        return {name: int(each) for name, each in zip(self.reasons, n, strict=True) if each}


class _Reasons:
    """The first reason that a pair is given is the one that it keeps."""

    def __init__(self, n: int) -> None:
        self.of_I = np.zeros(n, np.uint8)
        self.names = [KEPT, BELOW]

    def give(self, hit_I: Bools, name: str) -> None:
        if not hit_I.any():
            return
        if name not in self.names:
            self.names.append(name)
        self.of_I[hit_I & (self.of_I == 0)] = self.names.index(name)


def choose(pool: Pool, settings: Selection) -> Chosen:
    """The rule's number, then bands, order, caps and budget."""
    rule, limits, why = rule_of(settings.rule), settings.limited, _Reasons(pool.n)
    usable_I, warnings = _usable(pool, settings, why)
    scored = rule.score(pool, settings, usable_I)
    able_I, ranked_I = _able(scored, usable_I, why)
    score_I, band_facts = _banded(pool, scored, limits, ranked_I, why)
    scored = scored._replace(missing=dict.fromkeys(scored.missing, np.zeros(0)))  # ten million rows are 80 MB each
    rows = by_source(pool, limits, _order(pool, score_I, scored, ranked_I))
    k = settings.budget(pool.n, rule.keep)
    caps = _caps(limits, scored)
    held = [(name, (pool.codes(column)[rows], most)) for name, column, most in caps]
    keep_I = _kept(pool, rows, k, held, why)
    if scored.last_I is not None:
        why.give(scored.last_I & ranked_I & ~keep_I, "conflict")
    why.give(ranked_I & ~keep_I, BELOW)
    rank_I = np.zeros(pool.n, np.uint32)
    rank_I[rows] = np.arange(1, len(rows) + 1, dtype=np.uint32)
    facts = {"rule": settings.rule, "about": rule.about, "asked": k, **scored.facts, **band_facts}
    scored = scored._replace(tie_I=None, out_I=None)
    facts |= {"able": int(able_I.sum()), "ranked": len(rows)}
    told = [*warnings, *scored.warnings]
    if k == 0:
        asked = rule.keep if settings.keep is None else settings.keep
        told.append(f"a budget of {asked:g} of {pool.n} pairs is none: nothing is kept")
    most = [(column, cap) for _, column, cap in caps]
    return Chosen(score_I, rank_I, keep_I, able_I, why.of_I, why.names, scored, facts, told, most)


def _usable(pool: Pool, settings: Selection, why: _Reasons) -> tuple[Bools, list[str]]:
    """Pairs that no model behind the numbers was trained on, unless the settings say that they count too.

    A seed pair with a `scored_by` was scored by a model that did not see it (cross-fitted), and is ranked.
    """
    seeds_I = pool.flag("seed_pair")
    if seeds_I is None or not model_based(pool, settings):
        return np.ones(pool.n, bool), []
    if "scored_by" in pool.frame.columns:
        seeds_I = seeds_I & pool.frame["scored_by"].is_null().to_numpy()
    if settings.limited.include_seed:
        return np.ones(pool.n, bool), [
            f"{int(seeds_I.sum())} seed pairs are ranked: the model was trained on them, so they look better than they are"
        ]
    why.give(seeds_I, "seed_pair")
    return ~seeds_I, []


def _able(scored: Scored, usable_I: Bools, why: _Reasons) -> tuple[Bools, Bools]:
    """Pairs with every number; and those of them that the rule does not set aside."""
    able_I = usable_I.copy()
    for name, value_I in scored.missing.items():
        missing_I = np.isnan(value_I)
        why.give(missing_I, f"{name}_missing")
        able_I &= ~missing_I
    if scored.score_I is not None:
        missing_I = np.isnan(scored.score_I)
        why.give(missing_I & able_I, "no_score")
        able_I &= ~missing_I
    if scored.out_I is None:
        return able_I, able_I.copy()
    why.give(scored.out_I & able_I, scored.why_out)
    return able_I, able_I & ~scored.out_I


def _kept(pool: Pool, rows: Ints, k: int, caps: list[tuple[str, tuple[Codes, int]]], why: _Reasons) -> Bools:
    taken, stopped = take(k, [cap for _, cap in caps], len(rows))
    keep_I = np.zeros(pool.n, bool)
    keep_I[rows[taken]] = True
    for at, (name, _) in enumerate(caps):
        stopped_I = np.zeros(pool.n, bool)
        stopped_I[rows[stopped == at]] = True
        why.give(stopped_I, f"{name}_cap")
    return keep_I


def _banded(
    pool: Pool, scored: Scored, limits: Limits, ranked_I: Bools, why: _Reasons
) -> tuple[Floats, dict[str, Any]]:
    """Takes what is outside of a band out of `ranked_I`; a rule without a number is ranked by the middle of its bands."""
    bands: Mapping[str, tuple[float, float]] = {**scored.bands, **limits.bands}
    if not bands:
        if scored.score_I is None:
            raise DataError("the rule gave neither a number nor a band to rank by")
        return scored.score_I, {}
    held = {name: scored.missing[name] if name in scored.missing else pool.number(name) for name in bands}
    for name, value_I in held.items():
        why.give(np.isnan(value_I) & ranked_I, f"{name}_missing")
    seen = [np.where(ranked_I, value_I, np.nan) for value_I in held.values()]
    got: Inside = inside(seen, list(bands.values()), floor=limits.floor)
    told = {}
    for name, value_I, in_I, used in zip(bands, held.values(), got.inside_SI, got.bands, strict=True):
        out_I = ranked_I & ~in_I & ~np.isnan(value_I)
        told[name] = {
            "band": list(bands[name]),
            "used": list(used),
            "outside": int(out_I.sum()),
            **_ends(value_I, in_I),
        }
        why.give(out_I, f"outside_band_{name}")
    ranked_I &= got.keep_I
    facts = {"bands": told, "widened": got.widened}
    return (0.0 - got.off_I if scored.score_I is None else scored.score_I), facts


def _ends(value_I: Floats, in_I: Bools) -> dict[str, float | None]:
    """The values at the ends of a band."""
    held_I = value_I[in_I]
    return {"low": float(held_I.min()), "high": float(held_I.max())} if len(held_I) else {"low": None, "high": None}


def _order(pool: Pool, score_I: Floats, scored: Scored, ranked_I: Bools) -> Ints:
    """Ranked rows, best first."""
    parts = [ranked_I] if scored.last_I is None else [ranked_I & ~scored.last_I, ranked_I & scored.last_I]
    orders = []
    for part_I in parts:
        rows = np.flatnonzero(part_I)
        first_I = -score_I if len(rows) == pool.n else -score_I[rows]

        def ties(at: Ints, rows: Ints = rows) -> list[Codes]:
            first = [] if scored.tie_I is None else [-scored.tie_I[rows[at]]]
            return [*first, *pool.id_ties(rows[at])]

        orders.append(rows[ordered(first_I, ties)])
    return orders[0] if len(orders) == 1 else np.concatenate(orders)


def by_source(pool: Pool, limits: Limits, rows: Ints) -> Ints:
    """proportional: the best share of every source first, so that each cut takes the same share of all of them.

    The share is one of all pairs of the source, ranked or not; a source that runs out leaves its place to the others.
    """
    if limits.per_source != "proportional":
        return rows
    code_I = pool.codes(limits.source)
    names, size = np.unique(code_I, return_counts=True)
    code = code_I[rows]
    share = (place_within(code) + 0.5) / size[np.searchsorted(names, code)]
    return rows[ordered(share, lambda tied: [tied])]


def _caps(limits: Limits, scored: Scored) -> list[tuple[str, str, int]]:
    """(name of the reason, column, most) of every cap."""
    per_prompt = limits.per_prompt or scored.per_prompt
    caps: list[tuple[str, str, int]] = []
    if per_prompt:
        caps.append(("prompt", "prompt_id", per_prompt))
    if isinstance(limits.per_source, int):
        caps.append(("source", limits.source, limits.per_source))
    if limits.per_group:
        caps.append(("near_duplicate", "near_group", limits.per_group))
    return caps
