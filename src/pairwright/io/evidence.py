"""A file of scores, comparisons or pairs, as what can be checked against itself.

comparisons   prompt_id, left_id, right_id, outcome (left, right, tie or null), + rater, shown_first, draw
long scores   prompt_id, response_id, rater, score
wide scores   prompt_id or prompt, + response_id, + model or source, and one column of numbers per rater
a layout      candidates with scores, or pairs, as `convert` knows them
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from pairwright.errors import DataError, StoreError
from pairwright.io.jsonl import read_lines
from pairwright.io.layouts import CandidateRow, Lost, PairRow, read_rows
from pairwright.protocols import Message
from pairwright.tables import COMPARISONS, as_messages, canonical_json, empty, prompt_id, response_id, text_hash

SCORED = {
    "prompt_id": pl.String(),
    "response_id": pl.String(),
    "rater": pl.String(),
    "score": pl.Float64(),
    "model": pl.String(),
}
TEXTS = {"prompt_id": pl.String(), "response_id": pl.String(), "response": pl.String()}
MODELS = ("model", "source", "system", "generator")
NOT_RATERS = ("sample", "seed", "n_tokens", "n_chars", "scale_min", "scale_max", "draw", "row", "index")
SHARE = 0.99  # of pairs whose label their scores do not contradict, from which on the labels come from the scores


class Held(NamedTuple):
    """`derived`: the comparisons are labels that follow from the file's own scores. `told` says what was read."""

    scores: pl.DataFrame
    comparisons: pl.DataFrame
    texts: pl.DataFrame
    derived: bool
    told: str


def read_evidence(path: Path, *, layout: str | None = None, raters: Sequence[str] = ()) -> Held:
    """What a file holds. DataError says what is missing when it is none of the four."""
    if not path.exists():
        raise StoreError(f"there is no file {path}")
    if layout is None:
        columns = set(_columns(path))
        if {"prompt_id", "left_id", "right_id", "outcome"} <= columns:
            return _compared(_table(path), path)
        if {"prompt_id", "response_id", "rater", "score"} <= columns:
            return _long(_table(path), path)
        if raters or (columns & {"prompt_id", "prompt"} and not columns & {"chosen", "rejected", "completions"}):
            return _wide(_table(path), path, raters)
    return _laid_out(path, layout)


def _columns(path: Path) -> list[str]:
    if path.suffix in {".parquet", ".pq"}:
        try:
            return list(pl.read_parquet_schema(path))
        except (OSError, pl.exceptions.PolarsError) as error:
            raise DataError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}; is it whole?") from error
    return list(next((row for _, row in read_lines(path, dict)), {}))


def _table(path: Path) -> pl.DataFrame:
    if path.suffix in {".parquet", ".pq"}:
        return pl.read_parquet(path)
    return pl.DataFrame([row for _, row in read_lines(path, dict)], infer_schema_length=None)


def _compared(rows: pl.DataFrame, path: Path) -> Held:
    """Rows of one question in one order that have no number of their own are numbered as draws."""
    have = set(rows.columns)
    outcome = pl.col("outcome").cast(pl.String)
    rows = rows.with_columns(
        *(pl.col(name).cast(pl.String) for name in ("prompt_id", "left_id", "right_id")),
        outcome=outcome,
        rater=pl.col("rater").cast(pl.String) if "rater" in have else pl.lit("label"),
        shown_first=pl.col("shown_first").cast(pl.String) if "shown_first" in have else pl.lit(None, pl.String),
        reason=pl.col("reason").cast(pl.String) if "reason" in have else pl.lit(None, pl.String),
    )
    if strange := [each for each in rows["outcome"].unique().to_list() if each not in ("left", "right", "tie", None)]:
        raise DataError(f"{path}: outcome {strange[0]!r} is none of left, right, tie and null")
    strange = [each for each in rows["shown_first"].unique().to_list() if each not in ("left", "right", None)]
    if strange:
        raise DataError(f"{path}: shown_first {strange[0]!r} is none of left, right and null")
    _named(rows, ("prompt_id", "left_id", "right_id", "rater"), path)
    if (selves := rows.filter(pl.col("left_id") == pl.col("right_id"))).height:
        told = f"{selves['prompt_id'][0]} compares {selves['left_id'][0]} with itself"
        raise DataError(f"{path}: prompt {told}; correct or drop such rows ({selves.height})")
    same = ["prompt_id", "left_id", "right_id", "rater", "shown_first"]
    if "draw" in have and (again := rows.filter(pl.struct(*same, "draw").is_duplicated())).height:
        told = ", ".join(str(each) for each in again.select(*same, "draw").row(0))
        raise DataError(f"{path}: {told} stands twice; drop one, or the column draw if they are votes of their own")
    rows = rows.with_columns(draw=pl.int_range(pl.len(), dtype=pl.Int32).over(same))
    held = rows.select(pl.col(name).cast(kind) for name, kind in COMPARISONS.schema.items())
    return Held(pl.DataFrame(schema=SCORED), held, pl.DataFrame(schema=TEXTS), False, f"{held.height} comparisons")


def _long(rows: pl.DataFrame, path: Path) -> Held:
    model = next((name for name in MODELS if name in rows.columns), None)
    scores = rows.select(
        pl.col("prompt_id").cast(pl.String),
        pl.col("response_id").cast(pl.String),
        pl.col("rater").cast(pl.String),
        _number("score", rows),
        model=pl.col(model).cast(pl.String) if model else pl.lit(None, pl.String),
    )
    return _scores(scores, rows, path)


def _wide(rows: pl.DataFrame, path: Path, raters: Sequence[str]) -> Held:
    """One column of numbers per rater; without response ids the model names the response, or its place."""
    if absent := [name for name in raters if name not in rows.columns]:
        raise DataError(f"{path} has no column {absent[0]!r}; it has {', '.join(rows.columns)}")
    known = {"prompt_id", "response_id", *MODELS, *NOT_RATERS}
    numbers = [name for name, kind in rows.schema.items() if kind.is_numeric() and name not in known]
    if not (raters or numbers):
        raise DataError(f"{path} has no column of numbers to check; it has {', '.join(rows.columns)}")
    if "prompt_id" not in rows.columns:
        if "prompt" not in rows.columns:
            raise DataError(f"{path} has neither prompt_id nor prompt: which scores belong together cannot be told")
        said = rows["prompt"].to_list()
        ids = [prompt_id(as_messages(each, where=f"{path}, row {at}")) for at, each in enumerate(said)]
        rows = rows.with_columns(prompt_id=pl.Series(ids))
    model = next((name for name in MODELS if name in rows.columns), None)
    place = pl.int_range(pl.len()).over("prompt_id").map_elements(response_id, return_dtype=pl.String)
    named = pl.col("response_id") if "response_id" in rows.columns else pl.col(model) if model else place
    rows = rows.with_columns(
        response_id=named.cast(pl.String),
        model=pl.col(model).cast(pl.String) if model else pl.lit(None, pl.String),
        prompt_id=pl.col("prompt_id").cast(pl.String),
    )
    chosen = list(raters) or numbers
    parts = [
        rows.select("prompt_id", "response_id", rater=pl.lit(name), score=_number(name, rows), model="model")
        for name in chosen
    ]
    texts = [name for name in rows.columns if not raters and name not in known and _mostly_numbers(rows, name)]
    unread = [f"{name} holds numbers as text and was not read: --rater {name} reads it" for name in texts]
    return _scores(pl.concat(parts), rows, path, unread)


def _mostly_numbers(rows: pl.DataFrame, name: str) -> bool:
    if rows.schema[name] != pl.String or name in ("prompt", "response"):
        return False
    return 2 * rows.select(_number(name, rows))["score"].count() >= max(1, rows[name].count())


def _marks(scores: pl.DataFrame) -> Iterator[str]:
    """Raters with one value below 0, again and again, and all others above: a mark for "missing", perhaps."""
    below = scores.filter(pl.col("score") < 0).group_by("rater", maintain_order=True)
    least = below.agg(n=pl.len(), kinds=pl.col("score").n_unique(), value=pl.col("score").first())
    for row in least.filter(pl.col("n") > 1, pl.col("kinds") == 1).iter_rows(named=True):
        told = f"{row['rater']} says {row['value']:g} {row['n']} times and nothing else below 0"
        yield f"{told}: if it marks what is missing, make it null"


def _number(column: str, rows: pl.DataFrame) -> pl.Expr:
    """A number, or null for what is none ("N/A"), for NaN and infinity, and for what the row's scale does not hold."""
    text = rows.schema[column] == pl.String
    value = (pl.col(column).str.strip_chars() if text else pl.col(column)).cast(pl.Float64, strict=False)
    held = value.is_finite()
    for name, holds in (("scale_min", value.__ge__), ("scale_max", value.__le__)):
        if name in rows.columns and rows.schema[name].is_numeric():
            held &= holds(pl.col(name)).fill_null(True)
    return pl.when(held).then(value).alias("score")


def _named(rows: pl.DataFrame, names: Sequence[str], path: Path) -> None:
    """DataError names the first row without an id: null would join rows that nobody said belong together."""
    for name in names:
        if rows[name].null_count():
            at = int(rows[name].is_null().arg_max() or 0)
            raise DataError(f"{path}, row {at}: {name} is null; name it, or leave the row out")


def _scores(scores: pl.DataFrame, rows: pl.DataFrame, path: Path, unread: Sequence[str] = ()) -> Held:
    key = ["prompt_id", "response_id", "rater"]
    _named(scores, key, path)
    if (again := scores.filter(pl.struct(key).is_duplicated())).height:
        told = ", ".join(str(each) for each in again.row(0)[:3])
        raise DataError(f"{path}: {told} has two scores; give each response an id of its own (response_id or model)")
    texts = pl.DataFrame(schema=TEXTS)
    if "response" in rows.columns and "response_id" in rows.columns:
        texts = rows.select(pl.col(name).cast(kind) for name, kind in TEXTS.items()).unique(
            ["prompt_id", "response_id"], keep="first", maintain_order=True
        )
    missing = scores["score"].null_count()
    told = f"{scores.height - missing} scores by {scores['rater'].n_unique()} raters, {missing} missing"
    told += "".join(f"; {line}" for line in (*_marks(scores), *unread))
    return Held(scores.select(SCORED.keys()), empty(COMPARISONS), texts, False, told)


def _laid_out(path: Path, layout: str | None) -> Held:
    scores: list[tuple[Any, ...]] = []
    labels: list[tuple[Any, ...]] = []
    texts: dict[tuple[str, str], str] = {}
    follow: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    why: Counter[str] = Counter()
    for number, row, _ in read_rows(path, layout):
        if isinstance(row, Lost):
            follow["lost"] += 1
        elif isinstance(row, CandidateRow):
            scores += _rated(row, texts, seen)
            why.update(each.reason for each in row.candidates if each.score is None and each.reason)
        else:
            scored = (row.score_chosen, row.score_rejected)
            labels.append(_label(row, number, texts))
            if None not in scored:
                follow["scored"] += 1
                follow["explained"] += scored[0] >= scored[1]  # type: ignore[operator]
    comparisons = pl.DataFrame(labels, schema=COMPARISONS.schema, orient="row")
    comparisons = comparisons.with_columns(
        draw=pl.int_range(pl.len(), dtype=pl.Int32).over("prompt_id", "left_id", "right_id", "rater", "shown_first")
    )
    derived = follow["scored"] > 0.5 * max(1, len(labels)) and follow["explained"] >= SHARE * follow["scored"]
    whole = pl.DataFrame(scores, schema=SCORED, orient="row")
    whole = whole.filter(pl.col("score").is_not_null().any().over("rater"))
    missing = whole["score"].null_count()
    told = f"{len(labels)} labelled pairs" if labels else f"{whole.height - missing} scores, {missing} missing"
    told += "".join(f", {n} of them {reason}" for reason, n in sorted(why.items()) if whole.height)
    told += f", {follow['lost']} rows could not be read" if follow["lost"] else ""
    rows = pl.DataFrame([(*key, text) for key, text in texts.items()], schema=TEXTS, orient="row")
    return Held(whole, comparisons, rows, derived, told)


def _rated(row: CandidateRow, texts: dict[tuple[str, str], str], seen: Counter[str]) -> Iterator[tuple[Any, ...]]:
    """A prompt that stands again has further responses: they are counted on."""
    name = row.prompt_id or prompt_id(row.prompt)
    first = seen[name]
    seen[name] += len(row.candidates)
    for k, each in enumerate(row.candidates, start=first):
        texts[name, response_id(k)] = each.text or ""
        for rater, score in {"score": each.score, **each.scores}.items():
            yield name, response_id(k), rater, score, each.source


_SPACE = re.compile(r"\s+")


def _plain(turns: Sequence[Message]) -> list[dict[str, Any]]:
    return [{**turn, "content": _SPACE.sub(" ", turn["content"]).strip()} for turn in turns]


def _same(turns: Sequence[Message]) -> str:
    """Texts that differ in white space or case alone are one response."""
    return text_hash(canonical_json(_plain(turns)).casefold())


def _label(row: PairRow, number: int, texts: dict[tuple[str, str], str]) -> tuple[Any, ...]:
    """A pair as a comparison whose left side won; the same prompt and the same texts have the same ids in every row."""
    name = prompt_id(_plain(row.prompt))
    sides = [_same(side) for side in (row.chosen, row.rejected)]
    for side, said in zip(sides, (row.chosen, row.rejected), strict=True):
        texts[name, side] = said[-1]["content"] if said else ""
    equal = sides[0] == sides[1]
    left, right = (f"{sides[0]}", f"{sides[1]}-{number}") if equal else sides
    return name, left, right, "label", None if equal else "left", None, 0, "identical_sides" if equal else None
