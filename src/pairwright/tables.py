"""The tables of a run: the only place that knows column names, types and ids.

Every table is a Polars frame. `conform` checks one against its description and names file, row and column when it does
not fit. Rows of one prompt stand together, sorted by prompt and response, so that group offsets are free.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring as _quoted
from typing import NamedTuple

import polars as pl

from pairwright.errors import DataError
from pairwright.protocols import Message

MESSAGES = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))
CUT = ("length", "max_tokens")  # finish reasons of a text that was cut off
ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})


@dataclass(frozen=True, slots=True)
class Table:
    """Columns and types, the columns that may not be null, and the columns that together name a row."""

    name: str
    columns: Mapping[str, pl.DataType | type[pl.DataType]]
    required: frozenset[str]
    key: tuple[str, ...]

    @property
    def schema(self) -> dict[str, pl.DataType]:
        return {name: kind if isinstance(kind, pl.DataType) else kind() for name, kind in self.columns.items()}


def _table(name: str, key: Sequence[str], required: str, columns: Mapping[str, object], *, may_lack: str = "") -> Table:
    """`may_lack` names columns of the key that may be null."""
    needed = frozenset([*key, *required.split()]) - {*may_lack.split()}
    return Table(name, columns, needed, tuple(key))  # type: ignore[arg-type]


PROMPTS = _table(
    "prompts",
    ["prompt_id"],
    "prompt",
    {
        "prompt_id": pl.String,
        "prompt": MESSAGES,  # ends with a user turn
        "checks": pl.String,  # JSON list of the checks that the rules rater applies, null when none are declared
    },
)
RESPONSES = _table(
    "responses",
    ["prompt_id", "response_id"],
    "source sample",
    {
        "prompt_id": pl.String,
        "response_id": pl.String,  # unique within its prompt
        "response": pl.String,  # null when the sampler gave none; the reason stands in `dropped`
        "source": pl.String,  # the model that wrote it
        "sample": pl.Int32,  # k, from 0
        "finish_reason": pl.String,  # stop, length, or null when nobody said
        "n_tokens": pl.Int32,
        "seed": pl.Int64,  # of the call that drew it
    },
)
SCORES = _table(
    "scores",
    ["prompt_id", "response_id", "rater"],
    "",
    {
        "prompt_id": pl.String,
        "response_id": pl.String,
        "rater": pl.String,  # "rules"; the parts of a score are raters of their own: "rules.words"
        "score": pl.Float64,  # null when missing: never 0, -1 or the mean
        "reason": pl.String,  # why the score is null
        "scale_min": pl.Float64,
        "scale_max": pl.Float64,
    },
)
LOGPS = _table(
    "logps",
    ["prompt_id", "response_id", "model_hash", "template_hash"],
    "model n_tokens truncated",
    {
        "prompt_id": pl.String,
        "response_id": pl.String,
        "model": pl.String,  # in words
        "model_hash": pl.String,  # weights, adapter, precision
        "template_hash": pl.String,  # chat template, special tokens, truncation
        "logp": pl.Float64,  # sum over the response's tokens, nats; null when missing
        "n_tokens": pl.Int32,  # that the sum is over
        "truncated": pl.Boolean,  # tokens beyond max_length are not in the sum
        "reason": pl.String,  # why logp is null
        "response_hash": pl.String,  # of the text: a log-probability belongs to a text, not to an id
    },
)
COMPARISONS = _table(
    "comparisons",
    ["prompt_id", "left_id", "right_id", "rater", "shown_first", "draw"],
    "",
    {
        "prompt_id": pl.String,
        "left_id": pl.String,
        "right_id": pl.String,
        "rater": pl.String,
        "outcome": pl.String,  # left, right, tie, or null when missing
        "shown_first": pl.String,  # left, right, or null when nobody said
        "draw": pl.Int32,  # of the same question in the same order, from 0
        "reason": pl.String,  # why outcome is null
    },
    may_lack="shown_first",
)
JUDGEMENTS = _table(
    "judgements",
    ["prompt_id", "left_id", "right_id", "rater", "shown_first", "draw"],
    "",
    {
        "prompt_id": pl.String,
        "left_id": pl.String,  # the response that was judged; of a comparison the left one
        "right_id": pl.String,  # null when one response was judged alone
        "rater": pl.String,
        "shown_first": pl.String,  # left or right of a comparison
        "draw": pl.Int32,
        "reply": pl.String,  # the judge's own words, also where they could not be read
        "score": pl.Float64,
        "outcome": pl.String,
        "reason": pl.String,  # why there is neither score nor outcome
        "n_tokens": pl.Int32,  # of the reply
        "model": pl.String,  # as the server named itself
        "request_id": pl.String,
    },
    may_lack="right_id shown_first",
)
PROPOSALS = _table(
    "proposals",
    ["case", "prompt_id", "response_id", "right_id", "rater"],
    "old proposed status reason",
    {
        "case": pl.String,  # comparisons, raters or models: the redundancy that the proposal rests on
        "prompt_id": pl.String,
        "response_id": pl.String,  # of a comparison the left one
        "right_id": pl.String,  # null for a score
        "rater": pl.String,
        "old": pl.Float64,  # the score; of a comparison the smoothed share of the votes for left
        "proposed": pl.Float64,  # what the rest of the data says it would be
        "margin": pl.Float64,  # |old - proposed|; of a comparison the distance of the two strengths, logits
        "z": pl.Float64,  # in standard deviations of honest noise
        "evidence": pl.String,  # JSON: the numbers that it is held against
        "status": pl.String,  # safe, or contested: more is wrong here than the data can tell apart
        "reason": pl.String,
    },
    may_lack="right_id",
)
PAIRS = _table(
    "pairs",
    ["prompt_id", "chosen_id", "rejected_id"],
    "score_chosen score_rejected margin rule",
    {
        "prompt_id": pl.String,
        "chosen_id": pl.String,
        "rejected_id": pl.String,
        "score_chosen": pl.Float64,
        "score_rejected": pl.Float64,
        "margin": pl.Float64,  # score_chosen - score_rejected, signed
        "rule": pl.String,  # "max/mu-2sigma": chosen rule / rejected rule
        "z_chosen": pl.Float64,  # (score - mean) / sd within the prompt
        "z_rejected": pl.Float64,
        "hit_extreme": pl.Boolean,  # the rejected one has the lowest score of its prompt
    },
)
PROMPT_STATS = _table(
    "prompt_stats",
    ["prompt_id"],
    "n",
    {
        "prompt_id": pl.String,
        "n": pl.Int32,  # responses kept: finite score, non-empty text
        "n_distinct": pl.Int32,  # distinct texts among them
        "tied": pl.Int32,  # texts that share the highest or the lowest score with the one picked there
        "mean": pl.Float64,
        "sd": pl.Float64,
        "skewness": pl.Float64,
        "outcome": pl.String,  # "pair", or the reason why there is none
        "max_id": pl.String,
        "min_id": pl.String,
        "sigma_id": pl.String,  # nearest to mean - 2 sd
        "chosen_id": pl.String,  # what the chosen rule picked, pair or not
        "rejected_id": pl.String,
    },
)
DROPPED = _table(
    "dropped",
    [],
    "stage reason",
    {
        "stage": pl.String,
        "prompt_id": pl.String,
        "response_id": pl.String,  # null when the whole prompt was dropped
        "reason": pl.String,
        "detail": pl.String,
    },
)
TABLES = {
    table.name: table
    for table in (
        PROMPTS, RESPONSES, SCORES, LOGPS, COMPARISONS, JUDGEMENTS, PROPOSALS, PAIRS, PROMPT_STATS, DROPPED,
    )
}  # fmt: skip


class Split(NamedTuple):
    """What a stage kept, and what it dropped with the reasons (a `dropped` table)."""

    kept: pl.DataFrame
    dropped: pl.DataFrame


def canonical_json(value: object) -> str:
    """The one JSON text of a value: sorted keys, no spaces, no escapes beyond what JSON needs."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def prompt_id(messages: Sequence[Message]) -> str:
    """First 16 hex digits of the sha256 of the canonical JSON of the messages (role and content only)."""
    turns = [f'{{"content":{_quoted(turn["content"])},"role":{_quoted(turn["role"])}}}' for turn in messages]
    text = f"[{','.join(turns)}]"  # what canonical_json gives, several times as fast
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def text_hash(text: str) -> str:
    """First 16 hex digits of the sha256 of a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def response_id(sample: int) -> str:
    """The id of sample k of a prompt, unique within the prompt: sorts as k does up to 999,999."""
    return f"{sample:06d}"


def as_messages(prompt: object, *, where: str) -> list[Message]:
    """A prompt as a list of messages: a string is one user turn; a list must end with a user turn."""
    if isinstance(prompt, str):
        if not prompt.strip():
            raise DataError(f"{where}: the prompt is empty; give it a text or take the row out")
        return [{"role": "user", "content": prompt}]
    if not isinstance(prompt, list) or not prompt:
        raise DataError(f"{where}: a prompt is a string or a list of {{role, content}}, not {type(prompt).__name__}")
    for turn in prompt:
        if not isinstance(turn, dict) or not isinstance(turn.get("role"), str) or turn["role"] not in ROLES:
            raise DataError(f"{where}: each message needs a role out of {', '.join(sorted(ROLES))}; found {turn!r:.80}")
        if not isinstance(turn.get("content"), str):
            raise DataError(f"{where}: the content of a {turn['role']} message is not a string")
    if prompt[-1]["role"] != "user":
        raise DataError(f"{where}: the prompt ends with a {prompt[-1]['role']} turn; it must end with a user turn")
    return [{"role": turn["role"], "content": turn["content"]} for turn in prompt]


def empty(table: Table) -> pl.DataFrame:
    return pl.DataFrame(schema=table.schema)


def frame(table: Table, rows: Sequence[Mapping[str, object]]) -> pl.DataFrame:
    """Rows as a frame of this table; a missing key is null."""
    return pl.DataFrame(rows, schema=table.schema, orient="row") if rows else empty(table)


def conform(data: pl.DataFrame, table: Table, *, where: str) -> pl.DataFrame:
    """The columns of `table` in order and type; raises DataError with file (`where`), column and row.

    Columns that the table does not know are refused: a misspelt column must not vanish.
    """
    missing = [name for name in table.columns if name not in data.columns]
    unknown = [name for name in data.columns if name not in table.columns]
    if missing or unknown:
        told = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has unknown {', '.join(unknown)}"] * bool(unknown)
        raise DataError(f"{where}: table {table.name} {' and '.join(told)}; its columns are {', '.join(table.columns)}")
    for name, kind in table.schema.items():
        if data.schema[name] not in (kind, pl.Null):
            raise DataError(f"{where}: column {name} of table {table.name} is {data.schema[name]}, not {kind}")
        if name in table.required and data[name].null_count():
            row = data[name].is_null().arg_true()[0]
            raise DataError(f"{where}: row {row}: column {name} of table {table.name} is null")
    data = data.select(pl.col(name).cast(kind) for name, kind in table.schema.items())
    if table.key and (repeated := data.select(pl.struct(table.key).is_duplicated()).to_series()).any():
        row = repeated.arg_true()[1]
        raise DataError(f"{where}: row {row}: {', '.join(table.key)} = {data.row(row)[: len(table.key)]} stands twice")
    return data


def drops(stage: str, ids: pl.DataFrame, reason: str | pl.Expr, *, detail: pl.Expr | None = None) -> pl.DataFrame:
    """A `dropped` table for these rows; `ids` has prompt_id and, for a response, response_id."""
    response = pl.col("response_id").cast(pl.String) if "response_id" in ids.columns else pl.lit(None, pl.String)
    return ids.select(
        stage=pl.lit(stage),
        prompt_id=pl.col("prompt_id").cast(pl.String),
        response_id=response,
        reason=pl.lit(reason) if isinstance(reason, str) else reason,
        detail=pl.lit(None, pl.String) if detail is None else detail,
    )
