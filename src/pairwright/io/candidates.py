"""Scored candidates from Parquet or JSONL, in batches of whole prompts.

    long     one row per response:  prompt, response, score            (+ prompt_id, response_id, finish_reason, ...)
    nested   one row per prompt:    prompt, responses, rewards or all_rm_scores or scores

Columns go by the names that are in use (`NAMES`); other names are given as {"score": "their_column"}.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import polars.selectors as cs

from pairwright.core import segments
from pairwright.errors import ConfigError, DataError, StoreError
from pairwright.io.jsonl import field_name, read_lines, struct_of
from pairwright.protocols import Message
from pairwright.tables import MESSAGES, as_messages, canonical_json, prompt_id

NAMES: dict[str, tuple[str, ...]] = {
    "prompt": ("prompt", "instruction", "question", "messages"),
    "prompt_id": ("prompt_id",),
    "response": ("response", "completion", "output", "generated_text", "answer"),
    "response_id": ("response_id",),
    "responses": ("responses", "all_generated_responses", "outputs", "completions", "generations"),
    "score": ("score", "reward", "rm_score", "rating"),
    "scores": ("rewards", "all_rm_scores", "scores", "ratings"),
    "source": ("source", "model", "generator"),
    "finish_reason": ("finish_reason",),
    "n_tokens": ("n_tokens",),
    "scale_min": ("scale_min",),
    "scale_max": ("scale_max",),
}
LONG = (
    "prompt",
    "prompt_id",
    "response",
    "response_id",
    "score",
    "source",
    "finish_reason",
    "n_tokens",
    "scale_min",
    "scale_max",
)
NESTED = ("prompt", "prompt_id", "responses", "scores", "source", "scale_min", "scale_max")
_SCORES = ("score", "scores", "scale_min", "scale_max")
_TEXT = ("prompt_id", "response", "response_id", "source", "finish_reason")
_JSON: dict[str, Any] = {
    "prompt": str | list[dict[str, str]] | None,
    "responses": list[str | None],
    "scores": list[float | None],
    "score": float | bool | None,
    "n_tokens": int | None,
    "scale_min": float | None,
    "scale_max": float | None,
    "prompt_id": str | int | None,
    "response_id": str | int | None,
    **dict.fromkeys(("response", "source", "finish_reason"), str | None),
}
BATCH_ROWS = 50_000
BATCH_NUMBERS = 500_000  # rows without texts
BATCH_PROMPTS = 4_000
PASS_BYTES = 64 * 2**20  # of a compressed Parquet file whose prompts do not stand together, per pass


class Wanted(NamedTuple):
    """What a reader looks for: columns under other names, further columns of numbers, whether scores must be there."""

    renamed: Mapping[str, str]
    raters: Sequence[str] = ()
    scored: bool = True


def find_columns(available: Sequence[str], wish: Wanted, *, where: str) -> dict[str, str]:
    """{our name: the file's column} of a long or nested file; DataError lists what is there when nothing fits."""
    renamed, raters, scored = wish
    if unknown := [name for name in renamed if name not in NAMES]:
        raise ConfigError(f"unknown column name {unknown[0]!r}; known: {', '.join(NAMES)}")
    if absent := [column for column in (*renamed.values(), *raters) if column not in available]:
        raise DataError(f"{where} has no column {absent[0]!r}; it has {', '.join(available)}")
    found = {name: next((c for c in names if c in available), None) for name, names in NAMES.items()}
    found.update(renamed)
    nested = (
        found["responses"] is not None and "response" not in renamed and (found["scores"] is not None or not scored)
    )
    nested = nested and not raters  # several raters come as one column each, beside one response a row
    wanted = NESTED if nested else LONG
    columns = {name: column for name in wanted if (column := found[name]) is not None}
    if found["score"] in raters:
        del columns["score"]  # it comes as a rater
    if not scored:
        columns = {name: column for name, column in columns.items() if name not in _SCORES}
        needs: tuple[str, ...] = ("responses",) if nested else ("response", "prompt")
    else:
        needs = ("responses", "scores") if nested else ("score",) * (not raters)
    if any(name not in columns for name in needs) or not {"prompt", "prompt_id"} & set(columns):
        raise DataError(
            f"{where} does not look like {'scored ' * scored}candidates: it has {', '.join(available) or 'no columns'}. "
            f"Wanted, one row per response: prompt, response{', score' * scored}; or one row per prompt: prompt, "
            f"responses{', rewards' * scored}. Name other columns with --column response=THEIR_NAME"
        )
    return columns | {f"rater:{rater}": rater for rater in raters}


def read_candidates(
    path: Path | str,
    *,
    columns: Mapping[str, str] | None = None,
    raters: Sequence[str] = (),
    scored: bool = True,
) -> Iterator[pl.DataFrame]:
    """Batches of whole prompts: prompt_id, response_id, score, and what else of `NAMES` the file has.

    `prompt` comes as messages, `score` as f64 with null for missing. Without ids, a prompt's id is the hash of its
    messages and a response's id its number within the prompt (an integer). Rows of one prompt come together even when
    the file scatters them. `raters` are further columns of numbers, which come as "rater:NAME"; `score` may then lack.
    Without `scored` there need be no scores, and those that are there are passed over; a prompt must then be there.
    """
    wish = Wanted(columns or {}, raters, scored)
    path = Path(path)
    if not path.exists():
        raise StoreError(f"there is no file {path}")
    if path.suffix in {".jsonl", ".json", ".ndjson"}:
        batches = _jsonl_batches(path, wish)
    elif path.suffix in {".parquet", ".pq"}:
        batches = _parquet_batches(path, wish)
    else:
        raise DataError(f"{path}: the name must end in .parquet or .jsonl to say what it is")
    empty = True
    for batch in batches:
        empty = empty and batch.is_empty()
        yield batch
    if empty:
        raise DataError(f"{path} holds no rows; there is nothing to pair")


def _parquet_batches(path: Path, wish: Wanted) -> Iterator[pl.DataFrame]:
    try:
        scan = pl.scan_parquet(path)
        schema = scan.collect_schema()
        columns = find_columns(list(schema), wish, where=str(path))
        _check_types({name: schema[column] for name, column in columns.items()}, columns, path)
        scan = scan.select(cs.by_name(column).as_expr().alias(name) for name, column in columns.items())
        nested = "responses" in columns
        key = "prompt_id" if "prompt_id" in columns else "prompt"
        key_R = scan.select(pl.col(key).hash()).collect(engine="streaming").to_series().to_numpy()
        start_P = segments.starts(key_R)
        together = len(start_P) - 1 == len(np.unique(key_R[start_P[:-1]]))
        if together:
            texts = {"prompt", "response"} & set(columns)
            size = BATCH_PROMPTS if nested else BATCH_ROWS if texts else BATCH_NUMBERS
            yield from _stream(scan.collect_batches(maintain_order=True, chunk_size=size), start_P, path)
        else:
            yield from _passes(scan, key, path, nested)
    except (OSError, pl.exceptions.ComputeError) as error:
        if isinstance(error, StoreError):
            raise
        raise DataError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}; is it whole?") from error


def _stream(parts: Iterable[pl.DataFrame], start_P: segments.Ints, path: Path) -> Iterator[pl.DataFrame]:
    """The file in order, cut where a prompt ends; `start_P` are the offsets of the prompts in the whole of it."""
    done, held = 0, pl.DataFrame()
    for part in parts:
        held = pl.concat([held, part], how="vertical_relaxed") if held.height else part
        end = int(start_P[np.searchsorted(start_P, done + held.height, side="right") - 1])
        if end > done:
            yield canonical(held[: end - done], first_row=done, where=str(path))
            held, done = held[end - done :], end


def _passes(scan: pl.LazyFrame, key: str, path: Path, nested: bool) -> Iterator[pl.DataFrame]:
    """The prompts by hash of their key, one share of them per pass over the file."""
    passes = max(1, -(-path.stat().st_size // PASS_BYTES))
    for each in range(passes):
        part = scan.with_row_index("_row").filter(pl.col(key).hash() % passes == each).collect(engine="streaming")
        yield canonical(_gathered(part, key, path, nested=nested), first_row=None, where=str(path))


def _gathered(rows: pl.DataFrame, key: str, path: Path, *, nested: bool) -> pl.DataFrame:
    """Rows with their number (`_row`, taken off) so that those of a prompt stand together, in the order of the file."""
    rows = rows.with_columns(_first=pl.col("_row").min().over(key)).sort("_first", "_row")
    if nested:
        _no_repeats(rows, key, path)
    return rows.drop("_row", "_first")


def _no_repeats(part: pl.DataFrame, key: str, path: Path) -> None:
    if (again := part.filter(pl.col(key).is_duplicated())).height:
        raise DataError(
            f"{path}: the prompt of row {again['_row'][0]} stands again in row {again['_row'][1]}; merge them"
        )


def _check_types(types: Mapping[str, pl.DataType], columns: Mapping[str, str], path: Path) -> None:
    wanted: dict[str, tuple[str, Any]] = {
        "score": ("numbers", lambda t: t.is_numeric() or t in (pl.Boolean, pl.Null)),
        "scores": (
            "lists of numbers",
            lambda t: isinstance(t, pl.List) and (t.inner.is_numeric() or t.inner == pl.Null),
        ),
        "responses": ("lists of text", lambda t: t == pl.List(pl.String)),
        "prompt": ("text or messages", lambda t: t == pl.String or isinstance(t, pl.List)),
        "prompt_id": ("text or whole numbers", lambda t: t == pl.String or t.is_integer()),
        "response_id": ("text or whole numbers", lambda t: t == pl.String or t.is_integer()),
        **dict.fromkeys(("response", "source", "finish_reason"), ("text", lambda t: t in (pl.String, pl.Null))),
    }
    wanted |= {name: wanted["score"] for name in ("scale_min", "scale_max", "n_tokens")}
    wanted |= {name: wanted["score"] for name in types if name.startswith("rater:")}
    for name, kind in types.items():
        if name in wanted and not wanted[name][1](kind):
            raise DataError(
                f"{path}: column {columns[name]} holds {kind}, not {wanted[name][0]}; mend it or name another with "
                f"--column {name}=..."
            )


def _jsonl_batches(path: Path, wish: Wanted) -> Iterator[pl.DataFrame]:
    """JSONL in batches; rows of a prompt that stand apart are only found together within the file as a whole."""
    keys = {key: None for _, row in read_lines(path, dict) for key in row}
    if not keys:
        return
    columns = find_columns(list(keys), wish, where=str(path))
    key = "prompt_id" if "prompt_id" in columns else "prompt"
    must = frozenset({"responses", "scores"} & set(columns) or {key})
    kind = struct_of("Row", {name: (_JSON.get(name, float | None), key) for name, key in columns.items()}, must)
    key_R = np.fromiter(_keys(path, key, columns[key]), np.int64)
    start_P = segments.starts(key_R)
    parts = _parts(path, kind, columns)
    if len(start_P) - 1 != len(np.unique(key_R)):  # scattered: the file must be held to be sorted
        whole = pl.concat(parts, how="vertical_relaxed").with_row_index("_row")
        whole = _gathered(whole, key, path, nested="responses" in columns)
        start_P = segments.starts(whole[key].hash().to_numpy())
        parts = whole.iter_slices(BATCH_ROWS)
    yield from _stream(parts, start_P, path)


def _keys(path: Path, key: str, column: str) -> Iterator[int]:
    """A number per line that tells prompts apart; all else of the line is passed over."""
    name = field_name(key)
    for _, row in read_lines(path, struct_of("Key", {key: (_JSON[key], column)}, frozenset())):
        said = getattr(row, name)
        yield hash(said if said is None or isinstance(said, str | int) else canonical_json(said))


def _parts(path: Path, kind: type[Any], columns: Mapping[str, str]) -> Iterator[pl.DataFrame]:
    limit = BATCH_PROMPTS if "responses" in columns else BATCH_ROWS
    rows: list[Any] = []
    for _, row in read_lines(path, kind):
        rows.append(row)
        if len(rows) == limit:
            yield _columns(rows, columns)
            rows = []
    if rows:
        yield _columns(rows, columns)


def _columns(rows: list[Any], columns: Mapping[str, str]) -> pl.DataFrame:
    types: dict[str, Any] = {
        "score": pl.Float64,
        "scores": pl.List(pl.Float64),
        "responses": pl.List(pl.String),
        "n_tokens": pl.Int64,
        "scale_min": pl.Float64,
        "scale_max": pl.Float64,
        "prompt": MESSAGES,
    }
    data = {}
    types |= dict.fromkeys((name for name in columns if name.startswith("rater:")), pl.Float64)
    for name in columns:
        values = [getattr(row, field_name(name)) for row in rows]
        if name == "prompt":
            values = [as_messages(v, where="prompt") if isinstance(v, str) else v for v in values]
        elif name == "score":
            values = [None if v is None else float(v) for v in values]
        elif name in ("prompt_id", "response_id"):
            values = [None if v is None else str(v) for v in values]
        data[name] = pl.Series(name, values, dtype=types.get(name, pl.String))
    return pl.DataFrame(data)


def canonical(rows: pl.DataFrame, *, first_row: int | None, where: str) -> pl.DataFrame:
    """One batch in our columns; nested rows are unfolded."""
    at = "" if first_row is None else f" (from row {first_row})"
    if "responses" in rows.columns:
        together = [name for name in ("responses", "scores") if name in rows.columns]
        rows = _even(rows) if "scores" in together else rows
        # an empty list becomes one null response, so that its prompt stays in the ledger
        lists = [pl.when(pl.col(name).list.len() > 0).then(name).alias(name) for name in together]
        rows = rows.with_columns(lists).with_columns(response_id=pl.int_ranges(0, pl.col("responses").list.len()))
        rows = rows.explode(*together, "response_id").rename({name: name[:-1] for name in together})
        rows = rows.with_columns(pl.col("response_id").fill_null(0))
    rows = _with_prompts(rows, where=where + at)
    if "response_id" not in rows.columns:
        rows = rows.with_columns(response_id=pl.int_range(pl.len()).over("prompt_id"))
    elif not _rising(rows) and rows.select(pl.struct("prompt_id", "response_id").is_duplicated().any()).item():
        again = rows.filter(pl.struct("prompt_id", "response_id").is_duplicated())
        raise DataError(
            f"{where}{at}: prompt {again['prompt_id'][0]} has two responses with the id {again['response_id'][0]}"
        )
    return rows.with_columns(cs.matches("^(score|rater:.*)$").cast(pl.Float64))


def _even(rows: pl.DataFrame) -> pl.DataFrame:
    """A prompt with more scores than responses, or fewer: nobody knows which score is whose, so all are missing."""
    size = rows["responses"].list.len().fill_null(0)
    uneven = size != rows["scores"].list.len().fill_null(0)
    if not uneven.any():
        return rows
    scores = rows["scores"].to_list()
    for at in uneven.arg_true():
        scores[at] = [None] * size[at]
    reason = pl.when(uneven).then(pl.lit("rating_count_mismatch")).alias("reason")
    return rows.with_columns(pl.Series("scores", scores, dtype=pl.List(pl.Float64)), reason)


def _rising(rows: pl.DataFrame) -> bool:
    """Response ids rise within each prompt: the usual case, and then none stands twice."""
    rises = (pl.col("response_id") > pl.col("response_id").shift()) | (
        pl.col("prompt_id") != pl.col("prompt_id").shift()
    )
    return bool(rows.select(rises.slice(1).fill_null(False).all()).item())


def _with_prompts(rows: pl.DataFrame, *, where: str) -> pl.DataFrame:
    """`prompt` as messages and `prompt_id`; one id may not stand for two prompts."""
    if "prompt" not in rows.columns:
        return rows
    key = "prompt_id" if "prompt_id" in rows.columns else "prompt"
    if rows[key].null_count():
        row = int(rows[key].is_null().arg_true()[0])
        raise DataError(
            f"{where}: row {row} of this batch has no {key}; a response without its prompt cannot be paired"
        )
    start = segments.starts(rows[key].hash().to_numpy())
    run = pl.Series(segments.owner(start), dtype=pl.UInt32)
    heads = rows[[int(at) for at in start[:-1]]] if rows.height else rows
    if key == "prompt_id" and (rows["prompt"].hash() != heads["prompt"].hash().gather(run)).any():
        row = int((rows["prompt"].hash() != heads["prompt"].hash().gather(run)).arg_true()[0])
        raise DataError(
            f"{where}: prompt id {rows['prompt_id'][row]} stands for two different prompts; give each its own"
        )
    messages = _messages(heads["prompt"], where)
    if key == "prompt":
        ids = pl.Series("prompt_id", [prompt_id(turns) for turns in _turns(heads["prompt"])], dtype=pl.String)
        rows = rows.with_columns(ids.gather(run))
    return rows.with_columns(messages.gather(run))


def _messages(prompts: pl.Series, where: str) -> pl.Series:
    """Prompts as messages, checked; plain texts without a Python object per prompt."""
    if prompts.dtype == pl.String:
        blank = (prompts.is_null() | (prompts.str.strip_chars() == "")).arg_true()
        if len(blank):
            raise DataError(f"{where}, prompt {blank[0]}: the prompt is empty; give it a text or take the row out")
        turn = pl.struct(role=pl.lit("user"), content=pl.col("prompt"))
        return prompts.alias("prompt").to_frame().select(prompt=pl.concat_list(turn)).to_series()
    checked = [as_messages(turns, where=f"{where}, prompt {i}") for i, turns in enumerate(prompts.to_list())]
    return pl.Series("prompt", checked, dtype=MESSAGES)


def _turns(prompts: pl.Series) -> Iterator[list[Message]]:
    """The messages of each prompt, for its id."""
    for said in prompts.to_list():
        yield [{"role": "user", "content": said}] if isinstance(said, str) else said
