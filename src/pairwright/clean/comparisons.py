"""Comparisons against each other: robust strengths, flagged pairs, cycles, soft labels."""

import json
from typing import Any

import numpy as np
import polars as pl

from pairwright.clean.evidence import SOFT, Cleaned, Cleaning, Votes, votes_of
from pairwright.core.graphs import majority_cycles
from pairwright.core.orders import order_error
from pairwright.core.ratings import fit_newton, win_probability
from pairwright.core.robust import STATUSES, Flagging, Repair, repair, split_positions
from pairwright.core.segments import Floats, owner
from pairwright.tables import PROPOSALS, SCORES, conform

Z0 = 4.0
PRIOR = 0.25  # 1 / variance of the strengths that the expected cycles are counted under: sd 2 logits
FEW_CYCLES = 5  # expected ones, from which on none at all is strange: a chance of 0.007


def clean_comparisons(comparisons: pl.DataFrame, settings: Cleaning) -> Cleaned:
    """LAD, flags and refit of all prompts in one batch. Votes of several raters are added up.

    The strengths (logits, mean 0 within the connected part of a prompt) come as rater NAME.bt, NAME the only rater or
    "comparisons". A prompt whose fit did not converge has neither strength nor proposal.
    """
    votes = votes_of(comparisons)
    flagging = Flagging(link=settings.link, z0=settings.z0 or Z0)
    told = repair(votes.pairs, flagging, strict=False)
    names = comparisons["rater"].unique().to_list()
    rater = str(names[0]) if len(names) == 1 else "comparisons"
    facts = _facts(votes, told) | {"rater": f"{rater}.bt", "position": _position(comparisons, flagging)}
    return Cleaned(_proposals(votes, told, rater), _strengths(votes, told, rater), _soft(votes, told), facts)


def _proposals(votes: Votes, told: Repair, rater: str) -> pl.DataFrame:
    at = np.flatnonzero(told.flagged_I)
    left, right = (votes.items[column] for column in (told.pairs.left_I[at], told.pairs.right_I[at]))
    status_I = told.status_C[told.problem_R[told.pairs.left_I]]
    safe = told.safe_I[at]
    evidence = [
        json.dumps({"votes": float(told.pairs.votes_I[i]), "for_left": float(told.pairs.wins_I[i])}) for i in at
    ]
    why = [f"contradicts_the_rest ({STATUSES[code]})" if code else "contradicts_the_rest" for code in status_I[at]]
    rows = pl.DataFrame(
        {
            "case": "comparisons",
            "prompt_id": left["prompt_id"],
            "response_id": left["response_id"],
            "right_id": right["response_id"],
            "rater": rater,
            "old": told.old_I[at],
            "proposed": told.proposed_I[at],
            "margin": told.margin_I[at],
            "z": told.z_I[at],
            "evidence": pl.Series(evidence, dtype=pl.String),
            "status": pl.Series(["safe" if each else "contested" for each in safe], dtype=pl.String),
            "reason": pl.Series(why, dtype=pl.String),
        },
        schema=PROPOSALS.schema,
    )
    return conform(rows.sort(pl.col("z").abs(), descending=True, maintain_order=True), PROPOSALS, where="clean")


def _strengths(votes: Votes, told: Repair, rater: str) -> pl.DataFrame:
    """NaN, of a fit that did not converge, is missing; so is a response that was compared with none of its prompt.

    Strengths of different parts of a prompt cannot be compared: where two parts hold pairs, all of the prompt is missing.
    """
    lost = ~np.isfinite(told.strength_R)
    alone_C = np.bincount(told.problem_R, minlength=len(told.prompt_C)) == 1
    parts_P = np.bincount(told.prompt_C[~alone_C], minlength=len(votes.prompts))
    split_R = (parts_P > 1)[owner(votes.pairs.item_start_P)] | alone_C[told.problem_R]
    reason = np.where(lost, "not_converged", np.where(split_R, "not_connected", ""))
    return votes.items.select(
        "prompt_id",
        "response_id",
        rater=pl.lit(f"{rater}.bt"),
        score=pl.Series(np.where(reason == "", told.strength_R, 0.0)),
        reason=pl.Series(reason.tolist(), dtype=pl.String),
        scale_min=pl.lit(None, pl.Float64),
        scale_max=pl.lit(None, pl.Float64),
    ).with_columns(
        score=pl.when(pl.col("reason") == "").then("score"), reason=pl.when(pl.col("reason") != "").then("reason")
    )[list(SCORES.columns)]


def _soft(votes: Votes, told: Repair) -> pl.DataFrame:
    """Chance that left is better. From the strengths where a cycle holds them together, else from the votes of the pair."""
    pairs = told.pairs
    problem_I = told.problem_R[pairs.left_I]
    fitted_I = (told.redundancy.cycle_rank_P > 0)[problem_I] & np.isfinite(told.proposed_I)
    p_I = np.where(fitted_I, told.proposed_I, told.old_I)
    left, right = votes.items[pairs.left_I], votes.items[pairs.right_I]
    return pl.DataFrame(
        {
            "prompt_id": left["prompt_id"],
            "left_id": left["response_id"],
            "right_id": right["response_id"],
            "p_left": p_I,
            "weight": np.abs(2 * p_I - 1),
            "votes": pairs.votes_I,
            "source": pl.Series(np.where(fitted_I, "strengths", "votes").tolist(), dtype=pl.String),
        },
        schema=SOFT,
    )


def _facts(votes: Votes, told: Repair) -> dict[str, Any]:
    """Counts, cycles against those that the fitted noise explains, and how far the ranking moves."""
    names, counts = np.unique(told.status_C, return_counts=True)
    plain = fit_newton(told.pairs, ridge=PRIOR, strict=False)  # without a prior, consistent votes would never err
    p_I = win_probability(plain.strength_R[told.pairs.left_I] - plain.strength_R[told.pairs.right_I])
    cycles = majority_cycles(told.pairs, p_I)
    moved_P = _moved(told)
    testable = told.testable_C[np.isfinite(told.testable_C)]
    expected = float(np.nansum(cycles.expected_P))
    note = (
        f"not one cycle where votes that err independently would close about {expected:.0f} (strengths with sd 2 logits): the "
        "comparisons of a prompt may be one ranking written out, and then they cannot be checked against each other "
        "(derived_pairs)"
    )
    return {
        "note": note if expected >= FEW_CYCLES and not cycles.cycles_P.any() else None,
        "statuses": {STATUSES[code]: int(n) for code, n in zip(names, counts, strict=True)},
        "flagged": int(told.flagged_I.sum()),
        "safe": int(told.safe_I.sum()),
        "pairs": len(told.flagged_I),
        "cycles": float(cycles.cycles_P.sum()),
        "triples": float(cycles.triples_P.sum()),
        "expected_cycles": expected,
        "testable": float(testable.mean()) if len(testable) else None,
        "ranking_moved": float(moved_P.mean()) if len(moved_P) else None,
    }


def _moved(told: Repair) -> Floats:
    """Share of the pairs of a prompt that the plain and the robust strengths order differently, where something is flagged."""
    start_P = told.pairs.item_start_P
    flagged_P = np.bincount(owner(start_P)[told.pairs.left_I], told.flagged_I, len(start_P) - 1) > 0
    if not flagged_P.any() or not np.isfinite(told.strength_R).all():
        return np.zeros(0)
    return order_error(told.strength_R, told.plain_R, start_P)[flagged_P]


def _position(comparisons: pl.DataFrame, flagging: Flagging) -> dict[str, float] | None:
    """The advantage of being shown first, logits, where pairs were judged in both orders."""
    shown = comparisons.filter(pl.col("shown_first").is_not_null())
    if shown.is_empty():
        return None
    told = split_positions(votes_of(shown, ordered=True).pairs, flagging)
    return {"bias": told.bias, "sd": told.sd, "pairs": len(told.row_I)} if len(told.row_I) else None
