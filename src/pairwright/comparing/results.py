"""What a comparison found: each arm beside the base, its controls and the other recipes, with intervals; facts only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from pairwright.core import paired
from pairwright.core.paired import Interval, Path, Weights
from pairwright.core.segments import Floats
from pairwright.errors import DataError

BASE = "base"
TEXT = ("arm", "seed", "checkpoint", "level", "prompt_id", "sample", "response", "n_tokens", "cut", "kl")


@dataclass(frozen=True)
class Table:
    """Answers of all arms: a column per rater, rows named by arm, seed, checkpoint (1 .. last), level and prompt.

    The base has the seed -1 and checkpoint 0. `rater` decides.
    """

    rows: pl.DataFrame
    rater: str
    seeds: tuple[int, ...]
    last: int

    @property
    def raters(self) -> list[str]:
        return [name for name in self.rows.columns if name not in TEXT]

    @property
    def prompts(self) -> list[str]:
        return sorted(self.rows["prompt_id"].unique().to_list())

    def of(self, arm: str, seed: int, checkpoint: int, level: str) -> pl.DataFrame:
        found = self.rows.filter(
            pl.col("arm") == arm, pl.col("seed") == seed, pl.col("checkpoint") == checkpoint, pl.col("level") == level
        )
        if not found.height:
            raise DataError(f"there are no answers of {arm}, seed {seed}, checkpoint {checkpoint}, {level}")
        return found

    def means(self, column: str, arm: str, level: str, checkpoint: int | None = None) -> Floats:
        """Mean over the draws of each prompt, (S, P); the base is the same for every seed."""
        at = self.last if checkpoint is None else checkpoint
        rows = [self.of(BASE, -1, 0, level) if arm == BASE else self.of(arm, seed, at, level) for seed in self.seeds]
        return np.stack([self._by_prompt(each, column) for each in rows])

    def _by_prompt(self, rows: pl.DataFrame, column: str) -> Floats:
        held = dict(rows.group_by("prompt_id").agg(pl.col(column).cast(pl.Float64).mean()).iter_rows())
        return np.array([np.nan if held.get(name) is None else held[name] for name in self.prompts], np.float64)

    def draws(self, arm: str, level: str, seed: int) -> Floats:
        """Rewards of the draws, (P, K), nan where there is none."""
        rows = self.of(BASE, -1, 0, "none") if arm == BASE else self.of(arm, seed, self.last, level)
        place = {name: i for i, name in enumerate(self.prompts)}
        value_PK = np.full((len(place), int(rows["sample"].max() or 0) + 1), np.nan)  # type: ignore[arg-type]
        for name, k, value in rows.select("prompt_id", "sample", self.rater).iter_rows():
            value_PK[place[name], k] = np.nan if value is None else value
        return value_PK

    def path(self, arm: str, level: str) -> Path:
        points = range(1, self.last + 1)
        return Path(
            np.stack([self.means("kl", arm, level, at) for at in points]),
            np.stack([self.means(self.rater, arm, level, at) for at in points]),
        )

    def slope(self) -> float:
        """Reward per token among answers of one arm to one prompt."""
        group = self.rows.select(pl.struct("arm", "seed", "checkpoint", "level", "prompt_id").rank("dense") - 1)
        reward, length = (
            self.rows[name].cast(pl.Float64).to_numpy().astype(float) for name in (self.rater, "n_tokens")
        )
        return paired.length_slope(reward, length, group.to_series().to_numpy().astype(np.int64))


def results(table: Table, arms: Sequence[Mapping[str, Any]], *, seed: int = 0) -> dict[str, Any]:
    """JSON-ready. `arms` say name, kind, of, note, main level, and what was trained; the first recipe comes first."""
    drawn = paired.weights(len(table.seeds), len(table.prompts), rng=np.random.default_rng(seed))
    slope = table.slope()
    base = {"name": BASE, "kind": "base", "of": "", "note": "before training", "level": "none"}
    return {
        "rater": table.rater,
        "raters": table.raters,
        "prompts": len(table.prompts),
        "seeds": list(table.seeds),
        "reward_per_token": None if not np.isfinite(slope) else slope,
        "arms": [{**arm, **_arm(table, arm, drawn)} for arm in (base, *arms)],
        "points": [_point(table, arm, at, drawn) for arm in arms for at in range(1, table.last + 1)],
        "levels": [
            _level(table, arm, level, drawn) for arm in _asked_with_goals(base, arms) for level in arm["levels"]
        ],
        "differences": [_difference(table, a, b, drawn, slope) for a, b in _asked(arms)],
    }


def _asked_with_goals(base: Mapping[str, Any], arms: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Conditioned arms, and the base beside them."""
    tagged = [arm for arm in arms if arm.get("levels")]
    return [{**base, "levels": tagged[0]["levels"]}, *tagged] if tagged else []


def _asked(arms: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Each recipe against the base, its controls, and the recipes before it."""
    base = {"name": BASE, "level": "none"}
    recipes = [arm for arm in arms if arm["kind"] == "recipe"]
    asked: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = []
    for place, arm in enumerate(recipes):
        asked.append((arm, base))
        asked += [(arm, control) for control in arms if control["of"] == arm["name"]]
        asked += [(arm, earlier) for earlier in recipes[:place]]
    return asked


def _arm(table: Table, arm: Mapping[str, Any], drawn: Weights) -> dict[str, Any]:
    name, level = arm["name"], arm["level"]
    told = {rater: _told_of(table.means(rater, name, level), drawn) for rater in table.raters}
    return {
        "reward": told[table.rater],
        "other_raters": {rater: value for rater, value in told.items() if rater != table.rater},
        "kl": _told_of(table.means("kl", name, level), drawn),
        "tokens": _told(paired.mean_interval(table.means("n_tokens", name, level), drawn)),
        "cut": float(np.nanmean(table.means("cut", name, level))),
    }


def _point(table: Table, arm: Mapping[str, Any], at: int, drawn: Weights) -> dict[str, Any]:
    means = {
        key: table.means(column, arm["name"], arm["level"], at)
        for key, column in (("kl", "kl"), ("reward", table.rater))
    }
    return {
        "arm": arm["name"],
        "checkpoint": at,
        **{k: _told(paired.mean_interval(v, drawn)) for k, v in means.items()},
    }


def _level(table: Table, arm: Mapping[str, Any], level: str, drawn: Weights) -> dict[str, Any]:
    reward, kl = (table.means(column, arm["name"], level) for column in (table.rater, "kl"))
    return {
        "arm": arm["name"], "level": level, "reward": _told(paired.mean_interval(reward, drawn)),
        "kl": _told(paired.mean_interval(kl, drawn)),
    }  # fmt: skip


def _difference(
    table: Table, a: Mapping[str, Any], b: Mapping[str, Any], drawn: Weights, slope: float
) -> dict[str, Any]:
    reward, length = (
        table.means(column, a["name"], a["level"]) - table.means(column, b["name"], b["level"])
        for column in (table.rater, "n_tokens")
    )
    win_SP = np.stack(
        [
            paired.wins(table.draws(a["name"], a["level"], seed), table.draws(b["name"], b["level"], seed))
            for seed in table.seeds
        ]
    )
    told = {
        "a": a["name"],
        "b": b["name"],
        "reward": _told(paired.mean_interval(reward, drawn)),
        "at_equal_length": _told(paired.mean_interval(paired.at_equal_length(reward, length, slope), drawn)),
        "tokens": _told(paired.mean_interval(length, drawn)),
        "wins": _told(paired.mean_interval(win_SP, drawn)),
        "at_equal_kl": None,
    }
    if b["name"] != BASE:
        paths = (table.path(a["name"], a["level"]), table.path(b["name"], b["level"]))
        matched = paired.at_equal_kl(*paths, table.means(table.rater, BASE, "none"), drawn)
        told["at_equal_kl"] = {"kl": matched.kl, **_told(matched.difference)}
    return told


def _told_of(value_SP: Floats, drawn: Weights) -> dict[str, float | None]:
    """Of a rater that said nothing: None."""
    if not np.isfinite(value_SP).any():
        return dict.fromkeys(Interval._fields)
    return _told(paired.mean_interval(value_SP, drawn))


def _told(each: Interval) -> dict[str, float | None]:
    return {name: None if not np.isfinite(value) else float(value) for name, value in each._asdict().items()}
