"""Soft labels and weights of pairs, for training that takes doubt into account instead of flipping labels."""

import polars as pl

from pairwright.core.ratings import win_probability

SOFT_PAIRS = {
    "prompt_id": pl.String(),
    "chosen_id": pl.String(),
    "rejected_id": pl.String(),
    "p_chosen": pl.Float64(),  # chance that the chosen side is better; null where nothing says so
    "weight": pl.Float64(),  # |2 p_chosen - 1|, null with it
    "source": pl.String(),  # dawid_skene, votes, strengths, or null
}
_SIDES = ("left_id", "right_id")


def soft_pairs(pairs: pl.DataFrame, soft: pl.DataFrame, strengths: pl.DataFrame) -> pl.DataFrame:
    """p_chosen of every pair: that of its own comparison, either way round, else from the strengths of both responses.

    `soft` as the clean stage makes it, `strengths` rows of `scores` NAME.bt (logits) of one rater. A pair whose responses
    stand in different parts of a prompt, or were never compared, has null. The label of a pair is never changed: p_chosen
    below 1/2 says that the comparisons are against it.
    """
    turned = soft.select(
        "prompt_id", left_id="right_id", right_id="left_id", p_left=1 - pl.col("p_left"), source="source"
    )
    both = pl.concat([soft.select(turned.columns), turned]).unique(["prompt_id", *_SIDES], keep="first")
    ids = ["prompt_id", "chosen_id", "rejected_id"]
    rows = pairs.select(ids).join(both, left_on=ids, right_on=["prompt_id", *_SIDES], how="left", maintain_order="left")
    for side in ("chosen", "rejected"):
        held = strengths.select("prompt_id", pl.col("response_id").alias(f"{side}_id"), pl.col("score").alias(side))
        rows = rows.join(held, on=["prompt_id", f"{side}_id"], how="left", maintain_order="left")
    difference = (rows["chosen"] - rows["rejected"]).to_numpy()
    rows = rows.with_columns(fitted=pl.Series(win_probability(difference), dtype=pl.Float64).fill_nan(None))
    p = pl.coalesce("p_left", "fitted")
    source = pl.coalesce("source", pl.when(pl.col("fitted").is_not_null()).then(pl.lit("strengths")))
    made = rows.select("prompt_id", "chosen_id", "rejected_id", p_chosen=p, weight=(2 * p - 1).abs(), source=source)
    return made.select(pl.col(name).cast(kind) for name, kind in SOFT_PAIRS.items())
