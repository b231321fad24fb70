"""The pair stage: scored responses in, at most one pair per prompt out, every prompt accounted for.

    kept rows   finite score, non-empty text, finished (others are set aside with a reason, never given a number)
    candidates  distinct texts; copies share the mean of their scores and count in mu and sigma
    skip        too_few, zero_variance, no_such_position, coincide, no_contrast: in this order, never a slide elsewhere

Prompts in = pairs + dropped prompts by reason.
"""

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import polars as pl

from pairwright.core import positions, segments
from pairwright.core.segments import Bools, Floats, Ints, Keys
from pairwright.errors import ConfigError, DataError
from pairwright.pair.rules import GRID, SEEDED, Rule, Scene, apply, parse_rule, parse_sides, without
from pairwright.tables import CUT, DROPPED, drops

LANDMARKS = {name: parse_rule(name) for name in ("max", "min", "mu-2sigma")}
SKIPS = ("too_few", "zero_variance", "no_such_position", "coincide", "no_contrast")


@dataclass(frozen=True, slots=True)
class Pairing:
    """How to pair. The rejected rule has no default: whoever pairs names it.

    ddof 0 is the population sd. A pair needs score_chosen - score_rejected > min_gap. `unfinished` says what becomes of
    responses that were cut off (finish_reason "length"): dropped, or kept. Scores outside scale_min .. scale_max are
    sentinels and count as missing.
    """

    rejected: str
    chosen: str = "max"
    ddof: int = 0
    min_gap: float = 0.0
    unfinished: Literal["drop", "keep"] = "drop"
    scale_min: float | None = None
    scale_max: float | None = None
    pairs_per_prompt: int = 1  # further pairs take what the earlier ones left; no text stands in two pairs
    seed: int = 0

    def __post_init__(self) -> None:
        parse_sides(self.chosen, self.rejected)
        if self.ddof not in (0, 1):
            raise ConfigError(f"ddof is 0 (population) or 1 (sample), not {self.ddof}")
        if self.pairs_per_prompt < 1:
            raise ConfigError(f"pairs_per_prompt is a whole number from 1, not {self.pairs_per_prompt}")
        if self.scale_min != self.scale_min or self.scale_max != self.scale_max:
            raise ConfigError("scale_min and scale_max are numbers, or null for no bound; not nan")
        if not 0 <= self.min_gap < np.inf:
            raise ConfigError(f"min_gap is a finite number from 0, not {self.min_gap}")


class Built(NamedTuple):
    """Pairs, one line of statistics per prompt, the dropped prompts and the set-aside responses."""

    pairs: pl.DataFrame
    stats: pl.DataFrame
    dropped: pl.DataFrame


class Picks(NamedTuple):
    """One pairing of all prompts: candidates picked per side, and the index into ("pair", *SKIPS) per prompt."""

    chosen_P: Ints
    rejected_P: Ints
    outcome_P: Ints


def build_pairs(candidates: pl.DataFrame, settings: Pairing, *, prompt_ids: pl.Series | None = None) -> Built:
    """Pairs out of scored responses; rows of one prompt must stand together.

    `prompt_ids` names prompts that must be accounted for even when not one response of theirs is there.

    `candidates` needs prompt_id, response_id and score (f64, null = missing); response (text) merges equal texts and
    drops empty ones, finish_reason marks the unfinished, reason says why a score is null.
    """
    if prompt_ids is not None:
        return _with_bare(build_pairs(candidates, settings), prompt_ids)
    table, aside = _prepare(candidates, settings)
    picks = pick_pairs(table.scene, *parse_sides(settings.chosen, settings.rejected), settings)
    pairs, stats = table.pairs(picks, settings), table.stats(picks, settings)
    if settings.pairs_per_prompt > 1:
        pairs = pl.concat([pairs, *_further(table, picks, settings)])
    skipped = stats.filter(pl.col("outcome") != "pair")
    dropped = pl.concat([drops("pair", skipped, pl.col("outcome")), aside])
    return Built(pairs, stats, dropped)


class Cell(NamedTuple):
    """One pair of positions of the grid: its pairs, and how many prompts it dropped for which reason."""

    chosen: str
    rejected: str
    pairs: pl.DataFrame
    skipped: dict[str, int]


def grid(candidates: pl.DataFrame, settings: Pairing) -> list[Cell]:
    """All 21 pairs of the seven positions min, mu-2sigma, ..., mu+2sigma, max (Xiao et al. 2025), for studies.

    The rules of `settings` do not enter, all else does. Prompts = pairs + skipped, in every cell.
    """
    table, _ = _prepare(candidates, settings)
    cells = []
    for below, rejected in enumerate(GRID):
        for chosen in GRID[below + 1 :]:
            each = replace(settings, chosen=chosen, rejected=rejected)
            picks = pick_pairs(table.scene, *parse_sides(chosen, rejected), each)
            stats = table.stats(picks, each).filter(pl.col("outcome") != "pair")["outcome"].value_counts()
            cells.append(Cell(chosen, rejected, table.pairs(picks, each), dict(stats.iter_rows())))
    return cells


def _prepare(candidates: pl.DataFrame, settings: Pairing) -> "tuple[_Table, pl.DataFrame]":
    """Rows into candidates, and what was set aside."""
    numbered, prompt_ids = _number_prompts(_typed(candidates))
    kept, aside = _set_aside(numbered, settings)
    rows_P = np.bincount(kept["_prompt"].to_numpy(), minlength=len(prompt_ids))
    full_P = rows_P > 0
    start_R = np.concatenate(([0], np.cumsum(rows_P[full_P])))
    text_R = kept["response"].hash().to_numpy() if "response" in kept.columns else None
    cands = positions.distinct(kept["score"].to_numpy(), start_R, text_R)
    spread = positions.moments(cands, ddof=settings.ddof)
    draw_R, draw_C = _draws(kept, start_R, cands.candidate_R, settings)
    scene = Scene(cands, spread, start_R, draw_R, draw_C, _lengths(kept, cands), None)
    return _Table(kept, prompt_ids, full_P, scene), aside


def _further(table: "_Table", picks: Picks, settings: Pairing) -> "list[pl.DataFrame]":
    """Second, third, ... pairs out of the texts that are left, at the positions of the whole prompt."""
    rules = parse_sides(settings.chosen, settings.rejected)
    more = []
    for _ in range(settings.pairs_per_prompt - 1):
        used_C = np.zeros(len(table.scene.candidates.score_C), bool)
        paired_P = picks.outcome_P == 0
        used_C[picks.chosen_P[paired_P]] = used_C[picks.rejected_P[paired_P]] = True
        scene, alive_P = without(table.scene, used_C, paired_P)
        if not alive_P.any():
            break
        ids = table.prompt_ids.filter(pl.Series(table.full_P)).filter(pl.Series(alive_P))
        table = _Table(table.kept, ids, np.ones(len(ids), bool), scene)
        picks = pick_pairs(scene, *rules, settings)
        more.append(table.pairs(picks, settings))
    return more


def _with_bare(built: Built, prompt_ids: pl.Series) -> Built:
    """Accounts for the prompts without a single response as well."""
    asked = prompt_ids.unique(maintain_order=True).alias("prompt_id")
    bare = asked.filter(~asked.is_in(built.stats["prompt_id"].implode())).to_frame()
    none = bare.with_columns(
        n=pl.lit(0, pl.Int32), n_distinct=pl.lit(0, pl.Int32), tied=pl.lit(0, pl.Int32), outcome=pl.lit("too_few")
    )
    stats = pl.concat([built.stats, none], how="diagonal")
    return Built(built.pairs, stats, pl.concat([drops("pair", bare, "too_few"), built.dropped]))


def _typed(candidates: pl.DataFrame) -> pl.DataFrame:
    """Numbers as f64, and columns of nulls alone with the type that they would have."""
    kind = candidates.schema["score"]
    if not (kind.is_numeric() or kind == pl.Null):
        raise DataError(f"column score is {kind}, not a number; turn it into numbers first, null where one is missing")
    if candidates.schema.get("response") == pl.Null:
        candidates = candidates.with_columns(pl.col("response").cast(pl.String))
    return candidates.with_columns(pl.col("score").cast(pl.Float64))


def pick_pairs(scene: Scene, above: Rule, below: Rule, settings: Pairing) -> Picks:
    """Both sides of every prompt and what came of them (core arrays only)."""
    cands, spread = scene.candidates, scene.spread
    chosen_P = apply(above, scene)
    rejected_P = apply(below, scene._replace(other_P=chosen_P))
    size_P = np.diff(cands.start_P)
    score = np.append(cands.score_C, np.nan)  # index -1: no pick
    with np.errstate(over="ignore"):
        gap_P = score[chosen_P] - score[rejected_P]
    rounding_P = positions.ROUNDING * np.maximum(np.abs(score[chosen_P]), np.abs(score[rejected_P]))
    missing_P = (
        (chosen_P < 0) | (rejected_P < 0) | _no_position(scene, above, settings) | _no_position(scene, below, settings)
    )
    tests = (
        size_P < 2,
        positions.zero_variance(spread),
        missing_P,
        chosen_P == rejected_P,
        ~(gap_P > settings.min_gap + rounding_P),
    )
    outcome_P = np.select(tests, np.arange(1, len(tests) + 1), 0)
    return Picks(chosen_P, rejected_P, outcome_P)


def _no_position(scene: Scene, rule: Rule, settings: Pairing) -> Bools:
    """Prompts with two distinct scores have no position between them, unless so few rows force the extreme anyway."""
    if rule.kind not in ("sigma", "mad"):
        return np.zeros(len(scene.spread.n_P), bool)
    forced = positions.n_same(rule.args[0], ddof=settings.ddof) if rule.kind == "sigma" else 2
    return scene.whole.two_valued_P & (scene.spread.n_P > forced)


def _set_aside(candidates: pl.DataFrame, settings: Pairing) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows that may be picked, and the others as a `dropped` table."""
    score = pl.col("score")
    tests = _no_text(candidates)
    why = pl.col("reason") if "reason" in candidates.columns else pl.lit(None, pl.String)
    tests += [
        (score.is_null(), why.fill_null("score_missing")),
        (~score.is_finite(), pl.lit("score_not_finite")),
    ]
    low = [pl.lit(settings.scale_min)] * (settings.scale_min is not None)
    low += [pl.col("scale_min").fill_nan(None)] * ("scale_min" in candidates.columns)
    high = [pl.lit(settings.scale_max)] * (settings.scale_max is not None)
    high += [pl.col("scale_max").fill_nan(None)] * ("scale_max" in candidates.columns)
    if low or high:
        outside = pl.any_horizontal(*[score < bound for bound in low], *[score > bound for bound in high])
        tests.append((outside.fill_null(False), pl.lit("outside_scale")))
    tests += _cut_off(candidates, settings)
    bad = candidates.select(pl.any_horizontal(test for test, _ in tests).fill_null(False)).to_series()
    if not bad.any():
        return candidates, pl.DataFrame(schema=DROPPED.schema)
    reason = pl.coalesce(pl.when(test).then(name) for test, name in tests)
    return candidates.filter(~bad), drops("pair", candidates.filter(bad), reason)


def takes_part(candidates: pl.DataFrame, settings: Pairing) -> pl.Series:
    """Rows with a text that may be picked, whatever their score: what several raters are compared on."""
    out = [pl.lit(False), *(test for test, _ in (*_no_text(candidates), *_cut_off(candidates, settings)))]
    return candidates.with_columns(_out=pl.any_horizontal(out).fill_null(False)).select(~pl.col("_out")).to_series()


def _no_text(candidates: pl.DataFrame) -> list[tuple[pl.Expr, pl.Expr]]:
    if "response" not in candidates.columns:
        return []
    text = pl.col("response")
    return [(text.is_null(), pl.lit("no_text")), (text.str.strip_chars() == "", pl.lit("empty_text"))]


def _cut_off(candidates: pl.DataFrame, settings: Pairing) -> list[tuple[pl.Expr, pl.Expr]]:
    if settings.unfinished == "keep" or "finish_reason" not in candidates.columns:
        return []
    return [(pl.col("finish_reason").is_in(CUT), pl.lit("unfinished"))]


def _number_prompts(candidates: pl.DataFrame) -> tuple[pl.DataFrame, pl.Series]:
    """The rows with the number of their prompt (`_prompt`), and the ids by number."""
    ids = candidates["prompt_id"]
    first = (ids != ids.shift()).fill_null(True)
    prompt_ids = ids.filter(first)
    if prompt_ids.n_unique() < len(prompt_ids):
        again = prompt_ids.filter(prompt_ids.is_duplicated())[0]
        raise DataError(f"the rows of prompt {again} do not stand together; sort by prompt_id first")
    return candidates.with_columns(_prompt=first.cum_sum() - 1), prompt_ids


def _draws(
    kept: pl.DataFrame, start_R: Ints, candidate_R: Ints, settings: Pairing
) -> tuple[Keys, Keys] | tuple[None, None]:
    """Seeded numbers per row and per text, where a rule wants them."""
    rules = parse_sides(settings.chosen, settings.rejected)
    if not any(rule.kind in SEEDED for rule in rules):
        return None, None
    prompt_P, response_R = keys(kept["prompt_id"].gather(start_R[:-1])), keys(kept["response_id"])
    draw_R = segments.draw(settings.seed, prompt_P, response_R, start_R)
    return draw_R, _draw_of_text(draw_R, response_R, candidate_R)


def keys(ids: pl.Series) -> Keys:
    """A 64-bit number per id, the same on every machine and for 7 and "7"."""
    coded = [text.encode() + b"\xff" * text.endswith("\0") for text in ids.cast(pl.String)]  # numpy strips final NULs
    return segments.text_keys(np.array(coded, np.bytes_))


def _draw_of_text(draw_R: Keys, key_R: Keys, candidate_R: Ints) -> Keys:
    """The draw of each text: that of its copy with the smallest key, so that the order of rows does not matter."""
    order = np.lexsort((key_R, candidate_R))
    first = np.flatnonzero(np.diff(candidate_R[order], prepend=-1))
    return draw_R[order[first]]


def _lengths(kept: pl.DataFrame, cands: positions.Candidates) -> Floats | None:
    if "response" not in kept.columns:
        return None
    return kept["response"].str.len_chars().cast(pl.Float64).gather(cands.row_C).to_numpy()


class _Table(NamedTuple):
    """Picks back into rows with ids."""

    kept: pl.DataFrame
    prompt_ids: pl.Series
    full_P: Bools  # prompts of the input that kept a row
    scene: Scene

    def ids(self, picked_P: Ints) -> pl.Series:
        row_P = np.append(self.scene.candidates.row_C, -1)[picked_P]
        return self.kept["response_id"].gather(pl.Series(row_P).set(pl.Series(row_P < 0), None))

    def pairs(self, picks: Picks, settings: Pairing) -> pl.DataFrame:
        paired = np.flatnonzero(picks.outcome_P == 0)
        above, below = picks.chosen_P[paired], picks.rejected_P[paired]
        score_C = self.scene.candidates.score_C
        mean, sd = self.scene.spread.mean_P[paired], self.scene.spread.sd_P[paired]
        with np.errstate(over="ignore"):
            margin = score_C[above] - score_C[below]
        lowest_P = self.scene.whole.lowest_P
        return pl.DataFrame(
            {
                "prompt_id": self.prompt_ids.filter(pl.Series(self.full_P)).gather(paired),
                "chosen_id": self.ids(above),
                "rejected_id": self.ids(below),
                "score_chosen": score_C[above],
                "score_rejected": score_C[below],
                "margin": margin,
                "rule": np.full(
                    len(paired), "/".join(rule.name for rule in parse_sides(settings.chosen, settings.rejected))
                ),
                "z_chosen": positions.z(score_C[above], mean, sd),
                "z_rejected": positions.z(score_C[below], mean, sd),
                "hit_extreme": score_C[below] == lowest_P[paired],
            }
        ).cast({"rule": pl.String, "hit_extreme": pl.Boolean})

    def stats(self, picks: Picks, settings: Pairing) -> pl.DataFrame:
        cands, spread = self.scene.candidates, self.scene.spread
        above, below = parse_sides(settings.chosen, settings.rejected)
        picked = {above.name: picks.chosen_P, below.name: picks.rejected_P}
        landmarks = {
            name: picked[name] if name in picked else apply(rule, self.scene) for name, rule in LANDMARKS.items()
        }
        names = pl.Series(["pair", *SKIPS])
        full = pl.DataFrame(
            {
                "n": spread.n_P,
                "n_distinct": np.diff(cands.start_P),
                "tied": positions.tied(cands),
                "mean": spread.mean_P,
                "sd": pl.Series(spread.sd_P).fill_nan(None),
                "skewness": pl.Series(spread.skewness_P).fill_nan(None),
                "outcome": names.gather(picks.outcome_P),
                "max_id": self.ids(landmarks["max"]),
                "min_id": self.ids(landmarks["min"]),
                "sigma_id": self.ids(landmarks["mu-2sigma"]),
                "chosen_id": self.ids(picks.chosen_P),
                "rejected_id": self.ids(picks.rejected_P),
            }
        )
        at = pl.Series(np.cumsum(self.full_P) - 1).set(pl.Series(~self.full_P), None)  # null: no row was kept
        return full.select(
            self.prompt_ids.alias("prompt_id"),
            pl.col("n", "n_distinct", "tied").gather(at).fill_null(0).cast(pl.Int32),
            pl.col("mean", "sd", "skewness").gather(at),
            pl.col("outcome").gather(at).fill_null("too_few"),
            pl.col("max_id", "min_id", "sigma_id", "chosen_id", "rejected_id").gather(at),
        )
