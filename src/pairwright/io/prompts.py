"""Prompt files: one prompt per row, as text or as messages, with the checks that its answers must pass.

A row without a usable prompt is dropped with its reason and the run goes on; a file that is no prompt file is an error.
"""

import json
from pathlib import Path

import msgspec
import polars as pl

from pairwright.errors import DataError, StoreError
from pairwright.io.jsonl import read_lines
from pairwright.tables import DROPPED, PROMPTS, Split, as_messages, canonical_json, frame, prompt_id


class PromptRow(msgspec.Struct):
    """A line of a prompt file."""

    prompt: object = None
    messages: object = None
    prompt_id: str | int | None = None
    checks: list[dict[str, object]] | None = None


def read_prompts(path: Path) -> Split:
    """The prompts of a .jsonl or .parquet file: columns prompt (or messages), and optionally prompt_id and checks."""
    rows = _parquet(path) if path.suffix in {".parquet", ".pq"} else [row for _, row in read_lines(path, PromptRow)]
    if not rows:
        raise DataError(f'{path} holds no prompts; write one JSON object with a key "prompt" per line')
    kept: dict[str, dict[str, object]] = {}
    dropped: list[dict[str, object]] = []
    for number, row in enumerate(rows):
        where = f"{path}, row {number}"
        try:
            named = _prompt(row, where)
        except DataError as error:
            reason = "prompt_missing" if row.prompt is None and row.messages is None else "prompt_unusable"
            dropped.append({"stage": "prompts", "prompt_id": _given(row), "reason": reason, "detail": str(error)})
            continue
        held = kept.setdefault(str(named["prompt_id"]), named)
        if held["prompt"] != named["prompt"]:
            raise DataError(
                f"{where}: prompt id {named['prompt_id']} stands for two different prompts; give each its own"
            )
        if held["checks"] != named["checks"]:
            raise DataError(f"{where}: the prompt stands twice, with different checks; give each row its own prompt_id")
        if held is not named:
            lost = {"prompt_id": named["prompt_id"], "reason": "duplicate_prompt", "detail": where}
            dropped.append({"stage": "prompts", **lost})
    return Split(frame(PROMPTS, list(kept.values())), frame(DROPPED, dropped))


def _given(row: PromptRow) -> str | None:
    return None if row.prompt_id is None else str(row.prompt_id)


def _prompt(row: PromptRow, where: str) -> dict[str, object]:
    messages = as_messages(row.messages if row.prompt is None else row.prompt, where=where)
    try:
        checks = None if row.checks is None else canonical_json(row.checks)
        ident = _given(row) or prompt_id(messages)
        canonical_json(messages).encode()
    except ValueError as error:  # NaN among the checks, or half of a character
        raise DataError(f"{where}: {error}") from error
    return {"prompt_id": ident, "prompt": messages, "checks": checks}


def _parquet(path: Path) -> list[PromptRow]:
    try:
        rows = pl.read_parquet(path)
    except FileNotFoundError as error:
        raise StoreError(f"cannot read {path}: no such file") from error
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}; is it whole?") from error
    if not {"prompt", "messages"} & set(rows.columns):
        raise DataError(f"{path} has no column prompt or messages; it has {', '.join(rows.columns)}")
    known = [name for name in PromptRow.__struct_fields__ if name in rows.columns]
    read: list[PromptRow] = []
    for row in rows.select(known).iter_rows(named=True):
        if isinstance(row.get("checks"), str):
            try:
                row["checks"] = json.loads(row["checks"])
            except ValueError as error:
                raise DataError(f"{path}, row {len(read)}: checks are not JSON: {error}") from error
        read.append(PromptRow(**row))
    return read
