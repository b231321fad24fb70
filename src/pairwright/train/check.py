"""What TRL would do with a row without a word: found before TRL sees it, with the row, its id and the column.

check_rows(rows)           the texts, in any of TRL's forms
check_ids(prompt, ...)     their tokens, with max_length
check_columns(names)       columns that TRL's own DPOTrainer drops or ignores
with_reference(rows, ...)  reference log-probabilities of a `logps` table, only where they belong to these texts

code                        what TRL 1.16 does
none_side, not_messages     an error of Python's that names no row
mixed_forms                 one of two errors, by the hash seed of the process; the first row decides for all
empty_side, empty_prompt    trains on it; with [] also an error, by the hash seed
identical                   trains on it: the loss stays ln 2
prompt_twice                renders the prompt twice: message prompt, and sides that are whole conversations
prompt_mismatch             one of two errors, by the hash seed: implicit conversations that begin differently
implicit_text               splits strings at the first character that differs
prompt_fills_window         drops the row; a progress bar says so
identical_after_truncation  trains on it
column_has_no_effect        drops the column, or ignores a reference of one's own
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl

from pairwright.errors import DataError
from pairwright.tables import text_hash

SIDES = ("chosen", "rejected")
NAMES = ("id", "pair_id", "prompt_id")  # columns that name a row, the first that is there
IDLE = ("score_chosen", "score_rejected", "margin", "weight", "objective", "p_chosen")
SHOWN = 5  # findings in a message


class Finding(NamedTuple):
    """`row` counts from 0 in the data that were given; -1: the data as a whole."""

    row: int
    id: str
    column: str
    code: str
    message: str

    def __str__(self) -> str:
        place = f"row {self.row}" if self.row >= 0 else "all rows"
        named = f" ({self.id})" if self.id else ""
        return f"{place}{named}, {self.column}: {self.code}: {self.message}"


def check_rows(rows: Iterable[Mapping[str, Any]]) -> list[Finding]:
    """At most one finding per row, the first that applies."""
    found, first = [], None
    for number, row in enumerate(rows):
        told = _row(row)
        if not told:
            form = _form(row)
            first = form if first is None else first
            if form != first:
                told = ("prompt", "mixed_forms", f"the row is {form}, rows before it {first}")
        if told:
            name = next((str(row[key]) for key in NAMES if row.get(key) is not None), "")
            found.append(Finding(number, name, *told))
    return found


def _kind(value: object) -> str:
    """text, messages, none, or what it is instead."""
    if value is None:
        return "none"
    if isinstance(value, str):
        return "text"
    if isinstance(value, Sequence) and all(isinstance(turn, Mapping) and "role" in turn for turn in value):
        return (
            "none" if any(turn.get("content") is None and not turn.get("tool_calls") for turn in value) else "messages"
        )
    return type(value).__name__


def _form(row: Mapping[str, Any]) -> str:
    explicit = "explicit" if row.get("prompt") is not None else "implicit"
    return f"{explicit} {_kind(row['chosen'])}"


def _row(row: Mapping[str, Any]) -> tuple[str, str, str] | tuple[()]:
    """(column, code, message) of the first fault."""
    given = {name: row.get(name) for name in SIDES}
    if row.get("prompt") is not None:
        given["prompt"] = row["prompt"]
    kinds = {name: _kind(value) for name, value in given.items()}
    for name, kind in kinds.items():
        if kind == "none":
            return name, "none_side", "the text is missing (null); score it, complete it or take the pair out"
        if kind not in ("text", "messages"):
            return name, "not_messages", f"is {kind}, not a string or a list of messages with role and content"
    if len(set(kinds.values())) > 1:
        told = ", ".join(f"{name} {kind}" for name, kind in kinds.items())
        return "prompt", "mixed_forms", f"{told}; write message lists in all of them"
    for name, value in given.items():
        if not _said(value):
            code = "empty_prompt" if name == "prompt" else "empty_side"
            return name, code, "holds no text"
    if _same(given["chosen"], given["rejected"]):
        return "rejected", "identical", "chosen and rejected are the same text: no preference to learn"
    return _explicit(given) if "prompt" in given else _implicit(given["chosen"], given["rejected"])


def _explicit(given: Mapping[str, Any]) -> tuple[str, str, str] | tuple[()]:
    if isinstance(given["prompt"], str):
        return ()
    for name in SIDES:
        if given[name][0]["role"] not in ("assistant", "tool"):
            whole = "a whole conversation beside the prompt: TRL renders the prompt twice; keep the new turns alone"
            return name, "prompt_twice", whole
    return ()


def _implicit(chosen: Any, rejected: Any) -> tuple[str, str, str] | tuple[()]:
    if isinstance(chosen, str):
        told = "strings without a prompt are split at the first character that differs; write the prompt in a column"
        return "prompt", "implicit_text", told
    shared = next((at for at, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if not _same([a], [b])), None)
    if shared is None:
        shorter = "chosen" if len(chosen) < len(rejected) else "rejected"
        return shorter, "empty_side", "the conversation is the beginning of the other one: nothing is left of this side"
    if shared == 0 or {chosen[shared]["role"], rejected[shared]["role"]} != {"assistant"}:
        return "prompt", "prompt_mismatch", f"the conversations differ from turn {shared} on, before the answer"
    return ()


def _said(value: Any) -> bool:
    if isinstance(value, str):
        return bool(value.strip())
    return any(str(turn.get("content") or "").strip() or turn.get("tool_calls") for turn in value)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, str):
        return bool(a.strip() == b.strip())
    plain = [
        [(turn["role"], str(turn.get("content") or "").strip(), str(turn.get("tool_calls"))) for turn in side]
        for side in (a, b)
    ]
    return plain[0] == plain[1]


def check_ids(
    prompt_ids: Iterable[Sequence[int]],
    chosen_ids: Iterable[Sequence[int]],
    rejected_ids: Iterable[Sequence[int]],
    *,
    rows: Sequence[int],
    ids: Sequence[str],
    max_length: int | None,
) -> list[Finding]:
    """The same of tokenised rows, `rows` being their numbers: at most one finding each. Truncation keeps the start."""
    found = []
    for row, name, prompt, chosen, rejected in zip(rows, ids, prompt_ids, chosen_ids, rejected_ids, strict=True):
        room = None if max_length is None else max_length - len(prompt)
        told: tuple[str, ...] = ()
        if room is not None and room <= 0:
            told = ("prompt", "prompt_fills_window", f"{len(prompt)} tokens leave nothing of max_length {max_length}")
        elif not chosen or not rejected:
            told = ("rejected" if chosen else "chosen", "empty_side", "has no tokens")
        elif chosen == rejected:
            told = ("rejected", "identical", "chosen and rejected have the same tokens")
        elif chosen[:room] == rejected[:room]:
            differ = next(
                at for at, (a, b) in enumerate(zip([*chosen, None], [*rejected, None], strict=False)) if a != b
            )
            needed = len(prompt) + differ + 1
            message = f"the sides part at token {needed}, behind max_length {max_length}; raise it or take the pair out"
            told = ("rejected", "identical_after_truncation", message)
        if told:
            found.append(Finding(row, name, *told))
    return found


def check_columns(names: Iterable[str], *, precompute: bool = False) -> list[Finding]:
    """The columns that have no effect in TRL's own DPOTrainer."""
    told = "TRL's DPOTrainer drops it before the batch is made; use RatingDPOTrainer"
    names = list(names)
    found = [Finding(-1, "", name, "column_has_no_effect", told) for name in IDLE if name in names]
    reference = [name for name in ("ref_chosen_logps", "ref_rejected_logps") if name in names]
    does = "refuses it" if precompute else "computes its own and ignores it"
    told = f"TRL's DPOTrainer {does}; RatingDPOTrainer reads it"
    return found + [Finding(-1, "", name, "column_has_no_effect", told) for name in reference]


def refuse(findings: Sequence[Finding], *, where: str) -> None:
    """DataError with the counts and the first findings; nothing where there are none."""
    if findings:
        counts = ", ".join(f"{count} {code}" for code, count in Counter(each.code for each in findings).most_common())
        shown = "; ".join(str(each) for each in findings[:SHOWN])
        raise DataError(f"{where}: {counts}. {shown}. Repair the rows, or let bad_rows='drop' take them out")


def with_reference(
    rows: pl.DataFrame, logps: pl.DataFrame, *, model_hash: str, template_hash: str | None = None
) -> pl.DataFrame:
    """Explicit conversational rows with ref_chosen_logps and ref_rejected_logps (nats) of a `logps` table.

    Joined by prompt_id and the text itself. DataError: reference_model_differs or tokenisation_differs where the table
    was made by another model or with other tokens (chat template, max_length); row_hash_unknown, with the row, where it
    does not hold a text, and no_logp where it holds the text without a number.
    """
    for column, wanted, code in (
        ("model_hash", model_hash, "reference_model_differs"),
        ("template_hash", template_hash, "tokenisation_differs"),
    ):
        held = logps[column].unique().sort().to_list()
        if len(held) > 1 or (wanted is not None and held != [wanted]):
            told = (
                f"the log-probabilities are of {column} {', '.join(held) or 'none'}, this run is of {wanted or 'one'}"
            )
            raise DataError(f"{code}: {told}; make them again with this model and template")
    for side in SIDES:
        column = f"ref_{side}_logps"
        said = [text_hash("".join(str(turn["content"]) for turn in turns)) for turns in rows[side]]
        keyed = rows.select("prompt_id", response_hash=pl.Series(said, dtype=pl.String))
        held_by_text = logps.select("prompt_id", "response_hash", "logp", known=True).unique(
            ["prompt_id", "response_hash"], maintain_order=True
        )
        found = keyed.join(held_by_text, on=["prompt_id", "response_hash"], how="left", maintain_order="left")
        for code, bad in (("row_hash_unknown", found["known"].is_null()), ("no_logp", found["logp"].is_null())):
            if bad.any():
                row = int(bad.arg_true()[0])
                place = f"row {row}: prompt {found['prompt_id'][row]}, {side}, text {said[row]}"
                raise DataError(f"{code}: {place}: the table has no number for this text ({bad.sum()} rows)")
        rows = rows.with_columns(found["logp"].alias(column))
    return rows
