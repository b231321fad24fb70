"""Pairs that exist already, as rows to train on: a run folder, a file of ours or of TRL's, any public layout of pairs."""

import json
from pathlib import Path
from typing import NamedTuple

import polars as pl

from pairwright.errors import DataError, StoreError
from pairwright.io.jsonl import read_lines
from pairwright.io.layouts import convert_file
from pairwright.tables import DROPPED, MESSAGES, empty, frame, prompt_id

SIDES = ("prompt", "chosen", "rejected")


def pairs_file(source: Path) -> Path:
    """The file of pairs of a run folder, or the file itself."""
    path = source / "pairs.parquet" if source.is_dir() else source
    if not path.is_file():
        told = "a run folder without pairs.parquet; pairwright run or pair makes it" if source.is_dir() else "no file"
        raise StoreError(f"cannot read pairs from {source}: {told}")
    return path


class PairsRead(NamedTuple):
    """Rows to train on, and a `dropped` table of the rows of the file that could not be read."""

    rows: pl.DataFrame
    dropped: pl.DataFrame


def read_pairs(source: Path, *, scratch: Path, layout: str | None = None) -> PairsRead:
    """Rows with prompt, chosen and rejected as message lists, `prompt_id`, and every other column that holds something.

    A file of another form is converted first, into `scratch`/source.parquet; rows that cannot be read are named in the
    file beside it. Columns that the layout does not know come along as they are, nested ones in `meta`.
    """
    path = pairs_file(source)
    if path.suffix == ".parquet" and layout is None:
        try:
            schema = pl.read_parquet_schema(path)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise DataError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}; is it whole?") from error
        if all(schema.get(name) == MESSAGES for name in SIDES):
            return PairsRead(_named(pl.read_parquet(path), path), empty(DROPPED))
    target = scratch / "source.parquet"
    convert_file(path, target, to="pairwright", layout=layout, force=True)
    return PairsRead(_named(_lifted(pl.read_parquet(target)), path), _lost(Path(f"{target}.dropped.jsonl")))


def _lost(path: Path) -> pl.DataFrame:
    rows = [row for _, row in read_lines(path, dict)] if path.exists() else []
    named = [
        {
            "stage": "read", "prompt_id": None if row["id"] is None else str(row["id"]), "reason": row["reason"],
            "detail": f"row {row['row']}: {row['detail']}",
        }
        for row in rows
    ]  # fmt: skip
    return frame(DROPPED, named)


def _named(rows: pl.DataFrame, path: Path) -> pl.DataFrame:
    if not rows.height:
        raise DataError(f"{path} holds no pairs")
    rows = rows.select(name for name in rows.columns if rows[name].null_count() < rows.height)
    if "prompt_id" in rows.columns and not rows["prompt_id"].null_count():
        return rows.with_columns(pl.col("prompt_id").cast(pl.String))
    names = [prompt_id([{"role": t["role"], "content": t["content"]} for t in turns]) for turns in rows["prompt"]]
    return rows.with_columns(prompt_id=pl.Series(names, dtype=pl.String))


def _lifted(rows: pl.DataFrame) -> pl.DataFrame:
    """Columns that stood beside those of the layout: they are in `meta`, and come out of it where they are plain."""
    if "meta" not in rows.columns:
        return rows
    held = [json.loads(text) if text else {} for text in rows["meta"].to_list()]
    for name in dict.fromkeys(key for each in held for key in each):
        values = [each.get(name) for each in held]
        if name not in rows.columns and all(isinstance(value, str | int | float | None) for value in values):
            rows = rows.with_columns(pl.Series(name, values, strict=False))
    return rows
