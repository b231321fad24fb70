"""Responses that exist already, as the tables of a run: prompts, responses, and scores that stand in columns."""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import polars as pl

from pairwright.errors import DataError
from pairwright.tables import DROPPED, PROMPTS, RESPONSES, SCORES, conform, drops, empty, response_id

UNNAMED = "given"  # the source of a response when the file does not name it


class Given(NamedTuple):
    """One batch of whole prompts."""

    prompts: pl.DataFrame
    responses: pl.DataFrame
    dropped: pl.DataFrame
    scores: pl.DataFrame


def as_tables(batches: Iterable[pl.DataFrame], columns: Mapping[str, str], *, where: str) -> Iterator[Given]:
    """Batches of `read_candidates` or of a layout as tables; `columns` are {rater: "rater:COLUMN" or "score"}."""
    seen: set[str] = set()
    for batch in batches:
        if "prompt" not in batch.columns:
            raise DataError(f"{where} has no prompts: a rater must see what a response answers; add a column prompt")
        rows = _named(batch)
        prompts = rows.group_by("prompt_id", maintain_order=True).agg(pl.col("prompt").first())
        if again := seen.intersection(prompts["prompt_id"]):
            raise DataError(
                f"{where}: prompt id {min(again)} comes again far from its other rows; sort the file by prompt"
            )
        seen.update(prompts["prompt_id"])
        absent = rows.filter(pl.col("response").is_null())
        rows = rows.filter(pl.col("response").is_not_null())
        asked = prompts.with_columns(checks=pl.lit(None, pl.String)).select(PROMPTS.columns.keys())
        lost = drops("sample", absent, "response_missing") if absent.height else empty(DROPPED)
        said = conform(rows.select(RESPONSES.columns.keys()).sort("prompt_id", "sample"), RESPONSES, where=where)
        yield Given(conform(asked, PROMPTS, where=where), said, lost, _scores(rows, columns))


def _named(batch: pl.DataFrame) -> pl.DataFrame:
    """The columns of `responses`: ids as text, the place within the prompt as sample."""
    rows = batch.with_columns(pl.col("prompt_id").cast(pl.String))
    rows = rows.with_columns(sample=pl.int_range(pl.len()).over("prompt_id").cast(pl.Int32))
    if rows.schema["response_id"].is_integer():
        text = pl.col("response_id").map_elements(response_id, return_dtype=pl.String)
        rows = rows.with_columns(response_id=text)
    lacks = {name: kind for name, kind in RESPONSES.schema.items() if name not in rows.columns}
    rows = rows.with_columns(pl.lit(None, kind).alias(name) for name, kind in lacks.items())
    known = {name: kind for name, kind in RESPONSES.schema.items() if name not in ("sample",)}
    return rows.with_columns(pl.col(name).cast(kind) for name, kind in known.items()).with_columns(
        pl.col("source").fill_null(UNNAMED), pl.col("prompt").cast(PROMPTS.schema["prompt"])
    )


def _scores(rows: pl.DataFrame, columns: Mapping[str, str]) -> pl.DataFrame:
    """Long rows of `scores`; nan and inf are missing."""
    parts = []
    for rater, column in columns.items():
        held = pl.when(pl.col(column).is_finite()).then(pl.col(column))
        bad = pl.when(pl.col(column).is_null()).then(pl.lit("score_missing")).otherwise(pl.lit("score_not_finite"))
        part = rows.select(
            "prompt_id", "response_id", rater=pl.lit(rater), score=held,
            reason=pl.when(held.is_null()).then(bad), scale_min=pl.lit(None, pl.Float64), scale_max=pl.lit(None, pl.Float64),
        )  # fmt: skip
        parts.append(part.select(SCORES.columns.keys()))
    return pl.concat(parts) if parts else empty(SCORES)
