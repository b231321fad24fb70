"""What a data set holds that can be checked against itself, and the settings of the checks."""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import polars as pl

from pairwright.core.comparisons import Comparisons, Dropped, gather
from pairwright.core.segments import starts
from pairwright.errors import ConfigError
from pairwright.tables import COMPARISONS, PROPOSALS, SCORES, empty

Method = Literal["auto", "lad", "columns", "two_way", "low_rank"]
RATED = {**{name: SCORES.schema[name] for name in ("prompt_id", "response_id", "rater", "score")}, "model": pl.String()}
SOFT = {
    "prompt_id": pl.String(),
    "left_id": pl.String(),
    "right_id": pl.String(),
    "p_left": pl.Float64(),  # chance that left is better
    "weight": pl.Float64(),  # |2 p_left - 1|: what a label is worth in training
    "votes": pl.Float64(),
    "source": pl.String(),  # dawid_skene, votes, or strengths
}


@dataclass(frozen=True)
class Cleaning:
    """How to clean. `raters` empty: all of them; z0 null: 4 for comparisons, 5 for scores; rank null: by held-out cells.

    `apply: safe` adds scores with the safe proposals put in, under names of their own; nothing is overwritten.
    """

    method: Method = "auto"
    raters: list[str] = field(default_factory=list)
    apply: Literal["none", "safe"] = "none"
    z0: float | None = None
    rank: int | None = None
    link: Literal["logit", "probit"] = "logit"
    force: bool = False  # run a method where nothing can be known; its output says so
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ConfigError(f"unknown method {self.method!r}; known: {', '.join(get_args(Method))}")
        if self.z0 is not None and not self.z0 > 0:
            raise ConfigError(f"z0 = {self.z0} cannot be: it counts standard deviations, above 0")
        if self.rank is not None and self.rank < 1:
            raise ConfigError(f"rank = {self.rank} cannot be: it counts from 1")


class Evidence(NamedTuple):
    """Scores (`RATED`: with the model that wrote the response, null where nobody says) and comparisons (`COMPARISONS`)."""

    scores: pl.DataFrame
    comparisons: pl.DataFrame
    derived: bool = False  # the comparisons were made from scores


class Case(NamedTuple):
    """One kind of redundancy: what it allows, by which method, and in plain words what would allow more."""

    case: str  # comparisons, raters, models
    status: str
    method: str | None  # what `auto` runs; null where nothing can be found
    words: str
    options: tuple[str, ...] = ()
    facts: dict[str, Any] = {}  # noqa: RUF012  (a NamedTuple has no mutable defaults to share: it is never written to)
    rater: str | None = None  # of a matrix of prompts x models

    def told(self) -> dict[str, Any]:
        return {**self._asdict(), "options": list(self.options)}


class Cleaned(NamedTuple):
    """What a method gives: proposals, further scores, soft labels, and facts for the report."""

    proposals: pl.DataFrame
    scores: pl.DataFrame
    soft: pl.DataFrame
    facts: dict[str, Any]


def nothing(**facts: Any) -> Cleaned:
    return Cleaned(empty(PROPOSALS), empty(SCORES), pl.DataFrame(schema=SOFT), facts)


class Votes(NamedTuple):
    """Comparisons as the core takes them. Items are the rows of `items`, prompts those of `prompts`."""

    items: pl.DataFrame  # prompt_id, response_id; sorted
    prompts: list[str]
    pairs: Comparisons
    dropped: Dropped


_OUTCOME = {"left": 1.0, "right": 0.0, "tie": 0.5}


def votes_of(comparisons: pl.DataFrame, *, ordered: bool = False) -> Votes:
    """Judgements collapsed into compared pairs; `ordered` keeps the two orders of presentation apart."""
    sides = [comparisons.select("prompt_id", response_id=pl.col(side)) for side in ("left_id", "right_id")]
    items = pl.concat(sides).unique().sort("prompt_id", "response_id").with_row_index("item")
    joined = comparisons
    for side in ("left", "right"):
        named = items.select("prompt_id", pl.col("response_id").alias(f"{side}_id"), pl.col("item").alias(side))
        joined = joined.join(named, on=["prompt_id", f"{side}_id"], how="left", maintain_order="left")
    outcome = joined["outcome"].replace_strict(_OUTCOME, default=None, return_dtype=pl.Float64)
    left, right = (joined[side].cast(pl.Int64).to_numpy() for side in ("left", "right"))
    value = outcome.fill_null(np.nan).to_numpy()
    if ordered:  # the item named first is the one that was shown first
        turned = (joined["shown_first"] == "right").fill_null(False).to_numpy()
        left, right = np.where(turned, right, left), np.where(turned, left, right)
        value = np.where(turned, 1 - value, value)
    start_P = starts(items["prompt_id"].rle_id().to_numpy())
    pairs, dropped = gather(left, right, value, start_P, ordered=ordered)
    return Votes(items.drop("item"), items["prompt_id"].unique(maintain_order=True).to_list(), pairs, dropped)


def no_evidence() -> Evidence:
    return Evidence(pl.DataFrame(schema=RATED), empty(COMPARISONS))
