"""How good the raters of comparisons are, from where they disagree: no truth is needed, three raters are."""

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

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
    held = _turned(comparisons).filter(pl.col("outcome").is_not_null()).sort([*PAIR, "rater"])
    votes = held.filter(pl.col("outcome") != "tie")
    rng = np.random.default_rng(seed)
    facts: dict[str, Any] = {"raters": {}, "agreement": []}
    for (rater,), mine in votes.sort("rater", *PAIR).group_by("rater", maintain_order=True):
        counts = mine.group_by(PAIR).agg(n=pl.len(), first=(pl.col("outcome") == "left").sum())
        rate = flip_rate_from_repeats(counts["first"].to_numpy(), counts["n"].to_numpy(), rng=rng)
        facts["raters"][str(rater)] = {"votes": mine.height, "pairs": counts.height, "flip_rate": _told(rate)}
    pairs, names, vote_IJ = _matrix(votes)
    for j, one in enumerate(names):
        for k, two in enumerate(names[:j]):
            both = np.isfinite(vote_IJ[:, j]) & np.isfinite(vote_IJ[:, k])
            agreeing = int((vote_IJ[both, j] == vote_IJ[both, k]).sum())
            rate = flip_rate_from_two(agreeing, int(both.sum()))
            facts["agreement"].append(
                {"a": two, "b": one, "n": int(both.sum()), "agreeing": agreeing, "flip_rate": _told(rate)}
            )
    soft = _soft(pairs, vote_IJ, names, facts, rng)
    return facts, soft if soft.is_empty() else pl.concat([soft, _undecided(held, pairs)])


def _turned(comparisons: pl.DataFrame) -> pl.DataFrame:
    """The lower id left, so that a pair has one name whichever way round it was asked."""
    swap = pl.col("left_id") > pl.col("right_id")
    flipped = pl.col("outcome").replace({"left": "right", "right": "left"})
    return comparisons.with_columns(
        left_id=pl.when(swap).then("right_id").otherwise("left_id"),
        right_id=pl.when(swap).then("left_id").otherwise("right_id"),
        outcome=pl.when(swap).then(flipped).otherwise("outcome"),
    )


def _matrix(votes: pl.DataFrame) -> tuple[pl.DataFrame, list[str], NDArray[np.float64]]:
    """(pairs with a vote that counts, raters, votes: 1 for left, 0 for right, nan without a majority of the rater)."""
    share = votes.group_by([*PAIR, "rater"], maintain_order=True).agg(p=(pl.col("outcome") == "left").mean())
    decided = share.filter(pl.col("p") != 0.5).with_columns(vote=(pl.col("p") > 0.5).cast(pl.Float64))
    pairs = decided.select(PAIR).unique(maintain_order=True)
    names = decided["rater"].unique().sort().to_list()
    vote_IJ = np.full((pairs.height, len(names)), np.nan)
    at = decided.join(pairs.with_row_index("row"), on=PAIR, how="left", maintain_order="left")
    place = np.searchsorted(names, at["rater"].to_list()) if names else np.zeros(0, np.int64)
    vote_IJ[at["row"].cast(pl.Int64).to_numpy(), place] = at["vote"].to_numpy()
    return pairs, names, vote_IJ


def _undecided(held: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
    """Pairs of ties alone, or whose raters are each of two minds: an even chance, from their votes."""
    left = held.join(pairs, on=PAIR, how="anti", maintain_order="left")
    counted = left.group_by(PAIR, maintain_order=True).agg(votes=pl.len().cast(pl.Float64))
    return counted.select(*PAIR, p_left=pl.lit(0.5), weight=pl.lit(0.0), votes="votes", source=pl.lit("votes"))


def _soft(
    pairs: pl.DataFrame, vote_IJ: NDArray[np.float64], names: list[str], facts: dict[str, Any], rng: np.random.Generator
) -> pl.DataFrame:
    """Dawid-Skene's posterior of every pair; empty where it cannot be had. Sides are turned at random before the fits."""
    if len(names) < 3:
        few = "one_judge: repeats of it give its flip rate, not its accuracy"
        two = "two_judges: their agreement gives the product of their accuracies alone"
        facts |= {"accuracy": {}, "no_accuracy": two if len(names) == 2 else few}
        return pl.DataFrame(schema=SOFT)
    turned_I = rng.random(len(vote_IJ)) < 0.5
    sided_IJ = np.where(turned_I[:, None], 1 - vote_IJ, vote_IJ)
    try:
        triangle = judge_accuracy(sided_IJ, rng=rng)
        item_V, judge_V = np.nonzero(np.isfinite(sided_IJ))
        fit = fit_dawid_skene(item_V, judge_V, sided_IJ[item_V, judge_V].astype(np.int64), judges="one_coin")
    except (NotConverged, NotIdentifiable) as refused:
        facts |= {"accuracy": {}, "no_accuracy": str(refused)}
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
    return pairs.select(
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
