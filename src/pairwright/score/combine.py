"""Several raters into the one reward that decides the pairs; their raw scores stay in the table.

A frame carries the scores of rater NAME in the column "rater:NAME". A single rater is passed through as it is; several
are brought to a common scale within each prompt first (`pairwright.core.rewards`).
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from pairwright.core.rewards import COMBINE
from pairwright.core.segments import starts
from pairwright.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Reward:
    """Raters with their weights, and how they become one: mean_z, mean_rank, worst_z, or mean for raters on one scale."""

    raters: dict[str, float]
    combine: str = "mean_z"

    def __post_init__(self) -> None:
        if not self.raters:
            raise ConfigError("a reward needs at least one rater")
        if self.combine not in COMBINE:
            raise ConfigError(f"unknown way to combine {self.combine!r}; known: {', '.join(COMBINE)}")
        if bad := [name for name, weight in self.raters.items() if not 0 < weight < np.inf]:
            raise ConfigError(f"the weight of rater {bad[0]} is {self.raters[bad[0]]}; weights are finite and above 0")

    @property
    def name(self) -> str:
        """What the report calls it."""
        return next(iter(self.raters)) if len(self.raters) == 1 else f"{self.combine}({', '.join(self.raters)})"


def column(rater: str) -> str:
    return f"rater:{rater}"


def joined(responses: pl.DataFrame, scores: pl.DataFrame, reward: Reward) -> pl.DataFrame:
    """Responses with the scores of the reward's raters beside them."""
    key = ["prompt_id", "response_id"]
    for rater in reward.raters:
        held = scores.filter(pl.col("rater") == rater).rename({"score": column(rater)}).drop("rater")
        if len(reward.raters) > 1:
            held = held.select(*key, column(rater))  # one rater's reason and scale are not those of the combination
        responses = responses.join(held, on=key, how="left", maintain_order="left")
    return responses


def with_reward(candidates: pl.DataFrame, reward: Reward, *, takes_part: pl.Series | None = None) -> pl.DataFrame:
    """Adds `score` out of the raters' columns; rows of one prompt must stand together.

    Of several raters only the rows that take part are compared: an empty or cut-off text does not move the z of others.
    A score that no rater gave is null with the reason `score_missing`. One rater alone keeps its raw scale, NaN included.
    """
    names = [column(rater) for rater in reward.raters]
    if absent := [rater for rater in reward.raters if column(rater) not in candidates.columns]:
        raise ConfigError(f"no scores of rater {absent[0]} are there")
    if len(names) > 1 and (scaled := {"scale_min", "scale_max"} & set(candidates.columns)):
        raise ConfigError(
            f"{' and '.join(sorted(scaled))} cannot hold for several raters; make their sentinels null instead"
        )
    if len(names) == 1:
        return candidates.with_columns(score=pl.col(names[0]).cast(pl.Float64))
    start_P = starts(candidates["prompt_id"].rle_id().to_numpy())
    if len(start_P) == 1:
        return candidates.with_columns(score=pl.lit(None, pl.Float64))
    raw_RJ = candidates.select(pl.col(names).cast(pl.Float64).fill_null(np.nan)).to_numpy()
    part_R = np.ones(candidates.height, bool) if takes_part is None else takes_part.to_numpy()
    raw_RJ = np.where(np.isfinite(raw_RJ) & part_R[:, None], raw_RJ, np.nan)
    weight_J = np.array(list(reward.raters.values()), dtype=np.float64)
    score = pl.Series("score", COMBINE[reward.combine](raw_RJ, start_P, weight_J)).fill_nan(None)
    return candidates.with_columns(score)
