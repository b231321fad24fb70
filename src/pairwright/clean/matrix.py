"""Scores against each other: one rater on the others, and prompts x models by one rater."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pairwright.clean.evidence import Cleaned, Cleaning, nothing
from pairwright.core.completion import choose_rank
from pairwright.core.lowrank import split_low_rank
from pairwright.core.segments import Bools, Ints
from pairwright.core.twoway import fit_columns, fit_two_way, noise_floor, robust_scale, standardised
from pairwright.errors import NotConverged, NotIdentifiable
from pairwright.tables import PROPOSALS, SCORES, conform, empty

Z0 = 5.0
RANKS = (1, 2, 3, 4)
Matrix = NDArray[np.float64]
KEY = ["prompt_id", "response_id"]


def wide(scores: pl.DataFrame, index: Sequence[str], columns: str) -> tuple[pl.DataFrame, list[str], Matrix]:
    """(row ids, column names, matrix with nan for missing), both sorted. Of a cell that stands twice the first is taken."""
    held = scores.select(*index, "score", column=pl.lit(":") + pl.col(columns))  # no name can be that of an index
    table = held.pivot("column", index=list(index), values="score", aggregate_function="first").sort(index)
    names = sorted(name[1:] for name in table.columns if name.startswith(":"))
    score_PJ = table.select(f":{name}" for name in names).cast(pl.Float64).fill_null(np.nan).to_numpy()
    return table.select(index), names, score_PJ


def clean_raters(scores: pl.DataFrame, settings: Cleaning, *, method: str) -> Cleaned:
    """One rater against the others; cells with |z| > z0 are listed, the largest of a row first.

    columns    Huber regression of every rater on all others, over the responses that have them all; scales may differ
    two_way    response and rater offsets by medians, where each response has some of many raters on one scale

    A wrong cell shifts the fits of the other raters of its row, so only the largest of a row can be safe, and only where
    the row has cells to spare and the cell lies beyond the tail of the rest (`tail_bound`). Proposed: what the others
    say, within the values that the rater has given.
    """
    chosen = scores.filter(pl.col("rater").is_in(settings.raters)) if settings.raters else scores
    ids, raters, score_RJ = wide(chosen, KEY, "rater")
    spread_J = np.array([len(np.unique(column[np.isfinite(column)])) > 1 for column in score_RJ.T])
    facts: dict[str, Any] = {"raters": raters, "constant": [n for n, s in zip(raters, spread_J, strict=True) if not s]}
    raters = [name for name, varies in zip(raters, spread_J, strict=True) if varies]
    score_RJ = score_RJ[:, spread_J]
    if len(raters) < 2:
        raise NotIdentifiable("fewer than two raters tell responses apart: nothing can be held against anything")
    if method == "columns":
        fit = fit_columns(score_RJ)
        if lost := [name for name, good in zip(raters, fit.converged_J, strict=True) if not good]:
            raise NotConverged(
                f"the regression of {', '.join(lost)} on the other raters did not settle: nothing is proposed"
            )
        guess_RJ = score_RJ - fit.residual_PJ
        z_RJ, _ = _in_noise(fit.residual_PJ, 0.0, score_RJ)
        facts["scale"] = dict(zip(raters, map(float, fit.scale_J), strict=True))
    else:
        guess_RJ, z_RJ, facts["noise"] = _by_offsets(score_RJ)
    cap_R = np.maximum(0, (np.isfinite(score_RJ).sum(axis=1) - 1) // 2)
    used_R = np.isfinite(z_RJ).any(axis=1)
    cells = Cells("raters", ids, raters, score_RJ, _within(guess_RJ, score_RJ), z_RJ)
    proposals = _proposals(cells, cap_R, settings, facts, alone=True)
    facts |= {"rows_used": int(used_R.sum()), "rows_incomplete": int((~used_R).sum())}
    return nothing(**facts)._replace(proposals=proposals)


def _by_offsets(score_PJ: Matrix) -> tuple[Matrix, Matrix, float]:
    """(additive fit, z in units of the noise floor, noise floor)."""
    fit = fit_two_way(score_PJ)
    if not fit.converged:
        raise NotConverged("the offsets of rows and columns did not settle: nothing is proposed")
    z_PJ, floor = _in_noise(fit.residual_PJ, noise_floor(fit), score_PJ)
    return score_PJ - fit.residual_PJ, z_PJ, floor


def _in_noise(residual_PJ: Matrix, floor: float, score_PJ: Matrix) -> tuple[Matrix, float]:
    """(z, noise floor): residuals over the floor, each column's own scale where that is 0 or unknown.

    Rounding, 1e-12 of the largest score, is neither residual nor noise.
    """
    least = 1e-12 * float(np.abs(score_PJ[np.isfinite(score_PJ)]).max(initial=0.0))
    residual_PJ = np.where(np.abs(residual_PJ) <= least, 0.0, residual_PJ)
    if floor > least:
        return residual_PJ / floor, floor
    return standardised(residual_PJ, robust_scale(residual_PJ)), 0.0


def clean_models(scores: pl.DataFrame, settings: Cleaning, *, rater: str, method: str) -> Cleaned:
    """Prompts x models by one rater: offsets by medians (two_way), or low rank plus sparse where that predicts better.

    z is in units of the noise floor of honest cells. `low_rank` compares ranks on held-out cells with the offsets, and
    says which won; a fit that does not settle gives nothing.
    """
    held = scores.filter(pl.col("rater") == rater, pl.col("model").is_not_null(), pl.col("score").is_not_null())
    ids = held.group_by("prompt_id", "model", maintain_order=True).agg(pl.col("response_id").first())
    rows, models, score_PJ = wide(held, ["prompt_id"], "model")
    if len(models) < 2:
        raise NotIdentifiable(f"{len(models)} models with scores by {rater}: nothing can be held against anything")
    low_PJ, z_PJ, floor = _by_offsets(score_PJ)
    facts: dict[str, Any] = {"rater": rater, "prompts": len(score_PJ), "models": len(models)}
    if method == "low_rank":
        low_PJ, floor, more = _by_rank(score_PJ, low_PJ, floor, settings)
        if more["used"] == "low_rank":
            z_PJ, floor = _in_noise(score_PJ - low_PJ, floor, score_PJ)
        facts |= more
    facts["noise"] = floor
    cells = Cells("models", rows, models, score_PJ, _within(low_PJ, score_PJ), z_PJ)
    cap_P = np.maximum(0, (np.isfinite(score_PJ).sum(axis=1) - 1) // 2)
    proposals = _proposals(cells, cap_P, settings, facts, alone=False)
    at = ids.rename({"response_id": "held"})
    proposals = proposals.join(at, left_on=["prompt_id", "rater"], right_on=["prompt_id", "model"], how="left")
    proposals = proposals.with_columns(response_id="held", rater=pl.lit(rater)).drop("held")
    facts["rows_or_columns"] = _whole_lines(cells, settings, rows["prompt_id"].to_list())
    return nothing(**facts)._replace(proposals=conform(proposals, PROPOSALS, where="clean"))


def _by_rank(
    score_PJ: Matrix, additive_PJ: Matrix, floor: float, settings: Cleaning
) -> tuple[Matrix, float, dict[str, Any]]:
    """(low-rank part, noise of a cell, facts); the offsets stay where no rank predicts held-out cells better."""
    rng = np.random.default_rng(settings.seed)
    mask_PJ = np.isfinite(score_PJ)
    centre = float(np.median(score_PJ[mask_PJ]))
    additive = _held_out_offsets(score_PJ, rng)
    try:
        choice = choose_rank(score_PJ - centre, [settings.rank] if settings.rank else RANKS, rng=rng, sd=floor)
        rank = choice.rank
        at = int(np.flatnonzero(choice.rank_K == rank)[0])
        error = float(choice.error_K[at])
        facts: dict[str, Any] = {
            "held_out": dict(zip(map(str, choice.rank_K.tolist()), map(_plain, choice.error_K), strict=True))
        }
        facts |= {"additive_error": additive, "rank": rank}
        if not np.isfinite(error) or (settings.rank is None and error >= additive):
            return additive_PJ, floor, facts | {"used": "two_way", "rank": None}
        fit = split_low_rank(score_PJ - centre, rank=rank, mask_PJ=mask_PJ, sd=1.4826 * error)
    except NotIdentifiable as refused:
        return additive_PJ, floor, {"used": "two_way", "rank": None, "low_rank": str(refused)}
    return fit.low_PJ + centre, 1.4826 * error, facts | {"used": "low_rank", "iterations": fit.n_iter}


def _held_out_offsets(score_PJ: Matrix, rng: np.random.Generator, folds: int = 5) -> float:
    """Median |error| of cells that the offsets did not see: what `choose_rank` says of a rank."""
    fold_PJ = rng.integers(0, folds, score_PJ.shape)
    errors = []
    for fold in range(folds):
        fit = fit_two_way(np.where(fold_PJ == fold, np.nan, score_PJ))
        away_PJ = np.abs(score_PJ - fit.row_P[:, None] - fit.column_J)
        errors.append(np.nanmedian(np.where(fold_PJ == fold, away_PJ, np.nan)))
    return float(np.mean(errors))


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


class Cells(NamedTuple):
    """Cells of a matrix, what is proposed for them, and how far they stand out."""

    case: str
    ids: pl.DataFrame
    columns: list[str]
    score_PJ: Matrix
    proposed_PJ: Matrix
    z_PJ: Matrix

    def flagged(self, settings: Cleaning) -> Bools:
        stands_out: Bools = np.abs(np.nan_to_num(self.z_PJ)) > (settings.z0 or Z0)
        return stands_out


def _within(proposed_PJ: Matrix, score_PJ: Matrix) -> Matrix:
    """No proposal beyond what the column has ever said."""
    return np.clip(proposed_PJ, np.fmin.reduce(score_PJ, axis=0), np.fmax.reduce(score_PJ, axis=0))


def tail_bound(z: Matrix) -> float:
    """|z| beyond which a table of this size would hold 1 / 20 cells, if its residuals had an exponential tail.

        s = (q90 - q75) / ln 2.5;  bound = q90 + s ln(0.1 n / 0.05),  q: quantiles of |z|

    Residuals of what is particular to a row have such tails, or heavier ones; the quantiles do not see up to a tenth of
    wrong cells. Normal noise: 6.0 for 1,500 cells, 8.2 for 100,000.
    """
    size = np.abs(z[np.isfinite(z)])
    if len(size) == 0:
        return np.inf
    q75, q90 = np.quantile(size, [0.75, 0.9])
    return float(q90 + (q90 - q75) / np.log(2.5) * np.log(max(1.0, 0.1 * len(size) / 0.05)))


def _proposals(cells: Cells, cap_P: Ints, settings: Cleaning, facts: dict[str, Any], *, alone: bool) -> pl.DataFrame:
    """Flagged cells, the largest |z| first, and their counts into `facts`.

    Safe: no more in the row than it can correct, beyond the tail of the rest, and (`alone`) the largest of its row.
    """
    flagged_PJ = cells.flagged(settings)
    size_PJ = np.where(flagged_PJ, np.abs(np.nan_to_num(cells.z_PJ)), 0.0)
    bound_J = np.array([tail_bound(column) for column in cells.z_PJ.T])
    bound_J = bound_J if alone else np.full(len(bound_J), tail_bound(cells.z_PJ))
    p, j = np.nonzero(flagged_PJ)
    order = np.argsort(-size_PJ[p, j], kind="stable")
    p, j = p[order], j[order]
    rules = [
        ((flagged_PJ.sum(axis=1) > cap_P)[p], "more_than_the_row_can_tell"),
        ((size_PJ[p, j] < size_PJ[p].max(axis=1, initial=0.0)) & alone, "row_of_another"),
        (size_PJ[p, j] <= bound_J[j], "within_tail"),
    ]
    reason = np.select([hit for hit, _ in rules], [code for _, code in rules], "out_of_line").astype(object)
    evidence = [json.dumps(_beside(cells, a, b, whole=alone)) for a, b in zip(p.tolist(), j.tolist(), strict=True)]
    column = pl.Series([cells.columns[b] for b in j], dtype=pl.String)
    at = cells.ids[p]
    rows = at.with_columns(
        case=pl.lit(cells.case),
        response_id=pl.col("response_id") if "response_id" in at.columns else column,
        right_id=pl.lit(None, pl.String),
        rater=column,
        old=pl.Series(cells.score_PJ[p, j], dtype=pl.Float64),
        proposed=pl.Series(cells.proposed_PJ[p, j], dtype=pl.Float64),
        margin=pl.Series(np.abs(cells.score_PJ[p, j] - cells.proposed_PJ[p, j]), dtype=pl.Float64),
        z=pl.Series(cells.z_PJ[p, j], dtype=pl.Float64),
        evidence=pl.Series(evidence, dtype=pl.String),
        reason=pl.Series(reason.tolist(), dtype=pl.String),
    ).with_columns(
        status=pl.when(pl.col("reason") == "out_of_line").then(pl.lit("safe")).otherwise(pl.lit("contested"))
    )
    facts |= {
        "cells": int(np.isfinite(cells.z_PJ).sum()),
        "flagged": rows.height,
        "safe": int((rows["status"] == "safe").sum()),
        "by_column": dict(column.value_counts(sort=True).iter_rows()),
        "safe_beyond": {name: float(each) for name, each in zip(cells.columns, bound_J, strict=True)}
        if alone
        else float(bound_J[0]),
    }
    return conform(rows.select(PROPOSALS.columns.keys()), PROPOSALS, where="clean")


def _beside(cells: Cells, p: int, j: int, *, whole: bool) -> dict[str, float]:
    """What the cell is held against: the whole row of raters, or for models the median of the row."""
    row = cells.score_PJ[p]
    if whole:
        return {name: float(value) for name, value in zip(cells.columns, row, strict=True) if np.isfinite(value)}
    return {"median_of_prompt": float(np.nanmedian(row)), "median_of_model": float(np.nanmedian(cells.score_PJ[:, j]))}


def _whole_lines(cells: Cells, settings: Cleaning, prompts: list[str]) -> list[dict[str, Any]]:
    """Rows and columns most of whose cells stand out: that could be real, and is no error that a sparse method can see."""
    flagged_PJ, known_PJ = cells.flagged(settings), np.isfinite(cells.score_PJ)
    found = []
    for axis, kind, names in ((1, "prompt", prompts), (0, "model", cells.columns)):
        n, known = flagged_PJ.sum(axis=axis), known_PJ.sum(axis=axis)
        for at in np.flatnonzero((n > 0.5 * known) & (known >= 4)):
            line = {"kind": kind, "name": names[at], "flagged": int(n[at]), "of": int(known[at])}
            found.append(line | {"reason": "row_or_column_effect"})
    return found


def with_proposals(scores: pl.DataFrame, proposals: pl.DataFrame, *, suffix: str = "clean") -> pl.DataFrame:
    """`SCORES` rows NAME.clean of every rater that has a safe proposal: its scores with the safe proposals put in.

    The rows of the rater itself are not touched.
    """
    safe = proposals.filter(pl.col("status") == "safe", pl.col("right_id").is_null())
    if safe.is_empty():
        return empty(SCORES)
    touched = scores.filter(pl.col("rater").is_in(safe["rater"].unique().to_list()))
    # a cell that two cases question takes the proposal of the first of them
    best = safe.unique([*KEY, "rater"], keep="first", maintain_order=True).select(*KEY, "rater", "proposed")
    rows = touched.join(best, on=[*KEY, "rater"], how="left", maintain_order="left")
    lacks = {name: kind for name, kind in SCORES.schema.items() if name not in rows.columns}
    rows = rows.with_columns(pl.lit(None, kind).alias(name) for name, kind in lacks.items())
    rows = rows.with_columns(
        score=pl.coalesce("proposed", "score"),
        rater=pl.concat_str("rater", pl.lit(f".{suffix}")),
        reason=pl.when(pl.coalesce("proposed", "score").is_null()).then(pl.coalesce("reason", pl.lit("score_missing"))),
    )
    return conform(rows.select(SCORES.columns.keys()), SCORES, where="clean")
