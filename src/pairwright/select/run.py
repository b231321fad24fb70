"""The select stage: numbers of pairs in, and which of them are kept, why, and beside what."""

from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from pairwright.core.overlap import beyond_chance, chance_overlap, overlap
from pairwright.core.segments import Bools
from pairwright.errors import DataError, PairwrightError
from pairwright.select.controls import capped_subset, control_rows, random_subset
from pairwright.select.facts import View, check_same_prompts, describe, summary
from pairwright.select.pool import SIDES, Pool
from pairwright.select.rank import KEPT, Chosen, choose
from pairwright.select.rules import RULES, refuse_unread
from pairwright.select.settings import Selection
from pairwright.tables import drops

__all__ = ["ADDED", "Selected", "Selection", "compare", "select"]
ADDED = ("fused_score", "rank", "kept", "reason")


class Selected(NamedTuple):
    """table: every pair with its numbers, `fused_score` (for ranking: no probability), `rank` from 1 and null where a pair
    was never ranked, `kept`, `reason`. controls: seed and ids of each random subset. facts: JSON-ready.
    """

    table: pl.DataFrame
    controls: pl.DataFrame
    facts: dict[str, Any]

    @property
    def dropped(self) -> pl.DataFrame:
        """The pairs that are not kept, as a `dropped` table."""
        out = self.table.filter(~pl.col("kept"))
        ids = [name for name in ("pair_id", *SIDES) if name in out.columns]
        told = [pl.concat_str(pl.lit(f"{name} "), pl.col(name).cast(pl.String)) for name in ids]
        if "prompt_id" not in out.columns:
            out = out.with_columns(prompt_id=pl.lit(None, pl.String))
        rows = out.drop("response_id", strict=False)
        return drops("select", rows, pl.col("reason").cast(pl.String), detail=pl.concat_str(told, separator=", "))


def select(pairs: pl.DataFrame, settings: Selection, *, all_rules: bool = False) -> Selected:
    """Ranks the pairs by `settings.rule` and keeps the budget. Ids and numbers only: no text is read.

    The answer depends on the ids and numbers, not on the order of the rows. DataError where ids repeat, where a column
    that the rule needs is not there, or where an earlier selection stands in the table. ConfigError for options that the
    rule does not read; with `all_rules` they may be those of any rule.
    """
    pool = _pool(pairs)
    check_same_prompts(pool, settings)
    refuse_unread(pool, settings, all_rules=all_rules)
    chosen = choose(pool, settings)
    if clash := [name for name in chosen.scored.numbers if name in pairs.columns]:
        raise DataError(f"the pairs have {', '.join(clash)} already, which this selection makes; rename what is there")
    drawn = _draw(pool, chosen, settings)
    facts = describe(View(pool, settings.seed), chosen, list(drawn.values()), settings)
    facts = _finite({"settings": asdict(settings), **facts, "seeds": list(drawn)})
    parts = [control_rows(pool, drawn_I, seed) for seed, drawn_I in drawn.items()]
    controls = pl.concat(parts) if parts else control_rows(pool, np.zeros(pool.n, bool), 0)
    return Selected(_table(pool, chosen), controls, facts)


def _pool(pairs: pl.DataFrame) -> Pool:
    if again := [name for name in ADDED if name in pairs.columns]:
        raise DataError(
            f"the pairs have {', '.join(again)} already: select from the pairs as they were before a selection"
        )
    if not pairs.height:
        raise DataError("there are no pairs to select from")
    return Pool(pairs)


def _draw(pool: Pool, chosen: Chosen, settings: Selection) -> dict[int, Bools]:
    told, limits = settings.controlled, settings.limited
    seeds = range(settings.seed, settings.seed + told.n)
    if (chosen.caps or limits.per_source is not None) and not told.same_prompts:
        return {seed: capped_subset(pool, chosen, limits, seed) for seed in seeds}
    return {
        seed: random_subset(pool, chosen.keep_I, chosen.able_I, seed, same_prompts=told.same_prompts) for seed in seeds
    }


def _table(pool: Pool, chosen: Chosen) -> pl.DataFrame:
    numbers = chosen.scored.numbers
    rank = pl.Series("rank", chosen.rank_I)
    made = pl.DataFrame(
        {
            **{name: pl.Series(name, np.ascontiguousarray(values)) for name, values in numbers.items()},
            "fused_score": pl.Series(chosen.score_I),
            "rank": rank,
            "kept": pl.Series(chosen.keep_I),
            "reason": chosen.reason_column(),
        }
    )
    finite = [name for name, kind in made.schema.items() if kind == pl.Float64]
    made = made.with_columns(
        *(pl.when(pl.col(name).is_finite()).then(pl.col(name)).alias(name) for name in finite),
        rank=pl.when(pl.col("rank") > 0).then(pl.col("rank")),
    )
    return pl.concat([pool.frame, made], how="horizontal")


def compare(pairs: pl.DataFrame, settings: Selection) -> dict[str, Any]:
    """Every rule that the columns allow, at the same budget, and how far any two of them keep the same pairs.

    Rules that set pairs aside by a threshold of their own may keep fewer. A rule that cannot be run says why.
    """
    pool = _pool(pairs)
    view = View(pool, settings.seed)
    k = settings.keep if settings.keep is not None else RULES[settings.rule].keep
    masks: dict[str, Bools] = {}
    lines: list[dict[str, Any]] = []
    refused: dict[str, str] = {}
    for name, each in _arms(pool, replace(settings, keep=k)).items():
        try:
            chosen = choose(pool, each)
        except PairwrightError as error:
            refused[name] = str(error)
            continue
        masks[name] = chosen.keep_I
        lines.append({"rule": name, "kept": int(chosen.keep_I.sum()), **_line(view, chosen)})
    drawn_I = random_subset(
        pool, np.arange(pool.n) < settings.budget(pool.n, k), np.ones(pool.n, bool), settings.seed + 1
    )
    for line in lines:
        keep_I = masks[line["rule"]]
        line["with_random"] = _shown(overlap(keep_I, drawn_I))
        line["chance"] = _shown(chance_overlap(keep_I, drawn_I))
    names = list(masks)
    kinds = {"overlap": overlap, "chance": chance_overlap, "beyond_chance": beyond_chance}
    tables = {kind: [[_shown(of(masks[a], masks[b])) for b in names] for a in names] for kind, of in kinds.items()}
    return {"keep": k, "pairs": pool.n, "rules": lines, "refused": refused, "names": names, **tables}


def _arms(pool: Pool, settings: Selection) -> dict[str, Selection]:
    """The rules, `margins` by source and, with two sources or more, by ways of combining."""
    arms: dict[str, Selection] = {}
    for source in View(pool, settings.seed).columns:
        arms[f"margins: {source}"] = replace(settings.of([source]), rule="margins")
    if len(settings.margins) > 1:
        for combine in ("bayes", "add", "min", "mean", "min_rank"):
            arms[f"margins: {combine}"] = replace(settings, rule="margins", combine=combine)
    return arms | {name: replace(settings, rule=name) for name in RULES if name != "margins"}


def _line(view: View, chosen: Chosen) -> dict[str, Any]:
    told = summary(view, chosen.keep_I)
    length = told.get("length", {})
    return {
        "reasons": {name: n for name, n in chosen.counts().items() if name != KEPT},
        "margins": {name: each["mean"] for name, each in told["margins"].items()},
        "below_zero": {name: each["below_zero"] for name, each in told["margins"].items()},
        "chosen_longer": length.get("chosen_longer"),
        "length_chosen": length.get("chosen"),
        "length_rejected": length.get("rejected"),
        "prompts": told.get("prompts"),
    }


def _finite(value: Any) -> Any:
    """The same with null for nan and inf, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _shown(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
