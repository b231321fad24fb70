"""How good the raters of comparisons are, from where they disagree: no truth is needed, three raters are."""

from typing import Any

import numpy as np
import polars as pl

from pairwright.clean.evidence import SOFT
from pairwright.core.dawid_skene import fit_dawid_skene
from pairwright.core.noise import Rate, flip_rate_from_repeats, flip_rate_from_two, judge_accuracy
from pairwright.errors import NotConverged, NotIdentifiable

PAIR = ["prompt_id", "left_id", "right_id"]


def judges(comparisons: pl.DataFrame, *, seed: int) -> tuple[dict[str, Any], pl.DataFrame]:
    """Facts of the raters (flip rate from repeats, agreement of every two, accuracy), and soft labels out of them.

    Accuracy is the chance of naming the better side. From three raters on it comes by two routes, the triangle of their
    agreements and Dawid-Skene with one accuracy per rater; with two there is only the product. Ties take no part.
    """
    votes = _turned(comparisons).filter(pl.col("outcome").is_in(["left", "right"]))
    rng = np.random.default_rng(seed)
    facts: dict[str, Any] = {"raters": {}, "agreement": []}
    for (rater,), held in votes.group_by("rater", maintain_order=True):
        counts = held.group_by(PAIR).agg(n=pl.len(), first=(pl.col("outcome") == "left").sum())
        rate = flip_rate_from_repeats(counts["first"].to_numpy(), counts["n"].to_numpy(), rng=rng)
        facts["raters"][str(rater)] = {"votes": held.height, "pairs": counts.height, "flip_rate": _told(rate)}
    matrix = _matrix(votes)
    names = [name for name in matrix.columns if name not in PAIR]
    vote_IJ = matrix.select(names).cast(pl.Float64).fill_null(np.nan).to_numpy()
    for j, one in enumerate(names):
        for k, two in enumerate(names[:j]):
            both = np.isfinite(vote_IJ[:, j]) & np.isfinite(vote_IJ[:, k])
            agreeing = int((vote_IJ[both, j] == vote_IJ[both, k]).sum())
            rate = flip_rate_from_two(agreeing, int(both.sum()))
            facts["agreement"].append(
                {"a": two, "b": one, "n": int(both.sum()), "agreeing": agreeing, "flip_rate": _told(rate)}
            )
    soft = _soft(matrix, vote_IJ, names, facts, rng)
    return facts, soft


def _turned(comparisons: pl.DataFrame) -> pl.DataFrame:
    """The lower id left, so that a pair has one name whichever way round it was asked."""
    swap = pl.col("left_id") > pl.col("right_id")
    flipped = pl.col("outcome").replace({"left": "right", "right": "left"})
    return comparisons.with_columns(
        left_id=pl.when(swap).then("right_id").otherwise("left_id"),
        right_id=pl.when(swap).then("left_id").otherwise("right_id"),
        outcome=pl.when(swap).then(flipped).otherwise("outcome"),
    )


def _matrix(votes: pl.DataFrame) -> pl.DataFrame:
    """One row per pair, one column per rater: 1 for left, 0 for right, null without a majority."""
    share = votes.group_by([*PAIR, "rater"], maintain_order=True).agg(p=(pl.col("outcome") == "left").mean())
    decided = share.with_columns(vote=pl.when(pl.col("p") != 0.5).then((pl.col("p") > 0.5).cast(pl.Float64)))
    return decided.pivot("rater", index=PAIR, values="vote", maintain_order=True)


def _soft(
    matrix: pl.DataFrame, vote_IJ: Any, names: list[str], facts: dict[str, Any], rng: np.random.Generator
) -> pl.DataFrame:
    """Dawid-Skene's posterior of every pair; empty where it cannot be had. Sides are turned at random before the fits."""
    if len(names) < 3:
        few = "one_judge: repeats of it give its flip rate, not its accuracy"
        reason = "two_judges: their agreement gives the product of their accuracies alone" if len(names) == 2 else few
        facts["accuracy"] = {"reason": reason}
        return pl.DataFrame(schema=SOFT)
    turned_I = rng.random(len(vote_IJ)) < 0.5
    sided_IJ = np.where(turned_I[:, None], 1 - vote_IJ, vote_IJ)
    try:
        triangle = judge_accuracy(sided_IJ, rng=rng)
        item_V, judge_V = np.nonzero(np.isfinite(sided_IJ))
        fit = fit_dawid_skene(item_V, judge_V, sided_IJ[item_V, judge_V].astype(np.int64), judges="one_coin")
    except (NotConverged, NotIdentifiable) as refused:
        facts["accuracy"] = {"reason": str(refused)}
        return pl.DataFrame(schema=SOFT)
    facts["accuracy"] = {
        name: {
            "triangle": _plain(triangle.accuracy_J[j]),
            "se": _plain(triangle.se_J[j]),
            "dawid_skene": _plain(fit.accuracy_J[j]),
        }
        for j, name in enumerate(names)
    }
    p_I = np.where(turned_I, fit.soft_IK[:, 0], fit.soft_IK[:, 1])
    known = np.isfinite(vote_IJ).sum(axis=1)
    return matrix.select(
        *PAIR,
        p_left=pl.Series(p_I),
        weight=pl.Series(np.abs(2 * p_I - 1)),
        votes=pl.Series(known.astype(np.float64)),
        source=pl.lit("dawid_skene"),
    )


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _told(rate: Rate) -> dict[str, Any]:
    return rate._asdict()
